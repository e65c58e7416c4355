"""The benchmark: driven through the command line, resumed, tested by hand values, refused."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from AnatomyDTLib import cli
from AnatomyDTLib.learning import batches, jobs, sensitivity, sweeps, tables
from AnatomyDTLib.learning.benchmark import Plan
from AnatomyDTLib.learning.cases import Case, Dataset
from AnatomyDTLib.learning.jobs import BenchmarkError, Job
from AnatomyDTLib.learning.methods import ABLATIONS, METHODS, TRIALS, TWIN
from AnatomyDTLib.learning.sources import Source
from AnatomyDTLib.learning.training import Outcome
from AnatomyDTLib.plan import Anatomy, Radiotherapy, Tissue

TINY = ["--cases", "6", "--size", "24", "--folds", "2", "--steps", "3", "--processes", "1"]
SOURCE = Source.of("voronoi", 6, seed=3, shape=[24, 24])


def anatomydt(*arguments):
    return cli.main(["benchmark", *map(str, arguments)])


def lines_of(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_table_through_the_command_line_and_again_from_what_is_kept(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    command = ("voronoi", "--methods", "persistence", "unet", "--trials", "2", "--out", out, *TINY)
    assert anatomydt(*command) == 0
    shown = capsys.readouterr()
    assert "| Persistence" in shown.out and "| UNet" in shown.out and "Ceiling" in shown.out
    assert '"generator": "voronoi"' in shown.out and "seed 0" in shown.out
    assert "tuning 2/2" in shown.err and "methods 4/4" in shown.err
    assert (out / "methods.png").read_bytes().startswith(b"\x89PNG") and (out / "methods.md").read_text() in shown.out
    table = lines_of(out / "methods.csv")
    mean = {(line["method"], line["metric"]): float(line["mean"]) for line in table if not line["class"]}
    assert 0.3 < mean["Persistence", "dsc"] < 1 and mean["Ceiling (the generator's truth)", "dsc"] == 1
    assert mean["Persistence", "hd95"] > mean["Ceiling (the generator's truth)", "hd95"] == 0
    assert {line["class"] for line in table if line["method"] == "UNet"} == {"", "Organ A", "Organ B", "Organ C", "Organ D", "Tumor"}
    records = {path: path.read_text() for path in out.glob("*/*.json")}
    assert len(records) == 2 + 4
    tested = [row["case"] for path, text in records.items() if "methods-unet" in path.name for row in json.loads(text)["cases"]]
    assert sorted(tested) == [f"voronoi-{i:04d}" for i in range(6)]

    # what is kept is not computed again, and what is lost comes out the same
    former = jobs.run
    ran = []
    monkeypatch.setattr(jobs, "run", lambda job: ran.append(job) or former(job))
    lost = next(path for path in records if "methods-unet-fold1" in path.name)
    damaged = next(path for path in records if "methods-persistence-fold0" in path.name)
    lost.unlink()
    damaged.write_text("{")
    assert anatomydt(*command) == 0
    assert {job.file for job in ran} == {lost.name, damaged.name}
    before, after = (json.loads(text) for text in (records[lost], lost.read_text()))
    for key in ("cases", "curve", "best_step", "validation_dice", "job"):
        assert after[key] == before[key], key
    assert lines_of(out / "methods.csv")[0] == table[0]


def test_results_of_another_program_are_not_taken_over(tmp_path, monkeypatch):
    job = Job("s", "r", "persistence", SOURCE, folds=2, tuning=True)
    jobs.run_all([job], tmp_path, 1)
    monkeypatch.setattr(jobs, "program", lambda: "another")
    with pytest.raises(BenchmarkError, match="the program was changed"):
        jobs.run(job)
    other = dataclasses.replace(job, version="another")
    assert other.file != job.file and jobs._read(tmp_path / job.file, other) is None


def test_stopped_in_the_middle_keeps_what_was_finished(tmp_path, capsys, monkeypatch):
    former = jobs.run

    def run(job):
        if job.fold:
            raise KeyboardInterrupt
        return former(job)

    monkeypatch.setattr(jobs, "run", run)
    with pytest.raises(SystemExit) as stop:
        anatomydt("voronoi", "--methods", "persistence", "--out", tmp_path, *TINY)
    assert stop.value.code == 130 and "to go on" in capsys.readouterr().err
    assert len(list(tmp_path.glob("methods/*.json"))) == 1


def test_two_processes_find_what_one_finds(tmp_path):
    # of a trial only validation is scored: the children need not import what scores a table
    asked = [Job("s", "r", "fisher-kpp", SOURCE, fold, 2, training={"steps": 2}, tuning=True) for fold in range(2)]
    alone = jobs.run_all(asked, tmp_path / "one", 1)
    beside = jobs.run_all(asked, tmp_path / "two", 2)
    assert [r["curve"] for r in alone] == [r["curve"] for r in beside] and alone[0]["curve"] != alone[1]["curve"]


def test_a_budget_of_seconds_ends_every_method_alike_and_halves_for_trials(tmp_path):
    from AnatomyDTLib.learning.benchmark import tuning_jobs

    for method in ("fisher-kpp", "unet"):
        record = jobs.run(Job("s", "r", method, SOURCE, 0, 2, training={"steps": 10_000, "seconds": 0.5, "validations": 4}, tuning=True))
        assert 0.5 <= record["seconds_training"] < 2 and 1 <= record["steps"] < 10_000
        assert 1 <= len(record["curve"]) <= 4 and record["curve"][-1][0] == record["steps"]
    plan = plan_of(SOURCE, trials=2, training={"steps": 10_000, "seconds": 60.0})
    assert {job.training["seconds"] for job in tuning_jobs(plan, ["unet"])} == {30.0}


@pytest.mark.parametrize("study, points", [("data", 2), ("extrapolation", 4), ("visits", 3)])
def test_the_other_studies_write_their_tables(study, points, tmp_path, capsys):
    assert anatomydt("voronoi", "--study", study, "--methods", "persistence", "--quick", "--out", tmp_path, *TINY) == 0
    said = capsys.readouterr().out
    assert "--quick" in said
    # Sizes up to 20 need twice as many cases in two folds, whatever the other studies have.
    assert ("40 cases of" in said) == (study == "data")
    table = lines_of(tmp_path / f"{study}.csv")
    assert len({line["point"] for line in table}) == points and (tmp_path / f"{study}.png").exists()


def test_a_trained_model_is_changed_and_scored_again():
    source, finer = (SOURCE.changed(shape=[n, n]) for n in (32, 40))
    changes = {
        "same": {}, "finer": {"tested": dataclasses.asdict(finer)}, "no drift": {"set": {"drift": 0.0}},
        "jacobi": {"set": {"scheme": "jacobi", "sweeps": 1}}, "less room": {"set": {"capacity": 0.6}},
    }
    record = jobs.run(Job("s", "r", "cross-diffusion", source, 0, 2, training={"steps": 1}, variants=changes))
    found = {name: [s["dice"] for visit in rows for s in visit["scores"]] for name, rows in record["variants"].items()}
    assert found["same"] == [s["dice"] for visit in record["cases"] for s in visit["scores"]]
    assert {name for name in found if found[name] != found["same"]} >= {"finer", "jacobi", "less room"}


def test_the_sweeps_of_the_twin_and_of_both_solvers():
    planned = sensitivity.jobs(plan_of(SOURCE), {TWIN: {}, sensitivity.CLASSICAL: {}})
    assert len({job.file for job in planned}) == len(planned)
    names = [name for job in planned for name in job.variants]
    for panel, places in (("dt / horizon", sensitivity.STEPS), ("voxels along an edge", sensitivity.GRIDS)):
        for line in ("AnatomyDT", *sensitivity.SCHEMES):
            assert {f"{panel}|{line}|{place}" for place in places} <= set(names)
    limits = {job.settings["limit_per_day"] * sensitivity.HORIZON_DAYS for job in planned if job.row.startswith("k_max")}
    assert sorted(limits) == pytest.approx(sensitivity.K_MAX)
    assert {job.training["loss"]["tv"] for job in planned if job.row.startswith("λ_tv")} == set(sensitivity.LAMBDA_TV)


@pytest.mark.slow
def test_sensitivity_and_ablation_write_their_tables(tmp_path, capsys):
    assert anatomydt("vessel", "--study", "sensitivity", "ablation", "--quick", "--out", tmp_path, *TINY) == 0
    shown = capsys.readouterr().out
    assert "| learned number" in shown and "| dt / horizon" in shown and (tmp_path / "sensitivity.png").exists()
    assert all(f"| {METHODS[key].name} " in shown for key in ABLATIONS) and (tmp_path / "ablation.png").exists()


@pytest.mark.parametrize("arguments, said", [
    (("nowhere",), "neither a folder of cases nor one of"),
    (("voronoi", "--seed", "-3"), "--seed must be 0 or above"),
    (("voronoi", "--methods", "gan"), "there is no method 'gan'"),
    (("voronoi", "--folds", "1"), "--folds must be at least 2"),
    (("voronoi", "--folds", "9", "--cases", "6", "--methods", "persistence"), "folds"),
    (("voronoi", "--trials", "99"), "--trials is at most"),
    (("voronoi", "--seconds", "nan"), "--seconds must be at least 1"),
    (("voronoi", "--spacing", "2"), "--spacing is for a folder"),
    (("FOLDER", "--spacing", "0", "1", "1"), "--spacing takes one, two or three"),
    (("voronoi", "--size", "4", "--methods", "persistence"), "at least 16 voxels"),
    (("voronoi", "--study", "data", "--methods", "persistence", "--cases", "0"), "--cases must be at least"),
    (("FOLDER", "--cases", "5"), "a folder is taken as it is"),
    (("voronoi", "--study", "everything"), "invalid choice"),
])
def test_a_mistake_is_one_sentence(arguments, said, tmp_path, capsys):
    arguments = [str(tmp_path) if a == "FOLDER" else a for a in arguments]
    assert anatomydt(*arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert anatomydt("voronoi", "--methods", "persistence", "--out", out, *TINY) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_every_method_tries_the_same_number_of_settings():
    trained = [m for m in METHODS.values() if m.trials]
    assert {len(m.trials) for m in trained} == {TRIALS}
    for method in trained:
        assert {} in method.trials and len({json.dumps(t, sort_keys=True) for t in method.trials}) == TRIALS


def test_no_trial_holds_more_voxels_at_once_than_the_rest(monkeypatch):
    """Cases per step are capped by their voxels, whatever a trial says."""
    seen = {}
    monkeypatch.setattr(jobs.training, "train", lambda model, data, train, validation, config: seen.update(size=config.batch_size) or Outcome())
    data = jobs.opened(SOURCE)
    monkeypatch.setattr(batches, "MOST_VOXELS", 2 * int(np.prod(data.shape)))
    jobs.run(Job("methods", "UNet", "unet", SOURCE, folds=3, settings={"batch_size": 4}, tuning=True))
    assert seen["size"] == 2
    assert all(METHODS[key].part_of in (None, TWIN) for key in ABLATIONS)


def test_an_ablation_leaves_out_what_its_row_says():
    from AnatomyDTLib.learning import methods
    from AnatomyDTLib.learning.training import predict

    data = jobs.opened(SOURCE)
    treated = [i for i, case in enumerate(data.cases) if case.treatments][:2]
    bare = dataclasses.replace(data, cases=tuple(dataclasses.replace(case, treatments=()) for case in data.cases))
    terms = {"diffusion": ["network-only"], "cross_diffusion": ["network-only", "no-cross-diffusion"], "growth_law": ["network-only"], "creep": ["no-creep"]}
    for key in ABLATIONS:
        model, config = methods.build(key, data, {}, {})
        own = model.config
        assert (model.growth is None) == (key in ("spatial-only", "spatial-topology")), key
        assert all(getattr(own, term) == (key not in rows) for term, rows in terms.items()), key
        without = key in ("network-only", "spatial-only", "no-topology")
        assert (config.loss.cl_dice == config.loss.overlap == 0) == without
        if own.growth_law:
            seen, blind = (np.stack([labels for _, labels in predict(model, cases, treated)]) for cases in (data, bare))
            assert np.array_equal(seen, blind) == (key == "no-treatment"), key


def test_the_settings_are_tried_on_other_cases():
    plan = plan_of(SOURCE, trials=2)
    from AnatomyDTLib.learning.benchmark import tuning_jobs

    tried = tuning_jobs(plan, ["unet"])
    assert [job.settings for job in tried] == list(METHODS["unet"].trials[:2]) and all(job.tuning for job in tried)
    assert not np.array_equal(jobs.opened(tried[0].source).cases[0].labels, jobs.opened(SOURCE).cases[0].labels)


def plan_of(source, **changes):
    from pathlib import Path

    plan = Plan(source, ("persistence",), ("methods",), 2, 0, 1, {"steps": 1}, 1, Path("out"))
    return dataclasses.replace(plan, **changes)


def test_extrapolation_trains_on_one_kind_of_case_and_tests_on_another():
    found = {point.place: job for point, job in sweeps.jobs("extrapolation", plan_of(SOURCE), {"persistence": {}}) if job.fold == 0}
    assert len(found) == 2                       # a model is trained once and scored on both
    later, both = found["30 to 90 days, as trained"], found["single treatments, as trained"]
    tested = {name: jobs.opened(Source(**change["tested"])) for job in found.values() for name, change in job.variants.items()}
    assert {case.days[-1] for case in tested["180 days"].cases} == {180.0}
    assert max(case.days[-1] for case in jobs.opened(later.source).cases) <= 90
    assert {len(case.treatments) for case in tested["both treatments together"].cases} == {2}
    assert max(len(case.treatments) for case in jobs.opened(both.source).cases) <= 1
    # the same patients: whom a fold tests, it has not trained on
    for a, b in zip(jobs.opened(both.source).cases, tested["both treatments together"].cases):
        assert a.patient == b.patient and np.array_equal(a.labels[0], b.labels[0])


def test_smaller_training_sets_are_parts_of_larger_ones():
    data = jobs.opened(dataclasses.replace(SOURCE, count=30))
    job = Job("data", "r", "persistence", SOURCE, 1, 3)
    test = set(jobs.split(data, job)[2])
    former: set = set()
    for n in (2, 5, 20):
        train, validation, own = jobs.split(data, dataclasses.replace(job, train_cases=n))
        assert len(train) + len(validation) == n and len(validation) >= 1 and not set(train) & set(validation)
        seen = set(train) | set(validation)
        assert former <= seen and not seen & test and set(own) == test
        former = seen
    with pytest.raises(BenchmarkError, match="2 to 20"):
        jobs.split(data, dataclasses.replace(job, train_cases=21))
    # three cases of each patient stay together
    threes = tuple(dataclasses.replace(case, patient=f"p{i // 3}") for i, case in enumerate(data.cases))
    threes = dataclasses.replace(data, cases=threes)
    for part in (None, 7, 20):
        parts = [{threes.cases[i].patient for i in own} for own in jobs.split(threes, dataclasses.replace(job, train_cases=part))]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    with pytest.raises(BenchmarkError, match="one patient"):
        jobs.split(threes, dataclasses.replace(job, train_cases=3))


def test_left_out_visits_take_their_later_treatment_along():
    anatomy = Anatomy((Tissue("outside", "background"), Tissue("tumor", "tumor")))
    labels = np.arange(4, dtype=np.uint8)[:, None, None] % 2 * np.ones((4, 5, 5), np.uint8)
    cases = tuple(Case(f"c{i}", f"c{i}", (0.0, 10.0, 20.0, 30.0), labels, (Radiotherapy(2.0, 3), Radiotherapy(22.0, 3))) for i in range(40))
    data = Dataset("d", anatomy, (1.0, 1.0), cases)
    assert jobs.thinned(data, 1.0, 0) is data
    thin = jobs.thinned(data, 0.4, 0)
    counts = {len(case.days) for case in thin.cases}
    assert min(counts) == 2 and max(counts) <= 4 and len(counts) > 1
    for case in thin.cases:
        assert case.days[0] == 0 and len(case.labels) == len(case.days)
        assert len(case.treatments) == (2 if case.days[-1] == 30 else 1)
        assert [int(v[0, 0]) for v in case.labels] == [int(d) // 10 % 2 for d in case.days]


# ---- means and tests by hand


def visit(case, dice, hd95, tumor=2):
    scores = [
        {"class": k, "dice": d, "hd95": h, "missing": "", "cl_dice": d / 2, "betti_error": k}
        for k, d, h in zip((1, tumor), dice, hd95)
    ]
    return {"case": case, "patient": case, "day": 30.0, "scores": scores}


def row(name, dice, tumors=(2,), trees=()):
    return tables.row(name, [[visit(f"c{i}", (d, d), (1.0, 1.0)) for i, d in enumerate(dice)]], tumors, trees)


def test_means_over_classes_visits_cases_and_folds():
    folds = [
        [visit("a", (0.8, 0.4), (1.0, 3.0)), visit("a", (0.6, 0.2), (3.0, 5.0)), visit("b", (1.0, 1.0), (0.0, 0.0))],
        [visit("c", (0.9, 0.5), (2.0, 2.0))],
    ]
    made = tables.row("m", folds, (2,), (1,))
    # case a: (0.6 + 0.4) / 2, fold 1: (0.5 + 1) / 2, fold 2: 0.7
    assert made.mean("dsc") == pytest.approx((0.75 + 0.7) / 2) and made.std("dsc") == pytest.approx(0.05 / 2 ** 0.5)
    assert made.mean("dsc_tumor") == pytest.approx(((0.3 + 1) / 2 + 0.5) / 2)
    assert made.mean("dsc_anatomy") == pytest.approx(((0.7 + 1) / 2 + 0.9) / 2)
    assert made.mean("hd95") == pytest.approx(((3.0 + 0) / 2 + 2) / 2)
    assert made.mean("cl_dice") == pytest.approx(((0.35 + 0.5) / 2 + 0.45) / 2)      # of class 1, the tree
    assert made.mean("betti") == pytest.approx(1.5)
    assert made.per_class[2]["dice"] == pytest.approx([(0.4 + 0.2 + 1.0) / 3, 0.5])


def test_the_paired_test_by_hand():
    better, worse = row("better", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), row("worse", [0.89, 0.78, 0.67, 0.56, 0.45, 0.34])
    # six differences of one sign and different sizes: two of the 2^6 arrangements of signs are as extreme
    assert tables.p_value(better, worse, "dsc") == pytest.approx(2 / 64)
    assert tables.p_value(better, better, "dsc") == 1.0
    third = row("third", [0.1] * 6)
    found = tables.against_best([better, worse, third], "dsc")
    assert found["better"][0] == "worse" and found["third"][0] == "better" and found["worse"] == ("better", pytest.approx(2 / 64))
    assert tables.best([better, worse], "hd95").name == "better"                     # equal: the first
    unranked = dataclasses.replace(row("ceiling", [1.0] * 6), ranked=False)
    assert tables.best([worse, unranked], "dsc").name == "worse" and "ceiling" not in tables.against_best([worse, better, unranked], "dsc")


def test_a_lost_structure_counts_as_the_diagonal():
    anatomy = Anatomy((Tissue("outside", "background"), Tissue("organ", "organ"), Tissue("tumor", "tumor")))
    labels = np.zeros((2, 6, 8), np.uint8)
    labels[:, 1:5, 1:4] = 1
    labels[:, 2:4, 5:7] = 2
    data = Dataset("d", anatomy, (1.0, 2.0), (Case("c", "c", (0.0, 9.0), labels),))
    lost = labels[1:].copy()
    lost[lost == 2] = 0
    made = tables.row("m", [jobs.scored(data, [(0, lost)])], anatomy.tumors, ())
    assert made.missing == 1 and made.mean("dsc_tumor") == 0 and made.mean("dsc_anatomy") == 1
    assert made.mean("hd95_tumor") == pytest.approx((6 ** 2 + 16 ** 2) ** 0.5, abs=1e-4)
    assert jobs.ceiling(data, [0]) == []
    known = dataclasses.replace(data.cases[0], truth=labels)
    assert jobs.ceiling(dataclasses.replace(data, cases=(known,)), [0])[0]["scores"][1]["dice"] == 1
