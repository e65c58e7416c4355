"""The cross-diffusion reaction-diffusion equation and one time step of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from .pressure import MassEffect
from .reaction import correct, grow, transfer
from .simplex import project
from .transport import AxisSystem, carry, drift_flux, mixed_flux

# Part of a voxel's room that a drift may fill through each of its two faces before the room is looked at again.
COURANT = 0.5
# What the fluxes of a step may leave of a voxel's sum by rounding, relative.
ROUNDING = 1e-5


@dataclass(frozen=True)
class CrossDiffusion:
    """∂ₜp_k = ∇·(D_k ∇p_k − Σ_{j≠k} χ_kj p_k ∇p_j) + r_k(p) (eq. 2), on the simplex.

    spacing: voxel size in mm per spatial axis, in the order of the tensor's last axes
    diffusivity: D, mm²/day: (K,) a scalar per class; (K, ndim) one per axis; (B|1, K, *S) a field;
        (B|1, K, ndim, *S) a field per axis; (B|1, K, ndim, ndim, *S) a symmetric positive tensor field
    yields: per class k, the indices of the classes that give way to it
    chi: mm²/day, (K, K) or (B|1, K, K, *S). The flux of class k is +χ_kj p_k ∇p_j: a positive χ_kj moves k UP the
        gradient of p_j (attraction), competition for space is a negative one. None: no cross-diffusion but
        the counter-flux
    rho: proliferation rate of logistic growth, 1/day, (K,) or (B|1, K, *S); kappa: carrying capacity, likewise
    atrophy: rate at which a class dies by itself, 1/day, (K,)
    dead: per class, the index that its dead mass goes to, or −1
    mass_effect: pushes tissue aside with a part of the growth; None: all growth replaces tissue where it stands
    Stable and positive at any dt; see `transport` for the scheme and its order.
    """

    spacing: tuple[float, ...]
    diffusivity: torch.Tensor
    yields: tuple[tuple[int, ...], ...]
    chi: torch.Tensor | None = None
    rho: torch.Tensor | None = None
    kappa: torch.Tensor | None = None
    atrophy: torch.Tensor | None = None
    dead: tuple[int, ...] = ()
    mass_effect: MassEffect | None = None

    def __post_init__(self):
        n, shape = len(self.spacing), self.diffusivity.shape
        if self.diffusivity.dim() not in (1, 2, 2 + n, 3 + n, 4 + n):
            raise ValueError(f"diffusivity has the shape {tuple(shape)}, which is none of the forms for {n} axes")
        if not all(h > 0 for h in self.spacing):
            raise ValueError(f"spacing must be positive, not {self.spacing}")

    @property
    def ndim(self) -> int:
        return len(self.spacing)

    @property
    def classes(self) -> int:
        return len(self.yields)

    def along(self, k: int, axis: int) -> torch.Tensor:
        """D of class k along an axis, with the axis first: broadcastable to (n, B, *rest)."""
        d = self.diffusivity
        extra = d.dim() - self.ndim
        if d.dim() == 1:
            return d[k].reshape((1,) * (1 + self.ndim))
        if d.dim() == 2:
            return d[k, axis].reshape((1,) * (1 + self.ndim))
        part = {2: lambda: d[:, k], 3: lambda: d[:, k, axis], 4: lambda: d[:, k, axis, axis]}[extra]()
        return part.movedim(1 + axis, 0)

    @property
    def is_tensor(self) -> bool:
        return self.diffusivity.dim() == 4 + self.ndim

    def coefficient(self, values, k: int):
        """Class k's part of a (K,) or (B|1, K, *S) coefficient."""
        return values[k] if values.dim() == 1 else values[:, k]

    def _live(self, values, k: int) -> bool:
        """Does this coefficient do anything: is it non-zero somewhere, or may it be learned."""
        if values is None:
            return False
        part = self.coefficient(values, k)
        return bool(part.requires_grad) or bool((part != 0).any())

    def movers(self) -> tuple[int, ...]:
        """Classes that are transported: D or a row of chi is not zero, and someone gives way."""
        def diffuses(k):
            d = self.diffusivity[k] if self.diffusivity.dim() <= 2 else self.diffusivity[:, k]
            return d.requires_grad or bool((d != 0).any())

        return tuple(k for k in range(self.classes) if self.yields[k] and (diffuses(k) or self._drifts(k)))

    def _drifts(self, k: int) -> bool:
        if self.chi is None:
            return False
        row = self.chi[k] if self.chi.dim() == 2 else self.chi[:, k]
        return bool(row.requires_grad) or bool((row != 0).any())

    def cropped(self, box) -> CrossDiffusion:
        """The same equation inside a box of the domain (slices of the spatial axes)."""
        def cut(values, scalar_dims):
            return values if values is None or values.dim() <= scalar_dims else values[(..., *box)]

        return CrossDiffusion(
            self.spacing, cut(self.diffusivity, 2), self.yields, cut(self.chi, 2), cut(self.rho, 1),
            cut(self.kappa, 1), self.atrophy, self.dead, self.mass_effect,
        )


