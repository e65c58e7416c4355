"""Simulated patients for the tests of calibration, and the figures of docs/twin.md.

python Testing/calibration_cases.py recovery              the 77x116x36 grid, known parameters
python Testing/calibration_cases.py coverage [N] [MM]     N patients, outlines drawn with an error of MM
python Testing/calibration_cases.py noise [N] [MM] [PATCH]    how often parameters lie in their intervals, with errors of
                                                          MM that go together over PATCH mm
"""

import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from AnatomyDTLib import engine
from AnatomyDTLib.calibration import parameters
from AnatomyDTLib.calibration.fit import Settings
from AnatomyDTLib.calibration.twin import EIGHTY
from AnatomyDTLib.plan import Chemotherapy, Plan, Radiotherapy
from AnatomyDTLib.presets import completed, infiltration_mm, tissue

LAW = "lipkova"
ROLES = (
    ("Background", "background"),
    ("White matter", "white"),
    ("Grey matter", "grey"),
    ("Ventricles", "ventricle"),
    ("Tumor", "tumor"),
)
WHITE, GREY, VENTRICLE, TUMOR = 1, 2, 3, 4
D, RHO, ALPHA, DRUG = "diffusivity_mm2_per_day", "growth_per_day", "alpha_per_gy", "sensitivity_per_day:temozolomide"
SMALL, LARGE = (18, 44, 42), (36, 116, 77)
SPACING = (3.0, 1.5, 1.5)

# Five fractions, a break, ten doses of a drug; visits between them. More would take all of the tumor below the
# visibility.
RADIATION = Radiotherapy(30.0, 5, 2.0)
LATER_DRUG = Chemotherapy("temozolomide", tuple(float(d) for d in range(50, 60)), 0.35, 0.075)
SAME_DRUG = Chemotherapy("temozolomide", RADIATION.event_days(), 0.35, 0.075)
VISITS = (28.0, 40.0, 64.0, 90.0, 120.0)


def head(shape=SMALL, center_mm=(2.0, 6.0, 5.0), radii_mm=(9.0, 9.0, 9.0)):
    """Labels of a brain with folded grey matter, a ventricle and an ellipsoidal tumor; voxels of `SPACING`."""
    z, y, x = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * h for n, h in zip(shape, SPACING)], indexing="ij")
    size = [0.485 * n * h for n, h in zip(shape, SPACING)]
    r = np.sqrt((z / size[0]) ** 2 + (y / size[1]) ** 2 + (x / size[2]) ** 2)
    labels = np.zeros(shape, np.uint8)
    labels[r < 1] = GREY
    labels[(r < 0.84) | ((r < 0.96) & (np.sin(y / 5) + np.sin(x / 4 + z / 6) > 0.6))] = WHITE
    labels[(z / 8) ** 2 + ((y + 0.35 * size[1]) / 9) ** 2 + ((x + 0.3 * size[2]) / 5) ** 2 < 1] = VENTRICLE
    inside = sum(((a - c) / e) ** 2 for a, c, e in zip((z, y, x), center_mm, radii_mm)) < 1
    labels[inside & np.isin(labels, (WHITE, GREY))] = TUMOR
    return labels


def plan(treatments=(), days=VISITS, **given):
    tissues = [tissue(name, role, LAW) for name, role in ROLES]
    return Plan(
        completed(tissues, treatments, LAW),
        tuple(treatments),
        tuple(days),
        infiltration_mm=infiltration_mm(LAW),
        **given,
    )


def drawn_with_error(labels, error_mm, seed, patch_mm=8.0):
    """The labels with the tumor's outline moved by a smooth random field of this standard deviation."""
    mask = labels == TUMOR
    if error_mm == 0 or not mask.any():
        return labels
    field = ndimage.gaussian_filter(
        np.random.default_rng(seed).standard_normal(mask.shape), [patch_mm / np.sqrt(4 * np.pi) / h for h in SPACING]
    )
    distance = ndimage.distance_transform_edt(mask, sampling=SPACING) - ndimage.distance_transform_edt(
        ~mask, sampling=SPACING
    )
    moved = distance - np.sign(distance) * min(SPACING) / 2 + error_mm * field / field.std() > 0
    out = labels.copy()
    out[mask & ~moved] = WHITE
    out[moved & np.isin(labels, (WHITE, GREY))] = TUMOR
    return out


def visits(labels, forecast, error_mm=0.0, seed=0, only=None, patch_mm=8.0):
    """[(day, labels)] of a baseline and of a forecast's days, each drawn with an error."""
    pairs = [(0.0, drawn_with_error(labels, error_mm, seed * 100, patch_mm))]
    for i, day in enumerate(forecast.days[1:], start=1):
        if only is None or float(day) in only:
            pairs.append((float(day), drawn_with_error(forecast.labels[i], error_mm, seed * 100 + i, patch_mm)))
    return pairs


def simulated(truth, treatments=(), days=VISITS, labels=None, error_mm=0.0, seed=0, **given):
    """(visits, the plan with population values, the true forecast)."""
    labels = head() if labels is None else labels
    start = plan(treatments, days, **given)
    true = engine.forecast(labels, SPACING, parameters.applied(start, truth), device="cpu")
    return visits(labels, true, error_mm, seed), start, true


def errors(twin, truth):
    """name -> relative error of the fit."""
    return {name: twin.values[name] / value - 1.0 for name, value in truth.items()}


