"""Labels to a field and back: exact on every label map, on the simplex, with the declared threshold at the border."""

import time

import numpy as np
import pytest

from AnatomyDTLib.plan import Anatomy, Tissue
from AnatomyDTLib.state import TAIL_CUT, field_of, host_diffusivity, labels_of, smooth_field, with_infiltration

SPACINGS = [(1.0, 1.0), (0.4, 3.0), (1.0, 1.0, 1.0), (6.5, 0.86, 0.86), (0.3, 0.5, 2.0)]


def brain(visibility=0.5, capacity=1.0, edema=None, second=False):
    tissues = [
        Tissue("Background", "background"),
        Tissue("White matter", "white", diffusivity_mm2_per_day=0.13),
        Tissue("Grey matter", "grey", diffusivity_mm2_per_day=0.013),
        Tissue("CSF", "csf", diffusivity_mm2_per_day=0.0),
        Tissue("Ventricles", "ventricle", diffusivity_mm2_per_day=0.0),
        Tissue("Tumor", "tumor", visibility=visibility, carrying_capacity=capacity),
        Tissue("Falx", "barrier", diffusivity_mm2_per_day=0.0),
    ]
    if edema is not None:
        tissues.append(Tissue("Edema", "edema", visibility=edema))
    if second:
        tissues.append(Tissue("Second focus", "tumor", visibility=min(0.95, visibility * 1.2)))
    return Anatomy(tuple(tissues))


def noise(ndim, K, seed, smooth):
    """A label map with one-voxel structures (smooth False) or with blobs."""
    rng = np.random.default_rng(seed)
    shape = (40, 37) if ndim == 2 else (14, 17, 15)
    if not smooth:
        return rng.integers(0, K, shape)
    from scipy.ndimage import gaussian_filter
    return np.stack([gaussian_filter(rng.normal(size=shape), 2.0) for _ in range(K)]).argmax(axis=0)


def on_simplex(field):
    assert field.dtype == np.float32
    assert field.min() >= 0.0
    assert np.abs(field.sum(axis=0) - 1.0).max() < 1e-5


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("width", [0.0, 0.5, 1.0, 4.0, 40.0])
@pytest.mark.parametrize("smooth", [True, False])
def test_the_argmax_is_the_input(spacing, width, smooth):
    for K in (2, 7, 30):
        labels = noise(len(spacing), K, 1, smooth)
        field = smooth_field(labels, K, spacing, width)
        on_simplex(field)
        assert np.array_equal(field.argmax(axis=0), labels)
        if width == 0.0:
            assert set(np.unique(field)) <= {0.0, 1.0}


def test_a_single_class_and_a_single_voxel():
    assert smooth_field(np.full((5, 6), 2), 3, (1, 1), 2.0)[2].min() == 1.0
    labels = np.zeros((9, 9, 9), int)
    labels[4, 4, 4] = 1
    field = smooth_field(labels, 2, (1, 1, 1), 3.0)
    assert np.array_equal(field.argmax(axis=0), labels) and field[1].sum() > 1.0


def test_the_interface_has_the_width_that_was_asked_for():
    labels = np.zeros((400, 3), int)
    labels[200:] = 1
    for width in (2.0, 5.0):
        p = smooth_field(labels, 2, (0.1, 0.1), width)[1][:, 1]
        x = np.interp([0.1, 0.9], p, np.arange(400) * 0.1)
        assert x[1] - x[0] == pytest.approx(2 * np.log(9) * width / 4, rel=0.02)
        assert p[199] + p[200] == pytest.approx(1.0, abs=1e-6)
        assert p[:100].max() == 0.0 and p[300:].min() == 1.0


def test_a_flat_interface_keeps_the_volume():
    labels = np.zeros((30, 8, 8), int)
    labels[15:] = 1
    field = smooth_field(labels, 2, (1, 1, 1), 2.0)
    assert field[1].sum() == pytest.approx(labels.sum(), rel=1e-5)


def test_a_sharp_sheet_stays_a_barrier():
    labels = noise(3, 4, 3, True)
    labels[:, 8, :] = 4
    field = smooth_field(labels, 5, (1, 1, 1), 3.0, sharp=(4,))
    assert np.array_equal(field[4], labels == 4)
    assert np.array_equal(field.argmax(axis=0), labels)
    on_simplex(field)


