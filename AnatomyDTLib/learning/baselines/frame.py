"""What every learned baseline shares: its inputs, a start that is persistence, a conditioned head, a pyramid.

All get what the twin gets: the state of the first visit, the images, the days and the treatment between. All predict a
correction of the first state's logits whose last layer starts at zero, so that an untrained baseline is persistence.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..batches import DAY_UNIT, GRAY_UNIT, TOTALS

# Parts of the smoothed state: what was seen, its blur, and equal chances. The first outweighs the second, so that the
# most probable class of a hard state stays the most probable one, at structures of one voxel too.
SEEN, BLURRED, EQUAL = 0.55, 0.40, 0.05
_NARROW = (0.25, 0.5, 0.25)
# Distances to the borders enter as tanh(d / this), voxels.
NEAR_VOXELS = 8.0
# Numbers per stretch of time, stretches that a one-shot model is told of, numbers that it sees in all.
GIVEN = TOTALS
PARTS = 3
CONDITIONS = 1 + (GIVEN - 1) * PARTS


def convolution(axes: int):
    """nn.Conv2d or nn.Conv3d."""
    return (nn.Conv2d, nn.Conv3d)[axes - 2]


def blurred(p: torch.Tensor) -> torch.Tensor:
    """p (B, K, *S) twice smoothed with (1, 2, 1)/4 along every axis, the edge repeated."""
    weights = torch.tensor(_NARROW, dtype=p.dtype, device=p.device)
    for _ in range(2):
        for axis in range(2, p.dim()):
            last = p.shape[axis] - 1
            index = torch.arange(-1, last + 2, device=p.device).clamp(0, last)
            padded = p.index_select(axis, index)
            parts = [padded.narrow(axis, i, last + 1) * weights[i] for i in range(3)]
            p = parts[0] + parts[1] + parts[2]
    return p


def logits(p: torch.Tensor) -> torch.Tensor:
    """log of the smoothed state: finite, and graded near every interface, so that a small correction moves it."""
    return torch.log(SEEN * p + BLURRED * blurred(p) + EQUAL / p.shape[1])


def everywhere(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B, E) numbers as (B, E, *S) channels of the size of `like` (B, ., *S)."""
    return values.reshape(*values.shape, *[1] * (like.dim() - 2)).expand(*values.shape, *like.shape[2:])


def channels(batch) -> torch.Tensor:
    """The first visit as the networks see it: (B, 2 K + I, *S), the state, the distances to its borders, the images."""
    near = torch.tanh(batch.distances / (NEAR_VOXELS * min(batch.spacing_mm)))
    seen = (batch.states[:, 0], near) if batch.images is None else (batch.states[:, 0], near, batch.images)
    return torch.cat(seen, 1)


def courses(batch, i: int, j: int, parts: int) -> torch.Tensor:
    """What lies between visits i and j in `parts` equal stretches of each case's own days: (B, parts, GIVEN).

    Of each stretch: days/100, radiation/60 Gy, the drugs' kill exponent, extent of operations; what a part of a step
    holds is shared between stretches by days. The sum over the stretches is `batch.between(i, j)`.
    """
    grid, edges = batch.grid, (0, *batch.grid.visits)
    part = slice(edges[i], edges[j])
    begin, end = batch.days[:, i], batch.days[:, j]
    length = (end - begin) / parts
    dose, drug = grid.parts_gy[part], grid.parts_drug[part]                          # (N, PARTS, B)
    dt = (grid.dt[part] / dose.shape[1]).unsqueeze(1)
    start = grid.start[part].unsqueeze(1) + dt * torch.arange(dose.shape[1], device=dt.device)[:, None]
    stretches = []
    for n in range(parts):
        low, high = begin + n * length, begin + (n + 1) * length
        shared = (torch.minimum(start + dt, high) - torch.maximum(start, low)).clamp(min=0)
        shared = shared / torch.where(dt > 0, dt, torch.ones_like(dt))
        operated = torch.zeros_like(begin)
        for step, case, surgery in grid.resections:
            due = edges[i] < step <= edges[j] or step == edges[i] == 0
            if due and _stretch(surgery.day, float(begin[case]), float(length[case]), parts) == n:
                operated[case] += surgery.extent
        given = (dose * shared).sum((0, 1)) / GRAY_UNIT
        stretches.append(torch.stack((length / DAY_UNIT, given, (drug * shared).sum((0, 1)), operated), 1))
    return torch.stack(stretches, 1)


