"""A patient with a forecast in the scene."""

import numpy as np
import slicer
import vtk

from AnatomyDTLib.engine import Forecast
from AnatomyDTLib.plan import Anatomy, Plan
from AnatomyDTLib.presets import tissue
from AnatomyDTLib.scene import forecast as scenes
from AnatomyDTLib.scene import segmentation as nodes
from AnatomyDTLib.scene.geometry import voxels

SHAPE = (18, 24, 30)
OBLIQUE = np.array([[0.6, -0.8 * 1.2, 0, 10], [0.8, 0.6 * 1.2, 0, -20], [0, 0, -2.5, 5], [0, 0, 0, 1.0]])
NAMES = ("Brain", "Ventricle", "Tumor")
DAYS = (0.0, 15.5, 30.0, 90.0)
PLAN = Plan(
    Anatomy((
        tissue("Background", "background"), tissue("Brain", "organ"), tissue("Ventricle", "ventricle"),
        tissue("Tumor", "tumor"), tissue("Resection cavity", "cavity"),
    )),
    days=DAYS[1:],
)


def anatomy(radius):
    z, y, x = np.indices(SHAPE)
    labels = np.zeros(SHAPE, np.uint8)
    labels[((x - 15) / 13) ** 2 + ((y - 12) / 10) ** 2 + ((z - 9) / 7) ** 2 < 1] = 1
    labels[(x - 9) ** 2 + (y - 12) ** 2 + (z - 9) ** 2 < 10] = 2
    labels[((x - 19) ** 2 + (y - 12) ** 2 + (z - 9) ** 2 < radius**2) & (labels == 1)] = 3
    return labels


def grown(probabilities=False):
    """A forecast made by hand: a ball that grows in a box of two tissues, a cavity that never comes."""
    labels = np.stack([anatomy(r) for r in (2, 3, 4, 5)])
    volumes = np.stack([np.bincount(frame.ravel(), minlength=5) for frame in labels]) * 3.0 / 1000
    probability = (labels == 3).astype(np.float16) * np.float16(0.75) if probabilities else None
    return Forecast(np.array(DAYS), labels, volumes, probability, (2.5, 1.2, 1.0), PLAN)


def shown_from(patient, found=None, name="Forecast"):
    node, reference = patient
    baseline = nodes.read(node, reference)
    _, segments = nodes.assigned(baseline, PLAN)
    return scenes.show(node.GetScene(), found or grown(), baseline, segments, name)


def ids(scene):
    return [scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())]


def items(scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    found = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), found, True)
    return [found.GetId(i) for i in range(found.GetNumberOfIds())]


def segment_array(node, identifier):
    segment = node.GetSegmentation().GetSegment(identifier)
    return voxels(segment.GetRepresentation("Binary labelmap")) == segment.GetLabelValue()
