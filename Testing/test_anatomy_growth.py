"""The twin of a whole anatomy: growth per tissue that pushes others aside, against exact volumes and radii."""

import numpy as np
import pytest

from AnatomyDTLib.calibration.anatomy import fit_growth, grow, volumes_of

SPACING = (1.0, 1.0, 1.25)


def shells(core_mm, outer_mm, shape=(44, 44, 36)):
    """A ball of class 1 within a shell of class 2 within the surroundings."""
    grid = np.indices(shape)
    r = np.sqrt(sum(((g - (n - 1) / 2) * h) ** 2 for g, n, h in zip(grid, shape, SPACING)))
    return np.where(r < core_mm, 1, np.where(r < outer_mm, 2, 0)).astype(np.uint8)


def test_a_growing_core_carries_the_shell_outwards():
    first = shells(8.0, 13.0)
    rates = np.array([0.0, 0.02, 0.0])
    grown, = grow(first, SPACING, rates, [28.0])
    before, after = volumes_of(first, 3, SPACING), volumes_of(grown, 3, SPACING)
    assert after[1] == pytest.approx(before[1] * np.exp(0.56), rel=0.03)     # V(t) = V(0) e^{gt}
    assert after[2] == pytest.approx(before[2], rel=0.03)                    # moved, not destroyed
    # incompressible and round: both radii follow from the volumes
    core = 8.0 * np.exp(0.56 / 3)
    wanted = shells(core, (core**3 + 13.0**3 - 8.0**3) ** (1 / 3))
    for k in (1, 2):
        assert 2 * ((grown == k) & (wanted == k)).sum() / ((grown == k).sum() + (wanted == k).sum()) > 0.95


def test_a_tissue_that_wastes_draws_the_others_in():
    first = shells(8.0, 13.0)
    grown, = grow(first, SPACING, np.array([0.0, -0.02, 0.0]), [28.0])
    before, after = volumes_of(first, 3, SPACING), volumes_of(grown, 3, SPACING)
    assert after[1] == pytest.approx(before[1] * np.exp(-0.56), rel=0.05)
    assert after[2] == pytest.approx(before[2], rel=0.1)


def test_without_growth_nothing_changes():
    first = shells(8.0, 13.0)
    assert np.array_equal(grow(first, SPACING, np.zeros(3), [10.0])[0], first)


def test_the_rates_come_back_from_the_visits():
    rates = np.array([0.0, 0.02, 0.01])
    first = shells(8.0, 13.0)
    visits = [(3.0, first)] + list(zip((23.0, 43.0), grow(first, SPACING, rates, [20.0, 40.0])))
    fitted = fit_growth(visits, SPACING, 3)
    # labels move by whole voxels: here a tenth of the radius
    assert fitted.rates_per_day == pytest.approx(rates, abs=1e-3)
    assert np.isnan(fitted.spreads[0]) and (fitted.spreads[1:] < 2e-3).all()


def test_a_tissue_that_is_not_there_at_every_visit_has_no_rate():
    first, later = shells(8.0, 13.0), shells(9.0, 13.0)
    later[later == 2] = 3
    fitted = fit_growth([(0.0, first), (7.0, later)], SPACING, 4, corrections=0)
    assert fitted.rates_per_day[2] == fitted.rates_per_day[3] == 0.0 and fitted.rates_per_day[1] > 0
    assert np.isnan(fitted.spreads).all()


def test_it_can_be_stopped():
    with pytest.raises(InterruptedError):
        grow(shells(8.0, 13.0), SPACING, np.array([0.0, 0.02, 0.0]), [10.0], cancelled=lambda: True)
