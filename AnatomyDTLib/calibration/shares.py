"""On what voxels a run of a tumor model (`walk`) is computed, and what is known of the tumor on one day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Grid:
    """Where it is solved: voxel size, and the arrays that no parameter changes.

    factor: voxels of the label map per voxel and axis; room: C (*S); host: diffusivity of the plan's tissues (*S),
        mm²/day;
    grey: part of it that is grey matter's, 0..1; wall: largest probability of a class that the tumor cannot enter;
        maps: by name
    """

    factor: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    room: np.ndarray
    host: np.ndarray
    grey: np.ndarray
    wall: np.ndarray
    maps: dict


@dataclass
class Shares:
    """What is known on one day.

    u: (1 + n, B, *S) share of the tumor, then its derivatives by the n coordinates, for B members
    room: C (1 | B, *S) of that day; wall: (1 | B, *S), what the tumor has to exceed with its surroundings to be drawn;
        kappa: (B, 1, ...)
    capacity_column: index of kappa among the derivatives, or None
    box: the part of the image that u, room and wall show; beyond it there is no tumor
    """

    u: torch.Tensor
    room: torch.Tensor
    wall: torch.Tensor
    kappa: torch.Tensor
    capacity_column: int | None
    box: tuple = ...


def drawn(shares: Shares, visibility) -> torch.Tensor:
    """(B, *S) bool: where the tumor is drawn (`state.labels_of`), visibility broadcastable to (B, *S)."""
    u = shares.u[0]
    return (u > 0) & (u >= torch.clamp(visibility * shares.kappa, max=1 - 1e-6)) & (shares.room > shares.wall)


def pooled(values: np.ndarray, factor) -> np.ndarray:
    """Means over blocks of `factor` voxels; what is left at the end of an axis makes a smaller block."""
    values = np.asarray(values)
    for axis, f in enumerate(factor):
        if f > 1:
            starts = np.arange(0, values.shape[axis], f)
            counts = np.diff(np.append(starts, values.shape[axis])).reshape(
                [-1 if a == axis else 1 for a in range(values.ndim)]
            )
            values = np.add.reduceat(values, starts, axis=axis) / counts.astype(values.dtype)
    return values
