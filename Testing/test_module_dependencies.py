"""The module without what it needs: it loads, shows itself, asks, and takes no for an answer."""

import importlib.util as finder
import subprocess
import sys
import types

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer
from panel_user import add_segmentation, everything, ready, run
from slicer_host import ROOT


def test_the_panel_loads_without_torch(tmp_path):
    """In a fresh interpreter whose torch cannot be imported, with the panel built and its controls used."""
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'safetensors', 'monai', 'skimage', 'matplotlib', 'nibabel'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from slicer_host import Host\n"
        "host = Host()\n"
        "host.widget.ui.useRegimeButton.click()\n"
        "host.widget.ui.addButton.click()\n"
        "assert host.widget.ui.eventTable.rowCount == 1\n"
        "assert 'torch' not in sys.modules\n"
        "host.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "Testing")], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_declined_dependencies_do_no_harm(host, monkeypatch):
    ui = host.widget.ui
    ready(host)
    before = everything()
    found = finder.find_spec
    monkeypatch.setattr(finder, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest))
    host.widget.showDevices()
    assert "not installed" in ui.deviceComboBox.itemText(2)
    ui.applyButton.click()
    assert "PyTorch extension" in ui.statusLabel.text and not host.widget.logic.running
    asked = []

    class PyTorchUtilsLogic:
        def installTorch(self, **options):
            asked.append(options)

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    ui.applyButton.click()
    assert asked == [{"askConfirmation": True, "torchVersionRequirement": ">=2.2"}]
    assert "not installed" in ui.statusLabel.text and everything() == before


def without_torch(monkeypatch, install):
    """torch is not installed, and the PyTorch extension installs it by install()."""
    found = finder.find_spec
    monkeypatch.setattr(finder, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest))

    class PyTorchUtilsLogic:
        def installTorch(self, **options):
            return install()

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))


@pytest.mark.parametrize("error", [
    subprocess.CalledProcessError(1, "pip install torch"), OSError("[WinError 1114] a DLL could not be initialized"),
    ImportError("torch is broken"), ValueError("requirement not fulfilled"), RuntimeError("no light-the-torch"),
], ids=lambda error: type(error).__name__)
def test_an_installation_of_torch_that_fails_is_one_sentence_with_the_log(host, monkeypatch, error):
    def install():
        raise error

    ui = host.widget.ui
    ready(host)
    before = everything()
    without_torch(monkeypatch, install)
    ui.applyButton.click()
    assert ui.statusLabel.text.startswith("PyTorch could not be installed") and "\n" not in ui.statusLabel.text
    assert str(error) in ui.logTextEdit.toPlainText() and "Traceback" in ui.logTextEdit.toPlainText()
    assert not host.widget.logic.running and everything() == before
    assert ui.applyButton.text == "Apply" and ui.applyButton.enabled


def test_apply_is_refused_while_packages_are_installed(host, monkeypatch):
    """Slicer answers while it installs, so the button can be pressed again."""
    ui, said = host.widget.ui, []
    ready(host)

    def install():
        said.append(None)
        assert len(said) == 1
        ui.applyButton.click()
        said[0] = ui.statusLabel.text

    without_torch(monkeypatch, install)
    ui.applyButton.click()
    assert "being installed" in said[0] and "was not installed" in ui.statusLabel.text


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("error, word", [
    (RuntimeError("User declined package installation"), "were not installed"),
    (RuntimeError("another installation is running"), "could not be installed"),
    (subprocess.CalledProcessError(1, "pip install"), "could not be installed"),
    (ValueError("resolution impossible"), "could not be installed"),
])
def test_packages_of_the_comparison_that_do_not_come_are_one_sentence(host, monkeypatch, error, word):
    ui = host.widget.ui
    ready(host)
    ui.horizonSlider.setValue(10)
    run(host)
    add_segmentation(name="Later")
    ui.addFollowUpButton.click()
    before = everything()

    def pip_ensure(requirements, requester):
        assert sorted(r.name for r in requirements) == ["monai", "scikit-image"]
        raise error

    monkeypatch.setattr(slicer.packaging, "pip_ensure", pip_ensure)
    ui.scoreButton.click()
    assert word in ui.statusLabel.text and not host.widget.logic.running and everything() == before
    assert (str(error) in ui.logTextEdit.toPlainText()) == (word == "could not be installed")
