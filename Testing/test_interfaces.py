"""The state of a twin: log-odds at borders, how they react, how fields are smoothed along them, where room for growth is made."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from twin_cases import SIZE, head

from AnatomyDTLib.learning import displacement, smoothing
from AnatomyDTLib.learning.batches import signed_distances
from AnatomyDTLib.learning.interfaces import Sides, State
from AnatomyDTLib.physics.reaction import correct
from AnatomyDTLib.plan import Anatomy
from AnatomyDTLib.presets import tissue


def state_of(labels, anatomy, slope=2.0):
    distances = torch.from_numpy(signed_distances(labels, len(anatomy), (1.0,) * labels.ndim)).unsqueeze(0)
    return State.of(Sides.of(anatomy), distances, slope)


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (16, 32, 32)])
def test_a_state_shows_the_labels_that_it_was_made_from(shape):
    labels, anatomy = head(shape)
    labels[(0,) * (len(shape) - 2)][12, 4] = 3          # one voxel
    for slope in (2.0, 3.0, 6.0):                       # 2: borders two voxels wide, as `AnatomyTwin.of` has them
        p = state_of(labels, anatomy, slope).probabilities()
        assert float((p.sum(1) - 1).abs().max()) < 1e-6 and float(p.min()) >= 0
        assert (p[0].argmax(0).numpy() == labels).all()


@pytest.mark.parametrize("tumors", [1, 2])
def test_the_reaction_of_a_state_is_that_of_the_physics(tumors):
    labels, anatomy = head()
    if tumors == 2:
        anatomy = Anatomy((*anatomy.tissues, tissue("Edema", "edema")))
        labels = np.where((labels == 5) & (np.indices(labels.shape)[1] > SIZE // 2), 6, labels).astype(np.uint8)
    state = state_of(labels, anatomy, 0.3)
    state = State(state.sides, *(None if t is None else t.double() for t in (state.u, state.c, state.q)))
    torch.manual_seed(0)
    p = state.probabilities()
    rate = torch.randn_like(p)
    rate = rate - (p * rate).sum(1, keepdim=True)
    assert torch.allclose(state.reacted(0.4 * rate).probabilities(), correct(p, rate, 0.4), atol=1e-9)
    # from a log-odds of 40, where single precision has p = 1, back to where it was
    single = state_of(labels, anatomy)
    deep = replace(single, u=torch.full_like(single.u, 40.0))
    killed = torch.zeros_like(deep.probabilities())
    killed[:, list(state.sides.tumors)] = -39.0
    assert torch.allclose(deep.reacted(killed).u, torch.tensor(1.0), atol=1e-4)


def test_smoothing():
    x = torch.arange(30, dtype=torch.float64)
    slope = (2.0 * x[:, None] - 3.0 * x[None]).reshape(1, 1, 30, 30)
    ones = torch.ones(1, 2, 8, 9, 10)
    assert torch.allclose(smoothing.blur(ones, 3.0, (1.0, 2.0, 0.5)), ones, atol=1e-5)
    assert torch.allclose(smoothing.blur(ones.double().cumsum(2), 0.7, (1.0,) * 3)[:, :, 4], ones.double()[:, :, 0] * 5, atol=1e-6)
    assert torch.allclose(smoothing.gradient(slope[:, 0], (2.0, 1.0))[0, :, 5, 5], torch.tensor([1.0, -3.0], dtype=torch.float64))
    # the extension of a front's values beside it: constant along the normal, here the first axis
    front = torch.full((1, 1, 30, 30), 1e-12, dtype=torch.float64)
    front[..., 10, :] = 1.0
    values = x.reshape(1, 1, 1, 30).expand(1, 1, 30, 30)
    far = smoothing.extended(values, front, 3.0, (1.0, 1.0))
    assert torch.allclose(far[..., 22, 12:-12], values[..., 22, 12:-12], atol=0.05)


def test_room_for_growth_is_made_inside_and_none_is_lost():
    labels, anatomy = head((SIZE, SIZE))
    state = state_of(labels, anatomy)
    source = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * torch.sigmoid(state.u) * torch.sigmoid(-state.u)
    spread = displacement.from_inside(source, state, (1.0, 1.0))
    assert float(spread.sum()) == pytest.approx(float(source.sum()), rel=1e-3)
    assert float(spread[state.u < -3].abs().sum()) < 0.05 * float(spread.sum()) and float(spread[state.u > 3].min()) > 0
