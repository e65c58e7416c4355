"""The panel, driven as a user drives it."""

import dataclasses
import json
import time

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
from slicer_host import ROOT, Host

from AnatomyDTLib.plan import Anatomy, Plan

SAMPLE = ROOT / "AnatomyDT" / "Resources" / "SampleData"


@pytest.fixture
def host():
    host = Host()
    yield host
    host.close()


def add_segmentation(names=("White matter", "Tumor"), name="Patient", size=24, radius=4.0):
    """A ball of the last segment in a cube of the first; further segments are slabs beside it."""
    from AnatomyDTLib.scene.geometry import Grid, oriented_image

    z, y, x = np.mgrid[:size, :size, :size] - (size - 1) / 2
    labels = np.ones((size,) * 3, np.uint8)
    for value in range(2, len(names)):
        labels[value - 2] = value
    labels[z**2 + y**2 + x**2 < radius**2] = len(names)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    image = oriented_image(labels, Grid(labels.shape, np.diag([1.0, 1.0, 1.0, 1.0])))
    for value, segment_name in enumerate(names, start=1):
        segment = slicer.vtkSegment()
        segment.SetName(segment_name)
        segment.SetLabelValue(value)
        segment.SetColor(value / len(names), 0.4, 0.3)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, f"ID_{value}")
    node.CreateDefaultDisplayNodes()
    return node


def choose(combo, data):
    index = next(i for i in range(combo.count) if combo.itemData(i) == data)
    combo.setCurrentIndex(index)


def ready(host, days=20, **segmentation):
    node = add_segmentation(**segmentation)
    host.widget.ui.segmentationSelector.setCurrentNode(node)
    host.widget.ui.horizonSlider.setValue(days)
    host.process()
    return node


def run(host, name="Forecast"):
    ui = host.widget.ui
    ui.nameLineEdit.setText(name)
    assert ui.applyButton.enabled, ui.applyButton.toolTip
    ui.applyButton.click()
    longest = host.wait(lambda: not host.widget.logic.running)
    return longest


def everything():
    scene = slicer.mrmlScene
    return sorted(scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes()))


def test_it_opens_without_a_segmentation_and_says_what_is_missing(host):
    ui = host.widget.ui
    assert not ui.applyButton.enabled and "segmentation" in ui.applyButton.toolTip
    assert not ui.resultsCollapsibleButton.enabled
    host.picture("1_empty")


def test_the_panel_loads_without_torch(tmp_path):
    """In a fresh interpreter whose torch cannot be imported, with the panel built and its controls used."""
    import subprocess
    import sys

    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'safetensors', 'monai', 'skimage', 'matplotlib', 'nibabel'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from slicer_host import Host\n"
        "host = Host()\n"
        "host.widget.ui.useRegimeButton.click()\n"
        "host.widget.ui.addButton.click()\n"
        "assert host.widget.ui.eventTable.rowCount == 1\n"
        "assert 'torch' not in sys.modules\n"
        "host.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "Testing")], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


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


def test_apply_forecasts_in_the_background_and_shows_the_result(host):
    ui = host.widget.ui
    ready(host, days=30)
    ui.applyButton.click()
    assert host.widget.logic.running and ui.applyButton.text == "Cancel"
    seen = set()
    longest = host.wait(lambda: seen.add(ui.statusLabel.text) or not host.widget.logic.running)
    assert longest < 0.2          # the bar of the order: the interface answers within 200 ms
    assert any(text.startswith("day ") for text in seen)
    assert "complete" in ui.statusLabel.text and ui.applyButton.text == "Apply"
    shown = host.widget.shown()
    assert ui.forecastComboBox.currentText == shown.name == "Forecast"
    assert ui.seekWidget.browser is shown.browser and ui.show3DButton.segmentationNode() is shown.proxy
    ui.seekWidget.slider().setValue(3)
    assert shown.browser.GetSelectedItemNumber() == 3
    host.picture("5_result")
    ui.chartButton.click()


