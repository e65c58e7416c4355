"""What can be fitted of a plan: each number with its unit, bounds and cited prior, and how it is put back into a plan.

A parameter lives in a coordinate x in which its prior is normal: x = ln v for what is positive, x = v for a
cross-diffusion, which has a sign. Standard library only.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ..checks import FASTEST_PER_DAY, LONGEST_MM, WIDEST_MM2_PER_DAY
from ..plan import Chemotherapy, CrossDiffusion, Plan, PlanError, Radiotherapy

DIFFUSIVITY = "diffusivity_mm2_per_day"
RATIO = "white_grey_ratio"
GROWTH = "growth_per_day"
CAPACITY = "carrying_capacity"
ALPHA = "alpha_per_gy"
SENSITIVITY = "sensitivity_per_day"
CHI = "chi_mm2_per_day"
INFILTRATION = "infiltration_mm"
SEED = "seed_density"

# alpha / beta of a tumor whose plan gives no beta, Gy: Rockne et al. 2010, Phys Med Biol 55:3271.
ALPHA_BETA_GY = 10.0


class CalibrationError(ValueError):
    """What cannot be calibrated, or a stored twin that does not fit; the text is the sentence the user reads."""


@dataclass(frozen=True)
class Parameter:
    """One number of a plan that is fitted.

    name: one of the names above; a drug's sensitivity and a cross-diffusion carry what they belong to,
        "sensitivity_per_day:temozolomide", "chi_mm2_per_day:Tumor/White matter"
    unit: as shown; positive: fitted as ln v (else as v)
    start: where the fit begins, the plan's own value; low, high: bounds of v
    median: of the prior, in v; spread: its standard deviation in x; source: where the prior comes from
    """

    name: str
    unit: str
    positive: bool
    start: float
    low: float
    high: float
    median: float
    spread: float
    source: str

    def __post_init__(self):
        for what in ("start", "low", "high", "median", "spread"):
            if not math.isfinite(getattr(self, what)):
                raise CalibrationError(f"{self.name}: {what} must be a finite number, not {getattr(self, what)}")
        if self.positive and self.low <= 0:
            raise CalibrationError(f"{self.name}: its lower bound must be above 0, not {self.low:g}")
        if not self.low < self.high:
            raise CalibrationError(
                f"{self.name}: the lower bound {self.low:g} must be below the upper one {self.high:g}"
            )
        if not self.low <= self.start <= self.high:
            raise CalibrationError(
                f"{self.name} starts at {self.start:g} {self.unit}, outside its bounds {self.low:g} to {self.high:g}; "
                "widen the bounds or change the plan's value"
            )
        if not self.spread > 0:
            raise CalibrationError(f"{self.name}: the spread of its prior must be above 0, not {self.spread:g}")

    def coordinate(self, value: float) -> float:
        """x of a value."""
        return math.log(value) if self.positive else value

    def value(self, x: float) -> float:
        """v of a coordinate, kept within the bounds."""
        return min(self.high, max(self.low, math.exp(min(x, 700.0)) if self.positive else x))


def available(plan: Plan) -> tuple[Parameter, ...]:
    """Everything that can be fitted of a plan, starting from the plan's own values.

    Priors: log-normal, their median and spread from the ranges of the literature. Bounds are far wider.
    """
    anatomy = plan.anatomy
    found = []
    host = _host(anatomy)
    if host is not None:
        d = host.diffusivity_mm2_per_day
        # 0.02 to 1.5 mm²/day
        found.append(
            _ranged(
                DIFFUSIVITY,
                "mm²/day",
                d,
                0.02,
                1.5,
                (min(0.002, d), max(10.0, d)),
                "range of Learn-Morph-Infer, as quoted in reviews",
            )
        )
        grey = _grey(anatomy)
        if grey is not None and host.role == "white":
            ratio = d / grey.diffusivity_mm2_per_day
            found.append(
                Parameter(
                    RATIO,
                    "1",
                    True,
                    ratio,
                    min(0.5, ratio),
                    max(100.0, ratio),
                    math.sqrt(50.0),
                    math.log(2.0),
                    "5: Swanson et al. 2000, Cell Prolif 33:317; 10: Lipková et al. 2019, IEEE TMI 38:1875",
                )
            )
    first = _first_tumor(anatomy)
    if first is not None:
        rho = first.growth_per_day
        if rho > 0:
            found.append(
                _ranged(
                    GROWTH,
                    "1/day",
                    rho,
                    0.002,
                    0.2,
                    (min(0.0005, rho), max(1.0, rho)),
                    "range of Learn-Morph-Infer, as quoted in reviews",
                )
            )
        found.append(
            Parameter(
                CAPACITY,
                "1",
                True,
                first.carrying_capacity,
                min(0.1, first.carrying_capacity),
                1.0,
                1.0,
                0.2,
                "a voxel full of tumor, within a fifth",
            )
        )
        if any(isinstance(t, Radiotherapy) for t in plan.treatments):
            alpha = first.alpha_per_gy or 0.06
            found.append(
                _ranged(
                    ALPHA,
                    "1/Gy",
                    alpha,
                    0.025,
                    0.12,
                    (min(0.001, alpha), max(1.0, alpha)),
                    "Rockne et al. 2010, Phys Med Biol 55:3271",
                    1,
                )
            )
    for name, rate in _drugs(plan).items():
        cited = "temozolomide" in name.casefold()
        bounds = (min(1e-3, rate) if rate > 0 else 1e-3, min(FASTEST_PER_DAY, max(50.0, 10.0 * rate)))
        key, start = f"{SENSITIVITY}:{name}", rate or 0.35
        if cited:
            found.append(
                _ranged(
                    key,
                    "1/day",
                    start,
                    0.2,
                    0.5,
                    bounds,
                    "0.2 to 0.5 /day at the maximal dose: Kapteyn et al. 2025 (TumorTwin)",
                    1,
                )
            )
        else:
            found.append(
                Parameter(
                    key,
                    "1/day",
                    True,
                    start,
                    *bounds,
                    start,
                    math.log(3.0),
                    "the plan's value within a factor of three: no range is published",
                )
            )
    for term in anatomy.cross_diffusion:
        chi = term.chi_mm2_per_day
        wide = max(abs(chi), 0.0 if host is None else host.diffusivity_mm2_per_day, 1e-3)
        found.append(
            Parameter(
                f"{CHI}:{term.tissue}/{term.along}",
                "mm²/day",
                False,
                chi,
                max(-WIDEST_MM2_PER_DAY, chi - 10 * wide),
                min(WIDEST_MM2_PER_DAY, chi + 10 * wide),
                chi,
                wide,
                "the plan's value, give or take the diffusivity: no range is published",
            )
        )
    if plan.infiltration_mm > 0:
        tail = plan.infiltration_mm
        found.append(
            _ranged(
                INFILTRATION,
                "mm",
                tail,
                0.6,
                10.0,
                (min(0.1, tail), max(min(50.0, LONGEST_MM), tail)),
                "sqrt(D/rho) over the published growth laws: 1.4 mm (Hathout et al. 2016) to 7.4 mm "
                "(Swanson et al. 2000)",
            )
        )
    if first is not None and plan.infiltration_mm > 0:
        seed = plan.seed_density
        found.append(
            Parameter(
                SEED,
                "1",
                True,
                seed,
                min(0.1, seed),
                max(10.0, seed),
                1.0,
                0.3,
                "the outline as drawn, give or take the error that outlines have, over the infiltration length",
            )
        )
    return tuple(found)


def chosen(plan: Plan, names, bounds=None) -> tuple[Parameter, ...]:
    """The named parameters of a plan; bounds: name -> (low, high), of v, in place of the usual ones.

    Raises CalibrationError for a name that the plan does not have, one named twice, and bounds that exclude the start.
    """
    known = {p.name: p for p in available(plan)}
    names = list(names)
    if not names:
        raise CalibrationError("no parameter was named; name at least one to fit")
    for name in names:
        if name not in known:
            raise CalibrationError(f"the plan has no parameter '{name}'; it has {', '.join(known)}")
        if names.count(name) > 1:
            raise CalibrationError(f"the parameter '{name}' is named twice")
    bounds = dict(bounds or {})
    for name, pair in bounds.items():
        if name not in names:
            raise CalibrationError(
                f"bounds are given for '{name}', which is not among the fitted parameters ({', '.join(names)})"
            )
        try:
            low, high = (float(v) for v in pair)
        except (TypeError, ValueError):
            raise CalibrationError(f"the bounds of {name} must be two numbers, not {pair!r}") from None
        known[name] = dataclasses.replace(known[name], low=low, high=high)
    return tuple(known[name] for name in names)


def usual(plan: Plan) -> tuple[str, ...]:
    """What is fitted unless told otherwise: diffusivity, growth, the sensitivities of the treatments in the plan, and
    the seed density, which stands for the error of the baseline's outline."""
    names = [p.name for p in available(plan)]
    return tuple(n for n in names if n in (DIFFUSIVITY, GROWTH, ALPHA, SEED) or n.startswith(SENSITIVITY))


