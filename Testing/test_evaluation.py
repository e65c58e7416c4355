"""Metrics against cases counted by hand, and against an oracle."""

import math
import subprocess
import sys

import numpy as np
import pytest

from AnatomyDTLib.learning.evaluation import aligned, betti_numbers, cl_dice, dice, format_table, hd95, mean_dice, score
from AnatomyDTLib.plan import Anatomy, Tissue


def box(shape, *slices):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*s) for s in slices)] = True
    return mask


def test_overlap_volume_and_distance_by_hand():
    # two 4x4x4 cubes, one shifted by one voxel of 2 mm
    a, b = box((10, 10, 10), (2, 6), (2, 6), (2, 6)), box((10, 10, 10), (3, 7), (2, 6), (2, 6))
    (s,) = score(a.astype(int), b.astype(int), (2.0, 1.0, 1.0), {1: "Cube"})
    assert s.name == "Cube" and s.value == 1 and s.missing == ""
    assert s.dice == pytest.approx(2 * 48 / 128)
    assert s.hd95_mm == pytest.approx(2.0)
    assert s.volume_ml == pytest.approx(0.128) and s.volume_error_percent == pytest.approx(0.0)
    assert s.betti == (1, 0, 0) == s.betti_observed


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 3.0), (2.0, 2.0, 2.0), (6.5, 0.86, 0.86)])
def test_hd95_equals_a_search_over_all_surface_voxels(spacing):
    from scipy.ndimage import binary_erosion, gaussian_filter
    rng = np.random.default_rng(0)
    shape = (30, 31) if len(spacing) == 2 else (9, 22, 20)
    p, o = (gaussian_filter(rng.normal(size=shape), 2) > 0.05 for _ in range(2))
    edge = [np.argwhere(m & ~binary_erosion(m)) * np.array(spacing) for m in (p, o)]
    d = np.linalg.norm(edge[0][:, None] - edge[1][None], axis=2)
    wanted = max(np.percentile(d.min(axis=1), 95), np.percentile(d.min(axis=0), 95))
    assert hd95(p, o, spacing) == pytest.approx(wanted, rel=1e-5)


def test_a_missing_structure_is_the_worst_score_and_is_said():
    observed = np.zeros((6, 8, 10), int)
    observed[2:4, 2:4, 2:4] = 1
    observed[0, 0, 0] = 2
    predicted = np.where(observed == 1, 0, observed)
    predicted[5, 5, 5] = 3
    first, second, third = score(predicted, observed, (1.0, 2.0, 3.0), {1: "A", 2: "B", 3: "C", 4: "D"})
    diagonal = math.sqrt(6**2 + 16**2 + 30**2)
    assert (first.missing, first.dice, first.cl_dice, first.volume_error_percent) == ("predicted", 0.0, 0.0, -100.0)
    assert first.hd95_mm == pytest.approx(diagonal)
    assert second.dice == 1.0 and second.hd95_mm == 0.0 and second.missing == ""
    assert third.missing == "observed" and third.hd95_mm == pytest.approx(diagonal)
    assert third.volume_error_percent == math.inf
    assert mean_dice([first, second, third]) == pytest.approx(1 / 3)
    text = format_table([first, second, third])
    assert "A (not predicted), C (not observed)" in text and "nan" not in text and "inf" not in text


