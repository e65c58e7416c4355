"""Mass effect: growth that pushes tissue aside instead of replacing it.

Competition of every class with every other for space is eq. 2 with χ_kj = −M for all j (and D_k = M p_k along the
class's own gradient): J_k = −M p_k ∇(Σ_j p_j). Mass then flows from where the classes together hold more than a voxel
to where they hold less. In the limit of a stiff M the excess vanishes and M Σ_j p_j becomes a pressure P, the same for
all classes:

    J_k = −p_k A ∇P,    −∇·(A ∇P) + (f / L² + 1 / R²) P = Σ_k p_k − 1

A is 0 in classes that cannot move (background, falx) and 1 elsewhere; f is the fluid in a voxel: it drains, so that the
pressure falls off within L of its surface and ventricles and sulci give the room; R is the range beyond which tissue is
compressed instead. White and grey matter are carried along, not destroyed. (Incompressible limit of the cross-diffusion
model of Burger, Friele & Pietschmann 2020, SIAM J Appl Math 80:160.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from .advection import advect

# The pressure is smooth: it is solved on voxels of about this size, mm.
COARSE_MM = 4.0
FLUID_DEPTH_MM = 2.0
TISSUE_RANGE_MM = 100.0
RESIDUAL = 1e-4
SWEEPS = 200
# Largest part of a voxel that may cross a face in one advection sweep.
COURANT = 0.5


@dataclass(frozen=True)
class MassEffect:
    """fraction: of the growth that displaces, 0 to 1; still: indices that never move; fluid: indices that drain.

    coarse_mm: voxel size of the pressure solve; what the coarse solve leaves of the excess, all classes of the voxel share,
        so that a ball whose volume should grow by 75 % grows by 61 %, 72 % and 77 % at 4, 2 and 1 mm
    """

    fraction: float
    still: tuple[int, ...]
    fluid: tuple[int, ...]
    spacing: tuple[float, ...]
    coarse_mm: float = COARSE_MM

    def push(self, p: torch.Tensor) -> torch.Tensor:
        """Relieves the excess Σ_k p_k − 1 that growth has left. p: (B, K, *S); returns a state with sum 1."""
        excess = p.sum(1) - 1
        if not bool((excess.detach().abs() > 1e-7).any()):
            return p
        mobile = 1 - self._part(p, self.still)
        fluid = self._part(p, self.fluid)
        pressure = self._pressure(excess, mobile, fluid)
        for axis in range(len(self.spacing)):
            if p.shape[2 + axis] > 1:
                p = self._advect(p, pressure, mobile, axis)
        return self._filled(p)

    def _part(self, p, chosen):
        return p[:, list(chosen)].sum(1) if chosen else torch.zeros_like(p[:, 0])

    def _pressure(self, excess, mobile, fluid):
        """P in mm², (B, *S), from a conjugate gradient solve on coarse voxels, interpolated linearly."""
        shape = excess.shape[1:]
        factor = [min(max(1, round(self.coarse_mm / h)), n) for h, n in zip(self.spacing, shape)]
        pad = [q for n, f in zip(reversed(shape), reversed(factor)) for q in (0, -n % f)]
        pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(shape) - 1]
        # Outside of the image nothing moves and nothing is in excess: pads are zero.
        source, free, drain = (pool(functional.pad(t[:, None], pad), factor)[:, 0] for t in (excess, mobile, fluid))
        sink = drain / FLUID_DEPTH_MM**2 + 1 / TISSUE_RANGE_MM**2
        faces = []
        for axis, (h, f) in enumerate(zip(self.spacing, factor)):
            n = free.shape[1 + axis]
            faces.append(torch.minimum(free.narrow(1 + axis, 0, n - 1), free.narrow(1 + axis, 1, n - 1)) / (h * f) ** 2)
        coarse = _conjugate_gradient(lambda x: _operator(x, faces, sink), source, _diagonal(faces, sink))
        mode = ("linear", "bilinear", "trilinear")[len(shape) - 1]
        size = [n * f for n, f in zip(coarse.shape[1:], factor)]
        fine = functional.interpolate(coarse[:, None], size=size, mode=mode, align_corners=False)[:, 0]
        return fine[(slice(None), *(slice(0, n) for n in shape))]

    def _advect(self, p, pressure, mobile, axis):
        facing = pressure.movedim(1 + axis, 0)
        free = mobile.movedim(1 + axis, 0)
        volume = torch.minimum(free[:-1], free[1:]) * (facing[:-1] - facing[1:]) / self.spacing[axis] ** 2
        sweeps = max(1, math.ceil(float(volume.detach().abs().max()) / COURANT))
        volume = volume / sweeps
        if torch.is_grad_enabled():
            classes = p.transpose(0, 1).movedim(2 + axis, 0)  # (n, K, B, *rest)
            for _ in range(sweeps):
                classes = advect(classes, volume.unsqueeze(1))
            return classes.movedim(0, 2 + axis).transpose(0, 1)
        # One class at a time, those that are there and can move: temporaries of all of them at once cost four times this.
        moved = p.clone()
        for k in range(p.shape[1]):
            if k in self.still or not bool(p[:, k].any()):
                continue
            classes = p[:, k].movedim(1 + axis, 0).contiguous()
            for _ in range(sweeps):
                classes = advect(classes, volume)
            moved[:, k] = classes.movedim(0, 1 + axis)
        return moved

    def _filled(self, p):
        """Fluid leaves where the classes hold more than a voxel; what then differs from 1 is shared by all in proportion.

        Only leaves: a voxel that holds less is not filled with fluid, or traces of it would turn into lakes.
        """
        if self.fluid:
            chosen = list(self.fluid)
            held = p[:, chosen]
            fluid = held.sum(1, keepdim=True)
            wanted = (fluid - (p.sum(1, keepdim=True) - 1).clamp(min=0)).clamp(min=0)
            scale = wanted / torch.where(fluid > 0, fluid, torch.ones_like(fluid))
            p = p.index_copy(1, torch.tensor(chosen, device=p.device), held * scale)
        total = p.sum(1, keepdim=True)
        return p / torch.where(total > 0, total, torch.ones_like(total))


def _operator(x, faces, sink):
    """(−∇·(A∇) + sink) x; x: (B, *S)."""
    total = sink * x
    for axis, face in enumerate(faces):
        n = x.shape[1 + axis]
        flux = face * (x.narrow(1 + axis, 0, n - 1) - x.narrow(1 + axis, 1, n - 1))
        pad = [0, 0] * (x.dim() - 2 - axis)
        total = total + functional.pad(flux, pad + [0, 1]) - functional.pad(flux, pad + [1, 0])
    return total


def _diagonal(faces, sink):
    total = sink
    for axis, face in enumerate(faces):
        pad = [0, 0] * (sink.dim() - 2 - axis)
        total = total + functional.pad(face, pad + [0, 1]) + functional.pad(face, pad + [1, 0])
    return total


def _conjugate_gradient(operator, rhs, diagonal):
    """Solves a symmetric positive system with its diagonal as preconditioner, to RESIDUAL of the right-hand side."""
    x = torch.zeros_like(rhs)
    residual = rhs
    direction = residual / diagonal
    rho = (residual * direction).sum()
    limit = RESIDUAL**2 * float((rhs.detach() ** 2).sum())
    for _ in range(SWEEPS):
        if float((residual.detach() ** 2).sum()) <= limit:
            break
        image = operator(direction)
        step = rho / (direction * image).sum()
        x = x + step * direction
        residual = residual - step * image
        scaled = residual / diagonal
        former, rho = rho, (residual * scaled).sum()
        direction = scaled + (rho / former) * direction
    return x
