"""Geometries, heads and a bend for the tests of what is read from the scene."""

import numpy as np
import vtk


def geometry(axis, degrees, spacing_xyz, origin, mirror=False):
    """An oblique IJKToRAS: rotation about `axis`, anisotropic spacing, left-handed when mirrored."""
    axis = np.array(axis, float) / np.linalg.norm(axis)
    a = np.deg2rad(degrees)
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * k @ k) @ np.diag(spacing_xyz)
    if mirror:
        matrix[:3, 2] *= -1
    matrix[:3, 3] = origin
    return matrix


OBLIQUE = geometry((1, 2, 3), 35, (0.86, 0.9, 6.5), (-40.0, 12.5, 77.0), mirror=True)
ROUND = geometry((0, 0, 1), 0, (1, 1, 1), (0, 0, 0))


def ball(shape, center, radius, ijk_to_ras=None):
    """Voxels of a (Z, Y, X) array whose centre lies in a ball, in voxels, or in mm with a geometry."""
    z, y, x = np.indices(shape)
    points = np.stack([x, y, z], -1).astype(float)
    if ijk_to_ras is not None:
        points = points @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]
    return ((points - np.array(center)) ** 2).sum(-1) < radius**2


def head(shape=(20, 32, 40)):
    labels = np.zeros(shape, np.uint8)
    c = np.array(shape[::-1]) / 2
    labels[ball(shape, c, 9.0)] = 1
    labels[ball(shape, c + (3, 0, 0), 3.0)] = 2
    labels[2, 3, 5] = 3                      # one voxel, far from the others
    return labels


NAMES = ("Brain", "Tumor", "Fleck")


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def bend(scene):
    """A smooth nonlinear transform node: a thin-plate spline that moves the middle by a few mm."""
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for p in np.array(np.meshgrid((0, 40), (0, 32), (0, 20))).reshape(3, -1).T:
        source.InsertNextPoint(*p)
        target.InsertNextPoint(*p)
    source.InsertNextPoint(20, 16, 10)
    target.InsertNextPoint(24, 16, 10)
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    spline.SetBasisToR()
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Bend")
    node.SetAndObserveTransformToParent(spline)
    return node
