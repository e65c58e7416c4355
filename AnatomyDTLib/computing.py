"""How a forecast is computed once its inputs are accepted: by the equation or by a trained twin, day by day into a `Forecast`."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from . import __version__
from .plan import Plan
from .refusals import ForecastError


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
    tumor_cells_ml: (T,) tumor cells as the volume that they would fill at full density, Σ p × voxel over the tumor
        classes: above 0 where volume_ml shows none because the density is below the visibility everywhere
    """

    days: np.ndarray
    labels: np.ndarray
    volume_ml: np.ndarray
    tumor_probability: np.ndarray | None
    spacing_mm: tuple[float, ...]
    plan: Plan
    warnings: tuple[str, ...] = ()
    run: dict = field(default_factory=dict)
    tumor_cells_ml: np.ndarray | None = None


def run(request, device, probabilities, progress, cancelled, warnings) -> Forecast:
    """request: (labels, spacing_mm, plan, maps, tensor, (twin, its images) or None, (growth network, its images) or None), all accepted.

    Raises ForecastError, Cancelled, and MemoryError where there is too little of it.
    """
    twin, network = request[-2:]
    computed = _computed if twin is None else _computed_by_twin
    if device != "cpu" or twin is not None or network is not None:
        # A network is worth its threads.
        return computed(request, device, probabilities, progress, cancelled, warnings)
    # What a full memory means, `forecast` decides: on a graphics card it is tried again.
    with one_thread("forecast"):
        return computed(request, device, probabilities, progress, cancelled, warnings)


@contextmanager
def one_thread(what: str, remedy: str | None = None):
    """Computes on one thread, and says in words why it ended: cancelled, or, with a remedy, for want of memory.

    A step is thousands of small operations: on a desk where something else runs, threads that wait for each other made the
    sample's forecast take 180 CPU seconds instead of 14.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    except InterruptedError:
        raise Cancelled(f"the {what} was cancelled") from None
    except MemoryError:
        if remedy is None:
            raise
        raise ForecastError(f"there is not enough memory for this {what}: {remedy}") from None
    finally:
        torch.set_num_threads(threads)


class _Frames:
    """What is reported, day by day, until it is a `Forecast`."""

    def __init__(self, plan: Plan, shape, spacing_mm, probabilities: bool):
        self._plan, self._spacing_mm = plan, spacing_mm
        self._labels = np.empty((len(plan.reported_days), *shape), np.uint8)
        self._tumor = np.zeros(self._labels.shape, np.float16) if probabilities else None
        self._cells: list[float] = []

    def add(self, labels, density) -> None:
        """The next reported day: labels (*S), and the tumor's probability (*S)."""
        day = len(self._cells)
        self._labels[day] = labels
        if self._tumor is not None:
            self._tumor[day] = density
        self._cells.append(float(density.sum(dtype=np.float64)))

    def forecast(self, device: str, warnings, run: dict) -> Forecast:
        import torch

        plan = self._plan
        assert len(self._cells) == len(self._labels), "every reported day has its frame"
        counts = np.stack([np.bincount(frame.ravel(), minlength=len(plan.anatomy)) for frame in self._labels])
        voxel_ml = math.prod(self._spacing_mm) / 1000.0  # a 2D voxel counts as 1 mm thick
        run = {
            "version": __version__, "torch": torch.__version__, "device": _device_name(device, torch),
            "threads": torch.get_num_threads(), **run,
        }
        return Forecast(
            np.array(plan.reported_days), self._labels, counts * voxel_ml, self._tumor, self._spacing_mm, plan, tuple(warnings), run,
            np.array(self._cells) * voxel_ml,
        )


def _computed(request, device, probabilities, progress, cancelled, warnings) -> Forecast:
    import torch

    from .physics.assembly import assemble
    from .physics.stepping import integrate
    from .state import labels_of

    labels, spacing_mm, plan, maps, tensor, _, network = request
    began = time.perf_counter()
    if progress is not None:
        progress(0.0, "preparing")
    with torch.no_grad():
        p, equation, course = assemble(plan, labels, spacing_mm, maps, tensor, device)
        residual = None if network is None else _residual(*network, course, spacing_mm, device)
        prepared = time.perf_counter()
        tumors = list(plan.anatomy.tumors)
        frames = _Frames(plan, labels.shape, spacing_mm, probabilities)
        density = p[0, tumors].sum(0).cpu().numpy()
        current = labels.copy()

        def report(day, state, box):
            if not bool(torch.isfinite(state.sum())):
                raise ForecastError(f"the numbers of this plan overflow before day {day:g}; check its rates, doses and diffusivities")
            if day > 0:
                current[box] = labels_of(state[0].cpu().numpy(), plan.anatomy)
            density[box] = state[0, tumors].sum(0).cpu().numpy()
            frames.add(current, density)

        def told(fraction, day):
            if progress is not None:
                progress(fraction, f"day {day:.4g} of {plan.days[-1]:.4g}")

        try:
            _, ran = integrate(p, equation, course, residual=residual, report=report, progress=told, cancelled=cancelled)
        except InterruptedError:
            raise Cancelled("the forecast was cancelled") from None
    run = {
        "longest_step_days": course.longest_step, **ran,
        "seconds_preparing": round(prepared - began, 3), "seconds_solving": round(time.perf_counter() - prepared, 3),
    }
    return frames.forecast(device, warnings, run)


def _computed_by_twin(request, device, probabilities, progress, cancelled, warnings) -> Forecast:
    from .learning import forecasting

    labels, spacing_mm, plan, maps, _, twin, _ = request
    began = time.perf_counter()
    if progress is not None:
        progress(0.0, "preparing")

    def told(fraction):
        if cancelled is not None and cancelled():
            raise Cancelled("the forecast was cancelled")
        if progress is not None:
            progress(fraction, f"day {fraction * plan.days[-1]:.4g} of {plan.days[-1]:.4g}")

    frames = _Frames(plan, labels.shape, spacing_mm, probabilities)
    for frame, density in forecasting.forecast(*twin, labels, spacing_mm, plan, maps, device, told):
        frames.add(frame, density)
    run = {
        "model": "trained twin", "longest_step_days": forecasting.LONGEST_STEP_DAYS, "seconds_solving": round(time.perf_counter() - began, 3),
    }
    return frames.forecast(device, warnings, run)


def _residual(network, images, course, spacing_mm, device):
    """The network as the solver calls it: rates at the start of a step."""
    from .learning.growth import exposure

    network = network.to(device)
    images = None if images is None else images.to(device)

    def rates(p, start, dt):
        return network(p, exposure(course, start, dt).to(p), images, spacing_mm=spacing_mm)

    return rates


def _device_name(device: str, torch) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"
