"""What a user of the panel does, for its tests: nodes to choose, choices, a run."""

from __future__ import annotations

import json

import numpy as np
import slicer


def add_segmentation(names=("White matter", "Tumor"), name="Patient", size=24, radius=4.0):
    """A ball of the last segment in a cube of the first; further segments are slabs beside it."""
    from AnatomyDTLib.scene.geometry import Grid, oriented_image

    z, y, x = np.mgrid[:size, :size, :size] - (size - 1) / 2
    labels = np.ones((size,) * 3, np.uint8)
    for value in range(2, len(names)):
        labels[value - 2] = value
    labels[z**2 + y**2 + x**2 < radius**2] = len(names)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    image = oriented_image(labels, Grid(labels.shape, np.diag([1.0, 1.0, 1.0, 1.0])))
    for value, segment_name in enumerate(names, start=1):
        segment = slicer.vtkSegment()
        segment.SetName(segment_name)
        segment.SetLabelValue(value)
        segment.SetColor(value / len(names), 0.4, 0.3)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, f"ID_{value}")
    node.CreateDefaultDisplayNodes()
    return node


def add_volume(name, values, origin=0.0, spacing=1.0):
    """A volume; values None: one without voxels."""
    from AnatomyDTLib.scene.geometry import Grid, oriented_image

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    if values is not None:
        node.SetAndObserveImageData(oriented_image(values, Grid(values.shape, np.eye(4))))
    node.SetOrigin(origin, origin, origin)
    node.SetSpacing(spacing, spacing, spacing)
    return node


def write_twin_header(path, tissues, roles, images=0):
    """A trained twin's file as far as the panel reads it: its header."""
    told = {"format": "anatomydt-twin-3", "twin": json.dumps({"classes": tissues, "images": images}), "roles": json.dumps(roles)}
    content = json.dumps({"__metadata__": told}).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    return str(path)


def choose(combo, data):
    index = next(i for i in range(combo.count) if combo.itemData(i) == data)
    combo.setCurrentIndex(index)


def ready(host, days=20, **segmentation):
    node = add_segmentation(**segmentation)
    host.widget.ui.segmentationSelector.setCurrentNode(node)
    host.widget.ui.horizonSlider.setValue(days)
    host.process()
    return node


def run(host, name="Forecast"):
    ui = host.widget.ui
    ui.nameLineEdit.setText(name)
    assert ui.applyButton.enabled, ui.applyButton.toolTip
    ui.applyButton.click()
    longest = host.wait(lambda: not host.widget.logic.running)
    return longest


def everything():
    scene = slicer.mrmlScene
    return sorted(scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes()))


def load_sample():
    import SampleData

    return SampleData.downloadSample("AnatomyDT baseline")


class Stored:
    """A process that has ended, with a result that one real run computed."""

    fraction, text, log = 1.0, "", ()

    sending = False

    def __init__(self, computed):
        self._computed = computed

    def poll(self):
        return True

    def loading(self):
        yield
        return self._computed

    def cancel(self):
        pass
