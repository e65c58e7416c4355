"""The run: the interface answers all the time, and whatever comes between leaves the scene as it was."""

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
import vtk
from panel_user import add_segmentation, everything, load_sample, ready, run
from slicer_host import MODULE_FOLDER, ROOT

from AnatomyDTLib.scene import forecast as scenes
from AnatomyDTLib.scene.geometry import vtk_matrix
from AnatomyDTLib.scene.surfaces import stored_meshes

ANSWERS_WITHIN_SECONDS = 0.2      # the bar of the order


def worked(function):
    """Seconds of this thread's work that a call takes, and those of the event loop's turn after it."""
    began = time.thread_time()
    function()
    slicer.app.processEvents()
    return time.thread_time() - began


def test_the_interface_answers_within_200_ms_at_the_size_of_a_brain(host):
    """The bundled sample, 151 x 187 x 161 voxels, 6 tissues: run, result, playing, overlay, comparison, replacement."""
    import SampleData

    ui, longest = host.widget.ui, {}
    ui.segmentationSelector.setCurrentNode(load_sample())
    follow_up = SampleData.downloadSample("AnatomyDT follow-up")
    ui.horizonSlider.setValue(8)
    ui.intervalSpinBox.setValue(2)
    ui.probabilitiesCheckBox.setChecked(True)
    host.process()
    seen, computed = [], []
    completed = host.widget.onCompleted
    host.widget.onCompleted = lambda result, *rest: (computed.append(result), completed(result, *rest))
    longest["apply"] = worked(ui.applyButton.click)
    longest["run"] = host.wait(lambda: seen.append(ui.statusLabel.text) or not host.widget.logic.running, 240)
    shown = host.widget.shown()
    assert "complete" in ui.statusLabel.text, ui.logTextEdit.toPlainText()
    for phase in ("making surfaces", "making frame"):
        assert any(text.startswith(phase) for text in seen)
    for frame in (*range(1, 5), 0):
        longest[f"frame {frame}"] = worked(lambda: shown.browser.SetSelectedItemNumber(frame))
    longest["overlay"] = worked(lambda: ui.overlayCheckBox.setChecked(True))
    longest["chart"] = worked(ui.chartButton.click)
    longest["outline"] = worked(lambda: ui.outlineSlider.setValue(0.5))
    logic = host.widget.logic
    longest["compare"] = worked(lambda: logic.score(shown, [(follow_up, 8.0)]))
    longest["comparing"] = host.wait(lambda: logic._run is not None, 240)
    longest["cancel"] = worked(logic.cancel)
    # The same result again, under the same name, whose nodes it replaces.
    baseline = scenes.segmentation.read(shown.baseline)
    _, segments = scenes.segmentation.assigned(baseline, computed[0].plan, host.widget.plan()[1])
    frames = [shown.sequence.GetNthDataNode(i).GetSegmentation() for i in range(5)]
    meshes = [
        [f.GetNthSegment(k).GetRepresentation("Closed surface") for k in range(f.GetNumberOfSegments())] for f in frames]
    slices = scenes.showing(
        slicer.mrmlScene, computed[0], baseline, segments, "Forecast", lambda i: meshes[i], {}, logic.stage)
    replaced = []
    for number in range(100):
        longest[f"slice {number}"] = worked(lambda: replaced.append(next(slices, None)))
        if replaced[-1] is None:
            break
    assert [one.name for one in logic.forecasts()] == ["Forecast"] and logic.forecasts()[0].browser is not shown.browser
    late = {what: seconds for what, seconds in longest.items() if seconds > ANSWERS_WITHIN_SECONDS}
    assert not late, late


class Stored:
    """A process that has ended, with a result that one real run computed."""

    fraction, text, log = 1.0, "", ()

    def __init__(self, computed):
        self._computed = computed

    sending = False

    def poll(self):
        return True

    def loading(self):
        yield
        return self._computed

    def cancel(self):
        pass


@pytest.fixture(scope="module")
def results():
    return []


