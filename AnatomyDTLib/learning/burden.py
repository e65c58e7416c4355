"""How large a whole tumor becomes: growth to a limit, response to treatment, dead tumor that is still seen.

    dV/dt = (rho/nu) V (1 − (V / V_max)^nu) − k(t) V,    dW/dt = k(t) V − W / T
    a fraction of d Gy: V -> S V, W -> W + (1 − S) V, S = exp(−(alpha d + beta d²))
    drugs: k = m r / (1 + r / r_half), r(t) = Σ_i sensitivity_i c_i(t) as the treatments name it

V is living tumor and W dead tumor, together what is seen. nu = 1 is eq. 2's logistic law with V_max for kappa, nu -> 0
Gompertz's (Richards 1959, J Exp Bot 10:290). Measured tumors follow Gompertz rather than the logistic law (Benzekry et al. 2014,
PLoS Comput Biol 10:e1003800): the fit starts near it. Every number is learned, in physical units, between bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..plan import Anatomy, Surgery
from .batches import DAY_TOLERANCE

# Of `BurdenLaw.fit`: what the logarithm of a radius is off by, and what a logit may be off its start, a factor of two or so: four
# cases alone do not overrule that. Turns of L-BFGS, which go lower than 150 of Adam in a quarter of the time.
FIT_SIGMA, FIT_LOGIT_SIGMA = 0.1, 0.5
FIT_TURNS = 40


def ball_radius_mm(voxels: torch.Tensor, spacing_mm) -> torch.Tensor:
    """Of the disc or ball as large as so many voxels, mm; a voxel at least."""
    size = voxels.clamp(min=1.0) * math.prod(spacing_mm)
    return torch.sqrt(size / math.pi) if len(spacing_mm) == 2 else (0.75 * size / math.pi) ** (1 / 3)


def seen_radii_mm(cases, tumors, spacing_mm) -> torch.Tensor:
    """(V, B) `ball_radius_mm` of the tumors of B cases on up to V visits; nan where there is no visit, or an operation came before it.

    What an operation leaves depends on more than the size. As in the twin it comes before the visit of its day, but after the first.
    cases: of a dataset; tumors: labels
    """
    radii = torch.full((max(len(case.days) for case in cases), len(cases)), math.nan)
    for column, case in enumerate(cases):
        operations = [t.day for t in case.treatments if isinstance(t, Surgery)]
        for row, day in enumerate(case.days):
            if row == 0 or not any(operation <= day + DAY_TOLERANCE for operation in operations):
                voxels = torch.tensor(float(np.isin(case.labels[row], tumors).sum()))
                radii[row, column] = ball_radius_mm(voxels, spacing_mm)
    return radii


class Bounded(nn.Module):
    """Positive numbers between two bounds, in their unit: exp of a sigmoid between the logarithms of the bounds."""

    def __init__(self, low: float, high: float, start):
        super().__init__()
        self.low, self.high = math.log(low), math.log(high)
        start = torch.as_tensor(start, dtype=torch.float32)
        place = (start.clamp(min=1e-30).log() - self.low) / (self.high - self.low)
        self.raw = nn.Parameter(torch.logit(place.clamp(0.01, 0.99)))

    def forward(self) -> torch.Tensor:
        return torch.exp(self.low + (self.high - self.low) * torch.sigmoid(self.raw))


@dataclass(frozen=True)
class Burden:
    """Of B tumors: log_living = ln(V / V_max), dead = W / V_max; both (B,)."""

    log_living: torch.Tensor
    dead: torch.Tensor

    @property
    def seen(self) -> torch.Tensor:
        return torch.exp(self.log_living) + self.dead


class BurdenLaw(nn.Module):
    """The law above. Starts at the anatomy's growth rate and radiosensitivity.

    treated: False leaves out every effect of a treatment
    """

    # low, high, start where the anatomy has none; the unit stands in the name
    BOUNDS = {
        "rho_per_day": (1e-3, 0.5, 0.03),
        "largest_radius_mm": (8.0, 150.0, 30.0),
        "nu": (0.05, 2.0, 0.1),                   # near Gompertz: Benzekry et al. 2014
        "alpha_per_gy": (1e-3, 1.0, 0.06),
        "alpha_beta_gy": (2.0, 40.0, 10.0),       # alpha/beta 10 Gy: Rockne et al. 2010
        "drug_effect": (0.05, 10.0, 1.0),         # m, 1 is the sensitivity that the treatment names
        "drug_half_per_day": (0.01, 10.0, 0.3),   # r_half
        "clearance_days": (1.0, 100.0, 10.0),
    }

    def __init__(self, anatomy: Anatomy, axes: int, treated: bool = True):
        super().__init__()
        self.axes, self.treated = axes, treated
        alphas = [anatomy.tissues[k].alpha_per_gy for k in anatomy.tumors]
        starts = {"alpha_per_gy": max(alphas)} if alphas and max(alphas) > 0 else {}
        for name, (low, high, start) in self.BOUNDS.items():
            setattr(self, name, Bounded(low, high, starts.get(name, start)))

    def begin(self, radius_mm: torch.Tensor) -> Burden:
        """All alive; radius_mm: (B,) of the disc or ball as large as the tumor."""
        x = self.axes * torch.log(radius_mm.clamp(min=0.1) / self.largest_radius_mm())
        return Burden(x, torch.zeros_like(x))

    def radius_mm(self, burden: Burden) -> torch.Tensor:
        return self.largest_radius_mm() * burden.seen ** (1 / self.axes)

    def front_mm_per_day(self, diffusivity) -> torch.Tensor:
        """2 sqrt(D rho), mm/day: the front of a tumor that knows no limit (Fisher 1937)."""
        return 2 * torch.sqrt(diffusivity * self.rho_per_day())

    def step(self, burden: Burden, dt, dose_gy, dose2_gy2, drug) -> Burden:
        """The burden after dt (B,) days, in the parts in which treatment is given (P, B): `batches.Grid`.

        Growth is exact between the parts' middles, where their treatment acts: y = V^(−nu) obeys a linear law.
        """
        h = dt / len(dose_gy)
        rho, nu, clearance = self.rho_per_day(), self.nu(), self.clearance_days()
        kill = torch.zeros_like(dose_gy)
        if self.treated:
            rate = drug / torch.where(h > 0, h, torch.ones_like(h))
            kill = self.alpha_per_gy() * (dose_gy + dose2_gy2 / self.alpha_beta_gy())
            kill = kill + self.drug_effect() * rate * h / (1 + rate / self.drug_half_per_day())
        slow, fade = torch.exp(-0.5 * rho * h), torch.exp(-h / clearance)
        died = -torch.expm1(-kill) * torch.exp(-0.5 * h / clearance)
        x, w = burden.log_living, burden.dead
        for part in range(len(dose_gy)):
            x = self._grown(x, slow, nu)
            w = w * fade + torch.exp(x) * died[part]
            x = self._grown(x - kill[part], slow, nu)
        return Burden(x, w)

    @staticmethod
    def _grown(x, slow, nu):
        """ln(V / V_max) after a time t with slow = exp(−rho t)."""
        return -torch.log1p(torch.expm1(-nu * x) * slow) / nu

    def cut(self, burden: Burden, kept: torch.Tensor) -> Burden:
        """After an operation that left the part `kept` (B,) of what was seen."""
        kept = kept.clamp(min=1e-6)
        return Burden(burden.log_living + torch.log(kept), burden.dead * kept)

    def fit(self, grid, visits) -> None:
        """The most likely numbers for the sizes that were seen, by L-BFGS.

        grid: a `batches.Grid` of B cases; visits: per visit the radii (B,) mm, nan where none is known
        Σ (ln R − ln R_seen)² / 2σ² + Σ (x − x_start)² / 2σ_x², x the logits of the numbers between their bounds
        """
        numbers = list(self.parameters())
        starts = [value.detach().clone() for value in numbers]
        known = [(torch.isfinite(r), torch.log(torch.nan_to_num(r, 1.0).clamp(min=0.1))) for r in visits]
        optimiser = torch.optim.LBFGS(numbers, max_iter=FIT_TURNS, history_size=len(numbers), line_search_fn="strong_wolfe")

        def cost():
            burden = self.begin(visits[0])
            total = sum(((x - s) ** 2).sum() for x, s in zip(numbers, starts)) / (2 * FIT_LOGIT_SIGMA**2)
            for step in range(len(grid)):
                burden = self.step(burden, grid.dt[step], grid.parts_gy[step], grid.parts2_gy2[step], grid.parts_drug[step])
                for (there, seen), due in zip(known[1:], grid.visits):
                    if due == step + 1:
                        wrong = torch.where(there, torch.log(self.radius_mm(burden)) - seen, 0.0)
                        total = total + (wrong**2).sum() / (2 * FIT_SIGMA**2)
            optimiser.zero_grad()
            total.backward()
            return total

        optimiser.step(cost)

    def values(self) -> dict[str, float]:
        """Every number in its unit."""
        return {name: float(getattr(self, name)().detach()) for name in self.BOUNDS}
