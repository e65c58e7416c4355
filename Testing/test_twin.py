"""The learned twin: what each part does, and that gradients and memory behave."""

import dataclasses

import numpy as np
import pytest
import torch
from twin_cases import SIZE, head, one_case

from AnatomyDTLib.learning import twin
from AnatomyDTLib.learning.batches import collate
from AnatomyDTLib.learning.cases import Case, Dataset
from AnatomyDTLib.learning.forecasting import load_twin
from AnatomyDTLib.learning.twin import AnatomyTwin, TwinConfig
from AnatomyDTLib.learning.voronoi import VoronoiSettings, voronoi
from AnatomyDTLib.learning.weights import TrainingError, write_tensors
from AnatomyDTLib.plan import Anatomy, Chemotherapy, Radiotherapy, Surgery
from AnatomyDTLib.presets import tissue


def joined(*datasets):
    cases = tuple(dataclasses.replace(d.cases[0], name=str(i)) for i, d in enumerate(datasets))
    return Dataset("several", datasets[0].anatomy, datasets[0].spacing_mm, cases)


def stirred(dataset, seed=0, **settings):
    """A twin whose network does something."""
    model = AnatomyTwin.of(dataset, seed, **settings)
    if model.growth is not None:
        torch.nn.init.normal_(model.growth.outputs.weight, std=0.1)
    return model


# ---- the parts


def test_a_front_has_its_speed_and_tissues_keep_theirs():
    """A flat front: log-odds come forward by the advance, times sqrt(D / D_typical) of the tissue that they stand in."""
    anatomy = Anatomy((tissue("Slow", "organ"), tissue("Fast", "organ"), tissue("Tumor", "tumor")))
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 20:] = 1
    labels[:10] = 2
    case = Case("a", "a", (0.0, 40.0), np.stack([labels] * 2))
    dataset = Dataset("flat", anatomy, (1.0, 1.0), (case,))
    model = AnatomyTwin.of(dataset, growth_law=False, cross_diffusion=False, network=False)
    with torch.no_grad():
        typical = float(model.typical)
        for index, times in enumerate((0.25, 1.0)):
            place = (torch.tensor(times * typical).log() - model.diffusivity.low) / (model.diffusivity.high - model.diffusivity.low)
            model.diffusivity.raw[index] = torch.logit(place)
        reached = (model(collate(dataset, [0]))[0, 0, 2] > 0.5).sum(0) - 10
        full = float(model.law.front_mm_per_day(model.typical)) * 40
    assert float(reached[33:].float().mean()) == pytest.approx(full, rel=0.1)
    assert float(reached[:7].float().mean()) == pytest.approx(full / 2, rel=0.15)


def test_untrained_network_changes_nothing_and_the_output_is_on_the_simplex():
    batch = collate(one_case(), [0])
    with torch.no_grad():
        some, none = (AnatomyTwin.of(one_case(), network=n)(batch) for n in (True, False))
    assert some.shape == (1, 1, 6, SIZE, SIZE)
    assert torch.allclose(some, none, atol=2e-5)      # rounding, where several borders meet
    assert float((some.sum(2) - 1).abs().max()) < 1e-5


def test_growth_pushes_tissue_and_nothing_passes_the_skull():
    labels, anatomy = head()
    labels[:] = 1
    labels[:, 30:] = 2                                             # a border 4 voxels from the tumor
    labels[0] = 0
    x = np.indices(labels.shape)
    labels[(x[0] - 20) ** 2 + (x[1] - 20) ** 2 < 36] = 5
    case = Case("a", "a", (0.0, 8.0), np.stack([labels, labels]))
    dataset = Dataset("one", anatomy, (1.0, 1.0), (case,))
    batch = collate(dataset, [0])
    with torch.no_grad():
        pushed = AnatomyTwin.of(dataset)(batch)[0, 0].argmax(0).numpy()
        replaced = AnatomyTwin.of(dataset, cross_diffusion=False)(batch)[0, 0].argmax(0).numpy()
        in_place = AnatomyTwin.of(dataset, diffusion=False)(batch)[0, 0].argmax(0).numpy()
    grown = (pushed == 5).sum()
    assert 1.5 * (labels == 5).sum() < grown < 3 * (labels == 5).sum()
    border = [int((a[16] == 2).argmax()) for a in (labels, pushed, replaced)]
    # beside the tumor the border of the two tissues moves away from it where there is a push, and only there
    assert border[1] > border[0] == border[2] == 30
    assert grown == pytest.approx((replaced == 5).sum(), rel=0.05)
    assert (pushed[0] == 0).all() and (pushed[1] != 0).all() and (in_place == 5).sum() < 0.8 * grown


