import hashlib
import importlib
import importlib.util
import json
import logging
import os
import pathlib
import sys

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin

if importlib.util.find_spec("AnatomyDTLib") is None:
    # Run from the source tree: only this folder is on the path, and the engine lies beside it.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from AnatomyDTLib import presets
from AnatomyDTLib.plan import Plan
from AnatomyDTPanel import choices, tissues, timeline
from AnatomyDTPanel.logic import AnatomyDTLogic
from AnatomyDTPanel.results import Results
from AnatomyDTPanel.texts import growthText, regimeTexts
from AnatomyDTPanel.treatments import TreatmentEditor, kindTexts

SAMPLE_CATEGORY = "AnatomyDT"


class AnatomyDT(ScriptedLoadableModule):
    """Forecasts of a segmented anatomy and its tumor under treatment."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "AnatomyDT"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Quantification")]
        self.parent.dependencies = ["Segmentations", "Sequences"]
        self.parent.contributors = ["The AnatomyDT contributors"]
        self.parent.helpText = _("""
Forecasts how a segmented tumor and the tissues around it change, day by day, under surgery, radiotherapy and
chemotherapy. Choose a segmentation, say what each segment is, add treatments and press Apply.
<p><b>Research software. Not a medical device: not for diagnosis, and not for deciding about a patient.</b></p>
""")
        self.parent.acknowledgementText = _("""
An independent implementation of M. Bhattacharya, G. Singh, P. Prasanna: Anatomy-DT: A Cross-Diffusion Digital Twin for
Anatomical Evolution.
""")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Adds the bundled sample to the Sample Data module; nothing is downloaded."""
    import SampleData

    resources = pathlib.Path(__file__).resolve().parent / "Resources"
    SampleData.SampleDataLogic.registerCustomSampleDataCategory(SAMPLE_CATEGORY, title=SAMPLE_CATEGORY)
    segmentation, text = "SegmentationFile", "TextFile"
    for name, title, files in (
        ("baseline", "AnatomyDT baseline", (
            ("sample_baseline.seg.nrrd", "AnatomyDT baseline", segmentation),
            ("plan_stupp.json", "AnatomyDT plan", text))),
        ("followup", "AnatomyDT follow-up", (("sample_followup.seg.nrrd", "AnatomyDT follow-up", segmentation),)),
    ):
        paths = [resources / "SampleData" / file for file, node, kind in files]
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=SAMPLE_CATEGORY,
            sampleName=title,
            thumbnailFileName=str(resources / "Icons" / f"sample_{name}.png"),
            uris=[path.as_uri() for path in paths],
            # Slicer names a text after its file, everything else after the node's name.
            fileNames=[node + "".join(path.suffixes) for path, (file, node, kind) in zip(paths, files)],
            loadFileTypes=[kind for file, node, kind in files],
            nodeNames=[node for file, node, kind in files],
            # Else a copy of another version's sample would be taken from Slicer's cache.
            checksums=["SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
        )


