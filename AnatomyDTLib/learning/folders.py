"""A folder of cases: one `case.json` per case beside its label maps, read into a dataset and written from one.

case.json
    anatomydt_case  1
    name            of the case; without it the name of its folder
    patient         whose case it is; without it the name
    days            [0, 57, ...]: one per visit, ascending, the first 0
    labels          ["first.nii.gz", ...]: one label map per visit, paths from the folder of the case.json
    treatments      as in a plan: [{"type": "radiotherapy", "start_day": 3, "fractions": 30, "dose_gy": 2.0}, ...]
    images          ["t1c.nii.gz", ...] of the first visit
    meaning         of the label values: a numbering by name ("anatomydt", "brats2024", ...) or a table
                    {"1": "white", "5": "Tumor"}; without it the segments of the files, or the bundled
                    sample's numbering
dataset.json, in the folder itself, optional
    anatomydt_dataset  1
    name, settings
    tissues         as in a plan: label values are then indices into this list, and no meaning is needed
    tree_classes    names of the classes of the clDice term; without it vessels and barriers
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from .. import labelling, volumes
from ..plan import Anatomy, Plan, PlanError, Tissue
from .cases import Case, DataError, Dataset, check, check_days, check_treatments
from .gridding import centred, regridded, trimmed

CASE_FILE, DATASET_FILE = "case.json", "dataset.json"
VERSION = 1
_LONGEST_TEXT = 16 << 20
_CASE_KEYS = ("anatomydt_case", "name", "patient", "days", "labels", "treatments", "images", "meaning")
_DATASET_KEYS = ("anatomydt_dataset", "name", "tissues", "tree_classes", "settings")
_TREE_ROLES = ("vessel", "barrier")


def read_folder(folder, spacing_mm=None, trim: bool = False) -> Dataset:
    """The dataset in a folder: every case.json in it and in the folders below it; raises DataError with one sentence.

    spacing_mm: voxel size (z, y, x) or (y, x), or one edge for every axis, that all cases are brought to, labels by the
        nearest voxel and images linearly; None: that of the files, which must then be the same everywhere
    trim: cut each case to the box of its labels (only where label 0 is background)
    Maps of one slice are read as 2D. Cases of different shape are centred in one shape, background around them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"'{folder}' is not a folder; give a folder with a {CASE_FILE} in it or in its sub-folders")
    paths = sorted(folder.rglob(CASE_FILE))
    if not paths:
        raise DataError(f"no {CASE_FILE} was found in {folder} or below it; each case needs one beside its label maps")
    general = _general(folder / DATASET_FILE)
    entries = [_Entry(path, folder, general is not None and "tissues" in general) for path in paths]
    if general is not None and "tissues" in general:
        anatomy, index = general["tissues"], None
    else:
        anatomy, index = _anatomy_of(entries)
    cases, found = [], None
    for entry in entries:
        labels = entry.indices(anatomy, index)
        images, spacing = entry.images, entry.spacing_mm
        if trim and anatomy.tissues[0].role == "background":
            labels, images = trimmed(labels, images)
        if spacing_mm is not None:
            wanted = tuple(float(h) for h in spacing_mm) * (len(spacing) if len(spacing_mm) == 1 else 1)
            if len(wanted) != len(spacing) or min(wanted) <= 0:
                raise DataError(f"spacing_mm must be {len(spacing)} numbers above 0 for {entry.what}, not {spacing_mm}")
            labels = np.stack([regridded(visit, spacing, wanted) for visit in labels])
            images = None if images is None else np.stack([regridded(image, spacing, wanted, 1) for image in images])
            spacing = wanted
        found = found or (spacing, entry.what)
        if len(spacing) != len(found[0]) or not np.allclose(spacing, found[0], rtol=5e-3):
            raise DataError(
                f"{entry.what} has voxels of {_by(spacing)} mm and {found[1]} of {_by(found[0])} mm; "
                "resample them to one voxel size (spacing_mm)"
            )
        cases.append((entry, labels, images))
        entry.drop()
    shape = tuple(max(labels.shape[1 + d] for _, labels, _ in cases) for d in range(len(found[0])))
    made = tuple(
        Case(e.name, e.patient, e.days, centred(labels, shape), e.treatments, centred(images, shape))
        for e, labels, images in cases
    )
    general = general or {}
    trees = general.get("tree_classes")
    if trees is None:
        trees = anatomy.with_role(*_TREE_ROLES)
    else:
        unknown = [name for name in trees if name not in anatomy.names]
        if unknown:
            raise DataError(
                f"{DATASET_FILE} names the tree class '{unknown[0]}', which is not a tissue; known are "
                f"{', '.join(anatomy.names)}"
            )
        trees = tuple(anatomy.index(name) for name in trees)
    read = {"generator": "folder", "cases": len(made), "spacing_mm": list(found[0]), "trim": trim}
    settings = general.get("settings", read)
    return check(Dataset(general.get("name", folder.resolve().name), anatomy, found[0], made, trees, settings))


