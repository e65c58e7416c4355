"""A diffeomorphic flow that moves tissue, with a small correction of what it carries (after Dalca et al. 2019, MedIA)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .frame import CONDITIONS, Head, blurred, channels, condition_of, everywhere, logits
from .unet import Backbone


def places(like: torch.Tensor) -> torch.Tensor:
    """Voxel indices (1, n, *S) of a field (B, ., *S)."""
    lines = [torch.arange(n, dtype=like.dtype, device=like.device) for n in like.shape[2:]]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")).unsqueeze(0)


def warped(field: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """field(x + u(x)), linear between voxels, the edge repeated; field: (B, C, *S); u: (B, n, *S) in voxels."""
    at = places(field) + displacement
    size = torch.tensor([max(n - 1, 1) for n in field.shape[2:]], dtype=field.dtype, device=field.device)
    at = 2 * at / size.reshape(1, -1, *[1] * len(field.shape[2:])) - 1
    # grid_sample wants the last axis of the image first
    at = at.flip(1).movedim(1, -1)
    return F.grid_sample(field, at, mode="bilinear", padding_mode="border", align_corners=True)


def flowed(velocity: torch.Tensor, squarings: int) -> torch.Tensor:
    """Displacement of the flow of a stationary velocity after unit time, by scaling and squaring (Arsigny et al. 2006)."""
    u = velocity / 2 ** squarings
    for _ in range(squarings):
        u = u + warped(u, u)
    return u


class Flow(nn.Module):
    """p(t) = softmax(logits(p(0) ∘ exp(v)) + c): v a stationary velocity, c a correction, both from one UNet.

    v and c are conditioned on the first state, the images, the days and the treatment. The correction lets the classes
    `corrected` appear and vanish (tumor, cavity), which no flow can. axes, classes, images, width, levels: as of `UNet`;
    smooth: times that the velocity is blurred; squarings: halvings of the flow.
    """

    name = "Flow"

    def __init__(
        self, axes: int, classes: int, images: int, corrected: tuple[int, ...],
        *, width: int = 16, levels: int = 3, smooth: int = 4, squarings: int = 5,
    ):
        super().__init__()
        self.axes, self.smooth, self.squarings, self.corrected = axes, smooth, squarings, list(corrected)
        self.backbone = Backbone(axes, 2 * classes + images + CONDITIONS, width, levels)
        self.head = Head(axes, width, CONDITIONS, axes + len(corrected))

    def forward(self, batch) -> torch.Tensor:
        """(B, V − 1, K, *S)"""
        seen, p = channels(batch), batch.states[:, 0]
        index = torch.tensor(self.corrected, device=p.device)
        predicted = []
        for visit in range(1, batch.states.shape[1]):
            condition = condition_of(batch, 0, visit)
            out = self.head(self.backbone(torch.cat((seen, everywhere(condition, seen)), 1)), condition)
            # under autocast too the places of voxels are in single precision
            out = out.to(p.dtype)
            velocity = out[:, :self.axes]
            for _ in range(self.smooth):
                velocity = blurred(velocity)
            moved = logits(warped(p, flowed(velocity, self.squarings)))
            predicted.append(torch.softmax(moved.index_add(1, index, out[:, self.axes:]), 1))
        return torch.stack(predicted, 1)
