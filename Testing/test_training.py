"""Training: deterministic, resumable, the same on two processes, safe when the disk is full; the verb `train`."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from AnatomyDTLib import cli
from AnatomyDTLib.learning import batches, training, weights
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
        expected = torch.from_numpy(scaled(image[channel]))
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
    with pytest.raises(TrainingError, match="other settings"):
        trained(dataset, dataclasses.replace(QUICK, rate=0.5), tmp_path, resume=True, model=Copy())
    with pytest.raises(TrainingError, match="another model"):
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


DISTRIBUTED = """
import sys, torch
from AnatomyDTLib.learning import training
from AnatomyDTLib.learning.losses import LossWeights, forecast_loss
from AnatomyDTLib.learning.twin import AnatomyTwin
from AnatomyDTLib.learning.voronoi import VoronoiSettings, voronoi
torch.set_num_threads(1)
dataset = voronoi(7, VoronoiSettings(shape=(24, 24)))
config = training.TrainConfig(steps=6, batch_size=3, validations=3, loss=LossWeights(cl_dice=0.0))
twin = AnatomyTwin.of(dataset, hidden=8)
training.train(twin, dataset, range(5), [5, 6], config, sys.argv[1])
"""


def test_two_processes_train_the_same_weights_as_one(dataset, tmp_path):
    """gloo under torchrun; batches of three cases, so that the parts of the processes differ in size."""
    script = tmp_path / "run.py"
    script.write_text(DISTRIBUTED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path / "two")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, _ = trained(dataset)
    two = AnatomyTwin.of(dataset, hidden=8)
    tensors, meta = weights.read_tensors(tmp_path / "two" / "last.safetensors", training.FORMAT, "training checkpoint")
    two.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("best.")})
    assert same(one, two, 1e-5)


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
