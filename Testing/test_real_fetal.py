"""Fetal brains week by week: growth rates fitted on some weeks, the next ones forecast, beside simpler forecasts.

The atlas (Fidon et al. 2021, doi:10.5281/zenodo.5524312) is not part of the project; where it is absent the tests are
skipped.
`python Testing/test_real_fetal.py [FOLDER]` prints the tables for the documentation.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from AnatomyDTLib import volumes
from AnatomyDTLib.calibration.anatomy import fit_growth, grow, volumes_of
from AnatomyDTLib.learning.evaluation import aligned, dice, score

FOLDER = ROOT.parent / "shared" / "data" / "fetal"
NAMES = {1: "white matter", 2: "ventricles", 3: "cerebellum", 4: "extra-axial CSF", 5: "cortical grey", 6: "deep grey",
         7: "brainstem", 8: "corpus callosum"}
CLASSES = 9
# (which children, weeks fitted, weeks forecast)
STUDIES = (("noop", (21, 22, 23), (24, 25)), ("op", (25, 26, 27, 28), (29, 30)))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the atlas is not here")


def week(number, which, folder=FOLDER):
    """(labels (Z, Y, X), spacing_mm) of a gestational week."""
    volume = volumes.read_labels(folder / f"GA{number}_{which}_seg.nii.gz")
    return volume.array, volume.spacing_mm


def coarser(labels, factor=2):
    """The most frequent label of each block of voxels."""
    shape = [n // factor for n in labels.shape]
    blocks = labels[tuple(slice(0, n * factor) for n in shape)].reshape([m for n in shape for m in (n, factor)])
    blocks = blocks.transpose(0, 2, 4, 1, 3, 5).reshape(*shape, -1)
    counts = np.stack([(blocks == k).sum(axis=-1) for k in range(CLASSES)])
    return counts.argmax(axis=0).astype(np.uint8)


def lines(visits, spacing_mm, days):
    """(len(days), K) mL: the regression line of each tissue's volume on the day, at least 0."""
    at = np.array([day for day, _ in visits])
    observed = np.array([volumes_of(labels, CLASSES, spacing_mm) for _, labels in visits])
    slope = (at - at.mean()) @ (observed - observed.mean(axis=0)) / ((at - at.mean()) ** 2).sum()
    return np.maximum(observed.mean(axis=0) + (np.asarray(days)[:, None] - at.mean()) * slope, 0.0)


def scaled(labels, factor):
    """The anatomy `factor` times as large in volume about its centroid: what an extrapolated total volume can say."""
    centre = np.array(ndimage.center_of_mass(labels > 0))
    zoom = factor ** (-1 / 3)
    return ndimage.affine_transform(labels, np.full(labels.ndim, zoom), centre * (1 - zoom), order=0)


def study(which, fitted, forecast, folder=FOLDER, prepare=lambda labels: labels, times=1, corrections=2):
    """(growth, spacing_mm, {week: {method: labels, "observed": labels}}, {week: (K,) mL of the lines})."""
    first = week(fitted[0], which, folder)
    spacing_mm = tuple(h * times for h in first[1])
    visits = [(7.0 * w, prepare(week(w, which, folder)[0])) for w in fitted]
    growth = fit_growth(visits, spacing_mm, CLASSES, corrections=corrections)
    last_day, last = visits[-1]
    grown = grow(last, spacing_mm, growth.rates_per_day, [7.0 * w - last_day for w in forecast])
    extrapolated = lines(visits, spacing_mm, [7.0 * w for w in forecast])
    total = volumes_of(last, CLASSES, spacing_mm)[1:].sum()
    found = {}
    for w, twin, line in zip(forecast, grown, extrapolated):
        observed = prepare(week(w, which, folder)[0])
        larger = scaled(last, line[1:].sum() / total)
        found[w] = {"observed": observed, "persistence": last, "line, scaled": larger, "twin": twin}
    return growth, spacing_mm, found, dict(zip(forecast, extrapolated))


METHODS = ("persistence", "line, scaled", "twin")


def compared(study_, corrections):
    """(mean DSC of persistence, of the twin, tissues in which the twin is closer), next week, coarse voxels."""
    which, fitted, forecast = study_
    _, _, found, _ = study(which, fitted, forecast[:1], prepare=coarser, times=2, corrections=corrections)
    shown = found[forecast[0]]
    persistence, twin = ([dice(shown[m] == k, shown["observed"] == k) for k in NAMES] for m in ("persistence", "twin"))
    return np.mean(persistence), np.mean(twin), sum(t > p for t, p in zip(twin, persistence))


def test_growth_and_pressure_come_closer_than_persistence():
    persistence, twin, closer = compared(STUDIES[0], corrections=0)
    assert twin > persistence + 0.04 and closer >= 6


@pytest.mark.slow
def test_growth_and_pressure_after_an_operation():
    persistence, twin, closer = compared(STUDIES[1], corrections=2)
    assert twin > persistence and closer >= 5


def tables(folder):
    """The tables of the documentation, as text."""
    text = []
    for which, fitted, forecast in STUDIES:
        growth, spacing_mm, found, extrapolated = study(which, fitted, forecast, folder)
        words = "not operated" if which == "noop" else "operated"
        weekly = {name: (700 * growth.rates_per_day[k], 700 * growth.spreads[k]) for k, name in NAMES.items()}
        rates = ", ".join(f"{name} {rate:.0f} ± {error:.0f}" for name, (rate, error) in weekly.items())
        text.append(f"Fitted on weeks {fitted[0]} to {fitted[-1]} ({words}), % a week ± standard error: {rates}.\n")
        text += [table(w, shown, spacing_mm, extrapolated[w]) for w, shown in found.items()]
    return "\n".join(text)


def table(number, shown, spacing_mm, line):
    """One forecast week: DSC, HD95 in mm, volumes in mL and Betti numbers of every tissue."""
    scored = {m: {s.name: s for s in score(shown[m], shown["observed"], spacing_mm, NAMES)} for m in METHODS}
    head = [f"{what} {m}" for what in ("DSC", "HD95") for m in METHODS]
    head += ["mL observed", "last", "line", "twin", "Betti observed", "last", "scaled", "twin"]
    rows = [(f"week {number}", *head)]
    for k, name in NAMES.items():
        of = [scored[m][name] for m in METHODS]
        millilitres = (of[0].volume_observed_ml, of[0].volume_ml, line[k], of[2].volume_ml)
        betti = (of[0].betti_observed, *(s.betti for s in of))
        numbers = [f"{s.dice:.2f}" for s in of] + [f"{v:.1f}" for v in (*(s.hd95_mm for s in of), *millilitres)]
        rows.append((name, *numbers, *(" ".join(map(str, b)) for b in betti)))
    means = [np.mean([scored[m][n].dice for n in NAMES.values()]) for m in METHODS]
    distances = [np.mean([scored[m][n].hd95_mm for n in NAMES.values()]) for m in METHODS]
    totals = [volumes_of(shown[m], CLASSES, spacing_mm)[1:].sum() for m in ("observed", "persistence", "twin")]
    totals.insert(2, line[1:].sum())
    rows.append(("mean, sum", *(f"{v:.2f}" for v in means), *(f"{v:.1f}" for v in (*distances, *totals)), *[""] * 4))
    return aligned(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    print(tables(parser.parse_args().folder), end="")


if __name__ == "__main__":
    main()
