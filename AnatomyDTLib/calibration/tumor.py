"""One tumor class on its own, for many parameters at once: its density and exact derivatives, members side by side.

Where one class moves, grows and dies, and what dies stays in what gives way to it, the rest of the state follows from
its share u = p/C of the part C of a voxel that it may fill (C stands still but for surgery):

    C ∂ₜu = ∇·(C D ∇u) + C rho u (1 − u/kappa) − C u Σ_drugs sensitivity c(t),   u → S u at each fraction

It is eq. 2 with its counter-flux, stepped as `physics.equation.Stepper` steps it (same splitting, same steps, same
arithmetic; Testing/test_calibration_derivatives.py holds the two together), at a quarter of the price: no composition has to be
carried along.

The derivative of a step is another step: with A(θ) u⁺ = b(u; θ) for each axis,

    A ∂u⁺/∂θ = ∂b/∂u ∂u/∂θ + ∂b/∂θ − ∂A/∂θ u⁺

so the derivatives for all parameters share the factorization of A and ride along as further right-hand sides. They
are those of the discrete scheme, exact but for rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch

from ..physics.assembly import SPARED_AROUND_TUMOR
from ..physics.transport import CLOSED
from ..plan import Plan, Surgery
from ..state import ROOM, TAIL_CUT, grown_box, host_diffusivity, outlined_field, with_infiltration
from .parameters import applied
from .shares import Grid, Shares, pooled
from .walk import Walk


def why_not(plan: Plan, labels) -> str | None:
    """Why a plan cannot be reduced to one tumor class; None where it can."""
    anatomy = plan.anatomy
    present = [k for k in anatomy.tumors if (np.asarray(labels) == k).any()]
    if len(present) != 1:
        return "there are several tumor classes"
    k = present[0]
    group = {k, *anatomy.yields(k)}
    if plan.mass_effect > 0:
        return "the plan has a mass effect"
    if any(c.chi_mm2_per_day != 0 for c in anatomy.cross_diffusion):
        return "the plan has cross-diffusion"
    if any(t.growth_per_day != 0 for j, t in enumerate(anatomy.tissues) if j != k and not t.is_tumor):
        return "another tissue grows or wastes"
    kills = [t for t in plan.treatments if not isinstance(t, Surgery)]
    if kills and anatomy.dead_class(k) not in group:
        return "what dies does not give way to the tumor"
    if any(t.alpha_per_gy or t.beta_per_gy2 for t in anatomy.tissues if not t.is_tumor) and kills:
        return "another tissue is radiosensitive"
    spared = anatomy.with_role(*SPARED_AROUND_TUMOR)
    if any(isinstance(t, Surgery) for t in plan.treatments) and group & set(spared):
        return "surgery spares a tissue that gives way"
    return None


class TumorModel:
    """The tumor class of a plan, from a label map, for any values of the plan's parameters.

    labels: (*S) indices into plan.anatomy.tissues; maps: arrays that the treatments name
    redraws: whether `run` starts from another outline of the baseline's tumor when told to
    """

    redraws = True

    def __init__(self, labels, spacing_mm, plan: Plan, maps=None, dtype=torch.float32):
        assert why_not(plan, labels) is None
        anatomy = plan.anatomy
        self.labels, self.plan, self.dtype = np.asarray(labels), plan, dtype
        self.k = next(k for k in anatomy.tumors if (self.labels == k).any())
        self.group = [self.k, *anatomy.yields(self.k)]
        self.spacing_mm = tuple(float(h) for h in spacing_mm)
        self._seeds: dict = {}
        field = outlined_field(self.labels, anatomy, spacing_mm, plan.interface_mm)
        self._near = self._nearby(field, plan, self._reach_mm(plan))
        box, near = self._infiltrated(plan)
        field[(slice(None), *box)] = near
        blocked = [j for j in range(len(anatomy)) if j not in self.group]
        wall = field[blocked].max(0) if blocked else np.zeros(self.labels.shape, np.float32)
        host = host_diffusivity(self.labels, anatomy, spacing_mm)
        grey = dataclasses.replace(
            anatomy,
            tissues=tuple(
                (
                    t
                    if t.diffusivity_mm2_per_day is None
                    else dataclasses.replace(t, diffusivity_mm2_per_day=float(t.role == "grey"))
                )
                for t in anatomy.tissues
            ),
        )
        self.fine = Grid(
            (1,) * self.labels.ndim,
            self.spacing_mm,
            field[self.group].sum(0),
            host,
            host_diffusivity(self.labels, grey, spacing_mm),
            wall,
            {k: np.asarray(v, np.float32) for k, v in (maps or {}).items()},
        )

    def coarse(self, edge_mm: float) -> Grid:
        """The grid of voxels of about this edge: every array is the mean over its voxels."""
        factor = tuple(max(1, round(edge_mm / h)) if n > 1 else 1 for h, n in zip(self.spacing_mm, self.labels.shape))
        if max(factor) == 1:
            return self.fine
        fine = self.fine
        return Grid(
            factor,
            tuple(h * f for h, f in zip(self.spacing_mm, factor)),
            pooled(fine.room, factor),
            pooled(fine.host, factor),
            pooled(fine.grey, factor),
            pooled(fine.wall, factor),
            {k: pooled(v, factor) for k, v in fine.maps.items()},
        )

    def _infiltrated(self, plan):
        """(box, (K, *box)): the field of a plan where its tumor reaches on day 0.

        What no tail changes is kept: a hundred members differ in seed density, and the distance transforms of the
        whole image are most of a short run.
        """
        kept_capacity, kept_mm, _, _ = self._near
        needed_mm = self._reach_mm(plan)
        if kept_capacity != plan.anatomy.tissues[self.k].carrying_capacity or kept_mm < needed_mm:
            field = outlined_field(self.labels, plan.anatomy, self.spacing_mm, plan.interface_mm)
            self._near = self._nearby(field, plan, needed_mm)
        _, _, box, outlined = self._near
        return box, with_infiltration(
            outlined, plan.anatomy, self.spacing_mm, plan.infiltration_mm, plan.seed_density
        )

    def _reach_mm(self, plan):
        """How far from its outline a tumor is found on day 0: the tail's end, or the interface's."""
        tail = plan.infiltration_mm * math.log(max(plan.seed_density, 1.0) / TAIL_CUT)
        return max(tail, 2.0 * plan.interface_mm + max(self.spacing_mm))

    def _nearby(self, field, plan, reach_mm):
        """(carrying capacity, mm around the tumor, box, the field in it), with room for somewhat longer tails."""
        box = grown_box(self.labels == self.k, 1.2 * reach_mm, self.spacing_mm)
        box = tuple(slice(s.start, min(s.stop, n)) for s, n in zip(box, self.labels.shape))
        return plan.anatomy.tissues[self.k].carrying_capacity, 1.2 * reach_mm, box, field[(slice(None), *box)].copy()

    def _seed(self, plan, grid, redrawn=None):
        """(box, (4, *box)): u at baseline and its derivatives by ln of infiltration length, seed density and carrying
        capacity; 0 beyond the box.

        redrawn: (*S) other labels of the same anatomy, whose tumor takes the place of the baseline's
        """
        tumor = plan.anatomy.tissues[self.k]
        key = (grid.factor, plan.infiltration_mm, plan.seed_density, tumor.carrying_capacity)
        if key not in self._seeds or redrawn is not None:
            if len(self._seeds) >= 8:
                self._seeds.pop(next(iter(self._seeds)))
            box, field = self._infiltrated(plan)
            labels = self.labels[box]
            if redrawn is not None:
                labels = redrawn[box]
                field = outlined_field(labels, plan.anatomy, self.spacing_mm, plan.interface_mm)
                field = with_infiltration(
                    field, plan.anatomy, self.spacing_mm, plan.infiltration_mm, plan.seed_density
                )
            room, inside = self.fine.room[box], labels == self.k
            u = np.divide(field[self.k], room, out=np.zeros_like(room), where=room > CLOSED).astype(np.float64)
            kappa = tumor.carrying_capacity
            level = min(tumor.visibility * kappa, 1 - 1e-6)
            seed, edge = plan.seed_density, level * (1 - ROOM)
            least = level + (kappa - level) * ROOM
            # a voxel of fluid that tumor alone shares has no tissue to make room: its share stays 1
            held = ~inside & (u > edge * (1 + 1e-5))
            by_length, by_seed = np.zeros_like(u), np.zeros_like(u)
            if plan.infiltration_mm > 0:
                # what the outline clips does not change
                tail = ~inside & ~held & (u > 0) & (u < edge * (1 - 1e-5) if seed > 1 else True)
                by_length = np.where(tail, -u * np.log(np.clip(u / (seed * edge), 1e-12, 1.0)), 0.0)
                core = (
                    inside
                    & (u > least * (1 + 1e-5) if seed < 1 else True)
                    & (u < kappa * (1 - 1e-6) if seed > 1 else True)
                )
                fade = (
                    np.clip((kappa - u / seed) / (kappa - level), 1e-12, 1 - ROOM) if kappa > level else np.ones_like(u)
                )
                by_length = np.where(core, seed * (kappa - level) * fade * np.log(fade / (1 - ROOM)), by_length)
                by_seed = np.where(tail | core, u, 0.0)
            parts = [np.where(room > CLOSED, v, 0.0) for v in (u, by_length, by_seed, np.where(held, 0.0, u))]
            if max(grid.factor) > 1:
                box, parts = self._pooled(box, [v * room for v in parts], grid)
            seed = (box, torch.from_numpy(np.stack(parts)).to(self.dtype))
            if redrawn is not None:
                return seed
            self._seeds[key] = seed
        return self._seeds[key]

    def _pooled(self, box, amounts, grid):
        """(box on a coarse grid, shares there) of amounts of tumor per voxel on the image's voxels."""
        whole = tuple(
            slice(s.start // f * f, min(n, -(-s.stop // f) * f)) for s, f, n in zip(box, grid.factor, self.labels.shape)
        )
        around = [(s.start - w.start, w.stop - s.stop) for s, w in zip(box, whole)]
        box = tuple(slice(w.start // f, -(-w.stop // f)) for w, f in zip(whole, grid.factor))
        room = grid.room[box]
        means = [pooled(np.pad(a, around), grid.factor) for a in amounts]
        return box, [np.divide(a, room, out=np.zeros_like(a), where=room > CLOSED) for a in means]

    def run(
        self,
        members,
        days,
        grid: Grid | None = None,
        columns=(),
        report: Callable[[int, Shares], None] | None = None,
        progress=None,
        cancelled=None,
        plan: Plan | None = None,
        redrawn=None,
    ) -> list[Shares]:
        """The shares on each of `days` (ascending, day 0 allowed), for every member.

        members: list of name -> v; columns: parameters (`Parameter`) to differentiate by, in their coordinates x
        report: called with the index of the day and its `Shares`, inside their box only and overwritten afterwards;
            without it they are returned, whole
        plan: other treatments for the same anatomy; None: the model's own
        redrawn: (*S) labels with another outline of the baseline's tumor, from which it starts instead
        Raises InterruptedError when cancelled() says yes.
        """
        grid = self.fine if grid is None else grid
        plans = [applied(self.plan if plan is None else plan, values) for values in members]
        with torch.no_grad():
            walk = Walk(self, plans, days, grid, [c.name for c in columns], members, redrawn)
            return walk.run(list(days), report, progress, cancelled)

