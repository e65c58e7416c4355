"""The panel's model, device and expected time."""

import json

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

from PySide6 import QtCore

from panel_user import add_volume, choose, everything, ready, run, write_twin_header

from AnatomyDTLib.plan import Chemotherapy, Plan, Radiotherapy


def weights_file(path, tissues, seed=0, images=0):
    """A growth network with something to say, trained for these tissues."""
    import torch

    from AnatomyDTLib.learning.growth import GrowthConfig, GrowthNetwork, save_growth

    torch.manual_seed(seed)
    network = GrowthNetwork(GrowthConfig(tuple(tissues), images=images))
    for values in network.parameters():
        torch.nn.init.normal_(values, std=0.5)
    save_growth(network, path)
    return str(path)


def use_file(host, model, path):
    choose(host.widget.ui.modelComboBox, model)
    host.widget.ui.modelFileLineEdit.setCurrentPath(path)
    host.process()


@pytest.mark.usefixtures("in_this_process")
def test_weights_are_chosen_and_change_the_forecast(host, tmp_path):
    """Trained in another order, with a class that the segmentation lacks and other capitals than its names."""
    ui = host.widget.ui
    ready(host, days=20)
    assert not ui.modelFileLineEdit.visible
    run(host, "Equation")
    choose(ui.modelComboBox, "weights")
    assert ui.modelFileLineEdit.visible and "file" in ui.applyButton.toolTip and not ui.applyButton.enabled
    use_file(host, "weights", weights_file(tmp_path / "w.safetensors", ["Background", "tumor", "Treated tumor", "White matter"]))
    assert "Treated tumor" in ui.modelStatusLabel.text
    plan, index = host.widget.plan()
    assert plan.anatomy.names == ("Background", "tumor", "Treated tumor", "White matter")
    assert index == {"ID_1": 3, "ID_2": 1}
    host.picture("3_weights")
    run(host, "Learned")
    assert "complete" in ui.statusLabel.text, ui.statusLabel.text
    volumes = {}
    for shown in host.widget.logic.forecasts():
        table = shown.table.GetTable()
        volumes[shown.name] = [table.GetColumnByName("Tumor").GetValue(row) for row in range(table.GetNumberOfRows())]
    assert volumes["Equation"][0] == volumes["Learned"][0] and volumes["Equation"] != volumes["Learned"]


@pytest.mark.usefixtures("in_this_process")
def test_the_shipped_weights_are_a_model_without_a_file(host):
    ui = host.widget.ui
    ready(host, days=20)
    choose(ui.modelComboBox, "glioma-sim")
    assert not ui.modelFileLineEdit.visible and ui.applyButton.enabled, ui.applyButton.toolTip
    assert "White matter" in ui.modelStatusLabel.text
    assert host.widget.plan()[0].anatomy.names[0] == "Background"      # the segmentation's own tissues, in its own order
    run(host, "Learned")
    assert "complete" in ui.statusLabel.text, ui.statusLabel.text
    table = host.widget.logic.forecasts()[0].table.GetTable()
    volumes = [table.GetColumnByName("Tumor").GetValue(row) for row in range(table.GetNumberOfRows())]
    assert volumes[-1] != volumes[0] > 0


@pytest.mark.parametrize("content, word", [
    (None, "no such file"), (b"", "does not hold weights"), (b"hello, this is no model at all", "does not hold weights"),
    ((10).to_bytes(8, "little") + b"[[[[[[[[[[", "does not hold weights"),
    ((2).to_bytes(8, "little") + b"{}", "does not hold weights"),
    ((2).to_bytes(8, "little") + b"[]", "does not hold weights"),
    ((1 << 60).to_bytes(8, "little"), "does not hold weights"),
    (json.dumps({"__metadata__": {"format": "anatomydt-growth-1", "config": "{}"}}).encode(), "does not hold weights"),
])
def test_a_wrong_weights_file_is_refused_in_words(host, tmp_path, content, word):
    ui = host.widget.ui
    ready(host)
    before = everything()
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(len(content).to_bytes(8, "little") + content if content[:1] == b"{" else content)
    use_file(host, "weights", str(path))
    assert word in ui.modelStatusLabel.text and word in ui.applyButton.toolTip and not ui.applyButton.enabled
    assert everything() == before
    choose(ui.modelComboBox, "mechanistic")
    assert ui.applyButton.enabled and not ui.modelStatusLabel.visible


def last_frame(shown):
    """(Z, Y, X) where the tumor is at the end."""
    from AnatomyDTLib.scene import segmentation

    sequence = shown.sequence
    read = segmentation.read(sequence.GetNthDataNode(sequence.GetNumberOfDataNodes() - 1))
    return read.labels == 1 + [segment.name for segment in read.segments].index("Tumor")