@pytest.fixture
def computed(host, monkeypatch, results):
    """Runs of this panel end at once, with the result that one real run computed."""
    from AnatomyDTPanel import logic

    node = ready(host, days=50)
    host.widget.ui.probabilitiesCheckBox.setChecked(True)
    if not results:
        plan, assignment = host.widget.plan()
        labels, _ = scenes.segmentation.assigned(scenes.segmentation.read(node), plan, assignment)
        process = logic.Run(labels, (1.0, 1.0, 1.0), plan, probabilities=True, ijk_to_ras=np.eye(4))
        host.wait(process.poll)
        results.append(process.result())
    monkeypatch.setattr(logic, "Run", lambda *arguments, **more: Stored(results[0]))
    return results[0]


def slices_of(host):
    """How many times the interface answers between Apply and the result."""
    told = []
    logic = host.widget.logic
    plan, assignment = host.widget.plan()
    logic.forecast(host.widget._parameterNode.segmentation, plan, assignment=assignment, name="Counted",
                   probabilities=True, progress=lambda *said: told.append(said))
    host.wait(lambda: not logic.running)
    scenes.remove(logic.find("Counted"))
    return sum(fraction < 1.0 for fraction, text, lines in told)


def after(host, number, act):
    """Presses Apply and does something when the interface has answered `number` times."""
    told = []
    tell = host.widget.onProgress

    def progress(*said):
        tell(*said)
        told.append(said)
        if len(told) == number:
            act()

    host.widget.onProgress = progress
    host.widget.ui.applyButton.click()
    host.wait(lambda: not host.widget.logic.running)
    host.widget.onProgress = tell
    return told


def hierarchy_items():
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    found = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), found, True)
    return found.GetNumberOfIds()


def test_surfaces_and_frames_that_the_process_made_are_shown(host, computed):
    run(host)
    shown = host.widget.shown()
    assert computed.tumor_center == pytest.approx((11.5, 11.5, 11.5))
    assert json.loads(shown.browser.GetAttribute("AnatomyDT.TumorCenter")) == list(computed.tumor_center)
    volumes = []
    for number in range(6):
        tumor = shown.sequence.GetNthDataNode(number).GetSegmentation().GetSegment("ID_2")
        mesh = tumor.GetRepresentation("Closed surface")
        properties = vtk.vtkMassProperties()
        properties.SetInputData(mesh)
        volumes.append(properties.GetVolume() / 1000)
    assert volumes == pytest.approx(computed.forecast.volume_ml[:, 2].tolist(), rel=0.06)


def test_a_process_without_vtk_leaves_the_surfaces_to_the_application(host, computed, monkeypatch):
    from AnatomyDTPanel import logic

    monkeypatch.setattr(logic, "Run", lambda *arguments, **more: Stored(dataclasses.replace(computed, surfaces=None)))
    run(host)
    tumor = host.widget.shown().sequence.GetNthDataNode(5).GetSegmentation().GetSegment("ID_2")
    assert tumor.GetRepresentation("Closed surface").GetNumberOfPolys() > 100


def test_cancel_leaves_the_scene_as_it_was_whenever_it_comes(host, computed):
    ui = host.widget.ui
    ui.nameLineEdit.setText("Kept")
    run(host, "Kept")
    kept = host.widget.shown()
    kept.browser.SetSelectedItemNumber(2)
    count = slices_of(host)
    host.widget.logic.bringToFront(kept)
    assert count > 15
    before, items = everything(), hierarchy_items()
    for number in range(1, count + 1):
        # A cancelled run is of a forecast that is in the scene, and has to stay.
        after(host, number, ui.applyButton.click)
        assert ui.applyButton.text == "Apply" and "Cancelled" in ui.statusLabel.text, number
        assert everything() == before and hierarchy_items() == items, number
        shown = host.widget.logic.find("Kept")
        assert shown.browser is kept.browser and shown.browser.GetSelectedItemNumber() == 2
        assert shown.proxy.GetDisplayNode().GetVisibility()
    # The last thing that is said comes when the new forecast has taken the place of the former one.
    told = after(host, count + 1, ui.applyButton.click)
    assert told[count][0] == 1.0 and "complete" in ui.statusLabel.text
    assert host.widget.shown().browser is not kept.browser and everything() != before
    assert len(everything()) == len(before)


