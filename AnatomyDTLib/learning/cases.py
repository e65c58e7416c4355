"""What is learned from: cases (one course of visits with its treatments) and datasets of them. No torch.

A case is a list of (day, labels) with two or more visits at any days; a dataset is cases that share an anatomy, a
voxel size and a shape. Generators and readers make them; training, baselines and the benchmark take them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np

from ..plan import TREATMENTS, Anatomy, kind_of

VALIDATION_PART = 0.125    # of the patients that are not in the test part of a fold
# Percentiles of an image that become 0 and 1, and where what lies beyond them is cut: a bright rim may be the last percent.
DARK, BRIGHT = 1.0, 99.0
LEAST, MOST = -1.0, 2.0


class DataError(ValueError):
    """Cases that cannot be learned from; the text is the sentence the user reads."""


@dataclass(frozen=True, eq=False)
class Case:
    """One course: what was seen at every visit and what was done between.

    name: unique in its dataset; patient: whose it is (folds never split a patient)
    days: (V,) ascending, V >= 2, the first is 0
    labels: (V, *S) uint8 indices into the dataset's anatomy; S = (Y, X) or (Z, Y, X)
    treatments: plan.Surgery, Radiotherapy, Chemotherapy on the same axis of days, none after the last visit
    images: (I, *S) float32 of the first visit, in any unit: a batch holds them `scaled`
    truth: (V, *S) uint8 labels without measurement noise, where a generator knows them
    """

    name: str
    patient: str
    days: tuple[float, ...]
    labels: np.ndarray
    treatments: tuple = ()
    images: np.ndarray | None = None
    truth: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """S, the voxels of one visit."""
        return self.labels.shape[1:]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Cases of one anatomy on one kind of grid.

    name: of the dataset
    anatomy: the classes; a label is an index into its tissues
    spacing_mm: voxel size in the order of the array's axes
    tree_classes: K_cl, the classes of the clDice term (vessels, sheets)
    settings: JSON-able, everything that made it, with the seed
    """

    name: str
    anatomy: Anatomy
    spacing_mm: tuple[float, ...]
    cases: tuple[Case, ...]
    tree_classes: tuple[int, ...] = ()
    settings: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def shape(self) -> tuple[int, ...]:
        """S, the same for every case."""
        return self.cases[0].shape

    @property
    def patients(self) -> tuple[str, ...]:
        """Every patient once, in the order of the cases."""
        return tuple(dict.fromkeys(case.patient for case in self.cases))

    def folds(self, n: int = 5, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """n times (train, validation, test), ascending indices into `cases`; the same for the same seed.

        Every patient is tested once, and all cases of a patient are on one side of every split. Of the patients
        that are not tested VALIDATION_PART, at least one, are for validation. Raises DataError.
        """
        patients = np.array(self.patients)
        if isinstance(n, bool) or not isinstance(n, int) or n < 2:
            raise DataError(f"the number of folds must be a whole number of at least 2, not {n!r}")
        if len(patients) < n or len(patients) - math.ceil(len(patients) / n) < 2:
            raise DataError(
                f"{n} folds of '{self.name}' need at least {max(n, 3 if n > 2 else 4)} patients, and it has "
                f"{len(patients)}; ask for fewer folds or add patients"
            )
        order = np.random.default_rng(seed).permutation(len(patients))
        parts = np.array_split(order, n)
        owner = {patient: i for i, patient in enumerate(self.patients)}
        of_case = np.array([owner[case.patient] for case in self.cases])
        splits = []
        for i, test in enumerate(parts):
            rest = np.concatenate([parts[(i + j) % n] for j in range(1, n)])
            held = max(1, round(VALIDATION_PART * len(rest)))
            splits.append(tuple(np.flatnonzero(np.isin(of_case, which)) for which in (rest[held:], rest[:held], test)))
        return splits


def scaled(image, labels, anatomy: Anatomy) -> np.ndarray:
    """(x − a) / (b − a), cut at LEAST and MOST, float32 (*S): an image, in any unit, as every network sees it.

    a, b: percentiles DARK and BRIGHT of the voxels that `labels` (*S) do not have as background, so that neither what lies around
    a patient nor how much of it is in the image changes them; where those are alike, as in a mask, the least and the largest value.
    0 everywhere for an image that is constant there.
    """
    image = np.asarray(image, np.float32)
    seen = image[~np.isin(labels, anatomy.with_role("background"))]
    seen = seen if seen.size else image
    low, high = (float(v) for v in np.percentile(seen, (DARK, BRIGHT)))
    if not low < high:
        low, high = float(seen.min()), float(seen.max())
    if not low < high:
        return np.zeros_like(image)
    return np.clip((image - low) / (high - low), LEAST, MOST)


def check(dataset: Dataset) -> Dataset:
    """The dataset, when it can be learned from; else DataError with one sentence that names the case."""
    what = f"the dataset '{dataset.name}'"
    if not dataset.cases:
        raise DataError(f"{what} is empty: it has no case; add at least one with two visits")
    ndim = len(dataset.spacing_mm)
    if ndim not in (2, 3) or not all(math.isfinite(h) and h > 0 for h in dataset.spacing_mm):
        raise DataError(
            f"{what} has the voxel size {dataset.spacing_mm}; two or three numbers above 0 (mm) are expected"
        )
    if not all(0 <= k < len(dataset.anatomy) for k in dataset.tree_classes):
        raise DataError(
            f"{what} names the tree classes {dataset.tree_classes}; its classes are 0 to {len(dataset.anatomy) - 1}"
        )
    try:
        json.dumps(dataset.settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"the settings of {what} cannot be written as JSON: {error}") from None
    seen: set[str] = set()
    for case in dataset.cases:
        if case.name in seen:
            raise DataError(f"{what} has two cases named '{case.name}'; give each case a name of its own")
        seen.add(case.name)
        _check_case(case, dataset)
    return dataset


def check_days(days, what: str) -> tuple[float, ...]:
    """Days of visits: two or more, the first 0, ascending; DataError says what is wrong."""
    if not all(isinstance(d, (int, float)) and not isinstance(d, bool) and math.isfinite(d) for d in days):
        raise DataError(f"{what} has the days {list(days)[:12]}; every day must be a finite number")
    if len(days) < 2:
        raise DataError(f"{what} has {len(days)} visit{'' if len(days) == 1 else 's'}; at least two are needed")
    if days[0] != 0:
        raise DataError(f"{what} begins on day {days[0]:g}; count the days from its first visit, which is day 0")
    for earlier, later in zip(days, days[1:]):
        if not later > earlier:
            raise DataError(
                f"{what} has its days out of order: day {later:g} follows day {earlier:g}; list the visits by day"
            )
    return tuple(float(d) for d in days)


def _check_case(case: Case, dataset: Dataset) -> None:
    what = f"the case '{case.name}'"
    if not isinstance(case.patient, str) or not case.patient:
        raise DataError(f"{what} names no patient; folds are made by patient")
    check_days(case.days, what)
    labels = case.labels
    if not isinstance(labels, np.ndarray) or labels.dtype != np.uint8:
        raise DataError(
            f"{what} has labels of type {getattr(labels, 'dtype', type(labels).__name__)}; an array of uint8 is "
            "expected"
        )
    ndim = len(dataset.spacing_mm)
    if labels.ndim != ndim + 1 or labels.shape[0] != len(case.days) or 0 in labels.shape:
        raise DataError(
            f"{what} has labels of the shape {labels.shape}; {len(case.days)} visits of {ndim} axes are expected"
        )
    if case.shape != dataset.cases[0].shape:
        raise DataError(
            f"{what} has {case.shape} voxels and '{dataset.cases[0].name}' has {dataset.cases[0].shape}; "
            "pad or crop all cases to one shape"
        )
    highest = [int(visit.max()) for visit in labels]
    if max(highest) >= len(dataset.anatomy):
        visit = int(np.argmax(highest))
        raise DataError(
            f"{what} has the label {max(highest)} on day {case.days[visit]:g}, and the anatomy has the classes 0 to "
            f"{len(dataset.anatomy) - 1}; all visits must use the same classes"
        )
    if case.truth is not None and (case.truth.shape != labels.shape or case.truth.dtype != np.uint8):
        raise DataError(
            f"{what} has a truth of {case.truth.dtype} {case.truth.shape}; it must be uint8 {labels.shape} as the "
            "labels"
        )
    first = dataset.cases[0].images
    if (case.images is None) != (first is None) or (first is not None and case.images.shape != first.shape):
        raise DataError(
            f"{what} has other images than '{dataset.cases[0].name}'; all cases need the same number of images of one "
            "shape"
        )
    if case.images is not None:
        if case.images.ndim != ndim + 1 or case.images.shape[1:] != case.shape:
            raise DataError(
                f"{what} has images of the shape {case.images.shape}; (images, {', '.join(map(str, case.shape))}) is "
                "expected"
            )
        if not np.isfinite(case.images).all():
            n = next(i for i, image in enumerate(case.images) if not np.isfinite(image).all())
            raise DataError(
                f"{what} has values in image {n + 1} that are not numbers (NaN or infinite); mend or drop the image"
            )
    check_treatments(case.treatments, case.days, what)


def check_treatments(treatments, days, what: str) -> None:
    """Treatments of a case: of the plan's kinds, without maps, none after the last visit; DataError."""
    for treatment in treatments:
        if not isinstance(treatment, tuple(TREATMENTS.values())):
            raise DataError(
                f"{what} has a treatment of type {type(treatment).__name__}; {', '.join(TREATMENTS)} are expected"
            )
        kind = kind_of(treatment)
        named = [n for n in (getattr(treatment, "region", None), getattr(treatment, "dose_map", None)) if n]
        if named:
            raise DataError(
                f"{what} has {kind} with the map '{named[0]}'; cases carry no maps: give a dose without one"
            )
        late = [d for d in treatment.event_days() if d > days[-1]]
        if late:
            raise DataError(f"{what} has {kind} on day {late[0]:g}, after its last visit on day {days[-1]:g}; drop it")
