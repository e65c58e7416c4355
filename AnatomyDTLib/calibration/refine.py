"""One patient's own growth network: the last layer of loaded weights moved to explain his visits.

    minimise over W   Σ_visits L(W) / c + ½ |W − W₀|² / τ²

L is the misfit of a visit (`observations`) with the fitted parameters held, W the weights and bias of the network's last
layer, W₀ the loaded ones, c how many voxels tell of one patch of an outline (`outlines`). Exact gradients through the
engine's differentiable solver (steps are checkpointed), L-BFGS. W moves from W₀ only as far as the visits pull it: with τ
as below a voxel's rate may differ by some k_max/10 before the prior costs one half. What the fitted parameters alone
could not explain has widened the outlines' error σ. The first round therefore takes half a voxel and lets every voxel
count fully (ε = 0), which draws a far outline in; then σ is estimated anew, as in `fit`.

The hidden layers stay as they were trained: a few visits of one patient cannot tell thousands of weights.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ..learning.growth import GrowthNetwork, exposure
from ..physics.stepping import integrate
from .fit import FIRST_SIGMA, LARGEST_SIGMA, LEAST_SIGMA
from .general import GeneralModel
from .observations import Noise, Visit, distances, loss, noise_of
from .outlines import voxels_of_a_patch
from .parameters import applied

# τ, standard deviation of the prior of each weight of the last layer.
SPREAD = 0.1
ITERATIONS, ROUNDS = 8, 3
# Smaller gains of the objective, a log-likelihood, end the search.
GAIN = 0.05


@dataclass(frozen=True)
class Refined:
    """network: with the refined layer; sigma_mm: σ of the outlines about its forecast; before, after: the objective at
    W₀ and at W with that σ; runs: of the solver, each with its
    gradient; moved: |W − W₀| / τ, root mean square"""

    network: GrowthNetwork
    sigma_mm: float
    before: float
    after: float
    runs: int
    moved: float

    @property
    def record(self) -> dict:
        """What a stored twin says of it; JSON-able."""
        return {
            "outline_noise_mm": self.sigma_mm,
            "objective_loaded": self.before,
            "objective_refined": self.after,
            "runs": self.runs,
            "moved": self.moved,
            "spread": SPREAD,
        }


def refine(
    network: GrowthNetwork,
    images: torch.Tensor | None,
    model: GeneralModel,
    visits: list[Visit],
    values: dict[str, float],
    noise: Noise,
    patch_mm: float,
    *,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Refined:
    """The network with a last layer of this patient. images: (1, I, *S) that it takes, or None; values: of the fit;
    noise, patch_mm: of the outlines, as the fit found them.

    Raises InterruptedError when cancelled() says yes.
    """
    from scipy.optimize import minimize

    own = copy.deepcopy(network).to(model.dtype).eval().requires_grad_(False)
    layer = [own.outputs.weight.requires_grad_(True), own.outputs.bias.requires_grad_(True)]
    loaded = parameters_to_vector(layer).detach().double()
    p, equation, course = model.assembled(values)
    days = tuple(v.day for v in visits)
    course = dataclasses.replace(course, reported=(0.0, *days))
    given = None if images is None else images[(..., *model.box)].to(model.dtype)
    tissue = applied(model.plan, values).anatomy.tissues[model.k]
    shown = [Visit(v.day, v.values[model.box], v.density) for v in visits]
    found: list[float] = []

    def rates(state, start, dt):
        return own(state, exposure(course, start, dt).to(state), given, spacing_mm=model.spacing_mm)

    def told(fraction, day):
        if progress is not None:
            part = min(1.0, (len(found) + 0.5 * fraction) / (1.3 * ROUNDS * ITERATIONS))
            progress(part, f"growth network, run {len(found) + 1}, day {day:.4g}")

    def shares():
        with torch.enable_grad():
            states, _ = integrate(p, equation, course, residual=rates, progress=told, cancelled=cancelled)
            return [model.share(state) for state in states[1:]]

    def objective(z, noise):
        """(value, gradient) at W = W₀ + τ z."""
        vector_to_parameters((loaded + SPREAD * torch.from_numpy(z)).to(model.dtype), layer)
        with torch.enable_grad():
            misfits = [loss(*share, v, tissue, model.spacing_mm, noise) for share, v in zip(shares(), shown)]
            total = sum(misfits) / voxels_of_a_patch(noise.sigma_mm, patch_mm, model.spacing_mm)
            by_layer = torch.autograd.grad(total, layer)
        found.append(float(total.detach()) + 0.5 * float(z @ z))
        return found[-1], SPREAD * parameters_to_vector(by_layer).double().numpy() + z

    edge = min(h for h, n in zip(model.spacing_mm, model.labels.shape) if n > 1)
    z, fitted, former = np.zeros(len(loaded)), noise, math.inf
    noise = dataclasses.replace(noise, sigma_mm=min(noise.sigma_mm, FIRST_SIGMA * edge), odd=0.0)
    for _ in range(ROUNDS):
        options = {"maxiter": ITERATIONS, "ftol": GAIN / max(1.0, abs(objective(z, noise)[0])), "gtol": 0.0}
        z = minimize(objective, z, (noise,), jac=True, method="L-BFGS-B", options=options).x
        vector_to_parameters((loaded + SPREAD * torch.from_numpy(z)).to(model.dtype), layer)
        with torch.no_grad():
            outlines = [
                distances(*(part.detach() for part in share), v, tissue, model.spacing_mm)
                for share, v in zip(shares(), shown)
                if not v.density
            ]
        sigma = noise.sigma_mm
        if outlines:
            sigma = noise_of(outlines, LEAST_SIGMA * edge, LARGEST_SIGMA * edge, fitted.odd)
        noise = dataclasses.replace(fitted, sigma_mm=sigma)
        if sigma > 0.8 * former:
            break
        former = sigma
    after = objective(z, noise)[0]
    before = objective(np.zeros(len(loaded)), noise)[0]
    vector_to_parameters((loaded + SPREAD * torch.from_numpy(z)).to(model.dtype), layer)
    moved = math.sqrt(float(z @ z) / len(z))
    return Refined(own.to(torch.float32).requires_grad_(False), noise.sigma_mm, before, after, len(found), moved)