def covered(seed, error_mm, members=20):
    """One patient of the coverage study: (was the true volume within the 80 % band, a line of figures, the figures)."""
    random = np.random.default_rng(seed)
    labels = head(SMALL, random.uniform((-3, 2, 1), (5, 10, 9)), random.uniform(6.5, 10.5, 3))
    truth = {D: 0.1 * np.exp(0.5 * random.standard_normal()), RHO: 0.02 * np.exp(0.3 * random.standard_normal())}
    treatments = ()
    if seed % 2:
        treatments, truth[ALPHA] = (RADIATION,), 0.045 * np.exp(0.4 * random.standard_normal())
    last = 150.0
    _, start, true = simulated(truth, treatments, (40.0, 75.0, 110.0, last), labels)
    seen = visits(labels, true, error_mm, seed, (40.0, 75.0, 110.0))
    twin = engine.calibrate(seen, SPACING, start, settings=Settings(starts=1))
    ensemble = engine.ensemble(seen[0][1], SPACING, twin, members=members)
    low, middle, high = (float(v[-1]) for v in ensemble.band())
    volume = float(true.volume_ml[-1, TUMOR])
    wrong = ", ".join(f"{name.split('_')[0]} {100 * e:+.0f} %" for name, e in errors(twin, truth).items())
    return (
        low <= volume <= high,
        f"true {volume:.2f} mL, band {low:.2f} to {high:.2f} (median {middle:.2f}); {wrong}",
        (low, middle, high, volume),
    )


def drawn_badly(seed, error_mm, patch_mm=8.0):
    """One patient of the noise study: (names, errors in x, errors over the standard deviations that the fit gives)."""
    random = np.random.default_rng(seed)
    labels = head(SMALL, random.uniform((-3, 2, 1), (5, 10, 9)), random.uniform(6.5, 10.5, 3))
    spread = {D: (0.16, 0.4), RHO: (0.035, 0.2), ALPHA: (0.045, 0.3), DRUG: (0.45, 0.3)}
    truth = {name: middle * np.exp(width * random.standard_normal()) for name, (middle, width) in spread.items()}
    _, start, true = simulated(truth, (RADIATION, LATER_DRUG), VISITS, labels)
    seen = visits(labels, true, error_mm, seed + 1, patch_mm=patch_mm)
    twin = engine.calibrate(seen, SPACING, start, settings=Settings(starts=1))
    wrong = [f.parameter.coordinate(f.value) - f.parameter.coordinate(truth.get(f.name, 1.0)) for f in twin.parameters]
    return twin.names, np.array(wrong), np.array(wrong) / [f.spread for f in twin.parameters]


def _noise(count, error_mm, patch_mm):
    found = []
    for seed in range(count):
        try:
            found.append(drawn_badly(seed, error_mm, patch_mm))
            print(seed, *(f"{z:+.1f}" for z in found[-1][2]), flush=True)
        except ValueError as refused:
            print(seed, f"refused: {refused}", flush=True)
    wrong, z = (np.array([f[i] for f in found]) for i in (1, 2))
    for i, name in enumerate(found[0][0]):
        print(
            f"{name:36s} within 80 %: {np.mean(np.abs(z[:, i]) < EIGHTY):.0%}, 95 %: {np.mean(np.abs(z[:, i]) < 1.96):.0%}; "
            f"error {100 * wrong[:, i].mean():+.1f} ± {100 * wrong[:, i].std():.1f} %"
        )


def _coverage(count, error_mm):
    inside, began = [], time.process_time()
    for seed in range(count):
        try:
            hit, line, _ = covered(seed, error_mm)
        except ValueError as refused:
            print(seed, f"refused: {refused}", flush=True)
            continue
        inside.append(hit)
        print(seed, "in " if hit else "OUT", line, flush=True)
    print(
        f"{sum(inside)} of {len(inside)} within the 80 % band ({100 * np.mean(inside):.0f} %), "
        f"{time.process_time() - began:.0f} CPU s"
    )


def _recovery():
    labels = head(LARGE, (4.0, 22.0, 24.0), (10.0, 10.0, 10.0))
    truth = {D: 0.16, RHO: 0.035, ALPHA: 0.045, DRUG: 0.45}
    for what, drug in (("schedules differ", LATER_DRUG), ("schedules coincide", SAME_DRUG)):
        for error_mm in (0.0, 0.75):
            seen, start, true = simulated(truth, (RADIATION, drug), VISITS, labels, error_mm)
            began = time.process_time()
            twin = engine.calibrate(seen, SPACING, start)
            print(
                f"{what}, outlines drawn with an error of {error_mm} mm, {time.process_time() - began:.1f} CPU s, "
                f"{twin.fit['evaluations']} runs; "
                f"volumes {', '.join(f'{v:.1f}' for v in true.volume_ml[:, TUMOR])} mL"
            )
            for fitted in twin.parameters:
                wrong = f"error {100 * (fitted.value / truth[fitted.name] - 1):+.1f} %" if fitted.name in truth else ""
                low, high = fitted.interval()
                print(
                    f"  {fitted.name:36s} {fitted.value:.4g} ({low:.4g} to {high:.4g}) {wrong}; {fitted.verdict()}",
                    flush=True,
                )


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    count, *millimetres = sys.argv[2:] or ["100"]
    if sys.argv[1:2] == ["recovery"]:
        _recovery()
    elif sys.argv[1:2] == ["noise"]:
        _noise(int(count), *map(float, millimetres or ["0.75"]), *([8.0] if len(millimetres) < 2 else []))
    else:
        _coverage(int(count), float((millimetres or ["0.5"])[0]))
