"""What CMake would install: every file is listed, and the installed tree runs on its own."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
MODULES = {"AnatomyDT": "", "AnatomyDTLib": "AnatomyDTLib"}      # folder -> where it lands among the scripted modules


def cmake_list(folder: str, name: str) -> list[str]:
    text = (ROOT / folder / "CMakeLists.txt").read_text(encoding="utf-8")
    found = re.search(rf"set\({name}\s+(.*?)\)", text, re.DOTALL)
    return found.group(1).split() if found else []


def files_of(folder: str) -> set[str]:
    files = {p.relative_to(ROOT / folder).as_posix() for p in (ROOT / folder).rglob("*") if p.is_file()}
    return {f for f in files if "__pycache__" not in f and f != "CMakeLists.txt"}


def python_files():
    listed = [p for folder in (*MODULES, "Testing") for p in (ROOT / folder).rglob("*.py")]
    return sorted(p for p in listed if "__pycache__" not in p.parts)


def imports_at_file_scope(tree: ast.Module):
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The tree that CMake's lists would put into qt-scripted-modules, and nothing else."""
    target = tmp_path_factory.mktemp("qt-scripted-modules")
    for folder, place in MODULES.items():
        for name in cmake_list(folder, "MODULE_PYTHON_SCRIPTS") + cmake_list(folder, "MODULE_PYTHON_RESOURCES"):
            destination = target / place / name
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / folder / name, destination)
    return target


@pytest.mark.parametrize("folder", MODULES)
def test_every_file_is_in_a_list(folder):
    listed = cmake_list(folder, "MODULE_PYTHON_SCRIPTS") + cmake_list(folder, "MODULE_PYTHON_RESOURCES")
    assert len(listed) == len(set(listed))
    assert set(listed) == files_of(folder)


def test_the_library_gets_a_folder_of_its_own():
    assert "WITH_SUBDIR" in (ROOT / "AnatomyDTLib" / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "WITH_SUBDIR" not in (ROOT / "AnatomyDT" / "CMakeLists.txt").read_text(encoding="utf-8")


def test_the_tests_are_not_installed_as_a_package():
    assert "slicerMacroBuildScriptedModule" not in (ROOT / "Testing" / "CMakeLists.txt").read_text(encoding="utf-8")


def test_the_extension_and_its_index_entry_agree():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    project = re.search(r"project\((\w+)\)", text).group(1)
    entry_file = ROOT / f"{project}.json"
    assert b"\r" not in entry_file.read_bytes()
    entry = json.loads(entry_file.read_text(encoding="utf-8"))
    keys = {"$schema", "category", "scm_url", "scm_revision", "build_dependencies", "build_subdirectory", "tier"}
    assert set(entry) == keys
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.1.json#")
    depends = re.search(r'set\(EXTENSION_DEPENDS "(.*?)"', text).group(1).split()
    assert entry["build_dependencies"] == depends == ["PyTorch"]
    assert isinstance(entry["tier"], int) and 1 <= entry["tier"] <= 5
    assert entry["category"] in {"Analysis", "Planning", "Quantification", "Radiotherapy", "Simulation"}
    meta = {key: re.search(rf'set\(EXTENSION_{key} "(\S.*)"\)', text).group(1) for key in (
        "HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS")}
    assert entry["scm_url"] == meta["HOMEPAGE"] + ".git" and entry["scm_url"].startswith("https://")
    raw = meta["HOMEPAGE"].replace("github.com", "raw.githubusercontent.com") + f"/{entry['scm_revision']}/"
    for url in (meta["ICONURL"], *meta["SCREENSHOTURLS"].split()):
        assert url.startswith(raw) and (ROOT / url.removeprefix(raw)).is_file(), f"{url}: no such file here"
    for icon in (ROOT / f"{project}.png", ROOT / project / "Resources" / "Icons" / f"{project}.png"):
        with Image.open(icon) as picture:
            assert picture.size == (128, 128)


def test_licence_and_readme_are_what_the_index_asks_for():
    """A licence at the root; a README with its name, a picture, the modules, a tutorial and the publication."""
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")[:300]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for heading in ("# AnatomyDT", "## Modules", "## Tutorial", "## Publication", "## Licence"):
        assert f"\n{heading}\n" in "\n" + text, heading
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), f"the README links to {target}: not there"


@pytest.mark.parametrize("path", sorted((ROOT / "AnatomyDT").rglob("*.py")), ids=lambda p: p.name)
def test_nothing_runs_when_a_file_of_the_module_is_imported(path):
    if path.parent.name == "SampleData":
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        declares = isinstance(
            node, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign))
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guarded = isinstance(node, ast.If) and re.search(r"__name__|find_spec\(", ast.unparse(node.test))
        assert declares or docstring or guarded, f"{path.name}:{node.lineno}"