def write_folder(dataset: Dataset, folder) -> None:
    """Writes a dataset as a folder that `read_folder` gives back; what was seen, not the truth. Raises DataError."""
    check(dataset)
    folder = Path(folder)
    # Case and Dataset names are free texts
    names = [
        f"{i:04d}-" + "".join(c if c.isalnum() or c in "-_" else "_" for c in case.name)[:60]
        for i, case in enumerate(dataset.cases)
    ]
    plan = json.loads(Plan(dataset.anatomy).to_json())
    _write_json(folder / DATASET_FILE, {
        "anatomydt_dataset": VERSION, "name": dataset.name, "tissues": plan["tissues"],
        "tree_classes": [dataset.anatomy.names[k] for k in dataset.tree_classes], "settings": dataset.settings,
    })
    spacing = (1.0,) * (3 - len(dataset.spacing_mm)) + tuple(dataset.spacing_mm)
    steps = np.diag(spacing)[:, ::-1].astype(float)        # array axes z, y, x along S, P, L
    for name, case in zip(names, dataset.cases):
        below = folder / name
        _make(below)
        geometry = volumes.Geometry((1,) * (3 - len(case.shape)) + case.shape, steps, np.zeros(3))
        labels = [f"visit{v + 1}.nrrd" for v in range(len(case.days))]
        images = [f"image{i + 1}.nrrd" for i in range(0 if case.images is None else len(case.images))]
        try:
            for file, array in [*zip(labels, case.labels), *zip(images, case.images if images else ())]:
                volumes.write_nrrd(below / file, array, geometry)
        except volumes.VolumeError as error:
            raise DataError(str(error)) from None
        write_case(below / CASE_FILE, case.days, labels, case.treatments, images, None, case.name, case.patient)


def write_case(path, days, labels, treatments=(), images=(), meaning=None, name=None, patient=None) -> None:
    """Writes one case.json for label maps that are already there; raises DataError.

    days, labels: of every visit; the label maps and images are there already: relative paths count from the folder of
        the case.json, absolute ones are written relative to it
    treatments: plan objects; meaning: a numbering's name or {value: name or role}
    """
    path = Path(path)
    what = f"the case {name or path.parent.name}"
    days = check_days(days, what)
    check_treatments(treatments, days, what)
    if len(labels) != len(days):
        raise DataError(f"{what} has {len(days)} days and {len(labels)} label maps; give one map per visit")
    document = {"anatomydt_case": VERSION}
    document.update({key: value for key, value in (("name", name), ("patient", patient)) if value is not None})
    document["days"] = list(days)
    document["labels"] = [_relative(file, path.parent) for file in labels]
    document["treatments"] = treatments_to_json(treatments, days[-1])
    if images:
        document["images"] = [_relative(file, path.parent) for file in images]
    if meaning is not None:
        document["meaning"] = meaning if isinstance(meaning, str) else {str(k): v for k, v in meaning.items()}
    _write_json(path, document)


# A plan's own reader and writer check treatments and their keys; the tissues around them are stand-ins.
_STAND_IN = Anatomy((Tissue("Brain", "organ"), Tissue("Tumor", "tumor")))


def treatments_to_json(treatments, last_day: float) -> list[dict]:
    """Treatments as they stand in a plan."""
    return json.loads(Plan(_STAND_IN, tuple(treatments), (float(last_day),)).to_json())["treatments"]


def treatments_from_json(entries, last_day: float) -> tuple:
    """Treatments of a plan's JSON; raises PlanError."""
    document = json.loads(Plan(_STAND_IN, (), (float(last_day),)).to_json())
    return Plan.from_json(json.dumps({**document, "treatments": entries})).treatments


