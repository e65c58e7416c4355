"""Qt as Slicer's Python sees it (PythonQt), and Slicer's own widgets, by PySide6; part of the test host."""

from __future__ import annotations

import contextlib
import os
import types
import xml.etree.ElementTree as ElementTree

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import vtk
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets


def _attribute(name: str, getter):
    def read(self):
        return getter(self)

    def write(self, value):
        self.setProperty(name, value)

    return property(read, write)


def connect(self, signal, function):
    """PythonQt's connect: the signal by its signature."""
    name, _, arguments = signal.partition("(")
    bound = getattr(self, name)
    kind = {"int": int, "double": float, "bool": bool, "QString": str}.get(arguments.rstrip(")"))
    with contextlib.suppress(KeyError, IndexError):
        bound = bound[kind] if kind else bound
    bound.connect(function)


def pythonqt(cls):
    """The class as PythonQt shows it: its Qt properties are attributes, and signals connect by their signature."""
    # Not in a base class of the two: PySide looks connect up in the class itself, then in QObject.
    space = {"connect": connect}
    meta = cls.staticMetaObject
    for index in range(meta.propertyCount()):
        name = meta.property(index).name()
        if name == "singleShot":
            continue  # PythonQt shows the static method of this name
        # A property's getter is mostly the method of its name, whose result keeps its Python type.
        getter = getattr(cls, name, None)
        space[name] = _attribute(name, getter if callable(getter) else lambda self, name=name: self.property(name))

    if cls is QtWidgets.QWidget or issubclass(cls, QtWidgets.QWidget):
        space["name"] = property(lambda self: self.objectName)
        space["size"] = cls.size
        space["palette"] = property(lambda self: cls.palette(self))
        space["width"] = property(lambda self: cls.width(self))
        space["height"] = property(lambda self: cls.height(self))
    return type(cls.__name__, (cls,), space)


class _Qt(types.ModuleType):
    """`import qt`: every Qt class, wrapped when it is first used."""

    def __getattr__(self, name):
        for module in (QtWidgets, QtGui, QtCore):
            found = getattr(module, name, None)
            if found is not None:
                if isinstance(found, type) and issubclass(found, QtCore.QObject):
                    found = pythonqt(found)
                setattr(self, name, found)
                return found
        raise AttributeError(name)


qt = _Qt("qt")
ctk = types.ModuleType("ctk")


class ctkCollapsibleButton(pythonqt(QtWidgets.QFrame)):
    """A titled section that opens and closes."""

    connect = connect

    def __init__(self, parent=None):
        super().__init__(parent)
        self._closed = []
        self._button = QtWidgets.QToolButton(self)
        self._button.setCheckable(True)
        self._button.setChecked(True)
        self._button.setToolButtonStyle(QtCore.Qt.ToolButtonTextBesideIcon)
        self._button.toggled.connect(self._show)

    def setProperty(self, name, value):
        if name == "text":
            self._button.setText(value)
        if name == "collapsed":
            self._button.setChecked(not value)
        return super().setProperty(name, value)

    @property
    def collapsed(self):
        return not self._button.isChecked()

    @collapsed.setter
    def collapsed(self, value):
        self._button.setChecked(not value)

    def _show(self, opened):
        self._button.setArrowType(QtCore.Qt.DownArrow if opened else QtCore.Qt.RightArrow)
        if not opened:
            children = self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly)
            # What the module hid stays hidden when the section opens again.
            self._closed += [c for c in children if c is not self._button and not c.isHidden()]
        for child in self._closed:
            child.setVisible(opened)
        if opened:
            self._closed = []
        layout = QtWidgets.QFrame.layout(self)
        if layout is not None:
            layout.setContentsMargins(9, 30, 9, 9 if opened else 0)
        self.setMaximumHeight(16777215 if opened else 28)

    def showEvent(self, event):
        self._show(self._button.isChecked())
        super().showEvent(event)

    def resizeEvent(self, event):
        self._button.setGeometry(0, 0, event.size().width(), 26)
        super().resizeEvent(event)


