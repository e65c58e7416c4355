"""The paper's scheme, and what it does not reach."""

import pytest
import torch
from physics_cases import coarse, coordinates, dice, pair, pair_equation

from AnatomyDTLib.physics.equation import CrossDiffusion
from AnatomyDTLib.physics.jacobi import JacobiStepper
from AnatomyDTLib.physics.stepping import Course, integrate


@pytest.mark.parametrize("size, expected", [(0.1, (0.3, 0.0, 0.0)), (1.0, (42, 16, 0.0)), (10.0, (140, 114, 4))])
def test_jacobi_sweeps_against_the_converged_solve(size, expected):
    """The table of the method: L1 error in % of m = 4, 8, 128 sweeps on a point source."""
    p = pair(torch.zeros(33, 33, dtype=torch.float64))
    p[0, 0, 16, 16], p[0, 1, 16, 16] = 1.0, 0.0

    def solved(sweeps, omega=1.0):
        return JacobiStepper(pair_equation(p, size), sweeps=sweeps, omega=omega)._solved(p[:, 0], p[:, 0], 0, 1.0)

    exact = solved(3000, 0.9)
    assert float(exact.sum()) == pytest.approx(1.0, abs=1e-6)
    for sweeps, percent in zip((4, 8, 128), expected):
        assert 100 * float((solved(sweeps) - exact).abs().sum()) == pytest.approx(percent, rel=0.02, abs=0.2)


def shared_domain(n, dtype=torch.float32):
    """A tumor of 4 mm in two tissues on a domain of 32 mm with n² voxels."""
    h = 32.0 / n
    x, y = coordinates((n, n), (h, h))
    u = 0.9 * torch.sigmoid((4 - (x * x + y * y).sqrt()) / 0.3)
    white = torch.sigmoid(x / 0.5)
    return torch.stack((u, (1 - u) * white, (1 - u) * (1 - white)))[None].to(dtype), h


def shared_equation(p, h, d=2.0, rho=4.0):
    rates = torch.tensor([rho, 0, 0], dtype=p.dtype)
    return CrossDiffusion((h, h), torch.tensor([d, 0, 0], dtype=p.dtype), ((1, 2), (), ()), rho=rates, dead=(-1,) * 3)


def shared_result(n, dt, scheme):
    p, h = shared_domain(n)
    with torch.no_grad():
        states, _ = integrate(p, shared_equation(p, h), Course((1.0,), dt), scheme=scheme)
    return states[0][0, 0].double(), h


def test_a_step_of_03_does_not_collapse():
    fine, _ = shared_result(64, 0.01, "lod")
    ours, _ = shared_result(64, 0.3, "lod")
    theirs, _ = shared_result(64, 0.3, "jacobi")
    error, collapsed = ((x - fine).abs().sum() / fine.sum() for x in (ours, theirs))
    overlap, lost = (dice(x > 0.5, fine > 0.5) for x in (ours, theirs))
    print(f"dt 0.3: L1 {error:.3f}, DSC {overlap:.4f}; jacobi L1 {collapsed:.3f}, DSC {lost:.4f}")
    assert overlap > 0.95 and error < 0.05
    assert lost < 0.8 and collapsed > 3 * error


@pytest.mark.parametrize("n", [256, 512])
def test_fine_grids_do_not_collapse(n):
    """The same tumor on the same domain: a coarse grid that both schemes solve well is the reference."""
    fine, _ = shared_result(64, 0.01, "lod")
    ours, _ = shared_result(n, 0.1, "lod")
    theirs, _ = shared_result(n, 0.1, "jacobi")
    means = [coarse(x, n // 64) for x in (ours, theirs)]
    error, collapsed = (float((x - fine).abs().sum() / fine.sum()) for x in means)
    print(f"{n}²: L1 {error:.3f}; jacobi {collapsed:.3f}")
    assert error < 0.05 and dice(means[0] > 0.5, fine > 0.5) > 0.98
    assert collapsed > 2 * error


def test_growth_rates_of_10_do_not_collapse():
    p, h = shared_domain(48)

    def rates(q, start, dt):
        """A learned rate of ±10/day that changes sign in space, weighted to keep the sum."""
        x, _ = coordinates(q.shape[2:], (h, h))
        k = 10 * torch.sin(x / 2).to(q.dtype)
        wanted = torch.stack((k, -k, torch.zeros_like(k)))[None]
        return wanted - (q * wanted).sum(1, keepdim=True)

    def final(dt, scheme):
        with torch.no_grad():
            states, _ = integrate(p, shared_equation(p, h, d=0.5), Course((1.0,), dt), residual=rates, scheme=scheme)
        return states[0][0].double()

    fine = final(0.005, "lod")
    ours, theirs = final(0.1, "lod"), final(0.3, "jacobi")
    error = float((ours - fine).abs().sum(0).mean())
    collapsed = float((theirs - fine).abs().sum(0).mean())
    print(f"k_max 10: mean L1 {error:.3f}, jacobi at dt 0.3 {collapsed:.3f}")
    assert torch.isfinite(ours).all() and ours.min() >= 0
    assert dice(ours[0] > 0.5, fine[0] > 0.5) > 0.97
    assert error < 0.05
