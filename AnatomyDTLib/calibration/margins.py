"""Radiotherapy margins: how much of an observed recurrence a plan covers, against a forecast's plan of the same volume.

The standard clinical target volume is the tumor with a uniform margin, cut at the brain's border: 15 mm around cavity
and residual tumor (ESTRO-EANO guideline: Niyazi et al. 2023, Radiother Oncol 184:109663). A forecast's plan has as many
voxels, those of the highest tumor density. Each is scored by the part of the recurrence that lies inside:

    coverage = |recurrence ∩ plan| / |recurrence|

the metric of PREDICT-GBM (Zimmer et al. 2025, arXiv:2509.13360; 79.4 ± 2.1 % of the enhancing recurrence for its best
forecast, 243 patients). Equal volume is what makes the two comparable: a larger plan covers more without knowing more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..plan import Anatomy

MARGIN_MM = 15.0
WIDEST_MM = 200.0
# What the margin is drawn around, and what is not brain. Edema is not part of the target (ESTRO-EANO 2023).
TARGET_ROLES = ("tumor", "necrosis", "cavity")
OUTSIDE_ROLES = ("background", "barrier")


class MarginError(ValueError):
    """Masks from which no coverage can be told; the text is the sentence the user reads."""


@dataclass(frozen=True)
class Coverage:
    """How one plan covers a recurrence.

    name: of the plan; plan: (*S) bool; volume_ml: of the plan
    covered: part of the recurrence inside the plan, 0..1
    covered_new: the same of the recurrence outside the tumor at baseline, which every plan holds; NaN where all of it
        lies there
    filled_ml: part of the plan that the density did not decide, because it is 0 there (`most_probable`)
    """

    name: str
    plan: np.ndarray
    volume_ml: float
    covered: float
    covered_new: float
    filled_ml: float = 0.0


def clinical_target(target, brain, spacing_mm, margin_mm: float = MARGIN_MM) -> np.ndarray:
    """(*S) bool: voxels of the brain whose centre lies at most `margin_mm` from the centre of a target voxel.

    target, brain: (*S) bool, the target not empty; spacing_mm: in the order of the array's axes
    """
    assert np.any(target) and margin_mm >= 0
    return (ndimage.distance_transform_edt(~target, sampling=spacing_mm) <= margin_mm) & brain


def most_probable(density, brain, voxels: int, target, spacing_mm) -> tuple[np.ndarray, int]:
    """((*S) bool of exactly `voxels` brain voxels of the highest density, how many of them have density 0).

    Equal densities, and above all the zeros where a forecast's tail has ended, are taken by distance to the target,
    then in array order: what the forecast leaves open is filled as the uniform margin would.
    density: (*S) finite, at least 0; voxels: at most those of the brain
    """
    assert 0 <= voxels <= int(brain.sum())
    value = np.asarray(density, np.float64)[brain]
    distance = ndimage.distance_transform_edt(~target, sampling=spacing_mm)[brain]
    order = np.lexsort((distance, -value))[:voxels]
    taken = np.zeros(value.size, bool)
    taken[order] = True
    plan = np.zeros(brain.shape, bool)
    plan[brain] = taken
    return plan, int((value[order] <= 0).sum())


def coverage(plan, recurrence) -> float:
    """|recurrence ∩ plan| / |recurrence|; NaN for an empty recurrence."""
    found = int(np.count_nonzero(recurrence))
    return np.count_nonzero(plan & recurrence) / found if found else math.nan


def check_margin(margin_mm: float) -> None:
    """Raises MarginError for a margin that is none."""
    if not 0 <= margin_mm <= WIDEST_MM:
        raise MarginError(f"the margin must lie between 0 and {WIDEST_MM:g} mm, not {margin_mm:g}")


def compare_margins(
    labels, density, recurrence, anatomy: Anatomy, spacing_mm, margin_mm: float = MARGIN_MM,
) -> list[Coverage]:
    """The uniform margin and the forecast's plan of equal volume: [Coverage, Coverage], in this order.

    labels: (*S) at baseline, indices into anatomy.tissues: the margin is drawn around its tumor, necrosis and cavity
    density: (*S) forecast tumor density on the day of the recurrence, such as a Forecast's tumor_probability
    recurrence: (*S) bool, observed. Of it, what lies outside the baseline's brain is in no plan and counts as missed
    Raises MarginError where there is no tumor or no recurrence.
    """
    labels, recurrence = np.asarray(labels), np.asarray(recurrence, bool)
    if recurrence.shape != labels.shape or np.shape(density) != labels.shape:
        raise MarginError(
            f"recurrence and forecast must have the shape of the segmentation, {labels.shape}; resample them first")
    if not np.isfinite(density).all() or np.min(density) < 0:
        raise MarginError("the forecast tumor density must be finite and at least 0")
    check_margin(margin_mm)
    target = np.isin(labels, anatomy.with_role(*TARGET_ROLES))
    if not target.any():
        target = np.isin(labels, anatomy.tumors)
    if not target.any():
        raise MarginError("there is no tumor or cavity in the segmentation to draw a margin around")
    if not recurrence.any():
        raise MarginError("there is no tumor in the follow-up: without a recurrence no coverage can be told")
    brain = ~np.isin(labels, anatomy.with_role(*OUTSIDE_ROLES))
    new = recurrence & ~target
    standard = clinical_target(target, brain, spacing_mm, margin_mm)
    probable, filled = most_probable(density, brain, int(standard.sum()), target, spacing_mm)
    voxel_ml = math.prod(spacing_mm) / 1000.0

    def scored(name, plan, filled):
        volume = float(plan.sum() * voxel_ml)
        return Coverage(name, plan, volume, coverage(plan, recurrence), coverage(plan, new), filled * voxel_ml)

    return [scored(f"tumor + {margin_mm:g} mm", standard, 0), scored("most probable voxels", probable, filled)]
