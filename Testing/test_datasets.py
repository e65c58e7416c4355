"""The generated datasets: deterministic in what a model may see, treatments that matter, topology that holds."""

import dataclasses
import math
import time

import numpy as np
import pytest

from AnatomyDTLib.learning import courses, fronts, samples, vessel, voronoi
from AnatomyDTLib.learning.cases import DataError
from AnatomyDTLib.learning.courses import Courses, GrowthLaw
from AnatomyDTLib.learning.evaluation import betti_numbers
from AnatomyDTLib.learning.vessel import VesselSettings
from AnatomyDTLib.learning.voronoi import VoronoiSettings
from AnatomyDTLib.plan import Chemotherapy, Radiotherapy

MAKERS = {"voronoi": (voronoi.voronoi, VoronoiSettings), "vessel": (vessel.vessel, VesselSettings)}


def dice(a, b):
    return 2.0 * (a & b).sum() / (a.sum() + b.sum())


def persistence(dataset):
    """Mean DSC over cases and classes but label 0 when nothing changes."""
    return np.mean([
        [dice(c.labels[0] == k, c.labels[-1] == k) for k in range(1, len(dataset.anatomy))] for c in dataset.cases
    ])


@pytest.fixture(scope="module", params=list(MAKERS))
def made(request):
    make, settings = MAKERS[request.param]
    return make(16, settings(seed=5))


def test_cases_do_not_depend_on_how_many_are_asked_for():
    for make, settings in MAKERS.values():
        few, more = make(2, settings(seed=7)), make(3, settings(seed=7))
        for a, b in zip(few.cases, more.cases):
            assert a.days == b.days and a.treatments == b.treatments and np.array_equal(a.labels, b.labels)
        assert not np.array_equal(make(1, settings(seed=8)).cases[0].labels, few.cases[0].labels)


def test_defaults_are_two_visits_in_one_millimetre_voxels_and_settings_tell_all(made):
    assert made.shape == (96, 96) and made.spacing_mm == (1.0, 1.0)
    assert all(len(c.days) == 2 and 30 <= c.days[1] <= 90 for c in made.cases)
    assert made.settings["seed"] == 5 and made.settings["law"]["growth_per_day"] > 0
    tumor = made.anatomy.tumors[0]
    assert all((visit == tumor).any() for c in made.cases for visit in c.labels)


def test_persistence_leaves_room_and_the_ceiling_is_the_truth(made):
    assert 0.75 < persistence(made) < 0.88
    assert all(np.array_equal(c.truth, c.labels) for c in made.cases)


def test_the_future_is_a_function_of_what_a_model_may_see(made):
    """The second visit again, from the labels of the first one, the days and the treatments alone."""
    make, settings = MAKERS[made.name]
    for case in made.cases[:4]:
        first = case.labels[0]
        tumor = first == made.anatomy.tumors[0]
        if made.name == "voronoi":
            organs = np.where(tumor, 0, first)
            again = voronoi.grown(organs, tumor, made.spacing_mm, case.days, case.treatments, settings())
        else:
            vessels = first == made.tree_classes[0]
            lobes = np.where(tumor | vessels, 0, first)
            again = vessel.grown(lobes, vessels, tumor, made.spacing_mm, case.days, case.treatments, settings())
        assert np.array_equal(again, case.labels)


def test_treatment_decides_the_size_of_the_tumor():
    size = {}
    for kind in courses.KINDS:
        data = voronoi.voronoi(8, VoronoiSettings(courses=Courses(treatments=(kind,))))
        size[kind] = np.mean([(c.labels[1] == 5).sum() / (c.labels[0] == 5).sum() for c in data.cases])
    assert size["none"] > 1.3 * size["radiotherapy"] and size["none"] > 1.3 * size["chemotherapy"]
    assert size["both"] < 0.8 * min(size["radiotherapy"], size["chemotherapy"])


