"""Six real patients, two scans each: a forecast from the first scan to the day of the second, beside persistence.

The patients (Brain-Tumor-Progression, TCIA) are not part of the project; where they are absent the tests are skipped.
`python Testing/test_real_patients.py [FOLDER] [--growth LAW ...]` prints the table for the documentation.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from AnatomyDTLib import presets, volumes
from AnatomyDTLib.engine import forecast
from AnatomyDTLib.learning.evaluation import aligned, dice, score
from AnatomyDTLib.plan import Anatomy, Plan

FOLDER = ROOT.parent / "shared" / "data" / "btp"
DAYS = {"01": 157, "03": 415, "05": 55, "06": 58, "08": 58, "11": 119}  # from the first scan to the second
NAMES = {1: "white", 2: "grey", 4: "ventricles", 5: "tumor"}  # thin sulcal CSF is noise; its volume is given

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the real patients are not here")


def visits(case, folder=FOLDER):
    """(labels at the first scan, labels at the second, spacing_mm), both (Z, Y, X)."""
    first, second = (volumes.read_labels(folder / f"{case}_{when}_seg.nii.gz") for when in ("pre", "post"))
    volumes.same_geometry(second, first)
    return first.array, second.array, first.spacing_mm


def plan_to(day, growth=presets.DEFAULT_GROWTH) -> Plan:
    """No treatment: what was given after the first scan is not recorded."""
    tissues = [presets.tissue(name, role, growth) for name, role in (
        ("Background", "background"), ("White matter", "white"), ("Grey matter", "grey"), ("CSF", "csf"),
        ("Ventricles", "ventricle"), ("Tumor", "tumor"))]
    return Plan(Anatomy(tuple(tissues)), (), (day,), infiltration_mm=presets.infiltration_mm(growth))


def scored(case, growth, predicted, observed, spacing_mm):
    """One row of the table."""
    found = {s.name: s for s in score(predicted, observed, spacing_mm, {**NAMES, 3: "csf"}, topology=False)}
    tumor = found["tumor"]
    cells = [f"{tumor.dice:.2f}", f"{tumor.hd95_mm:.0f}{'*' if tumor.missing else ''}",
             f"{tumor.volume_ml:.1f}", f"{tumor.volume_observed_ml:.1f}", f"{tumor.volume_error_percent:+.0f}"]
    cells += [f"{found[n].dice:.2f}" for n in ("white", "grey", "ventricles", "csf")]
    return (case, str(DAYS[case]), growth, *cells)


HEAD = ("case", "days", "method", "tumor DSC", "HD95 mm", "mL", "observed mL", "error %",
        "white DSC", "grey", "ventricles", "CSF")


def compared(case, laws, folder=FOLDER, every=1, weights=()):
    """Rows of persistence and of a forecast with each growth law and each file of weights, on every n-th voxel in plane."""
    first, second, spacing_mm = visits(case, folder)
    first, second = first[:, ::every, ::every], second[:, ::every, ::every]
    spacing_mm = (spacing_mm[0], every * spacing_mm[1], every * spacing_mm[2])
    rows = [scored(case, "persistence", first, second, spacing_mm)]
    for law in (*laws, *weights):
        model = {"weights": law} if law in weights else {}
        plan = plan_to(DAYS[case], presets.DEFAULT_GROWTH if model else law)
        result = forecast(first, spacing_mm, plan, device="cpu", **model)
        assert result.warnings == (), result.warnings
        assert result.days[-1] == DAYS[case] and result.labels.shape == (2, *first.shape)
        assert np.array_equal(result.labels[0], first)
        assert np.isfinite(result.volume_ml).all()
        rows.append(scored(case, law, result.labels[-1], second, spacing_mm))
    return rows


@pytest.mark.parametrize("case", sorted(DAYS))
def test_a_forecast_to_the_second_scan_beside_persistence(case, capsys):
    """One of them on all of its voxels; the others on a quarter, as the table for the documentation takes them whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = compared(case, [presets.DEFAULT_GROWTH], every=1 if case == "08" else 2, weights=["glioma-sim"])
    with capsys.disabled():
        print("\n" + aligned([HEAD, *rows]), end="")
    assert len(rows) == 3


@pytest.mark.parametrize("case", sorted(DAYS))
def test_the_labels_come_back_from_the_smooth_field(case):
    from AnatomyDTLib.state import field_of, labels_of
    plan = plan_to(DAYS[case])
    first, second, spacing_mm = visits(case)
    for labels in (first, second):
        field = field_of(labels, plan.anatomy, spacing_mm, plan.interface_mm, plan.infiltration_mm)
        assert np.array_equal(labels_of(field, plan.anatomy), labels)


def test_persistence_is_what_the_data_sheet_says():
    sheet = {  # Dice if nothing changes: white, grey, ventricles, tumor
        "01": (0.88, 0.86, 0.80, 0.50), "03": (0.88, 0.85, 0.87, 0.49), "05": (0.92, 0.88, 0.88, 0.40),
        "06": (0.87, 0.88, 0.89, 0.56), "08": (0.93, 0.88, 0.92, 0.68), "11": (0.88, 0.88, 0.81, 0.31),
    }
    for case, wanted in sheet.items():
        first, second, _ = visits(case)
        found = [dice(first == k, second == k) for k in NAMES]
        assert found == pytest.approx(list(wanted), abs=0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--growth", nargs="+", choices=tuple(presets.GROWTH_LAWS), default=[presets.DEFAULT_GROWTH])
    parser.add_argument("--weights", nargs="*", default=[], help="trained weights beside the laws: files, or glioma-sim")
    arguments = parser.parse_args()
    rows = [HEAD]
    for case in sorted(DAYS):
        rows += compared(case, arguments.growth, arguments.folder, weights=arguments.weights)
    print(aligned(rows), end="")


if __name__ == "__main__":
    main()