def test_other_tissue_creeps_by_itself_unless_that_is_left_out():
    batch = collate(one_case(), [0])
    with torch.no_grad():
        still, creeping, without = (AnatomyTwin.of(one_case(), network=False, creep=c) for c in (True, True, False))
        for model in (creeping, without):
            model.creep[1] = 1.0
        still, creeping, without = (model(batch) for model in (still, creeping, without))
    assert torch.allclose(still, without, atol=2e-5) and not torch.allclose(still, creeping, atol=0.1)


def test_without_creep_the_network_leaves_alone_what_is_far_from_the_tumor():
    dataset = one_case((0.0, 15.0), shape=(20, 90))
    labels = dataset.cases[0].labels.copy()
    labels[:] = 1
    labels[:, :, 60:] = 2
    labels[:, 6:14, 6:14] = 5
    dataset = dataclasses.replace(dataset, cases=(dataclasses.replace(dataset.cases[0], labels=labels),))
    batch, changed = collate(dataset, [0]), []
    with torch.no_grad():
        none = AnatomyTwin.of(dataset, network=False, cross_diffusion=False)(batch)      # nothing is pushed
        for creep in (True, False):
            model = stirred(dataset, creep=creep, cross_diffusion=False)
            changed.append((model(batch) - none).abs().amax((0, 1, 2, 3)))
    assert float(changed[0][55:65].max()) > 0.005 > 10 * float(changed[1][55:65].max())
    assert float(changed[1][:20].max()) > 0.005


def test_a_tumor_goes_around_a_wall():
    """Behind a falx there is tumor only after the way around it, and none where it closes the space off."""
    anatomy = Anatomy((tissue("White", "white"), tissue("Falx", "barrier"), tissue("Tumor", "tumor")))
    x, y = np.indices((SIZE, SIZE))
    for open_, lines in ((True, x < 30), (False, x >= 0)):
        labels = np.where((y == 24) & lines, 1, 0).astype(np.uint8)
        labels[(x - 14) ** 2 + (y - 17) ** 2 < 25] = 2
        dataset = Dataset("falx", anatomy, (1.0, 1.0), (Case("a", "a", (0.0, 20.0, 120.0), np.stack([labels] * 3)),))
        with torch.no_grad():
            soon, late = AnatomyTwin.of(dataset, growth_law=False)(collate(dataset, [0]))[0].argmax(1).numpy()
        assert ((late == 1) == (labels == 1)).all()
        assert (soon == 2).sum() > 1.5 * (labels == 2).sum() and (soon[:, 23] == 2).any()
        assert not (soon[:, 25:] == 2).any()
        assert (late[:, 25:] == 2).any() == open_ and not (late[:16, 25:] == 2).any()


def test_a_vessel_is_pushed_along_and_is_no_wall():
    """What lies at the front moves with it: the vessel stays one piece outside of the tumor, and the tumor stays on its side."""
    anatomy = Anatomy((tissue("White", "white"), tissue("Vessel", "vessel"), tissue("Tumor", "tumor")))
    x, y = np.indices((SIZE, SIZE))
    labels = np.where((y >= 23) & (y < 27), 1, 0).astype(np.uint8)
    labels[(x - 20) ** 2 + (y - 16) ** 2 < 49] = 2
    dataset = Dataset("vessel", anatomy, (1.0, 1.0), (Case("a", "a", (0.0, 20.0), np.stack([labels] * 2)),))
    batch = collate(dataset, [0])
    assert float(batch.distances[0, 2, 20, 30]) == pytest.approx(-7.5, abs=0.6), "the way to a tumor leads through a vessel"
    with torch.no_grad():
        later = AnatomyTwin.of(dataset, network=False)(batch)[0, 0].argmax(0).numpy()
    assert (later == 2).sum() > 1.5 * (labels == 2).sum()

    def middle(seen):
        return np.flatnonzero(seen[20] == 1).mean()

    assert middle(later) > middle(labels) + 0.4 and (later[20] == 1).sum() >= 3, "pushed aside, whole"
    assert not (later[:, 27:] == 2).any()


