"""A forecast as one file that Slicer opens: a `.seq.mrb`, written without the application."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import slicer
import vtk

from ..engine import Forecast, ForecastError
from . import segmentation, sequence
from .geometry import as_grid
from .segmentation import Segment
from .slices import finished
from .surfaces import voxel_faces

# Above this many voxel faces in all frames, Slicer would make surfaces for more than about ten seconds
# while it loads the file (0.35 µs per face, measured); they are left to the Show 3D button then.
MOST_FACES_AT_LOADING = 15_000_000


def write_sequence_file(forecast: Forecast, geometry, path, segments=None, name: str | None = None) -> Path:
    """Writes the forecast's label maps as a segmentation sequence, index "time" in days.

    geometry: where the voxels lie: a Grid, a volume read from a file, its geometry, or
        ((Z, Y, X), 4 x 4 IJKToRAS matrix)
    segments: segments[k - 1] shows tissue k (id, name, color in 0..1, terminology); None: from the plan's tissues
    path: ends in .seq.mrb
    Nothing is left half-written: the file appears under its name when it is complete. Raises ForecastError.
    """
    path = Path(path)
    if not path.name.endswith(".seq.mrb"):
        raise ForecastError(f"a segmentation sequence is written as .seq.mrb, not {path.name}; nothing else holds one")
    grid = as_grid(geometry)
    name = name or path.name.removesuffix(".seq.mrb")
    segments = segments or plan_segments(forecast.plan)
    # A file names the representations that a frame has, and what reads it makes the surfaces.
    named = [vtk.vtkPolyData()] * len(segments)
    made = finished(sequence.segmentation_sequence(forecast, grid, segments, name, lambda number: named))
    if sum(voxel_faces(labels) for labels in forecast.labels) > MOST_FACES_AT_LOADING:
        for i in range(made.GetNumberOfDataNodes()):
            made.GetNthDataNode(i).GetSegmentation().RemoveRepresentation(segmentation.SURFACE)
    try:
        # In the same folder, so that the last step is a rename; Slicer's writer unpacks beside its target.
        folder = tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ForecastError(f"{path.parent} cannot be written: {error.strerror}") from None
    try:
        complete = Path(folder) / path.name
        _write(made, complete)
        os.replace(complete, path)
    except OSError as error:
        raise ForecastError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def read_sequence_file(path, scene=None):
    """Reads a `.seq.mrb` into a scene (None: a new one): (scene, vtkMRMLSequenceNode). Raises ForecastError."""
    path = Path(path)
    scene = scene or slicer.vtkMRMLScene()
    segmentation.know_conversions()
    with tempfile.TemporaryDirectory() as cache:
        lacking = scene.GetDataIOManager() is None
        if lacking:
            # A bundle is unpacked into the cache of the scene's data manager; the application sets both.
            folder = slicer.vtkCacheManager()
            folder.SetRemoteCacheDirectory(cache)
            manager = slicer.vtkDataIOManager()
            manager.SetCacheManager(folder)
            scene.SetCacheManager(folder)
            scene.SetDataIOManager(manager)
        logic = slicer.vtkSlicerSequencesLogic()
        logic.SetMRMLScene(scene)
        found = logic.AddSequence(str(path), None)
        logic.SetMRMLScene(None)
        if lacking:
            scene.SetDataIOManager(None)
            scene.SetCacheManager(None)
    if found is None:
        raise ForecastError(f"{path} cannot be read as a sequence; choose a .seq.mrb file")
    return scene, found


def plan_segments(plan) -> tuple[Segment, ...]:
    """A segment for each tissue of a plan but the background: its name, colour and terminology."""
    made: list[Segment] = []
    for tissue in plan.anatomy.tissues[1:]:
        made.append(segmentation.new_segment(tissue, {s.id for s in made}))
    return tuple(made)


def _write(made, path: Path) -> None:
    scene = slicer.vtkMRMLScene()
    scene.AddNode(made)
    storage = scene.AddNewNodeByClass("vtkMRMLSequenceStorageNode")
    storage.SetFileName(str(path))
    # What goes wrong is said below in a sentence; the writer's own report is a page of its temporary folders.
    loud = slicer.vtkMRMLScene.GetGlobalWarningDisplay()
    slicer.vtkMRMLScene.SetGlobalWarningDisplay(0)
    try:
        written = storage.WriteData(made) and path.is_file()
    finally:
        slicer.vtkMRMLScene.SetGlobalWarningDisplay(loud)
    try:
        # A full disk can end in a bundle that the writer takes for complete.
        whole = written and zipfile.ZipFile(path).testzip() is None
    except (zipfile.BadZipFile, EOFError):
        whole = False
    if not whole:
        raise ForecastError(f"{path.name} could not be written: the disk is full or the folder cannot be written")
