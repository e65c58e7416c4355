"""A stored twin: one patient's fitted parameters, how certain they are, and everything that made them, by hash.

A calibrated forecast is `engine.forecast(labels, spacing_mm, twin.plan_for())`. Standard library and numpy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field

import numpy as np

from ..plan import Plan, PlanError
from . import parameters
from .parameters import CalibrationError, Parameter, applied

TWIN_VERSION = 1
# The data tell a parameter where they alone would leave it at most this part of its prior's standard deviation.
TOLD_PART = 0.5
# Two parameters that the data alone tie together this closely are named as such.
TIED = 0.9
# Standard deviations to either side of a normal's median that hold 80 %.
EIGHTY = 1.2815515655446004


@dataclass(frozen=True)
class Fitted:
    """One fitted parameter.

    value: v at the fit; spread: standard deviation of its coordinate x (`Parameter`) after the fit
    data_spread: what the observations alone would leave, without any prior; infinite where they say nothing
    tied: (name, correlation) of the parameters that the data alone cannot move apart from this one
    """

    parameter: Parameter
    value: float
    spread: float
    data_spread: float
    tied: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        return self.parameter.name

    @property
    def unit(self) -> str:
        return self.parameter.unit

    @property
    def told(self) -> bool:
        """Whether the data could tell it; else the number is the prior's."""
        return self.data_spread <= TOLD_PART * self.parameter.spread

    def interval(self, sigmas: float = EIGHTY) -> tuple[float, float]:
        """(low, high) in v: the 80 % interval, unless told otherwise."""
        x = self.parameter.coordinate(self.value)
        return self.parameter.value(x - sigmas * self.spread), self.parameter.value(x + sigmas * self.spread)

    def verdict(self) -> str:
        """One phrase: whether the data could tell it, and with what it is tied."""
        names = ", ".join(f"{name} ({r:+.2f})" for name, r in self.tied)
        if self.told:
            return f"told by the data; goes with {names}" if names else "told by the data"
        return (
            f"not told by the data: cannot be told apart from {names}"
            if names
            else "not told by the data: the prior's value"
        )


