"""Mechanistic baselines: Fisher-KPP and cross-diffusion, eq. 2 in its classical form with learned coefficients.

    ∂ₜp_k = ∇·(D_k ∇p_k − Σ_{j≠k} χ_kj p_k ∇p_j) + rho p_k (1 − p_k / kappa) − treatment

On this project's own scheme (`physics.equation`), so that a poor solver is no excuse. No network.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...physics.equation import CrossDiffusion, Stepper
from ...physics.jacobi import JacobiStepper
from ...plan import Anatomy

# Part of the answer that is equal chances: without it a voxel that is certainly wrong has no gradient.
DOUBT = 0.02
# Width of the interfaces at the start, and over which the tissue beside a tumor is continued under it, mm.
INTERFACE_MM = 1.0
# Largest |χ|, mm²/day: the scheme divides a step until no drift fills more than half of a voxel, at a price.
LARGEST_CHI = 0.2


def positive(value: float) -> nn.Parameter:
    """A parameter whose softplus is `value`."""
    return nn.Parameter(torch.tensor(math.log(math.expm1(value))))


class Mechanistic(nn.Module):
    """The equation above with learned numbers in physical units, stepped on each case's own grid of days.

    A tumor class has a diffusivity in each tissue (mm²/day), a rate rho and a capacity kappa; it dies by exp(−(alpha d +
    beta d²)) at a fraction of d Gy and by the drugs' exponent times a factor, and what dies gives its place back to the
    tissue that was nearest. crossing: False is Fisher-KPP: what gives way is one class, and what of it a voxel holds is
    what lay there; True gives the tumors a χ along every class, and the classes that give way carry the counter-flux.
    scheme: "lod", or "jacobi" with `sweeps` and `omega`, as of `stepping.integrate`; capacity: a kappa that is not learned;
    drift: factor of χ
    """

    # physical numbers are few and far from linear: they learn faster than the weights of a network
    rates = {"": 10.0}

    def __init__(self, anatomy: Anatomy, crossing: bool):
        super().__init__()
        K = len(anatomy)
        self.anatomy, self.crossing = anatomy, crossing
        self.name = "Cross-diffusion" if crossing else "Fisher-KPP"
        self.scheme, self.sweeps, self.omega, self.capacity, self.drift = "lod", 4, 0.9, None, 1.0
        self.tumors = list(anatomy.tumors)
        self.hosts = [k for k, t in enumerate(anatomy.tissues) if t.may_be_invaded and not t.is_tumor]
        self.diffusivity = nn.Parameter(torch.full((K,), math.log(math.expm1(0.1))))
        self.rho, self.kappa = positive(0.03), nn.Parameter(torch.tensor(4.0))
        self.alpha, self.beta, self.drug = positive(0.05), positive(0.005), positive(1.0)
        if crossing:
            self.chi = nn.Parameter(torch.zeros(K))

    def forward(self, batch) -> torch.Tensor:
        """(B, V − 1, K, *S)"""
        grid = batch.grid
        p = torch.softmax(batch.distances / INTERFACE_MM, 1)
        under = torch.softmax(batch.distances[:, self.hosts] / INTERFACE_MM, 1)
        D = torch.einsum("bk...,k->b...", p, F.softplus(self.diffusivity))
        visits, found = set(grid.visits), []
        for step in range(len(grid)):
            p = self._resected(p, batch, step)
            p = self._killed(p, under, grid, step)
            inputs = (p, under, D, batch.spacing_mm, grid.dt[step])
            one = self._crossed if self.crossing else self._grown
            # the graph of a single step on 96² voxels takes 100 MB a case
            p = checkpoint(one, *inputs, use_reentrant=False, preserve_rng_state=False) if torch.is_grad_enabled() else one(*inputs)
            if step + 1 in visits:
                p = self._resected(p, batch, step + 1)
                found.append((1 - DOUBT) * p + DOUBT / p.shape[1])
        return torch.stack(found, 1)

    def _grown(self, p, under, D, spacing_mm, dt):
        """Fisher-KPP: the tumors and one class in their way are stepped, the rest stays."""
        n = len(self.tumors)
        lumped = torch.cat((p[:, self.tumors], p[:, self.hosts].sum(1, keepdim=True)), 1)
        # edema gives way to the tumor before it
        yields = tuple(tuple(j for j in range(i + 1, n + 1)) for i in range(n)) + ((),)
        still = 1 - lumped.sum(1, keepdim=True)
        lumped = self._stepped(torch.cat((lumped, still), 1), (*yields, ()), D, None, spacing_mm, dt)
        classes = list(p.unbind(1))
        for i, k in enumerate(self.tumors):
            classes[k] = lumped[:, i]
        for i, k in enumerate(self.hosts):
            classes[k] = lumped[:, n] * under[:, i]
        return torch.stack(classes, 1)

    def _crossed(self, p, under, D, spacing_mm, dt):
        """Cross-diffusion: the tumors drift along the other classes, which make room each for itself."""
        K = p.shape[1]
        yields = tuple(self.anatomy.yields(k) if k in self.tumors else () for k in range(K))
        rows = torch.zeros(K, 1, device=p.device)
        rows[self.tumors] = 1.0
        return self._stepped(p, yields, D, rows * self.drift * LARGEST_CHI * torch.tanh(self.chi), spacing_mm, dt)

    def _stepped(self, p, yields, D, chi, spacing_mm, dt):
        """One step of each case's own length: coefficients times dt, stepped by 1. D: (B, *S); chi: (K, K)"""
        K, each = p.shape[1], (-1, *[1] * (p.dim() - 1))
        days = dt.reshape(each)
        movers = torch.tensor([float(bool(y)) for y in yields], device=p.device).reshape(1, K, *each[2:])
        if chi is not None:
            chi = (chi.reshape(1, K, K, *each[2:]) * days.unsqueeze(1)).expand(-1, -1, -1, *p.shape[2:])
        kappa = torch.sigmoid(self.kappa) if self.capacity is None else torch.tensor(self.capacity, device=p.device)
        equation = CrossDiffusion(
            spacing_mm, D.unsqueeze(1) * movers * days, yields, chi, F.softplus(self.rho) * movers * days,
            kappa.expand(K), torch.zeros(K, device=p.device), (-1,) * K,
        )
        stepper = Stepper(equation) if self.scheme == "lod" else JacobiStepper(equation, sweeps=self.sweeps, omega=self.omega)
        return stepper.step(p, 1.0)

    def _killed(self, p, under, grid, step):
        """Radiation and drugs of a step; the tissue that was nearest takes the place of what dies."""
        exponent = F.softplus(self.alpha) * grid.dose_gy[step] + F.softplus(self.beta) * grid.dose2_gy2[step]
        exponent = exponent + F.softplus(self.drug) * grid.drug[step]
        if not bool((exponent > 0).any()):
            return p
        lost = -torch.expm1(-exponent).reshape(-1, *[1] * (p.dim() - 2))
        classes = list(p.unbind(1))
        dead = torch.zeros_like(classes[0])
        for k in self.tumors:
            dead = dead + lost * classes[k]
            classes[k] = classes[k] * (1 - lost)
        for i, k in enumerate(self.hosts):
            classes[k] = classes[k] + dead * under[:, i]
        return torch.stack(classes, 1)

    def _resected(self, p, batch, edge):
        """What the operations at this edge take of the tumors becomes the cavity."""
        cavity = self.anatomy.with_role("cavity")
        due = [(case, surgery) for at, case, surgery in batch.grid.resections if at == edge] if cavity else []
        if not due:
            return p
        part = torch.zeros_like(p)
        for case, surgery in due:
            part[case, self.tumors] = surgery.extent * (1 - surgery.residual_fraction)
        removed = p * part
        return (p - removed).index_add(1, torch.tensor(cavity[:1], device=p.device), removed.sum(1, keepdim=True))
