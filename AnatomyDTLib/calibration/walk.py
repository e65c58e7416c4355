"""One run of a tumor model (`tumor` has the equations): coefficients, the window that is solved, the steps and their
derivatives."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..physics.assembly import NEVER_RESECTED, SPARED_AROUND_TUMOR, resected
from ..physics.operators import harmonic
from ..physics.stepping import DAY_TOLERANCE, NEGLIGIBLE, REACH, SLACK_MM, Course, longest_step, time_grid
from ..physics.transport import CLOSED, floor_of
from ..physics.treatments import Drug
from ..physics.tridiagonal import Factors
from ..plan import Chemotherapy, Radiotherapy, Surgery
from .parameters import ALPHA, CAPACITY, DIFFUSIVITY, GROWTH, INFILTRATION, RATIO, SEED, SENSITIVITY
from .shares import Shares, drawn

# What is smaller is cut to zero: its products are denormal numbers in float32, a hundred times slower.
SMALLEST = 1e-18
# Lengths of steps whose factorizations are kept, those that were used last.
LENGTHS_KEPT = 2


class Walk:
    """One run: coefficients, window, steps."""

    def __init__(self, model, plans, days, grid, columns, members, redrawn):
        self.model, self.grid, self.plans, self.redrawn = model, grid, plans, redrawn
        self.derivatives = len(columns)
        self.like = dict(dtype=model.dtype)
        plan = plans[0]
        tissues = [p.anatomy.tissues[model.k] for p in plans]
        n = len(grid.spacing_mm)
        self.shape = grid.room.shape
        self.tail = (1,) * n

        def scalar(values):
            return torch.tensor(values, **self.like).reshape(-1, *self.tail)

        self.column = {name: i + 1 for i, name in enumerate(columns)}
        self.rho = scalar([t.growth_per_day for t in tissues])
        self.kappa = scalar([t.carrying_capacity for t in tissues])
        self.alpha, self.beta = scalar([t.alpha_per_gy for t in tissues]), scalar([t.beta_per_gy2 for t in tissues])
        rates = [{t.drug: t.sensitivity_per_day for t in p.treatments if isinstance(t, Chemotherapy)} for p in plans]
        self.sensitivity = {drug: scalar([r[drug] for r in rates]) for drug in rates[0]}
        self.host, self.by_ratio = self._diffusivity(members)
        self.room = torch.from_numpy(grid.room).to(**self.like)[None]
        self.wall = torch.from_numpy(grid.wall).to(**self.like)[None]
        self._seed()
        drugs = tuple(
            (
                t.drug,
                Drug(
                    t.days,
                    torch.tensor(t.doses, dtype=torch.float64),
                    torch.tensor(t.half_life_day, dtype=torch.float64),
                    torch.zeros(1),
                ),
            )
            for t in plan.treatments
            if isinstance(t, Chemotherapy)
        )
        self.drugs = drugs
        self.events = sorted(
            [(float(t.day), 0, t) for t in plan.treatments if isinstance(t, Surgery)]
            + [(day, 1, t) for t in plan.treatments if isinstance(t, Radiotherapy) for day in t.event_days()],
            key=lambda e: e[:2],
        )
        largest = float(self.host.max())
        step = (
            plan.step_days
            if plan.step_days is not None
            else longest_step([largest] * n, float(self.rho.max()), grid.spacing_mm)
        )
        self.course = Course(
            tuple(days), step, tuple((day, None) for day, _, _ in self.events), tuple(d for _, d in drugs)
        )
        reach_mm = REACH * math.sqrt(largest * step)
        self.reach = tuple(max(2, math.ceil(reach_mm / h)) for h in grid.spacing_mm)
        self.slack = tuple(math.ceil(SLACK_MM / h) for h in grid.spacing_mm)

    def _diffusivity(self, members):
        """D (B | 1, *S) and its derivative by ln of the white/grey ratio."""
        host, grey = (torch.from_numpy(a).to(**self.like)[None] for a in (self.grid.host, self.grid.grey))
        base = self.model.plan.anatomy.tissues
        factors, greys = [], []
        for plan in self.plans:
            pairs = [
                (a.diffusivity_mm2_per_day, b)
                for a, b in zip((t for t in plan.anatomy.tissues), base)
                if b.diffusivity_mm2_per_day
            ]
            scale = next((d / b.diffusivity_mm2_per_day for d, b in pairs if b.role != "grey"), 1.0)
            factors.append(scale)
            greys.append(next((d / b.diffusivity_mm2_per_day / scale for d, b in pairs if b.role == "grey"), 1.0))
        of_grey = torch.tensor(
            [d.diffusivity_mm2_per_day or 0.0 for d in base if d.role == "grey"][:1] or [0.0], **self.like
        )
        scale, ratio = (torch.tensor(v, **self.like).reshape(-1, *self.tail) for v in (factors, greys))
        part = grey * of_grey  # what grey matter gives to the mean over a coarse voxel
        return scale * (host + (ratio - 1) * part), -scale * ratio * part

    def _seed(self):
        self.full = torch.zeros((1 + self.derivatives, len(self.plans), *self.shape), **self.like)
        for b, plan in enumerate(self.plans):
            box, (u, by_length, by_seed, by_capacity) = self.model._seed(plan, self.grid, self.redrawn)
            self.full[(0, b, *box)] = u
            for name, derivative in ((INFILTRATION, by_length), (SEED, by_seed), (CAPACITY, by_capacity)):
                if name in self.column:
                    self.full[(self.column[name], b, *box)] = derivative

    # ---- time

    def run(self, days, report, progress, cancelled):
        found = []
        self.box, self.systems, self.fixed = None, {}, {}
        self._open()
        remaining = list(enumerate(days))

        def deliver():
            index, _ = remaining.pop(0)
            if report is not None:
                report(index, self._seen())
                return
            self._close()
            found.append(Shares(self.full.clone(), self.room, self.wall, self.kappa, self.column.get(CAPACITY)))

        if remaining and remaining[0][1] <= DAY_TOLERANCE:
            deliver()
        self._strike(0.0)
        steps = time_grid(self.course.edges(), self.course.longest_step)
        for index, (start, end) in enumerate(steps):
            if cancelled is not None and cancelled():
                raise InterruptedError("cancelled")
            if self.box is not None:
                self._step(start, end, reverse=index % 2 == 1)
                self._follow()
            self._strike(end)
            if remaining and end >= remaining[0][1] - DAY_TOLERANCE:
                deliver()
            if progress is not None:
                progress((index + 1) / len(steps), end)
        return found

    def _seen(self):
        """The shares of now inside the window, or of one voxel where no tumor is left."""
        box = tuple(slice(0, 1) for _ in self.shape) if self.box is None else self.box
        u = self.full[(..., *box)] if self.box is None else self.u
        inside = (slice(None), *box)
        return Shares(u, self.room[inside], self.wall[inside], self.kappa, self.column.get(CAPACITY), box)

    def _step(self, start, end, reverse):
        dt = round(end - start, 9)
        axes = [a for a in range(len(self.shape)) if self.u.shape[2 + a] > 1]
        if not reverse:
            self._react(start, end, dt)
        u = self.u
        for axis in reversed(axes) if reverse else axes:
            u = self._diffuse(u, axis, dt)
        self.u = u.contiguous()
        if reverse:
            self._react(start, end, dt)
        torch.nn.functional.threshold_(self.u[0], SMALLEST, 0.0)
        if self.derivatives:
            torch.hardshrink(self.u[1:], SMALLEST, out=self.u[1:])

    # ---- growth and death

    def _react(self, start, end, dt):
        kills = [(name, *(float(v) for v in drug.exposure(start, end))) for name, drug in self.drugs]
        kills = [(name, area, first) for name, area, first in kills if area >= 1e-12]
        if not kills:
            self._grow(self.rho * dt, {})
            return
        exponent = sum(self.sensitivity[name] * area for name, area, _ in kills)
        strengths = [(self.sensitivity[name] + 1e-12) for name, _, _ in kills]
        weight = sum(s * area for s, (_, area, _) in zip(strengths, kills))
        centroid = sum(s * first for s, (_, _, first) in zip(strengths, kills)) / weight
        moved, deeper = {}, {}
        for s, (name, area, first) in zip(strengths, kills):
            column = self.column.get(f"{SENSITIVITY}:{name}")
            if column is not None:
                # several courses may give one drug
                deeper[column] = deeper.get(column, 0.0) + self.sensitivity[name] * area
                moved[column] = moved.get(column, 0.0) + s * (first - centroid * area) / weight
        self._grow(self.rho * centroid, {c: self.rho * m for c, m in moved.items()}, centroid)
        self._kill(exponent, deeper)
        self._grow(self.rho * (dt - centroid), {c: -self.rho * m for c, m in moved.items()}, dt - centroid)

    def _grow(self, rho_dt, by_time, dt=None):
        """u⁺ = u e^a / (1 + (e^a − 1) u/kappa), a = rho dt; by_time: column -> derivative of a through the time
        alone."""
        gain = torch.expm1(rho_dt)
        u = self.u[0]
        q = u / self.kappa
        den = (1 + gain * q).reciprocal_()
        if self.derivatives:
            slope = (1 + gain) * den * den
            derivative = dict(by_time)
            if GROWTH in self.column:
                column = self.column[GROWTH]
                derivative[column] = derivative.get(column, 0.0) + rho_dt
            tangent = self.u[1:]
            tangent *= slope
            if derivative:
                by_rate = u * (1 - q) * slope
                for column, d in derivative.items():
                    tangent[column - 1] += d * by_rate
            if CAPACITY in self.column:
                tangent[self.column[CAPACITY] - 1] += slope * gain * u * q
        u *= den
        u *= 1 + gain

    def _kill(self, exponent, deeper):
        """u⁺ = u e^−E; deeper: column -> derivative of E."""
        left = torch.exp(-exponent)
        for column, d in deeper.items():
            self.u[column] -= d * self.u[0]
        self.u *= left

    def _strike(self, day):
        for when, _, treatment in self.events:
            if abs(when - day) > DAY_TOLERANCE:
                continue
            if isinstance(treatment, Surgery):
                self._resect(treatment)
            elif self.box is not None:
                dose = self._dose(treatment)
                exponent = self.alpha * dose + self.beta * dose * dose
                self._kill(exponent, {self.column[ALPHA]: exponent} if ALPHA in self.column else {})

    def _dose(self, treatment):
        """Of one fraction, Gy: a number, or inside the window (1, *box)."""
        maps = self.grid.maps
        if treatment.dose_map is None and treatment.region is None:
            return treatment.dose_gy
        whole = (
            np.full(self.shape, treatment.dose_gy, np.float32)
            if treatment.dose_map is None
            else maps[treatment.dose_map] / treatment.fractions
        )
        if treatment.region is not None:
            whole = whole * (maps[treatment.region] > (0.5 if max(self.grid.factor) > 1 else 0.0))
        return torch.from_numpy(np.asarray(whole)).to(**self.like)[self.box][None]

    def _resect(self, treatment: Surgery):
        """The tumor in the resected voxels becomes cavity but for a residual, and its surroundings with it.

        What is resected is found for each member; its border is held still in the derivatives, as is the room of a
        residual.
        """
        self._close()
        shares = Shares(self.full, self.room, self.wall, self.kappa, None)
        levels = torch.tensor([p.anatomy.tissues[self.model.k].visibility for p in self.plans], **self.like).reshape(
            -1, *self.tail
        )
        visible = drawn(shares, levels).numpy()
        region = (
            None
            if treatment.region is None
            else self.grid.maps[treatment.region] > (0.5 if max(self.grid.factor) > 1 else 0.0)
        )
        spared = NEVER_RESECTED if region is not None else SPARED_AROUND_TUMOR
        assert not set(self.model.plan.anatomy.with_role(*spared)) & set(self.model.group)
        masks = np.stack(
            [resected(v, self.grid.spacing_mm, region, treatment.extent, treatment.margin_mm) for v in visible]
        )
        mask = torch.from_numpy(masks)
        left = self.full[0] * self.room * treatment.residual_fraction
        room = self.room.expand(len(self.plans), *self.shape)
        self.room = torch.where(mask, left, room)
        self.wall = torch.where(mask, 1 - self.room, self.wall.expand_as(room))
        # the residual fills all of the room that it leaves
        stays = 1.0 if treatment.residual_fraction > 0 else 0.0
        self.full[0] = torch.where(mask, torch.where(left > CLOSED, stays, 0.0).to(self.full.dtype), self.full[0])
        self.full[1:] = torch.where(mask, torch.zeros((), **self.like), self.full[1:])
        self._open()

    # ---- diffusion

    def _diffuse(self, u, axis, dt):
        """One implicit solve along an axis for all columns and members."""
        x = u.movedim(2 + axis, 0).contiguous()
        explicit, implicit, open_, factors, changes, centred = self._system(axis, dt)
        right = x * open_
        right += floor_of(right.dtype)
        if not centred:
            face = x[:-1] - x[1:]
            face *= explicit
            for column, (by_explicit, _) in changes.items():
                face[:, column] += by_explicit * (x[:-1, 0] - x[1:, 0])
            right[:-1] -= face
            right[1:] += face
        if changes:
            new = factors.solve(right[:, :1].contiguous())
            face = new[:-1, 0] - new[1:, 0]
            for column, (_, by_implicit) in changes.items():
                flow = by_implicit * face
                right[:-1, column] -= flow
                right[1:, column] += flow
            new = torch.cat((new, factors.solve(right[:, 1:].contiguous())), 1)
        else:
            new = factors.solve(right)
        if centred:
            # Crank–Nicolson as a half step of implicit Euler: its solution is the mean of old and new
            new = x.neg_().add_(new, alpha=2)
        return new.movedim(0, 2 + axis)

    def _system(self, axis, dt):
        """(explicit, implicit conductance, C, factors, column -> derivatives of the conductances, whether both are the
        same everywhere), the axis first."""
        key = (axis, dt)
        if key in self.systems:
            self.systems[key] = self.systems.pop(key)
        else:
            lengths = list(dict.fromkeys(k[1] for k in self.systems))
            if dt not in lengths and len(lengths) >= LENGTHS_KEPT:
                self.systems = {k: v for k, v in self.systems.items() if k[1] != lengths[0]}
            room, conductivity, mean, least, open_ = self._along(axis)
            scale = dt / self.grid.spacing_mm[axis] ** 2
            full = scale * mean
            explicit = torch.minimum(full, least) / 2
            implicit = full - explicit
            diagonal = open_ + torch.cat((implicit[:1], implicit[1:] + implicit[:-1], implicit[-1:]))
            factors = Factors(-implicit.unsqueeze(1), diagonal.unsqueeze(1), -implicit.unsqueeze(1))
            changes = {}
            for name, change in ((DIFFUSIVITY, full), (RATIO, None)):
                if name not in self.column:
                    continue
                if change is None:
                    moved = room * self.by_ratio[(slice(None), *self.box)].movedim(1 + axis, 0)
                    a, b = conductivity[:-1], conductivity[1:]
                    total = (a + b).clamp(min=torch.finfo(a.dtype).tiny * 1e20)
                    change = scale * 2 * ((b / total) ** 2 * moved[:-1] + (a / total) ** 2 * moved[1:])
                by_explicit = torch.where(full < least, change / 2, torch.zeros_like(change))
                changes[self.column[name]] = (by_explicit, change - by_explicit)
            centred = bool((full <= least).all())
            self.systems[key] = (
                explicit.unsqueeze(1),
                implicit.unsqueeze(1),
                open_.unsqueeze(1),
                factors,
                changes,
                centred,
            )
        return self.systems[key]

    def _along(self, axis):
        """(C, C D, its harmonic mean and the smaller C of both sides of a face, C or 1 where closed), the axis first;
        of all lengths of steps."""
        if axis not in self.fixed:
            room = self.room[(slice(None), *self.box)].movedim(1 + axis, 0)
            room = torch.where(room > CLOSED, room, torch.zeros((), **self.like)).contiguous()
            conductivity = room * self.host[(slice(None), *self.box)].movedim(1 + axis, 0)
            self.fixed[axis] = (
                room,
                conductivity,
                harmonic(conductivity[:-1], conductivity[1:]),
                torch.minimum(room[:-1], room[1:]),
                torch.where(room > 0, room, torch.ones((), **self.like)),
            )
        return self.fixed[axis]

    # ---- the window

    def _open(self):
        """The box where any member is present, with the reach of a step and some slack around it."""
        present = (self.full[0] > NEGLIGIBLE).any(0)
        self.systems, self.fixed = {}, {}
        if not bool(present.any()):
            self.box = None
            return
        self.box = tuple(
            slice(max(0, low - r - s), min(size, high + r + s))
            for (low, high), r, s, size in zip(_bounds(present), self.reach, self.slack, self.shape)
        )
        self.u = self.full[(..., *self.box)].clone()

    def _close(self):
        if self.box is not None:
            self.full[(..., *self.box)] = self.u

    def _follow(self):
        """Moves the window where the tumor comes within a step's reach of its edge."""
        for axis, (reach, span, size) in enumerate(zip(self.reach, self.box, self.shape)):
            width = span.stop - span.start
            ends = [slice(0, reach)] * (span.start > 0) + [slice(max(0, width - reach), width)] * (span.stop < size)
            for end in ends:
                edge = self.u[0][(slice(None), *[slice(None)] * axis, end)]
                if float(edge.max()) > NEGLIGIBLE:
                    self._close()
                    self._open()
                    return


def _bounds(present):
    """[(first, past the last)] of what is true, per axis."""
    found = []
    for axis in range(present.dim()):
        others = tuple(a for a in range(present.dim()) if a != axis)
        hits = (present.any(dim=others) if others else present).nonzero()
        found.append((int(hits[0]), int(hits[-1]) + 1))
    return found
