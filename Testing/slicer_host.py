"""A host for the module's tests: Qt by PySide6, MRML by slicer-core, and what the application adds to them.

It emulates Qt's Python ways in Slicer (PythonQt: properties are attributes, connect("clicked(bool)", f)) and the
services of the application that the module calls. It never emulates MRML: scene, nodes and logics are the real ones.
What it emulates was compared with Slicer 5.13; where the two differ, the module is right when it runs in Slicer.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import time
import types
import warnings
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
if sys.version_info < (3, 12):
    # PySide6 gives away one reference to None at each call that returns nothing. From 3.12 on None is immortal; before,
    # Python ends ("deallocating None") after some minutes of an event loop, so it gets references enough for years.
    ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40

import slicer
import slicer.util
from packaging.requirements import Requirement
from PySide6 import QtCore, QtWidgets
from slicer_parameters import WithinRange, parameterNodeWrapper
from slicer_widgets import WIDGETS, ctk, load_ui, qMRMLWidget, qt

ROOT = Path(__file__).resolve().parent.parent
MODULE_FOLDER = ROOT / "AnatomyDT"
# Where the pictures of the panel's states go; the folder of builds is not in the repository.
SCREENSHOTS = Path(os.environ.get("ANATOMYDT_SCREENSHOTS") or ROOT / "build" / "screenshots")


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        self.parent = parent
        self.layout = parent.layout()

    def setup(self):
        pass

    def onReload(self):
        pass

    def resourcePath(self, name):
        return str(MODULE_FOLDER / "Resources" / name)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetName(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(__import__("unittest").TestCase):
    def delayDisplay(self, message, *ignored):
        pass


class _SampleData:
    sources: dict = {}

    @staticmethod
    def registerCustomSampleDataCategory(category, title=None):
        pass

    @classmethod
    def registerCustomSampleDataSource(cls, sampleName, **source):
        assert Path(source["thumbnailFileName"]).is_file()
        cls.sources[sampleName] = source


def _load_segmentation(path):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", Path(path).name.split(".")[0])
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node), path
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    return node


def _load_text(path):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", Path(path).name.split(".")[0])
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node), path
    node.SetAndObserveStorageNodeID(storage.GetID())
    return node


def _download_sample(name):
    """The first node of a sample, as in Slicer; without the network and without its cache."""
    source, nodes = _SampleData.sources[name], []
    for uri, file, title, kind in zip(
            source["uris"], source["fileNames"], source["nodeNames"], source["loadFileTypes"], strict=True):
        load = {"SegmentationFile": _load_segmentation, "TextFile": _load_text}[kind]
        nodes.append(load(QtCore.QUrl(uri).toLocalFile()))
        # Slicer's reader of texts names the node after the file.
        nodes[-1].SetName(file.split(".")[0] if kind == "TextFile" else title)
    return nodes[0]


class Host:
    """The application: a scene, its logics, the module and its panel."""

    def __init__(self):
        self.application = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
        self._settings_folder = QtCore.QTemporaryDir()
        self.settings = QtCore.QSettings(self._settings_folder.filePath("Slicer.ini"), QtCore.QSettings.IniFormat)
        self._install()
        self.module = importlib.import_module("AnatomyDT")
        self.panel = qMRMLWidget()
        QtWidgets.QVBoxLayout(self.panel).setContentsMargins(0, 0, 0, 0)
        self.panel.setAttribute(QtCore.Qt.WA_DontShowOnScreen)
        self.parent = types.SimpleNamespace(path=str(MODULE_FOLDER / "AnatomyDT.py"))
        self.module.AnatomyDT(self.parent)
        for function in self.startup:
            function()
        self.widget = self.module.AnatomyDTWidget(self.panel)
        self.widget.setup()
        # A test's clicks are no double clicks.
        self.widget.DOUBLE_CLICK_SECONDS = 0.0
        slicer.modules.anatomydt = types.SimpleNamespace(
            widgetRepresentation=lambda: types.SimpleNamespace(self=lambda: self.widget))
        self.panel.resize(400, 900)
        self.panel.show()
        self.process()

    def _install(self):
        """Puts the services where the module looks for them."""
        scene = slicer.mrmlScene = slicer.vtkMRMLScene()
        self.logics = []
        names = {"segmentations": "vtkSlicerSegmentationsModuleLogic", "sequences": "vtkSlicerSequencesLogic",
                 "plots": "vtkSlicerPlotsLogic"}
        modules = types.SimpleNamespace()
        for name, class_name in names.items():
            logic = getattr(slicer, class_name)()
            logic.SetMRMLScene(scene)
            self.logics.append(logic)
            setattr(modules, name, types.SimpleNamespace(logic=lambda logic=logic: logic))
        slicer.modules = modules
        for color in ("Red", "Yellow", "Green"):
            composite = slicer.vtkMRMLSliceCompositeNode()
            composite.SetLayoutName(color)
            scene.AddNode(composite)
        # Slicer's selection node says which chart is shown.
        selection = slicer.vtkMRMLSelectionNode()
        selection.SetSingletonTag("Singleton")
        scene.AddNode(selection)
        layout = slicer.vtkMRMLLayoutNode()
        layout.SetSingletonTag("vtkMRMLLayoutNode")
        scene.AddNode(layout)
        self.startup = []
        slicer.app = types.SimpleNamespace(
            processEvents=self.process, connect=self._connect, disconnect=self._disconnect,
            layoutManager=lambda: None, testingEnabled=lambda: True, applicationLogic=lambda: None,
            userSettings=lambda: self.settings, pauseRender=lambda: True, resumeRender=lambda: True,
        )
        for widget in WIDGETS:
            setattr(slicer, widget.__name__, widget)
        i18n = types.ModuleType("slicer.i18n")
        i18n.tr = lambda text: text
        i18n.translate = lambda context, text: text
        wrapper = types.ModuleType("slicer.parameterNodeWrapper")
        wrapper.parameterNodeWrapper, wrapper.WithinRange = parameterNodeWrapper, WithinRange
        scripted = types.ModuleType("slicer.ScriptedLoadableModule")
        for cls in (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic, ScriptedLoadableModuleTest):
            setattr(scripted, cls.__name__, cls)
        packaging = types.ModuleType("slicer.packaging")
        packaging.load_requirements = lambda path: [
            Requirement(line) for line in Path(path).read_text().splitlines() if line and not line.startswith("#")]
        packaging.pip_ensure = lambda requirements, requester: None
        sample = types.ModuleType("SampleData")
        sample.SampleDataLogic, sample.downloadSample = _SampleData, _download_sample
        for module in (i18n, wrapper, scripted, packaging, sample, qt, ctk):
            sys.modules[module.__name__] = module
        slicer.packaging = packaging
        slicer.util.loadUI = load_ui
        slicer.util.childWidgetVariables = lambda root: types.SimpleNamespace(
            **{w.objectName: w for w in root.made if w.objectName})
        if str(MODULE_FOLDER) not in sys.path:
            sys.path.insert(0, str(MODULE_FOLDER))

    def _connect(self, signal, function):
        if signal == "startupCompleted()":
            self.startup.append(function)
        else:
            getattr(self.application, signal.partition("(")[0]).connect(function)

    def _disconnect(self, signal, function):
        with warnings.catch_warnings():
            # As in PythonQt, what is not connected is disconnected without a word.
            warnings.simplefilter("ignore", RuntimeWarning)
            getattr(self.application, signal.partition("(")[0]).disconnect(function)

    def process(self):
        QtWidgets.QApplication.processEvents()

    def wait(self, until, seconds=60.0):
        """Lets the interface live until something holds.

        Returns the longest time in which it did not answer, in seconds of this thread's own work: what other
        programs of a busy machine take is not counted.
        """
        began = time.perf_counter()
        longest = 0.0
        while not until():
            before = time.thread_time()
            self.process()
            longest = max(longest, time.thread_time() - before)
            assert time.perf_counter() - began < seconds, "it took too long"
            time.sleep(0.005)
        return longest

    def picture(self, name):
        """A picture of the panel, 400 pixels wide; returns its path."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.process()
        QtWidgets.QWidget.resize(self.panel, 400, max(QtWidgets.QWidget.sizeHint(self.panel).height(), 600))
        self.process()
        path = SCREENSHOTS / f"{name}.png"
        assert self.panel.grab().save(str(path)), path
        return path

    def close(self):
        self.widget.cleanup()
        slicer.mrmlScene.Clear(True)
        self.panel.deleteLater()
        self.process()
        self.logics.clear()
        # Other tests use slicer-core without an application.
        for name in ("mrmlScene", "modules", "app", "packaging"):
            delattr(slicer, name)
