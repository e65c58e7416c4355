"""Losses against values by hand and against MONAI's."""

from types import SimpleNamespace

import pytest
import torch
from monai.losses import DiceLoss, SoftclDiceLoss
from monai.losses.cldice import soft_skel

from AnatomyDTLib.learning import losses


def simplex(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.softmax(3 * torch.randn(*shape, dtype=torch.float64), 1)


def test_dice_by_hand_and_as_monai():
    p = torch.tensor([[[[0.5, 0.0], [1.0, 0.25]]]], dtype=torch.float64)
    q = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]], dtype=torch.float64)
    # ⟨p, q⟩ = 1.5, ⟨p, 1⟩ = 1.75, ⟨q, 1⟩ = 2
    assert float(losses.dice_loss(p, q)) == pytest.approx(1 - 3.0 / 3.75, abs=1e-5)
    a, b = simplex(2, 4, 9, 7), simplex(2, 4, 9, 7, seed=1)
    theirs = DiceLoss(reduction="none", smooth_nr=losses.SMOOTH, smooth_dr=losses.SMOOTH)(a, b)[..., 0, 0]
    assert torch.allclose(losses.dice_loss(a, b), theirs, atol=1e-12)
    assert float(losses.dice_loss(p * 0, q * 0)) == 0.0


@pytest.mark.parametrize("shape", [(2, 3, 13, 11), (1, 2, 9, 8, 7)])
def test_skeleton_and_cl_dice_as_monai(shape):
    p, q = simplex(*shape), simplex(*shape, seed=1)
    assert torch.allclose(losses.soft_skeleton(p, 4), soft_skel(p, 4), atol=1e-12)
    tiny = losses.SMOOTH
    theirs = SoftclDiceLoss(iter_=4, smooth_nr=0, smooth_dr=tiny, smooth=tiny, reduction="none")
    # theirs sums over the classes, so it sees one at a time
    each = torch.stack([theirs(p[:, k : k + 1], q[:, k : k + 1]) for k in range(p.shape[1])], 1)
    assert torch.allclose(losses.cl_dice_loss(p, q, 4), each, atol=1e-12)


def test_skeleton_of_a_bar_is_its_centreline_in_2d_and_3d():
    flat = torch.zeros(1, 1, 9, 21)
    flat[..., 3:6, 2:19] = 1
    line = losses.soft_skeleton(flat)[0, 0]
    assert (line[4, 4:17] == 1).all() and (line[:4] == 0).all() and (line[5:] == 0).all()
    solid = torch.zeros(1, 1, 9, 9, 21)
    solid[..., 3:6, 3:6, 2:19] = 1
    line = losses.soft_skeleton(solid)[0, 0]
    assert (line[4, 4, 4:17] == 1).all() and line[3].sum() == 0


def test_cl_dice_by_hand():
    q = torch.zeros(1, 1, 9, 21)
    q[..., 4, 2:18] = 1                                  # a line of 16 voxels is its own skeleton
    p = torch.zeros_like(q)
    p[..., 4, 2:14] = 1                                  # 12 of them
    x, y = 1.0, 12 / 16
    assert float(losses.cl_dice_loss(p, q)) == pytest.approx(1 - 2 * x * y / (x + y), abs=1e-5)
    assert float(losses.cl_dice_loss(q, q)) == pytest.approx(0, abs=1e-5)
    assert float(losses.cl_dice_loss(p, q * 0)) == 0.0   # nothing observed, nothing asked


def test_overlap_by_hand():
    p = torch.tensor([0.5, 0.3, 0.2]).reshape(1, 3, 1, 1)
    assert float(losses.overlap_loss(p)) == pytest.approx((0.15 + 0.10 + 0.06) / 3)
    assert float(losses.overlap_loss(torch.eye(3).reshape(1, 3, 3, 1))) == 0.0


def test_the_topology_loss_by_hand():
    q = torch.zeros(2, 3, 9, 21)
    q[:, 1, 4, 2:18] = 1                                 # a line of 16 voxels, and no voxel of class 2
    q[:, 0] = 1 - q[:, 1]
    p = q.clone()
    p[0, 1, 4, 14:18], p[0, 0, 4, 14:18] = 0.0, 1.0      # 12 of them in the first case, the second as it is
    p[0, 0, 8, :2], p[0, 2, 8, :2] = 0.5, 0.5            # and two voxels that two classes share
    lost, shared = 1 - 2 * 0.75 / 1.75, 2 / (3 * 2) * 2 * 0.25 / (9 * 21)
    for trees, cl_dice, overlap, expected in (
        ((1,), 0.2, 0.0, 0.2 * lost), ((1, 2), 0.2, 0.0, 0.2 * lost / 2), ((1,), 0.2, 0.1, 0.2 * lost + 0.1 * shared),
        ((), 0.2, 0.1, 0.1 * shared), ((1,), 0.0, 0.1, 0.1 * shared),
    ):
        first, second = losses.anatomy_topology_loss(p, q, trees, cl_dice, overlap).tolist()
        assert first == pytest.approx(expected, abs=1e-5) and second == pytest.approx(0, abs=1e-5)


def test_total_variation_by_hand():
    field = torch.tensor([[0.0, 1.0, 1.0], [0.0, 3.0, 1.0]]).reshape(1, 1, 2, 3)
    # |Δ| along y: 2 (at 2 mm: 1); along x: 1 + 0 + 3 + 2 = 6; six voxels
    assert float(losses.total_variation(field, (2.0, 1.0))) == pytest.approx((1.0 + 6.0) / 6)


def test_the_sum_counts_visits_that_are_there_and_weighs_its_parts():
    p, q = simplex(4, 3, 8, 8).reshape(2, 2, 3, 8, 8), simplex(4, 3, 8, 8, seed=1).reshape(2, 2, 3, 8, 8)
    states = torch.cat((q[:, :1], q), 1)
    batch = SimpleNamespace(states=states, present=torch.tensor([[True, True, True], [True, True, False]]))
    flat_p, flat_q = p[batch.present[:, 1:]], q[batch.present[:, 1:]]
    assert len(flat_p) == 3
    weights = losses.LossWeights(dice=2.0, cross_entropy=0.5, cl_dice=0.3, overlap=0.7)
    expected = (
        2.0 * losses.dice_loss(flat_p, flat_q).mean()
        - 0.5 * (flat_q * flat_p.log()).sum(1).mean()
        + 0.3 * losses.cl_dice_loss(flat_p[:, 1:2], flat_q[:, 1:2]).mean() + 0.7 * losses.overlap_loss(flat_p).mean()
    )
    assert float(losses.forecast_loss(p, batch, weights, (1,))) == pytest.approx(float(expected))
    # what is padding has no say
    states[1, 2] = states[1, 2].flip(0)
    assert float(losses.forecast_loss(p, batch, weights, (1,))) == pytest.approx(float(expected))


def test_gradients_of_every_term():
    p, q = simplex(1, 3, 5, 5).sqrt(), simplex(1, 3, 5, 5, seed=1)
    p = p / p.sum(1, keepdim=True)
    p.requires_grad_(True)
    for term in (losses.dice_loss, losses.cross_entropy, lambda a, b: losses.cl_dice_loss(a, b, 2)):
        assert torch.autograd.gradcheck(lambda a: term(a, q), p)
    assert torch.autograd.gradcheck(losses.overlap_loss, p)
