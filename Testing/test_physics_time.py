"""Time: order with and without events, front speed, steps that do not matter, the window against the whole domain."""

import math

import pytest
import torch
from physics_cases import (
    DEVICES, NO_DEAD, TUMOR, brain, coordinates, dice, equation, mass, pair, pair_equation, radius, run,
)

from AnatomyDTLib.physics.equation import CrossDiffusion
from AnatomyDTLib.physics.kernels import FastStepper
from AnatomyDTLib.physics.reaction import logistic
from AnatomyDTLib.physics.stepping import Course, integrate, longest_stable_step, time_grid
from AnatomyDTLib.physics.treatments import Drug, Irradiate, Resect


def rate(errors):
    return math.log2(errors[-2] / errors[-1])


def solved(p, eq, course, **options):
    with torch.no_grad():
        states, ran = integrate(p, eq, course, **options)
    return states, ran


# The grid

def test_steps_end_on_every_event_and_come_in_pairs():
    drug = Drug((1.5, 4.0), torch.ones(2), torch.tensor(0.1), torch.ones(2))
    course = Course((3.0, 10.0), 1.0, ((0.7, None), (4.0, None), (12.0, None)), (drug,))
    assert course.edges() == pytest.approx([0.0, 0.7, 1.5, 3.0, 4.0, 10.0])
    grid = time_grid(course.edges(), 0.8)
    for (_, end), (start, _) in zip(grid, grid[1:]):
        assert end == start
    assert max(b - a for a, b in grid) <= 0.8 + 1e-9 and min(b - a for a, b in grid) > 0.3
    for low, high in zip(course.edges(), course.edges()[1:]):
        count = sum(low - 1e-9 <= a and b <= high + 1e-9 for a, b in grid)
        assert count == 1 or count % 2 == 0


def test_logistic_growth_is_exact_at_any_step():
    u = torch.tensor([0.01, 0.3, 0.8, 0.95], dtype=torch.float64)
    rho, kappa, t = 0.3, 0.8, 25.0
    expected = kappa / (1 + (kappa / u - 1) * math.exp(-rho * t))
    assert torch.allclose(logistic(u, rho * t, kappa), expected, rtol=1e-12)
    p = pair(u.reshape(4, 1))
    for dt in (0.5, 25.0):
        limit = torch.tensor([kappa, 1.0]).double()
        states, _ = solved(p, pair_equation(p, 0.0, rho=rho, kappa=limit), Course((t,), dt))
        assert torch.allclose(states[0][0, 0, :, 0], expected, rtol=1e-6), "kappa is a float32 literal"


# Order

def smooth(shape, dtype=torch.float64):
    x = coordinates(shape)
    d = 0.4 + 0.2 * math.prod(torch.sin(0.4 * c + i) for i, c in enumerate(x))
    return pair(0.6 * torch.exp(-((radius(shape) / 4) ** 2))).to(dtype), torch.stack((d, torch.zeros_like(d)))[None]


def short_drug(days=(1.0, 2.41, 5.0)):
    sensitivity = torch.tensor([2.0, 0.0]).double()
    return Drug(days, torch.ones(len(days)).double(), torch.tensor(0.075).double(), sensitivity)


def slow_drug(days=(0.0, 3.3)):
    sensitivity = torch.tensor([0.3, 0.0]).double()
    return Drug(days, torch.ones(len(days)).double(), torch.tensor(4.0).double(), sensitivity)


def fraction(dose=2.0):
    alpha = torch.tensor([0.3, 0], dtype=torch.float64)
    return Irradiate(torch.tensor(dose).double(), alpha, alpha / 10, (1, -1))


COURSES = {
    "no events": ((), ()),
    "on the grid": (((2.0, fraction()), (4.0, fraction()), (6.0, fraction())), ()),
    "off the grid": (((1.37, fraction()), (4.61, fraction())), ()),
    "short drug": ((), (short_drug(),)),
    "slow drug": ((), (slow_drug(),)),
    "all": (((1.37, fraction()), (4.0, fraction())), (short_drug(), slow_drug())),
}


