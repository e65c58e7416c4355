"""Six real patients, each forecast from the first scan alone with a prior from the other five's calibrations.

The patients are those of test_real_patients.py; where they are absent the tests are skipped.
`python Testing/test_real_left_out.py [FOLDER]` prints the tables for the documentation.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "Testing")]

from test_real_patients import DAYS, FOLDER, plan_to, visits

from AnatomyDTLib.calibration.fit import Settings
from AnatomyDTLib.calibration.margins import compare_margins
from AnatomyDTLib.calibration.population import of_twins
from AnatomyDTLib.calibration.shares import drawn
from AnatomyDTLib.calibration.tumor import TumorModel
from AnatomyDTLib.engine import calibrate
from AnatomyDTLib.learning.evaluation import aligned, dice, hd95

TUMOR = 5
LAW = "hathout-low"  # of the presets the one nearest to these patients (docs/real-patients.md); where each fit starts
PRESETS = ("hathout-low", "lipkova", "swanson-high-grade", "hathout-high")
MEMBERS = 32
MARGIN_VOXELS = 6
EVERY = 2  # voxels in plane that the tables skip: 1.7 x 1.7 x 6.5 mm

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the real patients are not here")


def patient(case, folder=FOLDER, every=1):
    """(first scan, second scan, spacing_mm), cut to the head, every n-th voxel in plane."""
    first, second, spacing_mm = visits(case, folder)
    n = MARGIN_VOXELS
    box = tuple(slice(max(0, int(i.min()) - n), int(i.max()) + n + 1) for i in np.nonzero(first > 0))
    thinned = (slice(None), slice(None, None, every), slice(None, None, every))
    return first[box][thinned], second[box][thinned], (spacing_mm[0], every * spacing_mm[1], every * spacing_mm[2])


def calibrated(case, folder=FOLDER, every=1, starts=2):
    """The twin from both scans; what is fitted unless told otherwise, with the cited priors and bounds."""
    first, second, spacing_mm = patient(case, folder, every)
    plan = plan_to(DAYS[case], LAW)
    return calibrate([(0, first), (DAYS[case], second)], spacing_mm, plan, settings=Settings(starts=starts))


def forecast_with(case, members, law=LAW, folder=FOLDER, every=1):
    """(masks (B, *S) of the drawn tumor on the day of the second scan, its densities (B, *S)) of members: name -> v."""
    first, _, spacing_mm = patient(case, folder, every)
    plan = plan_to(DAYS[case], law)
    model = TumorModel(first, spacing_mm, plan)
    masks, densities = [], []
    for some in range(0, len(members), 8):
        shares, = model.run(members[some:some + 8], [float(DAYS[case])])
        masks.append(drawn(shares, plan.anatomy.tissues[TUMOR].visibility).numpy())
        densities.append((shares.u[0] * shares.room).numpy())
    return np.concatenate(masks), np.concatenate(densities)


def left_out(case, twins, folder=FOLDER, every=1, members=MEMBERS):
    """(prior of this patient from the others, its middle's mask, masks of the members, mean density of the members)."""
    prior = of_twins([twin for other, twin in twins.items() if other != case])
    masks, densities = forecast_with(case, [prior.values, *prior.sample(members)], folder=folder, every=every)
    return prior, masks[0], masks[1:], densities[1:].mean(axis=0)


def test_one_patient_left_out_of_three_on_coarse_voxels():
    """The road of the table from end to end; what comes out is reported, not asked for."""
    cases = ("05", "06", "08")
    twins = {case: calibrated(case, every=6, starts=1) for case in cases}
    for case in cases:
        prior, middle, masks, density = left_out(case, twins, every=6, members=8)
        first, second, spacing_mm = patient(case, every=6)
        assert prior.patients == 2 and masks.shape == (8, *first.shape)
        assert all(p.low <= prior.values[p.name] <= p.high for p in prior.parameters)
        assert dice(middle, second == TUMOR) > dice(first == TUMOR, second == TUMOR) - 0.1
        plan = plan_to(DAYS[case], LAW)
        uniform, probable = compare_margins(first, density, second == TUMOR, plan.anatomy, spacing_mm)
        assert uniform.volume_ml == probable.volume_ml and min(uniform.covered, probable.covered) > 0.5


def scores(mask, observed, spacing_mm):
    """(DSC, HD95, mL); a forecast without tumor is counted as in `evaluation.score`."""
    if not mask.any():
        return 0.0, float(np.sqrt(sum((n * h) ** 2 for n, h in zip(mask.shape, spacing_mm)))), 0.0
    return dice(mask, observed), hd95(mask, observed, spacing_mm), float(mask.sum() * np.prod(spacing_mm) / 1000)


def tables(folder, every=EVERY):
    """The tables of the documentation, as text."""
    twins = {case: calibrated(case, folder, every) for case in sorted(DAYS)}
    rows = [("case", *(f"{p.name}, {p.unit} (80 %)" for p in twins["01"].parameters), "DSC of the fit")]
    for case, twin in twins.items():
        told = (f"{p.value:.4f} ({p.interval()[0]:.4f} to {p.interval()[1]:.4f})" for p in twin.parameters)
        rows.append((case, *told, f"{twin.observations[0].dsc:.2f}"))
    text = [aligned(rows)]
    methods = ("persistence", *PRESETS, "left out, middle", "left out, ensemble")
    collected = {m: [] for m in methods}
    rows = [("case", "days", "observed mL", *(f"DSC {m}" for m in methods))]
    volumes = [("case", "observed", *methods[:-1], "left out, 80 % band", "within")]
    margins = [("case", "target mL", "15 mm", "left out", "new: 15 mm", "new: left out")]
    for case in sorted(DAYS):
        first, second, spacing_mm = patient(case, folder, every)
        observed = second == TUMOR
        ml = float(np.prod(spacing_mm) / 1000)
        found = {"persistence": scores(first == TUMOR, observed, spacing_mm)}
        for law in PRESETS:
            found[law] = scores(forecast_with(case, [{}], law, folder, every)[0][0], observed, spacing_mm)
        _, middle, masks, density = left_out(case, twins, folder, every)
        found["left out, middle"] = scores(middle, observed, spacing_mm)
        found["left out, ensemble"] = scores(masks.mean(axis=0) >= 0.5, observed, spacing_mm)
        for m in methods:
            collected[m].append(found[m])
        low, high = np.quantile(masks.reshape(len(masks), -1).sum(axis=1) * ml, (0.1, 0.9))
        rows.append((case, str(DAYS[case]), f"{observed.sum() * ml:.1f}", *(f"{found[m][0]:.2f}" for m in methods)))
        inside = "yes" if low <= observed.sum() * ml <= high else "no"
        shown = (f"{found[m][2]:.1f}" for m in methods[:-1])
        volumes.append((case, f"{observed.sum() * ml:.1f}", *shown, f"{low:.1f} to {high:.1f}", inside))
        uniform, probable = compare_margins(first, density, observed, plan_to(DAYS[case], LAW).anatomy, spacing_mm)
        margins.append((case, f"{uniform.volume_ml:.0f}", *(f"{100 * v:.1f} %" for v in (
            uniform.covered, probable.covered, uniform.covered_new, probable.covered_new))))
    mean = {m: np.mean(collected[m], axis=0) for m in methods}
    rows.append(("mean", "", "", *(f"{mean[m][0]:.2f}" for m in methods)))
    rows.append(("mean HD95, mm", "", "", *(f"{mean[m][1]:.1f}" for m in methods)))
    return "\n".join([*text, aligned(rows), aligned(volumes), aligned(margins)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    print(tables(parser.parse_args().folder), end="")


if __name__ == "__main__":
    main()
