"""A forecast's label maps -> a sequence of segmentations, and the browser that plays it.

Everything is built outside the scene; `add` puts it in. What Slicer does with such a sequence, and
the settings that follow from it, stand where they are made. What takes long yields between its slices
(`slices`).
"""

from __future__ import annotations

import numpy as np
import slicer
from vtk.util.numpy_support import numpy_to_vtk

from ..engine import Forecast
from .geometry import Grid, oriented_image, vtk_matrix
from .labelmaps import LABELMAP, REFERENCE_GEOMETRY
from .segmentation import SURFACE, Segment, know_conversions
from .slices import check_present
from .surfaces import CONVERSION, Surfaces

# Roles that enclose what the user looks for: shown translucent in 3D. The others are opaque.
OPACITY_3D = {"white": 0.08, "grey": 0.03, "organ": 0.12, "csf": 0.02, "edema": 0.4, "barrier": 0.1, "background": 0.03}
# Where white matter is there, its folds show the brain; what lies around them would hide little and be drawn at
# every turn: half of the time that a 3D view of the bundled sample takes without a graphics card.
AROUND_WHITE = ("grey", "csf", "background")

PLAYBACK_FRAMES_PER_SECOND = 4.0


def index_value(day: float) -> str:
    """A day as the sequence's index holds it."""
    return format(float(day), ".10g")


def segmentation_sequence(forecast: Forecast, grid: Grid, segments, name: str, meshes=None):
    """Slices, one a day, of a vtkMRMLSequenceNode, not in a scene, with one segmentation per reported day.

    segments: segments[k - 1] shows tissue k; every one is present in every frame, empty ones too
    meshes: number of the frame -> the closed surfaces of its segments, which are stored with it (None: made here,
        by `Surfaces`); Slicer would make them on the proxy only, and lose them at the next frame
    """
    know_conversions()
    sequence = _empty_sequence(name)
    made = Surfaces(grid)
    for number, (day, labels) in enumerate(zip(forecast.days, _frames(forecast.labels, grid))):
        yield
        surfaces = made.of(labels, len(segments)) if meshes is None else meshes(number)
        stored = sequence.SetDataNodeAtValue(_named("vtkMRMLSegmentationNode", name), index_value(day))
        # The node is filled after it was stored: SetDataNodeAtValue copies what it is given.
        stored.SetAndObserveSegmentation(_frame(labels, surfaces, grid, segments))
    return sequence


def probability_sequence(forecast: Forecast, grid: Grid, name: str):
    """Slices, one a day, of a sequence node, not in a scene, of scalar volumes: the tumor's probability, 0 to 1."""
    assert forecast.tumor_probability is not None
    sequence = _empty_sequence(name)
    for day, probability in zip(forecast.days, _frames(forecast.tumor_probability, grid)):
        yield
        stored = sequence.SetDataNodeAtValue(_named("vtkMRMLScalarVolumeNode", name), index_value(day))
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(grid.shape[::-1])
        image.GetPointData().SetScalars(numpy_to_vtk(probability.astype(np.float32).ravel(), deep=True))
        stored.SetAndObserveImageData(image)
        stored.SetIJKToRASMatrix(vtk_matrix(grid.ijk_to_ras))
    return sequence