def test_slicer_is_asked_for_nothing_that_it_brings_and_torch_by_no_pip():
    requirements = (ROOT / "AnatomyDT" / "Resources" / "requirements.txt").read_text(encoding="utf-8")
    lines = [line for line in requirements.splitlines() if line.strip() and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+>=[0-9.]+", line), f"{line}: lower bounds only"
        name = re.match(r"[A-Za-z0-9_.-]+", line).group().lower()
        assert name not in {"torch", "torchvision", "numpy", "scipy", "simpleitk", "vtk", "slicer-core", "requests"}


@pytest.mark.parametrize("path", python_files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_3_12_and_3_11_can_read_it(path):
    source = path.read_text(encoding="utf-8")
    for version in ((3, 11), (3, 12)):
        ast.parse(source, feature_version=version)


@pytest.mark.parametrize("path", sorted((ROOT / "AnatomyDT").rglob("*.py")), ids=lambda p: p.name)
def test_the_module_imports_only_what_slicer_brings(path):
    if path.parent.name == "SampleData":
        return
    brought = {"qt", "ctk", "slicer", "vtk", "SimpleITK", "numpy", "scipy", "AnatomyDTLib", "AnatomyDTPanel"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert set(imports_at_file_scope(tree)) <= brought | set(sys.stdlib_module_names)


def test_no_translated_text_is_an_f_string():
    for path in sorted((ROOT / "AnatomyDT").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "translate"):
                assert not any(isinstance(argument, ast.JoinedStr) for argument in node.args), f"{path.name}:{node.lineno}"


def test_the_panel_is_a_widget_of_slicer_and_every_control_has_a_tooltip():
    import xml.etree.ElementTree as ElementTree

    ui = ElementTree.parse(ROOT / "AnatomyDT" / "Resources" / "UI" / "AnatomyDT.ui").getroot()
    assert ui.find("widget").get("class") == "qMRMLWidget"
    silent = ("QLabel", "QWidget", "QStackedWidget", "ctkCollapsibleButton", "qMRMLWidget")
    for widget in ui.iter("widget"):
        if widget.get("class") not in silent:
            assert widget.find("property[@name='toolTip']") is not None, widget.get("name")
    receivers = {c.findtext("receiver") for c in ui.iter("connection")}
    for widget in ui.iter("widget"):
        if widget.get("class") in ("qMRMLNodeComboBox", "qMRMLSequenceBrowserPlayWidget", "qMRMLSequenceBrowserSeekWidget"):
            assert widget.get("name") in receivers, f"{widget.get('name')} is never told its scene"


def test_the_installed_tree_forecasts_on_its_own(installed):
    """In a fresh interpreter, from another folder, with nothing of the source tree on its path."""
    code = (
        "import sys, time, numpy as np\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import AnatomyDTLib\n"
        "assert AnatomyDTLib.__file__.startswith(sys.argv[1])\n"
        "from AnatomyDTLib import presets\n"
        "from AnatomyDTLib.plan import Anatomy, Plan\n"
        "from AnatomyDTPanel.background import Run\n"
        "tissues = (presets.tissue('Background', 'background'), presets.tissue('White', 'white'), presets.tissue('Tumor', 'tumor'))\n"
        "labels = np.ones((20, 20, 20), np.uint8)\n"
        "labels[6:14, 6:14, 6:14] = 2\n"
        "run = Run(labels, (1.0, 1.0, 1.0), Plan(Anatomy(tissues), (), (10.0, 20.0), presets.infiltration_mm()))\n"
        "while not run.poll():\n"
        "    time.sleep(0.02)\n"
        "found = run.result().forecast\n"
        "assert 'torch' not in sys.modules, 'the application must not load torch'\n"
        "print(found.volume_ml[:, 2].tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(installed)], cwd=installed.parent, capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    volumes = np.array(json.loads(done.stdout))
    assert volumes[0] == pytest.approx(0.512) and (np.diff(volumes) > 0).all()


def test_every_installed_module_of_the_engine_imports(installed):
    """A file that is missing from a list would be found missing here; slicer and its kin are Slicer's own."""
    pytest.importorskip("slicer")
    code = (
        "import importlib, pkgutil, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import AnatomyDTLib\n"
        "names = [m.name for m in pkgutil.walk_packages(AnatomyDTLib.__path__, 'AnatomyDTLib.')]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'):\n"
        "        assert importlib.import_module(name).__file__.startswith(sys.argv[1])\n"
        "print(len(names))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(installed)], cwd=installed.parent, capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


def test_the_installed_command_line_reads_its_sample(installed):
    sample = installed / "Resources" / "SampleData" / "sample_baseline.seg.nrrd"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from AnatomyDTLib.volumes import read;"
        "volume = read(sys.argv[2]); print(volume.array.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(installed), str(sample)], cwd=installed.parent, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(161, 187, 151)"
