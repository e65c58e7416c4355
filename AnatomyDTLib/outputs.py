"""A forecast's output folder: written aside, moved in at the end, so that nothing is ever half there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

from . import presets
from .inputs import Labelled
from .plan import Plan

# Slicer's own entries for "a mass" and for "some tissue"
_TERMS = "Segmentation category and type - 3D Slicer General Anatomy list~{}~^^~Anatomic codes - DICOM master list~^^~^^"
_MASS = _TERMS.format("SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass")
_TISSUE = _TERMS.format("SCT^85756007^Tissue~SCT^85756007^Tissue")


@contextlib.contextmanager
def _uninterrupted():
    """Ctrl-C waits until the few renames inside are done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in former.items():
            signal.signal(s, handler)


def write_results(staging: Path, result, labelled: Labelled, index, notes) -> None:
    """Writes everything but run.json into a folder; a sentence about what was left out is added to `notes`."""
    from . import report, volumes

    geometry = labelled.volume.geometry
    segments = _segments(result.plan, labelled, index)
    values = [0] + [s.value for s in segments]
    for day, labels in zip(result.days, result.labels):
        volumes.write_segmentation(staging / f"day_{day_name(day)}.seg.nrrd", volumes.revalued(labels, values), geometry, segments)
    if result.tumor_probability is not None:
        for day, p in zip(result.days, result.tumor_probability):
            volumes.write_nrrd(staging / f"probability_{day_name(day)}.nrrd", p, geometry)
    volumes.write_bytes(staging / "volumes.csv", report.volumes_csv(result).encode())
    volumes.write_bytes(staging / "forecast.png", report.picture(result, geometry))
    volumes.write_bytes(staging / "forecast.gif", report.animation(result, geometry))
    try:
        from .scene import files
        from .scene.segmentation import Segment
    except ImportError as error:
        notes.append(f"forecast.seq.mrb was left out: it needs slicer-core (pip install slicer-core), which cannot be imported ({error})")
        return
    target = staging / "forecast.seq.mrb"
    files.write_sequence_file(result, geometry, target, [Segment(s.id, s.name, s.color, s.terminology) for s in segments])
    if not volumes.is_whole_zip(target):
        raise volumes.VolumeError(f"cannot write {target.name}: the disk is full or the folder cannot be written")


def _segments(plan: Plan, labelled: Labelled, index):
    """One segment for each tissue but the background; label values and IDs are the input's where it has them."""
    from . import volumes

    code_of = {i: code for code, i in index.items()}
    value_of = {i: labelled.values[c] for i, c in code_of.items() if i and labelled.values.get(c, 0) > 0}
    free = iter(v for v in range(1, 70000) if v not in set(value_of.values()))
    kept = bool(value_of)
    segments, taken = [], set()
    for i, tissue in enumerate(plan.anatomy.tissues):
        if i == 0:
            continue
        value = i if not kept else value_of[i] if i in value_of else next(free)
        identity = labelled.ids.get(code_of.get(i)) or f"Segment_{value}"
        while identity in taken:
            identity += "_"
        taken.add(identity)
        # A structure keeps the input's colour and terminology; what that has not comes from the plan, then from the role.
        given = labelled.structures.get(code_of.get(i))
        color = (given and given.color) or tissue.color or presets.ROLE_COLORS[tissue.role]
        terms = (given and given.terminology) or tissue.terminology or (_MASS if tissue.is_tumor else _TISSUE)
        segments.append(volumes.Segment(tissue.name, value, 0, identity, color, terms))
    return segments


def day_name(day: float) -> str:
    """30 -> "0030", 30.5 -> "0030.5"."""
    whole, fraction = f"{float(day):.6f}".split(".")
    return whole.zfill(4) + ("." + fraction.rstrip("0") if fraction.strip("0") else "")


@contextlib.contextmanager
def results_folder(out: Path):
    """A folder to write results into; they move to `out` when all are complete, and nothing stays behind otherwise."""
    from . import volumes

    new = not out.exists()
    made, staging = [], None
    try:
        try:
            if not new and not out.is_dir():
                raise volumes.VolumeError(f"{out} is a file; give a folder for the results")
            for folder in reversed([out, *out.parents]):
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
            staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=out))
            yield staging
            with _uninterrupted():
                _move_in(staging, out)
                made.clear()
        except OSError as error:
            raise volumes.VolumeError(f"cannot write to {out}: {(error.strerror or str(error)).lower()}") from None
    finally:
        with _uninterrupted():
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _move_in(staging: Path, out: Path) -> None:
    """Moves the results to their folder; what they replace is set aside first and comes back if one cannot be placed."""
    aside = Path(tempfile.mkdtemp(prefix=".former-", dir=out))
    new, replaced, placed = sorted(path.name for path in staging.iterdir()), [], []
    try:
        for name in sorted({*new, *_former_volumes(out)}):
            if (out / name).is_dir():
                raise IsADirectoryError(0, f"{name} is a folder there")
            if (out / name).exists():
                os.replace(out / name, aside / name)
                replaced.append(name)
        for name in new:
            os.replace(staging / name, out / name)
            placed.append(name)
    except OSError:
        for name in placed:
            os.replace(out / name, staging / name)
        for name in replaced:
            os.replace(aside / name, out / name)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _former_volumes(out: Path) -> list[str]:
    """The volumes that an earlier run lists in its run.json: they go, lest two results mix in one folder."""
    try:
        files = json.loads((out / "run.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [
        name for name in (files if isinstance(files, list) else ())
        if isinstance(name, str) and name == os.path.basename(name)
        and name.startswith(("day_", "probability_", "difference_", "margin_")) and name.endswith(".nrrd")
    ]


def sha256(path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
