"""How simulated tumors grow and push: an eikonal front through tissues of different speed, and a displacement field.

Not the project's own model (no reaction, no diffusion, no pressure), so that learning from it is no inverse crime.
numpy and scipy; everything is a function of the labels of the first visit.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

FAR = 1e6                  # an arrival time that is never reached
_DIRECTION_MM = 2.0        # distances are smoothed this wide before their gradient gives the direction of the push
SPEED_BLUR_MM = 2.0
LEAST_CORE = 0.5           # part of its depth that a shrinking tumor keeps: it never vanishes


@dataclass(frozen=True)
class Push:
    """How a front moves the tissue before it.

    share: of the front's advance that pushes tissue aside; the rest is tissue that the tumor takes over
    reach_mm: distance over which the push fades; the tissue between is compressed
    """

    share: float = 0.8
    reach_mm: float = 20.0


def signed_distance(mask, spacing_mm) -> np.ndarray:
    """Distance (mm) to the border of a mask, negative inside; the border is half a voxel from the voxels beside it."""
    half = 0.5 * min(spacing_mm)
    if not mask.any() or mask.all():
        return np.full(mask.shape, FAR if not mask.any() else -FAR)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    return np.where(mask, half - inside, outside - half)


def arrival_times(start, slowness, spacing_mm, until: float) -> np.ndarray:
    """Arrival time T of a front that leaves the mask `start` at time 0:  |∇T| = slowness (Godunov's upwind scheme).

    start: (*S) bool; slowness: (*S) > 0, 1 / speed; FAR where the front cannot go
    until: times beyond it come back as some number above it
    The scheme is iterated over the whole box until nothing below `until` changes (Rouy and Tourin 1992, SIAM J Numer
    Anal 29:867); first order in the voxel size.
    """
    ndim = start.ndim
    slowest = float(slowness.min())
    grow = [int(np.ceil(until / (slowest * h))) + 2 for h in spacing_mm]
    lines = [np.flatnonzero(start.any(axis=tuple(a for a in range(ndim) if a != d))) for d in range(ndim)]
    box = tuple(slice(max(0, int(line[0]) - n), int(line[-1]) + n + 1) for n, line in zip(grow, lines))
    f = slowness[box]
    padded = np.full([n + 2 for n in f.shape], FAR)
    T = padded[(slice(1, -1),) * ndim]
    T[start[box]] = 0.0
    weights = [1.0 / h**2 for h in spacing_mm]
    subsets = [s for size in range(2, ndim + 1) for s in itertools.combinations(range(ndim), size)]
    while True:
        before = T.copy()
        a = []
        for d in range(ndim):
            low, high = ([slice(1, -1)] * ndim for _ in range(2))
            low[d], high[d] = slice(0, -2), slice(2, None)
            a.append(np.minimum(padded[tuple(low)], padded[tuple(high)]))
        new = np.minimum.reduce([a[d] + spacing_mm[d] * f for d in range(ndim)])
        for subset in subsets:
            # Σ_d w_d (t − a_d)² = f² over the axes that the front comes along
            total = sum(weights[d] for d in subset)
            spread = sum(weights[i] * weights[j] * (a[i] - a[j])**2 for i, j in itertools.combinations(subset, 2))
            square = total * f**2 - spread
            t = (sum(weights[d] * a[d] for d in subset) + np.sqrt(np.maximum(square, 0.0))) / total
            upwind = (square >= 0.0) & (t >= np.maximum.reduce([a[d] for d in subset]))
            new = np.where(upwind & (t < new), t, new)
        np.minimum(T, np.minimum(new, FAR), out=T)
        if not ((T < before) & (T <= until)).any():
            break
    times = np.full(start.shape, FAR)
    times[box] = T
    return times


class Front:
    """A tumor that can be asked for its extent after any advance.

    mask: (*S) bool, the tumor of the first visit
    speed: (*S) >= 0, mm of front per mm of advance: 1 where the advance is that of the growth law
    advances: (V,) mm, of every visit: positive ones grow by `arrival_times`, negative ones erode
    """

    def __init__(self, mask, speed, spacing_mm, advances):
        self.mask, self.spacing_mm = mask, tuple(spacing_mm)
        self.distance = signed_distance(mask, spacing_mm)
        slowness = 1.0 / np.maximum(speed, 1.0 / FAR)
        # the border lies half a voxel outside the mask's voxels, where times start
        rim = ndimage.binary_dilation(mask) & ~mask & (speed > 0)
        half = 0.5 * min(spacing_mm) * float(slowness[rim].mean()) if rim.any() else 0.0
        times = arrival_times(mask, slowness, spacing_mm, max(0.0, *advances) + half)
        ahead = np.where(speed > 0, np.maximum(times - half, 1e-6), FAR)
        self.level = np.where(mask, self.distance, ahead)
        self.least = (1.0 - LEAST_CORE) * float(self.distance.min())

    def extent(self, advance_mm: float) -> np.ndarray:
        """The tumor (*S) bool after an advance; after 0 it is the mask."""
        return self.level <= max(advance_mm, self.least)


def displacement(front: Front, now, furthest, push: Push) -> np.ndarray:
    """Where the tissue came from: ψ(x) = x − u(x), u (ndim, *S) in mm.

    u = n [ (φ₀ − φ) − (1 − share) (φ₀ − φ_max) ] exp(−|φ| / reach)

    φ₀, φ, φ_max: signed distances (mm) to the tumor of the first visit, to today's (`now`) and to the largest so far
        (`furthest`); n: gradient of φ₀, away from the tumor
    A growing front pushes its share; a shrinking one lets the tissue come back, but not what the tumor took over.
    Along n the map is monotone while the advance is below `reach`: what is pushed is compressed, never folded.
    """
    phi0, phi = front.distance, signed_distance(now, front.spacing_mm)
    phi_max = phi if np.array_equal(now, furthest) else signed_distance(furthest, front.spacing_mm)
    moved = (phi0 - phi) - (1.0 - push.share) * (phi0 - phi_max)
    smooth = ndimage.gaussian_filter(phi0, [_DIRECTION_MM / h for h in front.spacing_mm], mode="nearest")
    direction = np.stack(np.gradient(smooth, *front.spacing_mm))
    return direction * (moved * np.exp(-np.abs(phi) / push.reach_mm))


def carried(field, u, spacing_mm) -> np.ndarray:
    """A field (*S) taken along by a displacement: field(x − u(x)), linear between voxels, constant beyond the edge."""
    steps = np.array(spacing_mm).reshape(-1, *[1] * field.ndim)
    return ndimage.map_coordinates(field, np.indices(field.shape) - u / steps, order=1, mode="nearest")


def carried_labels(labels, u, spacing_mm) -> np.ndarray:
    """A label map (*S) taken along by a displacement: the largest of its classes between voxels."""
    steps = np.array(spacing_mm).reshape(-1, *[1] * labels.ndim)
    coordinates = np.indices(labels.shape) - u / steps
    values = np.unique(labels)
    shares = np.stack([
        ndimage.map_coordinates((labels == k).astype(np.float32), coordinates, order=1, mode="nearest") for k in values
    ])
    return values[shares.argmax(axis=0)].astype(labels.dtype)


def filled(labels, holes, spacing_mm) -> np.ndarray:
    """The label map with every voxel of `holes` given the label of the nearest voxel outside them."""
    if not holes.any():
        return labels
    nearest = ndimage.distance_transform_edt(holes, sampling=spacing_mm, return_distances=False, return_indices=True)
    return labels[tuple(nearest)]


def blurred(speed, spacing_mm) -> np.ndarray:
    """A speed (*S) that passes smoothly from one tissue into the next, so that fronts stay smooth."""
    return ndimage.gaussian_filter(speed, [SPEED_BLUR_MM / h for h in spacing_mm], mode="nearest")
