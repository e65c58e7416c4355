"""The panel's inputs: segments and their tissues, follow-ups and their days."""

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
from panel_user import add_segmentation, choose, ready


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


def test_follow_ups_are_added_edited_and_removed(host):
    ui, held = host.widget.ui, lambda: [
        (node and node.GetName(), day) for node, day in
        zip(host.widget._parameterNode.followUps, host.widget._parameterNode.followUpDays)]
    ready(host)
    assert not ui.followUpTable.visible and not ui.scoreButton.enabled
    ui.addFollowUpButton.click()
    assert held() == [(None, 90.0)] and "Choose" in ui.followUpStatusLabel.text
    first, second = add_segmentation(name="First"), add_segmentation(name="Second")
    ui.followUpTable.cellWidget(0, 0).setCurrentNode(second)
    assert held() == [("Second", 90.0)] and ui.followUpStatusLabel.text == ""
    ui.addFollowUpButton.click()       # takes the segmentation that has no part yet
    assert held() == [("Second", 90.0), ("First", 180.0)]
    ui.followUpTable.cellWidget(1, 1).setValue(30)
    assert host.widget.followUps() == [(first, 30.0), (second, 90.0)]
    items = [ui.followUpComboBox.itemText(i) for i in range(ui.followUpComboBox.count)]
    assert items == ["All follow-ups", "First, day 30", "Second, day 90"]
    choose(ui.followUpComboBox, second.GetID())
    assert host.widget.comparedFollowUps() == [(second, 90.0)]
    host.picture("2_follow_ups")
    ui.followUpTable.cellWidget(0, 2).click()
    assert held() == [("First", 30.0)] and host.widget.comparedFollowUps() == [(first, 30.0)]
    assert second.GetScene() is not None


def test_a_follow_up_that_cannot_be_one_is_said(host):
    ui = host.widget.ui
    patient, later = ready(host), add_segmentation(name="Later")
    ui.addFollowUpButton.click()
    ui.followUpTable.cellWidget(0, 0).setCurrentNode(patient)
    assert "day 0 itself" in ui.followUpStatusLabel.text
    ui.followUpTable.cellWidget(0, 0).setCurrentNode(later)
    ui.addFollowUpButton.click()
    ui.followUpTable.cellWidget(1, 0).setCurrentNode(later)
    assert "stands twice" in ui.followUpStatusLabel.text
    ui.followUpTable.cellWidget(1, 0).setCurrentNode(add_segmentation(name="Latest"))
    ui.followUpTable.cellWidget(1, 1).setValue(90)
    assert "same day" in ui.followUpStatusLabel.text
    slicer.mrmlScene.RemoveNode(later)
    assert "Choose" in ui.followUpStatusLabel.text and len(host.widget.followUps()) == 1
