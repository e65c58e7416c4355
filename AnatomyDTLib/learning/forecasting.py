"""One patient's forecast by a trained twin: on the voxels that it was trained for, in the tumor's surroundings, any plan."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as functional

from ..plan import Anatomy, Plan, Radiotherapy
from . import twin as twins
from .batches import Batch, grid_of, signed_distances, ways_of_tumors
from .cases import Case
from .growth import check_trained_for
from .interfaces import STILL, State
from .twin import AnatomyTwin, TwinConfig
from .weights import TrainingError, header_of, read_tensors

LONGEST_STEP_DAYS = 10.0
# Of healthy tissue that is carried along beside the largest extent of the tumor, mm; what is farther away stays.
AROUND_MM = 30.0


@dataclass(frozen=True)
class Learned:
    """A trained twin and the plan's tissues in it.

    index: (K,) the twin's class of every tissue of the plan, −1 for one that never comes to be; own: the reverse
    """

    twin: AnatomyTwin
    index: tuple[int, ...]

    @property
    def own(self) -> tuple[int, ...]:
        return tuple(self.index.index(k) if k in self.index else -1 for k in range(len(self.twin.anatomy)))


def is_twin(path) -> bool:
    """Whether a weights file holds a whole twin, not only a growth network. Raises ValueError when it cannot be read."""
    return str(header_of(path).get("format", "")).startswith(twins.FORMAT.rsplit("-", 1)[0])


def learned(path, plan: Plan, axes: int) -> Learned:
    """Reads a trained twin for a plan. Tissues are matched by name, else by a role that only one of them has on either side.

    A falx, or another barrier that the twin does not know, is to it what it knows as background: nothing moves it or passes it.
    Raises ValueError with one sentence: no such file, trained for other tissues, roles or axes.
    """
    try:
        header = header_of(path)
        names, roles = json.loads(header["twin"])["classes"], json.loads(header["roles"])
        anatomy = trained_anatomy(names, roles)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"the weights file {path} is damaged: its header cannot be read") from None
    return Learned(load_twin(path, anatomy, axes), _index(plan.anatomy, names, roles))


def load_twin(path, anatomy: Anatomy, axes: int) -> AnatomyTwin:
    """Reads a twin that was trained for these classes and this number of axes.

    Raises ValueError with one sentence when the file is missing, is no twin of this version, or was trained for others.
    """
    state, meta = read_tensors(path, twins.FORMAT, "twin")
    try:
        values = json.loads(meta["twin"])
        config = TwinConfig(**{**values, "classes": tuple(values["classes"]), "blurs_mm": tuple(values["blurs_mm"])})
        roles = json.loads(meta["roles"])
    except (KeyError, TypeError, ValueError):
        raise TrainingError(f"the weights file {path} is damaged: its header cannot be read") from None
    check_trained_for(config.classes, config.axes, anatomy.names, axes)
    if roles != [tissue.role for tissue in anatomy.tissues]:
        raise TrainingError(f"the weights were trained with the roles {', '.join(roles)}; give the tissues the same ones")
    twin = AnatomyTwin(anatomy, config)
    try:
        twin.load_state_dict(state)
    except RuntimeError:
        raise TrainingError(f"the weights file {path} is damaged: its configuration and its weights do not agree") from None
    return twin.eval()


def _index(anatomy: Anatomy, names, roles) -> tuple[int, ...]:
    """The twin's class of every tissue; raises TrainingError for one that it has none for."""
    place = {name.casefold(): k for k, name in enumerate(names)}
    index = [place.get(tissue.name.casefold(), -1) for tissue in anatomy.tissues]
    unmatched = [tissue.role for tissue, k in zip(anatomy.tissues, index) if k < 0]
    for i, tissue in enumerate(anatomy.tissues):
        k = index[i]
        if k >= 0 and roles[k] != tissue.role:
            raise TrainingError(f"the weights were trained with {names[k]} as {roles[k]}; the plan has it as {tissue.role}")
        if k >= 0:
            continue
        alike = [j for j, role in enumerate(roles) if role == tissue.role and j not in index]
        still = [j for j, role in enumerate(roles) if role in STILL]
        if len(alike) == 1 and unmatched.count(tissue.role) == 1:
            index[i] = alike[0]
        elif tissue.role in STILL and still:
            index[i] = still[0]
        elif tissue.role != "necrosis":
            raise TrainingError(f"the weights were trained for the tissues {', '.join(names)}, not for {tissue.name}; rename it or choose others")
    return tuple(index)


def check_tissues(learned: Learned, labels: np.ndarray, plan: Plan) -> None:
    """Raises ValueError when the input holds a tissue that the twin does not know."""
    absent = [plan.anatomy.names[k] for k in np.unique(labels) if learned.index[k] < 0]
    if absent:
        raise TrainingError(f"the weights were not trained for {', '.join(absent)}; choose others, or the equation")


def trained_anatomy(names, roles) -> Anatomy:
    """The anatomy that a twin's file names: its numbers are the file's own, so that the roles' defaults stand in here."""
    from ..presets import tissue

    return Anatomy(tuple(tissue(name, role) for name, role in zip(names, roles, strict=True)))


