"""The panel's treatments, days and plan file."""

import json

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
from panel_user import add_segmentation, choose, load_sample, ready, run
from slicer_host import ROOT

from AnatomyDTLib.plan import Plan

SAMPLE = ROOT / "AnatomyDT" / "Resources" / "SampleData"


def test_treatments_are_added_edited_duplicated_and_removed(host):
    ui, treatments = host.widget.ui, lambda: host.widget.plan()[0].treatments
    ready(host, days=90)
    choose(ui.addKindComboBox, "surgery")
    ui.addButton.click()
    ui.surgeryDaySpinBox.setValue(3)
    ui.surgeryExtentSpinBox.setValue(90)
    assert treatments()[0].day == 3 and treatments()[0].extent == 0.9
    choose(ui.addKindComboBox, "radiotherapy")
    ui.addButton.click()
    ui.fractionsSpinBox.setValue(5)
    ui.doseSpinBox.setValue(3.5)
    assert treatments()[1].fractions == 5 and treatments()[1].dose_gy == 3.5
    ui.duplicateButton.click()
    assert treatments()[2].start_day == 7 and treatments()[2].dose_gy == 3.5
    choose(ui.addKindComboBox, "chemotherapy")
    ui.addButton.click()
    ui.drugDaysLineEdit.setText("0-9, 20")
    ui.drugDosesLineEdit.setText("10 x 0.5, 1 x 1")
    ui.drugDaysLineEdit.editingFinished.emit()
    ui.drugDosesLineEdit.editingFinished.emit()
    drug = treatments()[3]
    assert drug.days == (*range(10), 20) and drug.dose == (0.5,) * 10 + (1.0,)
    assert [ui.eventTable.item(row, 1).text() for row in range(4)] == ["Surgery", "Radiation", "Radiation", "Drug"]
    host.picture("3_treatments")
    ui.eventTable.selectRow(0)
    assert ui.eventEditor.currentIndex == 0 and ui.surgeryDaySpinBox.value == 3
    ui.removeButton.click()
    assert len(treatments()) == 3 and ui.eventTable.rowCount == 3


def test_a_wrong_field_is_refused_in_words_and_changes_nothing(host):
    ui = host.widget.ui
    ready(host)
    choose(ui.addKindComboBox, "chemotherapy")
    ui.addButton.click()
    before = host.widget.plan()[0].treatments
    for text in ("", "now", "9-3", "1-1000000"):
        ui.drugDaysLineEdit.setText(text)
        ui.drugDaysLineEdit.editingFinished.emit()
        assert "days" in ui.eventStatusLabel.text
        assert host.widget.plan()[0].treatments == before


@pytest.mark.parametrize("regime", ["none", "surgery", "radiotherapy", "temozolomide", "stupp", "surgery+stupp"])
def test_presets_fill_the_table(host, regime):
    from AnatomyDTLib import presets

    ui = host.widget.ui
    ready(host, days=90)
    choose(ui.regimeComboBox, regime)
    ui.useRegimeButton.click()
    assert host.widget.plan()[0].treatments == presets.regime(regime, 90.0)
    assert ui.eventTable.rowCount == len(presets.regime(regime, 90.0))


def test_a_treatment_beyond_the_horizon_is_said_and_not_run(host):
    ui = host.widget.ui
    ready(host, days=90)
    choose(ui.regimeComboBox, "stupp")
    ui.useRegimeButton.click()
    assert ui.applyButton.enabled
    ui.horizonSlider.setValue(30)
    assert not ui.applyButton.enabled and "horizon" in ui.eventStatusLabel.text
    ui.useRegimeButton.click()
    assert ui.applyButton.enabled and ui.eventStatusLabel.text == ""


