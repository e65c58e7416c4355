"""Interventions s_k(x, t): resection, radiation fractions, drugs. Known answers, differentiable in every number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .reaction import transfer


def survival(dose_gy, alpha_per_gy, beta_per_gy2):
    """Surviving fraction of one fraction, S = exp(−(alpha d + beta d²)) (linear-quadratic model; Rockne et al. 2010).

    dose_gy: scalar or (B, *S), Gy; alpha in 1/Gy; beta in 1/Gy². Returns a tensor of the dose's shape.
    """
    dose = torch.as_tensor(dose_gy)
    return torch.exp(-(alpha_per_gy * dose + beta_per_gy2 * dose * dose))


@dataclass(frozen=True)
class Irradiate:
    """One radiation fraction: of each class the fraction 1 − S dies and goes to its dead class.

    dose_gy: scalar or (1 | B, *S); alpha, beta: (K,); dead: index per class, −1 where nothing dies
    """

    dose_gy: object
    alpha: torch.Tensor
    beta: torch.Tensor
    dead: tuple[int, ...]

    def __call__(self, p: torch.Tensor) -> torch.Tensor:
        for k, to in enumerate(self.dead):
            if to >= 0 and self.acts_on(k):
                left = survival(self.dose_gy, self.alpha[k], self.beta[k])
                p = transfer(p, k, (1 - left).to(p.dtype), to)
        return p

    def acts_on(self, k: int) -> bool:
        """Does a fraction kill any of class k, or may its sensitivity be learned."""
        return any(s.requires_grad or float(s[k]) > 0 for s in (self.alpha, self.beta))

    def cropped(self, box) -> Irradiate:
        """The same fraction inside a box of the domain (slices of the spatial axes)."""
        if not torch.is_tensor(self.dose_gy) or self.dose_gy.dim() == 0:
            return self
        return Irradiate(self.dose_gy[(slice(None), *box)], self.alpha, self.beta, self.dead)


@dataclass(frozen=True)
class Resect:
    """A resection: what is in the mask becomes the cavity; of the tumor a residual fraction stays.

    mask: (1 | B, *S) in 0..1, or a function that finds it from the state; cavity: index; kept: indices that
    surgery never removes (background, barrier, ...); tumors: indices that leave the residual
    """

    mask: object
    cavity: int
    kept: tuple[int, ...]
    tumors: tuple[int, ...]
    residual_fraction: object = 0.0

    def __call__(self, p: torch.Tensor) -> torch.Tensor:
        mask = self.mask(p) if callable(self.mask) else self.mask
        mask = mask.to(p.dtype)
        taken = []
        for k in range(p.shape[1]):
            if k == self.cavity or k in self.kept:
                taken.append(torch.zeros_like(p[:, k]))
            elif k in self.tumors:
                taken.append(p[:, k] * mask * (1 - self.residual_fraction))
            else:
                taken.append(p[:, k] * mask)
        removed = torch.stack(taken, 1)
        gained = torch.zeros_like(p)
        gained[:, self.cavity] = removed.sum(1)
        return p - removed + gained


@dataclass(frozen=True)
class Drug:
    """A drug whose concentration jumps at each dose and decays.

    c(t) = Σ_i dose_i exp(−ln 2 (t − day_i)/half_life) for t ≥ day_i;  ∂ₜp_k = −sensitivity_k c(t) p_k

    days: of the administrations; doses: (N,) relative to the maximal one; half_life: days, a scalar tensor;
    sensitivity: (K,) 1/day
    """

    days: tuple[float, ...]
    doses: torch.Tensor
    half_life: torch.Tensor
    sensitivity: torch.Tensor

    def exposure(self, start: float, end: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Area under the curve of c over start..end (days), and its first moment about start (days²).

        ∫ e^{−λs} ds and ∫ s e^{−λs} ds in closed form; a dose at `end` counts to the next step.
        """
        rate = math.log(2) / self.half_life
        length = end - start
        fade = torch.exp(-rate * length)
        whole = -torch.expm1(-rate * length) / rate
        first = (whole - length * fade) / rate
        # A dose belongs to the step that starts at its day; the grid puts every dose on an edge.
        given = [i for i, day in enumerate(self.days) if day < start + 1e-6]
        if not given:
            return whole * 0, first * 0
        elapsed = torch.tensor([max(start - self.days[i], 0.0) for i in given], dtype=rate.dtype, device=rate.device)
        at_start = (self.doses[given] * torch.exp(-rate * elapsed)).sum()
        return at_start * whole, at_start * first


def drug_kill(drugs: tuple[Drug, ...], start: float, end: float):
    """Per class, the exponent ∫ sensitivity c dt over a step, and the time within it about which it acts.

    Returns (exponent (K,), centroid in days after start), or None where there is no drug left. Killing at
    the centroid between two parts of the growth is of second order even where the drug is gone long
    before the step ends.
    """
    total, weight, moment = 0.0, 0.0, 0.0
    for drug in drugs:
        area, first = drug.exposure(start, end)
        acts = drug.sensitivity.requires_grad or bool((drug.sensitivity > 0).any())
        if not acts or float(area.detach()) < 1e-12:
            continue
        # A sensitivity that starts at 0 and is learned still has a time at which it would act.
        strength = drug.sensitivity.sum() + 1e-12
        total = total + drug.sensitivity * area
        weight, moment = weight + strength * area, moment + strength * first
    if not torch.is_tensor(total):
        return None
    return total, (moment / weight).clamp(0.0, end - start)
