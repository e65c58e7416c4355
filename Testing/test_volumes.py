"""Files in and out: formats and geometry."""

import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from volume_user import FORMATS, OBLIQUE, ball, layered, saved

from AnatomyDTLib import volumes
from AnatomyDTLib.volumes import Geometry, Segment, VolumeError


# ---- what comes in


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format(tmp_path, suffix, compressed):
    labels = ball()
    volume = volumes.read_labels(saved(tmp_path / f"a{suffix}", labels, compressed))
    assert (volume.array == labels).all() and not volume.warnings
    assert volume.spacing_mm == pytest.approx((6.5, 1.2, 0.86))
    assert volume.geometry.origin_mm == pytest.approx((10, -20, 33), abs=1e-4)
    reference = sitk.ReadImage(str(volume.path))
    for index in ((0, 0, 0), (3, 2, 1)):
        physical = reference.TransformIndexToPhysicalPoint(index)
        ras = volume.geometry.ijk_to_ras() @ (*index, 1)
        assert ras[:3] * (-1, -1, 1) == pytest.approx(physical, abs=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32])
def test_integer_types_and_large_values(tmp_path, dtype):
    labels = ball(dtype=dtype)
    labels[3, 3, 3] = min(np.iinfo(dtype).max, 65535)
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        volume = volumes.read_labels(saved(tmp_path / f"a{suffix}", labels))
        assert (volume.array == labels).all() and volume.array.dtype.kind in "iu"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decimal_maps_with_whole_values(tmp_path, dtype):
    volume = volumes.read_labels(saved(tmp_path / "a.nii.gz", ball().astype(dtype)))
    assert (volume.array == ball()).all() and volume.array.dtype == np.int32
    assert len(volume.warnings) == 1 and "whole" in volume.warnings[0]


def test_a_2d_image(tmp_path):
    for suffix in (".nii", ".nrrd", ".mha"):
        volume = volumes.read_labels(saved(tmp_path / f"a{suffix}", ball()[2]))
        assert volume.array.shape == (9, 11) and volume.spacing_mm == pytest.approx((1.2, 0.86))
        assert volume.geometry.shape == (1, 9, 11)
        assert abs(np.linalg.det(volume.geometry.steps_mm)) == pytest.approx(1.2 * 0.86)


def test_one_slice_stays_three_dimensional(tmp_path):
    volume = volumes.read_labels(saved(tmp_path / "a.nrrd", ball()[2:3]))
    assert volume.array.shape == (1, 9, 11) and volume.spacing_mm == pytest.approx((6.5, 1.2, 0.86))


def test_a_fourth_axis_of_length_one(tmp_path):
    data = ball().T[..., None]
    nibabel.save(nibabel.Nifti1Image(data, np.diag([0.86, 1.2, 6.5, 1])), tmp_path / "a.nii")
    assert (volumes.read_labels(tmp_path / "a.nii").array == ball()).all()


def test_a_sheared_nifti_keeps_its_shear(tmp_path):
    affine = np.diag([1.0, 1.2, 3.0, 1.0])
    affine[0, 1], affine[1, 2], affine[:3, 3] = 0.3, 0.5, (5, 6, 7)
    nibabel.save(nibabel.Nifti1Image(ball().T, affine), tmp_path / "a.nii.gz")
    volume = volumes.read_labels(tmp_path / "a.nii.gz")
    assert (volume.array == ball()).all()
    assert volume.geometry.ijk_to_ras() == pytest.approx(affine, abs=1e-5)
    assert len(volume.warnings) == 1 and "sheared" in volume.warnings[0]
    volumes.write_nrrd(tmp_path / "b.nrrd", volume.array, volume.geometry)
    again = volumes.read(tmp_path / "b.nrrd")
    assert again.geometry.ijk_to_ras() == pytest.approx(affine, abs=1e-5) and "sheared" in again.warnings[0]


