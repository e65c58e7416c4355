"""From what is chosen in the panel to a Plan, and back. No Qt, no scene."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass

from AnatomyDTLib import labelling, presets
from AnatomyDTLib.checks import LAST_DAY
from AnatomyDTLib.plan import (
    ROLES, Anatomy, Chemotherapy, Plan, PlanError, Radiotherapy, Surgery, Tissue,
)

# The value of the growth law that stands for the numbers of a plan that was loaded from a file.
FROM_PLAN = "plan"


@dataclass(frozen=True)
class SegmentRow:
    """A segment as the table of tissues shows it: ID, name, colour, terminology and the label value it came with."""

    id: str
    name: str
    color: tuple[float, float, float]
    terminology: str | None
    value: int


def guessed_role(row: SegmentRow, numbering: str | None = None) -> str:
    """The role that a segment's name, its terminology or a numbering tells; "" where nothing does.

    numbering: one of labelling.NUMBERINGS: for a name that is a value ("Segment_3") and for a segment that tells
        nothing else, whose label value is then taken; None: no numbering
    """
    # A label map that was imported without a colour table names its segments after their values.
    number = re.fullmatch(r"(?:segment|label|region|class|value)?[\s_-]*(\d+)", row.name.strip(), re.IGNORECASE)
    if numbering is not None and number:
        found = labelling.NUMBERINGS[numbering].get(int(number.group(1)))
    else:
        found = labelling.structure_of_segment(row.name, row.color, row.terminology)
        # A segment that was copied into the anatomy keeps the value of the numbering that it came from.
        if found is None and numbering is not None:
            found = labelling.NUMBERINGS[numbering].get(row.value)
    return found.role if found else ""


def lacks_host(roles) -> bool:
    """Is there a tumor and no tissue that it can enter, as in a segmentation of the tumor alone?"""
    roles = set(roles)
    return bool(roles & {"tumor", "edema"}) and not roles & {"white", "grey", "organ"}


def reported_days(horizon: float, interval: float) -> tuple[float, ...]:
    """Days every `interval` up to the horizon, which is always the last."""
    count = math.ceil(horizon / interval - 1e-9)
    return tuple(min(interval * i, horizon) for i in range(1, count + 1))


def regular(days) -> tuple[float, float] | None:
    """(horizon, interval) that reported_days would turn into these days, None where none does."""
    horizon, interval = days[-1], days[0]
    if 1 <= interval and len(reported_days(horizon, interval)) == len(days):
        if all(abs(a - b) < 1e-6 for a, b in zip(reported_days(horizon, interval), days)):
            return horizon, interval
    return None


def treatments_text(treatments) -> str:
    """Treatments as the parameter node keeps them: the list of a plan's JSON."""
    if not treatments:
        return "[]"
    last = max(day for t in treatments for day in t.event_days())
    tissues = Anatomy((Tissue("Background", "background"), Tissue("Tumor", "tumor")))
    document = json.loads(Plan(tissues, tuple(treatments), (max(last, 1.0),)).to_json())
    return json.dumps(document["treatments"])


def treatments_of(text: str) -> tuple:
    """The treatments that treatments_text() wrote."""
    entries = json.loads(text or "[]")
    if not entries:
        return ()
    tissues = [{"name": "Background", "role": "background"}, {"name": "Tumor", "role": "tumor"}]
    document = {"anatomydt_plan": 1, "tissues": tissues, "treatments": entries, "days": [LAST_DAY]}
    return Plan.from_json(json.dumps(document)).treatments


def plan(
    rows, roles: dict, treatments, days, law: str = presets.DEFAULT_GROWTH, infiltration: bool = True,
    mass_effect: float = 0.0, loaded: Plan | None = None,
) -> tuple[Plan, dict[str, int]]:
    """(the plan, segment ID -> tissue index).

    rows: SegmentRow per segment; roles: segment ID -> role
    law: one of presets.GROWTH_LAWS, or FROM_PLAN: the numbers of `loaded`, tissue by tissue
    Without a tissue that a tumor can enter, everything outside the segments becomes one (`lacks_host`).
    """
    own = {t.name.casefold(): t for t in loaded.anatomy.tissues} if loaded is not None and law == FROM_PLAN else {}
    base = presets.DEFAULT_GROWTH if law == FROM_PLAN else law
    outside = own.get("background", presets.tissue("Background", "background", base))
    if lacks_host(roles.get(row.id) for row in rows):
        outside = presets.tissue(labelling.HOST.name, labelling.HOST.role, base)
    made, index = [outside], {}
    for row in rows:
        role = roles.get(row.id, "")
        if role not in ROLES:
            raise PlanError(f"the segment '{row.name}' has no tissue yet; choose what it is")
        if role == "background":
            index[row.id] = 0
            continue
        taken = {t.name.casefold() for t in made}
        name, number = row.name, 2
        while name.casefold() in taken:
            name, number = f"{row.name} {number}", number + 1
        known = own.get(name.casefold())
        if known is not None and known.role == role:
            tissue = dataclasses.replace(known, name=name, color=row.color, terminology=row.terminology)
        else:
            tissue = presets.tissue(name, role, base, color=row.color, terminology=row.terminology)
        index[row.id] = len(made)
        made.append(tissue)
    for tissue in own.values():
        # What the treatments of the file need and no segment shows: a cavity, treated tumor.
        if tissue.role in ("cavity", "necrosis") and tissue.name.casefold() not in {t.name.casefold() for t in made}:
            made.append(tissue)
    names = {t.name for t in made}
    made = [t if t.dies_to is None or t.dies_to in names else dataclasses.replace(t, dies_to=None) for t in made]
    anatomy = presets.completed(made, treatments, base)
    given = {}
    if own:
        names = set(anatomy.names)
        kept = tuple(c for c in loaded.anatomy.cross_diffusion if {c.tissue, c.along} <= names)
        anatomy = Anatomy(anatomy.tissues, kept)
        given = {"interface_mm": loaded.interface_mm, "step_days": loaded.step_days, "seed_density": loaded.seed_density}
    tail = 0.0
    if infiltration:
        tail = loaded.infiltration_mm if own and loaded.infiltration_mm > 0 else presets.infiltration_mm(base)
    return Plan(anatomy, tuple(treatments), tuple(days), infiltration_mm=tail, mass_effect=mass_effect, **given), index


