"""How forecasts are shown in the views: visibility, outline, centre, charts, tables, side by side."""

import json

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from AnatomyDTLib.scene import forecast as rooms
from AnatomyDTLib.scene import segmentation

from .rendering import HeldViews

# An attribute of the browser: (k, j, i) of the tumor's middle on day 0.
CENTER_ATTRIBUTE = "AnatomyDT.TumorCenter"
# An attribute of a slice view: its SliceToRAS, row by row, before two forecasts were placed side by side.
FORMER_ATTRIBUTE = "AnatomyDT.FormerSliceToRAS"
# The slice views that forecasts side by side take: two; three, or up to six, in the order of Slicer's layouts.
TWO_VIEWS, SIDE_VIEWS = ("Red", "Yellow"), ("Red", "Green", "Yellow", "Red+", "Green+", "Yellow+")
# Until what the layout did to the windows has been answered, and painted.
TURN_MS = 30


class Views:
    """A part of the logic."""

    def stage(self, shown):
        """Makes room for a forecast that comes into view, and turns the views to its tumor while they are empty."""
        self._leaveTo(shown)
        self.centerOnTumor(shown)

    def bringToFront(self, shown):
        """Shows one forecast in the views, hides the others and the fill of what it started from."""
        with slicer.util.RenderBlocker():
            self._leaveTo(shown)
            for node in (shown.proxy, shown.probability_proxy):
                if node is not None and node.GetDisplayNode() is not None:
                    node.GetDisplayNode().SetVisibility(True)

    def _leaveTo(self, shown):
        self._hideSameStructures(shown)
        for other in self.forecasts():
            for node in (other.proxy, other.probability_proxy):
                display = node.GetDisplayNode() if node is not None else None
                if display is None:
                    continue
                if other.browser is not shown.browser:
                    display.SetVisibility(False)
                if display.GetNumberOfViewNodeIDs():
                    display.RemoveAllViewNodeIDs()
        for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            if view.GetAttribute(FORMER_ATTRIBUTE):
                view.GetSliceToRAS().DeepCopy(json.loads(view.GetAttribute(FORMER_ATTRIBUTE)))
                view.UpdateMatrices()
                view.RemoveAttribute(FORMER_ATTRIBUTE)
        if shown.baseline is not None:
            display = shown.baseline.GetDisplayNode()
            outlined = display is not None and display.GetVisibility() and not display.GetVisibility2DFill()
            self.showOutline(shown.baseline, display.GetOpacity2DOutline() if outlined else 0.0)

    def _hideSameStructures(self, shown):
        """Hides what would lie over a forecast: filled segmentations of its structures, such as a loaded follow-up.

        Outlines stay: that they are drawn over a forecast is what they are for.
        """
        names = {name.casefold() for name in segmentation.names_of(shown.proxy).values()}
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            display = node.GetDisplayNode()
            if self.isForecast(node) or display is None or not display.GetVisibility() or not display.GetVisibility2DFill():
                continue
            if names & {name.casefold() for name in segmentation.names_of(node).values()}:
                display.SetVisibility(False)

    def centerOnTumor(self, shown):
        """Moves all slice views to the middle of the tumor on day 0."""
        center = shown.browser.GetAttribute(CENTER_ATTRIBUTE)
        image = shown.proxy.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
        if not center or image is None:
            return
        k, j, i = json.loads(center)
        toWorld = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(toWorld)
        point = toWorld.MultiplyPoint((i, j, k, 1.0))[:3]
        general = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(shown.proxy.GetParentTransformNode(), None, general)
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *general.TransformPoint(point))

    def showOutline(self, node, opacity):
        """Outlines of a segmentation over the slices, nothing else of it."""
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        # One event: at each, every view cuts every segment anew.
        blocked = display.StartModify()
        display.SetVisibility(opacity > 0)
        display.SetVisibility3D(False)
        display.SetVisibility2DFill(False)
        display.SetVisibility2DOutline(True)
        display.SetOpacity2DOutline(opacity)
        display.EndModify(blocked)

    def showChart(self, chart):
        self._changeLayout(lambda: slicer.modules.plots.logic().ShowChartInLayout(chart))

    def showTable(self, table):
        layout = slicer.app.layoutManager()
        if layout is not None:
            self._changeLayout(
                # The panel says that the table is there, and is painted with it.
                lambda: None,
                lambda: layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView),
                lambda: self._fillTableView(table))

    @staticmethod
    def _fillTableView(table):
        if slicer.mrmlScene.IsNodePresent(table):
            slicer.app.applicationLogic().GetSelectionNode().SetActiveTableID(table.GetID())
            slicer.app.applicationLogic().PropagateTableSelection()

    def _changeLayout(self, *steps):
        """Does the steps, the first of them now, each in a turn of its own.

        A new layout gives all views another size, and they would draw all at once: here they wait, and draw one by one.
        """
        turns = self._changing(steps)

        def turn():
            if next(turns, None):
                qt.QTimer.singleShot(TURN_MS, turn)

        turn()

    @staticmethod
    def _changing(steps):
        layout = slicer.app.layoutManager()
        window = None if layout is None else layout.viewport()
        if window is not None:
            # What a step makes, and what it makes the window paint, are two turns.
            window.setUpdatesEnabled(False)
        views = HeldViews()
        try:
            for step in steps:
                step()
                yield True
            if window is not None:
                window.setUpdatesEnabled(True)
                yield True
            while views.letOneGo():
                yield True
        finally:
            if window is not None:
                window.setUpdatesEnabled(True)
            views.letGo()

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

    def showSideBySide(self, *forecasts):
        """Two to six forecasts in linked slice views, one in each."""
        names = TWO_VIEWS if len(forecasts) == 2 else SIDE_VIEWS[:len(forecasts)]
        layout = slicer.app.layoutManager()
        if layout is None:
            return self._placeSideBySide(forecasts, names)
        layouts = slicer.vtkMRMLLayoutNode
        number = {2: layouts.SlicerLayoutSideBySideView, 3: layouts.SlicerLayoutFourUpView}.get(
            len(names), layouts.SlicerLayoutThreeOverThreeView)
        # The layout would make the views that it lacks, all in one turn.
        lacking = SIDE_VIEWS if number == layouts.SlicerLayoutThreeOverThreeView else names
        made = [lambda name=name: self._makeSliceView(name) for name in lacking if self._sliceView(name) is None]
        self._changeLayout(*made, lambda: layout.setLayout(number), lambda: self._placeSideBySide(forecasts, names))

    @staticmethod
    def _sliceView(name):
        return slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode")

    def _makeSliceView(self, name):
        """A slice view as the layout makes it that has it: a paler twin of the view whose name it has less the plus."""
        twin = self._sliceView(name.rstrip("+"))
        view = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSliceNode")
        view.UnRegister(None)
        view.SetSingletonTag(name)
        view.SetLayoutName(name)
        view.SetName(name)
        if twin is not None:
            view.SetLayoutLabel(twin.GetLayoutLabel() + "+")
            view.SetLayoutColor(*((1.0 + part) / 2.0 for part in twin.GetLayoutColor()))
            view.SetOrientation(twin.GetOrientation())
        slicer.mrmlScene.AddNode(view)

    def _placeSideBySide(self, forecasts, names):
        with slicer.util.RenderBlocker():
            for shown, name in zip(forecasts, names):
                if shown.browser.GetScene() is None:
                    continue
                display = shown.proxy.GetDisplayNode()
                display.SetVisibility(True)
                display.RemoveAllViewNodeIDs()
                display.AddViewNodeID("vtkMRMLSliceNode" + name)
            views = [slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNode" + name) for name in names]
            first, *others = views
            for view in others:
                if first is None or view is None:
                    continue
                if not view.GetAttribute(FORMER_ATTRIBUTE):
                    former = view.GetSliceToRAS()
                    rows = [former.GetElement(row, column) for row in range(4) for column in range(4)]
                    view.SetAttribute(FORMER_ATTRIBUTE, json.dumps(rows))
                view.GetSliceToRAS().DeepCopy(first.GetSliceToRAS())
                view.UpdateMatrices()
                view.SetFieldOfView(*first.GetFieldOfView())
                view.SetXYZOrigin(*first.GetXYZOrigin())
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
