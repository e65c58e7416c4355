"""Volumes over time as a table, plot series and a chart, in the segments' colours."""

from __future__ import annotations

import slicer
import vtk

from ..engine import Forecast, ForecastError

DAY = "Day"
UNIT = "mL"


def add(scene, name: str, forecast: Forecast, segments):
    """Adds (table, series, chart): a column of days, one column in mL and one plotted line per segment.

    segments: segments[k - 1] shows tissue k, whose volumes are forecast.volume_ml[:, k]
    """
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", f"{name} volumes")
    blocked = table.StartModify()
    columns = _unique([DAY] + [segment.name for segment in segments])
    for k, column in enumerate(columns):
        values = vtk.vtkDoubleArray()
        values.SetName(column)
        values.SetNumberOfValues(len(forecast.days))
        for row in range(len(forecast.days)):
            values.SetValue(row, float(forecast.volume_ml[row, k] if k else forecast.days[row]))
        table.AddColumn(values)
        table.SetColumnUnitLabel(column, UNIT if k else "day")
    table.EndModify(blocked)
    series = [
        add_series(scene, table, column, segment.name, segment.color) for column, segment in zip(columns[1:], segments)
    ]
    return table, series, add_chart(scene, f"{name} volumes", series)


def add_band(scene, table, chart, column: str, lower, upper, color):
    """A band around a line of a forecast's chart: two columns of its table, two dashed lines; returns the lines.

    column: the line's; lower, upper: (T,) mL, the volumes between which an ensemble lies
    """
    series = []
    for title, values in ((f"{column}, lower", lower), (f"{column}, upper", upper)):
        if len(values) != table.GetNumberOfRows():
            raise ForecastError(f"the band of '{column}' has {len(values)} days, its table {table.GetNumberOfRows()}")
        stored = vtk.vtkDoubleArray()
        stored.SetName(title)
        for value in values:
            stored.InsertNextValue(float(value))
        table.AddColumn(stored)
        table.SetColumnUnitLabel(title, UNIT)
        line = add_series(scene, table, title, title, color)
        line.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
        line.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleDash)
        chart.AddAndObservePlotSeriesNodeID(line.GetID())
        series.append(line)
    return tuple(series)


def add_comparison(scene, name: str, compared, tissue: str):
    """One chart of one tissue in several forecasts: (series, chart). Same colour, one line style per forecast.

    compared: (name, volume table, colour) per forecast; tissue: the column's name
    """
    styles = ("Solid", "Dash", "Dot", "DashDot", "DashDotDot")
    dashes = [getattr(slicer.vtkMRMLPlotSeriesNode, f"LineStyle{style}") for style in styles]
    series = []
    for label, table, _ in compared:
        columns = [table.GetTable().GetColumnName(c) for c in range(1, table.GetTable().GetNumberOfColumns())]
        if tissue not in columns:
            raise ForecastError(f"the forecast '{label}' has no tissue '{tissue}'; compare one of {', '.join(columns)}")
    for number, (label, table, color) in enumerate(compared):
        line = add_series(scene, table, tissue, f"{label}: {tissue}", color)
        line.SetLineStyle(dashes[number % len(dashes)])
        series.append(line)
    return series, add_chart(scene, name, series)


def add_series(scene, table, column: str, name: str, color):
    """One line: a column of a volume table over its days."""
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(DAY)
    series.SetYColumnName(column)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
    series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleSolid)
    series.SetColor(*color)
    return series


def add_chart(scene, name: str, series):
    """A chart of series that were made here, with titled axes."""
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", name)
    blocked = chart.StartModify()
    chart.SetTitle(name)
    chart.SetXAxisTitle("Time (day)")
    chart.SetYAxisTitle(f"Volume ({UNIT})")
    for line in series:
        chart.AddAndObservePlotSeriesNodeID(line.GetID())
    chart.EndModify(blocked)
    return chart


def _unique(names) -> list[str]:
    found: list[str] = []
    for name in names:
        candidate, number = name, 2
        while candidate in found:
            candidate, number = f"{name} {number}", number + 1
        found.append(candidate)
    return found
