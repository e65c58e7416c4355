"""Cases side by side on one device, each on its own grid of days.

A step of a batch is one step of every case, of each case's own length: the grid holds what happens in it. Visits are
edges of the grid, the same step for all cases; so are operations and the first and last day of a course of treatment.
What is given within a step is added up, which is exact for the exponents of radiation and drugs.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage

from ..plan import Anatomy, Chemotherapy, Radiotherapy, Surgery
from .cases import Case, DataError, Dataset, scaled

LONGEST_STEP_DAYS = 15.0
# A course that pauses for longer than this, days, is taken for two.
PAUSE_DAYS = 10.0
# Parts of a step in which treatment is resolved for the laws of a whole tumor.
PARTS = 6
# Signed distances are kept up to here, whichever is farther: a front must not come as far within a course, on no grid.
REACH_VOXELS, REACH_MM = 48.0, 48.0
DAY_TOLERANCE = 1e-6
# Cases side by side: as many as have this many voxels together, at most 8. A network of full width keeps some 2 kB a voxel.
MOST_VOXELS, MOST_CASES = 1 << 20, 8
# What `between` and the growth network see: days/100, Gy/60, drug, operations.
TOTALS = 4
GRAY_UNIT, DAY_UNIT = 60.0, 100.0

_distances: weakref.WeakKeyDictionary[Case, torch.Tensor] = weakref.WeakKeyDictionary()
_images: weakref.WeakKeyDictionary[Case, torch.Tensor] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Grid:
    """N steps of B cases. Padding has dt = 0 and nothing in it.

    start, dt: (N, B) days
    dose_gy, dose2_gy2: (N, B) Σ d and Σ d² of the fractions in (start, start + dt], day 0 in the first step: their
        exponent is alpha Σ d + beta Σ d²
    drug: (N, B) ∫ Σ_i sensitivity_i c_i(t) dt, the drugs' kill exponent at the sensitivities that the treatments name
    parts_gy, parts2_gy2, parts_drug: (N, PARTS, B) the same in equal parts of every step
    resections: (steps done before it, case, Surgery), in that order
    visits: number of steps after which visit 1, 2, ... is reached
    """

    start: torch.Tensor
    dt: torch.Tensor
    parts_gy: torch.Tensor
    parts2_gy2: torch.Tensor
    parts_drug: torch.Tensor
    resections: tuple[tuple[int, int, Surgery], ...]
    visits: tuple[int, ...]

    @cached_property
    def dose_gy(self) -> torch.Tensor:
        return self.parts_gy.sum(1)

    @cached_property
    def dose2_gy2(self) -> torch.Tensor:
        return self.parts2_gy2.sum(1)

    @cached_property
    def drug(self) -> torch.Tensor:
        return self.parts_drug.sum(1)

    def __len__(self) -> int:
        return len(self.dt)


@dataclass(frozen=True)
class Batch:
    """B cases of one dataset.

    states: (B, V, K, *S) one-hot, of every visit; what a case lacks repeats its last visit
    days: (B, V); present: (B, V) bool, False in that padding
    distances: (B, K, *S) signed distance to the border of each class at visit 0, mm, positive inside, between voxel
        centres less half a voxel, cut at `reach_mm` (a class that is not there has the cut everywhere); of a tumor, on the
        way through tissue that it may take
    images: (B, I, *S) as `cases.scaled` makes them, or None
    regions: masks (*S) that operations name; None where no operation names one
    names: of the cases
    """

    anatomy: Anatomy
    spacing_mm: tuple[float, ...]
    names: tuple[str, ...]
    states: torch.Tensor
    days: torch.Tensor
    present: torch.Tensor
    distances: torch.Tensor
    grid: Grid
    images: torch.Tensor | None = None
    regions: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> torch.Tensor:
        """(B, V, *S) indices."""
        return self.states.argmax(2)

    def between(self, i: int, j: int) -> torch.Tensor:
        """What a one-shot model sees between visits i and j: (B, TOTALS), all about 0..1.

        days / 100, radiation / 60 Gy, the drugs' kill exponent at the named sensitivities, extent of operations
        """
        assert 0 <= i < j < self.states.shape[1]
        edges = (0, *self.grid.visits)
        part = slice(edges[i], edges[j])
        operated = torch.zeros_like(self.days[:, 0])
        for step, case, surgery in self.grid.resections:
            if edges[i] < step <= edges[j] or step == edges[i] == 0:
                operated[case] += surgery.extent
        given = self.grid.dose_gy[part].sum(0) / GRAY_UNIT
        return torch.stack(((self.days[:, j] - self.days[:, i]) / DAY_UNIT, given, self.grid.drug[part].sum(0), operated), 1)

    def rows(self, chosen: Sequence[int]) -> Batch:
        """Some of the cases, on the grid of them all."""
        chosen = list(chosen)
        tensors = {f.name: getattr(self.grid, f.name)[..., chosen] for f in fields(Grid) if f.name not in ("resections", "visits")}
        operations = tuple((step, chosen.index(case), s) for step, case, s in self.grid.resections if case in chosen)
        return replace(
            self, names=tuple(self.names[i] for i in chosen), states=self.states[chosen], days=self.days[chosen],
            present=self.present[chosen], distances=self.distances[chosen], grid=replace(self.grid, **tensors, resections=operations),
            images=None if self.images is None else self.images[chosen],
        )

    def turned(self, flips: Sequence[bool], order: Sequence[int]) -> Batch:
        """The same cases mirrored along the axes that `flips` names and with their spatial axes in another order."""
        axes = [i - len(flips) for i, flip in enumerate(flips) if flip]

        def turn(t):
            lead = t.dim() - len(order)
            return t.flip(axes).permute(*range(lead), *(lead + a for a in order)).contiguous()

        return replace(
            self, states=turn(self.states), distances=turn(self.distances),
            images=None if self.images is None else turn(self.images), spacing_mm=tuple(self.spacing_mm[a] for a in order),
        )


def collate(dataset: Dataset, indices, device="cpu", longest_step_days: float = LONGEST_STEP_DAYS) -> Batch:
    """The chosen cases side by side. Raises DataError for a treatment that needs a map, which a case does not hold."""
    cases = [dataset.cases[int(i)] for i in indices]
    for case in cases:
        _refuse_maps(case)
    assert cases, "a batch has at least one case"
    K, visits = len(dataset.anatomy), max(len(case.days) for case in cases)
    labels = np.stack([np.concatenate((c.labels, np.repeat(c.labels[-1:], visits - len(c.days), 0))) for c in cases])
    states = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), K).movedim(-1, 2)
    days = [[*c.days, *[c.days[-1]] * (visits - len(c.days))] for c in cases]
    present = [[v < len(c.days) for v in range(visits)] for c in cases]
    images = None if cases[0].images is None else torch.stack([_images_of(c, dataset.anatomy) for c in cases]).to(device, torch.float32)
    return Batch(
        anatomy=dataset.anatomy, spacing_mm=tuple(dataset.spacing_mm), names=tuple(c.name for c in cases),
        states=states.to(device, torch.float32), days=torch.tensor(days, dtype=torch.float32, device=device),
        present=torch.tensor(present, device=device),
        distances=torch.stack([_distances_of(c, dataset.anatomy, dataset.spacing_mm) for c in cases]).to(device, torch.float32),
        grid=grid_of(cases, longest_step_days, device), images=images,
    )


def _refuse_maps(case: Case) -> None:
    for treatment in case.treatments:
        if getattr(treatment, "region", None) is not None or getattr(treatment, "dose_map", None) is not None:
            raise DataError(f"the case '{case.name}' has a treatment with a map, which learning does not read; leave region and dose_map out")


def reach_mm(spacing_mm) -> float:
    """How far signed distances are kept, mm."""
    return max(REACH_MM, REACH_VOXELS * min(spacing_mm))


def signed_distances(labels, K: int, spacing_mm) -> np.ndarray:
    """(K, *S) float32 mm: distance to the nearest voxel of the other side less half a voxel, positive inside the class."""
    reach = reach_mm(spacing_mm)
    out = np.empty((K, *labels.shape), np.float32)
    half = 0.5 * min(spacing_mm)
    for k in range(K):
        own = labels == k
        if own.all() or not own.any():
            out[k] = reach if own.any() else -reach
            continue
        inside, outside = (ndimage.distance_transform_edt(m, sampling=spacing_mm) for m in (own, ~own))
        out[k] = np.clip(np.where(own, inside - half, half - outside), -reach, reach)
    return out


def ways_of_tumors(distances: np.ndarray, labels: np.ndarray, anatomy: Anatomy, spacing_mm) -> np.ndarray:
    """Signed distances (K, *S), those to a tumor along ways that it can go: around a falx or a ventricle.

    A vessel is no wall: a tumor surrounds it, on a slice as if it went through.

    The difference of two shortest ways over the voxels' neighbours, with and without walls, is added to the straight
    distance, so that it is exact where no wall stands between. What no way leads to has the cut. A wall itself has what is
    before it, less the way into it.
    """
    blocked = np.isin(labels, [k for k, t in enumerate(anatomy.tissues) if not t.may_be_invaded and not t.is_tumor and t.role != "vessel"])
    if not blocked.any():
        return distances
    from skimage.graph import MCP_Geometric

    reach = reach_mm(spacing_mm)
    distances = distances.copy()
    into, before = ndimage.distance_transform_edt(blocked, sampling=spacing_mm, return_indices=True)
    for k in anatomy.tumors:
        starts = np.argwhere(labels == k)
        if not len(starts):
            continue
        free, around = (
            MCP_Geometric(np.where(blocked & closed, np.inf, 1.0), sampling=spacing_mm).find_costs(starts)[0]
            for closed in (False, True))
        longer = np.where(np.isfinite(around), around - np.where(np.isfinite(free), free, around), reach)
        way = np.where(labels == k, distances[k], np.maximum(distances[k] - longer, -reach))
        distances[k] = np.where(blocked, np.minimum(distances[k], np.maximum(way[tuple(before)] - into, -reach)), way)
    return distances


def _distances_of(case: Case, anatomy: Anatomy, spacing_mm) -> torch.Tensor:
    """Of a case's first visit, computed once; float16 is exact to 1/32 mm at the cut of 1 mm voxels and better near the border."""
    if case not in _distances:
        straight = signed_distances(case.labels[0], len(anatomy), spacing_mm)
        _distances[case] = torch.from_numpy(ways_of_tumors(straight, case.labels[0], anatomy, spacing_mm).astype(np.float16))
    return _distances[case]


