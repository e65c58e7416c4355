"""The command line, run as a user runs it."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_user import ENVIRONMENT, head, planned, run, saved

from AnatomyDTLib import inputs, outputs, volumes
from AnatomyDTLib.plan import Plan


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("patient") / "patient.nii.gz", head())


@pytest.fixture(scope="module")
def result(patient, tmp_path_factory):
    """A treated forecast, from a plan file."""
    folder = tmp_path_factory.mktemp("result")
    run("plan", "--preset", "stupp", "--days", 20, 40, "--out", folder / "plan.json")
    done = run("forecast", patient, "--plan", folder / "plan.json", "--out", folder / "out", "--probabilities", "--device", "cpu",
        apart=True)
    return folder / "out", done


# ---- a forecast


def test_everything_is_written(result):
    out, done = result
    expected = {"volumes.csv", "forecast.png", "forecast.gif", "run.json"}
    expected |= {f"{kind}_{day}{end}" for day in ("0000", "0020", "0040") for kind, end in (("day", ".seg.nrrd"), ("probability", ".nrrd"))}
    try:
        import slicer  # noqa: F401
    except ImportError:
        assert "left out" in done.stdout
    else:
        expected.add("forecast.seq.mrb")
    assert {p.name for p in out.iterdir()} == expected
    assert "day 40: tumor" in done.stdout and str(out) in done.stdout
    assert "warning" not in done.stderr and "\r" not in done.stderr and "100 %" in done.stderr


def test_day_0_is_the_input(result):
    out, _ = result
    first = volumes.read_labels(out / "day_0000.seg.nrrd")
    assert (first.array == head()).all()
    assert first.spacing_mm == pytest.approx((3.0, 1.5, 1.5)) and first.geometry.origin_mm == pytest.approx((5, -7, 11))
    assert {s.name: s.value for s in first.segments} == {
        "White matter": 1, "Grey matter": 2, "CSF": 3, "Ventricles": 4, "Tumor": 5, "Treated tumor": 6}
    assert ["4147007^Mass" in s.terminology for s in first.segments] == [s.name == "Tumor" for s in first.segments]


def test_table_and_record_agree_with_the_volumes(result):
    out, _ = result
    rows = list(csv.DictReader((out / "volumes.csv").open()))
    record = json.loads((out / "run.json").read_text())
    assert [float(r["day"]) for r in rows] == record["days"] == [0, 20, 40]
    for row, day in zip(rows, ("0000", "0020", "0040")):
        labels = volumes.read_labels(out / f"day_{day}.seg.nrrd").array
        assert float(row["Tumor (mL)"]) == pytest.approx((labels == 5).sum() * 6.75 / 1000, abs=1e-3)
        assert float(row["tumor total (mL)"]) == float(row["Tumor (mL)"])
    assert record["anatomydt"] and record["run"]["device"] == "cpu" and record["plan"]["anatomydt_plan"] == 1
    assert len(record["inputs"]) == 2 and all(len(h) == 64 for h in record["inputs"].values())
    assert sorted(record["files"]) == sorted(p.name for p in out.iterdir())
    assert set(record["seconds"]) == {"reading", "forecast", "writing"} and record["warnings"] == []


def test_probabilities_lie_on_the_same_voxels(result):
    out, _ = result
    p, labels = volumes.read(out / "probability_0040.nrrd"), volumes.read(out / "day_0040.seg.nrrd")
    volumes.same_geometry(p, labels)
    assert 0 <= p.array.min() and p.array.max() <= 1
    assert (volumes.read(out / "probability_0000.nrrd").array[head() == 5] >= 0.49).all()


def test_the_same_run_gives_the_same_bytes(result, patient, tmp_path):
    out, _ = result
    run("forecast", patient, "--plan", out.parent / "plan.json", "--out", tmp_path / "again", "--probabilities", "--device", "cpu")
    for name in ("day_0000.seg.nrrd", "day_0040.seg.nrrd", "probability_0040.nrrd", "volumes.csv", "forecast.png", "forecast.gif"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_second_forecast_replaces_the_first(patient, tmp_path):
    out = tmp_path / "out"
    run("forecast", patient, "--out", out, "--days", 10, 12.5)
    (out / "notes.txt").write_text("mine")
    (out / "day_mine.nrrd").write_text("mine")
    run("forecast", patient, "--out", out, "--days", 15)
    days = sorted(p.name for p in out.iterdir() if p.name.startswith("day_"))
    assert days == ["day_0000.seg.nrrd", "day_0015.seg.nrrd", "day_mine.nrrd"] and (out / "notes.txt").read_text() == "mine"


def test_day_names():
    assert [outputs.day_name(d) for d in (0, 30, 30.5, 10000, 7.125)] == ["0000", "0030", "0030.5", "10000", "0007.125"]


# ---- labels


def test_a_brats_map_without_anatomy(tmp_path):
    labels = np.zeros((10, 16, 16), np.uint8)
    labels[3:7, 5:11, 5:11], labels[4:6, 6:10, 6:10] = 2, 4
    path = saved(tmp_path / "b.nii.gz", labels)
    done = run("forecast", path, "--out", tmp_path / "out", "--labels", "brats", "--days", 5)
    assert "--anatomy" in done.stderr and done.stderr.count("warning: ") == 1
    first = volumes.read_labels(tmp_path / "out" / "day_0000.seg.nrrd")
    names = {s.name: s.value for s in first.segments}
    assert names["Edema"] == 2 and names["Enhancing tumor"] == 4
    assert (first.array == np.where(labels == 0, names["Brain"], labels)).all()


def test_a_tumor_over_a_synthseg_anatomy(tmp_path):
    anatomy = np.full((10, 16, 16), 2, np.int32)
    anatomy[:, :8], anatomy[:, :, :2], anatomy[4:6, 10:13, 10:13], anatomy[2:5, 12:, 12:] = 41, 42, 4, 10
    tumor = np.zeros((10, 16, 16), np.uint8)
    tumor[4:7, 5:9, 5:9] = 3
    done = run("forecast", saved(tmp_path / "t.nii.gz", tumor), "--labels", "brats2024", "--anatomy", saved(tmp_path / "a.nii.gz", anatomy),
               "--out", tmp_path / "out", "--days", 5)
    assert "warning" not in done.stderr
    first = volumes.read_labels(tmp_path / "out" / "day_0000.seg.nrrd")
    masks = {s.name: first.array == s.value for s in first.segments}
    assert (masks["Enhancing tumor"] == (tumor == 3)).all()
    assert (masks["Left thalamus"] == ((anatomy == 10) & (tumor == 0))).all()
    assert set(masks) == {"Left cerebral white matter", "Right cerebral white matter", "Right cerebral cortex", "Left lateral ventricle",
                          "Left thalamus", "Enhancing tumor"}


def test_a_segmentations_names_ids_and_colours_survive(tmp_path):
    image = volumes.read_labels(saved(tmp_path / "p.nii.gz", head()))
    segments = [volumes.Segment("WM", 1, 0, "Segment_3", (0.1, 0.9, 0.1)), volumes.Segment("Cortex", 2, 0, "cortex", (0.2, 0.3, 0.4), "a~b"),
                volumes.Segment("Ventrikel ventricle", 4), volumes.Segment("GTV links", 5, 0, "g", (1, 0, 1))]
    volumes.write_segmentation(tmp_path / "s.seg.nrrd", image.array, image.geometry, segments)
    run("forecast", tmp_path / "s.seg.nrrd", "--out", tmp_path / "out", "--preset", "surgery", "--start-day", 3, "--days", 5)
    last = volumes.read_labels(tmp_path / "out" / "day_0005.seg.nrrd")
    assert [(s.id, s.name, s.value, s.color) for s in last.segments if s.id in ("Segment_3", "cortex", "g")] == [
        ("Segment_3", "WM", 1, (0.1, 0.9, 0.1)), ("cortex", "Cortex", 2, (0.2, 0.3, 0.4)), ("g", "GTV links", 5, (1, 0, 1))]
    assert "a~b" in [s.terminology for s in last.segments]
    cavity = next(s for s in last.segments if s.name == "Resection cavity")
    assert cavity.value == 3 and (last.array == cavity.value).any()


def test_overlapping_segments(tmp_path):
    header = ("NRRD0004\ntype: uint8\ndimension: 4\nspace: left-posterior-superior\nsizes: 2 20 22 10\n"
              "space directions: none (1,0,0) (0,1,0) (0,0,1)\nkinds: list domain domain domain\nencoding: raw\nspace origin: (0,0,0)\n"
              "Segment0_ID:=t\nSegment0_Name:=Tumor\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n"
              "Segment1_ID:=b\nSegment1_Name:=Brain\nSegment1_LabelValue:=1\nSegment1_Layer:=1\n\n")
    both = np.stack([head() == 5, head() > 0], axis=-1).astype(np.uint8)
    (tmp_path / "a.seg.nrrd").write_bytes(header.encode() + both.tobytes())
    done = run("forecast", tmp_path / "a.seg.nrrd", "--out", tmp_path / "out", "--days", 5)
    assert "overlap" in done.stderr
    first = volumes.read_labels(tmp_path / "out" / "day_0000.seg.nrrd")
    assert {s.id: int((first.array == s.value).sum()) for s in first.segments} == {
        "t": int((head() == 5).sum()), "b": int(((head() > 0) & (head() != 5)).sum())}


def test_a_label_file(patient, tmp_path):
    table = {"1": "white", "2": "grey", "4": {"name": "Hirnkammer", "role": "ventricle", "color": [0, 0, 1]}, "5": {"name": "Rezidiv", "role": "tumor"}}
    (tmp_path / "labels.json").write_text(json.dumps(table))
    run("forecast", patient, "--labels", tmp_path / "labels.json", "--out", tmp_path / "out", "--days", 5)
    first = volumes.read_labels(tmp_path / "out" / "day_0000.seg.nrrd")
    assert {s.name: s.value for s in first.segments} == {"White matter": 1, "Grey matter": 2, "Hirnkammer": 4, "Rezidiv": 5}


def test_a_region_and_a_dose_from_files_beside_the_plan(patient, tmp_path):
    region = np.zeros(head().shape, np.uint8)
    region[:, :, 12:] = 1
    saved(tmp_path / "region.nrrd", region)
    saved(tmp_path / "dose.mha", np.full(head().shape, 30.0, np.float32))
    plan = planned(tmp_path, {"type": "surgery", "day": 1, "region": "region.nrrd"},
                   {"type": "radiotherapy", "start_day": 2, "fractions": 3, "dose_gy": None, "dose_map": "dose.mha"})
    run("forecast", patient, "--plan", plan, "--out", tmp_path / "out")
    last = volumes.read_labels(tmp_path / "out" / "day_0006.seg.nrrd")
    cavity = next(s for s in last.segments if s.name == "Resection cavity")
    assert (last.array[region > 0][head()[region > 0] == 5] == cavity.value).all()
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert sorted(Path(p).name for p in record["inputs"]) == ["dose.mha", "patient.nii.gz", "plan.json", "region.nrrd"]


def test_a_region_that_is_a_segment(tmp_path):
    image = volumes.read_labels(saved(tmp_path / "p.nii.gz", head()))
    labels = image.array.copy()
    labels[4:6, 15:18, 12:15] = 9
    names = {1: "White matter", 2: "Grey matter", 4: "Ventricles", 5: "Tumor", 9: "To resect"}
    volumes.write_segmentation(tmp_path / "s.seg.nrrd", labels, image.geometry, [volumes.Segment(n, v) for v, n in names.items()])
    plan = planned(tmp_path, {"type": "surgery", "day": 1, "region": "to resect"})
    done = run("forecast", tmp_path / "s.seg.nrrd", "--plan", plan, "--out", tmp_path / "out")
    assert "To resect" in done.stderr
    assert "To resect" not in (tmp_path / "out" / "volumes.csv").read_text()


# ---- plans


def test_a_plan_from_a_segmentation(patient, tmp_path):
    plan = Plan.from_json(run("plan", "--segmentation", patient, "--preset", "radiotherapy", "--growth", "swanson-high-grade").stdout)
    assert plan.anatomy.names == ("Background", "White matter", "Grey matter", "Ventricles", "Tumor", "Treated tumor")
    assert plan.anatomy.tissues[4].growth_per_day == 0.012 and plan.days == (30, 60, 90)
    plan = Plan.from_json(run("plan", "--labels", "synthseg").stdout)
    assert "Left thalamus" in plan.anatomy.names


def test_a_plans_own_numbers_rule(patient, tmp_path):
    plan = planned(tmp_path, days=(30,))
    made = json.loads(plan.read_text())
    for tissue in made["tissues"]:
        tissue["growth_per_day"] = 0.0
        tissue["diffusivity_mm2_per_day"] = 0.0
    made["tissues"] = made["tissues"][:1] + made["tissues"][:0:-1]          # another order: names decide
    plan.write_text(json.dumps(made))
    run("forecast", patient, "--plan", plan, "--out", tmp_path / "out")
    assert (volumes.read_labels(tmp_path / "out" / "day_0030.seg.nrrd").array == head()).all()


def test_version_and_help():
    assert run("--version", apart=True).stdout.startswith("anatomydt ")
    for verb in ("forecast", "plan", "bench"):
        assert "usage" in run(verb, "--help").stdout


def test_nothing_heavy_is_imported_for_a_plan():
    code = ("import sys; from AnatomyDTLib import cli; cli.main(['plan', '--preset', 'stupp']); "
            "print([m for m in ('torch', 'numpy', 'slicer', 'matplotlib') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---- forecast, with a warning where one is due


@pytest.mark.parametrize("name, labels, word", [
    ("at the border", np.where(np.indices((8, 10, 12))[2] < 4, 5, 1).astype(np.uint8), "edge"),
    ("one voxel", (lambda a: a.__setitem__((4, 5, 6), 5) or a)(np.ones((8, 10, 12), np.uint8)), "voxel"),
    ("one slice", head()[5:6], "slice"), ("a 2D image", head()[5], "slice"),
    ("decimal numbers", head().astype(np.float32), "whole values"),
])
def test_forecast_with_a_warning(tmp_path, name, labels, word):
    path = saved(tmp_path / "p.nii.gz", labels, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    done = run("forecast", path, "--out", tmp_path / "out", "--days", 5)
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert any(word in line for line in warnings), done.stderr
    first = volumes.read_labels(tmp_path / "out" / "day_0000.seg.nrrd")
    assert (first.array.reshape(labels.shape) == labels).all()


def test_a_terminal_shows_a_bar(patient, tmp_path):
    import pty

    parent, child = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "AnatomyDTLib", "forecast", patient, "--out", tmp_path / "out", "--days", "5"],
                               stdout=subprocess.DEVNULL, stderr=child, env=ENVIRONMENT)
    os.close(child)
    shown = b""
    while True:
        try:
            block = os.read(parent, 4096)
        except OSError:
            break
        if not block:
            break
        shown += block
    os.close(parent)
    assert process.wait(60) == 0
    assert b"\r" in shown and b"[####" in shown and shown.endswith(b"\r\x1b[K")
SAMPLE = Path(__file__).resolve().parent.parent / "AnatomyDT" / "Resources" / "SampleData"


def test_colours_and_terminology_of_the_input_survive_a_plan():
    plan = Plan.from_json((SAMPLE / "plan_stupp.json").read_text())
    labelled = inputs.read_labelled(str(SAMPLE / "sample_baseline.seg.nrrd"))
    written = {s.name: s for s in outputs._segments(plan, labelled, inputs.matched(plan, labelled))}
    for segment in labelled.volume.segments:
        assert written[segment.name].terminology == segment.terminology and segment.terminology
        assert written[segment.name].color == pytest.approx(segment.color)
        assert written[segment.name].value == segment.value
    assert "Treated tumor" in written
