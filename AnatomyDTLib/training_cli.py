"""The verb `train`: a learned twin for a dataset, written to a folder; under torchrun on several processes."""

from __future__ import annotations

import json
import time
from pathlib import Path

from . import __version__
from .plan import PlanError

# Part of the patients that training is stopped by; the others are trained on.
VALIDATION = 0.15


def run(arguments, progress, warn):
    """Trains as the command line asks; returns the lines to print. Raises PlanError, DataError, TrainingError.

    warn: called with the sentences that the user should know before the training begins
    """
    if not arguments.out:
        raise PlanError("--out is empty; name a folder for the weights")
    _check_numbers(arguments)
    folder = Path(arguments.out)
    if folder.exists() and not folder.is_dir():
        raise PlanError(f"--out {folder} is a file; name a folder for the weights")

    from .learning import checkpoints, training
    from .learning.batches import side_by_side
    from .learning.losses import LossWeights
    from .learning.sources import source_of
    from .learning.twin import AnatomyTwin

    if checkpoints.exist(folder) and not arguments.resume:
        raise PlanError(f"{folder} holds a training already; give --resume to go on with it, or another folder")
    source = source_of(
        arguments.dataset, seed=arguments.seed, cases=arguments.cases, size=arguments.size, noise_mm=arguments.noise, brains=arguments.brains,
        spacing_mm=arguments.spacing)
    dataset = source.open()
    if training.is_first():
        warn(dataset.settings.get("left_out", []))
    without = set(arguments.without or ())
    loss = LossWeights(cl_dice=0.0, overlap=0.0) if "topology" in without else LossWeights()
    defaults = training.TrainConfig()
    config = training.TrainConfig(
        steps=arguments.steps or defaults.steps, batch_size=arguments.batch or side_by_side(dataset), rate=arguments.rate or defaults.rate,
        seed=arguments.seed, loss=loss,
    )
    train, validation = training.split(dataset, VALIDATION, arguments.seed)
    device = training.device_of(arguments.device)
    twin = AnatomyTwin.of(dataset, seed=arguments.seed, **{part: False for part in without - {"topology"}})
    begun = time.perf_counter()
    outcome = training.train(
        twin, dataset, train, validation, config, folder, device=device, resume=arguments.resume, progress=progress)
    if not training.is_first():
        return []
    record = {
        "anatomydt": __version__, "dataset": dataset.name, "settings": dataset.settings, "cases": len(dataset),
        "trained_on": [dataset.cases[int(i)].name for i in train], "validated_on": [dataset.cases[int(i)].name for i in validation],
        "without": sorted(without), "steps": outcome.steps, "best_step": outcome.best_step, "validation_dice": outcome.best_dice,
        "stopped": outcome.stopped or "all steps done", "cpu_seconds": round(outcome.seconds, 1),
        "seconds": round(time.perf_counter() - begun, 1), "learned": twin.physical(),
    }
    try:
        training.draw_curves(outcome, folder / "curves.png")
        (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise training.TrainingError(
            f"curves.png or training.json could not be written: {error.strerror or error}; the weights are kept in {folder}") from None
    return [
        f"trained on {len(train)} cases, validated on {len(validation)}: DSC {100 * outcome.best_dice:.2f} % after step {outcome.best_step} "
        f"({record['stopped']}, {outcome.seconds:.0f} s of CPU time)",
        f"wrote best.safetensors (the twin), last.safetensors (for --resume), curves.png and training.json to {folder}",
    ]


def _check_numbers(arguments) -> None:
    for name, low in (("cases", 2), ("steps", 1), ("batch", 1)):
        value = getattr(arguments, name)
        if value is not None and value < low:
            raise PlanError(f"--{name} must be a whole number of at least {low}, not {value}")
    if arguments.rate is not None and not 0 < arguments.rate <= 1:
        raise PlanError(f"--rate must be above 0 and at most 1, not {arguments.rate:g}")
