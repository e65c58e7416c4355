"""The house: what may import what, how fast the package loads, what a fresh interpreter pulls in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIB = ROOT / "AnatomyDTLib"

# a room may import the rooms to its right: AnatomyDT.py, cli -> scene, report, volumes -> engine -> calibration -> learning -> physics -> plan
FLOORS = {
    "cli": 6, "calibration_cli": 5.5, "compare_cli": 5.5, "training_cli": 5.5, "__main__": 6, "bench": 6,
    "outputs": 5, "inputs": 4, "options": 4,
    "scene": 4, "report": 4, "comparison_report": 4,
    "engine": 3, "computing": 2.8,
    "calibration": 2.5, "learning": 2,
    "physics": 1,
    "volumes": 0, "imagefiles": 0,      # files in and out stand on nothing; datasets are read with them
    "state": 0, "shipped": 0, "refusals": 0, "plan": 0, "interventions": 0, "checks": 0, "presets": 0, "labelling": 0, "__init__": 0,
}


def room(path: Path) -> str:
    relative = path.relative_to(LIB)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_rooms(path: Path):
    """Rooms of this package that a file imports, at any depth of its code."""
    package = ("AnatomyDTLib", *path.relative_to(LIB).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            full = (*base, *(node.module.split(".") if node.module else ()))
            names = [full] if len(full) > 1 else [(*full, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        for name in names:
            if name[:1] == ("AnatomyDTLib",) and len(name) > 1:
                yield name[1]


FILES = sorted(LIB.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIB)))
def test_imports_point_one_way(path):
    own = room(path)
    for other in imported_rooms(path):
        if other in FLOORS:
            assert other == own or FLOORS[other] <= FLOORS[own], f"{path.name} ({own}) imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIB)))
def test_foreign_packages_stay_in_their_rooms(path):
    own = room(path)
    top = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            top |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            top.add(node.module.split(".")[0])
    if own != "scene":
        assert not top & {"slicer", "vtk", "vtkmodules"} or own == "outputs"
    if own not in ("physics", "learning", "calibration", "engine", "computing", "bench"):
        assert "torch" not in top
    if own in ("plan", "interventions", "checks", "presets", "labelling", "shipped"):
        assert top <= set(sys.stdlib_module_names) | {"AnatomyDTLib"}
    assert not top & {"pickle", "requests", "urllib"}


def test_importing_the_package_is_quick_and_light():
    code = (
        "import sys, time; began = time.process_time(); import AnatomyDTLib; took = time.process_time() - began;"
        "heavy = {'torch', 'slicer', 'vtk', 'numpy', 'scipy', 'SimpleITK', 'matplotlib'} & set(sys.modules);"
        "print(took); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.1  # the bar of the order: an import under 0.1 s


def test_no_path_of_a_developer_machine_in_the_tree():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.split():
        if name.endswith((".py", ".md", ".toml", ".json", ".txt", ".ui")):
            text = (ROOT / name).read_text(encoding="utf-8")
            assert not any(f"/{folder}/" in text for folder in ("home", "root", "work")), name
