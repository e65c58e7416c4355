"""From kept records to tables: means over folds, paired tests, CSV, Markdown, a figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .evaluation import aligned
from .jobs import BenchmarkError
from .methods import TWIN_NAME

# metric -> (title, unit factor, digits, larger is better)
METRICS = {
    "dsc": ("DSC %", 100.0, 2, True),
    "dsc_tumor": ("tumor DSC %", 100.0, 2, True),
    "dsc_anatomy": ("anatomy DSC %", 100.0, 2, True),
    "hd95": ("HD95 mm", 1.0, 2, False),
    "hd95_tumor": ("tumor HD95 mm", 1.0, 2, False),
    "hd95_anatomy": ("anatomy HD95 mm", 1.0, 2, False),
    "cl_dice": ("clDice %", 100.0, 2, True),
    "betti": ("Betti error", 1.0, 3, False),
}
# those that the twin has to lead in, and that are tested
TESTED = ("dsc", "hd95", "dsc_tumor", "cl_dice")
_LABELS = {"dsc": "dice", "hd95": "hd95"}


@dataclass(frozen=True)
class Row:
    """A method's scores on every fold.

    name: of the row; values: metric -> per fold, {case: value}, a case's value being the mean over its later visits of the
        mean over the classes; per_class: class -> score -> mean of each fold
    seconds_training: CPU seconds per fold, seconds_inference: per case; parameters: that are learned
    missing: structures that only one side has, whose HD95 is the image's diagonal
    ranked: may it be the best, and is it tested (the ceiling is not)
    """

    name: str
    values: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    per_class: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    seconds_training: float = 0.0
    seconds_inference: float = 0.0
    parameters: int = 0
    missing: int = 0
    ranked: bool = True

    def by_case(self, metric: str) -> dict[str, float]:
        return {case: value for fold in self.values[metric] for case, value in fold.items()}

    def mean(self, metric: str) -> float:
        """Mean of the folds' means."""
        return _mean([_mean(fold.values()) for fold in self.values[metric]])

    def std(self, metric: str) -> float:
        """Standard deviation of the folds' means (n − 1); 0 of one fold."""
        means = [_mean(fold.values()) for fold in self.values[metric]]
        return float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def row(name: str, folds: Sequence[Sequence[dict]], tumors, trees, records: Sequence[dict] = (), ranked: bool = True) -> Row:
    """The scores of one method; folds: per fold the rows of `jobs.scored`.

    tumors: indices of the tumor classes; trees: K_cl, the classes of clDice (empty: all). A class on neither side has no
    score. records: for seconds and the number of parameters.
    """
    made = Row(
        name, {metric: [] for metric in METRICS}, {},
        _mean([r["seconds_training"] for r in records]) if records else 0.0,
        _mean([r["seconds_inference"] for r in records]) if records else 0.0,
        records[0]["parameters"] if records else 0,
        sum(bool(s["missing"]) for fold in folds for visit in fold for s in visit["scores"]), ranked,
    )
    for fold in folds:
        of_case: dict[str, dict[str, list[float]]] = {}
        classes: dict[int, dict[str, list[float]]] = {}
        for visit in fold:
            for metric, value in _visit(visit["scores"], set(tumors), set(trees)).items():
                of_case.setdefault(visit["case"], {}).setdefault(metric, []).append(value)
            for score in visit["scores"]:
                for key in ("dice", "hd95", "cl_dice", "betti_error"):
                    if score[key] is not None:
                        classes.setdefault(score["class"], {}).setdefault(key, []).append(score[key])
        for metric in METRICS:
            made.values[metric].append({case: _mean(found[metric]) for case, found in of_case.items() if found.get(metric)})
        for value, found in classes.items():
            for key, values in found.items():
                made.per_class.setdefault(value, {}).setdefault(key, []).append(_mean(values))
    return made


def _visit(scores: list[dict], tumors: set, trees: set) -> dict[str, float]:
    """The metrics of one visit: means over the classes that each names."""
    parts = {"": scores, "_tumor": [s for s in scores if s["class"] in tumors], "_anatomy": [s for s in scores if s["class"] not in tumors]}
    out = {f"{name}{end}": _mean([s[key] for s in part]) for name, key in _LABELS.items() for end, part in parts.items() if part}
    lines = [s["cl_dice"] for s in scores if s["cl_dice"] is not None and (not trees or s["class"] in trees)]
    bettis = [s["betti_error"] for s in scores if s["betti_error"] is not None]
    return out | ({"cl_dice": _mean(lines)} if lines else {}) | ({"betti": _mean(bettis)} if bettis else {})


