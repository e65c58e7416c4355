"""The run: the interface answers all the time, and whatever comes between leaves the scene as it was."""

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
import vtk
from panel_user import Stored, add_segmentation, everything, load_sample, ready, run
from slicer_host import MODULE_FOLDER, ROOT

from AnatomyDTLib.scene import forecast as scenes

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
