"""What the tests of several rooms share: a real MRML scene without the application, and nodes in it."""

import os
import sys
import tempfile
import traceback
import types

import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    """Threads that wait for each other on a busy machine cost more than they save on small arrays."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory):
    """What the program leaves in the temporary folder is told from what others, and the tests beside these, leave there."""
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("temporary"))
    tempfile.tempdir = None


@pytest.fixture
def host(monkeypatch):
    """The module in its host, with an open panel; an exception in an answer to a signal or an event fails the test."""
    pytest.importorskip("slicer")
    pytest.importorskip("PySide6.QtWidgets")
    from slicer_host import Host

    raised = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: raised.append("".join(
        traceback.format_exception(kind, error, trace))))
    host = Host()
    yield host
    host.close()
    assert not raised, "\n".join(raised)


class HeadlessScene:
    """The real scene and the real logics of slicer-core, as the application brings them."""

    def __init__(self):
        import slicer

        self.scene = slicer.vtkMRMLScene()
        self.logics = []
        for class_name in ("vtkSlicerSegmentationsModuleLogic", "vtkSlicerSequencesLogic"):
            logic = getattr(slicer, class_name)()
            logic.SetMRMLScene(self.scene)
            self.logics.append(logic)

    def close(self):
        self.scene.Clear(True)
        self.logics.clear()


@pytest.fixture
def slicer_scene():
    """A vtkMRMLScene in which sequences play and segmentations convert, as in the application."""
    pytest.importorskip("slicer")
    headless = HeadlessScene()
    yield headless.scene
    headless.close()


@pytest.fixture
def slicer_modules(monkeypatch):
    """`slicer.modules` as a namespace that a test fills; slicer-core has none."""
    slicer = pytest.importorskip("slicer")
    modules = types.SimpleNamespace()
    monkeypatch.setattr(slicer, "modules", modules, raising=False)
    return modules


@pytest.fixture
def add_segmentation(slicer_scene):
    """add_segmentation(labels, ijk_to_ras, names, name): a node whose segments share one label map.

    labels: (Z, Y, X), k stands for names[k - 1]; segment IDs are "ID_" and the name
    """

    def add(labels, ijk_to_ras, names, name="Patient", reference_geometry=True):
        import slicer

        from AnatomyDTLib.scene.geometry import Grid, oriented_image

        node = slicer_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        grid = Grid(labels.shape, ijk_to_ras)
        image = oriented_image(labels, grid)
        if reference_geometry:
            node.GetSegmentation().SetConversionParameter("Reference image geometry", grid.serialized())
        for k, segment_name in enumerate(names, start=1):
            segment = slicer.vtkSegment()
            segment.SetName(segment_name)
            segment.SetLabelValue(k)
            segment.SetColor(k / (len(names) + 1), 0.25, 0.75)
            segment.AddRepresentation("Binary labelmap", image)
            node.GetSegmentation().AddSegment(segment, f"ID_{segment_name}")
        return node

    return add


@pytest.fixture
def add_volume(slicer_scene):
    """add_volume(array, ijk_to_ras, name, class_name): a volume node, array (Z, Y, X)."""

    def add(array, ijk_to_ras, name="Volume", class_name="vtkMRMLScalarVolumeNode"):
        import vtk
        from vtk.util.numpy_support import numpy_to_vtk

        from AnatomyDTLib.scene.geometry import vtk_matrix

        node = slicer_scene.AddNewNodeByClass(class_name, name)
        image = vtk.vtkImageData()
        image.SetDimensions(array.shape[2::-1])
        flat = np.ascontiguousarray(array).reshape(-1, *array.shape[3:])
        image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
        node.SetAndObserveImageData(image)
        node.SetIJKToRASMatrix(vtk_matrix(ijk_to_ras))
        return node

    return add


@pytest.fixture
def add_transform(slicer_scene):
    """add_transform(matrix): a linear transform node to its parent."""

    def add(matrix, name="Transform"):
        from AnatomyDTLib.scene.geometry import vtk_matrix

        node = slicer_scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        node.SetMatrixTransformToParent(vtk_matrix(matrix))
        return node

    return add


@pytest.fixture
def in_this_process(monkeypatch):
    """What the panel computes runs in this interpreter, at once: for what is not about the process, and much quicker."""
    from slicer_host import MODULE_FOLDER

    if str(MODULE_FOLDER) not in sys.path:
        monkeypatch.syspath_prepend(str(MODULE_FOLDER))
    import contextlib
    import io

    from AnatomyDTPanel import background, worker

    monkeypatch.setattr(worker, "leave_with", lambda folder, parent: None)

    class Ended:
        pid = 0

        def __init__(self, command, stdout, **options):
            said, path = io.StringIO(), list(sys.path)
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                self.code = worker.main(*command[-2:])
            sys.path[:] = path
            stdout.write(said.getvalue().encode())

        def poll(self):
            return self.code

        def wait(self, timeout=None):
            return self.code

    monkeypatch.setattr(background.subprocess, "Popen", Ended)
    monkeypatch.setattr(background, "AT_ONCE_BYTES", 10**12)        # it runs as soon as it is started


@pytest.fixture(scope="module")
def results():
    return []


@pytest.fixture
def computed(host, monkeypatch, results):
    """Runs of this panel end at once, with the result that one real run computed."""
    from AnatomyDTPanel import logic
    from panel_user import Stored, ready

    from AnatomyDTLib.scene import forecast as scenes

    node = ready(host, days=50)
    host.widget.ui.probabilitiesCheckBox.setChecked(True)
    if not results:
        plan, assignment = host.widget.plan()
        labels, _ = scenes.segmentation.assigned(scenes.segmentation.read(node), plan, assignment)
        process = logic.Run(labels, (1.0, 1.0, 1.0), plan, probabilities=True, ijk_to_ras=np.eye(4))
        host.wait(process.poll)
        results.append(process.result())
    monkeypatch.setattr(logic, "Run", lambda *arguments, **more: Stored(results[0]))
    return results[0]


@pytest.fixture
def patient(slicer_scene, add_segmentation, add_volume, add_transform):
    """The input as a user has it: under a transform, in a folder, with terminology, with a reference volume."""
    import slicer
    from forecast_user import NAMES, OBLIQUE, SHAPE, anatomy

    node = add_segmentation(anatomy(2), OBLIQUE, NAMES)
    node.GetSegmentation().GetSegment("ID_Tumor").SetTag("TerminologyEntry", "a~b~c")
    for identifier in node.GetSegmentation().GetSegmentIDs():
        node.GetSegmentation().GetSegment(identifier).SetTag("Segmentation.Status", "reviewed")
    reference = add_volume(np.zeros(SHAPE, np.int16), OBLIQUE, "MRI")
    matrix = np.eye(4)
    matrix[:3, 3] = 30, 40, -50
    transform = add_transform(matrix, "Registration")
    for one in (node, reference):
        one.SetAndObserveTransformNodeID(transform.GetID())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer_scene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Patient")
    hierarchy.CreateItem(folder, node)
    return node, reference
