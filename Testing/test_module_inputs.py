"""The panel's inputs: segments and their tissues, follow-ups and their days."""

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
from panel_user import choose, ready


def test_it_opens_without_a_segmentation_and_says_what_is_missing(host):
    ui = host.widget.ui
    assert not ui.applyButton.enabled and "segmentation" in ui.applyButton.toolTip
    assert not ui.resultsCollapsibleButton.enabled
    host.picture("1_empty")


def test_segments_find_their_tissue_and_the_rest_is_asked_for(host):
    ui = host.widget.ui
    ready(host, names=("White matter", "Something", "Tumor"))
    combos = [ui.tissueTable.cellWidget(row, 1) for row in range(3)]
    assert [c.itemData(c.currentIndex) for c in combos] == ["white", "", "tumor"]
    assert "Something" in ui.tissueStatusLabel.text and not ui.applyButton.enabled
    assert "Something" in ui.applyButton.toolTip
    host.picture("2_unassigned")
    choose(combos[1], "csf")
    assert ui.applyButton.enabled and "Something" not in ui.tissueStatusLabel.text


def test_a_numbering_fills_the_tissues(host):
    ui = host.widget.ui
    ready(host, names=("Segment_1", "Segment_2", "Segment_4"))
    assert not ui.applyButton.enabled
    choose(ui.numberingComboBox, "brats")
    ui.fillButton.click()
    combos = [ui.tissueTable.cellWidget(row, 1) for row in range(3)]
    assert [c.itemData(c.currentIndex) for c in combos] == ["necrosis", "edema", "tumor"]
    assert "taken as brain" in ui.tissueStatusLabel.text and ui.applyButton.enabled


def test_a_segment_that_is_added_later_appears(host):
    node = ready(host)
    segment = slicer.vtkSegment()
    segment.SetName("Ventricles")
    node.GetSegmentation().AddSegment(segment, "later")
    host.process()
    table = host.widget.ui.tissueTable
    assert [table.item(row, 0).text() for row in range(table.rowCount)] == ["White matter", "Tumor", "Ventricles"]
    node.GetSegmentation().RemoveSegment("later")
    host.process()
    assert table.rowCount == 2
