"""The whole state with derivatives, for plans that one tumor class alone does not describe: cross-diffusion, mass
effect, edema beside the solid tumor, tissue that grows or wastes, what dies outside of what gives way.

Runs like `TumorModel`, with the engine's own solver: forward-mode derivatives (a tangent of every step, exact) through
`physics.stepping.integrate`, one pass per parameter, on the box of the tumor with room to grow. It costs some ten times
as much; how a parameter changes the baseline's field and the equation's numbers is a central difference, which is all
that is not exact.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch.autograd import forward_ad

from ..physics.assembly import assemble
from ..physics.stepping import DAY_TOLERANCE, integrate
from ..plan import Plan
from ..state import grown_box
from .parameters import CAPACITY, Parameter, applied
from .shares import Grid, Shares

# Room around the tumor of every visit, mm: what an infiltrating tail needs.
ROOM_MM = 25.0
# Of the coordinates, for the differences of the baseline's field and of the numbers that a plan's value becomes.
STEP = 1e-3


class GeneralModel:
    """A plan's first tumor class among all of its tissues, for any values of its parameters.

    redraws: whether `run` starts from another outline of the baseline's tumor when told to
    labels: (*S) indices into plan.anatomy.tissues; reach: (*S) bool, where any visit shows a tumor; maps: of the
        treatments
    """

    redraws = False

    def __init__(self, labels, spacing_mm, plan: Plan, maps=None, reach=None, dtype=torch.float32):
        self.labels, self.plan, self.dtype = np.asarray(labels), plan, dtype
        self.spacing_mm = tuple(float(h) for h in spacing_mm)
        self.maps = {name: np.asarray(values) for name, values in (maps or {}).items()}
        self.k = next(k for k in plan.anatomy.tumors if (self.labels == k).any())
        self.group = [self.k, *plan.anatomy.yields(self.k)]
        seen = np.isin(self.labels, plan.anatomy.tumors) | (False if reach is None else reach)
        if plan.mass_effect > 0:
            seen = np.ones(self.labels.shape, bool)  # what gives room to a mass may lie far from it
        self.box = tuple(
            slice(max(0, s.start), min(n, s.stop))
            for s, n in zip(grown_box(seen, ROOM_MM, self.spacing_mm), self.labels.shape)
        )
        empty = np.zeros(self.labels.shape, np.float32)
        self.fine = Grid((1,) * self.labels.ndim, self.spacing_mm, empty, empty, empty, empty, {})

    def coarse(self, edge_mm: float) -> Grid:
        return self.fine

    def run(
        self, members, days, grid=None, columns=(), report=None, progress=None, cancelled=None
    ) -> list[Shares]:
        """As `TumorModel.run`, for one member."""
        assert len(members) == 1
        values = members[0]
        passes = [None, *columns]
        results: list[list[torch.Tensor]] = []
        for index, column in enumerate(passes):

            def told(fraction, day, index=index):
                if progress is not None:
                    progress((index + fraction) / len(passes), day)

            results.append(self._pass(values, column, days, told, cancelled))
        found = []
        names = [c.name for c in columns]
        tissue = applied(self.plan, values).anatomy.tissues[self.k]
        kappa = torch.full((1,) * (1 + self.labels.ndim), tissue.carrying_capacity, dtype=self.dtype)
        for t, _ in enumerate(days):
            u, room, wall = results[0][t]
            parts = torch.stack([u, *(r[t] for r in results[1:])])[:, None]
            found.append(
                Shares(
                    self._whole(parts),
                    self._whole(room[None]),
                    self._whole(wall[None], 1.0),
                    kappa,
                    1 + names.index(CAPACITY) if CAPACITY in names else None,
                )
            )
            if report is not None:
                report(t, found[-1])
        return found

    def _whole(self, part, fill=0.0):
        whole = torch.full((*part.shape[: part.dim() - self.labels.ndim], *self.labels.shape), fill, dtype=part.dtype)
        whole[(..., *self.box)] = part
        return whole

    def _pass(self, values, column: Parameter | None, days, progress, cancelled):
        """Per day (u, room, wall), or with a column the derivative of u by its coordinate."""
        later = tuple(d for d in days if d > DAY_TOLERANCE)
        p, equation, course = self.assembled(values)
        course = dataclasses.replace(course, reported=(0.0, *later) if later else (0.0,))
        if column is None:
            # the differentiable solver, so that value and derivative are of one scheme
            with torch.no_grad():
                states, _ = integrate(p, equation, course, progress=progress, cancelled=cancelled)
            states = states if days[0] <= DAY_TOLERANCE else states[1:]
            return [self.share(s) for s in states]
        x = column.coordinate(values.get(column.name, column.start))
        ends = [
            self.assembled({**values, column.name: math.exp(x + s) if column.positive else x + s})
            for s in (STEP, -STEP)
        ]
        by = [_difference(a, b) for a, b in zip(_numbers(ends[0]), _numbers(ends[1]))]
        with torch.enable_grad(), forward_ad.dual_level():
            duals = [
                v if d is None else forward_ad.make_dual(v, d) for v, d in zip(_numbers((p, equation, course)), by)
            ]
            p, equation, course = _with_numbers((p, equation, course), duals)
            states, _ = integrate(p, equation, course, progress=progress, cancelled=cancelled)
            states = states if days[0] <= DAY_TOLERANCE else states[1:]
            found = []
            for state in states:
                tangent = forward_ad.unpack_dual(self.share(state)[0]).tangent
                found.append(torch.zeros(state.shape[2:], dtype=self.dtype) if tangent is None else tangent.detach())
            return found

    def assembled(self, values):
        """(state, equation, course) of the plan with these values, in the box (`physics.assembly.assemble`)."""
        maps = {name: a[self.box] for name, a in self.maps.items()}
        return assemble(applied(self.plan, values), self.labels[self.box], self.spacing_mm, maps, dtype=self.dtype)

    def share(self, state):
        """u, C and the wall of a state (1, K, *S)."""
        p = state[0]
        room = p[self.group].sum(0)
        blocked = [j for j in range(len(p)) if j not in self.group and j not in self.plan.anatomy.tumors]
        wall = p[blocked].amax(0) if blocked else torch.zeros_like(room)
        return p[self.k] / room.clamp(min=1e-9), room, wall


def _numbers(built) -> list:
    """The tensors that parameters go into: state, equation, fractions, drugs."""
    p, equation, course = built
    found = [p, equation.diffusivity, equation.rho, equation.kappa] + (
        [equation.chi] if equation.chi is not None else []
    )
    for _, event in course.events:
        if hasattr(event, "alpha"):
            found += [event.alpha, event.beta]
    return found + [drug.sensitivity for drug in course.drugs]


def _with_numbers(built, values):
    p, equation, course = built
    values = iter(values)
    p = next(values)
    given = {name: next(values) for name in ("diffusivity", "rho", "kappa")}
    if equation.chi is not None:
        given["chi"] = next(values)
    equation = dataclasses.replace(equation, **given)
    events = []
    for day, event in course.events:
        events.append(
            (
                day,
                dataclasses.replace(event, alpha=next(values), beta=next(values)) if hasattr(event, "alpha") else event,
            )
        )
    drugs = tuple(dataclasses.replace(drug, sensitivity=next(values)) for drug in course.drugs)
    return p, equation, dataclasses.replace(course, events=tuple(events), drugs=drugs)


def _difference(ahead, behind):
    """Derivative by the coordinate; None where the number does not depend on it."""
    change = (ahead.double() - behind.double()) / (2 * STEP)
    return change.to(ahead.dtype) if bool((change != 0).any()) else None
