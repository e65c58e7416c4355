"""Training: deterministic, resumable, the same on two processes, safe when the disk is full; the verb `train`."""

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from AnatomyDTLib import cli
from AnatomyDTLib.learning import batches, checkpoints, training, weights
from AnatomyDTLib.learning import twin as twins
from AnatomyDTLib.learning.batches import collate
from AnatomyDTLib.learning.cases import scaled
from AnatomyDTLib.learning.forecasting import load_twin
from AnatomyDTLib.learning.losses import LossWeights, forecast_loss
from AnatomyDTLib.learning.training import TrainConfig, TrainingError
from AnatomyDTLib.learning.twin import AnatomyTwin
from AnatomyDTLib.learning.voronoi import VoronoiSettings, voronoi
from AnatomyDTLib.plan import Chemotherapy, Radiotherapy

ROOT = Path(__file__).resolve().parent.parent
TRAIN, VALID = np.arange(5), np.array([5, 6])
QUICK = TrainConfig(steps=6, batch_size=3, validations=3, loss=LossWeights(cl_dice=0.0))


@pytest.fixture(scope="module")
def dataset():
    return voronoi(7, VoronoiSettings(shape=(24, 24)))


class Copy(nn.Module):
    """The first visit again, with one learned number per class in its logits."""

    name = "Copy"

    def __init__(self, classes=6):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes))
        self.noise = nn.Dropout(0.2)

    def forward(self, batch):
        p = torch.softmax(4 * self.noise(batch.states[:, 0]) + self.bias.reshape(1, -1, 1, 1), 1)
        return p.unsqueeze(1).expand(-1, batch.states.shape[1] - 1, -1, -1, -1)


def trained(dataset, config=QUICK, out=None, resume=False, model=None):
    torch.manual_seed(0)
    model = model or AnatomyTwin.of(dataset, hidden=8)
    return model, training.train(model, dataset, TRAIN, VALID, config, out, resume=resume)


