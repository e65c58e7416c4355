"""A forecast against later segmentations: which frame of it, which segments, their label maps, the table of scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from ..engine import ForecastError
from . import segmentation
from .maps import reading_region

COLUMNS = (
    ("Segment", "name"), ("DSC", "dice"), ("HD95 (mm)", "hd95_mm"), ("clDice", "cl_dice"),
    ("Forecast (mL)", "volume_ml"), ("Follow-up (mL)", "volume_observed_ml"),
)


@dataclass(frozen=True)
class FollowUp:
    """A later segmentation and what of a forecast it is compared with.

    node: vtkMRMLSegmentationNode; day: of it
    frame, frame_day: number and day of the reported frame that is nearest to it
    ids: name of a segment of the forecast -> ID of the segment of this name in the follow-up; the case is ignored
    remark: what the user should know about it, "" without anything
    """

    node: object
    day: float
    frame: int
    frame_day: float
    ids: dict[str, str]
    remark: str

    @classmethod
    def of(cls, shown, node, day: float) -> FollowUp:
        """For a forecast (forecast.Shown). Raises ForecastError when they share no segment."""
        sequence = shown.sequence
        days = [float(sequence.GetNthIndexValue(i)) for i in range(sequence.GetNumberOfDataNodes())]
        frame = min(range(len(days)), key=lambda i: abs(days[i] - day))
        theirs = segmentation.names_of(node)
        found = {name.casefold(): identifier for identifier, name in theirs.items()}
        ours = segmentation.names_of(sequence.GetNthDataNode(frame)).values()
        ids = {name: found[name.casefold()] for name in ours if name.casefold() in found}
        if not ids:
            raise ForecastError(
                f"the follow-up '{node.GetName()}' has no segment with the name of one of the forecast's; "
                "rename its segments"
            )
        remarks = []
        if abs(days[frame] - day) > 1e-6:
            remarks.append(
                f"'{node.GetName()}' of day {day:g} is compared with day {days[frame]:g}, the nearest of the forecast.")
        alone = [name for identifier, name in theirs.items() if identifier not in ids.values()]
        if alone:
            remarks.append(f"Left out, as the forecast has no segment of this name: {', '.join(alone)}.")
        return cls(node, float(day), frame, days[frame], ids, " ".join(remarks))

    def label_maps(self, shown):
        """Slices of (predicted, observed, label -> name, spacing_mm), the maps on the forecast's grid.

        Raises ForecastError when no segment of the follow-up has a voxel there.
        """
        frame = yield from segmentation.reading(
            shown.sequence.GetNthDataNode(self.frame), parent=shown.proxy.GetParentTransformNode(), may_be_empty=True)
        names = {k: s.name for k, s in enumerate(frame.segments, start=1) if s.name in self.ids}
        observed = np.zeros_like(frame.labels)
        for value, name in names.items():
            # A segment without a voxel is a tissue that has gone, or never was: nothing of it is observed.
            there = yield from reading_region(frame, self.node, self.ids[name], may_be_empty=True)
            observed[there] = value
        if not observed.any():
            raise ForecastError(
                f"the follow-up '{self.node.GetName()}' holds no voxel of the forecast's image; choose one that overlaps it, "
                "or register it first"
            )
        return frame.labels, observed, names, frame.spacing_mm


def title(shown, compared: list[FollowUp]) -> str:
    """The name of a comparison's table."""
    if len(compared) == 1:
        return f"{shown.name} against {compared[0].node.GetName()}, day {compared[0].frame_day:g}"
    return f"{shown.name} against {len(compared)} follow-ups"


def add_table(scene, name: str, compared: list[FollowUp], scores: list[list[dict]]):
    """A table node, one row per follow-up and segment; an earlier one of this name is replaced.

    scores: for each follow-up what `evaluation.score` found, as dictionaries
    """
    former = scene.GetFirstNode(name, "vtkMRMLTableNode")
    table = slicer.vtkMRMLTableNode()
    table.SetName(name)
    rows = [(one, score) for one, found in zip(compared, scores) for score in found]
    if len(compared) > 1:
        _add_column(table, "Follow-up", [one.node.GetName() for one, _ in rows])
    _add_column(table, "Day", [one.day for one, _ in rows])
    _add_column(table, "Forecast's day", [one.frame_day for one, _ in rows])
    for column, key in COLUMNS:
        _add_column(table, column, [score[key] for _, score in rows])
    if former is not None:
        scene.RemoveNode(former)
    scene.AddNode(table)
    return table


def _add_column(table, name: str, values: list) -> None:
    text = any(isinstance(value, str) for value in values)
    column = vtk.vtkStringArray() if text else vtk.vtkDoubleArray()
    column.SetName(name)
    for value in values:
        column.InsertNextValue(value if text else float("nan") if value is None else value)
    table.AddColumn(column)
