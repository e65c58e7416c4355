"""Gradients: gradcheck of every number of the equation and of every treatment, long courses, memory."""

import subprocess
import sys

import pytest
import torch
from physics_cases import DEVICES, coordinates, pair, radius

from AnatomyDTLib.physics import stepping
from AnatomyDTLib.physics.equation import CrossDiffusion, Stepper
from AnatomyDTLib.physics.jacobi import JacobiStepper
from AnatomyDTLib.physics.stepping import Course, integrate
from AnatomyDTLib.physics.treatments import Drug, Irradiate, Resect, drug_kill

SHAPES = [(4, 3), (3, 3, 2)]
YIELDS = ((1, 2), (2,), (), ())
DEAD = (2, -1, -1, -1)


def numbers(*shape, low=0.0, high=1.0, seed=0, device="cpu"):
    random = torch.Generator().manual_seed(seed + sum(shape))
    return (low + (high - low) * torch.rand(shape, generator=random, dtype=torch.float64)).to(device)


def free(*shape, device="cpu", **options):
    return numbers(*shape, device=device, **options).requires_grad_()


def state(logits):
    """(1, 4, *S) from free numbers: the last class holds, and is alone in one voxel."""
    p = torch.softmax(logits, 1)
    alone = torch.zeros_like(p)
    alone[(0, 3, *(0,) * (p.dim() - 2))] = 1
    return torch.where(alone.amax(1, keepdim=True) > 0, alone, p)


def logits(shape, device="cpu"):
    return free(1, 4, *shape, low=-1.5, high=1.5, device=device)


def walked(p, eq, dts=(0.7, 0.7, 2.5, 2.5), stepper=Stepper):
    """A few steps, of both orders, on either side of λ = 1."""
    walk = stepper(eq)
    for i, dt in enumerate(dts):
        p = walk.step(p, dt, reverse=i % 2 == 1)
    return p


def make(diffusivity, shape, **terms):
    return CrossDiffusion((1.0, 0.8, 1.3)[: len(shape)], diffusivity, YIELDS, dead=DEAD, **terms)


def still(*values, device="cpu"):
    return torch.tensor(values, dtype=torch.float64, device=device)


FORMS = ["scalar", "per axis", "field", "field per axis", "tensor"]


def diffusivities(form, shape, device="cpu"):
    n = len(shape)
    size = {
        "scalar": (4,), "per axis": (4, n), "field": (1, 4, *shape), "field per axis": (1, 4, n, *shape),
        "tensor": (1, 4, n, n, *shape),
    }[form]
    return free(*size, low=0.1, high=0.4, device=device)


def positive(d, form, shape):
    """Symmetric and positive where a tensor is asked for; classes 2 and 3 do not move."""
    if form == "tensor":
        n = len(shape)
        unit = torch.eye(n, dtype=d.dtype, device=d.device).reshape(1, 1, n, n, *[1] * n)
        d = 0.15 * (d + d.transpose(2, 3)) + 0.4 * unit
    moving = torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=d.dtype, device=d.device)
    if d.dim() <= 2:
        return d * moving.reshape(4, *[1] * (d.dim() - 1))
    return d * moving.reshape(1, 4, *[1] * (d.dim() - 2))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_state_and_diffusivity(form, shape, device):
    def final(z, d):
        return walked(state(z), make(positive(d, form, shape), shape))

    fast = len(shape) == 3 or form not in ("scalar", "per axis")
    assert torch.autograd.gradcheck(final, (logits(shape, device), diffusivities(form, shape, device)), fast_mode=fast)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("diffusivity", [0.3, 0.0])
