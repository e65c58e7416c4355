"""`anatomydt benchmark`: every method on the same data, folds and budget; tables, tests, a figure.

Settings are tried on data of another seed that no table ever sees (of a folder: on the training cases of its first fold),
`TRIALS` for every method, with half of the table's budget; the best on validation is used on every fold. The budget is CPU
seconds of training, the same for every method and fold: a cheap method takes more steps. A budget of steps can be asked for.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import identified, sweeps, tables
from .jobs import BenchmarkError, Job, ceiling, opened, run_all, split
from .methods import ABLATIONS, METHODS, TRIALS, TWIN
from .sources import GENERATED, Source, source_of
from .weights import made_folder

# Of training per method and fold, CPU seconds: in full and with --quick.
SECONDS, QUICK_SECONDS = 120.0, 25.0
# More steps than any budget of seconds is good for.
MANY_STEPS = 1_000_000
VALIDATIONS = 10
# Added to the seed for the data that settings are tried on.
TUNING_SEED = 10_000
STUDIES = ("methods", "ablation", *sweeps.STUDIES)


@dataclass(frozen=True)
class Plan:
    """What is asked for. source: the data; training: what differs from `training.TrainConfig`; trials: settings tried"""

    source: Source
    methods: tuple[str, ...]
    studies: tuple[str, ...]
    folds: int
    seed: int
    trials: int
    training: dict
    processes: int
    folder: Path
    quick: bool = False


def parse(arguments: argparse.Namespace) -> Plan:
    """The plan of a command line; raises BenchmarkError, and DataError for the data."""
    quick = arguments.quick
    known = [key for key, method in METHODS.items() if method.part_of is None]
    methods = tuple(dict.fromkeys(arguments.methods or known))
    for key in methods:
        if key not in METHODS:
            raise BenchmarkError(f"there is no method '{key}'; write some of {', '.join(METHODS)}")
    for name, value, least in (("--folds", arguments.folds, 2), ("--cases", arguments.cases, 4), ("--steps", arguments.steps, 1),
                               ("--seconds", arguments.seconds, 1), ("--trials", arguments.trials, 1), ("--processes", arguments.processes, 1)):
        if value is not None and not least <= value < math.inf:
            raise BenchmarkError(f"{name} must be at least {least}, not {value}")
    if arguments.trials is not None and arguments.trials > TRIALS:
        raise BenchmarkError(f"--trials is at most {TRIALS}, the number of settings that every method has to try")
    few = 40 if quick and arguments.dataset in GENERATED else None
    source = source_of(arguments.dataset, seed=arguments.seed, cases=arguments.cases or few, size=arguments.size, noise_mm=arguments.noise,
                       brains=arguments.brains, spacing_mm=arguments.spacing)
    # every method takes all of its budget: validation on a few cases is too noisy to end a run by
    training = {"steps": arguments.steps or MANY_STEPS, "patience": 1000, "validations": VALIDATIONS}
    if arguments.seconds or not arguments.steps:
        training["seconds"] = arguments.seconds or (QUICK_SECONDS if quick else SECONDS)
    folds = arguments.folds or (2 if quick else 5)
    folder = Path(arguments.out)
    if folder.exists() and not folder.is_dir():
        raise BenchmarkError(f"--out names the file {folder}; give a folder")
    return Plan(source, methods, tuple(dict.fromkeys(arguments.study or ["methods"])), folds, arguments.seed,
                arguments.trials or (1 if quick else TRIALS), training, arguments.processes, folder, quick)


def tuning_jobs(plan: Plan, methods) -> list[Job]:
    """For every method that learns, a job per trial."""
    source = plan.source.changed(seed=plan.seed + TUNING_SEED) if plan.source.generated else plan.source
    half = {**plan.training, "steps": max(1, plan.training["steps"] // 2)}
    if "seconds" in half:
        half["seconds"] /= 2
    return [
        Job("tuning", f"{key}-{i}", key, source, 0, plan.folds, plan.seed, settings=trial, training=half, tuning=True)
        for key in methods if plan.trials > 1 for i, trial in enumerate(METHODS[key].trials[:plan.trials])
    ]


def chosen_settings(plan: Plan, methods, say) -> dict[str, dict]:
    """Per method, the trial with the best validation score; an ablation takes those of the method that it is part of."""
    owners = {METHODS[key].part_of or key for key in methods}
    jobs = tuning_jobs(plan, [key for key in METHODS if key in owners and METHODS[key].trials])
    records = run_all(jobs, plan.folder / "tuning", plan.processes, say)
    found = {key: (METHODS[key].trials or ({},))[0] for key in owners}
    tried: dict[str, list] = {}
    for job, record in zip(jobs, records):
        tried.setdefault(job.method, []).append((record["validation_dice"], job.settings))
    for key, results in tried.items():
        found[key] = max(results, key=lambda r: r[0])[1]
    return {key: found[METHODS[key].part_of or key] for key in methods}


def method_jobs(plan: Plan, study: str, methods, settings) -> list[Job]:
    return [
        Job(study, METHODS[key].name, key, plan.source, fold, plan.folds, plan.seed, settings=settings[key], training=plan.training)
        for key in methods for fold in range(plan.folds)
    ]


def rows_of(jobs, records, anatomy, trees) -> list[tables.Row]:
    """A row per name of the jobs, in their order, its folds together."""
    names = dict.fromkeys(job.row for job in jobs)
    made = []
    for name in names:
        own = [r for job, r in zip(jobs, records) if job.row == name]
        made.append(tables.row(name, [r["cases"] for r in own], anatomy.tumors, trees, own))
    return made


def ceiling_row(plan: Plan, dataset) -> list[tables.Row]:
    """The generator's own noise-free visits as a row that is not ranked; nothing for data without a known truth."""
    jobs = [Job("", "", "", plan.source, fold, plan.folds, plan.seed) for fold in range(plan.folds)]
    folds = [ceiling(dataset, split(dataset, job)[2]) for job in jobs]
    return [tables.row("Ceiling (the generator's truth)", folds, dataset.anatomy.tumors, dataset.tree_classes, ranked=False)] if all(folds) else []


