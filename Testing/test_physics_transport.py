"""Diffusion, cross-diffusion and what gives way: conservation, positivity, monotony, order in space, symmetries."""

import math

import pytest
import torch
from physics_cases import (
    CSF, DEVICES, GIVERS, GREY, TUMOR, VENTRICLE, WHITE,
    brain, coarse, coordinates, equation, mass, pair, pair_equation, radius, run,
)

from AnatomyDTLib.physics.equation import CrossDiffusion, Stepper
from AnatomyDTLib.physics.jacobi import JacobiStepper
from AnatomyDTLib.physics.kernels import FastStepper
from AnatomyDTLib.physics.stepping import Course, integrate

STEPPERS = [Stepper, FastStepper]
SHAPES = [(32, 30), (14, 13, 12)]


def distances(shape, device="cpu"):
    return torch.rand(shape, generator=torch.Generator().manual_seed(7)).to(device)


# Nothing to do

@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stepper", [Stepper, FastStepper, JacobiStepper])
def test_zero_coefficients_return_the_state_to_the_last_bit(stepper, shape, dtype, device):
    p = brain(shape, dtype, device)
    zero = torch.zeros(6, dtype=dtype, device=device)
    eq = equation(p, zero, chi=torch.zeros(6, 6, dtype=dtype, device=device), rho=zero, kappa=zero + 1, atrophy=zero)
    assert torch.equal(run(stepper(eq), p, 1.0, 12), p)
    for scheme in ("lod", "jacobi"):
        with torch.no_grad():
            states, ran = integrate(p, eq, Course((0.0, 7.5, 30.0), 1.0), scheme=scheme)
        assert all(torch.equal(state, p) for state in states) and ran["projected"] == 0.0
        states, ran = integrate(p, eq, Course((7.5,), 1.0), scheme=scheme)
        assert torch.equal(states[0], p)


# Mass

@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dt", [0.25, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_mass_of_every_class_is_conserved_over_300_days(stepper, dt, shape, device):
    p = brain(shape, device=device)
    walk = stepper(equation(p, 0.65))
    q = run(walk, p, dt, round(300 / dt))
    drift = ((mass(q) - mass(p)) / mass(p)).abs().max()
    assert drift < 1e-5
    assert q.min() >= 0 and (q.sum(1) - 1).abs().max() < 2e-6
    assert walk.projected < 1e-6
    alone = p[:, VENTRICLE:] == 1
    assert alone.any() and torch.equal(q[:, VENTRICLE:][alone], p[:, VENTRICLE:][alone])
    assert (q[:, VENTRICLE:] - p[:, VENTRICLE:]).abs().max() < 2e-6
    assert (q[:, TUMOR] - p[:, TUMOR]).abs().max() > 0.1