def test_no_front_passes_what_it_may_not_take():
    """However fast it is along a vessel, a tumor of half a year stays on its side of it, and the vessel stays whole."""
    anatomy = Anatomy((tissue("White", "white"), tissue("Vessel", "vessel"), tissue("Tumor", "tumor")))
    x, y = np.indices((64, 64))
    labels = np.where((y >= 33) & (y < 37), 1, 0).astype(np.uint8)
    labels[(x - 32) ** 2 + (y - 26) ** 2 < 36] = 2
    dataset = Dataset("vessel", anatomy, (1.0, 1.0), (Case("a", "a", (0.0, 45.0, 180.0), np.stack([labels] * 3)),))
    model = AnatomyTwin.of(dataset, network=False)
    torch.nn.init.constant_(model.along, 1.0)
    with torch.no_grad():
        soon, late = model(collate(dataset, [0]))[0].argmax(1).numpy()
    assert (late == 2).sum() > (soon == 2).sum() > 3 * (labels == 2).sum()
    for seen in (soon, late):
        before = np.maximum.accumulate(seen == 1, axis=1)
        assert (seen == 1).any(1).all() and not (before & (seen == 2)).any()


def test_tissue_slows_no_tumor_where_it_has_been():
    """Receding and coming back inside of the first border are those of the whole tumor; beyond it tissue counts."""
    def now(come, advance):
        values = {f.name: None for f in dataclasses.fields(twin._Now)}
        return twin._Now(**{**values, "come": torch.tensor([come]), "advance": torch.tensor([advance])})

    for come, advance, within, beyond in ((0.0, 3.0, 0.0, 3.0), (-2.0, 3.0, 2.0, 1.0), (3.0, -5.0, -2.0, -3.0), (-4.0, 1.0, 1.0, 0.0)):
        assert [float(v) for v in now(come, advance).ways(torch.zeros(1))] == [within, beyond]
    anatomy = Anatomy((tissue("Slow", "organ"), tissue("Fast", "organ"), tissue("Tumor", "tumor")))
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 20:] = 1
    labels[:20] = 2
    case = Case("a", "a", (0.0, 30.0), np.stack([labels] * 2), (Radiotherapy(1.0, 10, 3.0, weekdays_only=False),))
    dataset = Dataset("flat", anatomy, (1.0, 1.0), (case,))
    model = AnatomyTwin.of(dataset, cross_diffusion=False, network=False)
    with torch.no_grad():
        model.diffusivity.raw[0] -= 2
        left = (model(collate(dataset, [0]))[0, 0, 2] > 0.5).sum(0)
    assert 5 < int(left.min()) and int(left.max() - left.min()) == 0 and int(left.max()) < 19


def test_a_small_tumor_that_grows_fast_empties_no_voxel():
    labels = np.zeros((24, 24), np.uint8)
    labels[12, 12] = 1
    anatomy = Anatomy((tissue("White", "white"), tissue("Tumor", "tumor")))
    dataset = Dataset("seed", anatomy, (1.0, 1.0), (Case("a", "a", (0.0, 60.0), np.stack([labels] * 2)),))
    model = AnatomyTwin.of(dataset, network=False)
    with torch.no_grad():
        later = model(collate(dataset, [0], longest_step_days=60.0))[0, 0]
        assert torch.isfinite(later).all() and 20 < int((later[1] > 0.5).sum())


def test_treatment_acts_and_can_be_left_out():
    treatments = (Radiotherapy(2.0, 5, 6.0), Chemotherapy("drug", (3.0, 10.0), 0.3, 2.0))
    batch = collate(joined(one_case(), one_case(treatments=treatments)), [0, 1])
    with torch.no_grad():
        full = stirred(one_case())(batch).argmax(2) == 5
        blind = stirred(one_case(), treatment=False)(batch)
        unlimited = AnatomyTwin.of(one_case(), growth_law=False, network=False)(batch)
    assert full[1].sum() < 0.7 * full[0].sum()
    for same in (blind, unlimited):         # but for the steps, which end where a treatment begins
        assert float((same[0].argmax(1) != same[1].argmax(1)).float().mean()) < 0.02


def test_an_operation_leaves_a_cavity_and_what_is_spared():
    model = AnatomyTwin.of(one_case())

    def seen(*treatments):
        dataset = one_case((0.0, 10.0, 30.0), treatments)
        with torch.no_grad():
            return model(collate(dataset, [0])).argmax(2)[0]

    before = seen()
    whole, half = seen(Surgery(10.0, margin_mm=2.0)), seen(Surgery(10.0, residual_fraction=0.5))
    assert int((whole == 5).sum()) == 0 and bool((whole[0][before[0] == 5] == 4).all())
    assert int((whole[0] == 4).sum()) > int((before[0] == 5).sum())
    for spared in (0, 3):
        assert torch.equal(whole[0] == spared, before[0] == spared)
    assert int((half[0] == 4).sum()) == 0 and 0 < int((half[0] == 5).sum()) <= int((before[0] == 5).sum())
    labels, anatomy = head()
    no_cavity = Anatomy(tuple(t for t in anatomy.tissues if t.role != "cavity"))
    labels = np.where(labels == 5, 4, labels).astype(np.uint8)
    other = Dataset("x", no_cavity, (1.0, 1.0), (Case("b", "b", (0.0, 10.0), np.stack([labels] * 2), (Surgery(5.0),)),))
    with pytest.raises(TrainingError, match="'b' has a surgery but no tissue has the role cavity"):
        AnatomyTwin.of(other)(collate(other, [0]))


