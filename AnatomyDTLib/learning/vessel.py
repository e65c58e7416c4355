"""The Vessel dataset (appendix A): a branching vessel tree, lobes around it, and a tumor that grows along the vessels.

Between the visits vessels thicken, and a tumor beside one of them grows, faster near vessels, pushing lobes and vessels
aside. It does not break into a vessel: it grows around it. What is pushed or thickened keeps its topology; every case
is checked for that when it is made. Front, displacement and growth law are those of the Voronoi dataset.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from ..plan import Anatomy
from ..presets import tissue
from . import fronts, partitions
from .cases import Case, DataError, Dataset, check
from .courses import Courses, GrowthLaw

COLORS = ((0.86, 0.84, 0.80), (0.80, 0.62, 0.50), (0.56, 0.69, 0.55), (0.52, 0.62, 0.78))
TUMOR_COLOR = (0.93, 0.72, 0.18)    # not the red of the vessels beside it
LEAST_PART = 0.06      # of the domain that every lobe holds at the first visit; else the anatomy is drawn again
LEAST_TUMOR = 0.7      # of the tumor's blob that no vessel covers
MOST_POINTS = 2000     # of a tree

_STEP_MM = 1.5         # of the random walk
_BEND = 0.12           # standard deviation of its change of direction per step, radians
_BRANCH_EVERY_MM = (12.0, 22.0)
_BRANCH_ANGLE = (0.8, 1.3)
_APART = 0.6           # of the way walked, that a branch is away from its parent: less than the sine of its angle


@dataclass(frozen=True)
class VesselSettings:
    """Everything that makes the dataset, with its seed; lengths in mm.

    shape, spacing_mm, seed, off_centre_mm, noise_mm: as for VoronoiSettings
    lobes: classes of the partition around the vessels, the first one is label 0; speeds: mm of front per mm of advance
    vessel_radius_mm: of the trunk; every generation of branches has `taper` times its parent's, at least one voxel
    generations: of branches, the trunk included; clearance_mm: left free between branches
    thickening_mm: that a vessel's wall moves outward in the long run; thickening_days: its time constant
    along_vessels: how much faster the front is at a vessel's wall (1: twice as fast), fading over along_mm
    """

    shape: tuple[int, ...] = (96, 96)
    seed: int = 0
    spacing_mm: tuple[float, ...] | None = None
    lobes: int = 4
    softness_mm: float = 3.0
    waviness_mm: float = 4.0
    speeds: tuple[float, ...] = (0.9, 0.5, 1.1, 0.7)
    vessel_radius_mm: float = 2.4
    taper: float = 0.85
    generations: int = 3
    clearance_mm: float = 5.0
    thickening_mm: float = 1.3
    thickening_days: float = 60.0
    along_vessels: float = 1.0
    along_mm: float = 5.0
    radius_mm: tuple[float, float] = (7.0, 10.0)
    off_centre_mm: float = 16.0
    noise_mm: float = 0.0
    courses: Courses = field(default_factory=Courses)
    law: GrowthLaw = field(default_factory=lambda: GrowthLaw(largest_radius_mm=18.0))
    push: fronts.Push = field(default_factory=lambda: fronts.Push(share=0.8, reach_mm=20.0))

    def __post_init__(self):
        if len(self.shape) not in (2, 3) or min(self.shape) < 24:
            raise DataError(f"the shape must be two or three axes of at least 24 voxels, not {tuple(self.shape)}")
        if len(self.speeds) != self.lobes or not 2 <= self.lobes <= len(COLORS):
            raise DataError(
                f"lobes must be 2 to {len(COLORS)} with one speed each, not {self.lobes} with {len(self.speeds)}"
            )


def anatomy(lobes: int = 4) -> Anatomy:
    """The lobes (label 0 is the first), the vessels, and the tumor last."""
    made = [tissue(f"Lobe {'ABCD'[k]}", "organ", color=COLORS[k]) for k in range(lobes)]
    return Anatomy((*made, tissue("Vessel", "vessel"), tissue("Tumor", "tumor", color=TUMOR_COLOR)))


def vessel(count: int, settings: VesselSettings = VesselSettings()) -> Dataset:
    """The first `count` cases of the dataset; case i is the same whatever the count."""
    spacing, _ = partitions.grid(settings.shape, settings.spacing_mm)
    cases = tuple(_case(i, settings) for i in range(count))
    return check(Dataset(
        "vessel", anatomy(settings.lobes), spacing, cases, (settings.lobes,),
        {"generator": "vessel", "count": count, **dataclasses.asdict(settings)},
    ))


def tree(rng, size, radius_mm: float, settings: VesselSettings) -> tuple[np.ndarray, np.ndarray]:
    """A branching random walk: points (P, ndim) in mm and the radius at each (P,).

    It enters through a face of the domain and never comes nearer to itself than clearance_mm but at its forks, so that
    it has no loops and thickening does not make one.
    """
    ndim = len(size)
    wall = rng.integers(ndim)
    start = size * rng.uniform(0.35, 0.65, ndim)
    start[wall] = 0.0
    heading = np.zeros(ndim)
    heading[wall] = 1.0
    if rng.integers(2):
        start[wall], heading[wall] = size[wall], -1.0
    # rows: place, radius, number of the branch
    points = np.empty((MOST_POINTS, ndim))
    radii, owner = np.empty(MOST_POINTS), np.empty(MOST_POINTS, int)
    points[0], radii[0], owner[0], n = start, radius_mm, 0, 1
    waiting = [(start, heading, radius_mm, 1, -1)]
    ends, longest_edge = [float(end) for end in size], max(size)
    for branch, (origin, heading, radius, generation, parent) in enumerate(waiting):
        # what stands when a branch begins and is not its own: from that it keeps clear
        others = points[: n if branch else 0].copy()
        apart = radii[: len(others)] + radius + settings.clearance_mm
        of_parent = owner[: len(others)] == parent
        place, walked = origin, 0.0
        longest = longest_edge * (0.95 if generation == 1 else 0.5)
        next_fork, side = rng.uniform(*_BRANCH_EVERY_MM), 1.0 if rng.integers(2) else -1.0
        while walked < longest and n < MOST_POINTS:
            heading = _turned(rng, heading, rng.normal(scale=_BEND))
            place = place + heading * _STEP_MM
            walked += _STEP_MM
            margin = radius + _STEP_MM
            at_edge = any(at < margin or at > end - margin for at, end in zip(place.tolist(), ends))
            if at_edge and (generation > 1 or walked > 0.1 * longest_edge):
                break
            # a branch comes away from its parent gradually
            needed = np.where(of_parent, np.minimum(apart, _APART * walked), apart)
            away = others - place
            if ((away * away).sum(axis=1) < needed**2).any():
                break
            points[n], radii[n], owner[n] = place, radius, branch
            n += 1
            if generation < settings.generations and walked >= next_fork:
                turned = _turned(rng, heading, side * rng.uniform(*_BRANCH_ANGLE))
                waiting.append((place, turned, radius * settings.taper, generation + 1, branch))
                side, next_fork = -side, walked + rng.uniform(*_BRANCH_EVERY_MM)
    return points[:n], radii[:n]


def _turned(rng, heading, angle: float) -> np.ndarray:
    """A unit vector at that angle from the heading; in 3D into a random direction."""
    if len(heading) == 2:
        c, s = math.cos(angle), math.sin(angle)
        return np.array([c * heading[0] - s * heading[1], s * heading[0] + c * heading[1]])
    aside = rng.normal(size=3)
    aside -= heading * (aside @ heading)
    return math.cos(angle) * heading + math.sin(angle) * aside / np.linalg.norm(aside)


def drawn(points, radii, x) -> np.ndarray:
    """The tree as a mask (*S): every voxel whose centre lies within the radius of a point."""
    mask = np.zeros(math.prod(x.shape[1:]), bool)
    voxels = KDTree(x.reshape(len(x), -1).T, balanced_tree=False, compact_nodes=False)
    for inside in voxels.query_ball_point(points, radii):
        mask[inside] = True
    return mask.reshape(x.shape[1:])


def _case(index: int, settings: VesselSettings) -> Case:
    rng = np.random.default_rng([settings.seed, index])
    spacing, x = partitions.grid(settings.shape, settings.spacing_mm)
    for _ in range(partitions.MOST_DRAWS):
        made = _baseline(rng, x, spacing, settings)
        if made is None:
            continue
        days, treatments = settings.courses.draw(rng)
        truth = grown(*made, spacing, days, treatments, settings)
        if _keeps_topology(truth[1:] == settings.lobes):
            break
    else:
        raise DataError(
            f"case {index} of the vessel dataset was drawn {partitions.MOST_DRAWS} times without a tree that keeps its topology; "
            "use a finer grid, thinner vessels or less thickening"
        )
    seen = np.stack([partitions.seen_with_noise(rng, labels, x, spacing, settings.noise_mm) for labels in truth])
    name = f"vessel-{index:04d}"
    return Case(name, name, days, seen, treatments, truth=truth)


def _baseline(rng, x, spacing, settings: VesselSettings):
    """(lobes, vessels, tumor), each (*S), or None where this draw does not fulfil the demands."""
    size = partitions.extent(settings.shape, spacing)
    radius = max(settings.vessel_radius_mm, max(spacing) / settings.taper ** (settings.generations - 1))
    points, radii = tree(rng, size, radius, settings)
    central = np.flatnonzero(np.linalg.norm(points - size / 2.0, axis=1) <= settings.off_centre_mm)
    central = central[(central > 0) & (central < len(points) - 1)]
    if not len(central):
        return None
    at = central[rng.integers(len(central))]
    tumor_radius = rng.uniform(*settings.radius_mm)
    aside = _turned(rng, _unit(points[at + 1] - points[at - 1]), math.pi / 2.0 * (1.0 if rng.integers(2) else -1.0))
    centre = points[at] + aside * (radii[at] + tumor_radius)
    if not ((centre > 0.2 * size) & (centre < 0.8 * size)).all():
        return None
    vessels = drawn(points, radii, x)
    whole = partitions.blob(rng, x, centre, tumor_radius, 1.0)
    parts, n = ndimage.label(whole & ~vessels)
    if not n:
        return None
    tumor = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    beside = (ndimage.binary_dilation(tumor, iterations=2) & vessels).any()
    if tumor.sum() < LEAST_TUMOR * whole.sum() or not beside or not _keeps_topology(vessels[None]):
        return None
    lobes = partitions.soft_voronoi(rng, x, size, settings.lobes, 1, settings.softness_mm, settings.waviness_mm)
    if np.bincount(lobes[~tumor & ~vessels], minlength=settings.lobes).min() < LEAST_PART * lobes.size:
        return None
    return lobes, vessels, tumor


def grown(lobes, vessels, tumor, spacing_mm, days, treatments, settings) -> np.ndarray:
    """Labels (V, *S) of every visit, from what is seen at the first one."""
    V, T = settings.lobes, settings.lobes + 1
    around = fronts.signed_distance(vessels, spacing_mm)
    below = fronts.filled(lobes, tumor | vessels, spacing_mm)
    speed = fronts.blurred(np.array(settings.speeds)[below], spacing_mm)
    speed = speed * (1.0 + settings.along_vessels * np.exp(-np.maximum(around, 0.0) / settings.along_mm))
    radius = partitions.equivalent_radius(tumor, spacing_mm)
    advances, furthest = settings.law.advances(radius, days, treatments, tumor.ndim)
    front = fronts.Front(tumor, speed, spacing_mm, furthest)
    visits = [np.where(vessels, V, np.where(tumor, T, lobes))]
    for day, advance, most in zip(days[1:], advances[1:], furthest[1:]):
        now = front.extent(advance)
        u = fronts.displacement(front, now, front.extent(most), settings.push)
        wall = settings.thickening_mm * (1.0 - math.exp(-day / settings.thickening_days))
        thickened = fronts.carried(around, u, spacing_mm) <= wall
        visits.append(np.where(thickened, V, np.where(now, T, fronts.carried_labels(below, u, spacing_mm))))
    return np.stack(visits).astype(np.uint8)


def _unit(vector) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _keeps_topology(vessels) -> bool:
    """Whether the vessels (V, *S) are one piece without a loop at every visit."""
    from .evaluation import betti_numbers

    return all(betti_numbers(visit) == (1, 0, 0) for visit in vessels)