@pytest.mark.parametrize("chi", [0.0, 6.5, -6.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_transport_conserves_mass_before_any_projection(shape, chi):
    p = brain(shape)
    cross = torch.zeros(6, 6)
    cross[TUMOR, WHITE], cross[TUMOR, GREY] = chi, -chi / 2
    walk = Stepper(equation(p, 0.65, chi=cross if chi else None))
    with torch.no_grad():
        for axis in range(len(shape)):
            q = walk._transport(p, TUMOR, axis, 30.0)
            assert ((mass(q) - mass(p)) / mass(p)).abs().max() < 1e-5
            assert (q.sum(1) - 1).abs().max() < 1e-4 and q.min() > -1e-5
    assert walk.projected == 0.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_fast_step_equals_the_reference(shape, dtype, device):
    p = brain(shape, dtype, device)
    cross = torch.zeros(6, 6, dtype=dtype, device=device)
    cross[GREY, WHITE] = -0.3
    rho = torch.tensor([0.05, 0, 0, 0, 0, 0], dtype=dtype, device=device)
    kappa = torch.tensor([0.7, 1, 1, 1, 1, 1], dtype=dtype, device=device)
    shrink = torch.tensor([0, 0.002, 0, 0, 0, 0], dtype=dtype, device=device)
    two = torch.tensor([0.4, 0.0, 0.1, 0, 0, 0], dtype=dtype, device=device)
    field = 0.5 * distances((1, 6, *shape), device).to(dtype)
    field[:, 1:] = 0
    both = (GIVERS, (), (WHITE, CSF), (), (), ())
    like = dict(dtype=dtype, device=device)
    exponent = torch.tensor([0.3, 0, 0, 0, 0, 0], **like), torch.tensor(0.2, **like)
    per_axis = torch.tensor([[0.5, 0.1, 0.9][: len(shape)]] + [[0.0] * len(shape)] * 5, **like)
    dead = (VENTRICLE, CSF, CSF, -1, -1, -1)
    cases = [
        (equation(p, 0.65, rho=rho), 1.0, None),
        (equation(p, field, rho=rho), 5.0, None),
        (equation(p, per_axis), 2.0, None),
        (equation(p, 0.65, rho=rho, kappa=kappa, dead=dead, atrophy=shrink), 1.0, exponent),
        (equation(p, 0.65, rho=rho, dead=dead), 1.0, exponent),
        (equation(p, two, yields=both, chi=cross, rho=rho), 1.0, None),
    ]
    for eq, dt, kill in cases:
        a, b = p.clone(), p.clone()
        reference, fast = Stepper(eq), FastStepper(eq)
        with torch.no_grad():
            for i in range(8):
                killed = kill if i in (3, 4, 6) else None  # C of the tumor changes in the middle of a step
                a = reference.step(a, dt, reverse=i % 2 == 1, kill=killed)
                b = fast.step(b, dt, reverse=i % 2 == 1, kill=killed)
        assert (a - b).abs().max() < (2e-6 if dtype == torch.float32 else 1e-10)
        with torch.enable_grad():
            c = p.clone()
            graph = Stepper(eq)
            for i in range(8):
                c = graph.step(c, dt, reverse=i % 2 == 1, kill=kill if i in (3, 4, 6) else None)
        assert (a - c).abs().max() < (2e-6 if dtype == torch.float32 else 1e-10)


# Any step

def steep(shape, dtype=torch.float64):
    """A class that fills half of a box with jumps, beside a wall that holds; (1, 3, *S)."""
    u = (distances(shape) > 0.5).to(dtype)
    wall = (distances(shape[::-1]).permute(*range(len(shape))[::-1]) > 0.9).to(dtype)
    return torch.stack((u * (1 - wall), (1 - u) * (1 - wall), wall))[None]


@pytest.mark.parametrize("stepper", STEPPERS)
@pytest.mark.parametrize("shape", [(20, 18), (9, 8, 10)])
@pytest.mark.parametrize("size", [0.5, 1.0, 7.0, 100.0, 1e4])
def test_positive_bounded_and_order_preserving_at_any_step(size, shape, stepper):
    p = steep(shape)
    per_axis = torch.tensor([[size * f for f in (1.0, 0.1, 0.3)[: len(shape)]], [0.0] * len(shape), [0.0] * len(shape)])
    for d in (torch.tensor([size, 0.0, 0.0]), per_axis):
        eq = equation(p, d.double(), yields=((1,), (), ()), dead=(-1,) * 3)
        more = p.clone()
        add = 0.5 * distances(shape) * p[0, 1]
        more[0, 0] += add
        more[0, 1] -= add
        q, r = run(stepper(eq), p, 1.0, 3), run(stepper(eq), more, 1.0, 3)
        for state in (q, r):
            assert state.min() >= 0 and (state.sum(1) - 1).abs().max() < 1e-6 and torch.isfinite(state).all()
        assert (r[:, 0] - q[:, 0]).min() > -1e-12, "the larger state has to stay the larger one"


@pytest.mark.parametrize("size", [0.5, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_step_profile_stays_monotone(ndim, size):
    u = torch.zeros((24, 3, 2)[:ndim], dtype=torch.float64)
    u[:9] = 1.0
    p = pair(u)
    q = run(Stepper(pair_equation(p, size)), p, 1.0, 1)[0, 0]
    assert (q[1:] - q[:-1]).max() < 1e-14
    assert q.max() <= 1 and q.min() >= 0


@pytest.mark.parametrize("stepper", STEPPERS)
@pytest.mark.parametrize("shape", [(18, 16), (9, 8, 10)])
@pytest.mark.parametrize("diffusivity", [0.0, 0.65])
@pytest.mark.parametrize("factor", [10.0, -10.0])
def test_strong_cross_diffusion_is_positive_and_conservative(factor, diffusivity, shape, stepper):
    p = brain(shape)
    cross = torch.zeros(6, 6)
    cross[TUMOR, WHITE], cross[TUMOR, GREY] = factor * 0.65, -factor * 0.65
    for dt in (1.0, 8.0):
        eq = equation(p, torch.tensor([diffusivity, 0, 0, 0, 0, 0]), chi=cross)
        walk = stepper(eq)
        q = run(walk, p, dt, round(8 / dt))
        assert q.min() >= 0 and (q.sum(1) - 1).abs().max() < 2e-6
        assert walk.projected < 1e-5
        assert ((mass(q) - mass(p)) / mass(p)).abs().max() < 1e-5


def test_positive_chi_moves_up_the_gradient():
    x = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None].expand(30, 4)
    p = torch.stack((torch.full_like(x, 0.3), 0.7 * x, 0.7 * (1 - x)))[None]
    for sign in (1.0, -1.0):
        for spatial in (False, True):
            cross = torch.zeros(3, 3, dtype=torch.float64)
            cross[0, 1] = sign
            if spatial:
                cross = cross.reshape(1, 3, 3, 1, 1).expand(1, 3, 3, 30, 4)
            eq = CrossDiffusion((1.0, 1.0), torch.zeros(3).double(), ((1, 2), (), ()), chi=cross, dead=(-1,) * 3)
            q = run(Stepper(eq), p, 1.0, 5)
            centre = (q[0, 0] * torch.arange(30.0).double()[:, None]).sum() / q[0, 0].sum()
            assert sign * (centre - 14.5) > 0.02


def rotated_tensor(shape, axes=(0.6, 0.1), angle=0.6, dtype=torch.float64):
    """D of class 0 with its axes turned in the plane of the last two axes; (1, 2, n, n, *S)."""
    n = len(shape)
    turn = torch.eye(n, dtype=dtype)
    c, s = math.cos(angle), math.sin(angle)
    turn[-2:, -2:] = torch.tensor([[c, -s], [s, c]], dtype=dtype)
    d = turn @ torch.diag(torch.tensor([0.3, *axes][-n:], dtype=dtype)) @ turn.T
    full = d.reshape(1, 1, n, n, *[1] * n).expand(1, 1, n, n, *shape)
    return torch.cat((full, torch.zeros_like(full)), 1), d


@pytest.mark.parametrize("shape", [(24, 22), (12, 12, 12)])
def test_a_full_tensor_is_bounded_and_what_the_projection_mends_is_reported(shape):
    p = pair((radius(shape) < 4).double())
    d, _ = rotated_tensor(shape, (0.65, 0.065))
    mended = []
    for dt in (0.5, 1.5, 15.0, 1.5e4):
        walk = Stepper(pair_equation(p, d))
        q = run(walk, p, dt, 6)
        assert torch.isfinite(q).all() and q.min() >= 0 and (q.sum(1) - 1).abs().max() < 1e-6
        mended.append(walk.projected)
    print("tensor, lambda 0.3 .. 1e4, largest change by the projection:", ["%.2g" % m for m in mended])
    assert mended[0] < 0.15 and all(math.isfinite(m) for m in mended)
    smooth = pair(0.8 * torch.exp(-((radius(shape) / 4) ** 2)))
    walk = Stepper(pair_equation(smooth, d))
    q = run(walk, smooth, 1.0, 10)
    print("tensor, smooth tumor: projection", walk.projected)
    assert walk.projected < 1e-3
    assert mass(q)[0] == pytest.approx(float(mass(smooth)[0]), rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tensor_moves_nothing_where_the_tumor_is_uniform(shape):
    p = brain(shape, torch.float64)
    participants = p[:, :VENTRICLE].sum(1)
    parts = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=p.dtype).reshape(1, 4, *[1] * len(shape))
    p[:, :VENTRICLE] = parts * participants[:, None]
    d, _ = rotated_tensor(shape)
    d = torch.cat((d[:, :1], torch.zeros(1, 5, *d.shape[2:], dtype=d.dtype)), 1)
    q = run(Stepper(equation(p, d)), p, 1.0, 4)
    assert (q - p).abs().max() < 1e-12


# Order in space

def rate(errors):
    return math.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize("ndim, sizes", [(2, (16, 32, 64)), (3, (8, 16, 32))])
def test_second_order_in_space_for_a_cosine(ndim, sizes):
    length, d, days = 16.0, 0.5, 5.0
    errors = []
    for n in sizes:
        h = length / n
        x = [c + length / 2 for c in coordinates((n,) * ndim, (h,) * ndim)]
        wave = math.prod(torch.cos(math.pi * c / length) for c in x)
        p = pair(0.5 + 0.4 * wave)
        exact = 0.5 + 0.4 * wave * math.exp(-ndim * d * (math.pi / length) ** 2 * days)
        steps = 50 if n == 64 else 20
        q = run(FastStepper(pair_equation(p, d, spacing=(h,) * ndim)), p, days / steps, steps)
        errors.append(float((q[0, 0] - exact).abs().max()))
    print(f"space, constant D, {ndim}D: order {rate(errors):.3f}")
    assert rate(errors) >= 1.8


@pytest.mark.parametrize("axes", ["one", "per axis"])
@pytest.mark.parametrize("ndim, sizes", [(2, (16, 32, 64, 128)), (3, (8, 16, 32))])
def test_second_order_in_space_where_diffusivity_varies(ndim, sizes, axes):
    """Against the block means of the solution on half the spacing; the same time step for all."""
    length, days, steps = 16.0, 1.5, 60
    solutions = []
    for n in sizes:
        h = length / n
        x = [c + length / 2 for c in coordinates((n,) * ndim, (h,) * ndim)]
        d = 0.3 + 0.2 * math.prod(torch.sin(math.pi * c / 8 + i) for i, c in enumerate(x))
        d = torch.stack((d, torch.zeros_like(d)))[None]
        if axes == "per axis":
            d = torch.stack([d * (1 - 0.3 * i) for i in range(ndim)], 2)
        p = pair(0.7 * torch.exp(-sum((c - 7) ** 2 for c in x) / 8))
        solutions.append(run(FastStepper(pair_equation(p, d, spacing=(h,) * ndim)), p, days / steps, steps)[0, 0])
    errors = [float((coarse(fine, 2) - rough).abs().mean()) for rough, fine in zip(solutions, solutions[1:])]
    print(f"space, variable D, {axes}, {ndim}D: order {rate(errors):.3f}")
    assert rate(errors) >= 1.8


@pytest.mark.parametrize("ndim, sizes", [(2, (24, 48, 96)), (3, (12, 24))])
def test_second_order_in_space_for_a_turned_tensor(ndim, sizes):
    length, days = 24.0, 1.5
    errors = []
    for n in sizes:
        h = length / n
        d, matrix = rotated_tensor((n,) * ndim)
        x = torch.stack(coordinates((n,) * ndim, (h,) * ndim))

        def gaussian(t):
            spread = 4.0 * torch.eye(ndim, dtype=torch.float64) + 2 * matrix * t
            quadratic = torch.einsum("a...,ab,b...->...", x, torch.linalg.inv(spread), x)
            return 0.8 * math.sqrt(4.0**ndim / float(torch.linalg.det(spread))) * torch.exp(-quadratic / 2)

        p = pair(gaussian(0.0))
        steps = max(4, math.ceil(days * 0.6 / h**2 / 0.9)) // 2 * 2
        q = run(Stepper(pair_equation(p, d, spacing=(h,) * ndim)), p, days / steps, steps)
        errors.append(float((q[0, 0] - gaussian(days)).abs().mean()))
    print(f"space, tensor D, {ndim}D: order {rate(errors):.3f}")
    assert rate(errors) >= 1.8


# What gives way

@pytest.mark.parametrize("stepper", STEPPERS)
def test_growth_takes_from_each_giver_in_proportion(stepper):
    p = brain((20, 18), torch.float64)
    rho = torch.tensor([0.1, 0, 0, 0, 0, 0]).double()
    q = run(stepper(equation(p, 0.0, rho=rho)), p, 2.0, 5)
    open_ = p[:, :VENTRICLE].sum(1) > 0
    growth = math.exp(0.1 * 10)
    capacity = p[:, :VENTRICLE].sum(1)[open_]
    u = p[:, TUMOR][open_] / capacity
    assert torch.allclose(q[:, TUMOR][open_], capacity * u * growth / (1 + (growth - 1) * u), rtol=1e-9)
    kept = q[:, [*GIVERS]].movedim(1, -1)[open_] / p[:, [*GIVERS]].movedim(1, -1)[open_]
    assert (kept.amax(-1) - kept.amin(-1)).max() < 1e-12
    assert torch.equal(q[:, VENTRICLE:], p[:, VENTRICLE:])


@pytest.mark.parametrize("stepper", STEPPERS)
def test_the_tumor_loses_nothing_of_what_diffuses_into_tissue(stepper):
    """Projecting a tumor that enters a voxel with three classes would take a quarter of its gain back."""
    u = torch.zeros(21, 5, dtype=torch.float64)
    u[10] = 1.0
    p = torch.stack((u, *[(1 - u) * share for share in (0.5, 0.3, 0.2)]))[None]
    eq = CrossDiffusion((1.0, 1.0), torch.tensor([0.4, 0, 0, 0]).double(), ((1, 2, 3), (), (), ()), dead=(-1,) * 4)
    walk = stepper(eq)
    q = run(walk, p, 1.0, 4)
    assert torch.allclose(mass(q), mass(p), rtol=1e-12)
    assert walk.projected < 1e-12
    alone = run(stepper(pair_equation(pair(u), 0.4)), pair(u), 1.0, 4)
    assert torch.allclose(q[:, 0], alone[:, 0], atol=1e-12), "how its room is shared is nothing to the tumor"


def test_nothing_enters_what_holds():
    p = brain((32, 30))
    held = p[:, VENTRICLE:].sum(1) == 1
    q = run(FastStepper(equation(p, 0.65, rho=torch.tensor([0.05, 0, 0, 0, 0, 0]))), p, 1.0, 300)
    assert (q[:, TUMOR][held] == 0).all()
    assert torch.equal(q[:, :, held[0]], p[:, :, held[0]])
    assert q[:, TUMOR].sum() > 10 * p[:, TUMOR].sum()
    assert (q[:, VENTRICLE:] - p[:, VENTRICLE:]).abs().max() < 1e-6


# Symmetry and spacing

@pytest.mark.parametrize("stepper", STEPPERS)
@pytest.mark.parametrize("shape", [(20, 18), (12, 10, 11)])
def test_mirroring_changes_nothing_but_rounding(shape, stepper):
    p = brain(shape, torch.float64)
    cross = torch.zeros(6, 6).double()
    cross[TUMOR, GREY] = -0.2
    rho = torch.tensor([0.05, 0, 0, 0, 0, 0]).double()
    for chi in (None, cross):
        eq = equation(p, 0.65, spacing=(1.0, 0.86, 6.5)[: len(shape)], rho=rho, chi=chi)
        straight = run(stepper(eq), p, 1.0, 10)
        for axis in range(2, p.dim()):
            assert (run(stepper(eq), p.flip(axis), 1.0, 10).flip(axis) - straight).abs().max() < 1e-10


@pytest.mark.parametrize("order", [(1, 0), (2, 0, 1)])
def test_permuting_axes_leaves_a_splitting_error_of_second_order(order):
    shape = ((20, 18), (12, 10, 11))[len(order) - 2]
    x = coordinates(shape)
    d = 0.4 + 0.3 * math.prod(torch.sin(0.5 * c + i) for i, c in enumerate(x))
    d = torch.stack((d, torch.zeros_like(d)))[None]
    p = pair(0.7 * torch.exp(-((radius(shape) / 4) ** 2)))
    spatial = tuple(2 + a for a in order)
    back = tuple(2 + order.index(a) for a in range(len(order)))
    errors = []
    for steps in (8, 16):
        straight = run(Stepper(pair_equation(p, d, rho=0.05)), p, 8 / steps, steps)
        turned_p, turned_d = p.permute(0, 1, *spatial), d.permute(0, 1, *spatial)
        turned = run(Stepper(pair_equation(turned_p, turned_d, rho=0.05)), turned_p, 8 / steps, steps)
        errors.append(float((turned.permute(0, 1, *back) - straight).abs().max()))
    print(f"permuted axes {order}: {errors[0]:.2g} and {errors[1]:.2g}, order {rate(errors):.2f}")
    assert errors[0] < 5e-3 and rate(errors) >= 1.8


def test_half_the_spacing_changes_the_forecast_by_second_order():
    """Tumor and each tissue that it displaces, with growth, on a smooth field."""
    solutions = []
    for n in (16, 32, 64, 128):
        h = 32.0 / n
        x, y = coordinates((n, n), (h, h))
        u = 0.7 * torch.exp(-(x * x + y * y) / 18)
        white = 0.5 + 0.3 * torch.sin(x / 5)
        p = torch.stack((u, (1 - u) * white, (1 - u) * (1 - white)))[None]
        rho = torch.tensor([0.05, 0, 0]).double()
        eq = CrossDiffusion((h, h), torch.tensor([0.4, 0, 0]).double(), ((1, 2), (), ()), rho=rho, dead=(-1,) * 3)
        solutions.append(run(FastStepper(eq), p, 0.15, 60)[0])
    tumor, tissue = (
        [float((coarse(b[k], 2) - a[k]).abs().mean()) for a, b in zip(solutions, solutions[1:])] for k in (0, 1)
    )
    print(f"half the spacing: tumor order {rate(tumor):.2f}, tissue order {rate(tissue):.2f}, tissue {tissue[-1]:.2g}")
    assert rate(tumor) >= 1.8
    assert tissue[-1] < 2e-3 and rate(tissue) >= 0.8
