"""The command line: `anatomydt forecast`, `anatomydt plan`, `anatomydt bench` (or `python -m AnatomyDTLib`).

Exit codes: 0; 2 for a user's mistake, with one sentence on stderr; 130 when stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from . import __version__, labelling, presets
from .plan import Plan, PlanError

DEFAULT_DAYS = (30.0, 60.0, 90.0)
_LONGEST_TEXT = 16 << 20         # bytes of a plan or a label table


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="anatomydt", description="Forecast a patient's anatomy and tumor. Research use, not a medical device.")
    parser.add_argument("--version", action="version", version=f"anatomydt {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    numberings = ", ".join(labelling.NUMBERINGS)
    files = ".nii, .nii.gz, .nrrd, .seg.nrrd, .mha or .mhd"

    def labels(to):
        to.add_argument("--labels", metavar="NAME_OR_FILE", help=f"what the label values mean: {numberings}, or a JSON file")
        to.add_argument("--anatomy", metavar="FILE", help="label map of the anatomy that lies under the segmentation, e.g. from SynthSeg")
        to.add_argument("--anatomy-labels", metavar="NAME_OR_FILE", help="what its label values mean (default: its segment names, else synthseg)")

    def treatment(to, default):
        to.add_argument("--preset", choices=presets.REGIMES, default=default, help="treatment (default: none)")
        to.add_argument("--start-day", type=float, metavar="DAY", help="day on which it starts (default: 0)")
        to.add_argument("--growth", choices=tuple(presets.GROWTH_LAWS), help=f"growth law (default: {presets.DEFAULT_GROWTH})")
        to.add_argument("--days", type=float, nargs="+", metavar="DAY", help="days to report (default: 30 60 90)")

    verb = verbs.add_parser("forecast", help="forecast a segmentation", description="Forecast a segmentation and write the results to a folder.")
    verb.add_argument("segmentation", metavar="SEGMENTATION", help=files)
    verb.add_argument("--plan", metavar="PLAN.json", help="tissues, treatments and days; see `anatomydt plan`")
    verb.add_argument("--out", metavar="DIR", required=True, help="folder for the results")
    labels(verb)
    treatment(verb, None)
    verb.add_argument("--weights", metavar="FILE", help="weights of a learned twin (.safetensors)")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.add_argument("--probabilities", action="store_true", help="also write the tumor's probability of each day")
    verb.set_defaults(run=_forecast)

    verb = verbs.add_parser("plan", help="write a plan to start from", description="Write a plan to start from.")
    verb.add_argument("--segmentation", metavar="FILE", help="take the tissues from this file")
    labels(verb)
    treatment(verb, "none")
    verb.add_argument("--out", metavar="FILE", help="where to write it (default: the terminal)")
    verb.set_defaults(run=_plan)

    verb = verbs.add_parser("bench", help="measure speed and accuracy", description="Measure speed and accuracy on the reference problems.")
    verb.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    verb.set_defaults(run=_bench)
    return parser


def main(argv=None) -> int:
    """Runs a command; returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code or 0
    try:
        with _terminable():
            arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # else the flush at exit complains
        return 0
    except MemoryError:
        print("error: not enough memory; give fewer days or a coarser segmentation", file=sys.stderr)
        return 2
    except ValueError as error:
        if not isinstance(error, _user_errors()):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _user_errors() -> tuple:
    """The classes whose text is written for the user, of the modules that this run has loaded."""
    classes = [PlanError]
    for module, name in (("engine", "ForecastError"), ("volumes", "VolumeError")):
        loaded = sys.modules.get(f"{__package__}.{module}")
        classes += [getattr(loaded, name)] if loaded else []
    return tuple(classes)


