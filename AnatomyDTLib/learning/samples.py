"""Pictures of the generated datasets, and what is to be gained on them: persistence below, the noise-free truth above.

python -m AnatomyDTLib.learning.samples --out docs [--cases 100] [--brains FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from pathlib import Path

import numpy as np

from .. import volumes
from ..plan import kind_of
from .cases import DataError, Dataset
from .courses import Courses
from .evaluation import aligned, mean_dice, score
from .gliomas import GliomaSettings, gliomas
from .vessel import VesselSettings, vessel
from .voronoi import VoronoiSettings, voronoi

SHOWN = 8
HEAD = ("dataset", "cases", "voxels", "persistence DSC %", "HD95 mm", "tumor DSC %", "HD95 mm", "ceiling DSC %")


def bounds(dataset: Dataset) -> dict[str, float]:
    """Means over cases of what persistence scores at the last visit, all classes but label 0, and the ceiling.

    persistence: the first visit stands for the last one; ceiling: the generator's own last visit without noise does
    DSC in %, HD95 in mm; a structure that is missing on one side counts 0 and the image's diagonal (`evaluation.score`)
    """
    tumor = dataset.anatomy.tumors[0]
    rows = []
    for case in dataset.cases:
        persistence = score(case.labels[0], case.labels[-1], dataset.spacing_mm, dataset.anatomy, topology=False)
        best = case.labels if case.truth is None else case.truth
        own = next((s for s in persistence if s.value == tumor), None)
        rows.append((
            100.0 * mean_dice(persistence), np.mean([s.hd95_mm for s in persistence]),
            np.nan if own is None else 100.0 * own.dice, np.nan if own is None else own.hd95_mm,
            100.0 * mean_dice(score(best[-1], case.labels[-1], dataset.spacing_mm, dataset.anatomy, topology=False)),
        ))
    names = ("persistence", "persistence_hd95", "tumor", "tumor_hd95", "ceiling")
    return dict(zip(names, np.nanmean(rows, axis=0)))


def row(dataset: Dataset, title: str) -> tuple[str, ...]:
    """A line of the table under HEAD."""
    found = bounds(dataset)
    voxels = " x ".join(map(str, dataset.shape))
    return (title, str(len(dataset)), voxels, *(f"{value:.1f}" for value in found.values()))


def picture(dataset: Dataset, path, shown: int = SHOWN) -> None:
    """Writes a PNG: a column per case, a row per visit, in 3D the slice through the middle of the tumor."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from PIL import Image

    colors = np.array([t.color or (0.5, 0.5, 0.5) for t in dataset.anatomy.tissues])
    cases = dataset.cases[:shown]
    most = max(len(case.days) for case in cases)
    figure = Figure(figsize=(1.5 * len(cases), 1.75 * most + 0.35))
    axes = figure.subplots(most, len(cases), squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for column, case in zip(axes.T, cases):
        visits = case.labels
        if visits.ndim == 4:
            layer = int(np.argwhere(np.isin(visits[0], dataset.anatomy.tumors)).mean(axis=0)[0])
            visits = visits[:, layer]
        for v, (axis, visit, day) in enumerate(zip(column, visits, case.days)):
            axis.imshow(colors[visit], interpolation="nearest")
            before = case.days[v - 1] if v else -1.0
            given = [kind_of(t) for t in case.treatments if before < t.event_days()[0] <= day] if v else []
            axis.set_title(f"day {day:.0f}" + "".join(f"\n{kind}" for kind in given), fontsize=7, pad=2)
    handles = [Patch(facecolor=color) for color in colors]
    figure.legend(handles, dataset.anatomy.names, loc="lower center", ncol=len(colors), fontsize=7, frameon=False)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.965, bottom=0.07, wspace=0.05, hspace=0.28)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    # few colours: an indexed picture is a quarter of the size
    small = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(64).save(small, format="png", optimize=True)
    volumes.write_bytes(path, small.getvalue())


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser("python -m AnatomyDTLib.learning.samples", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for datasets-*.png")
    parser.add_argument("--cases", type=int, default=100, metavar="N", help="to score persistence on (default: 100)")
    parser.add_argument("--brains", metavar="FOLDER", help="label maps of healthy brains, for simulated gliomas too")
    given = parser.parse_args(arguments)
    made = {"voronoi": (voronoi, VoronoiSettings()), "vessel": (vessel, VesselSettings())}
    if given.brains:
        made["brains"] = (lambda n, s: gliomas(given.brains, n, s), GliomaSettings())
    try:
        lines = [HEAD]
        for name, (make, settings) in made.items():
            shown = make(SHOWN, dataclasses.replace(settings, courses=Courses(visits=3)))
            picture(shown, Path(given.out) / f"datasets-{name}.png")
            lines.append(row(make(given.cases, settings), name))
            noisy = make(given.cases, dataclasses.replace(settings, noise_mm=0.5))
            lines.append(row(noisy, f"{name}, observer's noise 0.5 mm"))
    except (DataError, volumes.VolumeError) as error:
        print(error, file=sys.stderr)
        return 2
    print(aligned(lines), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
