"""Segmentation nodes -> labels: geometry, transforms, overlap, conversions, tissues, and every refusal."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")
import vtk  # noqa: E402
from scene_cases import NAMES, OBLIQUE, ROUND, ball, bend, dice, geometry, head  # noqa: E402

from AnatomyDTLib.engine import ForecastError  # noqa: E402
from AnatomyDTLib.plan import Anatomy, Plan, Tissue  # noqa: E402
from AnatomyDTLib.scene import segmentation as nodes  # noqa: E402
from AnatomyDTLib.scene.geometry import Grid, grid_of_volume, oriented_image, voxels  # noqa: E402


def export(scene, node, reference=None):
    """Slicer's own export to a label map: (labels, grid)."""
    out = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    ids = vtk.vtkStringArray()
    for i in node.GetSegmentation().GetSegmentIDs():
        ids.InsertNextValue(i)
    mode = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    assert slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode(node, ids, out, reference, mode)
    return voxels(out.GetImageData()), grid_of_volume(out)


@pytest.mark.parametrize("matrix", [ROUND, OBLIQUE, geometry((1, 0, 0), 90, (2, 0.5, 1), (3, 4, 5))])
def test_voxels_come_back_exactly_whatever_the_geometry(add_segmentation, matrix):
    labels = head()
    found = nodes.read(add_segmentation(labels, matrix, NAMES))
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.grid.ijk_to_ras, matrix, atol=1e-9)
    np.testing.assert_allclose(found.spacing_mm, np.linalg.norm(matrix[:3, :3], axis=0)[::-1])
    assert [s.id for s in found.segments] == ["ID_Brain", "ID_Tumor", "ID_Fleck"]
    assert [s.name for s in found.segments] == list(NAMES)
    np.testing.assert_allclose(found.segments[1].color, (0.5, 0.25, 0.75))
    assert found.warnings == ()


def test_terminology_and_other_tags_are_kept(add_segmentation):
    node = add_segmentation(head(), ROUND, NAMES)
    entry = "Segmentation category and type~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^~~^^~^^"
    node.GetSegmentation().GetSegment("ID_Tumor").SetTag("TerminologyEntry", entry)
    node.GetSegmentation().GetSegment("ID_Tumor").SetTag("Segmentation.Status", "completed")
    found = nodes.read(node)
    assert found.segments[1].terminology == entry
    value = vtk.reference("")
    assert found.segments[1].source.GetTag("Segmentation.Status", value) and value.get() == "completed"


def test_a_reference_volume_gives_the_voxels(add_segmentation, add_volume):
    labels = head()
    larger = OBLIQUE.copy()
    larger[:3, 3] = (OBLIQUE @ (-4, -3, -2, 1))[:3]
    reference = add_volume(np.zeros((26, 40, 50), np.int16), larger)
    found = nodes.read(add_segmentation(labels, OBLIQUE, NAMES), reference)
    assert found.grid.shape == (26, 40, 50)
    np.testing.assert_array_equal(found.labels[2:22, 3:35, 4:44], labels)
    assert np.count_nonzero(found.labels) == np.count_nonzero(labels)
    assert found.reference_id == reference.GetID() and found.warnings == ()


def test_voxels_outside_a_smaller_reference_are_named(add_segmentation, add_volume):
    labels = head()
    found = nodes.read(add_segmentation(labels, ROUND, NAMES), add_volume(np.zeros((10, 32, 40), np.int16), ROUND))
    np.testing.assert_array_equal(found.labels, labels[:10])
    assert f"{np.count_nonzero(labels[10:])} segmented voxels" in found.warnings[0]


def test_voxels_outside_a_turned_reference_are_counted(add_segmentation, add_volume):
    labels = head()
    half = geometry((0, 0, 1), 0, (0.9, 0.9, 0.9), (0, 0, 0))
    found = nodes.read(add_segmentation(labels, ROUND, NAMES), add_volume(np.zeros((11, 40, 60), np.int16), half))
    beyond = np.count_nonzero(labels[10:])            # centres above 10.5 * 0.9 mm - the grid ends at 9.45 mm
    assert f"{beyond} segmented voxels" in found.warnings[0]


