"""The Inputs section of the panel: tissues of the segments, follow-ups and their days."""

import json

import qt
import slicer
from slicer.i18n import tr as _

from . import choices, tissues
from .texts import showChoice


class Inputs:
    """A part of the module's widget: it has the widget's `ui`, `logic`, `_parameterNode` and observers."""

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
        # Once for a hundred segments that are added one after another.
        if not self._segmentsChanged:
            self._segmentsChanged = True
            qt.QTimer.singleShot(0, self._showSegments)

    def _showSegments(self):
        self._segmentsChanged = False
        self.onParametersModified()

    def showTissues(self):
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

    def onRoleChosen(self, segmentID, role):
        roles = json.loads(self._parameterNode.roles)
        roles[segmentID] = role
        self._parameterNode.roles = json.dumps(roles)

    def showNumbering(self):
        combo = self.ui.numberingComboBox
        combo.setCurrentIndex(max(combo.findData(self._parameterNode.numbering), 0))

    def onNumberingChosen(self, index):
        if self._parameterNode is not None and not self._updating and index >= 0:
            self._parameterNode.numbering = self.ui.numberingComboBox.itemData(index)

    def onFill(self):
        numbering = self.ui.numberingComboBox.itemData(self.ui.numberingComboBox.currentIndex) or None
        roles = json.loads(self._parameterNode.roles)
        for row in tissues.rowsOf(self._parameterNode.segmentation):
            roles[row.id] = choices.guessed_role(row, numbering)
        self._parameterNode.roles = json.dumps(roles)

    # Follow-ups

    def followUps(self):
        """(segmentation node, day) of every follow-up that is chosen, by day."""
        p = self._parameterNode
        chosen = [(node, day) for node, day in zip(p.followUps, p.followUpDays) if node is not None]
        return sorted(chosen, key=lambda row: row[1])

    def comparedFollowUps(self):
        """(segmentation node, day) of the follow-ups to compare with: the chosen one, or all."""
        found = self.followUps()
        return [row for row in found if row[0] is self._parameterNode.followUp] or found

    def showFollowUps(self):
        p = self._parameterNode
        self._followUps.show(zip(p.followUps, p.followUpDays))
        self.ui.followUpStatusLabel.setText(self._followUpStatus())
        self.ui.followUpStatusLabel.setVisible(self.ui.followUpStatusLabel.text != "")
        combo, found, compared = self.ui.followUpComboBox, self.followUps(), self.comparedFollowUps()
        blocked = combo.blockSignals(True)
        combo.clear()
        if len(found) > 1:
            combo.addItem(_("All follow-ups"), "")
        for node, day in found:
            combo.addItem(_("{name}, day {day}").format(name=node.GetName(), day=format(day, "g")), node.GetID())
        if len(compared) == 1:
            showChoice(combo, compared[0][0].GetID())
        combo.blockSignals(blocked)
        combo.setEnabled(len(found) > 0)

    def _followUpStatus(self):
        p = self._parameterNode
        chosen = [node for node, day in self.followUps()]
        if len(chosen) < len(p.followUps):
            return _("Choose the segmentation of each follow-up.")
        if any(node is p.segmentation for node in chosen):
            return _("A follow-up is the segmentation of day 0 itself: choose a later one.")
        if len({node.GetID() for node in chosen}) < len(chosen):
            return _("A segmentation stands twice among the follow-ups.")
        if len({day for node, day in self.followUps()}) < len(chosen):
            return _("Two follow-ups have the same day.")
        return ""

    def suggestedFollowUp(self):
        """The first segmentation that is neither day 0, nor a forecast, nor a follow-up already; else None."""
        p = self._parameterNode
        taken = [p.segmentation, p.regions, *p.followUps]
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            if not any(node is one for one in taken) and not self.logic.isForecast(node):
                return node
        return None

    def onFollowUpsEdited(self, rows):
        if self._parameterNode is None or self._updating:
            return
        with slicer.util.NodeModify(self._parameterNode.parameterNode):
            self._parameterNode.followUps = [node for node, day in rows]
            self._parameterNode.followUpDays = [float(day) for node, day in rows]

    def onFollowUpChosen(self, index):
        if self._parameterNode is not None and not self._updating and index >= 0:
            identifier = self.ui.followUpComboBox.itemData(index)
            self._parameterNode.followUp = slicer.mrmlScene.GetNodeByID(identifier) if identifier else None
