"""The stored twin: what goes in comes out, draws are those of its covariance, foreign and broken files are refused."""

import dataclasses
import json

import numpy as np
import pytest

from AnatomyDTLib.calibration import parameters
from AnatomyDTLib.calibration.parameters import ALPHA, CalibrationError, available, chosen
from AnatomyDTLib.calibration.twin import Fitted, Seen, Twin, fingerprint
from AnatomyDTLib.plan import CrossDiffusion, Plan
from AnatomyDTLib.presets import completed, regime, tissue

ROLES = (("Background", "background"), ("White matter", "white"), ("Grey matter", "grey"), ("Tumor", "tumor"))
LABELS = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)
SPACING = (3.0, 1.5, 1.5)


def plan(treatments=(), **given):
    return Plan(
        completed([tissue(n, r) for n, r in ROLES], treatments), treatments, (30.0, 90.0), infiltration_mm=1.4, **given
    )


def twin(names=("diffusivity_mm2_per_day", "growth_per_day", "alpha_per_gy"), spread=0.1):
    fitted_plan = plan(regime("stupp", 90.0))
    fitted = tuple(
        Fitted(p, p.start * 1.25, spread, 0.12 if i else float("inf"), (("x", 0.95),))
        for i, p in enumerate(chosen(fitted_plan, names))
    )
    n = len(fitted)
    covariance = spread**2 * (np.eye(n) + 0.9 * (np.ones((n, n)) - np.eye(n)))
    rows = tuple(tuple(r) for r in covariance.tolist())
    seen = (Seen(30.0, "ab", "labels", 4.5, 4.4, 0.97, {"volume_ml": 4.0}),)
    return Twin(
        fingerprint(LABELS, SPACING),
        LABELS.shape,
        SPACING,
        fitted_plan,
        fitted,
        rows,
        (0.0,) * n,
        rows,
        seen,
        {"dose": "cd"},
        {"seed": 1, "seconds": 2.5},
        ("0" * 64,),
    )


def test_a_twin_survives_its_file():
    given = twin()
    read = Twin.from_json(given.to_json())
    assert read == given and read.sha256 == given.sha256
    assert json.loads(given.to_json())["parameters"][0]["data_spread"] is None, "JSON has no infinity"


def test_the_fitted_plan_holds_the_values_and_nothing_else():
    given = twin()
    fitted = given.plan_for()
    white, grey, tumor = (fitted.anatomy.tissues[i] for i in (1, 2, 3))
    before = given.plan.anatomy.tissues
    assert white.diffusivity_mm2_per_day == pytest.approx(1.25 * before[1].diffusivity_mm2_per_day)
    assert grey.diffusivity_mm2_per_day == pytest.approx(1.25 * before[2].diffusivity_mm2_per_day), "the ratio is kept"
    assert tumor.growth_per_day == pytest.approx(1.25 * before[3].growth_per_day)
    assert tumor.alpha_per_gy == pytest.approx(1.25 * before[3].alpha_per_gy)
    assert tumor.beta_per_gy2 == pytest.approx(1.25 * before[3].beta_per_gy2), "alpha/beta is kept"
    assert fitted.treatments == given.plan.treatments and fitted.days == given.plan.days
    other = given.plan_for(plan=plan())
    assert other.treatments == () and other.anatomy.tissues[1] == white


@pytest.mark.parametrize("name", [p.name for p in available(plan(regime("stupp", 90.0)))])
def test_every_parameter_goes_into_the_plan_and_comes_back(name):
    given = plan(regime("stupp", 90.0))
    (parameter,) = chosen(given, [name])
    value = parameter.start * (0.8 if parameter.start * 0.8 > parameter.low else 1.0)
    changed = parameters.applied(given, {name: value})
    assert chosen(changed, [name])[0].start == pytest.approx(value)
    others = [p for p in available(given) if p.name not in (name, parameters.RATIO)]
    for other in others:
        if name == parameters.CAPACITY and other.name == parameters.SEED:
            continue
        assert chosen(changed, [other.name])[0].start == pytest.approx(other.start), other.name


