"""Training of any model that maps a batch to its later visits: the twin's and every baseline's.

One process, or several under `torchrun` (each takes its part of every batch). Every step draws its cases and its
randomness from (seed, step) alone, so that a run that was killed and resumed ends with the same weights.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from . import checkpoints
from .batches import Batch, collate
from .cases import Dataset
from .losses import LossWeights, forecast_loss
from .weights import TrainingError, made_folder


@dataclass(frozen=True)
class TrainConfig:
    """steps: of the optimiser; batch_size: cases per step, over all processes together

    rate: peak learning rate; warm_up: fraction of the steps in which it rises, after which it falls as a cosine to
    `least` of the peak; decay: λ_reg, decoupled; clip: largest norm of the gradient; average: decay of the moving average
    of the weights that is validated and kept, per step
    validations: how often the validation cases are scored, by steps and by the clock; patience: of them in a row without
    a gain before the run ends
    turn: mirror and turn the cases at random; longest_step_days: of the grid; mixed: half precision on CUDA
    seconds: of CPU time, after which the run ends; the schedule then follows the clock where that is ahead of the steps
    """

    steps: int = 400
    batch_size: int = 8
    rate: float = 3e-3
    warm_up: float = 0.05
    least: float = 0.01
    decay: float = 1e-4
    clip: float = 1.0
    average: float = 0.98
    validations: int = 20
    patience: int = 8
    turn: bool = True
    longest_step_days: float = 15.0
    mixed: bool = True
    seconds: float | None = None
    seed: int = 0
    loss: LossWeights = field(default_factory=LossWeights)


@dataclass
class Outcome:
    """What a training leaves: history rows (step, loss, rate, validation DSC or None), the best of them, the time."""

    history: list[dict] = field(default_factory=list)
    best_dice: float = -1.0
    best_step: int = 0
    steps: int = 0
    seconds: float = 0.0
    stopped: str = ""


def train(
    model: nn.Module,
    dataset: Dataset,
    train: np.ndarray,
    validation: np.ndarray,
    config: TrainConfig = TrainConfig(),
    out=None,
    *,
    device: str = "cpu",
    resume: bool = False,
    progress: Callable[[float, str], None] | None = None,
) -> Outcome:
    """Fits `model` to the cases `train` of the dataset and leaves it with the weights that were best on `validation`.

    model: batch -> (B, V − 1, K, *S) probabilities; a model with `growth_variation()` pays λ_tv times it; one with
        `prepare()` is told the cases before the first step, in the same time
    out: folder for `last.safetensors`, which `resume` goes on from, and `best.safetensors` (`checkpoints`); None: nothing is
        written
    Raises TrainingError with one sentence: nothing to train on, a folder that cannot be made, a checkpoint of another run, a
    full disk, numbers that are not finite.
    """
    rank, world = _placed(device)
    if len(train) == 0 or len(validation) == 0:
        raise TrainingError(f"training needs at least one case to train on and one to validate, not {len(train)} and {len(validation)}")
    folder = None if out is None else made_folder(Path(out))
    torch.manual_seed(config.seed)
    resumed = bool(_of_first(float(resume and folder is not None and checkpoints.exist(folder)), world, device))
    began, begun = time.process_time(), time.monotonic()
    if hasattr(model, "prepare") and not resumed:
        model.prepare(dataset, train, config.longest_step_days)
    model = model.to(device)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    best = {k: v.clone() for k, v in average.items()}
    optimiser = torch.optim.AdamW(_groups(model, config.decay), lr=config.rate, betas=(0.9, 0.98))
    outcome, bad = Outcome(), 0
    identity = checkpoints.identity(model, dataset, train, validation) if folder is not None else {}
    if resumed:
        former, bad = checkpoints.restore(folder, model, optimiser, average, best, config, identity)
        outcome = Outcome(**former)
    fitted = DistributedDataParallel(model, device_ids=[device] if "cuda" in device else None, find_unused_parameters=True) if world > 1 else model
    every = max(1, config.steps // config.validations)
    spent, at_start = outcome.seconds, outcome.steps / config.steps
    while outcome.steps < config.steps and not outcome.stopped:
        step = outcome.steps
        gone = max(step / config.steps, outcome.seconds / config.seconds if config.seconds else 0.0)
        for group in optimiser.param_groups:
            group["lr"] = config.rate * group["factor"] * schedule(gone, config)
        batch, weight = _drawn(dataset, train, config, step, rank, world, device)
        torch.manual_seed(config.seed * 1_000_003 + step)
        model.train()
        with torch.autocast("cuda", torch.bfloat16) if config.mixed and "cuda" in device else nullcontext():
            predicted = fitted(batch)
        loss = forecast_loss(predicted.float(), batch, config.loss, dataset.tree_classes)
        if config.loss.tv > 0 and hasattr(model, "growth_variation"):
            loss = loss + config.loss.tv * model.growth_variation()
        loss = weight * loss
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        if not math.isfinite(float(norm)):
            raise TrainingError(f"the gradient is not finite in step {step}; lower the learning rate (now {config.rate:g})")
        optimiser.step()
        # the moving average starts as the plain mean of the first steps
        kept = min(config.average, (step + 1) / (step + 10))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - kept)
            else:
                average[name].copy_(value)
        outcome.steps, before = step + 1, outcome.seconds
        outcome.seconds = _of_first(spent + time.process_time() - began, world, device)
        row = {"step": step + 1, "loss": float(loss.detach()), "rate": optimiser.param_groups[0]["lr"], "dice": None}
        over = config.seconds is not None and outcome.seconds >= config.seconds
        part = config.seconds / config.validations if config.seconds else math.inf
        if outcome.steps % every == 0 or outcome.steps == config.steps or over or outcome.seconds // part > before // part:
            row["dice"] = _of_first(_validated(model, average, dataset, validation, config, device), world, device)
            bad = 0 if row["dice"] > outcome.best_dice else bad + 1
            if row["dice"] > outcome.best_dice:
                outcome.best_dice, outcome.best_step = row["dice"], outcome.steps
                best = {k: v.clone() for k, v in average.items()}
            outcome.stopped = "no gain on validation" if bad >= config.patience else "out of time" if over else ""
        outcome.history.append(row)
        if row["dice"] is not None and folder is not None:
            _saved(rank, world, device, lambda: checkpoints.save(
                folder, model, optimiser, average, best, config, outcome, bad, identity, _header(model, best, outcome)))
        if progress is not None and rank == 0:
            done = 1.0 if outcome.stopped else max(outcome.steps / config.steps, gone)
            left = (time.monotonic() - begun) * (1 - done) / max(done - at_start, 1e-6)
            progress(done, f"{_clock(left)} left, step {outcome.steps} of {config.steps}, best DSC {max(outcome.best_dice, 0):.3f}, loss {row['loss']:.4f}")
    model.load_state_dict(best)
    model.eval()
    return outcome


def device_of(asked: str) -> str:
    """"cpu" or this process's GPU: asked is "auto", "cpu" or "cuda". Raises TrainingError where there is no GPU."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise TrainingError("no CUDA device was found; leave --device at auto or cpu")
    if asked == "cpu" or not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return f"cuda:{torch.cuda.current_device()}"


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def split(dataset: Dataset, part: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) indices: of the patients that part, at least one, is for validation."""
    patients = list(dataset.patients)
    if len(patients) < 2:
        raise TrainingError(f"training needs at least two patients, one of them to validate on; '{dataset.name}' has {len(patients)}")
    order = np.random.default_rng(seed).permutation(len(patients))
    held = {patients[i] for i in order[: max(1, round(part * len(patients)))]}
    chosen = np.array([case.patient in held for case in dataset.cases])
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def schedule(gone: float, config: TrainConfig) -> float:
    """Factor of the learning rate after the part `gone` of a run: linear warm-up, then a cosine down to `least`."""
    if gone < config.warm_up:
        return (gone + 1e-3) / config.warm_up
    part = min(1.0, (gone - config.warm_up) / max(1e-9, 1 - config.warm_up))
    return config.least + (1 - config.least) * 0.5 * (1 + math.cos(math.pi * part))


def predict(model: nn.Module, dataset: Dataset, indices, *, device: str = "cpu", batch_size: int = 8, longest_step_days: float = 15.0):
    """[(case index, labels (V − 1, *S) uint8 of its later visits)] of a trained model, in the order given."""
    found = []
    model.eval()
    for at in range(0, len(indices), batch_size):
        chosen = [int(i) for i in indices[at : at + batch_size]]
        with torch.no_grad():
            labels = model(collate(dataset, chosen, device, longest_step_days)).argmax(2).to(torch.uint8).cpu().numpy()
        found += [(i, labels[row, : len(dataset.cases[i].days) - 1]) for row, i in enumerate(chosen)]
    return found


def turned(batch: Batch, rng: np.random.Generator) -> Batch:
    """Mirrored and with axes exchanged at random, where the voxels are as long on both axes and there are as many."""
    sizes = list(zip(batch.states.shape[3:], batch.spacing_mm))
    order = list(range(len(sizes)))
    swap = rng.permutation(len(sizes))
    if all(sizes[a] == sizes[b] for a, b in zip(order, swap)):
        order = [int(a) for a in swap]
    return batch.turned([bool(f) for f in rng.integers(0, 2, len(sizes))], order)


def draw_curves(outcome: Outcome, path) -> None:
    """Loss and validation DSC over the steps, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, left = plt.subplots(figsize=(6, 3.5), layout="constrained")
    steps = [row["step"] for row in outcome.history]
    left.plot(steps, [row["loss"] for row in outcome.history], color="0.6", linewidth=0.8)
    left.set_xlabel("step")
    left.set_ylabel("training loss", color="0.4")
    right = left.twinx()
    seen = [row for row in outcome.history if row["dice"] is not None]
    right.plot([row["step"] for row in seen], [100 * row["dice"] for row in seen], "o-", color="tab:blue", markersize=3)
    right.set_ylabel("validation DSC, %", color="tab:blue")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def mean_dice(predicted: torch.Tensor, batch: Batch) -> list[float]:
    """Per case, the mean DSC over its later visits and the classes on either side, the role background left out."""
    chosen = [k for k, tissue in enumerate(batch.anatomy.tissues) if tissue.role != "background"]
    ours = nn.functional.one_hot(predicted.argmax(2), predicted.shape[2]).movedim(-1, 2)[:, :, chosen].flatten(3).bool()
    seen = batch.states[:, 1:, chosen].flatten(3).bool()
    both, sizes = (ours & seen).sum(-1).double(), (ours.sum(-1) + seen.sum(-1)).double()
    counted = (sizes > 0) & batch.present[:, 1:, None]
    dice = torch.where(counted, 2 * both / sizes.clamp(min=1), torch.zeros_like(both))
    return (dice.sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)).tolist()


