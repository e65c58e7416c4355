"""Files in and out: formats, geometry, refusals, and a fuzz of the reader."""

import gzip
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from AnatomyDTLib import volumes
from AnatomyDTLib.volumes import Geometry, Segment, VolumeError

FORMATS = (".nii", ".nii.gz", ".nrrd", ".seg.nrrd", ".mha", ".mhd")
OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def ball(shape=(6, 9, 11), dtype=np.uint8):
    z, y, x = np.indices(shape)
    labels = np.ones(shape, dtype)
    labels[(z - 2) ** 2 + (y - 4) ** 2 + (x - 6) ** 2 < 8] = 5
    labels[0] = 0
    return labels


def image(array, spacing=(0.86, 1.2, 6.5), origin=(10.0, -20.0, 33.0), direction=OBLIQUE):
    made = sitk.GetImageFromArray(array)
    n = array.ndim
    made.SetSpacing(spacing[:n])
    made.SetOrigin(origin[:n])
    if n == 3:
        made.SetDirection(direction)
    return made


def saved(path, array, compressed=True, **geometry) -> Path:
    sitk.WriteImage(image(array, **geometry), str(path), compressed)
    return Path(path)


def refusal(path, read=volumes.read_labels) -> str:
    with pytest.raises(VolumeError) as caught:
        read(path)
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 300
    return text


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


LAYERED = """NRRD0004
type: uint8
dimension: 4
space: left-posterior-superior
sizes: 2 11 9 6
space directions: none (1,0,0) (0,1,0) (0,0,2)
kinds: list domain domain domain
encoding: raw
space origin: (0,0,0)
Segment0_ID:=b
Segment0_Name:=Brain
Segment0_LabelValue:=1
Segment0_Layer:=0
Segment0_Color:=0.5 0.25 1
Segment0_Extent:=0 10 0 8 0 5
Segment0_Tags:=Segmentation.Status:completed|TerminologyEntry:ctx~SCT^1^a~SCT^12738006^Brain|
Segment1_ID:=t
Segment1_Name:=Tum\\nor
Segment1_LabelValue:=1
Segment1_Layer:=1

"""


def layered(path, header=LAYERED):
    both = np.stack([ball() > 0, ball() == 5], axis=-1).astype(np.uint8)
    path.write_bytes(header.encode() + both.tobytes())
    return path


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


# ---- refusals


def test_fractional_nan_and_images(tmp_path):
    half = ball().astype(np.float32)
    half[3, 3, 3] = 0.5
    assert "0.5" in refusal(saved(tmp_path / "a.nii", half))
    for bad in (np.nan, np.inf):
        half[3, 3, 3] = bad
        assert "NaN" in refusal(saved(tmp_path / "a.nrrd", half))
    scan = np.arange(6 * 9 * 11, dtype=np.int16).reshape(6, 9, 11)
    assert "593 different values" in refusal(saved(tmp_path / "a.nii.gz", scan))


def test_colour_and_time_series(tmp_path):
    rgb = sitk.Compose([sitk.GetImageFromArray(ball())] * 3)
    for suffix in (".nrrd", ".mha", ".nii"):
        sitk.WriteImage(rgb, str(tmp_path / f"a{suffix}"))
        text = refusal(tmp_path / f"a{suffix}")
        assert "per voxel" in text or "dimensions" in text
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 5), np.uint8), np.eye(4)), tmp_path / "b.nii.gz")
    assert "4 dimensions" in refusal(tmp_path / "b.nii.gz")
    colour = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), tmp_path / "c.nii")
    assert "colour" in refusal(tmp_path / "c.nii")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_voxel_sizes(tmp_path, value, suffix):
    data = bytearray(saved(tmp_path / "a.nii", ball(), False).read_bytes())
    struct.pack_into("<f", data, 84, value)
    (tmp_path / f"b{suffix}").write_bytes(gzip.compress(bytes(data)) if suffix == ".nii.gz" else data)
    assert "voxel size" in refusal(tmp_path / f"b{suffix}")


@pytest.mark.parametrize("vector", ["(0,0,0)", "(nan,0,0)", "(inf,0,0)", "(0,1.2,0)"])
def test_nrrd_voxel_sizes(tmp_path, vector):
    path = layered(tmp_path / "a.seg.nrrd", LAYERED.replace("(1,0,0)", vector).replace("(0,1,0)", "(0,1.2,0)"))
    refusal(path)


