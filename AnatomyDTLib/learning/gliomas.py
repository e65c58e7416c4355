"""Simulated gliomas in individual brains: label maps of healthy people in, courses of a growing tumor out. 3D.

Not the project's model, so that training on them is no inverse crime: the tumor is an eikonal front that is slower in
grey matter than in white (`fronts`), its size follows Gompertz growth under treatment (`courses.GrowthLaw`), and a
displacement field pushes the brain, which the skull holds, and squeezes the ventricles.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from .. import labelling, volumes
from ..plan import Anatomy
from ..presets import tissue
from . import fronts, partitions
from .cases import Case, DataError, Dataset, check
from .courses import Courses, GrowthLaw

# the numbering of the maps and of the anatomy: labelling.NUMBERINGS["anatomydt"]
BACKGROUND, WHITE, GREY, CSF, VENTRICLES, TUMOR = range(6)

MOST_DRAWS = 100           # of a tumor's place until it fits
LEAST_INSIDE = 0.6         # of a tumor's ball that is white or grey matter
_SKULL_MM = 8.0            # the push fades to nothing over this distance to the skull
_SQUEEZE = 0.25            # of the local push, by which the wall of a ventricle moves inward
_FIRST_RADIUS = 0.5        # of the tumor at the first visit: from there on it has pushed before that visit


@dataclass(frozen=True)
class GliomaSettings:
    """Everything that makes the dataset but the brains, with its seed; lengths in mm.

    coarsen: voxels of the brains that become one along each axis (the class of most of them)
    crop: (Z, Y, X) voxels around the tumor after coarsening; None: the whole head, all brains on one shape
    radius_mm: of the tumor at the first visit
    speed_white, speed_grey, speed_fluid: mm of front per mm of advance; fluid gives way (it is squeezed out)
    law: the default doubles a tumor of 11 mm in 21 days, the median of untreated glioblastoma (Ellingson et al. 2016)
    noise_mm: of the observer at every visit; the noise-free labels are each case's `truth`
    """

    seed: int = 0
    coarsen: int = 2
    crop: tuple[int, int, int] | None = (48, 48, 48)
    radius_mm: tuple[float, float] = (9.0, 18.0)
    speed_white: float = 1.1
    speed_grey: float = 0.5
    speed_fluid: float = 0.3
    noise_mm: float = 0.0
    courses: Courses = field(default_factory=Courses)
    law: GrowthLaw = field(default_factory=lambda: GrowthLaw(growth_per_day=0.0103, largest_radius_mm=32.0))
    push: fronts.Push = field(default_factory=lambda: fronts.Push(share=0.7, reach_mm=25.0))

    def __post_init__(self):
        if isinstance(self.coarsen, bool) or not isinstance(self.coarsen, int) or not 1 <= self.coarsen <= 4:
            raise DataError(f"coarsen must be a whole number from 1 to 4, not {self.coarsen!r}")
        if self.crop is not None and (len(self.crop) != 3 or min(self.crop) < 16):
            raise DataError(f"crop must be three numbers of voxels of at least 16, not {self.crop!r}")


def anatomy() -> Anatomy:
    """Background, white matter, grey matter, CSF, ventricles, tumor, with label values as in the maps, and a cavity.

    No simulated case has an operation; the cavity is there so that a twin trained on them can be asked for one.
    """
    made, _ = labelling.tissues(labelling.NUMBERINGS["anatomydt"])
    return Anatomy((*made, tissue("Cavity", "cavity")))


def brains(folder) -> list[tuple[str, np.ndarray, tuple[float, ...]]]:
    """(name, labels (Z, Y, X) in 0..4, spacing_mm) of every NIfTI or NRRD label map of a folder; raises DataError."""
    folder = Path(folder)
    paths = [p for p in folder.iterdir() if p.name.endswith((".nii", ".nii.gz", ".nrrd"))] if folder.is_dir() else []
    if not paths:
        raise DataError(f"no brain was found in {folder}; give a folder of label maps (.nii, .nii.gz, .nrrd)")
    found = []
    for path in sorted(paths):
        volume = volumes.read_labels(path)
        values = volumes.labels_in(volume.array)
        if volume.array.ndim != 3 or not {WHITE, GREY} <= set(values) or max(values) >= TUMOR:
            raise DataError(
                f"{path.name} holds the labels {list(values)[:12]}; a healthy brain has 1 white, 2 grey matter, 3 "
                "CSF, 4 ventricles"
            )
        found.append((path.name.split(".")[0], volume.array.astype(np.uint8), volume.spacing_mm))
    if any(not np.allclose(spacing, found[0][2], rtol=1e-3) for _, _, spacing in found):
        raise DataError(f"the brains in {folder} have voxels of different size; resample them to one")
    return found


def gliomas(folder, count: int, settings: GliomaSettings = GliomaSettings()) -> Dataset:
    """The first `count` cases: case i lies in brain i modulo the number of brains, and its patient is that brain."""
    heads = brains(folder)
    trimmed = [_trimmed(labels) for _, labels, _ in heads]
    coarse = [coarsened(labels, settings.coarsen) for labels in trimmed[:count]]
    spacing = tuple(h * settings.coarsen for h in heads[0][2])
    if settings.crop is None:
        shape = tuple(-(-max(labels.shape[d] for labels in trimmed) // settings.coarsen) for d in range(3))
        coarse = [fitted(c, shape, tuple(n // 2 for n in c.shape)) for c in coarse]
    cases = tuple(_case(i, coarse[i % len(heads)], heads[i % len(heads)][0], spacing, settings) for i in range(count))
    names = [name for name, _, _ in heads]
    made = {"generator": "gliomas", "brains": names, "count": count, **dataclasses.asdict(settings)}
    return check(Dataset("brains", anatomy(), spacing, cases, (), made))


def coarsened(labels, factor: int) -> np.ndarray:
    """The label map with blocks of factor³ voxels joined: the class of most of them, the lower one on a tie."""
    if factor == 1:
        return labels
    padded = np.pad(labels, [(0, -n % factor) for n in labels.shape])
    counts = np.zeros((int(labels.max()) + 1, *(n // factor for n in padded.shape)), np.uint8)
    for offset in itertools.product(range(factor), repeat=labels.ndim):
        part = padded[tuple(slice(o, None, factor) for o in offset)]
        for k, count in enumerate(counts):
            count += part == k
    return counts.argmax(axis=0).astype(np.uint8)


def fitted(labels, shape, centre) -> np.ndarray:
    """The box of that shape around a voxel; background where the map ends."""
    out = np.zeros(shape, labels.dtype)
    starts = [c - n // 2 for c, n in zip(centre, shape)]
    source = tuple(slice(max(0, s), max(0, min(n, s + m))) for s, m, n in zip(starts, shape, labels.shape))
    out[tuple(slice(a.start - s, a.stop - s) for a, s in zip(source, starts))] = labels[source]
    return out


def _trimmed(labels) -> np.ndarray:
    lines = [np.flatnonzero(labels.any(axis=tuple(a for a in range(3) if a != d))) for d in range(3)]
    return labels[tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)]


def _case(index: int, brain, patient: str, spacing, settings: GliomaSettings) -> Case:
    rng = np.random.default_rng([settings.seed, index])
    for _ in range(MOST_DRAWS):
        first = _first_visit(rng, brain, spacing, settings)
        if first is not None:
            break
    else:
        raise DataError(
            f"no place for a tumor of {settings.radius_mm} mm was found in {patient}; use smaller ones or finer voxels"
        )
    days, treatments = settings.courses.draw(rng)
    truth = grown(first, spacing, days, treatments, settings)
    _, x = partitions.grid(first.shape, spacing)
    seen = np.stack([partitions.seen_with_noise(rng, labels, x, spacing, settings.noise_mm) for labels in truth])
    return Case(f"glioma-{index:04d}", patient, days, seen, treatments, truth=truth)


def _first_visit(rng, brain, spacing, settings: GliomaSettings):
    """Labels of the first visit, the tumor having pushed already; None where it does not fit."""
    seeds = np.argwhere(brain == WHITE)
    centre = seeds[rng.integers(len(seeds))]
    radius = rng.uniform(*settings.radius_mm)
    if settings.crop is not None:
        brain = fitted(brain, settings.crop, centre)
        centre = np.array(settings.crop) // 2
    _, x = partitions.grid(brain.shape, spacing)
    place = (centre + 0.5) * np.array(spacing)
    small = max(_FIRST_RADIUS * radius, 1.2 * max(spacing))
    ball = partitions.blob(rng, x, place, small, 0.15 * small)
    seed = ball & np.isin(brain, (WHITE, GREY))
    if seed.sum() < LEAST_INSIDE * ball.sum() or not seed.any():
        return None
    parts, _ = ndimage.label(seed)
    seed = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    advance = np.array([0.0, radius - small])
    return _pushed(np.where(seed, TUMOR, brain), spacing, advance, advance, settings)[-1]


def grown(first, spacing_mm, days, treatments, settings: GliomaSettings) -> np.ndarray:
    """Labels (V, *S) of every visit, from those of the first one (*S)."""
    radius = partitions.equivalent_radius(first == TUMOR, spacing_mm)
    advances, furthest = settings.law.advances(radius, days, treatments, first.ndim)
    return _pushed(first, spacing_mm, advances, furthest, settings)


def _pushed(first, spacing_mm, advances, furthest, settings: GliomaSettings) -> np.ndarray:
    """Labels (V, *S) of a first visit after each advance of its tumor."""
    tumor, head = first == TUMOR, first != BACKGROUND
    below = np.where(tumor, fronts.filled(first, ~np.isin(first, (WHITE, GREY)), spacing_mm), first)
    speeds = np.array([0.0, settings.speed_white, settings.speed_grey, settings.speed_fluid, settings.speed_fluid])
    speed = np.where(head, fronts.blurred(speeds[below], spacing_mm), 0.0)
    front = fronts.Front(tumor, speed, spacing_mm, furthest)
    held = np.clip(-fronts.signed_distance(head, spacing_mm) / _SKULL_MM, 0.0, 1.0)
    # no background and no ventricle inside the brain: those are drawn by themselves
    solid = fronts.filled(below, ~np.isin(below, (WHITE, GREY, CSF)), spacing_mm)
    wall = fronts.signed_distance(below == VENTRICLES, spacing_mm)
    visits = [first]
    for advance, most in zip(advances[1:], furthest[1:]):
        now = front.extent(advance)
        u = fronts.displacement(front, now, front.extent(most), settings.push) * held
        push = np.sqrt((u**2).sum(axis=0))
        labels = fronts.carried_labels(solid, u, spacing_mm)
        labels[fronts.carried(wall, u, spacing_mm) <= -_SQUEEZE * push] = VENTRICLES
        labels[now] = TUMOR
        labels[~head] = BACKGROUND
        visits.append(labels)
    return np.stack(visits).astype(np.uint8)
