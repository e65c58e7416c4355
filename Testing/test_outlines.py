"""How outlines are drawn: errors of a known extent come back, a redrawn tumor stays where it may be."""

import math

import numpy as np
import pytest
from calibration_cases import GREY, SPACING, TUMOR, VENTRICLE, WHITE, head
from scipy import ndimage

from AnatomyDTLib.calibration.outlines import (
    WIDEST_PATCH_MM,
    outline_errors,
    patch_of,
    redrawn,
    surface_mm2,
    voxels_of_a_patch,
)

LABELS = head((18, 44, 42), (0.0, 0.0, 0.0), (16.0, 16.0, 16.0))
INSIDE = LABELS == TUMOR


def test_the_surface_of_a_ball_is_its_area():
    ball = np.sum(np.square(np.indices((40, 40, 40)) - 19.5), axis=0) < 14.0**2
    assert surface_mm2(ball, (1.0, 1.0, 1.0)) == pytest.approx(4 * math.pi * 14.0**2, rel=0.03)


def test_errors_have_unit_variance_and_no_mean_on_the_outline():
    edge = ndimage.binary_dilation(INSIDE) & ~ndimage.binary_erosion(INSIDE)
    for field in outline_errors(INSIDE, SPACING, 8.0, 3, 0):
        assert field[edge].mean() == pytest.approx(0.0, abs=1e-4) and field[edge].std() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("patch_mm", [8.0, 12.0, 18.0])
def test_the_extent_of_errors_is_read_off_the_residuals(patch_mm):
    """Five visits whose residuals are the curvature times an error of this patch, and noise of single voxels."""
    random = np.random.default_rng(1)
    edge = ndimage.binary_dilation(INSIDE, iterations=2) & ~ndimage.binary_erosion(INSIDE, iterations=2)
    weight = edge * 2.0
    visits = [
        (weight * 0.7 * error + edge * random.standard_normal(edge.shape), weight)
        for error in outline_errors(INSIDE, SPACING, patch_mm, 5, 2)
    ]
    assert patch_of(visits, SPACING, 0.7, 6.0) == pytest.approx(patch_mm, rel=0.3)


def test_an_outline_that_is_off_as_a_whole_is_one_patch_and_noise_of_voxels_none():
    edge = ndimage.binary_dilation(INSIDE) & ~ndimage.binary_erosion(INSIDE)
    whole = [(edge * shift, edge * 1.0) for shift in (0.5, -0.7, 0.4)]
    assert patch_of(whole, SPACING, 0.5, 8.0) == pytest.approx(WIDEST_PATCH_MM)
    random = np.random.default_rng(0)
    single = [(edge * random.standard_normal(edge.shape), edge * 1.0) for _ in range(4)]
    assert patch_of(single, SPACING, 1.0, 8.0) < 12.0


def test_a_redrawn_tumor_grows_and_shrinks_by_the_distance_within_its_tissue():
    others = (WHITE, GREY)
    assert np.array_equal(redrawn(LABELS, TUMOR, others, SPACING, 0.0), LABELS)
    volume = INSIDE.sum() * math.prod(SPACING)
    radius = (3 * volume / (4 * math.pi)) ** (1 / 3)
    for shift in (3.0, -3.0):
        new = redrawn(LABELS, TUMOR, others, SPACING, shift)
        inside = new == TUMOR
        assert (inside & ~INSIDE).any() == (shift > 0) and (INSIDE & ~inside).any() == (shift < 0)
        assert inside.sum() * math.prod(SPACING) == pytest.approx(4 / 3 * math.pi * (radius + shift) ** 3, rel=0.25)
        changed = new != LABELS
        assert np.isin(LABELS[changed], (TUMOR, *others)).all() and np.isin(new[changed], (TUMOR, *others)).all()
        assert ((LABELS == VENTRICLE) == (new == VENTRICLE)).all()


def test_how_many_voxels_tell_of_a_patch():
    assert voxels_of_a_patch(0.75, 8.0, SPACING) == pytest.approx(1.8 * 0.75 * 64 / 6.75)
    assert voxels_of_a_patch(0.01, 8.0, SPACING) == 1.0
