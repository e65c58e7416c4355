"""From a patient's visits to a twin, and from a twin and a new visit to the next one."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .. import __version__
from ..plan import Plan, Surgery
from . import general
from .ensemble import ensemble
from .fit import Settings, fit
from .observations import Visit
from .parameters import CHI, CalibrationError, Parameter, available, chosen, usual
from .refine import Refined, refine
from .shares import drawn
from .tumor import TumorModel, why_not
from .twin import TIED, Fitted, Seen, Twin, fingerprint, fingerprint_of

# Two visits closer than this are one.
SAME_DAY = 1e-3
# A tumor that nothing was done to and that is smaller than this part of a former visit contradicts every growth law.
SHRUNK = 0.5
# Of the data alone, in units of the prior's precision: keeps what they say nothing about finite.
FAINT_PRIOR = 1e-4
MEMBERS = 20
# A part of a tumor that lies apart is named as a new focus from this volume on.
LEAST_FOCUS_ML = 0.1


@dataclass(frozen=True)
class Observation:
    """One visit after the baseline.

    day: after the baseline; labels: (*S) in the numbering of the plan's tissues
    probability: (*S) in 0..1, of the visible tumor, in place of the labels' yes and no
    cellularity: (*S) in 0..1, tumor cells as part of a full voxel, e.g. from diffusion imaging
    One of the three is fitted: cellularity, else probability, else labels.
    """

    day: float
    labels: np.ndarray | None = None
    probability: np.ndarray | None = None
    cellularity: np.ndarray | None = None

    @property
    def kind(self) -> str:
        if self.cellularity is not None:
            return "cellularity"
        return "labels" if self.probability is None else "probability"


def calibrate(
    labels: np.ndarray,
    spacing_mm,
    plan: Plan,
    observations,
    *,
    maps: Mapping | None = None,
    parameters=None,
    bounds=None,
    former: Twin | None = None,
    network=None,
    settings: Settings = Settings(),
    state: dict | None = None,
    save: Callable[[dict], None] | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Twin, list[str], Refined | None]:
    """(the twin, warnings, its growth network) of a baseline and later visits. Everything but the observations has been
    checked.

    parameters: names to fit; None: `parameters.usual`, or the former twin's; bounds: name -> (low, high)
    former: a twin of the same baseline, whose posterior is the prior here and whose forecast is judged by these visits
    network: (`GrowthNetwork`, its images or None), whose last layer is refined after the fit; None: there is none
    """
    begun, started = time.perf_counter(), time.process_time()
    labels = np.asarray(labels)
    visits, warnings = _visits(labels, plan, observations, former)
    fitted = _parameters(plan, parameters, bounds, former)
    reason = why_not(plan, labels)
    if reason is None and any(p.name.startswith(CHI) for p in fitted):
        reason = "cross-diffusion is fitted"
    mean, precision = _prior(fitted, former)
    start = 0.0
    forecast = {}
    if former is not None:
        start = 0.15
        forecast = _judged(
            former, labels, spacing_mm, plan, visits, maps, lambda f, t: progress and progress(start * f, t), cancelled
        )

    end = 1.0 if network is None else 0.5

    def told(fraction, text):
        if progress is not None:
            progress(start + (end - start) * fraction, text)

    reach = np.any([v.values > 0 for v in visits], axis=0)
    if reason is None:
        model = TumorModel(labels, spacing_mm, plan, maps)
    else:
        model = general.GeneralModel(labels, spacing_mm, plan, maps, reach)
        warnings.append(f"the whole state is fitted, which takes longer: {reason}")
    visibility = plan.anatomy.tissues[model.k].visibility
    if former is not None:
        settings = dataclasses.replace(settings, starts=1)
    found = fit(
        model,
        visits,
        fitted,
        mean,
        precision,
        visibility,
        settings,
        state=state,
        save=save,
        progress=told,
        cancelled=cancelled,
    )

    precision = found.precision
    told_alone = np.linalg.inv(found.information + FAINT_PRIOR * precision)
    alone = np.sqrt(np.diag(told_alone))
    together = told_alone / np.outer(alone, alone)
    spread = np.sqrt(np.diag(found.covariance))
    prior_spread = np.sqrt(np.diag(np.linalg.inv(precision)))
    results = tuple(
        Fitted(
            dataclasses.replace(p, spread=float(prior_spread[i]), median=p.value(mean[i])),
            p.value(found.x[i]),
            float(spread[i]),
            float(alone[i]),
            tuple(
                (q.name, round(float(together[i, j]), 4))
                for j, q in enumerate(fitted)
                if j != i and abs(together[i, j]) >= TIED
            ),
        )
        for i, p in enumerate(fitted)
    )
    refined = None
    if network is not None:
        refined = refine(
            *network,
            general.GeneralModel(labels, spacing_mm, plan, maps, reach),
            visits,
            {p.name: p.value for p in results},
            found.noise,
            found.patch_mm,
            progress=lambda f, t: progress and progress(end + (1 - end) * f, t),
            cancelled=cancelled,
        )
    elif former is not None and former.growth:
        warnings.append("the growth network of the former twin is not carried over: refine it again with its weights")
    voxel_ml = math.prod(spacing_mm) / 1000.0
    seen = []
    for visit, given, shares in zip(visits, observations, found.shares):
        shown = drawn(shares, visibility)[0].numpy()
        threshold = visibility * plan.anatomy.tissues[model.k].carrying_capacity if visit.density else 0.5
        was = visit.values >= threshold
        seen.append(
            Seen(
                float(visit.day),
                _hash(given, spacing_mm),
                given.kind,
                float(was.sum() * voxel_ml),
                float(shown.sum() * voxel_ml),
                dice(shown, was),
                forecast.get(float(visit.day), {}),
            )
        )
        apart = _apart(was, shown) * voxel_ml
        if apart > LEAST_FOCUS_ML:
            warnings.append(
                f"{apart:.2f} mL of the tumor of day {visit.day:g} lie apart from the fitted tumor: a new focus, which "
                "the parameters cannot explain and were not bent to"
            )
        elif was.any() and seen[-1].dsc < 0.5:
            warnings.append(
                f"the fit meets the visit of day {visit.day:g} with a Dice of {seen[-1].dsc:.2f} only: the plan or the "
                "model does not describe it"
            )
    for p in results:
        x = p.parameter.coordinate(p.value)
        if (
            min(abs(x - p.parameter.coordinate(p.parameter.low)), abs(x - p.parameter.coordinate(p.parameter.high)))
            < 1e-9
        ):
            warnings.append(f"{p.name} lies at the end of its bounds, {p.value:.4g} {p.unit}")
    import torch

    run = {
        "anatomydt": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "settings": dataclasses.asdict(settings),
        "outline_noise_mm": found.noise.sigma_mm,
        "outline_patch_mm": found.patch_mm,
        "inflation": found.inflation,
        "objective": found.value,
        "starts": list(found.starts),
        "evaluations": found.evaluations,
        "process_seconds": round(time.process_time() - started, 2),
        "seconds": round(time.perf_counter() - begun, 2),
        "warnings": list(warnings),
    }
    earlier = () if former is None else former.observations
    matrix = tuple(tuple(float(v) for v in row) for row in found.covariance)
    prior = tuple(tuple(float(v) for v in row) for row in np.linalg.inv(precision))
    twin = Twin(
        fingerprint(labels, spacing_mm),
        tuple(labels.shape),
        tuple(float(h) for h in spacing_mm),
        plan,
        results,
        matrix,
        tuple(float(v) for v in mean),
        prior,
        earlier + tuple(seen),
        {name: fingerprint_of(v) for name, v in sorted((maps or {}).items())},
        run,
        () if former is None else former.former + (former.sha256,),
        {} if refined is None else refined.record,
    )
    return twin, warnings, refined


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |a ∩ b| / (|a| + |b|), 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


def _apart(was: np.ndarray, shown: np.ndarray) -> int:
    """Voxels of the parts of a tumor that the fitted one, where there is one, does not touch."""
    parts, count = ndimage.label(was)
    if not count or not shown.any():
        return 0
    touched = np.unique(parts[ndimage.binary_dilation(shown) & was])
    return int(was.sum() - np.isin(parts, touched[touched > 0]).sum())


def _visits(labels, plan: Plan, observations, former) -> tuple[list[Visit], list[str]]:
    """The observations as the fit takes them; raises CalibrationError for what cannot be."""
    anatomy, warnings = plan.anatomy, []
    if not observations:
        raise CalibrationError("a calibration needs at least one visit after the baseline; none was given")
    tumors = anatomy.tumors
    if not np.isin(labels, tumors).any():
        raise CalibrationError("there is no tumor at baseline: nothing can be fitted to its growth")
    # where there is edema beside the solid tumor, the solid tumor is what is compared
    first = next(k for k in tumors if (labels == k).any())
    last = 0.0 if former is None or not former.observations else former.observations[-1].day
    what = "the baseline (day 0)" if last == 0.0 else f"the twin's last visit (day {last:g})"
    visits, before = [], (0.0, float((labels == first).sum()), labels)
    for o in observations:
        try:
            day = float(o.day)
        except (TypeError, ValueError):
            raise CalibrationError(f"a visit's day must be a number, not {o.day!r}") from None
        if not math.isfinite(day) or day < 0:
            raise CalibrationError(f"a visit's day must be a number of days after the baseline, not {o.day!r}")
        if abs(day - last) < SAME_DAY:
            raise CalibrationError(
                f"two visits lie on day {day:g}; give one for each day"
                if visits
                else f"the visit of day {day:g} lies on the day of {what}; give a later one"
            )
        if day < last:
            raise CalibrationError(
                f"the visits are out of order: day {day:g} comes after day {last:g}; give them in the order of time"
                if visits
                else f"the visit of day {day:g} lies before {what}; calibrate again with all visits instead"
            )
        last = day
        values = _values(o, labels.shape, anatomy, first)
        visits.append(Visit(day, values, o.kind == "cellularity"))
        before = _contradicted(plan, o, values, before, warnings)
    return visits, warnings


def _values(o: Observation, shape, anatomy, tumor) -> np.ndarray:
    given = {"cellularity": o.cellularity, "probability": o.probability, "labels": o.labels}[o.kind]
    if given is None:
        raise CalibrationError(
            f"the visit of day {float(o.day):g} holds nothing: give its labels, a probability or a cellularity map"
        )
    values = np.asarray(given)
    if values.shape != shape:
        raise CalibrationError(
            f"the visit of day {float(o.day):g} has {values.shape} voxels, the baseline {shape}; resample it to the "
            "baseline's geometry"
        )
    if values.dtype.kind not in "iubf" or not np.isfinite(values).all():
        raise CalibrationError(f"the {o.kind} map of day {float(o.day):g} must hold finite numbers")
    if o.kind == "labels":
        if values.min() < 0 or values.max() >= len(anatomy) or (values != np.floor(values)).any():
            raise CalibrationError(
                f"the labels of day {float(o.day):g} are not those of the plan, which are numbered 0 to "
                f"{len(anatomy) - 1}"
            )
        return (values == tumor).astype(np.float32)
    if values.min() < 0 or values.max() > 1:
        raise CalibrationError(
            f"the {o.kind} map of day {float(o.day):g} must lie between 0 and 1, not {values.min():g} to "
            f"{values.max():g}"
        )
    return values.astype(np.float32)


def _contradicted(plan, o, values, before, warnings):
    """Refuses a visit that no course of this plan can lead to; returns (day, voxels, labels) for the next one."""
    day, (former_day, former_voxels, former_labels) = float(o.day), before
    voxels = float(values.sum())
    cavity = plan.anatomy.with_role("cavity")
    operated = [t for t in plan.treatments if isinstance(t, Surgery) and t.day <= day]
    treated = any(former_day - 60.0 <= d <= day for t in plan.treatments for d in t.event_days())
    if o.labels is not None and cavity and not operated:
        new = np.isin(o.labels, cavity).sum() - np.isin(former_labels, cavity).sum()
        if new > 0.1 * max(former_voxels, 1.0):
            raise CalibrationError(
                f"the visit of day {day:g} shows a new resection cavity, but the plan has no surgery until then; add "
                "it to the plan"
            )
    if o.kind != "cellularity" and former_voxels > 0 and not treated:
        if voxels == 0:
            raise CalibrationError(
                f"no tumor is seen on day {day:g}, but the plan has no treatment since day {former_day:g} that could "
                "have removed it; add the treatment, or leave that visit out"
            )
        if voxels < SHRUNK * former_voxels:
            warnings.append(
                f"the tumor shrinks to {voxels / former_voxels:.0%} between days {former_day:g} and {day:g} without a "
                "treatment in the plan: the fit cannot follow it"
            )
    elif o.kind != "cellularity" and voxels == 0:
        warnings.append(f"no tumor is seen on day {day:g}: taken as a density below the visibility everywhere")
    return day, voxels, former_labels if o.labels is None else o.labels


def _parameters(plan, names, bounds, former) -> tuple[Parameter, ...]:
    """What is fitted, starting from the former twin's values where there is one."""
    if former is None:
        return chosen(plan, usual(plan) if names is None else names, bounds)
    if names is None:
        known = {p.name for p in available(plan)}
        names = [n for n in former.names if n in known] + [n for n in usual(plan) if n not in former.names]
    return chosen(former.plan_for(plan=plan), names, bounds)