@pytest.mark.parametrize("day, counted", [(0.0, 0), (15.0, 0), (30.0, 0), (45.0, 1), (60.0, 1)])
def test_no_size_that_an_operation_left_is_fitted(day, counted, monkeypatch):
    """Counted are the later visits before the day; the first visit is seen before an operation on its day."""
    dataset = one_case((0.0, 30.0, 60.0), (Surgery(day),))
    fitted = []
    model = AnatomyTwin.of(dataset)
    monkeypatch.setattr(model.law, "fit", lambda grid, radii: fitted.append(radii))
    model.prepare(dataset, [0], 15.0)
    assert [torch.isfinite(radii).sum(0).tolist() for radii in fitted] == [[1 + counted]] * (counted > 0)


def test_only_the_first_visit_is_read_and_a_batch_is_its_cases():
    """Cases of different days, visits and treatments side by side are what each is alone."""
    several = joined(
        one_case((0.0, 30.0)), one_case((0.0, 12.0, 47.0, 90.0), (Radiotherapy(3.0, 4, 3.0),)),
        one_case((0.0, 80.0), (Chemotherapy("d", (5.0,), 0.2, 2.0),)),
    )
    model = stirred(several)
    batch = collate(several, [0, 1, 2], longest_step_days=15.0)
    with torch.no_grad():
        together = model(batch)
        for i, case in enumerate(several.cases):
            visits = len(case.days) - 1
            alone = model(collate(several, [i], longest_step_days=15.0))
            seen, expected = together[i, :visits].argmax(1), alone[0].argmax(1)
            # steps of other lengths: the same but for the error of the steps
            assert float((seen != expected).float().mean()) < 0.02
        scrambled = dataclasses.replace(batch, states=torch.cat((batch.states[:, :1], batch.states[:, 1:].flip(2)), 1))
        assert torch.equal(model(scrambled), together)


def test_shorter_steps_change_little_and_a_shift_shifts():
    dataset = voronoi(2, VoronoiSettings(shape=(48, 48)))
    model = stirred(dataset)
    with torch.no_grad():
        a, b = (model(collate(dataset, [0, 1], longest_step_days=days)) for days in (15.0, 4.0))
    assert float((a.argmax(2) == b.argmax(2)).float().mean()) > 0.98
    labels = dataset.cases[0].labels.copy()
    ahead = dataclasses.replace(dataset.cases[0], labels=np.pad(labels, ((0, 0), (3, 0), (0, 0)), mode="edge")[:, :-3])
    moved = dataclasses.replace(dataset, cases=(ahead,))
    with torch.no_grad():
        c = model(collate(moved, [0]))
        first = model(collate(dataset, [0]))
    near = (slice(None), slice(None), slice(14, 34), slice(10, 38))
    assert float((c.argmax(2)[near] == first.argmax(2).roll(3, 2)[near]).float().mean()) > 0.99


# ---- gradients and memory


def test_gradients_reach_every_number_and_agree_with_differences():
    dataset = one_case((0.0, 14.0), (Radiotherapy(2.0, 4, 3.0), Chemotherapy("d", (3.0,), 0.2, 2.0)))
    torch.manual_seed(0)
    model = stirred(dataset).double()
    with torch.no_grad():
        model.creep += 0.1
        model.along += 0.1
    batch = collate(dataset, [0])
    tensors = {f.name: getattr(batch.grid, f.name) for f in dataclasses.fields(batch.grid)}
    grid = dataclasses.replace(batch.grid, **{k: v.double() for k, v in tensors.items() if torch.is_tensor(v)})
    batch = dataclasses.replace(batch, states=batch.states.double(), distances=batch.distances.double(), grid=grid)
    weight = torch.randn(1, 1, 6, SIZE, SIZE, dtype=torch.float64)

    def value():
        return (model(batch) * weight).sum()

    value().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().max()) > 0, name
    for name in ("law.rho_per_day.raw", "law.alpha_per_gy.raw", "pushed", "range_mm.raw", "growth.hidden.weight"):
        parameter = model.get_parameter(name)
        where = (0,) * parameter.dim()
        with torch.no_grad():
            parameter[where] += 1e-6
            up = value()
            parameter[where] -= 2e-6
            down = value()
            parameter[where] += 1e-6
        # the push is piecewise smooth: a few voxels may sit on a kink
        assert float(parameter.grad[where]) == pytest.approx(float(up - down) / 2e-6, rel=2e-3, abs=1e-4), name


