"""The verb `compare`: several plans for one patient, with a twin's ensemble or without, written to a folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from . import __version__
from .inputs import matched, read_labelled, read_maps, text_of
from .outputs import day_name, results_folder, sha256
from .plan import Plan, PlanError

# What makes two plans differ in the patient and not in the treatment.
_BIOLOGY = (
    "diffusivity_mm2_per_day", "growth_per_day", "carrying_capacity", "visibility", "alpha_per_gy", "beta_per_gy2",
    "gives_way", "dies_to",
)
_STATE = ("infiltration_mm", "interface_mm", "mass_effect")
MEMBERS = 20
MOST_MEMBERS = 1000
NO_TWIN = (
    "no twin was given: the plans' own parameters are used, which are values of a population and not this patient's, "
    "and no uncertainty is shown (fit a twin with `anatomydt calibrate`)"
)


def run(arguments, progress):
    """Compares as the command line asks; returns (the tables as text, warnings, names of the files written).

    progress: called with a fraction and a text. Raises PlanError, VolumeError, ForecastError for a user's mistake.
    """
    if not arguments.out:
        raise PlanError("--out is empty; name a folder for the results")
    begun = time.perf_counter()
    plans = _plans(arguments.plans)
    _rule(arguments)
    for what, path in (("twin", arguments.twin), ("follow-up", arguments.recurrence)):
        if path is not None and not os.path.isfile(path):
            raise PlanError(f"there is no {what} file {path}")
    if arguments.twin is None:
        for option in ("members", "seed"):
            if getattr(arguments, option) is not None:
                raise PlanError(f"--{option} goes with --twin: without one there is nothing to draw from")
    elif arguments.members is not None and not 1 <= arguments.members <= MOST_MEMBERS:
        raise PlanError(f"--members must lie between 1 and {MOST_MEMBERS}, not {arguments.members}")
    if arguments.margin_mm is not None:
        from .calibration.margins import MarginError, check_margin

        try:
            check_margin(arguments.margin_mm)
        except MarginError as error:
            raise PlanError(str(error)) from None
    if arguments.recurrence is None:
        for option in ("margin_mm", "recurrence_labels", "recurrence_day"):
            if getattr(arguments, option) is not None:
                raise PlanError(f"--{option.replace('_', '-')} goes with --recurrence; name the follow-up")

    with results_folder(Path(arguments.out)) as staging:
        from . import comparison_report, engine, volumes
        from .calibration.compare import Candidate, paired_members

        tissues = {n.casefold() for plan in plans.values() for n in plan.anatomy.names}
        named = [n.casefold() for plan in plans.values() for n in plan.map_names()]
        labelled = read_labelled(
            arguments.segmentation, arguments.labels, arguments.anatomy, arguments.anatomy_labels,
            tuple(n for n in named if n not in tissues))
        candidates, files = [], []
        twin = None
        if arguments.twin is not None:
            twin, plans = _of_twin(arguments, labelled, plans)
            files.append(Path(arguments.twin))
        for (name, plan), path in zip(plans.items(), arguments.plans):
            maps, used = read_maps(plan, labelled, Path(path).parent)
            candidates.append(Candidate(name, plan, volumes.recoded(labelled.codes, matched(plan, labelled)), maps))
            files += [Path(path), *used]
        notes, warnings = list(labelled.notes), list(labelled.warnings)
        recurrence = None
        if arguments.recurrence is not None:
            recurrence, more = _recurrence(arguments, labelled)
            warnings += more
            files.append(Path(arguments.recurrence))
            day = arguments.recurrence_day
            if day is not None and not any(day in p.days for p in plans.values()):
                raise PlanError(f"no plan reports day {day:g}, when the recurrence was seen; add it to the days of one")
        if twin is None:
            members = None
            notes.append(NO_TWIN)
            warnings += _differences(plans)
        else:
            members = paired_members(twin, list(plans.values()), arguments.members or MEMBERS, arguments.seed or 0)
            notes.append(
                f"the patient's parameters are those of {Path(arguments.twin).name} in every plan; "
                "the plans give treatments and days")
            if twin.growth:
                notes.append("the twin's refined growth network takes no part here: its draws are those of the equation")
        comparison = engine.compare(
            candidates, labelled.volume.spacing_mm, members=members, rule=_rule(arguments), device=arguments.device,
            progress=progress)
        margins = []
        if recurrence is not None:
            margins = _margins(arguments, comparison, candidates, recurrence)
        computed = time.perf_counter()
        files = [*labelled.inputs, *dict.fromkeys(files)]
        _write(staging, comparison, candidates[0], labelled.volume.geometry, margins, notes, warnings)
        record = {
            "anatomydt": __version__,
            "inputs": {str(p): sha256(p) for p in files},
            **comparison_report.record(comparison, margins),
            "plan_documents": {name: json.loads(plan.to_json()) for name, plan in plans.items()},
            "seconds": {"reading and comparing": round(computed - begun, 3)},
            "notes": notes, "warnings": warnings,
            "files": sorted([p.name for p in staging.iterdir()] + ["run.json"]),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        volumes.write_bytes(staging / "run.json", text.encode())
    return comparison_report.markdown(comparison, margins, notes), warnings, record["files"]


def _plans(paths) -> dict[str, Plan]:
    """Name of the file without its ending -> plan."""
    plans = {}
    for path in paths:
        name = Path(path).name.removesuffix(".json")
        if _file_name(name).casefold() in {_file_name(n).casefold() for n in plans}:
            raise PlanError(f"two plans are named '{name}'; rename one of the files, their names tell plans apart")
        try:
            plans[name] = Plan.from_json(text_of(path, "the plan"))
        except PlanError as error:
            said = str(error)
            raise PlanError(said if Path(path).name in said else f"{Path(path).name}: {said}") from None
    return plans


def _of_twin(arguments, labelled, plans):
    """(the twin, the plans in its patient); raises CalibrationError where it is another patient's."""
    from . import volumes
    from .calibration.compare import of_patient
    from .calibration.parameters import CalibrationError
    from .calibration.twin import Twin, fingerprint

    twin = Twin.from_json(text_of(arguments.twin, "the twin"))
    spacing_mm = labelled.volume.spacing_mm
    try:
        labels = volumes.recoded(labelled.codes, matched(twin.plan, labelled))
    except PlanError as error:
        raise CalibrationError(f"the twin does not belong to this segmentation: {error}") from None
    # any visit that it was fitted to may be where the plans begin
    if fingerprint(labels, spacing_mm) not in [visit.sha256 for visit in twin.observations]:
        twin.check_patient(labels, spacing_mm)
    return twin, {name: of_patient(plan, twin.plan) for name, plan in plans.items()}