def test_an_outline_of_the_baseline_lies_under_the_forecast(host):
    node = ready(host)
    run(host)
    assert not node.GetDisplayNode().GetVisibility()
    host.widget.ui.outlineSlider.setValue(0.7)
    display = node.GetDisplayNode()
    assert display.GetVisibility() and not display.GetVisibility2DFill() and display.GetOpacity2DOutline() == pytest.approx(0.7)


def test_cancel_ends_the_run_at_once_and_leaves_the_scene_as_it_was(host):
    ui = host.widget.ui
    ready(host, days=1800, size=48)
    before = everything()
    ui.applyButton.click()
    host.wait(lambda: ui.progressBar.value > 0)
    host.picture("4_running")
    folder, process = host.widget.logic._run._folder, host.widget.logic._run._process
    began = time.perf_counter()
    ui.applyButton.click()
    assert time.perf_counter() - began < 2.0      # the bar of the order
    assert process.poll() is not None and not folder.exists()
    assert everything() == before and "Cancelled" in ui.statusLabel.text and ui.applyButton.text == "Apply"
    ui.horizonSlider.setValue(20)
    run(host)
    assert host.widget.shown() is not None


def test_cancel_while_the_frames_are_made_leaves_the_scene_as_it_was(host):
    ui = host.widget.ui
    ready(host, days=100)
    before = everything()
    ui.applyButton.click()
    host.wait(lambda: ui.statusLabel.text.startswith("making frame") and (ui.applyButton.click() or True) or
              not host.widget.logic.running)
    # The frames of a small image pass between two looks; a click from inside the work is what a user's is.
    if host.widget.shown() is not None:
        logic, pressed = host.widget.logic, []
        tell = host.widget.onProgress

        def press(fraction, text, lines):
            tell(fraction, text, lines)
            if text.startswith("making frame 3") and not pressed:
                pressed.append(ui.applyButton.click())

        before = everything()
        host.widget.onProgress = press
        ui.nameLineEdit.setText("Second")
        ui.applyButton.click()
        host.wait(lambda: not logic.running)
        assert pressed
    assert everything() == before and "Cancelled" in ui.statusLabel.text


def test_two_clicks_start_one_run_and_a_second_start_is_refused(host):
    from AnatomyDTLib.engine import ForecastError

    node = ready(host, days=400, size=40)
    host.widget.ui.applyButton.click()
    plan, assignment = host.widget.plan()
    with pytest.raises(ForecastError, match="running"):
        host.widget.logic.forecast(node, plan, assignment=assignment)
    host.widget.ui.applyButton.click()
    assert not host.widget.logic.running


def test_closing_the_scene_during_a_run_ends_it(host):
    ready(host, days=1800, size=48)
    host.widget.ui.applyButton.click()
    process = host.widget.logic._run._process
    slicer.mrmlScene.Clear(0)
    host.process()
    assert not host.widget.logic.running and process.poll() is not None
    assert "closed" in host.widget.ui.statusLabel.text
    assert not host.widget.ui.applyButton.enabled
    ready(host)
    run(host)
    assert host.widget.shown() is not None


def test_the_input_may_be_removed_during_a_run(host):
    node = ready(host, days=200)
    host.widget.ui.applyButton.click()
    slicer.mrmlScene.RemoveNode(node)
    host.wait(lambda: not host.widget.logic.running)
    assert host.widget.shown().browser.GetNumberOfItems() == 21
    assert not host.widget.ui.applyButton.enabled


def test_closing_the_module_ends_the_run(host):
    ready(host, days=1800, size=48)
    host.widget.ui.applyButton.click()
    process = host.widget.logic._run._process
    host.widget.cleanup()
    assert process.poll() is not None


def test_a_process_that_dies_is_reported_with_its_log(host):
    import os
    import signal

    ui = host.widget.ui
    ready(host, days=1800, size=48)
    before = everything()
    ui.applyButton.click()
    host.wait(lambda: ui.progressBar.value > 0)
    os.kill(host.widget.logic._run._process.pid, signal.SIGKILL)
    host.wait(lambda: not host.widget.logic.running)
    assert "memory" in ui.statusLabel.text and "memory" in ui.logTextEdit.toPlainText()
    assert everything() == before and ui.applyButton.enabled


