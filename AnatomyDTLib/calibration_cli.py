"""The verb `calibrate`: a patient's twin from two or more visits, or a stored twin updated with a new one."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path

from . import __version__
from .inputs import Labelled, matched, read_images, read_labelled, read_maps, text_of
from .outputs import sha256
from .plan import Plan, PlanError

MOST_STARTS = 64


def run(arguments, progress):
    """Calibrates as the command line asks; returns (lines to print, warnings). Raises ValueErrors for a user's mistake.

    After every iteration the state is kept in a file beside the twin (its name and ".partial"); the same command goes
    on from it.
    """
    out = Path(arguments.out)
    if not arguments.out or out.is_dir() or not (out.parent if str(out.parent) else Path()).is_dir():
        raise PlanError(f"--out must name a file for the twin in a folder that exists, not '{arguments.out}'")
    if not 1 <= arguments.starts <= MOST_STARTS:
        raise PlanError(f"--starts must lie between 1 and {MOST_STARTS}, not {arguments.starts}")
    if arguments.refine_network != (arguments.weights is not None):
        raise PlanError(
            "--refine-network and --weights go together: the last layer of these weights is refined for the patient")
    growth = out.with_name(out.name.removesuffix(".json") + ".growth.safetensors") if arguments.refine_network else None
    followups = [_dated(text, "follow-up") for text in arguments.followups]
    given = {
        kind: dict(reversed(_dated(text, kind)) for text in getattr(arguments, kind) or ())
        for kind in ("probability", "cellularity")
    }
    bounds = dict(_bounded(text) for text in arguments.bounds or ())
    for path, _ in followups + [(p, d) for files in given.values() for d, p in files.items()]:
        if not os.path.isfile(path):
            raise PlanError(f"there is no file {path}")
    former = None
    if arguments.update is not None:
        from .calibration.twin import Twin

        former = Twin.from_json(text_of(arguments.update, "the twin"))
    elif arguments.plan is None:
        raise PlanError(
            "--plan is missing: name the plan with the tissues and what was done between the visits (see `anatomydt "
            "plan`), or a twin with --update"
        )
    plan = former.plan if arguments.plan is None else Plan.from_json(text_of(arguments.plan, "the plan"))
    days = {day for _, day in followups}
    for kind, files in given.items():
        for day, path in files.items():
            if day not in days:
                raise PlanError(f"the {kind} map {path} belongs to day {day:g}, on which there is no follow-up")

    from . import engine, volumes
    from .calibration.calibrate import Observation
    from .calibration.fit import Settings

    tissues = {n.casefold() for n in plan.anatomy.names}
    regions = tuple(n.casefold() for n in plan.map_names() if n.casefold() not in tissues)
    baseline = read_labelled(arguments.baseline, arguments.labels, arguments.anatomy, arguments.anatomy_labels, regions)
    warnings, files = list(baseline.warnings), list(baseline.inputs)
    maps, map_files = read_maps(plan, baseline, Path(arguments.plan).parent if arguments.plan else Path())
    images = read_images(arguments.image, baseline)
    files += [*map_files, *map(Path, images)]
    observations = [Observation(0.0, volumes.recoded(baseline.codes, matched(plan, baseline)))]
    for path, day in followups:
        visit = read_labelled(path, arguments.labels, arguments.anatomy, arguments.anatomy_labels, regions)
        index = matched(plan, visit)
        codes = _on(visit.volume, visit.codes, baseline, arguments.resample)
        maps_of_day = {}
        for kind, of_day in given.items():
            if day in of_day:
                volume = volumes.read(of_day[day])
                maps_of_day[kind] = _on(volume, volume.array, baseline, arguments.resample)
                files.append(Path(of_day[day]))
        observations.append(Observation(day, volumes.recoded(codes, index), **maps_of_day))
        files += visit.inputs
    if arguments.plan:
        files.append(Path(arguments.plan))
    if arguments.weights and os.path.isfile(arguments.weights):
        files.append(Path(arguments.weights))

    kept = out.with_name(out.name + ".partial")
    key = _key(arguments, files, bounds)
    state = _state(kept, key)

    def save(found):
        volumes.write_bytes(kept, json.dumps({"anatomydt_calibration": key, "state": found}).encode())

    twin = engine.calibrate(
        observations,
        baseline.volume.spacing_mm,
        plan,
        maps=maps,
        parameters=arguments.parameters,
        bounds=bounds,
        twin=former,
        weights=arguments.weights,
        refine=growth,
        images=images,
        settings=Settings(starts=arguments.starts, seed=arguments.seed),
        state=state,
        save=save,
        progress=progress,
    )
    twin = dataclasses.replace(twin, fit={**twin.fit, "inputs": {str(p): sha256(p) for p in dict.fromkeys(files)}})
    volumes.write_bytes(out, twin.to_json().encode())
    with contextlib.suppress(OSError):
        kept.unlink()
    warnings += [w for w in twin.fit["warnings"] if w not in warnings]
    return lines(twin) + [f"wrote {path}" for path in (out, growth) if path is not None], warnings


def lines(twin) -> list[str]:
    """The fitted parameters and the visits as aligned text."""
    rows = [("parameter", "value", "80 % interval", "unit", "")]
    for p in twin.parameters:
        low, high = p.interval()
        rows.append((p.name, f"{p.value:.4g}", f"{low:.4g} to {high:.4g}", p.unit, p.verdict()))
    visits = [("day", "seen mL", "fitted mL", "Dice", "forecast before it was seen")]
    for v in twin.observations:
        before = ""
        if v.forecast:
            f = v.forecast
            before = (
                f"{f['volume_ml']:.2f} mL ({f['low_ml']:.2f} to {f['high_ml']:.2f}), error "
                f"{f['volume_ml'] - v.observed_ml:+.2f} mL, Dice {f['dsc']:.2f}"
            )
        visits.append((f"{v.day:g}", f"{v.observed_ml:.2f}", f"{v.fitted_ml:.2f}", f"{v.dsc:.3f}", before))
    return [
        *_aligned(rows),
        "",
        *_aligned(visits),
        f"outlines agree to {twin.fit['outline_noise_mm']:.2f} mm; {twin.fit['evaluations']} runs",
        *(
            [f"growth network refined: objective {g['objective_loaded']:.1f} to {g['objective_refined']:.1f} in {g['runs']} runs"]
            if (g := twin.growth)
            else []
        ),
    ]


def _aligned(rows) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _dated(text: str, what: str) -> tuple[str, float]:
    path, at, day = text.rpartition("@")
    try:
        if not at or not path:
            raise ValueError
        return path, float(day)
    except ValueError:
        raise PlanError(f"the {what} '{text}' lacks its day: write FILE@DAY, days after the baseline") from None


def _bounded(text: str) -> tuple[str, tuple[float, float]]:
    name, _, pair = text.rpartition("=")
    try:
        low, high = (float(v) for v in pair.split(":"))
    except ValueError:
        raise PlanError(f"the bounds '{text}' cannot be read: write NAME=LOW:HIGH") from None
    return name, (low, high)


def _on(volume, array, baseline: Labelled, resample: bool):
    """The array of another image on the baseline's voxels: as it is where they coincide, else the nearest voxel's
    value."""
    from . import volumes

    reference = baseline.volume
    if not resample:
        try:
            volumes.same_geometry(volume, reference)
        except volumes.VolumeError as error:
            raise volumes.VolumeError(f"{error}, or give --resample") from None
        return array
    if volume.array.ndim != 3 or reference.array.ndim != 3:
        volumes.same_geometry(volume, reference)
        return array
    import numpy as np
    from scipy import ndimage

    theirs, ours = volume.geometry, reference.geometry
    inverse = np.linalg.inv(theirs.steps_mm.T)
    matrix = inverse @ ours.steps_mm.T
    offset = inverse @ (ours.origin_mm - theirs.origin_mm)
    return ndimage.affine_transform(
        array, matrix, offset, output_shape=reference.array.shape, order=0, mode="constant", cval=0
    )


def _key(arguments, files, bounds) -> str:
    """Names the calibration that a kept state belongs to: its inputs and its settings."""
    inputs = [sha256(p) for p in files] + ([sha256(arguments.update)] if arguments.update else [])
    settings = [
        __version__,
        arguments.followups,
        arguments.parameters,
        sorted(bounds.items()),
        arguments.starts,
        arguments.seed,
        arguments.resample,
    ]
    return hashlib.sha256(json.dumps([inputs, settings]).encode()).hexdigest()


def _state(path: Path, key: str) -> dict | None:
    """What an interrupted run of the same calibration had reached; None where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return document["state"] if document["anatomydt_calibration"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
