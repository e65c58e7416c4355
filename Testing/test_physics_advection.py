"""Advection of classes along an axis: sharp, conservative, and its written derivatives against differences."""

import pytest
import torch

from AnatomyDTLib.physics.advection import advect


def test_advection_carries_an_edge_without_smearing_it():
    n = 120
    classes = torch.zeros(n, 2, 1, dtype=torch.float64)
    classes[:30, 0] = 1.0
    classes[30:, 1] = 1.0
    volume = torch.full((n - 1, 1, 1), 0.25, dtype=torch.float64)
    for _ in range(160):
        before = classes.sum(0)
        classes = advect(classes, volume)
        assert torch.allclose(classes.sum(0), before, atol=1e-12)
    inside = classes[45:100, 0]  # away from the closed ends, where the volume piles up
    edge = int((classes[:100, 0] > 0.5).nonzero().max()) + 1
    assert abs(edge - (30 + 40)) <= 1
    assert int(((inside > 0.02) & (inside < 0.98)).sum()) <= 4


@pytest.mark.parametrize("seed", range(4))
def test_the_written_derivatives_equal_differences_backward_and_forward(seed):
    generator = torch.Generator().manual_seed(seed)
    # steep, flat and turning stretches, volumes of either sign and of none, broadcast over the classes
    classes = torch.rand(9, 2, 3, generator=generator, dtype=torch.float64)
    classes[3:5] = classes[2] + torch.tensor([0.01, 0.5], dtype=torch.float64)[:, None, None] * classes[3:5]
    volume = 1.6 * torch.rand(8, 1, 3, generator=generator, dtype=torch.float64) - 0.8
    inputs = (classes.requires_grad_(), volume.requires_grad_())
    assert torch.autograd.gradcheck(advect, inputs, check_forward_ad=True)


def test_without_gradients_it_is_the_same_and_what_is_not_there_stays_so():
    classes = torch.rand(12, 3, 4, generator=torch.Generator().manual_seed(1))
    classes[:, 1] = 0.0
    volume = torch.linspace(-0.9, 0.9, 11).reshape(-1, 1, 1)
    with_gradients = advect(classes, volume)
    with torch.no_grad():
        without = advect(classes.clone(), volume)
    assert torch.allclose(with_gradients, without, atol=1e-6)
    assert float(without[:, 1].abs().max()) == 0.0