def test_checkpoints_give_the_same_gradients_for_little_memory(monkeypatch):
    dataset = one_case((0.0, 30.0))
    model = stirred(dataset)

    def kept_bytes(days):
        batch, seen = collate(dataset, [0], longest_step_days=days), {}

        def pack(t):
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            total = model(batch).square().sum()
        total.backward()
        return sum(seen.values()), [p.grad.clone() for p in model.parameters()], len(batch.grid)

    _, plain, _ = kept_bytes(15.0)
    monkeypatch.setattr(twin, "GRAPH_BYTES", 0)
    few, again, n = kept_bytes(15.0)
    many, _, m = kept_bytes(5.0)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(plain, again))
    state = 4 * 6 * SIZE * SIZE
    assert (many - few) / (m - n) < 4 * state       # a step more is its state more, and the decoded visits stay as they are


# ---- files


def test_three_axes_and_images_train_and_come_back_from_a_file(tmp_path):
    dataset = one_case(shape=(10, 30, 30))
    case = dataclasses.replace(dataset.cases[0], images=np.random.default_rng(0).random((2, 10, 30, 30), np.float32))
    dataset = dataclasses.replace(dataset, cases=(case,))
    model = stirred(dataset)
    batch = collate(dataset, [0], longest_step_days=60.0)
    model(batch).square().sum().backward()
    path = tmp_path / "twin.safetensors"
    write_tensors(path, model.state_dict(), model.metadata())
    again = load_twin(path, dataset.anatomy, 3)
    with torch.no_grad():
        assert torch.equal(again(batch), model(batch))
    for anatomy, axes, word in (
        (dataset.anatomy, 2, "3D images, not for 2D"), (Anatomy(dataset.anatomy.tissues[:-1] + (tissue("Other", "tumor"),)), 3, "trained for the tissues"),
        (Anatomy((*dataset.anatomy.tissues[:1], tissue("White", "organ"), *dataset.anatomy.tissues[2:])), 3, "roles"),
    ):
        with pytest.raises(ValueError, match=word):
            load_twin(path, anatomy, axes)
    write_tensors(path, model.state_dict(), {**model.metadata(), "format": "anatomydt-twin-0"})
    with pytest.raises(ValueError, match="version anatomydt-twin-0; this program reads anatomydt-twin-3"):
        load_twin(path, dataset.anatomy, 3)


def test_what_was_learned_is_told_in_units():
    model = AnatomyTwin(head()[1], TwinConfig(head()[1].names, 2))
    values = model.physical()
    assert values["diffusivity_mm2_per_day"]["White"] == pytest.approx(0.2, rel=1e-3)
    assert values["alpha_per_gy"] == pytest.approx(0.09, rel=1e-3) and values["range_mm"] == pytest.approx(40.0, rel=1e-2)
    with pytest.raises(TrainingError, match="role tumor"):
        AnatomyTwin(Anatomy((tissue("A", "background"), tissue("B", "white"))), TwinConfig(("A", "B"), 2))


def test_a_front_comes_as_far_on_a_fine_grid():
    """A tumor that comes 18 mm: on voxels of a quarter of a millimetre that is more than distances in voxels would reach."""
    def radius_of(n):
        labels = np.ones((n, n), np.uint8)
        h = 64.0 / n
        y, x = (np.indices((n, n)) + 0.5) * h - 32.0
        labels[y**2 + x**2 < 64] = 2
        anatomy = Anatomy(tuple(tissue(name, role) for name, role in (("Background", "background"), ("White", "white"), ("Tumor", "tumor"))))
        case = Case("a", "a", (0.0, 90.0), np.stack((labels, labels)))
        dataset = Dataset("fine", anatomy, (h, h), (case,))
        model = AnatomyTwin(anatomy, TwinConfig(anatomy.names, 2, network=False))
        with torch.no_grad():
            seen = model(collate(dataset, [0]))[0, 0].argmax(0) == 2
        return float(torch.sqrt(seen.sum() * h * h / np.pi)), seen

    coarse, _ = radius_of(64)
    fine, seen = radius_of(256)
    assert 20 < coarse < 30 and fine == pytest.approx(coarse, rel=0.03)
    assert not seen[0].any() and not seen[:, -1].any()