def image_selectors(ui):
    return [w for w in ui.imagesWidget.children() if QtCore.QObject.objectName(w).startswith("image")]


@pytest.mark.usefixtures("in_this_process")
def test_weights_that_need_images_take_them_from_the_scene(host, tmp_path):
    """Each under a selector of its own, in the order of the training, on whatever voxels."""
    ui = host.widget.ui
    ready(host, days=20)
    # voxels of 2 mm, in another unit; half of it is bright
    halves = np.where(np.indices((12, 12, 12))[2] < 6, 800, 500).astype(np.int16)
    left, right = (add_volume(name, values, 0.5, 2.0) for name, values in (("Left", halves), ("Right", halves[..., ::-1].copy())))
    use_file(host, "weights", weights_file(tmp_path / "one.safetensors", ["Background", "White matter", "Tumor"], images=1))
    assert ui.imagesWidget.visible and len(image_selectors(ui)) == 1
    assert "1 image(s)" in ui.applyButton.toolTip and not ui.applyButton.enabled
    image_selectors(ui)[0].setCurrentNode(left)
    host.process()
    host.picture("3_image")
    run(host, "Bright on the left")
    assert "complete" in ui.statusLabel.text, ui.statusLabel.text
    image_selectors(ui)[0].setCurrentNode(right)
    host.process()
    run(host, "Bright on the right")
    assert "complete" in ui.statusLabel.text, ui.statusLabel.text
    first, second = (last_frame(shown) for shown in host.widget.logic.forecasts())
    assert (first != second).any() and (first == second[..., ::-1]).mean() > 0.99        # the mirrored image gives the mirrored forecast

    use_file(host, "weights", weights_file(tmp_path / "two.safetensors", ["Background", "White matter", "Tumor"], images=2))
    first, second = image_selectors(ui)
    # what was chosen stays the first
    assert first.currentNode() is right and second.currentNode() is None and "2 image(s)" in ui.applyButton.toolTip
    second.setCurrentNode(right)
    host.process()
    assert "twice" in ui.applyButton.toolTip and not ui.applyButton.enabled
    second.setCurrentNode(left)
    host.process()
    assert ui.applyButton.enabled, ui.applyButton.toolTip
    use_file(host, "weights", str(tmp_path / "one.safetensors"))
    image_selectors(ui)[0].setCurrentNode(left)
    use_file(host, "weights", str(tmp_path / "two.safetensors"))
    first, second = image_selectors(ui)
    assert first.currentNode() is left and second.currentNode() is left        # the second was not forgotten


def test_what_happens_to_the_scene_chooses_no_image(host, tmp_path):
    """The selectors of the application go to another row when the chosen volume is removed, and to none by an import."""
    ui = host.widget.ui
    ready(host)
    t1, flair, t2 = (add_volume(name, np.arange(24**3, dtype=np.int16).reshape(24, 24, 24)) for name in ("T1", "FLAIR", "T2"))
    use_file(host, "weights", write_twin_header(
        tmp_path / "w.safetensors", ["Background", "White matter", "Tumor"], ["background", "white", "tumor"], 2))
    first, second = image_selectors(ui)
    first.setCurrentNode(t1)
    second.setCurrentNode(t2)
    host.process()
    assert ui.applyButton.enabled, ui.applyButton.toolTip
    scene = slicer.mrmlScene
    scene.StartState(scene.ImportState)
    scene.EndState(scene.ImportState)
    host.process()
    assert host.widget._parameterNode.images == [t1, t2] and [first.currentNode(), second.currentNode()] == [t1, t2]
    assert ui.segmentationSelector.currentNode().GetName() == "Patient" and ui.applyButton.enabled
    scene.RemoveNode(t2)
    host.process()
    assert host.widget._parameterNode.images == [t1, None] and second.currentNode() is None
    assert "2 image(s)" in ui.applyButton.toolTip and not ui.applyButton.enabled
    second.setCurrentNode(flair)
    host.process()
    assert ui.applyButton.enabled, ui.applyButton.toolTip
    choose(ui.modelComboBox, "mechanistic")
    assert not ui.imagesWidget.visible and ui.applyButton.enabled


def test_weights_for_other_tissues_are_refused(host, tmp_path):
    ui = host.widget.ui
    ready(host)
    use_file(host, "weights", weights_file(tmp_path / "a.safetensors", ["Background", "Liver", "Tumor"]))
    assert "White matter" in ui.applyButton.toolTip and not ui.applyButton.enabled
    use_file(host, "weights", weights_file(tmp_path / "b.safetensors", ["Background", "White matter", "Tumor", "Xyz"]))
    assert "Xyz" in ui.applyButton.toolTip and not ui.applyButton.enabled
    known = ["Background", "White matter", "Tumor", "Xyz"], ["background", "white", "tumor", "cavity"]
    for images, word in ((0, "Run"), (-1, "does not hold weights"), (33, "need 33 images")):
        use_file(host, "weights", write_twin_header(tmp_path / f"{images}.safetensors", *known, images))
        assert ui.applyButton.enabled == (images == 0) and word in ui.applyButton.toolTip
    use_file(host, "weights", str(tmp_path / "0.safetensors"))
    # a whole twin finds its tissues in the plan by itself
    assert [t.role for t in host.widget.plan()[0].anatomy.tissues] == ["background", "white", "tumor"]