@dataclass
class Stepper:
    """One step of a `CrossDiffusion`: state to state. Keeps factorizations that can be used again.

    projected: the largest change that the projection has made of any entry so far
    """

    equation: CrossDiffusion
    projected: float = 0.0
    _systems: dict = field(default_factory=dict)

    def __post_init__(self):
        equation = self.equation
        self._movers = equation.movers()
        self._drifting = tuple(equation._drifts(k) for k in range(equation.classes))
        self._growing = tuple(k for k in range(equation.classes) if equation._live(equation.rho, k))
        self._atrophic = tuple(k for k, to in enumerate(equation.dead) if to >= 0 and equation._live(equation.atrophy, k))
        groups = {k: {k, *equation.yields[k]} for k in self._movers + self._growing}
        self._moved = sorted(set().union(*(groups[k] for k in self._movers)))
        overshoot = equation.kappa is not None and any(
            bool((equation.coefficient(equation.kappa, k) < 1).any()) and not self.confined(k) for k in self._growing
        )
        # C_k stays what it was unless another mover takes part of its group: only then is a factorization reused.
        self._constant = {
            k: all(groups[k] >= groups[j] or not groups[k] & groups[j] for j in groups) and not self._atrophic
            and equation.mass_effect is None and not overshoot
            for k in self._movers
        }

    def confined(self, k: int) -> bool:
        """Whether what dies of class k stays within C of every mover."""
        to = self.equation.dead[k] if self.equation.dead else -1
        groups = ((m, *self.equation.yields[m]) for m in self._movers)
        return to < 0 or all((k in group) == (to in group) for group in groups)

    def forget(self) -> None:
        """Drops what was kept: to be called after an event that changes C of a mover."""
        self._systems.clear()

    def step(self, p: torch.Tensor, dt: float, *, reverse: bool = False, kill=None, residual=None) -> torch.Tensor:
        """The state one step later. p: (B, K, *S) on the simplex; dt: days.

        reverse: the sub-steps in the opposite order. Alternating it makes each pair of steps a symmetric
            composition, of second order, for the price of a first-order splitting
        kill: (exponent (K,), centroid) of the drugs, from `treatments.drug_kill`
        residual: learned rates (B, K, *S), 1/day
        """
        stages = [lambda q: self._react(q, dt, kill, residual, reverse)]
        for k in self._movers:
            for axis in range(self.equation.ndim):
                if p.shape[2 + axis] > 1:
                    stages.append(lambda q, k=k, axis=axis: self._transport(q, k, axis, dt))
            if self.equation.is_tensor:
                stages.append(lambda q, k=k: self._transport_mixed(q, k, dt))
        for stage in reversed(stages) if reverse else stages:
            p = stage(p)
        if not (self._movers or self._growing or self._atrophic or kill or residual is not None):
            return p
        return self._mended(p)

    def _mended(self, p):
        """The state with its rounding taken from those that moved, and on the simplex."""
        if self._moved:
            part = p[:, self._moved]
            total, room = part.sum(1, keepdim=True), 1 - p.sum(1, keepdim=True)
            scale = 1 + room / torch.where(total > 0, total, torch.ones_like(total))
            # Rounding alone: what a flux has overdrawn is the projection's to mend, and to report.
            scale = scale.clamp(1 - ROUNDING, 1 + ROUNDING)
            p = p.index_copy(1, torch.tensor(self._moved, device=p.device), part * scale)
        p, change = project(p)
        self.projected = max(self.projected, change)
        return p

    def _react(self, p, dt, kill, residual, reverse):
        equation = self.equation
        if kill is None:
            p = self._grow(p, dt, reverse)
        else:
            exponent, centroid = kill
            # The drug acts about its centroid: where steps run in reverse order it is still early in the step.
            p = self._grow(p, centroid, reverse)
            for k, to in enumerate(equation.dead):
                if to >= 0 and (exponent.requires_grad or float(exponent[k]) > 0):
                    p = transfer(p, k, -torch.expm1(-exponent[k]), to)
                    if not self.confined(k):
                        self.forget()
            p = self._grow(p, dt - centroid, reverse)
        if equation.mass_effect is not None:
            p = equation.mass_effect.push(p)
        if residual is None:
            return p
        self.forget()
        return correct(p, residual, dt)

    def _grow(self, p, dt, reverse):
        equation = self.equation
        for k in reversed(self._growing) if reverse else self._growing:
            kappa = 1.0 if equation.kappa is None else equation.coefficient(equation.kappa, k)
            rho = equation.coefficient(equation.rho, k)
            pushed = 0.0 if equation.mass_effect is None else equation.mass_effect.fraction
            p = grow(p, k, equation.yields[k], rho * dt, kappa, equation.dead[k] if equation.dead else -1, pushed)
        for k in self._atrophic:
            p = transfer(p, k, -torch.expm1(-equation.atrophy[k] * dt), equation.dead[k])
        return p

    def _transport(self, p, k, axis, dt):
        equation = self.equation
        group = [k, *equation.yields[k]]
        if self._drifting[k]:
            return self._transport_drifting(p, k, group, axis, dt)
        classes = self._facing_classes(p, group, axis)
        key = (k, axis, dt)
        system = self._systems.get(key)
        if system is None:
            system = AxisSystem(classes.sum(1), equation.along(k, axis), dt / equation.spacing[axis] ** 2)
            if self._constant[k] and not torch.is_grad_enabled():
                self._systems[key] = system
        return self._put(p, group, carry(classes, system.flux_of(classes[:, 0])), axis)

    def _transport_drifting(self, p, k, group, axis, dt):
        """In parts so short that the room found at the start of each still bounds what flows in."""
        equation = self.equation
        while dt > 0:
            velocity = self._drift(p, k, axis)
            parts = max(1, math.ceil(dt * float(velocity.detach().abs().max()) / COURANT))
            part = dt / parts
            classes = self._facing_classes(p, group, axis)
            capacity = classes.sum(1)
            system = AxisSystem(capacity, equation.along(k, axis), part / equation.spacing[axis] ** 2)
            flux = drift_flux(system, classes[:, 0], capacity, velocity * part)
            p = self._put(p, group, carry(classes, flux), axis)
            dt = dt - part if parts > 1 else 0.0
        return p

    def _facing_classes(self, p, group, axis):
        """The classes of a group with the axis first: (n, A, B, *rest), a copy."""
        return p[:, group].transpose(0, 1).movedim(2 + axis, 0).contiguous()

    def _put(self, p, group, classes, axis):
        values = classes.movedim(0, 2 + axis).transpose(0, 1)
        if torch.is_grad_enabled():
            return p.index_copy(1, torch.tensor(group, device=p.device), values)
        p = p.clone()
        for i, j in enumerate(group):
            p[:, j] = values[:, i]
        return p

    def _drift(self, p, k, axis):
        """v_k/h = Σ_j χ_kj ∂p_j/h on the faces, 1/day, with the axis first: (n − 1, B, *rest)."""
        total = None
        for j in range(self.equation.classes):
            chi = self.equation.chi[k, j] if self.equation.chi.dim() == 2 else self.equation.chi[:, k, j]
            if j == k or not (chi.requires_grad or bool((chi != 0).any())):
                continue
            field = p[:, j].movedim(1 + axis, 0)
            if chi.dim() > 0:
                chi = chi.movedim(1 + axis, 0)
                chi = (chi[1:] + chi[:-1]) / 2
            term = chi * (field[1:] - field[:-1])
            total = term if total is None else total + term
        return total / self.equation.spacing[axis] ** 2

    def _transport_mixed(self, p, k, dt):
        """The off-diagonal part of a tensor: explicit Euler, or the midpoint rule where that is stable (second order)."""
        equation = self.equation
        tensor = equation.diffusivity[:, k]
        stiff = max(float(tensor[:, a, a].detach().max()) * dt / equation.spacing[a] ** 2 for a in range(equation.ndim))
        group = [k, *equation.yields[k]]
        capacity = p[:, group].sum(1)
        mover = p[:, k]

        def fluxes(mover):
            ratio = mover / torch.where(capacity > 0, capacity, torch.ones_like(capacity))
            return [mixed_flux(ratio, capacity, tensor, a, equation.spacing) for a in range(equation.ndim)]

        flux = fluxes(mover)
        if stiff <= 1.0:
            half = mover
            for axis, part in enumerate(flux):
                scaled = part.movedim(1 + axis, 0) * (0.5 * dt / equation.spacing[axis])
                lost = torch.cat((scaled[:1], scaled[1:] - scaled[:-1], -scaled[-1:]))
                half = half - lost.movedim(0, 1 + axis)
            flux = fluxes(half)
        for axis, part in enumerate(flux):
            scaled = part.movedim(1 + axis, 0) * (dt / equation.spacing[axis])
            classes = self._facing_classes(p, group, axis)
            p = self._put(p, group, carry(classes, scaled), axis)
        return p
