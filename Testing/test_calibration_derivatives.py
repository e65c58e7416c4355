"""The reduced model is the engine's, and every derivative that a calibration uses is exact."""

import dataclasses

import numpy as np
import pytest
import torch
from calibration_cases import ALPHA, D, DRUG, RADIATION, RHO, SPACING, TUMOR, head, plan
from calibration_inputs import CHI, EVERYTHING, TAIL_MM, TINY, TREATED, with_chi

from AnatomyDTLib import forecast
from AnatomyDTLib.calibration import parameters
from AnatomyDTLib.calibration.general import GeneralModel
from AnatomyDTLib.calibration.observations import Noise, Visit, misfit
from AnatomyDTLib.calibration.parameters import available, chosen
from AnatomyDTLib.calibration.shares import drawn
from AnatomyDTLib.calibration.tumor import TumorModel
from AnatomyDTLib.physics.assembly import assemble
from AnatomyDTLib.physics.stepping import integrate
from AnatomyDTLib.physics.treatments import Irradiate
from AnatomyDTLib.plan import Chemotherapy, Radiotherapy, Surgery


# ---- the model


@pytest.mark.parametrize("treatments", [(), TREATED, (Surgery(20.0, extent=0.6), RADIATION)])
def test_the_reduced_model_is_the_engines(treatments):
    labels = head()
    given = plan(treatments)
    whole = forecast(labels, SPACING, given, device="cpu", probabilities=True)
    shares = TumorModel(labels, SPACING, given).run([{}], given.reported_days)
    for t, s in enumerate(shares):
        density = (s.u[0] * s.room)[0].numpy()
        assert (
            np.abs(density - whole.tumor_probability[t].astype(np.float32)).max() < 6e-4
        )  # float16 holds three digits
        assert np.mean(drawn(s, 0.5)[0].numpy() != (whole.labels[t] == TUMOR)) < 1e-4


def _weighted(model, values, weight, columns=()):
    shares = model.run([values], (0.0, 30.0, 60.0), columns=columns)
    return np.array([[float((part[0] * weight).sum()) for part in s.u] for s in shares])


def test_derivatives_by_every_parameter_equal_central_differences():
    """With surgery, radiation and two drugs; to 1e-3 of the derivative."""
    given = parameters.applied(
        plan(EVERYTHING, (30.0, 60.0), seed_density=0.9), {"carrying_capacity": 0.9, "infiltration_mm": TAIL_MM}
    )
    labels = head(TINY, (0.0, 0.0, 0.0), (7.0, 7.0, 7.0))
    cut = np.zeros(TINY)
    cut[:, :8] = 1
    model = TumorModel(labels, SPACING, given, {"cut": cut}, dtype=torch.float64)
    columns = available(given)
    assert len(columns) == 9
    weight = torch.from_numpy(np.cos(np.arange(labels.size)).reshape(labels.shape) + 1.1)
    start = {c.name: c.start for c in columns}
    exact = _weighted(model, start, weight, columns)
    for i, c in enumerate(columns, start=1):
        ends = [_weighted(model, {**start, c.name: c.start * np.exp(step)}, weight)[:, 0] for step in (1e-4, -1e-4)]
        central = (ends[0] - ends[1]) / 2e-4
        assert exact[1:, i] == pytest.approx(central[1:], rel=1e-3), c.name
        assert (central[1:] != 0).all(), c.name


def test_derivatives_equal_those_that_autograd_takes_through_the_solver():
    given = plan((Radiotherapy(4.0, 2), Chemotherapy("temozolomide", (6.0,), 0.8, 0.075)), (9.0,))
    labels = head(TINY, (0.0, 0.0, 0.0), (7.0, 7.0, 7.0))
    columns = chosen(given, (D, RHO, ALPHA, DRUG))
    shares = TumorModel(labels, SPACING, given, dtype=torch.float64).run([{}], (9.0,), columns=columns)[0]
    weight = torch.from_numpy(np.cos(np.arange(labels.size)).reshape(labels.shape) + 1.1)
    mine = [float((part[0] * shares.room[0] * weight).sum()) for part in shares.u]

    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    scale = torch.exp(x)
    p, equation, course = assemble(given, labels, SPACING, {}, dtype=torch.float64)
    equation = dataclasses.replace(equation, diffusivity=equation.diffusivity * scale[0], rho=equation.rho * scale[1])
    events = tuple(
        (day, Irradiate(e.dose_gy, e.alpha * scale[2], e.beta * scale[2], e.dead)) for day, e in course.events
    )
    drugs = tuple(dataclasses.replace(d, sensitivity=d.sensitivity * scale[3]) for d in course.drugs)
    final = integrate(p, equation, dataclasses.replace(course, reported=(9.0,), events=events, drugs=drugs))[0][0]
    total = (final[0, TUMOR] * weight).sum()
    total.backward()
    assert mine[0] == pytest.approx(float(total.detach()), rel=1e-7)
    assert mine[1:] == pytest.approx(x.grad.tolist(), rel=1e-5)