@pytest.mark.usefixtures("in_this_process")
def test_damaged_weights_are_refused_when_they_are_read(host, tmp_path):
    """The header is whole, the numbers are not: the compute process finds that out, and says so in the panel."""
    ui = host.widget.ui
    ready(host)
    path = weights_file(tmp_path / "w.safetensors", ["Background", "White matter", "Tumor"])
    content = open(path, "rb").read()
    open(path, "wb").write(content[:-100])
    use_file(host, "weights", path)
    before = everything()
    ui.applyButton.click()
    host.wait(lambda: not host.widget.logic.running)
    assert "weights file" in ui.statusLabel.text and everything() == before


def twin_file(path, plan, labels=None, **values):
    """A twin that was fitted to this plan's patient."""
    from AnatomyDTLib.calibration import parameters
    from AnatomyDTLib.calibration.twin import Fitted, Seen, Twin, fingerprint

    known = [p for p in parameters.available(plan) if p.name in values]
    assert {p.name for p in known} == set(values)
    unit = tuple(tuple(0.01 * (i == j) for j in range(len(known))) for i in range(len(known)))
    twin = Twin(
        "0" * 64 if labels is None else fingerprint(labels, (1.0, 1.0, 1.0)), (24, 24, 24), (1.0, 1.0, 1.0), plan,
        tuple(Fitted(p, values[p.name], 0.1, 0.1) for p in known), unit, (0.0,) * len(known), unit,
        (Seen(45.0, "0" * 64, "labels", 1.0, 1.0, 0.9),))
    path.write_text(twin.to_json(), encoding="utf-8")
    return str(path)


@pytest.mark.usefixtures("in_this_process")
def test_a_calibrated_twin_brings_its_numbers(host, tmp_path):
    ui = host.widget.ui
    ready(host, days=20)
    plan = host.widget.plan()[0]
    numbers = {"diffusivity_mm2_per_day": 0.123, "growth_per_day": 0.0456, "infiltration_mm": 2.5}
    use_file(host, "twin", twin_file(tmp_path / "twin.json", plan, **numbers))
    assert "day" in ui.modelStatusLabel.text and "45" in ui.modelStatusLabel.text
    assert not ui.growthComboBox.visible and ui.applyButton.enabled, ui.applyButton.toolTip
    fitted = host.widget.plan()[0]
    assert fitted.anatomy.tissues[fitted.anatomy.index("White matter")].diffusivity_mm2_per_day == pytest.approx(0.123)
    assert fitted.anatomy.tissues[fitted.anatomy.index("Tumor")].growth_per_day == pytest.approx(0.0456)
    assert fitted.infiltration_mm == 2.5
    # Treatments that the twin never saw: what they leave behind is added.
    choose(ui.regimeComboBox, "stupp")
    ui.useRegimeButton.click()
    treated = host.widget.plan()[0]
    assert [type(t) for t in treated.treatments] == [Radiotherapy, Chemotherapy]
    assert treated.anatomy.names[:3] == fitted.anatomy.names and treated.anatomy.with_role("necrosis")
    assert treated.anatomy.tissues[treated.anatomy.index("Tumor")].growth_per_day == pytest.approx(0.0456)
    host.picture("3_twin")
    run(host, "Twin")
    assert "complete" in ui.statusLabel.text and "another patient" in ui.statusLabel.text
    shown = host.widget.shown()
    assert Plan.from_json(shown.browser.GetAttribute("AnatomyDT.Plan")) == treated


@pytest.mark.parametrize("content, word", [
    (None, "no such file"), ("", "not a calibrated twin"), ("{}", "not a calibrated twin"), ("\x00\x01", "not a calibrated twin"),
    ('{"anatomydt_twin": 99}', "version"), ('{"anatomydt_twin": 1}', "not a calibrated twin"), ("[1]", "not a calibrated twin"),
])
def test_a_wrong_twin_file_is_refused_in_words(host, tmp_path, content, word):
    ui = host.widget.ui
    ready(host)
    if content is not None:
        (tmp_path / "twin.json").write_text(content, encoding="utf-8")
    use_file(host, "twin", str(tmp_path / "twin.json"))
    assert word in ui.modelStatusLabel.text and not ui.applyButton.enabled and word in ui.applyButton.toolTip


