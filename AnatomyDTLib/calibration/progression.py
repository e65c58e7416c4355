"""Time to progression of a forecast tumor: the volume has multiplied since its smallest, or a new focus has appeared.

After the response criteria of neuro-oncology with volumes (modified RANO: Ellingson, Wen & Cloughesy 2017,
Neurotherapeutics 14:307): progression is growth beyond the smallest volume since baseline, or a new measurable lesion.
They call 40 % more a progression; here a volume has to double, unless `volume_factor=1.4` asks for theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# A ball of 10 mm, the smallest lesion that RANO calls measurable (two perpendicular diameters of 10 mm), mL.
MEASURABLE_ML = math.pi / 6.0


@dataclass(frozen=True)
class Progression:
    """When a tumor counts as progressed.

    volume_factor: above 1; progression when V(t) ≥ volume_factor · min over s ≤ t of V(s), baseline included
    measurable_ml: above 0; no volume below it is a progression, so that a tumor that had vanished progresses when it
        is back with this volume; and a new focus counts from it on
    """

    volume_factor: float = 2.0
    measurable_ml: float = MEASURABLE_ML

    def __post_init__(self):
        if not (math.isfinite(self.volume_factor) and self.volume_factor > 1.0):
            raise ValueError(f"volume_factor must be above 1, not {self.volume_factor:g}")
        if not (math.isfinite(self.measurable_ml) and self.measurable_ml > 0.0):
            raise ValueError(f"measurable_ml must be above 0, not {self.measurable_ml:g}")


def time_to_progression(days, volume_ml, focus_ml, rule: Progression = Progression()) -> tuple[float, str]:
    """(day, "volume" or "focus"), or (the last day, "") where the tumor has not progressed by then: censored.

    days: (T,) ascending, the first is the baseline; volume_ml: (T,) drawn tumor; focus_ml: (T,) `new_focus` of each day
    The volume's day is interpolated linearly between the two days around its crossing; a focus counts from the first of
    `days` that shows it. On one day the volume is named.
    """
    days, volume, focus = (np.asarray(a, np.float64) for a in (days, volume_ml, focus_ml))
    assert days.shape == volume.shape == focus.shape and days.ndim == 1 and (np.diff(days) > 0).all()
    smallest = np.minimum.accumulate(volume)
    for i in range(1, len(days)):
        threshold = max(rule.volume_factor * smallest[i - 1], rule.measurable_ml)
        if volume[i] >= threshold:
            # the day before did not reach its own threshold, which was no lower: the volume rises through this one
            part = (threshold - volume[i - 1]) / (volume[i] - volume[i - 1])
            return float(days[i - 1] + (days[i] - days[i - 1]) * part), "volume"
        if focus[i] >= rule.measurable_ml:
            return float(days[i]), "focus"
    return float(days[-1]), ""


def new_focus(tumor, baseline) -> int:
    """Voxels of the largest new focus: a connected part of the tumor that neither overlaps nor touches the baseline's.

    tumor, baseline: (*S) bool; voxels connect at faces, edges and corners
    """
    tumor = np.asarray(tumor)
    box = []
    for axis in range(tumor.ndim):
        line = np.flatnonzero(tumor.any(axis=tuple(a for a in range(tumor.ndim) if a != axis)))
        if not line.size:
            return 0
        box.append(slice(max(0, int(line[0]) - 1), int(line[-1]) + 2))
    cube = np.ones((3,) * tumor.ndim, bool)
    parts, count = ndimage.label(tumor[tuple(box)], cube)
    size = np.bincount(parts.ravel(), minlength=count + 1)
    size[0] = 0
    size[np.unique(parts[ndimage.binary_dilation(baseline[tuple(box)], cube)])] = 0
    return int(size.max())
