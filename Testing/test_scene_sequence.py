"""A forecast in the scene: the traps of segmentation sequences, one test each, on the real nodes; then the chart."""

import dataclasses

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")
import vtk  # noqa: E402

from AnatomyDTLib.engine import Cancelled, Forecast, ForecastError  # noqa: E402
from AnatomyDTLib.learning import evaluation  # noqa: E402
from AnatomyDTLib.plan import Anatomy, Plan  # noqa: E402
from AnatomyDTLib.presets import tissue  # noqa: E402
from AnatomyDTLib.scene import charts, comparison  # noqa: E402
from AnatomyDTLib.scene import forecast as scenes  # noqa: E402
from AnatomyDTLib.scene import segmentation as nodes  # noqa: E402
from AnatomyDTLib.scene.geometry import grid_of, grid_of_volume, numpy_matrix, vtk_matrix, voxels  # noqa: E402
from AnatomyDTLib.scene.slices import finished  # noqa: E402

SHAPE = (18, 24, 30)
OBLIQUE = np.array([[0.6, -0.8 * 1.2, 0, 10], [0.8, 0.6 * 1.2, 0, -20], [0, 0, -2.5, 5], [0, 0, 0, 1.0]])
NAMES = ("Brain", "Ventricle", "Tumor")
DAYS = (0.0, 15.5, 30.0, 90.0)
PLAN = Plan(
    Anatomy((
        tissue("Background", "background"), tissue("Brain", "organ"), tissue("Ventricle", "ventricle"),
        tissue("Tumor", "tumor"), tissue("Resection cavity", "cavity"),
    )),
    days=DAYS[1:],
)


def anatomy(radius):
    z, y, x = np.indices(SHAPE)
    labels = np.zeros(SHAPE, np.uint8)
    labels[((x - 15) / 13) ** 2 + ((y - 12) / 10) ** 2 + ((z - 9) / 7) ** 2 < 1] = 1
    labels[(x - 9) ** 2 + (y - 12) ** 2 + (z - 9) ** 2 < 10] = 2
    labels[((x - 19) ** 2 + (y - 12) ** 2 + (z - 9) ** 2 < radius**2) & (labels == 1)] = 3
    return labels


def grown(probabilities=False):
    """A forecast made by hand: a ball that grows in a box of two tissues, a cavity that never comes."""
    labels = np.stack([anatomy(r) for r in (2, 3, 4, 5)])
    volumes = np.stack([np.bincount(frame.ravel(), minlength=5) for frame in labels]) * 3.0 / 1000
    probability = (labels == 3).astype(np.float16) * np.float16(0.75) if probabilities else None
    return Forecast(np.array(DAYS), labels, volumes, probability, (2.5, 1.2, 1.0), PLAN)


@pytest.fixture
def patient(slicer_scene, add_segmentation, add_volume, add_transform):
    """The input as a user has it: under a transform, in a folder, with terminology, with a reference volume."""
    node = add_segmentation(anatomy(2), OBLIQUE, NAMES)
    node.GetSegmentation().GetSegment("ID_Tumor").SetTag("TerminologyEntry", "a~b~c")
    for identifier in node.GetSegmentation().GetSegmentIDs():
        node.GetSegmentation().GetSegment(identifier).SetTag("Segmentation.Status", "reviewed")
    reference = add_volume(np.zeros(SHAPE, np.int16), OBLIQUE, "MRI")
    matrix = np.eye(4)
    matrix[:3, 3] = 30, 40, -50
    transform = add_transform(matrix, "Registration")
    for one in (node, reference):
        one.SetAndObserveTransformNodeID(transform.GetID())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer_scene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Patient")
    hierarchy.CreateItem(folder, node)
    return node, reference


def shown_from(patient, found=None, name="Forecast"):
    node, reference = patient
    baseline = nodes.read(node, reference)
    _, segments = nodes.assigned(baseline, PLAN)
    return scenes.show(node.GetScene(), found or grown(), baseline, segments, name)


def ids(scene):
    return [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())]


def items(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    found = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), found, True)
    return [found.GetId(i) for i in range(found.GetNumberOfIds())]


def segment_array(node, identifier):
    segment = node.GetSegmentation().GetSegment(identifier)
    return voxels(segment.GetRepresentation("Binary labelmap")) == segment.GetLabelValue()


