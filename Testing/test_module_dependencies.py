"""The module without what it needs: it loads, shows itself, asks, and takes no for an answer."""

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

from panel_user import everything, ready
from slicer_host import ROOT


def test_the_panel_loads_without_torch(tmp_path):
    """In a fresh interpreter whose torch cannot be imported, with the panel built and its controls used."""
    import subprocess
    import sys

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
    import importlib.util as finder
    import sys
    import types

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
