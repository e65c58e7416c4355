"""Several plans for one patient over one ensemble of parameters: what each leads to, and which is better how often.

Every member of the ensemble (one draw of the parameters) runs every plan, so that plans are compared within a patient
as one draw describes him, and what the draws do not know of him cancels: the comparison is paired. The intervals given
here count the draws; that the model itself may be wrong is in none of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..plan import Anatomy, Plan
from .doses import TissueDose, tissue_doses
from .ensemble import BATCH_BYTES, NUMBERS_PER_VOXEL
from .parameters import CalibrationError, applied
from .progression import Progression, new_focus, time_to_progression
from .shares import drawn
from .tumor import TumorModel, why_not

# Volumes are looked at this often between the reported days, so that a progression is not told later than it is.
ASSESSED_EVERY_DAYS = 7.0
BAND = (0.1, 0.9)
CONFIDENCE_Z = 1.959964  # of a two-sided 95 % interval


@dataclass(frozen=True)
class Candidate:
    """One plan to compare.

    name: of the plan; plan: treatments and days; labels: (*S) baseline, indices into plan.anatomy.tissues
    maps: the arrays that its treatments name, shape of labels
    """

    name: str
    plan: Plan
    labels: np.ndarray
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What one plan leads to in each of M members, on T assessed days.

    days: (T,), day 0 first; reported: those of them whose maps are kept
    tumor_ml: (M, T) drawn volume of the tumor classes together; cells_ml: (M, T) tumor cells as the volume that they
        would fill
    progression_day: (M,), the horizon where censored; progressed_by: (M,) "volume", "focus", or "" where censored
    doses: to each tissue at baseline, the same in every member
    probability: (R, *S) float32, mean over the members of the tumor's probability in the state, on each reported day:
        what `Forecast.tumor_probability` is for one set of parameters (`Ensemble.probability` counts what is drawn)
    """

    name: str
    plan: Plan
    days: np.ndarray
    reported: tuple[float, ...]
    tumor_ml: np.ndarray
    cells_ml: np.ndarray
    progression_day: np.ndarray
    progressed_by: tuple[str, ...]
    doses: tuple[TissueDose, ...]
    probability: np.ndarray

    @property
    def progressed(self) -> np.ndarray:
        """(M,) bool: whether it was before the horizon."""
        return np.array([why != "" for why in self.progressed_by])

    def progression_quantile(self, part: float) -> float:
        """The first day by which at least this part of the members has progressed; infinite where fewer have at all."""
        days = np.sort(np.where(self.progressed, self.progression_day, np.inf))
        return float(days[max(0, math.ceil(part * days.size - 1e-9) - 1)])


