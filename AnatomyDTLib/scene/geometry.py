"""Where the voxels lie: grids, oriented images, and the way between numpy and VTK.

Arrays are (z, y, x); a grid's matrix takes (i, j, k) = (x, y, z) to mm, as Slicer's IJKToRAS does.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..engine import ForecastError


@dataclass(frozen=True)
class Grid:
    """A voxel grid.

    shape: (Z, Y, X)
    ijk_to_ras: (4, 4) from voxel indices (i, j, k) to right-anterior-superior mm; columns may be oblique
    """

    shape: tuple[int, int, int]
    ijk_to_ras: np.ndarray

    def __post_init__(self):
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "ijk_to_ras", matrix)
        if len(self.shape) != 3 or matrix.shape != (4, 4) or min(self.shape) < 1:
            raise ForecastError(f"a grid has three sizes and a 4 x 4 matrix, not {self.shape} and {matrix.shape}")
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise ForecastError("the voxel axes do not span space (the IJKToRAS matrix is singular); repair the geometry")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size in the order (z, y, x)."""
        return tuple(float(s) for s in np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)[::-1])

    @property
    def shear(self) -> float:
        """Largest |cosine| between two voxel axes; 0 when they are orthogonal."""
        axes = self.ijk_to_ras[:3, :3] / np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return float(np.abs(axes.T @ axes - np.eye(3)).max())

    def moved(self, matrix: np.ndarray) -> Grid:
        """The same voxels, seen from the coordinate system that `matrix` (4, 4) leads to."""
        return Grid(self.shape, np.asarray(matrix) @ self.ijk_to_ras)

    def slab(self, part: slice) -> Grid:
        """The voxels of a range of k."""
        first = np.eye(4)
        first[2, 3] = part.start
        return Grid((part.stop - part.start, *self.shape[1:]), self.ijk_to_ras @ first)

    def serialized(self) -> str:
        """The text that a segmentation's "Reference image geometry" parameter holds."""
        z, y, x = self.shape
        extent = [0, x - 1, 0, y - 1, 0, z - 1]
        return slicer.vtkSegmentationConverter.SerializeImageGeometry(vtk_matrix(self.ijk_to_ras), extent)


def as_grid(geometry) -> Grid:
    """A Grid from a Grid, a volume read from a file, its geometry, or (shape, ijk_to_ras)."""
    geometry = getattr(geometry, "geometry", geometry)
    if isinstance(geometry, Grid):
        return geometry
    if hasattr(geometry, "ijk_to_ras"):
        return Grid(geometry.shape, geometry.ijk_to_ras())
    shape, ijk_to_ras = geometry
    return Grid(shape, ijk_to_ras)


def vtk_matrix(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    made = vtk.vtkMatrix4x4()
    made.DeepCopy(np.asarray(matrix, dtype=np.float64).ravel().tolist())
    return made


def numpy_matrix(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def grid_of(image: slicer.vtkOrientedImageData) -> Grid:
    """The grid of an oriented image; its first voxel becomes (0, 0, 0) whatever its extent says."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    i0, i1, j0, j1, k0, k1 = image.GetExtent()
    first = np.eye(4)
    first[:3, 3] = i0, j0, k0
    return Grid((k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1), numpy_matrix(matrix) @ first)


def grid_of_volume(volume, what: str | None = None) -> Grid:
    """The grid of a volume node in the node's own coordinates (its parent transform not applied).

    what: how a refusal names it; None: as the reference volume
    """
    if volume.GetImageData() is None or min(volume.GetImageData().GetDimensions()) < 1:
        what = what or f"the reference volume '{volume.GetName()}'"
        raise ForecastError(f"{what} holds no image; choose one that does")
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return Grid(volume.GetImageData().GetDimensions()[::-1], numpy_matrix(matrix))


def empty_image(grid: Grid) -> slicer.vtkOrientedImageData:
    """An oriented image with the grid's geometry and no voxels yet."""
    z, y, x = grid.shape
    image = slicer.vtkOrientedImageData()
    image.SetExtent(0, x - 1, 0, y - 1, 0, z - 1)
    image.SetGeometryFromImageToWorldMatrix(vtk_matrix(grid.ijk_to_ras))
    return image


def oriented_image(array: np.ndarray, grid: Grid) -> slicer.vtkOrientedImageData:
    """An oriented image that owns a copy of `array` (Z, Y, X)."""
    assert array.shape == grid.shape, (array.shape, grid.shape)
    image = empty_image(grid)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
    return image


def voxels(image: vtk.vtkImageData) -> np.ndarray:
    """(Z, Y, X) view of an image's scalars."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def transform_between(source, target) -> tuple[np.ndarray | None, vtk.vtkGeneralTransform]:
    """From the coordinates under transform node `source` to those under `target` (None: world).

    Returns the (4, 4) matrix, None when the way is not linear, and the general transform.
    """
    general = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, target, general)
    linear = vtk.vtkTransform()
    if not slicer.vtkMRMLTransformNode.IsGeneralTransformLinear(general, linear):
        return None, general
    return numpy_matrix(linear.GetMatrix()), general


def voxel_offset(source: Grid, target: Grid) -> tuple[int, int, int] | None:
    """(k, j, i) of the source's first voxel in the target where both lie on one lattice, else None.

    One lattice: no voxel of the source is further than a thousandth of a voxel from one of the target.
    """
    between = np.linalg.inv(target.ijk_to_ras) @ source.ijk_to_ras
    offset = np.round(between[:3, 3])
    corners = np.array(list(itertools.product(*((0, n) for n in source.shape[::-1]))))
    moved = corners @ between[:3, :3].T + between[:3, 3]
    if np.abs(moved - corners - offset).max() > 1e-3:
        return None
    return tuple(int(n) for n in offset[::-1])


def overlap(offset, size, into) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """(slices of the source, slices of the target) where they overlap, None where they do not."""
    inner, outer = [], []
    for start, n, m in zip(offset, size, into):
        first, last = max(start, 0), min(start + n, m)
        if first >= last:
            return None
        inner.append(slice(first - start, last - start))
        outer.append(slice(first, last))
    return tuple(inner), tuple(outer)


def resampled(image, grid: Grid, transform=None, linear: bool = False) -> np.ndarray:
    """An oriented image's values on a grid: nearest, or linear; 0 outside the image."""
    out = slicer.vtkOrientedImageData()
    done = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        image, empty_image(grid), out, linear, False, transform, 0.0
    )
    if not done or out.GetPointData().GetScalars() is None or voxels(out).shape != grid.shape:
        raise ForecastError("an image cannot be resampled to the segmentation's geometry; harden its transform first")
    return voxels(out).copy()
