"""Comparing plans: progression, doses and preferences against values worked out by hand; the verb as a person runs it."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
from test_cli import head, run, saved

from AnatomyDTLib import presets, volumes
from AnatomyDTLib.calibration.compare import Candidate, compare, preference, wilson_interval
from AnatomyDTLib.calibration.doses import tissue_doses, total_dose
from AnatomyDTLib.calibration.progression import MEASURABLE_ML, Progression, new_focus, time_to_progression
from AnatomyDTLib.plan import Plan, Radiotherapy, Surgery

SPACING = (3.0, 1.5, 1.5)


# ---- time to progression


def progressed(days, volumes_ml, focus=None, **rule):
    return time_to_progression(days, volumes_ml, np.zeros(len(days)) if focus is None else focus, Progression(**rule))


def test_a_volume_progresses_where_it_has_doubled_from_its_smallest():
    assert progressed((0, 10, 20), (4.0, 6.0, 10.0)) == (15.0, "volume")         # 8 mL, halfway from 6 to 10
    assert progressed((0, 10, 20, 30), (4.0, 1.0, 1.5, 3.5)) == (22.5, "volume")  # 2 mL: from the nadir, not from baseline
    assert progressed((0, 10, 20), (4.0, 5.0, 6.0), volume_factor=1.5) == (20.0, "volume")


def test_a_tumor_that_does_not_double_is_censored_at_the_horizon():
    assert progressed((0, 10, 20), (4.0, 5.0, 7.99)) == (20.0, "")
    assert progressed((0, 10, 20), (4.0, 0.0, 0.0)) == (20.0, "")


def test_a_tumor_that_vanished_progresses_when_it_is_measurable_again():
    day, why = progressed((0, 10, 20, 30), (4.0, 0.0, 0.4, 0.8), measurable_ml=0.5)
    assert (day, why) == (pytest.approx(22.5), "volume")
    assert MEASURABLE_ML == pytest.approx(4 / 3 * math.pi * 0.5**3)  # a ball of 1 cm


def test_a_new_focus_is_a_progression_from_the_day_that_shows_it():
    assert progressed((0, 10, 20, 30), (4.0, 4.1, 4.7, 5.5), (0, 0.1, 0.6, 1.0), measurable_ml=0.5) == (20.0, "focus")
    assert progressed((0, 10, 20), (4.0, 9.0, 9.0), (0, 0.6, 0.6), measurable_ml=0.5) == (8.0, "volume")


def test_a_new_focus_neither_overlaps_nor_touches_the_former_tumor():
    baseline = np.array([[0, 1, 1, 0, 0, 0, 0, 0, 0]], bool)
    assert new_focus(np.array([[0, 1, 1, 1, 1, 0, 0, 0, 0]], bool), baseline) == 0      # has grown
    assert new_focus(np.array([[0, 0, 0, 1, 1, 0, 0, 0, 0]], bool), baseline) == 0      # beside it
    assert new_focus(np.array([[0, 1, 0, 0, 1, 0, 1, 1, 1]], bool), baseline) == 3      # the larger of two
    assert new_focus(np.zeros((1, 9), bool), baseline) == 0
    assert new_focus(np.array([[0, 0, 0], [0, 1, 0]], bool), np.array([[1, 0, 0], [0, 0, 0]], bool)) == 0   # at a corner


@pytest.mark.parametrize("wrong", [{"volume_factor": 1.0}, {"volume_factor": math.nan}, {"measurable_ml": 0.0}])
def test_a_rule_that_says_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Progression(**wrong)


# ---- doses


def anatomy(treatments=()):
    tissues = [presets.tissue(n, r) for n, r in (
        ("Background", "background"), ("White matter", "white"), ("Grey matter", "grey"), ("CSF", "csf"),
        ("Ventricles", "ventricle"), ("Tumor", "tumor"))]
    return presets.completed(tissues, treatments)


def plan(*treatments, days=(14.0, 28.0), **changes):
    return Plan(anatomy(treatments), treatments, days, **changes)


def test_doses_add_up_over_courses_regions_and_maps():
    labels = np.array([[0, 1, 1, 1, 1, 5]], np.uint8)
    maps = {"field": np.array([[0, 0, 0, 0, 1, 1]]), "boost": np.array([[9.0, 0, 1, 2, 3, 4]])}
    given = plan(Radiotherapy(0, 5, 2.0, region="field"), Radiotherapy(7, 2, None, dose_map="boost"))
    assert total_dose(given, maps, labels.shape).tolist() == [[9.0, 0.0, 1.0, 2.0, 13.0, 14.0]]
    white, tumor = tissue_doses(given, labels, maps, (1.0, 10.0))
    assert (white.tissue, white.volume_ml, white.mean_gy) == ("White matter", pytest.approx(0.04), 4.0)
    assert (white.d95_gy, white.d2_gy) == (0.0, 13.0)
    assert (tumor.tissue, tumor.mean_gy, tumor.d95_gy) == ("Tumor", 14.0, 14.0)


def test_d95_is_the_dose_that_95_percent_of_the_volume_gets():
    labels = np.ones((1, 100), np.uint8)
    maps = {"dose": np.arange(100.0)[None]}
    white, = tissue_doses(plan(Radiotherapy(0, 1, None, dose_map="dose")), labels, maps, (1.0, 1.0))
    assert (white.d95_gy, white.d2_gy, white.mean_gy) == (5.0, 98.0, 49.5)


def test_a_plan_without_radiotherapy_gives_no_dose():
    doses = tissue_doses(plan(Surgery(0)), head(), {}, SPACING)
    assert {d.tissue for d in doses} == {"White matter", "Grey matter", "Ventricles", "Tumor"}
    assert all(d.mean_gy == d.d95_gy == d.d2_gy == 0.0 for d in doses)


# ---- how often


def test_wilsons_interval():
    # Newcombe 1998, Stat Med 17:857, table I: 81 of 263 and 15 of 148
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson_interval(0.0, 20)[0] == 0.0 and wilson_interval(1.0, 20)[1] == 1.0
