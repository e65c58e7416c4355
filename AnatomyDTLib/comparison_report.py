"""Tables and a figure of a comparison of plans: volumes.csv, comparison.md, comparison.png, and what run.json holds."""

from __future__ import annotations

import csv
import io
import math

import numpy as np

from .calibration.compare import BAND
from .learning.evaluation import aligned
from .report import oriented, small_png, treatment_words

_INK, _PALE = "#23272e", "#9aa1ab"
# Colours that keep apart for the colour-blind (Wong 2011, Nat Methods 8:441); a plan's line style tells the rest.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MEASURES = {
    "progression": "later progression",
    "volume": "less tumor drawn on the last day",
    "cells": "fewer tumor cells on the last day",
}


def volumes_csv(comparison) -> str:
    """One row per plan and day: median and band of the tumor and of its cells over the members, mL; part progressed."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    quantiles = ("median", f"{BAND[0]:.0%}", f"{BAND[1]:.0%}")
    head = [f"{what}, {q} (mL)" for what in ("tumor", "tumor cells at full density") for q in quantiles]
    table.writerow(["plan", "day", *head, "part progressed"])
    for o in comparison.outcomes:
        for t, day in enumerate(o.days):
            numbers = [f"{v:.4f}" for values in (o.tumor_ml, o.cells_ml) for v in banded(values[:, t])]
            table.writerow([o.name, f"{day:.6g}", *numbers, f"{progressed_by(o, day):.4f}"])
    return text.getvalue()


def banded(values) -> tuple[float, float, float]:
    """(median, lower, upper end of the band) over the members."""
    return tuple(float(q) for q in np.quantile(values, (0.5, *BAND), method="hazen"))


def progressed_by(outcome, day: float) -> float:
    """Part of the members that has progressed by a day."""
    return float((outcome.progressed & (outcome.progression_day <= day)).mean())


def record(comparison, margins=()) -> dict:
    """The comparison as JSON holds it; a day of progression that lies beyond the horizon is null."""
    plans = []
    for outcome in comparison.outcomes:
        plans.append({
            "name": outcome.name,
            "treatment": treatment_words(outcome.plan),
            "days": [float(d) for d in outcome.days],
            "tumor_ml": [_band(v) for v in outcome.tumor_ml.T],
            "tumor_cells_ml": [_band(v) for v in outcome.cells_ml.T],
            "progression": {
                "progressed": _rounded(outcome.progressed.mean()),
                "median_day": _day(outcome.progression_quantile(0.5)),
                "low_day": _day(outcome.progression_quantile(BAND[0])),
                "high_day": _day(outcome.progression_quantile(BAND[1])),
                "by_new_focus": sum(why == "focus" for why in outcome.progressed_by),
                "days": [_rounded(d) if p else None for d, p in zip(outcome.progression_day, outcome.progressed)],
            },
            "doses": [
                {"tissue": d.tissue, "volume_ml": _rounded(d.volume_ml), "mean_gy": _rounded(d.mean_gy),
                 "d95_gy": _rounded(d.d95_gy), "d2_gy": _rounded(d.d2_gy)} for d in outcome.doses
            ],
        })
    rule = comparison.rule
    return {
        "members": comparison.members, "horizon_day": float(comparison.outcomes[0].days[-1]), "band": list(BAND),
        "rule": {"volume_factor": rule.volume_factor, "measurable_ml": _rounded(rule.measurable_ml)},
        "plans": plans,
        "preferences": [
            {"better": p.better, "worse": p.worse, "measure": p.measure, "wins": p.wins, "ties": p.ties,
             "probability": _rounded(p.probability), "low": _told(p.low), "high": _told(p.high)}
            for p in comparison.preferences
        ],
        "margins": [
            {"plan": plan, "target": c.name, "volume_ml": _rounded(c.volume_ml), "covered": _rounded(c.covered),
             "covered_new": _told(c.covered_new), "filled_ml": _rounded(c.filled_ml)}
            for plan, found in margins for c in found
        ],
    }


def _rounded(value) -> float:
    return round(float(value), 5)


def _told(value: float):
    return None if math.isnan(value) else _rounded(value)


def _band(values) -> dict:
    return dict(zip(("median", "low", "high"), map(_rounded, banded(values))))


def _day(day: float):
    return None if math.isinf(day) else round(day, 3)


def markdown(comparison, margins=(), notes=(), warnings=()) -> str:
    """The comparison in words and tables, for a person.

    margins: (plan's name, [Coverage, Coverage]) pairs
    """
    lines = ["# Plans compared", "", _headline(comparison), ""]
    lines += [f"* {note}" for note in (*notes, *warnings)] + [""] * bool(notes or warnings)
    lines += _plans_table(comparison)
    if len(comparison.outcomes) > 1:
        lines += _preferences_table(comparison)
    doses = [(o.name, d) for o in comparison.outcomes for d in o.doses if d.mean_gy > 0]
    if doses:
        rows = [("plan", "tissue", "mL", "mean Gy", "D95 Gy", "D2 Gy")]
        for name, d in doses:
            rows.append((name, d.tissue, *(f"{v:.1f}" for v in (d.volume_ml, d.mean_gy, d.d95_gy, d.d2_gy))))
        lines += ["## Dose to the tissues, as they lie at baseline", "", aligned(rows)]
        lines += ["Physical dose of all fractions. D95, D2: the dose that at least 95 % or 2 % of the volume gets.", ""]
    if margins:
        rows = [("forecast under plan", "target", "mL", "covered", "of what is new", "undecided mL")]
        for plan, found in margins:
            for c in found:
                shares = (_percent(c.covered), _percent(c.covered_new))
                rows.append((plan, c.name, f"{c.volume_ml:.1f}", *shares, f"{c.filled_ml:.1f}"))
        lines += ["## Margins: coverage of the observed recurrence", "", aligned(rows)]
        lines += ["Both targets have one volume. \"Undecided\": voxels where the forecast has no tumor, taken by "
                  "distance. \"New\" is what lies outside the tumor at baseline (metric of PREDICT-GBM).", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _headline(comparison) -> str:
    count, horizon = len(comparison.outcomes), float(comparison.outcomes[0].days[-1])
    members = "one set of parameters: no uncertainty is shown"
    if comparison.members > 1:
        members = f"{comparison.members} draws of the parameters, the same for every plan"
    return f"{count} plan{'s' if count > 1 else ''}, {members}, to day {horizon:g}."


def _plans_table(comparison) -> list[str]:
    several, horizon, rule = comparison.members > 1, float(comparison.outcomes[0].days[-1]), comparison.rule
    band = f" ({100 * BAND[0]:g} to {100 * BAND[1]:g} %)" if several else ""
    head = (f"tumor day {horizon:g}, mL{band}", f"tumor cells, mL{band}", f"progression, day{band}")
    rows = [("plan", *head, "progressed", "treatment")]
    for o in comparison.outcomes:
        median, low, high = (_when(o.progression_quantile(q), horizon) for q in (0.5, *BAND))
        rows.append((
            o.name, _amount(o.tumor_ml[:, -1], several), _amount(o.cells_ml[:, -1], several),
            f"{median} ({low} to {high})" if several else median, f"{100 * o.progressed.mean():.0f} %",
            treatment_words(o.plan)))
    return [
        aligned(rows),
        f"Progression: the drawn tumor holds {rule.volume_factor:g} times its smallest volume since baseline and at "
        f"least {rule.measurable_ml:.2g} mL, or a new focus of that size does not touch the tumor at baseline. "
        f"\"> {horizon:g}\": not by then.", ""]


def _preferences_table(comparison) -> list[str]:
    rows = [("better", "than", *(f"P({words})" for words in _MEASURES.values()))]
    for p in comparison.preferences[:: len(_MEASURES)]:
        found = {q.measure: q for q in comparison.preferences if (q.better, q.worse) == (p.better, p.worse)}
        rows.append((p.better, p.worse, *(_probability(found[m]) for m in _MEASURES)))
    words = "With one set of parameters this says only which is ahead, not how surely."
    if comparison.members > 1:
        words = "In brackets the 95 % interval by the number of draws (Wilson); a model that is wrong is not in it."
    words = f"Of the paired draws; a tie counts half. {words}"
    return ["## How often one plan beats another", "", aligned(rows), words, ""]


def _amount(values, several: bool) -> str:
    median, low, high = banded(values)
    return f"{median:.2f}" + (f" ({low:.2f} to {high:.2f})" if several else "")


def _when(day: float, horizon: float) -> str:
    return f"> {horizon:g}" if math.isinf(day) else f"{day:.0f}"


def _probability(found) -> str:
    return f"{found.probability:.2f}" + ("" if math.isnan(found.low) else f" ({found.low:.2f} to {found.high:.2f})")


def _percent(part: float) -> str:
    return "" if math.isnan(part) else f"{100 * part:.1f} %"


def figure(comparison, labels, geometry=None) -> bytes:
    """A PNG: tumor volume with its band, part without progression, who beats whom, difference maps on the last day.

    labels: (*S) at baseline, indices into the first plan's tissues; the maps are cut where they differ most
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    outcomes = comparison.outcomes
    several = len(outcomes) > 1
    with matplotlib.rc_context({
        "font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK, "axes.labelcolor": _INK,
        "axes.edgecolor": _PALE, "xtick.color": _INK, "ytick.color": _INK,
    }):
        paper = Figure(figsize=(11.5, 7.4 if several else 3.9), facecolor="white", layout="constrained")
        FigureCanvasAgg(paper)
        top, bottom = paper.subfigures(2, 1) if several else (paper, None)
        charts = top.subplots(1, 3 if several else 2)
        _volumes(charts[0], outcomes)
        _progression(charts[1], outcomes)
        if several:
            _matrix(charts[2], comparison)
            _maps(bottom, comparison, labels, geometry)
        stream = io.BytesIO()
        paper.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    return small_png(stream.getvalue())


def _style(index: int) -> dict:
    line = ("-", "--", ":", "-.")[index // len(_COLORS) % 4]
    return {"color": _COLORS[index % len(_COLORS)], "linestyle": line, "linewidth": 1.8}


def _volumes(axes, outcomes) -> None:
    for i, o in enumerate(outcomes):
        median, low, high = np.quantile(o.tumor_ml, (0.5, *BAND), axis=0, method="hazen")
        axes.plot(o.days, median, label=_short(o.name), **_style(i))
        axes.plot(o.days, np.median(o.cells_ml, axis=0), color=_style(i)["color"], linewidth=0.9, dashes=(4, 2))
        if len(o.tumor_ml) > 1:
            axes.fill_between(o.days, low, high, color=_style(i)["color"], alpha=0.18, linewidth=0)
    band = f", median and {100 * BAND[0]:g} to {100 * BAND[1]:g} %" if len(outcomes[0].tumor_ml) > 1 else ""
    axes.set_title(f"Tumor volume (mL){band}\n(thin: tumor cells, seen or not)", fontsize=10, loc="left")
    axes.set_ylim(bottom=0)
    _days_axis(axes, outcomes[0].days[-1])
    axes.legend(frameon=False, fontsize=8)


def _progression(axes, outcomes) -> None:
    for i, o in enumerate(outcomes):
        at = np.sort(o.progression_day[o.progressed])
        free = 1.0 - np.arange(1, at.size + 1) / len(o.progression_day)
        days, left = np.array([0.0, *at, o.days[-1]]), np.array([1.0, *free, *(free[-1:] if at.size else [1.0])])
        axes.step(days, left, where="post", **_style(i))
    several = len(outcomes[0].progression_day) > 1
    words = "Part of the draws without progression" if several else "Without progression"
    axes.set_title(words, fontsize=10, loc="left")
    axes.set_ylim(-0.02, 1.04)
    _days_axis(axes, outcomes[0].days[-1])


def _days_axis(axes, last) -> None:
    axes.set_xlim(0, last * 1.01)
    axes.set_xlabel("day")
    axes.grid(color="#e6e8ec", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _matrix(axes, comparison) -> None:
    names = [o.name for o in comparison.outcomes]
    values = np.full((len(names), len(names)), np.nan)
    for p in comparison.preferences:
        if p.measure == "cells":
            values[names.index(p.better), names.index(p.worse)] = p.probability
    axes.imshow(values, cmap="RdYlBu", vmin=0, vmax=1, alpha=0.75)
    for (row, column), value in np.ndenumerate(values):
        if row != column:
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9 if len(names) < 7 else 6)
    shown = [_short(n, 14) for n in names]
    axes.set_xticks(range(len(names)), shown, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), shown, fontsize=8)
    axes.set_title("P(row leaves fewer tumor\ncells than column)", fontsize=10, loc="left")
    for side in axes.spines.values():
        side.set_visible(False)


def _maps(paper, comparison, labels, geometry) -> None:
    from matplotlib.colors import ListedColormap

    first = comparison.outcomes[0]
    day = first.reported[-1]
    others = comparison.outcomes[1:5]
    maps = np.stack([comparison.difference(o.name, first.name, day) for o in others])
    maps, spacing = oriented(maps, comparison.spacing_mm, geometry)
    anatomy = first.plan.anatomy
    brain, _ = oriented((np.asarray(labels)[None] > 0).astype(np.float32), comparison.spacing_mm, geometry)
    tumor, _ = oriented(np.isin(labels, anatomy.tumors)[None].astype(np.float32), comparison.spacing_mm, geometry)
    level = int(np.abs(maps).sum(axis=(0, 2, 3)).argmax())
    inside = np.nonzero(brain[0].any(axis=0))
    cut = tuple(slice(max(0, int(i.min()) - 2), int(i.max()) + 3) if i.size else slice(None) for i in inside)
    panels = paper.subplots(1, len(others), squeeze=False)[0]
    for axes, o, map_ in zip(panels, others, maps):
        aspect = spacing[1] / spacing[2]
        axes.imshow(brain[0, level][cut], cmap=ListedColormap(["#ffffff", "#eceef1"]), vmin=0, vmax=1, aspect=aspect)
        visible = np.ma.masked_inside(map_[level][cut], -0.01, 0.01)
        shown = axes.imshow(visible, cmap="RdBu_r", vmin=-1, vmax=1, aspect=aspect)
        if (tumor[0, level][cut] > 0.5).any() and min(tumor[0, level][cut].shape) > 1:
            axes.contour(tumor[0, level][cut], levels=[0.5], colors=[_INK], linewidths=0.9)
        axes.set_title(f"{_short(o.name)} less {_short(first.name)}", fontsize=9.5)
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_visible(False)
    bar = paper.colorbar(shown, ax=list(panels), location="bottom", shrink=0.35, aspect=40, pad=0.02)
    bar.set_label(f"difference of tumor probability, day {day:g} (line: tumor on day 0)", fontsize=8)


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