def _mean(values) -> float:
    values = list(values)
    return float(np.mean(values)) if values else math.nan


def best(rows: Sequence[Row], metric: str) -> Row | None:
    """The ranked row that is best in a metric; None where no row has it."""
    rows = [r for r in rows if r.ranked and not math.isnan(r.mean(metric))]
    key = (max if METRICS[metric][3] else min)
    return key(rows, key=lambda r: r.mean(metric)) if rows else None


def p_value(one: Row, other: Row, metric: str) -> float:
    """Two-sided p of Wilcoxon's signed-rank test over the cases that both rows have (scipy); 1 where they are equal."""
    from scipy.stats import wilcoxon

    a, b = one.by_case(metric), other.by_case(metric)
    shared = sorted(set(a) & set(b))
    difference = np.array([a[case] - b[case] for case in shared])
    if not len(shared) or not np.any(difference):
        return 1.0
    return float(wilcoxon(difference).pvalue)


def against_best(rows: Sequence[Row], metric: str) -> dict[str, tuple[str, float]]:
    """Per row: (the best other row, p of the paired test against it)."""
    found = {}
    for own in rows:
        rival = best([r for r in rows if r is not own], metric)
        if rival is not None and own.ranked and not math.isnan(own.mean(metric)):
            found[own.name] = (rival.name, p_value(own, rival, metric))
    return found


# ---- as text


def markdown(rows: Sequence[Row]) -> str:
    """Mean ± std over folds of every metric, the best of each in bold."""
    shown = [m for m in METRICS if any(not math.isnan(r.mean(m)) for r in rows)]
    leaders = {m: best(rows, m) for m in shown}
    body = [("method", *(METRICS[m][0] for m in shown))]
    body += [(r.name, *(cell(r, m, r is leaders[m]) for m in shown)) for r in rows]
    return aligned(body)


def cell(row: Row, metric: str, leads: bool = False) -> str:
    """Mean ± std as text, bold where the row leads; empty where there is none."""
    _, factor, digits, _ = METRICS[metric]
    mean = factor * row.mean(metric)
    text = "" if math.isnan(mean) else f"{mean:.{digits}f} ± {factor * row.std(metric):.{digits}f}"
    return f"**{text}**" if leads and text else text


def _p(found) -> str:
    if found is None:
        return ""
    return "< 0.0001" if found[1] < 1e-4 else f"{found[1]:.4f}"


def class_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """DSC and HD95 of every class, means over folds."""
    present = sorted({value for r in rows for value in r.per_class})
    head = ("method", *(f"{names[v]}: DSC % / HD95 mm" for v in present))
    body = [head]
    for r in rows:
        cells = [r.name]
        for value in present:
            found = r.per_class.get(value, {})
            cells.append(f"{100 * _mean(found['dice']):.2f} / {_mean(found['hd95']):.2f}" if "dice" in found else "")
        body.append(tuple(cells))
    return aligned(body)


def tests_table(rows: Sequence[Row]) -> str:
    """Wilcoxon p of every row against the best other one, per metric of TESTED; lost structures; what it cost."""
    body = [("method", *(f"p: {METRICS[m][0]}, against" for m in TESTED), "lost", "training s", "s per case", "learned numbers")]
    found = {m: against_best(rows, m) for m in TESTED}
    for r in rows:
        tests = [f"{_p(found[m].get(r.name))} {found[m][r.name][0]}" if r.name in found[m] else "" for m in TESTED]
        cost = (f"{r.seconds_training:.0f}", f"{r.seconds_inference:.3f}", f"{r.parameters:,}") if r.ranked else ("", "", "")
        body.append((r.name, *tests, str(r.missing), *cost))
    return aligned(body)


CSV_HEAD = ("study", "point", "method", "class", "metric", "mean", "std", "folds", "best other", "p")


def csv_lines(rows: Sequence[Row], names: Sequence[str], study: str, point: str = "") -> list[tuple]:
    """Lines under CSV_HEAD, one per row, metric and class: mean, std, the folds' means, p against the best other row."""
    tests = {m: against_best(rows, m) for m in METRICS}
    lines = []

    def add(r, label, key, folds, rival="", p=""):
        std = np.std(folds, ddof=1) if len(folds) > 1 else 0.0
        lines.append((study, point, r.name, label, key, f"{_mean(folds):.6g}", f"{std:.6g}", " ".join(f"{f:.6g}" for f in folds), rival, p))

    for r in rows:
        for m in METRICS:
            if not math.isnan(r.mean(m)):
                rival, p = tests[m].get(r.name, ("", ""))
                add(r, "", m, [_mean(fold.values()) for fold in r.values[m]], rival, p if p == "" else f"{p:.4g}")
        for value, found in sorted(r.per_class.items()):
            for key, folds in found.items():
                add(r, names[value], key, folds)
        if r.ranked:
            add(r, "", "seconds_training", [r.seconds_training])
            add(r, "", "seconds_inference", [r.seconds_inference])
    return lines


