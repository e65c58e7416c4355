"""What cannot be forecast: a sentence in the panel, no exception, nothing lost; and what can, with a warning."""

import errno
import json
import os
import tempfile

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
from panel_user import add_segmentation, add_volume, choose, everything, ready

from AnatomyDTLib.scene.geometry import Grid, oriented_image


def parameters(host):
    """Everything that is chosen, as the scene holds it."""
    node = host.widget._parameterNode.parameterNode
    return {name: node.GetParameter(name) for name in node.GetParameterNames()}


def with_dose(host, volume):
    ui = host.widget.ui
    ready(host, days=90)
    choose(ui.regimeComboBox, "radiotherapy")
    ui.useRegimeButton.click()
    ui.eventTable.selectRow(0)
    choose(ui.doseSourceComboBox, "dose")
    ui.doseSelector.setCurrentNode(volume)


def dose_of(value):
    return lambda host, path: with_dose(host, add_volume("Dose", np.full((24, 24, 24), value, np.float32)))


def no_segmentation(host, path):
    pass


def no_segment(host, path):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
    host.widget.ui.segmentationSelector.setCurrentNode(node)


def no_voxel(host, path):
    node = ready(host)
    for i in range(2):
        node.GetSegmentation().GetNthSegment(i).RemoveRepresentation("Binary labelmap")


def no_tumor(host, path):
    ready(host, names=("White matter", "CSF"))


def tumor_without_voxels(host, path):
    ready(host).GetSegmentation().GetSegment("ID_2").RemoveRepresentation("Binary labelmap")


def unassigned(host, path):
    ready(host, names=("White matter", "What", "Tumor"))


def nothing_to_grow_into(host, path):
    ready(host, names=("CSF", "Brain", "Tumor")).GetSegmentation().GetSegment("ID_2").RemoveRepresentation("Binary labelmap")


def spacing_of(value):
    def setup(host, path):
        node = ready(host)
        image = node.GetSegmentation().GetSegment("ID_1").GetRepresentation("Binary labelmap")
        image.SetSpacing(1.0, 1.0, value)
        node.GetSegmentation().GetSegment("ID_1").Modified()

    return setup


def too_many_segments(host, path):
    node = ready(host)
    node.GetSegmentation().GetSegment("ID_1").SetName("Brain")
    for i in range(260):
        segment = slicer.vtkSegment()
        segment.SetName(f"CSF {i}")
        node.GetSegmentation().AddSegment(segment, f"more{i}")


def reference_elsewhere(host, path):
    ready(host)
    host.widget.ui.referenceSelector.setCurrentNode(add_volume("Elsewhere", np.zeros((8, 8, 8), np.int16), origin=500.0))


def reference_without_image(host, path):
    ready(host)
    host.widget.ui.referenceSelector.setCurrentNode(add_volume("Nothing", None))


def with_region(host, node):
    ui = host.widget.ui
    ready(host)
    choose(ui.addKindComboBox, "surgery")
    ui.addButton.click()
    ui.regionsSelector.setCurrentNode(node)
    choose(ui.surgeryRegionComboBox, "Tumor")


def region_elsewhere(host, path):
    node = add_segmentation(name="Regions")
    with_region(host, node)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Away")
    matrix = np.eye(4)
    matrix[0, 3] = 500.0
    slicer.util.updateTransformMatrixFromArray(transform, matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())


def region_gone(host, path):
    node = add_segmentation(name="Regions")
    with_region(host, node)
    slicer.mrmlScene.RemoveNode(node)


def no_dose_volume(host, path):
    with_dose(host, None)


def dose_elsewhere(host, path):
    with_dose(host, add_volume("Dose", np.ones((8, 8, 8), np.float32), origin=500.0))


def relative_dose(host, path):
    volume = add_volume("Dose", np.full((24, 24, 24), 100.0, np.float32))
    volume.SetAttribute("DicomRtImport.DoseUnitName", "RELATIVE")
    with_dose(host, volume)


def no_name(host, path):
    ready(host)
    host.widget.ui.nameLineEdit.setText("  ")


def cuda_that_nobody_asked_after(host, path):
    from AnatomyDTPanel import devices

    # The computation's process sees no card, whatever this computer has.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    devices.remember(None)
    ready(host)
    choose(host.widget.ui.deviceComboBox, "cuda")


def no_temporary_folder(host, path):
    ready(host)
    tempfile.tempdir = str(path / "none")


def full_disk(host, path):
    ready(host)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    np.save = full


CASES = {
    no_segmentation: "segmentation", no_segment: "no segment", no_voxel: "empty", no_tumor: "tumor",
    tumor_without_voxels: "no tumor", unassigned: "What", nothing_to_grow_into: "could grow into",
    spacing_of(0.0): "do not span space", spacing_of(float("nan")): "do not span space", too_many_segments: "segments",
    reference_elsewhere: "reference volume", reference_without_image: "Nothing",
    region_elsewhere: "region", region_gone: "region",
    no_dose_volume: "dose volume", dose_elsewhere: "dose", relative_dose: "not in Gy", dose_of(-1.0): "dose",
    dose_of(float("nan")): "dose", dose_of(0.0): "zero everywhere", dose_of(7000.0): "cGy",
    no_name: "name", cuda_that_nobody_asked_after: "CUDA", no_temporary_folder: "could not be started", full_disk: "No space left",
}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("setup, word", [
    pytest.param(setup, word, id=f"{i} {setup.__name__}") for i, (setup, word) in enumerate(CASES.items())])
