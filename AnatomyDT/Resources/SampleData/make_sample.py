"""Makes the bundled sample: an average brain with a SIMULATED glioma at two visits, and a plan.

    python AnatomyDT/Resources/SampleData/make_sample.py [FOLDER]

Needs numpy, scipy, nibabel and the wheel of nilearn (which packages the template; nothing is downloaded and nilearn
itself is not imported). The tumor grows by a seeded law that is not the equation of AnatomyDTLib, so that a forecast of
the second visit from the first is not a test of the program against itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from AnatomyDTLib import presets  # noqa: E402
from AnatomyDTLib.plan import Plan  # noqa: E402
from AnatomyDTLib.volumes import Geometry, Segment, write_bytes, write_segmentation  # noqa: E402

BACKGROUND, WHITE, GREY, CSF, VENTRICLES, TUMOR, FALX = range(7)
_ANATOMY = ("Segmentation category and type - 3D Slicer General Anatomy list~"
            "SCT^123037004^Anatomical Structure~SCT^{}^{}~^^~Anatomic codes - DICOM master list~^^~^^")
_ALTERED = ("Segmentation category and type - DICOM master list~"
            "SCT^49755003^Morphologically Altered Structure~SCT^{}^{}~^^~Anatomic codes - DICOM master list~^^~^^")
STRUCTURES = (  # label value, name, role, terminology
    (WHITE, "White matter", "white", _ANATOMY.format("389080008", "White Matter")),
    (GREY, "Grey matter", "grey", _ANATOMY.format("389081007", "Gray Matter")),
    (CSF, "CSF", "csf", _ANATOMY.format("280371009", "Brain cerebrospinal fluid pathway")),
    (VENTRICLES, "Ventricles", "ventricle", _ANATOMY.format("35764002", "Brain ventricle")),
    (TUMOR, "Tumor", "tumor", _ALTERED.format("86049000", "Neoplasm, Primary")),
    (FALX, "Falx", "barrier", _ANATOMY.format("18545000", "Dura mater")),
)
SEED = 20090911
ORIGIN_MNI_MM = (29.0, -16.0, 33.0)  # where the tumor starts: right centrum semiovale, above the lateral ventricle
BASELINE_ML, FOLLOWUP_ML = 18.0, 32.4  # visible volume at the two visits
FOLLOWUP_DAY = 90
PLAN_DAYS = (5, 10, 15, 20, 30, 60, 90, 120, 150, 180, 210, 240)
# The slow law: untreated it makes of the first visit about what the second one shows; the default one five times that.
PLAN_GROWTH = "lipkova"
MARGIN = 3  # voxels of background around the brain


def template() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Grey and white matter probability, brain mask, all (X, Y, Z), and the (4, 4) matrix to MNI millimetres."""
    found = importlib.util.find_spec("nilearn")
    if found is None:
        raise SystemExit("make_sample needs the template in nilearn's wheel: pip install nilearn")
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "data"
    images = [nibabel.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
              for kind in ("gm", "wm", "t1")]
    grey, white, t1 = (np.asarray(image.dataobj).astype(np.float64) / 255.0 for image in images)
    return grey, white, ndimage.binary_fill_holes(t1 > 0), images[0].affine


def coordinates(shape, affine):
    """MNI x, y, z in mm along each axis, for broadcasting."""
    assert np.array_equal(affine[:3, :3], np.eye(3)), "the template has 1 mm voxels along the axes"
    return np.ogrid[tuple(slice(o, o + n) for o, n in zip(affine[:3, 3], shape))]


