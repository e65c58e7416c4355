"""The screened Poisson equation of a pressure in a box of one kind of tissue, solved exactly by cosine transforms.

    −∇²P + P / R² = source,    no flux through the faces of the box

The stencil of `pressure` where nothing is still and nothing is fluid, diagonal in the discrete cosine basis. Its
transforms are products with dense matrices: for lines of a few hundred voxels that is fast, and it is differentiable.
"""

from __future__ import annotations

import functools
import math

import torch


@functools.lru_cache(maxsize=32)
def _basis(n: int, device: str, dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of the orthonormal cosine basis (n, n), eigenvalues (n,) of the second difference with reflecting ends)."""
    k = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi / n * (k + 0.5) * k[:, None]) * math.sqrt(2.0 / n)
    rows[0] /= math.sqrt(2.0)
    return rows.to(device, dtype), (2 - 2 * torch.cos(math.pi * k / n)).to(device, dtype)


def solve(source: torch.Tensor, range_mm, spacing_mm) -> torch.Tensor:
    """P in mm², (B, *S). source: (B, *S), the part of a voxel that is too much; range_mm: R, a number or a scalar tensor."""
    symbol = 1 / torch.as_tensor(range_mm, dtype=source.dtype, device=source.device) ** 2
    ndim = len(spacing_mm)
    for axis, h in enumerate(spacing_mm):
        _, eigen = _basis(source.shape[1 + axis], str(source.device), source.dtype)
        symbol = symbol + (eigen / h**2).reshape(-1, *[1] * (ndim - 1 - axis))
    return _transformed(_transformed(source, ndim, False) / symbol, ndim, True)


def _transformed(field, ndim: int, inverse: bool):
    for axis in range(ndim):
        rows, _ = _basis(field.shape[1 + axis], str(field.device), field.dtype)
        field = (field.movedim(1 + axis, -1) @ (rows if inverse else rows.T)).movedim(-1, 1 + axis)
    return field