@contextlib.contextmanager
def _terminable():
    """A polite kill cleans up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


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


# ---- what the label values mean


@dataclass(frozen=True)
class Labelled:
    """A segmentation, with the anatomy under it where one was given, in one numbering.

    volume: the segmentation as read
    codes: array of the volume's shape, values are keys of `structures`
    structures: code -> what it stands for; 0 is the background or the host
    values: code -> label value in the input, where the codes stand for one map's values; else empty
    ids: code -> segment ID of the input
    inputs: files that were read
    notes: what was taken for granted
    warnings: sentences for the user
    """

    volume: object
    codes: object
    structures: dict
    values: dict
    ids: dict
    inputs: tuple
    notes: tuple
    warnings: tuple


def _table(given: str | None):
    if given is None:
        return None
    if given in labelling.NUMBERINGS:
        return labelling.NUMBERINGS[given]
    if not os.path.exists(given):
        raise PlanError(f"'{given}' is neither a numbering ({', '.join(labelling.NUMBERINGS)}) nor a file")
    return labelling.read_table(_text_of(given, "the label table"), os.path.basename(given))


def _text_of(path, what: str) -> str:
    try:
        with open(path, "rb") as stream:
            data = stream.read(_LONGEST_TEXT + 1)
        if len(data) > _LONGEST_TEXT:
            raise PlanError(f"{what} {path} is larger than {_LONGEST_TEXT >> 20} MB")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PlanError(f"{what} {path} is not UTF-8 text") from None
    except OSError as error:
        raise PlanError(f"{what} {path} cannot be read: {(error.strerror or str(error)).lower()}") from None


def _labelled(arguments, regions=()) -> Labelled:
    """Reads the segmentation and the anatomy; segments named in `regions` are not tissues."""
    from . import volumes

    volume = volumes.read_labels(arguments.segmentation)
    table, notes, warnings = _table(arguments.labels), [], list(volume.warnings)
    codes, found, values, ids = _coded(volume, table, regions, arguments.anatomy is None, warnings)
    if not any(found):
        raise PlanError(f"{volume.path.name} holds no label but 0: the segmentation is empty")
    inputs = [volume.path]
    if table is None and not volume.segments:
        notes.append(f"label values were taken in the numbering '{labelling.DEFAULT_NUMBERING}' (no --labels, no segment names)")
    if arguments.anatomy is not None:
        below = volumes.read_labels(arguments.anatomy)
        volumes.same_geometry(volume, below)
        table = _table(arguments.anatomy_labels)
        if table is None and not below.segments:
            table = labelling.NUMBERINGS["synthseg"]
            notes.append("label values of the anatomy were taken in the numbering 'synthseg'")
        warnings += below.warnings
        lower_codes, lower, _, lower_ids = _coded(below, table, (), False, warnings)
        inputs.append(below.path)
        structures, of_lower, of_upper = labelling.overlaid(lower, found)
        ids = {**{of_lower[c]: i for c, i in lower_ids.items()}, **{of_upper[c]: i for c, i in ids.items()}}
        lower_codes, codes = volumes.recoded(lower_codes, of_lower), volumes.recoded(codes, of_upper)
        found, values, codes = structures, {}, volumes.overlaid(lower_codes, codes)
        notes.append(f"{volume.path.name} was laid over {below.path.name}")
    if found[0] == labelling.HOST:
        warnings.append(
            f"{volume.path.name} has no tissue that a tumor can grow into: everything outside its labels is taken as brain; "
            "give the anatomy with --anatomy"
        )
    return Labelled(volume, codes, found, values, ids, tuple(inputs), tuple(notes), tuple(warnings))


def _coded(volume, table, regions, needs_host, warnings):
    """(codes, code -> Structure, code -> label value, code -> segment ID) of one file."""
    from . import volumes

    name = volume.path.name
    tissues = [s for s in volume.segments if s.name.casefold() not in regions]
    skipped = [s for s in volume.segments if s.name.casefold() in regions]
    if len(volume.layers) == 1:
        array = volume.array
        for segment in skipped:
            hidden = int(volume.mask(segment).sum())
            array = volumes.without(array, segment.value)
            if hidden:
                warnings.append(f"what lies under the region '{segment.name}' is not in {name}: its {hidden} voxels are taken as label 0")
        named = {s.value: (s.name, s.color, s.terminology) for s in tissues}
        found = labelling.structures(volumes.labels_in(array), table, named, name, needs_host)
        return array, found, {v: v for v in found}, {s.value: s.id for s in tissues if s.id}
    if table is not None:
        raise PlanError(f"the segments of {name} overlap, so one label value has several meanings: leave --labels out and name the segments")
    number = {n: s for n, s in enumerate(tissues, start=1) if volume.mask(s).any()}
    named = {n: (s.name, s.color, s.terminology) for n, s in number.items()}
    if not named:
        raise PlanError(f"{name} holds no label but 0: the segmentation is empty")
    found = labelling.structures(number, None, named, name, needs_host)
    order = sorted(number, key=lambda n: (labelling.rank(found[n].role), n))
    array, covered = volumes.painted([(volume.mask(number[n]), n) for n in order])
    if covered:
        warnings.append(f"segments of {name} overlap in {covered} voxels; tumor, necrosis and cavity were laid over the tissues around them")
    return array, found, {}, {n: s.id for n, s in number.items() if s.id}


# ---- the verbs


def _treatments(arguments, days):
    start = 0.0 if arguments.start_day is None else arguments.start_day
    treatments = presets.regime(arguments.preset or "none", days[-1], start)
    if not treatments and arguments.preset not in (None, "none"):
        raise PlanError(f"no treatment of '{arguments.preset}' from day {start:g} lies before the last day {days[-1]:g}; extend --days")
    return treatments


def _plan_for(arguments, structures) -> tuple[Plan, dict[int, int]]:
    """(a plan from the command line's choices, code -> tissue index)."""
    days = tuple(arguments.days or DEFAULT_DAYS)
    growth = arguments.growth or presets.DEFAULT_GROWTH
    tissues, index = labelling.tissues(structures, growth)
    Plan(presets.completed(tissues, (), growth), (), days)        # refuses bad days before a schedule is cut at the last
    treatments = _treatments(arguments, days)
    tail = presets.infiltration_mm(growth)
    return Plan(presets.completed(tissues, treatments, growth), treatments, days, infiltration_mm=tail), index


def _matched(plan: Plan, labelled: Labelled) -> dict[int, int]:
    """code -> index of the plan's tissue of the same name; raises PlanError naming what the plan lacks."""
    names = {name.casefold(): i for i, name in enumerate(plan.anatomy.names)}
    index, missing = {}, []
    for code, structure in labelled.structures.items():
        if code == 0 and structure.role == "background":
            index[0] = 0
        elif structure.name.casefold() in names:
            index[code] = names[structure.name.casefold()]
        else:
            missing.append(structure.name)
    if missing:
        raise PlanError(
            f"the plan lacks the tissue {', '.join(repr(m) for m in missing[:6])}{' and others' if len(missing) > 6 else ''} of "
            f"{labelled.volume.path.name} (it has {', '.join(plan.anatomy.names)}); write a plan for this file with "
            "`anatomydt plan --segmentation`, or name its labels with --labels"
        )
    return index


def _plan(arguments) -> None:
    if arguments.segmentation:
        labelled = _labelled(arguments)
        structures = labelled.structures
        _say_warnings(labelled.warnings)
    elif arguments.anatomy:
        raise PlanError("--anatomy goes with --segmentation; give both")
    else:
        table = _table(arguments.labels) or labelling.NUMBERINGS[labelling.DEFAULT_NUMBERING]
        structures = labelling.structures(table, table)
    plan, _ = _plan_for(arguments, structures)
    if arguments.out is None:
        sys.stdout.write(plan.to_json())
    else:
        from . import volumes

        volumes.write_bytes(arguments.out, plan.to_json().encode())
        print(f"wrote {arguments.out}")


def _bench(arguments) -> None:
    from . import bench

    bench.main(["--json", arguments.json] if arguments.json else [])


def _forecast(arguments) -> None:
    begun = time.perf_counter()
    plan = None
    if arguments.plan is not None:
        for option in ("preset", "growth", "start_day"):
            if getattr(arguments, option) is not None:
                raise PlanError(f"--{option.replace('_', '-')} and --plan exclude each other: the plan says it")
        plan = Plan.from_json(_text_of(arguments.plan, "the plan"))
        if arguments.days is not None:
            plan = dataclasses.replace(plan, days=tuple(arguments.days))
    if arguments.weights is not None:
        if not os.path.isfile(arguments.weights):      # said before a large file is read
            raise PlanError(f"there is no weights file {arguments.weights}")

    with _results(Path(arguments.out)) as staging:
        regions = ()
        if plan is not None:
            tissues = {n.casefold() for n in plan.anatomy.names}
            regions = tuple(n.casefold() for n in plan.map_names() if n.casefold() not in tissues)
        labelled = _labelled(arguments, regions)
        if plan is None:
            plan, index = _plan_for(arguments, labelled.structures)
        else:
            index = _matched(plan, labelled)
        folder = Path(arguments.plan).parent if arguments.plan else Path()
        maps, map_files = _maps(plan, labelled, folder)
        read = time.perf_counter()

        from . import engine, volumes

        progress = _Progress()
        try:
            result = engine.forecast(
                volumes.recoded(labelled.codes, index), labelled.volume.spacing_mm, plan, maps=maps,
                weights=arguments.weights, device=arguments.device, probabilities=arguments.probabilities, progress=progress,
            )
        finally:
            progress.close()
        computed = time.perf_counter()
        warnings = tuple(dict.fromkeys(labelled.warnings + tuple(result.warnings)))
        notes = list(labelled.notes)
        _write_results(staging, result, labelled, index, notes)
        done = time.perf_counter()
        inputs = [*labelled.inputs, *map_files] + ([Path(arguments.plan)] if arguments.plan else [])
        record = {
            "anatomydt": __version__,
            "inputs": {str(p): _sha256(p) for p in inputs},
            "days": [float(d) for d in result.days],
            "volume_ml": {t.name: [round(float(v), 4) for v in result.volume_ml[:, k]] for k, t in enumerate(plan.anatomy.tissues) if k},
            "run": result.run,
            "seconds": {"reading": round(read - begun, 3), "forecast": round(computed - read, 3), "writing": round(done - computed, 3)},
            "warnings": list(warnings),
            "notes": notes,
            "plan": json.loads(plan.to_json()),
            "files": sorted([p.name for p in staging.iterdir()] + ["run.json"]),
        }
        volumes.write_bytes(staging / "run.json", (json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n").encode())
    _say_warnings(warnings)
    _say(arguments.out, result, notes, record["files"])


def _maps(plan: Plan, labelled: Labelled, folder: Path):
    """(name -> array, files read) of the maps that the treatments name: segments of the input, or files beside the plan."""
    import numpy as np

    from . import volumes

    maps, files = {}, []
    volume = labelled.volume
    for name in plan.map_names():
        segment = next((s for s in volume.segments if s.name.casefold() == name.casefold()), None)
        code = next((c for c, s in labelled.structures.items() if s.name.casefold() == name.casefold()), None)
        if segment is not None:
            maps[name] = volume.mask(segment)
        elif code is not None:
            maps[name] = labelled.codes == code
        else:
            path = folder / name
            if not path.is_file():
                raise PlanError(f"the plan names the map '{name}', which is neither a segment of {volume.path.name} nor a file beside the plan")
            other = volumes.read(path)
            volumes.same_geometry(other, volume)
            if not np.isfinite(other.layers).all():
                raise PlanError(f"the map {path.name} holds values that are not numbers (NaN or infinite)")
            maps[name] = other.layers.any(axis=0) if len(other.layers) > 1 else other.array
            files.append(path)
    return maps, files


def _write_results(staging: Path, result, labelled: Labelled, index, notes) -> None:
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
        color = tissue.color or presets.ROLE_COLORS[tissue.role]
        segments.append(volumes.Segment(tissue.name, value, 0, identity, color, tissue.terminology or (_MASS if tissue.is_tumor else _TISSUE)))
    return segments


# Slicer's own entries for "a mass" and for "some tissue"
_TERMS = "Segmentation category and type - 3D Slicer General Anatomy list~{}~^^~Anatomic codes - DICOM master list~^^~^^"
_MASS = _TERMS.format("SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass")
_TISSUE = _TERMS.format("SCT^85756007^Tissue~SCT^85756007^Tissue")


def day_name(day: float) -> str:
    """30 -> "0030", 30.5 -> "0030.5"."""
    whole, fraction = f"{float(day):.6f}".split(".")
    return whole.zfill(4) + ("." + fraction.rstrip("0") if fraction.strip("0") else "")


@contextlib.contextmanager
def _results(out: Path):
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
                _remove_former(out)
                for path in sorted(staging.iterdir()):
                    os.replace(path, out / path.name)
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


def _remove_former(out: Path) -> None:
    """Removes the day files that an earlier run lists in its run.json, lest two forecasts mix in one folder."""
    try:
        files = json.loads((out / "run.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in files if isinstance(files, list) else ():
        if isinstance(name, str) and name == os.path.basename(name) and name.startswith(("day_", "probability_")) and name.endswith(".nrrd"):
            with contextlib.suppress(OSError):
                (out / name).unlink()


def _sha256(path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---- the terminal


class _Progress:
    """A bar on a terminal, a plain line every tenth otherwise; both on stderr."""

    def __init__(self):
        self.bar = sys.stderr.isatty()
        self.shown = -1

    def __call__(self, fraction: float, text: str = "") -> None:
        step = int(min(1.0, max(0.0, fraction)) * (100 if self.bar else 10))
        if step == self.shown:
            return
        self.shown = step
        if self.bar:
            filled = step * 30 // 100
            sys.stderr.write(f"\r\x1b[K[{'#' * filled}{'.' * (30 - filled)}] {step:3d} % {text[:40]}")
        else:
            sys.stderr.write(f"{step * 10:3d} % {text}\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self.bar and self.shown >= 0:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _say_warnings(warnings) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _say(out, result, notes, files) -> None:
    from . import report

    for day, volume in zip(result.days, report.tumor_volume_ml(result)):
        print(f"day {day:g}: tumor {volume:.2f} mL")
    for note in notes:
        print(f"note: {note}")
    days = [f for f in files if f.startswith(("day_", "probability_"))]
    print(f"wrote {', '.join(f for f in files if f not in days)} and {len(days)} volumes to {out}")
