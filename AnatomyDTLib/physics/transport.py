"""Diffusion and cross-diffusion of one class, with the counter-flux of the classes that give way.

    ∂ₜ p_k = ∇·( C_k D_k ∇(p_k / C_k) − p_k v_k ),   v_k = Σ_{j≠k} χ_kj ∇p_j        (eq. 2)
    ∂ₜ p_j = −∇·( w_j J_k )  for the classes j that give way to k,   w_j = p_j / Σ_i p_i

J_k is the flux of class k and C_k = p_k + Σ_j p_j (over those that give way) the part of a voxel that
k may fill. Where every class of a voxel gives way, C_k = 1 and this is eq. 2 as written; where some
hold (ventricle, falx, background), C_k vanishes with them and with it the flux: no flux at the boundary
of the classes that do not take part, at partial-volume voxels too. The counter-flux is the
cross-diffusion χ_jk = −D_k / Σ_i p_i: an exchange of equal volumes, so that the sum over the classes
stays 1 and the mass of each is conserved, before any projection.

Scheme: locally one-dimensional (LOD). Per class and axis, one tridiagonal solve for the class and one
for the composition of those that give way. Why this one: damped Jacobi sweeps (the paper's) are off by
42 % at λ = D dt/h² = 1 with 4 sweeps (Testing/test_physics_jacobi.py), explicit steps are stable below λ = 1/6
only, and a cosine transform needs a constant D on a box. LOD is positive, monotone and conservative at every
dt with variable D inside any mask, and its factorizations are reused: 4 ms a step on 64³ voxels.

Time: of a face's exchange g = D dt/h² · C, the part e = min(g, C)/2 is explicit and i = g − e implicit.
Where λ ≤ 1 that is Crank–Nicolson, of second order; beyond, the explicit part stays at the most that
keeps u = p/C within the range of its neighbours, and the scheme tends to implicit Euler. No linear
scheme is of second order and positive at every step (Bolley & Crouzeix 1978); this one gives up order,
never positivity.
"""

from __future__ import annotations

import torch

from .operators import apply_flux, central_difference, difference, exponential_fit, harmonic, outflow
from .tridiagonal import Factors, solve


def floor_of(dtype) -> float:
    """Added to the right-hand side of a solve: about 1e-25 in float32.

    Away from the tumor the solution decays by a factor per voxel and soon reaches denormal numbers, which a processor
    handles a hundred times slower: a forecast took 26 s with them and 1.4 s without.
    """
    return torch.finfo(dtype).tiny * 1e13


# A voxel of which a class may fill less than this is closed to it: to divide by less is to divide by rounding.
CLOSED = 1e-9


class AxisSystem:
    """The implicit system of one class along one axis, for a fixed dt and fixed C: built once, used often.

    capacity: C_k, (n, B, *rest); diffusivity: D_k, broadcastable to it; scale: dt / h²
    """

    def __init__(self, capacity: torch.Tensor, diffusivity: torch.Tensor, scale: float):
        capacity = torch.where(capacity > CLOSED, capacity, torch.zeros_like(capacity))
        conductivity = (capacity * diffusivity).expand_as(capacity)
        full = scale * harmonic(conductivity[:-1], conductivity[1:])
        room = torch.minimum(capacity[:-1], capacity[1:])
        self.explicit = torch.minimum(full, room) / 2
        self.implicit = full - self.explicit
        self.full = full
        self.open = torch.where(capacity > 0, capacity, torch.ones_like(capacity))
        self.centred = bool((full <= room).all())
        self._factors = None

    def flux_of(self, mover: torch.Tensor) -> torch.Tensor:
        """What crosses each face in one step; mover: p_k, (n, B, *rest)."""
        if self.centred:
            # Crank–Nicolson as a half step of implicit Euler: its solution is the mean of old and new.
            return self.full * difference(self._solve(mover))
        before = difference(mover / self.open)
        explicit = self.explicit * before
        return explicit + self.implicit * difference(self._solve(mover - outflow(explicit)))

    def _solve(self, rhs):
        if torch.is_grad_enabled():
            off = -self.implicit
            rhs = (rhs + floor_of(rhs.dtype)).unsqueeze(1)
            return solve(off, self.open + _row_sum(self.implicit), off, rhs).squeeze(1)
        return self.solved(rhs.clone(memory_format=torch.contiguous_format))

    def solved(self, rhs: torch.Tensor) -> torch.Tensor:
        """The implicit solve without gradients; rhs: (n, B, *rest), overwritten."""
        if self._factors is None:
            off = -self.implicit
            self._factors = Factors(off, self.open + _row_sum(self.implicit), off)
        return self._factors.solve(rhs.add_(floor_of(rhs.dtype)))


