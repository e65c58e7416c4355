"""Simulated gliomas: a phantom brain, and the individual brains where they are."""

from pathlib import Path

import numpy as np
import pytest

from AnatomyDTLib import volumes
from AnatomyDTLib.learning import gliomas
from AnatomyDTLib.learning.cases import DataError
from AnatomyDTLib.learning.courses import Courses
from AnatomyDTLib.learning.gliomas import BACKGROUND, CSF, GREY, TUMOR, VENTRICLES, WHITE, GliomaSettings

BRAINS = Path(__file__).resolve().parents[2] / "shared" / "data" / "brains"
UNTREATED = Courses(interval_days=(60, 60), treatments=("none",))


def phantom(scale=1.0):
    """An egg with a cortex, fluid around it and two ventricles; (Z, Y, X) at 1 mm."""
    z, y, x = (np.indices((80, 96, 84)) - np.array([40, 48, 42]).reshape(3, 1, 1, 1)) / scale
    r = np.sqrt((z / 34.0) ** 2 + (y / 42.0) ** 2 + (x / 36.0) ** 2)
    labels = np.select([r < 0.80, r < 0.92, r < 1.0], [WHITE, GREY, CSF], BACKGROUND)
    ventricles = (np.abs(np.abs(x) - 8.0) < 4.0) & (np.abs(y) < 18.0) & (np.abs(z) < 7.0)
    return np.where(ventricles, VENTRICLES, labels).astype(np.uint8)


