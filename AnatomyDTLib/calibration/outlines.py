"""How readers draw an outline: with an error that goes together over a patch of it, in the baseline as in every visit.

An error field b (mm, outwards) of standard deviation σ is taken as the Gaussian-filtered white noise that is correlated
as ρ(h) = exp(−π h²/patch²), so that errors go together over an area ∫ρ = patch².
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

# Widest patch that is told apart from a whole outline that is off, mm; and the bins of distance it is read from.
WIDEST_PATCH_MM, BIN_MM = 24.0, 1.5


def surface_mm2(mask: np.ndarray, spacing_mm) -> float:
    """Area of a mask's surface: its faces, two thirds of which are what a smooth surface has (3/2 is the mean of |n|₁
    over a sphere)."""
    area = 0.0
    for axis, h in enumerate(spacing_mm):
        area += float(np.abs(np.diff(mask.astype(np.int8), axis=axis)).sum()) * math.prod(spacing_mm) / h
    return area * 2.0 / 3.0


def voxels_of_a_patch(sigma_mm: float, patch_mm: float, spacing_mm) -> float:
    """How many voxels tell of one patch of an outline drawn with an error σ: patch² · 1.8 σ / voxel, at least 1.

    1.8 = ∫ φ²/(Φ(1 − Φ)) dt, of the information of labels about their outline
    """
    return max(1.0, 1.8 * sigma_mm * patch_mm**2 / math.prod(spacing_mm))


def outline_errors(inside: np.ndarray, spacing_mm, patch_mm: float, count: int, seed: int) -> np.ndarray:
    """(count, *S) random smooth fields of unit variance, without a mean over the outline: correlated over an area
    patch²."""
    random = np.random.default_rng(seed)
    width = patch_mm / math.sqrt(4 * math.pi)
    edge = ndimage.binary_dilation(inside) & ~ndimage.binary_erosion(inside)
    fields = []
    for _ in range(count):
        field = ndimage.gaussian_filter(
            random.standard_normal(inside.shape), [width / h for h in spacing_mm], mode="wrap"
        )
        field -= field[edge].mean()
        fields.append(field / field[edge].std())
    return np.stack(fields).astype(np.float32)


def redrawn(labels: np.ndarray, k: int, others: Sequence[int], spacing_mm, shift_mm) -> np.ndarray:
    """The labels with the outline of class k moved outwards by a distance (mm), a number or (*S).

    It takes voxels of the other classes only, and leaves a voxel only to one of them, that of the nearest voxel outside.
    """
    inside = labels == k
    away, nearest = ndimage.distance_transform_edt(inside, sampling=spacing_mm, return_indices=True)
    distance = away - ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
    # the outline runs halfway between voxels of either side
    moved = distance - np.sign(distance) * min(spacing_mm) / 2 + shift_mm > 0
    new = labels.copy()
    left = inside & ~moved & np.isin(labels[tuple(nearest)], others)
    new[left] = labels[tuple(nearest)][left]
    new[moved & np.isin(labels, others)] = k
    return new


def patch_of(
    residuals: Sequence[tuple[np.ndarray, np.ndarray]], spacing_mm, sigma_mm: float, least_mm: float
) -> float:
    """The patch (mm) over which the errors of outlines go together, between `least_mm` and WIDEST_PATCH_MM.

    residuals: per visit the derivative x of −log-likelihood by the distance s, and its curvature w, (*S) each. With an
    error b of each outline x ≈ w b, so that

        Σ x_i x_j / Σ w_i w_j ≈ a ρ(h)

    over the pairs of voxels at a distance h, by Fourier transforms; a and the patch are those of the closest, each
    distance weighted by Σ w_i w_j. A voxel with itself is left out: that also holds what a label's rounding to voxels
    adds. An error of which less than half (√a < σ/2) goes together over any distance is one of single voxels.
    """
    edges = np.arange(BIN_MM, WIDEST_PATCH_MM + BIN_MM, BIN_MM)
    top, bottom, moment = (np.zeros(len(edges) - 1) for _ in range(3))
    for x, w in residuals:
        size = [2 * n for n in x.shape]
        axes = range(x.ndim)
        together = [np.fft.irfftn(np.abs(np.fft.rfftn(v, size, axes)) ** 2, size, axes).ravel() for v in (x, w)]
        lags = np.meshgrid(
            *[np.fft.fftfreq(n, 1.0 / n) * h for n, h in zip(size, spacing_mm)], indexing="ij", sparse=True
        )
        h = np.sqrt(sum(lag**2 for lag in lags)).ravel()
        index = np.digitize(h, edges) - 1
        kept = (index >= 0) & (index < len(top))
        for total, values in ((top, together[0]), (bottom, together[1]), (moment, together[1] * h)):
            total += np.bincount(index[kept], values[kept], len(top))
    bottom = np.maximum(bottom, 1e-30)
    distance, found = moment / bottom, top / bottom
    best, closest = least_mm, math.inf
    for patch in np.geomspace(least_mm, WIDEST_PATCH_MM, 12):
        rho = np.exp(-math.pi * (distance / patch) ** 2)
        variance = max(0.0, float((bottom * rho * found).sum() / max((bottom * rho**2).sum(), 1e-30)))
        away = float((bottom * (found - variance * rho) ** 2).sum())
        if away < closest:
            best, closest = (float(patch) if math.sqrt(variance) >= sigma_mm / 2 else least_mm), away
    return best