def test_closing_the_scene_is_survived_whenever_it_comes(host, computed):
    count = slices_of(host)
    segmentation = host.widget._parameterNode.segmentation
    for number in range(1, count + 1):
        after(host, number, lambda: slicer.mrmlScene.Clear(0))
        assert not host.widget.logic.running and not host.widget.logic.forecasts()
        left = [n.GetClassName() for n in slicer.util.getNodesByClass("vtkMRMLDisplayableNode")]
        assert left == [], (number, left)
        assert "closed" in host.widget.ui.statusLabel.text
        segmentation = add_segmentation()
        host.widget.ui.segmentationSelector.setCurrentNode(segmentation)
        host.widget.ui.horizonSlider.setValue(50)
        host.widget.ui.probabilitiesCheckBox.setChecked(True)
    run(host)
    assert host.widget.shown().baseline is segmentation


def test_removing_the_input_is_survived_whenever_it_comes(host, computed):
    count = slices_of(host)
    for number in range(1, count + 1):
        node = host.widget._parameterNode.segmentation
        after(host, number, lambda: slicer.mrmlScene.RemoveNode(node))
        assert "complete" in host.widget.ui.statusLabel.text, number
        shown = host.widget.logic.find("Forecast")
        assert shown.browser.GetNumberOfItems() == 6 and (shown.baseline is None or shown.baseline is not node)
        host.widget.ui.segmentationSelector.setCurrentNode(add_segmentation())


def test_removing_what_enters_the_scene_is_said(host, computed):
    count = slices_of(host)
    before = everything()
    removed = 0
    for number in range(1, count + 1):
        def remove():
            new = [slicer.mrmlScene.GetNodeByID(i) for i in everything() if i not in before]
            found = [n for n in new if n is not None and n.IsA("vtkMRMLSegmentationNode")]
            for node in found:
                nonlocal removed
                removed += 1
                slicer.mrmlScene.RemoveNode(node)

        after(host, number, remove)
        if removed:
            assert "removed" in host.widget.ui.statusLabel.text and everything() == before
            return
        scenes.remove(host.widget.shown())
    raise AssertionError("nothing entered the scene")


def test_reloading_or_leaving_the_module_is_survived_whenever_it_comes(host, computed):
    count = slices_of(host)
    before = everything()
    for number in (2, count // 2, count):
        after(host, number, host.widget.cleanup)
        assert not host.widget.logic.running and everything() == before
        host.widget.initializeParameterNode()


def test_a_logic_that_nobody_holds_finishes_what_it_began(host, computed):
    said = []
    plan, assignment = host.widget.plan()
    host.module.AnatomyDTLogic().forecast(
        host.widget._parameterNode.segmentation, plan, assignment=assignment, name="Alone",
        completed=lambda *outcome: said.append(outcome))
    gc.collect()
    host.wait(lambda: said)
    assert said[0][1].name == "Alone" and "complete" in said[0][2]


def test_a_logic_alone_survives_the_closing_of_the_scene(host, computed):
    from AnatomyDTLib.engine import Cancelled

    plan, assignment = host.widget.plan()
    logic = host.module.AnatomyDTLogic()
    with pytest.raises(Cancelled, match="closed"):
        logic.forecast(host.widget._parameterNode.segmentation, plan, assignment=assignment, waitForCompletion=True,
                       progress=lambda *said: slicer.mrmlScene.Clear(0))
    assert not logic.running and not logic.forecasts()


ENDS = {
    "a crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", ("crashed", "SIGSEGV")),
    "killed for memory": (
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ("memory was full", "crop the image")),
    "no memory for torch": (
        "raise RuntimeError(\"[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes\")",
        ("memory was full",)),
    "no memory on the card": ("raise RuntimeError('CUDA out of memory. Tried to allocate 9 GiB')", ("memory was full",)),
    "an error": ("raise RuntimeError('the cause')", ("ended unexpectedly", "RuntimeError: the cause")),
    "no torch": ("raise ModuleNotFoundError(\"No module named 'torch'\")", ("PyTorch is not installed",)),
    "silence": ("pass", ("ended unexpectedly", "it said nothing")),
}


