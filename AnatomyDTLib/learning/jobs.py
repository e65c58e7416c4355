"""One row of a benchmark on one fold: trained, scored, kept in a file, and not computed again.

A job is everything that decides its result, as JSON: the data with their seed, the method, its settings, the training,
the fold. Its file is named by a digest of that, so that a folder may hold the results of any settings and a run that was
stopped goes on where it was. A job's result does not depend on the other jobs, nor on how many run side by side.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from . import evaluation, methods, training
from .batches import side_by_side
from .cases import Case, Dataset
from .sources import Source
from .weights import made_folder


class BenchmarkError(ValueError):
    """A benchmark that cannot be run; the text is the sentence the user reads."""


@functools.cache
def program() -> str:
    """The version of this package and a digest of its source text, which decides a result with the job."""
    top, found = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(top.rglob("*.py")):
        found.update(path.relative_to(top).as_posix().encode() + path.read_bytes())
    return f"{__version__} {found.hexdigest()[:12]}"


@dataclass(frozen=True)
class Job:
    """study, row: where its result belongs; method: key of `methods.METHODS`

    source: the data to train and test on
    fold, folds, seed: of the split by patient; train_cases: how many of the fold's own, None for all
    kept_visits: chance that a later visit of a training case is there (the last one that is left always is)
    settings: of the method; training: of `training.TrainConfig`, what differs from its defaults
    tuning: only the validation score is wanted
    variants: name -> what is changed in the trained model before it is scored once more (`_varied`)
    version: of this program; the results of another are not taken over
    """

    study: str
    row: str
    method: str
    source: Source
    fold: int = 0
    folds: int = 5
    seed: int = 0
    train_cases: int | None = None
    kept_visits: float = 1.0
    settings: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    tuning: bool = False
    variants: dict = field(default_factory=dict)
    version: str = field(default_factory=program)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def file(self) -> str:
        words = "".join(c if c.isalnum() else "-" for c in f"{self.study}-{self.row}")
        return f"{words.lower()}-fold{self.fold}-{hashlib.sha256(self.to_json().encode()).hexdigest()[:12]}.json"


def split(dataset: Dataset, job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(train, validation, test) of a job: the fold's, with as many of its training cases as the job may see.

    Of n cases one in eight, at least one and all of its patient, validates; the same cases for every method, and those of a
    small n are among those of a larger one.
    """
    train, validation, test = dataset.folds(job.folds, job.seed)[job.fold]
    if job.train_cases is None:
        return train, validation, test
    if not 2 <= job.train_cases <= len(train) + len(validation):
        raise BenchmarkError(
            f"{job.train_cases} training cases were asked for; give 2 to {len(train) + len(validation)}, what a fold of "
            f"{len(dataset)} cases has"
        )
    rest = np.sort(np.concatenate((train, validation)))
    owner = np.array([dataset.cases[int(i)].patient for i in rest])
    patients = np.random.default_rng((job.seed, job.fold)).permutation(np.unique(owner))
    chosen = np.concatenate([rest[owner == patient] for patient in patients])[:job.train_cases]
    held = {dataset.cases[int(i)].patient for i in chosen[:max(1, round(job.train_cases / 8))]}
    aside = np.array([dataset.cases[int(i)].patient in held for i in chosen])
    if aside.all():
        raise BenchmarkError(f"{job.train_cases} training cases are of one patient, who cannot be trained on and validate too; ask for more")
    return np.sort(chosen[~aside]), np.sort(chosen[aside]), test


def thinned(dataset: Dataset, kept_visits: float, seed: int) -> Dataset:
    """The dataset with later visits left out at random; every case keeps its first visit and one later one."""
    if kept_visits >= 1:
        return dataset
    cases = []
    for i, case in enumerate(dataset.cases):
        rng = np.random.default_rng((seed, i))
        later = np.arange(1, len(case.days))
        kept = later[rng.random(len(later)) < kept_visits]
        cases.append(_at_visits(case, kept if len(kept) else later[[rng.integers(len(later))]]))
    return replace(dataset, cases=tuple(cases))


def _at_visits(case: Case, later) -> Case:
    """A case with its first visit and these later ones, and what was done until the last of them."""
    at = [0, *(int(v) for v in later)]
    last = case.days[at[-1]]
    given = tuple(t for t in case.treatments if max(t.event_days()) <= last)
    truth = None if case.truth is None else case.truth[at]
    return replace(case, days=tuple(case.days[v] for v in at), labels=case.labels[at], truth=truth, treatments=given)


@functools.lru_cache(maxsize=8)
def opened(source: Source) -> Dataset:
    """The data of a source, made or read once per process."""
    return source.open()