def test_cross_diffusion_is_a_parameter_with_a_sign():
    given = plan()
    given = dataclasses.replace(
        given,
        anatomy=dataclasses.replace(given.anatomy, cross_diffusion=(CrossDiffusion("Tumor", "White matter", -0.1),)),
    )
    (chi,) = chosen(given, ["chi_mm2_per_day:Tumor/White matter"])
    assert chi.low < 0 < chi.high and not chi.positive
    assert parameters.applied(given, {chi.name: 0.2}).anatomy.cross_diffusion[0].chi_mm2_per_day == 0.2


def test_draws_have_the_covariance_of_the_fit():
    given = twin(spread=0.05)
    drawn = np.log([[values[n] for n in given.names] for values in given.sample(1024, seed=3)])
    assert np.allclose(np.cov(drawn.T), np.array(given.covariance), rtol=0.05, atol=2e-5)
    assert np.allclose(drawn.mean(0), np.log([given.values[n] for n in given.names]), atol=2e-3)
    assert given.sample(5, seed=3) == given.sample(5, seed=3) != given.sample(5, seed=4)


def test_draws_of_what_was_never_seen_come_from_the_prior():
    given = twin(("diffusivity_mm2_per_day", "growth_per_day"))
    values = given.sample(256, plan=plan(regime("radiotherapy", 90.0)))
    alpha = next(p for p in available(plan(regime("radiotherapy", 90.0))) if p.name == ALPHA)
    drawn = np.log([v[ALPHA] for v in values])
    assert drawn.std() == pytest.approx(alpha.spread, rel=0.1) and drawn.mean() == pytest.approx(
        np.log(alpha.median), abs=0.05
    )
    assert ALPHA not in given.sample(2, plan=plan())[0]


def test_another_patient_is_refused():
    given = twin()
    given.check_patient(LABELS, SPACING)
    other = LABELS.copy()
    other[2, 3, 4] = (other[2, 3, 4] + 1) % 4
    for labels, spacing in ((other, SPACING), (LABELS, (3.0, 1.5, 1.6)), (LABELS[1:], SPACING)):
        with pytest.raises(CalibrationError, match="belongs to"):
            given.check_patient(labels, spacing)


def _broken(change):
    document = json.loads(twin().to_json())
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "not JSON"),
        ("[]", "not a twin"),
        ('{"anatomydt_plan": 1}', "not a twin"),
        (_broken(lambda d: d.update(anatomydt_twin=2)), "version 2"),
        (_broken(lambda d: d.update(anatomydt_twin=True)), "version True"),
        (_broken(lambda d: d.pop("covariance")), "covariance"),
        (_broken(lambda d: d.update(more=1)), "more"),
        (_broken(lambda d: d["covariance"].pop()), "covariance"),
        (_broken(lambda d: d["covariance"][0].__setitem__(0, -5.0)), "covariance"),
        (_broken(lambda d: d["parameters"][0].pop("value")), "cannot be read"),
        (_broken(lambda d: d["plan"].update(days=[])), "days"),
        (_broken(lambda d: d["parameters"][0]["parameter"].update(low=9.0)), "bound"),
        (_broken(lambda d: d.update(observations=3)), "cannot be read"),
    ],
)
def test_a_broken_file_is_one_sentence(text, said):
    with pytest.raises(CalibrationError, match=said) as caught:
        Twin.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names, bounds, said",
    [
        ([], {}, "at least one"),
        (["speed"], {}, "no parameter 'speed'"),
        (["growth_per_day"] * 2, {}, "twice"),
        (["growth_per_day"], {"growth_per_day": (0.2, 0.3)}, "outside its bounds"),
        (["growth_per_day"], {"growth_per_day": (0.3, 0.2)}, "below the upper"),
        (["growth_per_day"], {"growth_per_day": (-1.0, 0.2)}, "above 0"),
        (["growth_per_day"], {"growth_per_day": 3}, "two numbers"),
        (["growth_per_day"], {"alpha_per_gy": (0.1, 0.2)}, "not among"),
        (["growth_per_day"], {"growth_per_day": (0.01, float("nan"))}, "finite"),
    ],
)
def test_a_wrong_choice_of_parameters_is_one_sentence(names, bounds, said):
    with pytest.raises(CalibrationError, match=said):
        chosen(plan(regime("stupp", 90.0)), names, bounds)