@pytest.mark.parametrize("end", ENDS)
def test_however_the_process_ends_it_is_said_in_words_with_the_log(host, tmp_path, monkeypatch, end):
    from AnatomyDTPanel import background

    code, words = ENDS[end]
    worker = tmp_path / "worker.py"
    worker.write_text(("" if end == "silence" else "print('step 7 of 9', flush=True)\n") + code + "\n")
    monkeypatch.setattr(background, "WORKER", worker)
    ready(host)
    before = everything()
    folder = set(Path(background.tempfile.gettempdir()).glob("AnatomyDT-*"))
    host.widget.ui.applyButton.click()
    host.wait(lambda: not host.widget.logic.running)
    for word in words:
        assert word in host.widget.ui.statusLabel.text
    assert end == "silence" or "step 7 of 9" in host.widget.ui.logTextEdit.toPlainText()
    assert everything() == before and host.widget.ui.applyButton.enabled
    assert set(Path(background.tempfile.gettempdir()).glob("AnatomyDT-*")) <= folder


def test_what_the_worker_cannot_do_is_one_sentence(tmp_path):
    """An exhausted memory and a full disk, met inside the process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import worker\n"
        "def fails(folder): raise {}\n"
        "worker.compute = fails; sys.exit(worker.main(sys.argv[2], sys.argv[3]))"
    )
    for error, word in (("MemoryError", "not enough memory"), ("OSError(28, 'No space left on device')", "No space left")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(error), str(MODULE_FOLDER / "AnatomyDTPanel"), str(tmp_path),
             str(os.getpid())], timeout=20, capture_output=True)
        assert done.returncode == 2 and word in json.loads((tmp_path / "refusal.json").read_text())


def test_a_cleaned_temporary_folder_is_survived(host):
    ready(host, days=1800, size=48)
    host.widget.ui.applyButton.click()
    host.wait(lambda: host.widget.ui.progressBar.value > 0)
    before = everything()
    import shutil

    shutil.rmtree(host.widget.logic._run._folder)
    host.wait(lambda: not host.widget.logic.running)
    assert "ended unexpectedly" in host.widget.ui.statusLabel.text and everything() == before


@pytest.mark.skipif(os.name == "nt", reason="reads the processes of a POSIX system")
def test_an_application_that_is_quit_during_a_run_leaves_nothing_behind(tmp_path):
    """The application goes without a word, as when it crashes: the process ends, the patient's arrays are removed."""
    code = (
        "import os, sys, time, numpy as np; sys.path[:0] = sys.argv[1:3]\n"
        "from AnatomyDTLib import presets\n"
        "from AnatomyDTLib.plan import Anatomy, Plan\n"
        "from AnatomyDTPanel.background import Run\n"
        "tissues = tuple(presets.tissue(n, n.lower()) for n in ('Background', 'White', 'Tumor'))\n"
        "labels = np.ones((48, 48, 48), np.uint8); labels[20:28, 20:28, 20:28] = 2\n"
        "run = Run(labels, (1, 1, 1), Plan(Anatomy(tissues), days=(1800.0,)))\n"
        "while run.fraction == 0: run.poll(); time.sleep(0.05)\n"
        "print(run._process.pid, run._folder, flush=True)\n"
        "os._exit(1)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, str(ROOT), str(MODULE_FOLDER)], capture_output=True, text=True,
                          env=environment, timeout=60)
    pid, folder = done.stdout.split()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (Path(f"/proc/{pid}").exists() or Path(folder).exists()):
        time.sleep(0.1)
    assert not Path(folder).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_process_that_does_not_die_does_not_keep_the_user(host, monkeypatch):
    """A driver can hold a process that was killed: Cancel is answered all the same."""
    ready(host, days=1800, size=40)
    host.widget.ui.applyButton.click()
    host.wait(lambda: host.widget.logic._run is not None)
    process = host.widget.logic._run._process

    def held(timeout=None):
        time.sleep(min(timeout, 5))
        raise subprocess.TimeoutExpired("worker", timeout)

    monkeypatch.setattr(process, "wait", held)
    began = time.perf_counter()
    host.widget.ui.applyButton.click()
    assert time.perf_counter() - began < 2.0 and not host.widget.logic.running      # the bar of the order
    monkeypatch.undo()
    assert process.wait(10) == -signal.SIGKILL


