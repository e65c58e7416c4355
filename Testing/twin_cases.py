"""Small heads and cases of them for the tests of the twin."""

import numpy as np

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
