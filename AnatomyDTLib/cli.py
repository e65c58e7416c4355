"""The command line: `anatomydt forecast`, `anatomydt plan`, `anatomydt bench` (or `python -m AnatomyDTLib`).

Exit codes: 0; 2 for a user's mistake, with one sentence on stderr; 130 when stopped with Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from . import __version__, labelling, options, presets, shipped
from .inputs import matched, read_images, read_labelled, read_maps, table_of, text_of
from .outputs import results_folder, sha256, write_results
from .plan import Plan, PlanError

DEFAULT_DAYS = (30.0, 60.0, 90.0)
# What may be missing, by the name of its module.
PACKAGES = {
    "torch": "torch", "SimpleITK": "SimpleITK", "nibabel": "nibabel", "scipy": "scipy", "matplotlib": "matplotlib", "PIL": "pillow",
    "skimage": "scikit-image", "safetensors": "safetensors", "monai": "monai", "torchdiffeq": "torchdiffeq", "openpyxl": "openpyxl", "slicer": "slicer-core",
}
# A user's files or disk, not this program's fault.
FILE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def main(argv=None) -> int:
    """Runs a command; returns the exit code."""
    try:
        arguments = options.parser(VERBS).parse_args(argv)
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
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:      # a part of a package that is there, or of this one
            raise
        print(f"error: the package {PACKAGES[error.name]} is needed for this and is not installed: pip install {PACKAGES[error.name]}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in FILE_ERRORS:
            raise
        print(f"error: {error.filename or 'a file'} could not be read or written: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        if not isinstance(error, _user_errors()):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _user_errors() -> tuple:
    """The classes whose text is written for the user, of the modules that this run has loaded."""
    classes = [PlanError]
    texts = (
        ("engine", "ForecastError"), ("volumes", "VolumeError"), ("calibration.parameters", "CalibrationError"),
        ("learning.cases", "DataError"), ("learning.weights", "TrainingError"), ("learning.jobs", "BenchmarkError"),
    )
    for module, name in texts:
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
    return Plan(presets.completed(tissues, treatments, growth), treatments, days, infiltration_mm=tail, mass_effect=arguments.mass_effect or 0.0), index


def _plan(arguments) -> None:
    if arguments.segmentation:
        labelled = read_labelled(arguments.segmentation, arguments.labels, arguments.anatomy, arguments.anatomy_labels)
        structures = labelled.structures
        _say_warnings(labelled.warnings)
    elif arguments.anatomy:
        raise PlanError("--anatomy goes with --segmentation; give both")
    else:
        table = table_of(arguments.labels) or labelling.NUMBERINGS[labelling.DEFAULT_NUMBERING]
        structures = labelling.structures(table, table)
    plan, _ = _plan_for(arguments, structures)
    if arguments.out is None:
        sys.stdout.write(plan.to_json())
    else:
        from . import volumes

        volumes.write_bytes(arguments.out, plan.to_json().encode())
        print(f"wrote {arguments.out}")


def _calibrate(arguments) -> None:
    from . import calibration_cli

    progress = _Progress()
    try:
        lines, warnings = calibration_cli.run(arguments, progress)
    except KeyboardInterrupt:
        progress.close()
        print("stopped; the same command goes on from the last iteration", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        progress.close()
    _say_warnings(warnings)
    print("\n".join(lines))


def _benchmark(arguments) -> None:
    from .learning import benchmark

    benchmark.main(arguments)


def _train(arguments) -> None:
    from . import training_cli

    progress = _Progress()
    try:
        lines = training_cli.run(arguments, progress, _say_warnings)
    except KeyboardInterrupt:
        progress.close()
        print("stopped; --resume goes on from the last validation", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        progress.close()
    for line in lines:
        print(line)


def _bench(arguments) -> None:
    from . import bench

    if arguments.json and not os.path.isdir(os.path.dirname(arguments.json) or "."):
        raise PlanError(f"there is no folder for {arguments.json}")
    bench.main(["--json", arguments.json] if arguments.json else [])


def _compare(arguments) -> None:
    from . import compare_cli

    progress = _Progress()
    try:
        text, warnings, files = compare_cli.run(arguments, progress)
    finally:
        progress.close()
    _say_warnings(warnings)
    print(text)
    print(f"wrote {len(files)} files to {arguments.out}, among them comparison.md and comparison.png")


def _forecast(arguments) -> None:
    if not arguments.out:
        raise PlanError("--out is empty; name a folder for the results")
    begun = time.perf_counter()
    plan = None
    if arguments.plan is not None:
        for option in ("preset", "growth", "start_day", "mass_effect"):
            if getattr(arguments, option) is not None:
                raise PlanError(f"--{option.replace('_', '-')} and --plan exclude each other: the plan says it")
        plan = Plan.from_json(text_of(arguments.plan, "the plan"))
        if arguments.days is not None:
            plan = dataclasses.replace(plan, days=tuple(arguments.days))
    if arguments.weights is not None:
        if not os.path.isfile(shipped.path_of(arguments.weights)):      # said before a large file is read
            raise PlanError(f"there is no weights file {arguments.weights}, and no shipped weights of that name ({', '.join(shipped.NAMES)})")

    with results_folder(Path(arguments.out)) as staging:
        regions = ()
        if plan is not None:
            tissues = {n.casefold() for n in plan.anatomy.names}
            regions = tuple(n.casefold() for n in plan.map_names() if n.casefold() not in tissues)
        labelled = read_labelled(arguments.segmentation, arguments.labels, arguments.anatomy, arguments.anatomy_labels, regions)
        if plan is None:
            plan, index = _plan_for(arguments, labelled.structures)
        else:
            index = matched(plan, labelled)
        folder = Path(arguments.plan).parent if arguments.plan else Path()
        maps, map_files = read_maps(plan, labelled, folder)
        images = read_images(arguments.image, labelled)
        read = time.perf_counter()

        from . import engine, volumes

        progress = _Progress()
        try:
            result = engine.forecast(
                volumes.recoded(labelled.codes, index), labelled.volume.spacing_mm, plan, maps=maps,
                weights=arguments.weights, images=images, device=arguments.device, probabilities=arguments.probabilities,
                progress=progress,
            )
        finally:
            progress.close()
        computed = time.perf_counter()
        warnings = tuple(dict.fromkeys(labelled.warnings + tuple(result.warnings)))
        notes = list(labelled.notes)
        write_results(staging, result, labelled, index, notes)
        done = time.perf_counter()
        inputs = [*labelled.inputs, *map_files, *map(Path, images)] + ([Path(arguments.plan)] if arguments.plan else [])
        record = {
            "anatomydt": __version__,
            "inputs": {str(p): sha256(p) for p in inputs},
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


VERBS = {"forecast": _forecast, "plan": _plan, "compare": _compare, "calibrate": _calibrate, "benchmark": _benchmark, "train": _train, "bench": _bench}


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
            room = max(0, shutil.get_terminal_size().columns - 40)
            sys.stderr.write(f"\r\x1b[K[{'#' * filled}{'.' * (30 - filled)}] {step:3d} % {text[:room]}")
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
