"""The way from nodes to a played forecast: `read`, the engine, `show`; or all three in one call.

A background run reads on the main thread, runs the engine wherever it likes on the arrays, and shows
on the main thread, in slices between which the application answers (`showing`). A run that fails or is
cancelled leaves the scene as it was.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import slicer

from .. import engine
from ..engine import Forecast, ForecastError
from ..plan import Plan
from . import charts, segmentation, sequence
from .maps import read_maps
from .segmentation import Baseline, Segment
from .slices import all_or_nothing, check_present, finished, nodes, remove as remove_nodes, saying

# An attribute of the browser: the name of the forecast that it plays. The nodes that belong to it are
# node references of the browser, so that they are found again in a scene that was saved and loaded.
ATTRIBUTE = "AnatomyDT.Forecast"
ROLES = {key: f"AnatomyDT.{key}" for key in ("table", "chart", "series", "baseline")}


@dataclass(frozen=True)
class Shown:
    """The nodes of a forecast in the scene; the last three are None without a probability sequence or a baseline."""

    browser: object
    sequence: object
    proxy: object
    table: object
    series: tuple
    chart: object
    probability_sequence: object = None
    probability_proxy: object = None
    baseline: object = None

    @property
    def name(self) -> str:
        return self.browser.GetAttribute(ATTRIBUTE)


def forecast(
    node,
    plan: Plan,
    *,
    reference=None,
    assignment: dict | None = None,
    regions: dict | None = None,
    doses: dict | None = None,
    name: str = "Forecast",
    probabilities: bool = False,
    device: str = "auto",
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Forecast, Shown]:
    """Forecasts a segmentation node and shows the result in its scene.

    node: vtkMRMLSegmentationNode; reference: volume node whose voxels are taken, or None
    assignment: segment ID -> tissue index or name; None: segments and tissues have the same names
    regions: map name in the plan -> segmentation or label volume node, or (segmentation node, segment ID)
    doses: map name in the plan -> volume node in Gy
    name: of the forecast; an earlier one of this name is replaced, one of another name stays beside it
    Raises ForecastError for a user's mistake, Cancelled when told to stop; the scene is then as it was.
    """
    baseline = segmentation.read(node, reference)
    labels, segments = segmentation.assigned(baseline, plan, assignment)
    maps, warnings = read_maps(baseline, regions, doses)
    found = engine.forecast(
        labels, baseline.spacing_mm, plan, maps=maps, device=device, probabilities=probabilities,
        progress=progress, cancelled=cancelled,
    )
    shown = show(node.GetScene(), found, baseline, segments, name, cancelled)
    return dataclasses.replace(found, warnings=baseline.warnings + warnings + tuple(found.warnings)), shown


def show(
    scene, found: Forecast, baseline: Baseline, segments: tuple[Segment, ...], name: str = "Forecast", cancelled=None
) -> Shown:
    """Puts a forecast into the scene in one go; as `showing`. Raises Cancelled when `cancelled()` between two slices."""
    return finished(showing(scene, found, baseline, segments, name), cancelled)


def showing(
    scene, found: Forecast, baseline: Baseline, segments: tuple[Segment, ...], name: str = "Forecast", meshes=None,
    attributes: dict | None = None, stage: Callable[[Shown], None] | None = None, band=None,
):
    """Slices that put a forecast into the scene: sequences, browser, proxies, table, chart. Main thread only.

    segments: segments[k - 1] shows tissue k, as `segmentation.assigned` gives them
    meshes: number of the frame -> its closed surfaces, None: made here
    attributes: of the browser, name -> text
    stage: called with the complete nodes just before they become visible
    band: (lower, upper) of the tumor's volume on each day, mL, dashed in the chart; None: no band
    All or nothing; a former forecast of the same name is removed when the new one is complete. Yields
    (slices done, of how many) and returns Shown; when all are done, what is left is clean-up, done in any case.
    """
    parts = 2 if found.tumor_probability is not None else 1
    count = parts * (len(found.days) + 1) + 4
    slices = _showing(scene, found, baseline, segments, name, meshes, attributes or {}, stage, band)
    done = itertools.count(1)
    shown, former = yield from saying(all_or_nothing(scene, slices), lambda nothing: (next(done), count))
    clean_up = iter(()) if former is None else removing(former)
    try:
        for _ in clean_up:
            yield count, count
    finally:
        for _ in clean_up:
            pass
    return shown


def _showing(scene, found, baseline, segments, name, meshes, attributes, stage, band):
    grid = baseline.grid
    sequences = {"segmentation": (yield from sequence.segmentation_sequence(found, grid, segments, name, meshes))}
    if found.tumor_probability is not None:
        probability = sequence.probability_sequence(found, grid, f"{name} tumor probability")
        sequences["probability"] = yield from probability
    node = scene.GetNodeByID(baseline.node_id) if baseline.node_id else None
    reference = scene.GetNodeByID(baseline.reference_id) if baseline.reference_id else None
    parent = scene.GetNodeByID(baseline.parent_transform_id) if baseline.parent_transform_id else None
    if baseline.parent_transform_id and parent is None:
        raise ForecastError(
            "the segmentation's transform was removed during the run; without it the forecast lies elsewhere: "
            "run it again"
        )
    tissues = found.plan.anatomy.tissues[1:]
    browser, proxies = yield from sequence.add(scene, name, sequences, tissues, segments, parent, reference)
    table, series, chart = charts.add(scene, name, found, segments)
    dashed = ()
    if band is not None:
        of_tumor = [segments[k - 1] for k in found.plan.anatomy.tumors]
        column = of_tumor[0].name if len(of_tumor) == 1 else " + ".join(segment.name for segment in of_tumor)
        dashed = charts.add_band(scene, table, chart, column, *band, of_tumor[0].color)
    yield
    made = [*sequences.values(), *proxies.values(), browser, table, *series, *dashed, chart]
    check_present(scene, made)
    # One modified event for all of it: at each, the application copies the frame to the proxy anew.
    blocked = browser.StartModify()
    for key, text in attributes.items():
        browser.SetAttribute(key, text)
    browser.SetNodeReferenceID(ROLES["table"], table.GetID())
    browser.SetNodeReferenceID(ROLES["chart"], chart.GetID())
    for line in series:
        browser.AddNodeReferenceID(ROLES["series"], line.GetID())
    if node is not None and scene.IsNodePresent(node):
        browser.SetNodeReferenceID(ROLES["baseline"], node.GetID())
        _place_beside(scene, node, made)
    browser.EndModify(blocked)
    _play_in_toolbar(browser)
    yield
    check_present(scene, made)
    shown = _shown(browser)
    if stage is not None:
        stage(shown)
    for proxy in proxies.values():
        proxy.GetDisplayNode().SetVisibility(True)
    # Nothing fails any more: what has the name is the new forecast.
    former = find(scene, name)
    if former is not None:
        _rename(former.browser, None)
    _rename(browser, name)
    return shown, former


def _rename(browser, name: str | None) -> None:
    # Without the event, at which the application would copy the frame to the proxy.
    browser.SetDisableModifiedEvent(True)
    browser.SetAttribute(ATTRIBUTE, name)
    browser.SetDisableModifiedEvent(False)


def compare(scene, shown: list[Shown], tissue: str, name: str = "Comparison"):
    """One chart of a tissue's volume in several forecasts: (series, chart). All or nothing."""
    if len(shown) < 2:
        raise ForecastError("a comparison takes two forecasts or more; run another one under another name")
    compared = []
    for one in shown:
        line = next((s for s in one.series if s is not None and s.GetYColumnName() == tissue), None)
        compared.append((one.name, one.table, line.GetColor() if line else (0.0, 0.0, 0.0)))
    return charts.add_comparison(scene, name, compared, tissue)


