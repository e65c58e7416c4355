"""The rows of the benchmark: how each is built, and the settings that are tried for each, the same number for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import nn

from . import baselines
from .cases import Dataset
from .training import TrainConfig

TRIALS = 4


@dataclass(frozen=True)
class Method:
    """name: of the row; build: (dataset, settings) -> model

    trials: what is tried on the tuning data, the defaults first; names of `training.TrainConfig` go to the training, all
        others to the model. Empty where there is nothing to train
    part_of: the method whose settings it takes over instead of trying its own: an ablation
    """

    name: str
    build: Callable[..., nn.Module]
    trials: tuple[dict, ...] = ()
    part_of: str | None = None


def _baseline(key: str) -> Callable[..., nn.Module]:
    return lambda dataset, **settings: baselines.build(key, dataset, **settings)


METHODS = {
    "persistence": Method("Persistence", _baseline("persistence")),
    "unet": Method("UNet", _baseline("unet"), ({}, {"rate": 1e-3}, {"width": 12, "decay": 1e-2}, {"levels": 4, "decay": 1e-2})),
    "convlstm": Method("ConvLSTM", _baseline("convlstm"), ({}, {"rate": 1e-3}, {"width": 12, "decay": 1e-2}, {"kernel": 5, "decay": 1e-2})),
    "neuralode": Method("NeuralODE", _baseline("neuralode"), ({}, {"rate": 1e-3}, {"width": 12, "decay": 1e-2}, {"parts": 4, "decay": 1e-2})),
    "flow": Method("Flow", _baseline("flow"), ({}, {"rate": 1e-3}, {"width": 12, "decay": 1e-2}, {"levels": 4, "decay": 1e-2})),
}
TWIN, TWIN_NAME = "twin", "AnatomyDT"
BASELINES = tuple(key for key, method in METHODS.items() if key != TWIN and method.part_of is None)
ABLATIONS = tuple(key for key, method in METHODS.items() if key == TWIN or method.part_of is not None)

_CONFIG = {f.name for f in fields(TrainConfig)}


def build(key: str, dataset: Dataset, settings: dict, training: dict) -> tuple[nn.Module, TrainConfig]:
    """(model, training configuration) of a method; settings as in `Method.trials`."""
    own = {k: v for k, v in settings.items() if k not in _CONFIG}
    config = TrainConfig(**{**training, **{k: v for k, v in settings.items() if k in _CONFIG}})
    return METHODS[key].build(dataset, **own), config
