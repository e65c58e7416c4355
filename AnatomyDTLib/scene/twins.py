"""A calibrated twin in the scene: the text that holds it, tables of its parameters and visits, regimes compared over it."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from ..engine import ForecastError
from . import charts, segmentation
from .geometry import Grid, grid_of, transform_between, vtk_matrix, voxel_offset
from .labelmaps import LABELMAP
from .maps import reading_region
from .slices import nodes

PARAMETERS, VISITS, REGIMES = "Twin parameters", "Twin visits", "Regimes compared"
# Wong 2011, Nat Methods 8:441: kept apart by the colour-blind.
COLORS = ((0.0, 0.45, 0.70), (0.84, 0.37, 0.0), (0.0, 0.62, 0.45), (0.80, 0.47, 0.65), (0.90, 0.62, 0.0))


def reading_visit(baseline: segmentation.Baseline, node, tissues: dict[str, int], tumors, resample: bool):
    """Slices of a follow-up's labels on the baseline's grid, (Z, Y, X) uint8, in a plan's numbering.

    tissues: name of a segment -> index of its tissue, which the follow-up's segments of these names get
    tumors: the indices that are tumor; the follow-up needs a segment of one of them, which may be empty
    resample: take the nearest voxel where the follow-up has others; else it is refused
    """
    wanted = {name.casefold(): index for name, index in tissues.items()}
    found = {i: wanted[name.casefold()] for i, name in segmentation.names_of(node).items() if name.casefold() in wanted}
    if not set(found.values()) & set(tumors):
        names = ", ".join(name for name, index in tissues.items() if index in tumors)
        raise ForecastError(
            f"the follow-up '{node.GetName()}' has no segment named like the tumor ({names}); rename its segment, or add an "
            "empty one where the tumor has gone")
    if not resample and not _on_lattice(baseline, node):
        raise ForecastError(
            f"the follow-up '{node.GetName()}' has other voxels than the first segmentation; register it and let its voxels "
            "be resampled")
    labels = np.zeros(baseline.grid.shape, np.uint8)
    for identifier, index in found.items():
        there = yield from reading_region(baseline, node, identifier, may_be_empty=True)
        labels[there] = index
    return labels


def _on_lattice(baseline, node) -> bool:
    parent = node.GetScene().GetNodeByID(baseline.parent_transform_id) if baseline.parent_transform_id else None
    matrix, _ = transform_between(node.GetParentTransformNode(), parent)
    if matrix is None:
        return False
    found = node.GetSegmentation()
    images = [found.GetSegment(i).GetRepresentation(LABELMAP) for i in found.GetSegmentIDs()]
    return all(
        voxel_offset(grid_of(image).moved(matrix), baseline.grid) is not None
        for image in images if image is not None and not image.IsEmpty())


def store(scene, text: str, name: str, former=None):
    """The text node that holds a twin's JSON; `former` is overwritten."""
    node = former if former is not None else scene.AddNewNodeByClass("vtkMRMLTextNode", name)
    node.SetText(text)
    return node


def add_tables(scene, twin, name: str):
    """(parameters, visits): two table nodes that replace those of the same name."""
    parameters = _table(scene, f"{name}: {PARAMETERS}", (
        ("Parameter", [p.name for p in twin.parameters]),
        ("Value", [p.value for p in twin.parameters]),
        ("80 % low", [p.interval()[0] for p in twin.parameters]),
        ("80 % high", [p.interval()[1] for p in twin.parameters]),
        ("Unit", [p.unit for p in twin.parameters]),
        ("Told by", [p.verdict() for p in twin.parameters]),
    ))
    before = [v.forecast for v in twin.observations]
    columns = [
        ("Day", [v.day for v in twin.observations]),
        ("Seen (mL)", [v.observed_ml for v in twin.observations]),
        ("Fitted (mL)", [v.fitted_ml for v in twin.observations]),
        ("DSC", [v.dsc for v in twin.observations]),
    ]
    if any(before):
        columns += [
            ("Forecast before (mL)", [f.get("volume_ml") for f in before]), ("80 % low", [f.get("low_ml") for f in before]),
            ("80 % high", [f.get("high_ml") for f in before]), ("DSC before", [f.get("dsc") for f in before])]
    return parameters, _table(scene, f"{name}: {VISITS}", columns)


