"""The command line: `anatomydt forecast`, `anatomydt plan`, `anatomydt bench` (or `python -m AnatomyDTLib`).

Exit codes: 0; 2 for a user's mistake, with one sentence on stderr; 130 when stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from . import __version__, labelling, presets, shipped
from .inputs import matched, read_images, read_labelled, read_maps, table_of, text_of
from .outputs import results_folder, sha256, write_results
from .plan import Plan, PlanError

DEFAULT_DAYS = (30.0, 60.0, 90.0)
# Where the name of a module is not that of its package.
PACKAGES = {"skimage": "scikit-image", "PIL": "pillow"}


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
        to.add_argument("--mass-effect", type=float, metavar="F", help="fraction of the growth that pushes tissue aside (default: 0; slow)")
        to.add_argument("--days", type=float, nargs="+", metavar="DAY", help="days to report (default: 30 60 90)")

    verb = verbs.add_parser("forecast", help="forecast a segmentation", description="Forecast a segmentation and write the results to a folder.")
    verb.add_argument("segmentation", metavar="SEGMENTATION", help=files)
    verb.add_argument("--plan", metavar="PLAN.json", help="tissues, treatments and days; see `anatomydt plan`")
    verb.add_argument("--out", metavar="DIR", required=True, help="folder for the results")
    labels(verb)
    treatment(verb, None)
    verb.add_argument("--weights", metavar="FILE", help="weights of a trained twin or growth network: a file (.safetensors), or glioma-sim")
    verb.add_argument(
        "--image", metavar="FILE", action="append", default=[],
        help="an image that the weights were trained with, on the voxels of the segmentation; one --image for each, in the order of training")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.add_argument("--probabilities", action="store_true", help="also write the tumor's probability of each day")
    verb.set_defaults(run=_forecast)

    verb = verbs.add_parser("plan", help="write a plan to start from", description="Write a plan to start from.")
    verb.add_argument("--segmentation", metavar="FILE", help="take the tissues from this file")
    labels(verb)
    treatment(verb, "none")
    verb.add_argument("--out", metavar="FILE", help="where to write it (default: the terminal)")
    verb.set_defaults(run=_plan)

    verb = verbs.add_parser("compare", help="compare plans for one patient", description="Compare plans for one patient and write the results to a folder.")
    verb.add_argument("segmentation", metavar="SEGMENTATION", help=files)
    verb.add_argument("--plans", metavar="PLAN.json", nargs="+", required=True, help="plans to compare; the maps show how each differs from the first")
    verb.add_argument("--twin", metavar="TWIN.json", help="this patient's calibrated parameters; without it the plans' own, and no uncertainty")
    verb.add_argument("--members", type=int, metavar="N", help="draws of the twin's parameters (default: 20)")
    verb.add_argument("--seed", type=int, metavar="N", help="of the draws (default: 0)")
    verb.add_argument("--out", metavar="DIR", required=True, help="folder for the results")
    labels(verb)
    verb.add_argument("--progression-factor", type=float, metavar="F", help="progression is F times the smallest volume (default: 2)")
    verb.add_argument("--measurable-ml", type=float, metavar="ML", help="smallest volume or new focus that counts as progression (default: 0.52)")
    verb.add_argument("--recurrence", metavar="FILE", help="a follow-up's segmentation: how much of its tumor radiotherapy margins cover")
    verb.add_argument("--recurrence-labels", metavar="NAME_OR_FILE", help="what its label values mean (default: as --labels)")
    verb.add_argument("--recurrence-day", type=float, metavar="DAY", help="day of the follow-up, one that a plan reports (default: the last)")
    verb.add_argument("--margin-mm", type=float, metavar="MM", help="uniform margin around the tumor (default: 15)")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.set_defaults(run=_compare)

    verb = verbs.add_parser("calibrate", help="fit a patient's parameters to visits", description="Fit the plan's parameters to a patient's visits, or update a stored twin.")
    verb.add_argument("baseline", metavar="BASELINE", help="segmentation of day 0")
    verb.add_argument("followups", metavar="FOLLOWUP@DAY", nargs="+", help="later segmentations with their days after the baseline, in order")
    verb.add_argument("--plan", metavar="PLAN.json", help="tissues, and the treatments given between the visits")
    verb.add_argument("--out", metavar="TWIN.json", required=True, help="where to write the twin")
    verb.add_argument("--update", metavar="TWIN.json", help="a twin of the same baseline: the follow-ups are new to it, its fit is the prior")
    verb.add_argument("--parameters", nargs="+", metavar="NAME", help="what to fit (default: diffusivity, growth, and the sensitivities to the plan's treatments)")
    verb.add_argument("--bounds", nargs="+", metavar="NAME=LOW:HIGH", help="bounds of parameters, in their units")
    verb.add_argument("--probability", nargs="+", metavar="FILE@DAY", help="probability maps of the tumor, fitted in place of that day's labels")
    verb.add_argument("--cellularity", nargs="+", metavar="FILE@DAY", help="maps of the tumor's density, 0 to 1, fitted in place of that day's labels")
    verb.add_argument("--weights", metavar="FILE", help="weights of a growth network (.safetensors), for --refine-network")
    verb.add_argument("--refine-network", action="store_true", help="also refine the last layer of --weights for this patient, beside the twin")
    verb.add_argument("--resample", action="store_true", help="bring follow-ups of another geometry onto the baseline's voxels")
    verb.add_argument("--starts", type=int, default=3, metavar="N", help="starting points of the search (default: 3)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the starting points (default: 0)")
    labels(verb)
    verb.set_defaults(run=_calibrate)

    def data(to):
        to.add_argument("--cases", type=int, metavar="N", help="how many cases to generate (default: 100, of brains 40)")
        to.add_argument("--size", type=int, nargs="+", metavar="N", help="voxels along each edge of a generated case, one number or one for each of two or three axes (default: 96 96, of brains 48 48 48)")
        to.add_argument("--noise", type=float, metavar="MM", help="how far an observer's borders stray in generated cases (default: 0)")
        to.add_argument("--brains", metavar="FOLDER", help="label maps of healthy brains, for the dataset brains")
        to.add_argument("--spacing", type=float, nargs="+", metavar="MM", help="voxel edges that a folder's cases are brought to: one, or z y x")

    verb = verbs.add_parser("benchmark", help="compare the learned twin with other methods", description="Train and score every method on the same cases, folds and budget.")
    verb.add_argument("dataset", metavar="DATASET", help="voronoi, vessel, brains, or a folder of cases")
    verb.add_argument("--out", metavar="DIR", required=True, help="folder for tables and figures, and for what the same command goes on from")
    verb.add_argument("--methods", nargs="+", metavar="NAME", help="rows of the table (default: all)")
    studies = ("methods", "ablation", "data", "extrapolation", "visits", "sensitivity")
    verb.add_argument("--study", nargs="+", choices=studies, help="what to run (default: methods)")
    verb.add_argument("--folds", type=int, metavar="N", help="parts of the cross-validation (default: 5)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the data, the folds and the training (default: 0)")
    data(verb)
    verb.add_argument("--seconds", type=float, metavar="S", help="CPU seconds of training per method and fold (default: 120)")
    verb.add_argument("--steps", type=int, metavar="N", help="longest training in steps of 8 cases, in place of seconds or beside them")
    verb.add_argument("--trials", type=int, metavar="N", help="settings that are tried for each method (default: 4)")
    verb.add_argument("--processes", type=int, default=2, metavar="N", help="jobs side by side, one thread each (default: 2)")
    verb.add_argument("--quick", action="store_true", help="every row in ten minutes: 40 cases, 2 folds, short training")
    verb.set_defaults(run=_benchmark)

    verb = verbs.add_parser("train", help="train the learned twin", description="Train the learned twin on a dataset; under torchrun on several processes.")
    verb.add_argument("dataset", metavar="DATASET", help="voronoi, vessel, brains, or a folder of cases")
    verb.add_argument("--out", metavar="DIR", required=True, help="folder for the weights, the checkpoint and the curves")
    data(verb)
    verb.add_argument("--steps", type=int, metavar="N", help="longest training (default: 400)")
    verb.add_argument("--batch", type=int, metavar="N", help="cases per step (default: as many as have a million voxels, at most 8)")
    verb.add_argument("--rate", type=float, metavar="R", help="learning rate (default: 0.003)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the data, the split and the training (default: 0)")
    parts = ("diffusion", "cross_diffusion", "growth_law", "treatment", "creep", "network", "topology")
    verb.add_argument("--without", nargs="+", choices=parts, help="parts of the twin or of its loss to leave out")
    verb.add_argument("--resume", action="store_true", help="go on with the training in the folder")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.set_defaults(run=_train)

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
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("AnatomyDTLib", "AnatomyDT"):
            raise
        print(f"error: the Python package '{error.name}' is needed for this and is not installed: pip install {PACKAGES.get(error.name, error.name)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'a file'} could not be read or written: {error.strerror or error}", file=sys.stderr)
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
        lines, warnings = training_cli.run(arguments, progress)
    except KeyboardInterrupt:
        progress.close()
        print("stopped; --resume goes on from the last validation", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        progress.close()
    _say_warnings(warnings)
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