def test_derivatives_of_the_whole_state_equal_central_differences():
    """With cross-diffusion, surgery, radiation and two drugs, for every parameter."""
    given = parameters.applied(plan(EVERYTHING, (40.0,)), {"carrying_capacity": 0.9, "infiltration_mm": TAIL_MM})
    shape = (6, 15, 14)
    labels = head(shape, (0.0, 0.0, 0.0), (6.0, 6.0, 6.0))
    cut = np.zeros(shape)
    cut[:, :6] = 1
    model = GeneralModel(labels, SPACING, with_chi(given), {"cut": cut}, dtype=torch.float64)
    columns = available(model.plan)
    assert CHI in [c.name for c in columns]
    weight = torch.from_numpy(np.cos(np.arange(labels.size)).reshape(labels.shape) + 1.1)
    start = {c.name: c.start for c in columns}

    def total(values, by=()):
        return np.array([float((part[0] * weight).sum()) for part in model.run([values], (21.0,), columns=by)[0].u])

    exact = total(start, columns)
    for i, c in enumerate(columns, start=1):
        step = 1e-3 if c.positive else 1e-5
        x = c.coordinate(c.start)
        ends = [total({**start, c.name: np.exp(x + s) if c.positive else x + s})[0] for s in (step, -step)]
        assert exact[i] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3), c.name


def test_derivatives_with_a_mass_effect_equal_central_differences():
    """Through the pressure's conjugate gradients and the limited advection of every tissue."""
    given = parameters.applied(plan((), (20.0,), mass_effect=0.5), {"infiltration_mm": TAIL_MM})
    labels = head((6, 16, 14), (0.0, 0.0, 0.0), (6.0, 6.0, 6.0))
    model = GeneralModel(labels, SPACING, given, dtype=torch.float64)
    columns = chosen(given, (D, RHO))
    weight = torch.from_numpy(np.cos(np.arange(labels.size)).reshape(labels.shape) + 1.1)

    def total(values, by=()):
        shares = model.run([values], (15.0,), columns=by)[0]
        return np.array([float((part[0] * weight).sum()) for part in shares.u]), shares

    start = {c.name: c.start for c in columns}
    exact, shares = total(start, columns)
    still = model.run([start], (0.0,))[0]
    assert float((shares.room - still.room).abs().max()) > 0.1  # tissue has been displaced
    for i, c in enumerate(columns, start=1):
        ends = [total({**start, c.name: c.start * np.exp(step)})[0][0] for step in (1e-3, -1e-3)]
        assert exact[i] == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-3), c.name


@pytest.mark.parametrize("density", [False, True])
def test_the_misfits_gradient_equals_central_differences(density):
    given = parameters.applied(plan((Radiotherapy(5.0, 4),), (20.0, 40.0)), {"infiltration_mm": TAIL_MM})
    labels = head(TINY, (0.0, 0.0, 0.0), (7.0, 7.0, 7.0))
    model = TumorModel(labels, SPACING, given, dtype=torch.float64)
    columns = [c for c in available(given) if c.name != parameters.CAPACITY or density]
    other = head(TINY, (0.5, 1.0, -0.5), (8.0, 7.5, 8.5)) == TUMOR
    values = other.astype(np.float32) * (0.8 if density else 1.0)
    visit, noise = Visit(40.0, values, density), Noise(0.8, 1e-3)

    def value(at, by=()):
        return misfit(model.run([at], (40.0,), columns=by)[0], visit, 0.5, model.fine, noise)

    start = {c.name: c.start * 0.9 for c in columns}
    exact = value(start, columns)
    assert np.allclose(exact.scores.sum(0), exact.gradient) and np.linalg.eigvalsh(exact.information).min() > -1e-9
    for i, c in enumerate(columns):
        ends = [value({**start, c.name: start[c.name] * np.exp(step)}).value for step in (1e-3, -1e-3)]
        assert exact.gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-3), c.name
