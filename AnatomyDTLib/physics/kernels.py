"""The same step without gradients, in buffers: what an interactive forecast spends its time in.

`Stepper` is the reference; this one does the same arithmetic in place. Eager torch on a processor is
bound by memory traffic: fresh temporaries of a few hundred megabytes cost several times what the
arithmetic does, because the system has to clear their pages first. Here every temporary lives in a buffer
that is allocated once per window, one class at a time, with the axis of the solve first and contiguous.
"""

from __future__ import annotations

import torch

from .equation import Stepper
from .simplex import TOLERANCE, project
from .transport import AxisSystem

# Amounts and fluxes below this (parts of a voxel) are cut to zero: products of smaller ones are denormal numbers in
# float32, which a processor handles a hundred times slower (a treated 1 mm brain took 121 s with them).
SMALLEST = 1e-18


class FastStepper(Stepper):
    """`Stepper` for runs without gradients; `step` overwrites the state that it is given."""

    def step(self, p: torch.Tensor, dt: float, *, reverse: bool = False, kill=None, residual=None) -> torch.Tensor:
        """As `Stepper.step`, in place."""
        if self.equation.is_tensor or self.equation.mass_effect is not None or residual is not None:
            return super().step(p, dt, reverse=reverse, kill=kill, residual=residual)
        if not reverse:
            self._react_in_place(p, dt, kill, reverse)
        axes = [a for a in range(self.equation.ndim) if p.shape[2 + a] > 1]
        for k in reversed(self._movers) if reverse else self._movers:
            self._transport_in_place(p, k, reversed(axes) if reverse else axes, dt)
        if reverse:
            self._react_in_place(p, dt, kill, reverse)
        return p

    def _buffers(self, name, shape, like):
        """A buffer of this shape, the same memory at every call."""
        size = 1
        for n in shape:
            size *= n
        held = self._systems.get(("buffer", name))
        if held is None or held.numel() < size:
            held = torch.empty(size, dtype=like.dtype, device=like.device)
            self._systems["buffer", name] = held
        return held[:size].view(shape)

    def forget(self) -> None:
        """Drops the factorizations; the buffers stay."""
        self._systems = {key: value for key, value in self._systems.items() if key[0] == "buffer"}

    def _react_in_place(self, p, dt, kill, reverse):
        if kill is None:
            self._grow_in_place(p, dt, reverse)
            return
        exponent, centroid = kill
        centroid = float(centroid)
        self._grow_in_place(p, centroid, reverse)
        for k, to in enumerate(self.equation.dead):
            if to >= 0 and float(exponent[k]) > 0:
                p[:, to] += p[:, k] * float(-torch.expm1(-exponent[k]))
                p[:, k] *= float(torch.exp(-exponent[k]))
                if not self.confined(k):
                    self.forget()
        self._grow_in_place(p, dt - centroid, reverse)

    def _grow_in_place(self, p, dt, reverse):
        equation = self.equation
        if dt <= 0:
            return
        simple = not self._atrophic and all(_is_uniform(equation.rho, k) and _is_uniform(equation.kappa, k) for k in self._growing)
        for k in self._growing:
            simple = simple and (equation.kappa is None or float(equation.coefficient(equation.kappa, k)) == 1.0)
        if not simple:
            p.copy_(self._grow(p, dt, reverse))
            return
        for k in reversed(self._growing) if reverse else self._growing:
            givers = equation.yields[k]
            if not givers:
                continue
            shape = p[:, k].shape
            host, work = self._buffers("a", shape, p), self._buffers("b", shape, p)
            mover = p[:, k]
            host.copy_(p[:, givers[0]])
            for j in givers[1:]:
                host += p[:, j]
            # kappa = 1: p' = p e^a C / (C + (e^a − 1) p) with C = p + host; the hosts keep the rest, C − p'.
            growth = float(torch.expm1(torch.as_tensor(equation.coefficient(equation.rho, k) * dt)))
            torch.add(host, mover, out=work)
            ratio = self._buffers("c", shape, p)
            torch.add(work, mover, alpha=growth, out=ratio)
            ratio.clamp_(min=torch.finfo(p.dtype).tiny)
            torch.div(work, ratio, out=ratio)
            # Each host keeps C/(C + (e^a − 1) p) of itself, the mover e^a times that: their sum is C again.
            for j in givers:
                p[:, j] *= ratio
            mover *= ratio
            mover *= 1 + growth

    def _transport_in_place(self, p, k, axes, dt):
        equation = self.equation
        group = [k, *equation.yields[k]]
        if self._drifting[k] or not self._constant[k]:
            for axis in axes:
                p.copy_(self._transport(p, k, axis, dt))
            p.copy_(self._mended(p))
            return
        # The last class of the group is what the others leave of C_k, which transport does not change. C_k is the one
        # that the factorization has: summed anew at each step, it would collect the rounding that `_mend` cuts.
        rest = p[:, group[-1]]
        capacity = self._systems.get(("capacity", k))
        if capacity is None:
            capacity = self._systems["capacity", k] = p[:, group].sum(1)
        rest.copy_(capacity)
        current = [p[:, j] for j in group[:-1]]
        for turn, axis in enumerate(axes):
            classes = [self._facing(source, axis, (turn % 2, i)) for i, source in enumerate(current)]
            system = self._system(k, axis, dt, rest)
            self._carry_in_place(system, classes, self._flux(system, classes[0]))
            current = [c.movedim(0, 1 + axis) for c in classes]
        for j, values in zip(group, current):
            if values.data_ptr() != p[:, j].data_ptr():
                p[:, j].copy_(values)
            rest -= p[:, j]
        self._mend(p, [rest, *(p[:, j] for j in group[:-1])])

    def _facing(self, source, axis, name):
        """The class with the axis first and contiguous: itself where it lies so already, else a copy."""
        facing = source.movedim(1 + axis, 0)
        return facing if facing.is_contiguous() else self._buffers(name, tuple(facing.shape), source).copy_(facing)

    def _system(self, k, axis, dt, capacity):
        system = self._systems.get((k, axis, dt))
        if system is None:
            # A system is six arrays of the window's size: those of two step lengths are kept, not of every one.
            lengths = list(dict.fromkeys(key[2] for key in self._systems if len(key) == 3))
            if dt not in lengths and len(lengths) >= 2:
                self._systems = {key: held for key, held in self._systems.items() if key[-1] != lengths[0]}
            diffusivity = self.equation.along(k, axis).contiguous()
            facing = capacity.movedim(1 + axis, 0).contiguous()
            system = AxisSystem(facing, diffusivity, dt / self.equation.spacing[axis] ** 2)
            self._systems[k, axis, dt] = system
        return system

    def _flux(self, system, mover):
        """`AxisSystem.flux_of` in buffers."""
        work = self._buffers("b", mover.shape, mover)
        flux = self._buffers("c", (mover.shape[0] - 1, *mover.shape[1:]), mover)
        if system.centred:
            mean = system.solved(work.copy_(mover))
            torch.sub(mean[:-1], mean[1:], out=flux)
            return flux.mul_(system.full)
        explicit = self._buffers("d", flux.shape, mover)
        torch.div(mover, system.open, out=work)
        torch.sub(work[:-1], work[1:], out=explicit)
        explicit *= system.explicit
        work.copy_(mover)
        work[:-1] -= explicit
        work[1:] += explicit
        after = system.solved(work)
        torch.sub(after[:-1], after[1:], out=flux)
        flux *= system.implicit
        flux += explicit
        return flux

    def _carry_in_place(self, system, classes, flux):
        mover, givers = classes[0], classes[1:]
        torch.hardshrink(flux, SMALLEST, out=flux)
        mover[:-1] -= flux
        mover[1:] += flux
        if not givers:
            return
        shape = mover.shape
        right = self._buffers("d", flux.shape, flux)
        left = self._buffers("e", flux.shape, flux)
        torch.clamp(flux, min=0, out=right)
        torch.sub(right, flux, out=left)
        pivot = self._buffers("f", shape, mover)
        torch.sub(system.open, mover, out=pivot)
        pivot.clamp_(min=torch.finfo(flux.dtype).tiny * 1e10)
        pivot[:-1] += left
        pivot[1:] += right
        pivot.reciprocal_()
        # A face is crossed in one direction only, so that the elimination has no fill: the pivots are the
        # diagonal, and all that is left is one sweep each way.
        ahead = self._buffers("g", flux.shape, flux)
        torch.mul(left, pivot[:-1], out=ahead)
        behind = self._buffers("c", flux.shape, flux)  # takes the flux's own place: it is not needed any more
        torch.mul(right, pivot[:-1], out=behind)
        forward, backward = ahead.unbind(0), behind.unbind(0)
        share = self._buffers("b", shape, mover)
        for giver in givers:
            share.copy_(giver)
            rows = share.unbind(0)
            for i in range(1, len(rows)):
                rows[i].addcmul_(forward[i - 1], rows[i - 1])
            share *= pivot
            for i in range(len(rows) - 2, -1, -1):
                rows[i].addcmul_(backward[i], rows[i + 1])
            given = self._buffers("a", flux.shape, flux)
            torch.mul(left, share[:-1], out=given)
            given.addcmul_(right, share[1:], value=-1)
            giver[:-1] -= given
            giver[1:] += given

    def _mend(self, p, classes):
        """Negative rounding is cut; where a flux has overdrawn a voxel by more, that voxel is projected."""
        if min(float(values.min()) for values in classes) < -TOLERANCE:
            mended, change = project(p)
            p.copy_(mended)
            self.projected = max(self.projected, change)
        for values in classes:
            torch.nn.functional.threshold_(values, SMALLEST, 0.0)


def _is_uniform(values, k) -> bool:
    return values is None or values.dim() == 1

