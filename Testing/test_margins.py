"""Margins of radiotherapy: plans of equal volume and what they cover, against values worked out by hand."""

import math

import numpy as np
import pytest

from AnatomyDTLib import presets
from AnatomyDTLib.calibration.margins import MarginError, clinical_target, compare_margins, coverage, most_probable
from AnatomyDTLib.plan import Anatomy

BACKGROUND, WHITE, CSF, EDEMA, TUMOR, CAVITY = range(6)
ANATOMY = Anatomy((
    presets.tissue("Background", "background"), presets.tissue("White matter", "white"), presets.tissue("CSF", "csf"),
    presets.tissue("Edema", "edema"), presets.tissue("Tumor", "tumor"), presets.tissue("Cavity", "cavity"),
))


def row(text):
    """A label map of one row: . white, T tumor, C cavity, E edema, # background."""
    values = {".": WHITE, "T": TUMOR, "C": CAVITY, "E": EDEMA, "#": BACKGROUND, "~": CSF}
    return np.array([[values[c] for c in text]], np.uint8)


def mask(text):
    return np.array([[c == "x" for c in text]])


def drawn(plan):
    return "".join("x" if v else "." for v in plan[0])


def test_the_margin_is_measured_in_mm_between_voxel_centres():
    labels = row(".....T.....")
    assert drawn(clinical_target(labels == TUMOR, labels > 0, (1.0, 5.0), 15.0)) == "..xxxxxxx.."
    assert drawn(clinical_target(labels == TUMOR, labels > 0, (1.0, 5.0), 14.9)) == "...xxxxx..."
    assert drawn(clinical_target(labels == TUMOR, labels > 0, (1.0, 5.0), 0.0)) == ".....x....."


def test_a_margin_in_three_dimensions_is_a_ball():
    labels = np.full((9, 41, 41), WHITE, np.uint8)
    labels[4, 20, 20] = TUMOR
    plan = clinical_target(labels == TUMOR, labels > 0, (5.0, 1.0, 1.0), 15.0)
    z, y, x = np.indices(labels.shape)
    assert np.array_equal(plan, 25 * (z - 4) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 <= 225)


def test_the_plan_of_the_forecast_has_the_margins_volume_and_the_highest_density():
    labels = row("#....T.....")
    density = np.array([[0.9, 0, 0, 0, 0.2, 1.0, 0.8, 0.7, 0.6, 0.5, 0.1]])  # the first voxel is background: in no plan
    recurrence = mask("......xxxx.")
    uniform, probable = compare_margins(labels, density, recurrence, ANATOMY, (1.0, 5.0), margin_mm=10.0)
    assert drawn(uniform.plan) == "...xxxxx..." and drawn(probable.plan) == ".....xxxxx."
    assert uniform.volume_ml == probable.volume_ml == pytest.approx(5 * 5.0 / 1000)
    assert (uniform.covered, probable.covered) == (0.5, 1.0)
    assert probable.filled_ml == 0.0


def test_what_the_density_leaves_open_is_filled_by_distance():
    labels = row(".....T.....")
    density = np.zeros((1, 11))
    density[0, 5:7] = 0.9
    recurrence = mask("...x.......")
    uniform, probable = compare_margins(labels, density, recurrence, ANATOMY, (1.0, 5.0), margin_mm=10.0)
    assert drawn(probable.plan) == drawn(uniform.plan) == "...xxxxx..."
    assert probable.filled_ml == pytest.approx(3 * 5.0 / 1000)
    assert uniform.covered == probable.covered == 1.0


def test_equal_densities_are_taken_by_distance_and_then_in_order():
    brain, target = np.ones((1, 7), bool), mask("...x...")
    plan, filled = most_probable(np.full((1, 7), 0.3), brain, 4, target, (1.0, 1.0))
    assert drawn(plan) == ".xxxx.." and filled == 0


def test_new_recurrence_is_told_apart_from_the_tumor_that_every_plan_holds():
    labels = row("....TT.....")
    recurrence = mask("....xxx...x")
    uniform, _ = compare_margins(labels, np.zeros((1, 11)), recurrence, ANATOMY, (1.0, 5.0), margin_mm=5.0)
    assert uniform.covered == 0.75 and uniform.covered_new == 0.5
    within, _ = compare_margins(labels, np.zeros((1, 11)), mask("....xx....."), ANATOMY, (1.0, 5.0))
    assert within.covered == 1.0 and math.isnan(within.covered_new)


def test_the_margin_goes_around_cavity_and_tumor_and_not_around_edema():
    labels = row("..C..E...T#x".replace("x", "."))
    uniform, _ = compare_margins(labels, np.zeros((1, 12)), mask("....x......x"), ANATOMY, (1.0, 5.0), margin_mm=5.0)
    assert drawn(uniform.plan) == ".xxx....xx.."
    assert uniform.covered == 0.0
    edema, _ = compare_margins(row("...E..."), np.zeros((1, 7)), mask("...x..."), ANATOMY, (1.0, 5.0), margin_mm=5.0)
    assert drawn(edema.plan) == "..xxx.."


def test_a_recurrence_outside_the_brain_is_missed_by_both():
    labels = row("##.T.")
    found = compare_margins(labels, np.ones((1, 5)), mask("xx.xx"), ANATOMY, (1.0, 1.0))
    assert [c.covered for c in found] == [0.5, 0.5]


def test_coverage_of_nothing_is_not_a_number():
    assert math.isnan(coverage(mask("x.x"), mask("...")))


@pytest.mark.parametrize("labels, density, recurrence, margin, word", [
    ("..T..", np.zeros((1, 5)), ".....", 15.0, "follow-up"),
    ("..~..", np.zeros((1, 5)), "..x..", 15.0, "no tumor or cavity"),
    ("..T..", np.zeros((1, 4)), "..x..", 15.0, "shape"),
    ("..T..", np.full((1, 5), np.nan), "..x..", 15.0, "finite"),
    ("..T..", np.zeros((1, 5)), "..x..", -1.0, "margin"),
])
def test_what_cannot_be_told_is_refused_in_a_sentence(labels, density, recurrence, margin, word):
    with pytest.raises(MarginError, match=word):
        compare_margins(row(labels), density, mask(recurrence), ANATOMY, (1.0, 1.0), margin)