def test_organs_are_pushed_and_not_erased():
    data = voronoi.voronoi(6, VoronoiSettings(seed=2, courses=Courses(treatments=("none",))))
    for case in data.cases:
        grew = int((case.labels[1] == 5).sum()) - int((case.labels[0] == 5).sum())
        under = np.isin(case.labels[0][(case.labels[1] == 5)], range(5))
        lost = [int((case.labels[0] == k).sum()) - int((case.labels[1] == k).sum()) for k in range(5)]
        assert grew > 0 and sum(lost) == grew
        # tissue outside the tumor has moved: labels change where no tumor comes
        moved = (case.labels[0] != case.labels[1]) & (case.labels[1] != 5)
        assert moved.sum() > 0.1 * under.sum()
        assert all((case.labels[1] == k).any() for k in range(5))


def test_vessels_thicken_and_keep_their_topology():
    data = vessel.vessel(4, VesselSettings(seed=3, courses=Courses(visits=3)))
    tree = data.tree_classes[0]
    assert data.anatomy.tissues[tree].role == "vessel"
    for case in data.cases:
        areas = [(visit == tree).sum() for visit in case.labels]
        assert areas[0] < areas[1] < areas[2]
        assert {betti_numbers(visit == tree) for visit in case.labels} == {(1, 0, 0)}


def test_the_tumor_grows_along_vessels():
    """Of the ring that the front takes, more lies near vessels than of a ring of the same width around the tumor."""
    untreated = Courses(treatments=("none",))
    data = vessel.vessel(12, VesselSettings(seed=4, speeds=(1.0,) * 4, thickening_mm=0.0, courses=untreated))
    gain = []
    for case in data.cases:
        first, second = (visit == 5 for visit in case.labels)
        wall = fronts.signed_distance(case.labels[0] == 4, data.spacing_mm)
        away = fronts.signed_distance(first, data.spacing_mm)
        free = case.labels[1] != 4
        ring = free & (away > 0) & (away <= np.sort(away[free & ~first])[int((second & ~first).sum())])
        gain.append(np.mean(wall[second & ~first] < 6.0) - np.mean(wall[ring] < 6.0))
    assert np.mean(gain) > 0.03


@pytest.mark.parametrize("name, shape", [("voronoi", (20, 24, 28)), ("vessel", (32, 32, 32)), ("voronoi", (41, 64))])
def test_other_shapes(name, shape):
    make, settings = MAKERS[name]
    data = make(1, settings(shape=shape))
    assert data.shape == shape and data.spacing_mm == (96.0 / min(shape),) * len(shape)
    case = data.cases[0]
    tumor = data.anatomy.tumors[0]
    assert (case.labels[0] == tumor).any() and (case.labels[0] != case.labels[1]).any()


def test_one_seed_is_one_anatomy_on_every_grid():
    coarse, fine = (voronoi.voronoi(2, VoronoiSettings(shape=(n, n))) for n in (64, 128))
    for a, b in zip(coarse.cases, fine.cases):
        assert a.days == b.days and a.treatments == b.treatments
        assert (a.labels == b.labels[:, 1::2, 1::2]).mean() > 0.95


def test_noise_blurs_what_is_seen_and_spares_the_truth():
    clean, noisy = (voronoi.voronoi(3, VoronoiSettings(noise_mm=n)) for n in (0.0, 1.0))
    for a, b in zip(clean.cases, noisy.cases):
        assert np.array_equal(a.truth, b.truth)
        assert 0.005 < (b.truth != b.labels).mean() < 0.1


def test_visits_at_irregular_days_and_a_second_course():
    twice = Courses(visits=4, interval_days=(10, 120), treatments=("both",), courses=2)
    data = voronoi.voronoi(6, VoronoiSettings(courses=twice))
    assert {len(c.days) for c in data.cases} == {4} and len({c.days for c in data.cases}) == 6
    for case in data.cases:
        starts = [t.event_days()[0] for t in case.treatments if isinstance(t, Radiotherapy)]
        assert len(starts) == 2 and starts[0] < case.days[1] < starts[1] < case.days[2]