def side_by_side(dataset: Dataset) -> int:
    """How many cases are held together where nothing else is asked for."""
    return max(1, min(MOST_CASES, MOST_VOXELS // math.prod(dataset.shape)))


def _images_of(case: Case, anatomy: Anatomy) -> torch.Tensor:
    """(I, *S) of the first visit, `cases.scaled`, computed once; float16 is exact to 1/1024 below 2."""
    if case not in _images:
        _images[case] = torch.from_numpy(np.stack([scaled(image, case.labels[0], anatomy) for image in case.images]).astype(np.float16))
    return _images[case]


# ---- the grid


def grid_of(cases: Sequence[Case], longest_step_days: float, device="cpu") -> Grid:
    """The common grid: every case has as many steps between two visits as the case that needs the most."""
    visits = max(len(case.days) for case in cases)
    edges = [[0.0] for _ in cases]
    reached = []
    for v in range(1, visits):
        cuts = [_segments(case, v) if v < len(case.days) else None for case in cases]
        steps = max(max(_count(cut, longest_step_days) for cut in cuts if cut is not None), 1)
        for own, cut in zip(edges, cuts):
            own += [own[-1]] * steps if cut is None else _spread(cut, steps)
        reached.append(len(edges[0]) - 1)
    edge = np.array(edges)                                # (B, N + 1)
    steps = edge.shape[1] - 1
    within = np.arange(PARTS) / PARTS
    fine = (edge[:, :-1, None] + np.diff(edge, axis=1)[..., None] * within).reshape(len(cases), -1)
    fine = np.concatenate((fine, edge[:, -1:]), 1)        # (B, N · PARTS + 1)
    dose, dose2, drug = np.zeros((3, steps * PARTS, len(cases)))
    resections = []
    for row, case in enumerate(cases):
        for treatment in case.treatments:
            if isinstance(treatment, Surgery):
                resections.append((_parts_before(edge[row], treatment.day), row, treatment))
            elif isinstance(treatment, Radiotherapy):
                for day in treatment.event_days():
                    if day <= edge[row, -1] + DAY_TOLERANCE:
                        part = max(_parts_before(fine[row], day) - 1, 0)
                        dose[part, row] += treatment.dose_gy
                        dose2[part, row] += treatment.dose_gy**2
            else:
                drug[:, row] += treatment.sensitivity_per_day * _area_under(treatment, fine[row])

    def tensor(values, *shape):
        return torch.tensor(values.reshape(*shape, len(cases)), dtype=torch.float32, device=device)

    return Grid(
        tensor(edge[:, :-1].T, steps), tensor(np.diff(edge, axis=1).T, steps), tensor(dose, steps, PARTS),
        tensor(dose2, steps, PARTS), tensor(drug, steps, PARTS), tuple(sorted(resections, key=lambda r: r[0])), tuple(reached),
    )


def _parts_before(edges, day) -> int:
    """Parts of the time between these edges that end on this day or earlier, plus the one that it falls into."""
    return int(np.searchsorted(edges, day - DAY_TOLERANCE))


def _segments(case: Case, v: int) -> list[float]:
    """Edges that the stretch between visits v − 1 and v must have, both ends included."""
    start, end = case.days[v - 1], case.days[v]
    days = {day for treatment in case.treatments for day in _boundaries(treatment) if start < day < end}
    edges = [start]
    for day in sorted(days):
        if edges[-1] + DAY_TOLERANCE < day < end - DAY_TOLERANCE:
            edges.append(day)
    return [*edges, end]


def _boundaries(treatment):
    """First and last day of every block of a treatment."""
    days = sorted(treatment.event_days())
    edges = [days[0], days[-1]]
    for before, after in zip(days, days[1:]):
        if after - before > PAUSE_DAYS:
            edges += [before, after]
    return edges


def _count(edges, longest: float) -> int:
    return sum(max(1, math.ceil((b - a) / longest - 1e-9)) for a, b in zip(edges, edges[1:]))


def _spread(edges, steps: int) -> list[float]:
    """The ends of `steps` steps over these segments; each further step goes to the segment with the longest ones."""
    lengths = [b - a for a, b in zip(edges, edges[1:])]
    counts = [1] * len(lengths)
    while sum(counts) < steps:
        longest = max(range(len(lengths)), key=lambda i: lengths[i] / counts[i])
        counts[longest] += 1
    ends = []
    for a, length, count in zip(edges, lengths, counts):
        ends += [a + length * (i + 1) / count for i in range(count)]
    return ends


def _area_under(drug: Chemotherapy, edges) -> np.ndarray:
    """∫ c dt over every step, days; c jumps by a dose and halves every half-life."""
    rate = math.log(2.0) / drug.half_life_day
    since = np.maximum(edges[None, :] - np.array(drug.days)[:, None], 0.0)
    eliminated = -np.expm1(-rate * since) / rate
    return (np.array(drug.doses)[:, None] * np.diff(eliminated, axis=1)).sum(0)
