"""An operation on the state of a twin. What is taken is found without gradients, on what a surgeon would see: the labels."""

from __future__ import annotations

import math

import torch

from ..physics.assembly import SPARED_AROUND_TUMOR, resected
from ..plan import Anatomy, Surgery
from .batches import signed_distances
from .displacement import LEAST
from .interfaces import State


def taken(state: State, case: int, surgery: Surgery, region, anatomy: Anatomy, spacing_mm) -> torch.Tensor:
    """(*S) bool, the voxels of one case of the batch that the operation takes; none where there is no tumor to be seen.

    region: (*S) bool of the surgery, or None: then the tumor that is seen and its margin; what is spared around it stays
    """
    labels = _labels(state, case)
    mask = torch.from_numpy(resected(_tumor(labels, state).numpy(), spacing_mm, region, surgery.extent, surgery.margin_mm))
    return mask & ~torch.isin(labels, torch.tensor(anatomy.with_role(*SPARED_AROUND_TUMOR), dtype=labels.dtype))


def without(state: State, case: int, taken, residual_fraction: float, anatomy: Anatomy, spacing_mm, slope: float) -> tuple[State, float]:
    """(state, part of the tumor's size that is left): a cavity where nothing is left behind, else a thinner tumor.

    slope: λ of the log-odds at the border of the cavity, per mm
    """
    tumor = _tumor(_labels(state, case), state)
    kept = 1 - float((taken & tumor).sum()) / max(int(tumor.sum()), 1) * (1 - residual_fraction)
    if residual_fraction == 0:
        cavity = state.sides.rest.index(anatomy.with_role("cavity")[0])
        distance = torch.from_numpy(signed_distances(taken.numpy(), 2, spacing_mm)[1]).to(state.u)
        return state.with_cavity(case, cavity, distance, slope), kept
    remains = math.log(max(residual_fraction, LEAST))
    return state.replaced(case, state.u[case] + remains * taken.to(state.u), state.c[case]), kept


def _labels(state, case):
    return state.probabilities()[case].detach().argmax(0).cpu()


def _tumor(labels, state):
    return torch.isin(labels, torch.tensor(state.sides.tumors))
