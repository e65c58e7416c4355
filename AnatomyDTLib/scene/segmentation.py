"""Segmentation nodes -> labels on one grid, and the tissues of their segments.

A segmentation is read in its own coordinates, so that the forecast, placed under the same parent
transform, lies where the input lies. Lengths are those of the world: a transform that scales changes
`spacing_mm`. A parent transform that is not linear has no voxel size, so it is hardened into the arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from .. import presets
from ..engine import ForecastError
from ..plan import Plan, Tissue
from .geometry import Grid, grid_of_volume, transform_between
from .labelmaps import as_labelmaps, hardened, merged, own_grid, translated
from .slices import finished

SURFACE = "Closed surface"
MOST_SEGMENTS = 254      # label maps are uint8 and 0 is the background


@dataclass(frozen=True)
class Segment:
    """A structure as the user sees it.

    id: of the segment; color: red, green, blue in 0..1; terminology: Slicer's entry, None without one
    source: the input's vtkSegment with everything but its voxels (tags included); None for a new structure
    """

    id: str
    name: str
    color: tuple[float, float, float]
    terminology: str | None = None
    source: object = None


@dataclass(frozen=True)
class Baseline:
    """A segmentation node as arrays.

    labels: (Z, Y, X) uint8, k stands for segments[k - 1] and 0 for none
    grid: of the labels, in the coordinates under the parent transform
    spacing_mm: voxel size in the world, (z, y, x)
    segments: in the node's order
    node_id, parent_transform_id, reference_id: of the input's nodes; None where there is none
    warnings: sentences for the user
    """

    labels: np.ndarray
    grid: Grid
    spacing_mm: tuple[float, float, float]
    segments: tuple[Segment, ...]
    name: str
    node_id: str | None
    parent_transform_id: str | None
    reference_id: str | None
    warnings: tuple[str, ...] = ()


def names_of(node) -> dict[str, str]:
    """Segment ID -> name."""
    found = node.GetSegmentation()
    return {identifier: found.GetSegment(identifier).GetName() for identifier in found.GetSegmentIDs()}


def know_conversions() -> None:
    """Registers the conversions between label maps and surfaces where the application has not."""
    if not slicer.vtkSegmentationConverter().SerializeAllConversionParameters():
        logic = slicer.vtkSlicerSegmentationsModuleLogic()
        logic.SetMRMLScene(slicer.vtkMRMLScene())


def read(node, reference=None, segment_ids=None, parent=None, may_be_empty=False) -> Baseline:
    """Reads a segmentation node in one go; as `reading`."""
    return finished(reading(node, reference, segment_ids, parent, may_be_empty))


def reading(node, reference=None, segment_ids=None, parent=None, may_be_empty=False):
    """Slices that read a segmentation node, and return a Baseline; the node is not changed.

    node: vtkMRMLSegmentationNode
    parent: the transform node above it where it cannot tell itself: a sequence's frame has none
    reference: volume node whose voxels are taken; None: the segmentation's own geometry
    segment_ids: which segments; None: all
    may_be_empty: a segmentation without a voxel, but with a geometry, is one too
    Raises ForecastError with one sentence.
    """
    if node is None:
        raise ForecastError("no segmentation is chosen; choose the one that holds the anatomy and the tumor")
    assert node.IsA("vtkMRMLSegmentationNode"), node.GetClassName()
    know_conversions()
    what = f"the segmentation '{node.GetName()}'"
    present = ids_of(node, segment_ids, what)
    segmentation, warnings = node.GetSegmentation(), []
    parent = parent or node.GetParentTransformNode()
    to_world, warp = transform_between(parent, None)
    grid = None
    if reference is not None:
        to_reference, _ = transform_between(reference.GetParentTransformNode(), None if to_world is None else parent)
        if to_reference is None:
            raise ForecastError(
                f"the reference volume '{reference.GetName()}' has a transform that is not linear relative to {what}; "
                "harden it (Data module, right click, Harden transform) and try again"
            )
        grid = grid_of_volume(reference).moved(to_reference)
    segmentation = as_labelmaps(segmentation, grid if to_world is not None else None, what)
    if to_world is not None:
        own = grid or own_grid(segmentation, present, what)
        labels, lost, hidden = yield from merged(segmentation, present, own)
        spacing_mm = own.moved(to_world).spacing_mm
        shear = own.moved(to_world).shear
    else:
        labels, own, hidden = yield from hardened(segmentation, present, warp, grid, what)
        spacing_mm, shear, lost = own.spacing_mm, own.shear, 0
        warnings.append(f"the transform of {what} is not linear: it was hardened into the forecast's voxels")
    if not labels.any() and not may_be_empty:
        where = "" if reference is None else f" inside the reference volume '{reference.GetName()}'"
        raise ForecastError(f"{what} is empty{where}; segment the anatomy and the tumor first")
    if hidden:
        share = 100.0 * hidden / np.count_nonzero(labels)
        warnings.append(
            f"segments overlap in {hidden} voxels ({share:.2g} % of the segmented ones): the later segment in the list "
            "is taken there, as Slicer's export to a label map does"
        )
    if lost:
        warnings.append(f"{lost} segmented voxels of {what} lie outside the reference volume and are left out")
    if shear > 1e-3:
        warnings.append("the voxel axes are not perpendicular (the image or its transform shears); lengths are inexact")
    segments = tuple(_described(segmentation, i) for i in present)
    return Baseline(
        labels, own, spacing_mm, segments, node.GetName(), node.GetID(),
        parent.GetID() if parent is not None and to_world is not None else None,
        reference.GetID() if reference is not None else None, tuple(warnings),
    )


def assigned(baseline: Baseline, plan: Plan, assignment=None) -> tuple[np.ndarray, tuple[Segment, ...]]:
    """As `assigning`, in one go."""
    return finished(assigning(baseline, plan, assignment))


def assigning(baseline: Baseline, plan: Plan, assignment=None):
    """Slices of labels in the plan's numbering, and the segment that shows each of its tissues.

    assignment: segment ID -> tissue index or name; None: by name. Every segment needs a tissue of its own.
    Returns ((Z, Y, X) uint8 of tissue indices, segments: segments[k - 1] shows tissue k). A tissue that
    the input lacks (a resection cavity, treated tumor) gets a new segment with its name and colour.
    """
    names = plan.anatomy.names
    if assignment is None:
        by_name = {name.casefold(): k for k, name in enumerate(names)}
        assignment = {s.id: by_name[s.name.casefold()] for s in baseline.segments if s.name.casefold() in by_name}
    table = np.zeros(256, np.uint8)
    shown: dict[int, Segment] = {}
    for value, segment in enumerate(baseline.segments, start=1):
        index = assignment.get(segment.id)
        index = names.index(index) if isinstance(index, str) and index in names else index
        if not isinstance(index, int) or not 0 <= index < len(names):
            raise ForecastError(
                f"the segment '{segment.name}' has no tissue in the plan; assign it one of {', '.join(names)}"
            )
        if index in shown:
            raise ForecastError(
                f"the segments '{shown[index].name}' and '{segment.name}' are both assigned to the tissue "
                f"'{names[index]}'; give each its own tissue or merge them"
            )
        table[value] = index
        if index:
            shown[index] = segment
    taken = {s.id for s in baseline.segments}
    for index, tissue in enumerate(plan.anatomy.tissues):
        if index and index not in shown:
            shown[index] = new_segment(tissue, taken)
            taken.add(shown[index].id)
    labels = yield from translated(baseline.labels, table)
    return labels, tuple(shown[k] for k in range(1, len(names)))


def tissues(baseline: Baseline, roles: dict[str, str], law: str = presets.DEFAULT_GROWTH) -> tuple[Tissue, ...]:
    """The tissues of a plan, background first, then one per segment in the baseline's order.

    roles: segment ID -> one of plan.ROLES; name, colour and terminology are the segment's
    """
    made = [presets.tissue("Background", "background", law)]
    for segment in baseline.segments:
        if not roles.get(segment.id):
            raise ForecastError(f"the segment '{segment.name}' has no tissue yet; choose what it is")
        taken = {t.name.casefold() for t in made}
        name, number = segment.name, 2
        while name.casefold() in taken:
            name, number = f"{segment.name} {number}", number + 1
        made.append(presets.tissue(name, roles[segment.id], law, color=segment.color, terminology=segment.terminology))
    return tuple(made)


def guessed_roles(baseline: Baseline) -> dict[str, str | None]:
    """Segment ID -> the role that its name or terminology tells, None where neither does."""
    from .. import labelling

    found = {s.id: labelling.structure_of_segment(s.name, s.color, s.terminology) for s in baseline.segments}
    return {i: structure.role if structure else None for i, structure in found.items()}


def new_segment(tissue: Tissue, taken=()) -> Segment:
    """A segment for a tissue that no input segment shows; its ID tells the tissue and is not among `taken`."""
    base = "".join(c if c.isascii() and c.isalnum() else "_" for c in tissue.name)
    number, identifier = 2, base
    while identifier in taken:
        number, identifier = number + 1, f"{base}_{number}"
    return Segment(identifier, tissue.name, tissue.color or presets.ROLE_COLORS[tissue.role], tissue.terminology)


def ids_of(node, wanted, what: str) -> list[str]:
    """The IDs of a segmentation's segments, or the wanted ones of them, in its order; raises ForecastError."""
    present = list(node.GetSegmentation().GetSegmentIDs()) if node.GetSegmentation() else []
    if wanted is not None:
        for identifier in wanted:
            if identifier not in present:
                raise ForecastError(f"{what} has no segment with the ID '{identifier}'; choose one of its segments")
        present = [i for i in present if i in set(wanted)]
    if not present:
        advice = "; segment the anatomy and the tumor first" if wanted is None else " chosen; choose one or more"
        raise ForecastError(f"{what} has no segment{advice}")
    if len(present) > MOST_SEGMENTS:
        raise ForecastError(
            f"{what} has {len(present)} segments, and a forecast takes at most {MOST_SEGMENTS}; merge or drop some"
        )
    return present


def _described(segmentation, identifier: str) -> Segment:
    segment = segmentation.GetSegment(identifier)
    source = slicer.vtkSegment()
    source.DeepCopyMetadata(segment)
    entry = vtk.reference("")
    known = segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), entry)
    terminology = entry.get() if known and entry.get() else None
    return Segment(identifier, segment.GetName(), tuple(segment.GetColor()), terminology, source)
