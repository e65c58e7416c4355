"""What several patients' fits say of the next patient: a prior of his parameters from theirs.

With x_i the fitted coordinates (`parameters.Parameter`) of N patients and C_i the covariance of each after its fit, the
next patient's x is taken as normal with

    mean  m = Σ x_i / N,    covariance  S (1 + 1/N) + Σ C_i / N,    S = Σ (x_i − m)(x_i − m)ᵀ / (N − 1)

the first two moments of the mixture of their posteriors (law of total variance), and S/N for the mean itself being
known from N patients only. The two-stage method of population modelling, with the bias that it has: what a fit took
from its own prior is counted as if it had been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .parameters import CalibrationError, Parameter
from .twin import root


@dataclass(frozen=True)
class Population:
    """parameters: n of them; mean: (n,), covariance: (n, n), in their coordinates x; patients: how many made it."""

    parameters: tuple[Parameter, ...]
    mean: np.ndarray
    covariance: np.ndarray
    patients: int

    @property
    def values(self) -> dict[str, float]:
        """name -> v of the middle of the prior."""
        return {p.name: p.value(x) for p, x in zip(self.parameters, self.mean)}

    def interval(self, name: str, sigmas: float) -> tuple[float, float]:
        """(low, high) of v."""
        i = [p.name for p in self.parameters].index(name)
        away = sigmas * math.sqrt(self.covariance[i, i])
        return self.parameters[i].value(self.mean[i] - away), self.parameters[i].value(self.mean[i] + away)

    def sample(self, n: int, seed: int = 0) -> list[dict[str, float]]:
        """n draws, name -> v, within the bounds (scrambled Sobol points, as `Twin.sample`)."""
        from scipy.stats import norm, qmc

        assert n > 0
        points = qmc.Sobol(len(self.mean), scramble=True, seed=seed).random_base2(max(1, math.ceil(math.log2(n))))[:n]
        x = self.mean + norm.ppf(np.clip(points, 1e-9, 1 - 1e-9)) @ root(self.covariance).T
        return [{p.name: p.value(v) for p, v in zip(self.parameters, row)} for row in x]


def population(fits: Sequence[tuple[np.ndarray, np.ndarray]], parameters: Sequence[Parameter]) -> Population:
    """The prior from the fits (x_i (n,), C_i (n, n)) of at least two patients; raises CalibrationError for fewer."""
    if len(fits) < 2:
        raise CalibrationError(f"a prior of a population needs the fits of at least two patients, not {len(fits)}")
    x = np.array([f[0] for f in fits], float)
    within = np.mean([f[1] for f in fits], axis=0)
    away = x - x.mean(axis=0)
    between = away.T @ away / (len(x) - 1)
    return Population(tuple(parameters), x.mean(axis=0), between * (1 + 1 / len(x)) + within, len(x))


def of_twins(twins: Sequence) -> Population:
    """The prior from the twins of several patients that were fitted in the same parameters."""
    if any(t.names != twins[0].names for t in twins):
        raise CalibrationError("the twins were fitted in different parameters; calibrate all with the same ones")
    fits = [(np.array([f.parameter.coordinate(f.value) for f in t.parameters]), np.array(t.covariance)) for t in twins]
    return population(fits, [f.parameter for f in twins[0].parameters] if twins else ())
