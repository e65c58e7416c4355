"""The patient's twin in the panel: calibrated from follow-ups, its fit and uncertainty shown, regimes compared over it."""

import functools

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
from panel_user import choose, everything, run
from test_module_model import twin_file, use_file

from AnatomyDTLib.calibration.twin import Twin

GROWTH, TRUE_GROWTH = "growth_per_day", 0.06


def observed():
    """A patient of 20³ voxels of 2 mm: frames of a forecast with known numbers on the days 0, 20 and 40."""
    from AnatomyDTLib import engine, presets
    from AnatomyDTLib.calibration.parameters import applied
    from AnatomyDTLib.plan import Anatomy, Plan

    z, y, x = np.mgrid[:20, :20, :20] - 9.5
    labels = np.where(z**2 + y**2 + x**2 < 9, 2, 1).astype(np.uint8)
    tissues = tuple(presets.tissue(*one) for one in (("Background", "background"), ("White matter", "white"), ("Tumor", "tumor")))
    plan = Plan(Anatomy(tissues), days=(20.0, 40.0), infiltration_mm=presets.infiltration_mm(presets.DEFAULT_GROWTH))
    plan = applied(plan, {GROWTH: TRUE_GROWTH, "diffusivity_mm2_per_day": 0.2})
    return engine.forecast(labels, (2.0, 2.0, 2.0), plan).labels


@pytest.fixture(scope="module")
def frames():
    return observed()


def segmentation_of(labels, name, spacing=2.0):
    from AnatomyDTLib.scene.geometry import Grid, oriented_image

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    image = oriented_image(labels, Grid(labels.shape, np.diag([spacing, spacing, spacing, 1.0])))
    for value, segment_name in ((1, "White matter"), (2, "Tumor")):
        segment = slicer.vtkSegment()
        segment.SetName(segment_name)
        segment.SetLabelValue(value)
        segment.SetColor(0.9 * (value - 1), 0.5, 0.4)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, f"ID_{value}")
    node.CreateDefaultDisplayNodes()
    return node


@pytest.fixture
def patient(host, frames):
    """The panel with a baseline and two follow-ups; fewer starts than a user's calibration has."""
    nodes = [segmentation_of(labels, name) for labels, name in zip(frames, ("Baseline", "Day 20", "Day 40"))]
    ui = host.widget.ui
    ui.segmentationSelector.setCurrentNode(nodes[0])
    ui.horizonSlider.setValue(60)
    ui.intervalSpinBox.setValue(20)
    for node, day in zip(nodes[1:], (20.0, 40.0)):
        ui.addFollowUpButton.click()
        host.process()
        row = len(host.widget._parameterNode.followUps) - 1
        ui.followUpTable.cellWidget(row, 0).setCurrentNode(node)
        ui.followUpTable.cellWidget(row, 1).setValue(day)
    host.widget.logic.calibrate = functools.partial(host.widget.logic.calibrate, starts=1)
    host.process()
    return nodes


def calibrate(host):
    ui = host.widget.ui
    assert ui.calibrateButton.enabled, ui.calibrateButton.toolTip
    ui.calibrateButton.click()
    assert ui.applyButton.text == "Cancel" and not ui.calibrateButton.enabled
    return host.wait(lambda: not host.widget.logic.running)


def column(table, name):
    values = table.GetTable().GetColumnByName(name)
    return [values.GetValue(row) for row in range(table.GetNumberOfRows())]


