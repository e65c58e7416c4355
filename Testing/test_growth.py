"""The growth network: bounded, balanced, zero at first, equivariant, and safe to load."""

import numpy as np
import pytest
import torch

from AnatomyDTLib import ForecastError, Plan, forecast
from AnatomyDTLib.learning.batches import collate
from AnatomyDTLib.learning.cases import Case, Dataset
from AnatomyDTLib.learning.growth import GrowthConfig, GrowthNetwork, exposure, exposures, load_growth, save_growth
from AnatomyDTLib.physics.assembly import assemble
from AnatomyDTLib.plan import Chemotherapy, Radiotherapy
from AnatomyDTLib.presets import completed, tissue

NAMES = ("Background", "White matter", "Tumor")


def perturbed(axes=3, seed=0):
    torch.manual_seed(seed)
    network = GrowthNetwork(GrowthConfig(NAMES, axes=axes, limit_per_day=0.3))
    torch.nn.init.normal_(network.outputs.weight, std=2.0)
    return network


def case(n=20):
    labels = np.ones((n,) * 3, np.uint8)
    labels[8:12, 8:12, 8:12] = 2
    tissues = [tissue(n, r) for n, r in zip(NAMES, ("background", "white", "tumor"))]
    return labels, Plan(completed(tissues, ()), (), (20.0,))


@pytest.mark.parametrize("axes", [2, 3])
def test_rates_are_bounded_and_balanced_and_follow_a_shift(axes):
    torch.manual_seed(0)
    network = GrowthNetwork(GrowthConfig(NAMES, axes=axes, limit_per_day=0.3, blurs_mm=(0.5, 1.0)))
    torch.nn.init.normal_(network.outputs.weight, std=2.0)
    p = torch.rand(2, 3, *(14,) * axes)
    p = p / p.sum(1, keepdim=True)
    exposure = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.2, 0.1]])
    rates = network(p, exposure)
    assert float(rates.detach().abs().max()) <= network.config.limit_per_day
    assert float((p * rates).sum(1).detach().abs().max()) < 1e-7
    assert not torch.allclose(rates[0], rates[1])
    # a shift of the input shifts the rates, away from the edges that the blurs repeat
    rolled = network(p.roll(2, -1), exposure)
    assert torch.allclose(rolled[..., 6:-4], rates.roll(2, -1)[..., 6:-4], atol=1e-5)


def test_it_sees_as_far_as_its_widest_blur():
    network = perturbed(2)
    p = torch.zeros(1, 3, 41, 41)
    p[:, 1] = 1
    seen = network(p, torch.zeros(1, 4))
    p[:, 1, 20, 30], p[:, 2, 20, 30] = 0.0, 1.0
    change = (network(p, torch.zeros(1, 4)) - seen).detach().abs().amax((0, 1))
    assert float(change[20, 14]) > 1e-7 and float(change[20, 5]) == 0.0     # 16 voxels away: 2.7 widths; 25: beyond the cut


def test_the_engine_gives_the_network_what_it_was_trained_with():
    """One course as a batch's grid adds it up and as the engine's course does."""
    labels = np.ones((2, 20, 20), np.uint8)
    labels[:, 8:12, 8:12] = 2
    tissues = [tissue(n, r) for n, r in zip(NAMES, ("background", "white", "tumor"))]
    treatments = (Radiotherapy(3.0, 4, 2.0, weekdays_only=False), Chemotherapy("drug", (2.0, 9.0), 0.3, 1.5, 0.8))
    anatomy = completed(tissues, treatments)
    case = Case("a", "a", (0.0, 30.0), labels, treatments)
    grid = collate(Dataset("one", anatomy, (1.0, 1.0), (case,)), [0]).grid
    _, _, course = assemble(Plan(anatomy, treatments, (30.0,)), labels[0], (1.0, 1.0), {})
    given = killed = torch.zeros(1)
    for step in range(len(grid)):
        given, killed = given + grid.dose_gy[step], killed + grid.drug[step]
        trained = exposures(given, grid.dose_gy[step], killed, grid.drug[step], grid.dt[step])
        assert torch.allclose(exposure(course, float(grid.start[step]), float(grid.dt[step])), trained, atol=1e-4)
    assert float(given) == 8.0 and float(killed) == pytest.approx(0.3 * 0.8 * 2 * 1.5 / np.log(2.0), rel=1e-3)


def test_untrained_network_is_the_mechanistic_model_and_a_trained_one_is_not(tmp_path):
    labels, plan = case()
    save_growth(GrowthNetwork(GrowthConfig(NAMES)), tmp_path / "zero.safetensors")
    save_growth(perturbed(), tmp_path / "some.safetensors")
    plain = forecast(labels, (1.0,) * 3, plan, device="cpu", probabilities=True)
    zero = forecast(labels, (1.0,) * 3, plan, device="cpu", probabilities=True, weights=tmp_path / "zero.safetensors")
    some = forecast(labels, (1.0,) * 3, plan, device="cpu", probabilities=True, weights=tmp_path / "some.safetensors")
    assert np.abs(plain.tumor_probability.astype(float) - zero.tumor_probability).max() < 2e-3  # float16
    assert np.abs(plain.tumor_probability.astype(float) - some.tumor_probability).max() > 1e-2


def test_an_image_of_any_unit_changes_a_forecast(tmp_path):
    labels, plan = case()
    torch.manual_seed(0)
    network = GrowthNetwork(GrowthConfig(NAMES, images=1, limit_per_day=0.3))
    for layer in (network.inputs, network.hidden, network.outputs):
        torch.nn.init.normal_(layer.weight, std=1.0)
    save_growth(network, tmp_path / "w.safetensors")
    image = np.where(np.indices(labels.shape)[0] < 10, 800.0, 500.0)

    def probability(image):
        found = forecast(labels, (1.0,) * 3, plan, device="cpu", probabilities=True, weights=tmp_path / "w.safetensors", images={"ct": image})
        return found.tumor_probability[-1].astype(float)

    assert np.allclose(probability(50 * image), probability(image), atol=2e-3)
    assert np.abs(probability(image[::-1]) - probability(image)).max() > 1e-2
    with pytest.raises(ForecastError, match="need 1 image"):
        forecast(labels, (1.0,) * 3, plan, weights=tmp_path / "w.safetensors")


def test_wrong_weights_are_refused_in_one_sentence(tmp_path):
    labels, plan = case()
    (tmp_path / "junk.safetensors").write_bytes(b"not weights at all")
    save_growth(GrowthNetwork(GrowthConfig(("A", "B"))), tmp_path / "other.safetensors")
    save_growth(GrowthNetwork(GrowthConfig(NAMES, axes=2)), tmp_path / "flat.safetensors")
    for name, word in (("junk", "safetensors"), ("other", "trained for"), ("flat", "2D"), ("absent", "exist")):
        with pytest.raises(ForecastError, match=word):
            forecast(labels, (1.0,) * 3, plan, weights=tmp_path / f"{name}.safetensors")


def test_weights_come_back_as_saved(tmp_path):
    network = perturbed()
    save_growth(network, tmp_path / "w.safetensors")
    again = load_growth(tmp_path / "w.safetensors", NAMES, 3)
    assert again.config == network.config
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values()))