def test_every_day_plays_voxel_for_voxel(patient):
    found, shown = grown(), shown_from(patient)
    sequence = shown.sequence
    assert (sequence.GetIndexName(), sequence.GetIndexUnit()) == ("time", "day")
    assert sequence.GetIndexTypeAsString() == "numeric"
    assert [sequence.GetNthIndexValue(i) for i in range(4)] == ["0", "15.5", "30", "90"]
    for i in (3, 1, 2, 0):
        shown.browser.SetSelectedItemNumber(i)
        for k, identifier in enumerate(("ID_Brain", "ID_Ventricle", "ID_Tumor", "Resection_cavity"), start=1):
            np.testing.assert_array_equal(segment_array(shown.proxy, identifier), found.labels[i] == k)


def test_trap_1_surfaces_are_there_in_every_frame(patient):
    shown = shown_from(patient)
    sizes = []
    for i in (0, 1, 2, 3, 0):
        shown.browser.SetSelectedItemNumber(i)
        surface = shown.proxy.GetSegmentation().GetSegment("ID_Tumor").GetRepresentation("Closed surface")
        assert surface is not None and surface.GetNumberOfPolys() > 20
        sizes.append(surface.GetNumberOfPolys())
        cavity = shown.proxy.GetSegmentation().GetSegment("Resection_cavity").GetRepresentation("Closed surface")
        assert cavity is not None and cavity.GetNumberOfPolys() == 0
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3] and sizes[4] == sizes[0]


def test_trap_2_an_edit_of_the_proxy_does_not_reach_the_sequence(patient):
    shown = shown_from(patient)
    assert shown.browser.GetSaveChanges(shown.sequence) is False
    shown.proxy.GetSegmentation().RemoveSegment("ID_Tumor")
    shown.browser.SetSelectedItemNumber(1)
    shown.browser.SetSelectedItemNumber(0)
    np.testing.assert_array_equal(segment_array(shown.proxy, "ID_Tumor"), grown().labels[0] == 3)


def test_trap_3_a_hidden_segment_stays_hidden(patient):
    shown = shown_from(patient)
    display = shown.proxy.GetDisplayNode()
    display.SetSegmentVisibility("ID_Brain", False)
    display.SetSegmentOpacity3D("ID_Ventricle", 0.35)
    for i in (1, 2, 3, 0):
        shown.browser.SetSelectedItemNumber(i)
        assert display.GetSegmentVisibility("ID_Brain") is False
        assert display.GetSegmentOpacity3D("ID_Ventricle") == pytest.approx(0.35)
    assert display.GetSegmentVisibility("ID_Tumor") is True


@pytest.mark.parametrize("role, drawn", [("white", False), ("organ", True)])
def test_what_only_wraps_white_matter_is_not_drawn_in_3d(patient, role, drawn):
    names = ("Background", "Brain", "Ventricle", "Tumor", "Resection cavity")
    roles = ("background", role, "csf", "tumor", "cavity")
    plan = dataclasses.replace(PLAN, anatomy=Anatomy(tuple(tissue(n, r) for n, r in zip(names, roles))))
    display = shown_from(patient, dataclasses.replace(grown(), plan=plan)).proxy.GetDisplayNode()
    for identifier, visible in (("ID_Brain", True), ("ID_Ventricle", drawn), ("ID_Tumor", True)):
        assert display.GetSegmentVisibility3D(identifier) is visible, identifier
        assert display.GetSegmentVisibility(identifier) and display.GetSegmentVisibility2DFill(identifier)


def test_trap_4_transform_and_reference_volume_survive_browsing(patient):
    node, reference = patient
    shown = shown_from(patient)
    for i in (2, 0, 3):
        shown.browser.SetSelectedItemNumber(i)
        assert shown.proxy.GetTransformNodeID() == node.GetTransformNodeID()
        assert shown.proxy.GetNodeReferenceID(shown.proxy.GetReferenceImageGeometryReferenceRole()) == reference.GetID()
        text = shown.proxy.GetSegmentation().GetConversionParameter("Reference image geometry")
        image = slicer.vtkOrientedImageData()
        slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False)
        np.testing.assert_allclose(grid_of(image).ijk_to_ras, OBLIQUE, atol=1e-6)
        assert image.GetDimensions() == SHAPE[::-1]


