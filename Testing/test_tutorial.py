"""The README's tutorial, followed word by word in the test host, and what it says about the program."""

import ast
import functools
import re
import time
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import SimpleITK as sitk
import slicer
import tutorial_steps
from PySide6 import QtCore
from slicer_host import ROOT, Host, _load_segmentation, ctk, qt
from tutorial_steps import Follower, TutorialError

from AnatomyDTLib import volumes

README = (ROOT / "README.md").read_text(encoding="utf-8")
STEPS = {step.number: step for step in tutorial_steps.steps()}


@pytest.fixture
def host():
    host = Host()
    yield host
    host.close()


def coarser(path, folder, every):
    """A file with every so-manieth voxel along each axis, those of the midline, which is one voxel thick, among them."""
    visit = volumes.read_labels(path)
    first = int(round(-visit.geometry.origin_mm[0])) % every
    thin = np.ascontiguousarray(visit.array[::every, ::every, first::every])
    steps, origin = visit.geometry.steps_mm, visit.geometry.origin_mm
    geometry = volumes.Geometry(thin.shape, steps * every, origin + first * steps[2])
    volumes.write_segmentation(folder / path.name, thin, geometry, visit.segments)
    return folder / path.name


def sample_data_panel():
    """The Sample Data module as the host has it: a button per entry, in a section of its category."""
    import SampleData

    panel, sections = qt.QWidget(), []
    qt.QVBoxLayout(panel)
    for name, source in SampleData.SampleDataLogic.sources.items():
        section = next((s for s in sections if s.property("text") == source["category"]), None)
        if section is None:
            section = ctk.ctkCollapsibleButton()
            sections.append(section)
            section.setProperty("text", source["category"])
            qt.QVBoxLayout(section)
            panel.layout().addWidget(section)
        button = qt.QPushButton(name)
        button.connect("clicked(bool)", lambda checked=False, name=name: SampleData.downloadSample(name))
        qt.QWidget.layout(section).addWidget(button)
    panel.setAttribute(QtCore.Qt.WA_DontShowOnScreen)
    panel.show()
    return panel


def follower(host, seconds=60.0):
    panels = {"Sample Data": sample_data_panel()}

    def module(title):
        if title == "AnatomyDT":
            host.widget.enter()
            host.process()
            return host.panel
        if title not in panels:
            raise TutorialError(f"the host has no module {title}")
        return panels[title]

    def wait(until):
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TutorialError(f"the panel did not say it; it says: {host.widget.ui.statusLabel.text}")
            host.process()
            time.sleep(0.1)

    made = Follower(module, wait, lambda: QtCore.QPoint(0, 0))
    made.panels = panels
    return made


@pytest.fixture
def charts(host, monkeypatch):
    """The charts that were opened, each as the names of its lines; the host has no plot view."""
    opened = []

    def show(chart):
        opened.append([chart.GetNthPlotSeriesNode(i).GetName() for i in range(chart.GetNumberOfPlotSeriesNodes())])

    monkeypatch.setattr(slicer.modules.plots, "logic", lambda: types.SimpleNamespace(ShowChartInLayout=show))
    host.opened_charts = opened
    return opened


def test_eight_steps_each_with_a_small_picture():
    assert re.findall(r"^### (\d)\. ", README, re.MULTILINE) == list("12345678")
    for number, step in STEPS.items():
        assert list(step.instructions()), f"step {number} tells nothing to do"
        assert len(step.pictures) == (number <= 8)
        for picture in step.pictures:
            assert (ROOT / picture).stat().st_size < 120_000, picture


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_the_tutorial_can_be_followed_word_by_word(host, charts, tmp_path, every):
    """As the README says it, in its order. Every fourth voxel of the sample is taken where time matters."""
    import SampleData

    if every > 1:
        for source in SampleData.SampleDataLogic.sources.values():
            for i, uri in enumerate(source["uris"]):
                if uri.endswith(".nrrd"):
                    source["uris"][i] = coarser(Path(QtCore.QUrl(uri).toLocalFile()), tmp_path, every).as_uri()
    hand = follower(host, 120.0 if every > 1 else 900.0)
    for number, step in sorted(STEPS.items()):
        hand.follow(step)
        host.process()
        host.picture(f"tutorial_{number}")
        check = globals().get(f"after_step_{number}")
        if check is not None:
            check(host)


