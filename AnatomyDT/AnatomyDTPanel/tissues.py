"""The table segment -> tissue."""

from __future__ import annotations

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _

from AnatomyDTLib.labelling import NUMBERINGS
from AnatomyDTLib.plan import ROLES
from AnatomyDTLib.scene.geometry import voxels
from AnatomyDTLib.scene.labelmaps import LABELMAP

from . import choices, cost
from .keyboard import tabFrom


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


LOOKED_AT_VOXELS = 10_000_000

# What sizeOf found for the last question: the panel asks at every change.
_measured: dict = {}


def sizeOf(segmentationNode, reference, tumorIDs):
    """cost.Size of a forecast of these nodes, by a look at the tumor's voxels; None where that tells nothing."""
    if segmentationNode is None or segmentationNode.GetSegmentation() is None:
        return None
    segmentation = segmentationNode.GetSegmentation()
    images = {i: segmentation.GetSegment(i).GetRepresentation(LABELMAP) for i in segmentation.GetSegmentIDs()}
    images = {i: image for i, image in images.items() if image is not None and not image.IsEmpty()}
    times = tuple((i, image.GetMTime()) for i, image in images.items())
    key = (segmentationNode.GetID(), reference and (reference.GetID(), reference.GetMTime()), tuple(tumorIDs), times)
    if key not in _measured:
        _measured.clear()
        _measured[key] = _size(segmentation, images, reference, tumorIDs)
    return _measured[key]


def _size(segmentation, images, reference, tumorIDs):
    tumors = [(images[i], segmentation.GetSegment(i).GetLabelValue()) for i in tumorIDs if i in images]
    if not tumors:
        return None
    image = next(iter(images.values()))
    if reference is not None and reference.GetImageData() is not None:
        shape, spacing = reference.GetImageData().GetDimensions(), reference.GetSpacing()
    else:
        extents = np.array([one.GetExtent() for one in images.values()])
        shape = extents[:, 1::2].max(0) - extents[:, ::2].min(0) + 1
        spacing = image.GetSpacing()
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for one, value in tumors:
        # The panel waits for it: of a large image every second or third voxel is looked at.
        step = int(np.ceil((np.prod(one.GetDimensions()) / LOOKED_AT_VOXELS) ** (1 / 3)))
        there = voxels(one)[::step, ::step, ::step] == value
        if there.any():
            for axis in range(3):
                hits = step * np.flatnonzero(there.any(tuple(a for a in range(3) if a != axis))) + one.GetExtent()[4 - 2 * axis]
                low[axis], high[axis] = min(low[axis], hits[0]), max(high[axis], hits[-1] + 1)
    # A geometry that is none is refused when the forecast is asked for; here it only has no size.
    if not np.isfinite(low).all() or not all(0 < h < np.inf for h in (*spacing, *image.GetSpacing())):
        return None
    tumor = (high - low) * image.GetSpacing()[::-1]
    return cost.Size(tuple(int(n) for n in shape[::-1]), tuple(spacing[::-1]), tuple(float(mm) for mm in tumor))


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
        tabFrom(self._table, list(self._combos.values()))
        self._table.setColumnWidth(0, 170)

    def _chosen(self, segmentID, index):
        self._changed(segmentID, self._roles[index][0])
