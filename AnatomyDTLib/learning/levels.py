"""The state of the twin between visits: a level per class, and the operators that move it. 2D and 3D, differentiable.

ψ_k = 4 φ_k / w, φ_k the signed distance (mm, positive inside) to the border of class k: the log-odds of a smooth
interface of width w. A step of the solver adds to ψ (reaction) or carries it (transport); both keep sharp what is sharp,
which a field of probabilities on the same voxels would not: every step of a transport smears it. Outside of its class ψ
keeps the order of the classes by distance, so that what a shrinking tumor uncovers is the nearest tissue.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from ..plan import Anatomy

# Kernels of a blur are cut at this many standard deviations.
CUT = 4.0
# Slopes below this (per mm) have no direction: half way between two borders.
FLAT = 0.1


@dataclass(frozen=True)
class Tiers:
    """Who comes before whom in a voxel: what no tumor may take, then tumor, then edema, then the tissues that give way.

    ranks: the classes before the last tier, in order; hosts: those of the last tier, side by side
    """

    ranks: tuple[int, ...]
    hosts: tuple[int, ...]

    @classmethod
    def of(cls, anatomy: Anatomy) -> Tiers:
        hosts = tuple(k for k, t in enumerate(anatomy.tissues) if t.may_be_invaded and not t.is_tumor)
        blocked = tuple(k for k in range(len(anatomy)) if k not in hosts and k not in anatomy.tumors)
        return cls(blocked + anatomy.tumors, hosts)

    def decode(self, psi: torch.Tensor, sharpness) -> torch.Tensor:
        """Probabilities (B, K, *S) of levels (B, K, *S), on the simplex by construction.

        p_k = σ(s ψ_k) of what the ranks before it leave; the rest goes to the hosts by softmax(s ψ / 2), which at a border
        of two of them, ψ_i = −ψ_j, is σ(s ψ_i) again.
        """
        p: list = [None] * psi.shape[1]
        left = torch.ones_like(psi[:, 0])
        for k in self.ranks:
            p[k] = left * torch.sigmoid(sharpness * psi[:, k])
            left = left * torch.sigmoid(-sharpness * psi[:, k])
        if self.hosts:
            share = torch.softmax(0.5 * sharpness * psi[:, list(self.hosts)], 1)
            for i, k in enumerate(self.hosts):
                p[k] = left * share[:, i]
            return torch.stack(p, 1)
        p = torch.stack(p, 1)
        return p / p.sum(1, keepdim=True)

    def react(self, psi: torch.Tensor, change: torch.Tensor, sharpness) -> torch.Tensor:
        """The levels of p_k e^{change_k} / Σ_j p_j e^{change_j}: exactly the residual reaction of `physics.reaction.correct`.

        change: rate times time, (B, K, *S)
        """
        new = list(psi.unbind(1))
        if self.hosts:
            chosen = list(self.hosts)
            log_below = (torch.log_softmax(0.5 * sharpness * psi[:, chosen], 1) + change[:, chosen]).logsumexp(1)
            for k in chosen:
                new[k] = psi[:, k] + 2 / sharpness * change[:, k]
        else:
            log_below = torch.zeros_like(psi[:, 0])
        for k in reversed(self.ranks):
            new[k] = psi[:, k] + (change[:, k] - log_below) / sharpness
            inside = functional.logsigmoid(sharpness * psi[:, k]) + change[:, k]
            log_below = torch.logaddexp(inside, functional.logsigmoid(-sharpness * psi[:, k]) + log_below)
        return torch.stack(new, 1)


@functools.lru_cache(maxsize=64)
def _kernel(n: int, sigma: float, device: str, dtype) -> torch.Tensor:
    """(n, n) Gaussian blur of a line of n voxels with the edge repeated; sigma in voxels."""
    reach = max(1, math.ceil(CUT * sigma))
    offset = torch.arange(-reach, reach + 1)
    weight = torch.exp(-0.5 * (offset / sigma) ** 2)
    weight = (weight / weight.sum()).to(dtype)
    place = (torch.arange(n)[:, None] + offset).clamp(0, n - 1)
    return torch.zeros(n, n, dtype=dtype).scatter_add_(1, place, weight.expand(n, -1).contiguous()).to(device)


def blur(field: torch.Tensor, sigma_mm: float, spacing_mm) -> torch.Tensor:
    """Gaussian blur along every spatial axis of (B, C, *S), the edge repeated.

    As products with dense matrices: on lines of a few hundred voxels faster on a CPU than a convolution, at any width.
    """
    for axis, h in enumerate(spacing_mm):
        if field.shape[2 + axis] > 1:
            matrix = _kernel(field.shape[2 + axis], sigma_mm / h, str(field.device), field.dtype)
            if axis == len(spacing_mm) - 1:
                field = field @ matrix.T
            elif axis == len(spacing_mm) - 2:
                field = matrix @ field
            else:
                field = torch.einsum("ij,bcjyx->bciyx", matrix, field)
    return field


def gradient(field: torch.Tensor, spacing_mm) -> torch.Tensor:
    """∇ of (B, *S) per mm, centred: (B, ndim, *S); one-sided by half at the edge."""
    parts = []
    for axis, h in enumerate(spacing_mm, start=1):
        n = field.shape[axis]
        ahead = torch.cat((field.narrow(axis, 1, n - 1), field.narrow(axis, n - 1, 1)), axis)
        behind = torch.cat((field.narrow(axis, 0, 1), field.narrow(axis, 0, n - 1)), axis)
        parts.append((ahead - behind) / (2 * h))
    return torch.stack(parts, 1)


def outward(psi: torch.Tensor, blur_mm: float, spacing_mm) -> torch.Tensor:
    """Unit normal (B, ndim, *S) that points away from a class; psi: (B, 1, *S) distances in mm. Fades where there is none."""
    slope = gradient(blur(psi, blur_mm, spacing_mm)[:, 0], spacing_mm)
    return -slope / (slope.square().sum(1, keepdim=True) + FLAT**2).sqrt()


def carried(field: torch.Tensor, displacement_mm: torch.Tensor, spacing_mm) -> torch.Tensor:
    """field(x − u(x)), linear between voxels, constant beyond the edge; field: (B, C, *S); u: (B, ndim, *S) in mm.

    Exact for a level that is linear, as a signed distance is but for its ridges.
    """
    size = field.shape[2:]
    lines = [torch.arange(n, dtype=field.dtype, device=field.device) for n in size]
    step = torch.tensor(spacing_mm, dtype=field.dtype, device=field.device).reshape(1, -1, *[1] * len(size))
    place = torch.stack(torch.meshgrid(*lines, indexing="ij")).unsqueeze(0) - displacement_mm / step
    last = torch.tensor([max(n - 1, 1) for n in size], dtype=field.dtype, device=field.device).reshape(1, -1, *[1] * len(size))
    # grid_sample wants −1..1, the last axis of the image first
    place = (2 * place / last - 1).flip(1).movedim(1, -1)
    return functional.grid_sample(field, place, mode="bilinear", padding_mode="border", align_corners=True)


def extended(values: torch.Tensor, front: torch.Tensor, reach_mm: float, spacing_mm) -> torch.Tensor:
    """Values of a front, carried to the voxels beside it: G(values · front) / G(front).

    values, front: (B, 1, *S), front > 0 and large at the front. A Gaussian gives nearly all the weight to the nearest
    part of the front, so that this is close to the extension along the normals that keeps a distance a distance.
    """
    return blur(values * front, reach_mm, spacing_mm) / blur(front, reach_mm, spacing_mm)
