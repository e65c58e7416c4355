"""Training in half precision: what `training.train` does on CUDA, here with bfloat16 on the CPU."""

import dataclasses

import numpy as np
import pytest
import torch
from twin_cases import trained_a_little

from AnatomyDTLib.learning.batches import collate
from AnatomyDTLib.learning.losses import LossWeights, forecast_loss
from AnatomyDTLib.learning.methods import METHODS, TWIN
from AnatomyDTLib.learning.voronoi import VoronoiSettings, voronoi

LEARNED = tuple(key for key, method in METHODS.items() if method.trials)


@pytest.fixture(scope="module")
def dataset():
    """Two cases with an image each; a size that no pyramid divides."""
    data = voronoi(2, VoronoiSettings(shape=(22, 22)))
    random = np.random.default_rng(0)
    cases = tuple(dataclasses.replace(case, images=random.random((1, *case.shape), np.float32)) for case in data.cases)
    return dataclasses.replace(data, cases=cases)


def predicted(model, batch, half):
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        return model(batch)


@pytest.mark.parametrize("key", LEARNED)
def test_a_model_predicts_the_same_labels(key, dataset):
    """Untrained exactly; with networks that act, of voxels whose two largest probabilities differ by more than bfloat16 tells."""
    model, batch = METHODS[key].build(dataset, 0).eval(), collate(dataset, [0, 1])
    with torch.no_grad():
        single, half = predicted(model, batch, False), predicted(model, batch, True)
        assert half.dtype == torch.float32 and torch.equal(half.argmax(2), single.argmax(2))
        trained_a_little(model, 0.02)
        single, half = predicted(model, batch, False), predicted(model, batch, True)
    top = single.topk(2, dim=2).values
    clear = top[:, :, 0] - top[:, :, 1] > 0.05
    assert bool(clear.float().mean() > 0.9) and torch.equal(half.argmax(2)[clear], single.argmax(2)[clear])


@pytest.mark.parametrize("key", LEARNED)
def test_gradients_are_finite_and_about_those_of_single_precision(key, dataset):
    model, batch, gradients = trained_a_little(METHODS[key].build(dataset, 0), 0.02), collate(dataset, [0, 1]), []
    for half in (False, True):
        model.zero_grad()
        forecast_loss(predicted(model, batch, half).float(), batch, LossWeights(), dataset.tree_classes).backward()
        assert all(bool(torch.isfinite(value.grad).all()) for value in model.parameters() if value.grad is not None)
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None]))
    assert float(torch.cosine_similarity(*gradients, 0)) > 0.98


@pytest.mark.parametrize("key, settings", [(TWIN, {"network": False}), ("fisher-kpp", {}), ("cross-diffusion", {})])
def test_physics_stays_in_single_precision(key, settings, dataset):
    model, batch = METHODS[key].build(dataset, 0, **settings), collate(dataset, [0, 1])
    with torch.no_grad():
        assert torch.equal(predicted(model, batch, True), predicted(model, batch, False))


def test_the_growth_network_is_in_half_precision(dataset):
    batch = collate(dataset, [0, 1])
    model, seen = METHODS[TWIN].build(dataset, 0), []
    model.growth.hidden.register_forward_hook(lambda _, given, made: seen.append(made.dtype))
    with torch.no_grad():
        predicted(model, batch, True)
    assert set(seen) == {torch.bfloat16}
