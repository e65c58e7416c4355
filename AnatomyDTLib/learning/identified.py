"""What the twin learned, in its units, with its spread over the folds and the generator's own number where there is one.

A number that comes out alike on folds with other cases is determined by the data; one that does not is not, whatever the
scores are. Of a generator whose law is Gompertz's (`courses.GrowthLaw`) the law of a whole tumor (`burden.BurdenLaw`) with
nu -> 0 is the same one: rho is g, the drug's largest effect is m = (1 + h) / h times its sensitivity k_d, and half of that is
reached at r_half = h k_d. Only ratios of diffusivities are determined, since the law says how far a whole tumor comes: fronts go
as sqrt(D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from .courses import DRUG_PER_DAY, GrowthLaw
from .evaluation import aligned


def numbers(learned: dict) -> dict[str, float]:
    """`AnatomyTwin.physical` as one number per name; diffusivities as speeds against the first tissue's, sqrt(D_j / D_1)."""
    found: dict[str, float] = {}
    for name, value in learned.items():
        if name == "diffusivity_mm2_per_day":
            first = next(iter(value.values()), 1.0)
            found |= {f"speed: {tissue}": math.sqrt(D / first) for tissue, D in value.items()}
        elif isinstance(value, dict):
            found |= {f"{name}: {tissue}": float(np.mean(v)) for tissue, v in value.items() if np.size(v)}
        else:
            found[name] = float(value)
    return found


def truth(settings: dict, names: Sequence[str]) -> dict[str, float]:
    """The generator's numbers under the names of `numbers`; empty of data that were not generated.

    names: of the classes, label by label
    """
    law = settings.get("law")
    if not isinstance(law, dict) or set(law) != {field.name for field in fields(GrowthLaw)}:
        return {}
    h = law["half_effect"]
    found = {
        "rho_per_day": law["growth_per_day"], "largest_radius_mm": law["largest_radius_mm"], "nu": 0.0,
        "alpha_per_gy": law["alpha_per_gy"], "alpha_beta_gy": law["alpha_per_gy"] / law["beta_per_gy2"],
        "drug_effect": (1 + h) / h, "drug_half_per_day": h * DRUG_PER_DAY, "clearance_days": law["clearance_days"],
    }
    push = settings.get("push")
    if isinstance(push, dict) and "share" in push:
        found["pushed_part"] = push["share"]
    if "speed_white" in settings:
        found["speed: Grey matter"] = settings["speed_grey"] / settings["speed_white"]
    speeds = settings.get("speeds")
    if isinstance(speeds, (list, tuple)):
        found |= {f"speed: {name}": speed / speeds[0] for name, speed in zip(names, speeds)}
    return found


def table(records: Sequence[dict], settings: dict, names: Sequence[str]) -> str:
    """Number, mean ± standard deviation (n − 1) over the folds, the generator's; of records with `learned`."""
    folds = [numbers(record["learned"]) for record in records]
    known = truth(settings, names)
    body = [("learned number", "mean ± std over folds", "the generator's")]
    for name in folds[0]:
        values = [fold[name] for fold in folds]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        body.append((name, f"{np.mean(values):.3g} ± {spread:.2g}", f"{known[name]:.3g}" if name in known else ""))
    return aligned(body)
