"""The label maps of a segmentation's segments -> one array of labels on one grid, in slices (`slices`).

A segment's voxels are those of its image that have its label value; several segments share an image unless they
overlap. What takes long goes through an image slab by slab, once for all segments that share it.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from ..engine import ForecastError
from .geometry import Grid, grid_of, grid_of_volume, oriented_image, overlap, resampled, voxel_offset, voxels

LABELMAP = "Binary labelmap"
REFERENCE_GEOMETRY = "Reference image geometry"
# About 20 ms of one core.
SLAB_VOXELS = 4_000_000
# As much, where every voxel is resampled.
RESAMPLED_VOXELS = 1_000_000


def as_labelmaps(segmentation, grid: Grid | None, what: str):
    """The segmentation, or a converted copy, with binary labelmaps; closed surfaces are voxelised on the grid."""
    master = segmentation.GetSourceRepresentationName()
    if master == LABELMAP:
        return segmentation
    if grid is None and segmentation.ContainsRepresentation(LABELMAP):
        return segmentation
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    if grid is not None:
        copy.RemoveRepresentation(LABELMAP)
        copy.SetConversionParameter(REFERENCE_GEOMETRY, grid.serialized())
    if not copy.CreateRepresentation(LABELMAP):
        raise ForecastError(
            f"{what} holds '{master}' and cannot be turned into label maps; convert it in the Segmentations module"
        )
    return copy


def own_grid(segmentation, ids, what: str) -> Grid:
    """The reference geometry, enlarged to hold every segment; the segments' common one without it."""
    reference = segmentation.GetConversionParameter(REFERENCE_GEOMETRY)
    if reference:
        # Looking for each segment's own extent, Slicer goes through all voxels once per segment.
        grid = _deserialized(reference)
        images = [segmentation.GetSegment(i).GetRepresentation(LABELMAP) for i in ids]
        if grid is not None and all(_lies_in(image, grid) for image in images if image is not None):
            return grid
    names = vtk.vtkStringArray()
    for identifier in ids:
        names.InsertNextValue(identifier)
    mode = slicer.vtkSegmentation.EXTENT_UNION_OF_SEGMENTS
    if reference:
        mode = slicer.vtkSegmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS_AND_REFERENCE_GEOMETRY
    text = segmentation.DetermineCommonLabelmapGeometry(mode, names)
    grid = _deserialized(text)
    if grid is None:
        raise ForecastError(f"{what} is empty; segment the anatomy and the tumor first")
    return grid


def _deserialized(text: str) -> Grid | None:
    image = slicer.vtkOrientedImageData()
    understood = text and slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False)
    return grid_of(image) if understood and min(image.GetDimensions()) >= 1 else None


def _lies_in(image, grid: Grid) -> bool:
    """Is an image on the lattice of a grid, and inside it? An empty one lies in every grid."""
    if image.IsEmpty():
        return True
    offset = voxel_offset(grid_of(image), grid)
    return offset is not None and all(
        0 <= first and first + n <= m for first, n, m in zip(offset, image.GetDimensions()[::-1], grid.shape))


def merged(segmentation, ids, grid: Grid, matrix=None, warp=None):
    """Slices of (labels (Z, Y, X) uint8, how many voxels lie outside the grid, how many under a later segment).

    labels: 1 for the first of `ids`
    matrix: (4, 4) from the segmentation's coordinates to the grid's; when it is None, `warp` (a general
        transform) is taken unless that is None too
    """
    labels = np.zeros(grid.shape, np.uint8)
    lost = hidden = 0
    for image, numbers in _layers(segmentation, ids):
        source = grid_of(image)
        if matrix is not None:
            source = source.moved(matrix)
        bends = matrix is None and warp is not None
        offset = None if bends else voxel_offset(source, grid)
        if offset is not None:
            parts = overlap(offset, source.shape, grid.shape)
            inner, outer = parts or ((slice(0, 0),) * 3, (slice(0, 0),) * 3)
            for slab in slabs(source.shape):
                yield
                own = _numbered(voxels(image)[slab], numbers)
                first, last = max(slab.start, inner[0].start), min(slab.stop, inner[0].stop)
                within = own[first - slab.start:max(last, first) - slab.start, inner[1], inner[2]]
                if within.shape != own.shape:
                    lost += int(np.count_nonzero(own) - np.count_nonzero(within))
                if within.size:
                    shift = outer[0].start - inner[0].start
                    hidden += _laid_over(labels[first + shift:last + shift, outer[1], outer[2]], within)
            continue
        yield
        own = _numbered(voxels(image), numbers)
        if not bends:
            lost += yield from _outside(own, source, grid)
        yield
        own = resampled(oriented_image(own, source), grid, warp if bends else None)
        yield
        hidden += _laid_over(labels, own)
    return labels, lost, hidden


