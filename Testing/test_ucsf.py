"""UCSF-ALPTDG: the loader on small generated files of the same layout, with the collection's known oddities."""

import nibabel
import numpy as np
import openpyxl
import pytest

from AnatomyDTLib.learning.cases import DataError
from AnatomyDTLib.learning.ucsf import read_ucsf, read_workbook

SHAPE = (14, 15, 9)      # i, j, k as in the files; arrays are (k, j, i)
NAME = "UCSF_PostopGlioma_Table S1 R1 V5.0_UNBLINDED_FINAL.xlsx"
HEAD = (
    "SubjectID", "Grade", "IDH", "MGMT", "EOR at 1st SX", "Number of surgeries", "1st Chemo type",
    "Days from 1st scan to 2nd scan", "On tx at 1st scan (c = chemo, rt, n = none)",
    "On tx at 2nd scan (c = chemo, rt, n = none)", "Days to progression", "Days to progression",
)
STORED = (np.float64, np.float32, np.uint16)


def saved(path, array, dtype):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(dtype), np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def synthseg():
    """FreeSurfer's numbers: white matter, cortex, ventricles, thalamus on both sides, CSF around."""
    labels = np.zeros(SHAPE, int)
    labels[1:-1, 1:-1, 1:-1] = 24
    labels[2:7, 2:-2, 2:-2], labels[7:-2, 2:-2, 2:-2] = 2, 41
    labels[2:4, 2:-2, 2:-2], labels[10:-2, 2:-2, 2:-2] = 3, 42
    labels[6, 6:8, 4], labels[7, 6:8, 4], labels[6, 6:8, 5], labels[7, 6:8, 5] = 4, 43, 5, 44
    labels[6, 9, 4], labels[7, 9, 4] = 10, 49
    return labels


def mask(time):
    labels = np.zeros(SHAPE, int)
    labels[4:6, 4:9, 3:6] = 2
    labels[4:6, 5:8, 4] = 3
    labels[5, 6, 4] = 1
    labels[4, 5:7, 3 + time] = 4
    return labels


def patient(root, number, dtype=np.float64, maps=None):
    below = root / number
    for time in (1, 2):
        saved(below / f"{number}_time{time}_seg.nii.gz", mask(time), dtype)
        saved((maps or below) / f"{number}_time{time}_t1_synthseg.nii.gz", synthseg(), np.int32)
        for kind in ("t1", "t1ce", "t2", "flair", "t1ce-t1"):
            saved(below / f"{number}_time{time}_{kind}.nii.gz", mask(time) + 0.5, np.float32)
        saved(below / f"{number}_flair_subtraction_seg.nii.gz", mask(time), np.float64)


def row(number, days, first="c", second="n", progression=(100, 200)):
    return (number, 4, "WT", "None", "GTR", 1, "TMZ", days, first, second, *progression)


ROWS = (
    row(100001, 65), row("100002", 18.0, "c, rt", "None"), row(100003, "413", "n", None),
    row(100004, 328372), row(100005, -65), row(100006, "None"), row(100008, None), row(100009, 90), (None,) * len(HEAD),
)