def _prior(parameters, former):
    """Mean (n,) and precision (n, n) in x: the cited priors, with the former posterior in their place."""
    mean = np.array([p.coordinate(p.median) for p in parameters])
    covariance = np.diag([p.spread**2 for p in parameters])
    if former is not None:
        shared = [(i, former.names.index(p.name)) for i, p in enumerate(parameters) if p.name in former.names]
        for i, a in shared:
            mean[i] = former.parameters[a].parameter.coordinate(former.parameters[a].value)
            for j, b in shared:
                covariance[i, j] = former.covariance[a][b]
    precision = np.linalg.inv(covariance)
    return mean, (precision + precision.T) / 2


def _judged(former: Twin, labels, spacing_mm, plan, visits, maps, progress, cancelled) -> dict:
    """day -> what the former twin forecasts for a visit that it has not seen."""
    days = tuple(v.day for v in visits)
    ahead = dataclasses.replace(plan, days=days + tuple(d for d in plan.days if d > days[-1]))
    members = ensemble(former, labels, spacing_mm, ahead, maps, members=MEMBERS, progress=progress, cancelled=cancelled)
    low, middle, high = members.band()
    judged = {}
    for t, visit in enumerate(visits, start=1):
        likely = members.probability[t] >= 0.5
        judged[float(visit.day)] = {
            "former": former.sha256,
            "volume_ml": float(middle[t]),
            "low_ml": float(low[t]),
            "high_ml": float(high[t]),
            "dsc": dice(likely, visit.values >= 0.5),
        }
    return judged


def _hash(o: Observation, spacing_mm) -> str:
    return (
        fingerprint(o.labels, spacing_mm)
        if o.kind == "labels"
        else fingerprint_of(
            np.asarray({"cellularity": o.cellularity, "probability": o.probability}[o.kind], np.float32)
        )
    )