def test_cases_are_made_by_arrays_and_not_voxel_by_voxel():
    """The figure for a thousand is printed; a loop over the voxels of a case would take seconds, whatever the machine."""
    for name, (make, settings) in MAKERS.items():
        began = time.thread_time()
        made = make(8, settings(seed=11))
        each = (time.thread_time() - began) / 8
        print(f"{name}: 1,000 cases in {1000 * each:.0f} CPU s")
        assert each < 0.6 and made.shape == (96, 96)


@pytest.mark.parametrize("wrong", [
    {"visits": 1}, {"visits": 2.0}, {"interval_days": (90, 30)}, {"interval_days": (0, 30)},
    {"treatments": ("surgery",)}, {"treatments": ()},
])
def test_bad_courses(wrong):
    with pytest.raises(DataError, match="must be"):
        Courses(**wrong)


def test_bad_settings():
    for bad in ({"shape": (8, 8)}, {"shape": (96,)}, {"organs": 3}):
        with pytest.raises(DataError):
            VoronoiSettings(**bad)
    with pytest.raises(DataError, match="lobes"):
        VesselSettings(lobes=2)
    with pytest.raises(DataError, match="empty"):
        voronoi.voronoi(0)


def test_pictures_and_bounds(tmp_path):
    data = voronoi.voronoi(2, VoronoiSettings(shape=(48, 48), noise_mm=1.0, courses=Courses(visits=3)))
    samples.picture(data, tmp_path / "a.png")
    written = (tmp_path / "a.png").read_bytes()
    assert written.startswith(b"\x89PNG") and len(written) < 200_000
    found = samples.bounds(data)
    assert found["tumor"] < found["persistence"] < found["ceiling"] < 100.0
    case = data.cases[0]
    still = dataclasses.replace(case, labels=case.labels[[0, 0, 0]], truth=None)
    assert samples.bounds(dataclasses.replace(data, cases=(still,))) == {
        "persistence": 100.0, "persistence_hd95": 0.0, "tumor": 100.0, "tumor_hd95": 0.0, "ceiling": 100.0}
    assert samples.main(["--out", str(tmp_path / "absent"), "--cases", "1"]) == 2


# --- the laws ---


def test_untreated_growth_is_gompertz():
    law = GrowthLaw()
    days = (0.0, 12.0, 31.0, 180.0)
    for ndim in (2, 3):
        advances, furthest = law.advances(9.0, days, (), ndim)
        most = law.largest_radius_mm
        expected = [most * (9.0 / most) ** math.exp(-law.growth_per_day * t) - 9.0 for t in days]
        assert np.allclose(advances, expected, atol=1e-9) and np.allclose(furthest, advances)


def test_a_fraction_kills_by_the_linear_quadratic_law_and_the_dead_are_cleared():
    law = GrowthLaw(growth_per_day=0.0, clearance_days=2.0)
    advances, furthest = law.advances(10.0, (0.0, 5.0, 100.0), (Radiotherapy(5.0, 1, 3.0, weekdays_only=False),), 3)
    survival = math.exp(-(law.alpha_per_gy * 3.0 + law.beta_per_gy2 * 9.0))
    assert advances[1] == pytest.approx(0.0, abs=1e-9)                     # dead, but still seen
    assert advances[2] == pytest.approx(10.0 * (survival ** (1 / 3) - 1.0), abs=1e-6)
    assert furthest[2] == pytest.approx(0.0, abs=1e-9)