@pytest.mark.usefixtures("in_this_process")
def test_several_follow_ups_are_compared_in_one_table(host, computed):
    run(host)
    logic, shown = host.widget.logic, host.widget.shown()
    early, late = add_segmentation(name="Early", radius=5.0), add_segmentation(name="Late", radius=7.0)
    # A registration: the follow-up lies elsewhere, and its transform brings it here.
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    shift = np.eye(4)
    shift[0, 3] = 2.0
    moved.SetMatrixTransformToParent(vtk_matrix(shift))
    late.SetAndObserveTransformNodeID(moved.GetID())
    extra = slicer.vtkSegment()
    extra.SetName("Scar")
    late.GetSegmentation().AddSegment(extra, "scar")
    browsed = shown.browser.GetSelectedItemNumber()
    scores, table = logic.score(shown, [(early, 20.0), (late, 33.0)], waitForCompletion=True)
    assert table.GetName() == "Forecast against 2 follow-ups" and len(scores) == 2
    stored = table.GetTable()
    column = {stored.GetColumnName(c): stored.GetColumn(c) for c in range(stored.GetNumberOfColumns())}
    rows = range(table.GetNumberOfRows())
    assert [column["Follow-up"].GetValue(r) for r in rows] == ["Early", "Early", "Late", "Late"]
    assert [column["Day"].GetValue(r) for r in rows] == [20, 20, 33, 33]
    assert [column["Forecast's day"].GetValue(r) for r in rows] == [20, 20, 30, 30]
    z, y, x = np.mgrid[:24, :24, :24] - 11.5
    for row, (frame, radius, moved_by) in zip((1, 3), ((2, 5.0, 0), (3, 7.0, 2))):
        predicted = computed.forecast.labels[frame] == 2
        observed = z**2 + y**2 + (x - moved_by) ** 2 < radius**2
        expected = 2 * (predicted & observed).sum() / (predicted.sum() + observed.sum())
        assert column["DSC"].GetValue(row) == pytest.approx(expected)
        assert column["Follow-up (mL)"].GetValue(row) == pytest.approx(observed.sum() / 1000)
        assert column["Forecast (mL)"].GetValue(row) == pytest.approx(predicted.sum() / 1000)
        assert column["HD95 (mm)"].GetValue(row) > 0 and 0 <= column["clDice"].GetValue(row) <= 1
    message = logic._outcome[2]
    assert "day 33 is compared with day 30" in message and "Scar" in message and "'Early'" not in message
    assert shown.browser.GetSelectedItemNumber() == browsed
    before = everything()
    logic.score(shown, [(early, 20.0), (late, 33.0)], waitForCompletion=True)
    assert len(everything()) == len(before)                  # the earlier table was replaced


def test_a_comparison_can_be_cancelled(host, computed):
    run(host)
    logic, said = host.widget.logic, []
    follow_up = add_segmentation(name="Later", radius=6.0)
    before = everything()
    logic.score(host.widget.shown(), [(follow_up, 50.0)], completed=lambda *outcome: said.append(outcome))
    host.wait(lambda: logic._run is not None)
    logic.cancel("enough")
    assert said == [(None, None, "enough")] and everything() == before


