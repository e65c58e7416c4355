"""The table of follow-ups: later segmentations of the patient and their days."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from .keyboard import letTabReach, tabFrom
from .nodeselectors import nodeSelector, showNode

LATEST_DAY = 36500.0
# What a new row says: the day of the last one and a usual time between two scans.
BETWEEN_SCANS_DAYS = 90.0


class FollowUpTable:
    """Shows follow-ups; tells `changed(rows)` when the user edits them, asks `suggested()` for a new one's node.

    rows: (segmentation node or None, day) in the order of the table
    """

    def __init__(self, table, addButton, changed, suggested):
        self._table, self._changed, self._suggested = table, changed, suggested
        self._rows, self._widgets = None, []
        addButton.connect("clicked(bool)", lambda checked=False: self._add())
        table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for column, width in ((1, 84), (2, 34)):
            table.horizontalHeader().setSectionResizeMode(column, qt.QHeaderView.Fixed)
            table.setColumnWidth(column, width)
        self.show(())

    def show(self, rows):
        rows = tuple(rows)
        if self._rows is None or len(rows) != len(self._rows):
            self._rows = rows
            self._fill()
        self._rows = rows
        for (node, day), (selector, spin) in zip(rows, self._widgets):
            showNode(selector, node)
            if spin.value != day:
                blocked = spin.blockSignals(True)
                spin.setValue(day)
                spin.blockSignals(blocked)

    def _fill(self):
        self._widgets = []
        self._table.setRowCount(0)
        self._table.setRowCount(len(self._rows))
        self._table.setVisible(len(self._rows) > 0)
        reached = []
        for number in range(len(self._rows)):
            selector, spin, button = self._selector(number), self._spin(number), qt.QPushButton(_("✕"))
            button.setObjectName("removeFollowUp" + str(number))
            button.setToolTip(_("Remove this follow-up from the table; the segmentation stays in the scene."))
            button.setAccessibleName(_("Remove follow-up"))
            button.connect("clicked(bool)", lambda checked=False, number=number: self._remove(number))
            for column, widget in enumerate((selector, spin, button)):
                self._table.setCellWidget(number, column, widget)
            self._widgets.append((selector, spin))
            reached += [letTabReach(selector, hasLabel=False), spin, button]
        tabFrom(self._table, reached)
        # As high as its rows, up to three; more are scrolled to.
        rows = min(len(self._rows), 3)
        self._table.setFixedHeight((rows + 1) * self._table.rowHeight(0))

    def _selector(self, number):
        return nodeSelector(
            f"followUp{number}", "vtkMRMLSegmentationNode", self._rows[number][0],
            _("A later segmentation, whose segments have the names of the first one's."), lambda node: self._edited(number, 0, node))

    def _spin(self, number):
        spin = qt.QDoubleSpinBox()
        spin.setObjectName("followUpDay" + str(number))
        spin.setDecimals(0)
        spin.setRange(1.0, LATEST_DAY)
        spin.setValue(self._rows[number][1])
        spin.setToolTip(_("Days from the first scan to this one."))
        spin.setFocusPolicy(qt.Qt.StrongFocus)
        spin.connect("valueChanged(double)", lambda day, number=number: self._edited(number, 1, day))
        return spin

    def _edited(self, number, column, value):
        # Rows that are gone say nothing.
        if number >= len(self._rows) or self._rows[number][column] == value:
            return
        row = list(self._rows[number])
        row[column] = value
        self._rows = self._rows[:number] + (tuple(row),) + self._rows[number + 1:]
        self._changed(self._rows)

    def _add(self):
        last = max((day for node, day in self._rows), default=0.0)
        self._changed(self._rows + ((self._suggested(), last + BETWEEN_SCANS_DAYS),))

    def _remove(self, number):
        self._changed(self._rows[:number] + self._rows[number + 1:])