def workbook(path, rows=ROWS, head=HEAD, sheet="Clinical Info"):
    book = openpyxl.Workbook()
    volumes = book.active
    volumes.title = "UCSF-LPTDG"
    volumes.append(("SubjectID", "Timepoint", "Volume"))
    volumes.append((100001, 1, 12.0))
    clinical = book.create_sheet(sheet)
    for line in (head, *rows):
        clinical.append(line)
    book.create_sheet("Clinical_Dictionary").append(("Column", "Meaning"))
    split = book.create_sheet("TrainTestSplit")
    for line in (("SubjectID", "Split"), (100001, "Train"), (100002, "test")):
        split.append(line)
    book.save(path)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Three good patients, five with impossible or no days, one without SynthSeg maps, one that the workbook lacks."""
    top = tmp_path_factory.mktemp("ucsf")
    root = top / "UCSF_POSTOP_GLIOMA_DATASET_FINAL_v1.0"
    for i, number in enumerate((1, 2, 3, 4, 5, 6, 8, 9, 10)):
        patient(root, str(100000 + number), STORED[i % 3])
    (root / "100009" / "100009_time2_t1_synthseg.nii.gz").unlink()
    workbook(root / NAME)
    (root / f"~${NAME}").write_text("")      # Excel's lock file
    return top


def test_the_patients_that_can_be_used(collection):
    data = read_ucsf(collection, trim=False)
    told = data.settings["left_out"]
    assert [c.name for c in data.cases] == ["100001", "100002", "100003"] == list(data.patients)
    assert [c.days for c in data.cases] == [(0.0, 65.0), (0.0, 18.0), (0.0, 413.0)]
    assert len(told) == 6
    assert "100004 is left out: the days between its scans are 328372" in told[0]
    assert "-65" in told[1] and "'None'" in told[2] and "None" in told[3]
    assert "100009 is left out: 0 SynthSeg maps of scan 2" in told[4] and "workbook does not name it" in told[5]


def test_cavity_is_four_and_anatomy_lies_below(collection):
    data = read_ucsf(collection, trim=False)
    roles = [t.role for t in data.anatomy.tissues]
    assert roles == ["background", "white", "grey", "csf", "ventricle", "necrosis", "edema", "tumor", "cavity"]
    expected = synthseg()
    for time, case in ((0, data.cases[0]), (1, data.cases[1]), (1, data.cases[2])):
        labels, drawn = case.labels[time].T, mask(time + 1)
        assert np.array_equal(np.where(labels > 4, labels - 4, 0), drawn)
        free = drawn == 0
        for role, values in (
            ("background", (0,)), ("white", (2, 41)), ("grey", (3, 42, 10, 49)), ("csf", (24,)),
            ("ventricle", (4, 43, 5, 44)),
        ):
            assert np.array_equal(free & (labels == roles.index(role)), free & np.isin(expected, values))


def test_one_tumor_class_images_and_another_grid(collection):
    folder = collection / "UCSF_POSTOP_GLIOMA_DATASET_FINAL_v1.0"
    data = read_ucsf(folder, parts=False, images=("t1ce", "flair"), patients=["100002", 100003])
    roles = [t.role for t in data.anatomy.tissues]
    assert roles == ["background", "white", "grey", "csf", "ventricle", "tumor", "cavity"]
    assert data.patients == ("100002", "100003")
    assert data.shape == (7, 13, 12) and data.cases[0].images.shape == (2, 7, 13, 12)
    assert np.array_equal(data.cases[0].images[0] > 0.6, np.isin(data.cases[0].labels[0], (5, 6)))
    coarse = read_ucsf(collection, spacing_mm=(2.0, 2.0, 2.0))
    assert coarse.spacing_mm == (2.0, 2.0, 2.0) and coarse.shape == (4, 6, 6)


def test_maps_in_a_folder_of_their_own(tmp_path):
    patient(tmp_path, "100001", maps=tmp_path / "maps")
    workbook(tmp_path / NAME)
    assert len(read_ucsf(tmp_path, synthseg=tmp_path / "maps")) == 1
    with pytest.raises(DataError, match="none of 1 patients can be used; the first: .*SynthSeg"):
        read_ucsf(tmp_path)


def test_the_benchmark_opens_the_collection_and_a_folder_of_cases_alike(collection, tmp_path, capsys):
    from AnatomyDTLib import cli
    from AnatomyDTLib.learning.folders import write_folder
    from AnatomyDTLib.learning.sources import Source

    for folder in (collection, collection / "UCSF_POSTOP_GLIOMA_DATASET_FINAL_v1.0"):
        data = Source.of("folder", 0, str(folder), trim=True, spacing_mm=[1.0, 2.0, 2.0]).open()
        assert (data.name, data.spacing_mm, data.shape) == ("ucsf", (1.0, 2.0, 2.0), (7, 6, 6))
    command = ("benchmark", collection, "--methods", "persistence", "fisher-kpp", "--folds", 3, "--steps", 1, "--trials", 1)
    assert cli.main([*map(str, (*command, "--processes", 1, "--out", tmp_path / "out"))]) == 0
    shown = capsys.readouterr().out
    assert "## ucsf: methods" in shown and "3 cases of 7 x 13 x 12 voxels" in shown and "| Fisher-KPP" in shown
    # what needs made cases is refused before anything is trained
    assert cli.main(["benchmark", str(collection), "--study", "visits", "--folds", "3", "--out", str(tmp_path / "none")]) == 2
    assert "not for a folder" in capsys.readouterr().err and not (tmp_path / "none").exists()
    # a copy with case.json files is read by them
    write_folder(Source.of("folder", 0, str(collection)).open(), tmp_path / "copy")
    (tmp_path / "copy" / "100001").mkdir()
    assert len(Source.of("folder", 0, str(tmp_path / "copy")).open()) == 3


def test_folds_never_split_a_patient(collection):
    data = read_ucsf(collection)
    for train, validation, test in data.folds(3, 1):
        assert not set(train) & set(test) and not set(train) & set(validation) and not set(validation) & set(test)


def test_the_workbook(collection):
    records = read_workbook(collection / "UCSF_POSTOP_GLIOMA_DATASET_FINAL_v1.0" / NAME)
    assert len(records) == 8
    one, two, three = (records[n] for n in ("100001", "100002", "100003"))
    assert one.on_first == ("chemotherapy",) and one.on_second == () and one.part == "train"
    assert two.on_first == ("chemotherapy", "radiotherapy") and two.on_second is None and two.part == "test"
    assert three.on_first == () and three.on_second is None and three.part is None
    assert one.raw["MGMT"] == "None"
    assert one.raw["Days to progression"] == 100 and one.raw["Days to progression [2]"] == 200
    assert records["100004"].days is None and records["100004"].raw["Days from 1st scan to 2nd scan"] == 328372


@pytest.mark.parametrize("rows, head, sheet, sentence", [
    (ROWS, HEAD, "Other", "no sheet 'Clinical Info'; it has UCSF-LPTDG, Other"),
    (ROWS, ("Number", *HEAD[1:]), "Clinical Info", "no column SubjectID"),
    (ROWS, (*HEAD[:7], "Interval", *HEAD[8:]), "Clinical Info", "no column 'Days from 1st scan to 2nd scan'"),
    ((*ROWS, row(100001, 70)), HEAD, "Clinical Info", "two different rows for the patient 100001"),
])
def test_bad_workbooks(tmp_path, rows, head, sheet, sentence):
    workbook(tmp_path / NAME, rows, head, sheet)
    with pytest.raises(DataError, match=sentence):
        read_workbook(tmp_path / NAME)


def test_a_row_that_stands_twice_unchanged_is_one_patient(tmp_path):
    workbook(tmp_path / NAME, (*ROWS, ROWS[0]))
    assert len(read_workbook(tmp_path / NAME)) == 8


def test_bad_files(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        read_ucsf(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no patients"):
        read_ucsf(tmp_path)
    patient(tmp_path, "100001")
    with pytest.raises(DataError, match="holds 0 workbooks"):
        read_ucsf(tmp_path)
    (tmp_path / NAME).write_text("no zip")
    with pytest.raises(DataError, match="is not an Excel workbook"):
        read_ucsf(tmp_path)
    workbook(tmp_path / NAME)
    with pytest.raises(DataError, match="no folder of a patient asked for"):
        read_ucsf(tmp_path, patients=["100099"])

    path = tmp_path / "100001" / "100001_time2_seg.nii.gz"
    for wrong, sentence in ((0.5, "fractional values such as 1.5"), (4.0, "the label 5; 0 back"), (np.nan, "NaN")):
        bad = mask(2).astype(float)
        bad[5, 6, 4] += wrong
        saved(path, bad, np.float64)
        with pytest.raises(DataError, match=sentence):
            read_ucsf(tmp_path)
    saved(path, mask(2)[:-1], np.uint16)
    with pytest.raises(DataError, match="differ in geometry"):
        read_ucsf(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="100001_time2_seg.nii.gz is missing"):
        read_ucsf(tmp_path)
    saved(path, mask(2), np.uint16)
    saved(tmp_path / "100001" / "100001_time1_t1_synthseg.nii.gz", np.where(synthseg() == 2, 99, synthseg()), np.int32)
    with pytest.raises(DataError, match="holds the label 99, which is not one of SynthSeg's"):
        read_ucsf(tmp_path)