@pytest.mark.parametrize("name", COURSES)
@pytest.mark.parametrize("shape", [(20, 18), (10, 9, 8)])
def test_second_order_in_time_where_lambda_is_at_most_one(shape, name):
    p, d = smooth(shape)
    events, drugs = COURSES[name]
    eq = pair_equation(p, d, rho=0.25)
    answers, steps = [], []
    for longest in (1.0, 0.5, 0.25, 1 / 32):
        states, ran = solved(p, eq, Course((8.0,), longest, events, drugs), window=False)
        answers.append(states[0][0, 0])
        steps.append(ran["steps"])
    errors = [float((a - answers[-1]).abs().mean()) for a in answers[:-1]]
    order = math.log(errors[0] / errors[-1]) / math.log(steps[2] / steps[0])
    print(f"time, {name}, {len(shape)}D: order {order:.2f}, errors {errors[0]:.1e} to {errors[-1]:.1e}")
    assert order >= 1.8
    assert float((answers[-1] - p[0, 0]).abs().mean()) > 100 * errors[-1]


@pytest.mark.parametrize("shape", [(128, 5), (96, 4, 3)])
@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_first_order_in_time_where_lambda_is_large(rho, shape):
    """A wave along the first axis that fades and grows within two, four and eight steps."""
    d, n = 1.0, shape[0]
    wave = torch.cos(math.pi * (coordinates(shape)[0] / n + 0.5))
    p = pair(0.4 + 0.3 * wave)
    fading = d * (math.pi / n) ** 2
    eq = pair_equation(p, d, rho=rho * fading)
    days = 1.0 / fading
    answers = [run(FastStepper(eq), p, days / steps, steps)[0, 0] for steps in (2, 4, 8, 1024)]
    errors = [float((a - answers[-1]).abs().mean()) for a in answers[:-1]]
    print(f"time, lambda {d * days / 2:.0f} to {d * days / 8:.0f}, {len(shape)}D: order {rate(errors):.2f}")
    assert d * days / 8 > 100
    assert rate(errors) >= 0.9


def test_first_order_in_time_where_diffusivity_jumps():
    """White and grey matter, λ from 32 down to 8."""
    shape, h = (40, 36), 0.25
    x = coordinates(shape, (h, h))
    d = torch.where(x[0] + 0.5 * x[1] > 0, 2.0, 0.2).double()
    p = pair(0.7 * torch.exp(-(x[0] ** 2 + x[1] ** 2) / 4))
    eq = pair_equation(p, torch.stack((d, torch.zeros_like(d)))[None], spacing=(h, h), rho=0.3)
    answers = [run(FastStepper(eq), p, 4.0 / steps, steps)[0, 0] for steps in (4, 8, 16, 2048)]
    errors = [float((a - answers[-1]).abs().mean()) for a in answers[:-1]]
    print(f"time, jump in D, lambda 32: order {rate(errors):.2f}")
    assert rate(errors) >= 0.9


# Fronts

def front(p):
    """Where a decreasing profile along the first axis crosses one half, in voxels."""
    line = p[0, 0].flatten(1).mean(1)
    i = int((line >= 0.5).nonzero().max())
    return i + float((line[i] - 0.5) / (line[i] - line[i + 1]))