def test_trap_5_every_frame_has_the_same_segments(patient):
    shown = shown_from(patient)
    expected = ("ID_Brain", "ID_Ventricle", "ID_Tumor", "Resection_cavity")
    for i in range(4):
        frame = shown.sequence.GetNthDataNode(i).GetSegmentation()
        assert tuple(frame.GetSegmentIDs()) == expected
        assert not segment_array(shown.sequence.GetNthDataNode(i), "Resection_cavity").any()
        assert frame.GetNumberOfLayers() == 1                          # one label map for all segments


def test_trap_6_a_new_run_replaces_the_former_one_with_all_its_nodes(slicer_scene, patient):
    before, hierarchy_before = ids(slicer_scene), items(slicer_scene)
    first = shown_from(patient, grown(probabilities=True))
    after, hierarchy_after = len(ids(slicer_scene)), len(items(slicer_scene))
    proxy_id = first.proxy.GetID()
    second = shown_from(patient, grown(probabilities=True))
    assert len(ids(slicer_scene)) == after and len(items(slicer_scene)) == hierarchy_after
    assert slicer_scene.GetNodeByID(proxy_id) is None and second.proxy.GetID() != proxy_id
    assert [shown.name for shown in scenes.all_shown(slicer_scene)] == ["Forecast"]
    scenes.remove(second)
    assert ids(slicer_scene) == before and items(slicer_scene) == hierarchy_before


def test_trap_7_two_regimes_play_side_by_side(patient):
    one = shown_from(patient, name="No treatment")
    halted = grown()
    still = np.stack([halted.labels[0]] * 4)
    two = shown_from(patient, dataclasses.replace(halted, labels=still), "Stupp")
    assert one.browser is not two.browser and one.proxy is not two.proxy
    one.browser.SetSelectedItemNumber(3)
    assert two.browser.GetSelectedItemNumber() == 0
    two.browser.SetSelectedItemNumber(3)
    grown_tumor, halted_tumor = (segment_array(s.proxy, "ID_Tumor").sum() for s in (one, two))
    assert grown_tumor == (halted.labels[3] == 3).sum() > halted_tumor == (halted.labels[0] == 3).sum()


def test_trap_8_a_saved_and_reloaded_scene_plays_on(slicer_scene, patient, tmp_path):
    shown = shown_from(patient, grown(probabilities=True))
    shown.browser.SetSelectedItemNumber(2)
    assert slicer_scene.WriteToMRB(str(tmp_path / "scene.mrb"), None)
    from conftest import HeadlessScene

    other = HeadlessScene()
    cache = slicer.vtkCacheManager()
    cache.SetRemoteCacheDirectory(str(tmp_path))
    manager = slicer.vtkDataIOManager()
    manager.SetCacheManager(cache)
    other.scene.SetCacheManager(cache)
    other.scene.SetDataIOManager(manager)
    assert other.scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    again = scenes.find(other.scene, "Forecast")
    assert [again.sequence.GetNthIndexValue(i) for i in range(4)] == ["0", "15.5", "30", "90"]
    assert again.table.GetName() == "Forecast volumes" and len(again.series) == 4 and again.chart is not None
    assert again.baseline.GetName() == "Patient"
    for i in (0, 3):
        again.browser.SetSelectedItemNumber(i)
        np.testing.assert_array_equal(segment_array(again.proxy, "ID_Tumor"), grown().labels[i] == 3)
        tumor = again.proxy.GetSegmentation().GetSegment("ID_Tumor")
        assert tumor.GetRepresentation("Closed surface").GetNumberOfPolys() > 0
        # A volume of left-handed axes comes back from its file with one axis turned round, in the same place.
        probability = voxels(again.probability_proxy.GetImageData())
        index = np.argwhere(probability == 0.75)[:, ::-1]
        grid = grid_of_volume(again.probability_proxy)
        back = np.c_[index, np.ones(len(index))] @ (np.linalg.inv(OBLIQUE) @ grid.ijk_to_ras).T
        expected = np.argwhere(grown().labels[i] == 3)[:, ::-1]
        assert set(map(tuple, np.round(back[:, :3]).astype(int).tolist())) == set(map(tuple, expected.tolist()))
    assert again.proxy.GetParentTransformNode().GetName() == "Registration"
    node_count = len(ids(other.scene))
    scenes.remove(again)
    assert not scenes.all_shown(other.scene) and len(ids(other.scene)) < node_count
    other.close()


