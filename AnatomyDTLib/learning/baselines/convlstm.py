"""ConvLSTM (Shi et al. 2015, NeurIPS) that is rolled from visit to visit."""

from __future__ import annotations

import torch
from torch import nn

from .frame import CONDITIONS, GIVEN, Head, Pyramid, channels, condition_of, convolution, courses, everywhere, logits


class Cell(nn.Module):
    """i, f, o, g = conv([x, h]);  c' = σ(f) c + σ(i) tanh(g);  h' = σ(o) tanh(c')"""

    def __init__(self, axes: int, inputs: int, hidden: int, kernel: int):
        super().__init__()
        self.gates = convolution(axes)(inputs + hidden, 4 * hidden, kernel, padding=kernel // 2)
        with torch.no_grad():
            self.gates.bias[hidden:2 * hidden] = 1.0      # a cell that remembers from the start (Jozefowicz et al. 2015)

    def forward(self, x, h, c):
        i, f, o, g = self.gates(torch.cat((x, h), 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class ConvLSTM(nn.Module):
    """Encodes the first state, steps the cell `parts` times per interval at 1/2^levels of the size, decodes at each visit.

    At each step the cell sees the encoded first state and what lies in that part of the interval, days included.
    p(t) = softmax(logits(p(0)) + head(decode(encoded state + out(h(t)))))
    axes, classes, images, width, levels: as of `UNet`; hidden: channels of h and c; kernel: of the cell, voxels
    """

    name = "ConvLSTM"

    def __init__(
        self, axes: int, classes: int, images: int,
        *, width: int = 16, levels: int = 2, parts: int = 3, hidden: int = 32, kernel: int = 3,
    ):
        super().__init__()
        self.parts, self.hidden = parts, hidden
        self.pyramid = Pyramid(axes, 2 * classes + images, width, levels)
        self.cell = Cell(axes, self.pyramid.depth + GIVEN, hidden, kernel)
        self.out = convolution(axes)(hidden, self.pyramid.depth, 1)
        self.head = Head(axes, width, CONDITIONS, classes)

    def forward(self, batch) -> torch.Tensor:
        """(B, V − 1, K, *S)"""
        start = logits(batch.states[:, 0])
        features = self.pyramid.encode(channels(batch))
        deep = features[-1]
        h = c = torch.zeros_like(deep[:, :1]).expand(-1, self.hidden, *deep.shape[2:])
        predicted = []
        for visit in range(1, batch.states.shape[1]):
            for given in courses(batch, visit - 1, visit, self.parts).unbind(1):
                h, c = self.cell(torch.cat((deep, everywhere(given, deep)), 1), h, c)
            condition = condition_of(batch, 0, visit)
            decoded = self.pyramid.decode(features, deep + self.out(h), condition)
            predicted.append(torch.softmax(start + self.head(decoded, condition), 1))
        return torch.stack(predicted, 1)
