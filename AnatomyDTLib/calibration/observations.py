"""What was seen of a tumor on a day, and how well a forecast density explains it, with derivatives.

A label map says where the density is above the visibility v kappa. In z = logit(u/kappa) − logit v a tumor's front is
nearly straight, so that

    s = z / sqrt(|∇z|² + g₀²)

is the signed distance (mm) of a voxel's centre to the forecast outline, with its position between voxels. A reader
who draws the outline with an error of σ mm, and now and then (a part ε of the voxels) something else altogether, labels
a voxel as tumor with

    P(s) = ε/2 + (1 − ε) Φ(s/σ)

which is the likelihood of labels (y = 0, 1) and of probability maps (y between) alike. A voxel that the
forecast has wrong by many σ counts as ε: a new focus is not explained by bending the parameters. A density map
    (cellularity)
is compared with the density itself, normally distributed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..physics.operators import central_difference
from ..physics.transport import CLOSED
from .shares import Grid, Shares, pooled

# Density from which and up to which z tells a distance; beyond, a front is too faint or too full.
FAINTEST = 1e-6
# A slope of z below this (1/mm) is no front: 20 mm from 1 to e.
FLATTEST = 0.05
# Voxels around tumor and labels that take part, as their slope needs neighbours.
MARGIN = 2
FAR = 8.0


@dataclass(frozen=True)
class Visit:
    """What was seen on one day.

    values: (*S) float32: labels of the visible tumor (0 or 1), their probability, or the density as part of a full
        voxel
    density: whether it is a density
    """

    day: float
    values: np.ndarray
    density: bool = False

    def on(self, grid: Grid) -> Visit:
        return self if max(grid.factor) == 1 else Visit(self.day, pooled(self.values, grid.factor), self.density)


@dataclass(frozen=True)
class Noise:
    """sigma_mm: of the drawn outline; odd: ε, part of the voxels that are labelled otherwise; density: of a density
    map."""

    sigma_mm: float
    odd: float
    density: float = 0.1


@dataclass
class Misfit:
    """Negative log-likelihood of one visit, and what it tells about n parameters.

    gradient: (n,) by x; information: (n, n), positive semi-definite; scores: (blocks, n) sums of the gradient over
        blocks of space, by `block` (index of the block); distance: s of the voxels that count and their y, for the noise
    pattern: (derivative, curvature) of the value by s, (*box) each; None for a density
    """

    value: float
    gradient: np.ndarray
    information: np.ndarray
    scores: np.ndarray
    block: np.ndarray
    distance: torch.Tensor
    seen: torch.Tensor
    pattern: tuple[np.ndarray, np.ndarray] | None = None


def misfit(shares: Shares, visit: Visit, visibility: float, grid: Grid, noise: Noise, block_mm: float = 12.0) -> Misfit:
    """How badly member 0 of the shares explains a visit on the same grid."""
    box = _around(shares, visit.values)
    u = shares.u[(slice(None), 0, *box)]
    room, wall = (a[(0, *box)] for a in (shares.room, shares.wall))
    n = u.shape[0] - 1
    y = torch.from_numpy(np.ascontiguousarray(visit.values[box])).double()
    index = _blocks(box, visit.values.shape, grid.spacing_mm, block_mm)
    if visit.density:
        keep = room > CLOSED
        residual = ((u[0] * room).double() - y)[keep]
        slope = (u[1:] * room).double()[:, keep] / noise.density
        r = residual / noise.density
        value = float((0.5 * r * r + math.log(noise.density)).sum())
        return _summed(value, slope, r, torch.ones_like(r), index[keep.numpy()], residual, y[keep])
    s, ds = _distance(u, room, visibility, float(shares.kappa.reshape(-1)[0]), shares.capacity_column, grid.spacing_mm)
    keep = room > wall
    s, y, index = s[keep], y[keep], index[keep.numpy()]
    value, first, second = _likelihood(s, y, noise)
    counts = (first.abs() > 1e-9) | (second > 1e-9)
    slope = ds[:, keep][:, counts] if n else torch.zeros((0, int(counts.sum())), dtype=torch.float64)
    near = (s.abs() < 30.0) | ((s > 0) != (y > 0.5))
    found = _summed(float(value.sum()), slope, first[counts], second[counts], index[counts.numpy()], s[near], y[near])
    found.pattern = tuple(torch.zeros(keep.shape, dtype=v.dtype).masked_scatter_(keep, v).numpy() for v in (first, second))
    return found


def loss(u, room, wall, visit: Visit, tissue, spacing_mm, noise: Noise) -> torch.Tensor:
    """The value of `misfit` as a number that can be differentiated backwards, on the image's voxels.

    u, room, wall: (*S), as in `Shares`; tissue: the tumor's class, for its visibility and carrying capacity
    """
    if visit.density:
        y = torch.from_numpy(np.ascontiguousarray(visit.values)).double()
        keep = room > CLOSED
        r = ((u * room).double() - y)[keep] / noise.density
        return (0.5 * r * r + math.log(noise.density)).sum()
    return _likelihood(*distances(u, room, wall, visit, tissue, spacing_mm), noise)[0].sum()


def distances(u, room, wall, visit: Visit, tissue, spacing_mm) -> tuple[torch.Tensor, torch.Tensor]:
    """(s, y) of the voxels that can be drawn as tumor."""
    y = torch.from_numpy(np.ascontiguousarray(visit.values)).double()
    s, _ = _distance(u[None], room, tissue.visibility, tissue.carrying_capacity, None, spacing_mm)
    keep = room > wall
    return s[keep], y[keep]


def _distance(u, room, visibility, kappa, capacity_column, spacing):
    """s (*S) and its derivatives (n, *S), float64."""
    u = u.double()
    w = (u[0] / kappa).clamp(FAINTEST, 1 - FAINTEST)
    free = (u[0] / kappa > FAINTEST) & (u[0] / kappa < 1 - FAINTEST)
    z = torch.log(w / (1 - w)) - math.log(visibility / (1 - visibility))
    shut = room <= CLOSED
    axes = [a for a in range(z.dim()) if z.shape[a] > 1]
    slopes = [central_difference(z, shut, a, spacing[a]) for a in axes]
    length = torch.sqrt(sum(g * g for g in slopes) + FLATTEST**2)
    if len(u) == 1:
        return z / length, u[1:]
    dw = u[1:] / kappa
    if capacity_column is not None:
        dw[capacity_column - 1] -= u[0] / kappa
    dz = torch.where(free, dw / (w * (1 - w)), torch.zeros((), dtype=w.dtype))
    turned = sum(
        g * torch.stack([central_difference(d, shut, a, spacing[a]) for d in dz]) for g, a in zip(slopes, axes)
    )
    return z / length, dz / length - z / length**3 * turned


def _likelihood(s, y, noise):
    """−log-likelihood per voxel, its derivative by s, and a curvature that is never negative."""
    t = s / noise.sigma_mm
    share = math.log1p(-noise.odd)
    floor = math.log(noise.odd / 2) if noise.odd > 0 else -math.inf
    density = -0.5 * t * t - 0.5 * math.log(2 * math.pi)
    value, first, second = 0.0, 0.0, 0.0
    for sign, weight in ((1.0, y), (-1.0, 1 - y)):
        inside = torch.special.log_ndtr(sign * t)
        log_p = torch.logaddexp(torch.full_like(t, floor), share + inside)
        mills = torch.exp(density - inside)
        regular = torch.exp(share + inside - log_p)
        value = value - weight * log_p
        first = first - weight * sign * regular * mills / noise.sigma_mm
        second = second + weight * regular * (mills * (mills + sign * t)).clamp(min=0) / noise.sigma_mm**2
    return value, first, second


def _summed(value, slope, first, second, index, distance, seen):
    weighted = slope * second
    each = (slope * first).numpy()
    blocks, inverse = np.unique(index, return_inverse=True)
    scores = np.zeros((len(blocks), len(slope)))
    np.add.at(scores, inverse, each.T)
    return Misfit(value, each.sum(1), (weighted @ slope.T).numpy(), scores, blocks, distance, seen)


def noise_of(outlines, smallest_mm: float, largest_mm: float, odd: float) -> float:
    """The σ (mm) under which the outlines of these visits, (s, y) of each, are most likely."""
    s, y = (torch.cat(values) for values in zip(*outlines))
    if not len(s):
        return smallest_mm
    grid = np.geomspace(smallest_mm, largest_mm, 25)
    values = [float(_likelihood(s, y, Noise(g, odd))[0].sum()) for g in grid]
    return float(grid[int(np.argmin(values))])


def _around(shares, values):
    """The box of tumor and labels with a margin."""
    present = (shares.u[0, 0] > FAINTEST) | torch.from_numpy(values > 0)
    box = []
    for axis in range(present.dim()):
        others = tuple(a for a in range(present.dim()) if a != axis)
        hits = (present.any(dim=others) if others else present).nonzero()
        low, high = (int(hits[0]), int(hits[-1]) + 1) if len(hits) else (0, 1)
        box.append(slice(max(0, low - MARGIN), min(present.shape[axis], high + MARGIN)))
    return tuple(box)


def _blocks(box, shape, spacing, edge_mm):
    """Index of the block of space, of about `edge_mm`, that each voxel lies in."""
    index = 0
    for axis, (span, h) in enumerate(zip(box, spacing)):
        line = (np.arange(span.start, span.stop) * h / edge_mm).astype(np.int64)
        index = index * 10_000 + line.reshape([-1 if a == axis else 1 for a in range(len(box))])
    return np.broadcast_to(index, [s.stop - s.start for s in box])