def find(scene, name: str) -> Shown | None:
    """The forecast of this name in the scene, also one that was loaded with it; None where there is none."""
    return next((shown for shown in all_shown(scene) if shown.name == name), None)


def all_shown(scene) -> list[Shown]:
    """Every forecast in the scene, oldest first."""
    browsers = nodes(scene, "vtkMRMLSequenceBrowserNode")
    return [_shown(b) for b in browsers if b.GetAttribute(ATTRIBUTE) and b.GetMasterSequenceNode() is not None]


def distinguish(scene) -> dict[str, str]:
    """Gives forecasts of one name names of their own, as a scene that is loaded beside another brings them.

    The oldest keeps its name. Returns former name -> that of the youngest which had it.
    """
    renamed, taken = {}, set()
    found = all_shown(scene)
    for shown in found:
        former, number = shown.name, 2
        if former in taken:
            everywhere = {one.name for one in found} | taken
            while f"{former} ({number})" in everywhere:
                number += 1
            renamed[former] = f"{former} ({number})"
            _rename(shown.browser, renamed[former])
            made = (shown.browser, shown.sequence, shown.proxy, shown.probability_sequence, shown.probability_proxy,
                    shown.table, shown.chart)
            for node in made:
                if node is not None and node.GetName().startswith(former):
                    node.SetName(renamed[former] + node.GetName().removeprefix(former))
        taken.add(shown.name)
    return renamed