def same(a, b, tolerance=0.0):
    return all(torch.allclose(x, y, rtol=0, atol=tolerance) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


# ---- batches


def test_the_grid_holds_every_treatment_once_and_ends_steps_at_visits(dataset):
    case = dataclasses.replace(dataset.cases[0], days=(0.0, 25.0, 61.0), labels=dataset.cases[0].labels[[0, 1, 1]], treatments=(
        Radiotherapy(0.0, 3, 2.0, weekdays_only=False), Radiotherapy(30.0, 2, 3.0, weekdays_only=False),
        Chemotherapy("d", (3.0, 40.0), 0.3, 2.0, (1.0, 0.5)),
    ))
    several = dataclasses.replace(dataset, cases=(case, dataset.cases[1]))
    batch = collate(several, [0, 1], longest_step_days=7.0)
    grid, ends = batch.grid, batch.grid.start + batch.grid.dt
    assert float(grid.dt.max()) <= 7.0 + 1e-6
    for v, step in enumerate(grid.visits, start=1):
        assert float(ends[step - 1, 0]) == pytest.approx(case.days[v])
    assert float(ends[grid.visits[0] - 1, 1]) == pytest.approx(several.cases[1].days[1]) and float(grid.dt[grid.visits[0] :, 1].sum()) == 0
    assert float(grid.dose_gy[:, 0].sum()) == 12.0 and float(grid.dose2_gy2[:, 0].sum()) == 30.0
    area = 2.0 / np.log(2.0)
    lost = 0.5 * 2.0 ** (-21 / 2) + 1.0 * 2.0 ** (-58 / 2)               # what is left in the blood at the end
    assert float(grid.drug[:, 0].sum()) == pytest.approx(0.3 * area * (1.5 - lost), rel=1e-5)
    for day in (0.0, 2.0, 30.0, 31.0):                                   # the first and last fraction of a block end a step
        assert day == 0.0 or float((ends[:, 0] - day).abs().min()) < 1e-5
    assert torch.allclose(batch.between(0, 1)[0], torch.tensor([0.25, 0.1, float(0.3 * area * (1 - 2.0 ** -11)), 0.0]), rtol=1e-4)
    parts = batch.between(0, 1) + batch.between(1, 2)
    assert torch.allclose(parts[0], batch.between(0, 2)[0], rtol=1e-5)
    with pytest.raises(batches.DataError, match="treatment with a map"):
        bad = dataclasses.replace(case, treatments=(Radiotherapy(3.0, 3, 2.0, region="somewhere"),))
        collate(dataclasses.replace(dataset, cases=(bad,)), [0])


def test_a_batch_holds_images_scaled(dataset):
    image = 1000 * np.random.default_rng(0).random((2, 24, 24), np.float32) - 200        # as of a CT
    cases = tuple(dataclasses.replace(case, images=(i + 1) * image) for i, case in enumerate(dataset.cases[:2]))
    images = collate(dataclasses.replace(dataset, cases=cases), [0, 1]).images
    assert images.shape == (2, 2, 24, 24) and images.dtype == torch.float32
    for channel in range(2):
        expected = torch.from_numpy(scaled(image[channel], dataset.cases[0].labels[0], dataset.anatomy))
        assert -1 <= float(expected.min()) < 0.1 and 0.9 < float(expected.max()) <= 2
        assert all(torch.allclose(images[i, channel], expected, atol=1e-3) for i in range(2))


def test_turning_a_batch_turns_all_of_it(dataset):
    batch = collate(dataset, [0, 1])
    turned = batch.turned((True, False), (1, 0))
    assert torch.equal(turned.states, batch.states.flip(-2).transpose(-1, -2))
    back = turned.turned((False, True), (1, 0))
    assert torch.equal(back.states, batch.states) and torch.equal(back.distances, batch.distances)
    seen = {training.turned(batch, np.random.default_rng(i)).states.sum(0).argmax(1).sum().item() for i in range(3)}
    assert len(seen) >= 1 and any(
        not torch.equal(training.turned(batch, np.random.default_rng(i)).states, batch.states) for i in range(6))


# ---- the loop


def untrained_loss(dataset):
    batch = collate(dataset, TRAIN)
    with torch.no_grad():
        return float(forecast_loss(AnatomyTwin.of(dataset, hidden=8)(batch), batch, QUICK.loss, dataset.tree_classes))


def test_it_learns_keeps_the_best_and_is_deterministic(dataset):
    config = dataclasses.replace(QUICK, steps=12, validations=6, rate=3e-3, average=0.5)
    a, first = trained(dataset, config)
    b, second = trained(dataset, config)
    assert same(a, b) and first.history == second.history
    losses = [row["loss"] for row in first.history]
    # the first step already has the law of the tumors' sizes
    assert np.mean(losses[-4:]) < 0.97 * np.mean(losses[:4]) < 0.9 * untrained_loss(dataset)
    scores = [row["dice"] for row in first.history if row["dice"] is not None]
    assert len(scores) == 6 and first.best_dice == max(scores)
    batch = collate(dataset, VALID)
    with torch.no_grad():
        assert np.mean(training.mean_dice(a(batch), batch)) == pytest.approx(first.best_dice)


def test_a_killed_run_resumed_ends_with_the_same_weights(dataset, tmp_path):
    """Killed after the second validation; dropout and random turns included."""
    for make in (lambda: AnatomyTwin.of(dataset, hidden=8), Copy):
        whole, outcome = trained(dataset, model=make())

        class Killed(RuntimeError):
            pass

        def kill(fraction, text):
            if fraction > 4.5 / 6:
                raise Killed

        folder = tmp_path / make().name
        with pytest.raises(Killed):
            training.train(make(), dataset, TRAIN, VALID, QUICK, folder, progress=kill)
        again, resumed = trained(dataset, out=folder, resume=True, model=make())
        assert same(whole, again)
        assert [row["loss"] for row in resumed.history] == [row["loss"] for row in outcome.history]


def test_a_full_disk_loses_no_checkpoint(dataset, tmp_path, monkeypatch):
    trained(dataset, out=tmp_path, model=Copy())
    former = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = os.fsync

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights.os, "fsync", full)
    with pytest.raises(TrainingError, match="could not be written: No space left on device; the former one is kept") as raised:
        trained(dataset, out=tmp_path, model=Copy())
    assert len(str(raised.value).split(". ")) == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == former
    monkeypatch.setattr(weights.os, "fsync", real)
    trained(dataset, out=tmp_path, resume=True, model=Copy())


