"""What to forecast: tissues and their roles, treatments, days. Standard library only.

A `Plan` is one versioned JSON document that the panel, the command line and a cluster job all
read. Units stand in the key names. Whatever it does not understand it refuses, in one sentence.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from .checks import (
    FASTEST_PER_DAY, LAST_DAY, LONGEST_MM, SHORTEST_DAYS, WIDEST_MM2_PER_DAY, PlanError, flag, number, numbers,
    optional_text, shown, text,
)
from .interventions import TREATMENTS, WEEKDAYS, Chemotherapy, Radiotherapy, Surgery, kind_of

# The one door to a plan and to what stands in it.
__all__ = (
    "Anatomy", "Chemotherapy", "CrossDiffusion", "PLAN_VERSION", "Plan", "PlanError", "ROLES", "Radiotherapy", "Surgery",
    "TREATMENTS", "Tissue", "WEEKDAYS", "kind_of",
)

PLAN_VERSION = 1

MOST_STEPS = 200_000
LEAST_VISIBLE = 1e-3
MOST_SEED = 100.0


# What a class is, mechanically. `gives_way`: tumor may take its place. `barrier` is falx, tentorium
# or skull; `organ` is any tissue that is not brain; `cavity` is what surgery leaves; `necrosis` is
# dead tumor that has not been cleared, and dead tumor goes there first.
ROLES = {
    # role: (gives way to tumor, is tumor)
    "background": (False, False),
    "white": (True, False),
    "grey": (True, False),
    "organ": (True, False),
    "csf": (False, False),
    "ventricle": (False, False),
    "vessel": (False, False),
    "barrier": (False, False),
    "cavity": (False, False),
    "necrosis": (True, False),
    "edema": (True, True),
    "tumor": (False, True),
}

@dataclass(frozen=True)
class Tissue:
    """One class of the anatomical state.

    name: unique, shown to the user, and the segment's name
    role: one of ROLES
    diffusivity_mm2_per_day: D of tumor cells inside this tissue; None for the role's default, which
        for a tumor or necrosis class is that of the nearest tissue around it
    growth_per_day: for a tumor or edema class the proliferation rate rho of its logistic growth; for
        any other class a growth (positive) or atrophy (negative) rate
    carrying_capacity: kappa, in (0, 1]
    visibility: fraction of the carrying capacity from which a tumor class is drawn; 0.5 is where it
        equals the tissue it replaces (Swanson et al. 2008: T1Gd 0.80, FLAIR 0.16)
    alpha_per_gy, beta_per_gy2: linear-quadratic radiosensitivity (0: not harmed by radiation)
    gives_way: may a tumor take its place; None for the role's default
    dies_to: name of the class that dead mass goes to; None: necrosis, else cavity, else csf
    color: red, green, blue in 0..1; None for the role's default
    terminology: Slicer terminology entry, kept as it came
    """

    name: str
    role: str
    diffusivity_mm2_per_day: float | None = None
    growth_per_day: float = 0.0
    carrying_capacity: float = 1.0
    visibility: float = 0.5
    alpha_per_gy: float = 0.0
    beta_per_gy2: float = 0.0
    gives_way: bool | None = None
    dies_to: str | None = None
    color: tuple[float, float, float] | None = None
    terminology: str | None = None

    def __post_init__(self):
        text(self.name, "a tissue's name")
        what = f"tissue '{self.name}'"
        if not isinstance(self.role, str) or self.role not in ROLES:
            raise PlanError(f"{what} has the role {shown(self.role)}; write one of {', '.join(ROLES)}")
        if self.diffusivity_mm2_per_day is not None:
            number(self.diffusivity_mm2_per_day, f"{what}: diffusivity_mm2_per_day", 0.0, WIDEST_MM2_PER_DAY)
        number(self.growth_per_day, f"{what}: growth_per_day", 0.0 if self.is_tumor else -FASTEST_PER_DAY, FASTEST_PER_DAY)
        if number(self.carrying_capacity, f"{what}: carrying_capacity", 0.0, 1.0) == 0.0:
            raise PlanError(f"{what}: carrying_capacity must be above 0")
        if not 0.0 < number(self.visibility, f"{what}: visibility", 0.0, 1.0) < 1.0:
            raise PlanError(f"{what}: visibility must be above 0 and below 1")
        if self.carrying_capacity * self.visibility < LEAST_VISIBLE:
            raise PlanError(f"{what}: visibility times carrying_capacity must be at least {LEAST_VISIBLE:g}")
        number(self.alpha_per_gy, f"{what}: alpha_per_gy", 0.0, 100.0)
        number(self.beta_per_gy2, f"{what}: beta_per_gy2", 0.0, 100.0)
        if self.gives_way is not None:
            flag(self.gives_way, f"{what}: gives_way")
        optional_text(self.dies_to, f"{what}: dies_to")
        optional_text(self.terminology, f"{what}: terminology")
        if self.color is not None:
            if not isinstance(self.color, (list, tuple)) or len(self.color) != 3:
                raise PlanError(f"{what}: color must be three numbers between 0 and 1")
            color = tuple(number(c, f"{what}: color", 0.0, 1.0) for c in self.color)
            object.__setattr__(self, "color", color)

    @property
    def is_tumor(self) -> bool:
        return ROLES[self.role][1]

    @property
    def may_be_invaded(self) -> bool:
        return ROLES[self.role][0] if self.gives_way is None else self.gives_way


@dataclass(frozen=True)
class CrossDiffusion:
    """chi_kj of eq. 2 for class `tissue` (k) along the gradient of class `along` (j), mm²/day.

    The flux of k is +chi p_k ∇p_j: a positive chi draws k UP the gradient of j (attraction), a
    negative one drives it down (competition for space). The classes that k may replace carry the
    counter-flux, so that the sum stays 1.
    """

    tissue: str
    along: str
    chi_mm2_per_day: float

    def __post_init__(self):
        text(self.tissue, "cross_diffusion: tissue")
        text(self.along, "cross_diffusion: along")
        number(self.chi_mm2_per_day, "cross_diffusion: chi_mm2_per_day", -WIDEST_MM2_PER_DAY, WIDEST_MM2_PER_DAY)
        if self.tissue == self.along:
            raise PlanError(f"cross_diffusion of '{self.tissue}' along itself is self-diffusion: give it a diffusivity")


@dataclass(frozen=True)
class Anatomy:
    """The classes of the state; a tissue's index is its label value, and index 0 is the background."""

    tissues: tuple[Tissue, ...]
    cross_diffusion: tuple[CrossDiffusion, ...] = ()

    def __post_init__(self):
        _all_of(self.tissues, Tissue, "tissues")
        _all_of(self.cross_diffusion, CrossDiffusion, "cross_diffusion")
        object.__setattr__(self, "tissues", tuple(self.tissues))
        object.__setattr__(self, "cross_diffusion", tuple(self.cross_diffusion))
        names = [t.name for t in self.tissues]
        for name in names:
            if names.count(name) > 1:
                raise PlanError(f"the tissue '{name}' is named twice; give each tissue a name of its own")
        if not 2 <= len(names) <= 255:
            raise PlanError(f"an anatomy has 2 to 255 tissues, not {len(names)}")
        first = self.tissues[0]
        if first.role != "background" and (first.is_tumor or not first.may_be_invaded):
            raise PlanError(f"the first tissue is what label 0 stands for: the background, or the tissue around all others, not '{first.name}' ({first.role})")
        for tissue in self.tissues:
            if tissue.dies_to is not None and tissue.dies_to not in names:
                raise PlanError(f"tissue '{tissue.name}' dies to '{tissue.dies_to}', which is not a tissue of this plan")
            if tissue.dies_to == tissue.name:
                raise PlanError(f"tissue '{tissue.name}' cannot die to itself")
        for term in self.cross_diffusion:
            for name in (term.tissue, term.along):
                if name not in names:
                    raise PlanError(f"cross_diffusion names '{name}', which is not a tissue of this plan")

    def __len__(self) -> int:
        return len(self.tissues)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(t.name for t in self.tissues)

    def index(self, name: str) -> int:
        return self.names.index(name)

    def with_role(self, *roles: str) -> tuple[int, ...]:
        """Indices of the tissues that have one of these roles."""
        return tuple(i for i, t in enumerate(self.tissues) if t.role in roles)

    @property
    def tumors(self) -> tuple[int, ...]:
        """Indices of the tumor classes, the one that invades the others first (tumor before edema)."""
        return self.with_role("tumor") + self.with_role("edema")

    def yields(self, k: int) -> tuple[int, ...]:
        """Indices of the classes that give way to class k.

        A tumor class displaces what may be invaded, edema included; edema displaces what may be
        invaded but not tumor; any other class displaces what may be invaded and is not tumor.
        """
        role = self.tissues[k].role
        return tuple(
            j for j, t in enumerate(self.tissues)
            if j != k and t.may_be_invaded and (not t.is_tumor or (role == "tumor" and t.role == "edema"))
        )

    def dead_class(self, k: int) -> int | None:
        """Index of the class that the dead mass of class k goes to, None where there is none."""
        if self.tissues[k].dies_to is not None:
            return self.index(self.tissues[k].dies_to)
        for role in ("necrosis", "cavity", "csf"):
            found = [j for j in self.with_role(role) if j != k]
            if found:
                return found[0]
        return None