def _row_sum(face: torch.Tensor) -> torch.Tensor:
    """Sum over a voxel's two faces."""
    return torch.cat((face[:1], face[1:] + face[:-1], face[-1:]))


def drift_flux(system: AxisSystem, mover: torch.Tensor, capacity: torch.Tensor, drift: torch.Tensor) -> torch.Tensor:
    """Flux of a class that also drifts: v dt/h = `drift` on the faces, implicit in p_k.

    The drift is throttled by the room left in the receiving voxel at t_n (volume filling), so that it
    does not press a class into a voxel that has no one left to give way.
    """
    space = (capacity - mover).clamp(min=0) / system.open
    receiving = torch.where(drift > 0, space[1:], space[:-1])
    volume = drift * torch.minimum(capacity[:-1], capacity[1:]) * receiving
    explicit = system.explicit * difference(mover / system.open)
    right, left = exponential_fit(system.implicit, volume)
    diag = system.open + torch.cat((right, torch.zeros_like(right[:1]))) + torch.cat((torch.zeros_like(left[:1]), left))
    after = solve(-right, diag, -left, (mover - outflow(explicit)).unsqueeze(1)).squeeze(1)
    return explicit + right * after[:-1] - left * after[1:]


def carry(classes: torch.Tensor, flux: torch.Tensor) -> torch.Tensor:
    """Moves class 0 by `flux` through the faces; the others carry the counter-flux.

    classes: (n, A, B, *rest), class 0 the mover, the rest give way; flux: (n − 1, B, *rest)
    The composition q_j = p_j / Σ_i p_i of those that give way obeys an implicit upwind exchange, an M-matrix
    with unit row sums on the sum: every q_j stays within 0..1 and they keep adding up to 1, at any dt.
    """
    mover = apply_flux(classes[:, 0], flux)
    if classes.shape[1] == 2:
        return torch.stack((mover, apply_flux(classes[:, 1], -flux)), 1)
    givers = classes[:, 1:]
    room = givers.sum(1) + outflow(flux)
    right, left = flux.clamp(min=0), (-flux).clamp(min=0)
    empty = torch.zeros_like(flux[:1])
    tiny = torch.finfo(flux.dtype).tiny * 1e10
    diag = room.clamp(min=0) + torch.cat((left, empty)) + torch.cat((empty, right)) + tiny
    share = solve(-left, diag, -right, givers)
    given = left.unsqueeze(1) * share[:-1] - right.unsqueeze(1) * share[1:]
    return torch.cat((mover.unsqueeze(1), apply_flux(givers, given).clamp(min=0)), 1)


def mixed_flux(ratio: torch.Tensor, weight: torch.Tensor, tensor: torch.Tensor, axis: int, spacing) -> torch.Tensor:
    """Flux through the faces of `axis` that the off-diagonal entries of a diffusion tensor drive, explicit.

    −C Σ_{b≠axis} D_ab ∂_b u, on the faces, in mm/day times volume fraction. ratio: u = p_k/C_k, (B, *S);
    weight: C_k; tensor: (B, ndim, ndim, *S), mm²/day. Centred, of second order; not monotone: no
    linear scheme on this stencil is for every tensor. What it overdraws, the projection mends.
    """
    total = None
    size = ratio.shape[1 + axis]
    shut = weight <= 0
    for other in range(len(spacing)):
        if other == axis:
            continue
        slope = tensor[:, axis, other] * weight * central_difference(ratio, shut, 1 + other, spacing[other])
        ahead, behind = slope.narrow(1 + axis, 1, size - 1), slope.narrow(1 + axis, 0, size - 1)
        # A face that touches a voxel which class k may not enter at all stays shut.
        opened = ~(shut.narrow(1 + axis, 1, size - 1) | shut.narrow(1 + axis, 0, size - 1))
        face = -(ahead + behind) / 2 * opened
        total = face if total is None else total + face
    return total
