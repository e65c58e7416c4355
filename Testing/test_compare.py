"""Comparing plans: progression, doses, preferences against values worked out by hand; the verb as a person runs it."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
from command_user import head, run, saved

from AnatomyDTLib import cli, presets, volumes
from AnatomyDTLib.calibration.compare import Candidate, compare, of_patient, paired_members, preference, wilson_interval
from AnatomyDTLib.calibration.doses import tissue_doses, total_dose
from AnatomyDTLib.calibration.parameters import GROWTH, applied
from AnatomyDTLib.calibration.progression import MEASURABLE_ML, Progression, new_focus, time_to_progression
from AnatomyDTLib.plan import Plan, Radiotherapy, Surgery

SPACING = (3.0, 1.5, 1.5)


# ---- time to progression


def progressed(days, volumes_ml, focus=None, **rule):
    return time_to_progression(days, volumes_ml, np.zeros(len(days)) if focus is None else focus, Progression(**rule))


def test_a_volume_progresses_where_it_has_doubled_from_its_smallest():
    assert progressed((0, 10, 20), (4.0, 6.0, 10.0)) == (15.0, "volume")         # 8 mL, halfway from 6 to 10
    assert progressed((0, 10, 20, 30), (4.0, 1.0, 1.5, 3.5)) == (22.5, "volume")  # 2 mL, from the nadir
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
    at_a_corner = np.array([[0, 0, 0], [0, 1, 0]], bool)
    assert new_focus(at_a_corner, np.array([[1, 0, 0], [0, 0, 0]], bool)) == 0


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


# ---- plans over an ensemble


def candidates(**plans):
    return [Candidate(name, p, head()) for name, p in plans.items()]


RATES = (0.0005, 0.05, 0.1)
MEMBERS = [{GROWTH: rate} for rate in RATES]


@pytest.fixture(scope="module")
def comparison():
    treated = plan(Radiotherapy(3, 8, 2.0), days=(21.0, 42.0))
    return compare(candidates(none=plan(days=(42.0,)), treated=treated), SPACING, MEMBERS)


def test_every_plan_is_run_to_the_last_day_of_any_in_every_member(comparison):
    for outcome in comparison.outcomes:
        assert outcome.days[0] == 0 and outcome.days[-1] == 42 and outcome.reported == (21.0, 42.0)
        assert np.diff(outcome.days).max() <= 7.0 and outcome.tumor_ml.shape == (3, len(outcome.days))
        assert np.allclose(outcome.tumor_ml[:, 0], (head() == 5).sum() * 6.75 / 1000)
        assert outcome.probability.shape == (2, *head().shape)
        assert 0 <= outcome.probability.min() <= outcome.probability.max() <= 1


def test_members_and_days_are_those_of_single_forecasts(comparison):
    from AnatomyDTLib.engine import forecast

    for outcome in comparison.outcomes:
        whole = dataclasses.replace(outcome.plan, days=tuple(outcome.days[1:]))
        alone = [forecast(head(), SPACING, applied(whole, m), device="cpu", probabilities=True) for m in MEMBERS]
        voxel_ml = 6.75 / 1000
        tumor = np.array([f.volume_ml[:, list(f.plan.anatomy.tumors)].sum(axis=1) for f in alone])
        assert np.abs(outcome.tumor_ml - tumor).max() <= 0.01 * tumor.max() + 2 * voxel_ml
        assert np.allclose(outcome.cells_ml, [f.tumor_cells_ml for f in alone], rtol=0.01)
        mean = np.mean([f.tumor_probability[-1].astype(np.float32) for f in alone], axis=0)
        assert np.abs(outcome.probability[-1] - mean).max() < 0.02


def test_a_plan_with_several_moving_classes_is_run_member_by_member(comparison):
    pushed = [dataclasses.replace(c.plan, mass_effect=0.3) for c in comparison.outcomes]
    found = compare(candidates(none=pushed[0]), SPACING, MEMBERS[1:], assessed_every_days=21.0)
    assert found.outcomes[0].tumor_ml.shape == (2, 3)
    assert (np.diff(found.outcomes[0].cells_ml[:, -1]) > 0).all()        # the faster member has more


def test_treatment_wins_where_the_tumor_grows_and_the_difference_says_where(comparison):
    found = {(p.better, p.worse, p.measure): p for p in comparison.preferences}
    assert len(found) == 6
    fewer = found["treated", "none", "cells"]
    assert (fewer.wins, fewer.ties, fewer.probability) == (3, 0, 1.0)
    assert fewer.low == pytest.approx(wilson_interval(1.0, 3)[0])
    assert found["none", "treated", "cells"].probability == 0.0
    difference = comparison.difference("treated", "none", 42.0)
    assert difference.max() <= 1e-6 and difference.min() < -0.3
    assert np.array_equal(difference, -comparison.difference("none", "treated", 42.0))
    untreated = comparison.outcomes[0]
    assert untreated.progressed_by == ("", "", "volume") and untreated.progression_day[0] == 42.0
    assert untreated.progression_quantile(0.2) == untreated.progression_day[2] < 42
    assert untreated.progression_quantile(0.5) == math.inf


def test_a_plan_against_itself_is_a_tie():
    same = compare(candidates(a=plan(), b=plan()), SPACING, MEMBERS[1:])
    assert {(p.wins, p.ties, p.probability) for p in same.preferences} == {(0, 2, 0.5)}
    one = compare(candidates(a=plan(), b=plan()), SPACING, [{}])
    assert all(math.isnan(p.low) and math.isnan(p.high) for p in one.preferences)
    fewer, more = one.outcomes[0], dataclasses.replace(one.outcomes[1], cells_ml=one.outcomes[1].cells_ml + 1)
    assert (preference(fewer, more, "cells").wins, preference(more, fewer, "cells").wins) == (1, 0)


def test_a_comparison_can_be_stopped():
    with pytest.raises(InterruptedError):
        compare(candidates(a=plan()), SPACING, [{}], cancelled=lambda: True)


# ---- the verb


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("patient") / "patient.nii.gz", head())


@pytest.fixture(scope="module")
def compared(patient, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    for regime in ("none", "stupp"):
        here("plan", "--preset", regime, "--days", 14, 28, "--out", folder / f"{regime}.json")
    later = head()
    later[4:7, 13:18, 9:14] = 5
    saved(folder / "later.nii.gz", later)
    done = run("compare", patient, "--plans", folder / "none.json", folder / "stupp.json", "--out", folder / "out",
               "--device", "cpu", "--recurrence", folder / "later.nii.gz", "--margin-mm", 4)
    return folder, done


def test_everything_is_written_and_named(compared):
    folder, done = compared
    names = {"volumes.csv", "comparison.md", "comparison.png", "run.json"}
    names |= {f"margin_{name}.nrrd" for name in ("uniform", "none", "stupp")}
    names |= {f"probability_{p}_{d}.nrrd" for p in ("none", "stupp") for d in ("0014", "0028")}
    names |= {f"difference_stupp_less_none_{d}.nrrd" for d in ("0014", "0028")}
    assert {p.name for p in (folder / "out").iterdir()} == names
    record = json.loads((folder / "out" / "run.json").read_text())
    assert record["files"] == sorted(names) and len(record["inputs"]) == 4
    assert "no twin was given" in done.stdout and "no uncertainty" in done.stdout
    assert "100 %" in done.stderr and "warning" not in done.stderr
    for table in ("progression, day", "P(later progression)", "D95 Gy", "most probable voxels"):
        assert table in (folder / "out" / "comparison.md").read_text()


def test_tables_record_and_maps_agree(compared):
    folder, _ = compared
    record = json.loads((folder / "out" / "run.json").read_text())
    rows = list(csv.DictReader((folder / "out" / "volumes.csv").open()))
    for entry in record["plans"]:
        total = [float(r["tumor, median (mL)"]) for r in rows if r["plan"] == entry["name"]]
        assert total == pytest.approx([v["median"] for v in entry["tumor_ml"]], abs=1e-4)
    doses = {d["tissue"]: d["mean_gy"] for d in record["plans"][1]["doses"]}
    assert doses["Tumor"] == 42.0      # day 28 is the 21st weekday
    one, other, difference = (
        volumes.read(folder / "out" / f"{name}_0028.nrrd").array
        for name in ("probability_stupp", "probability_none", "difference_stupp_less_none"))
    assert np.allclose(one - other, difference, atol=1e-6)
    uniform, probable = (volumes.read(folder / "out" / f"margin_{n}.nrrd").array for n in ("uniform", "none"))
    assert uniform.sum() == probable.sum() > (head() == 5).sum()
    later = volumes.read_labels(folder / "later.nii.gz").array == 5
    shares = {(m["plan"], m["target"]): m["covered"] for m in record["margins"]}
    assert shares["none", "tumor + 4 mm"] == pytest.approx((uniform > 0)[later].mean(), abs=1e-4)
    assert shares["none", "most probable voxels"] == pytest.approx((probable > 0)[later].mean(), abs=1e-4)


def here(*arguments, code=0):
    """The command in this process: quicker where nothing depends on a fresh one."""
    assert cli.main([str(a) for a in arguments]) == code


def test_a_second_comparison_leaves_no_map_of_the_first(compared, patient):
    folder, _ = compared
    here("compare", patient, "--plans", folder / "none.json", "--out", folder / "twice")
    (folder / "twice" / "mine.nrrd").write_text("mine")
    here("compare", patient, "--plans", folder / "stupp.json", "--out", folder / "twice")
    left = {p.name for p in (folder / "twice").iterdir() if p.suffix == ".nrrd"}
    assert left == {"mine.nrrd", "probability_stupp_0014.nrrd", "probability_stupp_0028.nrrd"}


def test_plans_that_differ_in_the_patient_are_pointed_out(compared, patient, tmp_path, capsys):
    folder, _ = compared
    here("plan", "--growth", "lipkova", "--days", 14, "--out", tmp_path / "slow.json")
    here("compare", patient, "--plans", folder / "none.json", tmp_path / "slow.json", "--out", tmp_path / "out")
    assert "warning: plans 'none' and 'slow' differ in" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, words", [
    (["--plans", "none.json", "none.json"], "two plans are named 'none'"),
    (["--plans", "lost.json"], "lost.json cannot be read"),
    (["--plans", "later.nii.gz"], "later.nii.gz"),
    (["--plans", "none.json", "--twin", "lost.json"], "no twin file"),
    (["--plans", "none.json", "--twin", "none.json"], "not a twin"),
    (["--plans", "none.json", "--members", "5"], "--members goes with --twin"),
    (["--plans", "none.json", "--recurrence", "lost.nii.gz"], "no follow-up file"),
    (["--plans", "none.json", "--margin-mm", "5"], "goes with --recurrence"),
    (["--plans", "none.json", "--recurrence", "later.nii.gz", "--recurrence-day", "20"], "no plan reports day 20"),
    (["--plans", "none.json", "--recurrence", "later.nii.gz", "--margin-mm", "-3"], "margin must lie between"),
    (["--plans", "none.json", "--progression-factor", "1"], "volume_factor must be above 1"),
])
def test_a_mistake_is_one_sentence_and_writes_nothing(compared, patient, tmp_path, capsys, arguments, words):
    folder, _ = compared
    given = [folder / a if a.endswith((".json", ".gz")) else a for a in arguments]
    here("compare", patient, *given, "--out", tmp_path / "out", code=2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and words in said[0]
    assert not (tmp_path / "out").exists()


# ---- with a twin


@pytest.fixture(scope="module")
def twin(compared):
    """The patient's twin from one follow-up on day 20, grown at 0.06 /day."""
    from AnatomyDTLib.engine import calibrate, forecast

    folder, _ = compared
    own = dataclasses.replace(Plan.from_json((folder / "none.json").read_text()), days=(20.0,))
    later = forecast(head(), SPACING, applied(own, {GROWTH: 0.06}), device="cpu").labels[-1]
    made = calibrate([(0, head()), (20.0, later)], SPACING, own)
    (folder / "twin.json").write_text(made.to_json())
    saved(folder / "day20.nii.gz", later)
    return made