def anatomy(grey, white, brain, affine) -> np.ndarray:
    """Labels of the template, (X, Y, Z): fluid is what the brain holds beside grey and white matter."""
    fluid = np.clip(1.0 - grey - white, 0.0, 1.0)
    labels = np.where(brain, np.stack([white, grey, fluid]).argmax(axis=0) + 1, BACKGROUND)

    # averaging leaves specks of fluid inside the tissue: they become what else is likeliest there
    parts, n = ndimage.label(labels == CSF)
    sizes = np.bincount(parts.ravel(), minlength=n + 1)
    depth = ndimage.distance_transform_edt(brain)
    shallowest = ndimage.minimum(depth, parts, np.arange(n + 1))
    inner = np.arange(n + 1)[(np.arange(n + 1) > 0) & (shallowest > 10.0)]
    specks = np.isin(parts, [i for i in inner if sizes[i] < 100])
    labels[specks] = np.where(white >= grey, WHITE, GREY)[specks]

    # lateral ventricles with their temporal horns: fluid that touches no other fluid and lies more than 10 mm deep
    labels[np.isin(parts, [i for i in inner if sizes[i] >= 100])] = VENTRICLES
    # third ventricle: the midline slit between the thalami, which the template joins to the cisterns around it
    x, y, z = coordinates(labels.shape, affine)
    slit = (np.abs(x) <= 4) & (y >= -28) & (y <= 4) & (z >= -10) & (z <= 8)
    labels[(labels == CSF) & slit] = VENTRICLES
    parts, n = ndimage.label(labels == VENTRICLES)
    labels[np.isin(parts, np.flatnonzero(np.bincount(parts.ravel()) < 100))] = CSF
    labels[falx(labels, brain, affine)] = FALX
    return labels


def falx(labels, brain, affine) -> np.ndarray:
    """The midline plane above and before the corpus callosum, and behind it above the tentorium.

    In the template the grey matter of the two hemispheres touches there in places, and a tumor could cross.
    """
    x, y, z = (c.ravel() for c in coordinates(labels.shape, affine))
    middle = int(np.flatnonzero(x == 0)[0])
    white = labels[middle] == WHITE  # (Y, Z)
    parts, _ = ndimage.label(white & (z >= 0)[None] & (z <= 35)[None])
    callosum = parts == np.bincount(parts[parts > 0]).argmax()
    columns = np.flatnonzero(callosum.any(axis=1))
    top = np.array([z[np.flatnonzero(callosum[c])[-1]] if callosum[c].any() else np.inf for c in range(len(y))])
    splenium, genu = columns[0], columns[-1]
    lowest = z[np.flatnonzero(callosum[splenium])[0]]
    # the tentorium rises from the inner occipital protuberance to the splenium
    tentorium = lowest + (lowest + 12.0) * (y - y[splenium]) / (y[splenium] + 100.0)
    floor = np.where(y < y[splenium], tentorium, np.where(y > y[genu], -22.0, top))
    sheet = np.zeros(labels.shape, bool)
    sheet[middle] = brain[middle] & (z[None] > floor[:, None]) & ~white
    # a sheet one voxel thick, so it also takes what white matter meets across the plane above the callosum
    sheet[middle] |= brain[middle] & white & ~callosum & (z[None] > floor[:, None])
    return sheet


def arrival(labels, affine, rng) -> np.ndarray:
    """Time (any unit) at which the tumor reaches each voxel (X, Y, Z): shortest paths in tissue of uneven speed.

    Grey matter is invaded at a third of the speed of white matter; smooth noise makes lobes. Fluid, falx and background
    are not entered. Infinite beyond 45 mm of the origin.
    """
    speed = np.zeros(labels.shape)
    speed[labels == WHITE], speed[labels == GREY] = 1.0, 0.33
    start = np.rint(np.array(ORIGIN_MNI_MM) - affine[:3, 3]).astype(int)
    box = tuple(slice(max(0, s - 45), s + 46) for s in start)
    local, inside = speed[box], start - [b.start for b in box]
    noise = sum(weight * _unit(ndimage.gaussian_filter(rng.standard_normal(local.shape), width))
                for width, weight in ((6.0, 0.5), (2.5, 0.3)))
    slowness = np.where(local > 0, 1.0 / np.maximum(local, 1e-9) * np.exp(-noise), 0.0)

    index = np.arange(local.size).reshape(local.shape)
    rows, columns, costs = [], [], []
    for step in np.ndindex(3, 3, 3):
        step = np.array(step) - 1
        if tuple(step) <= (0, 0, 0):
            continue
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, local.shape))
        there = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(step, local.shape))
        open_ = (local[here] > 0) & (local[there] > 0)
        rows.append(index[here][open_])
        columns.append(index[there][open_])
        costs.append(0.5 * (slowness[here] + slowness[there])[open_] * np.sqrt(float(step @ step)))
    ends = np.concatenate(rows), np.concatenate(columns)
    graph = sparse.csr_array((np.concatenate(costs), ends), (local.size,) * 2)
    times = np.full(labels.shape, np.inf)
    times[box] = csgraph.dijkstra(graph, directed=False, indices=int(index[tuple(inside)])).reshape(local.shape)
    return times


