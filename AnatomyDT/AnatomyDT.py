import hashlib
import importlib
import importlib.util
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

from AnatomyDTPanel import choices, tissues
from AnatomyDTPanel.devices import torch_is_installed
from AnatomyDTPanel.followups import FollowUpTable
from AnatomyDTPanel.forecasting import Forecasting
from AnatomyDTPanel.inputs import Inputs
from AnatomyDTPanel.keyboard import letTabReach
from AnatomyDTPanel.logic import AnatomyDTLogic
from AnatomyDTPanel.planning import Planning
from AnatomyDTPanel.results import Results
from AnatomyDTPanel.treatments import TreatmentEditor
from AnatomyDTPanel.twins import Twins

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


class AnatomyDTWidget(ScriptedLoadableModuleWidget, VTKObservationMixin, Inputs, Planning, Forecasting, Results, Twins):
    """The panel. What it shows is in the parameter node; what it does is in the logic."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self._segmentation = None
        self._segmentsChanged = False
        self._updating = False
        self._linked = []
        self._outlined = self._drawn = None
        self._lateShown = False
        self._plansChanged = False

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/AnatomyDT.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = AnatomyDTLogic()

        for text, numbering in tissues.numberings():
            self.ui.numberingComboBox.addItem(text, numbering or "")
        self.setUpModel()
        self.setUpTwin()
        self._tissues = tissues.TissueTable(self.ui.tissueTable, self.onRoleChosen)
        self._treatments = TreatmentEditor(self.ui, self.onTreatmentsEdited, self.ui.eventStatusLabel.setText)
        self._followUps = FollowUpTable(
            self.ui.followUpTable, self.ui.addFollowUpButton, self.onFollowUpsEdited, self.suggestedFollowUp)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self.onNodeAdded)
        for node in slicer.util.getNodesByClass("vtkMRMLTextNode"):
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.onTextModified)
        ui = self.ui
        ui.numberingComboBox.connect("currentIndexChanged(int)", self.onNumberingChosen)
        ui.regimeComboBox.connect("currentIndexChanged(int)", self.onRegimeChosen)
        ui.compareTissueComboBox.connect("currentIndexChanged(int)", self.onComparedTissueChosen)
        ui.fillButton.connect("clicked(bool)", lambda checked=False: self.onFill())
        ui.useRegimeButton.connect("clicked(bool)", lambda checked=False: self.onUseRegime())
        ui.loadPlanButton.connect("clicked(bool)", lambda checked=False: self.onLoadPlan())
        ui.savePlanButton.connect("clicked(bool)", lambda checked=False: self.onSavePlan())
        ui.followUpComboBox.connect("currentIndexChanged(int)", self.onFollowUpChosen)
        ui.modelComboBox.connect("currentIndexChanged(int)", self.onModelChosen)
        ui.modelFileLineEdit.connect("currentPathChanged(QString)", self.onModelFileChosen)
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
        ui.calibrateButton.connect("clicked(bool)", lambda checked=False: self.onCalibrate())
        ui.saveTwinButton.connect("clicked(bool)", lambda checked=False: self.onSaveTwin())
        ui.compareRegimesButton.connect("clicked(bool)", lambda checked=False: self.onCompareRegimes())
        for selector in (ui.segmentationSelector, ui.referenceSelector, ui.regionsSelector, ui.doseSelector):
            letTabReach(selector)
        # Another theme was chosen.
        slicer.app.connect("paletteChanged(QPalette)", self.onPaletteChanged)
        # Slicer's player is else the widest of all, and the panel grows with the first forecast.
        ui.playWidget.layout().setSpacing(0)
        ui.playWidget.layout().setContentsMargins(0, 0, 0, 0)
        ui.progressBar.setVisible(False)
        self.initializeParameterNode()
        self.updateResults()

    def cleanup(self):
        """The module is reloaded or the application closes."""
        if self.logic is not None:
            self.logic.cancel(_("The module was closed."))
        slicer.app.disconnect("paletteChanged(QPalette)", self.onPaletteChanged)
        self.endDeviceQuery()
        self._unlink()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()
        self.updateResults()
        self.askDevices()
        qt.QTimer.singleShot(0, self.updateTimeline)

    def onPaletteChanged(self, palette):
        # The widgets learn of it after the application.
        self.updateTimeline(palette)

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
        # Node selectors that were made now learn of the nodes after this event.
        qt.QTimer.singleShot(0, self.onParametersModified)

    def onSceneStartImport(self, caller, event):
        # Selectors lose their nodes during an import, and would say so.
        self.setParameterNode(None)

    def onSceneEndImport(self, caller, event):
        renamed = self.logic.distinguish()
        self.onSceneEndClose(caller, event)
        if self._parameterNode is not None and self._parameterNode.shownForecast in renamed:
            # What the panel holds came with the scene, so it means the scene's forecast.
            self._parameterNode.shownForecast = renamed[self._parameterNode.shownForecast]
            self.updateResults()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, caller, event, node):
        if node.IsA("vtkMRMLSequenceBrowserNode"):
            self.updateResults()
        elif node.IsA("vtkMRMLTextNode"):
            self.removeObserver(node, vtk.vtkCommand.ModifiedEvent, self.onTextModified)
            self.onTextModified(node, event)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAdded(self, caller, event, node):
        if node.IsA("vtkMRMLTextNode"):
            # A file's node gets its text and its name after it was added.
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.onTextModified)
            self.onTextModified(node, event)

    def onTextModified(self, caller, event):
        # Once for all that happens to texts before the panel answers again.
        if not self._plansChanged:
            self._plansChanged = True
            qt.QTimer.singleShot(0, self._showPlans)

    def _showPlans(self):
        self._plansChanged = False
        if self._parameterNode is not None:
            self.showRegimes()

    def initializeParameterNode(self):
        if slicer.mrmlScene.IsClosing() or slicer.mrmlScene.IsImporting():
            return
        self.showRegimes()
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

    def onParametersModified(self, caller=None, event=None):
        """Shows what the parameter node holds."""
        if self._parameterNode is None or self._updating:
            return
        self._updating = True
        try:
            self.showNumbering()
            self.showTissues()
            self.showRegimes()
            self.showFollowUps()
            self.showTreatments()
            self.showModel()
            self.showExpected()
            self.updateApply()
            self.showFollowUpOutlines()
            self.ui.scoreButton.setEnabled(len(self.comparedFollowUps()) > 0 and self.shown() is not None)
        finally:
            self._updating = False


class AnatomyDTTest(ScriptedLoadableModuleTest):
    """Slicer's own self-test: load, sample, forecast, sequence, cancel."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        for name in ("test_Load", "test_Sample", "test_Forecast", "test_Cancel"):
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

    def test_Load(self):
        """The panel opens on an empty scene and says what is missing."""
        widget = slicer.modules.anatomydt.widgetRepresentation().self()
        widget.enter()
        self.assertFalse(widget.ui.applyButton.enabled)
        self.assertIn(_("Choose a segmentation."), widget.ui.applyButton.toolTip)
        self.assertFalse(widget.ui.resultsCollapsibleButton.enabled)

    def test_Sample(self):
        """The bundled sample loads, and its segments tell what they are."""
        import SampleData

        registerSampleData()
        node = SampleData.downloadSample("AnatomyDT baseline")
        rows = tissues.rowsOf(node)
        self.assertEqual(len(rows), 6)
        self.assertTrue(all(choices.guessed_role(row) for row in rows))

    def test_Forecast(self):
        """A forecast becomes a sequence that plays, with surfaces, a table and a chart, and the tumor grows."""
        segmentation = self._small()
        plan, assignment = self._plan(segmentation)
        logic = AnatomyDTLogic()
        # Not asked for: when Slicer is tested, the PyTorch extension installs it without a question.
        if not torch_is_installed():
            self.delayDisplay("PyTorch is not installed, so no forecast is run")
            return
        result, shown = logic.forecast(segmentation, plan, assignment=assignment, waitForCompletion=True)
        self.assertEqual(shown.browser.GetNumberOfItems(), 3)
        self.assertGreater(result.volume_ml[-1, 2], result.volume_ml[0, 2])
        self.assertEqual((shown.sequence.GetIndexName(), shown.sequence.GetIndexUnit()), ("time", "day"))
        self.assertEqual([shown.sequence.GetNthIndexValue(i) for i in range(3)], ["0", "10", "20"])
        sizes = []
        for frame in range(3):
            shown.browser.SetSelectedItemNumber(frame)
            self.assertEqual(shown.proxy.GetSegmentation().GetNumberOfSegments(), 2)
            tumor = shown.proxy.GetSegmentation().GetNthSegment(1)
            self.assertGreater(tumor.GetRepresentation("Closed surface").GetNumberOfPoints(), 0)
            sizes.append(shown.table.GetTable().GetColumnByName("Tumor").GetValue(frame))
        self.assertEqual(sizes, sorted(sizes))
        self.assertEqual(shown.chart.GetNumberOfPlotSeriesNodes(), len(shown.series))

    def test_Cancel(self):
        """A cancelled forecast leaves the scene as it was."""
        segmentation = self._small()
        plan, assignment = self._plan(segmentation, days=(365.0,))
        logic = AnatomyDTLogic()
        if not torch_is_installed():
            return
        before = slicer.mrmlScene.GetNumberOfNodes()
        said = []
        logic.forecast(segmentation, plan, assignment=assignment, completed=lambda *outcome: said.append(outcome))
        self.assertTrue(logic.running)
        logic.cancel("cancelled")
        self.assertFalse(logic.running)
        self.assertEqual(said, [(None, None, "cancelled")])
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