@pytest.mark.parametrize("dt", [0.5, 1.0])
@pytest.mark.parametrize("shape", [(260, 3), (260, 3, 2)])
def test_the_front_invades_tissue_at_fishers_speed(shape, dt):
    """From (1 + x sqrt(rho/D)) exp(−x sqrt(rho/D)), the tail of the slowest wave, so that its speed settles quickly."""
    d, rho = 1.0, 0.1
    x = torch.arange(260, dtype=torch.float64) * math.sqrt(rho / d)
    u = ((1 + x) * torch.exp(-x)).clamp(max=0.999).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    p = torch.stack((u, 0.6 * (1 - u), 0.4 * (1 - u)))[None]
    rates = torch.tensor([rho, 0.0, 0.0]).double()
    diffusivity = torch.tensor([d, 0, 0]).double()
    eq = CrossDiffusion((1.0,) * len(shape), diffusivity, ((1, 2), (), ()), rho=rates, dead=(-1,) * 3)
    walk = FastStepper(eq)
    early = run(walk, p, dt, round(120 / dt))
    late = run(walk, early, dt, round(120 / dt))
    speed = (front(late) - front(early)) / 120
    print(f"front, {len(shape)}D, dt {dt}: {speed / (2 * math.sqrt(d * rho)) - 1:+.2%} of 2 sqrt(D rho)")
    assert speed == pytest.approx(2 * math.sqrt(d * rho), rel=0.03)


@pytest.mark.parametrize(
    "d, rho, spacing", [(0.65, 0.012, (1.0,) * 3), (0.13, 0.025, (1.0,) * 3), (0.65, 0.05, (6.5, 0.86, 0.86))]
)
def test_the_default_step_gives_the_forecast_of_a_quarter_day(d, rho, spacing):
    shape = tuple(round(36 / h) for h in spacing)
    p = pair(torch.sigmoid((9 - radius(shape, spacing)) / 1.0)).float()
    eq = pair_equation(p, d, spacing=spacing, rho=rho)
    default = longest_stable_step(eq)
    answers = [solved(p, eq, Course((90.0,), step))[0][0][0, 0] for step in (0.25, default)]
    top = float(answers[0].max())
    overlap = [dice(answers[0] > level * top, answers[1] > level * top) for level in (0.16, 0.5, 0.8)]
    print(f"D {d}, rho {rho}: default step {default:.2f} days, DSC", ["%.4f" % o for o in overlap])
    assert all(o >= 0.99 for o in overlap)


# The window

def everything(p):
    """Fractions, a drug and an operation on the six classes of `brain`."""
    sensitivity = torch.tensor([0.4, 0, 0, 0, 0, 0], dtype=p.dtype)
    alpha = torch.tensor([0.1, 0, 0, 0, 0, 0], dtype=p.dtype)
    dose = 2.0 * torch.rand((1, *p.shape[2:]), generator=torch.Generator().manual_seed(3)).to(p.dtype)
    dead = (3, -1, -1, -1, -1, -1)
    hit = Irradiate(dose, alpha, alpha / 10, dead)
    mask = (radius(p.shape[2:]) < 3)[None]
    cut = Resect(mask, 3, (5,), (0,), 0.1)
    drug = Drug((10.0, 33.3, 47.0), torch.ones(3, dtype=p.dtype), torch.tensor(1.5, dtype=p.dtype), sensitivity)
    return ((20.0, cut), *((day, hit) for day in (21.0, 22.0, 23.5))), (drug,), dead


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("treated", [False, True])
@pytest.mark.parametrize("shape, spacing", [((110, 100), (1.0, 1.0)), ((44, 40, 42), (3.0, 2.0, 2.5))])
def test_the_window_equals_the_whole_domain(shape, spacing, treated, device):
    p = brain(shape, torch.float32, device)
    distance = radius(shape, spacing).to(device)
    tumor = (0.9 * torch.exp(-((distance / 4) ** 2))).float() * (distance < 9)
    hosts = p[:, :4].sum(1) * (1 - tumor)
    share = p[:, 1:4] / p[:, 1:4].sum(1, keepdim=True).clamp(min=1e-6)
    p = torch.cat(((p[:, :4].sum(1) * tumor)[:, None], share * hosts[:, None], p[:, 4:]), 1)
    p = p / p.sum(1, keepdim=True)
    events, drugs, dead = everything(p) if treated and device == "cpu" else ((), (), NO_DEAD)
    rho = torch.tensor([0.12, 0, 0, 0, 0, 0], device=device)
    eq = equation(p, 0.3, spacing=spacing, rho=rho, dead=dead)
    course = Course(tuple(float(d) for d in range(0, 81, 8)), 1.0, events, drugs)
    inside, ran = solved(p, eq, course)
    whole, _ = solved(p, eq, course, window=False)
    difference = max(float((a - b).abs().max()) for a, b in zip(inside, whole))
    sizes, patched = [], p.clone()

    def report(day, state, box):
        sizes.append(state[0, 0].numel())
        patched[(..., *box)] = state

    with torch.no_grad():
        integrate(p, eq, course, report=report)
    print(f"window {len(shape)}D, treated {treated}: {difference:.1e}, sizes {sorted(set(sizes))}")
    assert difference < 1e-5
    assert (patched - inside[-1]).abs().max() < 1e-6
    assert len(set(sizes)) >= 3, "it has to grow several times"
    assert sizes[0] < 0.7 * distance.numel()
    assert mass(inside[-1])[TUMOR] > (0.2 if treated else 4) * mass(p)[TUMOR]