@dataclass(frozen=True)
class Plan:
    """What to forecast.

    anatomy: the classes
    treatments: any combination; events of one day happen in the order surgery, radiotherapy, drug
    days: reported days after the baseline, ascending; day 0 is always reported too
    infiltration_mm: decay length of the tumor's invisible tail at baseline; 0: none
    seed_density: the tumor's density at baseline, inside and in the tail, relative to the one that its outline gives;
        below or above 1 as if the outline had been drawn too wide or too narrow, which stays where it was drawn
    interface_mm: width over which one class passes into the next at baseline
    mass_effect: fraction of the tumor's growth that pushes tissue aside instead of replacing it, 0 to 1
    step_days: longest time step; None: chosen from spacing and rates
    """

    anatomy: Anatomy
    treatments: tuple = ()
    days: tuple[float, ...] = (30.0, 60.0, 90.0)
    infiltration_mm: float = 0.0
    interface_mm: float = 1.0
    mass_effect: float = 0.0
    step_days: float | None = None
    seed_density: float = 1.0

    def __post_init__(self):
        if not isinstance(self.anatomy, Anatomy):
            raise PlanError(f"a plan's anatomy must be an Anatomy, not {shown(self.anatomy)}")
        _all_of(self.treatments, tuple(TREATMENTS.values()), "treatments")
        object.__setattr__(self, "treatments", tuple(self.treatments))
        object.__setattr__(self, "days", numbers(self.days, "days", 0.0, LAST_DAY))
        for earlier, later in zip((0.0,) + self.days, self.days):
            if not later > earlier:
                raise PlanError(f"days must be above 0 and ascending, not {list(self.days)[:12]}")
            if later - earlier < SHORTEST_DAYS:
                raise PlanError(f"days must lie at least {SHORTEST_DAYS:g} apart and from day 0; {earlier:.9g} and {later:.9g} do not")
        number(self.infiltration_mm, "infiltration_mm", 0.0, LONGEST_MM)
        number(self.interface_mm, "interface_mm", 0.0, LONGEST_MM)
        number(self.mass_effect, "mass_effect", 0.0, 1.0)
        number(self.seed_density, "seed_density", 1.0 / MOST_SEED, MOST_SEED)
        if self.step_days is not None:
            number(self.step_days, "step_days", SHORTEST_DAYS, LAST_DAY)
            if self.days[-1] / self.step_days > MOST_STEPS:
                raise PlanError(f"step_days of {self.step_days:g} makes more than {MOST_STEPS} steps; give a longer one")
        for treatment in self.treatments:
            for day in treatment.event_days():
                if day > self.days[-1]:
                    raise PlanError(
                        f"{kind_of(treatment)} on day {day:g} lies after the last forecast day {self.days[-1]:g}; "
                        "extend days or drop it"
                    )

    @property
    def reported_days(self) -> tuple[float, ...]:
        return (0.0,) + self.days

    def map_names(self) -> tuple[str, ...]:
        """Names of the maps (resection regions, dose volumes) that the treatments refer to."""
        named = [getattr(t, key, None) for t in self.treatments for key in ("region", "dose_map")]
        return tuple(dict.fromkeys(n for n in named if n is not None))

    def event_days(self) -> tuple[float, ...]:
        """Every day on which something happens, ascending, without repeats."""
        return tuple(sorted({d for t in self.treatments for d in t.event_days()}))

    def to_json(self) -> str:
        """The plan as a JSON document; `from_json` gives back an equal plan."""
        document = {"anatomydt_plan": PLAN_VERSION}
        document["tissues"] = [_without_defaults(t) for t in self.anatomy.tissues]
        document["cross_diffusion"] = [_without_defaults(c) for c in self.anatomy.cross_diffusion]
        document["treatments"] = [{"type": kind_of(t), **_without_defaults(t)} for t in self.treatments]
        for item in dataclasses.fields(self):
            if item.name not in ("anatomy", "treatments"):
                value = getattr(self, item.name)
                document[item.name] = list(value) if isinstance(value, tuple) else value
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads a plan; raises PlanError with one sentence for anything it does not understand."""
        try:
            document = json.loads(text, object_pairs_hook=_unique_keys)
        except PlanError:
            raise
        except (ValueError, RecursionError) as error:
            raise PlanError(f"the plan is not JSON: {error}") from None
        if not isinstance(document, dict) or "anatomydt_plan" not in document:
            raise PlanError('this is not a plan: it must be a JSON object with the key "anatomydt_plan"')
        if "anatomy" in document:
            raise PlanError('the plan has the unknown key "anatomy"; its classes stand under "tissues"')
        version = document.pop("anatomydt_plan")
        if version != PLAN_VERSION or isinstance(version, bool):
            raise PlanError(f"the plan has version {shown(version)}; this program reads version {PLAN_VERSION}")
        tissues = [_build(Tissue, d, "a tissue") for d in _objects(document.pop("tissues", None), "tissues")]
        chi = [_build(CrossDiffusion, d, "cross_diffusion") for d in _objects(document.pop("cross_diffusion", []), "cross_diffusion")]
        treatments = []
        for entry in _objects(document.pop("treatments", []), "treatments"):
            kind = entry.pop("type", None)
            if not isinstance(kind, str) or kind not in TREATMENTS:
                raise PlanError(f"a treatment has the type {shown(kind)}; write one of {', '.join(TREATMENTS)}")
            treatments.append(_build(TREATMENTS[kind], entry, kind))
        document["anatomy"] = Anatomy(tuple(tissues), tuple(chi))
        document["treatments"] = tuple(treatments)
        return _build(cls, document, "the plan")


def _all_of(items, kind, what: str) -> None:
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, kind) for item in items):
        raise PlanError(f"{what} must be a list of what its name says, not {shown(items)}")


def _unique_keys(pairs):
    keys = [k for k, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise PlanError(f'the key "{key}" stands twice in one object of the plan')
    return dict(pairs)


def _objects(value, what: str) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise PlanError(f'"{what}" must be a list of objects')
    return value


def _build(cls, entry: dict, what: str):
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in entry:
        if key not in known:
            shown = [k for k in known if k not in ("anatomy",)]
            raise PlanError(f'{what} has the unknown key "{key}"; known keys are {", ".join(shown)}')
    for name, item in known.items():
        if item.default is dataclasses.MISSING and name not in entry:
            raise PlanError(f'{what} lacks the key "{name}"')
    return cls(**entry)


def _without_defaults(item) -> dict:
    values = {}
    for f in dataclasses.fields(item):
        value = getattr(item, f.name)
        if f.default is dataclasses.MISSING or value != f.default:
            values[f.name] = list(value) if isinstance(value, tuple) else value
    return values
