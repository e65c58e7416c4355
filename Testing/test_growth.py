"""The growth network: bounded, balanced, zero at first, equivariant, and safe to load."""

import numpy as np
import pytest
import torch

from AnatomyDTLib import ForecastError, Plan, forecast
from AnatomyDTLib.learning.growth import GrowthConfig, GrowthNetwork, load_growth, save_growth
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
def test_rates_are_bounded_and_balanced(axes):
    network = perturbed(axes)
    p = torch.rand(2, 3, *(9,) * axes)
    p = p / p.sum(1, keepdim=True)
    rates = network(p, torch.tensor([[0.0, 0.0], [1.0, 0.5]]))
    assert float(rates.detach().abs().max()) <= network.config.limit_per_day
    assert float((p * rates).sum(1).detach().abs().max()) < 1e-7
    assert not torch.allclose(rates[0], rates[1])
    # a shift of the input shifts the rates
    rolled = network(p.roll(2, -1), torch.tensor([[0.0, 0.0], [1.0, 0.5]]))
    assert torch.allclose(rolled[..., 4:-2], rates.roll(2, -1)[..., 4:-2], atol=1e-6)


def test_untrained_network_is_the_mechanistic_model_and_a_trained_one_is_not(tmp_path):
    labels, plan = case()
    save_growth(GrowthNetwork(GrowthConfig(NAMES)), tmp_path / "zero.safetensors")
    save_growth(perturbed(), tmp_path / "some.safetensors")
    plain = forecast(labels, (1.0,) * 3, plan, device="cpu", probabilities=True)
    zero = forecast(labels, (1.0,) * 3, plan, device="cpu", probabilities=True, weights=tmp_path / "zero.safetensors")
    some = forecast(labels, (1.0,) * 3, plan, device="cpu", probabilities=True, weights=tmp_path / "some.safetensors")
    assert np.abs(plain.tumor_probability.astype(float) - zero.tumor_probability).max() < 2e-3  # float16
    assert np.abs(plain.tumor_probability.astype(float) - some.tumor_probability).max() > 1e-2


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
