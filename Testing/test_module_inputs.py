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


def roles_shown(host):
    table = host.widget.ui.tissueTable
    combos = [table.cellWidget(row, 1) for row in range(table.rowCount)]
    return [combo.itemData(combo.currentIndex) for combo in combos]


NUMBERED = {
    "brats": {1: "necrosis", 2: "edema", 3: "tumor", 4: "tumor"},
    "brats2024": {1: "necrosis", 2: "edema", 3: "tumor", 4: "cavity"},
    "fast": {1: "csf", 2: "grey", 3: "white"},
    "synthseg": {2: "white", 3: "grey", 4: "ventricle", 10: "grey", 16: "white", 24: "csf", 41: "white", 43: "ventricle"},
    "anatomydt": {1: "white", 2: "grey", 3: "csf", 4: "ventricle", 5: "tumor"},
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("numbering", NUMBERED)
def test_a_numbering_fills_the_tissues(host, numbering, named):
    """By the value that stands in the segment's name, as Slicer's import gives it, and else by the label value."""
    values = NUMBERED[numbering]
    node = ready(host, names=[f"Segment_{v}" if named else f"Structure {'abcdefgh'[i]}" for i, v in enumerate(values)])
    if not named:
        for i, value in enumerate(values):
            node.GetSegmentation().GetNthSegment(i).SetLabelValue(value)
    assert not host.widget.ui.applyButton.enabled and set(roles_shown(host)) == {""}
    choose(host.widget.ui.numberingComboBox, numbering)
    host.widget.ui.fillButton.click()
    assert roles_shown(host) == list(values.values())
    assert host.widget.ui.applyButton.enabled == bool({"tumor", "edema"} & set(values.values()))


def test_a_numbering_leaves_what_the_name_or_the_terminology_tells(host):
    """A tumor of BraTS, value 4, that was copied into an anatomy of SynthSeg, where 4 is a ventricle."""
    node = ready(host, names=("Segment_2", "Segment_4", "Tumor", "Mine", "Structure"))
    found = node.GetSegmentation()
    for i, value in ((2, 4), (3, 4), (4, 4)):
        found.GetNthSegment(i).SetLabelValue(value)
    found.GetNthSegment(3).SetTag(
        slicer.vtkSegment.GetTerminologyEntryTagName(),
        "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure"
        "~SCT^4147007^Mass~^^")
    choose(host.widget.ui.numberingComboBox, "synthseg")
    host.widget.ui.fillButton.click()
    assert roles_shown(host) == ["white", "ventricle", "tumor", "tumor", "ventricle"]


def test_a_numbering_says_which_labels_it_does_not_know(host):
    ui = host.widget.ui
    ready(host, names=("Segment_1", "Segment_7", "Segment_3"))
    choose(ui.numberingComboBox, "brats")
    ui.fillButton.click()
    assert roles_shown(host) == ["necrosis", "", "tumor"]
    assert "Segment_7" in ui.tissueStatusLabel.text and "Segment_1" not in ui.tissueStatusLabel.text
    choose(ui.tissueTable.cellWidget(1, 1), "white")
    assert ui.applyButton.enabled


def test_a_tumor_without_anatomy_is_forecast_in_brain(host):
    ui = host.widget.ui
    ready(host, names=("Segment_1", "Segment_2", "Segment_4"))
    choose(ui.numberingComboBox, "brats")
    ui.fillButton.click()
    assert "taken as brain" in ui.tissueStatusLabel.text and ui.applyButton.enabled


def test_terminology_tells_what_names_do_not(host):
    ui = host.widget.ui
    node = ready(host, names=("a", "b", "c"))
    entries = {
        "a": "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^12738006^Brain~^^",
        "b": "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure"
             "~SCT^4147007^Mass~^^",
        "c": "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^",
    }
    for i in range(3):
        segment = node.GetSegmentation().GetNthSegment(i)
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), entries[segment.GetName()])
    choose(ui.numberingComboBox, "")
    ui.fillButton.click()
    assert roles_shown(host) == ["organ", "tumor", ""] and "c" in ui.tissueStatusLabel.text


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
