"""An operation on the state of a twin. What is taken is found without gradients, on what a surgeon would see: the labels."""

from __future__ import annotations

import math

import torch

from ..physics.assembly import SPARED_AROUND_TUMOR, resected
from ..plan import Anatomy, Surgery
from .batches import signed_distances
from .displacement import LEAST
from .interfaces import State


def operated(
    state: State, case: int, surgery: Surgery, region, anatomy: Anatomy, spacing_mm, slope: float,
) -> tuple[State, float] | None:
    """(state, part of the tumor's size that is left) after an operation on one case of the batch; None where nothing is taken.

    A cavity where nothing is left behind, else a thinner tumor; what is spared around a tumor stays.
    region: (*S) bool of the surgery, or None: then the tumor that is seen and its margin; slope: λ at the cavity's border, per mm
    """
    labels = state.probabilities()[case].detach().argmax(0).cpu()
    tumor = torch.isin(labels, torch.tensor(state.sides.tumors))
    mask = torch.from_numpy(resected(tumor.numpy(), spacing_mm, region, surgery.extent, surgery.margin_mm))
    mask &= ~torch.isin(labels, torch.tensor(anatomy.with_role(*SPARED_AROUND_TUMOR), dtype=labels.dtype))
    if not bool(mask.any()):
        return None
    left = surgery.residual_fraction
    kept = 1 - float((mask & tumor).sum()) / max(int(tumor.sum()), 1) * (1 - left)
    if left == 0:
        cavity = state.sides.rest.index(anatomy.with_role("cavity")[0])
        distance = torch.from_numpy(signed_distances(mask.numpy(), 2, spacing_mm)[1]).to(state.u)
        return state.with_cavity(case, cavity, distance, slope), kept
    return state.replaced(case, state.u[case] + math.log(max(left, LEAST)) * mask.to(state.u), state.c[case]), kept