def test_the_list_says_what_there_is_to_compute_on(host, monkeypatch):
    """Asked in a process of its own, once; this process never imports torch for it."""
    from AnatomyDTPanel import devices

    monkeypatch.setattr(devices, "_known", None)
    ui = host.widget.ui
    ready(host)
    host.widget.askDevices()
    assert "looking" in ui.deviceComboBox.itemText(2) or devices.known() is not None
    host.wait(lambda: devices.known() is not None)
    found = devices.known()
    assert found.cores >= 1 and found.memory_gb > 0.5
    assert f"{found.cores} cores" in ui.deviceComboBox.itemText(1) and "GB" in ui.deviceComboBox.itemText(1)
    choose(ui.deviceComboBox, "cuda")
    assert ui.applyButton.enabled == (len(found.cards) > 0)
    if not found.cards:
        assert "none found" in ui.deviceComboBox.itemText(2) and "graphics card" in ui.applyButton.toolTip
    devices.remember(devices.Devices(8, None, (("Some Card", 24.2),)))
    host.widget.showDevices()
    host.widget.updateApply()
    assert [ui.deviceComboBox.itemText(i) for i in range(3)] == [
        "Automatic: Some Card", "Processor: 8 cores", "CUDA: Some Card, 24 GB"]
    assert ui.applyButton.enabled


def test_a_query_that_fails_leaves_the_plain_list(host, monkeypatch):
    from AnatomyDTPanel import background, devices

    monkeypatch.setattr(devices, "_known", None)
    monkeypatch.setattr(background, "python", lambda: "/no/such/interpreter")
    host.widget.askDevices()
    assert host.widget.ui.deviceComboBox.itemText(2) == "Graphics card (CUDA)"


def test_the_expected_time_is_there_before_a_first_run_and_follows_the_plan(host):
    ui, expected = host.widget.ui, lambda: host.widget.expectedSeconds()[0]
    ready(host, days=90, size=40)
    assert "Expected time: about" in ui.expectedLabel.text and "last run" not in ui.expectedLabel.text
    short = expected()
    ui.horizonSlider.setValue(900)
    long = expected()
    assert long > short
    ui.intervalSpinBox.setValue(1)
    assert expected() > long
    choose(ui.growthComboBox, "hathout-low")     # slower growth takes longer steps, but frames are the edges of steps
    ui.intervalSpinBox.setValue(100)
    assert expected() < long
    ui.massEffectSlider.setValue(0.5)
    assert expected() > 2 * long


@pytest.mark.usefixtures("in_this_process")
def test_the_last_run_corrects_the_expected_time(host):
    ui = host.widget.ui
    ready(host, days=20)
    before = host.widget.expectedSeconds()
    assert before[1] is None
    run(host)
    after = host.widget.expectedSeconds()
    assert after[0] == before[0] and after[1] is not None and 0.02 * after[0] <= after[1] <= 50 * after[0]
    assert "by the last run" in ui.expectedLabel.text
    host.settings.setValue("AnatomyDT/ExpectedTimeFactor/processor", "nonsense")
    assert host.widget.expectedSeconds()[1] is None


def test_the_steps_are_counted_as_the_solver_counts_them(host):
    """For plans of the panel: laws, treatments, frames; one difference is a step that the solver rounds."""
    import numpy as np
    from AnatomyDTPanel import cost

    from AnatomyDTLib import presets
    from AnatomyDTLib.physics.assembly import assemble
    from AnatomyDTLib.physics.stepping import time_grid

    ui = host.widget.ui
    ready(host)
    labels = np.ones((8, 8, 8), np.uint8)
    labels[3:5, 3:5, 3:5] = 2
    for law in presets.GROWTH_LAWS:
        for regime, days, interval in (("none", 90, 10), ("stupp", 250, 30), ("surgery+stupp", 100, 7), ("none", 1000, 365)):
            choose(ui.growthComboBox, law)
            ui.horizonSlider.setValue(days)
            ui.intervalSpinBox.setValue(interval)
            choose(ui.regimeComboBox, regime)
            ui.useRegimeButton.click()
            plan = host.widget.plan()[0]
            for spacing in ((1.0, 1.0, 1.0), (6.5, 0.86, 0.86)):
                _, _, course = assemble(plan, labels, spacing, {}, None, "cpu")
                assert cost.steps(plan, spacing) == len(time_grid(course.edges(), course.longest_step)), (law, regime, spacing)


def test_an_expected_time_is_rounded_as_it_deserves():
    from AnatomyDTPanel.cost import rounded

    assert [rounded(s) for s in (1, 22, 119, 130, 3600, 8000)] == [(5, "s"), (20, "s"), (120, "s"), (2, "min"), (60, "min"), (2, "h")]
