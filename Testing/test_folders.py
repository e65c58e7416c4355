"""A folder of cases: written and read back, and one sentence for each that cannot be read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from AnatomyDTLib import volumes
from AnatomyDTLib.learning import gridding, known_collections
from AnatomyDTLib.learning.cases import DataError
from AnatomyDTLib.learning.courses import Courses
from AnatomyDTLib.learning.folders import read_folder, write_case, write_folder
from AnatomyDTLib.learning.vessel import VesselSettings, vessel
from AnatomyDTLib.learning.voronoi import VoronoiSettings, voronoi
from AnatomyDTLib.plan import Chemotherapy, Radiotherapy, Surgery

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
TREATMENTS = (
    Surgery(1.0), Radiotherapy(3.0, 4, 2.5, weekdays_only=False), Chemotherapy("x", (4.0, 9.0), 0.3, 2.0, (1.0, 0.5)),
)


def head(seed=0, shape=(7, 9, 8)):
    """Labels of the bundled sample's numbering: white, grey, CSF, ventricles and a tumor in background."""
    labels = np.zeros(shape, np.uint8)
    labels[1:-1, 1:-1, 1:-1] = np.random.default_rng(seed).integers(1, 5, tuple(n - 2 for n in shape))
    labels[3, 4, 4] = 5
    return labels


def geometry(shape, spacing=(2.0, 1.0, 1.0), origin=0.0):
    return volumes.Geometry(shape, np.diag(spacing)[:, ::-1].astype(float), np.full(3, origin))


def put(path, array, **given):
    path.parent.mkdir(parents=True, exist_ok=True)
    volumes.write_nrrd(path, array, geometry(array.shape, **given))


@pytest.fixture
def folder(tmp_path):
    """Two cases: a of three visits with treatments and an image, b of two visits."""
    for name, days in (("a", (0.0, 20.0, 47.5)), ("b", (0.0, 30.0))):
        for i in range(len(days)):
            put(tmp_path / name / f"{i}.nrrd", head(i))
        put(tmp_path / name / "t1c.nrrd", head().astype(np.float32) / 3)
        write_case(
            tmp_path / name / "case.json", days, [f"{i}.nrrd" for i in range(len(days))],
            TREATMENTS if name == "a" else (), images=["t1c.nrrd"], meaning="anatomydt", patient="p" + name,
        )
    return tmp_path


def test_a_folder_is_read(folder):
    data = read_folder(folder)
    assert [c.name for c in data.cases] == ["a", "b"] and data.patients == ("pa", "pb")
    assert data.spacing_mm == (2.0, 1.0, 1.0) and data.shape == (7, 9, 8)
    assert data.anatomy.names == ("Background", "White matter", "Grey matter", "CSF", "Ventricles", "Tumor")
    a = data.cases[0]
    assert a.days == (0.0, 20.0, 47.5) and a.treatments == TREATMENTS
    assert all(np.array_equal(visit, head(i)) for i, visit in enumerate(a.labels))
    assert np.allclose(a.images[0], head() / 3.0)


@pytest.mark.parametrize("make, settings", [
    (voronoi, VoronoiSettings(shape=(24, 26), courses=Courses(visits=3))), (vessel, VesselSettings(shape=(32, 32, 32))),
])
def test_what_is_written_is_read_back(make, settings, tmp_path):
    data = make(2, settings)
    write_folder(data, tmp_path / "out")
    again = read_folder(tmp_path / "out")
    assert again.name == data.name and again.anatomy == data.anatomy and again.tree_classes == data.tree_classes
    assert np.allclose(again.spacing_mm, data.spacing_mm)
    assert again.settings == json.loads(json.dumps(data.settings))
    for a, b in zip(data.cases, again.cases):
        assert (a.name, a.patient, a.days, a.treatments) == (b.name, b.patient, b.days, b.treatments)
        assert np.array_equal(a.labels, b.labels)


def test_cases_of_different_shape_share_one_and_can_be_trimmed(folder):
    for i in range(2):
        put(folder / "b" / f"{i}.nrrd", np.pad(head(i), ((0, 2), (0, 0), (0, 4))))
    put(folder / "b" / "t1c.nrrd", np.zeros((9, 9, 12), np.float32))
    data = read_folder(folder)
    assert data.shape == (9, 9, 12)
    assert np.array_equal(data.cases[0].labels[:, 1:8, :, 2:10], [head(i) for i in range(3)])
    trimmed = read_folder(folder, trim=True)
    assert trimmed.shape == (5, 7, 6)
    assert np.array_equal(trimmed.cases[1].labels, [head(i)[1:-1, 1:-1, 1:-1] for i in range(2)])


