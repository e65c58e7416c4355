"""Where the tissue goes that a growing tumor displaces: the source inside the tumor, and the classes that its pressure moves.

The pressure is that of `physics.screened`, P in mm²: tissue moves by −∇P mm.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch.nn import functional

from ..physics.advection import advect
from .interfaces import State
from .smoothing import blur

# How far behind its front a tumor makes the room that it grows by, mm (standard deviation): 6 to 12 made no difference.
INSIDE_MM = 8.0
# Largest part of a voxel that leaves it in one sweep of the push.
COURANT = 0.9
# A part of a voxel that does not count.
LEAST = 1e-6


def from_inside(source: torch.Tensor, state: State, spacing_mm) -> torch.Tensor:
    """What growth displaces, (B, *S) part of a voxel, spread over the tumor behind its front, as much in all.

    What lies in the front is then moved with it: from the front itself it would be overrun.
    """
    inside = torch.sigmoid(state.u).unsqueeze(1)
    share = source.unsqueeze(1) / (blur(inside, INSIDE_MM, spacing_mm) + LEAST)
    return (inside * blur(share, INSIDE_MM, spacing_mm))[:, 0]


def moved(state: State, pressure: torch.Tensor, spacing_mm) -> State:
    """The state with the composition c carried along by a pressure (B, *S) mm²; the tumor's own border stays.

    Through a face goes the volume (P_i − P_{i+1}) / h² of a voxel, as far as no class that stands still holds it.
    """
    still = list(state.sides.still_at)
    moving = [i for i in range(state.c.shape[1]) if i not in still]
    free = 1 - state.c[:, still].sum(1) if still else None
    c = state.c[:, moving]
    for axis, h in enumerate(spacing_mm):
        if c.shape[2 + axis] == 1:
            continue
        facing = pressure.movedim(1 + axis, 0)
        volume = (facing[:-1] - facing[1:]) / h**2
        if free is not None:
            open_ = free.movedim(1 + axis, 0)
            volume = volume * torch.minimum(open_[:-1], open_[1:])
        sweeps = max(1, math.ceil(float(_leaving(volume.detach()).max()) / COURANT))
        classes = c.transpose(0, 1).movedim(2 + axis, 0)
        for _ in range(sweeps):
            classes = advect(classes, (volume / sweeps).unsqueeze(1))
        c = classes.movedim(0, 2 + axis).transpose(0, 1)
    columns: list = list(state.c.unbind(1))
    for j, i in enumerate(moving):
        columns[i] = c[:, j]
    c = torch.stack(columns, 1)
    return replace(state, c=c / c.sum(1, keepdim=True))


def _leaving(volume):
    """What leaves a voxel through both of its faces; volume: (n − 1, ...), over the faces along the first axis."""
    sides = (0, 0) * (volume.dim() - 1)
    return functional.pad(volume.clamp(min=0), (*sides, 0, 1)) - functional.pad(volume.clamp(max=0), (*sides, 1, 0))
