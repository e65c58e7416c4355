"""Batched tridiagonal solves along the first axis, and their adjoint.

The adjoint of a tridiagonal solve is the solve with the transposed matrix, so the backward pass
needs no unrolled graph and costs as much as the forward pass; its tangent is one more solve with the matrix itself. No pivoting: every matrix here is an
M-matrix, diagonally dominant by rows or by columns, for which elimination in order is stable.
"""

from __future__ import annotations

import torch


class Factors:
    """Elimination of a tridiagonal matrix, done once for many right-hand sides.

    lower, upper: (n − 1, *M) entries (i+1, i) and (i, i+1); diag: (n, *M)
    """

    def __init__(self, lower, diag, upper):
        lowers, diags, uppers = lower.unbind(0), diag.unbind(0), upper.unbind(0)
        pivots = torch.empty_like(diag)
        ratios = torch.empty_like(lower)
        inverse, ratio = pivots.unbind(0), ratios.unbind(0)
        torch.reciprocal(diags[0], out=inverse[0])
        for i in range(1, len(diags)):
            torch.mul(lowers[i - 1], inverse[i - 1], out=ratio[i - 1])
            torch.addcmul(diags[i], ratio[i - 1], uppers[i - 1], value=-1, out=inverse[i])
            inverse[i].reciprocal_()
        self.pivots, self.ratios, self.backs = pivots, ratios, upper * pivots[:-1]

    def solve(self, rhs: torch.Tensor) -> torch.Tensor:
        """x of A x = rhs; rhs: (n, *M), overwritten."""
        x, ratio, back = rhs.unbind(0), self.ratios.unbind(0), self.backs.unbind(0)
        for i in range(1, len(x)):
            x[i].addcmul_(ratio[i - 1], x[i - 1], value=-1)
        rhs.mul_(self.pivots)
        for i in range(len(x) - 2, -1, -1):
            x[i].addcmul_(back[i], x[i + 1], value=-1)
        return rhs


def _eliminate(lower, diag, upper, rhs):
    """x of A x = rhs for R right-hand sides; rhs: (n, R, *M), overwritten."""
    factors = Factors(lower, diag, upper)
    factors.pivots, factors.ratios, factors.backs = (t.unsqueeze(1) for t in (factors.pivots, factors.ratios, factors.backs))
    return factors.solve(rhs)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lower, diag, upper, rhs):
        x = _eliminate(lower, diag, upper, rhs.clone(memory_format=torch.contiguous_format))
        ctx.save_for_backward(lower, diag, upper, x)
        ctx.save_for_forward(lower, diag, upper, x)
        return x

    @staticmethod
    def jvp(ctx, by_lower, by_diag, by_upper, by_rhs):
        """A dx = db − dA x."""
        lower, diag, upper, x = ctx.saved_tensors
        change = torch.zeros_like(x) if by_rhs is None else by_rhs.clone(memory_format=torch.contiguous_format)
        if by_lower is not None:
            change[1:] -= by_lower.unsqueeze(1) * x[:-1]
        if by_diag is not None:
            change -= by_diag.unsqueeze(1) * x
        if by_upper is not None:
            change[:-1] -= by_upper.unsqueeze(1) * x[1:]
        return _eliminate(lower, diag, upper, change)

    @staticmethod
    def backward(ctx, grad):
        lower, diag, upper, x = ctx.saved_tensors
        adjoint = _eliminate(upper, diag, lower, grad.clone(memory_format=torch.contiguous_format))
        grad_lower = -(adjoint[1:] * x[:-1]).sum(1)
        grad_diag = -(adjoint * x).sum(1)
        grad_upper = -(adjoint[:-1] * x[1:]).sum(1)
        return grad_lower, grad_diag, grad_upper, adjoint


def solve(lower: torch.Tensor, diag: torch.Tensor, upper: torch.Tensor, rhs: torch.Tensor) -> torch.Tensor:
    """Solves A x = rhs along the first axis, differentiable in every argument.

    lower, upper: (n − 1, *M) entries (i+1, i) and (i, i+1); diag: (n, *M); rhs: (n, R, *M), R
    right-hand sides that share the matrix. Returns x: (n, R, *M).
    """
    return _Solve.apply(lower, diag, upper, rhs)