def test_with_a_twin_the_plans_share_its_draws(compared, patient, twin, capsys):
    folder, _ = compared
    here("compare", patient, "--twin", folder / "twin.json", "--members", 8, "--out", folder / "own",
         "--plans", folder / "none.json", folder / "stupp.json")
    said = capsys.readouterr().out
    assert "8 draws of the parameters, the same for every plan" in said and "no twin was given" not in said
    record = json.loads((folder / "own" / "run.json").read_text())
    assert record["members"] == 8 and any(name.endswith("twin.json") for name in record["inputs"])
    treated = {(p["better"], p["worse"], p["measure"]): p for p in record["preferences"]}["stupp", "none", "cells"]
    assert treated["probability"] > 0.5 and treated["low"] < treated["probability"] <= treated["high"]
    for entry in record["plans"]:
        last = entry["tumor_cells_ml"][-1]
        assert last["low"] < last["median"] < last["high"]


def test_a_twin_takes_the_plans_into_its_patient(twin):
    plans = [plan(), dataclasses.replace(plan(Radiotherapy(3, 8, 2.0)), infiltration_mm=9.0)]
    own = [of_patient(p, twin.plan) for p in plans]
    assert {p.infiltration_mm for p in own} == {twin.plan.infiltration_mm}
    assert own[1].treatments == plans[1].treatments and own[1].days == plans[1].days
    assert own[1].anatomy.tissues[5] == twin.plan.anatomy.tissues[5] and own[1].anatomy.names == plans[1].anatomy.names
    draws = paired_members(twin, own, 4)
    assert all(set(d) > set(twin.names) for d in draws)          # alpha, which no visit has shown, from its prior
    assert draws == paired_members(twin, own[::-1], 4)


def test_plans_may_begin_at_a_later_visit_but_not_at_another_patients(compared, patient, twin, tmp_path, capsys):
    folder, _ = compared
    own = ("--twin", folder / "twin.json", "--members", 2, "--plans", folder / "none.json")
    here("compare", folder / "day20.nii.gz", *own, "--out", tmp_path / "later")
    capsys.readouterr()
    here("compare", folder / "later.nii.gz", *own, "--out", tmp_path / "out", code=2)
    assert "another patient" in capsys.readouterr().err and not (tmp_path / "out").exists()