class ctkSliderWidget(pythonqt(QtWidgets.QWidget)):
    """A slider with a number."""

    connect = connect
    valueChanged = QtCore.Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._spin = QtWidgets.QDoubleSpinBox()
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider, 1)
        row.addWidget(self._spin)
        self._spin.valueChanged.connect(self._fromNumber)
        self._slider.valueChanged.connect(self._fromSlider)

    def _fromNumber(self, value):
        span = (self._spin.maximum() - self._spin.minimum()) or 1.0
        blocked = self._slider.blockSignals(True)
        self._slider.setRange(0, 1000)
        self._slider.setValue(int(1000 * (value - self._spin.minimum()) / span))
        self._slider.blockSignals(blocked)
        if not self.signalsBlocked():
            self.valueChanged.emit(value)

    def _fromSlider(self, position):
        self._spin.setValue(self._spin.minimum() + (self._spin.maximum() - self._spin.minimum()) * position / 1000)

    def setProperty(self, name, value):
        setters = {"minimum": self._spin.setMinimum, "maximum": self._spin.setMaximum, "value": self._spin.setValue,
                   "decimals": self._spin.setDecimals, "singleStep": self._spin.setSingleStep}
        if name in setters:
            setters[name](value)
            return True
        return super().setProperty(name, value)

    def setValue(self, value):
        self._spin.setValue(value)

    value = property(lambda self: self._spin.value(), lambda self, v: self._spin.setValue(v))
    minimum = property(lambda self: self._spin.minimum(), lambda self, v: self._spin.setMinimum(v))
    maximum = property(lambda self: self._spin.maximum(), lambda self, v: self._spin.setMaximum(v))
    decimals = property(lambda self: self._spin.decimals(), lambda self, v: self._spin.setDecimals(v))


class ctkPathLineEdit(pythonqt(QtWidgets.QWidget)):
    """A path, typed or browsed for."""

    connect = connect
    currentPathChanged = QtCore.Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._edit = QtWidgets.QLineEdit()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._edit, 1)
        row.addWidget(QtWidgets.QPushButton("..."))
        self.setFocusProxy(self._edit)
        self._edit.textChanged.connect(self.currentPathChanged)

    def setCurrentPath(self, path):
        self._edit.setText(path)

    currentPath = property(lambda self: self._edit.text(), lambda self, path: self._edit.setText(path))


class qMRMLWidget(pythonqt(QtWidgets.QWidget)):
    connect = connect

    def setMRMLScene(self, scene):
        for child in self.findChildren(QtWidgets.QWidget):
            if hasattr(child, "setMRMLScene"):
                child.setMRMLScene(scene)

    def layout(self):
        return QtWidgets.QWidget.layout(self)


class qMRMLNodeComboBox(pythonqt(QtWidgets.QComboBox)):
    """Chooses a node of the real scene.

    As the application's: when the chosen node is removed the row before it is the current one, after an import none is; both
    change the current node, neither is the user's choice (`nodeActivated`).
    """

    connect = connect
    currentNodeChanged = QtCore.Signal(object)
    nodeActivated = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.nodeTypes, self.noneEnabled, self._scene, self._node, self._observed = [], False, None, None, []
        self._updating = False
        self.currentIndexChanged.connect(self._chosen)

    def setProperty(self, name, value):
        if name in ("nodeTypes", "noneEnabled"):
            setattr(self, name, value)
            return True
        return super().setProperty(name, value)

    def setMRMLScene(self, scene):
        for tag in self._observed:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        events = {
            "NodeAboutToBeRemovedEvent": self._nodeRemoved, "NodeAddedEvent": self._sceneChanged, "NodeRemovedEvent": self._sceneChanged,
            "EndCloseEvent": self._sceneChanged, "EndImportEvent": self._imported} if scene else {}
        self._observed = [scene.AddObserver(getattr(scene, event), function) for event, function in events.items()]
        self._fill()

    def _sceneChanged(self, caller, event):
        self._fill()

    def _imported(self, caller, event):
        self._fill()
        self._take(None)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _nodeRemoved(self, caller, event, node):
        if node is self._node and not self._scene.IsClosing():
            before = self.itemData(max(self.currentIndex - 1, 0))
            self._take(self._scene.GetNodeByID(before) if before and before != node.GetID() else None)

    def _nodes(self):
        found = []
        for kind in self.nodeTypes:
            for i in range(self._scene.GetNumberOfNodesByClass(kind)):
                node = self._scene.GetNthNodeByClass(i, kind)
                if not node.GetHideFromEditors() and node.GetClassName() == kind:
                    found.append(node)
        return found

    def _fill(self):
        self._updating = True
        nodes = self._nodes() if self._scene else []
        QtWidgets.QComboBox.clear(self)
        if self.noneEnabled:
            self.addItem("None", "")
        for node in nodes:
            self.addItem(node.GetName(), node.GetID())
        self._updating = False
        self._take(self._node if self._node in nodes else None)

    def setCurrentNode(self, node):
        changed = node is not self._node
        self._take(node)
        if changed:
            self.nodeActivated.emit(node)       # the application's cannot tell the two apart

    def _take(self, node):
        changed = node is not self._node
        self._node, self._updating = node, True
        self.setCurrentIndex(max(self.findData(node.GetID() if node else ""), 0))
        self._updating = False
        if changed:
            self.currentNodeChanged.emit(node)

    def _chosen(self, index):
        if not self._updating and self._scene is not None:
            identifier = self.itemData(index)
            self.setCurrentNode(self._scene.GetNodeByID(identifier) if identifier else None)

    def currentNode(self):
        return self._node


