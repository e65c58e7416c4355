"""The images that weights were trained with: a selector for each."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from .keyboard import letTabReach, tabFrom
from .nodeselectors import nodeSelector, showNode


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
            showNode(selector, node)

    def _fill(self):
        for selector in self._selectors:
            # It may be the one that is telling what was chosen: gone for the user, deleted later.
            selector.blockSignals(True)
            self._layout.removeWidget(selector)
            selector.hide()
            selector.setObjectName("")
            selector.deleteLater()
        self._selectors = [self._selector(number) for number in range(len(self._nodes))]
        # Nothing is put behind a widget that takes no focus.
        self._widget.setFocusPolicy(qt.Qt.TabFocus)
        tabFrom(self._widget, [self._focused(number) for number in range(len(self._selectors))])
        self._widget.setFocusPolicy(qt.Qt.NoFocus)

    def _focused(self, number):
        """The part of a selector that takes the focus, with its name."""
        focused = letTabReach(self._selectors[number], hasLabel=False)
        focused.setAccessibleName(self._named(number))
        return focused

    def _named(self, number):
        return _("Image {number} of {count}").format(number=number + 1, count=len(self._nodes))

    def _selector(self, number):
        selector = nodeSelector(
            f"image{number}", "vtkMRMLScalarVolumeNode", self._nodes[number],
            _("{what}, in the order in which the weights were trained with them.").format(what=self._named(number)),
            lambda node: self._edited(number, node))
        self._layout.addWidget(selector)
        return selector

    def _edited(self, number, node):
        if self._nodes[number] is not node:
            self._nodes[number] = node
            self._changed(self._nodes)
