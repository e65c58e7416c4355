"""UCSF-ALPTDG: two post-treatment scans of each of 298 patients with diffuse glioma, as a dataset.

Fields et al. 2024, Radiology: AI 6(4):e230182; non-commercial, on request from its owners. Layout:

    UCSF_POSTOP_GLIOMA_DATASET_FINAL_v1.0/
      UCSF_PostopGlioma_Table S1 R1 V5.0_UNBLINDED_FINAL.xlsx
      100001/100001_time{1,2}_{t1,t1ce,t2,flair,t1ce-t1,seg}.nii.gz

The masks hold no anatomy. SynthSeg is run first on every scan (mri_synthseg --i SCANS --o MAPS); its maps,
NNNNNN_time1*synthseg*.nii.gz, lie beside the scans or in a folder of their own.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import labelling, volumes
from ..plan import Anatomy
from .cases import Case, DataError, Dataset, check
from .gridding import centred, regridded, trimmed

# Post-treatment labels of BraTS 2024, not those of the older BraTS, where 4 is enhancing tumor.
PARTS = labelling.NUMBERINGS["brats2024"]
TISSUES = ("white", "grey", "csf", "ventricle")      # of SynthSeg's structures, joined by role
DAYS_COLUMN = "Days from 1st scan to 2nd scan"
# Published: median 65, range 18 to 413. What lies outside contradicts the data dictionary (up to 328,372 days).
DAYS_RANGE = (1, 3650)
_NUMBER = re.compile(r"[0-9]{6}")      # of a patient, the name of its folder
_NOTHING = ("", "none", "na", "n/a", "nan", "null", "unknown", "-")
_TREATMENTS = {"c": "chemotherapy", "chemo": "chemotherapy", "rt": "radiotherapy", "xrt": "radiotherapy", "n": None}


@dataclass(frozen=True)
class Record:
    """One patient in the workbook.

    patient: the number of its folder; days: from the first scan to the second, None where the cell holds none or an
        impossible one
    on_first, on_second: treatments running at each scan, None where not recorded; doses and dates are not recorded
    part: "train" or "test" of the authors' split, None without
    raw: column -> the cell as it is; the second of two columns of one name is "name [2]"
    """

    patient: str
    days: int | None = None
    on_first: tuple[str, ...] | None = None
    on_second: tuple[str, ...] | None = None
    part: str | None = None
    raw: dict = field(default_factory=dict)


def read_ucsf(
    folder, synthseg=None, spacing_mm=None, trim: bool = True, parts: bool = True, images: Iterable[str] = (),
    patients: Iterable[str] | None = None,
) -> Dataset:
    """The dataset, one case of two visits per patient; raises DataError with one sentence.

    folder: that of the patients, or the one above it; synthseg: folder of the SynthSeg maps, None: beside the scans
    spacing_mm: voxel size (z, y, x), or one edge for every axis, that all is brought to, None: the files' 1 mm (5 GB for all
        patients: trim and coarsen)
    trim: cut to the head
    parts: core, FLAIR hyperintensity and enhancing tumor as classes of their own; False: one class Tumor
    images: of the first scan, some of t1, t1ce, t2, flair
    patients: only these numbers
    The settings of the dataset name in `left_out`, in a sentence, each patient that is left out.
    """
    folder = _root(Path(folder))
    records = read_workbook(_workbook(folder))
    wanted = None if patients is None else {str(p) for p in patients}
    numbers = sorted(p.name for p in folder.iterdir() if p.is_dir() and _NUMBER.fullmatch(p.name))
    numbers = [n for n in numbers if wanted is None or n in wanted]
    if not numbers:
        raise DataError(f"{folder.name} holds no folder of a patient asked for (100001, 100002, ...)")
    images = tuple(images)
    anatomy, index = _anatomy(parts)
    if spacing_mm is not None and len(spacing_mm) == 1:
        spacing_mm = tuple(spacing_mm) * 3
    made, spacing, reasons = [], None, []
    for number in numbers:
        maps = Path(synthseg) if synthseg else folder / number
        sentence, found = _paths(folder / number, number, maps, images, records)
        if sentence:
            reasons.append(sentence)
            continue
        labels, pictures, own = _case(number, found, index)
        if trim:
            labels, pictures = trimmed(labels, pictures)
        if spacing_mm is not None:
            labels = np.stack([regridded(visit, own, spacing_mm) for visit in labels])
            pictures = None if pictures is None else np.stack([regridded(p, own, spacing_mm, 1) for p in pictures])
            own = tuple(float(h) for h in spacing_mm)
        spacing = spacing or own
        if not np.allclose(own, spacing, rtol=5e-3):
            raise DataError(
                f"patient {number} has voxels of {own} mm and those before it of {spacing}; give spacing_mm"
            )
        made.append((number, records[number].days, labels, pictures))
    if not made:
        raise DataError(f"none of {len(numbers)} patients can be used; the first: {reasons[0]}")
    shape = tuple(max(labels.shape[1 + d] for _, _, labels, _ in made) for d in range(3))
    cases = tuple(
        Case(number, number, (0.0, float(days)), centred(labels, shape), (), centred(p, shape))
        for number, days, labels, p in made
    )
    settings = {
        "generator": "ucsf", "cases": len(cases), "left_out": reasons, "spacing_mm": list(spacing), "trim": trim,
        "parts": parts, "images": list(images),
    }
    return check(Dataset("ucsf", anatomy, spacing, cases, (), settings))


def read_workbook(path) -> dict[str, Record]:
    """The patients of the workbook by number; raises DataError."""
    path = Path(path)
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            "the workbook of UCSF-ALPTDG is read with openpyxl, which is not installed: pip install openpyxl"
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, KeyError, zipfile.BadZipFile, openpyxl.utils.exceptions.InvalidFileException):
        raise DataError(f"{path.name} is not an Excel workbook, or it is damaged") from None
    try:
        rows = _rows(book, "Clinical Info", path.name)
        split = _rows(book, "TrainTestSplit", path.name, needed=False)
    finally:
        book.close()
    parts = {number: _part(row) for number, row in split}
    records: dict[str, Record] = {}
    for number, raw in rows:
        record = Record(
            number, _days(_cell(raw, DAYS_COLUMN, path.name)), _running(_cell(raw, "On tx at 1st scan", path.name)),
            _running(_cell(raw, "On tx at 2nd scan", path.name)), parts.get(number), raw,
        )
        if number in records and records[number].raw != raw:
            raise DataError(
                f"{path.name} has two different rows for the patient {number} in 'Clinical Info'; remove one"
            )
        records[number] = record
    return records


def _rows(book, sheet: str, name: str, needed: bool = True) -> list[tuple[str, dict]]:
    """(patient, {column: cell}) of every row of a sheet that names a patient."""
    if sheet not in book.sheetnames:
        if not needed:
            return []
        raise DataError(f"{name} has no sheet '{sheet}'; it has {', '.join(book.sheetnames)}")
    rows = book[sheet].iter_rows(values_only=True)
    head: list[str] = []
    for cell in next(rows, ()):
        title = " ".join(str(cell).split()) if cell is not None else ""
        same = sum(h == title or h.startswith(f"{title} [") for h in head)
        head.append(f"{title} [{same + 1}]" if title and same else title)
    ids = [i for i, title in enumerate(head) if title.replace(" ", "").lower() == "subjectid"]
    if not ids:
        if not needed:
            return []
        raise DataError(f"the sheet '{sheet}' of {name} has no column SubjectID")
    found = []
    for row in rows:
        number = _number(row[ids[0]]) if len(row) > ids[0] else None
        if number is not None:
            found.append((str(int(number)), {title: cell for title, cell in zip(head, row) if title}))
    return found


def _part(row: dict) -> str | None:
    """train or test, from whichever cell of the row says so."""
    words = [str(cell).strip().lower() for cell in row.values()]
    return next((part for part in ("train", "test") if any(w.startswith(part) for w in words)), None)


def _cell(raw: dict, column: str, name: str):
    """The cell of the column whose name begins so: a legend in brackets follows some names."""
    key = next((k for k in raw if k.lower().startswith(column.lower())), None)
    if key is None:
        raise DataError(f"the sheet 'Clinical Info' of {name} has no column '{column}'")
    return raw[key]


def _number(cell) -> float | None:
    if isinstance(cell, bool) or cell is None:
        return None
    try:
        value = float(str(cell).strip())
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _days(cell) -> int | None:
    value = _number(cell)
    return int(round(value)) if value is not None and DAYS_RANGE[0] <= value <= DAYS_RANGE[1] else None


def _running(cell) -> tuple[str, ...] | None:
    """("chemotherapy", "radiotherapy"), () for none, None where nothing readable stands."""
    if cell is None or str(cell).strip().lower() in _NOTHING:
        return None
    words = re.findall(r"[a-z]+", str(cell).lower())
    if not words or any(w not in _TREATMENTS and w != "and" for w in words):
        return None
    return tuple(sorted({_TREATMENTS[w] for w in words if _TREATMENTS.get(w)}))


def is_ucsf(folder) -> bool:
    """Whether a folder, or the one folder of the collection in it, holds patients named as in UCSF-ALPTDG."""
    try:
        return any(_NUMBER.fullmatch(p.name) and p.is_dir() for p in _root(Path(folder)).iterdir())
    except DataError:
        return False


def _root(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"'{folder}' is not a folder; give that of UCSF-ALPTDG")
    if any(_NUMBER.fullmatch(p.name) for p in folder.iterdir()):
        return folder
    below = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name.startswith("UCSF_POSTOP_GLIOMA_DATASET")]
    if len(below) != 1:
        raise DataError(
            f"'{folder}' holds no patients (100001, 100002, ...); give the folder "
            "UCSF_POSTOP_GLIOMA_DATASET_FINAL_v1.0"
        )
    return below[0]


def _workbook(folder: Path) -> Path:
    books = sorted(p for p in folder.glob("*.xlsx") if not p.name.startswith("~$"))
    if len(books) != 1:
        raise DataError(f"{folder.name} holds {len(books)} workbooks (.xlsx); exactly one, the table S1, is expected")
    return books[0]


def _paths(below: Path, number: str, maps: Path, images, records) -> tuple[str | None, dict]:
    """(why the patient is left out or None, {"seg": [...], "synthseg": [...], "images": [...]})."""
    if number not in records:
        return f"patient {number} is left out: the workbook does not name it", {}
    if records[number].days is None:
        raw = _cell(records[number].raw, DAYS_COLUMN, "the workbook")
        return (
            f"patient {number} is left out: the days between its scans are {raw!r}, and {DAYS_RANGE[0]} to "
            f"{DAYS_RANGE[1]} "
            "are possible"
        ), {}
    found: dict = {"seg": [], "synthseg": [], "images": [below / f"{number}_time1_{kind}.nii.gz" for kind in images]}
    for time in (1, 2):
        found["seg"].append(below / f"{number}_time{time}_seg.nii.gz")
        there = sorted(p for p in maps.glob(f"{number}_time{time}*synthseg*.nii*"))
        if len(there) != 1:
            return f"patient {number} is left out: {len(there)} SynthSeg maps of scan {time}, and one is needed", {}
        found["synthseg"].append(there[0])
    for path in (*found["seg"], *found["images"]):
        if not path.exists():
            return f"patient {number} is left out: {path.name} is missing", {}
    return None, found


def _anatomy(parts: bool):
    """(anatomy, ({SynthSeg value: index}, {mask value: index}))."""
    structures = {0: labelling.BACKGROUND}
    for role in TISSUES:
        default = next(s for s in labelling.NUMBERINGS["anatomydt"].values() if s.role == role)
        structures[len(structures)] = default
    first = len(structures)
    if parts:
        masks = {value: first + value - 1 for value in (1, 2, 3, 4)}
        structures.update({masks[value]: PARTS[value] for value in masks})
    else:
        masks = {1: first, 2: first, 3: first, 4: first + 1}
        structures[first] = labelling.NUMBERINGS["anatomydt"][5]
        structures[first + 1] = PARTS[4]
    tissues, _ = labelling.tissues(structures)
    below = {
        value: 1 + TISSUES.index(s.role if s.role in TISSUES else "csf")      # SynthSeg's few vessels lie in CSF
        for value, s in labelling.NUMBERINGS["synthseg"].items() if value
    }
    return Anatomy(tissues), ({0: 0, **below}, masks)


def _case(number: str, found: dict, index) -> tuple[np.ndarray, np.ndarray | None, tuple[float, ...]]:
    """(labels (2, Z, Y, X) uint8, images or None, spacing_mm) of one patient."""
    below, masks = index
    try:
        visits = []
        seen = [volumes.read_labels(path) for path in found["seg"]]
        for mask, path in zip(seen, found["synthseg"]):
            # whole values were checked before anything was cast: the masks are stored as float64, float32 or uint16
            wrong = [v for v in volumes.labels_in(mask.array) if v not in masks]
            if wrong:
                raise DataError(
                    f"patient {number}: {mask.path.name} holds the label {wrong[0]}; 0 background, 1 core, 2 FLAIR "
                    "hyperintensity, "
                    "3 enhancing tumor and 4 resection cavity are expected"
                )
            tissue = volumes.read_labels(path)
            volumes.same_geometry(tissue, mask)
            volumes.same_geometry(mask, seen[0])
            unknown = [v for v in volumes.labels_in(tissue.array) if v not in below]
            if unknown:
                raise DataError(
                    f"patient {number}: {path.name} holds the label {unknown[0]}, which is not one of SynthSeg's"
                )
            visits.append(volumes.overlaid(
                volumes.recoded(tissue.array, below), volumes.recoded(mask.array, {0: 0, **masks})
            ))
        pictures = [volumes.read(path) for path in found["images"]]
        for picture in pictures:
            volumes.same_geometry(picture, seen[0])
    except volumes.VolumeError as error:
        raise DataError(f"patient {number}: {error}") from None
    images = np.stack([p.array.astype(np.float32) for p in pictures]) if pictures else None
    return np.stack(visits).astype(np.uint8), images, seen[0].spacing_mm
