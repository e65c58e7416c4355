"""A forecast as a .seq.mrb: written without the application, read by a fresh interpreter, nothing left behind."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

from AnatomyDTLib.engine import Forecast, ForecastError  # noqa: E402
from AnatomyDTLib.plan import Anatomy, Plan, Tissue  # noqa: E402
from AnatomyDTLib.scene import files  # noqa: E402
from AnatomyDTLib.scene.geometry import Grid  # noqa: E402
from AnatomyDTLib.volumes import Geometry  # noqa: E402

ENTRY = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure"
    "~SCT^4147007^Mass~^^~~^^~^^"
)
PLAN = Plan(
    Anatomy((
        Tissue("Background", "background"), Tissue("Weiße Substanz", "white", color=(0.9, 0.8, 0.7)),
        Tissue("Tumor <1>", "tumor", color=(0.8, 0.2, 0.1), terminology=ENTRY),
        Tissue("Resection cavity", "cavity", color=(0.2, 0.7, 0.6)),
    )),
    days=(10.0, 45.5),
)
GEOMETRIES = {
    "plain": np.eye(4),
    "oblique, anisotropic": np.array([[0.6, -0.8, 0, 10], [0.8, 0.6, 0, -20], [0, 0, 3.5, 5], [0, 0, 0, 1.0]]),
    "left-handed": np.array([[0.6, -0.8, 0, 10], [0.8, 0.6, 0, -20], [0, 0, -3.5, 5], [0, 0, 0, 1.0]]),
    "sheared": np.array([[1, 0.2, 0, 0], [0, 1, 0.1, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]]),
}
READER = """
import json, sys
import numpy as np
import slicer, vtk
from vtk.util.numpy_support import vtk_to_numpy
scene = slicer.vtkMRMLScene()
cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
cache.SetRemoteCacheDirectory(sys.argv[2])
manager.SetCacheManager(cache)
scene.SetCacheManager(cache)
scene.SetDataIOManager(manager)
segmentations, sequences = slicer.vtkSlicerSegmentationsModuleLogic(), slicer.vtkSlicerSequencesLogic()
segmentations.SetMRMLScene(scene)
sequences.SetMRMLScene(scene)
found = sequences.AddSequence(sys.argv[1], None)
frames, told = [], []
for i in range(found.GetNumberOfDataNodes()):
    segmentation = found.GetNthDataNode(i).GetSegmentation()
    labels = segments = None
    for k in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(k)
        image = segment.GetRepresentation("Binary labelmap")
        array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
        labels = np.zeros(array.shape, np.uint8) if labels is None else labels
        labels[array == segment.GetLabelValue()] = k + 1
    matrix, entry = vtk.vtkMatrix4x4(), vtk.reference("")
    image.GetImageToWorldMatrix(matrix)
    segments = []
    for k, identifier in enumerate(segmentation.GetSegmentIDs()):
        segment = segmentation.GetNthSegment(k)
        segment.GetTag("TerminologyEntry", entry)
        surface = segment.GetRepresentation("Closed surface")
        faces = surface.GetNumberOfPolys() if surface else None
        segments.append([identifier, segment.GetName(), segment.GetColor(), entry.get(), faces])
    frames.append(labels)
    told.append({"index": found.GetNthIndexValue(i), "segments": segments, "extent": image.GetExtent(),
                 "matrix": [[matrix.GetElement(r, c) for c in range(4)] for r in range(4)]})