def test_a_best_that_a_full_disk_refused_is_there_after_resuming(dataset, tmp_path, monkeypatch):
    """Also where the process ended between the two files: the resumed run ends with the best of a whole one."""
    config = dataclasses.replace(QUICK, steps=6, validations=6, average=0.5)
    whole, _ = trained(dataset, config, tmp_path / "whole")
    real = checkpoints.write_tensors
    for broken in ("best.safetensors", "last.safetensors"):
        folder, written = tmp_path / broken, []

        def fails(path, tensors, meta):
            if path.name == broken and broken in written:
                raise TrainingError("full")
            written.append(path.name)
            real(path, tensors, meta)

        monkeypatch.setattr(checkpoints, "write_tensors", fails)
        with pytest.raises(TrainingError):
            trained(dataset, config, folder)
        monkeypatch.setattr(checkpoints, "write_tensors", real)
        resumed, outcome = trained(dataset, config, folder, resume=True)
        assert same(whole, resumed)
        (best, header), (expected, told) = (
            weights.read_tensors(at / "best.safetensors", twins.FORMAT, "twin") for at in (folder, tmp_path / "whole"))
        assert header == told and all(torch.equal(best[name], expected[name]) for name in expected)


def test_the_best_tells_what_its_own_weights_learned(dataset, tmp_path):
    twin, outcome = trained(dataset, dataclasses.replace(QUICK, steps=6, validations=6, rate=0.3), tmp_path)
    header = weights.header_of(tmp_path / "best.safetensors")
    assert json.loads(header["physical"]) == twin.physical() and outcome.best_step < outcome.steps
    assert json.loads(header["outcome"])["step"] == outcome.best_step and len(str(header)) < 20_000


def test_resuming_is_for_the_same_run_which_may_be_longer(dataset, tmp_path):
    trained(dataset, dataclasses.replace(QUICK, steps=2, validations=1), tmp_path)
    _, longer = trained(dataset, dataclasses.replace(QUICK, steps=4, validations=2), tmp_path, resume=True)
    assert longer.steps == 4
    longer = dataclasses.replace(QUICK, steps=4, validations=2)
    other = voronoi(7, VoronoiSettings(shape=(24, 24), seed=5))
    first = dataset.cases[0]
    edited = dataclasses.replace(dataset, cases=(dataclasses.replace(first, labels=first.labels[:, ::-1].copy()), *dataset.cases[1:]))
    for data, model, cases, words in (
        (other, AnatomyTwin.of(other, hidden=8), TRAIN, "other settings of the data"),
        (dataset, AnatomyTwin.of(dataset, hidden=8, creep=False), TRAIN, "other parts of the model"),
        (dataset, AnatomyTwin.of(dataset, hidden=8), TRAIN[:-1], "other training cases"),
        (edited, AnatomyTwin.of(dataset, hidden=8), TRAIN, "other labels, days, treatments or images"),
    ):
        with pytest.raises(TrainingError, match=words):
            training.train(model, data, cases, VALID, longer, tmp_path, resume=True)


class Paced(nn.Module):
    """Parameters of no, one and two axes, some of which learn faster."""

    rates = {"fast.": 10.0}

    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.tensor(2.0))
        self.slow, self.fast = nn.Linear(3, 2), nn.Linear(3, 2)


