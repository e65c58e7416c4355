"""Cited numbers: growth laws, drugs, treatment regimes and tissue defaults. Standard library only.

Every number names its source. Those that were read in a code or a review that quotes the paper, and
not in the paper itself, say so with "as quoted in".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .plan import Anatomy, Chemotherapy, PlanError, Radiotherapy, Surgery, Tissue


@dataclass(frozen=True)
class GrowthLaw:
    """Diffusivity of tumor cells per tissue (mm²/day), proliferation (1/day), radiosensitivity.

    source: where the numbers come from, in words
    """

    white_mm2_per_day: float
    grey_mm2_per_day: float
    proliferation_per_day: float
    alpha_per_gy: float
    beta_per_gy2: float
    source: str


# alpha/beta = 10 Gy and alpha within 0.025..0.12 /Gy: Rockne et al. 2010, Phys Med Biol 55:3271.
# Hathout et al. 2016 (Cancer Sci 107) pair alpha 0.09 /Gy with the fast group (rho 0.1 /d) and 0.03 /Gy with the slow
# one (rho 0.02 /d); a law without a radiosensitivity of its own takes that of the group nearest to it in rho.
GROWTH_LAWS = {
    "swanson-high-grade": GrowthLaw(
        0.65, 0.13, 0.012, 0.03, 0.003,
        "D and rho: Swanson et al. 2000, Cell Prolif 33:317 (high grade); alpha: Hathout et al. 2016 (low group); alpha/beta 10 Gy: Rockne et al. 2010",
    ),
    "lipkova": GrowthLaw(
        0.13, 0.013, 0.025, 0.03, 0.003,
        "D and rho: Lipková et al. 2019, IEEE TMI 38:1875 (GliomaSolver defaults); alpha: Hathout et al. 2016 (low group); alpha/beta 10 Gy: Rockne et al. 2010",
    ),
    "hathout-high": GrowthLaw(
        0.2, 0.04, 0.1, 0.09, 0.009,
        "D (grey taken as white/5, the ratio of Swanson et al. 2000), rho, alpha: Hathout et al. 2016, Cancer Sci 107 (high group); alpha/beta 10 Gy: Rockne et al. 2010",
    ),
    "hathout-low": GrowthLaw(
        0.04, 0.008, 0.02, 0.03, 0.003,
        "D (grey taken as white/5, the ratio of Swanson et al. 2000), rho, alpha: Hathout et al. 2016, Cancer Sci 107 (low group); alpha/beta 10 Gy: Rockne et al. 2010",
    ),
}
# Untreated glioblastoma doubles in volume in 21 days (median; Ellingson et al. 2016, Cancer 122:1718). A ball of 5.6 mL
# in white matter, with its infiltrating tail, doubles in 21 days by this law, in 66 by "lipkova" and not within 90 by
# the other two (Testing/test_presets.py).
DEFAULT_GROWTH = "hathout-high"


def infiltration_mm(law: str = DEFAULT_GROWTH) -> float:
    """Decay length of the tail of an established tumor, sqrt(D_white / rho), mm (the leading edge of Fisher's front)."""
    numbers = GROWTH_LAWS[law]
    return math.sqrt(numbers.white_mm2_per_day / numbers.proliferation_per_day)


@dataclass(frozen=True)
class Drug:
    """A drug: kill rate at its maximal dose (1/day), half-life (days), source."""

    name: str
    sensitivity_per_day: float
    half_life_day: float
    source: str


DRUGS = {
    # Rudek et al. 2004: 1.8 h plasma half-life (9.24 /d). Kapteyn et al. 2025 (TumorTwin): kill
    # 0.2 to 0.5 /d at the maximal dose; the middle is taken.
    "temozolomide": Drug(
        "temozolomide", 0.35, 1.8 / 24.0,
        "half-life: Rudek et al. 2004; kill rate: middle of 0.2 to 0.5 /d, Kapteyn et al. 2025 (TumorTwin)",
    ),
}

# Stupp et al. 2005, NEJM 352:987: temozolomide 75 mg/m² daily from the first to the last day of
# radiotherapy, a break of four weeks, then six cycles of 5 days of every 28 at 150 mg/m² (first
# cycle) and 200 mg/m². Doses are relative to 200 mg/m².
CONCOMITANT_DOSE = 75.0 / 200.0
FIRST_CYCLE_DOSE = 150.0 / 200.0
STUPP_FRACTIONS = 30
STUPP_DOSE_GY = 2.0
STUPP_BREAK_DAYS = 28
STUPP_CYCLES = 6
STUPP_CYCLE_DAYS = 28
STUPP_DOSING_DAYS = 5

# Days from the operation to the start of chemoradiation: within six weeks, Stupp et al. 2005; four are taken.
SURGERY_TO_RADIOTHERAPY_DAYS = 28


def _within(treatments, last_day: float):
    """The part of a schedule that lies within the horizon."""
    kept = []
    for treatment in treatments:
        if isinstance(treatment, Surgery):
            kept += [treatment] if treatment.day <= last_day else []
        elif isinstance(treatment, Radiotherapy):
            n = sum(d <= last_day for d in treatment.event_days())
            if n:
                kept.append(Radiotherapy(treatment.start_day, n, treatment.dose_gy, treatment.weekdays_only, treatment.start_weekday))
        else:
            pairs = [(d, x) for d, x in zip(treatment.days, treatment.doses) if d <= last_day]
            if pairs:
                days, doses = zip(*pairs)
                kept.append(Chemotherapy(treatment.drug, days, treatment.sensitivity_per_day, treatment.half_life_day, doses))
    return tuple(kept)


def stupp(start_day: float, last_day: float, drug: Drug = DRUGS["temozolomide"], radiotherapy: bool = True, chemotherapy: bool = True) -> tuple:
    """The standard course (Stupp et al. 2005) from `start_day`, as far as the horizon `last_day` reaches.

    30 x 2 Gy on weekdays (start on a Monday), temozolomide daily with it, then 5 days of every 28.
    """
    course = Radiotherapy(start_day, STUPP_FRACTIONS, STUPP_DOSE_GY)
    length = int(course.event_days()[-1] - start_day) + 1
    days = [start_day + i for i in range(length)]
    doses = [CONCOMITANT_DOSE] * length
    for cycle in range(STUPP_CYCLES):
        first = start_day + length + STUPP_BREAK_DAYS + cycle * STUPP_CYCLE_DAYS
        days += [first + i for i in range(STUPP_DOSING_DAYS)]
        doses += [FIRST_CYCLE_DOSE if cycle == 0 else 1.0] * STUPP_DOSING_DAYS
    given = Chemotherapy(drug.name, tuple(days), drug.sensitivity_per_day, drug.half_life_day, tuple(doses))
    return _within(([course] if radiotherapy else []) + ([given] if chemotherapy else []), last_day)


REGIMES = ("none", "surgery", "radiotherapy", "temozolomide", "stupp", "surgery+stupp")


def regime(name: str, last_day: float, start_day: float = 0.0) -> tuple:
    """Treatments of a named regime, cut at the horizon; raises PlanError for an unknown name."""
    if name == "none":
        return ()
    if name == "surgery":
        return _within((Surgery(start_day),), last_day)
    if name == "radiotherapy":
        return stupp(start_day, last_day, chemotherapy=False)
    if name == "temozolomide":
        return stupp(start_day, last_day, radiotherapy=False)
    if name == "stupp":
        return stupp(start_day, last_day)
    if name == "surgery+stupp":
        return regime("surgery", last_day, start_day) + stupp(start_day + SURGERY_TO_RADIOTHERAPY_DAYS, last_day)
    raise PlanError(f"unknown regime '{name}'; write one of {', '.join(REGIMES)}")


# Display colours of the roles (red, green, blue).
ROLE_COLORS = {
    "background": (0.0, 0.0, 0.0),
    "white": (0.93, 0.90, 0.82),
    "grey": (0.66, 0.62, 0.60),
    "organ": (0.80, 0.62, 0.50),
    "csf": (0.36, 0.56, 0.78),
    "ventricle": (0.16, 0.33, 0.65),
    "vessel": (0.78, 0.22, 0.24),
    "barrier": (0.75, 0.72, 0.50),
    "cavity": (0.24, 0.70, 0.66),
    "necrosis": (0.45, 0.30, 0.45),
    "edema": (0.95, 0.80, 0.35),
    "tumor": (0.86, 0.27, 0.20),
}


def host_diffusivity(role: str, law: GrowthLaw) -> float | None:
    """Diffusivity of tumor cells in a tissue of this role, mm²/day; None: that of the nearest tissue.

    White and grey matter from the growth law, an organ as white matter; zero in fluid, vessel and
    barrier (no flux: common to all of the cited models).
    """
    if role in ("tumor", "edema", "necrosis"):
        return None
    return {"white": law.white_mm2_per_day, "organ": law.white_mm2_per_day, "grey": law.grey_mm2_per_day}.get(role, 0.0)


def tissue(name: str, role: str, law: str = DEFAULT_GROWTH, **given) -> Tissue:
    """A tissue with every number of its role filled in from a growth law; `given` overrides any of them."""
    if law not in GROWTH_LAWS:
        raise PlanError(f"unknown growth law '{law}'; write one of {', '.join(GROWTH_LAWS)}")
    numbers = GROWTH_LAWS[law]
    values = {"diffusivity_mm2_per_day": host_diffusivity(role, numbers), "color": ROLE_COLORS.get(role)}
    if role in ("tumor", "edema"):
        values.update(growth_per_day=numbers.proliferation_per_day, alpha_per_gy=numbers.alpha_per_gy, beta_per_gy2=numbers.beta_per_gy2)
    values.update(given)
    return Tissue(name, role, **values)


def completed(tissues, treatments, law: str = DEFAULT_GROWTH) -> Anatomy:
    """The anatomy with the classes that the treatments need and the input lacks.

    Surgery needs a cavity; radiotherapy and chemotherapy need a class for dead tumor.
    """
    tissues = tuple(tissues)
    roles = {t.role for t in tissues}
    if any(isinstance(t, Surgery) for t in treatments) and "cavity" not in roles:
        tissues += (tissue(_free_name("Resection cavity", tissues), "cavity", law),)
    if any(not isinstance(t, Surgery) for t in treatments) and "necrosis" not in roles:
        tissues += (tissue(_free_name("Treated tumor", tissues), "necrosis", law),)
    return Anatomy(tissues)


def _free_name(name: str, tissues) -> str:
    taken = {t.name for t in tissues}
    return next(n for n in [name] + [f"{name} {i}" for i in range(2, 300)] if n not in taken)
