"""Finite volumes along one axis: faces, fluxes, divergence. The axis comes first: (n, B, *rest).

Faces lie between neighbouring voxels, so there are n − 1 of them and none at the edge of the
domain: no flux leaves it. What leaves one voxel enters the next, so mass is conserved to rounding.
"""

from __future__ import annotations

import torch


def harmonic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """2ab/(a + b): the value on a face between a and b that keeps the flux continuous; 0 if either is 0."""
    total = a + b
    return 2 * a * b / torch.where(total > 0, total, torch.ones_like(total))


def difference(field: torch.Tensor) -> torch.Tensor:
    """field[i] − field[i + 1] on the faces; (n, ...) -> (n − 1, ...)."""
    return field[:-1] - field[1:]


def outflow(flux: torch.Tensor) -> torch.Tensor:
    """What a voxel loses, flux[i] − flux[i − 1], with no flux at both ends; (n − 1, ...) -> (n, ...)."""
    return torch.cat((flux[:1], flux[1:] - flux[:-1], -flux[-1:]))


def apply_flux(field: torch.Tensor, flux: torch.Tensor) -> torch.Tensor:
    """field after `flux` of it went from voxel i to i + 1 through each face.

    Without gradients `field` is overwritten: the two passes are then all the memory that moves.
    """
    if torch.is_grad_enabled():
        return field - outflow(flux)
    field[:-1] -= flux
    field[1:] += flux
    return field


def central_difference(field: torch.Tensor, shut: torch.Tensor, axis: int, spacing: float) -> torch.Tensor:
    """∂field along `axis`, centred, second order inside; half of the one-sided slope where no flux crosses one face.

    field: any shape; shut: bool, true in voxels that nothing enters, whose value says nothing; the edges of the domain
    are shut too. Returns the same shape, in units of field per mm.
    """
    n = field.shape[axis]
    ahead, behind = field.narrow(axis, 1, n - 1), field.narrow(axis, 0, n - 1)
    closed = shut.narrow(axis, 1, n - 1) | shut.narrow(axis, 0, n - 1)
    step = torch.where(closed, torch.zeros_like(ahead), ahead - behind)
    edge = torch.zeros_like(field.narrow(axis, 0, 1))
    return (torch.cat((edge, step), axis) + torch.cat((step, edge), axis)) / (2 * spacing)


def exponential_fit(conductance: torch.Tensor, drift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients of a drift-diffusion flux right·u_i − left·u_{i+1} (Scharfetter & Gummel 1969).

    With x = drift / conductance and B(x) = x / (eˣ − 1): right = g B(−x), left = g B(x). It is exact
    for a constant flux, centred where diffusion rules and upwind where drift does, and both are
    non-negative always, so that the implicit matrix is an M-matrix.
    """
    floor = torch.finfo(conductance.dtype).tiny * 1e6
    x = (drift.abs() / conductance.clamp(min=floor)).clamp(max=60.0)
    small = x < 1e-3
    safe = torch.where(small, torch.ones_like(x), x)
    bernoulli = torch.where(small, 1 - x / 2 + x * x / 12, safe / torch.expm1(safe))
    shared = conductance * bernoulli
    return shared + drift.clamp(min=0), shared + (-drift).clamp(min=0)
