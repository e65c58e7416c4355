"""What the panel does with results: comparisons, what comes into view, side by side."""

import types

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
import vtk
from panel_user import add_segmentation, everything, run

from AnatomyDTLib.scene.geometry import vtk_matrix
from AnatomyDTLib.scene.surfaces import stored_meshes


@pytest.mark.usefixtures("in_this_process")
def test_several_follow_ups_are_compared_in_one_table(host, computed):
    run(host)
    logic, shown = host.widget.logic, host.widget.shown()
    early, late = add_segmentation(name="Early", radius=5.0), add_segmentation(name="Late", radius=7.0)
    # A registration: the follow-up lies elsewhere, and its transform brings it here.
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    shift = np.eye(4)
    shift[0, 3] = 2.0
    moved.SetMatrixTransformToParent(vtk_matrix(shift))
    late.SetAndObserveTransformNodeID(moved.GetID())
    extra = slicer.vtkSegment()
    extra.SetName("Scar")
    late.GetSegmentation().AddSegment(extra, "scar")
    browsed = shown.browser.GetSelectedItemNumber()
    scores, table = logic.score(shown, [(early, 20.0), (late, 33.0)], waitForCompletion=True)
    assert table.GetName() == "Forecast against 2 follow-ups" and len(scores) == 2
    stored = table.GetTable()
    column = {stored.GetColumnName(c): stored.GetColumn(c) for c in range(stored.GetNumberOfColumns())}
    rows = range(table.GetNumberOfRows())
    assert [column["Follow-up"].GetValue(r) for r in rows] == ["Early", "Early", "Late", "Late"]
    assert [column["Day"].GetValue(r) for r in rows] == [20, 20, 33, 33]
    assert [column["Forecast's day"].GetValue(r) for r in rows] == [20, 20, 30, 30]
    z, y, x = np.mgrid[:24, :24, :24] - 11.5
    for row, (frame, radius, moved_by) in zip((1, 3), ((2, 5.0, 0), (3, 7.0, 2))):
        predicted = computed.forecast.labels[frame] == 2
        observed = z**2 + y**2 + (x - moved_by) ** 2 < radius**2
        expected = 2 * (predicted & observed).sum() / (predicted.sum() + observed.sum())
        assert column["DSC"].GetValue(row) == pytest.approx(expected)
        assert column["Follow-up (mL)"].GetValue(row) == pytest.approx(observed.sum() / 1000)
        assert column["Forecast (mL)"].GetValue(row) == pytest.approx(predicted.sum() / 1000)
        assert column["HD95 (mm)"].GetValue(row) > 0 and 0 <= column["clDice"].GetValue(row) <= 1
    message = logic._outcome[2]
    assert "day 33 is compared with day 30" in message and "Scar" in message and "'Early'" not in message
    assert shown.browser.GetSelectedItemNumber() == browsed
    before = everything()
    logic.score(shown, [(early, 20.0), (late, 33.0)], waitForCompletion=True)
    assert len(everything()) == len(before)                  # the earlier table was replaced


def test_a_comparison_can_be_cancelled(host, computed):
    run(host)
    logic, said = host.widget.logic, []
    follow_up = add_segmentation(name="Later", radius=6.0)
    before = everything()
    logic.score(host.widget.shown(), [(follow_up, 50.0)], completed=lambda *outcome: said.append(outcome))
    host.wait(lambda: logic._run is not None)
    logic.cancel("enough")
    assert said == [(None, None, "enough")] and everything() == before


def test_a_new_forecast_comes_to_the_front_with_the_views_on_its_tumor(host, computed, monkeypatch):
    slices = slicer.vtkMRMLSliceNode()
    slices.SetLayoutName("Red")
    slicer.mrmlScene.AddNode(slices)
    run(host, "First")
    first = host.widget.shown()
    assert np.allclose([slices.GetSliceToRAS().GetElement(i, 3) for i in range(3)][2], 11.5)
    run(host, "Second")
    second = host.widget.shown()
    for proxy in (first.proxy, first.probability_proxy):
        assert not proxy.GetDisplayNode().GetVisibility()
    assert second.proxy.GetDisplayNode().GetVisibility()
    host.widget.logic.bringToFront(first)
    assert first.proxy.GetDisplayNode().GetVisibility() and not second.proxy.GetDisplayNode().GetVisibility()