def benchmark(plan: Plan, say=None) -> dict:
    """Runs the studies of a plan, prints and writes their tables. Study -> rows, or rows by point."""
    began = time.monotonic()
    dataset = opened(plan.source)
    for sentence in dataset.settings.get("left_out", []):
        print(f"warning: {sentence}", file=sys.stderr)
    # refused before anything is trained
    dataset.folds(plan.folds, plan.seed)
    for study in plan.studies:
        if study in sweeps.STUDIES and study != "sensitivity":
            sweeps.points(study, plan)
    made_folder(plan.folder)
    results = {}
    for study in plan.studies:
        if study in ("methods", "ablation"):
            methods = plan.methods if study == "methods" else ABLATIONS
            settings = chosen_settings(plan, methods, say)
            jobs = method_jobs(plan, study, methods, settings)
            records = run_all(jobs, plan.folder / study, plan.processes, say)
            rows = rows_of(jobs, records, dataset.anatomy, dataset.tree_classes)
            if study == "methods":
                rows += ceiling_row(plan, dataset)
            results[study] = rows
            _write_study(plan, study, dataset, rows, settings, records)
        else:
            settings = chosen_settings(plan, sweeps.methods(study, plan.methods), say)
            table, lines, results[study] = sweeps.run(study, plan, dataset, settings, say)
            text = f"{heading(plan, study, dataset)}\n{table}"
            write_files(plan.folder, study, text, tables.csv_text(lines))
            print(text)
    print(f"{time.monotonic() - began:.0f} s, tables in {plan.folder}")
    return results


