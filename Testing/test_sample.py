"""The bundled sample: size, labels, volumes, topology, the plan beside it, and that its script makes it again."""

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from AnatomyDTLib import volumes
from AnatomyDTLib.plan import Plan

FOLDER = Path(__file__).resolve().parents[1] / "AnatomyDT" / "Resources" / "SampleData"
DATA = ("sample_baseline.seg.nrrd", "sample_followup.seg.nrrd", "plan_stupp.json")
WHITE, GREY, CSF, VENTRICLES, TUMOR, FALX = range(1, 7)


@pytest.fixture(scope="module")
def visits():
    return [volumes.read_labels(FOLDER / name) for name in DATA[:2]]


@pytest.fixture(scope="module")
def arrays(visits):
    return [v.array for v in visits]


def components(mask):
    parts, _ = ndimage.label(mask)
    return np.bincount(parts.ravel())[1:]


def test_small_and_named(visits):
    assert sum(f.stat().st_size for f in FOLDER.iterdir() if f.is_file()) < 1_000_000
    for visit in visits:
        assert not visit.warnings
        assert visit.spacing_mm == (1.0, 1.0, 1.0)
        assert [(s.value, s.name) for s in visit.segments] == [
            (1, "White matter"), (2, "Grey matter"), (3, "CSF"), (4, "Ventricles"), (5, "Tumor"), (6, "Falx")]
        assert len({s.color for s in visit.segments}) == 6 and all(s.terminology for s in visit.segments)
        assert set(np.unique(visit.array)) == set(range(7))
    assert visits[0].geometry.difference(visits[1].geometry) is None


def test_volumes_are_those_of_a_brain(arrays):
    first, second = (np.bincount(a.ravel(), minlength=7) / 1000.0 for a in arrays)
    assert 500 < first[WHITE] < 750 and 900 < first[GREY] < 1200  # of an average adult brain, cerebellum included
    assert 15 < first[VENTRICLES] < 30
    assert 15 < first[TUMOR] < 25
    assert 1.6 < second[TUMOR] / first[TUMOR] < 2.0


def test_only_the_tumor_changes_between_the_visits(arrays):
    first, second = arrays
    changed = first != second
    assert changed.any() and np.all(second[changed] == TUMOR)
    assert np.isin(first[changed], (WHITE, GREY)).all()


def test_topology(arrays):
    for labels in arrays:
        assert len(components(labels == TUMOR)) == 1
        assert ndimage.binary_fill_holes(labels == TUMOR).sum() == (labels == TUMOR).sum()
    ventricles = components(arrays[0] == VENTRICLES)
    assert len(ventricles) <= 4 and ventricles.max() > 0.9 * ventricles.sum()  # lateral; third; two temporal horns
    assert len(components(arrays[0] == FALX)) == 1


def test_ventricles_lie_deep_and_on_both_sides(visits):
    labels = visits[0].array
    brain = ndimage.binary_fill_holes(labels > 0)
    depth = ndimage.distance_transform_edt(brain)
    assert depth[labels == VENTRICLES].min() > 5  # the floor of the third ventricle is the shallowest
    at = np.argwhere(labels == VENTRICLES)
    x = (at @ visits[0].geometry.steps_mm + visits[0].geometry.origin_mm)[:, 0]  # left is positive
    assert abs(x.mean()) < 1.0 and x.min() < -20 and x.max() > 20


def test_the_tumor_stays_on_the_right_and_the_falx_on_the_midline(visits):
    for visit in visits:
        place = {k: np.argwhere(visit.array == k) @ visit.geometry.steps_mm + visit.geometry.origin_mm
                 for k in (TUMOR, FALX)}
        assert np.all(place[FALX][:, 0] == 0.0)
        assert place[TUMOR][:, 0].max() < -2.0
        assert 10 < place[TUMOR][:, 2].mean() < 60  # above the commissures


def test_above_the_callosum_no_tissue_touches_over_the_midline(visits):
    labels, geometry = visits[0].array, visits[0].geometry
    z = geometry.origin_mm[2] + np.arange(labels.shape[0])
    middle = int(round(-geometry.origin_mm[0]))
    above = labels[z > 40]  # the top of the callosum lies at 30 mm
    assert not np.isin(above[:, :, middle], (WHITE, GREY)).any()
    halves, n = ndimage.label(np.isin(above, (WHITE, GREY)))
    left, right = set(np.unique(halves[:, :, :middle])) - {0}, set(np.unique(halves[:, :, middle + 1:])) - {0}
    assert left and right and not left & right