def _layers(segmentation, ids):
    """(image, label value -> number of the segment) for each image that segments share; the first of `ids` is 1."""
    found: list[tuple[object, dict[int, int]]] = []
    for number, identifier in enumerate(ids, start=1):
        segment = segmentation.GetSegment(identifier)
        image, value = segment.GetRepresentation(LABELMAP), segment.GetLabelValue()
        if image is None or image.IsEmpty() or image.GetPointData().GetScalars() is None:
            continue
        numbers = next((known for one, known in found if one is image and value not in known), None)
        if numbers is None:
            numbers = {}
            found.append((image, numbers))
        numbers[value] = number
    return found


def _numbered(values: np.ndarray, numbers: dict[int, int]) -> np.ndarray:
    """Label values -> numbers of segments, uint8, 0 where no segment has the value."""
    if values.dtype == np.uint8:
        table = np.zeros(256, np.uint8)
        for value, number in numbers.items():
            if 0 <= value < 256:
                table[value] = number
        return table[values]
    found = np.zeros(values.shape, np.uint8)
    for value, number in numbers.items():
        found[values == value] = number
    return found


def _laid_over(labels: np.ndarray, own: np.ndarray) -> int:
    """Adds segments to the labels, the one with the higher number on top; how many voxels two of them want."""
    hidden = np.count_nonzero((labels > 0) & (own > 0))
    np.maximum(labels, own, out=labels)
    return int(hidden)


def slabs(shape, most: int = SLAB_VOXELS) -> list[slice]:
    """Parts of an array along its first axis, of about so many voxels."""
    thickness = max(1, most // (shape[1] * shape[2]))
    return [slice(start, min(start + thickness, shape[0])) for start in range(0, shape[0], thickness)]


def translated(labels: np.ndarray, table: np.ndarray):
    """Slices of table[labels], (Z, Y, X) uint8."""
    found = np.empty(labels.shape, np.uint8)
    for slab in slabs(labels.shape):
        yield
        found[slab] = table[labels[slab]]
    return found


def _outside(own: np.ndarray, source: Grid, grid: Grid):
    """Slices of how many non-zero voxels of `own`, on `source`, have their centre outside a grid."""
    across = np.linalg.inv(grid.ijk_to_ras) @ source.ijk_to_ras
    outside = 0
    for slab in slabs(own.shape, SLAB_VOXELS // 4):
        yield
        k, j, i = np.ogrid[slab, :own.shape[1], :own.shape[2]]
        inside = np.ones(own[slab].shape, bool)
        for (a, b, c, first), n in zip(across[:3], grid.shape[::-1]):
            position = a * i + b * j + c * k + first
            inside &= (position > -0.5) & (position < n - 0.5)
        outside += int(np.count_nonzero(own[slab][~inside]))
    return outside


def hardened(segmentation, ids, warp, grid: Grid | None, what: str):
    """Slices of (labels, their grid, voxels under a later segment), through a nonlinear transform into the world.

    grid: of the labels; None: the bent image's own box
    """
    own = own_grid(segmentation, ids, what)
    labels, _, hidden = yield from merged(segmentation, ids, own)
    yield
    image = oriented_image(labels, own)
    if grid is not None:
        return resampled(image, grid, warp), grid, hidden
    slicer.vtkOrientedImageDataResample.TransformOrientedImage(image, warp)
    if image.GetPointData().GetScalars() is None or image.IsEmpty():
        raise ForecastError(
            f"the nonlinear transform of {what} cannot be hardened; choose a reference volume or harden it in Slicer"
        )
    return voxels(image).astype(np.uint8), grid_of(image), hidden


def values_on(volume, grid: Grid, matrix, warp, linear: bool, what: str):
    """Slices of (values on the grid as float32, where the grid lies outside the volume)."""
    source = grid_of_volume(volume, what)
    image = volume.GetImageData()
    if image.GetPointData().GetScalars() is None:
        raise ForecastError(f"{what} holds no numbers; choose one that does")
    if image.GetNumberOfScalarComponents() != 1:
        raise ForecastError(f"{what} has several values per voxel; choose a volume with one")
    values = np.empty(source.shape, np.float32)
    for slab in slabs(source.shape):
        yield
        values[slab] = voxels(image)[slab]
    if matrix is not None:
        source = source.moved(matrix)
        if voxel_offset(source, grid) == (0, 0, 0) and source.shape == grid.shape:
            return values, np.zeros(grid.shape, bool)
    transform = warp if matrix is None else None
    yield
    there, image = oriented_image(np.ones(source.shape, np.uint8), source), oriented_image(values, source)
    found, outside = np.empty(grid.shape, np.float32), np.empty(grid.shape, bool)
    for slab in slabs(grid.shape, RESAMPLED_VOXELS):
        yield
        own = grid.slab(slab)
        outside[slab] = resampled(there, own, transform) == 0
        yield
        found[slab] = resampled(image, own, transform, linear)
    return found, outside
