"""The law of a whole tumor: its equation, its response to treatment, and that sizes alone tell its numbers."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from twin_cases import head, one_case

from AnatomyDTLib.learning.batches import grid_of
from AnatomyDTLib.learning.burden import BurdenLaw
from AnatomyDTLib.learning.courses import Courses, GrowthLaw
from AnatomyDTLib.plan import Chemotherapy, Radiotherapy


def test_burden_law_solves_its_equation():
    """Growth, a drug and clearance against an integrator; the law's parts are short against the drug's rate."""
    _, anatomy = head()
    law = BurdenLaw(anatomy, 3).double()
    v = law.values()
    days, parts, rate = 20.0, 400, 0.3

    def slope(_, y):
        V, W = y
        kill = v["drug_effect"] * rate / (1 + rate / v["drug_half_per_day"]) * V
        return [v["rho_per_day"] / v["nu"] * V * (1 - V ** v["nu"]) - kill, kill - W / v["clearance_days"]]

    start = (10.0 / v["largest_radius_mm"]) ** 3
    ends = solve_ivp(slope, (0, days), [start, 0.0], rtol=1e-10, atol=1e-12).y[:, -1]
    zero = torch.zeros(parts, 1, dtype=torch.float64)
    begin = law.begin(torch.tensor([10.0], dtype=torch.float64))
    after = law.step(begin, torch.tensor([days], dtype=torch.float64), zero, zero, zero + rate * days / parts)
    assert float(after.log_living.detach().exp()) == pytest.approx(ends[0], rel=1e-4)
    assert float(after.dead.detach()) == pytest.approx(ends[1], rel=1e-3)


def test_radiation_kills_by_the_linear_quadratic_law_and_the_dead_stay_seen_for_a_while():
    _, anatomy = head()
    law = BurdenLaw(anatomy, 2)
    begin = law.begin(torch.tensor([10.0]))
    zero = torch.zeros(1, 1)
    after = law.step(begin, torch.tensor([1e-6]), zero + 4.0, zero + 16.0, zero)
    alpha, ratio = law.values()["alpha_per_gy"], law.values()["alpha_beta_gy"]
    survival = math.exp(-alpha * 4.0 * (1 + 4.0 / ratio))
    assert float((after.log_living - begin.log_living).detach()) == pytest.approx(math.log(survival), rel=1e-3)
    assert float(law.radius_mm(after).detach()) == pytest.approx(10.0, rel=1e-4)       # not yet cleared
    later = law.step(after, torch.tensor([200.0]), zero, zero, zero)
    assert float(later.dead.detach()) < 1e-6
    still = law.step(begin, torch.zeros(1), zero, zero, zero)
    assert float((still.log_living - begin.log_living).detach()) == pytest.approx(0.0, abs=1e-6)


def sizes(law, grid, first):
    """(V, B) radii on every visit, from those of the first."""
    burden, seen = law.begin(first), [first]
    for step in range(len(grid)):
        burden = law.step(burden, grid.dt[step], grid.parts_gy[step], grid.parts2_gy2[step], grid.parts_drug[step])
        seen += [law.radius_mm(burden)] * (step + 1 in grid.visits)
    return torch.stack(seen)


def test_the_law_of_sizes_is_found_from_sizes():
    """Growth, radiation and a drug from twelve courses: sizes that were not fitted come out right."""
    dataset = one_case()
    true, fitted = (BurdenLaw(dataset.anatomy, 2) for _ in range(2))
    for number in (true.rho_per_day.raw, true.alpha_per_gy.raw, true.largest_radius_mm.raw):
        number.data += 0.7
    given = ((), (Radiotherapy(3.0, 5, 4.0),), (Chemotherapy("drug", (2.0, 9.0), 0.2, 2.0),))
    cases = [dataclasses.replace(one_case((0.0, d, 2 * d), given[i % 3]).cases[0], name=str(i)) for i, d in enumerate(np.linspace(15, 50, 12))]
    grid = grid_of(cases, 15.0)

    with torch.no_grad():
        seen = sizes(true, grid, torch.linspace(6, 12, 12))
        other = torch.linspace(11, 7, 12)
        before = float(torch.log(sizes(fitted, grid, other) / sizes(true, grid, other)).abs().mean())
    seen[1, ::4] = math.nan                                   # visits that are missing
    fitted.fit(grid, seen)
    with torch.no_grad():
        after = float(torch.log(sizes(fitted, grid, other) / sizes(true, grid, other)).abs().mean())
    print(f"mean error of a radius {100 * before:.0f} % before, {100 * after:.1f} % after")
    assert after < 0.03 and before > 0.1


def test_single_treatments_tell_the_sizes_after_two():
    """The courses of the synthetic data, Gompertz growth: fitted to none, radiation or a drug, and asked for both together."""
    rng, dataset = np.random.default_rng(0), one_case()

    def drawn(*treatments):
        cases, seen = [], []
        for i in range(50):
            radius = rng.uniform(7, 10)
            days, given = Courses(treatments=treatments).draw(rng)
            seen.append(radius + GrowthLaw().advances(radius, days, given, 2)[0])
            cases.append(dataclasses.replace(one_case(days, given).cases[0], name=str(i)))
        return grid_of(cases, 15.0), torch.tensor(np.array(seen).T, dtype=torch.float32)

    law = BurdenLaw(dataset.anatomy, 2)
    grid, seen = drawn("none", "radiotherapy", "chemotherapy")
    law.fit(grid, torch.cat((seen[:1], seen[1:] * torch.exp(0.05 * torch.randn(1, 50, generator=torch.Generator().manual_seed(0))))))
    grid, seen = drawn("both")
    with torch.no_grad():
        wrong = torch.log(sizes(law, grid, seen[0])[1] / seen[1])
    print(f"error of a radius {100 * float(wrong.square().mean().sqrt()):.1f} %, mean {100 * float(wrong.mean()):.1f} %")
    assert float(wrong.square().mean().sqrt()) < 0.055
