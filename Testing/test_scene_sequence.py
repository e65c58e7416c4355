"""A forecast in the scene: the traps of segmentation sequences, one test each, on the real nodes."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("slicer")

import vtk
from forecast_user import OBLIQUE, PLAN, SHAPE, anatomy, grown, ids, items, segment_array, shown_from

from AnatomyDTLib.engine import Cancelled
from AnatomyDTLib.plan import Anatomy
from AnatomyDTLib.presets import tissue
from AnatomyDTLib.scene import forecast as scenes
from AnatomyDTLib.scene import segmentation as nodes
from AnatomyDTLib.scene.geometry import grid_of, grid_of_volume, numpy_matrix, vtk_matrix, voxels


slicer = pytest.importorskip("slicer")


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
