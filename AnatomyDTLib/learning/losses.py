"""What training minimises: Dice, clDice, overlap, total variation (paper, sections 2.5 and 2.6).

    L = Σ_k Dice_k / K + λ_topo (λ1 Σ_{k ∈ K_cl} clDice_k / |K_cl| + λ2 overlap) + λ_tv TV(g)        (eq. 3)

λ_reg ‖θ‖² is the optimiser's decoupled weight decay. Sums over classes are means here, so that a weight means the same
for five classes and for fifty. p: predicted probabilities, q: observed ones, both (N, K, *S) on the simplex.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional

SMOOTH = 1e-5
# Erosions of the soft skeleton: half the width of the widest structure that it should thin to a line, voxels.
EROSIONS = 5


@dataclass(frozen=True)
class LossWeights:
    """cl_dice: λ_topo λ1; overlap: λ_topo λ2; cross_entropy: of −Σ_k q_k log p_k, beside the paper's terms; tv: λ_tv, day · mm"""

    dice: float = 1.0
    cross_entropy: float = 1.0
    cl_dice: float = 0.2
    overlap: float = 0.1
    tv: float = 0.0


def dice_loss(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """1 − (2 ⟨p, q⟩ + ε) / (⟨p, 1⟩ + ⟨q, 1⟩ + ε) per class, (N, K): 0 for a class that is on neither side."""
    axes = tuple(range(2, p.dim()))
    return 1 - (2 * (p * q).sum(axes) + SMOOTH) / (p.sum(axes) + q.sum(axes) + SMOOTH)


def cross_entropy(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """−Σ_k q_k log p_k, mean over the voxels, (N,)."""
    return -(q * p.clamp(min=1e-7).log()).sum(1).flatten(1).mean(1)


def soft_skeleton(p: torch.Tensor, erosions: int = EROSIONS) -> torch.Tensor:
    """S(p): what each opening removes, over repeated erosions (Shit et al. 2021, CVPR). p: (N, C, *S), 2D or 3D.

    δ_i = relu(e_i − open(e_i)), S ← S + relu(δ_i − S δ_i), e_0 = p, e_{i+1} = erode(e_i)
    """
    skeleton = None
    for _ in range(erosions + 1):
        eroded = _erode(p)
        removed = functional.relu(p - _dilate(eroded))
        skeleton = removed if skeleton is None else skeleton + functional.relu(removed - skeleton * removed)
        p = eroded
    return skeleton


def _erode(p):
    """Least of a voxel and its neighbours over a face."""
    pool = (functional.max_pool2d, functional.max_pool3d)[p.dim() - 4]
    least = None
    for axis in range(p.dim() - 2):
        size = [3 if a == axis else 1 for a in range(p.dim() - 2)]
        along = -pool(-p, size, 1, [n // 2 for n in size])
        least = along if least is None else torch.minimum(least, along)
    return least


def _dilate(p):
    """Largest of a voxel and all of its neighbours."""
    return (functional.max_pool2d, functional.max_pool3d)[p.dim() - 4](p, 3, 1, 1)


def cl_dice_loss(p: torch.Tensor, q: torch.Tensor, erosions: int = EROSIONS) -> torch.Tensor:
    """Definition 3 per class, (N, K): 1 − 2XY / (X + Y + ε), X = ⟨S(p), q⟩ / (⟨S(p), 1⟩ + ε), Y = ⟨S(q), p⟩ / (⟨S(q), 1⟩ + ε).

    Zero where the class is not observed: there is no centreline to keep, and Dice already refuses to invent one.
    """
    axes = tuple(range(2, p.dim()))
    with torch.no_grad():
        of_q = soft_skeleton(q, erosions)
    of_p = soft_skeleton(p, erosions)
    x = (of_p * q).sum(axes) / (of_p.sum(axes) + SMOOTH)
    y = (of_q * p).sum(axes) / (of_q.sum(axes) + SMOOTH)
    return (1 - 2 * x * y / (x + y + SMOOTH)) * (q.sum(axes) > 0)


def overlap_loss(p: torch.Tensor) -> torch.Tensor:
    """Definition 4, (N,): 2 / (K (K − 1)) Σ_{i<j} E_x[p_i p_j], by Σ_{i<j} p_i p_j = ((Σ p)² − Σ p²) / 2."""
    pairs = (p.sum(1) ** 2 - (p * p).sum(1)) / 2
    return 2 / (p.shape[1] * (p.shape[1] - 1)) * pairs.flatten(1).mean(1)


def total_variation(field: torch.Tensor, spacing_mm) -> torch.Tensor:
    """Mean over voxels and channels of Σ_axis |∂field|, per mm; field: (N, C, *S). A scalar."""
    total = field.new_zeros(())
    for axis, h in enumerate(spacing_mm):
        if field.shape[2 + axis] > 1:
            total = total + field.diff(dim=2 + axis).abs().sum() / h
    return total / field.numel()


def anatomy_topology_loss(p, q, tree_classes, cl_dice: float, overlap: float, erosions: int = EROSIONS) -> torch.Tensor:
    """ATL = λ1 Σ_{k ∈ K_cl} clDice_k / |K_cl| + λ2 overlap, (N,)."""
    chosen = list(tree_classes)
    total = overlap * overlap_loss(p)
    if chosen and cl_dice > 0:
        total = total + cl_dice * cl_dice_loss(p[:, chosen], q[:, chosen], erosions).mean(1)
    return total


def forecast_loss(predicted, batch, weights: LossWeights, tree_classes=()) -> torch.Tensor:
    """The loss of a batch's forecast without the terms of the network: mean over its visits that are there.

    predicted: (B, V − 1, K, *S), as a model returns it for a `batches.Batch`
    """
    seen = batch.present[:, 1:]
    p, q = predicted[seen], batch.states[:, 1:][seen]
    total = weights.dice * dice_loss(p, q).mean(1)
    if weights.cross_entropy > 0:
        total = total + weights.cross_entropy * cross_entropy(p, q)
    if weights.cl_dice > 0 or weights.overlap > 0:
        total = total + anatomy_topology_loss(p, q, tree_classes, weights.cl_dice, weights.overlap)
    return total.mean()