def test_radiation_reaches_a_class_that_neither_moves_nor_grows():
    """Far from the tumor, a class that only dies."""
    p = torch.zeros(1, 4, 60, 50, dtype=torch.float64)
    p[:, 0, 10:14, 10:14] = 0.8
    p[:, 2, 50:55, 40:45] = 0.5
    p[:, 1] = 1 - p.sum(1)
    rho = torch.tensor([0.1, 0, 0, 0]).double()
    dead = (3, -1, 3, -1)
    eq = CrossDiffusion((1.0, 1.0), torch.tensor([0.05, 0, 0, 0]).double(), ((1,), (), (), ()), rho=rho, dead=dead)
    alpha = torch.tensor([0.1, 0, 0.2, 0]).double()
    hit = Irradiate(torch.tensor(2.0).double(), alpha, 0 * alpha, dead)
    drug = Drug((1.0,), torch.ones(1).double(), torch.tensor(1.0).double(), torch.tensor([0, 0, 0.3, 0]).double())
    states, _ = solved(p, eq, Course((5.0,), 1.0, ((2.0, hit),), (drug,)))
    exposure = 0.3 * (1 - 2.0**-4) / math.log(2)
    assert states[0][0, 2, 52, 42].item() == pytest.approx(0.5 * math.exp(-0.4 - exposure), rel=1e-6)


def test_any_function_can_be_an_event():
    p, _ = smooth((12, 10))
    eq = pair_equation(p, 0.2, rho=0.1)
    course = Course((4.0,), 1.0, ((2.0, lambda q: q.flip(1)),))
    inside, whole = solved(p, eq, course)[0][0], solved(p, eq, course, window=False)[0][0]
    assert (inside - whole).abs().max() < 1e-5
    assert inside[0, 0, 0, 0] > 0.5
    states, _ = integrate(p, eq, course)
    assert (states[0] - whole).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(18, 16), (9, 8, 10)])
def test_with_gradients_the_course_is_the_same(shape):
    p = brain(shape, torch.float64)
    events, drugs, dead = everything(p)
    rho = torch.tensor([0.08, 0, 0, 0, 0, 0]).double()
    eq = equation(p, 0.3, rho=rho, dead=dead)
    course = Course((0.0, 15.0, 20.0, 50.0), 1.0, events, drugs)
    plain, _ = solved(p, eq, course)
    graph, ran = integrate(p, eq, course)
    assert ran["steps"] > 32, "long enough for nested checkpoints"
    assert max(float((a - b).abs().max()) for a, b in zip(plain, graph)) < 1e-5


def test_cancelling_stops_and_an_unknown_scheme_is_refused():
    p, _ = smooth((8, 8))
    eq = pair_equation(p, 0.2)
    with pytest.raises(InterruptedError):
        integrate(p, eq, Course((4.0,), 1.0), cancelled=lambda: True)
    with pytest.raises(ValueError, match="lod.*jacobi.*euler"):
        integrate(p, eq, Course((4.0,), 1.0), scheme="euler")
