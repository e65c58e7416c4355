"""The Forecast section of the panel: model, device, expected time, Apply and the run."""

import json
import logging
import time

import qt
import slicer
from slicer.i18n import tr as _

from AnatomyDTLib import presets
from AnatomyDTLib.engine import ForecastError
from AnatomyDTLib.plan import PlanError
from AnatomyDTLib.scene.segmentation import MOST_SEGMENTS

from . import choices, cost, devices, models, tissues
from .images import ImageSelectors
from .texts import growthText, modelTexts, showChoice

APPLY_SHORTCUT = "Alt+A"
SETTING = "AnatomyDT/ExpectedTimeFactor/"


class Forecasting:
    """A part of the module's widget: it has the widget's `ui`, `logic` and `_parameterNode`."""

    # Longer than a double click: its second half would cancel what its first half started.
    DOUBLE_CLICK_SECONDS = 0.5

    def setUpModel(self):
        for text, model in modelTexts():
            self.ui.modelComboBox.addItem(text, model)
        for device in ("auto", "cpu", "cuda"):
            self.ui.deviceComboBox.addItem("", device)
        self._images = ImageSelectors(self.ui.imagesWidget, self.onImagesChosen)
        self._query, self._started, self._applied = None, None, 0.0
        self._queryTimer = qt.QTimer()
        self._queryTimer.setInterval(200)
        self._queryTimer.connect("timeout()", self._pollDevices)
        self.showDevices()

    def showModel(self):
        p, ui = self._parameterNode, self.ui
        showChoice(ui.modelComboBox, p.model)
        showChoice(ui.deviceComboBox, p.device)
        self._showGrowth()
        fromFile = p.model in (models.WEIGHTS, models.TWIN)
        for widget in (ui.modelFileLabel, ui.modelFileLineEdit):
            widget.setVisible(fromFile)
        for widget in (ui.growthLabel, ui.growthComboBox):
            widget.setVisible(p.model != models.TWIN)
        if fromFile:
            ui.modelFileLabel.setText(_("Weights file:") if p.model == models.WEIGHTS else _("Twin file:"))
            path = self._modelFile()
            if ui.modelFileLineEdit.currentPath != path:
                blocked = ui.modelFileLineEdit.blockSignals(True)
                ui.modelFileLineEdit.setCurrentPath(path)
                ui.modelFileLineEdit.blockSignals(blocked)
        images = self._wantedImages()
        for widget in (ui.imagesLabel, ui.imagesWidget):
            widget.setVisible(len(images) > 0)
        self._images.show(images)
        status = self._modelStatus()
        ui.modelStatusLabel.setText(status)
        ui.modelStatusLabel.setVisible(status != "")

    def _showGrowth(self):
        p, combo = self._parameterNode, self.ui.growthComboBox
        laws = list(presets.GROWTH_LAWS) + ([choices.FROM_PLAN] if p.loadedPlan else [])
        if combo.count != len(laws):
            blocked = combo.blockSignals(True)
            combo.clear()
            for law in laws:
                combo.addItem(growthText(law), law)
            combo.blockSignals(blocked)
        law = p.growthLaw or presets.DEFAULT_GROWTH
        showChoice(combo, law)
        known = presets.GROWTH_LAWS.get(law)
        combo.setToolTip(known.source if known else _("The numbers of the plan file."))

    def _modelIsThere(self):
        p = self._parameterNode
        return p.model not in (models.WEIGHTS, models.TWIN) or bool(self._modelFile()) or (p.model == models.TWIN and p.twin is not None)

    def _weights(self):
        return models.weights_file(self._parameterNode.model, self._parameterNode.weightsFile)

    def _modelFile(self):
        p = self._parameterNode
        return p.weightsFile if p.model == models.WEIGHTS else p.twinFile

    def _modelStatus(self):
        """What the model's file is, or why it is none; "" for the model without one."""
        p = self._parameterNode
        if p.model == models.MECHANISTIC:
            return ""
        if not self._modelIsThere():
            return self._missingModel()
        try:
            if self._weights() is not None:
                return _("Trained for: {names}.").format(names=", ".join(models.weights_of(self._weights()).tissues))
            return _("Calibrated on the days {days}.").format(
                days=", ".join(format(visit.day, "g") for visit in self.twin().observations))
        except PlanError as error:
            return sentence(error)

    def _wantedImages(self):
        """A volume, or None where none is chosen yet, for each image that the weights need."""
        try:
            wanted = models.weights_of(self._weights()).images if self._weights() else 0
        except PlanError:
            wanted = 0
        chosen = list(self._parameterNode.images)[:wanted]
        return chosen + [None] * (wanted - len(chosen))

    def _missingImage(self):
        """Why the images cannot be taken, "" when they can."""
        images = self._wantedImages()
        if None in images:
            return _("The weights were trained with {count} image(s): choose them under Images, in the order of their training.").format(count=len(images))
        if len({node.GetID() for node in images}) < len(images):
            return _("An image stands twice under Images.")
        return ""

    def onImagesChosen(self, nodes):
        if self._parameterNode is not None and not self._updating:
            # What was chosen for weights that need more of them stays.
            self._parameterNode.images = list(nodes) + list(self._parameterNode.images)[len(nodes):]

    def _missingModel(self):
        if self._parameterNode.model == models.TWIN:
            return _("Choose the model's file, or calibrate a twin below.")
        return _("Choose the model's file.")

    def onGrowthChosen(self, index):
        if self._parameterNode is not None and not self._updating and index >= 0:
            self._parameterNode.growthLaw = self.ui.growthComboBox.itemData(index)

    def onModelChosen(self, index):
        if self._parameterNode is not None and not self._updating and index >= 0:
            self._parameterNode.model = self.ui.modelComboBox.itemData(index)

    def onModelFileChosen(self, path):
        p = self._parameterNode
        if p is None or self._updating:
            return
        if p.model == models.WEIGHTS:
            p.weightsFile = path
        elif p.model == models.TWIN:
            p.twinFile = path

    # What there is to compute on

    def askDevices(self):
        """Finds out in the background what there is to compute on, once."""
        if devices.known() is None and self._query is None and devices.torch_is_installed():
            try:
                self._query = devices.DeviceQuery()
            except ForecastError as error:
                logging.info(error)
                return
            self._queryTimer.start()
        self.showDevices()

    def _pollDevices(self):
        if self._query is None or not self._query.poll():
            return
        self._queryTimer.stop()
        query, self._query = self._query, None
        try:
            devices.remember(query.result())
        except ForecastError as error:
            logging.info(error)
        self.showDevices()
        self.onParametersModified()

    def endDeviceQuery(self):
        self._queryTimer.stop()
        if self._query is not None:
            self._query.cancel()
            self._query = None

    def showDevices(self):
        combo = self.ui.deviceComboBox
        texts = devices.texts(devices.known(), self._query is not None)
        for index in range(combo.count):
            combo.setItemText(index, texts[combo.itemData(index)])
        what = _("What computes. Automatic: the graphics card where PyTorch can use one, else the processor.")
        combo.setToolTip("\n".join([what, *texts.values()]))

    def onDeviceChosen(self, index):
        if self._parameterNode is not None and not self._updating:
            self._parameterNode.device = self.ui.deviceComboBox.itemData(index)

    # How long it will take

    def _onCard(self):
        found = devices.known()
        return self._parameterNode.device != "cpu" and found is not None and len(found.cards) > 0

    def expectedSeconds(self):
        """(by the figures of `cost` alone, corrected by the last run or None without one); None where nothing can run."""
        p = self._parameterNode
        try:
            plan, index = self.plan()
            tumors = [segmentID for segmentID, k in index.items() if plan.anatomy.tissues[k].is_tumor]
            size = tissues.sizeOf(p.segmentation, p.reference, tumors)
        except PlanError:
            return None
        if size is None:
            return None
        seconds = cost.expected_seconds(plan, size, self._onCard(), self._weights() is not None)
        factor = slicer.app.userSettings().value(SETTING + ("card" if self._onCard() else "processor"))
        try:
            return seconds, seconds * min(max(float(factor), 0.02), 50.0)
        except (TypeError, ValueError):
            return seconds, None

    def showExpected(self):
        p, days = self._parameterNode, self.days()
        text = _("{count} frames to day {last}.").format(count=len(days) + 1, last=format(days[-1], "g"))
        if p.loadedDays:
            text += " " + _("The days are those of the plan file.")
        expected = self.expectedSeconds()
        if expected is not None:
            number, unit = cost.rounded(expected[1] or expected[0])
            text += " " + (
                _("Expected time: about {number} {unit}, by the last run.") if expected[1] else
                _("Expected time: about {number} {unit}.")).format(number=number, unit=unit)
        self.ui.expectedLabel.setText(text)

    def _learnTime(self, result):
        """The last run corrects what the next one is expected to take."""
        if self._started is None or self._started[1] is None:
            return
        began, (seconds, corrected) = self._started
        kind = "processor" if result.run["device"] == "cpu" else "card"
        slicer.app.userSettings().setValue(SETTING + kind, (time.monotonic() - began) / seconds)

    # Apply

    def missing(self):
        """What keeps the forecast from running, in words; "" when nothing does."""
        p = self._parameterNode
        if p is None or p.segmentation is None:
            return _("Choose a segmentation.")
        rows, roles = tissues.rowsOf(p.segmentation), json.loads(p.roles)
        if not rows:
            return _("The segmentation has no segment.")
        if len(rows) > MOST_SEGMENTS:
            return _(
                "The segmentation has {count} segments, and a forecast takes at most {most}: merge or drop some."
            ).format(count=len(rows), most=MOST_SEGMENTS)
        unassigned = [row.name for row in rows if not roles.get(row.id)]
        if unassigned:
            return _("Choose what each segment is. Not assigned yet: {names}").format(names=", ".join(unassigned))
        if not {roles[row.id] for row in rows} & {"tumor", "edema"}:
            return _("Choose which segment is the tumor.")
        treatments = choices.treatments_of(p.treatments)
        if self.lateTreatment():
            return self.lateTreatment()
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
        if not self._modelIsThere():
            return self._missingModel()
        missingImage = self._missingImage()
        if missingImage:
            return missingImage
        try:
            self.plan()
        except PlanError as error:
            return sentence(error)
        return devices.refusal(p.device, devices.known())

    def updateApply(self):
        self.showTwin()
        button = self.ui.applyButton
        if self.logic.running:
            button.setText(_("Cancel"))
            button.setToolTip(_("End the computation; the scene stays as it is."))
            button.setEnabled(True)
            # A new text takes the shortcut away.
            button.setShortcut(qt.QKeySequence(APPLY_SHORTCUT))
            return
        missing = self.missing()
        button.setText(_("Apply"))
        button.setEnabled(not missing)
        button.setShortcut(qt.QKeySequence(APPLY_SHORTCUT))
        button.setToolTip(missing or _("Run the forecast in the background (Alt+A)."))

    def say(self, text):
        self.ui.statusLabel.setText(text)
        if text:
            logging.info(text)

    def onApply(self):
        if self.logic.running:
            if time.monotonic() - self._applied >= self.DOUBLE_CLICK_SECONDS:
                self.logic.cancel(_("Cancelled; the scene is as it was."))
            return
        missing = self.missing()
        if missing:
            return self.say(missing)
        p = self._parameterNode
        try:
            why = self.logic.ensureDependencies(weights=self._weights() is not None)
            if why:
                return self.sayNotInstalled(why)
            plan, assignment = self.plan()
            self.ui.logTextEdit.setPlainText("")
            self._started = (time.monotonic(), self.expectedSeconds())
            self.logic.forecast(
                p.segmentation, plan, reference=p.reference, assignment=assignment, regions=self._regions(plan),
                doses=self._doses(plan), name=p.forecastName.strip(), probabilities=p.probabilities, device=p.device,
                weights=self._weights(), images=self._wantedImages(), twin=self.twin(), members=p.members,
                progress=self.onProgress, completed=self.onCompleted)
        except ValueError as error:
            return self.say(str(error))
        self.onStarted()

    def sayNotInstalled(self, why):
        self.ui.logTextEdit.setPlainText("\n".join(self.logic.installationLog))
        self.say(why)

    def onStarted(self):
        self._applied = time.monotonic()
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
            self._learnTime(result)
        elif message:
            self.ui.logTextEdit.appendPlainText(message)
        self.say(message)
        if shown is not None and self._parameterNode is not None:
            self._parameterNode.shownForecast = shown.name
            self.showExpected()
            self.takeOverlayTo(shown)
        self.updateResults()
        self.updateApply()


def sentence(error):
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