def applied(plan: Plan, values) -> Plan:
    """The plan with these values, name -> v; what a plan has no place for (a drug that it does not give) is left out.

    The diffusivity is that of the host (white matter, else the first tissue that has one and gives way); the others
    keep their ratio to it, grey matter unless its own ratio is given. beta keeps its ratio to alpha (10 Gy where the
    plan has none); several tumor classes keep their ratios to the first.
    """
    anatomy = plan.anatomy
    host, first = _host(anatomy), _first_tumor(anatomy)
    tissues = list(anatomy.tissues)

    def change(i, **given):
        tissues[i] = dataclasses.replace(tissues[i], **given)

    scale = values[DIFFUSIVITY] / host.diffusivity_mm2_per_day if DIFFUSIVITY in values and host is not None else 1.0
    for i, t in enumerate(anatomy.tissues):
        if t.diffusivity_mm2_per_day:
            change(i, diffusivity_mm2_per_day=t.diffusivity_mm2_per_day * scale)
        if t.role == "grey" and RATIO in values and t.diffusivity_mm2_per_day and host is not None:
            change(i, diffusivity_mm2_per_day=scale * host.diffusivity_mm2_per_day / values[RATIO])
        if not t.is_tumor:
            continue
        if GROWTH in values and first.growth_per_day > 0:
            change(i, growth_per_day=t.growth_per_day * values[GROWTH] / first.growth_per_day)
        if CAPACITY in values:
            change(i, carrying_capacity=min(1.0, t.carrying_capacity * values[CAPACITY] / first.carrying_capacity))
        if ALPHA in values:
            alpha = values[ALPHA] * (t.alpha_per_gy / first.alpha_per_gy if first.alpha_per_gy > 0 else 1.0)
            change(
                i,
                alpha_per_gy=alpha,
                beta_per_gy2=alpha * (t.beta_per_gy2 / t.alpha_per_gy if t.alpha_per_gy > 0 else 1.0 / ALPHA_BETA_GY),
            )
    terms = tuple(
        CrossDiffusion(c.tissue, c.along, values.get(f"{CHI}:{c.tissue}/{c.along}", c.chi_mm2_per_day))
        for c in anatomy.cross_diffusion
    )
    treatments = tuple(
        (
            dataclasses.replace(t, sensitivity_per_day=values[f"{SENSITIVITY}:{t.drug}"])
            if isinstance(t, Chemotherapy) and f"{SENSITIVITY}:{t.drug}" in values
            else t
        )
        for t in plan.treatments
    )
    return dataclasses.replace(
        plan,
        anatomy=dataclasses.replace(anatomy, tissues=tuple(tissues), cross_diffusion=terms),
        treatments=treatments,
        infiltration_mm=values.get(INFILTRATION, plan.infiltration_mm),
        seed_density=values.get(SEED, plan.seed_density),
    )


