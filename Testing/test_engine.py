"""The engine: from labels and a plan to frames; what it refuses, what it warns of, what it promises."""

import numpy as np
import pytest
import torch

from AnatomyDTLib import Cancelled, Chemotherapy, ForecastError, Plan, PlanError, Radiotherapy, Surgery, forecast, score
from AnatomyDTLib.plan import Anatomy, Tissue
from AnatomyDTLib.presets import completed, infiltration_mm, tissue

ROLES = (("Background", "background"), ("White matter", "white"), ("Grey matter", "grey"), ("CSF", "csf"),
         ("Ventricles", "ventricle"), ("Tumor", "tumor"), ("Falx", "barrier"))


def head(n=48):
    """A layered head with ventricles, a falx and a tumor in the right white matter; 2 mm voxels."""
    z, y, x = np.meshgrid(*[np.arange(n) - n / 2 + 0.5] * 3, indexing="ij")
    r = np.sqrt(z**2 + y**2 + x**2)
    labels = np.zeros((n,) * 3, np.uint8)
    for radius, value in ((0.46, 3), (0.43, 2), (0.37, 1)):
        labels[r < radius * n] = value
    labels[(np.abs(x) < 1) & (z > 2) & (r < 0.46 * n)] = 6
    labels[(z / 3) ** 2 + (y / 7) ** 2 + ((np.abs(x) - 3) / 2) ** 2 < 1] = 4
    labels[((z - 6) ** 2 + y**2 + (x - 6) ** 2 < 16) & (labels == 1)] = 5
    return labels


def plan(treatments=(), days=(30.0, 60.0), **given):
    tissues = [tissue(name, role) for name, role in ROLES]
    return Plan(completed(tissues, treatments), treatments, days, infiltration_mm=infiltration_mm(), **given)


SPACING = (2.0, 2.0, 2.0)


