"""The Results section of the panel: play, show, compare."""

import slicer
import vtk
from slicer.i18n import tr as _

from .views import SIDE_VIEWS


class Results:
    """A part of the module's widget: it has the widget's `ui`, `logic`, `_parameterNode` and observers."""

    def shown(self):
        """The forecast that is chosen under Results, None without one."""
        return self.logic.find(self._parameterNode.shownForecast) if self._parameterNode else None

    def updateResults(self):
        if self._parameterNode is None or slicer.mrmlScene.IsClosing():
            return
        found = self.logic.forecasts()
        names = [f.name for f in found]
        combo = self.ui.forecastComboBox
        blocked = combo.blockSignals(True)
        combo.clear()
        for name in names:
            combo.addItem(name, name)
        if names and self._parameterNode.shownForecast not in names:
            self._parameterNode.shownForecast = names[-1]
        if names:
            combo.setCurrentIndex(names.index(self._parameterNode.shownForecast))
        combo.blockSignals(blocked)
        shown = self.shown()
        ui = self.ui
        for widget in (ui.forecastComboBox, ui.seekWidget, ui.playWidget, ui.show3DButton, ui.chartButton,
                       ui.compareTissueComboBox):
            widget.setEnabled(shown is not None)
        self.ui.outlineSlider.setEnabled(shown is not None and shown.baseline is not None)
        self._showOverlay(shown)
        self.ui.scoreButton.setEnabled(shown is not None and len(self.comparedFollowUps()) > 0)
        several = len(found) > 1
        for button in (self.ui.compareButton, self.ui.sideBySideButton):
            button.setEnabled(several)
        self.ui.compareButton.setToolTip(
            _("One chart of this tissue in all forecasts of the scene.") if several else
            _("Run a second forecast under another name, then compare."))
        self.ui.seekWidget.setMRMLSequenceBrowserNode(shown.browser if shown else None)
        self.ui.playWidget.setMRMLSequenceBrowserNode(shown.browser if shown else None)
        # Without a sequence to play, Slicer's player shows buttons for recording, and is wider than the panel.
        self.ui.playWidget.setVisible(shown is not None)
        self.ui.show3DButton.setSegmentationNode(shown.proxy if shown else None)
        self.ui.resultsCollapsibleButton.setEnabled(shown is not None)
        tissues = [line.GetYColumnName() for line in shown.series if line is not None] if shown else []
        combo = self.ui.compareTissueComboBox
        if [combo.itemText(i) for i in range(combo.count)] != tissues:
            blocked = combo.blockSignals(True)
            combo.clear()
            for tissue in tissues:
                combo.addItem(tissue, tissue)
            chosen = [i for i, tissue in enumerate(tissues) if tissue == self._parameterNode.comparedTissue]
            tumors = [i for i, tissue in enumerate(tissues) if "tumor" in tissue.casefold()]
            combo.setCurrentIndex((chosen + tumors + [0])[0])
            combo.blockSignals(blocked)
        self._followDays(shown)
        if shown is not None and shown.baseline is not None and shown.baseline.GetDisplayNode() is not None:
            display = shown.baseline.GetDisplayNode()
            outlined = display.GetVisibility() and not display.GetVisibility2DFill()
            value = display.GetOpacity2DOutline() if outlined else 0.0
            blocked = self.ui.outlineSlider.blockSignals(True)
            self.ui.outlineSlider.setValue(value)
            self.ui.outlineSlider.blockSignals(blocked)

    # Follow-ups over the forecast

    def _followDays(self, shown):
        """Observes the day of the forecast that is shown, for the follow-ups' outlines."""
        browser = shown.browser if shown is not None else None
        if browser is not self._outlined:
            if self._outlined is not None:
                self.removeObserver(self._outlined, vtk.vtkCommand.ModifiedEvent, self._onDayModified)
            self._outlined = browser
            if browser is not None:
                self.addObserver(browser, vtk.vtkCommand.ModifiedEvent, self._onDayModified)
        self.showFollowUpOutlines()

    def _onDayModified(self, browser, event):
        self.showFollowUpOutlines()

    def showFollowUpOutlines(self):
        """Where they are wanted: the outlines of the follow-up that is nearest to the day that is shown, of no other."""
        p, shown = self._parameterNode, self.shown()
        if p is None or shown is None:
            return
        wanted = None
        number = shown.browser.GetSelectedItemNumber()
        if p.followUpOutlines and 0 <= number < shown.sequence.GetNumberOfDataNodes():
            day = float(shown.sequence.GetNthIndexValue(number))
            near = min(self.followUps(), key=lambda row: abs(row[1] - day), default=None)
            # Day 0 is the first scan's.
            wanted = near[0] if near is not None and abs(near[1] - day) <= day else None
        if self._drawn is not wanted:
            # What the user outlined otherwise stays.
            if self._drawn is not None and self._drawn.GetScene() is not None:
                self.logic.showOutline(self._drawn, 0.0)
            if wanted is not None:
                self.logic.showOutline(wanted, 1.0)
            self._drawn = wanted

    def onForecastChosen(self, index):
        if self._parameterNode is not None and index >= 0:
            self._parameterNode.shownForecast = self.ui.forecastComboBox.itemData(index)
            shown = self.shown()
            if shown is not None:
                self.logic.bringToFront(shown)
                self.takeOverlayTo(shown)
            self.updateResults()

    def onComparedTissueChosen(self, index):
        if self._parameterNode is not None and index >= 0:
            self._parameterNode.comparedTissue = self.ui.compareTissueComboBox.itemData(index)

    def onChart(self):
        self.logic.showChart(self.shown().chart)

    def onOutline(self, opacity):
        shown = self.shown()
        if shown is not None and shown.baseline is not None:
            self.logic.showOutline(shown.baseline, opacity)

    def onOverlay(self, on):
        shown = self.shown()
        if shown is not None and shown.probability_proxy is not None:
            self._overlay(shown.probability_proxy if on else None)

    def takeOverlayTo(self, shown):
        """The overlay goes with the forecast, so that the former one's does not lie over this one."""
        if self.ui.overlayCheckBox.checked:
            self._overlay(shown.probability_proxy)

    def _overlay(self, volume):
        slicer.util.setSliceViewerLayers(foreground=volume, foregroundOpacity=0.0 if volume is None else 0.6)

    def _showOverlay(self, shown):
        """The check box says what the slice views show, also after a scene was loaded."""
        volume, box = shown and shown.probability_proxy, self.ui.overlayCheckBox
        over = volume is not None and any(
            composite.GetForegroundVolumeID() == volume.GetID() and composite.GetForegroundOpacity() > 0
            for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))
        blocked = box.blockSignals(True)
        box.setChecked(over)
        box.blockSignals(blocked)
        box.setEnabled(volume is not None)

    def onScore(self):
        """Compares the chosen forecast with the follow-up, in the background."""
        if self.logic.running:
            return
        try:
            why = self.logic.ensureScoringPackages()
            if why:
                return self.sayNotInstalled(why)
            self.logic.score(self.shown(), self.comparedFollowUps(), progress=self.onProgress, completed=self.onScored)
        except ValueError as error:
            return self.say(str(error))
        self.onStarted()

    def onScored(self, scores, table, message):
        self.ui.progressBar.setVisible(False)
        self.say(message)
        if table is not None:
            self.logic.showTable(table)
        self.updateApply()

    def onCompare(self):
        tissue = self.ui.compareTissueComboBox.itemData(self.ui.compareTissueComboBox.currentIndex)
        try:
            self.logic.compare(tissue)
        except ValueError as error:
            self.say(str(error))

    def onSideBySide(self):
        """The chosen forecast and the others, the youngest first, in linked views; they follow the first one's day."""
        shown = self.shown()
        others = [f for f in self.logic.forecasts() if f.name != shown.name][::-1][:len(SIDE_VIEWS) - 1]
        self._unlink()
        self.logic.showSideBySide(shown, *others)
        leader = shown.browser
        self._linked = [(leader, self._onLeaderModified, other.browser) for other in others]
        self.addObserver(leader, vtk.vtkCommand.ModifiedEvent, self._onLeaderModified)
        self._onLeaderModified(leader, None)
        if len(others) == 1:
            return self.say(_("Left: {left}. Right: {right}. The right one follows the day of the left one.").format(
                left=shown.name, right=others[0].name))
        self.say(_("In the order of the views: {names}. All follow the day of the first one.").format(
            names=", ".join(one.name for one in (shown, *others))))

    def _onLeaderModified(self, leader, event):
        for one, callback, follower in self._linked:
            if one is leader and follower.GetScene() is not None:
                self.logic.followDay(leader, follower)

    def _unlink(self):
        for leader, callback, follower in self._linked[:1]:
            self.removeObserver(leader, vtk.vtkCommand.ModifiedEvent, callback)
        self._linked = []