# ---- parts of a step


def _placed(device: str) -> tuple[int, int]:
    """(rank, processes) from the environment that torchrun sets; joins them at the first call."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if "cuda" in device else "gloo")
    return (distributed.get_rank(), world) if world > 1 else (0, 1)


def _of_first(number: float, world: int, device: str) -> float:
    """The first process's number: its clock and its scores end all of them in the same step."""
    if world == 1:
        return number
    shared = torch.tensor([number], dtype=torch.float64, device=device)
    distributed.broadcast(shared, 0)
    return float(shared)


def _header(model, best, outcome: Outcome) -> dict | None:
    """The header of a best that is new, else None."""
    if outcome.best_step != outcome.steps:
        return None
    with _loaded(model, best):
        return getattr(model, "metadata", dict)()


def _saved(rank: int, world: int, device: str, write: Callable[[], None]) -> None:
    """Writes in the first process; where that fails, every process says so, and none waits for another."""
    failed = None
    if rank == 0:
        try:
            write()
        except TrainingError as error:
            failed = error
    if _of_first(float(failed is not None), world, device):
        raise failed or TrainingError("the first process could not write the checkpoint")


def _drawn(dataset, train, config, step, rank, world, device) -> tuple[Batch, float]:
    """This process's part of the cases of a step, and its weight: visits here times processes over visits in all."""
    size = min(config.batch_size, len(train))
    per_epoch = max(1, len(train) // size)
    order = np.random.default_rng((config.seed, 1, step // per_epoch)).permutation(train)
    chosen = order[(step % per_epoch) * size :][:size]
    counts = [sum(len(dataset.cases[int(i)].days) - 1 for i in chosen[r::world]) for r in range(world)]
    batch = collate(dataset, chosen, device, config.longest_step_days)
    if world > 1:
        # steps are those of the whole batch, so that every number of processes solves the same
        batch = batch.rows(range(size)[rank::world] or [0])
    if config.turn:
        batch = turned(batch, np.random.default_rng((config.seed, 2, step)))
    return batch, counts[rank] * world / sum(counts)


def _groups(model, decay) -> list[dict]:
    """Parameter groups: no decay on what has fewer than two axes; `model.rates` may speed up parameters by name."""
    factors = getattr(model, "rates", {})
    groups: dict[tuple[float, float], list] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            factor = next((f for start, f in factors.items() if name.startswith(start)), 1.0)
            groups.setdefault((decay if value.dim() > 1 else 0.0, factor), []).append(value)
    return [{"params": values, "weight_decay": d, "factor": f} for (d, f), values in groups.items()]


def _validated(model, weights, dataset, validation, config, device) -> float:
    """Mean DSC of the validation cases under these weights."""
    model.eval()
    scores = []
    with torch.no_grad(), _loaded(model, weights):
        for at in range(0, len(validation), config.batch_size):
            batch = collate(dataset, validation[at : at + config.batch_size], device, config.longest_step_days)
            scores += mean_dice(model(batch), batch)
    return float(np.mean(scores))


@contextmanager
def _loaded(model, weights):
    """The model with these weights for a while."""
    former = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(former)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
