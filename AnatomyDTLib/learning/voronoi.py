"""The Voronoi dataset (appendix A): organs of a soft Voronoi partition, and a tumor in their midst that pushes them.

The appendix fixes what is seen, not how fast; the laws are `courses.GrowthLaw` and `fronts`. The front's speed differs
from organ to organ, so a tumor grows out of round, and treatments slow or shrink it. All of that is a function of the
first visit's labels, the days and the treatments: without noise a perfect model scores 100.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from ..plan import Anatomy
from ..presets import tissue
from . import fronts, partitions
from .cases import Case, DataError, Dataset, check
from .courses import Courses, GrowthLaw

LEAST_PART = 0.04      # of the domain that every class holds at the first visit; else the anatomy is drawn again

COLORS = ((0.86, 0.84, 0.80), (0.80, 0.62, 0.50), (0.56, 0.69, 0.55), (0.52, 0.62, 0.78), (0.74, 0.66, 0.80))


@dataclass(frozen=True)
class VoronoiSettings:
    """Everything that makes the dataset, with its seed; lengths in mm.

    shape: of the grid, 2D or 3D; spacing_mm: None for a domain whose shortest edge is 96 mm (one seed gives the same
        anatomy on every grid)
    organs: classes beside the tumor, the first one is the tissue around the others; sites: of each
    speeds: mm of front per mm of advance in each organ
    radius_mm: of the tumor at the first visit; off_centre_mm: of its centre (standard deviation)
    noise_mm: of the observer at every visit; the noise-free labels are each case's `truth`
    """

    shape: tuple[int, ...] = (96, 96)
    seed: int = 0
    spacing_mm: tuple[float, ...] | None = None
    organs: int = 5
    sites: int = 3
    softness_mm: float = 3.0
    waviness_mm: float = 4.0
    speeds: tuple[float, ...] = (1.0, 0.5, 1.3, 0.7, 1.1)
    radius_mm: tuple[float, float] = (8.0, 12.0)
    off_centre_mm: float = 6.0
    noise_mm: float = 0.0
    courses: Courses = field(default_factory=Courses)
    law: GrowthLaw = field(default_factory=GrowthLaw)
    push: fronts.Push = field(default_factory=fronts.Push)

    def __post_init__(self):
        if len(self.shape) not in (2, 3) or min(self.shape) < 16:
            raise DataError(f"the shape must be two or three axes of at least 16 voxels, not {tuple(self.shape)}")
        if len(self.speeds) != self.organs or not 2 <= self.organs <= len(COLORS):
            raise DataError(
                f"organs must be 2 to {len(COLORS)} with one speed each, not {self.organs} with {len(self.speeds)}"
            )


def anatomy(organs: int = 5) -> Anatomy:
    """Connective tissue (label 0), the organs, and the tumor last."""
    names = ["Connective tissue"] + [f"Organ {letter}" for letter in "ABCD"[:organs - 1]]
    return Anatomy((*(tissue(n, "organ", color=c) for n, c in zip(names, COLORS)), tissue("Tumor", "tumor")))


def voronoi(count: int, settings: VoronoiSettings = VoronoiSettings()) -> Dataset:
    """The first `count` cases of the dataset; case i is the same whatever the count."""
    spacing, _ = partitions.grid(settings.shape, settings.spacing_mm)
    cases = tuple(_case(i, settings) for i in range(count))
    made = {"generator": "voronoi", "count": count, **dataclasses.asdict(settings)}
    return check(Dataset("voronoi", anatomy(settings.organs), spacing, cases, (), made))


def _case(index: int, settings: VoronoiSettings) -> Case:
    rng = np.random.default_rng([settings.seed, index])
    spacing, x = partitions.grid(settings.shape, settings.spacing_mm)
    size = partitions.extent(settings.shape, spacing)
    for _ in range(partitions.MOST_DRAWS):
        organs = partitions.soft_voronoi(
            rng, x, size, settings.organs, settings.sites, settings.softness_mm, settings.waviness_mm)
        centre = size / 2.0 + np.clip(rng.normal(scale=settings.off_centre_mm, size=len(size)), -12.0, 12.0)
        tumor = partitions.blob(rng, x, centre, rng.uniform(*settings.radius_mm), 1.2)
        left = np.bincount(organs[~tumor], minlength=settings.organs)
        if left.min() >= LEAST_PART * organs.size and tumor.any():
            break
    else:
        raise DataError(
            f"case {index} of the voronoi dataset was drawn {partitions.MOST_DRAWS} times, and each time an organ was all but hidden; "
            "use fewer organs or a smaller tumor"
        )
    days, treatments = settings.courses.draw(rng)
    truth = grown(organs, tumor, spacing, days, treatments, settings)
    seen = np.stack([partitions.seen_with_noise(rng, labels, x, spacing, settings.noise_mm) for labels in truth])
    name = f"voronoi-{index:04d}"
    return Case(name, name, days, seen, treatments, truth=truth)


def grown(organs, tumor, spacing_mm, days, treatments, settings) -> np.ndarray:
    """Labels (V, *S) of every visit, from what is seen at the first one: organs (*S), of which those below the tumor
    are not used, and the tumor (*S) bool."""
    radius = partitions.equivalent_radius(tumor, spacing_mm)
    advances, furthest = settings.law.advances(radius, days, treatments, tumor.ndim)
    below = fronts.filled(organs, tumor, spacing_mm)
    front = fronts.Front(tumor, fronts.blurred(np.array(settings.speeds)[below], spacing_mm), spacing_mm, furthest)
    visits = [np.where(tumor, settings.organs, organs)]
    for advance, most in zip(advances[1:], furthest[1:]):
        now = front.extent(advance)
        u = fronts.displacement(front, now, front.extent(most), settings.push)
        visits.append(np.where(now, settings.organs, fronts.carried_labels(below, u, spacing_mm)))
    return np.stack(visits).astype(np.uint8)
