"""Presets: the standard course by hand, the default law against the observed doubling time."""

import numpy as np
import pytest

from AnatomyDTLib import Plan, PlanError, forecast
from AnatomyDTLib.plan import Anatomy
from AnatomyDTLib.presets import DEFAULT_GROWTH, GROWTH_LAWS, REGIMES, completed, infiltration_mm, regime, stupp, tissue


def test_stupp_by_hand():
    radiation, drug = stupp(0.0, 400.0)
    days = radiation.event_days()
    assert len(days) == 30 and radiation.dose_gy == 2.0
    assert days[:6] == (0, 1, 2, 3, 4, 7) and days[-1] == 39, "five a week, six weeks, from a Monday"
    assert drug.days[:40] == tuple(range(40)), "daily from the first to the last day of radiation"
    first = 40 + 28
    assert drug.days[40:45] == tuple(range(first, first + 5))
    assert drug.days[45] == first + 28
    assert len(drug.days) == 40 + 30
    assert drug.doses[0] == 75 / 200 and drug.doses[40] == 150 / 200 and drug.doses[-1] == 1.0


@pytest.mark.parametrize("name", REGIMES)
@pytest.mark.parametrize("last", [1.0, 30.0, 300.0])
def test_every_regime_makes_a_valid_plan_at_every_horizon(name, last):
    treatments = regime(name, last)
    tissues = [tissue("Background", "background"), tissue("White matter", "white"), tissue("Tumor", "tumor")]
    plan = Plan(completed(tissues, treatments), treatments, (last,))
    assert Plan.from_json(plan.to_json()) == plan
    assert all(day <= last for day in plan.event_days())


def test_unknown_names_are_refused():
    with pytest.raises(PlanError, match="stupp"):
        regime("stup", 30.0)
    with pytest.raises(PlanError, match=DEFAULT_GROWTH):
        tissue("T", "tumor", "swansen")


def test_every_law_names_its_source():
    for law in GROWTH_LAWS.values():
        assert any(year in law.source for year in ("2000", "2016", "2019"))


def growth_after(law, days):
    """Volume of a 5.6 mL ball in white matter after some days, relative to the first."""
    n = 64
    axis = np.arange(n) - n / 2
    labels = np.ones((n,) * 3, np.uint8)
    labels[np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2) < 11] = 2
    roles = (("Background", "background"), ("White matter", "white"), ("Tumor", "tumor"))
    plan = Plan(Anatomy(tuple(tissue(n, r, law) for n, r in roles)), (), days, infiltration_mm=infiltration_mm(law))
    volume = forecast(labels, (1.0,) * 3, plan, device="cpu").volume_ml[:, 2]
    return volume[1:] / volume[0]


def test_the_default_law_doubles_untreated_glioblastoma_in_about_three_weeks():
    # Ellingson et al. 2016: 21 days, median
    before, after = growth_after(DEFAULT_GROWTH, (17.0, 25.0))
    assert before < 2 < after
    before, after = growth_after("lipkova", (60.0, 72.0))
    assert before < 2 < after