def add(scene, name: str, sequences: dict, tissues, segments, parent_transform=None, reference=None):
    """Slices that add sequences and a browser that plays them to the scene; nothing of it is visible yet.

    sequences: "segmentation" and, where wanted, "probability" -> sequence node
    Returns (browser, {same keys: proxy node}).
    """
    # Few slices: after each of them the application draws its 3D views again.
    proxies = {}
    for key, sequence in sequences.items():
        yield
        scene.AddNode(sequence)
        first = sequence.GetNthDataNode(0)
        title = name if key == "segmentation" else f"{name} tumor probability"
        proxy = scene.AddNewNodeByClass(first.GetClassName(), title)
        # A parent transform is not stored in the frames; it is the proxy's and stays while browsing.
        proxy.SetAndObserveTransformNodeID(parent_transform.GetID() if parent_transform else None)
        # Hidden before there is something to draw.
        proxy.CreateDefaultDisplayNodes()
        proxy.GetDisplayNode().SetVisibility(False)
        proxy.CopyContent(first)
        if key == "segmentation":
            _show_segments(proxy, tissues, segments, reference)
        else:
            _show_probability(proxy)
        proxies[key] = proxy
    yield
    check_present(scene, (*sequences.values(), *proxies.values()))
    browser = slicer.vtkMRMLSequenceBrowserNode()
    browser.SetName(scene.GenerateUniqueName(f"{name} browser"))
    scene.AddNode(browser)
    # One modified event at the end: in between, the sequences logic would add proxies of its own.
    blocked = browser.StartModify()
    for key, sequence in sequences.items():
        browser.AddSynchronizedSequenceNode(sequence)
        browser.AddProxyNode(proxies[key], sequence, False)
        # SaveChanges must stay off: switched on and off again it empties the current frame.
        browser.SetSaveChanges(sequence, False)
        browser.SetRecording(sequence, False)
        browser.SetOverwriteProxyName(sequence, False)
    browser.SetPlaybackRateFps(PLAYBACK_FRAMES_PER_SECOND)
    master = sequences["segmentation"]
    days = [float(master.GetNthIndexValue(i)) for i in range(master.GetNumberOfDataNodes())]
    browser.SetIndexDisplayFormat("%.0f" if all(day == round(day) for day in days) else "%.2f")
    browser.SetSelectedItemNumber(0)
    browser.EndModify(blocked)
    return browser, proxies


def _empty_sequence(name: str):
    sequence = slicer.vtkMRMLSequenceNode()
    sequence.SetName(f"{name} sequence")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("day")
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    # Frames closer than the tolerance would overwrite one another; the default is 0.001.
    sequence.SetNumericIndexValueTolerance(1e-6)
    return sequence


def _frames(arrays: np.ndarray, grid: Grid) -> np.ndarray:
    """(T, Z, Y, X); a 2D forecast is one slice thick."""
    assert arrays.ndim == 3 and grid.shape[0] == 1 or arrays.shape[1:] == grid.shape, (arrays.shape, grid.shape)
    return arrays.reshape(-1, *grid.shape)


def _named(class_name: str, name: str):
    node = getattr(slicer, class_name)()
    node.SetName(name)
    return node


def _frame(labels: np.ndarray, meshes, grid: Grid, segments) -> slicer.vtkSegmentation:
    """One day's segmentation: a label map shared by all segments, and their surfaces."""
    segmentation = slicer.vtkSegmentation()
    segmentation.SetSourceRepresentationName(LABELMAP)
    image = oriented_image(labels, grid)
    for value, (segment, mesh) in enumerate(zip(segments, meshes), start=1):
        made = _vtk_segment(segment)
        made.SetLabelValue(value)
        made.AddRepresentation(LABELMAP, image)
        made.AddRepresentation(SURFACE, mesh)
        segmentation.AddSegment(made, segment.id)
    # Stored with the frame, because the proxy takes each frame's parameters over.
    segmentation.SetConversionParameter(REFERENCE_GEOMETRY, grid.serialized())
    for key, value in CONVERSION.items():
        segmentation.SetConversionParameter(key, value)
    return segmentation


def _vtk_segment(segment: Segment) -> slicer.vtkSegment:
    made = slicer.vtkSegment()
    if segment.source is not None:
        made.DeepCopyMetadata(segment.source)
    made.SetName(segment.name)
    made.SetColor(*segment.color)
    if segment.terminology is not None:
        made.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), segment.terminology)
    return made


def _show_segments(proxy, tissues, segments, reference) -> None:
    display = proxy.GetDisplayNode()
    # Without this, a segment that the user hid comes back at the next frame.
    display.SetRemoveUnusedDisplayProperties(False)
    display.SetPreferredDisplayRepresentationName3D(SURFACE)
    display.SetPreferredDisplayRepresentationName2D(LABELMAP)
    folded = any(tissue.role == "white" for tissue in tissues)
    for segment, tissue in zip(segments, tissues):
        display.SetSegmentOpacity3D(segment.id, OPACITY_3D.get(tissue.role, 1.0))
        display.SetSegmentVisibility3D(segment.id, not (folded and tissue.role in AROUND_WHITE))
    if reference is not None:
        # A node reference is not stored in the frames; on the proxy it survives browsing.
        proxy.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    proxy.AddDefaultStorageNode()


def _show_probability(proxy) -> None:
    display = proxy.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, 1.0)
    display.SetApplyThreshold(True)
    display.SetThreshold(0.01, 1.0)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileInferno.txt")
    proxy.AddDefaultStorageNode()
