"""Random smooth anatomy in millimetres: soft Voronoi partitions, blobs, wavy fields. numpy alone.

Everything is drawn in millimetres and then sampled on the grid, so that one seed gives the same anatomy on every grid.
"""

from __future__ import annotations

import math

import numpy as np

EXTENT_MM = 96.0       # the shortest edge of a generated domain, unless a voxel size is given
MOST_DRAWS = 200       # of one case's anatomy until it fulfils all demands


def grid(shape, spacing_mm=None) -> tuple[tuple[float, ...], np.ndarray]:
    """(voxel size in mm, coordinates (ndim, *S) of the voxels' centres in mm)."""
    spacing = tuple(spacing_mm) if spacing_mm is not None else (EXTENT_MM / min(shape),) * len(shape)
    x = np.indices(shape, dtype=float)
    for d, h in enumerate(spacing):
        x[d] = (x[d] + 0.5) * h
    return spacing, x


def extent(shape, spacing_mm) -> np.ndarray:
    """(ndim,) edges of the domain, mm."""
    return np.array(shape) * np.array(spacing_mm)


def waves(rng, x, amplitude_mm: float, wavelengths_mm: tuple[float, float], modes: int = 8) -> np.ndarray:
    """A smooth random displacement (ndim, *S) in mm of that standard deviation: a sum of plane waves."""
    ndim = len(x)
    direction = rng.normal(size=(modes, ndim))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    k = 2.0 * np.pi / rng.uniform(*wavelengths_mm, (modes, 1)) * direction
    phase = rng.uniform(0.0, 2.0 * np.pi, (modes, ndim))
    strength = rng.normal(size=(modes, ndim)) * amplitude_mm * np.sqrt(2.0 / modes)
    out = np.zeros_like(x)
    for m in range(modes):
        angle = np.tensordot(k[m], x, axes=1)
        for d in range(ndim):
            out[d] += strength[m, d] * np.sin(angle + phase[m, d])
    return out


def spread_points(rng, n: int, size, tries: int = 12) -> np.ndarray:
    """(n, ndim) random points in a box of edges `size`, each the farthest of some candidates from those before."""
    points = [rng.uniform(size=len(size)) * size]
    for _ in range(n - 1):
        candidates = rng.uniform(size=(tries, len(size))) * size
        nearest = np.min([np.linalg.norm(candidates - p, axis=1) for p in points], axis=0)
        points.append(candidates[nearest.argmax()])
    return np.array(points)


def soft_voronoi(rng, x, size, classes: int, sites: int, softness_mm: float, waviness_mm: float) -> np.ndarray:
    """Labels (*S) of a soft Voronoi partition: the largest of  q_k ∝ Σ_m exp(−|x − site_km| / softness).

    classes, sites: how many classes, and sites of each; waviness_mm: of the borders
    """
    places = spread_points(rng, classes * sites, size).reshape(sites, classes, -1)
    warped = x + waves(rng, x, waviness_mm, (25.0, 60.0))
    q = np.zeros((classes, *x.shape[1:]))
    for k in range(classes):
        for m in range(sites):
            d = np.sqrt(sum((warped[a] - places[m, k, a])**2 for a in range(len(x))))
            q[k] += np.exp(-d / softness_mm)
    return q.argmax(axis=0).astype(np.uint8)


def blob(rng, x, centre, radius_mm: float, waviness_mm: float) -> np.ndarray:
    """A roundish mask (*S): the half-height set of a Gaussian blob in wavy coordinates."""
    warped = x + waves(rng, x, waviness_mm, (12.0, 30.0))
    return sum((warped[a] - centre[a])**2 for a in range(len(x))) <= radius_mm**2


def seen_with_noise(rng, labels, x, spacing_mm, noise_mm: float) -> np.ndarray:
    """Labels (*S) as an unsure observer draws them: borders shifted by a smooth random field of that size."""
    if noise_mm == 0.0:
        return labels
    shift = waves(rng, x, noise_mm, (6.0, 20.0), modes=16)
    index = tuple(
        np.clip(np.floor((x[d] + shift[d]) / spacing_mm[d]).astype(int), 0, n - 1) for d, n in enumerate(labels.shape)
    )
    return labels[index]


def equivalent_radius(mask, spacing_mm) -> float:
    """Radius (mm) of the disc or ball that has the mask's area or volume."""
    measure = float(mask.sum()) * float(np.prod(spacing_mm))
    return math.sqrt(measure / math.pi) if mask.ndim == 2 else (3.0 * measure / (4.0 * math.pi)) ** (1.0 / 3.0)