def test_trap_9_the_result_lies_beside_the_input_in_the_hierarchy(slicer_scene, patient):
    shown = shown_from(patient)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer_scene)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(patient[0]))
    assert hierarchy.GetItemName(folder) == "Patient"
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(shown.proxy)) == folder
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(shown.table)) == folder


def test_trap_10_names_colours_terminology_geometry_and_place_are_the_inputs(patient):
    node, _ = patient
    shown = shown_from(patient)
    for i in (0, 3):
        shown.browser.SetSelectedItemNumber(i)
        for identifier in ("ID_Brain", "ID_Ventricle", "ID_Tumor"):
            mine, theirs = (n.GetSegmentation().GetSegment(identifier) for n in (shown.proxy, node))
            assert mine.GetName() == theirs.GetName() and mine.GetColor() == theirs.GetColor()
            for tag in ("TerminologyEntry", "Segmentation.Status"):
                entries = [vtk.reference(""), vtk.reference("")]
                mine.GetTag(tag, entries[0]), theirs.GetTag(tag, entries[1])
                assert entries[0].get() == entries[1].get() != ""
            np.testing.assert_allclose(
                grid_of(mine.GetRepresentation("Binary labelmap")).ijk_to_ras, OBLIQUE, atol=1e-9
            )
    np.testing.assert_allclose(bounds(shown.proxy, "ID_Ventricle"), bounds(node, "ID_Ventricle"), atol=1e-6)
    surface = shown.proxy.GetSegmentation().GetSegment("ID_Ventricle").GetRepresentation("Closed surface")
    world = vtk.vtkTransformPolyDataFilter()
    matrix = vtk.vtkMatrix4x4()
    shown.proxy.GetParentTransformNode().GetMatrixTransformToWorld(matrix)
    transform = vtk.vtkTransform()
    transform.SetMatrix(matrix)
    world.SetTransform(transform)
    world.SetInputData(surface)
    world.Update()
    middle = np.reshape(world.GetOutput().GetBounds(), (3, 2)).mean(1)
    np.testing.assert_allclose(middle, np.reshape(bounds(node, "ID_Ventricle"), (3, 2)).mean(1), atol=0.3)


def bounds(node, identifier):
    image = slicer.vtkOrientedImageData()
    slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentBinaryLabelmapRepresentation(node, identifier, image, True)
    value = node.GetSegmentation().GetSegment(identifier).GetLabelValue()
    z, y, x = np.nonzero(voxels(image) == value)
    points = np.stack([x, y, z, np.ones_like(x)], -1) @ grid_of(image).ijk_to_ras.T
    return np.stack([points.min(0), points.max(0)], -1)[:3].ravel()


def test_moving_the_transform_moves_input_and_forecast_together(patient):
    node, _ = patient
    shown = shown_from(patient)
    turned = np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    node.GetParentTransformNode().SetMatrixTransformToParent(vtk_matrix(turned))
    shown.browser.SetSelectedItemNumber(2)
    np.testing.assert_allclose(bounds(shown.proxy, "ID_Ventricle"), bounds(node, "ID_Ventricle"), atol=1e-6)


def test_days_closer_than_slicers_tolerance_stay_apart(patient):
    found = grown()
    close = dataclasses.replace(found, days=np.array([0, 0.0005, 10000.25, 10000.2504]))
    shown = shown_from(patient, close)
    assert shown.sequence.GetNumberOfDataNodes() == 4
    assert [float(shown.sequence.GetNthIndexValue(i)) for i in range(4)] == close.days.tolist()


def test_the_probability_plays_with_the_segmentation(patient):
    found = grown(probabilities=True)
    shown = shown_from(patient, found)
    assert shown.probability_sequence.GetIndexUnit() == "day"
    matrix = vtk.vtkMatrix4x4()
    for i in (3, 0):
        shown.browser.SetSelectedItemNumber(i)
        np.testing.assert_array_equal(voxels(shown.probability_proxy.GetImageData()), found.tumor_probability[i])
        shown.probability_proxy.GetIJKToRASMatrix(matrix)
        np.testing.assert_allclose(numpy_matrix(matrix), OBLIQUE, atol=1e-9)
    assert shown.probability_proxy.GetTransformNodeID() == shown.proxy.GetTransformNodeID()


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


