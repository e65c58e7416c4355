"""Time: the grid of steps, events on its edges, the window that the solve runs in, checkpoints."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from .equation import CrossDiffusion, Stepper
from .jacobi import JacobiStepper
from .kernels import FastStepper
from .simplex import project
from .treatments import Drug, Irradiate, drug_kill

# Two days closer than this are one day.
DAY_TOLERANCE = 1e-6
# Where every moving class is below this, nothing is solved; it is a hundredth of what a solve on the whole
# domain may differ by.
NEGLIGIBLE = 1e-7
# One implicit step spreads like exp(−x / sqrt(D dt)): 18 such lengths reach down to 1.5e-8.
REACH = 18.0
# Up to this many steps, each is one checkpoint; beyond, checkpoints are nested.
FLAT_STEPS = 32
# Room that the window keeps in advance, mm, so that it is not moved at every step.
SLACK_MM = 8.0


@dataclass(frozen=True)
class Course:
    """What happens when. Events of one day are applied in the order given.

    events: (day, event) pairs; an event maps a state to a state (`Irradiate`, `Resect`)
    drugs: their concentrations kill continuously
    reported: days whose state is asked for, ascending; a reported day includes the events of that day,
        except day 0, which is the state as it came
    longest_step: days
    """

    reported: tuple[float, ...]
    longest_step: float
    events: tuple[tuple[float, Callable], ...] = ()
    drugs: tuple[Drug, ...] = ()

    def edges(self) -> list[float]:
        """Every day on which a step has to end, ascending, day 0 first."""
        last = self.reported[-1]
        days = {0.0, *self.reported, *(d for d, _ in self.events), *(d for drug in self.drugs for d in drug.days)}
        edges = []
        for day in sorted(d for d in days if d <= last + DAY_TOLERANCE):
            if not edges or day > edges[-1] + DAY_TOLERANCE:
                edges.append(day)
        return edges


def time_grid(edges: list[float], longest_step: float) -> list[tuple[float, float]]:
    """(start, end) of every step. No step crosses an edge.

    A stretch that needs more than one step gets an even number of equal ones: each pair is symmetric, and
    a step left over would cost an order.
    """
    steps = []
    for start, end in zip(edges, edges[1:]):
        count = max(1, math.ceil((end - start) / longest_step - 1e-9))
        count += count % 2 if count > 1 else 0
        length = (end - start) / count
        steps += [(start + i * length, start + (i + 1) * length if i + 1 < count else end) for i in range(count)]
    return steps


def longest_stable_step(equation: CrossDiffusion) -> float:
    """The default longest step of an equation, days (`longest_step`)."""
    d = equation.diffusivity.detach().abs()
    fastest = [
        max(float(equation.along(k, axis).detach().abs().max()) for k in range(equation.classes)) if d.numel() else 0.0
        for axis in range(equation.ndim)
    ]
    rho = 0.0 if equation.rho is None else float(equation.rho.detach().abs().max())
    return longest_step(fastest, rho, equation.spacing)


def longest_step(diffusivity, rho: float, spacing) -> float:
    """Second order (λ = D dt/h² ≤ 1 on every axis) and rho dt ≤ 0.1, at most 5 days, at least a quarter of one.

    diffusivity: the largest D along each axis, mm²/day; rho: the largest rate, 1/day; spacing: mm
    The scheme is stable at any step; this one keeps the tumor within DSC 0.99 of a step of 0.25 days.
    """
    limits = [5.0, *(h * h / d for d, h in zip(diffusivity, spacing) if d > 0)]
    if rho > 0:
        limits.append(0.1 / rho)
    return max(round(min(limits), 6), 0.25)


def integrate(
    p: torch.Tensor,
    equation: CrossDiffusion,
    course: Course,
    *,
    residual: Callable | None = None,
    window: bool = True,
    scheme: str = "lod",
    sweeps: int = 4,
    omega: float = 0.9,
    report: Callable[[float, torch.Tensor, tuple[slice, ...]], None] | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[list[torch.Tensor], dict]:
    """Evolves p through the course.

    p: (B, K, *S) on the simplex, day 0
    residual: learned rates, residual(p, start, dt) -> (B, K, *S), 1/day
    window: solve only where something can change (without gradients and residual; the result equals the solve
        on the whole domain to 1e-5); with gradients, steps are checkpointed instead
    scheme: "lod", or "jacobi" (the paper's, with `sweeps` of relaxation factor `omega`), for comparison
    report: called as report(day, state, box) on every reported day, with the state inside the box (slices of
        the spatial axes) that may differ from the last report; without it the states are returned
    Returns the reported states (empty with `report`) and what ran: steps, largest projection, box.
    Raises InterruptedError when cancelled() says yes.
    """
    gradients = torch.is_grad_enabled()
    if scheme not in ("lod", "jacobi"):
        raise ValueError(f"scheme is 'lod' or 'jacobi', not {scheme!r}")
    lod = Stepper if gradients else FastStepper
    make = lod if scheme == "lod" else partial(JacobiStepper, sweeps=sweeps, omega=omega)
    run = _Differentiable if gradients else _Windowed
    walk = run(p, equation, course, residual, make, window and residual is None and scheme == "lod")
    states: list[torch.Tensor] = []

    def deliver(day):
        if report is None:
            states.append(walk.state())
        else:
            report(day, *walk.part())

    grid = time_grid(course.edges(), course.longest_step)
    reported = list(course.reported)
    if reported and reported[0] <= DAY_TOLERANCE:
        deliver(reported.pop(0))
    walk.strike(0.0)
    for index, (start, end) in enumerate(grid):
        if cancelled is not None and cancelled():
            raise InterruptedError("cancelled")
        walk.advance(start, end, reverse=index % 2 == 1)
        walk.strike(end)
        if reported and end >= reported[0] - DAY_TOLERANCE:
            deliver(reported.pop(0))
        if progress is not None:
            progress((index + 1) / len(grid), end)
    return states, {"steps": len(grid), "projected": walk.projected(), "window": walk.described()}


def _treated(course: Course, classes: int) -> set[int]:
    """Classes that radiation or a drug acts on: they change even where they neither move nor grow."""
    fractions = [event for _, event in course.events if isinstance(event, Irradiate)]
    return {
        k for k in range(classes)
        if any(event.acts_on(k) for event in fractions) or any(float(drug.sensitivity[k]) > 0 for drug in course.drugs)
    }


def _return_freed_memory() -> None:
    """Gives the pages of freed blocks back to the system, where the C library can.

    glibc before 2.38 does not fit an aligned block into a freed one of its own size: without this, the backward pass of a
    225-day course on 64³ voxels held 6.3 GB, nearly all of it holes.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _checkpointed(stage, p):
    return checkpoint(stage, p, use_reentrant=False, preserve_rng_state=False)


class _Differentiable:
    """The whole domain, checkpointed: no step's graph is kept, and of a long course about √n states at a time.

    Of n steps, runs of √n are a checkpoint, and within a run that is computed again every step is one: three forward
    passes in place of two, for 2√n states in place of n.
    """

    def __init__(self, p, equation, course, residual, make, window):
        self.p, self.course, self.residual = p, course, residual
        self.stepper = make(equation)
        steps = len(time_grid(course.edges(), course.longest_step))
        self.run = 1 if steps <= FLAT_STEPS else math.isqrt(steps)
        self.pending: list[Callable] = []

    def state(self):
        self._run()
        return self.p

    def part(self):
        return self.state(), (slice(None),) * (self.p.dim() - 2)

    def strike(self, day):
        self.pending += [event for when, event in self.course.events if abs(when - day) <= DAY_TOLERANCE]

    def advance(self, start, end, reverse):
        def one(p):
            if self.run > 1:
                _return_freed_memory()
            kill = drug_kill(self.course.drugs, start, end)
            rates = None if self.residual is None else self.residual(p, start, end - start)
            return self.stepper.step(p, end - start, reverse=reverse, kill=kill, residual=rates)

        self.pending.append(one)
        if len(self.pending) >= self.run:
            self._run()

    def _run(self):
        stages, self.pending = self.pending, []

        def through(p):
            for stage in stages:
                p = _checkpointed(stage, p)
            return p

        self.p = through(self.p) if len(stages) < 2 else _checkpointed(through, self.p)

    def projected(self):
        return self.stepper.projected

    def described(self):
        return "whole domain"


class _Windowed:
    """The box where a moving class is present, with the reach of a step around it; it grows as they do."""

    def __init__(self, p, equation, course, residual, make, window):
        self.make = make
        self.full, self.equation, self.course, self.residual = p.clone(), equation, course, residual
        self.whole = tuple(slice(0, n) for n in p.shape[2:])
        probe = Stepper(equation)
        self.moving = sorted({*probe._movers, *probe._growing, *probe._atrophic, *_treated(course, p.shape[1])})
        if equation.mass_effect is not None:
            self.moving = [k for k in range(p.shape[1]) if k not in equation.mass_effect.still]
        self.largest = 0.0
        self.fixed = not window
        dt = course.longest_step
        rate = float(equation.diffusivity.abs().max()) if equation.diffusivity.numel() else 0.0
        if equation.chi is not None:
            rate += float(equation.chi.abs().max())
        reach_mm = REACH * math.sqrt(rate * dt)
        self.reach = tuple(max(2, math.ceil(reach_mm / h)) for h in equation.spacing)
        self.slack = tuple(math.ceil(SLACK_MM / h) for h in equation.spacing)
        self.changed = None
        self._open(self.whole if self.fixed else self._around(self.full, (0,) * len(self.whole)))

    def _around(self, p, offset):
        """Bounds of what moves, in the whole domain, without reach; None where nothing moves."""
        present = (p[:, self.moving] > NEGLIGIBLE).flatten(0, 1).any(0) if self.moving else None
        if present is None or not bool(present.any()):
            return None
        bounds = []
        for axis in range(present.dim()):
            others = tuple(a for a in range(present.dim()) if a != axis)
            line = present.any(dim=others) if others else present
            hits = line.nonzero()
            bounds.append((offset[axis] + int(hits[0]), offset[axis] + int(hits[-1]) + 1))
        return bounds

    def _open(self, bounds):
        """Moves the window to cover the bounds with their reach and some slack."""
        if bounds is None:
            self.box = None
            return
        if bounds is self.whole:
            box = self.whole
        else:
            box = tuple(
                slice(max(0, low - r - s), min(w.stop, high + r + s))
                for (low, high), r, s, w in zip(bounds, self.reach, self.slack, self.whole)
            )
        self.box = box
        self.q = self.full[(..., *box)].clone()
        self.stepper = self.make(self.equation.cropped(box))
        grown = self.changed or box
        self.changed = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(grown, box))

    def _close(self):
        if self.box is not None:
            self.q, change = project(self.q)
            self.stepper.projected = max(self.stepper.projected, change)
            self.full[(..., *self.box)] = self.q
            self.largest = max(self.largest, self.stepper.projected)

    def state(self):
        self._close()
        return self.full.clone()

    def part(self):
        self._close()
        box = self.changed or tuple(slice(0, 0) for _ in self.whole)
        return self.full[(..., *box)], box

    def strike(self, day):
        due = [event for when, event in self.course.events if abs(when - day) <= DAY_TOLERANCE]
        for event in due:
            if not isinstance(event, Irradiate):
                self._close()
                before = self.full
                self.full = event(before)
                touched = (self.full != before).flatten(0, 1).any(0)
                self.box = None
                self._widen(touched)
                self._open(self.whole if self.fixed else self._around(self.full, (0,) * len(self.whole)))
            elif self.box is not None:
                self.q = event.cropped(self.box)(self.q)
                if not all(self.stepper.confined(k) for k in range(self.equation.classes)):
                    self.stepper.forget()

    def _widen(self, touched):
        """Adds what an event touched to what the next report covers."""
        if not bool(touched.any()):
            return
        spans = []
        for axis in range(touched.dim()):
            hits = touched.any(dim=tuple(a for a in range(touched.dim()) if a != axis)).nonzero() if touched.dim() > 1 else touched.nonzero()
            spans.append(slice(int(hits[0]), int(hits[-1]) + 1))
        old = self.changed or tuple(spans)
        self.changed = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(old, spans))

    def advance(self, start, end, reverse):
        if self.box is None:
            return
        kill = drug_kill(self.course.drugs, start, end)
        rates = None if self.residual is None else self.residual(self.q, start, end - start)
        self.q = self.stepper.step(self.q, round(end - start, 9), reverse=reverse, kill=kill, residual=rates)
        if self.box == self.whole:
            return
        bounds = self._around(self.q, tuple(s.start for s in self.box))
        if bounds is None:
            return
        for (low, high), reach, span, whole in zip(bounds, self.reach, self.box, self.whole):
            if max(0, low - reach) < span.start or min(whole.stop, high + reach) > span.stop:
                self._close()
                self._open(bounds)
                return

    def projected(self):
        return max(self.largest, self.stepper.projected if self.box is not None else 0.0)

    def described(self):
        return "nothing moves" if self.box is None else [[s.start, s.stop] for s in self.box]