def described(treatment) -> tuple[str, str]:
    """(when, what) of a treatment, as the table shows them."""
    if isinstance(treatment, Surgery):
        target = f"region {treatment.region}" if treatment.region else f"{100 * treatment.extent:g} % of the tumor"
        return f"{treatment.day:g}", target + (f" + {treatment.margin_mm:g} mm" if treatment.margin_mm else "")
    days = treatment.event_days()
    when = f"{days[0]:g}" if len(days) == 1 else f"{days[0]:g}–{days[-1]:g}"
    if isinstance(treatment, Radiotherapy):
        dose = f"{treatment.fractions} × {treatment.dose_gy:g} Gy" if treatment.dose_map is None else \
            f"{treatment.fractions} fractions, dose volume"
        return when, dose + (f" to {treatment.region}" if treatment.region else "")
    return when, f"{treatment.drug}, {len(days)} doses"


def days_text(days) -> str:
    """Days as ranges: 0-41, 70-74."""
    parts, days = [], list(days)
    start = previous = days[0]
    for day in days[1:] + [None]:
        if day is not None and day == previous + 1:
            previous = day
            continue
        parts.append(f"{start:g}" if start == previous else f"{start:g}-{previous:g}")
        start = previous = day
    return ", ".join(parts)


def days_of(text: str) -> tuple[float, ...]:
    """The days of a text such as "0-41, 70-74"; raises PlanError."""
    days: list[float] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\s*[-–]\s*(\d+(?:\.\d+)?))?", part)
        if not found:
            raise PlanError(f"the days must be written like 0-41, 70-74, not '{part}'")
        first, last = float(found.group(1)), float(found.group(2) or found.group(1))
        if not first <= last <= 100_000:
            raise PlanError(f"the days '{part}' do not ascend; write them like 0-41, 70-74")
        days += [first + i for i in range(int(last - first) + 1)]
    if not days:
        raise PlanError("the days of the drug are empty; write them like 0-41, 70-74")
    return tuple(days)


def doses_text(treatment: Chemotherapy) -> str:
    """Relative doses in short: "0.375", or "42 x 0.375, 5 x 0.75"."""
    runs: list[list] = []
    for dose in treatment.doses:
        if runs and runs[-1][1] == dose:
            runs[-1][0] += 1
        else:
            runs.append([1, dose])
    if len(runs) == 1:
        return f"{runs[0][1]:g}"
    return ", ".join(f"{count} x {dose:g}" for count, dose in runs)


def doses_of(text: str) -> float | tuple[float, ...]:
    """What doses_text() wrote; raises PlanError."""
    doses: list[float] = []
    parts = [p.strip() for p in text.split(",") if p.strip()]
    for part in parts:
        found = re.fullmatch(r"(?:(\d{1,4})\s*[x×*]\s*)?(\d+(?:\.\d+)?)", part)
        if not found:
            raise PlanError(f"the doses must be written like 1, or 42 x 0.375, 5 x 0.75, not '{part}'")
        if len(parts) == 1 and not found.group(1):
            return float(found.group(2))
        doses += [float(found.group(2))] * int(found.group(1) or 1)
    if not doses:
        raise PlanError("the doses of the drug are empty; write 1 for the maximal dose")
    return tuple(doses)


def moved(treatment, days: float):
    """The same treatment, later."""
    if isinstance(treatment, Surgery):
        return dataclasses.replace(treatment, day=treatment.day + days)
    if isinstance(treatment, Radiotherapy):
        return dataclasses.replace(treatment, start_day=treatment.start_day + days)
    return dataclasses.replace(treatment, days=tuple(day + days for day in treatment.days))


def new_treatment(kind: str, day: float = 0.0):
    """A treatment of this kind with the usual numbers."""
    if kind == "surgery":
        return Surgery(day)
    if kind == "radiotherapy":
        return Radiotherapy(day, presets.STUPP_FRACTIONS, presets.STUPP_DOSE_GY)
    assert kind == "chemotherapy", kind
    drug = presets.DRUGS["temozolomide"]
    days = tuple(day + i for i in range(presets.STUPP_DOSING_DAYS))
    return Chemotherapy(drug.name, days, drug.sensitivity_per_day, drug.half_life_day)