def remove(shown: Shown) -> None:
    """Removes a forecast's nodes, display and storage nodes included: a removed browser would leave its proxies.

    Its lines in comparison charts go too.
    """
    for _ in removing(shown):
        pass


def removing(shown: Shown):
    """Slices that do what `remove` does; the first is empty.

    The frames go one by one: freed all at once, those of a brain keep the application for a fifth of a second.
    """
    scene = shown.browser.GetScene()
    yield
    lines = {line.GetID(): line for line in shown.series if line is not None}
    if shown.table is not None:
        lines |= {s.GetID(): s for s in nodes(scene, "vtkMRMLPlotSeriesNode") if s.GetTableNode() is shown.table}
    parts = (
        (shown.browser, shown.chart, *lines.values(), shown.table), (shown.sequence, shown.proxy),
        (shown.probability_sequence, shown.probability_proxy),
    )
    for doomed in parts:
        remove_nodes(scene, [node for node in doomed if node is not None])
        yield
    for frames in (shown.sequence, shown.probability_sequence):
        while frames is not None and frames.GetNumberOfDataNodes():
            frames.RemoveDataNodeAtValue(frames.GetNthIndexValue(frames.GetNumberOfDataNodes() - 1))
            yield


def _place_beside(scene, node, placed) -> None:
    """Puts nodes under the subject hierarchy parent of `node`."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    own = hierarchy.GetItemByDataNode(node) if hierarchy else 0
    if not own:
        return
    parent = hierarchy.GetItemParent(own)
    for one in placed:
        item = hierarchy.GetItemByDataNode(one)
        if item:
            hierarchy.SetItemParent(item, parent)
        elif one.IsA("vtkMRMLSegmentationNode") or one.IsA("vtkMRMLTableNode"):
            # The application gives each node that it knows an item when it is added.
            hierarchy.CreateItem(parent, one)


def _play_in_toolbar(browser) -> None:
    module = getattr(getattr(slicer, "modules", None), "sequences", None)
    if module is not None and hasattr(module, "toolBar") and module.toolBar() is not None:
        module.toolBar().setActiveBrowserNode(browser)


def _shown(browser) -> Shown:
    master = browser.GetMasterSequenceNode()
    probability = None
    for other in nodes(browser.GetScene(), "vtkMRMLSequenceNode"):
        if other is not master and browser.IsSynchronizedSequenceNode(other, False):
            probability = other
    role = ROLES["series"]
    return Shown(
        browser, master, browser.GetProxyNode(master),
        browser.GetNodeReference(ROLES["table"]),
        tuple(browser.GetNthNodeReference(role, i) for i in range(browser.GetNumberOfNodeReferences(role))),
        browser.GetNodeReference(ROLES["chart"]),
        probability, browser.GetProxyNode(probability) if probability is not None else None,
        browser.GetNodeReference(ROLES["baseline"]),
    )