def test_big_endian_and_scaled_nifti(tmp_path):
    made = nibabel.Nifti1Image(ball().T.astype(">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    nibabel.save(made, tmp_path / "a.nii")
    assert (volumes.read_labels(tmp_path / "a.nii").array == ball()).all()
    made = nibabel.Nifti2Image(ball().T, np.eye(4))
    nibabel.save(made, tmp_path / "b.nii")
    assert (volumes.read_labels(tmp_path / "b.nii").array == ball()).all()


def test_overlapping_segments(tmp_path):
    volume = volumes.read_labels(layered(tmp_path / "a.seg.nrrd"))
    assert volume.layers.shape == (2, 6, 9, 11)
    brain, tumor = volume.segments
    assert (brain.name, brain.id, brain.color) == ("Brain", "b", (0.5, 0.25, 1.0))
    assert brain.terminology == "ctx~SCT^1^a~SCT^12738006^Brain" and tumor.name == "Tum\nor"
    assert (volume.mask(brain) == (ball() > 0)).all() and (volume.mask(tumor) == (ball() == 5)).all()
    assert volume.spacing_mm == (2.0, 1.0, 1.0)


# ---- what goes out


def test_a_segmentation_comes_back_as_it_was(tmp_path):
    source = volumes.read_labels(saved(tmp_path / "a.nii.gz", ball()))
    segments = [
        Segment("Hirn: weiß \\ \"x\"", 1, id="Segment_7", color=(0.25, 0.5, 1.0), terminology="c~SCT^1^A~SCT^2^B~^^~r~^^~^^|x"[:-2]),
        Segment("Tumor", 5, color=(1, 0, 0)), Segment("Cavity", 9, color=(0, 1, 0)),
    ]
    volumes.write_segmentation(tmp_path / "b.seg.nrrd", source.array, source.geometry, segments)
    again = volumes.read_labels(tmp_path / "b.seg.nrrd")
    assert (again.array == source.array).all() and source.geometry.difference(again.geometry) is None
    assert [(s.name, s.value, s.color, s.terminology) for s in again.segments] == [(s.name, s.value, s.color, s.terminology) for s in segments]
    assert [s.id for s in again.segments] == ["Segment_7", "Segment_5", "Segment_9"]
    other = sitk.ReadImage(str(tmp_path / "b.seg.nrrd"))          # another reader agrees
    assert (sitk.GetArrayFromImage(other) == ball()).all()
    assert other.GetDirection() == pytest.approx(OBLIQUE, abs=1e-5) and other.GetSpacing() == pytest.approx((0.86, 1.2, 6.5))
    assert other.GetMetaData("Segment1_Extent") == "4 8 2 6 1 4" and other.GetMetaData("Segment2_Extent") == "0 -1 0 -1 0 -1"


def test_slicer_opens_it_with_names_and_colours(tmp_path):
    slicer = pytest.importorskip("slicer")
    source = volumes.read_labels(saved(tmp_path / "a.nii.gz", ball()))
    mass = "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^x~SCT^4147007^Mass~^^~Anatomic codes~^^~^^"
    segments = [Segment("White matter", 1, color=(0.25, 0.5, 1.0)), Segment("GTV: left", 5, color=(1, 0, 0), terminology=mass),
                Segment("Cavity", 9, color=(0, 1, 0))]
    volumes.write_segmentation(tmp_path / "b.seg.nrrd", source.array, source.geometry, segments)
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "b.seg.nrrd"))
    assert storage.ReadData(node)
    held = node.GetSegmentation()
    got = [held.GetNthSegment(n) for n in range(held.GetNumberOfSegments())]
    assert [(s.GetName(), tuple(s.GetColor()), s.GetLabelValue()) for s in got] == [(s.name, s.color, s.value) for s in segments]
    from vtk.util.numpy_support import vtk_to_numpy

    merged = got[0].GetRepresentation("Binary labelmap")
    assert (vtk_to_numpy(merged.GetPointData().GetScalars()) == 5).sum() == (ball() == 5).sum()
    import vtk

    tag = vtk.mutable("")
    assert got[1].GetTag("TerminologyEntry", tag) and str(tag) == mass
    matrix = vtk.vtkMatrix4x4()
    merged.GetImageToWorldMatrix(matrix)
    got_matrix = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
    assert got_matrix == pytest.approx(source.geometry.ijk_to_ras(), abs=1e-4)


