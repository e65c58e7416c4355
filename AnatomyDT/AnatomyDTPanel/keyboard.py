"""Reaching every control of the panel by the Tab key."""

from __future__ import annotations

import qt


def letTabReach(nodeSelector, hasLabel=True):
    """Slicer's node selectors hand the focus of the box inside to themselves, who take none: Tab passes them over.

    hasLabel: a label's mnemonic leads to the selector
    Returns the widget that takes the focus.
    """
    inner = nodeSelector.findChild(qt.QComboBox)
    if inner is None:
        return nodeSelector
    inner.setFocusProxy(None)
    if hasLabel:
        nodeSelector.setFocusProxy(inner)
    return inner


def tabFrom(table, widgets):
    """Tab goes from a table through the widgets in its cells; made later than the panel, they would come last."""
    for before, after in zip([table, *widgets], widgets):
        qt.QWidget.setTabOrder(before, after)
