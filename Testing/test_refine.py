"""A growth network's last layer, refined for one patient: its gradient, what it gains, what is kept."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from calibration_cases import D, SPACING, TUMOR, head, plan

from AnatomyDTLib import cli, engine, forecast
from AnatomyDTLib.calibration import refine as refining
from AnatomyDTLib.calibration.calibrate import dice
from AnatomyDTLib.calibration.fit import Settings
from AnatomyDTLib.calibration.general import GeneralModel
from AnatomyDTLib.calibration.observations import Noise, Visit, loss, misfit
from AnatomyDTLib.calibration.tumor import TumorModel
from AnatomyDTLib.calibration.twin import Twin
from AnatomyDTLib.learning.growth import GrowthConfig, GrowthNetwork, load_growth, save_growth

SHAPE, DAYS, LATER = (7, 18, 17), (15.0, 30.0), (15.0, 30.0, 60.0)


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """A tumor whose growth the plan does not know: half of the rate comes from a network's last layer."""
    folder = tmp_path_factory.mktemp("refined")
    labels = head(SHAPE, (0.0, 0.0, 0.0), (6.0, 6.0, 6.0))
    start = plan((), LATER)
    torch.manual_seed(0)
    network = GrowthNetwork(GrowthConfig(start.anatomy.names, width=4))
    save_growth(network, folder / "loaded.safetensors")
    with torch.no_grad():
        network.outputs.bias[TUMOR] += 0.3
        network.outputs.weight[TUMOR] += 0.2
    save_growth(network, folder / "true.safetensors")
    true = forecast(labels, SPACING, start, weights=str(folder / "true.safetensors"), device="cpu")
    seen = [(0.0, labels)] + [(float(d), frame) for d, frame in zip(true.days[1:], true.labels[1:]) if d in DAYS]
    return folder, labels, start, true, seen


@pytest.fixture(scope="module")
def refined(patient):
    folder, _, start, _, seen = patient
    return engine.calibrate(
        seen, SPACING, start, parameters=[D], settings=Settings(starts=1), weights=str(folder / "loaded.safetensors"),
        refine=str(folder / "own.safetensors"))


def test_a_patients_own_layer_forecasts_him_better(patient, refined):
    folder, labels, start, true, _ = patient
    errors = {}
    for name in ("loaded", "own"):
        made = forecast(labels, SPACING, refined.plan_for(), weights=str(folder / f"{name}.safetensors"), device="cpu")
        errors[name] = (
            abs(made.volume_ml[-1, TUMOR] / true.volume_ml[-1, TUMOR] - 1.0),
            dice(made.labels[-1] == TUMOR, true.labels[-1] == TUMOR),
        )
    print(errors, refined.growth)
    assert errors["own"][0] < 0.5 * errors["loaded"][0] and errors["own"][1] > errors["loaded"][1] + 0.02
    assert refined.growth["objective_refined"] < refined.growth["objective_loaded"]


def test_only_the_last_layer_moves_and_it_is_stored_by_hash(patient, refined):
    folder, _, start, _, _ = patient
    own, loaded = (load_growth(folder / f"{n}.safetensors", start.anatomy.names, 3).state_dict() for n in ("own", "loaded"))
    assert {name for name in own if not torch.equal(own[name], loaded[name])} == {"outputs.weight", "outputs.bias"}
    for name in ("own", "loaded"):
        key = "refined" if name == "own" else "loaded"
        assert refined.growth[key] == hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
    assert Twin.from_json(refined.to_json()) == refined
    without = dataclasses.replace(refined, growth={})
    assert "growth" not in json.loads(without.to_json()) and Twin.from_json(without.to_json()) == without


def test_the_objectives_gradient_equals_central_differences(patient, monkeypatch):
    folder, labels, start, _, seen = patient
    network = load_growth(folder / "loaded.safetensors", start.anatomy.names, 3)
    with torch.no_grad():
        network.outputs.weight += 0.1 * torch.randn(network.outputs.weight.shape, generator=torch.manual_seed(1))
    visits = [Visit(d, (v == TUMOR).astype(np.float32)) for d, v in seen[1:2]]
    model = GeneralModel(labels, SPACING, start, {}, dtype=torch.float64)
    caught = {}

    def minimize(objective, z, noise, **_):
        caught["gradient"] = objective(z, *noise)[1]
        for i in np.argsort(np.abs(caught["gradient"]))[[-1, -4, -8]]:
            step = np.zeros_like(z)
            step[i] = 1e-4
            caught[i] = (objective(step, *noise)[0] - objective(-step, *noise)[0]) / 2e-4
        raise InterruptedError

    monkeypatch.setattr("scipy.optimize.minimize", minimize)
    with pytest.raises(InterruptedError):
        refining.refine(network, None, model, visits, {}, Noise(0.5, 1e-3), 8.0)
    gradient = caught.pop("gradient")
    assert all(abs(v) > 1e-4 for v in caught.values())
    assert [gradient[i] for i in caught] == pytest.approx(list(caught.values()), rel=1e-4)


@pytest.mark.parametrize("density", [False, True])
def test_the_loss_is_the_misfit(patient, density):
    _, labels, start, _, seen = patient
    model = TumorModel(labels, SPACING, start)
    shares = model.run([{}], (15.0,))[0]
    visit, noise = Visit(15.0, (seen[1][1] == TUMOR) * np.float32(0.7 if density else 1.0), density), Noise(0.6, 1e-3)
    value = loss(shares.u[0, 0], shares.room[0], shares.wall[0], visit, start.anatomy.tissues[TUMOR], SPACING, noise)
    assert float(value) == pytest.approx(misfit(shares, visit, 0.5, model.fine, noise).value, rel=1e-4, abs=0.5)


def test_a_refinement_can_be_stopped_and_tells_how_far_it_is(patient):
    folder, _, start, _, seen = patient
    told = []

    def progress(fraction, text):
        told.append((fraction, text))

    with pytest.raises(engine.Cancelled):
        engine.calibrate(
            seen[:2], SPACING, start, parameters=[D], settings=Settings(starts=1), progress=progress,
            weights=str(folder / "loaded.safetensors"), refine=str(folder / "stopped.safetensors"),
            cancelled=lambda: any("growth network, run 2" in text for _, text in told))
    assert [f for f, _ in told] == sorted(f for f, _ in told) and not (folder / "stopped.safetensors").exists()


def test_what_cannot_be_refined_is_one_sentence(patient, tmp_path, monkeypatch, capsys):
    folder, _, start, _, seen = patient
    for given in ({"weights": str(folder / "loaded.safetensors")}, {"refine": str(tmp_path / "own.safetensors")}):
        with pytest.raises(engine.ForecastError, match="refine their last layer"):
            engine.calibrate(seen, SPACING, start, **given)
    with pytest.raises(engine.ForecastError, match="does not exist"):
        engine.calibrate(seen, SPACING, start, weights="gone.safetensors", refine=str(tmp_path / "own.safetensors"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["calibrate", "a.nii.gz", "b.nii.gz@30", "--plan", "p.json", "--out", "t.json", "--refine-network"]) == 2
    assert "--refine-network and --weights go together" in capsys.readouterr().err