def test_the_plan_file_is_the_command_lines(host, tmp_path):
    """The sample's plan is loaded, saved again, and is the same."""
    host.widget.ui.segmentationSelector.setCurrentNode(load_sample())
    host.widget.loadPlan(str(SAMPLE / "plan_stupp.json"))
    given = Plan.from_json((SAMPLE / "plan_stupp.json").read_text(encoding="utf-8"))
    host.widget.savePlan(str(tmp_path / "plan.json"))
    saved = Plan.from_json((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert saved.treatments == given.treatments and saved.days == given.days
    assert saved.infiltration_mm == given.infiltration_mm
    for tissue in given.anatomy.tissues:
        same = saved.anatomy.tissues[saved.anatomy.index(tissue.name)]
        assert (same.role, same.growth_per_day, same.diffusivity_mm2_per_day, same.alpha_per_gy) == (
            tissue.role, tissue.growth_per_day, tissue.diffusivity_mm2_per_day, tissue.alpha_per_gy)


def test_a_plan_that_comes_as_a_text_while_the_panel_is_open_is_among_the_presets(host):
    ui = host.widget.ui
    ready(host, days=60)

    def plans():
        host.process()
        return [ui.regimeComboBox.itemText(i) for i in range(ui.regimeComboBox.count) if i >= standard]

    standard = ui.regimeComboBox.count
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "Notes")
    assert plans() == []
    choose(ui.regimeComboBox, "stupp")
    ui.useRegimeButton.click()
    node.SetText(host.widget.plan()[0].to_json())
    assert plans() == ["Notes"]
    node.SetName("Mine")
    assert plans() == ["Mine"] and ui.regimeComboBox.itemData(ui.regimeComboBox.currentIndex) == "stupp"
    choose(ui.regimeComboBox, "none")
    ui.useRegimeButton.click()
    assert ui.eventTable.rowCount == 0
    choose(ui.regimeComboBox, node.GetID())
    ui.useRegimeButton.click()
    assert ui.eventTable.rowCount == 2
    slicer.mrmlScene.RemoveNode(node)
    assert plans() == [] and ui.eventTable.rowCount == 2


def test_irregular_days_of_a_plan_are_kept_until_the_user_sets_others(host, tmp_path):
    ready(host)
    plan = host.widget.plan()[0]
    document = json.loads(plan.to_json())
    document["days"] = [7.0, 30.0, 61.5]
    (tmp_path / "plan.json").write_text(json.dumps(document), encoding="utf-8")
    host.widget.loadPlan(str(tmp_path / "plan.json"))
    assert host.widget.plan()[0].days == (7.0, 30.0, 61.5)
    host.widget.ui.horizonSlider.setValue(40)
    assert host.widget.plan()[0].days == (10.0, 20.0, 30.0, 40.0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"anatomydt_plan": 99}', "\x00\x01"])
def test_a_broken_plan_file_is_refused_in_words(host, tmp_path, text):
    ready(host)
    before = host.widget.plan()
    (tmp_path / "plan.json").write_text(text, encoding="utf-8")
    host.widget.loadPlan(str(tmp_path / "plan.json"))
    assert "not loaded" in host.widget.ui.statusLabel.text
    assert host.widget.plan() == before
    host.widget.loadPlan(str(tmp_path / "missing.json"))
    assert "not loaded" in host.widget.ui.statusLabel.text


@pytest.mark.usefixtures("in_this_process")
def test_regions_and_dose_volumes_reach_the_engine(host):
    ui = host.widget.ui
    ready(host, days=20)
    region = add_segmentation(("Box", "Ball"), name="Regions", radius=7.0)
    ui.segmentationSelector.setCurrentNode(next(
        n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if n.GetName() == "Patient"))
    choose(ui.addKindComboBox, "surgery")
    ui.addButton.click()
    ui.regionsSelector.setCurrentNode(region)
    choose(ui.surgeryRegionComboBox, "Ball")
    run(host)
    shown = host.widget.shown()
    assert "complete" in ui.statusLabel.text
    table = shown.table.GetTable()
    assert table.GetColumnByName("Tumor").GetValue(1) == 0.0
    ui.regionsSelector.setCurrentNode(None)
    assert not ui.applyButton.enabled and "Ball" in ui.applyButton.toolTip
