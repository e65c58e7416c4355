"""The images that weights were trained with: a selector for each."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from .keyboard import letTabReach, tabFrom


class ImageSelectors:
    """Shows one selector per image that is needed; tells `changed(nodes)` when the user chooses one."""

    def __init__(self, widget, changed):
        self._widget, self._changed = widget, changed
        self._layout = qt.QVBoxLayout(widget)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._nodes, self._selectors = [], []

    def show(self, nodes):
        """nodes: a volume, or None, for each image."""
        self._nodes = list(nodes)
        if len(self._nodes) != len(self._selectors):
            self._fill()
        for node, selector in zip(self._nodes, self._selectors):
            if selector.currentNode() is not node:
                blocked = selector.blockSignals(True)
                selector.setCurrentNode(node)
                selector.blockSignals(blocked)

    def _fill(self):
        for selector in self._selectors:
            # Gone at once, not when the application next has time: it would still answer to its name.
            self._layout.removeWidget(selector)
            selector.setParent(None)
            selector.deleteLater()
        self._selectors = [self._selector(number) for number in range(len(self._nodes))]
        # Nothing is put behind a widget that takes no focus.
        self._widget.setFocusPolicy(qt.Qt.TabFocus)
        tabFrom(self._widget, [letTabReach(selector, hasLabel=False) for selector in self._selectors])
        self._widget.setFocusPolicy(qt.Qt.NoFocus)

    def _selector(self, number):
        selector = slicer.qMRMLNodeComboBox()
        selector.setObjectName("image" + str(number))
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.noneEnabled, selector.addEnabled, selector.removeEnabled = True, False, False
        selector.setMRMLScene(slicer.mrmlScene)
        selector.setCurrentNode(self._nodes[number])
        what = _("Image {number} of {count}").format(number=number + 1, count=len(self._nodes))
        selector.setAccessibleName(what)
        selector.setToolTip(_("{what}, in the order in which the weights were trained with them.").format(what=what))
        selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node, number=number: self._edited(number, node))
        self._layout.addWidget(selector)
        return selector

    def _edited(self, number, node):
        # The scene changes the selectors too, when it is closed.
        if number < len(self._nodes) and self._nodes[number] is not node:
            self._nodes[number] = node
            self._changed(self._nodes)