def test_a_turned_reference_resamples_as_slicer_exports(slicer_scene, add_segmentation, add_volume, add_transform):
    node = add_segmentation(head(), ROUND, NAMES)
    reference = add_volume(np.zeros((30, 36, 44), np.int16), geometry((0, 1, 1), 20, (0.8, 1.1, 0.9), (-5, -6, -1)))
    node.SetAndObserveTransformNodeID(add_transform(geometry((1, 0, 0), 10, (1, 1, 1), (2, 0, -3))).GetID())
    found = nodes.read(node, reference)
    expected, _ = export(slicer_scene, node, reference)
    assert found.labels.shape == expected.shape
    for k in (1, 2):
        assert dice(found.labels == k, expected == k) > 0.99


def test_a_reference_under_a_transform_of_its_own(add_segmentation, add_volume, add_transform):
    labels = head()
    node, reference = add_segmentation(labels, OBLIQUE, NAMES), add_volume(np.zeros(labels.shape, np.uint8), OBLIQUE)
    shift = np.eye(4)
    shift[:3, 3] = (OBLIQUE @ (2, 1, 3, 0))[:3]
    reference.SetAndObserveTransformNodeID(add_transform(shift).GetID())
    found = nodes.read(node, reference)
    np.testing.assert_array_equal(found.labels[:-3, :-1, :-2], labels[3:, 1:, 2:])


def test_a_scaling_transform_changes_the_spacing_not_the_voxels(add_segmentation, add_transform):
    labels = head()
    node = add_segmentation(labels, OBLIQUE, NAMES)
    node.SetAndObserveTransformNodeID(add_transform(geometry((3, 1, 0), 50, (1.5, 1.5, 1.5), (9, 9, 9))).GetID())
    found = nodes.read(node)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.grid.ijk_to_ras, OBLIQUE, atol=1e-9)
    np.testing.assert_allclose(found.spacing_mm, (6.5 * 1.5, 0.9 * 1.5, 0.86 * 1.5))
    assert found.parent_transform_id == node.GetTransformNodeID()


def test_a_shearing_transform_is_said(add_segmentation, add_transform):
    shear = np.eye(4)
    shear[0, 1] = 0.3
    node = add_segmentation(head(), ROUND, NAMES)
    node.SetAndObserveTransformNodeID(add_transform(shear).GetID())
    assert any("not perpendicular" in w for w in nodes.read(node).warnings)


@pytest.mark.parametrize("with_reference", [False, True])
def test_a_nonlinear_transform_is_hardened_as_slicer_does(slicer_scene, add_segmentation, add_volume, with_reference):
    node = add_segmentation(head(), ROUND, NAMES)
    node.SetAndObserveTransformNodeID(bend(slicer_scene).GetID())
    volume = add_volume(np.zeros((20, 32, 40), np.uint8), ROUND)
    found = nodes.read(node, volume if with_reference else None)
    assert any("not linear" in w for w in found.warnings) and found.parent_transform_id is None
    assert node.GetTransformNodeID() is not None                       # the input is not touched
    node.HardenTransform()
    expected, grid = export(slicer_scene, node, volume)
    moved = np.zeros(expected.shape, np.uint8)
    z, y, x = np.nonzero(found.labels)
    index = np.stack([x, y, z, np.ones_like(x)], -1) @ (np.linalg.inv(grid.ijk_to_ras) @ found.grid.ijk_to_ras).T
    i, j, k = np.round(index[:, :3]).astype(int).T
    inside = (k >= 0) & (k < 20) & (j >= 0) & (j < 32) & (i >= 0) & (i < 40)
    moved[k[inside], j[inside], i[inside]] = found.labels[z, y, x][inside]
    assert dice(moved == 2, expected == 2) > 0.95 and dice(moved > 0, expected > 0) > 0.97
    assert np.abs(np.argwhere(moved == 2).mean(0) - np.argwhere(head() == 2).mean(0))[2] > 1.5


def test_a_reference_bent_against_the_segmentation_is_refused(slicer_scene, add_segmentation, add_volume):
    reference = add_volume(np.zeros((20, 32, 40), np.uint8), ROUND)
    reference.SetAndObserveTransformNodeID(bend(slicer_scene).GetID())
    with pytest.raises(ForecastError, match="not linear.*[Hh]arden"):
        nodes.read(add_segmentation(head(), ROUND, NAMES), reference)


def test_without_a_reference_geometry_the_segments_common_one_is_taken(add_segmentation):
    labels = head()
    found = nodes.read(add_segmentation(labels, OBLIQUE, NAMES, reference_geometry=False))
    np.testing.assert_array_equal(found.labels, labels)


