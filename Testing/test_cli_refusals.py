"""Mistakes on the command line: one sentence, exit code 2, nothing written; and what interrupts it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_user import ENVIRONMENT, head, planned, run, saved

from AnatomyDTLib import cli, outputs, volumes


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("patient") / "patient.nii.gz", head())


# ---- mistakes: one sentence, exit code 2, nothing written


def changed(values):
    labels = head()
    for old, new in values.items():
        labels[labels == old] = new
    return labels


def bad_inputs(folder):
    """name -> (arguments of forecast but --out, a word of the sentence)"""
    patient = saved(folder / "patient.nii.gz", head())
    data = patient.read_bytes()
    (folder / "cut.nii.gz").write_bytes(data[: len(data) // 2])
    (folder / "letter.nii").write_text("dear colleague, " * 100)
    (folder / "empty.nrrd").write_bytes(b"")
    (folder / "scan.png").write_bytes(b"\x89PNG")
    (folder / "notes.json").write_text('{"hello": 1}')
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "labels.json").write_text('{"1": "white", "5": "blob"}')
    (folder / "weights.safetensors").write_bytes(b"")
    half = head().astype(np.float32)
    half[5, 5, 5] = 0.5
    saved(folder / "half.nii", half)
    half[5, 5, 5] = np.nan
    saved(folder / "nan.nii", half)
    saved(folder / "scan.nii.gz", np.arange(4400, dtype=np.int16).reshape(10, 22, 20))
    saved(folder / "nothing.nii.gz", np.zeros((4, 5, 6), np.uint8))
    saved(folder / "no_tumor.nii.gz", changed({5: 1}))
    saved(folder / "all_tumor.nii.gz", np.full((4, 5, 6), 5, np.uint8))
    saved(folder / "other.nii.gz", head()[:, :20])
    saved(folder / "moved.nii.gz", head(), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    saved(folder / "unknown.nii.gz", changed({4: 77}))
    zero = bytearray(__import__("gzip").decompress(data))
    zero[80:84] = bytes(4)
    (folder / "zero.nii").write_bytes(zero)
    plan = planned(folder)
    (folder / "maps").mkdir()
    lost = planned(folder / "maps", {"type": "surgery", "day": 1, "region": "lost.nrrd"})
    (folder / "moved_map").mkdir()
    saved(folder / "moved_map" / "r.nrrd", head()[:, :20])
    moved = planned(folder / "moved_map", {"type": "surgery", "day": 1, "region": "r.nrrd"})
    (folder / "late").mkdir()
    late = planned(folder / "late", {"type": "surgery", "day": 400})
    return {
        "no arguments": ((), "SEGMENTATION"),
        "no such file": ((folder / "lost.nii.gz",), "no file"),
        "a folder": ((folder,), "suffix"),
        "truncated": ((folder / "cut.nii.gz",), "truncated"),
        "a letter": ((folder / "letter.nii",), "NIfTI"),
        "an empty file": ((folder / "empty.nrrd",), "empty"),
        "another format": ((folder / "scan.png",), ".seg.nrrd"),
        "fractions": ((folder / "half.nii",), "0.5"),
        "NaN": ((folder / "nan.nii",), "NaN"),
        "a scan": ((folder / "scan.nii.gz",), "different values"),
        "an empty segmentation": ((folder / "nothing.nii.gz",), "empty"),
        "no tumor": ((folder / "no_tumor.nii.gz",), "tumor"),
        "only tumor": ((folder / "all_tumor.nii.gz", "--plan", plan), "tissue"),
        "zero spacing": ((folder / "zero.nii",), "voxel size"),
        "a label not in the map": ((folder / "unknown.nii.gz",), "77"),
        "anatomy of another size": ((patient, "--anatomy", folder / "other.nii.gz", "--anatomy-labels", "anatomydt"), "geometry"),
        "anatomy with other axes": ((patient, "--anatomy", folder / "moved.nii.gz", "--anatomy-labels", "anatomydt"), "axes"),
        "anatomy without a numbering": ((patient, "--anatomy", patient), "label"),
        "no such labels": ((patient, "--labels", "nonsense"), "synthseg"),
        "wrong labels": ((patient, "--labels", folder / "labels.json"), "blob"),
        "no such plan": ((patient, "--plan", folder / "lost.json"), "plan"),
        "not a plan": ((patient, "--plan", folder / "notes.json"), "anatomydt_plan"),
        "a binary plan": ((patient, "--plan", folder / "binary.json"), "UTF-8"),
        "an image as plan": ((patient, "--plan", patient), "UTF-8"),
        "plan and preset": ((patient, "--plan", plan, "--preset", "stupp"), "--preset"),
        "a plan that lacks a tissue": ((patient, "--plan", plan, "--labels", "fast"), "--labels"),
        "a late event": ((patient, "--plan", late), "400"),
        "a lost map": ((patient, "--plan", lost), "lost.nrrd"),
        "a map of another size": ((patient, "--plan", moved), "geometry"),
        "day 0": ((patient, "--days", "0"), "days"),
        "a negative day": ((patient, "--days", "-5"), "days"),
        "falling days": ((patient, "--days", "60", "30"), "ascending"),
        "no day": ((patient, "--days", "nan"), "days"),
        "a word for a day": ((patient, "--days", "soon"), "soon"),
        "a start after the end": ((patient, "--preset", "stupp", "--start-day", "95"), "95"),
        "a negative start": ((patient, "--preset", "stupp", "--start-day", "-3"), "start_day"),
        "an unknown preset": ((patient, "--preset", "magic"), "magic"),
        "an unknown device": ((patient, "--device", "tpu"), "tpu"),
        "no such weights": ((patient, "--weights", folder / "lost.safetensors"), "weights"),
    }
NAMES = (
    "no arguments", "no such file", "a folder", "truncated", "a letter", "an empty file", "another format", "fractions", "NaN", "a scan",
    "an empty segmentation", "no tumor", "only tumor", "zero spacing", "a label not in the map", "anatomy of another size",
    "anatomy with other axes", "anatomy without a numbering", "no such labels", "wrong labels", "no such plan", "not a plan", "a binary plan",
    "an image as plan", "plan and preset", "a plan that lacks a tissue", "a late event", "a lost map", "a map of another size", "day 0",
    "a negative day", "falling days", "no day", "a word for a day", "a start after the end", "a negative start", "an unknown preset",
    "an unknown device", "no such weights",
)
# a process each: what import, terminal and exit code do; the others are called in this process
IN_A_PROCESS = {"truncated", "no tumor", "zero spacing", "a word for a day", "an empty segmentation", "a late event"}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    made = bad_inputs(tmp_path_factory.mktemp("mistakes"))
    assert set(made) == set(NAMES)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_mistakes(mistakes, name, tmp_path, capsys):
    arguments, word = mistakes[name]
    out = tmp_path / "new" / "out"
    if name in IN_A_PROCESS:
        said = run("forecast", *arguments, "--out", out, code=2, apart=True).stderr
    else:
        assert cli.main(["forecast", *map(str, arguments), "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
        assert all(line.startswith(("error: ", "warning: ")) or " % " in line for line in said.splitlines()), said
    assert word in said.splitlines()[-1]
    assert os.listdir(tmp_path) == []          # not even the folder that it made


def test_cuda_that_is_not_there(patient, tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "CUDA_VISIBLE_DEVICES", "")  # none, on whatever machine
    assert "CUDA" in run("forecast", patient, "--device", "cuda", "--out", tmp_path / "out", code=2, apart=True).stderr
    assert os.listdir(tmp_path) == []


def test_an_output_folder_that_cannot_be(patient, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "file" in run("forecast", patient, "--out", tmp_path / "file", code=2).stderr
    assert "cannot write" in run("forecast", patient, "--out", tmp_path / "file" / "deeper", code=2).stderr
    assert (tmp_path / "file").read_text() == "mine"
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "permission" in run("forecast", patient, "--out", tmp_path / "locked", code=2).stderr


def test_a_full_disk_leaves_the_former_results(patient, tmp_path):
    out = tmp_path / "out"
    run("forecast", patient, "--out", out, "--days", 5)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    for limit in (300, 3_000, 30_000):
        said = run("forecast", patient, "--out", out, "--days", 6, code=2, limit_file_bytes=limit).stderr
        assert "write" in said
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert "write" in run("plan", "--out", tmp_path / "p.json", code=2, limit_file_bytes=100).stderr
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_nothing(tmp_path, sent):
    patient = saved(tmp_path / "patient.nii.gz", head((40, 66, 60)), spacing=(1, 1, 1))
    process = subprocess.Popen(
        [sys.executable, "-m", "AnatomyDTLib", "forecast", patient, "--out", tmp_path / "out", "--days", *map(str, range(10, 2000, 10))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        # A suite that was started in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    line = process.stderr.readline()
    assert " % " in line and (tmp_path / "out").is_dir()
    time.sleep(0.3)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said and said.strip().splitlines()[-1].startswith("stopped")
    assert os.listdir(tmp_path) == ["patient.nii.gz"]


def test_a_closed_pipe_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "AnatomyDTLib", "plan", "--labels", "synthseg"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read() and process.wait(30) == 0


def test_a_result_that_cannot_be_placed_leaves_the_former_one(tmp_path):
    out, wrong = tmp_path / "out", tmp_path / "out" / "volumes.csv"
    with outputs.results_folder(out) as staging:
        for name in ("day_0000.seg.nrrd", "forecast.png"):
            (staging / name).write_text("former")
        (staging / "run.json").write_text(json.dumps({"files": ["day_0000.seg.nrrd"]}))
    wrong.mkdir()
    with pytest.raises(volumes.VolumeError, match="volumes.csv"):
        with outputs.results_folder(out) as staging:
            for name in ("day_0010.seg.nrrd", "forecast.png", "run.json", "volumes.csv"):
                (staging / name).write_text("new")
    assert (out / "forecast.png").read_text() == "former" and (out / "day_0000.seg.nrrd").exists()
    assert sorted(p.name for p in out.iterdir()) == ["day_0000.seg.nrrd", "forecast.png", "run.json", "volumes.csv"]
    wrong.rmdir()
    with outputs.results_folder(out) as staging:
        (staging / "day_0010.seg.nrrd").write_text("new")
        (staging / "run.json").write_text("{}")
    assert sorted(p.name for p in out.iterdir()) == ["day_0010.seg.nrrd", "forecast.png", "run.json"]


def test_empty_names_and_folders_that_are_not_there(tmp_path):
    for arguments in (["forecast", "x.nii", "--out", ""], ["bench", "--json", str(tmp_path / "no" / "x.json")]):
        assert cli.main(arguments) == 2


@pytest.mark.parametrize("raised, words", [
    (OSError(errno.ENOSPC, "No space left on device", "/results/day.nrrd"), "error: /results/day.nrrd could not be read or written: No space left on device"),
    (PermissionError(errno.EACCES, "Permission denied", "plan.json"), "error: plan.json could not be read or written: Permission denied"),
    (ModuleNotFoundError("No module named 'skimage'", name="skimage"), "is not installed: pip install scikit-image"),
])
def test_a_disk_or_a_missing_package_is_one_sentence(raised, words, monkeypatch, capsys):
    def fails(arguments):
        raise raised

    monkeypatch.setitem(cli.VERBS, "bench", fails)
    assert cli.main(["bench"]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said


@pytest.mark.parametrize("raised", [OSError(errno.ECHILD, "No child processes"), ModuleNotFoundError("No module named 'monai.x'", name="monai.x"),
                                    ValueError("of the program, not of the user")])
def test_a_fault_of_the_program_keeps_its_traceback(raised, monkeypatch):
    def fails(arguments):
        raise raised

    monkeypatch.setitem(cli.VERBS, "bench", fails)
    with pytest.raises(type(raised)):
        cli.main(["bench"])