@dataclass(frozen=True)
class Seen:
    """One visit that was fitted, and how the fit meets it.

    day; sha256: of its labels (`fingerprint`); kind: "labels", "probability" or "cellularity"
    observed_ml, fitted_ml: volume of the visible tumor; dsc: Dice of the two, 1 where both are empty
    forecast: what the twin of before this visit had forecast for it ({} for the visits of the first calibration):
        volume_ml, low_ml, high_ml (80 %), dsc, former (sha256 of that twin)
    """

    day: float
    sha256: str
    kind: str
    observed_ml: float
    fitted_ml: float
    dsc: float
    forecast: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Twin:
    """A calibrated twin.

    patient: `fingerprint` of the baseline's labels, which a forecast with this twin starts from
    shape, spacing_mm: of the baseline, in the order of the array's axes
    plan: as it was given to the calibration; parameters: fitted, in the order of the covariance
    covariance: of the coordinates x at the fit (n, n); prior_covariance: before it (the former fit's, after an update);
        prior_mean: (n,) in x
    observations: every visit so far, ascending; maps: name -> sha256 of the arrays that the treatments name
    fit: what ran: settings, iterations, noise, versions; JSON-able
    former: sha256 of the twins that this one was updated from, oldest first
    growth: of a refined growth network (`refine.Refined.record`), with the sha256 of the weights that were loaded
        ("loaded") and of the file that holds the refined ones ("refined"); {} without one, and then not in the document
    """

    patient: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    plan: Plan
    parameters: tuple[Fitted, ...]
    covariance: tuple[tuple[float, ...], ...]
    prior_mean: tuple[float, ...]
    prior_covariance: tuple[tuple[float, ...], ...]
    observations: tuple[Seen, ...]
    maps: dict = field(default_factory=dict)
    fit: dict = field(default_factory=dict)
    former: tuple[str, ...] = ()
    growth: dict = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters)

    @property
    def values(self) -> dict[str, float]:
        """name -> v at the fit."""
        return {p.name: p.value for p in self.parameters}

    def plan_for(self, values=None, plan: Plan | None = None) -> Plan:
        """A plan with the fitted parameters, or with `values` (name -> v) in their place.

        plan: other treatments and days for the same anatomy; None: the plan of the calibration
        """
        return applied(self.plan if plan is None else plan, self.values if values is None else values)

    def sample(self, n: int, seed: int = 0, plan: Plan | None = None) -> list[dict[str, float]]:
        """n draws of the parameters, name -> v, from the normal approximation about the fit (Laplace) within the
        bounds.

        The points are a scrambled Sobol sequence: 20 members stand for the whole distribution better than 20 throws of
        dice. plan: what the draws will be run with; its sensitivities that were never fitted are drawn from their
        priors.
        """
        assert n > 0
        from scipy.stats import norm, qmc

        known = [p.parameter for p in self.parameters]
        unseen = (
            []
            if plan is None
            else [
                p
                for p in parameters.available(plan)
                if p.name not in self.names
                and (p.name == parameters.ALPHA or p.name.startswith(parameters.SENSITIVITY))
            ]
        )
        points = qmc.Sobol(len(known) + len(unseen), scramble=True, seed=seed).random_base2(
            max(1, math.ceil(math.log2(n)))
        )
        z = norm.ppf(np.clip(points[:n], 1e-9, 1 - 1e-9))
        middle = np.array([p.coordinate(f.value) for p, f in zip(known, self.parameters)])
        x = middle + z[:, : len(known)] @ root(np.array(self.covariance)).T
        drawn = []
        for row, rest in zip(x, z[:, len(known) :]):
            values = {p.name: p.value(v) for p, v in zip(known, row)}
            values.update({p.name: p.value(p.coordinate(p.median) + v * p.spread) for p, v in zip(unseen, rest)})
            drawn.append(values)
        return drawn

    def members(self, n: int, seed: int = 0, plan: Plan | None = None) -> list:
        """n callables, each a plan -> the plan with the parameters of one draw (`sample`)."""
        return [lambda other, values=values: applied(other, values) for values in self.sample(n, seed, plan)]

    def check_patient(self, labels, spacing_mm) -> None:
        """Raises CalibrationError where these labels are not the baseline that the twin was made from."""
        if tuple(np.shape(labels)) != self.shape:
            raise CalibrationError(
                f"the twin belongs to an image of {self.shape} voxels, this one has {tuple(np.shape(labels))}"
            )
        if fingerprint(labels, spacing_mm) != self.patient:
            raise CalibrationError(
                "the twin belongs to another patient or baseline: its segmentation is not the one that was given"
            )

    def to_json(self) -> str:
        """The twin as a JSON document; `from_json` gives back an equal twin."""
        document = {"anatomydt_twin": TWIN_VERSION}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "plan":
                value = json.loads(value.to_json())
            elif item.name in ("parameters", "observations"):
                value = [dataclasses.asdict(v) for v in value]
            if item.name != "growth" or value:
                document[item.name] = value
        return json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def sha256(self) -> str:
        """Of the document: names this twin in the one that is updated from it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Twin:
        """Reads a twin; raises CalibrationError with one sentence for what it does not understand."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"the twin is not JSON: {error}") from None
        if not isinstance(document, dict) or "anatomydt_twin" not in document:
            raise CalibrationError('this is not a twin: it must be a JSON object with the key "anatomydt_twin"')
        version = document.pop("anatomydt_twin")
        if version != TWIN_VERSION or isinstance(version, bool):
            raise CalibrationError(
                f"the twin has version {version!r}; this program reads version {TWIN_VERSION}: calibrate it again"
            )
        fields = {item.name for item in dataclasses.fields(cls)}
        document.setdefault("growth", {})
        if set(document) != fields:
            odd = sorted(set(document) ^ fields)
            raise CalibrationError(f'the twin has the wrong keys ("{odd[0]}"); it was changed or cut short')
        try:
            document["plan"] = Plan.from_json(json.dumps(document["plan"]))
            document["parameters"] = tuple(_fitted(p) for p in document["parameters"])
            document["observations"] = tuple(Seen(**s) for s in document["observations"])
            for key in ("covariance", "prior_covariance"):
                document[key] = tuple(tuple(float(v) for v in row) for row in document[key])
            for key in ("shape", "spacing_mm", "prior_mean", "former"):
                document[key] = tuple(document[key])
            if not isinstance(document["growth"], dict):
                raise TypeError("growth must be an object")
            twin = cls(**document)
            n = len(twin.parameters)
            spd = np.array(twin.covariance)
            whole = n > 0 and spd.shape == np.shape(twin.prior_covariance) == (n, n) and len(twin.prior_mean) == n
            if not whole or not np.isfinite(spd).all() or np.linalg.eigvalsh(spd).min() < -1e-9 * np.abs(spd).max():
                raise CalibrationError("the twin's covariance does not fit its parameters; it was changed or cut short")
        except CalibrationError:
            raise
        except PlanError as error:
            raise CalibrationError(f"the twin's plan cannot be read: {error}") from None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CalibrationError(f"the twin cannot be read ({error}); it was changed or cut short") from None
        return twin


def fingerprint(labels, spacing_mm) -> str:
    """sha256 of a label map: its shape, voxel size (to the micrometre) and values."""
    labels = np.ascontiguousarray(np.asarray(labels).astype(np.uint8))
    head = json.dumps([list(labels.shape), [round(float(h), 3) for h in spacing_mm]])
    return hashlib.sha256(head.encode() + labels.tobytes()).hexdigest()


def fingerprint_of(values) -> str:
    """sha256 of an array of numbers: its shape, type and bytes."""
    values = np.ascontiguousarray(values)
    return hashlib.sha256(json.dumps([list(values.shape), values.dtype.str]).encode() + values.tobytes()).hexdigest()


def root(covariance: np.ndarray) -> np.ndarray:
    """A with A Aᵀ = covariance, for a covariance that may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _fitted(entry: dict) -> Fitted:
    entry = dict(entry)
    entry["parameter"] = Parameter(**entry["parameter"])
    entry["tied"] = tuple((str(name), float(r)) for name, r in entry["tied"])
    entry["data_spread"] = math.inf if entry["data_spread"] is None else float(entry["data_spread"])
    return Fitted(**entry)


def _plain(value):
    """JSON's own types; an infinite number becomes null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.floating, np.integer)):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
