"""THE interface of the engine: forecast, compare and score. numpy in, numpy out.

Nothing here knows of files, of a scene or of a terminal. torch is imported when a forecast runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from . import computing, shipped
from .computing import Cancelled, Forecast, one_thread
from .plan import Plan, Surgery
from .refusals import ForecastError, checked, checked_images, checked_maps, checked_tensor, warnings_of


def forecast(
    labels: np.ndarray,
    spacing_mm,
    plan: Plan,
    *,
    maps: Mapping[str, np.ndarray] | None = None,
    tensor: np.ndarray | None = None,
    weights: str | None = None,
    images: Mapping[str, np.ndarray] | None = None,
    device: str = "auto",
    probabilities: bool = False,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Forecast:
    """Forecasts the anatomy on every reported day of the plan.

    labels: (Y, X) or (Z, Y, X) whole numbers, indices into plan.anatomy.tissues
    spacing_mm: voxel size in mm, in the order of the array's axes (so (z, y, x) for a volume)
    maps: the arrays that the plan's treatments name (resection regions, dose in Gy), shape of labels
    tensor: diffusion tensor (ndim, ndim, *S) in the axes of the array, any unit; it gives the direction of the tumor's
        diffusion, the tissue gives its mean
    weights: what was trained for the plan's tissues (safetensors): a growth network, which corrects the equation's rates, or
        a whole twin, which brings its own numbers; a file, or the name of shipped weights; None: the equation alone
    images: what the weights were trained with beside the labels, in any unit, by name in the order of training, shape of labels
    device: "auto" (CUDA where there is one), "cpu" or "cuda"
    probabilities: also return the tumor's probability
    progress: called with a fraction in 0..1 and a text; cancelled: polled every step
    Raises ForecastError (a ValueError) for a user's mistake, Cancelled when told to stop.
    """
    labels, spacing_mm = checked(labels, spacing_mm, plan)
    maps = checked_maps(plan, maps or {}, labels.shape)
    tensor = checked_tensor(tensor, labels.shape)
    warnings = warnings_of(labels, plan)
    twin = None if weights is None else _twin(weights, images, plan, labels, maps, tensor, warnings)
    network = None if twin is not None else _network(weights, images, plan, labels)
    import torch

    chosen = _device(device, torch)
    request = (labels, spacing_mm, plan, maps, tensor, twin, network)
    try:
        return computing.run(request, chosen, probabilities, progress, cancelled, warnings)
    except (torch.OutOfMemoryError, MemoryError):
        if chosen == "cpu":
            raise ForecastError("there is not enough memory for this forecast: crop the image or use larger voxels") from None
    torch.cuda.empty_cache()
    warnings.append("the GPU ran out of memory, so the forecast was computed on the CPU")
    return computing.run(request, "cpu", probabilities, progress, cancelled, warnings)


def score(predicted: np.ndarray, observed: np.ndarray, spacing_mm, names=None, topology: bool = True) -> list:
    """Scores a forecast's labels against observed ones: per class DSC, HD95 (mm), clDice, Betti numbers, volumes (mL).

    predicted, observed: (Y, X) or (Z, Y, X) whole numbers of the same shape; names: the plan's anatomy, or label -> name
    Needs MONAI and scikit-image. Raises ValueError when the two do not fit each other. `learning.evaluation` has the rest.
    """
    from .learning import evaluation

    return evaluation.score(predicted, observed, spacing_mm, names, topology)


def compare(
    candidates,
    spacing_mm,
    *,
    members=None,
    rule=None,
    device: str = "auto",
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
):
    """Compares plans for one patient; returns a `calibration.compare.Comparison`.

    candidates: `calibration.compare.Candidate`s, each with its plan, labels and maps, all of one segmentation
    members: the parameters of each draw, name -> value (`Twin.sample`, `calibration.compare.paired_members`); None: each
        plan as it is, once
    rule: a `calibration.progression.Progression`, None for the default
    Raises ForecastError for a user's mistake, Cancelled when told to stop.
    """
    from dataclasses import replace

    from .calibration import compare as comparing
    from .calibration.progression import Progression as Rule

    names = [c.name for c in candidates]
    if not names:
        raise ForecastError("there is no plan to compare; give at least one")
    for name in names:
        if names.count(name) > 1:
            raise ForecastError(f"two plans are named '{name}'; give each a name of its own")
    accepted = []
    for candidate in candidates:
        try:
            labels, spacing = checked(candidate.labels, spacing_mm, candidate.plan)
            maps = checked_maps(candidate.plan, candidate.maps, labels.shape)
        except ForecastError as error:
            raise ForecastError(f"plan '{candidate.name}': {error}") from None
        if accepted and labels.shape != accepted[0].labels.shape:
            raise ForecastError(f"plan '{candidate.name}' comes with labels of the shape {labels.shape}, '{names[0]}' with {accepted[0].labels.shape}")
        accepted.append(replace(candidate, labels=labels, maps=maps))
    import torch

    members = [dict(m) for m in members] if members is not None else [{}]
    if not members:
        raise ForecastError("there is no draw of the parameters; an ensemble has at least one member")
    with one_thread("comparison", "compare fewer plans or days, or use larger voxels"):
        return comparing.compare(
            accepted, spacing, members, rule=rule or Rule(), device=_device(device, torch), progress=progress, cancelled=cancelled)


def calibrate(
    observations,
    spacing_mm,
    plan: Plan,
    *,
    maps: Mapping[str, np.ndarray] | None = None,
    parameters=None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    twin=None,
    weights: str | None = None,
    images: Mapping[str, np.ndarray] | None = None,
    refine: str | None = None,
    settings=None,
    state: dict | None = None,
    save: Callable[[dict], None] | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
):
    """Fits the plan's parameters to a patient's visits: returns a `calibration.twin.Twin`, whose `plan_for()` is forecast.

    observations: the baseline (0, labels), then (day, labels) or `calibration.calibrate.Observation`, ascending days; labels are
        (Y, X) or (Z, Y, X) indices into plan.anatomy.tissues
    maps: as in `forecast`; the treatments are those that were given between the visits
    parameters: names of what is fitted (`calibration.parameters.available`); None: diffusivity, growth and the sensitivities to
        the plan's treatments; bounds: name -> (low, high) in the parameter's unit
    twin: a former twin of this baseline, to be updated with visits that it has not seen; its forecast for them is recorded
    weights, images: a growth network as in `forecast`, fitted with `refine`: the file (safetensors) that takes it with its last
        layer moved to explain these visits, for a forecast's `weights`; the parameters are fitted without it, before
    settings: `calibration.fit.Settings`; save, state: what `save` was last called with goes on where it stopped
    Raises ForecastError or CalibrationError (ValueErrors) for a user's mistake, Cancelled when told to stop.
    """
    from .calibration import calibrate as calibration
    from .calibration.fit import Settings
    from .calibration.parameters import CalibrationError

    pairs = list(observations)
    if not pairs:
        raise CalibrationError("there are no visits: give the baseline as (0, labels) and at least one later visit")
    first, *later = [o if isinstance(o, calibration.Observation) else calibration.Observation(*o) for o in pairs]
    if first.day != 0 or first.labels is None:
        raise CalibrationError(f"the first visit must be the baseline, labels on day 0, not day {first.day!r}")
    labels, spacing_mm = checked(first.labels, spacing_mm, plan)
    maps = checked_maps(plan, maps or {}, labels.shape)
    if twin is not None:
        twin.check_patient(labels, spacing_mm)
    if (weights is None) != (refine is None):
        raise ForecastError(
            "weights are given to a calibration to refine their last layer for this patient: name the weights and where the "
            "refined ones go")
    network = _network(weights, images, plan, labels)
    with one_thread("calibration", "crop the image or use larger voxels"):
        found, _, refined = calibration.calibrate(
            labels, spacing_mm, plan, later, maps=maps, parameters=parameters, bounds=bounds, former=twin, network=network,
            settings=settings or Settings(), state=state, save=save, progress=progress, cancelled=cancelled,
        )
    return found if refined is None else _with_growth(found, refined, weights, refine)


def _with_growth(twin, refined, weights, path):
    """Writes a refined growth network and names it and the one that was loaded in the twin, by hash."""
    import hashlib
    from dataclasses import replace
    from pathlib import Path

    from .learning.growth import save_growth

    try:
        save_growth(refined.network, path)
    except ValueError as error:
        raise ForecastError(str(error)) from None
    hashes = {
        name: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for name, file in (("loaded", shipped.path_of(weights)), ("refined", path))
    }
    return replace(twin, growth={**twin.growth, **hashes})


def ensemble(labels, spacing_mm, twin, plan: Plan | None = None, *, maps=None, members: int = 20, seed: int = 0, progress=None, cancelled=None):
    """Forecasts draws of a twin's parameters side by side: returns a `calibration.ensemble.Ensemble`.

    labels, spacing_mm: the twin's baseline; plan: other treatments and days for the same tissues; None: the twin's own
    Raises ForecastError or CalibrationError for a user's mistake, Cancelled when told to stop.
    """
    from .calibration import ensemble as room

    plan = twin.plan if plan is None else plan
    labels, spacing_mm = checked(labels, spacing_mm, plan)
    maps = checked_maps(plan, maps or {}, labels.shape)
    with one_thread("forecast", "ask for fewer members or days, or use larger voxels"):
        return room.ensemble(twin, labels, spacing_mm, plan, maps, members=members, seed=seed, progress=progress, cancelled=cancelled)


def _twin(weights, images, plan, labels, maps, tensor, warnings):
    """(the trained twin, its images (I, *S) or None) of a weights file that holds one, None where it holds a growth network."""
    from .learning import forecasting

    path = shipped.path_of(weights)
    try:
        if not forecasting.is_twin(path):
            return None
        found = forecasting.learned(path, plan, labels.ndim)
        forecasting.check_tissues(found, labels, plan)
    except ValueError as error:
        raise ForecastError(str(error)) from None
    pictures = _pictures(images, found.twin.config.images, labels, plan)
    if tensor is not None:
        warnings.append("the diffusion tensor was not used: the trained twin has its own numbers")
    for treatment in plan.treatments:
        if getattr(treatment, "dose_map", None) is not None or (getattr(treatment, "region", None) and not isinstance(treatment, Surgery)):
            warnings.append("the trained twin sees one dose for the whole tumor: a map counts with its mean there")
            break
    return found, pictures


def _network(weights, images, plan, labels):
    """The growth network and its images (1, I, *S), or None."""
    if weights is None:
        if images:
            raise ForecastError("images were given without weights, and only weights use them")
        return None
    import torch

    from .learning.growth import load_growth

    try:
        network = load_growth(shipped.path_of(weights), plan.anatomy.names, labels.ndim)
    except ValueError as error:
        raise ForecastError(str(error)) from None
    pictures = _pictures(images, network.config.images, labels, plan)
    return network, None if pictures is None else torch.from_numpy(pictures[None])


def _pictures(images, wanted: int, labels, plan):
    """The images that weights need, (I, *S) scaled as in their training, or None; raises ForecastError."""
    from .learning.cases import scaled

    given = checked_images(images, wanted, labels.shape)
    return np.stack([scaled(image, labels, plan.anatomy) for image in given]) if given else None


def _device(device: str, torch) -> str:
    if device not in ("auto", "cpu", "cuda"):
        raise ForecastError(f"unknown device '{device}'; write auto, cpu or cuda")
    if device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise ForecastError("CUDA was asked for, but this computer has no CUDA device; write cpu or auto")
    return "cpu"