def run(job: Job) -> dict:
    """Trains and scores; the record that is kept. Raises BenchmarkError when the program is no longer the job's."""
    if job.version != program():
        raise BenchmarkError("the program was changed while the benchmark ran; run the same command again")
    dataset = opened(job.source)
    train, validation, test = split(dataset, job)
    seed = int(np.random.default_rng((job.seed, job.fold, 77)).integers(2 ** 31))
    together = side_by_side(dataset)
    # no trial holds more side by side than the memory is for
    settings = {name: min(value, together) if name == "batch_size" else value for name, value in job.settings.items()}
    model, config = methods.build(job.method, dataset, settings, {"batch_size": together, **job.training, "seed": seed})
    record = {"job": json.loads(job.to_json()), "parameters": sum(p.numel() for p in model.parameters()), "train": len(train)}
    if record["parameters"]:
        own = thinned(dataset, job.kept_visits, job.seed)
        outcome = training.train(model, own, train, validation, config)
        record |= {
            "steps": outcome.steps, "best_step": outcome.best_step, "validation_dice": outcome.best_dice,
            "seconds_training": outcome.seconds,
            "curve": [(row["step"], row["dice"]) for row in outcome.history if row["dice"] is not None],
        }
    else:
        record |= {"steps": 0, "best_step": 0, "validation_dice": _validated(model, dataset, validation), "seconds_training": 0.0, "curve": []}
    if hasattr(model, "physical"):
        record["learned"] = model.physical()
    if job.tuning:
        return record
    began = time.process_time()
    predicted = training.predict(model, dataset, test, batch_size=side_by_side(dataset), longest_step_days=config.longest_step_days)
    record["seconds_inference"] = (time.process_time() - began) / len(test)
    record["cases"] = scored(dataset, predicted)
    record["variants"] = {name: _varied(model, dataset, test, config, change) for name, change in job.variants.items()}
    return record


def _varied(model, dataset, test, config, change: dict) -> list[dict]:
    """Scores of a changed model. change: "set", its attributes; "longest_step_days"; "tested", a `Source` of other data as a
    dict, of the same patients case by case"""
    model = copy.deepcopy(model)
    for name, value in change.get("set", {}).items():
        assert hasattr(model, name), name
        setattr(model, name, value)
    other = opened(Source(**change["tested"])) if "tested" in change else dataset
    assert [case.patient for case in other.cases] == [case.patient for case in dataset.cases]
    days = change.get("longest_step_days", config.longest_step_days)
    return scored(other, training.predict(model, other, test, batch_size=side_by_side(other), longest_step_days=days))


def _validated(model, dataset, validation) -> float:
    rows = scored(dataset, training.predict(model, dataset, validation, batch_size=side_by_side(dataset)), topology=False)
    return float(np.mean([np.mean([s["dice"] for s in row["scores"]]) for row in rows]))


def ceiling(dataset: Dataset, indices) -> list[dict]:
    """Scores of the noise-free later visits against the observed ones, where a generator knows them: what can be reached."""
    if any(dataset.cases[int(i)].truth is None for i in indices):
        return []
    return scored(dataset, [(int(i), dataset.cases[int(i)].truth[1:]) for i in indices])


def scored(dataset: Dataset, predicted, topology: bool = True) -> list[dict]:
    """Per case and later visit, the scores of every class by `evaluation.score`; class 0 is not scored."""
    rows = []
    for index, labels in predicted:
        case = dataset.cases[index]
        for visit, own in enumerate(labels, start=1):
            scores = evaluation.score(own, case.labels[visit], dataset.spacing_mm, dataset.anatomy, topology)
            rows.append({"case": case.name, "patient": case.patient, "day": case.days[visit], "scores": [_plain(s) for s in scores]})
    return rows


def _plain(score: evaluation.ClassScore) -> dict:
    betti = None if score.betti is None else sum(abs(a - b) for a, b in zip(score.betti, score.betti_observed))
    return {
        "class": score.value, "dice": round(score.dice, 6), "hd95": round(score.hd95_mm, 5), "missing": score.missing,
        "cl_dice": None if score.cl_dice is None else round(score.cl_dice, 6), "betti_error": betti,
    }


# ---- many jobs


def run_all(jobs: Iterable[Job], folder, processes: int = 2, progress: Callable[[int, int, Job, dict], None] | None = None) -> list[dict]:
    """Records of the jobs in their order; those whose file is in `folder` are read, the rest computed and written.

    Each process computes with one thread. Raises BenchmarkError when a file cannot be written, and what a job raises.
    """
    jobs, folder = list(jobs), Path(folder)
    records: dict[str, dict] = {}
    missing = []
    for job in jobs:
        found = _read(folder / job.file, job)
        if found is None:
            missing.append(job)
        else:
            records[job.file] = found
    missing = list({job.file: job for job in missing}.values())
    done = 0

    def finish(job, record):
        nonlocal done
        _write(folder / job.file, record)
        records[job.file] = record
        done += 1
        if progress is not None:
            progress(done, len(missing), job, record)

    if processes <= 1 or len(missing) <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for job in missing:
                finish(job, run(job))
        finally:
            torch.set_num_threads(threads)
    else:
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _one_thread)
        try:
            waiting = {pool.submit(run, job): job for job in missing}
            for ready in as_completed(waiting):
                finish(waiting[ready], ready.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        pool.shutdown()
    return [records[job.file] for job in jobs]


def _one_thread() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)      # the parent ends its children
    torch.set_num_threads(1)


def _read(path: Path, job: Job) -> dict | None:
    """A kept record; None where there is none, or a damaged one, which is computed again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("job") == json.loads(job.to_json()) else None


def _write(path: Path, record: dict) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    made_folder(path.parent)
    try:
        part.write_text(json.dumps(record), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BenchmarkError(f"{path} could not be written: {error.strerror or error}; finished folds are kept") from None
