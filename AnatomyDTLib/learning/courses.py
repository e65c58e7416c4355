"""Simulated courses: on which days a patient is seen, what is given, and how far the tumor has come by then.

The growth law is not the project's: Gompertz instead of logistic growth, a drug whose effect saturates, and dead tumor
that is seen until it is cleared. numpy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..plan import Chemotherapy, Radiotherapy
from .cases import DataError

KINDS = ("none", "radiotherapy", "chemotherapy", "both")
_STEP_DAYS = 0.25

# What is drawn for a course. Short courses, so that a case has few events.
_FIRST_DAYS = (1, 8)                 # of the first fraction or dose after the visit before it
_FRACTIONS = (3, 5)
_DOSES_GY = (3.0, 4.0, 5.0, 6.0)
_DRUG_DOSES = (2, 4)
_DRUG_EVERY_DAYS = 7
_DRUG_STRENGTHS = (0.5, 1.0)
DRUG_PER_DAY = 0.2                   # within the 0.2 to 0.5 /d of temozolomide at the maximal dose (TumorTwin)
_DRUG_HALF_LIFE_DAY = 2.0


@dataclass(frozen=True)
class Courses:
    """Which visits and treatments a generator draws.

    visits: how many, the first on day 0
    interval_days: shortest and longest time between two visits; whole days are drawn
    treatments: of KINDS, drawn with the same chance
    courses: how many of the first intervals begin with a treatment of their own
    """

    visits: int = 2
    interval_days: tuple[int, int] = (30, 90)
    treatments: tuple[str, ...] = KINDS
    courses: int = 1

    def __post_init__(self):
        low_high = tuple(self.interval_days)
        if isinstance(self.visits, bool) or not isinstance(self.visits, int) or self.visits < 2:
            raise DataError(f"visits must be a whole number of at least 2, not {self.visits!r}")
        if len(low_high) != 2 or not all(isinstance(d, int) for d in low_high) or not 1 <= low_high[0] <= low_high[1]:
            raise DataError(
                f"interval_days must be a shortest and a longest whole number of days, not {self.interval_days!r}"
            )
        if not self.treatments or any(kind not in KINDS for kind in self.treatments):
            raise DataError(f"treatments must be some of {', '.join(KINDS)}, not {self.treatments!r}")
        object.__setattr__(self, "interval_days", low_high)
        object.__setattr__(self, "treatments", tuple(self.treatments))

    def draw(self, rng) -> tuple[tuple[float, ...], tuple]:
        """(days of the visits, treatments), from a random generator."""
        low, high = self.interval_days
        gaps = rng.integers(low, high + 1, self.visits - 1)
        days = tuple(float(d) for d in np.concatenate([[0], np.cumsum(gaps)]))
        treatments = []
        for day, gap in list(zip(days, gaps))[:self.courses]:
            kind = self.treatments[rng.integers(len(self.treatments))]
            fractions, gray = int(rng.integers(_FRACTIONS[0], _FRACTIONS[1] + 1)), float(rng.choice(_DOSES_GY))
            doses, strength = int(rng.integers(_DRUG_DOSES[0], _DRUG_DOSES[1] + 1)), float(rng.choice(_DRUG_STRENGTHS))
            starts = day + rng.integers(_FIRST_DAYS[0], _FIRST_DAYS[1] + 1, 2)
            if kind in ("radiotherapy", "both"):
                n = int(min(fractions, day + gap - starts[0]))
                if n > 0:
                    treatments.append(Radiotherapy(float(starts[0]), n, gray, weekdays_only=False))
            if kind in ("chemotherapy", "both"):
                given = [float(starts[1] + i * _DRUG_EVERY_DAYS) for i in range(doses)]
                given = tuple(d for d in given if d < day + gap)
                if given:
                    treatments.append(
                        Chemotherapy("simulated drug", given, DRUG_PER_DAY, _DRUG_HALF_LIFE_DAY, strength))
        return days, tuple(treatments)


@dataclass(frozen=True)
class GrowthLaw:
    """Gompertz growth with response to treatment, of the living volume V and the dead volume W that is still seen.

    dV/dt = g V ln(V_max / V) − k(c) V,   k(c) = k_d c (1 + h) / (c + h),   dW/dt = k(c) V − W / T
    a fraction of d Gy:  V -> S V,  W -> W + (1 − S) V,  S = exp(−(alpha d + beta d²))

    growth_per_day: g; largest_radius_mm: that of V_max
    alpha_per_gy, beta_per_gy2: alpha/beta 10 Gy (Rockne et al. 2010)
    half_effect: h, the concentration of half of the drug's largest effect, relative to one full dose; k_d is the drug's
        sensitivity_per_day, so that one full dose has that rate
    clearance_days: T
    """

    growth_per_day: float = 0.022
    largest_radius_mm: float = 26.0
    alpha_per_gy: float = 0.06
    beta_per_gy2: float = 0.006
    half_effect: float = 0.5
    clearance_days: float = 8.0

    def advances(self, radius_mm: float, days, treatments, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        """How far (mm) a tumor of that radius has advanced on each day, and the furthest it had come until then.

        R = (V + W)^(1/ndim) scaled to radius_mm on day 0. Surgery is not simulated.
        """
        # events stand on edges of the time grid, so that they are met exactly
        edges = {float(d): [] for d in days}
        drugs = [t for t in treatments if isinstance(t, Chemotherapy)]
        for t in treatments:
            assert isinstance(t, (Radiotherapy, Chemotherapy)), "simulated courses hold radiotherapy and chemotherapy"
            for i, day in enumerate(t.event_days()):
                edges.setdefault(float(day), []).append(
                    (None, self.alpha_per_gy * t.dose_gy + self.beta_per_gy2 * t.dose_gy**2)
                    if isinstance(t, Radiotherapy) else (drugs.index(t), t.doses[i]))
        for day in np.arange(0.0, float(days[-1]), _STEP_DAYS):
            edges.setdefault(float(day), [])
        x = ndim * math.log(radius_mm / self.largest_radius_mm)        # ln(V / V_max)
        dead, concentration = 0.0, [0.0] * len(drugs)
        start = math.exp(x)
        radii, furthest, most, before = {}, {}, 0.0, 0.0
        for day in sorted(edges):
            h = day - before
            middle = [c * math.exp(-math.log(2.0) * 0.5 * h / d.half_life_day) for d, c in zip(drugs, concentration)]
            kill = sum(
                d.sensitivity_per_day * c * (1.0 + self.half_effect) / (c + self.half_effect)
                for d, c in zip(drugs, middle)
            )
            living = math.exp(x)
            x = x * math.exp(-self.growth_per_day * h) - kill * h
            dead = (dead + kill * h * living) * math.exp(-h / self.clearance_days)
            concentration = [c * math.exp(-math.log(2.0) * h / d.half_life_day) for d, c in zip(drugs, concentration)]
            for drug, amount in edges[day]:
                if drug is None:
                    dead += math.exp(x) * (1.0 - math.exp(-amount))
                    x -= amount
                else:
                    concentration[drug] += amount
            advance = radius_mm * (((math.exp(x) + dead) / start) ** (1.0 / ndim) - 1.0)
            most = max(most, advance)
            radii[day], furthest[day] = advance, most
            before = day
        return np.array([radii[float(d)] for d in days]), np.array([furthest[float(d)] for d in days])
