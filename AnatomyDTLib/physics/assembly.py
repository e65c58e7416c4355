"""From a plan and a label map to a state, an equation and a course: the numbers that physics runs on."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage

from ..plan import Chemotherapy, Plan, Radiotherapy, Surgery
from ..state import field_of, host_diffusivity, labels_of
from .equation import CrossDiffusion
from .pressure import MassEffect
from .stepping import Course, longest_stable_step
from .treatments import Drug, Irradiate, Resect

# What surgery does not remove: with a region that the user drew, and when it follows the tumor.
NEVER_RESECTED = ("background", "barrier", "vessel")
SPARED_AROUND_TUMOR = NEVER_RESECTED + ("csf", "ventricle")


def assemble(plan: Plan, labels: np.ndarray, spacing_mm, maps, tensor=None, device="cpu", dtype=torch.float32):
    """Returns (state (1, K, *S), CrossDiffusion, Course).

    labels: (*S) indices into plan.anatomy.tissues; maps: arrays that the treatments name, shape of labels
    tensor: (ndim, ndim, *S) diffusion tensor, any unit: its trace is scaled so that the mean diffusivity of a voxel
        stays that of its tissue
    """
    anatomy = plan.anatomy
    field = field_of(labels, anatomy, spacing_mm, plan.interface_mm, plan.infiltration_mm, plan.seed_density)
    p = torch.from_numpy(field).to(device=device, dtype=dtype)[None]
    host = torch.from_numpy(host_diffusivity(labels, anatomy, spacing_mm)).to(device=device, dtype=dtype)
    if tensor is None:
        diffusivity = torch.stack([host if t.is_tumor else torch.zeros_like(host) for t in anatomy.tissues])[None]
    else:
        shape = torch.as_tensor(np.asarray(tensor), device=device, dtype=dtype)
        trace = sum(shape[a, a] for a in range(shape.shape[0])) / shape.shape[0]
        scaled = shape * (host / torch.where(trace > 0, trace, torch.ones_like(trace)))
        diffusivity = torch.stack([scaled if t.is_tumor else torch.zeros_like(scaled) for t in anatomy.tissues])[None]
    rates = [t.growth_per_day for t in anatomy.tissues]
    chi = None
    if anatomy.cross_diffusion:
        chi = torch.zeros(len(anatomy), len(anatomy), device=device, dtype=dtype)
        for term in anatomy.cross_diffusion:
            chi[anatomy.index(term.tissue), anatomy.index(term.along)] = term.chi_mm2_per_day

    def vector(values):
        return torch.tensor(values, device=device, dtype=dtype)

    dead = tuple(-1 if anatomy.dead_class(k) is None else anatomy.dead_class(k) for k in range(len(anatomy)))
    push = None
    if plan.mass_effect > 0:
        push = MassEffect(
            plan.mass_effect, anatomy.with_role("background", "barrier"), anatomy.with_role("csf", "ventricle", "cavity"),
            tuple(float(h) for h in spacing_mm),
        )
    equation = CrossDiffusion(
        spacing=tuple(float(h) for h in spacing_mm),
        diffusivity=diffusivity,
        yields=tuple(anatomy.yields(k) for k in range(len(anatomy))),
        chi=chi,
        rho=vector([max(r, 0.0) for r in rates]),
        kappa=vector([t.carrying_capacity for t in anatomy.tissues]),
        atrophy=vector([max(-r, 0.0) for r in rates]),
        dead=dead,
        mass_effect=push,
    )
    return p, equation, _course(plan, spacing_mm, maps or {}, equation, vector, dead)


def _course(plan, spacing_mm, maps, equation, vector, dead) -> Course:
    anatomy = plan.anatomy
    alpha = vector([t.alpha_per_gy for t in anatomy.tissues])
    beta = vector([t.beta_per_gy2 for t in anatomy.tissues])
    surgery, radiation, drugs = [], [], []
    for treatment in plan.treatments:
        if isinstance(treatment, Surgery):
            surgery.append((float(treatment.day), _resection(treatment, anatomy, spacing_mm, maps)))
        elif isinstance(treatment, Radiotherapy):
            dose = _dose(treatment, maps, vector)
            radiation += [(day, Irradiate(dose, alpha, beta, dead)) for day in treatment.event_days()]
        elif isinstance(treatment, Chemotherapy):
            # A drug acts on the growing classes alone.
            kill = [treatment.sensitivity_per_day if t.is_tumor else 0.0 for t in anatomy.tissues]
            drugs.append(Drug(treatment.days, vector(treatment.doses), vector(treatment.half_life_day), vector(kill)))
    step = plan.step_days if plan.step_days is not None else longest_stable_step(equation)
    events = tuple(sorted(surgery, key=lambda e: e[0]) + sorted(radiation, key=lambda e: e[0]))
    return Course(plan.reported_days, step, events, tuple(drugs))


def _dose(treatment: Radiotherapy, maps, vector):
    """Dose of one fraction, Gy: a scalar, or (1, *S)."""
    region = None if treatment.region is None else np.asarray(maps[treatment.region]) != 0
    if treatment.dose_map is not None:
        dose = np.asarray(maps[treatment.dose_map], np.float64) / treatment.fractions
        return vector(dose if region is None else dose * region)[None]
    return vector(treatment.dose_gy) if region is None else vector(treatment.dose_gy * region)[None]


def _resection(treatment: Surgery, anatomy, spacing_mm, maps) -> Resect:
    spared = SPARED_AROUND_TUMOR if treatment.region is None else NEVER_RESECTED
    region = None if treatment.region is None else np.asarray(maps[treatment.region]) != 0

    def mask(p):
        visible = np.isin(labels_of(p[0].detach().cpu().numpy(), anatomy), anatomy.tumors)
        chosen = resected(visible, spacing_mm, region, treatment.extent, treatment.margin_mm)
        return torch.from_numpy(chosen).to(p.device)[None]

    return Resect(mask, anatomy.with_role("cavity")[0], anatomy.with_role(*spared), anatomy.tumors, treatment.residual_fraction)


def resected(visible: np.ndarray, spacing_mm, region=None, extent: float = 1.0, margin_mm: float = 0.0) -> np.ndarray:
    """The voxels that an operation takes, (*S) bool.

    visible: (*S) bool, the tumor as it is seen on that day; region: (*S) bool or None
    extent: fraction of the visible volume, the voxels deepest inside first (ties in array order)
    margin_mm: distance beyond the tumor or region, from voxel centre to voxel centre
    """
    chosen = visible if region is None else region
    if not chosen.any():
        return chosen
    if extent < 1.0:
        depth = ndimage.distance_transform_edt(visible, sampling=spacing_mm)[visible]
        taken = np.zeros(depth.size, bool)
        taken[np.argsort(-depth, kind="stable")[: math.floor(extent * depth.size + 0.5)]] = True
        chosen = np.zeros_like(visible)
        chosen[visible] = taken
    if margin_mm > 0.0:
        chosen = ndimage.distance_transform_edt(~chosen, sampling=spacing_mm) <= margin_mm
    return chosen