def written(path, labels, spacing=1.0):
    steps = np.diag([spacing] * 3)[::-1].astype(float)
    volumes.write_nrrd(path, labels, volumes.Geometry(labels.shape, steps, np.zeros(3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("brains")
    for i, scale in enumerate((1.0, 0.93, 0.9)):
        written(made / f"head_{i}.nrrd", phantom(scale))
    return made


def settings(**given):
    return GliomaSettings(**{"coarsen": 3, "crop": None, "radius_mm": (9.0, 12.0), "courses": UNTREATED, **given})


def test_cases_take_turns_in_the_brains_and_a_patient_is_a_brain(folder):
    data = gliomas.gliomas(folder, 4, settings())
    assert [c.patient for c in data.cases] == ["head_0", "head_1", "head_2", "head_0"]
    assert data.spacing_mm == (3.0, 3.0, 3.0) and len({c.shape for c in data.cases}) == 1
    assert data.anatomy.tissues[TUMOR].role == "tumor" and data.anatomy.tissues[VENTRICLES].role == "ventricle"
    again = gliomas.gliomas(folder, 2, settings())
    assert all(np.array_equal(a.labels, b.labels) and a.days == b.days for a, b in zip(data.cases, again.cases))


def test_a_growing_tumor_squeezes_ventricles_and_the_skull_stays(folder):
    data = gliomas.gliomas(folder, 6, settings(seed=2))
    squeezed = []
    for case in data.cases:
        first, second = case.labels
        assert (second == TUMOR).sum() > 1.5 * (first == TUMOR).sum()
        assert np.array_equal(first == BACKGROUND, second == BACKGROUND)
        brain = np.isin(first, (WHITE, GREY))
        moved = (first != second) & (second != TUMOR) & brain
        assert moved.any()
        squeezed.append((second == VENTRICLES).sum() / (first == VENTRICLES).sum())
    assert min(squeezed) > 0.05 and np.mean(squeezed) < 0.95


def test_the_benchmark_runs_on_brains(folder, tmp_path, capsys):
    from AnatomyDTLib import cli

    command = ("--brains", folder, "--cases", 4, "--size", 24, "--methods", "persistence", "flow", "--folds", 3, "--steps", 1, "--trials", 1)
    assert cli.main(["benchmark", "brains", *map(str, command), "--processes", "1", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "4 cases of 24 x 24 x 24 voxels" in shown and "| Flow" in shown and "Ventricles" in shown


def test_the_future_is_a_function_of_the_first_visit(folder):
    chosen = settings(courses=Courses(visits=3))
    for case in gliomas.gliomas(folder, 2, chosen).cases:
        again = gliomas.grown(case.labels[0], (3.0,) * 3, case.days, case.treatments, chosen)
        assert np.array_equal(again, case.labels)


def test_the_front_is_slower_in_grey_matter():
    first = np.full((40, 40, 40), WHITE, np.uint8)
    first[:, :, 20:] = GREY
    ball = ((np.indices(first.shape) - 19.5) ** 2).sum(0) <= 36.0
    first[ball] = TUMOR
    later = gliomas.grown(first, (1.0,) * 3, (0.0, 40.0), (), GliomaSettings())[-1] == TUMOR
    assert later[:, :, :20].sum() > 1.5 * later[:, :, 20:].sum()


def test_crop_and_coarsen(folder):
    data = gliomas.gliomas(folder, 2, settings(coarsen=2, crop=(24, 26, 28)))
    assert data.shape == (24, 26, 28) and data.spacing_mm == (2.0, 2.0, 2.0)
    for case in data.cases:
        at = np.argwhere(case.labels[0] == TUMOR).mean(axis=0)
        assert (np.abs(at - np.array([12, 13, 14])) < 3.0).all()
    labels = np.zeros((4, 4, 5), np.uint8)
    labels[:2, :2, :2] = 3
    labels[0, 0, 0] = 1
    small = gliomas.coarsened(labels, 2)
    assert small.shape == (2, 2, 3) and small[0, 0, 0] == 3 and small.sum() == 3


def test_folders_that_hold_no_brains(folder, tmp_path):
    with pytest.raises(DataError, match="no brain was found"):
        gliomas.gliomas(tmp_path, 1)
    with pytest.raises(DataError, match="no brain was found"):
        gliomas.gliomas(tmp_path / "absent", 1)
    written(tmp_path / "odd.nrrd", np.where(phantom() == GREY, 7, phantom()).astype(np.uint8))
    with pytest.raises(DataError, match="odd.nrrd holds the labels .*7"):
        gliomas.gliomas(tmp_path, 1)
    written(tmp_path / "odd.nrrd", phantom())
    written(tmp_path / "other.nrrd", phantom(), 2.0)
    with pytest.raises(DataError, match="voxels of different size"):
        gliomas.gliomas(tmp_path, 1)
    with pytest.raises(DataError, match="no place for a tumor"):
        gliomas.gliomas(folder, 1, settings(radius_mm=(200.0, 210.0)))


def test_the_shipped_weights_are_those_of_the_present_twin(folder):
    """On gliomas that were simulated in other heads, treated and not: weights that were trained with another twin do not do that."""
    from AnatomyDTLib import shipped
    from AnatomyDTLib.learning.evaluation import dice
    from AnatomyDTLib.learning.training import predict
    from AnatomyDTLib.learning.forecasting import load_twin

    data = gliomas.gliomas(folder, 6, GliomaSettings(seed=5, crop=(40, 40, 40)))
    twin = load_twin(shipped.path_of("glioma-sim"), data.anatomy, 3)
    later = {i: labels[-1] for i, labels in predict(twin, data, range(len(data.cases)), batch_size=4)}
    pairs = [(dice(later[i] == TUMOR, case.labels[-1] == TUMOR), dice(case.labels[0] == TUMOR, case.labels[-1] == TUMOR))
             for i, case in enumerate(data.cases)]
    forecast, persistence = np.mean(pairs, 0)
    print(f"tumor DSC {forecast:.2f}, persistence {persistence:.2f}")
    assert {len(case.treatments) for case in data.cases} >= {0, 1}
    assert forecast > 0.85 and persistence < 0.6


@pytest.mark.skipif(not BRAINS.is_dir(), reason="the individual brains are not here")
def test_individual_brains():
    data = gliomas.gliomas(BRAINS, 2, GliomaSettings(coarsen=3, crop=(32, 32, 32), courses=UNTREATED))
    assert len(data.settings["brains"]) == 16 and data.shape == (32, 32, 32)
    for case in data.cases:
        volume = (case.labels == TUMOR).sum(axis=(1, 2, 3)) * 0.027
        assert 1.0 < volume[0] < 40.0 and 1.5 < volume[1] / volume[0] < 8.0