def test_the_plan_fits_the_labels(visits):
    plan = Plan.from_json((FOLDER / DATA[2]).read_text(encoding="utf-8"))
    names = ["Background", *(s.name for s in visits[0].segments)]
    assert list(plan.anatomy.names)[:7] == names
    assert [plan.anatomy.tissues[k].role for k in range(7)] == [
        "background", "white", "grey", "csf", "ventricle", "tumor", "barrier"]
    assert {type(t).__name__ for t in plan.treatments} == {"Radiotherapy", "Chemotherapy"}
    assert plan.infiltration_mm > 0


@pytest.fixture
def host():
    pytest.importorskip("slicer")
    pytest.importorskip("PySide6.QtWidgets")
    from slicer_host import Host

    host = Host()
    yield host
    host.close()


def test_sample_data_loads_two_entries_from_the_disk(host, monkeypatch):
    """The two buttons of the Sample Data module: two visits and a plan, without a network."""
    import socket

    import SampleData
    import slicer

    def refused(*ignored):
        raise AssertionError("the sample asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert set(SampleData.SampleDataLogic.sources) == {"AnatomyDT baseline", "AnatomyDT follow-up"}
    first, second = (SampleData.downloadSample(name) for name in ("AnatomyDT baseline", "AnatomyDT follow-up"))
    for node, file in ((first, DATA[0]), (second, DATA[1])):
        segments = [node.GetSegmentation().GetNthSegment(i).GetName() for i in range(6)]
        assert segments == [s.name for s in volumes.read_labels(FOLDER / file).segments]
    text = slicer.mrmlScene.GetFirstNodeByName("AnatomyDT plan").GetText()
    assert Plan.from_json(text) == Plan.from_json((FOLDER / DATA[2]).read_text(encoding="utf-8"))


def test_the_samples_plan_is_among_the_presets_while_it_is_in_the_scene(host):
    import SampleData
    import slicer

    ui = host.widget.ui
    presets = [ui.regimeComboBox.itemText(i) for i in range(ui.regimeComboBox.count)]
    SampleData.downloadSample("AnatomyDT baseline")
    host.widget.enter()
    assert [ui.regimeComboBox.itemText(i) for i in range(ui.regimeComboBox.count)] == presets + ["AnatomyDT plan"]
    ui.regimeComboBox.setCurrentIndex(ui.regimeComboBox.count - 1)
    ui.useRegimeButton.click()
    given = Plan.from_json((FOLDER / DATA[2]).read_text(encoding="utf-8"))
    taken = host.widget.plan()[0]
    assert (taken.treatments, taken.days) == (given.treatments, given.days)
    node = slicer.mrmlScene.GetFirstNodeByName("AnatomyDT plan")
    node.SetText('{"anatomydt_plan": 99}')
    ui.useRegimeButton.click()
    assert "not loaded" in ui.statusLabel.text and host.widget.plan()[0] == taken
    slicer.mrmlScene.RemoveNode(node)
    host.process()
    assert [ui.regimeComboBox.itemText(i) for i in range(ui.regimeComboBox.count)] == presets


def test_sample_data_knows_its_files_and_thumbnails(host):
    """A checksum for every file, so that a copy of another version in Slicer's cache is not taken for it."""
    from urllib.parse import unquote, urlparse

    import SampleData
    from PIL import Image

    for source in SampleData.SampleDataLogic.sources.values():
        assert source["category"] == "AnatomyDT"
        for uri, checksum in zip(source["uris"], source["checksums"], strict=True):
            path = Path(unquote(urlparse(uri).path))
            assert path.parent == FOLDER
            assert checksum == "SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        with Image.open(source["thumbnailFileName"]) as thumbnail:
            assert min(thumbnail.size) >= 128


def test_the_notice_says_what_it_is():
    text = (FOLDER / "NOTICE.md").read_text(encoding="utf-8")
    assert "simulated" in text and "Fonov" in text and "Copyright (C)" in text
    for name in DATA:
        assert f"{hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()}  {name}" in text


@pytest.mark.skipif(importlib.util.find_spec("nilearn") is None, reason="nilearn, which packages the template, is absent")
def test_the_script_makes_the_same_bytes(tmp_path):
    subprocess.run([sys.executable, str(FOLDER / "make_sample.py"), str(tmp_path)], check=True)
    for name in DATA:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
