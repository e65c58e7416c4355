"""UNet (Ronneberger et al. 2015, MICCAI), MONAI's, with residual units, one shot per visit."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .frame import CONDITIONS, Head, channels, condition_of, everywhere, logits


class Backbone(nn.Module):
    """MONAI's UNet on any size: (B, inputs, *S) -> (B, width, *S).

    Its skip connections fail where a size is no multiple of 2^levels: the input is extended by repeating its edge, and
    the output cut back. Group normalisation: a batch may hold one case, and instance normalisation would take every
    constant channel, the treatment, away.
    """

    def __init__(self, axes: int, inputs: int, width: int, levels: int):
        super().__init__()
        from monai.networks.nets import UNet

        self.factor = 2 ** levels
        # the first stride is 1: with 2 nothing of full size would be carried over to the output
        self.net = UNet(
            axes, inputs, width, channels=[width * min(2 ** i, 8) for i in range(levels + 1)] + [width * min(2 ** levels, 8)],
            strides=[1] + [2] * levels, num_res_units=1, norm=("GROUP", {"num_groups": 4}), act="SWISH",
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        extra = [-n % self.factor for n in size]
        if any(extra):
            around = [side for e in reversed(extra) for side in (e // 2, e - e // 2)]
            x = F.pad(x, around, mode="replicate")
        x = self.net(x)
        return x[(..., *(slice(e // 2, e // 2 + n) for e, n in zip(extra, size)))]


class UNet(nn.Module):
    """p(t) = softmax(logits(p(0)) + UNet(p(0), images, condition)), condition: what lies between the visits.

    axes: 2 or 3; classes: K; images: I; width: channels at full size; levels: of downsampling
    """

    name = "UNet"

    def __init__(self, axes: int, classes: int, images: int, *, width: int = 16, levels: int = 3):
        super().__init__()
        self.backbone = Backbone(axes, 2 * classes + images + CONDITIONS, width, levels)
        self.head = Head(axes, width, CONDITIONS, classes)

    def forward(self, batch) -> torch.Tensor:
        """(B, V − 1, K, *S)"""
        seen = channels(batch)
        start = logits(batch.states[:, 0])
        predicted = []
        for visit in range(1, batch.states.shape[1]):
            condition = condition_of(batch, 0, visit)
            features = self.backbone(torch.cat((seen, everywhere(condition, seen)), 1))
            predicted.append(torch.softmax(start + self.head(features, condition), 1))
        return torch.stack(predicted, 1)
