"""The unit of a dose volume, as SlicerRT says it.

SlicerRT keeps DICOM's Dose Units (3004,0002: GY or RELATIVE) as "DicomRtImport.DoseUnitName": an attribute of the study
that the volume lies under in the subject hierarchy, in older versions of the volume itself. "Convert to RT dose volume" lets
the user type the unit. "DicomRtImport.DoseUnitValue" is the dose grid scaling, which its importer has already multiplied
into the voxels.
"""

from __future__ import annotations

import slicer

from ..engine import ForecastError

UNIT_ATTRIBUTE = "DicomRtImport.DoseUnitName"
STUDY = "Study"
GRAY = {"gy": 1.0, "gray": 1.0, "cgy": 0.01, "centigray": 0.01, "mgy": 0.001, "milligray": 0.001}


def unit(volume) -> str | None:
    """What the scene says of a dose volume's unit; None where it says nothing."""
    own = volume.GetAttribute(UNIT_ATTRIBUTE)
    if own:
        return own
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume.GetScene())
    item = hierarchy.GetItemByDataNode(volume) if hierarchy is not None else 0
    if not item:
        return None
    return hierarchy.GetItemAttribute(item, UNIT_ATTRIBUTE) or hierarchy.GetAttributeFromItemAncestor(item, UNIT_ATTRIBUTE, STUDY) or None


def gray_per_unit(volume) -> tuple[float, tuple[str, ...]]:
    """(what a voxel's value is multiplied with to be Gy, warnings). A volume of unknown unit is taken to be in Gy.

    Raises ForecastError for a unit that is no dose in Gy, a relative one above all.
    """
    said = unit(volume)
    if said is None:
        return 1.0, ()
    what = f"the dose volume '{volume.GetName()}'"
    scale = GRAY.get(said.strip().casefold())
    if scale is None:
        raise ForecastError(f"{what} is in '{said.strip()}', not in Gy; convert it to Gy, with the dose that 100 % stands for")
    return scale, () if scale == 1.0 else (f"{what} is in {said.strip()}; it was converted to Gy",)