def test_from_follow_ups_to_a_comparison_of_regimes(host, patient, tmp_path, request):
    """What a user does with a twin, from Calibrate on; shown in the panel, in tables, over the follow-ups, in the chart."""
    ui, p = host.widget.ui, host.widget._parameterNode
    ui.twinCollapsibleButton.collapsed = False
    host.process()
    assert ui.twinTable.rowCount == 0 and not ui.compareRegimesButton.enabled and not ui.saveTwinButton.enabled
    assert calibrate(host) < 0.2
    assert "calibrated" in ui.statusLabel.text, ui.statusLabel.text
    assert p.model == "twin" and "20, 40" in ui.modelStatusLabel.text
    twin = Twin.from_json(p.twin.GetText())
    growth = next(one for one in twin.parameters if one.name == GROWTH)
    low, high = growth.interval(3.0)
    assert low < TRUE_GROWTH < high and abs(growth.value - TRUE_GROWTH) < 0.15 * TRUE_GROWTH
    # The table in the panel, and the table nodes.
    rows = {ui.twinTable.item(row, 0).text(): row for row in range(ui.twinTable.rowCount)}
    assert set(rows) == set(twin.names)
    assert float(ui.twinTable.item(rows[GROWTH], 1).text().rstrip(" *")) == pytest.approx(growth.value, rel=0.01)
    assert growth.verdict() in ui.twinTable.item(rows[GROWTH], 0).toolTip()
    parameters = slicer.mrmlScene.GetFirstNodeByName("Baseline twin: Twin parameters")
    assert column(parameters, "Value") == pytest.approx([one.value for one in twin.parameters])
    assert column(parameters, "80 % low") == pytest.approx([one.interval()[0] for one in twin.parameters])
    assert column(slicer.mrmlScene.GetFirstNodeByName("Baseline twin: Twin visits"), "Day") == [20, 40]
    assert "Day 40" in ui.twinFitLabel.text and "DSC" in ui.twinFitLabel.text
    # The fit is a forecast of the visits' days, the follow-up of the shown day is outlined over it.
    fit = host.widget.shown()
    assert fit.name == "Fit" and [fit.sequence.GetNthIndexValue(i) for i in range(3)] == ["0", "20", "40"]
    displays = [node.GetDisplayNode() for node in patient]
    for frame, outlined in ((2, 2), (1, 1), (0, None)):
        fit.browser.SetSelectedItemNumber(frame)
        assert [bool(d.GetVisibility()) for d in displays[1:]] == [outlined == 1, outlined == 2]
    assert not displays[1].GetVisibility2DFill()
    fit.browser.SetSelectedItemNumber(2)
    ui.followUpOutlinesCheckBox.setChecked(False)
    assert not displays[2].GetVisibility()
    host.picture("6_twin")
    request.getfixturevalue("in_this_process")               # the calibration had a process of its own
    # Two regimes over the draws: probability of tumor, bands in the charts.
    ui.probabilitiesCheckBox.setChecked(True)
    ui.membersSpinBox.setValue(4)
    run(host, "Untreated")
    untreated = host.widget.shown()
    assert "complete" in ui.statusLabel.text and "another patient" not in ui.statusLabel.text
    lower, upper = column(untreated.table, "Tumor, lower"), column(untreated.table, "Tumor, upper")
    assert len(lower) == 4 and all(a <= b for a, b in zip(lower, upper)) and lower[-1] < upper[-1]
    assert untreated.chart.GetNumberOfPlotSeriesNodes() == len(untreated.series) + 2
    image = untreated.probability_sequence.GetNthDataNode(3).GetImageData().GetPointData().GetScalars()
    values = {round(4 * image.GetValue(i), 3) for i in range(image.GetNumberOfTuples())}
    assert {0.0, 4.0} < values <= {0.0, 1.0, 2.0, 3.0, 4.0}                   # parts of four draws
    assert "Tumor, lower" not in [ui.compareTissueComboBox.itemText(i) for i in range(ui.compareTissueComboBox.count)]
    assert "Run a second" in ui.compareRegimesButton.toolTip
    ui.probabilitiesCheckBox.setChecked(False)
    choose(ui.regimeComboBox, "radiotherapy")
    ui.useRegimeButton.click()
    run(host, "Irradiated")
    ui.compareRegimesButton.click()
    host.wait(lambda: not host.widget.logic.running)
    assert "4 draws" in ui.statusLabel.text and "Irradiated progresses later than Untreated" in ui.statusLabel.text
    table = slicer.mrmlScene.GetFirstNodeByName("Regimes compared")
    assert table.IsA("vtkMRMLTableNode") and column(table, "Regime") == ["Untreated", "Irradiated"]
    untreated_ml, irradiated_ml = column(table, "Tumor (mL)")
    assert irradiated_ml < untreated_ml
    assert column(table, "P(later than Untreated)")[1] > 0.5 and column(table, "Tumor: mean dose (Gy)")[0] == 0
    charts = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    chart = next(node for node in charts if node.GetName() == "Regimes compared")
    assert chart.GetNumberOfPlotSeriesNodes() == 6
    difference = slicer.mrmlScene.GetFirstNodeByName("Tumor probability: Untreated less Irradiated")
    assert difference.GetImageData().GetScalarRange()[1] > 0.3
    before = len(everything())
    ui.compareRegimesButton.click()
    host.wait(lambda: not host.widget.logic.running)
    assert len(everything()) == before                       # the earlier nodes were replaced
    host.picture("7_regimes")
    # A twin of another patient forecasts, and says so; what its draws say is of nobody here.
    values = {one.name: one.value for one in twin.parameters}
    use_file(host, "twin", twin_file(tmp_path / "twin.json", host.widget.plan()[0], **values))
    ui.probabilitiesCheckBox.setChecked(True)
    run(host, "Untreated")
    assert "belongs" in ui.statusLabel.text
    assert host.widget.shown().table.GetTable().GetColumnByName("Tumor, lower") is None
    before = everything()
    ui.compareRegimesButton.click()
    host.wait(lambda: not host.widget.logic.running)
    assert "belongs" in ui.statusLabel.text and everything() == before