def _ranged(name, unit, start, low, high, bounds, source, sides: int = 2) -> Parameter:
    """A parameter whose published range reaches so many standard deviations to either side of the median.

    One where the range is that of a few cohorts' means: single patients differ more.
    """
    return Parameter(
        name, unit, True, start, *bounds, math.sqrt(low * high), math.log(high / low) / (2.0 * sides), source
    )


def _host(anatomy):
    """The tissue whose diffusivity stands for all."""
    moving = [t for t in anatomy.tissues if t.diffusivity_mm2_per_day and t.may_be_invaded]
    return next((t for t in moving if t.role == "white"), moving[0] if moving else None)


def _grey(anatomy):
    return next((t for t in anatomy.tissues if t.role == "grey" and t.diffusivity_mm2_per_day), None)


def _first_tumor(anatomy):
    return anatomy.tissues[anatomy.tumors[0]] if anatomy.tumors else None


def _drugs(plan):
    """drug -> kill rate, 1/day; raises where one drug has two."""
    rates = {}
    for t in plan.treatments:
        if isinstance(t, Chemotherapy) and rates.setdefault(t.drug, t.sensitivity_per_day) != t.sensitivity_per_day:
            raise PlanError(f"the plan gives '{t.drug}' two sensitivities; a drug has one")
    return rates