def test_same_input_same_bytes(tmp_path):
    source = volumes.read_labels(saved(tmp_path / "a.nii.gz", ball()))
    for name in ("b.seg.nrrd", "c.seg.nrrd"):
        volumes.write_segmentation(tmp_path / name, source.array, source.geometry, [Segment("T", 5)])
    assert (tmp_path / "b.seg.nrrd").read_bytes() == (tmp_path / "c.seg.nrrd").read_bytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float16, np.float32, np.float64])
def test_every_type_is_written(tmp_path, dtype):
    geometry = Geometry((6, 9, 11), np.diag([2.0, 1.5, 1.0])[:, ::-1], np.array([1 / 3, -0.0, 2.0]))
    volumes.write_nrrd(tmp_path / "a.nrrd", ball().astype(dtype), geometry)
    again = volumes.read(tmp_path / "a.nrrd")
    assert (again.array == ball()).all() and (again.geometry.origin_mm == geometry.origin_mm).all()
    assert (again.geometry.steps_mm == geometry.steps_mm).all()


def test_label_values_beyond_a_byte(tmp_path):
    geometry = Geometry((6, 9, 11), np.eye(3)[::-1], np.zeros(3))
    labels = ball().astype(np.uint16)
    labels[labels == 5] = 2035
    volumes.write_segmentation(tmp_path / "a.seg.nrrd", labels, geometry, [Segment("x", 2035)])
    assert (volumes.read_labels(tmp_path / "a.seg.nrrd").array == labels).all()


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.nrrd"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        with volumes.written(target) as stream:
            stream.write(b"new")
            raise KeyboardInterrupt
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.nrrd"]
    volumes.write_bytes(target, b"new")
    assert target.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.nrrd"]


def test_a_full_disk_is_one_sentence(tmp_path):
    code = (
        "import resource, sys, numpy as np; from AnatomyDTLib import volumes\n"
        "g = volumes.Geometry((64, 64, 64), np.eye(3), np.zeros(3)); a = np.random.default_rng(0).random((64, 64, 64))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
        "try: volumes.write_nrrd(sys.argv[1], a, g)\n"
        "except volumes.VolumeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.nrrd")], capture_output=True, text=True)
    assert "cannot write" in done.stdout and "too large" in done.stdout and not done.stderr
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(VolumeError, match="cannot write"):
        volumes.write_bytes(tmp_path / "no" / "a", b"x")


# ---- arrays


def test_recoding_and_painting():
    array = np.array([[0, 2035], [41, 0]], np.int32)
    assert volumes.recoded(array, {0: 0, 41: 1, 2035: 2}).tolist() == [[0, 2], [1, 0]]
    assert volumes.labels_in(array) == (41, 2035)
    assert volumes.revalued(np.array([0, 2, 1]), [0, 41, 2035]).tolist() == [0, 2035, 41]
    a, b = np.array([True, True, False]), np.array([False, True, False])
    painted, covered = volumes.painted([(a, 1), (b, 2)])
    assert painted.tolist() == [1, 2, 0] and covered == 1
    assert volumes.overlaid(np.array([1, 2]), np.array([0, 3])).tolist() == [1, 3]


def test_geometries_are_compared(tmp_path):
    one = volumes.read(saved(tmp_path / "a.nrrd", ball()))
    near = volumes.read(saved(tmp_path / "b.nii", ball()))
    volumes.same_geometry(near, one)
    for word, changed in {
        "voxels": dict(array=ball((6, 9, 12))), "mm": dict(array=ball(), spacing=(0.9, 1.2, 6.5)),
        "origins": dict(array=ball(), origin=(10, -20, 34)),
        "directed": dict(array=ball(), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)), "dimensions": dict(array=ball()[2]),
    }.items():
        other = volumes.read(saved(tmp_path / "c.nrrd", **changed))
        with pytest.raises(VolumeError, match=word) as caught:
            volumes.same_geometry(other, one)
        assert "resample" in str(caught.value)
