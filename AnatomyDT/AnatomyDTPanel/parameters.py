"""Everything that is chosen in the panel, in the scene."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class AnatomyDTParameterNode:
    """Everything that is chosen in the panel; saved with the scene.

    roles: JSON, segment ID -> role; treatments: JSON, as in a plan
    loadedPlan: the JSON of a plan file whose numbers are used when growthLaw is "plan"
    loadedDays: JSON, the reported days of a plan file where horizon and interval cannot express them, and what
        these two show instead
    """

    segmentation: vtkMRMLSegmentationNode
    reference: vtkMRMLScalarVolumeNode
    regions: vtkMRMLSegmentationNode
    dose: vtkMRMLScalarVolumeNode
    roles: str = "{}"
    treatments: str = "[]"
    forecastName: str = "Forecast"
    horizonDays: Annotated[float, WithinRange(1, 1825)] = 90
    intervalDays: Annotated[float, WithinRange(1, 365)] = 10
    growthLaw: str = ""
    device: str = "auto"
    massEffect: Annotated[float, WithinRange(0, 1)] = 0
    infiltration: bool = True
    probabilities: bool = False
    loadedPlan: str = ""
    loadedDays: str = ""
    shownForecast: str = ""
    followUp: vtkMRMLSegmentationNode
    followUpDay: Annotated[float, WithinRange(0, 3650)] = 90
