"""How long a forecast will take: a small model of the cost, corrected by the last run on the same device.

seconds = start + prepare × voxels + solve × steps × window + frame × frames × voxels

The window is the box around the tumor that the solver works in (`physics.stepping`): the tumor's own box, the tail of
invisible cells down to what the solver neglects, the reach of a step, and what the front of the tumor gains in half of the
time. The figures per voxel were measured on one thread of an AMD EPYC with the bundled sample (docs/benchmark.md has the
solver's own); whatever another computer does, the last run tells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from AnatomyDTLib.plan import Plan

START_SECONDS = 4.0
PREPARE_SECONDS = 5.5e-7
SOLVE_SECONDS = 7.5e-8
FRAME_SECONDS = 6e-8
# Per voxel of the whole image and step: what pushes tissue aside, and a growth network, work everywhere.
MASS_EFFECT_SECONDS = 1.1e-6
NETWORK_SECONDS = 1.0e-6
# How much faster a graphics card solves, before a run on it has told.
CARD_SPEEDUP = 15.0

# As in physics.stepping: what is neglected, the reach of a step in diffusion lengths, the slack of the window.
TAIL_LENGTHS = 16.0
REACH_LENGTHS = 18.0
SLACK_MM = 8.0
LONGEST_STEP_DAYS = 5.0
SHORTEST_STEP_DAYS = 0.25


@dataclass(frozen=True)
class Size:
    """shape: voxels along the axes of the image; spacing_mm: in the same order; tumor_mm: the tumor's box"""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    tumor_mm: tuple[float, float, float]

    @property
    def voxels(self) -> int:
        return math.prod(self.shape)


def steps(plan: Plan, spacing_mm) -> int:
    """How many steps the solver will take (`physics.stepping.time_grid`, `longest_stable_step`)."""
    edges = sorted({0.0, *plan.days, *(d for d in plan.event_days() if d <= plan.days[-1])})
    longest = longest_step(plan, spacing_mm)
    count = 0
    for start, end in zip(edges, edges[1:]):
        n = max(1, math.ceil((end - start) / longest - 1e-9))
        count += n + (n % 2 if n > 1 else 0)
    return count


def longest_step(plan: Plan, spacing_mm) -> float:
    if plan.step_days is not None:
        return plan.step_days
    limits = [LONGEST_STEP_DAYS]
    diffusivity, growth = fastest(plan)
    if diffusivity > 0:
        limits.append(min(spacing_mm) ** 2 / diffusivity)
    if growth > 0:
        limits.append(0.1 / growth)
    return max(min(limits), SHORTEST_STEP_DAYS)


def fastest(plan: Plan) -> tuple[float, float]:
    """(largest diffusivity in mm²/day, largest proliferation in 1/day)."""
    tissues = plan.anatomy.tissues
    return (max((t.diffusivity_mm2_per_day or 0.0) for t in tissues),
            max((t.growth_per_day for t in tissues if t.is_tumor), default=0.0))


def window_voxels(plan: Plan, size: Size) -> float:
    diffusivity, growth = fastest(plan)
    front_mm = math.sqrt(diffusivity * growth) * plan.days[-1]
    reach_mm = REACH_LENGTHS * math.sqrt(diffusivity * longest_step(plan, size.spacing_mm))
    around = TAIL_LENGTHS * plan.infiltration_mm + reach_mm + SLACK_MM + front_mm
    sides = zip(size.shape, size.spacing_mm, size.tumor_mm)
    return math.prod(min(n, (tumor + 2.0 * around) / h) for n, h, tumor in sides)


def expected_seconds(plan: Plan, size: Size, on_card: bool = False, network: bool = False) -> float:
    """From pressing Apply to the played result, by the figures above."""
    everywhere = MASS_EFFECT_SECONDS * (plan.mass_effect > 0) + NETWORK_SECONDS * network
    solving = steps(plan, size.spacing_mm) * (SOLVE_SECONDS * window_voxels(plan, size) + everywhere * size.voxels)
    if on_card:
        solving /= CARD_SPEEDUP
    frames = len(plan.reported_days)
    return START_SECONDS + PREPARE_SECONDS * size.voxels + solving + FRAME_SECONDS * frames * size.voxels


def rounded(seconds: float) -> tuple[int, str]:
    """(number, unit "s", "min" or "h") in the precision that such an estimate deserves."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return round(seconds / length), unit
    return max(5, 5 * round(seconds / 5)), "s"
