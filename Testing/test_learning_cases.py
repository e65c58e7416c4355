"""Cases and datasets: folds by patient, and one sentence for every dataset that cannot be learned from."""

import dataclasses

import numpy as np
import pytest

from AnatomyDTLib.learning.cases import Case, DataError, Dataset, check, scaled
from AnatomyDTLib.plan import Anatomy, Chemotherapy, Radiotherapy, Surgery, Tissue

ANATOMY = Anatomy((Tissue("Background", "background"), Tissue("Brain", "organ"), Tissue("Tumor", "tumor")))


def case(name="a", patient=None, days=(0.0, 30.0), shape=(6, 5), **given):
    labels = np.zeros((len(days), *shape), np.uint8)
    labels[:, 1:-1, 1:-1] = 1
    labels[:, 2, 2] = 2
    return Case(name, patient or name, days, labels, **given)


def dataset(*cases, **given):
    return Dataset("some", ANATOMY, (1.0, 1.0), tuple(cases), **given)


def many(patients, cases_each=1):
    return dataset(*(case(f"p{p}-{c}", f"p{p}") for p in range(patients) for c in range(cases_each)))


def test_a_sound_dataset_passes():
    good = dataset(
        case("a", treatments=(Radiotherapy(3.0, 5), Chemotherapy("x", (30.0,), 0.3, 1.0), Surgery(10.0))),
        case("b", days=(0.0, 3.5, 100.0)), tree_classes=(1,), settings={"seed": 3},
    )
    assert check(good) is good
    assert good.shape == (6, 5) and len(good) == 2 and good.patients == ("a", "b")


@pytest.mark.parametrize("patients, cases_each, n", [(20, 1, 5), (11, 3, 5), (3, 2, 3), (4, 1, 2)])
def test_folds_partition_the_patients(patients, cases_each, n):
    data = many(patients, cases_each)
    folds = data.folds(n, seed=4)
    assert len(folds) == n
    assert sorted(np.concatenate([test for _, _, test in folds])) == list(range(patients * cases_each))
    for parts in folds:
        assert all(len(part) for part in parts)
        assert sorted(np.concatenate(parts)) == list(range(patients * cases_each))
        whose = [{data.cases[i].patient for i in part} for part in parts]
        assert not whose[0] & whose[1] and not whose[0] & whose[2] and not whose[1] & whose[2]


def test_folds_depend_on_the_seed_alone():
    first, again, other = (many(30).folds(5, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for one, two in zip(first, again) for a, b in zip(one, two))
    assert any(not np.array_equal(a, b) for one, two in zip(first, other) for a, b in zip(one, two))


@pytest.mark.parametrize("patients, n", [(4, 5), (2, 2), (3, 2), (10, 1), (10, 0)])
def test_folds_that_cannot_be_made(patients, n):
    with pytest.raises(DataError, match="folds"):
        many(patients).folds(n)


def changed(**given):
    return dataclasses.replace(case("b"), **given)


OTHER_CLASSES = case("b").labels.copy()
OTHER_CLASSES[1, 0, 0] = 3
NAN_IMAGE = np.zeros((2, 6, 5), np.float32)
NAN_IMAGE[1, 2, 2] = np.nan
WITH_IMAGES = np.zeros((2, 6, 5), np.float32)


@pytest.mark.parametrize("bad, sentence", [
    (changed(days=(0.0,), labels=case().labels[:1]), "'b' has 1 visit; at least two"),
    (changed(days=(0.0, 30.0, 20.0)), "'b' has its days out of order: day 20 follows day 30"),
    (changed(days=(0.0, 0.0)), "out of order"),
    (changed(days=(1.0, 30.0)), "'b' begins on day 1"),
    (changed(days=(0.0, float("nan"))), "finite number"),
    (changed(labels=OTHER_CLASSES), "'b' has the label 3 on day 30.*classes 0 to 2.*same classes"),
    (changed(labels=case().labels.astype(float)), "float64; an array of uint8"),
    (changed(labels=case().labels[..., 0]), "2 visits of 2 axes"),
    (case("b", shape=(7, 5)), r"'b' has \(7, 5\) voxels and 'a' has \(6, 5\)"),
    (changed(truth=case().labels[:1]), "truth"),
    (changed(images=WITH_IMAGES), "other images than 'a'"),
    (changed(patient=""), "names no patient"),
    (changed(treatments=(Radiotherapy(29.0, 3, weekdays_only=False),)), "radiotherapy on day 31, after its last visit"),
    (changed(treatments=(Surgery(1.0, region="bed"),)), "surgery with the map 'bed'"),
    (changed(treatments=("radiation",)), "treatment of type str"),
    (case("a", "b"), "two cases named 'a'"),
])
def test_bad_cases_are_one_sentence(bad, sentence):
    with pytest.raises(DataError, match=sentence) as refusal:
        check(dataset(case("a"), bad))
    assert "\n" not in str(refusal.value)


def test_images_of_any_unit_are_scaled_alike():
    image = np.zeros((11, 11), np.float32)
    image.flat[1:102] = 100.0 + np.arange(101)                   # a ramp in surroundings of 0: 101 is its percentile 1, 199 its 99
    expected = (image - 101.0) / 98.0
    expected[image == 0] = -1.0
    labels = (image > 0).astype(np.uint8)
    found = scaled(image, labels, ANATOMY)
    assert found.dtype == np.float32 and np.allclose(found, expected, atol=1e-6)
    assert np.allclose(scaled(-image, labels, ANATOMY)[image > 0], 1 - expected[image > 0], atol=1e-6)
    for same in (8.0 * image, 1e-6 * image, image.astype(np.int16)):
        assert np.allclose(scaled(same, labels, ANATOMY), found, atol=1e-4)
    # what lies around the patient, and how much of it, changes nothing within: a CT's air, a bright rim
    rim = np.pad(np.where(labels, image, -1000.0), 7, constant_values=5000.0)
    assert np.array_equal(scaled(rim, np.pad(labels, 7), ANATOMY)[7:-7, 7:-7][labels > 0], found[labels > 0])
    image[5, 5] = 1e6                                            # a spike is cut and moves nothing else by much
    found = scaled(image, labels, ANATOMY)
    assert found[5, 5] == 2.0 and np.allclose(found[image < 1e6], expected[image < 1e6], atol=0.02)
    mask = image > 150
    assert np.array_equal(scaled(5 * mask, labels, ANATOMY), mask)
    for constant in (0.0, 800.0, -3.0):
        assert not scaled(np.full(labels.shape, constant), labels, ANATOMY).any()


def test_bad_datasets_are_one_sentence():
    for bad, sentence in [
        (dataset(), "'some' is empty"),
        (dataset(case(images=NAN_IMAGE)), "values in image 2 that are not numbers"),
        (dataset(case(images=np.zeros((1, 5, 5), np.float32))), "images of the shape"),
        (dataset(case(), tree_classes=(3,)), "tree classes"),
        (dataset(case(), settings={"rates": np.float64(1.0) * np.ones(2)}), "cannot be written as JSON"),
        (Dataset("some", ANATOMY, (1.0, 0.0), (case(),)), "voxel size"),
    ]:
        with pytest.raises(DataError, match=sentence):
            check(bad)