class _Entry:
    """One case.json with its images read."""

    def __init__(self, path: Path, folder: Path, numbered: bool):
        self.what = f"the case {path.parent.relative_to(folder) if path.parent != folder else folder.name}"
        document = _document(path, self.what, "anatomydt_case", _CASE_KEYS, ("days", "labels"))
        self.name = self._text(document, "name", path.parent.name)
        self.patient = self._text(document, "patient", self.name)
        days = document["days"]
        if not isinstance(days, list):
            raise DataError(f'{self.what}: "days" must be a list of numbers, one per visit')
        self.days = check_days(days, self.what)
        files = self._files(document, "labels")
        if len(files) != len(self.days):
            raise DataError(
                f"{self.what} has {len(self.days)} days and {len(files)} label maps; give one map per visit"
            )
        try:
            self.treatments = treatments_from_json(document.get("treatments", []), self.days[-1])
        except PlanError as error:
            raise DataError(f"{self.what}: {error}") from None
        check_treatments(self.treatments, self.days, self.what)
        try:
            self.table = None if numbered else _table(document.get("meaning"), self.what)
        except PlanError as error:
            raise DataError(f"{self.what}: {error}") from None
        self._read(path.parent, files, self._files(document, "images", ()))

    def _text(self, document, key: str, default: str) -> str:
        value = document.get(key, default)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f'{self.what}: "{key}" must be a non-empty text')
        return value

    def _files(self, document, key: str, default=None) -> list[str]:
        files = document.get(key, list(default) if default is not None else None)
        if not isinstance(files, list) or not all(isinstance(f, str) and f for f in files):
            raise DataError(f'{self.what}: "{key}" must be a list of file names')
        return files

    def _read(self, below: Path, files, images) -> None:
        try:
            maps = [volumes.read_labels(below / file) for file in files]
            pictures = [volumes.read(below / file) for file in images]
            for other in (*maps[1:], *pictures):
                volumes.same_geometry(other, maps[0])
        except volumes.VolumeError as error:
            raise DataError(f"{self.what}: {error}") from None
        flat = maps[0].array.ndim == 3 and maps[0].array.shape[0] == 1
        self.spacing_mm = maps[0].spacing_mm[1:] if flat else maps[0].spacing_mm
        for m in maps:
            if m.array.min() < 0:
                raise DataError(
                    f"{self.what}: {m.path.name} holds the label {int(m.array.min())}; labels are whole numbers from "
                    "0 on"
                )
        self.values = sorted({v for m in maps for v in volumes.labels_in(m.array)})
        small = np.uint8 if self.values and self.values[-1] < 256 else np.int64
        self.arrays = [(m.array[0] if flat else m.array).astype(small) for m in maps]
        self.segments = self._segments(maps)
        self.images = None
        if pictures:
            self.images = np.stack([(p.array[0] if flat else p.array).astype(np.float32) for p in pictures])
            for file, image in zip(images, self.images):
                if not np.isfinite(image).all():
                    raise DataError(
                        f"{self.what}: {file} holds values that are not numbers (NaN or infinite); mend or drop it"
                    )

    def _segments(self, maps) -> dict:
        """Label value -> (name, colour, terminology) of segmentations, the same at every visit."""
        found: dict = {}
        for m, day in zip(maps, self.days):
            for s in m.segments:
                first = found.setdefault(s.value, (s.name, s.color, s.terminology, day))
                if first[0] != s.name:
                    raise DataError(
                        f"{self.what}: the label {s.value} means '{first[0]}' on day {first[3]:g} and '{s.name}' on "
                        f"day {day:g}; "
                        "all visits must use the same classes"
                    )
        return {value: entry[:3] for value, entry in found.items()}

    def indices(self, anatomy: Anatomy, index) -> np.ndarray:
        """(V, *S) uint8: label values of the files -> indices into the anatomy's tissues."""
        if index is None:
            if self.values and self.values[-1] >= len(anatomy):
                raise DataError(
                    f"{self.what} has the label {self.values[-1]}, and {DATASET_FILE} has the classes 0 to "
                    f"{len(anatomy) - 1}"
                )
            return np.stack(self.arrays).astype(np.uint8)
        return np.stack([volumes.recoded(array, index) for array in self.arrays])

    def drop(self) -> None:
        """The arrays are no longer needed: a large collection is held once, not twice."""
        self.arrays = []


