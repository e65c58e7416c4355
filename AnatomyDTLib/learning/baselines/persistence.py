"""Persistence: nothing changes."""

from __future__ import annotations

import torch
from torch import nn


class Persistence(nn.Module):
    """p(t) = p(0). What does not beat it has learned nothing."""

    name = "Persistence"

    def forward(self, batch) -> torch.Tensor:
        """(B, V − 1, K, *S)"""
        visits = batch.states.shape[1] - 1
        return batch.states[:, :1].expand(-1, visits, *batch.states.shape[2:]).clone()
