"""Work on the main thread in slices, between which the application answers.

A piece of work is a generator: it yields wherever the user may come between, and returns its result. Who drives it
decides when it goes on; closing it ends it, and `all_or_nothing` then leaves the scene as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import slicer

from ..engine import Cancelled, ForecastError


def finished(slices: Generator, cancelled: Callable[[], bool] | None = None):
    """The result of a piece of work, done in one go; raises Cancelled when `cancelled()`, asked between slices."""
    while True:
        try:
            next(slices)
        except StopIteration as done:
            return done.value
        if cancelled is not None and cancelled():
            slices.close()
            raise Cancelled


def all_or_nothing(scene, slices: Generator) -> Generator:
    """The same slices; when one fails or they are not driven to the end, every node that they added leaves the scene.

    Nodes that others add between two slices stay.
    """
    added = []
    try:
        while True:
            before = {node.GetID() for node in nodes(scene, "vtkMRMLNode")}
            try:
                said = next(slices)
            except StopIteration as done:
                return done.value
            finally:
                added += [node for node in nodes(scene, "vtkMRMLNode") if node.GetID() not in before]
            yield said
    except BaseException:
        slices.close()
        remove(scene, added)
        raise


def saying(slices: Generator, say: Callable) -> Generator:
    """The same slices, each yielding say(what it yielded)."""
    try:
        while True:
            try:
                said = next(slices)
            except StopIteration as last:
                return last.value
            yield say(said)
    finally:
        slices.close()


def check_present(scene, entering) -> None:
    """Raises ForecastError when one of the nodes was removed between two slices."""
    if not all(scene.IsNodePresent(node) for node in entering):
        raise ForecastError("a node of the forecast was removed while it entered the scene; run it again")


def nodes(scene, class_name: str) -> list:
    return [scene.GetNthNodeByClass(i, class_name) for i in range(scene.GetNumberOfNodesByClass(class_name))]


def remove(scene, unwanted) -> None:
    """Removes nodes with their display and storage nodes and their items of the subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    doomed = list(unwanted)
    for node in unwanted:
        if node.IsA("vtkMRMLDisplayableNode"):
            doomed += [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]
        if node.IsA("vtkMRMLStorableNode"):
            doomed += [node.GetNthStorageNode(i) for i in range(node.GetNumberOfStorageNodes())]
    for node in doomed:
        if node is None or node.GetScene() is None or not scene.IsNodePresent(node):
            continue
        # The application drops a removed node's item itself; without it nobody does.
        item = hierarchy.GetItemByDataNode(node) if hierarchy else 0
        if item:
            hierarchy.RemoveItem(item, False, False)
        scene.RemoveNode(node)