@pytest.mark.usefixtures("in_this_process")
def test_a_twin_is_saved_updated_and_comes_back_with_the_scene(host, patient, tmp_path):
    ui, p = host.widget.ui, host.widget._parameterNode
    late = p.followUps[1]
    ui.followUpTable.cellWidget(1, 2).click()
    host.process()
    calibrate(host)
    first = Twin.from_json(p.twin.GetText())
    assert [seen.day for seen in first.observations] == [20] and "Update" in ui.calibrateButton.text
    assert "twin" not in [ui.regimeComboBox.itemText(i) for i in range(ui.regimeComboBox.count)]
    host.widget.saveTwin(str(tmp_path / "twin.json"))
    assert Twin.from_json((tmp_path / "twin.json").read_text(encoding="utf-8")) == first
    host.widget.saveTwin(str(tmp_path / "nowhere" / "twin.json"))
    assert "not saved" in ui.statusLabel.text
    ui.calibrateButton.click()
    host.process()
    assert "seen every follow-up until day 20" in ui.statusLabel.text
    ui.addFollowUpButton.click()
    host.process()
    ui.followUpTable.cellWidget(1, 0).setCurrentNode(late)
    ui.followUpTable.cellWidget(1, 1).setValue(40.0)
    calibrate(host)
    second = Twin.from_json(p.twin.GetText())
    assert second.former == (first.sha256,) and [seen.day for seen in second.observations] == [20, 40]
    assert second.observations[1].forecast["volume_ml"] > 0 and "before it was seen" in ui.twinFitLabel.text
    path = str(tmp_path / "scene.mrml")
    slicer.mrmlScene.Commit(path)
    shown = ui.twinTable.rowCount
    slicer.mrmlScene.Clear(0)
    host.process()
    assert ui.twinTable.rowCount == 0
    p = host.widget._parameterNode
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "Baseline twin")
    node.SetText(second.to_json())
    p.twin, p.model = node, "twin"
    host.process()
    assert ui.twinTable.rowCount == shown and host.widget.twin() == second


def no_follow_up(host, nodes):
    host.widget._parameterNode.followUps, host.widget._parameterNode.followUpDays = [], []


def one_day_twice(host, nodes):
    host.widget._parameterNode.followUpDays = [20.0, 20.0]


def other_voxels(host, nodes):
    coarse = segmentation_of(np.ones((10, 10, 10), np.uint8) + (np.mgrid[:10, :10, :10].sum(0) == 15), "Coarse", spacing=4.0)
    host.widget._parameterNode.followUps = [coarse, nodes[2]]


def no_tumor_segment(host, nodes):
    nodes[2].GetSegmentation().GetSegment("ID_2").SetName("Lesion")



def a_network(host, nodes):
    host.widget._parameterNode.model = "weights"


BAD = {
    no_follow_up: "later segmentation", one_day_twice: "same day", other_voxels: "other voxels", no_tumor_segment: "named like the tumor",
    a_network: "not calibrated",
}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("setup", BAD, ids=lambda setup: setup.__name__)
def test_what_cannot_be_calibrated_is_a_sentence_in_the_panel(host, patient, setup):
    ui = host.widget.ui
    setup(host, patient)
    host.process()
    nodes = everything()
    ui.calibrateButton.click()
    host.wait(lambda: not host.widget.logic.running)
    said = ui.statusLabel.text if ui.calibrateButton.enabled else ui.calibrateButton.toolTip
    assert BAD[setup] in said, said
    assert "Traceback" not in said and len(said) < 400 and everything() == nodes and not ui.progressBar.visible


def test_resampled_when_asked_and_cancelled_at_any_time(host, patient):
    """A follow-up with other voxels is taken when its box is ticked; Cancel leaves the scene and the panel as they were."""
    ui = host.widget.ui
    other_voxels(host, patient)
    ui.resampleCheckBox.setChecked(True)
    host.process()
    before = everything()
    ui.calibrateButton.click()
    host.wait(lambda: host.widget.logic._run is not None and host.widget.logic._run.fraction > 0)
    ui.applyButton.click()
    assert not host.widget.logic.running and "Cancelled" in ui.statusLabel.text and everything() == before
    assert host.widget._parameterNode.model == "mechanistic" and ui.calibrateButton.enabled


def test_a_cancelled_calibration_goes_on_where_it_was(host, patient):
    """The same one, to the result of one that was not cancelled; another one begins anew."""
    ui, logic = host.widget.ui, host.widget.logic
    plan, assignment = host.widget.plan()
    ask = functools.partial(
        logic.calibrate, host.widget._parameterNode.segmentation, plan, assignment=assignment, waitForCompletion=True)
    follow_ups = host.widget.followUps()
    (whole, _), shown = ask(follow_ups, name="Whole")
    ui.calibrateButton.click()
    host.wait(lambda: logic._run is not None and (logic._run._folder / "reached.json").exists())
    ui.applyButton.click()
    assert not logic.running and logic._calibration.reached["state"]["x"] is not None
    log = []
    (other, _), _ = ask(follow_ups[:1], name="Other", progress=lambda fraction, text, lines: log.extend(lines))
    assert not any("going on" in line for line in log) and len(other.observations) == 1
    ui.calibrateButton.click()
    host.wait(lambda: logic._run is not None and (logic._run._folder / "reached.json").exists())
    ui.applyButton.click()
    (found, _), _ = ask(follow_ups, name="Again", progress=lambda fraction, text, lines: log.extend(lines))
    assert any("going on" in line for line in log)
    assert found.values == whole.values and logic._calibration.reached is None
