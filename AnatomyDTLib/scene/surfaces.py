"""Closed surfaces of label maps, fast enough to make for every frame of a forecast.

Surface nets (Gibson 1998; vtkSurfaceNets3D, in VTK since 9.3) are closed whatever the shape and follow the
voxels. Their smoothing shrinks small structures (a ball of 3 voxels' radius by 30 %, a single voxel to a
point), so every surface is then moved along its normals until it holds the volume of its voxels.

Measured on one frame of 128³ with 5 segments of a real brain, one thread of a 2-core machine: Slicer's default
(flying edges, windowed sinc, normals) 4.0 s, Slicer's rule with surface nets 0.42 s, this 0.19 s.

Nothing here knows of a scene: a background process makes the surfaces and hands them over as arrays.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import vtk
from scipy import ndimage
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

# Slicer's own rule with the same method, for surfaces that it makes from the frames later (editing, reading a file).
CONVERSION = {"Conversion method": "1", "SurfaceNets smoothing": "1", "Smoothing factor": "0.5"}

SMOOTHING_ITERATIONS = 8

# A surface of more voxel faces than this is made from larger voxels: white matter at 1 mm has 600,000 triangles,
# and 24 frames of them fill the memory of a graphics card. Slicer draws the whole sample in 0.11 s without one when
# the folded tissues have voxels of 3 mm, in 0.26 s when they have 2 mm.
MOST_FACES = 50_000


class Surfaces:
    """Surfaces of successive label maps on one grid; a structure that did not change keeps its surface object.

    grid: geometry.Grid
    """

    def __init__(self, grid):
        self._grid = grid
        self._labels = None
        self._made: dict[int, vtk.vtkPolyData] = {}

    def of(self, labels: np.ndarray, count: int) -> list[vtk.vtkPolyData]:
        """Surfaces of the labels 1..count, in the grid's mm; empty where a label does not occur."""
        assert labels.shape == self._grid.shape and labels.dtype == np.uint8
        if self._labels is None:
            stale = set(range(1, count + 1))
        else:
            changed = labels != self._labels
            stale = set(np.unique(labels[changed]).tolist()) | set(np.unique(self._labels[changed]).tolist())
        stale = sorted(k for k in stale if 1 <= k <= count)
        boxes = ndimage.find_objects(labels, count)

        def surface(k: int) -> vtk.vtkPolyData:
            box = boxes[k - 1]
            return vtk.vtkPolyData() if box is None else self._surface(labels[box] == k, box)

        # VTK lets go of Python's lock while a filter runs; the filters of two structures share nothing.
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            self._made.update(zip(stale, pool.map(surface, stale)))
        self._labels = labels
        return [self._made[k] for k in range(1, count + 1)]

    def _surface(self, mask: np.ndarray, box) -> vtk.vtkPolyData:
        voxels = np.count_nonzero(mask)
        factors = _factors(mask, self._grid.spacing_mm)
        mask = _coarser(mask, factors)
        # A border of background closes the surface where the structure meets the edge of the image.
        padded = np.pad(mask, 1).view(np.uint8)
        image = vtk.vtkImageData()
        image.SetDimensions(padded.shape[::-1])
        image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(), deep=True))
        nets = vtk.vtkSurfaceNets3D()
        nets.SetInputData(image)
        nets.SetValue(0, 1)
        nets.SmoothingOn()
        nets.SetNumberOfIterations(SMOOTHING_ITERATIONS)
        nets.Update()
        # Index (0, 0, 0) of the padded image is one coarse voxel before the first of the box.
        factor = np.array(factors[::-1], dtype=np.float64)
        start = np.array([part.start for part in box[::-1]], dtype=np.float64)
        to_fine = np.diag([*factor, 1.0])
        to_fine[:3, 3] = (factor - 1.0) / 2.0 + start - factor
        to_ras = self._grid.ijk_to_ras @ to_fine
        indices = vtk_to_numpy(nets.GetOutput().GetPoints().GetData())
        points = (indices @ to_ras[:3, :3].T + to_ras[:3, 3]).astype(np.float32)
        triangles = vtk_to_numpy(nets.GetOutput().GetPolys().GetConnectivityArray()).astype(np.int32).reshape(-1, 3)
        voxel_mm3 = np.linalg.det(self._grid.ijk_to_ras[:3, :3])
        if voxel_mm3 < 0:
            # A left-handed grid turns the surface inside out.
            triangles = np.ascontiguousarray(triangles[:, ::-1])
        mesh = _mesh(points, triangles)
        _fill(mesh, triangles, voxels * abs(voxel_mm3), 0.5 * min(self._grid.spacing_mm))
        return mesh


