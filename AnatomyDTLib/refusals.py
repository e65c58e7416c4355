"""What can be forecast, and the sentence that says why the rest cannot."""

from __future__ import annotations

import math

import numpy as np

from .plan import Plan, Radiotherapy, Surgery

# Beyond this the parameters' sources say nothing; the forecast is made all the same, with a warning.
LONG_HORIZON_DAYS = 730.0
SMALLEST_VOXEL_MM, LARGEST_VOXEL_MM = 0.001, 100.0


class ForecastError(ValueError):
    """An input that cannot be forecast; the text is the sentence the user reads."""


def checked(labels, spacing_mm, plan):
    """(labels uint8, spacing as floats): a label map that can be forecast; raises ForecastError."""
    if not isinstance(plan, Plan):
        raise ForecastError(f"the plan must be a Plan (see Plan.from_json), not {type(plan).__name__}")
    labels = np.asarray(labels)
    if labels.ndim not in (2, 3):
        raise ForecastError(f"the label map has {labels.ndim} axes; give a 2D or a 3D one")
    if labels.size == 0:
        raise ForecastError("the label map is empty")
    if labels.dtype.kind not in "iub":
        if labels.dtype.kind != "f" or not np.isfinite(labels).all() or (labels != np.floor(labels)).any():
            raise ForecastError("the label map must hold whole numbers, not fractions or NaN")
    try:
        spacing = tuple(float(h) for h in spacing_mm)
    except (TypeError, ValueError):
        raise ForecastError(f"spacing_mm must be one number of mm per axis, not {spacing_mm!r}") from None
    if len(spacing) != labels.ndim:
        raise ForecastError(f"spacing_mm has {len(spacing)} numbers for {labels.ndim} axes")
    if not all(math.isfinite(h) and h > 0 for h in spacing):
        raise ForecastError(f"the voxel size must be above 0 mm on every axis, not {spacing}")
    if not all(SMALLEST_VOXEL_MM <= h <= LARGEST_VOXEL_MM for h in spacing):
        raise ForecastError(f"a voxel size of {spacing} mm cannot be right: it must lie between {SMALLEST_VOXEL_MM} and {LARGEST_VOXEL_MM} mm")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= len(plan.anatomy):
        raise ForecastError(
            f"the label map holds the values {low:g} to {high:g}, but the plan's tissues are numbered 0 to {len(plan.anatomy) - 1}"
        )
    labels = labels.astype(np.uint8)
    anatomy = plan.anatomy
    present = set(np.unique(labels).tolist())
    if present <= set(anatomy.with_role("background")):
        raise ForecastError("the segmentation is empty: every voxel is background")
    if not present & set(anatomy.tumors):
        raise ForecastError("there is no tumor in the segmentation: give one label the role tumor or edema")
    hosts = {j for k in present & set(anatomy.tumors) for j in anatomy.yields(k) if not anatomy.tissues[j].is_tumor}
    if not hosts & present:
        raise ForecastError(
            "there is no tissue that the tumor could grow into: segment white and grey matter, or give the tissue around the tumor the role organ"
        )
    return labels, spacing


def checked_maps(plan, maps, shape):
    """The arrays that the plan names, checked, and whether its treatments have the tissues that they need; raises ForecastError."""
    anatomy = plan.anatomy
    checked = {}
    for name in plan.map_names():
        if name not in maps:
            raise ForecastError(f"the plan names the map '{name}', which was not given")
        values = np.asarray(maps[name])
        if values.dtype.kind not in "iubf":
            raise ForecastError(f"the map '{name}' must hold real numbers, not {values.dtype}")
        if values.shape != shape:
            raise ForecastError(f"the map '{name}' has the shape {values.shape}, the label map {shape}; resample it to the same geometry")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ForecastError(f"the map '{name}' holds NaN or infinite values")
        checked[name] = values
    for treatment in plan.treatments:
        name = getattr(treatment, "dose_map", None)
        if name is not None and checked[name].min() < 0:
            raise ForecastError(f"the dose map '{name}' holds negative doses")
        if getattr(treatment, "region", None) is not None and not (checked[treatment.region] != 0).any():
            raise ForecastError(f"the region '{treatment.region}' is empty")
    if any(isinstance(t, Surgery) for t in plan.treatments) and not anatomy.with_role("cavity"):
        raise ForecastError("the plan has a surgery but no tissue with the role cavity; add one")
    harmful = [t for t in plan.treatments if not isinstance(t, Surgery)]
    if harmful:
        for k, tissue in enumerate(anatomy.tissues):
            sensitive = tissue.is_tumor or tissue.alpha_per_gy > 0 or tissue.beta_per_gy2 > 0
            if sensitive and anatomy.dead_class(k) is None:
                raise ForecastError(f"the plan treats '{tissue.name}' but no tissue takes what dies; add one with the role necrosis")
    if any(isinstance(t, Radiotherapy) for t in harmful):
        if not any(anatomy.tissues[k].alpha_per_gy > 0 or anatomy.tissues[k].beta_per_gy2 > 0 for k in anatomy.tumors):
            raise ForecastError("the plan has radiotherapy but no tumor class has a radiosensitivity; set alpha_per_gy")
    return checked