def test_other_voxels(folder):
    data = read_folder(folder, spacing_mm=(1.0, 1.0, 1.0))
    assert data.spacing_mm == (1.0, 1.0, 1.0) and data.shape == (14, 9, 8)
    assert np.array_equal(data.cases[0].labels[:, ::2], [head(i) for i in range(3)])
    labels = np.arange(36).reshape(6, 6)
    assert np.array_equal(gridding.regridded(labels, (1.0, 1.0), (3.0, 3.0)), [[7, 10], [25, 28]])
    ramp = np.arange(12.0).reshape(12, 1) * np.ones((1, 2))
    assert np.allclose(gridding.regridded(ramp, (1.0, 1.0), (2.0, 1.0), 1)[:, 0], np.arange(6) * 2 + 0.5)
    assert read_folder(folder, spacing_mm=(1.0,)).shape == data.shape
    with pytest.raises(DataError, match="3 numbers above 0"):
        read_folder(folder, spacing_mm=(1.0, 1.0))


def test_a_table_of_meanings_and_what_the_files_say(folder, tmp_path):
    meaning = {"1": "white", "2": "grey", "3": {"name": "Vessels", "role": "vessel"}, "4": "Ventricles", "5": "Tumor"}
    for name in ("a", "b"):
        case = json.loads((folder / name / "case.json").read_text())
        (folder / name / "case.json").write_text(json.dumps({**case, "meaning": meaning}))
    data = read_folder(folder)
    assert data.anatomy.names[3] == "Vessels" and data.tree_classes == (3,)


