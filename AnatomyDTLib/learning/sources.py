"""Where a benchmark's data come from, as a few words that make the same data anywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from .cases import DataError, Dataset

GENERATED = ("voronoi", "vessel", "brains")


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


def read_cases(folder, spacing_mm=None, trim: bool = False) -> Dataset:
    """The dataset in a folder, whether of `case.json` files (`folders.read_folder`) or of UCSF-ALPTDG (`ucsf.read_ucsf`).

    spacing_mm: voxel size (z, y, x) that all is brought to, None: that of the files; trim: cut each case to its labels
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
