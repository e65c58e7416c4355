"""THE interface of the engine: forecast and score. numpy in, numpy out.

Nothing here knows of files, of a scene or of a terminal. torch is imported when a forecast runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .plan import Plan


class ForecastError(ValueError):
    """An input that cannot be forecast; the text is the sentence the user reads."""


class Cancelled(Exception):
    """The caller's `cancelled()` said yes; nothing was returned."""


@dataclass(frozen=True)
class Forecast:
    """What comes back.

    days: (T,) reported days, the first is 0 (the input)
    labels: (T, *S) uint8, label values = indices into plan.anatomy.tissues
    volume_ml: (T, K) volume of each label on each day, millilitres
    tumor_probability: (T, *S) float16 sum of the tumor classes' probabilities, or None if not asked for
    spacing_mm: voxel size in the order of the array's axes
    plan: what was asked
    warnings: sentences for the user
    run: version, device, step, timings (seconds), what was clipped or assumed; JSON-able
    """

    days: np.ndarray
    labels: np.ndarray
    volume_ml: np.ndarray
    tumor_probability: np.ndarray | None
    spacing_mm: tuple[float, ...]
    plan: Plan
    warnings: tuple[str, ...] = ()
    run: dict = field(default_factory=dict)


def forecast(
    labels: np.ndarray,
    spacing_mm,
    plan: Plan,
    *,
    maps: Mapping[str, np.ndarray] | None = None,
    tensor: np.ndarray | None = None,
    weights: str | None = None,
    images: Mapping[str, np.ndarray] | None = None,
    device: str = "auto",
    probabilities: bool = False,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Forecast:
    """Forecasts the anatomy on every reported day of the plan.

    labels: (Y, X) or (Z, Y, X) whole numbers, indices into plan.anatomy.tissues
    spacing_mm: voxel size in mm, in the order of the array's axes (so (z, y, x) for a volume)
    maps: the arrays that the plan's treatments name (resection regions, dose in Gy), shape of labels
    device: "auto", "cpu" or "cuda"
    progress: called with a fraction in 0..1 and a text; cancelled: polled every step
    Raises ForecastError (a ValueError) for a user's mistake, Cancelled when told to stop.
    """
    raise NotImplementedError
