"""Mechanistic baselines: Fisher-KPP and cross-diffusion, eq. 2 in its classical form with learned coefficients.

    ∂ₜp_k = ∇·(D_k ∇p_k − Σ_{j≠k} χ_kj p_k ∇p_j) + (rho − treatment) p_k (1 − p_k / kappa)

Treatment acts as in Rockne et al. 2010 (PMB 55:3271), on what divides. On this project's own scheme (`physics.equation`),
so that a poor solver is no excuse. No network.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...physics.equation import CrossDiffusion, Stepper
from ...physics.jacobi import JacobiStepper
from ...physics.reaction import logistic
from ...plan import Anatomy

# Part of the answer that is equal chances: without it a voxel that is certainly wrong has no gradient.
DOUBT = 0.02
# Length over which a tumor fades at first, mm, and how much sharper than that it is seen.
FADING_MM, SHARPNESS = 3.0, 1.5
# Length over which a border between tissues fades where it drives a drift, mm.
INTERFACE_MM = 2.0
# Largest |χ|, mm²/day: the scheme divides a step until no drift fills more than half of a voxel, at a price.
LARGEST_CHI = 0.1
# Parts of a voxel closer to 0 or 1 than this are not told apart.
TINY = 1e-6


def positive(value: float, *shape: int) -> nn.Parameter:
    """A parameter whose softplus is `value`."""
    return nn.Parameter(torch.full(shape, math.log(math.expm1(value))))


class Mechanistic(nn.Module):
    """The equation above with learned numbers in physical units, stepped on each case's own grid of days.

    Start: p = sigmoid(distance / fading + level), for the border that is seen of an invading tumor is a level of its profile,
    not its end. Each of the tissues around has all of the rest where it lies, or is nearest.
    In each tissue a tumor has a diffusivity (mm²/day) and a rate rho, and one capacity kappa. A fraction of d Gy takes alpha d
    + beta d² from the log-odds of p / kappa, a drug its exponent times a factor; what dies gives its place back.
    Answer: tumor where p is above the level (a soft decision, learned sharpness), else the tissue that lies there.
    crossing: False is Fisher-KPP; True gives the tumors a χ along every class
    scheme: "lod", or "jacobi" with `sweeps` and `omega`, as of `stepping.integrate`; capacity: a kappa that is not learned;
    drift: factor of χ
    """

    # physical numbers are few and far from linear: they learn faster than the weights of a network
    rates = {"": 30.0}

    def __init__(self, anatomy: Anatomy, crossing: bool):
        super().__init__()
        self.anatomy, self.crossing = anatomy, crossing
        self.name = "Cross-diffusion" if crossing else "Fisher-KPP"
        self.scheme, self.sweeps, self.omega, self.capacity, self.drift = "lod", 4, 0.9, None, 1.0
        self.tumors = list(anatomy.tumors)
        self.hosts = [k for k, t in enumerate(anatomy.tissues) if t.may_be_invaded and not t.is_tumor]
        self.diffusivity, self.rho = positive(0.15, len(self.hosts)), positive(0.04, len(self.hosts))
        self.kappa, self.fading = nn.Parameter(torch.tensor(4.0)), positive(FADING_MM)
        self.level, self.sharpness = nn.Parameter(torch.tensor(0.0)), positive(SHARPNESS)
        self.alpha, self.beta, self.drug = positive(0.05), positive(0.005), positive(1.0)
        if crossing:
            self.chi = nn.Parameter(torch.zeros(len(anatomy)))

    def forward(self, batch) -> torch.Tensor:
        """(B, V − 1, K, *S)"""
        grid = batch.grid
        under = self._nearest(batch)
        # a drift needs borders between tissues that have a slope
        lying = torch.softmax(batch.distances[:, self.hosts] / INTERFACE_MM, 1) if self.crossing else under
        p = self._resected(self._begun(batch, lying), batch, 0)
        # no network, so that nothing is in half precision under autocast
        with torch.autocast(p.device.type, enabled=False):
            D = torch.einsum("bh...,h->b...", under, F.softplus(self.diffusivity))
            rho = torch.einsum("bh...,h->b...", under, F.softplus(self.rho))
        visits, found = set(grid.visits), []
        for step in range(len(grid)):
            p = self._killed(p, lying, grid, step)
            inputs = (p, lying, D, rho, batch.spacing_mm, grid.dt[step])
            one = self._crossed if self.crossing else self._grown
            # the graph of a single step on 96² voxels takes 100 MB a case
            p = checkpoint(one, *inputs, use_reentrant=False, preserve_rng_state=False) if torch.is_grad_enabled() else one(*inputs)
            p = self._resected(p, batch, step + 1)
            if step + 1 in visits:
                found.append(self._seen(p, under))
        return torch.stack(found, 1)

    def _nearest(self, batch):
        """Which of the tissues that can be invaded lies in each voxel, or nearest to it: (B, hosts, *S)."""
        nearest = batch.distances[:, self.hosts].argmax(1)
        return F.one_hot(nearest, len(self.hosts)).movedim(-1, 1).to(batch.states.dtype)

    def _begun(self, batch, lying):
        """The first state: tumors fade into the tissue around them, what cannot be invaded stays as it is seen."""
        p = batch.states[:, 0]
        others = [k for k in range(p.shape[1]) if k not in self.tumors]
        inside = batch.distances[:, self.tumors].amax(1)
        # between two tumors the border of either is no border of the tumor
        depth = torch.where(inside > 0, -batch.distances[:, others].amax(1), inside)
        room = self._room(p)
        tumor = room * torch.sigmoid(depth / F.softplus(self.fading) + self.level)
        kinds = F.one_hot(batch.distances[:, self.tumors].argmax(1), len(self.tumors)).movedim(-1, 1)
        return self._with(p, tumor.unsqueeze(1) * kinds, room - tumor, lying)

    def _seen(self, p, under):
        """What an observer sees: tumor where its part of what may be invaded is above the level."""
        room, tumor = self._room(p), p[:, self.tumors].sum(1)
        part = (tumor / room.clamp(min=TINY)).clamp(TINY, 1 - TINY)
        seen = room * torch.sigmoid(F.softplus(self.sharpness) * (torch.logit(part) - self.level))
        kinds = p[:, self.tumors] / tumor.clamp(min=TINY).unsqueeze(1)
        return (1 - DOUBT) * self._with(p, seen.unsqueeze(1) * kinds, room - seen, under) + DOUBT / p.shape[1]

    def _room(self, p):
        """The part of each voxel that a tumor has or may have, (B, *S)."""
        return p[:, self.tumors + self.hosts].sum(1)

    def _with(self, p, tumors, rest, lying):
        """The state p with these tumors (B, tumors, *S), and the rest (B, *S) shared as the tissues lie."""
        index = torch.tensor(self.tumors + self.hosts, device=p.device)
        return p.index_copy(1, index, torch.cat((tumors, rest.unsqueeze(1) * lying), 1))

    def _grown(self, p, under, D, rho, spacing_mm, dt):
        """Fisher-KPP: the tumors and one class in their way are stepped, the rest stays."""
        n = len(self.tumors)
        lumped = torch.cat((p[:, self.tumors], p[:, self.hosts].sum(1, keepdim=True)), 1)
        # edema gives way to the tumor before it
        yields = tuple(tuple(j for j in range(i + 1, n + 1)) for i in range(n)) + ((),)
        still = 1 - lumped.sum(1, keepdim=True)
        lumped = self._stepped(torch.cat((lumped, still), 1), (*yields, ()), D, rho, None, spacing_mm, dt)
        return self._with(p, lumped[:, :n], lumped[:, n], under)

    def _crossed(self, p, under, D, rho, spacing_mm, dt):
        """Cross-diffusion: the tumors drift along the other classes, which make room each for itself."""
        K = p.shape[1]
        yields = tuple(self.anatomy.yields(k) if k in self.tumors else () for k in range(K))
        rows = torch.zeros(K, 1, device=p.device)
        rows[self.tumors] = 1.0
        return self._stepped(p, yields, D, rho, rows * self.drift * LARGEST_CHI * torch.tanh(self.chi), spacing_mm, dt)

    def _stepped(self, p, yields, D, rho, chi, spacing_mm, dt):
        """One step of each case's own length: coefficients times dt, stepped by 1. D, rho: (B, *S); chi: (K, K)"""
        K, each = p.shape[1], (-1, *[1] * (p.dim() - 1))
        days = dt.reshape(each)
        movers = torch.tensor([float(bool(y)) for y in yields], device=p.device).reshape(1, K, *each[2:])
        if chi is not None:
            chi = (chi.reshape(1, K, K, *each[2:]) * days.unsqueeze(1)).expand(-1, -1, -1, *p.shape[2:])
        kappa = self._capacity(p)
        equation = CrossDiffusion(
            spacing_mm, D.unsqueeze(1) * movers * days, yields, chi, rho.unsqueeze(1) * movers * days,
            kappa.expand(K), torch.zeros(K, device=p.device), (-1,) * K,
        )
        stepper = Stepper(equation) if self.scheme == "lod" else JacobiStepper(equation, sweeps=self.sweeps, omega=self.omega)
        return stepper.step(p, 1.0)

    def _killed(self, p, lying, grid, step):
        """Radiation and drugs of a step, ∂ₜp = −k p (1 − p / kappa): dense tumor does not divide and is spared."""
        exponent = F.softplus(self.alpha) * grid.dose_gy[step] + F.softplus(self.beta) * grid.dose2_gy2[step]
        exponent = exponent + F.softplus(self.drug) * grid.drug[step]
        if not bool((exponent > 0).any()):
            return p
        exponent, kappa = exponent.reshape(-1, *[1] * (p.dim() - 2)), self._capacity(p)
        part = p[:, self.tumors].sum(1) / self._room(p).clamp(min=TINY)
        left = (logistic(part, -exponent, kappa) / part.clamp(min=TINY)).clamp(max=1)
        # above the capacity the law would grow
        left = torch.where(part < kappa, left, torch.ones_like(left)).unsqueeze(1)
        tumors = p[:, self.tumors]
        freed = ((1 - left) * tumors).sum(1, keepdim=True) * lying
        index = torch.tensor(self.tumors + self.hosts, device=p.device)
        return p.index_copy(1, index, torch.cat((tumors * left, p[:, self.hosts] + freed), 1))

    def _capacity(self, p):
        """kappa"""
        return torch.sigmoid(self.kappa) if self.capacity is None else torch.tensor(self.capacity, device=p.device)

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