def test_a_new_forecast_comes_to_the_front_with_the_views_on_its_tumor(host, computed, monkeypatch):
    slices = slicer.vtkMRMLSliceNode()
    slices.SetLayoutName("Red")
    slicer.mrmlScene.AddNode(slices)
    run(host, "First")
    first = host.widget.shown()
    assert np.allclose([slices.GetSliceToRAS().GetElement(i, 3) for i in range(3)][2], 11.5)
    run(host, "Second")
    second = host.widget.shown()
    for proxy in (first.proxy, first.probability_proxy):
        assert not proxy.GetDisplayNode().GetVisibility()
    assert second.proxy.GetDisplayNode().GetVisibility()
    host.widget.logic.bringToFront(first)
    assert first.proxy.GetDisplayNode().GetVisibility() and not second.proxy.GetDisplayNode().GetVisibility()


def test_a_forecast_that_comes_into_view_is_not_covered_by_a_follow_up(host, computed):
    filled, outlined, other = (
        add_segmentation(names=("White matter", last), name=last) for last in ("Tumor", "Tumor", "Region"))
    other.GetSegmentation().GetNthSegment(0).SetName("Planned resection")
    host.widget.logic.showOutline(outlined, 0.6)
    run(host)
    assert not filled.GetDisplayNode().GetVisibility() and other.GetDisplayNode().GetVisibility()
    assert outlined.GetDisplayNode().GetVisibility() and outlined.GetDisplayNode().GetOpacity2DOutline() == 0.6
    filled.GetDisplayNode().SetVisibility(True)
    host.widget.logic.bringToFront(host.widget.shown())
    assert not filled.GetDisplayNode().GetVisibility() and host.widget.shown().proxy.GetDisplayNode().GetVisibility()


def test_side_by_side_gives_the_second_view_back(host, computed):
    views = {}
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal")):
        views[name] = slicer.vtkMRMLSliceNode()
        views[name].SetLayoutName(name)
        views[name].SetSingletonTag(name)
        for preset in ("Axial", "Sagittal"):
            matrix = vtk.vtkMatrix3x3()
            getattr(slicer.vtkMRMLSliceNode, f"Get{preset}SliceToRASMatrix")(matrix)
            views[name].AddSliceOrientationPreset(preset, matrix)
        slicer.mrmlScene.AddNode(views[name])
        views[name].SetOrientation(orientation)
    run(host, "First")
    run(host, "Second")
    logic = host.widget.logic
    first, second = logic.forecasts()
    for _ in range(2):
        logic.showSideBySide(first, second)
        assert views["Yellow"].GetOrientation() == "Axial"
        for shown, view in ((first, "Red"), (second, "Yellow")):
            display = shown.proxy.GetDisplayNode()
            assert display.GetVisibility() and list(display.GetViewNodeIDs()) == [views[view].GetID()]
    green = slicer.vtkMRMLSliceNode()
    green.SetLayoutName("Green")
    green.SetSingletonTag("Green")
    slicer.mrmlScene.AddNode(green)
    run(host, "Third")
    host.widget._parameterNode.shownForecast = "Second"
    host.widget.onSideBySide()
    assert "Second, Third, First" in host.widget.ui.statusLabel.text
    second.browser.SetSelectedItemNumber(3)
    for shown, view in zip((second, logic.forecasts()[2], first), ("Red", "Green", "Yellow")):
        assert list(shown.proxy.GetDisplayNode().GetViewNodeIDs()) == ["vtkMRMLSliceNode" + view]
        assert shown.browser.GetSelectedItemNumber() == 3
    logic.bringToFront(first)
    assert views["Yellow"].GetOrientation() == "Sagittal" and views["Red"].GetOrientation() == "Axial"
    assert first.proxy.GetDisplayNode().GetNumberOfViewNodeIDs() == 0 and not second.proxy.GetDisplayNode().GetVisibility()


def test_surfaces_that_two_frames_share_are_one_object():
    arrays = {"points": np.eye(3, dtype=np.float32), "normals": np.eye(3, dtype=np.float32),
              "triangles": np.array([[0, 1, 2]], np.int32)}
    meshes = stored_meshes([[arrays], [arrays], [dict(arrays)]])
    assert meshes(0)[0] is meshes(1)[0] and meshes(2)[0] is not meshes(0)[0]
    assert isinstance(meshes, types.FunctionType)
