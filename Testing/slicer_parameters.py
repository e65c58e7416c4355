"""slicer.parameterNodeWrapper for the test host: annotated attributes in a real parameter node, connected to widgets."""

from __future__ import annotations

import json
import typing

import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtWidgets
from slicer_widgets import qMRMLNodeComboBox


class WithinRange:
    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum


def parameterNodeWrapper(cls):
    """A class whose annotated attributes live in a vtkMRMLScriptedModuleNode, connected to widgets by name."""
    fields = typing.get_type_hints(cls)

    class Wrapped:
        def __init__(self, node):
            self.__dict__["parameterNode"] = node
            for name, kind in fields.items():
                if not _is_node(kind) and not node.GetParameter(name):
                    setattr(self, name, getattr(cls, name, []))

        def __getattr__(self, name):
            if name not in fields:
                return getattr(self.parameterNode, name)
            if _is_node(fields[name]):
                return self.parameterNode.GetNodeReference(name)
            value = json.loads(self.parameterNode.GetParameter(name))
            if _is_list_of_nodes(fields[name]):
                return [self.parameterNode.GetNodeReference(f"{name}.{i}") for i in range(value)]
            return value

        def __setattr__(self, name, value):
            kind = fields[name]
            if _is_node(kind):
                self.parameterNode.SetNodeReferenceID(name, value.GetID() if value is not None else None)
            elif _is_list_of_nodes(kind):
                with slicer.util.NodeModify(self.parameterNode):
                    for i, node in enumerate(value):
                        self.parameterNode.SetNodeReferenceID(f"{name}.{i}", node.GetID() if node is not None else None)
                    self.parameterNode.SetParameter(name, json.dumps(len(value)))
            else:
                kind = typing.get_origin(kind) or kind
                assert isinstance(value, (kind, int) if kind is float else kind), (name, value)
                self.parameterNode.SetParameter(name, json.dumps(kind(value)))

        def connectGui(self, ui):
            connected = []
            for widget in vars(ui).values():
                name = widget.property("SlicerParameterName") if isinstance(widget, QtCore.QObject) else None
                if name:
                    connected.append(_Connection(self, widget, name))
            update = lambda *ignored: [c.fromNode() for c in connected]
            tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, update)
            update()
            return tag, connected

        def disconnectGui(self, handle):
            tag, connected = handle
            self.parameterNode.RemoveObserver(tag)
            for connection in connected:
                connection.live = False

    Wrapped.__name__ = cls.__name__
    return Wrapped


def _is_node(kind):
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


def _is_list_of_nodes(kind):
    return typing.get_origin(kind) is list and _is_node(typing.get_args(kind)[0])


class _Connection:
    def __init__(self, parameters, widget, name):
        self.parameters, self.widget, self.name, self.live = parameters, widget, name, True
        if isinstance(widget, qMRMLNodeComboBox):
            signal, self.read, self.write = widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
        elif isinstance(widget, QtWidgets.QCheckBox):
            signal, self.read, self.write = widget.toggled, widget.isChecked, widget.setChecked
        elif isinstance(widget, QtWidgets.QLineEdit):
            signal, self.read, self.write = widget.textChanged, lambda: widget.text, widget.setText
        else:
            signal, self.read, self.write = widget.valueChanged, lambda: widget.value, widget.setValue
        signal.connect(self.toNode)

    def toNode(self, *ignored):
        if self.live and getattr(self.parameters, self.name) != self.read():
            setattr(self.parameters, self.name, self.read())

    def fromNode(self):
        value = getattr(self.parameters, self.name)
        if self.live and value != self.read():
            self.write(value)
