"""The panel, driven as a user drives it: run, cancel, results, a saved scene."""

import dataclasses
import time

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
from panel_user import add_segmentation, choose, everything, ready, run
from slicer_host import ROOT

from AnatomyDTLib.plan import Anatomy, Plan


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


@pytest.mark.usefixtures("in_this_process")
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


def test_a_double_click_starts_one_run_and_does_not_cancel_it(host):
    ready(host, days=400, size=40)
    del host.widget.DOUBLE_CLICK_SECONDS            # the panel's own
    host.widget.ui.applyButton.click()
    job = host.widget.logic._job
    host.widget.ui.applyButton.click()
    assert host.widget.logic.running and host.widget.logic._job is job
    time.sleep(host.widget.DOUBLE_CLICK_SECONDS)
    host.widget.ui.applyButton.click()
    assert not host.widget.logic.running


def test_closing_the_scene_during_a_run_ends_it(host):
    ready(host, days=1800, size=48)
    host.widget.ui.applyButton.click()
    host.wait(lambda: host.widget.logic._run is not None)
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
    host.wait(lambda: host.widget.logic._run is not None)
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


@pytest.mark.usefixtures("in_this_process")
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


@pytest.mark.usefixtures("in_this_process")
def test_the_probability_is_kept_and_laid_over(host):
    ui = host.widget.ui
    ready(host)
    ui.probabilitiesCheckBox.setChecked(True)
    run(host)
    assert ui.overlayCheckBox.enabled
    ui.overlayCheckBox.setChecked(True)
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    assert composite.GetForegroundVolumeID() == host.widget.shown().probability_proxy.GetID()
    run(host, "Second")                        # the overlay goes with the forecast that is shown
    second = host.widget.shown().probability_proxy.GetID()
    assert composite.GetForegroundVolumeID() == second and ui.overlayCheckBox.checked
    choose(ui.forecastComboBox, "Forecast")
    first = host.widget.shown().probability_proxy.GetID()
    assert composite.GetForegroundVolumeID() == first != second and ui.overlayCheckBox.checked
    ui.probabilitiesCheckBox.setChecked(False)
    run(host, "Third")
    assert not composite.GetForegroundVolumeID() and not ui.overlayCheckBox.checked and not ui.overlayCheckBox.enabled


def plain(plan):
    """Without what a segmentation file rounds or fills in: colours, and terminologies that say nothing."""
    tissues = tuple(dataclasses.replace(t, color=None, terminology=None) for t in plan.anatomy.tissues)
    return dataclasses.replace(plan, anatomy=Anatomy(tissues, plan.anatomy.cross_diffusion))


@pytest.mark.usefixtures("in_this_process")
def test_a_saved_scene_brings_panel_and_results_back(host, tmp_path):
    ui = host.widget.ui
    node = ready(host, days=30, names=("White matter", "Something", "Tumor"))
    choose(ui.tissueTable.cellWidget(1, 1), "csf")
    choose(ui.addKindComboBox, "surgery")
    ui.addButton.click()
    ui.surgeryExtentSpinBox.setValue(80)
    ui.massEffectSlider.setValue(0.25)
    choose(ui.growthComboBox, "lipkova")
    later = add_segmentation(name="Later")
    ui.addFollowUpButton.click()
    ui.followUpTable.cellWidget(0, 1).setValue(25)
    assert host.widget.followUps() == [(later, 25.0)]
    choose(ui.modelComboBox, "weights")
    ui.modelFileLineEdit.setCurrentPath("kept.safetensors")
    choose(ui.modelComboBox, "mechanistic")
    choose(ui.deviceComboBox, "cpu")
    choose(ui.numberingComboBox, "synthseg")
    choose(ui.regimeComboBox, "stupp")
    ui.regimeStartSpinBox.setValue(7)
    run(host, "Operated")
    choose(ui.compareTissueComboBox, "Something")
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
    assert [(node.GetName(), day) for node, day in host.widget.followUps()] == [("Later", 25.0)]
    assert ui.followUpTable.cellWidget(0, 0).currentNode().GetName() == "Later" and ui.followUpComboBox.count == 1
    assert ui.deviceComboBox.itemData(ui.deviceComboBox.currentIndex) == "cpu"
    chosen = [combo.itemData(combo.currentIndex) for combo in (ui.numberingComboBox, ui.regimeComboBox, ui.compareTissueComboBox)]
    assert chosen == ["synthseg", "stupp", "Something"] and ui.regimeStartSpinBox.value == 7
    choose(ui.modelComboBox, "weights")
    assert ui.modelFileLineEdit.currentPath == "kept.safetensors"
    choose(ui.modelComboBox, "mechanistic")
    assert host.widget.shown().name == "Operated" and host.widget.shown().browser.GetNumberOfItems() == 4
    host.picture("7_reloaded")
    # The same scene once more, beside the first: its forecast has another name and is the one that the panel shows.
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Import()
    host.process()
    items = [ui.forecastComboBox.itemText(i) for i in range(ui.forecastComboBox.count)]
    assert items == ["Operated", "Operated (2)"] and ui.forecastComboBox.currentText == "Operated (2)"
    first, second = host.widget.logic.forecasts()
    assert host.widget.shown().browser is second.browser and second.baseline is host.widget._parameterNode.segmentation
    assert second.baseline is not first.baseline
    assert [day for node, day in host.widget.followUps()] == [25.0]


def test_scripts_can_wait_for_a_forecast(host):
    logic = host.module.AnatomyDTLogic()
    node = add_segmentation()
    host.widget.ui.segmentationSelector.setCurrentNode(node)
    plan, assignment = host.widget.plan()
    result, shown = logic.forecast(node, plan, assignment=assignment, name="Script", waitForCompletion=True)
    assert result.days[-1] == 90 and shown.name == "Script"
    assert Plan.from_json(shown.browser.GetAttribute("AnatomyDT.Plan")) == plan


def test_the_modules_own_test_passes(host):
    host.module.AnatomyDTTest().runTest()


@pytest.mark.usefixtures("in_this_process")
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
