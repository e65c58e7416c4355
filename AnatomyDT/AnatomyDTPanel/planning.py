"""The plan as the panel holds it: treatments, days, the plan's file, the picture of it."""

import json
import os

import qt
import slicer
from slicer.i18n import tr as _

from AnatomyDTLib import presets
from AnatomyDTLib.plan import Plan

from . import choices, models, timeline, tissues
from .texts import regimeTexts
from .treatments import kindTexts


class Planning:
    """A part of the module's widget: it has the widget's `ui`, `logic` and `_parameterNode`."""

    def days(self):
        """The reported days that are chosen."""
        p = self._parameterNode
        if p.loadedDays:
            return tuple(json.loads(p.loadedDays)["days"])
        return choices.reported_days(p.horizonDays, p.intervalDays)

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

    def showTreatments(self):
        p = self._parameterNode
        self._treatments.setRegions([row.name for row in tissues.rowsOf(p.regions)])
        self._treatments.show(choices.treatments_of(p.treatments))
        self.updateTimeline()
        late = self.lateTreatment()
        if late or self._lateShown:
            self.ui.eventStatusLabel.setText(late)
        self._lateShown = bool(late)

    def updateTimeline(self, palette=None):
        """palette: of the theme that is coming; None: the one that is there."""
        if self._parameterNode is None:
            return
        label = self.ui.timelineLabel
        color = (palette or label.palette).color(qt.QPalette.WindowText)
        treatments = choices.treatments_of(self._parameterNode.treatments)
        # Before the panel is laid out, a label says nothing true about its width.
        width = max(label.width, 240) if label.visible else 340
        label.setPixmap(timeline.picture(treatments, self.days()[-1], width, color, kindTexts()))

    def lateTreatment(self):
        """A sentence about treatments beyond the horizon; "" without one."""
        treatments = choices.treatments_of(self._parameterNode.treatments)
        last = max((t.event_days()[-1] for t in treatments), default=0.0)
        if last <= self.days()[-1]:
            return ""
        return _(
            "A treatment goes on until day {day}, after the last day of the forecast: "
            "extend the horizon, or use the preset again."
        ).format(day=format(last, "g"))

    def onTreatmentsEdited(self, treatments):
        self._parameterNode.treatments = choices.treatments_text(treatments)

    def showRegimes(self):
        """The presets: the standard courses, then every plan that is a text in the scene, as a sample brings one."""
        combo = self.ui.regimeComboBox
        texts = slicer.util.getNodesByClass("vtkMRMLTextNode")
        # A twin holds a plan, too.
        plans = [n for n in texts if '"anatomydt_plan"' in (n.GetText() or "") and '"anatomydt_twin"' not in n.GetText()]
        items = regimeTexts() + [(node.GetName(), node.GetID()) for node in plans]
        blocked = combo.blockSignals(True)
        if [(combo.itemText(i), combo.itemData(i)) for i in range(combo.count)] != items:
            combo.clear()
            for text, data in items:
                combo.addItem(text, data)
        chosen = self._parameterNode.regime if self._parameterNode is not None else ""
        combo.setCurrentIndex(max(combo.findData(chosen), 0))
        combo.blockSignals(blocked)

    def onRegimeChosen(self, index):
        if self._parameterNode is not None and not self._updating and index >= 0:
            self._parameterNode.regime = self.ui.regimeComboBox.itemData(index)

    def onUseRegime(self):
        name = self.ui.regimeComboBox.itemData(self.ui.regimeComboBox.currentIndex)
        node = slicer.mrmlScene.GetNodeByID(name)
        if node is not None:
            return self.takePlan(node.GetText())
        treatments = presets.regime(name, self.days()[-1], self.ui.regimeStartSpinBox.value)
        self._parameterNode.treatments = choices.treatments_text(treatments)

    def twin(self):
        """The calibrated twin that is chosen, of a file or of the scene; None without one, raises PlanError."""
        p = self._parameterNode
        if p.model != models.TWIN:
            return None
        if p.twinFile or p.twin is None:
            return models.twin_of(p.twinFile)
        return models.twin_in(p.twin)

    def plan(self, calibrated=True):
        """(Plan, segment ID -> tissue index) of what is chosen; raises PlanError.

        calibrated: with a twin's numbers; else with those that the twin started from
        """
        p = self._parameterNode
        law, loaded = p.growthLaw or presets.DEFAULT_GROWTH, Plan.from_json(p.loadedPlan) if p.loadedPlan else None
        twin = self.twin()
        if twin is not None:
            law, loaded = choices.FROM_PLAN, twin.plan
        made = choices.plan(
            tissues.rowsOf(p.segmentation), json.loads(p.roles), choices.treatments_of(p.treatments), self.days(),
            law, p.infiltration, p.massEffect, loaded)
        if twin is not None:
            return (models.with_twin if calibrated else models.as_calibrated)(*made, twin)
        file = models.weights_file(p.model, p.weightsFile)
        if file is None:
            return made
        weights = models.weights_of(file)
        return made if weights.whole else models.fitted(*made, weights.tissues, weights.roles)

    # The plan's file

    def onLoadPlan(self):
        path = qt.QFileDialog.getOpenFileName(self.parent, _("Load plan"), "", _("Plan") + " (*.json)")
        path = path[0] if isinstance(path, tuple) else path
        if path:
            self.loadPlan(path)

    def onSavePlan(self):
        path = self.chosenToSave(_("Save plan"), "plan.json", _("Plan"))
        if path:
            self.savePlan(path)

    def chosenToSave(self, title, name, kind):
        """The path of a JSON file that the user wants to write, "" for none."""
        path = qt.QFileDialog.getSaveFileName(self.parent, title, name, kind + " (*.json)")
        return path[0] if isinstance(path, tuple) else path

    def savePlan(self, path):
        """Writes what is chosen; says why when it cannot."""
        why = self.written(path, lambda: self.plan()[0].to_json())
        self.say(_("The plan was not saved: {why}").format(why=why) if why else _("The plan was saved."))

    @staticmethod
    def written(path, text):
        """Writes text() to a file: "", or why not, and then a former file is as it was."""
        part = f"{path}.part"
        try:
            content = text()
            with open(part, "w", encoding="utf-8", newline="\n") as file:
                file.write(content)
            os.replace(part, path)
        except (ValueError, OSError) as error:
            if os.path.isfile(part):
                os.remove(part)
            return str(getattr(error, "strerror", None) or error)
        return ""

    def loadPlan(self, path):
        """Takes a plan over from its file; says why when it cannot."""
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (ValueError, OSError) as error:
            return self.say(_("The plan was not loaded: {why}").format(why=getattr(error, "strerror", None) or error))
        self.takePlan(text)

    def takePlan(self, text):
        """Takes treatments, days and numbers over from a plan's JSON; says why when it cannot."""
        try:
            plan = Plan.from_json(text)
        except ValueError as error:
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