def forecast(
    learned: Learned, images: np.ndarray | None, labels: np.ndarray, spacing_mm, plan: Plan, maps: Mapping[str, np.ndarray],
    device: str = "cpu", told: Callable[[float], None] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (labels (*S), tumor probability (*S) float32) on every reported day, the first of them the input.

    images: (I, *S) that the twin was trained with, `cases.scaled`, or None
    labels: in the plan's numbering, and so are those that come back. A voxel changes its label where the twin's own
    decoding of it changes: what is thinner than the twin's voxels stays as it was drawn. A dose map counts with its mean
    over the tumor.
    told: called with the part that is done; may raise
    """
    twin, own = learned.twin.to(device), np.array(learned.own)
    codes = np.array(learned.index)[labels]
    tumor = np.isin(codes, twin.sides.tumors)
    days, treatments = plan.reported_days, _without_maps(plan, maps, tumor)
    case = Case("patient", "patient", tuple(days), codes[None], treatments)
    grid = grid_of([case], LONGEST_STEP_DAYS, device)
    box = _window(twin, grid, tumor, spacing_mm)
    inside = codes[box]
    factor = [max(1, round(0.5 * twin.config.width_mm / h)) if n > 1 else 1 for h, n in zip(spacing_mm, inside.shape)]
    coarse_mm = tuple(h * f for h, f in zip(spacing_mm, factor))
    distances = _pooled(signed_distances(inside, len(twin.anatomy), spacing_mm), factor)
    drawn_coarse = distances.argmax(0).numpy()
    distances = torch.from_numpy(ways_of_tumors(distances.numpy(), drawn_coarse, twin.anatomy, coarse_mm))
    present = torch.stack([_pooled((inside == k)[None].astype(np.float32), factor)[0] for k in range(len(twin.anatomy))])
    pictures = None if images is None else _pooled(images[(slice(None), *box)], factor).unsqueeze(0).to(device)
    regions = {name: _pooled((np.asarray(m)[box] != 0)[None].astype(np.float32), factor)[0].numpy() >= 0.5 for name, m in maps.items()}
    batch = Batch(
        anatomy=twin.anatomy, spacing_mm=coarse_mm, names=("patient",), states=present[None, None].to(device),
        days=torch.tensor([days], dtype=torch.float32), present=torch.ones(1, len(days), dtype=torch.bool),
        distances=distances.unsqueeze(0).to(device), grid=grid, images=pictures, regions=regions,
    )
    probability = tumor.astype(np.float32)
    yield labels.copy(), probability.copy()
    with torch.no_grad():
        drawn = _upsampled(State.of(twin.sides, batch.distances, twin.slope).probabilities(), factor, inside.shape)
        still = [twin.sides.rest[i] for i in twin.sides.still_at]
        held = np.isin(inside, still)
        drawn[still] = 0
        first = drawn.argmax(0)
        for state in twin.rollout(batch, told=told):
            p = _upsampled(state.probabilities(), factor, inside.shape)
            p[still] = 0
            now = p.argmax(0)
            frame, density = labels.copy(), probability.copy()
            frame[box] = np.where(held | (now == first), labels[box], own[now])
            density[box] = p[list(twin.sides.tumors)].sum(0)
            yield frame, density


def _without_maps(plan: Plan, maps, tumor):
    """The treatments as the twin knows them: a dose for the whole tumor."""
    made = []
    for treatment in plan.treatments:
        if isinstance(treatment, Radiotherapy):
            dose = treatment.dose_gy
            if treatment.dose_map is not None:
                dose = float(np.asarray(maps[treatment.dose_map], np.float64)[tumor].mean()) / treatment.fractions
            if treatment.region is not None:
                dose *= float((np.asarray(maps[treatment.region])[tumor] != 0).mean())
            treatment = replace(treatment, dose_gy=dose, dose_map=None, region=None)
        made.append(treatment)
    return tuple(made)


def _window(twin: AnatomyTwin, grid, tumor, spacing_mm) -> tuple[slice, ...]:
    """The box of the tumor's largest extent and AROUND_MM more."""
    present = torch.zeros(1, len(twin.anatomy), *tumor.shape)
    present[0, twin.sides.tumors[0]] = torch.from_numpy(tumor)
    with torch.no_grad():
        burden = twin.law.begin(twin.radius_mm(present, spacing_mm).to(grid.dt.device))
        first = furthest = float(twin.law.radius_mm(burden))
        for step in range(len(grid)):
            burden = twin.law.step(burden, grid.dt[step], grid.parts_gy[step], grid.parts2_gy2[step], grid.parts_drug[step])
            furthest = max(furthest, float(twin.law.radius_mm(burden)))
    reach = AROUND_MM + (furthest - first)
    box = []
    for axis, (n, h) in enumerate(zip(tumor.shape, spacing_mm)):
        line = np.flatnonzero(tumor.any(tuple(a for a in range(tumor.ndim) if a != axis)))
        voxels = math.ceil(reach / h)
        box.append(slice(max(0, int(line[0]) - voxels), min(n, int(line[-1]) + 1 + voxels)))
    return tuple(box)


def _pooled(fields: np.ndarray, factor) -> torch.Tensor:
    """Means over blocks of voxels, (C, *S) -> (C, *coarse); the last block is filled with the edge."""
    if all(f == 1 for f in factor):
        return torch.from_numpy(np.ascontiguousarray(fields, np.float32))
    padded = np.pad(fields, [(0, 0)] + [(0, -n % f) for n, f in zip(fields.shape[1:], factor)], mode="edge")
    pool = functional.avg_pool2d if len(factor) == 2 else functional.avg_pool3d
    return pool(torch.from_numpy(np.ascontiguousarray(padded, np.float32))[None], list(factor))[0]


def _upsampled(p: torch.Tensor, factor, shape) -> np.ndarray:
    """(K, *shape) of (1, K, *coarse), linear between the coarse voxels' centres."""
    if any(f > 1 for f in factor):
        mode = "bilinear" if len(factor) == 2 else "trilinear"
        p = functional.interpolate(p, size=[n * f for n, f in zip(p.shape[2:], factor)], mode=mode, align_corners=False)
    return p[(0, slice(None), *(slice(0, n) for n in shape))].cpu().numpy()
