"""Sensitivity of the learned twin, and of eq. 2 under this project's solver and under the paper's.

The paper varies dt, the Jacobi sweeps and their relaxation, χ, kappa, λ_tv, k_max and the grid (its figure 7). What is a
property of a solver (dt, sweeps, omega, grid, χ, kappa) is changed in a trained model, which is then scored again: the
learned numbers stay, so a change of the score is the solver's. What acts on the training (k_max, λ_tv) is trained again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from . import tables
from .evaluation import aligned
from .jobs import Job, run_all
from .methods import METHODS, TWIN, TWIN_NAME

# dt as a part of the horizon, as the paper counts it, of the longest interval of the default courses.
HORIZON_DAYS = 90.0
STEPS = (0.05, 0.1, 0.3, 1.0)
GRIDS = (64, 96, 128, 256, 512)
SWEEPS, OMEGAS = (1, 2, 4, 8, 16), (0.6, 0.8, 0.9, 1.0)
CHI_FACTORS, KAPPAS = (0.0, 0.5, 1.0, 2.0), (0.7, 0.8, 0.9, 1.0)
# per horizon, as in the paper; and λ_tv
K_MAX, LAMBDA_TV = (1.0, 2.0, 5.0, 10.0), (0.0, 0.1, 1.0)
CLASSICAL = "cross-diffusion"
SCHEMES = {"eq. 2, this project's solver": {"scheme": "lod"}, "eq. 2, 4 Jacobi sweeps (the paper's)": {"scheme": "jacobi", "sweeps": 4, "omega": 0.9}}
JACOBI = tuple(SCHEMES)[1]


def _days(part: float) -> dict:
    return {"longest_step_days": part * HORIZON_DAYS}


def variants(plan) -> dict[str, dict[str, dict]]:
    """method -> {"panel|line|place": what is changed in the trained model}."""
    grids = GRIDS[:3] if plan.quick else GRIDS
    planar = plan.source.kind in ("voronoi", "vessel") and len(json.loads(plan.source.options).get("shape", (96, 96))) == 2
    shapes = {n: {"tested": asdict(plan.source.changed(shape=[n] * 2))} for n in grids} if planar else {}
    twin = {f"dt / horizon|{TWIN_NAME}|{part}": _days(part) for part in STEPS}
    twin |= {f"voxels along an edge|{TWIN_NAME}|{n}": change for n, change in shapes.items()}
    classical = {}
    for line, scheme in SCHEMES.items():
        own = {"set": scheme}
        classical |= {f"dt / horizon|{line}|{part}": own | _days(part) for part in STEPS}
        classical |= {f"voxels along an edge|{line}|{n}": own | change for n, change in shapes.items()}
        classical |= {f"χ, times the learned|{line}|{f}": {"set": {**scheme, "drift": f}} for f in CHI_FACTORS}
        classical |= {f"kappa|{line}|{kappa}": {"set": {**scheme, "capacity": kappa}} for kappa in KAPPAS}
    classical |= {f"Jacobi sweeps|{JACOBI}|{m}": {"set": {"scheme": "jacobi", "sweeps": m, "omega": 0.9}} for m in SWEEPS}
    classical |= {f"omega|{JACOBI}|{w}": {"set": {"scheme": "jacobi", "sweeps": 4, "omega": w}} for w in OMEGAS}
    return {TWIN: twin, CLASSICAL: classical}


def jobs(plan, settings) -> list[Job]:
    """Per fold: both methods with all their variants, and the twin trained with every k_max and λ_tv."""
    made = []
    for fold in range(plan.folds):
        for key, changes in variants(plan).items():
            made.append(Job("sensitivity", METHODS[key].name, key, plan.source, fold, plan.folds, plan.seed,
                            settings=settings[key], training=plan.training, variants=changes))
        twin = replace(made[-2], variants={})
        for k_max in K_MAX:
            made.append(replace(twin, row=f"k_max|{TWIN_NAME}|{k_max}", settings={**twin.settings, "limit_per_day": k_max / HORIZON_DAYS}))
        for tv in LAMBDA_TV:
            made.append(replace(twin, row=f"λ_tv|{TWIN_NAME}|{tv}", training={**twin.training, "loss": {"tv": tv}}))
    return made


def run(plan, dataset, settings, say) -> tuple[str, list[tuple], dict[str, list[tables.Row]]]:
    """(Markdown, lines of the CSV, rows by panel); draws the figure into the plan's folder."""
    planned = jobs(plan, settings)
    records = run_all(planned, plan.folder / "sensitivity", plan.processes, say)
    folds: dict[str, list] = {}
    for job, record in zip(planned, records):
        for name in job.variants:
            folds.setdefault(name, []).append(record["variants"][name])
        if "|" in job.row:
            folds.setdefault(job.row, []).append(record["cases"])
    panels: dict[str, dict[str, tuple[list, list]]] = {}
    for name, cases in folds.items():
        panel, line, place = name.split("|")
        x, rows = panels.setdefault(panel, {}).setdefault(line, ([], []))
        x.append(float(place))
        rows.append(tables.row(line, cases, dataset.anatomy.tumors, dataset.tree_classes))
    tables.lines(panels, plan.folder / "sensitivity.png", f"{dataset.name}: sensitivity")
    found = {f"{panel}: {x:g}": [rows[i] for places, rows in lines.values() for i, own in enumerate(places) if own == x]
             for panel, lines in panels.items() for x in dict.fromkeys(x for places, _ in lines.values() for x in places)}
    lines = [entry for name, rows in found.items() for entry in tables.csv_lines(rows, dataset.anatomy.names, "sensitivity", name)]
    return "\n".join(_table(panel, own) for panel, own in panels.items()), lines, found


def _table(panel: str, lines) -> str:
    """DSC and HD95 of every line of a panel, and how far the DSC falls below its best."""
    places = list(dict.fromkeys(x for own, _ in lines.values() for x in own))
    body = [(f"{panel}: DSC % / HD95 mm", *(f"{x:g}" for x in places), "largest loss of DSC")]
    for line, (own, rows) in lines.items():
        cells = {x: f"{100 * r.mean('dsc'):.2f} / {r.mean('hd95'):.2f}" for x, r in zip(own, rows)}
        scores = [100 * r.mean("dsc") for r in rows]
        body.append((line, *(cells.get(x, "") for x in places), f"{max(scores) - min(scores):.2f}"))
    return aligned(body)
