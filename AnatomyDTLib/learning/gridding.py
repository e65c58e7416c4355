"""Label maps and images of many cases brought to one voxel size and one shape."""

from __future__ import annotations

import numpy as np


def regridded(array, spacing_mm, wanted_mm, order: int = 0) -> np.ndarray:
    """An array (*S) sampled on voxels of another size in the same box; order 0: nearest voxel, 1: linear."""
    if np.allclose(spacing_mm, wanted_mm, rtol=1e-6):
        return array
    shape = [max(1, round(n * h / w)) for n, h, w in zip(array.shape, spacing_mm, wanted_mm)]
    # voxel i of the new grid has its centre at (i + 1/2) w, which is (i + 1/2) w / h − 1/2 in voxels of the old one
    axes = [
        np.clip((np.arange(m) + 0.5) * w / h - 0.5, 0, n - 1)
        for m, n, h, w in zip(shape, array.shape, spacing_mm, wanted_mm)
    ]
    if order == 0:
        return array[np.ix_(*(np.rint(a).astype(int) for a in axes))]
    from scipy import ndimage

    return ndimage.map_coordinates(array, np.meshgrid(*axes, indexing="ij"), order=1).astype(array.dtype)


def trimmed(labels, images):
    """(labels (V, *S), images (I, *S) or None) cut to the box of what is not label 0 at any visit."""
    seen = labels.any(axis=0)
    if not seen.any():
        return labels, images
    lines = [np.flatnonzero(seen.any(axis=tuple(a for a in range(seen.ndim) if a != d))) for d in range(seen.ndim)]
    box = (slice(None), *(slice(int(line[0]), int(line[-1]) + 1) for line in lines))
    return labels[box], None if images is None else images[box]


def centred(array, shape):
    """(N, *S) in the middle of a larger shape, zeros around it; None stays None."""
    if array is None or array.shape[1:] == tuple(shape):
        return array
    return np.pad(array, [(0, 0), *(((m - n) // 2, m - n - (m - n) // 2) for m, n in zip(shape, array.shape[1:]))])
