"""The table segment -> tissue."""

from __future__ import annotations

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from AnatomyDTLib.labelling import NUMBERINGS
from AnatomyDTLib.plan import ROLES

from . import choices


def numberings():
    """(text, numbering) of what can tell the tissues; None: the segments' names."""
    texts = {
        "brats": "BraTS", "brats2024": "BraTS 2024", "synthseg": "SynthSeg, FreeSurfer", "fast": "FAST",
        "anatomydt": _("AnatomyDT sample"),
    }
    return [(_("Names and terminology"), None)] + [(text, key) for key, text in texts.items() if key in NUMBERINGS]


def roleTexts():
    """Role -> the words that the user reads."""
    return {
        "": _("(choose)"), "tumor": _("Tumor"), "edema": _("Edema"), "necrosis": _("Necrosis"),
        "cavity": _("Resection cavity"), "white": _("White matter"), "grey": _("Grey matter"),
        "organ": _("Other tissue"), "csf": _("CSF"),
        "ventricle": _("Ventricle"), "vessel": _("Vessel"), "barrier": _("Barrier (falx, skull)"),
        "background": _("Background"),
    }


def rowsOf(segmentationNode):
    """The segments of a node as choices.SegmentRow, in the node's order."""
    if segmentationNode is None or segmentationNode.GetSegmentation() is None:
        return []
    rows = []
    segmentation = segmentationNode.GetSegmentation()
    for segmentID in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segmentID)
        entry = vtk.reference("")
        known = segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), entry)
        terminology = str(entry.get()) if known and entry.get() else None
        rows.append(choices.SegmentRow(
            segmentID, segment.GetName(), tuple(segment.GetColor()), terminology, segment.GetLabelValue()))
    return rows


class TissueTable:
    """Shows the rows and their roles; tells `changed(segmentID, role)` when the user chooses another."""

    def __init__(self, table, changed):
        self._table, self._changed = table, changed
        self._shown, self._combos = None, {}
        self._roles = list(roleTexts().items())
        assert {role for role, text in self._roles} == {"", *ROLES}

    def show(self, rows, roles):
        """rows: choices.SegmentRow per segment; roles: segment ID -> role, "" or missing: none yet."""
        if rows != self._shown:
            self._shown = list(rows)
            self._fill()
        for row in rows:
            combo = self._combos[row.id]
            index = [role for role, text in self._roles].index(roles.get(row.id, ""))
            if combo.currentIndex != index:
                blocked = combo.blockSignals(True)
                combo.setCurrentIndex(index)
                combo.blockSignals(blocked)

    def _fill(self):
        self._combos = {}
        self._table.setRowCount(0)
        self._table.setRowCount(len(self._shown))
        for number, row in enumerate(self._shown):
            item = qt.QTableWidgetItem(row.name)
            swatch = qt.QPixmap(14, 14)
            swatch.fill(qt.QColor(*(int(round(255 * c)) for c in row.color)))
            item.setIcon(qt.QIcon(swatch))
            item.setToolTip(row.name)
            self._table.setItem(number, 0, item)
            combo = qt.QComboBox()
            combo.setObjectName("tissue" + str(number))
            combo.setToolTip(_("The tissue of this segment."))
            for role, text in self._roles:
                combo.addItem(text, role)
            # The wheel is for scrolling the table; a combo takes it only once it was clicked.
            combo.setFocusPolicy(qt.Qt.StrongFocus)
            combo.connect("currentIndexChanged(int)", lambda index, segmentID=row.id: self._chosen(segmentID, index))
            self._table.setCellWidget(number, 1, combo)
            self._combos[row.id] = combo
        self._table.setColumnWidth(0, 170)

    def _chosen(self, segmentID, index):
        self._changed(segmentID, self._roles[index][0])
