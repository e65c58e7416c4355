"""Dose volumes: units as SlicerRT stores them, and what no course gives."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

from AnatomyDTLib.engine import ForecastError
from AnatomyDTLib.scene import dose, labelmaps, maps, segmentation

UNIT = "DicomRtImport.DoseUnitName"


@pytest.fixture
def baseline(add_segmentation):
    labels = np.ones((6, 6, 6), np.uint8)
    labels[2:4, 2:4, 2:4] = 2
    return segmentation.read(add_segmentation(labels, np.eye(4), ("White matter", "Tumor")))


@pytest.fixture
def volume(slicer_scene, add_volume):
    return lambda value=60.0: add_volume(np.full((6, 6, 6), value, np.float32), np.eye(4), "Dose")


def under_a_study(scene, volume, **attributes):
    """As SlicerRT's importer arranges it: patient, study, volume; the unit is the study's."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    item = hierarchy.CreateItem(study, volume)
    for name, value in attributes.items():
        hierarchy.SetItemAttribute(study, "DicomRtImport." + name, value)
    return hierarchy, item


def test_a_volume_that_says_no_unit_is_taken_in_gray(baseline, volume):
    found, warnings = maps.dose_gy(baseline, volume())
    assert (found == 60.0).all() and warnings == ()


@pytest.mark.parametrize("said, value, gray", [
    ("GY", 60.0, 60.0), ("Gy", 60.0, 60.0), (" gray ", 60.0, 60.0), ("cGy", 6000.0, 60.0), ("CGY", 6000.0, 60.0), ("mGy", 60000.0, 60.0),
])
def test_the_unit_of_the_study_counts(slicer_scene, baseline, volume, said, value, gray):
    """The grid scaling is already in the voxels and is not applied again."""
    dosed = volume(value)
    under_a_study(slicer_scene, dosed, DoseUnitName=said, DoseUnitValue="4.5e-05")
    found, warnings = maps.dose_gy(baseline, dosed)
    assert found == pytest.approx(gray)
    assert len(warnings) == (value != gray) and all("converted to Gy" in w for w in warnings)


def test_the_unit_of_the_volume_itself_counts_before_the_studys(slicer_scene, baseline, volume):
    dosed = volume(6000.0)
    under_a_study(slicer_scene, dosed, DoseUnitName="GY")
    dosed.SetAttribute(UNIT, "cGy")
    assert maps.dose_gy(baseline, dosed)[0] == pytest.approx(60.0)


@pytest.mark.parametrize("said", ["RELATIVE", "%", "Sv"])
def test_a_relative_dose_is_refused(slicer_scene, baseline, volume, said):
    dosed = volume(100.0)
    under_a_study(slicer_scene, dosed, DoseUnitName=said)
    with pytest.raises(ForecastError, match="not in Gy"):
        maps.dose_gy(baseline, dosed)


def test_more_than_any_course_gives_is_refused(baseline, volume):
    with pytest.raises(ForecastError, match="cGy"):
        maps.dose_gy(baseline, volume(6000.0))


def test_a_volume_outside_the_hierarchy_has_no_unit(slicer_scene, volume):
    assert dose.unit(volume()) is None


@pytest.mark.parametrize("spacing", [1.0, 0.7])
def test_slab_by_slab_it_is_the_same(monkeypatch, baseline, slicer_scene, add_volume, spacing):
    """With the grid and off it, and partly outside; the last slab is a thinner one."""
    matrix = np.diag([spacing, spacing, spacing, 1.0])
    ramp = add_volume(np.arange(343, dtype=np.float32).reshape(7, 7, 7) / 10, matrix, "Ramp")
    whole, said = maps.dose_gy(baseline, ramp)
    monkeypatch.setattr(labelmaps, "SLAB_VOXELS", 80)
    monkeypatch.setattr(labelmaps, "RESAMPLED_VOXELS", 150)
    slices = maps.reading_dose_gy(baseline, ramp)
    count = 0
    with pytest.raises(StopIteration) as last:
        while True:
            next(slices)
            count += 1
    found, again = last.value.value
    assert count > 6 and np.array_equal(found, whole) and again == said