def overlapping(slicer_scene):
    """Three segments in label maps of their own, with different extents; the third is empty."""
    node = slicer_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Layers")
    big, small = np.zeros((12, 14, 16), np.uint8), np.zeros((6, 7, 8), np.uint8)
    big[2:10, 2:12, 2:14] = 1
    small[1:5, 1:6, 1:7] = 1
    shifted = ROUND.copy()
    shifted[:3, 3] = 8, 7, 6
    node.GetSegmentation().SetConversionParameter("Reference image geometry", Grid(big.shape, ROUND).serialized())
    for name, array, matrix in (("Brain", big, ROUND), ("Tumor", small, shifted), ("Nothing", None, None)):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        image = slicer.vtkOrientedImageData() if array is None else oriented_image(array, Grid(array.shape, matrix))
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, name)
    return node


def test_overlap_goes_to_the_later_segment_as_in_slicers_export(slicer_scene):
    node = overlapping(slicer_scene)
    found = nodes.read(node)
    expected, _ = export(slicer_scene, node)
    np.testing.assert_array_equal(found.labels, expected)
    hidden = np.zeros((12, 14, 16), bool)
    hidden[7:10, 8:12, 9:14] = True
    assert f"overlap in {np.count_nonzero(hidden)} voxels" in found.warnings[0]
    node.GetSegmentation().SetSegmentIndex("Tumor", 0)
    again = nodes.read(node)
    assert [s.id for s in again.segments] == ["Tumor", "Brain", "Nothing"]
    assert np.count_nonzero(again.labels == 1) == 4 * 5 * 6 - np.count_nonzero(hidden)


def test_an_empty_segment_stays_a_segment(slicer_scene):
    found = nodes.read(overlapping(slicer_scene))
    assert [s.name for s in found.segments] == ["Brain", "Tumor", "Nothing"] and not (found.labels == 3).any()


def test_only_the_chosen_segments_are_read(slicer_scene):
    found = nodes.read(overlapping(slicer_scene), segment_ids=["Tumor"])
    assert [s.id for s in found.segments] == ["Tumor"] and set(np.unique(found.labels)) == {0, 1}
    assert found.warnings == ()


def test_closed_surfaces_are_voxelised_and_the_input_is_left_alone(slicer_scene, add_volume):
    node = slicer_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Surfaces")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(20, 16, 10)
    sphere.SetRadius(8)
    sphere.SetThetaResolution(60)
    sphere.SetPhiResolution(60)
    sphere.Update()
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "Tumor", (1, 0, 0), "T")
    found = nodes.read(node, add_volume(np.zeros((20, 32, 40), np.uint8), ROUND))
    assert found.labels.shape == (20, 32, 40)
    assert dice(found.labels == 1, ball((20, 32, 40), (20, 16, 10), 8)) > 0.95
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")
    assert nodes.read(node).labels.any()                               # also on Slicer's own choice of voxels


