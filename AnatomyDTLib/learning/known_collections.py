"""Public collections as folders of cases: writes the case.json files for label maps that are already there.

python -m AnatomyDTLib.learning.known_collections btp|fetal MAPS OUT
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import folders
from .cases import DataError

# Brain-Tumor-Progression (Schmainda and Prah 2018, TCIA): days from the first scan to the second. What was given in
# between is not recorded per patient.
BTP_DAYS = {"01": 157, "03": 415, "05": 55, "06": 58, "08": 58, "11": 119}

# Spina-bifida fetal brain atlas (Fidon et al. 2021, Open Res Europe 1:123): weeks of each series.
FETAL_WEEKS = {"noop": (21, 22, 23, 24, 25), "op": (25, 26, 27, 28, 29, 30)}
FETAL_LABELS = {
    1: {"name": "White matter", "role": "white"}, 2: {"name": "Ventricles", "role": "ventricle"},
    3: {"name": "Cerebellum", "role": "grey"}, 4: {"name": "Extra-axial CSF", "role": "csf"},
    5: {"name": "Cortical grey matter", "role": "grey"}, 6: {"name": "Deep grey matter", "role": "grey"},
    7: {"name": "Brainstem", "role": "white"}, 8: {"name": "Corpus callosum", "role": "white"},
}


def btp(maps, out, images: bool = False) -> int:
    """case.json files for NN_{pre,post}_seg.nii.gz (and NN_pre_t1c.nii.gz); how many were written."""
    maps = Path(maps).resolve()
    found = [number for number in BTP_DAYS if (maps / f"{number}_pre_seg.nii.gz").exists()]
    if not found:
        raise DataError(f"{maps} holds none of the patients {', '.join(BTP_DAYS)} (NN_pre_seg.nii.gz)")
    for number in found:
        folders.write_case(
            Path(out) / number / folders.CASE_FILE, (0.0, float(BTP_DAYS[number])),
            [str(maps / f"{number}_{when}_seg.nii.gz") for when in ("pre", "post")],
            images=[str(maps / f"{number}_pre_t1c.nii.gz")] if images else (), meaning="anatomydt", name=number,
        )
    return len(found)


def fetal(maps, out) -> int:
    """case.json files for GA??_{noop,op}_seg.nii.gz, one case per series with a visit a week; how many were written."""
    maps = Path(maps).resolve()
    written = 0
    for series, weeks in FETAL_WEEKS.items():
        there = [w for w in weeks if (maps / f"GA{w}_{series}_seg.nii.gz").exists()]
        if len(there) >= 2:
            folders.write_case(
                Path(out) / series / folders.CASE_FILE, [7.0 * (w - there[0]) for w in there],
                [str(maps / f"GA{w}_{series}_seg.nii.gz") for w in there], meaning=FETAL_LABELS, name=series,
            )
            written += 1
    if not written:
        raise DataError(f"{maps} holds no series of the fetal atlas (GA21_noop_seg.nii.gz, ...)")
    return written


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        "python -m AnatomyDTLib.learning.known_collections", description=__doc__.splitlines()[0])
    parser.add_argument("collection", choices=("btp", "fetal"))
    parser.add_argument("maps", help="folder of the label maps")
    parser.add_argument("out", help="folder that the case.json files are written to")
    given = parser.parse_args(arguments)
    try:
        n = {"btp": btp, "fetal": fetal}[given.collection](given.maps, given.out)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{n} cases written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
