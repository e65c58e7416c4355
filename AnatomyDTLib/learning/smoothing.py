"""Blurs and slopes of fields, and the extension of what is known on a front to the voxels beside it. 2D, 3D, differentiable."""

from __future__ import annotations

import functools
import math

import torch

# Kernels of a blur are cut at this many standard deviations.
CUT = 4.0


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


def extended(values: torch.Tensor, front: torch.Tensor, reach_mm: float, spacing_mm) -> torch.Tensor:
    """Values of a front, carried to the voxels beside it: G(values · front) / G(front).

    values, front: (B, 1, *S), front > 0 and large at the front. A Gaussian gives nearly all the weight to the nearest
    part of the front, so that this is close to the extension along the normals that keeps a distance a distance.
    """
    both = blur(torch.cat((values * front, front), 1), reach_mm, spacing_mm)
    return both[:, :1] / both[:, 1:]
