"""The prior of the next patient from the fits of others, against moments worked out by hand."""

import numpy as np
import pytest

from AnatomyDTLib import presets
from AnatomyDTLib.calibration.parameters import DIFFUSIVITY, GROWTH, CalibrationError, chosen
from AnatomyDTLib.calibration.population import population
from AnatomyDTLib.plan import Anatomy, Plan

PARAMETERS = chosen(Plan(Anatomy(tuple(presets.tissue(n, r) for n, r in (
    ("Background", "background"), ("White matter", "white"), ("Tumor", "tumor"))))), (DIFFUSIVITY, GROWTH))


def fits(*rows, within=0.0):
    return [(np.log(np.array(row)), within * np.eye(2)) for row in rows]


def test_mean_and_covariance_by_hand():
    found = population(fits((0.1, 0.01), (0.4, 0.04), within=0.25), PARAMETERS)
    assert found.values == {DIFFUSIVITY: pytest.approx(0.2), GROWTH: pytest.approx(0.02)}     # geometric means
    # x differ by 2 ln 2 in both: S = 2 (ln 2)², times 1 + 1/2, and 0.25 within each patient
    between = 3 * np.log(2) ** 2
    assert found.covariance == pytest.approx(np.array([[between + 0.25, between], [between, between + 0.25]]))
    low, high = found.interval(GROWTH, 1.0)
    assert low * high == pytest.approx(0.02**2) and high / 0.02 == pytest.approx(np.exp(np.sqrt(between + 0.25)))


def test_draws_have_the_moments_and_come_again():
    found = population(fits((0.05, 0.02), (0.06, 0.025), (0.07, 0.02), within=0.01), PARAMETERS)
    drawn = found.sample(256, seed=3)
    x = np.log([[d[DIFFUSIVITY], d[GROWTH]] for d in drawn])
    assert x.mean(axis=0) == pytest.approx(found.mean, abs=0.02)
    assert np.cov(x.T) == pytest.approx(found.covariance, abs=0.1 * np.diag(found.covariance).max())
    assert drawn == found.sample(256, seed=3) and drawn != found.sample(256, seed=4)


def test_draws_stay_within_the_bounds():
    found = population(fits((0.003, 0.002), (8.0, 0.9)), PARAMETERS)
    for p in PARAMETERS:
        values = [d[p.name] for d in found.sample(64)]
        assert p.low <= min(values) and max(values) <= p.high


def test_one_patient_is_no_population():
    with pytest.raises(CalibrationError, match="at least two patients"):
        population(fits((0.1, 0.01)), PARAMETERS)
