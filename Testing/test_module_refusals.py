"""What cannot be forecast: a sentence in the panel, no exception, nothing lost."""

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
from panel_user import choose, everything, ready


def test_inputs_that_cannot_be_forecast_give_a_message(host):
    """FORECAST's bad inputs, as far as a scene can hold them: one sentence in the panel, nothing in the scene."""
    ui = host.widget.ui
    node = ready(host, names=("CSF", "Tumor"))
    choose(ui.tissueTable.cellWidget(0, 1), "vessel")
    choose(ui.tissueTable.cellWidget(1, 1), "csf")
    assert "tumor" in ui.applyButton.toolTip and not ui.applyButton.enabled
    for segment_id in ("ID_1", "ID_2"):
        node.GetSegmentation().GetSegment(segment_id).RemoveRepresentation("Binary labelmap")
    choose(ui.tissueTable.cellWidget(1, 1), "tumor")
    before = everything()
    ui.applyButton.click()
    host.wait(lambda: not host.widget.logic.running)
    assert "empty" in ui.statusLabel.text and everything() == before
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
    ui.segmentationSelector.setCurrentNode(empty)
    assert not ui.applyButton.enabled and "no segment" in ui.applyButton.toolTip


def test_a_refusal_of_the_engine_reaches_the_panel(host):
    ui = host.widget.ui
    ready(host, names=("CSF", "Brain", "Tumor"))
    node = host.widget._parameterNode.segmentation
    # Every voxel of brain is taken away: there is nothing left that the tumor could enter.
    node.GetSegmentation().GetSegment("ID_2").RemoveRepresentation("Binary labelmap")
    before = everything()
    ui.applyButton.click()
    host.wait(lambda: not host.widget.logic.running)
    assert "could grow into" in ui.statusLabel.text and everything() == before
