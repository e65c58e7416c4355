"""What a training keeps on disk: `last.safetensors`, to go on from, and `best.safetensors`, the weights that it is for.

Each is written beside its former self and put in its place when it is whole. The best is written first: a run that ends
between the two is resumed from the former `last`, comes by the same best again and writes it again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from .cases import Dataset
from .weights import TrainingError, read_tensors, write_tensors

FORMAT = "anatomydt-training-2"
LAST, BEST = "last.safetensors", "best.safetensors"
# Of `TrainConfig`, what a run may be gone on with in another way.
_FREE = ("steps", "seconds", "patience", "validations")


def exist(folder: Path) -> bool:
    """Whether there is a training in the folder to go on with."""
    return (folder / LAST).exists()


def identity(model, dataset: Dataset, train: np.ndarray, validation: np.ndarray) -> dict:
    """What makes a run this one, beside its settings: the model and its parts, the data, who is trained on."""
    header = getattr(model, "metadata", dict)()
    return {
        "model": getattr(model, "name", type(model).__name__), "made_of": {k: header[k] for k in ("format", "twin", "roles") if k in header},
        "dataset": dataset.name, "settings": json.loads(json.dumps(dataset.settings)),
        "train": [dataset.cases[int(i)].name for i in train], "validation": [dataset.cases[int(i)].name for i in validation],
        "content": _digest(dataset),
    }


def _digest(dataset: Dataset) -> str:
    """Of everything that is learned from, so that edited files under the same names are other data."""
    found = hashlib.sha256(repr((dataset.anatomy.names, dataset.spacing_mm, dataset.tree_classes)).encode())
    for case in dataset.cases:
        found.update(repr((case.name, case.days, case.labels.shape, case.treatments)).encode())
        found.update(np.ascontiguousarray(case.labels))
        if case.images is not None:
            found.update(np.ascontiguousarray(case.images))
    return found.hexdigest()


def save(folder: Path, model, optimiser, average, best, config, outcome, bad: int, identity: dict, header: dict | None) -> None:
    """Writes a checkpoint; raises TrainingError when the disk is full.

    average, best: weights by name, as `model.state_dict()`; bad: validations in a row without a gain; identity: `identity`;
    header: of the best weights where they are new, else None
    """
    provenance = {"anatomydt": __version__, "torch": torch.__version__, **identity}
    meta = {"config": json.dumps(asdict(config)), "provenance": json.dumps(provenance)}
    if header is not None:
        kept = {"step": outcome.best_step, "validation_dice": outcome.best_dice}
        write_tensors(folder / BEST, best, {"format": FORMAT, **meta, "outcome": json.dumps(kept), **header})
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()} | {f"best.{k}": v for k, v in best.items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
    write_tensors(folder / LAST, tensors, {"format": FORMAT, **meta, "outcome": json.dumps(asdict(outcome)), "bad": str(bad)})


def restore(folder: Path, model, optimiser, average, best, config, identity: dict) -> tuple[dict, int]:
    """Puts a checkpoint into its arguments: (the values of its outcome, its validations in a row without a gain).

    More steps, another limit of time or another patience continue a run, also one that had ended. Raises TrainingError for a
    checkpoint of other settings, data or parts of the model, which would be another run under its name.
    """
    tensors, meta = read_tensors(folder / LAST, FORMAT, "training checkpoint")
    former, now = json.loads(meta["config"]), json.loads(json.dumps(asdict(config)))
    other = [name for name in now if name not in _FREE and former.get(name) != now[name]]
    provenance = json.loads(meta["provenance"])
    other += [name for name, value in identity.items() if provenance.get(name) != value]
    if other:
        words = {
            "made_of": "parts of the model", "train": "training cases", "validation": "validation cases",
            "settings": "settings of the data", "content": "labels, days, treatments or images",
        }
        raise TrainingError(f"the checkpoint in {folder} was made with other {words.get(other[0], other[0])}; use the same or another folder")
    parts = {name: {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")} for name in ("model", "average", "best", "optimiser")}
    try:
        model.load_state_dict(parts["model"])
    except RuntimeError:
        raise TrainingError(f"the checkpoint in {folder} belongs to another model; use another folder") from None
    for own, name in ((average, "average"), (best, "best")):
        for key, value in own.items():
            value.copy_(parts[name][key])
    states: dict[int, dict] = {}
    for key, value in parts["optimiser"].items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    outcome, bad = json.loads(meta["outcome"]), int(meta["bad"])
    if any(former[name] != now[name] for name in _FREE):
        outcome["stopped"], bad = "", 0
    return outcome, bad