def test_decay_takes_from_matrices_alone():
    model = Paced()
    names = {id(value): name for name, value in model.named_parameters()}
    groups = training._groups(model, 0.1)
    found = {(g["weight_decay"], g["factor"]): sorted(names[id(p)] for p in g["params"]) for g in groups}
    assert found == {
        (0.0, 1.0): ["number", "slow.bias"], (0.1, 1.0): ["slow.weight"], (0.0, 10.0): ["fast.bias"], (0.1, 10.0): ["fast.weight"],
    }
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    torch.optim.AdamW(groups, lr=0.5).step()
    for name, value in model.named_parameters():        # without a gradient decay is all that acts: θ (1 − rate λ_reg)
        assert torch.allclose(value, before[name] * (1 - 0.5 * 0.1 if "weight" in name else 1.0))


def test_a_run_that_had_ended_ends_where_it_was_unless_more_is_asked_for(dataset, tmp_path):
    config = dataclasses.replace(QUICK, steps=60, validations=30, patience=2, rate=1e-9)
    _, ended = trained(dataset, config, tmp_path, model=Copy())
    assert ended.stopped and ended.steps < 20
    _, same_again = trained(dataset, config, tmp_path, resume=True, model=Copy())
    assert (same_again.steps, same_again.stopped) == (ended.steps, ended.stopped)
    _, longer = trained(dataset, dataclasses.replace(config, steps=90), tmp_path, resume=True, model=Copy())
    assert longer.steps > ended.steps + 2


def test_early_stop_time_limit_and_schedule(dataset):
    config = dataclasses.replace(QUICK, steps=60, validations=30, patience=2, rate=1e-9)
    _, outcome = trained(dataset, config, model=Copy())
    assert outcome.stopped == "no gain on validation" and outcome.steps < 20
    _, outcome = trained(dataset, dataclasses.replace(QUICK, steps=10_000, seconds=0.3), model=Copy())
    assert outcome.stopped == "out of time" and outcome.history[-1]["dice"] is not None
    assert outcome.history[-1]["rate"] < 0.2 * max(row["rate"] for row in outcome.history)
    rates = [training.schedule(g, TrainConfig(warm_up=0.1, least=0.05)) for g in np.linspace(0, 1, 101)]
    assert rates[0] < 0.02 and np.argmax(rates) == 10 and rates[-1] == pytest.approx(0.05)


def test_mistakes_are_told_in_a_sentence(dataset, tmp_path):
    with pytest.raises(TrainingError, match="at least one case to train on"):
        training.train(Copy(), dataset, np.array([], int), VALID, QUICK)
    trained(dataset, out=tmp_path, model=Copy())
    with pytest.raises(TrainingError, match="other rate"):
        trained(dataset, dataclasses.replace(QUICK, rate=0.5), tmp_path, resume=True, model=Copy())
    with pytest.raises(TrainingError, match="other model"):
        trained(dataset, out=tmp_path, resume=True, model=AnatomyTwin.of(dataset, hidden=8))
    (tmp_path / "last.safetensors").write_bytes(b"junk")
    with pytest.raises(TrainingError, match="cannot be read as safetensors"):
        trained(dataset, out=tmp_path, resume=True, model=Copy())

    class Broken(Copy):
        def forward(self, batch):
            return super().forward(batch) * float("nan")

    with pytest.raises(TrainingError, match="not finite in step 0; lower the learning rate"):
        trained(dataset, model=Broken())
    with pytest.raises(TrainingError, match="two patients"):
        training.split(dataclasses.replace(dataset, cases=dataset.cases[:1]), 0.2, 0)
    with pytest.raises(TrainingError, match="no CUDA device") if not torch.cuda.is_available() else pytest.MonkeyPatch.context():
        training.device_of("cuda")