def test_cross_diffusion(diffusivity, spatial, shape, device):
    chi = free(*((1, 4, 4, *shape) if spatial else (4, 4)), low=-0.5, high=0.5, device=device)

    def final(z, c):
        eq = make(still(diffusivity, 0, 0, 0, device=device), shape, chi=c)
        return walked(state(z), eq, (0.6, 0.6, 1.5))

    assert torch.autograd.gradcheck(final, (logits(shape, device), chi), fast_mode=spatial or len(shape) == 3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("field", [False, True])
@pytest.mark.parametrize("above", [False, True])
def test_growth_capacity_and_atrophy(above, field, shape, device):
    """`above`: the tumor stands above its carrying capacity, and dies back."""
    size = (1, 4, *shape) if field else (4,)
    rho = free(*size, low=0.05, high=0.3, device=device)
    kappa = free(*size, low=0.02 if above else 0.93, high=0.05 if above else 0.99, device=device)
    shrink = still(0, 0.05, 0, 0, device=device).requires_grad_()
    d = still(0.2, 0, 0, 0, device=device)

    def final(z, r, k, a):
        eq = CrossDiffusion((1.0,) * len(shape), d, YIELDS, rho=r, kappa=k, atrophy=a, dead=(2, 2, -1, -1))
        return walked(state(z), eq, (0.7, 1.4))

    assert torch.autograd.gradcheck(final, (logits(shape, device), rho, kappa, shrink), fast_mode=len(shape) == 3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("course", ["short", "long"])
def test_every_number_of_a_treatment_through_integrate(course, shape, device, monkeypatch):
    """`long` has more steps than are checkpointed one by one."""
    alpha, beta = free(4, low=0.02, high=0.1, device=device), free(4, low=0.005, high=0.02, device=device)
    dose = free(1, *shape, low=1.0, high=2.5, device=device)
    half_life = still(0.4, device=device).reshape(()).requires_grad_()
    sensitivity, doses = free(4, low=0.2, high=0.6, device=device), free(2, low=0.5, high=1.0, device=device)
    residual, rho, d = (still(x, device=device).requires_grad_() for x in (0.1, 0.12, 0.25))
    rest = torch.zeros(3, dtype=torch.float64, device=device)
    mask = numbers(1, *shape, seed=9, device=device) > 0.5
    longest = 1.0 if course == "short" else 0.3
    monkeypatch.setattr(stepping, "FLAT_STEPS", 12)

    def final(z, d, rho, dose, alpha, beta, half_life, sensitivity, doses, residual):
        drug = Drug((0.0, 1.37), doses, half_life, sensitivity)
        hit = Irradiate(dose, alpha, beta, DEAD)
        cut = Resect(mask, 2, (3,), (0,), residual)
        eq = make(torch.cat((d, rest)), shape, rho=torch.cat((rho, rest)))
        events = ((2.0, cut), (2.0, hit), (2.6, hit))
        states, ran = integrate(state(z), eq, Course((1.0, 4.0), longest, events, (drug,)))
        assert (ran["steps"] > 12) == (course == "long")
        return tuple(states)

    inputs = (logits(shape, device), d, rho, dose, alpha, beta, half_life, sensitivity, doses, residual)
    assert torch.autograd.gradcheck(final, inputs, fast_mode=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_learned_rates(shape):
    def final(z, weight):
        def rates(p, start, dt):
            wanted = torch.tanh(p * weight) + 0.1 * start
            return wanted - (p * wanted).sum(1, keepdim=True)

        return integrate(state(z), make(still(0.2, 0, 0, 0), shape), Course((3.0,), 1.0), residual=rates)[0][0]

    assert torch.autograd.gradcheck(final, (logits(shape), free(1, 4, *shape, low=-1.0)), fast_mode=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_jacobi_scheme(shape):
    chi = free(4, 4, low=-0.2, high=0.2)

    def final(z, d, c, r):
        eq = make(d * still(1, 0.5, 0, 0), shape, chi=c, rho=r)
        exponent = r * still(1, 0, 0, 0)
        walk = JacobiStepper(eq, sweeps=3, omega=0.8)
        return walk.step(walk.step(state(z), 0.3), 0.2, kill=(exponent, None))

    inputs = (logits(shape), free(4, low=0.1, high=0.4), chi, free(4, low=0.05, high=0.2))
    assert torch.autograd.gradcheck(final, inputs, fast_mode=len(shape) == 3)


def test_numbers_that_are_zero_can_still_be_learned():
    """An untrained sensitivity starts at 0; a gradient of 0 would keep it there."""
    shape = (4, 3)
    alpha, sensitivity, rho = (torch.zeros(4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    eq = make(still(0.1, 0, 0, 0), shape, rho=rho)
    drug = Drug((0.0,), still(1.0), still(0.5).reshape(()), sensitivity)
    hit = Irradiate(still(2.0).reshape(()), alpha, 0 * alpha, DEAD)
    final = integrate(state(logits(shape)), eq, Course((2.0,), 1.0, ((1.0, hit),), (drug,)))[0][0]
    (final[:, 0] * numbers(*shape)).sum().backward()
    for learned in (alpha, sensitivity, rho):
        assert torch.isfinite(learned.grad).all() and learned.grad[0] != 0
    assert drug_kill((Drug((0.0,), still(1.0), still(0.5).reshape(()), still(0, 0, 0, 0)),), 0.0, 1.0) is None


# The 225-day course

FRACTION_DAYS = [float(d) for d in range(20, 62) if (d - 20) % 7 < 5]
DOSE_DAYS = [float(d) for d in range(20, 62)] + [float(90 + 28 * c + i) for c in range(5) for i in range(7)][:32]


def treated_course(alpha, sensitivity, longest=1.0):
    """225 days, 30 fractions of 2 Gy on weekdays, 74 doses of a drug."""
    assert len(FRACTION_DAYS) == 30 and len(DOSE_DAYS) == 74 and max(DOSE_DAYS) < 225
    like = dict(dtype=alpha.dtype)
    both = torch.cat((alpha.reshape(1), torch.zeros(1, **like)))
    hit = Irradiate(torch.tensor(2.0, **like), both, both / 10, (1, -1))
    drug = Drug(
        tuple(DOSE_DAYS), torch.ones(74, **like), torch.tensor(0.075, **like),
        torch.cat((sensitivity.reshape(1), torch.zeros(1, **like))),
    )
    return Course((225.0,), longest, tuple((d, hit) for d in FRACTION_DAYS), (drug,))


def treated_tumor(p, d, rho, alpha, sensitivity, longest=1.0):
    """Cells of the tumor at the end."""
    zero = torch.zeros(1, dtype=p.dtype)
    shape = p.shape[2:]
    # White and grey matter: D is a tenth in half of the domain.
    tissue = torch.where(coordinates(shape)[0] + 0.5 * coordinates(shape)[1] > 0, 1.0, 0.1).to(p.dtype)
    field = torch.stack((d * tissue, 0 * tissue))[None]
    eq = CrossDiffusion((1.0,) * len(shape), field, ((1,), ()), rho=torch.cat((rho.reshape(1), zero)), dead=(1, -1))
    return integrate(p, eq, treated_course(alpha, sensitivity, longest))[0][0]


def test_gradients_of_the_225_day_course_equal_central_differences():
    shape = (16, 16, 16)
    p = pair(0.8 * torch.exp(-((radius(shape) / 3) ** 2)))
    weight = 1 + torch.cos(0.3 * coordinates(shape)[2])

    def cells(d, rho, alpha, sensitivity):
        return (treated_tumor(p, d, rho, alpha, sensitivity)[0, 0] * weight).sum()

    values = [torch.tensor(v, dtype=torch.float64) for v in (0.13, 0.03, 0.04, 0.8)]
    learned = [v.clone().requires_grad_() for v in values]
    cells(*learned).backward()
    for i, name in enumerate(("D", "rho", "alpha", "sensitivity")):
        step = 1e-4 * values[i]
        ends = []
        for sign in (1, -1):
            moved = [v + sign * step if j == i else v for j, v in enumerate(values)]
            with torch.no_grad():
                ends.append(float(cells(*moved)))
        central = (ends[0] - ends[1]) / (2 * float(step))
        print(f"{name}: gradient {float(learned[i].grad):.6g}, central difference {central:.6g}")
        assert float(learned[i].grad) == pytest.approx(central, rel=1e-3) and abs(central) > 0


MEMORY = """
import resource, sys
sys.path.insert(0, {folder!r})
import torch
from physics_cases import pair, radius
from test_physics_gradients import treated_tumor
small = pair(0.8 * torch.exp(-((radius((8, 8, 8)) / 3) ** 2))).float()
values = [torch.tensor(v, requires_grad=True) for v in (0.13, 0.03, 0.04, 0.8)]
treated_tumor(small, *values)[0, 0].sum().backward()
p = pair(0.8 * torch.exp(-((radius((64, 64, 64)) / 5) ** 2))).float()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
treated_tumor(p, *values)[0, 0].sum().backward()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert all(torch.isfinite(v.grad) and v.grad != 0 for v in values)
print(before, after)
"""


@pytest.mark.slow
def test_memory_of_the_treated_problem_on_64_cubed():
    """Forward and backward of the 225-day course, one tumor class, float32: under 1 GB with Python and torch."""
    from pathlib import Path

    code = MEMORY.format(folder=str(Path(__file__).parent))
    here = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stderr
    before, after = (int(n) / 1024 for n in done.stdout.split())
    print(f"peak {after:.0f} MB, of which before the solve {before:.0f} MB")
    assert after < 1000