def test_axes_and_mirrors_do_not_matter():
    labels = noise(3, 5, 4, True)
    field = smooth_field(labels, 5, (1.0, 2.0, 3.0), 3.0)
    turned = smooth_field(labels.transpose(2, 0, 1), 5, (3.0, 1.0, 2.0), 3.0)
    assert np.allclose(turned, field.transpose(0, 3, 1, 2), atol=1e-6)
    assert np.allclose(smooth_field(labels[::-1], 5, (1.0, 2.0, 3.0), 3.0), field[:, ::-1], atol=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("visibility", [0.01, 0.16, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("infiltration", [0.0, 0.7, 5.0])
def test_labels_come_back_exactly(spacing, visibility, infiltration):
    cases = [brain(visibility), brain(visibility, capacity=0.6), brain(visibility, edema=0.16),
             brain(visibility, edema=0.6, second=True)]
    for anatomy in cases:
        for smooth in (True, False):
            labels = noise(len(spacing), len(anatomy), 5, smooth)
            for width in (0.0, 1.0, 6.0):
                field = field_of(labels, anatomy, spacing, width, infiltration)
                on_simplex(field)
                assert np.array_equal(labels_of(field, anatomy), labels)
                # what rounding and a half-precision copy do to the state changes no label
                assert np.array_equal(labels_of(field * np.float32(1 + 1e-6), anatomy), labels)


@pytest.mark.parametrize("width", [0.0, 1.0, 5.0])
def test_at_one_half_the_plain_argmax_agrees(width):
    anatomy = brain()
    for smooth in (True, False):
        labels = noise(3, len(anatomy), 6, smooth)
        assert np.array_equal(field_of(labels, anatomy, (1, 1, 1), width).argmax(axis=0), labels)


def one(anatomy, **amounts):
    p = np.zeros((len(anatomy), 1, 1))
    for name, amount in amounts.items():
        p[anatomy.index(name.replace("_", " "))] = amount
    return anatomy.names[int(labels_of(p, anatomy)[0, 0])]


def test_the_threshold_decides_by_hand():
    assert one(brain(0.8), White_matter=0.4, Tumor=0.6) == "White matter"
    assert one(brain(0.8), White_matter=0.19, Tumor=0.81) == "Tumor"
    assert one(brain(0.16), White_matter=0.83, Tumor=0.17) == "Tumor"
    assert one(brain(0.16), White_matter=0.85, Tumor=0.15) == "White matter"
    assert one(brain(0.16), White_matter=0.45, Grey_matter=0.41, Tumor=0.14) == "White matter"
    assert one(brain(0.5, capacity=0.5), White_matter=0.74, Tumor=0.26) == "Tumor"
    assert one(brain(0.5, capacity=0.5), White_matter=0.76, Tumor=0.24) == "White matter"
    # invisible tumor takes no part in what is drawn between tissue and fluid
    assert one(brain(0.8), White_matter=0.3, Tumor=0.3, CSF=0.4) == "White matter"
    assert one(brain(0.8), White_matter=0.3, Grey_matter=0.25, CSF=0.45) == "CSF"
    assert one(brain(0.8), White_matter=0.2, Grey_matter=0.15, Tumor=0.2, CSF=0.45) == "CSF"
    # a voxel that is mostly ventricle stays ventricle, however low the threshold
    assert one(brain(0.01), Tumor=0.3, White_matter=0.1, Ventricles=0.6) == "Ventricles"
    assert one(brain(0.8), Tumor=0.6, Ventricles=0.4) == "Tumor"


def test_tumor_comes_before_edema():
    anatomy = brain(0.8, edema=0.16)
    assert one(anatomy, Tumor=0.81, Edema=0.19) == "Tumor"
    assert one(anatomy, Tumor=0.6, Edema=0.4) == "Edema"
    assert one(anatomy, White_matter=0.8, Edema=0.2) == "Edema"
    assert one(anatomy, White_matter=0.9, Edema=0.1) == "White matter"
    # two classes below their own thresholds are tumor together, not the tissue between them
    two = brain(0.5, second=True)
    assert one(two, Tumor=0.45, Second_focus=0.35, White_matter=0.2) == "Tumor"


@pytest.mark.parametrize("visibility", [0.16, 0.5, 0.8])
def test_the_tail_has_the_declared_decay_and_threshold(visibility):
    anatomy = brain(visibility)
    labels = np.ones((160, 5, 5), int)
    labels[60:100] = 5
    h, decay = 0.5, 4.0
    p = field_of(labels, anatomy, (h, h, h), 0.0, decay)[5][:, 2, 2]
    x = (np.arange(160) - 99.5) * h  # mm outside the border
    outside = (x > h) & (p > 0)
    slope = np.polyfit(x[outside], np.log(p[outside]), 1)
    assert -1.0 / slope[0] == pytest.approx(decay, rel=0.01)
    assert np.exp(slope[1]) == pytest.approx(visibility, rel=0.1)  # voxel centres lie up to h/2 off the border
    assert p[99] > visibility > p[100]
    assert np.all(np.diff(p[80:]) <= 1e-6) and p[80] > p[95]
    assert p[p > 0].min() >= TAIL_CUT * 0.99


def test_the_tail_enters_only_tissue_that_gives_way_and_keeps_the_rest():
    anatomy = brain()
    labels = np.ones((24, 40, 24), int)
    labels[:, :, 12:] = 2
    labels[8:14, 8:14, 8:14] = 5
    labels[8:14, 18:22, 8:14] = 4
    before = field_of(labels, anatomy, (1, 1, 1), 1.5, 0.0)
    after = with_infiltration(before, anatomy, (1, 1, 1), 3.0)
    for k in (0, 3, 4, 6):
        assert np.array_equal(after[k], before[k])
    assert after[5][labels == 1].max() > 0.2
    assert np.all(after[5][before[[1, 2, 5]].sum(axis=0) == 0] == 0)
    far = (labels < 3) & (before[5] == 0) & (before[4] == 0) & (after[5] > 0)
    ratio = before[1][far] / (before[1] + before[2])[far]
    assert np.allclose(after[1][far], ratio * (1 - after[5][far]), atol=1e-5)


def test_the_tail_does_not_jump_over_the_falx():
    anatomy = brain()
    labels = np.ones((20, 20, 40), int)
    labels[:, :, 20] = 6
    labels[8:12, 8:12, 14:18] = 5
    field = field_of(labels, anatomy, (1, 1, 1), 1.0, 4.0)
    assert field[5][:, :, 21:].max() == 0.0 and field[5][:, :, 19].max() > 0.1


def test_no_tumor_no_change():
    anatomy = brain()
    labels = noise(3, 5, 8, True)
    assert np.array_equal(field_of(labels, anatomy, (1, 1, 1), 2.0, 3.0),
                          smooth_field(labels, len(anatomy), (1, 1, 1), 2.0, sharp=(0, 6)))


def test_diffusivity_of_the_nearest_tissue_in_mm():
    anatomy = brain()
    labels = np.full((5, 9, 9), 5)
    labels[0] = 1  # white, 6.5 mm per slice
    labels[:, 0] = 2  # grey, 0.86 mm per row
    labels[:, :, 8] = 4  # ventricle beside the tumor is no source
    d = host_diffusivity(labels, anatomy, (6.5, 0.86, 0.86))
    assert d.dtype == np.float32
    assert d[1, 1, 4] == np.float32(0.013)  # grey at 0.86 mm, white at 6.5 mm
    assert d[1, 8, 4] == np.float32(0.13)  # grey at 6.88 mm, white at 6.5 mm
    assert np.all(d[labels == 4] == 0)
    assert np.all(host_diffusivity(np.full((4, 4), 5), anatomy, (1, 1)) == 0)


def test_diffusivity_equals_a_search_over_all_voxels():
    anatomy = brain()
    labels = noise(3, len(anatomy), 9, True)
    spacing = np.array((2.0, 1.0, 0.7))
    got = host_diffusivity(labels, anatomy, tuple(spacing))
    source = np.argwhere(np.isin(labels, (1, 2)))
    for at in np.argwhere(labels == 5)[::7]:
        d = np.linalg.norm((source - at) * spacing, axis=1)
        allowed = {float(np.float32((0, 0.13, 0.013)[labels[tuple(s)]])) for s in source[d < d.min() + 1e-6]}
        assert float(got[tuple(at)]) in allowed


def test_a_whole_brain_fits_in_time_and_memory():
    import tracemalloc
    z, y, x = np.ogrid[:155, :240, :240]
    r = np.sqrt(((z - 77) / 65.0) ** 2 + ((y - 120) / 90.0) ** 2 + ((x - 120) / 72.0) ** 2)
    labels = np.digitize(r + 0.03 * np.sin(x / 3) * np.sin(y / 4), [0.15, 0.75, 0.9, 1.0])
    labels = np.array([4, 1, 2, 3, 0])[labels].astype(np.uint8)
    labels[60:90, 60:90, 60:90] = 5
    anatomy = brain()
    tracemalloc.start()
    start = time.process_time()
    field = field_of(labels, anatomy, (1, 1, 1), 1.0, 2.0)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"field_of 240x240x155: {seconds:.1f} s, {peak / 2**30:.2f} GiB")
    assert np.array_equal(labels_of(field, anatomy), labels)
    assert seconds < 30 and peak < 2 * 2**30