def test_a_process_whose_application_has_gone_ends_itself(tmp_path):
    """A crash of Slicer leaves nothing running."""
    import subprocess
    import sys

    parent = subprocess.Popen([sys.executable, "-c", "pass"])
    parent.wait()
    worker = ROOT / "AnatomyDT" / "AnatomyDTPanel" / "worker.py"
    done = subprocess.run([sys.executable, "-c", (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import worker;"
        "worker.compute = lambda folder: time.sleep(30); sys.exit(worker.main(sys.argv[2], sys.argv[3]))"
    ), str(worker.parent), str(tmp_path), str(parent.pid)], timeout=20)
    assert done.returncode == 3


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


def test_two_regimes_are_compared_in_one_chart_and_side_by_side(host):
    ui = host.widget.ui
    ready(host, days=60)
    run(host, "Untreated")
    assert not ui.compareButton.enabled
    choose(ui.regimeComboBox, "stupp")
    ui.useRegimeButton.click()
    run(host, "Stupp")
    assert [ui.forecastComboBox.itemText(i) for i in range(ui.forecastComboBox.count)] == ["Untreated", "Stupp"]
    ui.compareButton.click()
    ui.compareButton.click()
    charts = [c for c in slicer.util.getNodesByClass("vtkMRMLPlotChartNode") if c.GetName().startswith("Comparison")]
    assert len(charts) == 1 and charts[0].GetNumberOfPlotSeriesNodes() == 2
    ui.sideBySideButton.click()
    leader, follower = host.widget.shown().browser, host.widget.logic.find("Untreated").browser
    leader.SetSelectedItemNumber(4)
    assert follower.GetSelectedItemNumber() == 4
    host.picture("6_compared")
    choose(ui.forecastComboBox, "Untreated")
    assert host.widget.shown().name == "Untreated"
    run(host, "Stupp")
    assert ui.forecastComboBox.count == 2


def test_the_probability_is_kept_and_laid_over(host):
    ui = host.widget.ui
    ready(host)
    ui.probabilitiesCheckBox.setChecked(True)
    run(host)
    assert ui.overlayCheckBox.enabled
    ui.overlayCheckBox.setChecked(True)
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    assert composite.GetForegroundVolumeID() == host.widget.shown().probability_proxy.GetID()


def plain(plan):
    """Without what a segmentation file rounds or fills in: colours, and terminologies that say nothing."""
    tissues = tuple(dataclasses.replace(t, color=None, terminology=None) for t in plan.anatomy.tissues)
    return dataclasses.replace(plan, anatomy=Anatomy(tissues, plan.anatomy.cross_diffusion))


def test_a_saved_scene_brings_panel_and_results_back(host, tmp_path):
    ui = host.widget.ui
    node = ready(host, days=30, names=("White matter", "Something", "Tumor"))
    choose(ui.tissueTable.cellWidget(1, 1), "csf")
    choose(ui.addKindComboBox, "surgery")
    ui.addButton.click()
    ui.surgeryExtentSpinBox.setValue(80)
    ui.massEffectSlider.setValue(0.25)
    choose(ui.growthComboBox, "lipkova")
    run(host, "Operated")
    plan = host.widget.plan()
    scene = slicer.mrmlScene
    scene.SetRootDirectory(str(tmp_path))
    assert node is not None
    for i in range(scene.GetNumberOfNodesByClass("vtkMRMLStorableNode")):
        storable = scene.GetNthNodeByClass(i, "vtkMRMLStorableNode")
        if not storable.GetSaveWithScene():
            continue
        if storable.GetStorageNode() is None:
            storable.AddDefaultStorageNode()
        storage = storable.GetStorageNode()
        if storage is not None and storable.IsA("vtkMRMLSegmentationNode"):
            storage.SetFileName(str(tmp_path / f"{storable.GetID()}.seg.nrrd"))
            assert storage.WriteData(storable)
        elif storage is not None and storable.IsA("vtkMRMLSequenceNode"):
            storage.SetFileName(str(tmp_path / f"{storable.GetID()}.seq.mrb"))
            assert storage.WriteData(storable)
        elif storage is not None and storable.IsA("vtkMRMLTableNode"):
            storage.SetFileName(str(tmp_path / f"{storable.GetID()}.tsv"))
            assert storage.WriteData(storable)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    scene.Clear(0)
    host.process()
    assert not ui.applyButton.enabled
    scene.SetURL(str(tmp_path / "scene.mrml"))
    cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    cache.SetRemoteCacheDirectory(str(tmp_path))
    manager.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(manager)
    assert scene.Connect()
    host.widget.enter()
    host.process()
    assert plain(host.widget.plan()[0]) == plain(plan[0]) and host.widget.plan()[1] == plan[1]
    assert ui.massEffectSlider.value == 0.25 and ui.nameLineEdit.text == "Operated"
    assert host.widget.shown().name == "Operated" and host.widget.shown().browser.GetNumberOfItems() == 4
    host.picture("7_reloaded")