def _stretch(day: float, begin: float, length: float, parts: int) -> int:
    return min(max(math.ceil((day - begin) / length - 1e-6) - 1, 0), parts - 1) if length > 0 else 0


def condition_of(batch, i: int, j: int, parts: int = PARTS) -> torch.Tensor:
    """`courses` of a one-shot model, (B, 1 + (GIVEN − 1) parts): all the days, then each stretch's treatment."""
    course = courses(batch, i, j, parts)
    return torch.cat((course[:, :, 0].sum(1, keepdim=True), course[:, :, 1:].flatten(1)), 1)


def zeroed(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Head(nn.Module):
    """Features and condition to `outputs` channels, zero at initialisation.

    The condition enters here once more because a normalisation between input and head takes a constant channel away.
    """

    def __init__(self, axes: int, features: int, conditions: int, outputs: int):
        super().__init__()
        make = convolution(axes)
        self.mix = make(features + conditions, 2 * features, 1)
        self.out = zeroed(make(2 * features, outputs, 1))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x: (B, features, *S); condition: (B, conditions)"""
        return self.out(F.silu(self.mix(torch.cat((x, everywhere(condition, x)), 1))))


class Residual(nn.Module):
    """x' + conv(silu(norm(conv(silu(norm(x')))))), x' = x by a convolution with the stride, voxel by voxel where that is 1."""

    def __init__(self, axes: int, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        make = convolution(axes)
        self.into = make(inputs, outputs, 3, stride=stride, padding=1) if stride > 1 else make(inputs, outputs, 1)
        self.first, self.second = make(outputs, outputs, 3, padding=1), make(outputs, outputs, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, outputs) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.into(x)
        y = self.first(F.silu(self.norms[0](x)))
        return x + self.second(F.silu(self.norms[1](y)))


class Pyramid(nn.Module):
    """Residual units down to 1/2^levels of the size, and back up with what was seen on the way; any size.

    inputs: channels that come in; width: channels at full size, twice as many after each halving, at most 8 times
    """

    def __init__(self, axes: int, inputs: int, width: int, levels: int):
        super().__init__()
        widths = [width * min(2 ** i, 8) for i in range(levels + 1)]
        self.depth = widths[-1]
        self.down = nn.ModuleList(
            Residual(axes, before, after, 1 if i == 0 else 2) for i, (before, after) in enumerate(zip([inputs, *widths], widths))
        )
        self.norm = nn.GroupNorm(4, self.depth)
        self.up = nn.ModuleList(Residual(axes, deep + skip + CONDITIONS, skip) for deep, skip in zip(widths[:0:-1], widths[-2::-1]))
        self.mode = ("bilinear", "trilinear")[axes - 2]

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Features from full size to the smallest, sizes rounded up."""
        features = []
        for unit in self.down:
            x = unit(x)
            features.append(x)
        features[-1] = self.norm(x)      # what is moved in time starts at a known size
        return features

    def decode(self, features: list[torch.Tensor], deep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Features (B, width, *S) from those of `encode`, the deepest of which a model has moved in time to `deep`.

        condition: (B, CONDITIONS), what lies between the first visit and this one
        """
        for unit, skip in zip(self.up, features[-2::-1]):
            deep = F.interpolate(deep, size=skip.shape[2:], mode=self.mode, align_corners=False)
            deep = unit(torch.cat((deep, skip, everywhere(condition, skip)), 1))
        return deep
