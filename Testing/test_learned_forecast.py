"""A trained twin in the engine: any plan, its own voxels, the labels that nothing changed, and what it refuses."""

import json
from pathlib import Path

import command_user
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from AnatomyDTLib import engine, shipped
from AnatomyDTLib.learning import forecasting
from AnatomyDTLib.learning.cases import Case, Dataset, scaled
from AnatomyDTLib.learning.gliomas import anatomy as trained_anatomy
from AnatomyDTLib.learning.training import TrainConfig, train
from AnatomyDTLib.learning.twin import AnatomyTwin, TwinConfig
from AnatomyDTLib.learning.weights import write_tensors
from AnatomyDTLib.plan import Anatomy, Chemotherapy, Plan, Radiotherapy, Surgery
from AnatomyDTLib.presets import tissue

SHAPE, SPACING = (36, 40, 44), (1.0, 1.0, 1.0)


def head():
    """Two hemispheres' worth of tissue with a thin sheet of grey matter, a ventricle and a tumor; the user's own numbering."""
    anatomy = Anatomy(tuple(tissue(n, r) for n, r in (
        ("Background", "background"), ("Left glioma", "tumor"), ("White matter", "white"), ("Grey matter", "grey"), ("Ventricles", "ventricle"),
        ("Resection cavity", "cavity"), ("Treated tumor", "necrosis"), ("Falx", "barrier"),
    )))
    z, y, x = np.indices(SHAPE)
    labels = np.full(SHAPE, 2, np.uint8)
    labels[:, :, 30] = 3
    labels[(y > 30) & (x < 16) & (abs(z - 18) < 6)] = 4
    labels[:, 27, :] = 7                                     # a barrier that the twin was not trained with
    labels[(z < 3) | (z > 32) | (y < 3) | (y > 36) | (x < 3) | (x > 40)] = 0
    labels[(z - 18) ** 2 + (y - 18) ** 2 + (x - 18) ** 2 < 49] = 1
    return labels, anatomy


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A twin of the classes of the simulated gliomas on 2 mm voxels, with a network that does a little."""
    torch.manual_seed(0)
    twin = AnatomyTwin(trained_anatomy(), TwinConfig(trained_anatomy().names, 3, width_mm=4.0, hidden=8))
    torch.nn.init.normal_(twin.growth.outputs.weight, std=0.01)
    path = tmp_path_factory.mktemp("weights") / "twin.safetensors"
    write_tensors(path, twin.state_dict(), twin.metadata())
    return str(path)


def forecast(weights, days, treatments=(), **more):
    labels, anatomy = head()
    return labels, engine.forecast(labels, SPACING, Plan(anatomy, tuple(treatments), tuple(days)), weights=weights, **more)


def test_an_untreated_tumor_grows_in_its_own_numbering_and_the_rest_stays(weights):
    labels, result = forecast(weights, (15.0, 30.0), probabilities=True)
    assert (result.labels[0] == labels).all() and result.run["model"] == "trained twin"
    tumor = result.volume_ml[:, 1]
    assert tumor[0] < tumor[1] < tumor[2] and result.tumor_cells_ml[2] > result.tumor_cells_ml[1]
    assert ((result.labels == 0) == (labels == 0)).all() and ((result.labels == 7) == (labels == 7)).all()
    # nothing passes the falx, which closes that side off
    assert not (result.labels[1:, :, 28:] == 1).any()
    assert result.volume_ml[2, 4] > 0.5 * result.volume_ml[0, 4]
    # a sheet of one voxel that the twin's voxels of 2 mm do not resolve stays where nothing comes near it
    far = (np.indices(SHAPE)[1] > 30) & (labels == 3)
    assert far.sum() > 50 and (result.labels[2][far] == 3).mean() > 0.9
    assert float(result.tumor_probability[2].astype(np.float32)[result.labels[2] == 1].min()) > 0.2


def test_treatments_act_and_an_operation_leaves_a_cavity(weights):
    _, untreated = forecast(weights, (10.0, 60.0))
    region = np.zeros(SHAPE)
    region[10:27, 10:27, 10:18] = 1
    dose = np.where(np.indices(SHAPE)[2] < 30, 60.0, 0.0)
    labels, treated = forecast(
        weights, (60.0,), (Radiotherapy(5.0, 30, None, dose_map="dose"), Chemotherapy("temozolomide", tuple(range(5, 45)), 0.3, 0.1)), maps={"dose": dose})
    assert treated.volume_ml[-1, 1] < 0.8 * untreated.volume_ml[-1, 1]
    assert any("mean" in warning for warning in treated.warnings)
    _, operated = forecast(weights, (10.0,), (Surgery(5.0, region="half"),), maps={"half": region})
    cavity = operated.labels[1] == 5
    assert cavity.sum() > 0.8 * region.sum() and region[cavity].mean() > 0.8
    assert 0.2 < operated.volume_ml[1, 1] / untreated.volume_ml[1, 1] < 0.9


def test_the_same_twice_and_cancelled_in_between(weights):
    _, one = forecast(weights, (15.0,))
    _, two = forecast(weights, (15.0,))
    assert (one.labels == two.labels).all()
    asked = []
    with pytest.raises(engine.Cancelled):
        forecast(weights, (90.0,), cancelled=lambda: asked.append(1) or len(asked) > 2)


def test_refusals(weights, tmp_path):
    labels, anatomy = head()
    other = Anatomy((*anatomy.tissues[:3], tissue("Liver", "organ"), *anatomy.tissues[4:]))
    roles = Anatomy((*anatomy.tissues[:3], tissue("Grey matter", "white"), *anatomy.tissues[4:]))
    dead = labels.copy()
    dead[3, 5, 5] = 6
    for plan, values, words in (
        (Plan(other, (), (10.0,)), labels, "not for Liver"), (Plan(roles, (), (10.0,)), labels, "has it as white"), (Plan(anatomy, (), (10.0,)), dead, "not trained for Treated tumor"),
    ):
        with pytest.raises(engine.ForecastError, match=words):
            engine.forecast(values, SPACING, plan, weights=weights)
    with pytest.raises(engine.ForecastError, match="3D images, not for 2D"):
        engine.forecast(labels[18], SPACING[1:], Plan(anatomy, (), (10.0,)), weights=weights)
    with pytest.raises(engine.ForecastError, match="images were given"):
        engine.forecast(labels, SPACING, Plan(anatomy, (), (10.0,)), weights=weights, images={"flair": np.zeros(SHAPE)})
    damaged = tmp_path / "damaged.safetensors"
    write_tensors(damaged, {"a": torch.zeros(1)}, {"format": "anatomydt-twin-3", "twin": json.dumps({"classes": ["A"]}), "roles": '["tumor"]'})
    for path, words in ((damaged, "damaged|trained for"), (tmp_path / "none.safetensors", "does not exist")):
        with pytest.raises(engine.ForecastError, match=words):
            engine.forecast(labels, SPACING, Plan(anatomy, (), (10.0,)), weights=str(path))


# ---- with images


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """(folder with patient.nii.gz, a.nii.gz, b.nii.gz and the weights of a twin that was trained with images like a and b, their arrays)."""
    folder = tmp_path_factory.mktemp("pictured")
    drawn = command_user.head()
    anatomy = Anatomy(tuple(tissue(n, r) for n, r in (
        ("Background", "background"), ("White matter", "white"), ("Grey matter", "grey"), ("Ventricles", "ventricle"), ("Tumor", "tumor"),
    )))
    labels = np.array([0, 1, 2, 0, 3, 4], np.uint8)[drawn]
    later = np.where(binary_dilation(labels == 4) & (labels == 1), 4, labels).astype(np.uint8)
    random = np.random.default_rng(0)
    images = [(100 * (3 - labels) + random.normal(500, 30, labels.shape)).astype(np.float32), random.normal(-20, 400, labels.shape).astype(np.float32)]
    cases = tuple(Case(name, name, (0.0, 30.0), np.stack((labels, later)), images=np.stack(images)) for name in "abc")
    dataset = Dataset("pictured", anatomy, (1.0, 1.0, 1.0), cases)
    twin = AnatomyTwin.of(dataset, hidden=8)
    for layer in (twin.growth.inputs, twin.growth.hidden, twin.growth.outputs):
        torch.nn.init.normal_(layer.weight, std=0.5)             # so that the images count for something
    train(twin, dataset, np.array([0, 1]), np.array([2]), TrainConfig(steps=2, batch_size=2))
    write_tensors(folder / "twin.safetensors", twin.state_dict(), twin.metadata())
    command_user.saved(folder / "patient.nii.gz", drawn, spacing=(1.0, 1.0, 1.0))
    for name, image in zip("ab", images):
        command_user.saved(folder / f"{name}.nii.gz", image, spacing=(1.0, 1.0, 1.0))
    return folder, labels, Plan(anatomy, (), (30.0,)), dict(zip("ab", images))


def test_a_twin_that_was_trained_with_images_forecasts_with_them(pictured):
    folder, labels, plan, images = pictured

    def probability(**given):
        found = engine.forecast(labels, SPACING, plan, weights=folder / "twin.safetensors", images=given, probabilities=True, device="cpu")
        return found.tumor_probability[-1].astype(np.float32)

    before = probability(**images)
    for same in ({"a": 40 * images["a"], "b": images["b"]}, {"x": images["a"], "y": images["b"].astype(np.float64)}):
        assert np.allclose(probability(**same), before, atol=2e-3)             # in any unit, under any name
    for other in ({"b": images["b"], "a": images["a"]}, {**images, "a": images["a"][::-1]}, {**images, "b": images["b"][:, ::-1]}):
        assert np.abs(probability(**other) - before).max() > 1e-2


def test_images_are_cut_and_brought_to_the_twins_voxels_as_the_labels(tmp_path, monkeypatch):
    twin = AnatomyTwin(trained_anatomy(), TwinConfig(trained_anatomy().names, 3, images=1, width_mm=4.0, hidden=8))
    write_tensors(tmp_path / "twin.safetensors", twin.state_dict(), twin.metadata())
    monkeypatch.setattr(forecasting, "AROUND_MM", 4.0)
    (labels, anatomy), seen = head(), []
    plan = Plan(anatomy, (), (10.0,))
    monkeypatch.setattr(AnatomyTwin, "rollout", lambda self, batch, told: seen.append(batch) or ())
    learned = forecasting.learned(tmp_path / "twin.safetensors", plan, 3)
    list(forecasting.forecast(learned, scaled(labels == 1, labels, anatomy)[None], labels, SPACING, plan, {}))
    present = seen[0].states[:, 0, twin.sides.tumors[0]]
    assert all(m < n // 2 for m, n in zip(present.shape[1:], SHAPE)) and 0 < float(present.mean()) < 1
    assert torch.allclose(seen[0].images[:, 0], present)


@pytest.mark.parametrize("images, words", [
    (None, r"need 2 image\(s\) beside the segmentation.* 0 were given"), ({"a": 0}, "1 were given"), ({"a": 0, "b": 0, "c": 0}, "3 were given"),
    ({"a": 0, "b": slice(1, None)}, "the image 'b' has the shape"), ({"a": np.nan, "b": 0}, "the image 'a' holds NaN"),
    ({"a": 1j, "b": 0}, "the image 'a' must hold real numbers"),
])
def test_images_that_do_not_fit_are_refused(pictured, images, words):
    folder, labels, plan, known = pictured
    if images is not None:
        images = {n: known["a"][v] if isinstance(v, slice) else known["a"] + v for n, v in images.items()}
    with pytest.raises(engine.ForecastError, match=words):
        engine.forecast(labels, SPACING, plan, weights=folder / "twin.safetensors", images=images)
    with pytest.raises(engine.ForecastError, match="without weights"):
        engine.forecast(labels, SPACING, plan, images=known)


def test_images_on_the_command_line(pictured, tmp_path):
    folder, labels, plan, images = pictured
    weights, a, b = folder / "twin.safetensors", folder / "a.nii.gz", folder / "b.nii.gz"
    arguments = ("forecast", folder / "patient.nii.gz", "--days", 30, "--device", "cpu", "--out", tmp_path / "out")
    command_user.run(*arguments, "--weights", weights, "--image", a, "--image", b)
    expected = engine.forecast(labels, SPACING, plan, weights=weights, images=images, device="cpu")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["volume_ml"]["Tumor"] == pytest.approx(expected.volume_ml[:, 4], abs=1e-3)
    turned = engine.forecast(labels, SPACING, plan, weights=weights, images=dict(reversed(images.items())), device="cpu")
    assert turned.volume_ml[1, 4] != pytest.approx(expected.volume_ml[1, 4], abs=2e-3)        # the order is that of the options
    assert {str(a), str(b)} < set(record["inputs"])
    command_user.saved(tmp_path / "other.nii.gz", images["a"][:, 1:], spacing=(1.0, 1.0, 1.0))
    command_user.saved(tmp_path / "nan.nii.gz", np.where(labels == 4, np.nan, images["a"]), spacing=(1.0, 1.0, 1.0))
    for given, word in (
        (("--weights", weights), "need 2 image"), (("--weights", weights, "--image", a), "1 were given"),
        (("--weights", weights, "--image", a, "--image", a), "twice"), (("--image", a), "without weights"),
        (("--weights", weights, "--image", a, "--image", tmp_path / "other.nii.gz"), "geometry"),
        (("--weights", weights, "--image", a, "--image", tmp_path / "nan.nii.gz"), "nan.nii.gz holds values that are not numbers"),
        (("--weights", weights, "--image", a, "--image", tmp_path / "lost.nii.gz"), "no file"),
    ):
        assert word in command_user.run(*arguments, *given, code=2).stderr, given


def test_the_shipped_weights_are_small_and_forecast():
    """By name: a tumor grows without treatment, less under it, into tissue and not into the skull; the card names its limits."""
    path = Path(shipped.path_of(shipped.GLIOMA_SIM))
    assert path.stat().st_size < 5e6
    card = path.with_suffix(".md").read_text(encoding="utf-8").lower()
    assert all(word in card for word in ("simulat", "not a medical device", "tested on", "must not be used"))
    labels, untreated = forecast(shipped.GLIOMA_SIM, (30.0,))
    _, treated = forecast(shipped.GLIOMA_SIM, (30.0,), (Radiotherapy(1.0, 15, 2.0), Chemotherapy("temozolomide", tuple(range(1, 29)), 0.3, 0.1)))
    before, after = untreated.volume_ml[:, 1]
    assert before < after < 5 * before and treated.volume_ml[1, 1] < 0.8 * after
    assert ((untreated.labels == 0) == (labels == 0)).all()
    assert set(np.unique(untreated.labels[1])) <= set(np.unique(labels))