def _unit(noise):
    return noise / noise.std()


def visit(labels, times, volume_ml) -> np.ndarray:
    """The labels with a tumor of this volume: the voxels reached first, without holes or loose voxels."""
    wanted = round(volume_ml * 1000)  # 1 mm voxels
    limit = np.partition(times.ravel(), wanted)[wanted]
    tumor = times < limit
    tumor = ndimage.median_filter(tumor, size=3) & np.isin(labels, (WHITE, GREY))
    parts, _ = ndimage.label(tumor)
    tumor = parts == np.bincount(parts[parts > 0]).argmax()
    tumor = ndimage.binary_fill_holes(tumor) & np.isin(labels, (WHITE, GREY))
    return np.where(tumor, TUMOR, labels)


def plan() -> Plan:
    """Chemoradiation after Stupp from day 0, no operation, with the growth law PLAN_GROWTH."""
    tissues = [presets.tissue("Background", "background", PLAN_GROWTH)]
    tissues += [presets.tissue(name, role, PLAN_GROWTH) for _, name, role, _ in STRUCTURES]
    treatments = presets.regime("stupp", PLAN_DAYS[-1])
    anatomy_of_plan = presets.completed(tissues, treatments, PLAN_GROWTH)
    return Plan(anatomy_of_plan, treatments, PLAN_DAYS, infiltration_mm=presets.infiltration_mm(PLAN_GROWTH))


def main(folder: Path) -> None:
    grey, white, brain, affine = template()
    labels = anatomy(grey, white, brain, affine)
    times = arrival(labels, affine, np.random.default_rng(SEED))
    first = visit(labels, times, BASELINE_ML)
    second = np.where(first == TUMOR, TUMOR, visit(labels, times, FOLLOWUP_ML))

    occupied = np.argwhere(labels != BACKGROUND)
    low, high = occupied.min(axis=0), occupied.max(axis=0) + 1
    # (X, Y, Z) from left to right, back to front, to (Z, Y, X) in left-posterior-superior directions
    last = affine[:3, 3] + high - 1
    origin = np.array([-last[0], -last[1], affine[2, 3] + low[2]]) - MARGIN
    segments = [Segment(name, value, id=f"Segment_{value}", color=presets.ROLE_COLORS[role], terminology=code)
                for value, name, role, code in STRUCTURES]
    for name, visited in (("sample_baseline", first), ("sample_followup", second)):
        array = visited[tuple(slice(a, b) for a, b in zip(low, high))].transpose(2, 1, 0)[:, ::-1, ::-1]
        array = np.pad(array.astype(np.uint8), MARGIN)  # the template ends in the brainstem
        geometry = Geometry(array.shape, np.eye(3)[::-1].copy(), origin)
        write_segmentation(folder / f"{name}.seg.nrrd", array, geometry, segments)
    write_bytes(folder / "plan_stupp.json", plan().to_json().encode())
    for name in ("sample_baseline.seg.nrrd", "sample_followup.seg.nrrd", "plan_stupp.json"):
        print(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