def add_comparison(scene, found: dict, name: str = REGIMES):
    """(table, chart) of several plans over an ensemble; earlier ones of the name are replaced.

    found: "outcomes": for each plan name, days, median, lower and upper (mL), progression (days or None at 10, 50 and 90 %
        of the members), progressed, dose_gy by tissue; "preferences": of each pair and measure
    """
    outcomes = found["outcomes"]
    for node in nodes(scene, "vtkMRMLPlotChartNode"):
        if node.GetName() == name:
            lines = [node.GetNthPlotSeriesNode(i) for i in range(node.GetNumberOfPlotSeriesNodes())]
            for one in (node, *lines):
                scene.RemoveNode(one)
    later = {(p["better"], p["worse"]): p["probability"] for p in found["preferences"] if p["measure"] == "progression"}
    columns = [
        ("Regime", [o["name"] for o in outcomes]),
        ("Last day", [o["days"][-1] for o in outcomes]),
        ("Tumor (mL)", [o["median"][-1] for o in outcomes]),
        ("80 % low", [o["lower"][-1] for o in outcomes]),
        ("80 % high", [o["upper"][-1] for o in outcomes]),
        ("Progression (day)", [o["progression"][1] for o in outcomes]),
        ("10 % progressed by", [o["progression"][0] for o in outcomes]),
        ("90 % progressed by", [o["progression"][2] for o in outcomes]),
        ("Progressed", [o["progressed"] for o in outcomes]),
    ]
    columns += [(f"P(later than {o['name']})", [later.get((own["name"], o["name"])) for own in outcomes]) for o in outcomes]
    columns += [(f"{tissue}: mean dose (Gy)", [o["dose_gy"].get(tissue) for o in outcomes])
                for tissue in dict.fromkeys(t for o in outcomes for t in o["dose_gy"])]
    table = _table(scene, name, columns)
    # The plans are assessed on the same days.
    courses = [(charts.DAY, outcomes[0]["days"])]
    for o in outcomes:
        courses += [(o["name"], o["median"]), (f"{o['name']}, lower", o["lower"]), (f"{o['name']}, upper", o["upper"])]
    volumes = _table(scene, f"{name}: volumes", courses)
    lines = []
    for number, o in enumerate(outcomes):
        for column in (o["name"], f"{o['name']}, lower", f"{o['name']}, upper"):
            line = charts.add_series(scene, volumes, column, column, COLORS[number % len(COLORS)])
            line.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
            if column != o["name"]:
                line.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleDash)
            lines.append(line)
    return table, charts.add_chart(scene, name, lines)


def add_difference(scene, values: np.ndarray, grid: Grid, parent, name: str):
    """A volume of the difference of two tumor probabilities, -1 to 1; an earlier one of the name is replaced."""
    former = scene.GetFirstNode(name, "vtkMRMLScalarVolumeNode")
    volume = former or scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    image = vtk.vtkImageData()
    image.SetDimensions(grid.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(values.astype(np.float32).ravel(), deep=True))
    volume.SetAndObserveImageData(image)
    volume.SetIJKToRASMatrix(vtk_matrix(grid.ijk_to_ras))
    volume.SetAndObserveTransformNodeID(parent.GetID() if parent is not None else None)
    volume.CreateDefaultDisplayNodes()
    display = volume.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(-1.0, 1.0)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileDivergingBlueRed.txt")
    return volume


def _table(scene, name: str, columns):
    """A table node of (title, values) columns, which replaces the one of its name; None is a gap."""
    table = scene.GetFirstNode(name, "vtkMRMLTableNode")
    if table is None:
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    blocked = table.StartModify()
    table.RemoveAllColumns()
    for title, values in columns:
        text = any(isinstance(value, str) for value in values)
        column = vtk.vtkStringArray() if text else vtk.vtkDoubleArray()
        column.SetName(title)
        for value in values:
            column.InsertNextValue(value if text else float("nan") if value is None else float(value))
        table.AddColumn(column)
    table.EndModify(blocked)
    return table