def test_every_refusal_is_one_sentence(slicer_scene, add_segmentation, add_volume):
    with pytest.raises(ForecastError, match="no segmentation is chosen"):
        nodes.read(None)
    with pytest.raises(ForecastError, match="'Bare' has no segment"):
        nodes.read(slicer_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Bare"))
    with pytest.raises(ForecastError, match="'Void' is empty"):
        nodes.read(add_segmentation(np.zeros((4, 4, 4), np.uint8), ROUND, NAMES, "Void"))
    node = add_segmentation(head(), ROUND, NAMES)
    far = ROUND.copy()
    far[0, 3] = 1000
    with pytest.raises(ForecastError, match="empty inside the reference volume 'Far'"):
        nodes.read(node, add_volume(np.zeros((4, 4, 4), np.uint8), far, "Far"))
    with pytest.raises(ForecastError, match="'Hollow' holds no image"):
        nodes.read(node, slicer_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Hollow"))
    with pytest.raises(ForecastError, match="no segment with the ID 'elsewhere'"):
        nodes.read(node, segment_ids=["elsewhere"])
    with pytest.raises(ForecastError, match="no segment chosen"):
        nodes.read(node, segment_ids=[])


def test_254_segments_are_read_and_255_refused(add_segmentation):
    names = [f"s{i}" for i in range(255)]
    labels = (np.arange(6 * 7 * 7) % 255).astype(np.uint8).reshape(6, 7, 7)
    np.testing.assert_array_equal(nodes.read(add_segmentation(labels, ROUND, names[:254])).labels, labels)
    with pytest.raises(ForecastError, match="255 segments.*at most 254"):
        nodes.read(add_segmentation(labels, ROUND, names))


PLAN = Plan(Anatomy((
    Tissue("Background", "background"), Tissue("Tumor", "tumor"), Tissue("Brain", "organ"), Tissue("Fleck", "csf"),
    Tissue("Resection cavity", "cavity", color=(0.1, 0.2, 0.3)),
)))


def test_segments_find_their_tissues_by_name_and_new_tissues_get_segments(add_segmentation):
    labels = head()
    found, segments = nodes.assigned(nodes.read(add_segmentation(labels, ROUND, NAMES)), PLAN)
    np.testing.assert_array_equal(found, np.array([0, 2, 1, 3], np.uint8)[labels])
    assert [s.id for s in segments] == ["ID_Tumor", "ID_Brain", "ID_Fleck", "Resection_cavity"]
    assert segments[3].name == "Resection cavity" and segments[3].color == (0.1, 0.2, 0.3)


def test_an_assignment_by_hand_and_its_refusals(add_segmentation):
    labels = head()
    baseline = nodes.read(add_segmentation(labels, ROUND, ("a", "b", "c")))
    found, segments = nodes.assigned(baseline, PLAN, {"ID_a": "Brain", "ID_b": 1, "ID_c": 0})
    np.testing.assert_array_equal(found, np.array([0, 2, 1, 0], np.uint8)[labels])
    assert [s.name for s in segments] == ["b", "a", "Fleck", "Resection cavity"]
    with pytest.raises(ForecastError, match="segment 'a' has no tissue in the plan; assign it one of Background, Tu"):
        nodes.assigned(baseline, PLAN)
    with pytest.raises(ForecastError, match="'a' and 'b' are both assigned to the tissue 'Tumor'"):
        nodes.assigned(baseline, PLAN, {"ID_a": 1, "ID_b": 1, "ID_c": 0})
    with pytest.raises(ForecastError, match="segment 'c' has no tissue"):
        nodes.assigned(baseline, PLAN, {"ID_a": 1, "ID_b": 2, "ID_c": 9})


def test_a_new_segment_never_takes_an_id_of_the_input(add_segmentation):
    node = add_segmentation(head(), ROUND, ("Brain", "Tumor", "Fleck"))
    node.GetSegmentation().GetSegment("ID_Fleck").SetName("fleck")
    other = slicer.vtkSegmentation()
    other.CopySegmentFromSegmentation(node.GetSegmentation(), "ID_Fleck")
    node.RemoveSegment("ID_Fleck")
    node.GetSegmentation().AddSegment(other.GetSegment("ID_Fleck"), "Resection_cavity")
    _, segments = nodes.assigned(nodes.read(node), PLAN)
    assert [s.id for s in segments] == ["ID_Tumor", "ID_Brain", "Resection_cavity", "Resection_cavity_2"]


def test_roles_are_guessed_and_make_tissues_in_the_segments_order(add_segmentation):
    baseline = nodes.read(add_segmentation(head(), ROUND, ("White matter", "Tumor", "Qwxyz")))
    guessed = nodes.guessed_roles(baseline)
    assert guessed == {"ID_White matter": "white", "ID_Tumor": "tumor", "ID_Qwxyz": None}
    with pytest.raises(ForecastError, match="segment 'Qwxyz' has no tissue yet"):
        nodes.tissues(baseline, guessed)
    made = nodes.tissues(baseline, {**guessed, "ID_Qwxyz": "ventricle"})
    assert [(t.name, t.role) for t in made] == [
        ("Background", "background"), ("White matter", "white"), ("Tumor", "tumor"), ("Qwxyz", "ventricle"),
    ]
    assert made[2].color == baseline.segments[1].color and made[2].growth_per_day > 0
    labels, segments = nodes.assigned(baseline, Plan(Anatomy(made)))
    np.testing.assert_array_equal(labels, baseline.labels)
    assert segments == baseline.segments


def test_two_segments_of_one_name_become_two_tissues(add_segmentation):
    node = add_segmentation(head(), ROUND, NAMES)
    node.GetSegmentation().GetSegment("ID_Fleck").SetName("Tumor")
    baseline = nodes.read(node)
    made = nodes.tissues(baseline, {"ID_Brain": "organ", "ID_Tumor": "tumor", "ID_Fleck": "tumor"})
    assert [t.name for t in made] == ["Background", "Brain", "Tumor", "Tumor 2"]
    by_id = {s.id: k for k, s in enumerate(baseline.segments, start=1)}
    labels, segments = nodes.assigned(baseline, Plan(Anatomy(made)), by_id)
    np.testing.assert_array_equal(labels, baseline.labels)
    assert [s.name for s in segments] == ["Brain", "Tumor", "Tumor"]