def test_a_failure_in_the_middle_leaves_the_scene_as_it_was(slicer_scene, patient):
    kept = shown_from(patient)
    kept.browser.SetSelectedItemNumber(2)
    before, hierarchy_before = ids(slicer_scene), items(slicer_scene)
    # Fails when the table is filled, after the sequences are in the scene.
    broken = dataclasses.replace(grown(probabilities=True), volume_ml=np.zeros((4, 2)))
    with pytest.raises(IndexError):
        shown_from(patient, broken)
    with pytest.raises(IndexError):
        shown_from(patient, broken, "Another")
    assert ids(slicer_scene) == before and items(slicer_scene) == hierarchy_before
    assert scenes.find(slicer_scene, "Forecast").browser is kept.browser and kept.browser.GetSelectedItemNumber() == 2


def test_a_cancelled_run_leaves_the_scene_as_it_was_whenever_it_comes(slicer_scene, patient):
    node, reference = patient
    baseline = nodes.read(node, reference)
    _, segments = nodes.assigned(baseline, PLAN)
    before, hierarchy_before = ids(slicer_scene), items(slicer_scene)
    asked = 0
    for stop_at in range(1, 100):
        calls = iter(range(1, 1000))

        def cancelled(calls=calls, stop_at=stop_at):
            nonlocal asked
            asked = next(calls)
            return asked >= stop_at

        try:
            scenes.show(slicer_scene, grown(probabilities=True), baseline, segments, cancelled=cancelled)
        except Cancelled:
            assert ids(slicer_scene) == before and items(slicer_scene) == hierarchy_before
        else:
            break
    assert asked == 13 and stop_at == 14       # at each slice, the last one before anything of it is seen
    assert len(scenes.all_shown(slicer_scene)) == 1


def test_a_transform_removed_during_the_run_is_said(slicer_scene, patient):
    node, reference = patient
    baseline = nodes.read(node, reference)
    _, segments = nodes.assigned(baseline, PLAN)
    slicer_scene.RemoveNode(node.GetParentTransformNode())
    before = ids(slicer_scene)
    with pytest.raises(scenes.ForecastError, match="transform was removed during the run"):
        scenes.show(slicer_scene, grown(), baseline, segments)
    assert ids(slicer_scene) == before


def test_the_input_removed_during_the_run_is_survived(slicer_scene, patient):
    node, reference = patient
    baseline = nodes.read(node, reference)
    _, segments = nodes.assigned(baseline, PLAN)
    slicer_scene.RemoveNode(node)
    slicer_scene.RemoveNode(reference)
    shown = scenes.show(slicer_scene, grown(), baseline, segments)
    assert shown.baseline is None and shown.proxy.GetTransformNodeID() == baseline.parent_transform_id
    np.testing.assert_array_equal(segment_array(shown.proxy, "ID_Tumor"), grown().labels[0] == 3)


def test_the_toolbar_plays_the_new_forecast_where_there_is_one(patient, slicer_modules):
    class ToolBar:
        def setActiveBrowserNode(self, browser):
            self.browser = browser

    bar = ToolBar()
    slicer_modules.sequences = type("Module", (), {"toolBar": staticmethod(lambda: bar)})()
    shown = shown_from(patient)
    assert bar.browser is shown.browser
    slicer_modules.sequences = type("Module", (), {"toolBar": staticmethod(lambda: None)})()
    shown_from(patient)                                                # no main window


def test_the_whole_way_from_nodes_to_nodes_with_the_engine(slicer_scene, patient):
    pytest.importorskip("torch")
    from AnatomyDTLib.plan import Surgery

    node, reference = patient
    plan = dataclasses.replace(PLAN, days=(5.0, 10.0), treatments=(Surgery(6.0, region="target"),))
    found, shown = scenes.forecast(
        node, plan, reference=reference, regions={"target": (node, "ID_Tumor")}, probabilities=True, device="cpu",
        name="Whole",
    )
    np.testing.assert_array_equal(found.labels[0], anatomy(2))
    for i in range(3):
        shown.browser.SetSelectedItemNumber(i)
        np.testing.assert_array_equal(segment_array(shown.proxy, "ID_Tumor"), found.labels[i] == 3)
        np.testing.assert_array_equal(segment_array(shown.proxy, "Resection_cavity"), found.labels[i] == 4)
    assert (found.labels[2] == 4).any() and shown.name == "Whole"
    before = ids(slicer_scene)
    with pytest.raises(Cancelled):
        scenes.forecast(node, plan, reference=reference, regions={"target": node}, device="cpu", cancelled=lambda: True)
    assert ids(slicer_scene) == before