def after_step_1(host):
    names = {n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")}
    assert names == {"AnatomyDT baseline"}


def after_step_2(host):
    assert host.widget._parameterNode.segmentation.GetName() == "AnatomyDT baseline"
    assert host.widget.missing() == ""


def after_step_3(host):
    kinds = [type(t).__name__ for t in host.widget.plan()[0].treatments]
    assert kinds[0] == "Surgery" and {"Radiotherapy", "Chemotherapy"} <= set(kinds)


def after_step_4(host):
    shown, = host.widget.logic.forecasts()
    assert shown.name == "Operated" and shown.browser.GetNumberOfItems() > 2


def after_step_5(host):
    shown, = host.widget.logic.forecasts()
    assert shown.browser.GetSelectedItemNumber() == shown.browser.GetNumberOfItems() - 1


def after_step_6(host):
    assert len(host.opened_charts) == 1 and "Tumor" in " ".join(host.opened_charts[0])


def after_step_7(host):
    assert {f.name for f in host.widget.logic.forecasts()} == {"Operated", "Untreated"}
    assert host.widget.plan()[0].treatments == ()


def after_step_8(host):
    (lines,) = host.opened_charts[1:]
    assert sorted(name.split(":")[0] for name in lines) == ["Operated", "Untreated"]
    last = {}
    for shown in host.widget.logic.forecasts():
        table = shown.table.GetTable()
        last[shown.name] = table.GetColumnByName("Tumor").GetValue(table.GetNumberOfRows() - 1)
    assert last["Untreated"] > 2 * last["Operated"]
    assert {f.browser.GetSelectedItemNumber() for f in host.widget.logic.forecasts()} == {9}


def after_step_9(host):
    table, = (t for t in slicer.util.getNodesByClass("vtkMRMLTableNode") if "follow-up" in t.GetName())
    values = table.GetTable()
    rows = {values.GetColumnByName("Segment").GetValue(i): i for i in range(values.GetNumberOfRows())}
    assert 0.6 < values.GetColumnByName("DSC").GetValue(rows["Tumor"]) < 1.0


@pytest.mark.parametrize("wrong", [
    "press **Applly**", "choose **Radiation of the moon** as **Preset:**", "choose **Stupp** as **Prefix:**",
    "under **Nowhere** press **Use**", "press **Use** and look at **Frobnicator**", "open the module **AnatomyTD**",
    "set **Horizon (days):** to **100000**", "press **Apply**", "tick **Keep the tumor's probability**",
])
def test_a_step_that_cannot_be_followed_is_noticed(host, wrong):
    """Words that the panel lacks, and controls that are disabled or in a closed section: nothing is chosen yet here."""
    hand = follower(host, 0.2)
    with pytest.raises(TutorialError, match="step 9"):
        hand.follow(tutorial_steps.Step(9, "Wrong", "Open the module **AnatomyDT**. Then " + wrong, ()))


@functools.cache
def strings_of_the_program():
    """Every text in the program's sources and its panel; what an f-string or format fills in is a blank."""
    found = []
    for folder in ("AnatomyDT", "AnatomyDTLib"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"\{\w*\}", "\0", node.value))
    panel = ElementTree.parse(ROOT / "AnatomyDT" / "Resources" / "UI" / "AnatomyDT.ui")
    return tuple(found) + tuple(text.text.replace("&", "") for text in panel.iter("string") if text.text)


def section(title):
    return re.search(rf"^## {title}$(.*?)^## ", README, re.DOTALL | re.MULTILINE).group(1)


@pytest.mark.parametrize("message", [
    message for row in section("Troubleshooting").splitlines() if row.startswith("| *")
    for message in re.findall(r"\*([^*]+)\*", row.split(" | ")[0])])
def test_a_message_in_the_troubleshooting_is_one_that_the_program_gives(message):
    """Word by word, where ... stands for what varies."""
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("...")), re.DOTALL)
    assert any(pattern.search(text) for text in strings_of_the_program())


@pytest.mark.parametrize("title", ["Your own scan", "Troubleshooting"])
def test_what_is_bold_is_in_the_panel(title):
    for name in re.findall(r"\*\*([^*]+)\*\*", section(title)):
        assert " ".join(name.split()) in strings_of_the_program(), name


def test_the_anatomy_takes_a_tumor_from_another_grid(host, tmp_path):
    """As "Your own scan" says: copied into the anatomy's segmentation, it lies over the anatomy, where it was."""
    from AnatomyDTLib.scene import segmentation as reading

    def load(labels, spacing_mm, origin_mm, name):
        """A NIfTI file, as *Add Data* loads it with the description Segmentation."""
        image = sitk.GetImageFromArray(labels)
        image.SetSpacing(spacing_mm)
        image.SetOrigin(origin_mm)
        sitk.WriteImage(image, str(tmp_path / name))
        return _load_segmentation(tmp_path / name)

    anatomy = np.full((40, 40, 40), 2, np.uint8)
    anatomy[20:] = 3
    tumor = np.zeros((10, 50, 50), np.uint8)
    tumor[2:8, 10:40, 10:40] = 1
    node = load(anatomy, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), "anatomy.nii.gz")
    host.widget.ui.segmentationSelector.setCurrentNode(node)
    ui = host.widget.ui
    ui.numberingComboBox.setCurrentIndex(ui.numberingComboBox.findText("SynthSeg, FreeSurfer"))
    ui.fillButton.click()
    source = load(tumor, (0.5, 0.5, 3.0), (5.25, 6.25, 4.0), "tumor.nii.gz").GetSegmentation()
    source.GetNthSegment(0).SetName("Tumor")
    assert node.GetSegmentation().CopySegmentFromSegmentation(source, source.GetNthSegmentID(0), False)
    host.process()
    assert host.widget.missing() == ""
    found = reading.read(node)
    assert found.spacing_mm == (1.0, 1.0, 1.0) and [s.name for s in found.segments][-1] == "Tumor"
    assert (found.labels == 3).sum() == pytest.approx(tumor.sum() * 0.5 * 0.5 * 3.0, rel=0.02)
    assert "segments overlap" in found.warnings[0]
