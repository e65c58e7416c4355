"""What is done to a tumor: surgery, radiotherapy, chemotherapy, in numbers with units. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import (
    FASTEST_PER_DAY, LARGEST_DOSE_GY, LAST_DAY, LONGEST_MM, PlanError, flag, number, numbers, optional_text, shown, text, whole,
)

# No course has more; a schedule is a list of days, so a typing error must not fill the memory.
MOST_FRACTIONS = 1000
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True)
class Surgery:
    """A resection: mass in the resected voxels becomes the cavity class at `day`.

    region: name of a map (non-zero voxels are resected); None: the visible tumor
    extent: fraction of the visible tumor's volume that is resected, the innermost voxels first;
        only without a region
    margin_mm: resected beyond the tumor, or beyond the region, into tissue that gives way
    residual_fraction: fraction of the tumor that stays in the resected voxels
    """

    day: float
    region: str | None = None
    extent: float = 1.0
    margin_mm: float = 0.0
    residual_fraction: float = 0.0

    def __post_init__(self):
        number(self.day, "surgery: day", 0.0, LAST_DAY)
        optional_text(self.region, "surgery: region")
        number(self.extent, "surgery: extent", 0.0, 1.0)
        number(self.margin_mm, "surgery: margin_mm", 0.0, LONGEST_MM)
        number(self.residual_fraction, "surgery: residual_fraction", 0.0, 1.0)
        if self.region is not None and self.extent != 1.0:
            raise PlanError("surgery: give either a region or an extent, not both")
        if self.extent < 1.0 and self.margin_mm > 0.0:
            raise PlanError("surgery: a margin goes with the whole tumor or a region; leave extent at 1")

    def event_days(self) -> tuple[float, ...]:
        return (float(self.day),)


@dataclass(frozen=True)
class Radiotherapy:
    """Fractions of radiation; each leaves S = exp(−(alpha d + beta d²)) of a radiosensitive class.

    start_day: day of the first fraction
    fractions: how many
    dose_gy: dose of one fraction, Gy; None with a dose_map
    weekdays_only: no fraction on Saturday and Sunday
    start_weekday: the weekday of start_day
    region: name of a map; the dose is given where it is non-zero; None: everywhere
    dose_map: name of a map of the course's TOTAL dose in Gy, split evenly over the fractions
    """

    start_day: float
    fractions: int
    dose_gy: float | None = 2.0
    weekdays_only: bool = True
    start_weekday: str = "monday"
    region: str | None = None
    dose_map: str | None = None

    def __post_init__(self):
        number(self.start_day, "radiotherapy: start_day", 0.0, LAST_DAY)
        whole(self.fractions, "radiotherapy: fractions", 1, MOST_FRACTIONS)
        flag(self.weekdays_only, "radiotherapy: weekdays_only")
        optional_text(self.region, "radiotherapy: region")
        optional_text(self.dose_map, "radiotherapy: dose_map")
        if self.start_weekday not in WEEKDAYS:
            raise PlanError(f"radiotherapy: start_weekday must be one of {', '.join(WEEKDAYS)}, not {shown(self.start_weekday)}")
        if self.weekdays_only and self.start_weekday in WEEKDAYS[5:]:
            raise PlanError("radiotherapy: a course on weekdays only cannot start on a Saturday or Sunday")
        if (self.dose_gy is None) == (self.dose_map is None):
            raise PlanError("radiotherapy: give either dose_gy (one fraction) or a dose_map (the total), the other null")
        if self.dose_gy is not None:
            number(self.dose_gy, "radiotherapy: dose_gy", 0.0, LARGEST_DOSE_GY)

    def event_days(self) -> tuple[float, ...]:
        days, offset = [], 0
        weekday = WEEKDAYS.index(self.start_weekday)
        while len(days) < self.fractions:
            if not self.weekdays_only or (weekday + offset) % 7 < 5:
                days.append(float(self.start_day) + offset)
            offset += 1
        return tuple(days)


@dataclass(frozen=True)
class Chemotherapy:
    """Doses of one drug; the kill rate follows its concentration.

    ∂ₜp = −sensitivity · c(t) · p,  c(t) = Σ_i dose_i · exp(−ln 2 (t − day_i) / half_life)  for t ≥ day_i

    drug: its name
    days: days of the doses
    sensitivity_per_day: kill rate at the maximal dose, 1/day (TumorTwin's convention)
    half_life_day: of the drug, days
    dose: of each administration, relative to the maximal one: one number for all, or one per day
    """

    drug: str
    days: tuple[float, ...]
    sensitivity_per_day: float
    half_life_day: float
    dose: float | tuple[float, ...] = 1.0

    def __post_init__(self):
        text(self.drug, "chemotherapy: drug")
        object.__setattr__(self, "days", numbers(self.days, f"chemotherapy '{self.drug}': days", 0.0, LAST_DAY))
        number(self.sensitivity_per_day, f"chemotherapy '{self.drug}': sensitivity_per_day", 0.0, FASTEST_PER_DAY)
        number(self.half_life_day, f"chemotherapy '{self.drug}': half_life_day", 1e-4, LAST_DAY)
        if isinstance(self.dose, (list, tuple)):
            dose = numbers(self.dose, f"chemotherapy '{self.drug}': dose", 0.0, FASTEST_PER_DAY)
            if len(dose) != len(self.days):
                raise PlanError(f"chemotherapy '{self.drug}': {len(dose)} doses for {len(self.days)} days; give one number or one per day")
            object.__setattr__(self, "dose", dose)
        else:
            number(self.dose, f"chemotherapy '{self.drug}': dose", 0.0, FASTEST_PER_DAY)

    def event_days(self) -> tuple[float, ...]:
        return self.days

    @property
    def doses(self) -> tuple[float, ...]:
        """Relative dose of each administration, in the order of `days`."""
        return self.dose if isinstance(self.dose, tuple) else (float(self.dose),) * len(self.days)


TREATMENTS = {"surgery": Surgery, "radiotherapy": Radiotherapy, "chemotherapy": Chemotherapy}


def kind_of(treatment) -> str:
    """The word that stands for a treatment in a plan: surgery, radiotherapy or chemotherapy."""
    return next(kind for kind, cls in TREATMENTS.items() if isinstance(treatment, cls))