def _rule(arguments):
    from .calibration.progression import MEASURABLE_ML, Progression

    factor = 2.0 if arguments.progression_factor is None else arguments.progression_factor
    least = MEASURABLE_ML if arguments.measurable_ml is None else arguments.measurable_ml
    try:
        return Progression(factor, least)
    except ValueError as error:
        raise PlanError(str(error)) from None


def _differences(plans) -> list[str]:
    """Sentences on plans that differ in the patient's parameters: then not only treatments are compared."""
    (first_name, first), *others = plans.items()
    own = {t.name.casefold(): t for t in first.anatomy.tissues}
    sentences = []
    for name, plan in others:
        found = [f"{what} of '{t.name}'" for t in plan.anatomy.tissues if t.name.casefold() in own
                 for what in _BIOLOGY if getattr(t, what) != getattr(own[t.name.casefold()], what)]
        found += [what for what in _STATE if getattr(plan, what) != getattr(first, what)]
        if found:
            more = " and more" if len(found) > 4 else ""
            sentences.append(
                f"plans '{first_name}' and '{name}' differ in {', '.join(found[:4])}{more}: "
                "their outcomes differ by that too, not by the treatment alone")
    return sentences


def _recurrence(arguments, labelled):
    """((*S) bool, warnings): the tumor of the follow-up, on the voxels of the segmentation."""
    import numpy as np

    from . import volumes

    other = read_labelled(arguments.recurrence, arguments.recurrence_labels or arguments.labels)
    volumes.same_geometry(other.volume, labelled.volume)
    codes = [code for code, structure in other.structures.items() if structure.role == "tumor"]
    return np.isin(other.codes, codes), list(other.warnings)


def _margins(arguments, comparison, candidates, recurrence):
    from .calibration.margins import MARGIN_MM, MarginError, compare_margins

    found = []
    margin = MARGIN_MM if arguments.margin_mm is None else arguments.margin_mm
    for outcome, candidate in zip(comparison.outcomes, candidates):
        day = outcome.reported[-1] if arguments.recurrence_day is None else arguments.recurrence_day
        density = outcome.probability[outcome.reported.index(day)]
        try:
            targets = compare_margins(
                candidate.labels, density, recurrence, outcome.plan.anatomy, comparison.spacing_mm, margin)
        except MarginError as error:
            raise PlanError(str(error)) from None
        found.append((outcome.name, targets))
    return found


def _write(staging: Path, comparison, candidate, geometry, margins, notes, warnings) -> None:
    import numpy as np

    from . import comparison_report, volumes

    volumes.write_bytes(staging / "volumes.csv", comparison_report.volumes_csv(comparison).encode())
    words = comparison_report.markdown(comparison, margins, notes, warnings)
    volumes.write_bytes(staging / "comparison.md", words.encode())
    volumes.write_bytes(staging / "comparison.png", comparison_report.figure(comparison, candidate.labels, geometry))
    first = comparison.outcomes[0]
    for outcome in comparison.outcomes:
        for day, values in zip(outcome.reported, outcome.probability):
            name = f"probability_{_file_name(outcome.name)}_{day_name(day)}.nrrd"
            volumes.write_nrrd(staging / name, values, geometry)
            if outcome is not first:
                name = f"difference_{_file_name(outcome.name)}_less_{_file_name(first.name)}_{day_name(day)}.nrrd"
                volumes.write_nrrd(staging / name, comparison.difference(outcome.name, first.name, day), geometry)
    for index, (name, found) in enumerate(margins):
        uniform, probable = found
        if index == 0:
            volumes.write_nrrd(staging / "margin_uniform.nrrd", uniform.plan.astype(np.uint8), geometry)
        volumes.write_nrrd(staging / f"margin_{_file_name(name)}.nrrd", probable.plan.astype(np.uint8), geometry)


def _file_name(name: str) -> str:
    """A plan's name as part of a file's."""
    return "".join(c if c.isalnum() or c in "-." else "-" for c in name)
