"""The logic of the module: runs forecasts in the background and shows them; needs no panel."""

import dataclasses
import logging
import os
import subprocess
import time

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from AnatomyDTLib.engine import Cancelled, ForecastError
from AnatomyDTLib.scene import forecast as rooms
from AnatomyDTLib.scene import segmentation as reading

from .background import Run, Scoring
from .devices import torch_is_installed
from .parameters import AnatomyDTParameterNode

# An attribute of the browser: the plan of the forecast that it plays, so that it can be run again elsewhere.
PLAN_ATTRIBUTE = "AnatomyDT.Plan"
MODULE_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class AnatomyDTLogic(ScriptedLoadableModuleLogic):
    """Runs forecasts in the background and finds them in the scene; needs no panel.

        logic = AnatomyDTLogic()
        result, shown = logic.forecast(segmentationNode, plan, waitForCompletion=True)
    """

    POLL_MS = 100

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._run = None
        self._stopped = None
        self._timer = qt.QTimer()
        self._timer.setInterval(self.POLL_MS)
        self._timer.connect("timeout()", self._poll)

    def getParameterNode(self):
        return AnatomyDTParameterNode(super().getParameterNode())

    @property
    def running(self):
        return self._run is not None

    def ensureDependencies(self, weights=False):
        """Asks for what is not installed; "" when everything is there, else the sentence that the user reads.

        weights: a growth network's file is to be read
        """
        if not torch_is_installed():
            try:
                import PyTorchUtils
            except ModuleNotFoundError:
                return _(
                    "PyTorch is needed: install the PyTorch extension in the Extensions Manager, restart Slicer, "
                    "press Apply again."
                )
            torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=">=2.2")
            if torch is None:
                return _("PyTorch was not installed, so nothing was computed. Press Apply to be asked again.")
        return self._ensurePackages(("safetensors",)) if weights else ""

    def ensureScoringPackages(self):
        """Asks for what a comparison needs beyond a forecast; "" when everything is there, else why not."""
        return self.ensureDependencies() or self._ensurePackages(("monai", "scikit-image"))

    def _ensurePackages(self, names):
        """Asks for those of Resources/requirements.txt; "" when they are there, else why not."""
        import slicer.packaging

        listed = slicer.packaging.load_requirements(os.path.join(MODULE_FOLDER, "Resources", "requirements.txt"))
        try:
            slicer.packaging.pip_ensure([one for one in listed if one.name in names], requester="AnatomyDT")
        except RuntimeError:
            return _("The packages were not installed, so nothing was computed. Press Apply to be asked again.")
        except subprocess.CalledProcessError:
            return _("The packages could not be installed: is there a network? Nothing was computed.")
        return ""

    def forecast(
        self, segmentation, plan, reference=None, assignment=None, regions=None, doses=None, name="Forecast",
        probabilities=False, device="auto", weights=None, twin=None, waitForCompletion=False, progress=None, completed=None,
    ):
        """Forecasts a segmentation in the background; arguments as AnatomyDTLib.scene.forecast.forecast.

        weights: path of a growth network's weights, None for the mechanistic model alone
        twin: the calibrated twin that the plan's numbers are of, where they are; a baseline of another is warned of
        progress: called with (fraction, text, new lines of the log)
        completed: called with (forecast, shown, message); forecast and shown are None without a result
        waitForCompletion: return (forecast, shown) when it is there; raises ForecastError, or Cancelled when it
            was cancelled
        Raises ForecastError at once for what is wrong with the input.
        """
        if self.running:
            raise ForecastError("a forecast is running; wait for it or cancel it first")
        baseline = reading.read(segmentation, reference)
        labels, segments = reading.assigned(baseline, plan, assignment)
        maps, warnings = rooms.read_maps(baseline, regions, doses)
        if twin is not None:
            warnings += self._twinWarnings(twin, labels, baseline.spacing_mm)
        self._baseline, self._segments, self._warnings = baseline, segments, baseline.warnings + warnings
        self._name, self._progress, self._completed = name, progress, completed
        self._scene, self._stopped, self._told = segmentation.GetScene(), None, 0
        self._outcome = None
        self._finish = self._show
        self._run = Run(labels, baseline.spacing_mm, plan, maps, device, probabilities, weights)
        self._timer.start()
        return self._waited() if waitForCompletion else None

    @staticmethod
    def _twinWarnings(twin, labels, spacing_mm):
        try:
            twin.check_patient(labels, spacing_mm)
        except ValueError as error:
            return (str(error),)
        return ()

    def score(self, shown, followUp, day, waitForCompletion=False, progress=None, completed=None):
        """Compares a forecast with a later segmentation, by segment name, in the background.

        shown: of the forecast; followUp: vtkMRMLSegmentationNode; day: of the follow-up; the nearest frame is taken
        completed: called with (scores, table, message); the table node replaces an earlier one of its name
        waitForCompletion: return (scores, table)
        Raises ForecastError at once for what cannot be compared.
        """
        if self.running:
            raise ForecastError("something is being computed; wait for it or cancel it first")
        sequence = shown.sequence
        days = [float(sequence.GetNthIndexValue(i)) for i in range(sequence.GetNumberOfDataNodes())]
        nearest = min(range(len(days)), key=lambda i: abs(days[i] - day))
        shown.browser.SetSelectedItemNumber(nearest)
        frame = reading.read(shown.proxy)
        theirs = followUp.GetSegmentation()
        ids = {theirs.GetSegment(i).GetName().casefold(): i for i in theirs.GetSegmentIDs()}
        names = {k: s.name for k, s in enumerate(frame.segments, start=1) if s.name.casefold() in ids}
        if not names:
            raise ForecastError(
                f"the follow-up '{followUp.GetName()}' has no segment with the name of one of the forecast's; "
                "rename its segments"
            )
        observed = np.zeros_like(frame.labels)
        for value, name in names.items():
            observed[reading.region(frame, followUp, ids[name.casefold()])] = value
        self._scene, self._stopped, self._told = shown.browser.GetScene(), None, 0
        self._name = f"{shown.name} against {followUp.GetName()}, day {days[nearest]:g}"
        self._progress, self._completed, self._outcome = progress, completed, None
        self._baseline = self._segments = None
        self._finish = self._tabulate
        self._run = Scoring(frame.labels, observed, frame.spacing_mm, names)
        self._timer.start()
        return self._waited() if waitForCompletion else None

    def _waited(self):
        while self.running:
            slicer.app.processEvents()
            time.sleep(0.02)
        result, shown, message, error = self._outcome
        if error is not None:
            raise error
        if result is None:
            raise Cancelled(message)
        return result, shown

    def _tabulate(self, scores):
        """The scores as a table node."""
        former = self._scene.GetFirstNode(self._name, "vtkMRMLTableNode")
        if former is not None:
            self._scene.RemoveNode(former)
        table = self._scene.AddNewNodeByClass("vtkMRMLTableNode", self._name)
        columns = (
            ("Segment", "name"), ("DSC", "dice"), ("HD95 (mm)", "hd95_mm"), ("clDice", "cl_dice"),
            ("Forecast (mL)", "volume_ml"), ("Follow-up (mL)", "volume_observed_ml"),
        )
        for title, key in columns:
            values = vtk.vtkStringArray() if key == "name" else vtk.vtkDoubleArray()
            values.SetName(title)
            for one in scores:
                values.InsertNextValue(one[key] if key == "name" else float("nan") if one[key] is None else one[key])
            table.AddColumn(values)
        return scores, table, _("The comparison is in the table '{name}'.").format(name=self._name)

    def cancel(self, message=""):
        """Ends the run, if there is one; the scene stays as it was."""
        if self._run is None:
            return
        if self._stopped is None:
            self._stopped = message
        if self._timer.isActive():
            # Else the result is being shown: that stops at the next frame and ends itself.
            self._run.cancel()
            self._end(None, None, message)

    def _poll(self):
        run = self._run
        if run is None:
            return
        ended = run.poll()
        self._tell(0.9 * run.fraction, run.text)
        if not ended:
            return
        self._timer.stop()
        try:
            result, shown, message = self._finish(run.result())
        except Cancelled:
            return self._end(None, None, self._stopped or "")
        except ForecastError as error:
            return self._end(None, None, str(error), error)
        except Exception as error:
            # Whatever it was, the panel must not stay in the running state; the log has the details.
            logging.exception("The result could not be shown")
            return self._end(None, None, _("The result could not be shown: {why}").format(why=error), error)
        self._end(result, shown, message)

    def _show(self, found):
        frames = len(found.days) * (2 if found.tumor_probability is not None else 1)
        asked = [0]

        def stopped():
            """Asked before each frame: lets the interface answer, and says whether the user gave up."""
            asked[0] += 1
            if asked[0] <= frames:
                # The last question is asked when the nodes are in the scene; no event may come between them.
                text = _("making frame {number} of {count}").format(number=asked[0], count=frames)
                self._tell(0.9 + 0.1 * asked[0] / frames, text)
                slicer.app.processEvents()
            return self._stopped is not None

        shown = rooms.show(self._scene, found, self._baseline, self._segments, self._name, stopped)
        # A modified browser copies its frame to the proxy again, which takes a second for a brain.
        shown.browser.SetDisableModifiedEvent(True)
        shown.browser.SetAttribute(PLAN_ATTRIBUTE, found.plan.to_json())
        shown.browser.SetDisableModifiedEvent(False)
        complete = dataclasses.replace(found, warnings=self._warnings + tuple(found.warnings))
        return complete, shown, _("The forecast '{name}' is complete.").format(name=self._name)

    def _tell(self, fraction, text):
        if self._progress is not None:
            lines = self._run.log[self._told:]
            self._told += len(lines)
            self._progress(fraction, text, lines)

    def _end(self, result, shown, message, error=None):
        self._timer.stop()
        self._run = None
        self._outcome = (result, shown, message, error)
        completed, self._completed, self._progress = self._completed, None, None
        self._baseline = self._segments = None
        if completed is not None:
            completed(result, shown, message)

    # What is in the scene

    def forecasts(self):
        """Every forecast in the scene, oldest first."""
        return rooms.all_shown(slicer.mrmlScene)

    def find(self, name):
        return rooms.find(slicer.mrmlScene, name) if name else None

    def isForecast(self, node):
        return any(node is shown.proxy for shown in self.forecasts())

    def bringToFront(self, shown):
        """Shows one forecast in the views, hides the others and the fill of what it started from."""
        for other in self.forecasts():
            for node in (other.proxy, other.probability_proxy):
                if node is not None and node.GetDisplayNode() is not None:
                    node.GetDisplayNode().SetVisibility(other.browser is shown.browser)
            if other.proxy.GetDisplayNode() is not None:
                other.proxy.GetDisplayNode().RemoveAllViewNodeIDs()
        if shown.baseline is not None:
            display = shown.baseline.GetDisplayNode()
            outlined = display is not None and display.GetVisibility() and not display.GetVisibility2DFill()
            self.showOutline(shown.baseline, display.GetOpacity2DOutline() if outlined else 0.0)

    def centerOnTumor(self, result, shown):
        """Moves all slice views to the middle of the tumor on day 0."""
        tumor = np.isin(result.labels[0], result.plan.anatomy.tumors)
        image = shown.proxy.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
        if not tumor.any() or image is None:
            return
        k, j, i = (float(index.mean()) for index in np.nonzero(tumor))
        toWorld = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(toWorld)
        first = image.GetExtent()[::2]
        point = toWorld.MultiplyPoint((i + first[0], j + first[1], k + first[2], 1.0))[:3]
        general = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(shown.proxy.GetParentTransformNode(), None, general)
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *general.TransformPoint(point))

    def showOutline(self, segmentation, opacity):
        """Outlines of a segmentation over the slices, nothing else of it."""
        segmentation.CreateDefaultDisplayNodes()
        display = segmentation.GetDisplayNode()
        display.SetVisibility(opacity > 0)
        display.SetVisibility3D(False)
        display.SetVisibility2DFill(False)
        display.SetVisibility2DOutline(True)
        display.SetOpacity2DOutline(opacity)

    def showChart(self, chart):
        slicer.modules.plots.logic().ShowChartInLayout(chart)

    def showTable(self, table):
        layout = slicer.app.layoutManager()
        if layout is not None:
            layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView)
            slicer.app.applicationLogic().GetSelectionNode().SetActiveTableID(table.GetID())
            slicer.app.applicationLogic().PropagateTableSelection()

    def compare(self, tissue):
        """One chart of a tissue in all forecasts; returns it. An earlier one of the same name is replaced."""
        name = _("Comparison: {tissue}").format(tissue=tissue)
        former = slicer.mrmlScene.GetFirstNodeByName(name)
        series, chart = rooms.compare(slicer.mrmlScene, self.forecasts(), tissue, name)
        if former is not None and former.IsA("vtkMRMLPlotChartNode"):
            lines = [former.GetNthPlotSeriesNode(i) for i in range(former.GetNumberOfPlotSeriesNodes())]
            slicer.mrmlScene.RemoveNode(former)
            for line in lines:
                if line is not None:
                    slicer.mrmlScene.RemoveNode(line)
        self.showChart(chart)
        return chart

    def showSideBySide(self, left, right):
        """Two forecasts in two linked slice views."""
        layout = slicer.app.layoutManager()
        if layout is not None:
            layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
        for shown, view in ((left, "Red"), (right, "Yellow")):
            display = shown.proxy.GetDisplayNode()
            display.SetVisibility(True)
            display.RemoveAllViewNodeIDs()
            display.AddViewNodeID("vtkMRMLSliceNode" + view)
        red, yellow = (slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNode" + view) for view in ("Red", "Yellow"))
        if red is not None and yellow is not None:
            yellow.SetOrientation(red.GetOrientation())
            yellow.GetSliceToRAS().DeepCopy(red.GetSliceToRAS())
            yellow.UpdateMatrices()
            yellow.SetFieldOfView(*red.GetFieldOfView())
            yellow.SetXYZOrigin(*red.GetXYZOrigin())
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            composite.SetLinkedControl(True)

    def followDay(self, leader, follower):
        """Sets a browser to the day nearest to the other's."""
        sequence = leader.GetMasterSequenceNode()
        if sequence is None or not 0 <= leader.GetSelectedItemNumber() < sequence.GetNumberOfDataNodes():
            return
        day = float(sequence.GetNthIndexValue(leader.GetSelectedItemNumber()))
        other = follower.GetMasterSequenceNode()
        days = [float(other.GetNthIndexValue(i)) for i in range(other.GetNumberOfDataNodes())]
        nearest = min(range(len(days)), key=lambda i: abs(days[i] - day))
        if follower.GetSelectedItemNumber() != nearest:
            follower.SetSelectedItemNumber(nearest)