def test_scripts_can_wait_for_a_forecast(host):
    logic = host.module.AnatomyDTLogic()
    node = add_segmentation()
    host.widget.ui.segmentationSelector.setCurrentNode(node)
    plan, assignment = host.widget.plan()
    result, shown = logic.forecast(node, plan, assignment=assignment, name="Script", waitForCompletion=True)
    assert result.days[-1] == 90 and shown.name == "Script"
    assert Plan.from_json(shown.browser.GetAttribute("AnatomyDT.Plan")) == plan


def test_declined_dependencies_do_no_harm(host, monkeypatch):
    import importlib.util as finder
    import sys
    import types

    ui = host.widget.ui
    ready(host)
    before = everything()
    found = finder.find_spec
    monkeypatch.setattr(finder, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest))
    host.widget.showDevices()
    assert "not installed" in ui.deviceComboBox.itemText(2)
    ui.applyButton.click()
    assert "PyTorch extension" in ui.statusLabel.text and not host.widget.logic.running
    asked = []

    class PyTorchUtilsLogic:
        def installTorch(self, **options):
            asked.append(options)

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    ui.applyButton.click()
    assert asked == [{"askConfirmation": True, "torchVersionRequirement": ">=2.2"}]
    assert "not installed" in ui.statusLabel.text and everything() == before


def load_sample():
    import SampleData

    return SampleData.downloadSample("AnatomyDT baseline")


def test_the_modules_own_test_passes(host):
    host.module.AnatomyDTTest().runTest()


def test_a_forecast_is_compared_with_a_follow_up(host):
    ui = host.widget.ui
    ready(host, days=30)
    run(host)
    assert not ui.scoreButton.enabled
    follow_up = add_segmentation(name="Later", radius=6.0)
    ui.segmentationSelector.setCurrentNode(slicer.util.getNode("Patient"))
    ui.addFollowUpButton.click()
    assert ui.followUpTable.cellWidget(0, 0).currentNode() is follow_up
    ui.followUpTable.cellWidget(0, 1).setValue(1)
    assert ui.scoreButton.enabled
    ui.scoreButton.click()
    assert ui.applyButton.text == "Cancel"
    host.wait(lambda: not host.widget.logic.running)
    assert "table" in ui.statusLabel.text, ui.statusLabel.text
    table = slicer.util.getNode("Forecast against Later, day 0").GetTable()
    names = [table.GetColumnByName("Segment").GetValue(row) for row in range(table.GetNumberOfRows())]
    tumor = names.index("Tumor")
    small, large = (np.sum(np.sum((np.mgrid[:24, :24, :24] - 11.5) ** 2, 0) < r**2) for r in (4.0, 6.0))
    assert table.GetColumnByName("DSC").GetValue(tumor) == pytest.approx(2 * small / (small + large))
    assert table.GetColumnByName("Follow-up (mL)").GetValue(tumor) == pytest.approx(large / 1000)
    follow_up.GetSegmentation().GetSegment("ID_1").SetName("a")
    follow_up.GetSegmentation().GetSegment("ID_2").SetName("b")
    ui.scoreButton.click()
    assert "rename" in ui.statusLabel.text and not host.widget.logic.running