def _anatomy_of(entries):
    """(anatomy of all cases together, label value -> index); raises DataError where they mean different things."""
    meanings: dict = {}
    for entry in entries:
        try:
            found = labelling.structures(
                entry.values, entry.table, entry.segments or None, entry.what, needs_host=False,
                remedy=f"'meaning' in {CASE_FILE}")
        except PlanError as error:
            raise DataError(str(error)) from None
        for value, structure in found.items():
            first, where = meanings.setdefault(value, (structure, entry.what))
            if (first.name, first.role) != (structure.name, structure.role):
                raise DataError(
                    f"the label {value} means '{first.name}' in {where} and '{structure.name}' in {entry.what}; "
                    "all cases must use the same classes"
                )
    found = {value: structure for value, (structure, _) in meanings.items()}
    if found[0].role == "background" and not any(s.role in ("white", "grey", "organ") for s in found.values()):
        found[0] = labelling.HOST      # a tumor segmentation without anatomy
    try:
        tissues, index = labelling.tissues(found)
        return Anatomy(tissues), index
    except PlanError as error:
        raise DataError(f"the classes of the cases make no anatomy: {error}") from None


def _table(meaning, what: str):
    if meaning is None:
        return None
    if isinstance(meaning, str):
        if meaning not in labelling.NUMBERINGS:
            raise DataError(
                f"{what} has the meaning '{meaning}'; write one of {', '.join(labelling.NUMBERINGS)} or a table"
            )
        return labelling.NUMBERINGS[meaning]
    if not isinstance(meaning, dict):
        raise DataError(f'{what}: "meaning" must be the name of a numbering or an object {{"1": "white", ...}}')
    return labelling.read_table(json.dumps(meaning), f"the meaning in {what}")


def _general(path: Path) -> dict | None:
    if not path.exists():
        return None
    document = _document(path, DATASET_FILE, "anatomydt_dataset", _DATASET_KEYS, ())
    if not isinstance(document.get("settings", {}), dict) or not isinstance(document.get("name", "name"), str):
        raise DataError(f'{DATASET_FILE}: "name" must be a text and "settings" an object')
    trees = document.get("tree_classes", [])
    if not isinstance(trees, list) or not all(isinstance(t, str) for t in trees):
        raise DataError(f'{DATASET_FILE}: "tree_classes" must be a list of names of tissues')
    if "tissues" in document:
        plan = json.loads(Plan(_STAND_IN).to_json())
        try:
            document["tissues"] = Plan.from_json(json.dumps({**plan, "tissues": document["tissues"]})).anatomy
        except PlanError as error:
            raise DataError(f"{DATASET_FILE}: {error}") from None
    return document


def _document(path: Path, what: str, stamp: str, known, needed) -> dict:
    """A JSON object with these keys; DataError for all else."""
    def unique(pairs):
        names = [k for k, _ in pairs]
        twice = next((k for k in names if names.count(k) > 1), None)
        if twice is not None:
            raise DataError(f'{what}: the key "{twice}" stands twice in {path.name}')
        return dict(pairs)

    try:
        with open(path, "rb") as stream:
            data = stream.read(_LONGEST_TEXT + 1)
        if len(data) > _LONGEST_TEXT:
            raise DataError(f"{what}: {path.name} is larger than {_LONGEST_TEXT >> 20} MB")
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)
    except OSError as error:
        raise DataError(f"{what}: {path.name} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what}: {path.name} is not JSON: {error}") from None
    if not isinstance(document, dict) or stamp not in document:
        raise DataError(f'{what}: {path.name} must be a JSON object with the key "{stamp}"')
    if document[stamp] != VERSION or isinstance(document[stamp], bool):
        raise DataError(f"{what}: {path.name} has version {document[stamp]!r}; this program reads version {VERSION}")
    for key in document:
        if key not in known:
            raise DataError(f'{what}: {path.name} has the unknown key "{key}"; known keys are {", ".join(known)}')
    for key in needed:
        if key not in document:
            raise DataError(f'{what}: {path.name} lacks the key "{key}"')
    return document


def _write_json(path: Path, document: dict) -> None:
    _make(path.parent)
    try:
        volumes.write_bytes(path, (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    except volumes.VolumeError as error:
        raise DataError(str(error)) from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder}: {(error.strerror or str(error)).lower()}") from None


def _relative(file, folder: Path) -> str:
    """A path as it stands in a case.json; a bare name stays what it is."""
    if not os.path.isabs(file):
        return Path(file).as_posix()
    try:
        return Path(os.path.relpath(file, folder.resolve())).as_posix()
    except ValueError:      # another drive
        return str(file)


def _by(spacing) -> str:
    return " x ".join(f"{h:.4g}" for h in spacing)
