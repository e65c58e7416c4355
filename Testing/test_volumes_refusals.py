"""Files that are refused: one sentence each, no memory for what only a header claims, and a fuzz of the reader."""

import gzip
import os
import resource
import struct
import subprocess
import sys
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from volume_user import FORMATS, LAYERED, ball, layered, refusal, saved

from AnatomyDTLib import volumes


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