class _BrowserWidget(pythonqt(QtWidgets.QWidget)):
    connect = connect

    def __init__(self, parent=None):
        super().__init__(parent)
        self.browser, self._tag = None, None

    def setMRMLScene(self, scene):
        pass

    def setMRMLSequenceBrowserNode(self, browser):
        if self.browser is not None and self._tag is not None:
            self.browser.RemoveObserver(self._tag)
        self.browser = browser
        self._tag = browser.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *a: self._update()) if browser else None
        self._update()

    def _update(self):
        pass


class qMRMLSequenceBrowserSeekWidget(_BrowserWidget):
    connect = connect

    def __init__(self, parent=None):
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._slider, self._label = QtWidgets.QSlider(QtCore.Qt.Horizontal), QtWidgets.QLabel("")
        row.addWidget(self._slider, 1)
        row.addWidget(self._label)
        self._slider.valueChanged.connect(lambda value: self.browser and self.browser.SetSelectedItemNumber(value))

    def slider(self):
        return self._slider

    def _update(self):
        count = self.browser.GetNumberOfItems() if self.browser else 0
        blocked = self._slider.blockSignals(True)
        self._slider.setRange(0, max(count - 1, 0))
        if count:
            self._slider.setValue(self.browser.GetSelectedItemNumber())
            self._label.setText(f"time: {self.browser.GetMasterSequenceNode().GetNthIndexValue(self._slider.value())}day")
        self._slider.blockSignals(blocked)


class qMRMLSequenceBrowserPlayWidget(_BrowserWidget):
    connect = connect

    def __init__(self, parent=None):
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for text, step in (("|<", -10**6), ("<", -1), (">", 1), (">|", 10**6)):
            button = QtWidgets.QPushButton(text)
            button.clicked.connect(lambda checked=False, step=step: self._step(step))
            row.addWidget(button)

    def _step(self, step):
        if self.browser is not None:
            last = self.browser.GetNumberOfItems() - 1
            self.browser.SetSelectedItemNumber(min(max(self.browser.GetSelectedItemNumber() + step, 0), last))


class qMRMLSegmentationShow3DButton(pythonqt(QtWidgets.QPushButton)):
    connect = connect

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None
        self.setCheckable(True)

    def setSegmentationNode(self, node):
        self._node = node

    def segmentationNode(self):
        return self._node


for _class in (ctkCollapsibleButton, ctkPathLineEdit, ctkSliderWidget):
    setattr(ctk, _class.__name__, _class)
WIDGETS = (qMRMLWidget, qMRMLNodeComboBox, qMRMLSequenceBrowserSeekWidget, qMRMLSequenceBrowserPlayWidget,
           qMRMLSegmentationShow3DButton)


class _Loader(QtUiTools.QUiLoader):
    """Builds a .ui from the classes above; properties that Qt cannot set on them are set afterwards."""

    def createWidget(self, className, parent=None, name=""):
        cls = next((c for c in (*WIDGETS, ctkCollapsibleButton, ctkPathLineEdit, ctkSliderWidget) if c.__name__ == className), None)
        widget = (cls or getattr(qt, className))(parent)
        widget.setObjectName(name)
        self.made.append(widget)
        return widget


def load_ui(path):
    tree = ElementTree.parse(path)
    root = tree.getroot()
    connections = root.find("connections")
    if connections is not None:
        root.remove(connections)
    foreign = {}
    for element in root.iter("widget"):
        if element.get("class").startswith(("ctk", "qMRML")):
            for item in list(element.findall("property")):
                value = item[0]
                kinds = {"bool": lambda v: v.text == "true", "number": lambda v: int(v.text), "double": lambda v: float(v.text),
                         "string": lambda v: v.text, "stringlist": lambda v: [s.text for s in v]}
                if value.tag in ("enum", "set"):
                    element.remove(item)
                elif value.tag in kinds and item.get("name") != "toolTip":
                    foreign.setdefault(element.get("name"), []).append((item.get("name"), kinds[value.tag](value)))
                    element.remove(item)
    customs = root.find("customwidgets")
    if customs is not None:
        root.remove(customs)
    loader = _Loader()
    loader.made = []
    buffer = QtCore.QBuffer()
    buffer.setData(ElementTree.tostring(root))
    buffer.open(QtCore.QIODevice.ReadOnly)
    widget = loader.load(buffer)
    assert widget is not None, loader.errorString()
    widget.made = loader.made
    by_name = {w.objectName: w for w in loader.made}
    for name, properties in foreign.items():
        # The ranges before the values that lie in them.
        for key, value in sorted(properties, key=lambda p: p[0] == "value"):
            by_name[name].setProperty(key, value)
    return widget