@pytest.mark.parametrize("value", ["0 1 1", "nan 1 1", "-1 1 1", "inf 1 1"])
def test_meta_voxel_sizes(tmp_path, value):
    data = saved(tmp_path / "a.mha", ball(), False, spacing=(1, 1, 1)).read_bytes()
    (tmp_path / "b.mha").write_bytes(data.replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = " + value.encode()))
    assert "voxel size" in refusal(tmp_path / "b.mha")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_truncated_anywhere(tmp_path, suffix, compressed, capfd):
    data = saved(tmp_path / f"a{suffix}", ball(), compressed).read_bytes()
    bad = tmp_path / f"b{suffix}"
    for length in sorted({0, 1, 10, 100, len(data) // 4, len(data) // 2, len(data) * 3 // 4, len(data) - 20, len(data) - 1}):
        bad.write_bytes(data[:length])
        refusal(bad)
    said = capfd.readouterr()
    assert said.out == said.err == ""           # ITK's readers print


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_that_are_no_images(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for data in (b"", b"\n", b"hello, this is a letter\n" * 50, bytes(range(256)) * 20, b"\x1f\x8b" + b"x" * 500, gzip.compress(b"x" * 5000),
                 b"NRRD0004\n", b"NRRD0004\n\n", b"ObjectType = Image\n", b"NRRD0004\ntype: uint8\n\n", b"ElementDataFile = LOCAL\n"):
        path.write_bytes(data)
        refusal(path)


def test_other_files(tmp_path):
    assert "no file" in refusal(tmp_path / "no.nii")
    (tmp_path / "d.nii").mkdir()
    assert "folder" in refusal(tmp_path / "d.nii")
    sitk.WriteImage(sitk.GetImageFromArray(ball()[2]), str(tmp_path / "a.png"))
    assert ".nii.gz" in refusal(tmp_path / "a.png")
    if os.geteuid():
        saved(tmp_path / "s.nii", ball()).chmod(0)
        assert "permission" in refusal(tmp_path / "s.nii")


def test_detached_data(tmp_path):
    path = saved(tmp_path / "a.mhd", ball(), False)
    raw = tmp_path / "a.raw"
    data = raw.read_bytes()
    raw.write_bytes(data[:-5])
    assert "truncated" in refusal(path)
    raw.unlink()
    assert "beside" in refusal(path)
    path.write_text(path.read_text().replace("a.raw", "../a.raw"))
    assert "beside" in refusal(path)
    path.write_text(path.read_text().replace("../a.raw", "LIST\nx.raw"))
    refusal(path)
    nrrd = tmp_path / "b.nrrd"
    nrrd.write_text(LAYERED.replace("encoding", "data file: a.raw\nencoding"))
    assert "another file" in refusal(nrrd)


def declared_huge(folder):
    """Small files whose headers declare far more than they hold."""
    nifti = bytearray(saved(folder / "a.nii", ball(), False).read_bytes())
    for sizes in ((1200, 1200, 1200), (30000, 30000, 1), (32767, 32767, 32767)):
        made = bytearray(nifti)
        struct.pack_into("<4h", made, 40, 3, *sizes)
        (folder / f"h{sizes[2]}.nii").write_bytes(made)
        (folder / f"h{sizes[2]}.nii.gz").write_bytes(gzip.compress(bytes(made)))
        text = " ".join(str(n) for n in sizes)
        (folder / f"h{sizes[2]}.nrrd").write_text(LAYERED.replace("sizes: 2 11 9 6", f"sizes: 2 {text}"))
        (folder / f"z{sizes[2]}.nrrd").write_bytes(
            LAYERED.replace("sizes: 2 11 9 6", f"sizes: 2 {text}").replace("raw", "gzip").encode() + gzip.compress(b"x" * 5000))
        meta = f"NDims = 3\nBinaryData = True\nDimSize = {text}\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
        (folder / f"h{sizes[2]}.mha").write_text(meta + "ElementDataFile = LOCAL\nxx")
        packed = zlib.compress(b"x" * 5000)
        (folder / f"z{sizes[2]}.mha").write_bytes(
            (meta + f"CompressedData = True\nCompressedDataSize = {len(packed)}\nElementDataFile = LOCAL\n").encode() + packed)
    return sorted(p for p in folder.iterdir() if p.name[0] in "hz")


def test_declared_sizes_are_not_allocated(tmp_path):
    paths = declared_huge(tmp_path)
    assert len(paths) == 18
    volumes.read_labels(tmp_path / "a.nii")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in paths:
        refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000      # kB


def test_a_compressed_bomb_is_not_unpacked(tmp_path):
    data = bytearray(saved(tmp_path / "a.nii", ball(), False).read_bytes())
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(data) + bytes(200_000_000), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "more image data" in refusal(tmp_path / "b.nii.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("key, value", [
    ("Segment0_LabelValue", "one"), ("Segment0_Layer", "7"), ("Segment0_Layer", "-1"), ("Segment0_LabelValue", "-2"), ("Segment0_Color", "red"),
])
def test_broken_segment_keys(tmp_path, key, value):
    lines = [f"{key}:={value}" if line.startswith(key) else line for line in LAYERED.split("\n")]
    assert "segment" in refusal(layered(tmp_path / "a.seg.nrrd", "\n".join(lines)))


# ---- fuzz: truncations, flipped bits and odd numbers; only VolumeError may come out


FUZZ = """
import random, resource, sys
from pathlib import Path
from AnatomyDTLib import volumes
folder, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)
originals = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name.startswith("o")}
words = [b"0", b"-1", b"nan", b"99999999", b"1e300", b"none", b"(", b"gzip", b"raw", b"double", b"\\n", b"\\n\\n", b":=", b"\\xff", b"4", b""]
for name, data in originals.items():
    volumes.read_labels(folder / name)
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
read = refused = 0
for n in range(rounds):
    name = dice.choice(sorted(originals))
    data = bytearray(originals[name])
    for _ in range(dice.choice((1, 1, 2, 6))):
        # most of the header, some of the data
        if not data:
            break
        at = dice.randrange(min(len(data), 700) if dice.random() < 0.8 else len(data))
        action = dice.random()
        if action < 0.5:
            data[at] ^= 1 << dice.randrange(8)
        elif action < 0.6:
            data[at] = dice.choice((0, 255, 127, 128))
        elif action < 0.7:
            data[at:at + 4] = bytes(dice.randrange(256) for _ in range(4))
        elif action < 0.8:
            del data[at:at + dice.choice((1, 2, 30))]
        elif action < 0.95:
            data[at:at + dice.choice((0, 1, 3))] = dice.choice(words)
        else:
            del data[at + 1:]
    bad = folder / ("bad" + name[1:])
    bad.write_bytes(data)
    try:
        volume = volumes.read_labels(bad)
        assert volume.array.ndim in (2, 3) and min(volume.spacing_mm) > 0
        read += 1
    except volumes.VolumeError as error:
        assert "\\n" not in str(error)
        refused += 1
print(read, refused)
"""


def fuzz_originals(folder):
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        for compressed in ((False,) if suffix == ".nii" else (True,) if suffix == ".nii.gz" else (False, True)):
            saved(folder / f"o{int(compressed)}{suffix}", ball(), compressed)
    layered(folder / "o2.seg.nrrd")
    affine = np.diag([1.0, 1.2, 3.0, 1.0])
    affine[0, 1] = 0.4
    nibabel.save(nibabel.Nifti1Image(ball().T, affine), folder / "o3.nii")


@pytest.mark.parametrize("seed", [1, 2])
def test_fuzz_of_the_reader(tmp_path, seed):
    """In a process of its own: a reader that crashes, prints or fills the memory is seen too."""
    fuzz_originals(tmp_path)
    done = subprocess.run([sys.executable, "-c", FUZZ, str(tmp_path), str(seed), "1500"], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr[-3000:]
    read, refused = map(int, done.stdout.split()[-2:])
    assert read > 100 and refused > 500
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1


def test_a_nifti_beside_its_compressed_namesake(tmp_path):
    """ITK takes the header of a.nii.gz and the voxels of a.nii."""
    saved(tmp_path / "a.nii", np.zeros((6, 9, 11), np.float32))
    assert (volumes.read_labels(saved(tmp_path / "a.nii.gz", ball())).array == ball()).all()
