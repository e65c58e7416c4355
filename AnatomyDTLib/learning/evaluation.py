"""How well one label map predicts another: overlap, distance, topology and volume, per class.

MONAI, scikit-image and torch are imported when a prediction is scored.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class.

    name, value: of the class
    dice: 2 |P ∩ O| / (|P| + |O|), 0..1
    hd95_mm: the larger of the two directed 95th percentiles of the distance between the surfaces
    cl_dice: harmonic mean of the parts of each skeleton that lie inside the other mask (definition 3), 0..1
    betti, betti_observed: (components, tunnels, cavities); in 2D (components, holes, 0); corners connect
    volume_ml, volume_observed_ml; volume_error_percent: signed, of the observed volume; infinite if that is 0
    missing: "" or the side, "predicted" or "observed", that lacks the class: then dice and cl_dice are 0 and hd95_mm is
        the diagonal of the image, so that a lost structure is the worst score and not one that leaves the mean
    A class that is absent on both sides has no score and is not listed; None stands for what was not asked for.
    """

    name: str
    value: int
    dice: float
    hd95_mm: float
    cl_dice: float | None
    betti: tuple[int, int, int] | None
    betti_observed: tuple[int, int, int] | None
    volume_ml: float
    volume_observed_ml: float
    volume_error_percent: float
    missing: str = ""


def score(
    predicted, observed, spacing_mm, names: Sequence[str] | Mapping[int, str] | None = None, topology: bool = True
) -> list[ClassScore]:
    """Scores every class of two label maps of the same geometry.

    predicted, observed: (Y, X) or (Z, Y, X) whole numbers, or bool for a single mask; 0 is background, not scored
    spacing_mm: voxel size in mm in the order of the array's axes (a 2D voxel counts as 1 mm thick)
    names: label value -> name, or a sequence indexed by the label value, or an Anatomy; only these are scored
    topology: also clDice and Betti numbers (seconds on a brain of 1 mm voxels)
    Raises ValueError when the two do not fit each other.
    """
    predicted, observed = np.asarray(predicted), np.asarray(observed)
    if predicted.shape != observed.shape:
        raise ValueError(
            f"the two label maps have the shapes {predicted.shape} and {observed.shape}; resample one onto the other first"
        )
    if predicted.ndim not in (2, 3):
        raise ValueError(f"a label map has 2 or 3 axes, not {predicted.ndim}")
    spacing = tuple(float(h) for h in spacing_mm)
    if len(spacing) != predicted.ndim or not all(math.isfinite(h) and h > 0 for h in spacing):
        raise ValueError(f"spacing_mm must be {predicted.ndim} numbers above 0, not {spacing}")
    present = np.union1d(predicted, observed)
    named = _named(names, present)
    diagonal = math.sqrt(sum((n * h) ** 2 for n, h in zip(predicted.shape, spacing)))
    voxel_ml = math.prod(spacing) / 1000.0
    scores = []
    for value, name in named.items():
        p, o = predicted == value, observed == value
        if not p.any() and not o.any():
            continue
        volume, volume_observed = p.sum() * voxel_ml, o.sum() * voxel_ml
        error = 100.0 * (volume / volume_observed - 1.0) if volume_observed > 0 else math.inf
        p, o = _cropped(p, o)
        missing = "" if p.any() and o.any() else "predicted" if o.any() else "observed"
        scores.append(ClassScore(
            name, int(value),
            0.0 if missing else dice(p, o), diagonal if missing else hd95(p, o, spacing),
            (0.0 if missing else cl_dice(p, o)) if topology else None,
            betti_numbers(p) if topology else None, betti_numbers(o) if topology else None,
            float(volume), float(volume_observed), float(error), missing,
        ))
    return scores


def dice(predicted, observed) -> float:
    """2 |P ∩ O| / (|P| + |O|) of two masks that are not both empty (MONAI)."""
    import torch
    from monai.metrics import compute_dice

    p, o = (torch.from_numpy(np.ascontiguousarray(m, dtype=np.float32))[None, None] for m in (predicted, observed))
    return float(compute_dice(p, o))


