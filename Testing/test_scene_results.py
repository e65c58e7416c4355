"""Tables, charts and comparisons of forecasts in the scene."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("slicer")

from forecast_user import DAYS, NAMES, OBLIQUE, anatomy, grown, ids, shown_from

from AnatomyDTLib.engine import ForecastError
from AnatomyDTLib.learning import evaluation
from AnatomyDTLib.scene import charts, comparison
from AnatomyDTLib.scene import forecast as scenes
from AnatomyDTLib.scene.geometry import voxels
from AnatomyDTLib.scene.slices import finished


def test_table_and_chart_hold_the_volumes_in_the_segments_colours(patient):
    found, shown = grown(), shown_from(patient)
    table = shown.table.GetTable()
    assert [table.GetColumnName(c) for c in range(table.GetNumberOfColumns())] == ["Day", *NAMES, "Resection cavity"]
    assert shown.table.GetColumnUnitLabel("Tumor") == "mL" and shown.table.GetColumnUnitLabel("Day") == "day"
    for row in range(4):
        assert table.GetValue(row, 0).ToDouble() == DAYS[row]
        for k in range(1, 5):
            assert table.GetValue(row, k).ToDouble() == pytest.approx(found.volume_ml[row, k])
    assert shown.chart.GetXAxisTitle() == "Time (day)" and shown.chart.GetYAxisTitle() == "Volume (mL)"
    assert shown.chart.GetNumberOfPlotSeriesNodes() == 4 == len(shown.series)
    for line, segment_id in zip(shown.series, ("ID_Brain", "ID_Ventricle", "ID_Tumor", "Resection_cavity")):
        segment = shown.proxy.GetSegmentation().GetSegment(segment_id)
        assert line.GetName() == segment.GetName() == line.GetYColumnName() and line.GetXColumnName() == "Day"
        np.testing.assert_allclose(line.GetColor(), segment.GetColor())
        assert line.GetTableNode() is shown.table


def test_a_band_lies_around_a_line_and_goes_with_its_forecast(slicer_scene, patient):
    shown = shown_from(patient)
    before = ids(slicer_scene)
    mean = grown().volume_ml[:, 3]
    lines = charts.add_band(slicer_scene, shown.table, shown.chart, "Tumor", 0.8 * mean, 1.3 * mean, (1.0, 0.5, 0.0))
    assert shown.chart.GetNumberOfPlotSeriesNodes() == 6 and shown.table.GetColumnUnitLabel("Tumor, upper") == "mL"
    for line, factor in zip(lines, (0.8, 1.3)):
        values = shown.table.GetTable().GetColumnByName(line.GetYColumnName())
        assert [values.GetValue(row) for row in range(4)] == pytest.approx((factor * mean).tolist())
        assert line.GetXColumnName() == "Day" and line.GetColor() == (1.0, 0.5, 0.0)
    with pytest.raises(scenes.ForecastError, match="3 days, its table 4"):
        charts.add_band(slicer_scene, shown.table, shown.chart, "Brain", mean[:3], mean[:3], (0, 0, 0))
    scenes.remove(shown)
    assert not set(line.GetID() for line in lines) & set(ids(slicer_scene)) and len(ids(slicer_scene)) < len(before)


def test_two_forecasts_in_one_chart(slicer_scene, patient):
    one, two = shown_from(patient, name="No treatment"), shown_from(patient, name="Stupp")
    series, chart = scenes.compare(slicer_scene, [one, two], "Tumor")
    assert [line.GetName() for line in series] == ["No treatment: Tumor", "Stupp: Tumor"]
    assert [line.GetTableNode() for line in series] == [one.table, two.table]
    assert series[0].GetColor() == series[1].GetColor() == one.series[2].GetColor()
    assert series[0].GetLineStyle() != series[1].GetLineStyle() and chart.GetNumberOfPlotSeriesNodes() == 2
    before = ids(slicer_scene)
    with pytest.raises(scenes.ForecastError, match="'No treatment' has no tissue 'Liver'; compare one of Brain"):
        scenes.compare(slicer_scene, [one, two], "Liver")
    with pytest.raises(scenes.ForecastError, match="two forecasts or more"):
        scenes.compare(slicer_scene, [one], "Tumor")
    assert ids(slicer_scene) == before
    scenes.remove(two)
    assert chart.GetNumberOfPlotSeriesNodes() == 1


def test_forecasts_of_one_name_get_names_of_their_own(slicer_scene, patient):
    """As two scenes bring them that are loaded one after the other."""
    for name in ("A", "B", "C", "A (2)"):
        shown_from(patient, name=name)
    a, b, c, other = scenes.all_shown(slicer_scene)
    for one in (b, c):
        scenes._rename(one.browser, "A")
    b.proxy.SetName("A")
    assert scenes.distinguish(slicer_scene) == {"A": "A (4)"}
    assert [one.name for one in scenes.all_shown(slicer_scene)] == ["A", "A (3)", "A (4)", "A (2)"]
    assert b.proxy.GetName() == "A (3)" and a.proxy.GetName() == "A"
    assert scenes.find(slicer_scene, "A (4)").browser is c.browser
    assert scenes.distinguish(slicer_scene) == {}


def later(patient, add_segmentation, radius=5):
    """A follow-up of the patient, in the same place."""
    node = add_segmentation(anatomy(radius), OBLIQUE, NAMES, "Later")
    node.SetAndObserveTransformNodeID(patient[0].GetTransformNodeID())
    return node


@pytest.mark.parametrize("kind", ["emptied", "no_representation", "surface"])
def test_a_segment_of_a_follow_up_that_has_gone_counts_as_absent(patient, add_segmentation, kind):
    """A tumor that was removed leaves an empty segment; the others are compared all the same."""
    shown, follow_up = shown_from(patient), later(patient, add_segmentation)
    found = follow_up.GetSegmentation()
    if kind == "surface":
        follow_up.CreateClosedSurfaceRepresentation()
        found.SetSourceRepresentationName("Closed surface")
        found.RemoveRepresentation("Binary labelmap")
        found.GetSegment("ID_Tumor").GetRepresentation("Closed surface").Initialize()
    elif kind == "emptied":
        found.SeparateSegmentLabelmap("ID_Tumor")
        voxels(found.GetSegment("ID_Tumor").GetRepresentation("Binary labelmap"))[:] = 0
    else:
        found.GetSegment("ID_Tumor").RemoveAllRepresentations()
    one = comparison.FollowUp.of(shown, follow_up, 90.0)
    predicted, observed, names, spacing = finished(one.label_maps(shown))
    brain, ventricle, tumor = evaluation.score(predicted, observed, spacing, names)
    assert tumor.missing == "observed" and tumor.volume_observed_ml == 0 and tumor.dice == 0
    assert brain.dice > 0.8 and ventricle.dice > 0.8


def test_a_forecast_in_which_everything_has_gone_is_compared(patient, add_segmentation):
    """A tumor segmentation without anatomy, and the tumor treated until none is drawn."""
    labels = grown().labels.copy()
    labels[-1] = 0
    shown = shown_from(patient, dataclasses.replace(grown(), labels=labels))
    one = comparison.FollowUp.of(shown, later(patient, add_segmentation), 90.0)
    predicted, observed, _, _ = finished(one.label_maps(shown))
    assert not predicted.any() and (observed == anatomy(5)).all()


def test_a_follow_up_that_lies_elsewhere_is_refused(patient, add_segmentation):
    shown, follow_up = shown_from(patient), add_segmentation(anatomy(5), np.diag([1, 1, 1, 1.0]), NAMES, "Later")
    with pytest.raises(ForecastError, match="'Later' holds no voxel of the forecast's image"):
        finished(comparison.FollowUp.of(shown, follow_up, 90.0).label_maps(shown))