def arrays_of(mesh: vtk.vtkPolyData) -> dict[str, np.ndarray]:
    """A surface as arrays that a file can hold: points and normals (N, 3) float32, triangles (M, 3) int32."""
    if not mesh.GetNumberOfPolys():
        return {"points": np.zeros((0, 3), np.float32), "normals": np.zeros((0, 3), np.float32),
                "triangles": np.zeros((0, 3), np.int32)}
    return {
        "points": vtk_to_numpy(mesh.GetPoints().GetData()),
        "normals": vtk_to_numpy(mesh.GetPointData().GetNormals()),
        "triangles": vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).astype(np.int32).reshape(-1, 3),
    }


def mesh_of(arrays) -> vtk.vtkPolyData:
    """The surface that `arrays_of` took apart."""
    if not len(arrays["triangles"]):
        return vtk.vtkPolyData()
    mesh = _triangulated(arrays["points"], arrays["triangles"])
    normals = numpy_to_vtk(arrays["normals"], deep=True)
    normals.SetName("Normals")
    mesh.GetPointData().SetNormals(normals)
    return mesh


def stored_meshes(stored):
    """Number of a frame -> its surfaces, from their arrays; two frames with the same arrays share the surface.

    stored: frame by frame, what `arrays_of` gave for each structure
    """
    made: dict[int, vtk.vtkPolyData] = {}

    def meshes(number: int) -> list[vtk.vtkPolyData]:
        for arrays in stored[number]:
            if id(arrays) not in made:
                made[id(arrays)] = mesh_of(arrays)
        return [made[id(arrays)] for arrays in stored[number]]

    return meshes


def _triangulated(points: np.ndarray, triangles: np.ndarray) -> vtk.vtkPolyData:
    mesh = vtk.vtkPolyData()
    placed = vtk.vtkPoints()
    placed.SetData(numpy_to_vtk(points, deep=True))
    mesh.SetPoints(placed)
    cells = vtk.vtkCellArray()
    cells.SetData(3, numpy_to_vtk(triangles.ravel(), deep=True, array_type=vtk.VTK_INT))
    mesh.SetPolys(cells)
    return mesh


def _mesh(points: np.ndarray, triangles: np.ndarray) -> vtk.vtkPolyData:
    """A surface with point normals; points (N, 3) float32, triangles (M, 3) int32."""
    mesh = _triangulated(points, triangles)
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputData(mesh)
    normals.ConsistencyOff()
    normals.SplittingOff()
    normals.Update()
    return normals.GetOutput()


def _fill(mesh: vtk.vtkPolyData, triangles: np.ndarray, volume_mm3: float, longest_step_mm: float) -> None:
    """Moves the points along their normals until the surface holds a volume: Newton's steps, dV = area times step."""
    points = vtk_to_numpy(mesh.GetPoints().GetData())
    normals = vtk_to_numpy(mesh.GetPointData().GetNormals())
    first, second, third = np.ascontiguousarray(triangles.T)
    # One step is enough for a large surface, which loses little, and where a second look takes time.
    for _ in range(4 if len(triangles) < 20_000 else 1):
        # About the first point: far from the scanner's origin, float32 would lose the volume of a voxel.
        x = np.ascontiguousarray((points - points[0]).T)
        a = x[:, first]
        b, c = x[:, second] - a, x[:, third] - a
        across = np.stack([b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]])
        held = float((a * across).sum(dtype=np.float64)) / 6.0
        if abs(held - volume_mm3) <= 0.03 * volume_mm3:
            break
        area = float(np.sqrt((across * across).sum(0)).sum(dtype=np.float64)) / 2.0
        step_mm = np.clip((volume_mm3 - held) / max(area, 1e-6), -longest_step_mm, longest_step_mm)
        points += np.float32(step_mm) * normals
    mesh.GetPoints().Modified()


def voxel_faces(labels: np.ndarray) -> int:
    """Voxel faces between different labels: the number of triangles, and the time to make them, grow with it."""
    return sum(int(np.count_nonzero(np.diff(labels, axis=axis))) for axis in range(labels.ndim))


def _factors(mask: np.ndarray, spacing_mm) -> tuple[int, int, int]:
    """By how much each axis is made coarser: not at all for a moderate surface, and never an axis that is coarse."""
    faces = voxel_faces(mask.view(np.int8))
    if faces <= MOST_FACES:
        return 1, 1, 1
    wanted = (2 if faces <= 4 * MOST_FACES else 3) * min(spacing_mm)
    return tuple(max(1, int(wanted / h + 0.5)) for h in spacing_mm)


def _coarser(mask: np.ndarray, factors) -> np.ndarray:
    """The mask on larger voxels: in, where half of the small ones are."""
    if factors == (1, 1, 1):
        return mask
    mask = np.pad(mask, [(0, -n % f) for n, f in zip(mask.shape, factors)])
    for axis, f in enumerate(factors):
        if f == 1:
            continue
        parts = [mask[(slice(None),) * axis + (slice(i, None, f),)] for i in range(f)]
        total = parts[0].astype(np.uint8)
        for part in parts[1:]:
            total = total + part
        mask = total
    return 2 * mask.astype(np.uint16) >= np.prod(factors)