def heading(plan: Plan, study: str, dataset) -> str:
    """What a table is of: data, folds, seed, budget."""
    quick = " (--quick: fewer cases, steps and trials; not the benchmark's figures)" if plan.quick else ""
    return (
        f"## {dataset.name}: {study}{quick}\n\n{sweeps.cases(study, plan, dataset)} cases of {' x '.join(map(str, dataset.shape))} voxels, "
        f"{plan.folds} folds by patient, seed {plan.seed}; {_budget(plan.training)} of training per method and fold, "
        f"{plan.trials} setting{'s' if plan.trials > 1 else ''} tried per method.\n"
    )


def _budget(training: dict) -> str:
    """The budget in words: steps, CPU seconds, or whichever comes first."""
    steps = "" if training["steps"] == MANY_STEPS else f"{training['steps']} steps"
    seconds = f"{training['seconds']:g} CPU seconds" if "seconds" in training else ""
    return " or ".join(part for part in (steps, seconds) if part)


def _write_study(plan, study, dataset, rows, settings, records) -> None:
    names = dataset.anatomy.names
    lost = "lost: structures that only one side has; their DSC and clDice count as 0 and their HD95 as the image's diagonal.\n"
    text = "\n".join((
        heading(plan, study, dataset), tables.markdown(rows),
        "Mean ± standard deviation over the folds' means; class 0 is not scored. p: two-sided Wilcoxon signed-rank test over the\n"
        "cases against the best other row, not corrected for many tests. Seconds are CPU seconds of one thread.\n" + lost,
        tables.tests_table(rows), tables.class_table(rows, names), _learned(records, dataset), _described(settings, records, dataset),
    ))
    write_files(plan.folder, study, text, tables.csv_text(tables.csv_lines(rows, names, study)))
    tables.figure(rows, f"{dataset.name}: {study}" + (" (quick)" if plan.quick else ""), plan.folder / f"{study}.png")
    print(text)


def _learned(records, dataset) -> str:
    """What the whole twin learned; nothing of a table without it."""
    own = [r for r in records if r["job"]["method"] == TWIN and "learned" in r]
    return identified.table(own, dataset.settings, dataset.anatomy.names) if own else ""


def _described(settings, records, dataset) -> str:
    """Settings, steps and the generator's own, so that the table can be made again."""
    lines = ["Settings:\n"]
    for key, chosen in settings.items():
        own = [r for r in records if r["job"]["method"] == key and r["steps"]]
        if own:
            steps = ", ".join(f"{r['best_step']}/{r['steps']}" for r in own)
            lines.append(f"* {METHODS[key].name}: {json.dumps(chosen) if chosen else 'defaults'}; best step of steps per fold {steps}")
    return "\n".join(lines) + f"\n\nData: `{json.dumps(dataset.settings)}`\n"


def write_files(folder: Path, study: str, markdown: str, table: str) -> None:
    """Writes DIR/study.md and DIR/study.csv; raises BenchmarkError."""
    try:
        (folder / f"{study}.md").write_text(markdown, encoding="utf-8")
        (folder / f"{study}.csv").write_text(table, encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"{error.filename or folder} could not be written: {error.strerror or error}") from None


def main(arguments: argparse.Namespace) -> None:
    """The verb. Stopped with Ctrl-C, it says that what is done is kept, and exits with 130."""
    plan = parse(arguments)
    try:
        benchmark(plan, say=_Said())
    except KeyboardInterrupt:
        print(f"stopped; what was finished is kept in {plan.folder}: run the same command to go on", file=sys.stderr)
        raise SystemExit(130) from None


class _Said:
    """A line on stderr for each finished job, with the time that the rest of its study will take."""

    def __init__(self):
        self.began, self.done, self.first = time.monotonic(), 0, 0

    def __call__(self, done: int, of: int, job: Job, record: dict) -> None:
        if done <= self.done:
            self.began, self.first = time.monotonic(), done
        self.done = done
        left = (time.monotonic() - self.began) / max(1, done - self.first) * (of - done)
        print(f"{job.study} {done}/{of}: {job.row}, fold {job.fold + 1} of {job.folds}, validation DSC "
              f"{100 * record['validation_dice']:.2f}, {record['seconds_training']:.0f} CPU s; about {left / 60:.0f} min left", file=sys.stderr, flush=True)
