"""The verb `train`: a learned twin for a dataset, written to a folder; under torchrun on several processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from . import __version__
from .plan import PlanError

GENERATED = ("voronoi", "vessel", "brains")
DEFAULT_CASES = 100
# Part of the patients that training is stopped by; the others are trained on.
VALIDATION = 0.15


def run(arguments, progress):
    """Trains as the command line asks; returns the lines to print. Raises PlanError, DataError, TrainingError."""
    if not arguments.out:
        raise PlanError("--out is empty; name a folder for the weights")
    _check_numbers(arguments)
    dataset = _dataset(arguments)
    folder = Path(arguments.out)
    if folder.exists() and not folder.is_dir():
        raise PlanError(f"--out {folder} is a file; name a folder for the weights")
    if (folder / "last.safetensors").exists() and not arguments.resume:
        raise PlanError(f"{folder} holds a training already; give --resume to go on with it, or another folder")

    from .learning import training
    from .learning.losses import LossWeights
    from .learning.twin import AnatomyTwin

    without = set(arguments.without or ())
    loss = LossWeights(cl_dice=0.0, overlap=0.0) if "topology" in without else LossWeights()
    defaults = training.TrainConfig()
    config = training.TrainConfig(
        steps=arguments.steps or defaults.steps, batch_size=arguments.batch or defaults.batch_size, rate=arguments.rate or defaults.rate,
        seed=arguments.seed, loss=loss,
    )
    train, validation = training.split(dataset, VALIDATION, arguments.seed)
    device = training.device_of(arguments.device)
    twin = AnatomyTwin.of(dataset, seed=arguments.seed, **{part: False for part in without - {"topology"}})
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    outcome = training.train(
        twin, dataset, train, validation, config, folder, device=device, resume=arguments.resume, progress=progress)
    if not training.is_first():
        return []
    training.draw_curves(outcome, folder / "curves.png")
    record = {
        "anatomydt": __version__, "dataset": dataset.name, "settings": dataset.settings, "cases": len(dataset),
        "trained_on": [dataset.cases[int(i)].name for i in train], "validated_on": [dataset.cases[int(i)].name for i in validation],
        "without": sorted(without), "steps": outcome.steps, "best_step": outcome.best_step, "validation_dice": outcome.best_dice,
        "stopped": outcome.stopped or "all steps done", "cpu_seconds": round(outcome.seconds, 1),
        "seconds": round(time.perf_counter() - begun, 1), "learned": twin.physical(),
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
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
    if arguments.brains is not None and arguments.dataset != "brains":
        raise PlanError("--brains goes with the dataset brains")


def _dataset(arguments):
    name = arguments.dataset
    if os.path.isdir(name):
        from .learning.sources import read_cases

        for option in ("cases", "brains"):
            if getattr(arguments, option) is not None:
                raise PlanError(f"--{option} is for generated cases; the folder {name} has its own")
        return read_cases(name)
    if name not in GENERATED:
        raise PlanError(f"'{name}' is neither a folder of cases nor one of {', '.join(GENERATED)}")
    count = arguments.cases or DEFAULT_CASES
    if name == "brains":
        from .learning.gliomas import GliomaSettings, gliomas

        if arguments.brains is None:
            raise PlanError("the dataset brains needs --brains FOLDER, a folder of label maps of healthy brains")
        return gliomas(arguments.brains, count, GliomaSettings(seed=arguments.seed))
    if name == "voronoi":
        from .learning.voronoi import VoronoiSettings, voronoi

        return voronoi(count, VoronoiSettings(seed=arguments.seed))
    from .learning.vessel import VesselSettings, vessel

    return vessel(count, VesselSettings(seed=arguments.seed))
