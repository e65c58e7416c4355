"""Projection onto the simplex: against bisection, idempotent, the right Jacobian."""

import pytest
import torch
from physics_cases import DEVICES

from AnatomyDTLib.physics.simplex import project


def bisected(y):
    """max(y − s, 0) with the shift s at which it sums to 1, found by bisection; (N, K) float64."""
    low, high = y.amin(1, keepdim=True) - 1, y.amax(1, keepdim=True)
    for _ in range(200):
        middle = (low + high) / 2
        above = (y - middle).clamp(min=0).sum(1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (y - low).clamp(min=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_agrees_with_bisection_and_is_idempotent(classes, dtype, tolerance, device):
    torch.manual_seed(classes)
    y = (torch.randn(2, classes, 5, 6, 4, dtype=torch.float64) * 1.5).to(device=device, dtype=dtype)
    x, change = project(y)
    oracle = bisected(y.double().movedim(1, -1).reshape(-1, classes)).reshape(2, 5, 6, 4, classes).movedim(-1, 1)
    assert (x - oracle).abs().max() < tolerance
    assert change == pytest.approx(float((x - y).abs().max()))
    again, second_change = project(x)
    assert (again - x).abs().max() < 1e-6 and second_change < 1e-6
    assert (x >= 0).all() and (x.sum(1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_of_the_simplex_do_not_move_by_a_bit(dtype):
    torch.manual_seed(0)
    p = torch.softmax(3 * torch.randn(1, 6, 30, 30, dtype=dtype), 1)
    corners = torch.eye(6, dtype=dtype)[torch.randint(6, (1, 10, 10))].movedim(-1, 1)
    for state in (p, corners):
        x, change = project(state)
        assert torch.equal(x, state) and change == 0.0


def test_jacobian_is_identity_less_mean_on_the_support():
    y = torch.tensor([0.6, 0.9, 0.3, -0.4], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: project(v.reshape(1, 4, 1))[0].reshape(4), y)
    support = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    expected = torch.diag(support) - torch.outer(support, support) / 3
    projected = project(y.reshape(1, 4, 1))[0].flatten()
    assert projected.tolist() == pytest.approx([1 / 3, 0.6 + 1 / 30, 1 / 30, 0], abs=1e-12)
    assert torch.allclose(jacobian, expected, atol=1e-14)


@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 2)])
def test_gradcheck(shape):
    torch.manual_seed(1)
    y = torch.randn(1, 4, *shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: project(v)[0], (y,))