def test_bad_input_is_a_sentence_in_the_panel(host, tmp_path, monkeypatch, setup, word):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(np, "save", np.save)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    ui = host.widget.ui
    setup(host, tmp_path)
    host.process()
    chosen, nodes = parameters(host), everything()
    ui.applyButton.click()
    host.wait(lambda: not host.widget.logic.running)
    said = ui.statusLabel.text if ui.applyButton.enabled else ui.applyButton.toolTip
    assert word in said, (said, ui.applyButton.enabled)
    assert len(said) < 400 and "Traceback" not in said and "Error" not in said
    assert parameters(host) == chosen and everything() == nodes
    assert ui.applyButton.text == "Apply" and not ui.progressBar.visible


@pytest.mark.parametrize("content, word", [
    (b"", "JSON"), (b"{", "JSON"), (b"[]", "not a plan"), (b'{"anatomydt_plan": 99}', "version"), (b"\x00\x01\xff\xfe", "plan"),
    ({"days": [0]}, "days"), ({"days": [-5]}, "days"), ({"days": []}, "days"), ({"days": [30, 10]}, "ascending"),
    ({"days": ["soon"]}, "days"), ({"bogus": 1}, "bogus"), ({"mass_effect": 7}, "mass_effect"), ({"tissues": []}, "tissues"),
    ({"treatments": [{"type": "surgery", "day": 500}]}, "500"), ({"treatments": [{"type": "prayer"}]}, "prayer"),
])
def test_a_bad_plan_file_is_a_sentence_in_the_panel(host, tmp_path, content, word):
    ready(host)
    path = tmp_path / "plan.json"
    if isinstance(content, dict):
        content = json.dumps({**json.loads(host.widget.plan()[0].to_json()), **content}).encode()
    path.write_bytes(content)
    chosen, nodes = parameters(host), everything()
    host.widget.loadPlan(str(path))
    assert "not loaded" in host.widget.ui.statusLabel.text and word in host.widget.ui.statusLabel.text
    assert parameters(host) == chosen and everything() == nodes


@pytest.mark.parametrize("where", ["missing/plan.json", "."])
def test_a_plan_that_cannot_be_written_is_a_sentence_in_the_panel(host, tmp_path, where):
    ready(host)
    host.widget.savePlan(str(tmp_path / where))
    assert "not saved" in host.widget.ui.statusLabel.text
    host.widget.loadPlan(str(tmp_path / where))
    assert "not loaded" in host.widget.ui.statusLabel.text


def test_a_former_plan_is_not_lost_when_the_new_one_cannot_be_written(host, tmp_path, monkeypatch):
    import builtins

    ready(host)
    path = tmp_path / "plan.json"
    host.widget.savePlan(str(path))
    former = path.read_text(encoding="utf-8")
    opened = builtins.open

    def full(name, mode="r", *rest, **named):
        stream = opened(name, mode, *rest, **named)
        if "w" in mode:
            def write(text):
                raise OSError(errno.ENOSPC, "No space left on device")

            stream.write = write
        return stream

    monkeypatch.setattr(builtins, "open", full)
    host.widget.savePlan(str(path))
    monkeypatch.undo()
    assert "No space left" in host.widget.ui.statusLabel.text and path.read_text(encoding="utf-8") == former
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.usefixtures("in_this_process")
def test_what_is_odd_is_forecast_with_a_warning(host, tmp_path):
    """One slice, sheared, with the tumor on its edge and a second focus of one voxel, for 10,000 days."""
    ui = host.widget.ui
    shear = np.diag([1.0, 1.0, 5.0, 1.0])
    shear[0, 1] = 0.3
    labels = np.ones((1, 20, 20), np.uint8)
    labels[0, :3, 8:11] = labels[0, 15, 15] = 2
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Odd")
    image = oriented_image(labels, Grid(labels.shape, shear))
    for value, name in enumerate(("White matter", "Tumor"), start=1):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetLabelValue(value)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, name)
    ui.segmentationSelector.setCurrentNode(node)
    choose(ui.growthComboBox, "hathout-low")
    document = {**json.loads(host.widget.plan()[0].to_json()), "days": [5000, 10000], "infiltration_mm": 0.0}
    (tmp_path / "plan.json").write_text(json.dumps(document), encoding="utf-8")
    host.widget.loadPlan(str(tmp_path / "plan.json"))
    assert host.widget.plan()[0].days == (5000.0, 10000.0)
    assert ui.applyButton.enabled, ui.applyButton.toolTip
    ui.applyButton.click()
    host.wait(lambda: not host.widget.logic.running)
    assert "complete" in ui.statusLabel.text, ui.statusLabel.text
    for word in ("edge of the image", "single slice", "10000 days", "not perpendicular"):
        assert word in ui.statusLabel.text and word in ui.logTextEdit.toPlainText()
    assert host.widget.shown().browser.GetNumberOfItems() == 3