def checked_tensor(tensor, shape):
    """A symmetric positive diffusion tensor (ndim, ndim, *S) float32, or None; raises ForecastError."""
    if tensor is None:
        return None
    try:
        tensor = np.asarray(tensor, np.float32)
    except (TypeError, ValueError):
        raise ForecastError("the diffusion tensor must be an array of real numbers") from None
    n = len(shape)
    if tensor.shape != (n, n, *shape):
        raise ForecastError(f"the diffusion tensor has the shape {tensor.shape}; expected {(n, n, *shape)}")
    if not np.isfinite(tensor).all():
        raise ForecastError("the diffusion tensor holds NaN or infinite values")
    if not np.allclose(tensor, np.swapaxes(tensor, 0, 1), atol=1e-6 * float(np.abs(tensor).max() or 1.0)):
        raise ForecastError("the diffusion tensor is not symmetric")
    least = np.linalg.eigvalsh(np.moveaxis(tensor, (0, 1), (-2, -1))).min()
    if least < -1e-5 * float(np.abs(tensor).max()):
        raise ForecastError("the diffusion tensor has negative eigenvalues; fit it with a positivity constraint")
    return tensor


def checked_images(images, wanted: int, shape) -> list[np.ndarray]:
    """The images that weights need, float32, in the order of training; raises ForecastError. images: by name, or None"""
    given = dict(images or {})
    if given and not wanted:
        raise ForecastError("images were given, but these weights use none")
    if len(given) != wanted:
        raise ForecastError(f"the weights need {wanted} image(s) beside the segmentation, in the order of their training, and {len(given)} were given")
    found = []
    for name, image in given.items():
        values = np.asarray(image)
        if values.dtype.kind not in "iubf":
            raise ForecastError(f"the image '{name}' must hold real numbers, not {values.dtype}")
        if values.shape != shape:
            raise ForecastError(f"the image '{name}' has the shape {values.shape}, the label map {shape}; resample it to the same geometry")
        with np.errstate(over="ignore"):      # what float32 cannot hold becomes infinite
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ForecastError(f"the image '{name}' holds NaN or infinite values")
        found.append(values)
    return found


def warnings_of(labels, plan) -> list[str]:
    """What the user should know of an input that is forecast all the same."""
    warnings = []
    tumor = np.isin(labels, plan.anatomy.tumors)
    touching = [
        axis for axis in range(labels.ndim)
        if labels.shape[axis] > 1 and (tumor.take(0, axis).any() or tumor.take(-1, axis).any())
    ]
    if touching:
        warnings.append("the tumor touches the edge of the image; what grows beyond it is not seen")
    if labels.ndim == 2 or min(labels.shape) == 1:
        warnings.append("the image is a single slice; a tumor grows in three dimensions, and volumes are for one slice")
    if int(tumor.sum()) < 10:
        warnings.append(f"the tumor is only {int(tumor.sum())} voxel(s) large; its forecast depends on how it is drawn")
    if plan.days[-1] > LONG_HORIZON_DAYS:
        warnings.append(f"the horizon of {plan.days[-1]:g} days is far beyond what the model's parameters were fitted to")
    return warnings