def csv_text(lines: Sequence[tuple]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((CSV_HEAD, *lines))
    return text.getvalue()


# ---- as pictures


def figure(rows: Sequence[Row], title: str, path) -> None:
    """Boxes of the cases of each row, in the metrics of TESTED, with the folds' means as dots."""
    shown = [m for m in TESTED if any(not math.isnan(r.mean(m)) for r in rows)]
    chart, axes = _figure(1, len(shown), (3.1 * len(shown), 0.9 + 0.34 * len(rows)), title)
    for ax, metric in zip(axes[0], shown):
        label, factor, _, larger = METRICS[metric]
        for at, r in enumerate(rows):
            values = [factor * v for v in r.by_case(metric).values()]
            if not values:
                continue
            colour = "tab:orange" if r.name.startswith(TWIN_NAME) else "0.75"
            ax.boxplot(values, positions=[at], orientation="horizontal", widths=0.6, whis=(5, 95), showfliers=False, patch_artist=True,
                       boxprops={"facecolor": colour, "edgecolor": "0.3"}, medianprops={"color": "0.1"})
            means = [factor * _mean(f.values()) for f in r.values[metric]]
            ax.plot(means, [at] * len(means), ".", color="tab:blue", markersize=5)
        ax.set_yticks(range(len(rows)), [r.name for r in rows] if ax is axes[0][0] else [])
        ax.invert_yaxis()
        ax.set_title(f"{label} ({'larger' if larger else 'smaller'} is better)", fontsize=9)
        ax.tick_params(labelsize=8)
    _save(chart, path)


def lines(curves: dict[str, dict[str, tuple[Sequence, Sequence[Row]]]], path, title: str = "") -> None:
    """One panel per sweep: DSC (with its std over folds) over what is swept, one line per method, one legend.

    curves: what the panel's axis shows -> {line: (places on the axis, rows)}
    """
    columns = min(3, len(curves))
    chart, axes = _figure(-(-len(curves) // columns), columns, (max(5.0, 3.6 * columns), 0.7 + 2.6 * -(-len(curves) // columns)), title)
    flat = [ax for line in axes for ax in line]
    names = list(dict.fromkeys(name for found in curves.values() for name in found))
    others = [name for name in names if not name.startswith(TWIN_NAME)]
    colours = {name: "tab:orange" if name not in others else f"C{(0, 2, 3, 4, 5, 6, 7, 8, 9)[others.index(name) % 9]}" for name in names}
    drawn = {}
    for ax, (panel, found) in zip(flat, curves.items()):
        for name, (places, rows) in found.items():
            numeric = all(isinstance(p, (int, float)) for p in places)
            x = list(places) if numeric else list(range(len(places)))
            y, e = [100 * r.mean("dsc") for r in rows], [100 * r.std("dsc") for r in rows]
            width = 2.0 if name.startswith(TWIN_NAME) else 1.0
            drawn[name] = ax.errorbar(x, y, e, marker="o", markersize=3, linewidth=width, elinewidth=0.7, capsize=2, color=colours[name])
            if not numeric:
                ax.set_xticks(x, [str(p).replace(", ", "\n") for p in places], fontsize=7)
            elif min(x) > 0 and max(x) / min(x) > 5:
                ax.set_xscale("log")
                ax.set_xticks(x, [f"{p:g}" for p in x], minor=False)
                ax.set_xticks([], minor=True)
        ax.set_xlabel(panel, fontsize=8)
        ax.set_ylabel("DSC %", fontsize=8)
        ax.tick_params(labelsize=7)
    for ax in flat[len(curves):]:
        ax.set_axis_off()
    chart.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=min(4, len(drawn)), fontsize=7, frameon=False)
    _save(chart, path)


def _figure(rows: int, columns: int, size, title: str):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chart = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(chart)
    if title:
        chart.suptitle(title, fontsize=10)
    return chart, chart.subplots(rows, columns, squeeze=False)


def _save(chart, path) -> None:
    try:
        chart.savefig(path, dpi=110, metadata={"Software": None})
    except OSError as error:
        raise BenchmarkError(f"{path} could not be written: {error.strerror or error}") from None
