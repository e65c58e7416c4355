"""Euclidean projection onto the probability simplex."""

from __future__ import annotations

import torch

# A voxel whose sum is 1 to this tolerance and that has no negative entry is on the simplex: it comes
# back as it is, to the last bit. Float32 sums of a few classes are off by some 1e-7.
TOLERANCE = 1e-6


class _Projection(torch.autograd.Function):
    """x ↦ argmin ‖x − y‖² over the simplex, along the last axis (Duchi et al. 2008, algorithm 1).

    Its Jacobian on the support is I − 11ᵀ/|support|, and zero outside.
    """

    @staticmethod
    def forward(ctx, y):
        sorted_y = torch.sort(y, dim=-1, descending=True).values
        excess = sorted_y.cumsum(-1) - 1
        rank = torch.arange(1, y.shape[-1] + 1, device=y.device, dtype=y.dtype)
        # The largest j with y_(j) − (Σ_{i≤j} y_(i) − 1)/j > 0; j itself, not j + 1 (the off-by-one
        # moves points that are already on the simplex).
        support = (sorted_y * rank > excess).sum(-1, keepdim=True).clamp(min=1)
        shift = excess.gather(-1, support - 1) / support.to(y.dtype)
        x = (y - shift).clamp(min=0)
        ctx.save_for_backward(x > 0)
        ctx.save_for_forward(x > 0)
        return x

    @staticmethod
    def jvp(ctx, by_y):
        """Its Jacobian is symmetric, so that the tangent goes as the gradient does."""
        return _Projection.backward(ctx, by_y)

    @staticmethod
    def backward(ctx, grad):
        (support,) = ctx.saved_tensors
        held = torch.where(support, grad, torch.zeros_like(grad))
        mean = held.sum(-1, keepdim=True) / support.sum(-1, keepdim=True).clamp(min=1)
        return torch.where(support, grad - mean, torch.zeros_like(grad))


def project(p: torch.Tensor, dim: int = 1, tolerance: float = TOLERANCE) -> tuple[torch.Tensor, float]:
    """Projects p onto {p_k ≥ 0, Σ_k p_k = 1} along `dim`; only voxels that are off it are touched.

    p: (B, K, *S). Returns the projected state and the largest change of any entry.
    """
    total = p.sum(dim, keepdim=True)
    off = ((total - 1).abs() > tolerance) | (p.amin(dim, keepdim=True) < 0)
    if not bool(off.any()):
        return p, 0.0
    rows = p.movedim(dim, -1)
    chosen = off.movedim(dim, -1)[..., 0]
    before = rows[chosen]
    after = _Projection.apply(before)
    moved = rows.clone()
    moved[chosen] = after
    return moved.movedim(-1, dim), float((after - before).detach().abs().max())
