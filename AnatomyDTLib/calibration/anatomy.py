"""The twin of a whole anatomy without a tumor: every tissue grows at a rate of its own and pushes the others aside.

    ∂ₜ p_k = g_k p_k − ∇·(p_k v),   v = −A ∇P,   Σ_k p_k = 1   ⇒   ∇·v = Σ_k g_k p_k

Eq. 2 with linear growth in place of the logistic one (a brain that grows has no capacity within weeks) and with the
pressure of `physics.pressure` as the cross-diffusion between all classes: what grows carries its neighbours along, and
the surroundings (class 0) drain and give the room. In the exact model V_k(t) = V_k(0) exp(g_k t), so the rates are told
by the volumes of the visits; where a tissue lies is told by the last visit and by what has pushed it since. What the
model cannot say: a shape that changes other than by growth and pressure (folding, an operation), a rate that changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..state import smooth_field

SURROUNDINGS = 0
STEP_DAYS = 2.0
WIDTH_MM = 1.0
PRESSURE_MM = 2.0
# The surroundings are moved this far beyond the anatomy and what it grows into, mm.
ROOM_MM = 12.0
CORRECTIONS = 2


@dataclass(frozen=True)
class TissueGrowth:
    """Fitted growth of the tissues of an anatomy.

    rates_per_day: (K,) g_k, 0 for the surroundings and for a tissue that was not there at every visit
    spreads: (K,) standard error of each from how far the visits' volumes lie from an exponential; NaN with two visits
    """

    rates_per_day: np.ndarray
    spreads: np.ndarray


def volumes_of(labels, classes: int, spacing_mm) -> np.ndarray:
    """(K,) mL of each label value."""
    return np.bincount(np.asarray(labels).ravel(), minlength=classes) * math.prod(spacing_mm) / 1000.0


def fit_growth(
    visits: Sequence[tuple[float, np.ndarray]], spacing_mm, classes: int, *, corrections: int = CORRECTIONS,
    cancelled=None,
) -> TissueGrowth:
    """The growth rates with which the first visit, grown through the solver, comes closest to the volumes of all.

    visits: (day, (*S) labels in 0..classes − 1), two or more, days ascending; spacing_mm: in the order of the axes
    min over g_k of Σ_i (ln V_k(day_i) − ln V_k^obs,i)², the first visit's volume free, by `corrections` Newton steps
    from the regression line of ln V on the day; the Jacobian of ln V_k is the day itself, as what a thin tissue loses
    on the grid hardly depends on the rates. The rates thus include what makes up for that loss.
    """
    days = np.array([day for day, _ in visits], float)
    assert len(visits) >= 2 and (np.diff(days) > 0).all()
    observed = np.array([volumes_of(labels, classes, spacing_mm) for _, labels in visits])
    told = (observed > 0).all(axis=0)
    told[SURROUNDINGS] = False
    logs = np.log(np.where(told, observed, 1.0))
    rates = np.where(told, _slope(days, logs), 0.0)
    for _ in range(corrections):
        grown = grow(visits[0][1], spacing_mm, rates, days[1:] - days[0], cancelled=cancelled)
        reached = np.array([observed[0], *(volumes_of(labels, classes, spacing_mm) for labels in grown)])
        there = told & (reached > 0).all(axis=0)
        rates = rates + np.where(there, _slope(days, logs - np.log(np.where(there, reached, 1.0))), 0.0)
    line = logs.mean(axis=0) + (days - days.mean())[:, None] * _slope(days, logs)
    free = len(days) - 2
    spreads = np.full(classes, math.nan)
    if free > 0:
        spreads = np.sqrt(((logs - line) ** 2).sum(axis=0) / free / ((days - days.mean()) ** 2).sum())
    return TissueGrowth(rates, np.where(told, spreads, math.nan))


def grow(
    labels, spacing_mm, rates_per_day, days, *, width_mm: float = WIDTH_MM, step_days: float = STEP_DAYS,
    cancelled: Callable[[], bool] | None = None,
) -> list[np.ndarray]:
    """The labels (*S) uint8 on each of `days` (ascending, above 0) after the visit that `labels` shows.

    labels: (*S) whole numbers in 0..K − 1, 0 the surroundings; rates_per_day: (K,), that of the surroundings unused
    width_mm: of the interfaces of the state (`state.smooth_field`); step_days: longest step
    Raises InterruptedError when cancelled() says yes.
    """
    import torch

    from ..physics.pressure import MassEffect

    labels = np.asarray(labels)
    rates = np.array(rates_per_day, np.float64)
    assert len(days) and days[0] > 0 and (np.diff(days) > 0).all()
    box = _room(labels > 0, spacing_mm, float(rates.max()) * days[-1])
    rates[SURROUNDINGS] = 0.0
    push = MassEffect(1.0, (), (SURROUNDINGS,), tuple(float(h) for h in spacing_mm), PRESSURE_MM)
    frames, day = [], 0.0
    with torch.no_grad():
        p = torch.from_numpy(smooth_field(labels[box], len(rates), spacing_mm, width_mm))[None]
        for until in days:
            steps = max(1, math.ceil((until - day) / step_days - 1e-9))
            factor = torch.from_numpy(np.exp(rates * (until - day) / steps)).to(p.dtype)
            factor = factor.reshape(1, -1, *(1,) * labels.ndim)
            for _ in range(steps):
                if cancelled is not None and cancelled():
                    raise InterruptedError("cancelled")
                p = push.push(p * factor)
            day = float(until)
            frame = np.zeros(labels.shape, np.uint8)
            frame[box] = p[0].argmax(0).numpy()
            frames.append(frame)
    return frames


def _slope(days, values):
    """(K,) slope of the regression lines of the columns of (T, K) values on the days."""
    centred = days - days.mean()
    return centred @ (values - values.mean(axis=0)) / (centred @ centred)


def _room(mask, spacing_mm, growth: float):
    """Slices around the anatomy with room for it to grow by a factor exp(growth) in volume."""
    box = []
    for axis, h in enumerate(spacing_mm):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        first, last = (int(line[0]), int(line[-1])) if line.size else (0, mask.shape[axis] - 1)
        wider = 0.5 * (last - first + 1) * (math.exp(max(growth, 0.0)) - 1.0)
        n = math.ceil(wider + ROOM_MM / h)
        box.append(slice(max(0, first - n), last + 1 + n))
    return tuple(box)
