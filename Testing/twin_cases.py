"""Small heads, cases of them and networks that act, for the tests of what learns."""

import numpy as np
import torch

from AnatomyDTLib.learning.cases import Case, Dataset
from AnatomyDTLib.plan import Anatomy
from AnatomyDTLib.presets import tissue

SIZE = 40


def head(shape=(SIZE, SIZE)):
    """Background around two halves of tissue with a ventricle and a tumor across their border; labels and anatomy."""
    anatomy = Anatomy(tuple(tissue(n, r) for n, r in (
        ("Background", "background"), ("White", "white"), ("Grey", "grey"), ("Ventricle", "ventricle"), ("Cavity", "cavity"), ("Tumor", "tumor"),
    )))
    x = np.indices(shape)
    labels = np.where(x[-1] < shape[-1] // 2, 1, 2).astype(np.uint8)
    edge = np.zeros(shape, bool)
    for axis, n in enumerate(shape):
        edge |= (x[axis] < 2) | (x[axis] >= n - 2)
    labels[edge] = 0
    labels[(x[-2] > shape[-2] - 12) & (x[-2] < shape[-2] - 6) & ~edge] = 3
    centre = [n // 2 for n in shape]
    centre[-2] -= 4
    labels[sum((x[a] - c) ** 2 for a, c in enumerate(centre)) < 36] = 5
    return labels, anatomy


def one_case(days=(0.0, 60.0), treatments=(), shape=(SIZE, SIZE), name="a"):
    labels, anatomy = head(shape)
    return Dataset(name, anatomy, (1.0,) * len(shape), (Case(name, name, tuple(days), np.stack([labels] * len(days)), treatments),))


def trained_a_little(net, size: float = 0.1):
    """The net with its zero layers filled, so that everything before them shows."""
    with torch.no_grad():
        for parameter in net.parameters():
            if not bool(parameter.any()):
                parameter.copy_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return net
