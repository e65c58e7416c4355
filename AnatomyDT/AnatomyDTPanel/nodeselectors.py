"""Node selectors that are made while the panel runs, one in each row of something."""

from __future__ import annotations

import slicer


def nodeSelector(name, nodeType, node, toolTip, chosen):
    """A selector of one class of nodes or none, which shows `node`; chosen(node): called when the user chooses another."""
    selector = slicer.qMRMLNodeComboBox()
    selector.setObjectName(name)
    selector.nodeTypes, selector.showChildNodeTypes = [nodeType], False
    selector.noneEnabled, selector.addEnabled, selector.removeEnabled = True, False, False
    selector.setMRMLScene(slicer.mrmlScene)
    selector.setCurrentNode(node)
    selector.setToolTip(toolTip)
    # The current node changes too when the scene takes it away; the parameter node tells of that.
    selector.connect("nodeActivated(vtkMRMLNode*)", chosen)
    return selector


def showNode(selector, node):
    """Shows a node, without telling anybody."""
    if selector.currentNode() is not node:
        blocked = selector.blockSignals(True)
        selector.setCurrentNode(node)
        selector.blockSignals(blocked)