def test_topology_of_shapes_whose_numbers_are_known():
    solid = box((9, 9, 9), (1, 8), (1, 8), (1, 8))
    assert betti_numbers(solid) == (1, 0, 0)
    hollow = solid & ~box((9, 9, 9), (3, 6), (3, 6), (3, 6))
    assert betti_numbers(hollow) == (1, 0, 1)
    torus = solid & ~box((9, 9, 9), (0, 9), (3, 6), (3, 6))
    assert betti_numbers(torus) == (1, 1, 0)
    two = torus | box((9, 9, 9), (4, 5), (4, 5), (4, 5))
    assert betti_numbers(two) == (2, 1, 0)
    assert betti_numbers(np.ones((3, 3, 3), bool)) == (1, 0, 0)  # up to the edge of the image
    # two voxels that share a corner are one component, and the gap between them is no cavity
    assert betti_numbers(np.eye(2, dtype=bool)) == (1, 0, 0)
    ring = box((7, 7), (1, 6), (1, 6)) & ~box((7, 7), (3, 4), (3, 4))
    assert betti_numbers(ring) == (1, 1, 0)
    assert betti_numbers(np.zeros((4, 4), bool)) == (0, 0, 0)


def test_cl_dice_by_hand():
    line = box((9, 30), (4, 5), (0, 30))
    half = box((9, 30), (4, 5), (0, 15))
    assert cl_dice(line, line) == 1.0
    # every voxel of the half lies on the line; half of the line's skeleton lies in the half
    assert cl_dice(half, line) == pytest.approx(2 * 1.0 * 0.5 / 1.5)
    thick = box((9, 30), (2, 7), (0, 30))
    dice_of_bar = 2 * 30 / (5 * 30 + 30)
    # thinning bends the ends of a bar, and nothing else of its skeleton leaves the line
    assert dice(thick, line) == pytest.approx(dice_of_bar) and cl_dice(thick, line) > 0.95
    assert cl_dice(line, box((9, 30), (8, 9), (0, 30))) == 0.0
    cube = box((6, 6, 6), (2, 4), (2, 4), (2, 4))
    assert cl_dice(cube, cube) == 1.0


def test_names_may_be_an_anatomy_or_left_out_and_cropping_changes_nothing():
    rng = np.random.default_rng(1)
    p, o = rng.integers(0, 3, (2, 12, 13))
    anatomy = Anatomy((Tissue("Background", "background"), Tissue("White", "white"), Tissue("Tumor", "tumor")))
    with_names, without = score(p, o, (1, 1), anatomy), score(p, o, (1, 1))
    assert [s.name for s in with_names] == ["White", "Tumor"] and [s.name for s in without] == ["label 1", "label 2"]
    wide = score(np.pad(p, 20), np.pad(o, 20), (1, 1), anatomy)
    assert wide == with_names
    assert [s.cl_dice for s in score(p, o, (1, 1), topology=False)] == [None, None]


def test_one_mask_and_one_slice():
    p, o = box((1, 9, 9), (0, 1), (2, 6), (2, 6)), box((1, 9, 9), (0, 1), (2, 6), (3, 7))
    (s,) = score(p, o, (5.0, 1.0, 1.0))
    assert s.dice == pytest.approx(0.75) and s.hd95_mm == pytest.approx(1.0) and s.betti == (1, 0, 0)


@pytest.mark.parametrize("p, o, spacing, said", [
    (np.zeros((3, 3)), np.zeros((3, 4)), (1, 1), "shapes"),
    (np.zeros(3), np.zeros(3), (1,), "axes"),
    (np.zeros((3, 3)), np.zeros((3, 3)), (1, 0), "spacing_mm"),
    (np.zeros((3, 3)), np.zeros((3, 3)), (1, 1, 1), "spacing_mm"),
])
def test_what_does_not_fit_is_refused(p, o, spacing, said):
    with pytest.raises(ValueError, match=said):
        score(p, o, spacing)


def test_a_table_is_aligned():
    lines = aligned([("class", "DSC"), ("White matter", "0.9"), ("T", "0.123")]).splitlines()
    assert len({len(line) for line in lines}) == 1 and lines[1].startswith("|--") and lines[1].endswith(":|")


def test_importing_it_loads_neither_torch_nor_monai():
    code = ("import sys; import AnatomyDTLib.learning.evaluation; "
            "sys.exit(any(m in sys.modules for m in ('torch', 'monai', 'skimage')))")
    subprocess.run([sys.executable, "-c", code], check=True)
