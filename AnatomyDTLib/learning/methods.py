"""The rows of the benchmark: how each is built, and the settings that are tried for each, the same number for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from torch import nn

from . import baselines
from .cases import Dataset
from .losses import LossWeights
from .training import TrainConfig
from .twin import AnatomyTwin

TRIALS = 4


@dataclass(frozen=True)
class Method:
    """name: of the row; build: (dataset, seed, settings) -> model

    trials: what is tried on the tuning data, first what won before (in a study of one trial it is all there is); names of
        `training.TrainConfig` go to the training, all others to the model. Empty where there is nothing to train
    part_of: the method whose settings it takes over instead of trying its own: an ablation; training: what it trains with
    """

    name: str
    build: Callable[..., nn.Module]
    trials: tuple[dict, ...] = ()
    part_of: str | None = None
    training: dict = field(default_factory=dict)


def _baseline(key: str) -> Callable[..., nn.Module]:
    def build(dataset, seed, **settings):
        torch.manual_seed(seed)
        return baselines.build(key, dataset, **settings)

    return build


def _without(**fixed) -> Callable[..., nn.Module]:
    """The twin with some of its parts left out."""
    return lambda dataset, seed, **settings: AnatomyTwin.of(dataset, seed, **{**settings, **fixed})


TWIN, TWIN_NAME = "twin", "AnatomyDT"
_SPATIAL = {"diffusion": False, "cross_diffusion": False, "growth_law": False}
_NO_TOPOLOGY = {"loss": {"cl_dice": 0.0, "overlap": 0.0}}

METHODS = {
    "persistence": Method("Persistence", _baseline("persistence")),
    "fisher-kpp": Method("Fisher-KPP", _baseline("fisher-kpp"), ({}, {"batch_size": 4}, {"rate": 1e-2}, {"longest_step_days": 7.5})),
    "cross-diffusion": Method("Cross-diffusion", _baseline("cross-diffusion"), ({}, {"batch_size": 4}, {"rate": 1e-2}, {"longest_step_days": 7.5})),
    "unet": Method("UNet", _baseline("unet"), ({"batch_size": 4}, {}, {"width": 12, "decay": 1e-2}, {"levels": 4, "decay": 1e-2})),
    "convlstm": Method("ConvLSTM", _baseline("convlstm"), ({"batch_size": 4}, {}, {"width": 12, "decay": 1e-2}, {"kernel": 5, "decay": 1e-2})),
    "neuralode": Method("NeuralODE", _baseline("neuralode"), ({"batch_size": 4}, {}, {"width": 12, "decay": 1e-2}, {"parts": 4, "decay": 1e-2})),
    "flow": Method("Flow", _baseline("flow"), ({"batch_size": 4}, {}, {"width": 12, "decay": 1e-2}, {"smooth": 12, "decay": 1e-2})),
    TWIN: Method(TWIN_NAME, _without(), ({"batch_size": 4}, {"batch_size": 4, "longest_step_days": 30.0}, {"batch_size": 4, "rate": 6e-3}, {})),
    # Table 2 of the paper: spatial terms, growth network and topology loss, each left out
    "network-only": Method(f"{TWIN_NAME}: growth network only", _without(**_SPATIAL), part_of=TWIN, training=_NO_TOPOLOGY),
    "spatial-only": Method(f"{TWIN_NAME}: spatial terms only", _without(network=False), part_of=TWIN, training=_NO_TOPOLOGY),
    "spatial-topology": Method(f"{TWIN_NAME}: no growth network", _without(network=False), part_of=TWIN),
    "no-topology": Method(f"{TWIN_NAME}: no topology loss", _without(), part_of=TWIN, training=_NO_TOPOLOGY),
    "no-treatment": Method(f"{TWIN_NAME}: no treatment input", _without(treatment=False), part_of=TWIN),
    "no-cross-diffusion": Method(f"{TWIN_NAME}: no cross-diffusion", _without(cross_diffusion=False), part_of=TWIN),
    "no-creep": Method(f"{TWIN_NAME}: no creep of other tissue", _without(creep=False), part_of=TWIN),
}
ABLATIONS = tuple(key for key, method in METHODS.items() if key == TWIN or method.part_of is not None)

_CONFIG = {f.name for f in fields(TrainConfig)}


def build(key: str, dataset: Dataset, settings: dict, training: dict) -> tuple[nn.Module, TrainConfig]:
    """(model, training configuration) of a method; settings as in `Method.trials`."""
    method = METHODS[key]
    own = {k: v for k, v in settings.items() if k not in _CONFIG}
    chosen = {**training, **{k: v for k, v in settings.items() if k in _CONFIG}, **method.training}
    if "loss" in chosen:
        chosen["loss"] = LossWeights(**chosen["loss"])
    config = TrainConfig(**chosen)
    return method.build(dataset, config.seed, **own), config
