"""Doses, images and regions on the grid of a baseline: where they lie in the world, and every refusal."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

from scene_cases import NAMES, OBLIQUE, ROUND, bend, dice, geometry, head

from AnatomyDTLib.engine import ForecastError
from AnatomyDTLib.scene import maps, segmentation
from AnatomyDTLib.scene.geometry import Grid, vtk_matrix
from AnatomyDTLib.scene.slices import finished


def world(grid, transform=np.eye(4)):
    z, y, x = np.indices(grid.shape)
    return np.stack([x, y, z, np.ones_like(x)], -1) @ (transform @ grid.ijk_to_ras).T


def test_a_dose_is_interpolated_linearly_where_it_lies_in_the_world(add_segmentation, add_volume, add_transform):
    node = add_segmentation(head(), geometry((1, 1, 0), 25, (1.1, 0.9, 1.3), (0, 0, 0)), NAMES)
    turned = geometry((0, 0, 1), 40, (1, 1, 1), (7, -2, 3))
    node.SetAndObserveTransformNodeID(add_transform(turned).GetID())
    coarse = Grid((40, 40, 40), geometry((0, 1, 0), 15, (4, 4, 4), (-75, -75, -75)))
    moved = geometry((1, 0, 0), 5, (1, 1, 1), (1, 2, 3))
    field = np.array([0.11, 0.05, 0.07])
    dose = add_volume((world(coarse, moved)[..., :3] @ field + 20).astype(np.float32), coarse.ijk_to_ras, "Dose")
    dose.SetAndObserveTransformNodeID(add_transform(moved).GetID())
    baseline = segmentation.read(node)
    found, warnings = maps.dose_gy(baseline, dose)
    np.testing.assert_allclose(found, world(baseline.grid, turned)[..., :3] @ field + 20, atol=1e-3)
    assert warnings == () and found.dtype == np.float32


def test_a_whole_numbered_dose_is_not_rounded_between_voxels(add_segmentation, add_volume):
    half = ROUND.copy()
    half[0, 3] = -0.5
    ramp = np.broadcast_to(np.arange(60, dtype=np.int16), (20, 32, 60))
    found, _ = maps.dose_gy(segmentation.read(add_segmentation(head(), ROUND, NAMES)), add_volume(ramp, half, "Dose"))
    np.testing.assert_allclose(found[5, 5], np.arange(40) + 0.5, atol=1e-4)


def test_an_image_lies_where_it_is_in_the_world_and_is_darkest_outside(slicer_scene, add_segmentation, add_volume):
    node = add_segmentation(head(), ROUND, NAMES)
    baseline = segmentation.read(node)
    half = ROUND.copy()
    half[0, 3] = -0.5
    ramp = np.broadcast_to(np.arange(-100, -40, dtype=np.int16), (20, 32, 60))
    found, warnings = finished(maps.reading_image(baseline, add_volume(ramp, half, "CT")))
    np.testing.assert_allclose(found[5, 5], np.arange(40) - 99.5, atol=1e-4)
    assert found.dtype == np.float32 and warnings == ()
    slab, _ = finished(maps.reading_image(baseline, add_volume(ramp[:, :, :20], half, "Slab")))
    assert np.all(slab[5, 5, 21:] == -99.5)
    _, warnings = finished(maps.reading_image(baseline, add_volume(ramp[:10], ROUND, "Half")))
    assert len(warnings) == 1 and "outside the image 'Half'" in warnings[0]
    away = ROUND.copy()
    away[0, 3] = 1000.0
    with pytest.raises(ForecastError, match="'Away' does not overlap the segmentation"):
        finished(maps.reading_image(baseline, add_volume(ramp, away, "Away")))
    with pytest.raises(ForecastError, match="^the image 'Empty' holds no image"):
        finished(maps.reading_image(baseline, slicer_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")))
    hollow = slicer_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Hollow")
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(4, 4, 4)
    hollow.SetAndObserveImageData(image)
    with pytest.raises(ForecastError, match="^the image 'Hollow' holds no numbers"):
        finished(maps.reading_image(baseline, hollow))
    with pytest.raises(ForecastError, match="'Bad' holds NaN"):
        finished(maps.reading_image(baseline, add_volume(np.full((20, 32, 40), np.nan, np.float32), ROUND, "Bad")))


def test_a_dose_on_the_same_voxels_is_taken_as_it_is(add_segmentation, add_volume):
    values = np.random.default_rng(0).random((20, 32, 40)).astype(np.float32) * 60
    found, _ = maps.dose_gy(segmentation.read(add_segmentation(head(), OBLIQUE, NAMES)), add_volume(values, OBLIQUE, "Dose"))
    np.testing.assert_array_equal(found, values)


def test_doses_that_are_none_are_refused_and_a_partial_one_is_said(add_segmentation, add_volume):
    baseline = segmentation.read(add_segmentation(head(), ROUND, NAMES))
    ones = np.ones((20, 32, 40), np.float32)
    with pytest.raises(ForecastError, match="no dose volume"):
        maps.dose_gy(baseline, None)
    for bad in (-ones, ones * np.nan, ones * np.inf):
        with pytest.raises(ForecastError, match="'Dose' holds values that are no dose"):
            maps.dose_gy(baseline, add_volume(bad, ROUND, "Dose"))
    with pytest.raises(ForecastError, match="zero everywhere"):
        maps.dose_gy(baseline, add_volume(ones * 0, ROUND, "Dose"))
    with pytest.raises(ForecastError, match="several values"):
        maps.dose_gy(baseline, add_volume(np.ones((20, 32, 40, 3), np.float32), ROUND, "Dose"))
    dose, warnings = maps.dose_gy(baseline, add_volume(ones[:, :, :20], ROUND, "Dose"))
    assert not dose[:, :, 20:].any() and dose[:, :, :20].all()
    share = 100 * np.count_nonzero(baseline.labels[:, :, 20:]) / np.count_nonzero(baseline.labels)
    assert f"{share:.0f} % of the segmented voxels lie outside the dose volume 'Dose'" in warnings[0]


def test_a_region_from_a_segment_elsewhere_and_from_a_label_volume(add_segmentation, add_volume, add_transform):
    labels = head()
    node = add_segmentation(labels, OBLIQUE, NAMES)
    baseline = segmentation.read(node)
    other = add_segmentation(labels, OBLIQUE, NAMES, "Target")
    np.testing.assert_array_equal(maps.region(baseline, other, "ID_Tumor"), labels == 2)
    np.testing.assert_array_equal(maps.region(baseline, other), labels > 0)
    shift = np.eye(4)
    shift[:3, 3] = (OBLIQUE @ (3, 0, 0, 0))[:3]
    other.SetAndObserveTransformNodeID(add_transform(shift).GetID())
    np.testing.assert_array_equal(maps.region(baseline, other, "ID_Tumor")[:, :, 3:], (labels == 2)[:, :, :-3])
    mask = add_volume((labels == 2).astype(np.uint8) * 7, OBLIQUE, "Mask", "vtkMRMLLabelMapVolumeNode")
    np.testing.assert_array_equal(maps.region(baseline, mask), labels == 2)
    with pytest.raises(ForecastError, match="no region is chosen"):
        maps.region(baseline, None)
    shift[:3, 3] = 500
    other.GetParentTransformNode().SetMatrixTransformToParent(vtk_matrix(shift))
    with pytest.raises(ForecastError, match="'Target' holds no voxel"):
        maps.region(baseline, other)


def test_a_region_through_a_bend_is_where_slicer_puts_it(slicer_scene, add_segmentation):
    baseline = segmentation.read(add_segmentation(head(), ROUND, NAMES))
    other = add_segmentation(head(), ROUND, NAMES, "Target")
    other.SetAndObserveTransformNodeID(bend(slicer_scene).GetID())
    found = maps.region(baseline, other, "ID_Brain")
    other.HardenTransform()
    assert dice(found, maps.region(baseline, other, "ID_Brain")) > 0.97
