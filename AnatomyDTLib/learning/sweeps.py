"""Studies beside the table: training-set size, extrapolation, missing visits, sensitivity of the twin.

Each is a list of points; at each point every method is trained (or the twin changed) and scored on the same folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from . import sensitivity, tables
from .evaluation import aligned
from .jobs import BenchmarkError, Job, opened, run_all
from .methods import METHODS, TWIN
from .sources import GENERATED, Source

TRAINING_CASES = (5, 10, 20, 50, 100)
KEPT_VISITS = (1.0, 0.67, 0.33)
STUDIES = ("data", "extrapolation", "visits", "sensitivity")
TITLES = {
    "data": "training cases", "extrapolation": "extrapolation", "visits": "missing visits", "sensitivity": "sensitivity of the twin",
}


@dataclass(frozen=True)
class Point:
    """One place of a sweep.

    panel: which axis; place: on it; changes: what differs in the jobs
    trained_at, tested: the place whose trained models are scored here, and on which data; None: trained for this place
    """

    panel: str
    place: object
    changes: dict = field(default_factory=dict)
    trained_at: object = None
    tested: Source | None = None


def methods(study: str, asked: Sequence[str]) -> tuple[str, ...]:
    """The methods that a study runs."""
    return (TWIN, sensitivity.CLASSICAL) if study == "sensitivity" else tuple(asked)


def points(study: str, plan) -> list[Point]:
    """The points of a study for a plan; raises BenchmarkError where the data cannot be changed so."""
    source = plan.source
    if study == "data":
        sizes = TRAINING_CASES if not plan.quick else TRAINING_CASES[1:3]
        if source.generated:
            # the other folds of a dataset of this size hold as many cases as the largest point asks for
            source = replace(source, count=math.ceil(max(sizes) * plan.folds / (plan.folds - 1)))
        else:
            most = len(opened(source)) * (plan.folds - 1) // plan.folds
            sizes = [n for n in sizes if n <= most]
        return [Point("training cases", n, {"train_cases": n, "source": source}) for n in sizes]
    if not source.generated:
        raise BenchmarkError(f"the study '{study}' changes how cases are made; it is for {', '.join(GENERATED)}, not for a folder")
    if study == "extrapolation":
        later = source.changed(courses={"interval_days": [180, 180]})
        single = source.changed(courses={"treatments": ["none", "radiotherapy", "chemotherapy"]})
        both = source.changed(courses={"treatments": ["both"]})
        return [
            Point("extrapolation", "30 to 90 days, as trained"),
            Point("extrapolation", "180 days", trained_at="30 to 90 days, as trained", tested=later),
            Point("extrapolation", "single treatments, as trained", {"source": single}),
            Point("extrapolation", "both treatments together", trained_at="single treatments, as trained", tested=both),
        ]
    if study == "visits":
        often = source.changed(courses={"visits": 4, "interval_days": [15, 45]})
        return [Point("later visits kept", kept, {"source": often, "kept_visits": kept}) for kept in KEPT_VISITS]
    raise BenchmarkError(f"there is no study '{study}'")


def cases(study: str, plan, dataset) -> int:
    """How many cases a study's data hold: the study of training-set sizes makes as many as its largest point asks for."""
    own = [point.changes["source"].count for point in points(study, plan) if "source" in point.changes] if study == "data" else []
    return max([len(dataset), *own])


def jobs(study: str, plan, settings: dict[str, dict]) -> list[tuple[Point, Job]]:
    """Of every point that is trained for, a job per method and fold; what else is scored with it are its variants."""
    places = points(study, plan)
    return [
        (point, replace(Job(
            study, METHODS[key].name, key, plan.source, fold, plan.folds, plan.seed, settings=settings[key], training=plan.training,
            variants={str(p.place): {"tested": asdict(p.tested)} for p in places if p.trained_at == point.place},
        ), **point.changes))
        for point in places if point.trained_at is None for key in settings for fold in range(plan.folds)
    ]


def run(study: str, plan, dataset, settings, say) -> tuple[str, list[tuple], dict[str, list[tables.Row]]]:
    """(Markdown, lines of the CSV, rows by point) of a study; draws its figure into the plan's folder."""
    if study == "sensitivity":
        return sensitivity.run(plan, dataset, settings, say)
    planned = jobs(study, plan, settings)
    records = run_all([job for _, job in planned], plan.folder / study, plan.processes, say)
    found: dict[int, list[tables.Row]] = {}
    places = points(study, plan)
    for at, point in enumerate(places):
        trained = point.place if point.trained_at is None else point.trained_at
        own: dict[str, list] = {}
        for (p, job), record in zip(planned, records):
            if p.place == trained:
                own.setdefault(job.row, []).append(record)
        found[at] = [
            tables.row(name, [r["cases"] if point.tested is None else r["variants"][str(point.place)] for r in folds],
                       dataset.anatomy.tumors, dataset.tree_classes, folds)
            for name, folds in own.items()
        ]
    tables.lines(_curves(places, found), plan.folder / f"{study}.png", f"{dataset.name}: {TITLES[study]}")
    named = {f"{p.panel}: {p.place}": found[at] for at, p in enumerate(places)}
    lines = [line for name, rows in named.items() for line in tables.csv_lines(rows, dataset.anatomy.names, study, name)]
    return _table(places, found), lines, named


def _curves(places, found) -> dict:
    """panel -> {method: (places, rows)}, for `tables.lines`."""
    curves: dict[str, dict] = {}
    for at, point in enumerate(places):
        for row in found[at]:
            x, rows = curves.setdefault(point.panel, {}).setdefault(row.name, ([], []))
            x.append(point.place)
            rows.append(row)
    return curves


def _table(places, found) -> str:
    """Every metric of TESTED of every method at every point, the best in bold, and p of the best against the next."""
    parts = []
    for metric in tables.TESTED:
        names = list(dict.fromkeys(row.name for rows in found.values() for row in rows))
        body = [(tables.METRICS[metric][0], *(str(p.place) for p in places))]
        columns, last = [], []
        for at in found:
            leader = tables.best(found[at], metric)
            rival = tables.best([r for r in found[at] if r is not leader], metric)
            columns.append({row.name: tables.cell(row, metric, row is leader and rival is not None) for row in found[at]})
            last.append("" if rival is None else f"{tables.p_value(leader, rival, metric):.2g}")
        body += [(name, *(column.get(name, "") for column in columns)) for name in names]
        if len(names) > 1:
            body.append(("p, best against next", *last))
        parts.append(aligned(body))
    return "\n".join(parts)