def dsc(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_day_zero_is_the_input_and_what_holds_holds():
    labels = head()
    result = forecast(labels, SPACING, plan(), device="cpu")
    assert np.array_equal(result.labels[0], labels)
    for k in (0, 3, 4, 6):
        assert np.array_equal(result.labels[-1] == k, labels == k), f"{ROLES[k][0]} keeps its shape"
    assert result.volume_ml[-1, 5] > 1.5 * result.volume_ml[0, 5]
    left = (slice(None), slice(None), slice(0, labels.shape[2] // 2))
    above = slice(labels.shape[0] // 2 + 4, None)
    assert not (result.labels[-1][left][above] == 5).any(), "the tumor does not cross the falx"
    assert np.allclose(result.volume_ml.sum(1), labels.size * 8 / 1000)


def test_same_input_same_bytes():
    labels = head(32)
    a, b = (forecast(labels, SPACING, plan((Radiotherapy(3.0, 4),)), device="cpu") for _ in range(2))
    assert a.labels.tobytes() == b.labels.tobytes()


@pytest.mark.parametrize("law", ["hathout-high", "lipkova"])
def test_the_default_step_is_fine_enough(law):
    labels = head()
    treatments = (Surgery(4.0, extent=0.3), Radiotherapy(14.5, 3), Chemotherapy("temozolomide", (3.3, 20.0), 0.35, 0.075))
    tissues = [tissue(name, role, law) for name, role in ROLES]
    results = [
        forecast(labels, SPACING, Plan(completed(tissues, treatments, law), treatments, (90.0,), infiltration_mm(law), step_days=step), device="cpu")
        for step in (None, 0.25)
    ]
    assert results[0].run["longest_step_days"] >= 1.0
    assert results[0].volume_ml[-1, 5] > 0.5
    assert dsc(*(r.labels[-1] == 5 for r in results)) >= 0.99


def test_treatments_act_and_a_treated_tumor_shrinks():
    labels = head()
    untreated = forecast(labels, SPACING, plan(), device="cpu").volume_ml[:, 5]
    irradiated = forecast(labels, SPACING, plan((Radiotherapy(0.0, 20),)), device="cpu")
    treated = irradiated.volume_ml[:, 5]
    assert treated[1] < 0.5 * treated[0] < untreated[1]
    dead = irradiated.plan.anatomy.index("Treated tumor")
    assert irradiated.volume_ml[1, dead] > 0
    operated = forecast(labels, SPACING, plan((Surgery(2.0),), days=(2.0, 60.0)), device="cpu")
    cavity = operated.plan.anatomy.index("Resection cavity")
    assert np.array_equal(operated.labels[1] == cavity, operated.labels[0] == 5) or operated.volume_ml[1, cavity] >= operated.volume_ml[0, 5]
    assert operated.volume_ml[1, 5] < 0.05 * operated.volume_ml[0, 5]
    assert operated.volume_ml[2, cavity] == operated.volume_ml[1, cavity], "a cavity stays"


def test_dose_map_and_region_act_where_they_are():
    labels = head()
    half = np.zeros(labels.shape, np.uint8)
    tumor = np.argwhere(labels == 5)
    middle = int(np.median(tumor[:, 0]))
    half[:middle] = 1
    treated = plan((Radiotherapy(0.0, 10, 3.0, region="target"),), days=(14.0,))
    result = forecast(labels, SPACING, treated, maps={"target": half}, device="cpu")
    was = labels == 5
    stayed = (result.labels[-1] == 5) & was
    assert stayed[middle + 1:].sum() > 0.95 * was[middle + 1:].sum()
    assert stayed[:middle - 1].sum() < 0.5 * was[:middle - 1].sum()
    same = plan((Radiotherapy(0.0, 10, None, dose_map="dose"),), days=(14.0,))
    mapped = forecast(labels, SPACING, same, maps={"dose": half * 30.0}, device="cpu")
    assert np.array_equal(mapped.labels, result.labels), "30 Gy in ten fractions is 3 Gy each"


def test_half_extent_takes_half_of_the_visible_tumor():
    labels = head()
    result = forecast(labels, SPACING, plan((Surgery(0.0, extent=0.5),), days=(0.5,)), device="cpu")
    taken = (result.labels[-1] == result.plan.anatomy.index("Resection cavity")).sum()
    assert taken == pytest.approx(0.5 * (labels == 5).sum(), abs=1)


def test_tumor_regions_and_foci_are_kept():
    labels = head()
    labels[(labels == 5) & (np.indices(labels.shape)[0] > 31)] = 7
    labels[10:13, 30:33, 14:17] = 5
    tissues = [tissue(name, role) for name, role in ROLES] + [tissue("Edema", "edema")]
    result = forecast(labels, SPACING, Plan(completed(tissues, ()), (), (20.0,)), device="cpu")
    assert np.array_equal(result.labels[0], labels)
    assert (result.labels[-1] == 7).any() and (result.labels[-1][8:15, 28:35, 12:19] == 5).any()


def test_two_dimensions_one_slice_and_a_tensor():
    labels = head()[30]
    flat = forecast(labels, (2.0, 2.0), plan(), device="cpu")
    slab = forecast(labels[None], (6.5, 2.0, 2.0), plan(), device="cpu")
    assert any("slice" in w for w in flat.warnings) and any("slice" in w for w in slab.warnings)
    assert np.array_equal(flat.labels, slab.labels[:, 0])
    tensor = np.zeros((2, 2, *labels.shape), np.float32)
    tensor[0, 0], tensor[1, 1] = 1.8, 0.2
    aligned = forecast(labels, (2.0, 2.0), plan(days=(40.0,)), tensor=tensor, device="cpu")
    spread = [np.ptp(np.argwhere(r.labels[-1] == 5), axis=0) for r in (forecast(labels, (2.0, 2.0), plan(days=(40.0,)), device="cpu"), aligned)]
    assert spread[1][0] - spread[1][1] > spread[0][0] - spread[0][1], "it grows along the fibres"


def test_warnings_are_due():
    labels = np.ones((12, 12, 12), np.uint8)
    labels[0, 5, 5] = 5
    result = forecast(labels, SPACING, plan(days=(10_000.0,), step_days=500.0), device="cpu")
    text = " ".join(result.warnings)
    assert "edge" in text and "voxel" in text and "horizon" in text
    assert forecast(head(32), SPACING, plan(days=(5.0,)), device="cpu").warnings == ()


def test_score_of_a_forecast_against_what_it_started_from():
    result = forecast(head(32), SPACING, plan(days=(20.0,)), device="cpu")
    rows = {row.name: row for row in score(result.labels[-1], result.labels[0], SPACING, result.plan.anatomy, topology=False)}
    assert rows["Ventricles"].dice == 1.0
    assert rows["Tumor"].dice == pytest.approx(dsc(result.labels[-1] == 5, result.labels[0] == 5))


def test_progress_rises_and_cancel_stops():
    seen = []
    forecast(head(32), SPACING, plan(), device="cpu", progress=lambda f, t: seen.append((f, t)))
    fractions = [f for f, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and "day 60" in seen[-1][1]
    polled = []
    with pytest.raises(Cancelled):
        forecast(head(32), SPACING, plan(), device="cpu", cancelled=lambda: polled.append(1) or len(polled) > 3)
    assert len(polled) == 4


@pytest.mark.parametrize("change, words", [
    (dict(labels=np.zeros((8, 8, 8), int)), "empty"),
    (dict(labels=np.ones((8, 8, 8), int)), "no tumor"),
    (dict(labels=np.full((8, 8, 8), 5)), "grow into"),
    (dict(labels=np.full((8, 8, 8), 99)), "numbered 0 to"),
    (dict(labels=np.full((8, 8, 8), -1)), "numbered 0 to"),
    (dict(labels=np.full((8, 8, 8), 1.5)), "whole numbers"),
    (dict(labels=np.full((8, 8, 8), np.nan)), "whole numbers"),
    (dict(labels=np.ones((0, 8, 8), int)), "empty"),
    (dict(labels=np.ones((2, 8, 8, 8), int)), "axes"),
    (dict(spacing=(1.0, 0.0, 1.0)), "voxel size"),
    (dict(spacing=(1.0, float("nan"), 1.0)), "voxel size"),
    (dict(spacing=(1.0, 1.0)), "numbers for 3 axes"),
    (dict(device="tpu"), "auto, cpu or cuda"),
    (dict(weights="nowhere.safetensors"), "does not exist"),
    (dict(treatments=(Radiotherapy(0.0, 1, region="target"),)), "'target'"),
    (dict(treatments=(Radiotherapy(0.0, 1, region="target"),), maps={"target": np.zeros((8, 8, 8))}), "is empty"),
    (dict(treatments=(Radiotherapy(0.0, 1, region="target"),), maps={"target": np.ones((4, 4, 4))}), "same geometry"),
    (dict(treatments=(Radiotherapy(0.0, 1, None, dose_map="d"),), maps={"d": np.full((8, 8, 8), -1.0)}), "negative"),
    (dict(treatments=(Radiotherapy(0.0, 1, None, dose_map="d"),), maps={"d": np.full((8, 8, 8), np.nan)}), "NaN"),
])
def test_mistakes_are_refused_in_one_sentence(change, words):
    labels = np.ones((8, 8, 8), np.uint8)
    labels[3:5, 3:5, 3:5] = 5
    given = {"device": "cpu", **{k: v for k, v in change.items() if k in ("device", "weights", "maps")}}
    with pytest.raises((ForecastError, PlanError), match=words) as error:
        forecast(change.get("labels", labels), change.get("spacing", SPACING), plan(change.get("treatments", ())), **given)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_a_plan_without_a_class_for_what_dies_is_refused():
    tissues = (Tissue("Background", "background"), Tissue("White", "white", 0.1), Tissue("Tumor", "tumor", growth_per_day=0.1, alpha_per_gy=0.1))
    labels = np.ones((8, 8, 8), np.uint8)
    labels[4, 4, 4] = 2
    for treatment, word in ((Radiotherapy(0.0, 1), "dies"), (Surgery(0.0), "cavity")):
        with pytest.raises(ForecastError, match=word):
            forecast(labels, SPACING, Plan(Anatomy(tissues), (treatment,), (5.0,)), device="cpu")


def test_cuda_asked_for_and_absent(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ForecastError, match="no CUDA device"):
        forecast(head(32), SPACING, plan(), device="cuda")


def test_a_gpu_that_runs_out_of_memory_hands_over_to_the_cpu(monkeypatch):
    from AnatomyDTLib import computing, engine

    labels, tried, run = head(32), [], computing.run

    def full(request, device, *rest):
        tried.append(device)
        if device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(request, device, *rest)

    expected = forecast(labels, SPACING, plan(days=(5.0,)), device="cpu")
    monkeypatch.setattr(engine, "_device", lambda device, torch: "cuda")
    monkeypatch.setattr(computing, "run", full)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    result = forecast(labels, SPACING, plan(days=(5.0,)), device="auto")
    assert tried == ["cuda", "cpu"] and "GPU ran out of memory" in result.warnings[-1]
    assert np.array_equal(result.labels, expected.labels)


def test_tumor_cells_are_counted_where_they_are_too_few_to_see():
    labels = head()
    result = forecast(labels, SPACING, plan((Radiotherapy(0.0, 6, 3.0),), days=(10.0,)), device="cpu", probabilities=True)
    assert result.volume_ml[1, 5] < 0.1 * result.volume_ml[0, 5]
    expected = result.tumor_probability.astype(np.float64).sum((1, 2, 3)) * 8e-3
    assert np.allclose(result.tumor_cells_ml, expected, rtol=2e-3)
    assert result.tumor_cells_ml[1] > 0.05 * result.tumor_cells_ml[0]


@pytest.mark.parametrize("spacing, plan_of, words", [
    (1.0, plan, "per axis"), ((1, None, 1), plan, "per axis"), ("abc", plan, "per axis"), ((1e-9,) * 3, plan, "cannot be right"),
    (SPACING, lambda: None, "must be a Plan"), (SPACING, dict, "must be a Plan"),
])
def test_arguments_of_the_wrong_kind_are_refused(spacing, plan_of, words):
    with pytest.raises(ForecastError, match=words):
        forecast(head(32), spacing, plan_of(), device="cpu")
