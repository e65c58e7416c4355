"""Where a benchmark's data come from, as a few words that make the same data anywhere."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from .cases import DataError, Dataset

# What can be generated, and how many cases where no number is given.
CASES = {"voronoi": 100, "vessel": 100, "brains": 40}
GENERATED = tuple(CASES)


@dataclass(frozen=True)
class Source:
    """kind: of GENERATED, or "folder"; count: how many cases to generate

    options: JSON text of the generator's settings that differ from its defaults, the seed among them; of a folder what
        `read_cases` takes by name
    folder: of cases, or of the healthy brains that gliomas are put into
    """

    kind: str
    count: int = 0
    options: str = "{}"
    folder: str = ""

    @classmethod
    def of(cls, kind: str, count: int, folder: str = "", **options) -> Source:
        return cls(kind, count, json.dumps(options, sort_keys=True), folder)

    @property
    def generated(self) -> bool:
        return self.kind in GENERATED

    def changed(self, **options) -> Source:
        """The same with other settings; a dict changes what it names of a group of settings."""
        own = json.loads(self.options)
        for key, value in options.items():
            own[key] = {**own.get(key, {}), **value} if isinstance(value, dict) else value
        return Source.of(self.kind, self.count, self.folder, **own)

    def open(self) -> Dataset:
        """Makes or reads the dataset. Raises DataError."""
        options = json.loads(self.options)
        if self.kind == "voronoi":
            from .voronoi import VoronoiSettings, voronoi

            return voronoi(self.count, _settings(VoronoiSettings, options))
        if self.kind == "vessel":
            from .vessel import VesselSettings, vessel

            return vessel(self.count, _settings(VesselSettings, options))
        if self.kind == "brains":
            from .gliomas import GliomaSettings, gliomas

            return gliomas(self.folder, self.count, _settings(GliomaSettings, options))
        return read_cases(self.folder, **options)


def source_of(
    kind: str, *, seed: int, cases: int | None = None, size=None, noise_mm: float | None = None, brains: str | None = None, spacing_mm=None,
) -> Source:
    """The source that a command line names: one of GENERATED, or a folder of cases, which is cut to its labels.

    cases: to generate, None: CASES; size: voxels along the edges, one number for all of them (two axes, three of brains);
    noise_mm: of the observer; brains: folder of healthy brains; spacing_mm: voxel edges of a folder, one or one an axis
    Raises DataError: neither, what goes with the other kind, impossible numbers.
    """
    if seed < 0:
        raise DataError(f"--seed must be 0 or above, not {seed}")
    if kind not in GENERATED:
        if not Path(kind).is_dir():
            raise DataError(f"'{kind}' is neither a folder of cases nor one of {', '.join(GENERATED)}")
        for option, value in (("cases", cases), ("size", size), ("noise", noise_mm), ("brains", brains)):
            if value is not None:
                raise DataError(f"--{option} is for generated data; a folder is taken as it is")
        if spacing_mm is not None and (len(spacing_mm) not in (1, 2, 3) or not all(0 < h < math.inf for h in spacing_mm)):
            raise DataError(f"--spacing takes one, two or three voxel edges above 0 mm, not {' '.join(map(str, spacing_mm))}")
        return Source.of("folder", 0, str(Path(kind).resolve()), trim=True, **({} if spacing_mm is None else {"spacing_mm": list(spacing_mm)}))
    if spacing_mm is not None:
        raise DataError("--spacing is for a folder of cases; generated ones have --size")
    if (kind == "brains") != bool(brains):
        raise DataError("the dataset brains needs --brains FOLDER, label maps of healthy brains" if kind == "brains" else "--brains goes with the dataset brains")
    options: dict = {"seed": seed}
    if size is not None:
        axes = 3 if kind == "brains" else 2
        if len(size) not in ((1, 3) if kind == "brains" else (1, 2, 3)):
            raise DataError(f"--size takes one number, or one for each axis, not {len(size)}")
        options["crop" if kind == "brains" else "shape"] = list(size) * (axes if len(size) == 1 else 1)
    if noise_mm is not None:
        if not 0 <= noise_mm < math.inf:
            raise DataError(f"--noise must be at least 0 mm, not {noise_mm:g}")
        options["noise_mm"] = noise_mm
    return Source.of(kind, cases or CASES[kind], "" if brains is None else str(Path(brains).resolve()), **options)


def read_cases(folder, spacing_mm=None, trim: bool = False) -> Dataset:
    """The dataset in a folder, whether of `case.json` files (`folders.read_folder`) or of UCSF-ALPTDG (`ucsf.read_ucsf`).

    spacing_mm: voxel edges (z, y, x) that all is brought to, or one for every axis, None: those of the files
    trim: cut each case to its labels
    Raises DataError.
    """
    from .folders import CASE_FILE, read_folder
    from .ucsf import is_ucsf, read_ucsf

    spacing = None if spacing_mm is None else tuple(spacing_mm)
    # a collection that was described by case.json files is read by them
    if is_ucsf(folder) and next(Path(folder).rglob(CASE_FILE), None) is None:
        return read_ucsf(folder, spacing_mm=spacing, trim=trim)
    return read_folder(folder, spacing, trim)


def _settings(cls, options: dict):
    """A settings class from JSON: groups of settings are objects, tuples are lists."""
    default = cls()
    known = {f.name for f in fields(cls)}
    made = {}
    for key, value in options.items():
        if key not in known:
            raise DataError(f"there is no setting '{key}'; known are {', '.join(sorted(known))}")
        former = getattr(default, key)
        made[key] = _settings(type(former), value) if is_dataclass(former) else _tupled(value)
    return cls(**made)


def _tupled(value):
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value
