"""The growth network: learned residual rates on top of the mechanistic reaction (paper, section 2.3)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional

from .smoothing import blur
from .weights import read_tensors, write_tensors

FORMAT = "anatomydt-growth-2"
# Radiation given, radiation rate, drug given, drug rate: see `exposure`.
EXPOSURES = 4
# In what units they come near 1.
GRAY, GRAY_PER_DAY, KILL, KILL_PER_DAY = 60.0, 2.0, 1.0, 0.1


@dataclass(frozen=True)
class GrowthConfig:
    """classes: tissue names in the order of the state; axes: 2 or 3; images: number of image channels

    exposures: treatment channels; context, numbers: further channels and further numbers per case that the caller has;
    extra: further outputs, unbounded; width: channels of the hidden layers
    blurs_mm: how far it sees: its inputs are the state, and the state blurred so wide
    limit_per_day: k_max, the largest rate, 1/day
    """

    classes: tuple[str, ...]
    axes: int = 3
    images: int = 0
    exposures: int = EXPOSURES
    context: int = 0
    numbers: int = 0
    extra: int = 0
    width: int = 32
    blurs_mm: tuple[float, ...] = (2.0, 6.0)
    limit_per_day: float = 0.2


class Pointwise(nn.Linear):
    """A convolution of one voxel, as a matrix product: several times faster on a CPU than the same convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, *S) -> (B, O, *S)"""
        weight = self.weight.expand(len(x), -1, -1)
        return torch.baddbmm(self.bias[:, None], weight, x.flatten(2)).unflatten(2, x.shape[2:])


class GrowthNetwork(nn.Module):
    """r_k = p_k g_k with |g_k| ≤ k_max and Σ_k p_k g_k = 0; acts on the reaction term, evaluated at t_n.

    g = a − Σ_j p_j a_j with a = (k_max / 2) tanh(net(p, blurred p, images, context; exposure)). Every voxel is mapped
    alike, from what the blurs bring to it from afar: translation equivariant, any size, few weights. Zero at
    initialisation: an untrained twin is the mechanistic model.
    """

    def __init__(self, config: GrowthConfig):
        super().__init__()
        self.config = config
        inputs = len(config.classes) * (1 + len(config.blurs_mm)) + config.images + config.context
        self.inputs = Pointwise(inputs, config.width)
        self.given = nn.Linear(config.exposures + config.numbers, config.width, bias=False)
        self.hidden = Pointwise(config.width, config.width)
        self.outputs = Pointwise(config.width, len(config.classes) + config.extra)
        nn.init.zeros_(self.outputs.weight)
        nn.init.zeros_(self.outputs.bias)

    def forward(self, p, exposure, images=None, *, spacing_mm=None, context=None, numbers=None) -> torch.Tensor:
        """Rates g (B, K, *S), 1/day; with `extra` outputs (rates, extra (B, extra, *S)).

        p: (B, K, *S); exposure: (B, E); images: (B, I, *S), `cases.scaled`; spacing_mm: None for voxels of 1 mm
        context: (B, context, *S); numbers: (B, numbers)
        """
        config = self.config
        spacing_mm = spacing_mm or (1.0,) * config.axes
        channels = [p, *(blur(p, width, spacing_mm) for width in config.blurs_mm)]
        channels += [c for c in (images, context) if c is not None]
        given = exposure if numbers is None else torch.cat((exposure, numbers), 1)
        x = self.inputs(torch.cat(channels, 1)) + self.given(given).reshape(len(p), -1, *[1] * config.axes)
        out = self.outputs(functional.silu(self.hidden(functional.silu(x)))).to(p.dtype)
        K = len(config.classes)
        raw = 0.5 * config.limit_per_day * torch.tanh(out[:, :K])
        rates = raw - (p * raw).sum(1, keepdim=True)
        return (rates, out[:, K:]) if config.extra else rates


def save_growth(network: GrowthNetwork, path) -> None:
    """Writes weights and configuration as safetensors."""
    write_tensors(path, network.state_dict(), {"format": FORMAT, "config": json.dumps(asdict(network.config))})


def config_from(values: dict) -> GrowthConfig:
    """A configuration from JSON."""
    return GrowthConfig(**{**values, "classes": tuple(values["classes"]), "blurs_mm": tuple(values["blurs_mm"])})


def check_trained_for(names, axes_trained: int, classes, axes: int) -> None:
    """Raises ValueError when weights for these classes and axes are asked to serve others."""
    if tuple(names) != tuple(classes):
        raise ValueError(f"the weights were trained for the tissues {', '.join(names)}, not for {', '.join(classes)}")
    if axes_trained != axes:
        raise ValueError(f"the weights were trained for {axes_trained}D images, not for {axes}D")


def load_growth(path, classes: tuple[str, ...], axes: int) -> GrowthNetwork:
    """Reads weights that were trained for these classes and this number of axes.

    Raises ValueError with one sentence when the file is missing, is no such file, or was trained for something else.
    """
    state, meta = read_tensors(path, FORMAT, "growth network")
    try:
        network = GrowthNetwork(config_from(json.loads(meta["config"])))
        network.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise ValueError(f"the weights file {path} is damaged: its configuration and its weights do not agree") from None
    check_trained_for(network.config.classes, network.config.axes, classes, axes)
    return network.eval()


def exposures(given_gy, step_gy, given_kill, step_kill, dt) -> torch.Tensor:
    """The four numbers of B cases, (B, 4), as the network was trained with them; all (B,).

    given_gy, given_kill: radiation and the drugs' kill exponent up to the end of the step; step_gy, step_kill: of the step
    """
    days = dt.clamp(min=1.0)
    return torch.stack((given_gy / GRAY, step_gy / days / GRAY_PER_DAY, given_kill / KILL, step_kill / days / KILL_PER_DAY), -1)


def exposure(course, start: float, dt: float) -> torch.Tensor:
    """What the network sees of a treatment in the step from `start`: (1, 4), by the rule of `exposures`.

    course: a `physics.stepping.Course`. A fraction counts to the step that ends on its day, one on day 0 to the first; a
    dose map counts with its largest value; a drug with its largest sensitivity.
    """
    end = start + dt
    fractions = [(day, float(torch.as_tensor(e.dose_gy).max())) for day, e in course.events if hasattr(e, "dose_gy")]
    within = sum(gy for day, gy in fractions if start < day <= end or (day <= 0 and start <= 0))
    given = sum(gy for day, gy in fractions if day <= end)
    before, after = _killed_until(course, start), _killed_until(course, end)
    return exposures(*(torch.tensor([float(v)]) for v in (given, within, after, after - before, dt)))


def _killed_until(course, day: float) -> float:
    """The drugs' kill exponent from day 0 on, dose by dose."""
    total = 0.0
    for drug in course.drugs:
        rate = math.log(2.0) / float(drug.half_life)
        for when, dose in zip(drug.days, drug.doses.tolist()):
            total -= float(drug.sensitivity.max()) * dose * math.expm1(-rate * max(day - when, 0.0)) / rate
    return total