np.save(sys.argv[3], np.stack(frames))
index = {"name": found.GetIndexName(), "unit": found.GetIndexUnit(), "type": found.GetIndexTypeAsString()}
print(json.dumps({"frames": told, **index}))
"""


def forecast(shape=(7, 9, 11), plan=PLAN):
    labels = np.zeros((3, *shape), np.uint8)
    labels[:, ..., 1:-1, 1:-1] = 1
    for i in range(3):
        labels[i, ..., 3:5, 3: 5 + i] = 2
    return Forecast(np.array([0.0, 10.0, 45.5]), labels, np.zeros((3, 4)), None, (1,) * len(shape), plan)


def read_in_a_fresh_process(path, tmp_path):
    (tmp_path / "cache").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path), str(tmp_path / "cache"), str(tmp_path / "frames.npy")],
        capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), np.load(tmp_path / "frames.npy")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_fresh_process_reads_every_voxel_name_colour_and_day(tmp_path, name):
    made, matrix = forecast(), GEOMETRIES[name]
    path = files.write_sequence_file(made, ((7, 9, 11), matrix), tmp_path / "out.seq.mrb")
    told, frames = read_in_a_fresh_process(path, tmp_path)
    np.testing.assert_array_equal(frames, made.labels)
    assert (told["name"], told["unit"], told["type"]) == ("time", "day", "numeric")
    assert [frame["index"] for frame in told["frames"]] == ["0", "10", "45.5"]
    for frame in told["frames"]:
        np.testing.assert_allclose(frame["matrix"], matrix, atol=1e-6)
        assert frame["extent"] == [0, 10, 0, 8, 0, 6]
        ids, names, colors, entries, faces = zip(*frame["segments"])
        assert len(set(ids)) == 3 and names == ("Weiße Substanz", "Tumor <1>", "Resection cavity")
        np.testing.assert_allclose(colors, [t.color for t in PLAN.anatomy.tissues[1:]], atol=1e-5)
        assert entries[1] == ENTRY
        assert faces[0] > 0 and faces[1] > 0 and faces[2] == 0           # surfaces play; the cavity is there and empty
    assert told["frames"][0]["segments"][1][4] < told["frames"][2]["segments"][1][4]


def test_the_reader_here_reads_it_too_and_leaves_nothing(tmp_path):
    made = forecast()
    path = files.write_sequence_file(made, Grid((7, 9, 11), np.eye(4)), tmp_path / "out.seq.mrb")
    scene, sequence = files.read_sequence_file(path)
    assert sequence.GetNumberOfDataNodes() == 3 and sequence.GetNthIndexValue(2) == "45.5"
    assert os.listdir(tmp_path) == ["out.seq.mrb"]
    with pytest.raises(ForecastError, match="cannot be read as a sequence"):
        files.read_sequence_file(tmp_path / "absent.seq.mrb")
    (tmp_path / "torn.seq.mrb").write_bytes(path.read_bytes()[:400])
    with pytest.raises(ForecastError, match="cannot be read as a sequence"):
        files.read_sequence_file(tmp_path / "torn.seq.mrb")


def test_a_geometry_read_from_a_file_is_understood(tmp_path):
    matrix = GEOMETRIES["left-handed"]
    lps = np.diag([-1, -1, 1, 1]) @ matrix
    geometry = Geometry((7, 9, 11), lps[:3, :3].T[::-1], lps[:3, 3])
    path = files.write_sequence_file(forecast(), geometry, tmp_path / "out.seq.mrb")
    told, _ = read_in_a_fresh_process(path, tmp_path)
    np.testing.assert_allclose(told["frames"][0]["matrix"], matrix, atol=1e-6)


def test_a_flat_forecast_is_one_slice(tmp_path):
    made = forecast((9, 11))
    path = files.write_sequence_file(made, ((1, 9, 11), np.eye(4)), tmp_path / "flat.seq.mrb")
    _, frames = read_in_a_fresh_process(path, tmp_path)
    np.testing.assert_array_equal(frames[:, 0], made.labels)


def test_two_writings_hold_the_same_bytes(tmp_path):
    contents = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path = files.write_sequence_file(forecast(), ((7, 9, 11), np.eye(4)), tmp_path / folder / "out.seq.mrb")
        bundle = zipfile.ZipFile(path)
        contents.append({n: (bundle.read(n), bundle.getinfo(n).date_time) for n in bundle.namelist()})
    assert contents[0] == contents[1] and len(contents[0]) >= 4


def test_a_file_that_is_there_is_replaced_only_by_a_whole_one(tmp_path):
    path = tmp_path / "out.seq.mrb"
    path.write_bytes(b"the former one")
    with pytest.raises(AttributeError):
        files.write_sequence_file(forecast(), ((7, 9, 11), np.eye(4)), path, segments=[None])
    assert path.read_bytes() == b"the former one" and os.listdir(tmp_path) == ["out.seq.mrb"]
    files.write_sequence_file(forecast(), ((7, 9, 11), np.eye(4)), path)
    assert zipfile.is_zipfile(path) and os.listdir(tmp_path) == ["out.seq.mrb"]


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path):
    made, plain = forecast(), ((7, 9, 11), np.eye(4))
    with pytest.raises(ForecastError, match=r"\.seq\.mrb, not out\.seq\.nrrd"):
        files.write_sequence_file(made, plain, tmp_path / "out.seq.nrrd")
    with pytest.raises(ForecastError, match="cannot be written"):
        files.write_sequence_file(made, plain, tmp_path / "absent" / "out.seq.mrb")
    (tmp_path / "taken.seq.mrb").mkdir()
    with pytest.raises(ForecastError, match="cannot be written"):
        files.write_sequence_file(made, plain, tmp_path / "taken.seq.mrb")
    with pytest.raises(ForecastError, match="do not span space"):
        files.write_sequence_file(made, ((7, 9, 11), np.zeros((4, 4))), tmp_path / "out.seq.mrb")
    assert os.listdir(tmp_path) == ["taken.seq.mrb"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    code = (
        "import resource, sys, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import numpy as np\n"
        "from AnatomyDTLib.engine import Forecast, ForecastError\n"
        "from AnatomyDTLib.plan import Anatomy, Plan, Tissue\n"
        "from AnatomyDTLib.scene import files\n"
        "plan = Plan(Anatomy((Tissue('Background', 'background'), Tissue('Tumor', 'tumor'))), days=(1.0,))\n"
        "labels = np.random.default_rng(0).integers(0, 2, (2, 32, 32, 32)).astype(np.uint8)\n"
        "made = Forecast(np.array([0.0, 1.0]), labels, np.zeros((2, 2)), None, (1, 1, 1), plan)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "try:\n"
        "    files.write_sequence_file(made, ((32, 32, 32), np.eye(4)), sys.argv[1])\n"
        "except ForecastError as error:\n"
        "    print('REFUSED', error)\n"
    )
    pytest.importorskip("resource")
    command = [sys.executable, "-c", code, str(tmp_path / "out.seq.mrb")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "REFUSED" in done.stdout, done.stdout + done.stderr
    assert os.listdir(tmp_path) == []
