"""Regions, doses and images -> arrays on the grid of a baseline: what treatments name and what weights need."""

from __future__ import annotations

import numpy as np

from ..checks import LARGEST_DOSE_GY
from ..engine import ForecastError
from .dose import gray_per_unit
from .geometry import transform_between
from .labelmaps import as_labelmaps, merged, slabs, values_on
from .segmentation import Baseline, ids_of
from .slices import finished

# Percent of the segmented voxels from which on those outside a volume are told.
TOLD_PERCENT = 0.5


def read_maps(baseline: Baseline, regions: dict | None, doses: dict | None) -> tuple[dict, tuple[str, ...]]:
    """As `reading_maps`, in one go."""
    return finished(reading_maps(baseline, regions, doses))


def reading_maps(baseline: Baseline, regions: dict | None, doses: dict | None):
    """Slices of the arrays that a plan's treatments name, on the baseline's grid, and warnings."""
    maps, warnings = {}, ()
    for key, chosen in (regions or {}).items():
        chosen, segment_id = chosen if isinstance(chosen, tuple) else (chosen, None)
        maps[key] = yield from reading_region(baseline, chosen, segment_id)
    for key, volume in (doses or {}).items():
        maps[key], said = yield from reading_dose_gy(baseline, volume)
        warnings += said
    return maps, warnings


def reading_images(baseline: Baseline, volumes):
    """Slices of the arrays of volume nodes on the baseline's grid, in their order, and warnings."""
    images, warnings = [], ()
    for volume in volumes:
        image, said = yield from reading_image(baseline, volume)
        images.append(image)
        warnings += said
    return images, warnings


def region(baseline: Baseline, node, segment_id: str | None = None, may_be_empty: bool = False) -> np.ndarray:
    """As `reading_region`, in one go."""
    return finished(reading_region(baseline, node, segment_id, may_be_empty))


def reading_region(baseline: Baseline, node, segment_id: str | None = None, may_be_empty: bool = False):
    """Slices of a resection region or radiation target on the baseline's grid, (Z, Y, X) bool, by nearest voxel.

    node: a segmentation node (one segment, or all together) or a label volume (non-zero voxels)
    may_be_empty: a region without a voxel in the image is one too; else ForecastError
    """
    if node is None:
        raise ForecastError("no region is chosen; choose a segment or a label volume")
    what = f"the region '{node.GetName()}'"
    matrix, warp = _to_baseline(baseline, node)
    if node.IsA("vtkMRMLSegmentationNode"):
        ids = ids_of(node, None if segment_id is None else [segment_id], what)
        segmentation = as_labelmaps(node.GetSegmentation(), None, what)
        inside = (yield from merged(segmentation, ids, baseline.grid, matrix, warp))[0] > 0
    else:
        inside = (yield from values_on(node, baseline.grid, matrix, warp, False, what))[0] != 0
    if not inside.any() and not may_be_empty:
        raise ForecastError(f"{what} holds no voxel of the forecast's image; choose one that overlaps the segmentation")
    return inside


def dose_gy(baseline: Baseline, volume) -> tuple[np.ndarray, tuple[str, ...]]:
    """As `reading_dose_gy`, in one go."""
    return finished(reading_dose_gy(baseline, volume))


def reading_dose_gy(baseline: Baseline, volume):
    """Slices of a dose volume on the baseline's grid, (Z, Y, X) float32 in Gy, linear; 0 outside it; and warnings.

    The unit is the one that SlicerRT gave it (`dose`), else Gy.
    """
    if volume is None:
        raise ForecastError("no dose volume is chosen; choose one, or give a uniform dose")
    what = f"the dose volume '{volume.GetName()}'"
    scale, warnings = gray_per_unit(volume)
    dose, outside, percent = yield from _resampled(baseline, volume, what)
    largest = 0.0
    for slab in slabs(dose.shape):
        yield
        dose[slab] *= np.float32(scale)
        if not np.isfinite(dose[slab]).all() or dose[slab].min() < 0:
            raise ForecastError(f"{what} holds values that are no dose (negative or not a number); give the dose in Gy")
        largest = max(largest, float(dose[slab].max()))
    if largest == 0:
        raise ForecastError(f"{what} is zero everywhere in the forecast's image; choose one that overlaps it")
    if largest > LARGEST_DOSE_GY:
        raise ForecastError(f"{what} reaches {largest:.0f} Gy, more than any course gives; if it is in cGy, divide it by 100")
    if percent >= TOLD_PERCENT:
        warnings += (f"{percent:.0f} % of the segmented voxels lie outside {what} and get no dose",)
    return dose, warnings


def reading_image(baseline: Baseline, volume):
    """Slices of an image on the baseline's grid, (Z, Y, X) float32, linear; its darkest value outside it; and warnings."""
    what = f"the image '{volume.GetName()}'"
    image, outside, percent = yield from _resampled(baseline, volume, what)
    darkest = np.inf
    for slab in slabs(image.shape):
        yield
        if not np.isfinite(image[slab]).all():
            raise ForecastError(f"{what} holds NaN or infinite values")
        darkest = min(darkest, float(image[slab].min(where=~outside[slab], initial=np.inf)))
    if percent == 100:
        raise ForecastError(f"{what} does not overlap the segmentation; choose one of the same scan")
    yield
    image[outside] = darkest
    if percent < TOLD_PERCENT:
        return image, ()
    return image, (f"{percent:.0f} % of the segmented voxels lie outside {what}; its darkest value stands there",)


def _resampled(baseline: Baseline, volume, what: str):
    """Slices of (values on the baseline's grid, where it lies outside the volume, both (Z, Y, X); percent of the segmented voxels there)."""
    values, outside = yield from values_on(volume, baseline.grid, *_to_baseline(baseline, volume), True, what)
    segmented = missed = 0
    for slab in slabs(values.shape):
        yield
        there = baseline.labels[slab] > 0
        segmented += np.count_nonzero(there)
        missed += np.count_nonzero(outside[slab] & there)
    return values, outside, 100.0 * missed / segmented


def _to_baseline(baseline: Baseline, node):
    """(matrix, warp) from a node's coordinates to the baseline's, as `transform_between`."""
    scene, parent = node.GetScene(), None
    if baseline.parent_transform_id is not None:
        parent = scene.GetNodeByID(baseline.parent_transform_id) if scene else None
        if parent is None:
            raise ForecastError("the segmentation's transform is no longer in the scene; read the segmentation again")
    return transform_between(node.GetParentTransformNode(), parent)
