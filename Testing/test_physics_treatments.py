"""Surgery, radiation, drugs: answers known by hand, for any step size and on any day."""

import math

import numpy as np
import pytest
import torch
from physics_cases import DEVICES, NO_DEAD, brain, equation, mass, pair, pair_equation, radius

from AnatomyDTLib import Anatomy, Plan, Tissue
from AnatomyDTLib.physics.assembly import assemble
from AnatomyDTLib.physics.equation import CrossDiffusion
from AnatomyDTLib.physics.stepping import Course, integrate
from AnatomyDTLib.physics.treatments import Drug, Irradiate, Resect, drug_kill, survival
from AnatomyDTLib.plan import Chemotherapy, Radiotherapy, Surgery

SHAPES = [(9, 8), (5, 6, 4)]


def forecast(p, eq, course, gradients=False, **options):
    with torch.set_grad_enabled(gradients):
        return integrate(p, eq, course, **options)[0]


def still(p, dead=(1, -1)):
    """Two classes, of which nothing moves or grows."""
    return pair_equation(p, 0.0, dead=dead)


def tumor(shape, dtype=torch.float64, device="cpu"):
    u = 0.1 + 0.8 * torch.rand(shape, generator=torch.Generator().manual_seed(5))
    return pair(u.to(device=device, dtype=dtype))


# Radiation

