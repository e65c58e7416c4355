"""What a twin's uncertainty means for its forecast: many draws of the parameters run side by side.

Each member is one draw of the fitted parameters from their posterior, and of a sensitivity that was never observed from
its prior (`Twin.sample`). The probability of tumor in a voxel is the part of the members that draw it there. The
members share the grid of steps and of voxels, so that 20 cost a few forecasts (docs/twin.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..plan import Plan
from .parameters import applied
from .shares import drawn
from .tumor import TumorModel, why_not
from .twin import Twin

# Memory that the members of one batch may take, bytes; and what a voxel of one member takes, in numbers of 4 bytes.
BATCH_BYTES, NUMBERS_PER_VOXEL = 6e8, 60


@dataclass(frozen=True)
class Ensemble:
    """The forecast of M members on T days, day 0 first.

    days: (T,); values: the members' parameters, name -> v
    probability: (T, *S) float32, part of the members in which the voxel is drawn as tumor
    volume_ml: (M, T) of the drawn tumor; cells_ml: (M, T) tumor cells as the volume that they would fill
    """

    days: np.ndarray
    values: list
    probability: np.ndarray
    volume_ml: np.ndarray
    cells_ml: np.ndarray
    spacing_mm: tuple[float, ...]
    plan: Plan

    def band(self, level: float = 0.8, cells: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(low, median, high) of the volume on each day, mL: the central interval of this probability."""
        tail = (1.0 - level) / 2.0
        # of ranks with a member's weight to either side (Hazen): the extremes of 20 are not the 0 and 100 % of the
        # posterior
        low, middle, high = np.quantile(
            self.cells_ml if cells else self.volume_ml, (tail, 0.5, 1.0 - tail), axis=0, method="hazen"
        )
        return low, middle, high

    def days_to(self, volume_ml: float, level: float = 0.8) -> tuple[float, float, float]:
        """(early, median, late): days until the drawn tumor first has this volume; infinite where it is not within the
        horizon."""
        reached = sorted(first_day(self.days, row, volume_ml) for row in self.volume_ml)
        tail = (1.0 - level) / 2.0
        return tuple(_at_rank(reached, q) for q in (tail, 0.5, 1.0 - tail))


def _at_rank(ascending, q: float) -> float:
    """The quantile by the rule of `Ensemble.band`, rank q n + ½ (Hazen); infinite where it leans on an infinite one."""
    rank = min(max(round(q * len(ascending) + 0.5, 9), 1.0), float(len(ascending)))
    low, part = ascending[int(rank) - 1], rank - int(rank)
    return float(low if part == 0.0 else low + part * (ascending[int(rank)] - low))


def first_day(days, volume_ml, target_ml: float) -> float:
    """The first day on which a course of volumes is at least the target, straight between days; infinite where
    never."""
    for i, volume in enumerate(volume_ml):
        if volume >= target_ml:
            if i == 0:
                return float(days[0])
            before = volume_ml[i - 1]
            return float(days[i - 1] + (days[i] - days[i - 1]) * (target_ml - before) / (volume - before))
    return math.inf


def ensemble(
    twin: Twin,
    labels,
    spacing_mm,
    plan: Plan | None = None,
    maps=None,
    *,
    members: int = 20,
    seed: int = 0,
    progress=None,
    cancelled=None,
) -> Ensemble:
    """Runs `members` draws of a twin. labels: its baseline; plan: other treatments and days; None: the twin's own.

    Raises CalibrationError for another patient's labels, InterruptedError when cancelled() says yes.
    """
    import torch

    twin.check_patient(labels, spacing_mm)
    plan = twin.plan if plan is None else plan
    values = twin.sample(members, seed, plan)
    labels = np.asarray(labels)
    tumors = plan.anatomy.tumors
    days = plan.reported_days
    voxel_ml = math.prod(spacing_mm) / 1000.0
    probability = np.zeros((len(days), *labels.shape), np.float32)
    volume, cells = np.zeros((members, len(days))), np.zeros((members, len(days)))
    probability[0] = np.isin(labels, tumors)
    volume[:, 0] = probability[0].sum() * voxel_ml
    if why_not(plan, labels) is not None:
        return _one_by_one(
            twin, plan, labels, spacing_mm, maps, values, probability, volume, cells, progress, cancelled
        )

    model = TumorModel(labels, spacing_mm, plan, maps)
    visibility = plan.anatomy.tissues[model.k].visibility
    size = max(1, min(members, int(BATCH_BYTES / (4 * NUMBERS_PER_VOXEL * labels.size))))
    size = math.ceil(members / math.ceil(members / size))
    for first in range(0, members, size):
        batch = slice(first, min(members, first + size))

        def report(t, shares, batch=batch):
            cells[batch, t] = (shares.u[0] * shares.room).flatten(1).sum(1, dtype=torch.float64).numpy() * voxel_ml
            if t:
                shown = drawn(shares, visibility)
                volume[batch, t] = shown.flatten(1).sum(1).numpy() * voxel_ml
                probability[t][shares.box] += shown.sum(0).numpy() / np.float32(members)

        def told(fraction, day, first=first, batch=batch):
            if progress is not None:
                progress(
                    (first + fraction * (batch.stop - first)) / members,
                    f"members {first + 1} to {batch.stop} of {members}, day {day:.4g}",
                )

        model.run(values[batch], days, report=report, progress=told, cancelled=cancelled)
    return Ensemble(np.array(days), values, probability, volume, cells, tuple(float(h) for h in spacing_mm), plan)


def _one_by_one(
    twin, plan, labels, spacing_mm, maps, values, probability, volume, cells, progress, cancelled
) -> Ensemble:
    """Members in turn, for a plan that more than one tumor class takes part in."""
    import torch

    from ..physics.assembly import assemble
    from ..physics.stepping import integrate
    from ..state import labels_of

    tumors = list(plan.anatomy.tumors)
    voxel_ml = math.prod(spacing_mm) / 1000.0
    for m, drawn_values in enumerate(values):
        personal = applied(plan, drawn_values)
        with torch.no_grad():
            p, equation, course = assemble(personal, labels, spacing_mm, maps or {})
            shown, density, t = labels.copy(), p[0, tumors].sum(0).numpy().copy(), [0]

            def report(day, state, box):
                if day > 0:
                    shown[box] = labels_of(state[0].numpy(), personal.anatomy)
                density[box] = state[0, tumors].sum(0).numpy()
                cells[m, t[0]] = density.sum(dtype=np.float64) * voxel_ml
                if day > 0:
                    seen = np.isin(shown, tumors)
                    volume[m, t[0]] = seen.sum() * voxel_ml
                    probability[t[0]] += seen / np.float32(len(values))
                t[0] += 1

            def told(fraction, day, m=m):
                if progress is not None:
                    progress((m + fraction) / len(values), f"member {m + 1} of {len(values)}, day {day:.4g}")

            integrate(p, equation, course, report=report, progress=told, cancelled=cancelled)
    return Ensemble(
        np.array(plan.reported_days), values, probability, volume, cells, tuple(float(h) for h in spacing_mm), plan
    )
