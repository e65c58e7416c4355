"""What dose a plan gives to each tissue: dose-volume numbers from its fractions, regions and dose maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..plan import Plan, Radiotherapy


@dataclass(frozen=True)
class TissueDose:
    """Physical dose over the whole plan to one tissue as it lies at baseline.

    tissue: name; volume_ml: of the tissue
    mean_gy: mean over its voxels; d95_gy, d2_gy: the largest dose that at least 95 % or 2 % of its volume gets (ICRU
        report 83; D2 is the near-maximum)
    Doses of several courses are added as they are: courses of different fraction size are not equal in effect.
    """

    tissue: str
    volume_ml: float
    mean_gy: float
    d95_gy: float
    d2_gy: float


def total_dose(plan: Plan, maps, shape) -> np.ndarray:
    """(*S) float64, Gy: the sum over every course of the plan; 0 without radiotherapy.

    A course without region and dose map is given everywhere, the whole image included.
    """
    dose = np.zeros(shape)
    for course in plan.treatments:
        if not isinstance(course, Radiotherapy):
            continue
        if course.dose_map is None:
            given = course.fractions * course.dose_gy
        else:
            given = np.asarray(maps[course.dose_map], np.float64)
        dose = dose + (given if course.region is None else given * (np.asarray(maps[course.region]) != 0))
    return dose


def tissue_doses(plan: Plan, labels, maps, spacing_mm) -> tuple[TissueDose, ...]:
    """The doses of every tissue that occurs at baseline, the background left out.

    labels: (*S) indices into plan.anatomy.tissues; maps: the arrays that the treatments name, shape of labels
    """
    labels = np.asarray(labels)
    dose = total_dose(plan, maps, labels.shape)
    voxel_ml = math.prod(spacing_mm) / 1000.0
    found = []
    for k, tissue in enumerate(plan.anatomy.tissues):
        values = dose[labels == k]
        if values.size and tissue.role != "background":
            falling = np.sort(values)[::-1]
            d95, d2 = _received_by(falling, 0.95), _received_by(falling, 0.02)
            found.append(TissueDose(tissue.name, float(values.size * voxel_ml), float(values.mean()), d95, d2))
    return tuple(found)


def _received_by(falling, part: float) -> float:
    """The largest dose that at least this part of the voxels gets."""
    return float(falling[math.ceil(part * falling.size - 1e-9) - 1])