@dataclass(frozen=True)
class Preference:
    """How often one plan beats another over the paired members: P = (wins + ties/2) / M.

    measure: "progression" (later), "volume" (less drawn tumor on the last day) or "cells" (fewer tumor cells on it)
    wins, ties: of `better` against `worse`
    low, high: 95 % interval of P by the number of members (Wilson 1927); NaN with one, which tells nothing of how often
    """

    better: str
    worse: str
    measure: str
    members: int
    wins: int
    ties: int
    probability: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Outcomes in the order of the candidates, preferences of every pair, the rule of progression, the voxel size."""

    outcomes: tuple[Outcome, ...]
    preferences: tuple[Preference, ...]
    rule: Progression
    spacing_mm: tuple[float, ...]

    @property
    def members(self) -> int:
        return len(self.outcomes[0].progression_day)

    def difference(self, name: str, reference: str, day: float) -> np.ndarray:
        """(*S) tumor probability under `name` less that under `reference`: negative where `name` leaves less tumor."""
        one, other = (next(o for o in self.outcomes if o.name == n) for n in (name, reference))
        return one.probability[one.reported.index(day)] - other.probability[other.reported.index(day)]


def compare(
    candidates: Sequence[Candidate],
    spacing_mm,
    members: Sequence[Mapping[str, float]],
    *,
    rule: Progression = Progression(),
    assessed_every_days: float = ASSESSED_EVERY_DAYS,
    device: str = "cpu",
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Comparison:
    """Runs every candidate in every member and compares them.

    candidates: at least one, of one patient, names all different; spacing_mm: in the order of the labels' axes
    members: the parameters of each draw, name -> v (`parameters.applied`); {} leaves a plan as it is. The same members
        serve every candidate
    All are run to the latest day that any of them reports; nothing is given after a plan's own last day.
    Raises InterruptedError when cancelled() says yes.
    """
    assert candidates and members and len({c.name for c in candidates}) == len(candidates)
    reported = tuple(sorted({d for c in candidates for d in c.plan.days}))
    days = _assessed(reported, assessed_every_days)
    outcomes = []
    for index, candidate in enumerate(candidates):
        def told(fraction, text, index=index, name=candidate.name):
            if progress is not None:
                progress((index + fraction) / len(candidates), f"{name}: {text}")

        outcomes.append(_outcome(candidate, spacing_mm, members, days, reported, rule, device, told, cancelled))
    pairs = itertools.permutations(outcomes, 2)
    found = tuple(preference(a, b, measure) for a, b in pairs for measure in ("progression", "volume", "cells"))
    return Comparison(tuple(outcomes), found, rule, tuple(float(h) for h in spacing_mm))


def of_patient(plan: Plan, patient: Plan) -> Plan:
    """The treatments and days of a plan in the patient of another.

    Tissues of the same name, cross-diffusion, tail and the rest are the patient's. A tissue that the patient's plan
    lacks (what surgery or treatment leave behind) stays the plan's own. A twin's parameters mean what they say only in
    the plan that they were fitted in.
    """
    own = {t.name.casefold(): t for t in patient.anatomy.tissues}
    tissues = tuple(own.get(t.name.casefold(), t) for t in plan.anatomy.tissues)
    names = {t.name for t in tissues}
    # dead mass may only go to a class that this plan has
    tissues = tuple(
        t if t.dies_to is None or t.dies_to in names else dataclasses.replace(t, dies_to=None) for t in tissues)
    chi = tuple(c for c in patient.anatomy.cross_diffusion if c.tissue in names and c.along in names)
    return dataclasses.replace(
        patient, anatomy=Anatomy(tissues, chi), treatments=plan.treatments, days=plan.days, step_days=plan.step_days)


def paired_members(twin, plans: Sequence[Plan], n: int, seed: int = 0) -> list[dict[str, float]]:
    """n draws of a twin's parameters that serve all of the plans.

    Sensitivities that no visit has shown come from their priors. Raises PlanError where the plans give one drug two.
    """
    together = dataclasses.replace(
        plans[0], treatments=tuple(t for plan in plans for t in plan.treatments),
        days=max((plan.days for plan in plans), key=lambda days: days[-1]))
    return twin.sample(n, seed, together)


def preference(a: Outcome, b: Outcome, measure: str) -> Preference:
    """How often plan a beats plan b by one measure. Both censored at the horizon, or both without tumor, is a tie."""
    if measure == "progression":
        x, y = (np.where(o.progressed, -o.progression_day, -np.inf) for o in (a, b))
    elif measure == "volume":
        x, y = a.tumor_ml[:, -1], b.tumor_ml[:, -1]
    else:
        assert measure == "cells"
        x, y = a.cells_ml[:, -1], b.cells_ml[:, -1]
    wins, ties, n = int((x < y).sum()), int((x == y).sum()), len(x)
    p = (wins + 0.5 * ties) / n
    low, high = wilson_interval(p, n) if n > 1 else (math.nan, math.nan)
    return Preference(a.name, b.name, measure, n, wins, ties, p, low, high)


def wilson_interval(p: float, n: int, z: float = CONFIDENCE_Z) -> tuple[float, float]:
    """The score interval of a proportion p of n draws (Wilson 1927, JASA 22:209); it stays within 0 and 1.

    (p + z²/2n ± z sqrt(p(1 − p)/n + z²/4n²)) / (1 + z²/n)
    """
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def _assessed(reported, every: float) -> tuple[float, ...]:
    """Day 0, the reported days, and days between them that are at most `every` apart, evenly spread."""
    days = [0.0]
    for day in reported:
        parts = max(1, math.ceil((day - days[-1]) / every - 1e-9))
        start = days[-1]
        days += [start + (day - start) * i / parts for i in range(1, parts)] + [day]
    return tuple(days)


def _outcome(candidate, spacing_mm, members, days, reported, rule, device, told, cancelled) -> Outcome:
    plan, labels = dataclasses.replace(candidate.plan, days=days[1:]), np.asarray(candidate.labels)
    baseline = np.isin(labels, plan.anatomy.tumors)
    voxel_ml = math.prod(spacing_mm) / 1000.0
    tumor, cells, focus = (np.zeros((len(members), len(days))) for _ in range(3))
    probability = np.zeros((len(reported), *labels.shape), np.float32)

    def seen(m, t, drawn, density, box=...):
        """One member on one day: bool and float32 arrays of a box, beyond which there is no tumor."""
        tumor[m, t] = np.count_nonzero(drawn) * voxel_ml
        cells[m, t] = density.sum(dtype=np.float64) * voxel_ml
        focus[m, t] = new_focus(drawn, baseline[box]) * voxel_ml if t else 0.0
        if days[t] in reported:
            probability[reported.index(days[t])][box] += density / np.float32(len(members))

    run = _one_by_one if why_not(plan, labels) is not None or device != "cpu" else _side_by_side
    run(plan, labels, spacing_mm, candidate.maps, members, seen, device, told, cancelled)
    if not np.isfinite(cells).all():
        raise CalibrationError(
            f"the numbers of plan '{candidate.name}' overflow; check its rates, doses and diffusivities")
    tumor[:, 0] = np.count_nonzero(baseline) * voxel_ml
    ends = [time_to_progression(days, tumor[m], focus[m], rule) for m in range(len(members))]
    return Outcome(
        candidate.name, candidate.plan, np.array(days), reported, tumor, cells, np.array([day for day, _ in ends]),
        tuple(why for _, why in ends), tissue_doses(plan, labels, candidate.maps, spacing_mm), probability,
    )


def _side_by_side(plan, labels, spacing_mm, maps, members, seen, device, told, cancelled) -> None:
    """Members in batches, where a plan can be reduced to one tumor class."""
    model = TumorModel(labels, spacing_mm, plan, maps)
    visibility = plan.anatomy.tissues[model.k].visibility
    size = max(1, min(len(members), int(BATCH_BYTES / (4 * NUMBERS_PER_VOXEL * labels.size))))
    for first in range(0, len(members), size):
        batch = members[first:first + size]

        def report(t, shares, first=first):
            density = (shares.u[0] * shares.room).numpy()
            for b, mask in enumerate(drawn(shares, visibility).numpy()):
                seen(first + b, t, mask, density[b], shares.box)

        def within(fraction, day, first=first, last=first + len(batch)):
            part = (first + fraction * (last - first)) / len(members)
            told(part, f"members {first + 1} to {last} of {len(members)}, day {day:.4g}")

        model.run(batch, plan.reported_days, report=report, progress=within, cancelled=cancelled)


def _one_by_one(plan, labels, spacing_mm, maps, members, seen, device, told, cancelled) -> None:
    """Members in turn, through the whole state."""
    import torch

    from ..physics.assembly import assemble
    from ..physics.stepping import integrate
    from ..state import labels_of

    tumors = list(plan.anatomy.tumors)
    for m, values in enumerate(members):
        personal = applied(plan, values)
        with torch.no_grad():
            p, equation, course = assemble(personal, labels, spacing_mm, maps, device=device)
            density, current, shown = p[0, tumors].sum(0).cpu().numpy().copy(), labels.astype(np.uint8), [0]

            def report(day, state, box):
                if day > 0:
                    current[box] = labels_of(state[0].cpu().numpy(), personal.anatomy)
                density[box] = state[0, tumors].sum(0).cpu().numpy()
                seen(m, shown[0], np.isin(current, tumors), density)
                shown[0] += 1

            def within(fraction, day):
                told((m + fraction) / len(members), f"member {m + 1} of {len(members)}, day {day:.4g}")

            integrate(p, equation, course, report=report, progress=within, cancelled=cancelled)