class AnatomyDTWidget(ScriptedLoadableModuleWidget, VTKObservationMixin, Results):
    """The panel. What it shows is in the parameter node; what it does is in the logic."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self._segmentation = None
        self._updating = False
        self._linked = []
        self._rate = None
        self._lateShown = False

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/AnatomyDT.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = AnatomyDTLogic()

        for text, numbering in tissues.numberings():
            self.ui.numberingComboBox.addItem(text, numbering or "")
        for text, regime in regimeTexts():
            self.ui.regimeComboBox.addItem(text, regime)
        devices = ((_("Automatic"), "auto"), (_("Processor (CPU)"), "cpu"), (_("Graphics card (CUDA)"), "cuda"))
        for text, device in devices:
            self.ui.deviceComboBox.addItem(text, device)
        self._tissues = tissues.TissueTable(self.ui.tissueTable, self.onRoleChosen)
        self._treatments = TreatmentEditor(self.ui, self.onTreatmentsEdited, self.ui.eventStatusLabel.setText)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)
        ui = self.ui
        ui.fillButton.connect("clicked(bool)", lambda checked=False: self.onFill())
        ui.useRegimeButton.connect("clicked(bool)", lambda checked=False: self.onUseRegime())
        ui.loadPlanButton.connect("clicked(bool)", lambda checked=False: self.onLoadPlan())
        ui.savePlanButton.connect("clicked(bool)", lambda checked=False: self.onSavePlan())
        ui.growthComboBox.connect("currentIndexChanged(int)", self.onGrowthChosen)
        ui.deviceComboBox.connect("currentIndexChanged(int)", self.onDeviceChosen)
        ui.horizonSlider.connect("valueChanged(double)", lambda value: self.onDaysChosen())
        ui.intervalSpinBox.connect("valueChanged(double)", lambda value: self.onDaysChosen())
        ui.applyButton.connect("clicked(bool)", lambda checked=False: self.onApply())
        ui.forecastComboBox.connect("currentIndexChanged(int)", self.onForecastChosen)
        ui.chartButton.connect("clicked(bool)", lambda checked=False: self.onChart())
        ui.outlineSlider.connect("valueChanged(double)", self.onOutline)
        ui.overlayCheckBox.connect("toggled(bool)", self.onOverlay)
        ui.scoreButton.connect("clicked(bool)", lambda checked=False: self.onScore())
        ui.compareButton.connect("clicked(bool)", lambda checked=False: self.onCompare())
        ui.sideBySideButton.connect("clicked(bool)", lambda checked=False: self.onSideBySide())
        ui.progressBar.setVisible(False)
        self.initializeParameterNode()
        self.updateResults()

    def cleanup(self):
        """The module is reloaded or the application closes."""
        if self.logic is not None:
            self.logic.cancel(_("The module was closed."))
        self._unlink()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()
        self.updateResults()
        qt.QTimer.singleShot(0, self.updateTimeline)

    def exit(self):
        # A run goes on while another module is open; its result is there when the user comes back.
        pass

    def onReload(self):
        """Reloads the panel's and the engine's modules with this file (a developer's button)."""
        self.cleanup()
        names = [n for n in sys.modules if n.split(".")[0] in ("AnatomyDTPanel", "AnatomyDTLib")]
        # What is imported by others first, so that they see it anew.
        for name in sorted(names, key=lambda n: (n.split(".")[0] == "AnatomyDTPanel", n)):
            importlib.reload(sys.modules[name])
        ScriptedLoadableModuleWidget.onReload(self)

    # The scene

    def onSceneStartClose(self, caller, event):
        self.logic.cancel(_("The scene was closed, so the computation was cancelled."))
        self._unlink()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        self.initializeParameterNode()
        self.updateResults()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, caller, event, node):
        if node.IsA("vtkMRMLSequenceBrowserNode"):
            self.updateResults()

    def initializeParameterNode(self):
        if slicer.mrmlScene.IsClosing() or slicer.mrmlScene.IsImporting():
            return
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.segmentation:
            for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
                if not self.logic.isForecast(node):
                    self._parameterNode.segmentation = node
                    break

    def setParameterNode(self, parameterNode):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self._observeSegmentation(None)
        self._parameterNode = parameterNode
        if self._parameterNode:
            self._guiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self.onParametersModified()

    def _observeSegmentation(self, node):
        events = [getattr(slicer.vtkSegmentation, e) for e in ("SegmentAdded", "SegmentRemoved", "SegmentModified")]
        if node is self._segmentation:
            return
        if self._segmentation is not None:
            for event in events:
                self.removeObserver(self._segmentation, event, self.onSegmentsChanged)
        self._segmentation = node
        if node is not None:
            for event in events:
                self.addObserver(node, event, self.onSegmentsChanged)

    def onSegmentsChanged(self, caller, event):
        self.onParametersModified()

    # What is chosen

    def onParametersModified(self, caller=None, event=None):
        """Shows what the parameter node holds."""
        if self._parameterNode is None or self._updating:
            return
        self._updating = True
        try:
            p = self._parameterNode
            self._observeSegmentation(p.segmentation)
            rows = tissues.rowsOf(p.segmentation)
            roles = json.loads(p.roles)
            unknown = [row for row in rows if row.id not in roles]
            if unknown:
                roles.update({row.id: choices.guessed_role(row) for row in unknown})
                p.roles = json.dumps(roles)
            self._tissues.show(rows, roles)
            self.ui.tissueStatusLabel.setText(self._tissueStatus(rows, roles))
            self._treatments.setRegions([row.name for row in tissues.rowsOf(p.regions)])
            self._treatments.show(choices.treatments_of(p.treatments))
            self._showChoice(self.ui.deviceComboBox, p.device)
            self._showGrowth(p)
            self.updateTimeline()
            late = self._late()
            if late or self._lateShown:
                self.ui.eventStatusLabel.setText(late)
            self._lateShown = bool(late)
            self.ui.expectedLabel.setText(self._expected(p))
            self.updateApply()
            self.ui.scoreButton.setEnabled(p.followUp is not None and self.shown() is not None)
        finally:
            self._updating = False

    def _tissueStatus(self, rows, roles):
        if not rows:
            none = self._parameterNode.segmentation is None
            return _("Choose a segmentation.") if none else _("The segmentation has no segment.")
        missing = [row.name for row in rows if not roles.get(row.id)]
        if missing:
            return _("Not assigned yet: {names}").format(names=", ".join(missing))
        chosen = {roles[row.id] for row in rows}
        if not chosen & {"tumor", "edema"}:
            return _("No segment is a tumor yet.")
        if choices.lacks_host(chosen):
            return _("No tissue around the tumor is segmented: everything outside the segments is taken as brain.")
        return _("Every segment has its tissue.")

    @staticmethod
    def _showChoice(combo, data):
        for index in range(combo.count):
            if combo.itemData(index) == data and combo.currentIndex != index:
                blocked = combo.blockSignals(True)
                combo.setCurrentIndex(index)
                combo.blockSignals(blocked)

    def _showGrowth(self, p):
        combo = self.ui.growthComboBox
        laws = list(presets.GROWTH_LAWS) + ([choices.FROM_PLAN] if p.loadedPlan else [])
        if combo.count != len(laws):
            blocked = combo.blockSignals(True)
            combo.clear()
            for law in laws:
                combo.addItem(growthText(law), law)
            combo.blockSignals(blocked)
        law = p.growthLaw or presets.DEFAULT_GROWTH
        self._showChoice(combo, law)
        known = presets.GROWTH_LAWS.get(law)
        combo.setToolTip(known.source if known else _("The numbers of the plan file."))

    def days(self):
        """The reported days that are chosen."""
        p = self._parameterNode
        if p.loadedDays:
            return tuple(json.loads(p.loadedDays)["days"])
        return choices.reported_days(p.horizonDays, p.intervalDays)

    def _expected(self, p):
        days = self.days()
        text = _("{count} frames, the last on day {last}.").format(count=len(days) + 1, last=format(days[-1], "g"))
        if p.loadedDays:
            text += " " + _("The days are those of the plan file.")
        if self._rate is not None and p.segmentation is not None and self._rate[0] == p.segmentation.GetID():
            seconds = 5.0 + self._rate[1] * days[-1]
            seconds = max(5, int(round(seconds, -1)))
            text += " " + _("Expected: about {seconds} s, by the last run.").format(seconds=seconds)
        return text

    def updateTimeline(self):
        if self._parameterNode is None:
            return
        label = self.ui.timelineLabel
        color = label.palette.color(qt.QPalette.WindowText)
        treatments = choices.treatments_of(self._parameterNode.treatments)
        # Before the panel is laid out, a label says nothing true about its width.
        width = max(label.width, 240) if label.visible else 340
        label.setPixmap(timeline.picture(treatments, self.days()[-1], width, color, kindTexts()))

    def missing(self):
        """What keeps the forecast from running, in words; "" when nothing does."""
        p = self._parameterNode
        if p is None or p.segmentation is None:
            return _("Choose a segmentation.")
        rows, roles = tissues.rowsOf(p.segmentation), json.loads(p.roles)
        if not rows:
            return _("The segmentation has no segment.")
        unassigned = [row.name for row in rows if not roles.get(row.id)]
        if unassigned:
            return _("Choose what each segment is. Not assigned yet: {names}").format(names=", ".join(unassigned))
        if not {roles[row.id] for row in rows} & {"tumor", "edema"}:
            return _("Choose which segment is the tumor.")
        treatments = choices.treatments_of(p.treatments)
        if self._late():
            return self._late()
        if any(getattr(t, "dose_map", None) for t in treatments) and p.dose is None:
            return _("A course of radiotherapy takes its dose from a volume: choose the dose volume.")
        present = {row.name for row in tissues.rowsOf(p.regions)}
        for treatment in treatments:
            if getattr(treatment, "region", None) and treatment.region not in present:
                return _(
                    "A treatment names the region '{name}': choose the segmentation that holds it under Regions."
                ).format(name=treatment.region)
        if not p.forecastName.strip():
            return _("Give the forecast a name.")
        return ""

    def _late(self):
        """A sentence about treatments beyond the horizon; "" without one."""
        treatments = choices.treatments_of(self._parameterNode.treatments)
        last = max((t.event_days()[-1] for t in treatments), default=0.0)
        if last <= self.days()[-1]:
            return ""
        return _(
            "A treatment goes on until day {day}, after the last day of the forecast: "
            "extend the horizon, or use the preset again."
        ).format(day=format(last, "g"))

    def updateApply(self):
        button = self.ui.applyButton
        if self.logic.running:
            button.setText(_("Cancel"))
            button.setToolTip(_("End the computation; the scene stays as it is."))
            button.setEnabled(True)
            return
        missing = self.missing()
        button.setText(_("Apply"))
        button.setEnabled(not missing)
        button.setToolTip(missing or _("Run the forecast in the background."))

    def onRoleChosen(self, segmentID, role):
        roles = json.loads(self._parameterNode.roles)
        roles[segmentID] = role
        self._parameterNode.roles = json.dumps(roles)

    def onFill(self):
        numbering = self.ui.numberingComboBox.itemData(self.ui.numberingComboBox.currentIndex) or None
        roles = json.loads(self._parameterNode.roles)
        for row in tissues.rowsOf(self._parameterNode.segmentation):
            roles[row.id] = choices.guessed_role(row, numbering)
        self._parameterNode.roles = json.dumps(roles)

    def onTreatmentsEdited(self, treatments):
        self._parameterNode.treatments = choices.treatments_text(treatments)

    def onUseRegime(self):
        name = self.ui.regimeComboBox.itemData(self.ui.regimeComboBox.currentIndex)
        treatments = presets.regime(name, self.days()[-1], self.ui.regimeStartSpinBox.value)
        self._parameterNode.treatments = choices.treatments_text(treatments)

    def onGrowthChosen(self, index):
        if self._parameterNode is not None and not self._updating and index >= 0:
            self._parameterNode.growthLaw = self.ui.growthComboBox.itemData(index)

    def onDeviceChosen(self, index):
        if self._parameterNode is not None and not self._updating:
            self._parameterNode.device = self.ui.deviceComboBox.itemData(index)

    def onDaysChosen(self):
        """The user set the days, so those of a plan file are given up."""
        p = self._parameterNode
        if p is None or self._updating or not p.loadedDays:
            return
        chosen = [self.ui.horizonSlider.value, self.ui.intervalSpinBox.value]
        if chosen != json.loads(p.loadedDays)["shown"]:
            # The values first: what the node holds is written back into the controls.
            p.horizonDays, p.intervalDays = chosen
            p.loadedDays = ""

    # The plan's file

    def plan(self):
        """(Plan, segment ID -> tissue index) of what is chosen; raises PlanError."""
        p = self._parameterNode
        return choices.plan(
            tissues.rowsOf(p.segmentation), json.loads(p.roles), choices.treatments_of(p.treatments), self.days(),
            p.growthLaw or presets.DEFAULT_GROWTH, p.infiltration, p.massEffect,
            Plan.from_json(p.loadedPlan) if p.loadedPlan else None)

    def onLoadPlan(self):
        path = qt.QFileDialog.getOpenFileName(self.parent, _("Load plan"), "", _("Plan") + " (*.json)")
        path = path[0] if isinstance(path, tuple) else path
        if path:
            self.loadPlan(path)

    def onSavePlan(self):
        path = qt.QFileDialog.getSaveFileName(self.parent, _("Save plan"), "plan.json", _("Plan") + " (*.json)")
        path = path[0] if isinstance(path, tuple) else path
        if path:
            self.savePlan(path)

    def savePlan(self, path):
        """Writes what is chosen; says why when it cannot."""
        try:
            text = self.plan()[0].to_json()
            with open(path, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
        except (ValueError, OSError) as error:
            return self.say(_("The plan was not saved: {why}").format(why=error))
        self.say(_("The plan was saved."))

    def loadPlan(self, path):
        """Takes treatments, days and numbers over from a plan file; says why when it cannot."""
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            plan = Plan.from_json(text)
        except (ValueError, OSError) as error:
            return self.say(_("The plan was not loaded: {why}").format(why=error))
        p = self._parameterNode
        roles = json.loads(p.roles)
        named = {t.name.casefold(): t.role for t in plan.anatomy.tissues}
        for row in tissues.rowsOf(p.segmentation):
            roles[row.id] = named.get(row.name.casefold(), roles.get(row.id, ""))
        regular = choices.regular(plan.days)
        most = self.ui.horizonSlider.maximum, self.ui.intervalSpinBox.maximum
        fits = regular is not None and all(v <= m and float(v).is_integer() for v, m in zip(regular, most))
        p.loadedPlan, p.growthLaw = text, choices.FROM_PLAN
        p.treatments, p.roles = choices.treatments_text(plan.treatments), json.dumps(roles)
        p.massEffect, p.infiltration = plan.mass_effect, plan.infiltration_mm > 0
        if fits:
            p.loadedDays = ""
            p.horizonDays, p.intervalDays = regular
        else:
            p.loadedDays = ""
            p.horizonDays = min(max(round(plan.days[-1]), 1), self.ui.horizonSlider.maximum)
            p.loadedDays = json.dumps({"days": list(plan.days), "shown": [p.horizonDays, p.intervalDays]})
        self.say(_("The plan was loaded."))

    # The run

    def say(self, text):
        self.ui.statusLabel.setText(text)
        if text:
            logging.info(text)

    def onApply(self):
        if self.logic.running:
            self.logic.cancel(_("Cancelled; the scene is as it was."))
            return
        missing = self.missing()
        if missing:
            return self.say(missing)
        p = self._parameterNode
        try:
            why = self.logic.ensureDependencies()
            if why:
                return self.say(why)
            plan, assignment = self.plan()
            self.ui.logTextEdit.setPlainText("")
            self.logic.forecast(
                p.segmentation, plan, reference=p.reference, assignment=assignment, regions=self._regions(plan),
                doses=self._doses(plan), name=p.forecastName.strip(), probabilities=p.probabilities, device=p.device,
                progress=self.onProgress, completed=self.onCompleted)
        except ValueError as error:
            return self.say(str(error))
        self.onStarted()

    def onStarted(self):
        self.say(_("Starting..."))
        self.ui.progressBar.setValue(0)
        self.ui.progressBar.setVisible(True)
        self.updateApply()

    def _regions(self, plan):
        node = self._parameterNode.regions
        ids = {row.name: row.id for row in tissues.rowsOf(node)}
        names = {t.region for t in plan.treatments if getattr(t, "region", None)}
        return {name: (node, ids[name]) for name in names}

    def _doses(self, plan):
        return {t.dose_map: self._parameterNode.dose for t in plan.treatments if getattr(t, "dose_map", None)}

    def onProgress(self, fraction, text, lines):
        self.ui.progressBar.setValue(int(1000 * fraction))
        if text:
            self.ui.statusLabel.setText(text)
        for line in lines:
            self.ui.logTextEdit.appendPlainText(line)

    def onCompleted(self, result, shown, message):
        """result, shown: of the forecast, None without one; message: the sentence that the user reads."""
        self.ui.progressBar.setVisible(False)
        if result is not None:
            for line in (*result.warnings, json.dumps(result.run)):
                self.ui.logTextEdit.appendPlainText(line)
            if result.warnings:
                message += "\n" + "\n".join(result.warnings)
            if shown.baseline is not None:
                self._rate = (shown.baseline.GetID(), result.run["seconds_solving"] / float(result.days[-1]))
        elif message:
            self.ui.logTextEdit.appendPlainText(message)
        self.say(message)
        if shown is not None and self._parameterNode is not None:
            self._parameterNode.shownForecast = shown.name
            self.logic.bringToFront(shown)
            self.logic.centerOnTumor(result, shown)
            self.ui.expectedLabel.setText(self._expected(self._parameterNode))
        self.updateResults()
        self.updateApply()


class AnatomyDTTest(ScriptedLoadableModuleTest):
    """Slicer's own self-test: sample, forecast, cancel, sequence."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        for name in ("test_Sample", "test_Forecast", "test_Cancel"):
            self.setUp()
            getattr(self, name)()
        self.delayDisplay("Test passed")

    def _small(self):
        """A segmentation of 24³ voxels: a ball of tumor in white matter."""
        import numpy as np

        z, y, x = np.mgrid[:24, :24, :24] - 11.5
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Small")
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(24, 24, 24)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        labels = np.where(z**2 + y**2 + x**2 < 16, 2, 1).astype(np.uint8)
        vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())[:] = labels.ravel()
        for value, name in enumerate(("White matter", "Tumor"), start=1):
            segment = slicer.vtkSegment()
            segment.SetName(name)
            segment.SetLabelValue(value)
            segment.AddRepresentation("Binary labelmap", image)
            segmentation.GetSegmentation().AddSegment(segment, name.replace(" ", ""))
        segmentation.CreateDefaultDisplayNodes()
        return segmentation

    def _plan(self, segmentation, days=(10.0, 20.0)):
        rows = tissues.rowsOf(segmentation)
        return choices.plan(rows, {row.id: choices.guessed_role(row) for row in rows}, (), days)

    def test_Sample(self):
        """The bundled sample loads, and its segments tell what they are."""
        import SampleData

        registerSampleData()
        node = SampleData.downloadSample("AnatomyDT baseline")
        rows = tissues.rowsOf(node)
        self.assertEqual(len(rows), 6)
        self.assertTrue(all(choices.guessed_role(row) for row in rows))

    def test_Forecast(self):
        """A forecast becomes a sequence that plays, and the tumor grows."""
        segmentation = self._small()
        plan, assignment = self._plan(segmentation)
        logic = AnatomyDTLogic()
        if logic.ensureDependencies():
            self.delayDisplay("PyTorch is not installed, so no forecast is run")
            return
        result, shown = logic.forecast(segmentation, plan, assignment=assignment, waitForCompletion=True)
        self.assertEqual(shown.browser.GetNumberOfItems(), 3)
        self.assertGreater(result.volume_ml[-1, 2], result.volume_ml[0, 2])
        shown.browser.SetSelectedItemNumber(2)
        self.assertEqual(shown.proxy.GetSegmentation().GetNumberOfSegments(), 2)

    def test_Cancel(self):
        """A cancelled forecast leaves the scene as it was."""
        segmentation = self._small()
        plan, assignment = self._plan(segmentation, days=(365.0,))
        logic = AnatomyDTLogic()
        if logic.ensureDependencies():
            return
        before = slicer.mrmlScene.GetNumberOfNodes()
        said = []
        logic.forecast(segmentation, plan, assignment=assignment, completed=lambda *outcome: said.append(outcome))
        self.assertTrue(logic.running)
        logic.cancel("cancelled")
        self.assertFalse(logic.running)
        self.assertEqual(said, [(None, None, "cancelled")])
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
