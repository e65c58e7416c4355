"""NeuralODE (Chen et al. 2018, NeurIPS) in a latent space, on torchdiffeq with fixed steps of rk4."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .frame import CONDITIONS, GIVEN, Head, Pyramid, channels, condition_of, convolution, courses, everywhere, logits

# A part of no days, where a case has fewer visits than its batch, has nothing given in it; 0.1 day.
SHORTEST = 1e-3


class Velocity(nn.Module):
    """f of dz/dt = f(z, what is given per 100 days), in 1 / 100 days."""

    def __init__(self, axes: int, depth: int, hidden: int):
        super().__init__()
        make = convolution(axes)
        self.first = make(depth + GIVEN - 1, hidden, 3, padding=1)
        self.second = make(hidden, depth, 3, padding=1)

    def forward(self, z, given):
        x = F.silu(self.first(torch.cat((z, everywhere(given, z)), 1)))
        return self.second(x)


class NeuralODE(nn.Module):
    """z(0) = encoded first state;  dz/dt = f(z, treatment of the interval);  p(t) = softmax(logits(p(0)) + head(z(t))).

    Cases of different days are integrated side by side: each of `parts` parts of an interval is one step of rk4 over
    0..1, with f multiplied by the part's own length in days. axes, classes, images, width, levels: as of `UNet`; hidden: channels in f.
    """

    name = "NeuralODE"

    def __init__(self, axes: int, classes: int, images: int, *, width: int = 16, levels: int = 2, parts: int = 2, hidden: int = 32):
        super().__init__()
        self.parts = parts
        self.pyramid = Pyramid(axes, 2 * classes + images, width, levels)
        self.velocity = Velocity(axes, self.pyramid.depth, hidden)
        self.head = Head(axes, width, CONDITIONS, classes)

    def forward(self, batch) -> torch.Tensor:
        """(B, V − 1, K, *S)"""
        from torchdiffeq import odeint

        start = logits(batch.states[:, 0])
        features = self.pyramid.encode(channels(batch))
        z = features[-1]
        edges = torch.tensor((0.0, 1.0), dtype=z.dtype, device=z.device)
        predicted = []
        for visit in range(1, batch.states.shape[1]):
            for given in courses(batch, visit - 1, visit, self.parts).unbind(1):
                rate = given[:, 1:] / given[:, :1].clamp(min=SHORTEST)
                length = everywhere(given[:, :1], z)
                z = odeint(lambda _, state: length * self.velocity(state, rate), z, edges, method="rk4")[-1]
            condition = condition_of(batch, 0, visit)
            decoded = self.pyramid.decode(features, z, condition)
            predicted.append(torch.softmax(start + self.head(decoded, condition), 1))
        return torch.stack(predicted, 1)
