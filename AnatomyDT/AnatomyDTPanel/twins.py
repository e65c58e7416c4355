"""The Patient's twin section of the panel: calibrate, what was fitted, regimes over the draws of the twin."""

import qt
import slicer
from slicer.i18n import tr as _

from AnatomyDTLib.engine import ForecastError
from AnatomyDTLib.plan import PlanError
from AnatomyDTLib.scene import twins

from . import choices, models, tissues

FIT = "Fit"
MOST_ROWS, HEADER_HEIGHT = 6, 28


class Twins:
    """A part of the module's widget: it has the widget's `ui`, `logic` and `_parameterNode`."""

    def setUpTwin(self):
        table = self.ui.twinTable
        table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for column, width in ((1, 62), (2, 118)):
            table.horizontalHeader().setSectionResizeMode(column, qt.QHeaderView.Fixed)
            table.setColumnWidth(column, width)
        self._twinShown = None

    def showTwin(self):
        """The twin that is chosen, with its parameters and visits; what may be pressed."""
        ui, p = self.ui, self._parameterNode
        if p is None:
            return
        twin = self._twinOrNone()
        text = twin.sha256 if twin is not None else ""
        if text != self._twinShown:
            self._twinShown = text
            self._fillTwin(twin)
        why = self.missingForTwin()
        ui.calibrateButton.setEnabled(not why and not self.logic.running)
        ui.calibrateButton.setText(_("Calibrate") if twin is None else _("Update with new follow-ups"))
        ui.calibrateButton.setToolTip(why or _(
            "Fit the numbers of the equation to the follow-ups of Inputs, under the treatments that were given between them. "
            "A chosen twin is updated with what it has not seen. A cancelled calibration goes on where it was."))
        ui.saveTwinButton.setEnabled(twin is not None)
        several = len(self._regimes()) > 1
        ui.compareRegimesButton.setEnabled(twin is not None and several and not self.logic.running)
        ui.compareRegimesButton.setToolTip(
            _("Calibrate a twin, or choose one under Forecast, then compare.") if twin is None else
            _("Run a second forecast under another name, then compare.") if not several else
            _("Volumes, time to progression and doses of all forecasts' treatments over the draws of the twin, and how often "
              "one is better: a table, a chart and the difference of the first two."))
        ui.membersSpinBox.setEnabled(p.model == models.TWIN)

    def _twinOrNone(self):
        try:
            return self.twin()
        except PlanError:
            return None

    def _fillTwin(self, twin):
        table = self.ui.twinTable
        parameters = twin.parameters if twin is not None else ()
        table.setRowCount(0)
        table.setRowCount(len(parameters))
        for row, one in enumerate(parameters):
            low, high = one.interval()
            told, tip = "" if one.told else " *", f"{one.name} ({one.unit}): {one.verdict()}"
            for column, text in enumerate((one.name, format(one.value, ".3g") + told, f"{low:.3g} – {high:.3g}")):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(tip)
                table.setItem(row, column, item)
        # Nothing is hidden here: a closed section shows what was hidden in it when it opens.
        table.setFixedHeight((min(len(parameters), MOST_ROWS) + 1) * (table.rowHeight(0) if parameters else HEADER_HEIGHT))
        self.ui.twinFitLabel.setText(self._fitText(twin))

    @staticmethod
    def _fitText(twin):
        if twin is None:
            return _("No twin yet: Calibrate fits the numbers of the equation to this patient's follow-ups.")
        lines = [] if all(p.told for p in twin.parameters) else [_("* not told by the data: the tooltip says why.")]
        for seen in twin.observations:
            line = _("Day {day}: {observed} mL seen, {fitted} mL fitted, DSC {dsc}.").format(
                day=format(seen.day, "g"), observed=format(seen.observed_ml, ".2f"), fitted=format(seen.fitted_ml, ".2f"),
                dsc=format(seen.dsc, ".2f"))
            if seen.forecast:
                line += " " + _("Forecast before it was seen: {volume} mL ({low} to {high}).").format(
                    volume=format(seen.forecast["volume_ml"], ".2f"), low=format(seen.forecast["low_ml"], ".2f"),
                    high=format(seen.forecast["high_ml"], ".2f"))
            lines.append(line)
        return "\n".join(lines)

    def missingForTwin(self):
        """What keeps a calibration from running, in words; "" when nothing does."""
        p = self._parameterNode
        if p is None:
            return _("Choose a segmentation.")
        if models.weights_file(p.model, p.weightsFile) is not None:
            return _("Trained weights are not calibrated: choose the equation or a twin as the model.")
        if p.model == models.TWIN and not self._modelIsThere():
            return _("Choose the equation as the model, to calibrate a first twin.")
        if not self.followUps():
            return _("Add a later segmentation and its day under Inputs.")
        return self._followUpStatus() or self.missing()

    # Calibrate

    def onCalibrate(self):
        if self.logic.running:
            return
        why = self.missingForTwin()
        if why:
            return self.say(why)
        p = self._parameterNode
        try:
            why = self.logic.ensureDependencies()
            if why:
                return self.sayNotInstalled(why)
            plan, assignment = self.plan(calibrated=False)
            self.ui.logTextEdit.setPlainText("")
            self.logic.calibrate(
                p.segmentation, plan, self.followUps(), reference=p.reference, assignment=assignment,
                regions=self._regions(plan), doses=self._doses(plan), name=FIT, twin=self.twin(),
                resample=p.resampleFollowUps, device=p.device, progress=self.onProgress, completed=self.onCalibrated)
        except ValueError as error:
            return self.say(str(error))
        self.onStarted()

    def onCalibrated(self, result, shown, message):
        p = self._parameterNode
        if result is not None and p is not None:
            twin, fit = result
            name = _("{name} twin").format(name=p.segmentation.GetName() if p.segmentation else _("Patient"))
            text = twins.store(slicer.mrmlScene, twin.to_json(), name, p.twin)
            twins.add_tables(slicer.mrmlScene, twin, text.GetName())
            with slicer.util.NodeModify(p.parameterNode):
                p.twin, p.twinFile, p.model = text, "", models.TWIN
            self.onCompleted(fit, shown, message)
            self._parameterNode.followUpOutlines = True
            shown.browser.SetSelectedItemNumber(shown.browser.GetNumberOfItems() - 1)
            self.showFollowUpOutlines()
        else:
            self.onCompleted(None, None, message)

    def onSaveTwin(self):
        path = self.chosenToSave(_("Save twin"), "twin.json", _("Twin"))
        if path:
            self.saveTwin(path)

    def saveTwin(self, path):
        """Writes the twin as the command line's file; says why when it cannot."""
        why = self.written(path, lambda: self.twin().to_json())
        self.say(_("The twin was not saved: {why}").format(why=why) if why else _("The twin was saved."))

    # Regimes

    def _regimes(self):
        # The fit is the past of all of them, and no regime.
        return [f for f in self.logic.forecasts() if f.name != FIT]

    def onCompareRegimes(self):
        if self.logic.running:
            return
        p = self._parameterNode
        try:
            twin = self.twin()
            if twin is None:
                raise ForecastError(_("Calibrate a twin, or choose one under Forecast, then compare."))
            why = self.logic.ensureDependencies()
            if why:
                return self.sayNotInstalled(why)
            rows = {row.name: (p.regions, row.id) for row in tissues.rowsOf(p.regions)}
            doses = {t.dose_map: p.dose for t in choices.treatments_of(p.treatments) if getattr(t, "dose_map", None)}
            self.logic.compareRegimes(
                twin, self._regimes(), members=p.members, regions=rows, doses=doses, device=p.device,
                progress=self.onProgress, completed=self.onRegimesCompared)
        except ValueError as error:
            return self.say(str(error))
        self.onStarted()

    def onRegimesCompared(self, found, nodes, message):
        self.ui.progressBar.setVisible(False)
        if nodes is not None:
            table, chart, volume = nodes
            best = [p for p in found["preferences"] if p["measure"] == "progression" and p["probability"] > 0.5]
            for one in best:
                message += "\n" + _("{better} progresses later than {worse} with a probability of {part}.").format(
                    better=one["better"], worse=one["worse"], part=format(one["probability"], ".0%"))
            self.logic.showChart(chart)
        self.say(message)
        self.updateApply()
