"""Mass effect: tissue is displaced, not destroyed; a ventricle beside a growing tumor shrinks in one piece."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from AnatomyDTLib import Plan, forecast
from AnatomyDTLib.physics import screened
from AnatomyDTLib.physics.pressure import MassEffect
from AnatomyDTLib.physics.transport import AxisSystem
from AnatomyDTLib.presets import completed, tissue

NAMES = ("Background", "White matter", "Ventricles", "Tumor")


def head(n=44):
    """A ball of white matter with a ventricle and a tumor beside it, 2 mm voxels."""
    z, y, x = np.meshgrid(*[np.arange(n) - n / 2 + 0.5] * 3, indexing="ij")
    labels = np.zeros((n, n, n), np.uint8)
    labels[z**2 + y**2 + x**2 < (0.47 * n) ** 2] = 1
    labels[(z / 6) ** 2 + (y / 9) ** 2 + ((x - 6) / 3.2) ** 2 < 1] = 2
    labels[z**2 + y**2 + (x + 4) ** 2 < 25] = 3
    return labels


def plan(mass_effect, days=(60.0,)):
    roles = ("background", "white", "ventricle", "tumor")
    return Plan(completed([tissue(n, r, "lipkova") for n, r in zip(NAMES, roles)], ()), (), days, mass_effect=mass_effect)


def test_ventricle_beside_a_growing_tumor_shrinks_and_stays_in_one_piece():
    labels = head()
    replaced = forecast(labels, (2.0,) * 3, plan(0.0), device="cpu")
    pushed = forecast(labels, (2.0,) * 3, plan(0.8), device="cpu")
    before = (labels == 2).sum()
    assert (replaced.labels[-1] == 2).sum() == before, "without mass effect the ventricle holds its shape"
    after = pushed.labels[-1] == 2
    print(f"ventricle {before} -> {after.sum()} voxels; tumor {replaced.volume_ml[:, 3]} vs {pushed.volume_ml[:, 3]} mL")
    assert after.sum() < 0.95 * before
    assert ndimage.label(after)[1] == 1
    assert pushed.volume_ml[-1, 3] > 1.2 * pushed.volume_ml[0, 3]
    # the white matter that the tumor would have replaced is still there, pushed into the ventricle
    assert pushed.volume_ml[-1, 1] > replaced.volume_ml[-1, 1]
    # the wall facing the tumor moves most: the ventricle's centre moves away from it
    centre = [ndimage.center_of_mass(m)[2] for m in (labels == 2, after)]
    assert centre[1] > centre[0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_push_relieves_the_excess_and_conserves_tissue(ndim):
    torch.manual_seed(0)
    n = 24
    shape = (n,) * ndim
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) - 11.5] * ndim, indexing="ij")
    r2 = sum(a * a for a in axes)
    fluid = torch.sigmoid(2 * (((axes[0] - 5) ** 2 + r2 - axes[0] ** 2).sqrt().neg() + 3))
    still = (r2 > 10.5**2).double()
    tissue_part = (1 - fluid) * (1 - still)
    p = torch.stack((still, tissue_part, fluid * (1 - still)))[None]
    growth = 0.05 * torch.exp(-((axes[0] + 4) ** 2 + r2 - axes[0] ** 2) / 8) * (1 - still) * tissue_part
    grown = p.clone()
    grown[:, 1] += growth
    effect = MassEffect(1.0, (0,), (2,), (1.5,) * ndim)
    after = effect.push(grown)
    assert torch.allclose(after.sum(1), torch.ones(1, *shape, dtype=torch.float64), atol=1e-12)
    assert float(after.min()) >= 0
    assert torch.equal(after[:, 0], p[:, 0]), "what is still does not move"
    gained = float((after[:, 1] - p[:, 1]).sum() / growth.sum())
    print(f"{ndim}D: {100 * gained:.1f} % of the growth is room taken from the fluid")
    assert 0.75 < gained <= 1.001
    assert float((p[:, 2] - after[:, 2]).sum()) == pytest.approx(gained * float(growth.sum()), rel=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradient_through_the_push(ndim):
    torch.manual_seed(1)
    shape = (5,) * ndim
    p = torch.rand(1, 3, *shape, dtype=torch.float64) + 0.2
    p = p / p.sum(1, keepdim=True) * (1 + 0.02 * torch.rand(1, 1, *shape, dtype=torch.float64))
    effect = MassEffect(1.0, (), (2,), (4.0,) * ndim)
    assert torch.autograd.gradcheck(effect.push, (p.requires_grad_(),), atol=1e-5, rtol=1e-3)


def test_traces_that_an_advection_leaves_are_no_room_to_divide_by():
    # a voxel that a push has emptied down to denormal numbers once made the next solve divide by zero
    capacity = torch.ones(6, 1, 3)
    capacity[3] = 1.4e-45
    mover = 0.5 * capacity
    for scale in (0.1, 10.0):
        flux = AxisSystem(capacity, torch.tensor(0.65), scale).flux_of(mover)
        assert bool(torch.isfinite(flux).all())
        assert float(flux[2:4].abs().max()) == 0.0, "nothing passes through a closed voxel"


@pytest.mark.parametrize("shape, spacing", [((1, 24, 31), (1.0, 2.0)), ((2, 9, 12, 14), (3.0, 1.0, 1.5))])
def test_screened_pressure_solves_its_equation(shape, spacing):
    torch.manual_seed(0)
    source = torch.randn(shape, dtype=torch.float64)
    pressure = screened.solve(source, 7.0, spacing)
    left = pressure / 49.0
    for axis, h in enumerate(spacing, start=1):
        step = torch.diff(pressure, dim=axis, prepend=pressure.narrow(axis, 0, 1), append=pressure.narrow(axis, pressure.shape[axis] - 1, 1))
        left = left - torch.diff(step, dim=axis) / h**2
    assert torch.allclose(left, source, atol=1e-9)