def test_a_forecast_that_comes_into_view_is_not_covered_by_a_follow_up(host, computed):
    filled, outlined, other = (
        add_segmentation(names=("White matter", last), name=last) for last in ("Tumor", "Tumor", "Region"))
    other.GetSegmentation().GetNthSegment(0).SetName("Planned resection")
    host.widget.logic.showOutline(outlined, 0.6)
    run(host)
    assert not filled.GetDisplayNode().GetVisibility() and other.GetDisplayNode().GetVisibility()
    assert outlined.GetDisplayNode().GetVisibility() and outlined.GetDisplayNode().GetOpacity2DOutline() == 0.6
    filled.GetDisplayNode().SetVisibility(True)
    host.widget.logic.bringToFront(host.widget.shown())
    assert not filled.GetDisplayNode().GetVisibility() and host.widget.shown().proxy.GetDisplayNode().GetVisibility()


def test_side_by_side_gives_the_second_view_back(host, computed):
    views = {}
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal")):
        views[name] = slicer.vtkMRMLSliceNode()
        views[name].SetLayoutName(name)
        views[name].SetSingletonTag(name)
        for preset in ("Axial", "Sagittal"):
            matrix = vtk.vtkMatrix3x3()
            getattr(slicer.vtkMRMLSliceNode, f"Get{preset}SliceToRASMatrix")(matrix)
            views[name].AddSliceOrientationPreset(preset, matrix)
        slicer.mrmlScene.AddNode(views[name])
        views[name].SetOrientation(orientation)
    run(host, "First")
    run(host, "Second")
    logic = host.widget.logic
    first, second = logic.forecasts()
    for _ in range(2):
        logic.showSideBySide(first, second)
        assert views["Yellow"].GetOrientation() == "Axial"
        for shown, view in ((first, "Red"), (second, "Yellow")):
            display = shown.proxy.GetDisplayNode()
            assert display.GetVisibility() and list(display.GetViewNodeIDs()) == [views[view].GetID()]
    green = slicer.vtkMRMLSliceNode()
    green.SetLayoutName("Green")
    green.SetSingletonTag("Green")
    slicer.mrmlScene.AddNode(green)
    run(host, "Third")
    host.widget._parameterNode.shownForecast = "Second"
    host.widget.onSideBySide()
    assert "Second, Third, First" in host.widget.ui.statusLabel.text
    second.browser.SetSelectedItemNumber(3)
    for shown, view in zip((second, logic.forecasts()[2], first), ("Red", "Green", "Yellow")):
        assert list(shown.proxy.GetDisplayNode().GetViewNodeIDs()) == ["vtkMRMLSliceNode" + view]
        assert shown.browser.GetSelectedItemNumber() == 3
    logic.bringToFront(first)
    assert views["Yellow"].GetOrientation() == "Sagittal" and views["Red"].GetOrientation() == "Axial"
    assert first.proxy.GetDisplayNode().GetNumberOfViewNodeIDs() == 0 and not second.proxy.GetDisplayNode().GetVisibility()


def test_a_view_that_a_layout_lacks_is_made_as_the_layout_would_make_it(host):
    red = slicer.vtkMRMLSliceNode()
    red.SetLayoutName("Red")
    red.SetSingletonTag("Red")
    red.SetLayoutLabel("R")
    red.SetLayoutColor(0.8, 0.2, 0.0)
    slicer.mrmlScene.AddNode(red)
    host.widget.logic._makeSliceView("Red+")
    view = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed+")
    assert view.GetLayoutName() == "Red+" and view.GetLayoutLabel() == "R+"
    assert view.GetLayoutColor() == pytest.approx((0.9, 0.6, 0.5)) and view.GetOrientation() == red.GetOrientation()


def test_surfaces_that_two_frames_share_are_one_object():
    arrays = {"points": np.eye(3, dtype=np.float32), "normals": np.eye(3, dtype=np.float32),
              "triangles": np.array([[0, 1, 2]], np.int32)}
    meshes = stored_meshes([[arrays], [arrays], [dict(arrays)]])
    assert meshes(0)[0] is meshes(1)[0] and meshes(2)[0] is not meshes(0)[0]
    assert isinstance(meshes, types.FunctionType)
