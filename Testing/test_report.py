"""Tables and pictures of a forecast."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from AnatomyDTLib import presets, report
from AnatomyDTLib.engine import Forecast
from AnatomyDTLib.plan import Plan
from AnatomyDTLib.volumes import Geometry

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def grown(shape=(12, 40, 30), spacing=(4.0, 1.0, 1.5), days=(30, 60), regime="none", center=None, extra=()):
    """A ball in a box, its radius growing with the days."""
    tissues = (
        presets.tissue("Background", "background"), presets.tissue("White matter", "white", color=BLUE),
        presets.tissue("Tumor", "tumor", color=RED), presets.tissue("Edema", "edema"), *extra,
    )
    treatments = presets.regime(regime, days[-1])
    plan = Plan(presets.completed(tissues, treatments), treatments, days)
    center = center or [n / 2 for n in shape]
    grid = np.indices(shape)
    r = np.sqrt(sum(((grid[a] - center[a]) * spacing[a]) ** 2 for a in range(len(shape))))
    frames = np.stack([np.where(r < 6 + 0.05 * day, 2, np.where(r < 9 + 0.05 * day, 3, 1)) for day in plan.reported_days]).astype(np.uint8)
    frames[..., 0] = 0
    counts = np.stack([np.bincount(f.ravel(), minlength=len(plan.anatomy)) for f in frames])
    return Forecast(np.array(plan.reported_days), frames, counts * np.prod(spacing) / 1000, None, spacing, plan)


def test_table():
    forecast = grown(days=(30, 60.5))
    rows = list(csv.reader(io.StringIO(report.volumes_csv(forecast))))
    assert rows[0] == ["day", "White matter (mL)", "Tumor (mL)", "Edema (mL)", "tumor total (mL)"]
    assert [r[0] for r in rows[1:]] == ["0", "30", "60.5"]
    for row, labels in zip(rows[1:], forecast.labels):
        for k in (1, 2, 3):
            assert float(row[k]) == pytest.approx((labels == k).sum() * 6.0 / 1000, abs=1e-4)
        assert float(row[4]) == pytest.approx(((labels == 2) | (labels == 3)).sum() * 6.0 / 1000, abs=1e-4)


def test_names_with_commas_stay_one_column():
    forecast = grown(extra=(presets.tissue('Cortex, "left"', "grey"),))
    rows = list(csv.reader(io.StringIO(report.volumes_csv(forecast))))
    assert rows[0][4] == 'Cortex, "left" (mL)' and len({len(r) for r in rows}) == 1


@pytest.mark.parametrize("shape, spacing", [
    ((12, 40, 30), (4.0, 1.0, 1.5)), ((40, 30), (1.0, 1.5)), ((1, 40, 30), (5.0, 1.0, 1.0)), ((40, 1, 30), (1.0, 5.0, 1.0)), ((20, 20, 20), (1, 1, 1)),
])
@pytest.mark.parametrize("regime", ["none", "surgery+stupp"])
def test_pictures_of_any_shape(shape, spacing, regime):
    forecast = grown(shape, spacing, regime=regime)
    image = Image.open(io.BytesIO(report.picture(forecast)))
    assert image.format == "PNG" and min(image.size) > 400
    moving = Image.open(io.BytesIO(report.animation(forecast)))
    assert moving.format == "GIF" and moving.n_frames == 3
    # both colours of the tissues are seen
    pixels = np.asarray(moving.convert("RGB")).reshape(-1, 3).astype(int)
    for color in (RED, BLUE):
        assert (np.abs(pixels - 255 * np.array(color)).sum(axis=1) < 60).any()


def test_many_days_and_many_tissues():
    many = tuple(presets.tissue(f"Part {i}", "grey") for i in range(30))
    forecast = grown(days=tuple(range(1, 101)), extra=many)
    forecast.labels[:, :, :30, 1:25] = np.where(
        forecast.labels[:, :, :30, 1:25] == 1, 4 + (np.arange(30) % 30)[None, None, :, None], forecast.labels[:, :, :30, 1:25])
    png, gif = report.picture(forecast), report.animation(forecast)
    assert Image.open(io.BytesIO(gif)).n_frames == report.MOST_FRAMES
    assert len(png) < 500_000 and len(gif) < 1_500_000


def test_a_brain_fits_in_small_files():
    forecast = grown((60, 90, 76), (2.0, 2.0, 2.0))
    assert len(report.picture(forecast)) < 300_000 and len(report.animation(forecast)) < 300_000


def test_the_same_forecast_gives_the_same_bytes():
    forecast = grown()
    assert report.picture(forecast) == report.picture(forecast)
    assert report.animation(forecast) == report.animation(forecast)


def test_no_tumor_left():
    forecast = grown()
    forecast.labels[1:] = np.where(forecast.labels[1:] > 1, 1, forecast.labels[1:])
    assert report.picture(forecast) and report.animation(forecast)
    forecast.labels[:] = 0
    assert report.picture(forecast) and report.animation(forecast)


def test_proportions_are_physical():
    """A ball in thick slices is drawn as round as in thin ones."""
    for spacing, shape in (((6.0, 1.0, 1.0), (12, 72, 72)), ((1.0, 1.0, 3.0), (72, 72, 24))):
        view = report._View(grown(shape, spacing))
        for plane in view.planes:
            _, tumor = view.draw(2, plane, 0.5)
            inside = tumor > 0.5
            height, width = (int(inside.any(axis=a).sum()) for a in (1, 0))
            assert height == pytest.approx(width, abs=2 * max(spacing)), (plane, spacing)


def corner_forecast():
    """A tumor at the patient's left, front and top, in left-posterior-superior order of axes and signs."""
    forecast = grown((20, 24, 28), (1.0, 1.0, 1.0), center=(15, 6, 20))
    return forecast, Geometry((20, 24, 28), np.eye(3)[::-1], np.zeros(3))      # array z, y, x towards superior, posterior, left


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flip", [(), (0,), (1, 2), (0, 1, 2)])
def test_the_view_does_not_depend_on_how_the_voxels_are_stored(order, flip):
    forecast, geometry = corner_forecast()
    steps, labels = geometry.steps_mm[list(order)].copy(), forecast.labels.transpose(0, *(a + 1 for a in order))
    for axis in flip:
        labels, steps[axis] = np.flip(labels, axis + 1), -steps[axis]
    stored = Forecast(forecast.days, labels, forecast.volume_ml, None, (1.0, 1.0, 1.0), forecast.plan)
    seen, expected = report._View(stored, Geometry(labels.shape[1:], steps, np.zeros(3))), report._View(forecast, geometry)
    for a, b in zip(seen.planes, expected.planes):
        assert a == b and np.allclose(seen.draw(0, a, 1.0)[0], expected.draw(0, b, 1.0)[0])
    axial = expected.draw(0, expected.planes[0], 1.0)[1]
    y, x = np.argwhere(axial > 0.5).mean(axis=0) / axial.shape
    assert y < 0.4 and x > 0.6          # front is up, the patient's left is on the right
    coronal = expected.draw(0, expected.planes[1], 1.0)[1]
    assert np.argwhere(coronal > 0.5).mean(axis=0)[0] / coronal.shape[0] < 0.4          # superior is up


def test_the_callers_plots_are_left_alone():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = dict(pyplot.rcParams)
    report.picture(grown())
    assert pyplot.get_fignums() == [] and dict(pyplot.rcParams) == before


@pytest.mark.parametrize("days, most, expected", [
    ((0, 10, 20), 5, [0, 1, 2]), ((0, 1, 2, 3, 100), 3, [0, 3, 4]), (tuple(range(101)), 5, [0, 25, 50, 75, 100]),
])
def test_frames_are_spread_in_time(days, most, expected):
    assert report._chosen(np.array(days, float), most) == expected
