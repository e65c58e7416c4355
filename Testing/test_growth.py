"""The growth network: bounded, balanced, zero at first, equivariant, safe to load, and of use where there is something to learn."""

import dataclasses

import numpy as np
import pytest
import torch
from skimage.graph import MCP_Geometric

from AnatomyDTLib import ForecastError, Plan, forecast
from AnatomyDTLib.learning import training
from AnatomyDTLib.learning.batches import collate
from AnatomyDTLib.learning.cases import Case, Dataset
from AnatomyDTLib.learning.growth import GrowthConfig, GrowthNetwork, exposure, exposures, load_growth, save_growth
from AnatomyDTLib.learning.losses import LossWeights
from AnatomyDTLib.learning.twin import AnatomyTwin
from AnatomyDTLib.physics.assembly import assemble
from AnatomyDTLib.plan import Anatomy, Chemotherapy, Radiotherapy
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


def lopsided(n):
    """Discs in one tissue whose front comes 0.12 mm/day on the side where an image is bright and 0.03 where it is dark."""
    rng, cases = np.random.default_rng(0), []
    y, x = np.indices((40, 40))
    for i in range(n):
        (v, u), radius, angle, day = rng.uniform(15, 25, 2), rng.uniform(4, 6), rng.uniform(0, 2 * np.pi), rng.uniform(40, 70)
        first = (y - v) ** 2 + (x - u) ** 2 <= radius**2
        bright = (y - v) * np.sin(angle) + (x - u) * np.cos(angle) > 0
        arrival, _ = MCP_Geometric(1 / np.where(bright, 0.12, 0.03)).find_costs(np.argwhere(first))
        labels = np.stack([first, arrival <= day]).astype(np.uint8)
        cases.append(Case(f"{i}", f"{i}", (0.0, day), labels, images=np.where(bright, 800.0, 500.0)[None]))
    return Dataset("lopsided", Anatomy((tissue("Around", "organ"), tissue("Tumor", "tumor"))), (1.0, 1.0), tuple(cases))


def test_it_learns_what_only_an_image_shows():
    """Mean Dice of the tumors of six cases that were not trained on; the spatial terms do not see images."""
    dataset, unseen = lopsided(24), np.arange(18, 24)
    config = training.TrainConfig(steps=120, batch_size=8, validations=4, longest_step_days=20.0, loss=LossWeights(cl_dice=0.0))

    def dice(network, images):
        shown = dataset if images else dataclasses.replace(dataset, cases=tuple(dataclasses.replace(c, images=None) for c in dataset.cases))
        torch.manual_seed(0)
        model = AnatomyTwin.of(shown, hidden=16, network=network)
        training.train(model, shown, np.arange(14), np.arange(14, 18), config)
        with torch.no_grad():
            found = model.eval()(collate(shown, unseen, longest_step_days=20.0))[:, -1].argmax(1).numpy() == 1
        true = np.stack([dataset.cases[i].labels[-1] for i in unseen]) == 1
        return float(np.mean(2 * (found & true).sum((1, 2)) / (found.sum((1, 2)) + true.sum((1, 2)))))

    without, blind, seeing = dice(False, False), dice(True, False), dice(True, True)
    print(f"tumor Dice: no growth network {without:.3f}, network without the image {blind:.3f}, with it {seeing:.3f}")
    assert seeing > 0.9 and seeing > max(without, blind) + 0.1
    assert abs(blind - without) < 0.03