def hd95(predicted, observed, spacing_mm) -> float:
    """95 % Hausdorff distance in mm of two non-empty masks: of the two directed percentiles the larger (MONAI)."""
    import torch
    from monai.metrics import compute_hausdorff_distance

    assert np.any(predicted) and np.any(observed), "MONAI's distance to an empty mask is NaN"
    p, o = (torch.from_numpy(np.ascontiguousarray(m, dtype=np.float32))[None, None] for m in (predicted, observed))
    with warnings.catch_warnings():
        # MONAI 1.6 calls its own deprecated argument
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        return float(compute_hausdorff_distance(p, o, include_background=True, percentile=95, spacing=list(spacing_mm)))


def cl_dice(predicted, observed) -> float:
    """2 Tp Ts / (Tp + Ts), Tp = |S_P ∩ O| / |S_P|, Ts = |S_O ∩ P| / |S_O|, S the skeleton (Shit et al. 2021, CVPR)."""
    from skimage.morphology import skeletonize

    p, o = np.asarray(predicted, bool), np.asarray(observed, bool)
    in_o, in_p = skeletonize(p) > 0, skeletonize(o) > 0
    # a blob of even width can lose its whole skeleton to thinning: then the mask stands for it
    in_o, in_p = (in_o if in_o.any() else p), (in_p if in_p.any() else o)
    tp, ts = o[in_o].mean(), p[in_p].mean()
    return float(2.0 * tp * ts / (tp + ts)) if tp + ts > 0 else 0.0


def betti_numbers(mask) -> tuple[int, int, int]:
    """(components, tunnels, cavities) of a mask whose voxels connect at corners; in 2D (components, holes, 0).

    b1 = b0 + b2 − χ, χ the Euler characteristic; cavities are the parts of the background, connected by faces, that do
    not reach the outside.
    """
    from skimage.measure import euler_number, label

    mask = np.pad(np.asarray(mask, bool), 1)
    b0 = int(label(mask, connectivity=mask.ndim, return_num=True)[1])
    chi = int(euler_number(mask, connectivity=mask.ndim))
    if mask.ndim == 2:
        return b0, b0 - chi, 0
    b2 = int(label(~mask, connectivity=1, return_num=True)[1]) - 1
    return b0, b0 + b2 - chi, b2


def mean_dice(scores: Sequence[ClassScore]) -> float:
    """Mean DSC over the scored classes; NaN where there is none."""
    return float(np.mean([s.dice for s in scores])) if scores else math.nan


def format_table(scores: Sequence[ClassScore]) -> str:
    """The scores as a markdown table with aligned columns; a missing structure is marked and explained below it."""
    rows = [("class", "DSC", "HD95 mm", "clDice", "Betti", "observed", "mL", "observed", "error %")]
    for s in scores:
        rows.append((
            s.name, f"{s.dice:.3f}", f"{s.hd95_mm:.1f}{'*' if s.missing else ''}",
            "" if s.cl_dice is None else f"{s.cl_dice:.3f}", _joined(s.betti), _joined(s.betti_observed),
            f"{s.volume_ml:.1f}", f"{s.volume_observed_ml:.1f}",
            f"{s.volume_error_percent:+.0f}" if math.isfinite(s.volume_error_percent) else "",
        ))
    lost = [f"{s.name} (not {s.missing})" for s in scores if s.missing]
    note = f"\n* counted as the image diagonal: {', '.join(lost)}\n" if lost else ""
    return aligned(rows) + note


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first one the head, as a markdown table; the first column to the left, others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
        lines.append("| " + " | ".join(cells) + " |")
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def _named(names, present) -> dict[int, str]:
    if names is None:
        return {int(v): f"label {int(v)}" for v in present if v != 0}
    names = getattr(names, "names", names)  # an Anatomy
    items = names.items() if isinstance(names, Mapping) else enumerate(names)
    return {int(v): str(n) for v, n in items if int(v) != 0}


def _cropped(p, o):
    """Both masks in their common bounding box, with a voxel of background around it."""
    both = p | o
    box = []
    for axis in range(both.ndim):
        line = np.flatnonzero(both.any(axis=tuple(a for a in range(both.ndim) if a != axis)))
        box.append(slice(int(line[0]), int(line[-1]) + 1))
    return np.pad(p[tuple(box)], 1), np.pad(o[tuple(box)], 1)


def _joined(betti) -> str:
    return "" if betti is None else " ".join(str(b) for b in betti)