def test_two_processes_train_the_same_weights_as_one(tmp_path):
    """`anatomydt train` under torchrun, with gloo; batches of three cases, so that the parts of the processes differ in size."""
    command = ["train", "voronoi", "--cases", "7", "--size", "24", "--steps", "6", "--batch", "3", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "AnatomyDTLib", *command,
         "--out", str(tmp_path / "two")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("wrote best.safetensors") == 1
    assert cli.main([*command, "--out", str(tmp_path / "one")]) == 0
    one, two = (weights.read_tensors(tmp_path / name / "last.safetensors", checkpoints.FORMAT, "checkpoint")[0] for name in ("one", "two"))
    start = AnatomyTwin.of(voronoi(7, VoronoiSettings(shape=(24, 24))), seed=0).state_dict()
    # after all six steps, each of about the learning rate
    moved = [float((one[f"model.{name}"] - value).abs().max()) for name, value in start.items() if name.startswith("growth.") and value.numel()]
    assert max(moved) > 5e-3
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-5) for name in one if name.startswith(("model.", "average.", "best.")))
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["best.safetensors", "curves.png", "last.safetensors", "training.json"]


# ---- the command line


def test_train_writes_a_twin_that_can_be_loaded(tmp_path, capsys):
    folder = tmp_path / "out"
    command = ["train", "voronoi", "--cases", "4", "--steps", "2", "--batch", "2", "--out", str(folder), "--device", "cpu"]
    assert cli.main(command) == 0
    assert "DSC" in capsys.readouterr().out
    record = json.loads((folder / "training.json").read_text())
    assert record["steps"] == 2 and len(record["trained_on"]) == 3 and record["learned"]["alpha_per_gy"] > 0
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    twin = load_twin(folder / "best.safetensors", voronoi(1).anatomy, 2)
    assert isinstance(twin, AnatomyTwin)
    assert cli.main(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0


@pytest.mark.parametrize("arguments, words", [
    (["nothing"], "neither a folder of cases nor one of voronoi"),
    (["voronoi", "--steps", "0"], "at least 1, not 0"),
    (["voronoi", "--rate", "7"], "at most 1, not 7"),
    (["brains"], "--brains FOLDER"),
    (["vessel", "--brains", "x"], "goes with the dataset brains"),
    (["voronoi", "--cases", "1"], "at least 2, not 1"),
    (["voronoi", "--seed", "-1"], "--seed must be 0 or above"),
    (["voronoi", "--size", "1", "2", "3", "4"], "--size takes one number, or one for each axis"),
    (["vessel", "--noise", "-2"], "--noise must be at least 0 mm"),
    (["voronoi", "--spacing", "2"], "--spacing is for a folder of cases"),
])
def test_bad_arguments_are_one_sentence(arguments, words, tmp_path, capsys):
    assert cli.main(["train", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and words in error
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_refused(tmp_path, capsys):
    (tmp_path / "cases").mkdir()
    assert cli.main(["train", str(tmp_path / "cases"), "--out", str(tmp_path / "out")]) == 2
    assert "case.json" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "below"
    assert cli.main(["train", "voronoi", "--cases", "4", "--size", "24", "--steps", "1", "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "below" in error


def test_time_left_is_on_the_screen(tmp_path, capsys, monkeypatch):
    """On a terminal of 80 columns, in one line."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["train", "voronoi", "--cases", "4", "--size", "24", "--steps", "3", "--out", str(tmp_path)]) == 0
    lines = [line for line in re.split(r"\r\x1b\[K", capsys.readouterr().err) if "%" in line]
    assert lines and all(re.search(r"% \d+ (min \d+ )?s left, step \d of 3", line) and len(line) < 80 for line in lines)


def test_a_generated_dataset_may_be_3d_and_noisy(tmp_path):
    command = ["train", "voronoi", "--cases", "4", "--size", "16", "20", "24", "--noise", "0.5", "--steps", "1", "--batch", "2"]
    assert cli.main([*command, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["settings"]["shape"] == [16, 20, 24] and record["settings"]["noise_mm"] == 0.5
