"""What the tests of several rooms share: a real MRML scene without the application."""

import types

import pytest


class HeadlessScene:
    """The real scene and the real logics of slicer-core; `close` lets go of them in the right order."""

    def __init__(self):
        import slicer

        self.scene = slicer.vtkMRMLScene()
        self.logics = {}
        for name, class_name in (("segmentations", "vtkSlicerSegmentationsModuleLogic"), ("sequences", "vtkSlicerSequencesLogic")):
            self.logics[name] = getattr(slicer, class_name)()
            self.logics[name].SetMRMLScene(self.scene)

    def close(self):
        self.scene.Clear(True)
        for logic in self.logics.values():
            logic.SetMRMLScene(None)


@pytest.fixture
def slicer_scene():
    """A vtkMRMLScene in which sequences play and segmentations convert, as in the application."""
    headless = HeadlessScene()
    yield headless.scene
    headless.close()


@pytest.fixture
def slicer_modules(monkeypatch):
    """`slicer.modules` as a namespace that a test fills; slicer-core has none."""
    import slicer

    modules = types.SimpleNamespace()
    monkeypatch.setattr(slicer, "modules", modules, raising=False)
    return modules
