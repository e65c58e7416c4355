"""Local change of a class: logistic growth, atrophy, death. What gives way is named, so the sum stays 1."""

from __future__ import annotations

import torch


def logistic(u: torch.Tensor, rho_dt, kappa) -> torch.Tensor:
    """Exact solution after dt of ∂ₜu = rho u (1 − u/kappa) (eq. 2's r of the tumor).

    u: any shape; rho_dt: rho·dt, 1; kappa: carrying capacity in (0, 1]. Above kappa, u falls to it.
    """
    growth = torch.expm1(torch.as_tensor(rho_dt, dtype=u.dtype, device=u.device))
    return u * (1 + growth) / (1 + growth * (u / kappa))


def transfer(p: torch.Tensor, k: int, fraction, to: int) -> torch.Tensor:
    """A fraction of class k becomes class `to`, voxel by voxel. p: (B, K, *S); fraction: scalar or (B, *S)."""
    moved = p[:, k] * fraction
    if torch.is_grad_enabled():
        change = torch.zeros_like(p)
        change[:, k] = -moved
        change[:, to] = moved
        return p + change
    p = p.clone()
    p[:, k] -= moved
    p[:, to] += moved
    return p


def grow(p: torch.Tensor, k: int, givers: tuple[int, ...], rho_dt, kappa, dead: int, pushed: float = 0.0) -> torch.Tensor:
    """Class k grows logistically into the classes that give way, each in proportion to its presence.

    With C = p_k + Σ p_givers the growing part of the voxel, u = p_k / C follows the logistic law, so that
    p_k never exceeds what there is to fill; where all give way C = 1 and the law is eq. 2's. Above the
    carrying capacity the loss goes to class `dead` (kept where there is none, dead = −1). The part `pushed` of the gain
    is taken from no one: the sum is then above 1 and the mass effect has to follow.
    p: (B, K, *S); rho_dt, kappa: scalar or (B, *S).
    """
    if not givers:
        return p
    chosen = [k, *givers]
    part = p[:, chosen]
    mover = part[:, 0]
    host = part[:, 1:].sum(1)
    capacity = mover + host
    positive = capacity > 0
    u = mover / torch.where(positive, capacity, torch.ones_like(capacity))
    change = (logistic(u, rho_dt, kappa) - u) * capacity
    gain = torch.minimum(change.clamp(min=0), host)
    kept = 1 - (1 - pushed) * gain / torch.where(host > 0, host, torch.ones_like(host))
    loss = (-change).clamp(min=0) if dead >= 0 else torch.zeros_like(gain)
    changed = torch.cat(((mover + gain - loss).unsqueeze(1), part[:, 1:] * kept.unsqueeze(1)), 1)
    after = _replace(p, chosen, changed)
    if dead < 0 or not bool((loss > 0).any()):
        return after
    return _replace(after, [dead], after[:, [dead]] + loss.unsqueeze(1))


def _replace(p: torch.Tensor, chosen: list[int], values: torch.Tensor) -> torch.Tensor:
    """p with the chosen classes replaced, out of place."""
    index = torch.tensor(chosen, device=p.device)
    return p.index_copy(1, index, values)


def correct(p: torch.Tensor, rate: torch.Tensor, dt) -> torch.Tensor:
    """The learned residual: ∂ₜp_k = rate_k p_k with Σ_k rate_k p_k = 0, by p_k e^{rate_k dt} / Σ.

    p, rate: (B, K, *S), rate in 1/day. Stays on the simplex at any dt.
    """
    weighted = p * torch.exp(rate * dt)
    return weighted / weighted.sum(1, keepdim=True)