def test_survival_by_hand():
    assert survival(2.0, 0.12, 0.015).item() == pytest.approx(math.exp(-0.24 - 0.06))
    assert survival(0.0, 0.12, 0.015).item() == 1.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_fraction_leaves_the_linear_quadratic_part(shape, dtype, tolerance, device):
    p = tumor(shape, dtype, device)
    alpha, beta = (torch.tensor([x, 0.0], dtype=dtype, device=device) for x in (0.12, 0.015))
    hit = Irradiate(torch.tensor(2.0, dtype=dtype, device=device), alpha, beta, (1, -1))
    for gradients in (False, True):
        q = forecast(p, still(p), Course((1.0, 3.0), 1.0, ((2.0, hit),)), gradients)
        assert torch.equal(q[0], p)
        assert torch.allclose(q[1][:, 0], p[:, 0] * math.exp(-0.12 * 2 - 0.015 * 4), rtol=0, atol=tolerance)
        assert torch.allclose(q[1].sum(1), torch.ones_like(p[:, 0]), atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_dose_map_acts_voxel_by_voxel(shape):
    p = tumor(shape)
    dose = 3 * torch.rand((1, *shape), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    dose[0, 0] = 0
    alpha, beta = torch.tensor([0.1, 0]).double(), torch.tensor([0.02, 0]).double()
    course = Course((4.0,), 1.0, tuple((d, Irradiate(dose, alpha, beta, (1, -1))) for d in (1.0, 2.0, 3.5)))
    expected = p[:, 0] * torch.exp(-3 * (alpha[0] * dose + beta[0] * dose**2))
    for gradients in (False, True):
        q = forecast(p, still(p), course, gradients)[0]
        assert torch.allclose(q[:, 0], expected, atol=1e-12)
        assert torch.equal(q[:, 0, 0], p[:, 0, 0])


def test_the_dead_mass_goes_to_its_class_and_no_other():
    p = brain((18, 16), torch.float64)
    alpha = torch.tensor([0.1, 0, 0, 0, 0, 0]).double()
    hit = Irradiate(torch.tensor(2.0).double(), alpha, alpha * 0, (3, -1, -1, -1, -1, -1))
    q = hit(p)
    killed = (1 - math.exp(-0.2)) * p[:, 0]
    assert torch.allclose(q[:, 3], p[:, 3] + killed, atol=1e-15)
    assert torch.equal(q[:, [1, 2, 4, 5]], p[:, [1, 2, 4, 5]])
    untouched = Irradiate(torch.tensor(2.0).double(), alpha, alpha * 0, NO_DEAD)
    assert torch.equal(untouched(p), p)


# Drugs

def drug(days, doses=None, half_life=1.7, sensitivity=0.4, dtype=torch.float64):
    doses = torch.tensor(doses or (1.0,) * len(days), dtype=dtype)
    return Drug(tuple(days), doses, torch.tensor(half_life, dtype=dtype), torch.tensor([sensitivity, 0.0], dtype=dtype))


@pytest.mark.parametrize("half_life", [0.075, 1.7, 30.0])
def test_the_area_under_the_curve_in_closed_form(half_life):
    given = drug((0.0, 1.3, 4.0), (1.0, 0.5, 0.8), half_life)
    rate = math.log(2) / half_life
    edges = [0.0, 0.4, 1.3, 1.31, 2.6, 4.0, 7.0, 9.5]
    area = sum(float(given.exposure(a, b)[0]) for a, b in zip(edges, edges[1:]))
    given_doses = ((0.0, 1.0), (1.3, 0.5), (4.0, 0.8))
    expected = sum(dose * (1 - math.exp(-rate * (9.5 - day))) / rate for day, dose in given_doses)
    assert area == pytest.approx(expected, rel=1e-12)
    whole = float(drug((2.0,), half_life=half_life).exposure(2.0, 2.0 + 60 * half_life)[0])
    assert whole == pytest.approx(half_life / math.log(2), rel=1e-12)


@pytest.mark.parametrize("half_life", [0.075, 1.7, 30.0])
def test_the_first_moment_against_a_fine_sum(half_life):
    given = drug((0.0, 1.0), (1.0, 0.5), half_life)
    s = (np.arange(200000) + 0.5) / 200000 * 3.0
    rate = math.log(2) / half_life
    concentration = (math.exp(-rate) + 0.5) * np.exp(-rate * s)
    assert float(given.exposure(1.0, 4.0)[1]) == pytest.approx(float((s * concentration).mean() * 3), rel=1e-5)
    exponent, centroid = drug_kill((given,), 1.0, 4.0)
    assert float(centroid) == pytest.approx(float((s * concentration).sum() / concentration.sum()), rel=1e-5)
    assert exponent.tolist() == pytest.approx([0.4 * float(concentration.mean() * 3), 0.0], rel=1e-5)


@pytest.mark.parametrize("step", [0.2, 1.0, 3.3])
@pytest.mark.parametrize("half_life", [0.075, 1.7, 30.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_still_tumor_loses_the_closed_form_at_any_step(shape, half_life, step):
    """Two drugs, doses off the grid, one of them before another drug is gone."""
    p = tumor(shape)
    drugs = (drug((0.0, 1.37, 6.0), (1.0, 0.5, 0.8), half_life), drug((2.91,), half_life=4.0, sensitivity=0.1))
    expected = []
    for end in (2.0, 9.1):
        exponent = 0.0
        for given in drugs:
            rate = math.log(2) / float(given.half_life)
            exponent += float(given.sensitivity[0]) * sum(
                float(dose) * (1 - math.exp(-rate * (end - day))) / rate
                for day, dose in zip(given.days, given.doses) if day < end
            )
        expected.append(math.exp(-exponent))
    for gradients in (False, True):
        q = forecast(p, still(p), Course((2.0, 9.1), step, (), drugs), gradients)
        for state, left in zip(q, expected):
            assert torch.allclose(state[:, 0], p[:, 0] * left, rtol=1e-9)
            assert torch.allclose(state.sum(1), torch.ones_like(p[:, 0]), atol=1e-12)


def test_a_drug_whose_dead_class_does_not_give_way_closes_the_room():
    """What dies becomes a class that holds; the tumor then moves in what is left, in the same step already."""
    p = tumor((12, 10))
    p = torch.cat((p, torch.zeros_like(p[:, :1])), 1)
    given = Drug((0.0, 2.0), torch.ones(2).double(), torch.tensor(1.0).double(), torch.tensor([0.5, 0, 0]).double())
    eq = CrossDiffusion((1.0, 1.0), torch.tensor([0.3, 0, 0]).double(), ((1,), (), ()), dead=(2, -1, -1))
    course = Course((6.0,), 1.0, (), (given,))
    fast, reference = forecast(p, eq, course)[0], forecast(p, eq, course, True)[0]
    assert (fast - reference).abs().max() < 1e-9
    assert mass(fast)[0] + mass(fast)[2] == pytest.approx(float(mass(p)[0]), rel=1e-9)
    assert mass(fast)[1] == pytest.approx(float(mass(p)[1]), rel=1e-9)


# Surgery

@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("residual", [0.0, 0.05])
def test_surgery_turns_a_voxel_to_cavity(shape, residual):
    p = brain((16, 14) if len(shape) == 2 else (10, 9, 8), torch.float64)
    mask = (radius(p.shape[2:]) < 3)[None]
    q = Resect(mask, 3, (5,), (0,), residual)(p)
    inside = mask.expand(1, *p.shape[2:])
    assert torch.allclose(q[:, 0][inside], residual * p[:, 0][inside], atol=1e-15)
    assert (q[:, [1, 2, 4]].movedim(1, -1)[inside] == 0).all()
    assert torch.equal(q[:, 5], p[:, 5]), "the background is never removed"
    expected = 1 - residual * p[:, 0] - p[:, 5]
    assert torch.allclose(q[:, 3][inside], expected[inside], atol=1e-12)
    assert torch.equal(q.movedim(1, -1)[~inside], p.movedim(1, -1)[~inside])


def test_events_of_one_day_come_as_surgery_radiation_drug():
    """The plan may name them in any order; the drug of a day acts after the surgery and the fraction of that day."""
    labels = np.ones((12, 12, 12), np.uint8)
    labels[4:8, 4:8, 4:8] = 2
    anatomy = Anatomy((
        Tissue("background", "background"), Tissue("brain", "white", diffusivity_mm2_per_day=0.0),
        Tissue("tumor", "tumor", alpha_per_gy=0.1, beta_per_gy2=0.01, dies_to="cavity"),
        Tissue("cavity", "cavity"),
    ))
    treatments = (
        Chemotherapy("a drug", days=(3.0,), sensitivity_per_day=0.5, half_life_day=0.1),
        Radiotherapy(start_day=3.0, fractions=1, dose_gy=2.0),
        Surgery(day=3.0, region="bed", residual_fraction=0.2),
    )
    plan = Plan(anatomy, treatments, days=(5.0,))
    bed = np.zeros_like(labels)
    bed[:6] = 1
    p, eq, course = assemble(plan, labels, (1.0, 1.0, 1.0), {"bed": bed}, dtype=torch.float64)
    assert [type(event).__name__ for _, event in course.events] == ["Resect", "Irradiate"]
    q = forecast(p, eq, course)[-1]
    k = anatomy.index("tumor")
    killed = math.exp(-0.2 - 0.04) * math.exp(-0.5 * 0.1 / math.log(2) * (1 - 2 ** (-2 / 0.1)))
    expected = p[0, k] * torch.from_numpy(np.where(bed, 0.2, 1.0)) * killed
    assert torch.allclose(q[0, k], expected, rtol=1e-6, atol=1e-9)


def test_order_on_one_day_matters_and_is_surgery_first():
    """A dose that spares the cavity: radiation after surgery finds the residual alone."""
    p = brain((16, 14), torch.float64)
    mask = (radius((16, 14)) < 3)[None]
    cut = Resect(mask, 3, (5,), (0,), 0.5)
    alpha = torch.tensor([0.5, 0, 0, 0, 0, 0]).double()
    hit = Irradiate(torch.tensor(2.0).double(), alpha, 0 * alpha, (4, -1, -1, -1, -1, -1))
    zero = torch.zeros(6).double()
    eq = equation(p, zero, dead=(4, -1, -1, -1, -1, -1))
    q = forecast(p, eq, Course((2.0,), 1.0, ((1.0, cut), (1.0, hit))))[0]
    assert torch.allclose(q, hit(cut(p)), atol=1e-12)
    assert (q - cut(hit(p))).abs().max() > 0.05


def test_weekdays_by_hand():
    friday_start = Radiotherapy(start_day=4.0, fractions=6, dose_gy=2.0, weekdays_only=True, start_weekday="friday")
    assert list(friday_start.event_days()) == [4.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    daily = Radiotherapy(start_day=4.0, fractions=6, dose_gy=2.0, weekdays_only=False)
    assert list(daily.event_days()) == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]


def test_a_treated_tumor_grows_back_by_the_hand_computed_law():
    """Logistic growth, a fraction off the grid, growth again: exact at any step."""
    u = torch.tensor([[0.05, 0.4, 0.9]], dtype=torch.float64)
    p = pair(u)
    alpha = torch.tensor([0.2, 0]).double()
    hit = Irradiate(torch.tensor(2.0).double(), alpha, 0 * alpha, (1, -1))

    def logistic(x, t):
        return x / (x + (1 - x) * math.exp(-0.1 * t))

    expected = logistic(logistic(u, 3.7) * math.exp(-0.4), 5.3)
    for step in (0.3, 5.0):
        rho = torch.tensor([0.1, 0], dtype=torch.float64)
        q = forecast(p, pair_equation(p, 0.0, rho=rho), Course((9.0,), step, ((3.7, hit),)))[0]
        assert torch.allclose(q[0, 0], expected, rtol=1e-10)