def test_a_drug_saturates():
    law = GrowthLaw(growth_per_day=0.0, clearance_days=1.0)

    def log_kill(dose):
        drug = Chemotherapy("x", (1.0,), 0.2, 2.0, dose)
        return -2.0 * math.log(1.0 + law.advances(10.0, (0.0, 60.0), (drug,), 2)[0][1] / 10.0)

    assert 0.0 < log_kill(0.5) < log_kill(1.0) < log_kill(2.0) < 2.0 * log_kill(1.0) < 4.0 * log_kill(0.5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 1.5), (1.0, 2.0, 1.0)])
def test_fronts_from_a_plane_and_from_a_ball(spacing):
    shape = tuple(int(40 / h) for h in spacing)
    start = np.zeros(shape, bool)
    start[0] = True
    slowness = np.full(shape, 0.5)
    t = fronts.arrival_times(start, slowness, spacing, 15.0)
    expected = np.arange(shape[0]) * spacing[0] * 0.5
    assert np.allclose(t[expected <= 15.0], expected[expected <= 15.0].reshape(-1, *[1] * (len(shape) - 1)))
    x = np.stack(np.meshgrid(*(np.arange(n) * h - 20.0 for n, h in zip(shape, spacing)), indexing="ij"))
    r = np.sqrt((x**2).sum(axis=0))
    t = fronts.arrival_times(r <= 6.0, np.ones(shape), spacing, 8.0)
    near = (r > 6.0) & (t <= 8.0)
    assert np.abs(t - (r - 6.0))[near].max() < 1.5 * max(spacing)


def test_a_front_waits_at_what_it_cannot_enter():
    start = np.zeros((20, 20), bool)
    start[10, 2] = True
    slowness = np.ones((20, 20))
    slowness[:, 8] = fronts.FAR
    t = fronts.arrival_times(start, slowness, (1.0, 1.0), 30.0)
    assert (t[:, :8] < 30.0).all() and (t[:, 8:] > 30.0).all()


def test_pushed_tissue_is_neither_folded_nor_moved_far_away():
    x = np.stack(np.meshgrid(*(np.arange(96.0) - 47.5,) * 2, indexing="ij"))
    r = np.hypot(*x)
    front = fronts.Front(r <= 10.0, np.ones((96, 96)), (1.0, 1.0), (8.0,))
    assert np.array_equal(front.extent(0.0), r <= 10.0)
    grown = front.extent(8.0)
    assert math.sqrt(grown.sum() / math.pi) == pytest.approx(18.0, abs=0.5)
    u = fronts.displacement(front, grown, grown, fronts.Push(share=1.0))
    source = x - u
    outside = ~grown
    assert np.hypot(*source)[outside].min() > 9.0                         # all of it was outside the tumor before
    along = np.hypot(*source)[48, 66:]
    assert (np.diff(along) > 0).all()                                     # in the same order
    assert np.abs(u[:, 0]).max() < 3.0
    assert np.allclose(fronts.displacement(front, front.mask, front.mask, fronts.Push()), 0.0)


def test_a_shrinking_front_lets_the_tissue_come_back_but_not_what_was_taken():
    organs = np.zeros((64, 64), np.uint8)
    organs[:, 32:] = 1
    r = np.hypot(*(np.indices((64, 64)) - 31.5))
    front = fronts.Front(r <= 9.0, np.ones((64, 64)), (1.0, 1.0), (6.0,))
    small, large = front.extent(-4.0), front.extent(6.0)
    assert small.any() and not (small & ~front.mask).any()
    back = fronts.displacement(front, front.mask, large, fronts.Push(share=1.0))
    assert np.allclose(back, 0.0)
    taken = fronts.displacement(front, front.mask, large, fronts.Push(share=0.5))
    assert np.abs(taken).max() == pytest.approx(3.0, abs=0.7)              # half of the six is gone
    below = fronts.filled(organs, front.mask, (1.0, 1.0))
    u = fronts.displacement(front, small, front.mask, fronts.Push())
    assert set(np.unique(fronts.carried_labels(below, u, (1.0, 1.0)))) == {0, 1}
