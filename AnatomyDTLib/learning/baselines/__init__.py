"""Baselines: each one call, model(batch) -> (B, V − 1, K, *S), from the inputs that the twin gets."""

from __future__ import annotations

from torch import nn

from .convlstm import ConvLSTM
from .flow import Flow
from .mechanistic import Mechanistic
from .neuralode import NeuralODE
from .persistence import Persistence
from .unet import UNet

LEARNED = {"unet": UNet, "convlstm": ConvLSTM, "neuralode": NeuralODE, "flow": Flow}
NAMES = ("persistence", "fisher-kpp", "cross-diffusion", *LEARNED)


def build(method: str, dataset, **settings) -> nn.Module:
    """A baseline for the classes, axes and images of a dataset; settings: what its class takes by name."""
    if method == "persistence":
        return Persistence(**settings)
    if method in ("fisher-kpp", "cross-diffusion"):
        return Mechanistic(dataset.anatomy, crossing=method == "cross-diffusion", **settings)
    anatomy, images = dataset.anatomy, dataset.cases[0].images
    sizes = len(dataset.spacing_mm), len(anatomy), 0 if images is None else len(images)
    if method == "flow":
        return Flow(*sizes, anatomy.tumors + anatomy.with_role("cavity", "necrosis"), **settings)
    return LEARNED[method](*sizes, **settings)
