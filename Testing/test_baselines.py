"""The baselines: persistence at the start, any size in 2D and 3D, treatment and days seen, every parameter learns."""

import dataclasses

import numpy as np
import pytest
import torch
from twin_cases import trained_a_little

from AnatomyDTLib.learning import baselines
from AnatomyDTLib.learning.baselines.flow import flowed, warped
from AnatomyDTLib.learning.baselines.frame import CONDITIONS, GIVEN, condition_of, courses
from AnatomyDTLib.learning.batches import collate
from AnatomyDTLib.learning.cases import Case, Dataset
from AnatomyDTLib.plan import Anatomy, Chemotherapy, Radiotherapy, Surgery, Tissue

NETWORKS = tuple(baselines.LEARNED)
MECHANISTIC = ("fisher-kpp", "cross-diffusion")
TREATED = (Radiotherapy(3.0, 5), Chemotherapy("drug", (2.0, 5.0, 24.0), 0.3, 1.0), Surgery(12.0, extent=0.5))


def dataset(shape, images=0):
    """Two halves with a ball between them that grows; an untreated case of three visits and a treated one of two."""
    anatomy = Anatomy((
        Tissue("outside", "background"), Tissue("left", "organ"), Tissue("right", "organ"), Tissue("tumor", "tumor"),
        Tissue("cavity", "cavity"),
    ))
    labels = np.zeros((3, *shape), np.uint8)
    labels[..., 1:-1] = 1
    labels[..., shape[-1] // 2:-1] = 2
    radius = np.sqrt(sum((g - s / 2) ** 2 for g, s in zip(np.indices(shape), shape)))
    for visit in range(3):
        labels[visit][radius < 2 + visit] = 3
    pictures = np.random.default_rng(0).random((images, *shape), dtype=np.float32) if images else None
    return Dataset("halves", anatomy, (1.0,) * len(shape), (
        Case("free", "p", (0.0, 20.0, 50.0), labels, images=pictures),
        Case("treated", "q", (0.0, 30.0), labels[:2], TREATED, images=pictures),
    ))


@pytest.mark.parametrize("method", ("persistence", *NETWORKS))
@pytest.mark.parametrize("shape", [(17, 23), (16, 12), (7, 9, 11)])
def test_a_new_baseline_is_persistence_on_any_size(method, shape):
    data = dataset(shape, images=1)
    batch = collate(data, [0, 1])
    torch.manual_seed(0)
    with torch.no_grad():
        predicted = baselines.build(method, data)(batch)
    assert predicted.shape == (2, 2, 5, *shape)
    assert torch.allclose(predicted.sum(2), torch.ones(2, 2, *shape), atol=1e-5) and bool((predicted >= 0).all())
    assert torch.equal(predicted.argmax(2), batch.labels[:, :1].expand(-1, 2, *shape))


def built(method, data):
    """Small, and a little trained where it is a network."""
    torch.manual_seed(0)
    return trained_a_little(baselines.build(method, data, width=8)) if method in NETWORKS else baselines.build(method, data)


@pytest.mark.parametrize("method", (*NETWORKS, *MECHANISTIC))
@pytest.mark.parametrize("shape", [(17, 12), (6, 7, 9)])
def test_gradients_reach_every_parameter(method, shape):
    data = dataset(shape, images=1)
    net = built(method, data)
    batch = collate(data, [0, 1])
    (net(batch) - batch.states[:, 1:]).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


@pytest.mark.parametrize("method", (*NETWORKS, *MECHANISTIC))
def test_treatment_days_and_images_change_the_prediction(method):
    data = dataset((16, 16), images=1)
    net = built(method, data).eval()
    seen = data.cases[1]

    def predicted(**changes):
        case = dataclasses.replace(seen, **changes)
        with torch.no_grad():
            return net(collate(dataclasses.replace(data, cases=(case,)), [0]))

    before = predicted()
    assert torch.equal(before, predicted())
    for changes in (
        {"treatments": ()}, {"treatments": TREATED[:1]}, {"treatments": TREATED[1:]}, {"days": (0.0, 60.0)},
        {"treatments": (Radiotherapy(20.0, 5), *TREATED[1:])},      # the same dose, later
        *([{"images": seen.images[..., ::-1]}] if method in NETWORKS else []),
    ):
        assert float((predicted(**changes) - before).abs().max()) > 1e-5, changes


@pytest.mark.parametrize("method", (*NETWORKS, *MECHANISTIC))
def test_the_future_is_not_read(method):
    data = dataset((16, 16))
    net = built(method, data).eval()
    other = data.cases[0].labels.copy()
    other[1:] = 0
    blind = dataclasses.replace(data, cases=(dataclasses.replace(data.cases[0], labels=other),))
    with torch.no_grad():
        assert torch.equal(net(collate(data, [0])), net(collate(blind, [0])))


@pytest.mark.parametrize("method", (*NETWORKS, *MECHANISTIC))
def test_a_case_does_not_depend_on_its_neighbours_in_the_batch(method):
    data = dataset((17, 23))
    net = built(method, data).eval()
    with torch.no_grad():
        together, alone = net(collate(data, [0, 1])), net(collate(data, [1]))
    # the grid of days is finer beside a case that needs it, and what lies in a step is shared by days
    assert float((together[1, 0] - alone[0, 0]).abs().max()) < 0.02


@pytest.mark.parametrize("method", MECHANISTIC)
def test_a_mechanistic_baseline_is_the_equation(method):
    """On the simplex; persistence with every coefficient at zero; grows with rho and shrinks under treatment."""
    data = dataset((16, 18))
    batch = collate(data, [0, 1])
    net = baselines.build(method, data)

    def tumor(**values):
        with torch.no_grad():
            for name, value in {"diffusivity": -20.0, "rho": -20.0, "alpha": -20.0, "beta": -20.0, "drug": -20.0, **values}.items():
                getattr(net, name).fill_(value)
            predicted = net(batch)
        assert torch.allclose(predicted.sum(2), torch.ones(2, 2, 16, 18), atol=1e-5)
        return predicted[:, :, 3].sum((2, 3)), predicted

    kept, predicted = tumor()
    assert torch.equal(predicted[0].argmax(1), batch.labels[0, :1].expand(2, -1, -1))
    grown, _ = tumor(diffusivity=-2.0, rho=-3.0)
    treated, _ = tumor(alpha=-3.0, drug=1.0)
    assert bool((grown[0] > kept[0] + 1).all()) and grown[0, 1] > grown[0, 0]
    assert torch.allclose(treated[0], kept[0]) and bool((treated[1] < kept[1] - 0.5).all())


@pytest.mark.parametrize("method", MECHANISTIC)
def test_a_mechanistic_baseline_keeps_what_no_tumor_reaches_and_beats_persistence(method):
    from AnatomyDTLib.learning.training import TrainConfig, mean_dice, train
    from AnatomyDTLib.learning.voronoi import VoronoiSettings, voronoi

    data = voronoi(8, VoronoiSettings(shape=(32, 32), seed=5))
    net = baselines.build(method, data)
    batch = collate(data, range(8))
    before = sum(mean_dice(batch.states[:, :1], batch))
    with torch.no_grad():
        first = net(batch)[:, 0].argmax(1)
    far = (batch.distances[:, -1] < -20) & (batch.distances[:, -1] > -90)
    assert bool(far.any()) and torch.equal(first[far], batch.labels[:, 0][far])
    train(net, data, np.arange(8), np.arange(8), TrainConfig(steps=5))
    with torch.no_grad():
        assert sum(mean_dice(net(batch), batch)) > before + 0.24         # 3 points of DSC a case


@pytest.mark.parametrize("method", MECHANISTIC)
def test_an_operation_on_the_day_of_a_visit_is_done_once(method):
    data = dataset((16, 16))
    net = baselines.build(method, data)
    labels, operated = data.cases[0].labels, (Surgery(20.0, extent=0.5),)

    def predicted(*days):
        case = dataclasses.replace(data.cases[0], days=days, labels=labels[: len(days)], treatments=operated)
        with torch.no_grad():
            return net(collate(dataclasses.replace(data, cases=(case,)), [0]))

    through, stopped = predicted(0.0, 40.0), predicted(0.0, 20.0, 40.0)
    assert torch.allclose(stopped[:, -1], through[:, -1], atol=1e-6)
    # what is seen on that day has been operated on
    assert float(stopped[0, 0, 4].sum()) > 1


def test_stretches_of_time_add_up_to_what_lies_between_two_visits():
    batch = collate(dataset((8, 8)), [0, 1], longest_step_days=4.0)
    for parts in (1, 3, 7):
        course = courses(batch, 0, 1, parts)
        assert course.shape == (2, parts, GIVEN)
        assert torch.allclose(course.sum(1), batch.between(0, 1), atol=1e-5)
    assert condition_of(batch, 0, 1).shape == (2, CONDITIONS)
    early, middle, late = courses(batch, 0, 1, 3)[1]
    assert early[1] == pytest.approx(10 / 60, abs=0.01) and late[1] == 0      # five fractions from day 3
    assert (early[3], middle[3], late[3]) == (0, 0.5, 0)                     # half resected on day 12 of 30
    assert late[2] > 0                                                       # the last dose is given on day 24


def test_a_flow_moves_what_it_carries_and_does_not_fold():
    field = torch.zeros(1, 1, 12, 15)
    field[..., 4, 6] = 1.0
    shift = torch.zeros(1, 2, 12, 15)
    assert torch.allclose(warped(field, shift), field, atol=1e-6)
    shift[:, 0], shift[:, 1] = 2.0, -3.0
    expected = torch.zeros_like(field)
    expected[..., 2, 9] = 1.0
    assert torch.allclose(warped(field, flowed(shift, 5)), expected, atol=1e-4)
    x = torch.arange(64.0)
    v = torch.zeros(1, 2, 4, 64)
    v[:, 1] = 16 * torch.sin(2 * torch.pi * x / 64)          # slope down to −1.57: taken as a displacement it folds
    slope = flowed(v, 8)[0, 1, 0].diff()
    assert float(v[0, 1, 0].diff().min()) < -1 < float(slope.min())
    assert float(slope.min()) + 1 == pytest.approx(float(torch.exp(torch.tensor(-torch.pi / 2))), rel=0.02)