def segmented(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros((3, 4, 4), np.uint8)
    for value in names:
        labels[1, value % 4] = value
    volumes.write_segmentation(path, labels, geometry(labels.shape), [volumes.Segment(n, v) for v, n in names.items()])


def test_segmentations_name_their_classes(tmp_path):
    segmented(tmp_path / "0.seg.nrrd", {1: "White matter", 2: "Tumor"})
    segmented(tmp_path / "1.seg.nrrd", {1: "White matter", 2: "Tumor", 3: "Resection cavity"})
    write_case(tmp_path / "case.json", (0, 9), ["0.seg.nrrd", "1.seg.nrrd"])
    data = read_folder(tmp_path)
    assert data.anatomy.names == ("Background", "White matter", "Tumor", "Resection cavity")
    segmented(tmp_path / "1.seg.nrrd", {1: "Tumor", 2: "White matter"})
    with pytest.raises(DataError, match="label 1 means 'White matter' on day 0 and 'Tumor' on day 9; all visits"):
        read_folder(tmp_path)


def test_a_tumor_without_anatomy_lies_in_a_host(tmp_path):
    for i in range(2):
        segmented(tmp_path / f"{i}.seg.nrrd", {1: "Tumor"})
    write_case(tmp_path / "case.json", (0, 9), ["0.seg.nrrd", "1.seg.nrrd"])
    data = read_folder(tmp_path)
    assert [t.role for t in data.anatomy.tissues] == ["background", "organ", "tumor"]
    assert set(np.unique(data.cases[0].labels)) == {1, 2}


def edited(folder, **changes):
    path = folder / "b" / "case.json"
    document = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    path.write_text(json.dumps(document))


RT = {"type": "radiotherapy", "start_day": 3.0, "fractions": 2}


@pytest.mark.parametrize("changes, sentence", [
    ({"days": [0]}, "the case b has 1 visit; at least two"),
    ({"days": [0, 30, 20], "labels": ["0.nrrd"] * 3}, "out of order: day 20 follows day 30"),
    ({"days": ["0", "9"]}, "must be a finite number"),
    ({"days": 3}, "list of numbers"),
    ({"days": None}, 'lacks the key "days"'),
    ({"labels": ["0.nrrd"]}, "2 days and 1 label maps"),
    ({"labels": ["0.nrrd", "absent.nrrd"]}, "the case b: .*absent.nrrd"),
    ({"labels": ["0.nrrd", 3]}, "list of file names"),
    ({"labels": ["0.nrrd", "t1c.nrrd"]}, "t1c.nrrd holds fractional values"),
    ({"images": ["absent.nrrd"]}, "absent.nrrd"),
    ({"images": []}, "other images than 'a'"),
    ({"meaning": "brats"}, "label"),
    ({"meaning": "nonsense"}, "the meaning 'nonsense'; write one of"),
    ({"meaning": {"1": "white"}}, "holds the label 2"),
    ({"meaning": {"1": "white", "2": "grey", "3": "vessel", "4": "ventricle", "5": "tumor"}},
     "means 'CSF' in the case a and 'Vessel' in"),
    ({"meaning": [1]}, "name of a numbering"),
    ({"treatments": [{**RT, "type": "magic"}]}, "the type 'magic'"),
    ({"treatments": [{**RT, "start_day": 30.0}]}, "radiotherapy on day 31 lies after"),
    ({"treatments": [{**RT, "region": "bed"}]}, "the map 'bed'"),
    ({"treatments": {}}, "list of objects"),
    ({"visits": 2}, 'unknown key "visits"'),
    ({"anatomydt_case": 2}, "version 2"),
    ({"name": "a"}, "two cases named 'a'"),
    ({"patient": ""}, "non-empty text"),
])
def test_bad_cases(folder, changes, sentence):
    edited(folder, **changes)
    with pytest.raises(DataError, match=sentence) as refusal:
        read_folder(folder)
    assert "\n" not in str(refusal.value)


def test_bad_images(folder):
    bad = head().astype(np.float32)
    bad[0, 0, 0] = np.nan
    put(folder / "b" / "t1c.nrrd", bad)
    with pytest.raises(DataError, match="the case b: t1c.nrrd holds values that are not numbers"):
        read_folder(folder)
    put(folder / "b" / "t1c.nrrd", head().astype(np.float32), origin=5.0)
    with pytest.raises(DataError, match="differ in geometry"):
        read_folder(folder)
    put(folder / "b" / "t1c.nrrd", head().astype(np.float32))
    put(folder / "b" / "1.nrrd", head().astype(np.int16) - 1)
    with pytest.raises(DataError, match="holds the label -1"):
        read_folder(folder)


def test_bad_folders(folder, tmp_path):
    for bad, sentence in ((tmp_path / "absent", "is not a folder"), (folder / "a" / "none", "is not a folder")):
        with pytest.raises(DataError, match=sentence):
            read_folder(bad)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no case.json was found"):
        read_folder(tmp_path / "empty")
    for i in range(2):
        put(folder / "b" / f"{i}.nrrd", head(i), spacing=(3.0, 1.0, 1.0))
    put(folder / "b" / "t1c.nrrd", head().astype(np.float32), spacing=(3.0, 1.0, 1.0))
    with pytest.raises(DataError, match="the case b has voxels of 3 x 1 x 1 mm and the case a of 2 x 1 x 1 mm"):
        read_folder(folder)
    (folder / "b" / "case.json").write_text("{")
    with pytest.raises(DataError, match="the case b: case.json is not JSON"):
        read_folder(folder)
    (folder / "b" / "case.json").write_text('{"anatomydt_case": 1, "days": [0], "days": [0]}')
    with pytest.raises(DataError, match='"days" stands twice'):
        read_folder(folder)


@pytest.mark.parametrize("document, sentence", [
    ({"tissues": [{"name": "x", "role": "nothing"}]}, "dataset.json: .*role"),
    ({"tissues": [{"name": "Brain", "role": "organ"}, {"name": "Tumor", "role": "tumor"}]},
     "the label 5, and dataset.json has the classes 0 to 1"),
    ({"tree_classes": ["Aorta"]}, "tree class 'Aorta'"),
    ({"tree_classes": "Aorta"}, "list of names"),
    ({"settings": []}, "an object"),
])
def test_bad_dataset_files(folder, document, sentence):
    (folder / "dataset.json").write_text(json.dumps({"anatomydt_dataset": 1, **document}))
    with pytest.raises(DataError, match=sentence):
        read_folder(folder)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot make the folder"):
        write_folder(voronoi(1, VoronoiSettings(shape=(16, 16))), tmp_path / "file" / "out")
    with pytest.raises(DataError, match="2 days and 1 label maps"):
        write_case(tmp_path / "case.json", (0, 1), ["a.nrrd"])


@pytest.mark.skipif(not (DATA / "btp").is_dir(), reason="the real patients are not here")
def test_real_patients_by_the_folder_route(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "AnatomyDTLib.learning.known_collections", "btp", str(DATA / "btp"), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )
    assert done.returncode == 0 and "6 cases" in done.stdout, done.stderr
    data = read_folder(tmp_path, trim=True)
    assert len(data) == 6 and data.anatomy.names[5] == "Tumor"
    assert np.allclose(data.spacing_mm, (6.5, 0.859, 0.859), atol=1e-3)
    first = data.cases[0]
    assert first.days == (0.0, 157.0)
    volume = (first.labels == 5).sum(axis=(1, 2, 3)) * np.prod(data.spacing_mm) / 1000.0
    assert np.allclose(volume, (39.6, 47.6), atol=0.1)        # mL, as the collection's table has it
    coarse = read_folder(tmp_path, spacing_mm=(6.5, 3.0, 3.0), trim=True)
    assert np.allclose((coarse.cases[0].labels[0] == 5).sum() * 6.5 * 9.0 / 1000.0, 39.6, rtol=0.05)
    assert len(data.folds(3, 0)) == 3


@pytest.mark.skipif(not (DATA / "fetal").is_dir(), reason="the fetal atlas is not here")
def test_the_fetal_atlas_by_the_folder_route(tmp_path):
    assert known_collections.fetal(DATA / "fetal", tmp_path) == 2
    data = read_folder(tmp_path, spacing_mm=(3.2, 3.2, 3.2))
    assert [c.name for c in data.cases] == ["noop", "op"]
    assert data.cases[0].days == (0.0, 7.0, 14.0, 21.0, 28.0) and len(data.cases[1].days) == 6
    white = data.anatomy.index("White matter")
    assert (data.cases[0].labels[0] == white).sum() * 3.2**3 / 1000.0 == pytest.approx(28.7, rel=0.05)


def test_collections_that_are_not_there(tmp_path, capsys):
    assert known_collections.main(["btp", str(tmp_path), str(tmp_path / "out")]) == 2
    assert known_collections.main(["fetal", str(tmp_path), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
