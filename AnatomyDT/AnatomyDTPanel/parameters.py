"""Everything that is chosen in the panel, in the scene."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode, vtkMRMLTextNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class AnatomyDTParameterNode:
    """Everything that is chosen in the panel; saved with the scene.

    roles: JSON, segment ID -> role; treatments: JSON, as in a plan
    loadedPlan: the JSON of a plan file whose numbers are used when growthLaw is "plan"
    loadedDays: JSON, the reported days of a plan file where horizon and interval cannot express them, and what
        these two show instead
    followUps, followUpDays: row by row, a node None where none is chosen yet; followUp: the one to compare with, None for all
    numbering, regime, regimeStartDay: what Fill and Use would take; comparedTissue: of the chart of all forecasts
    images: what the weights need beside the segmentation, in the order of their training; None where none is chosen yet
    model: "mechanistic", "weights" (with weightsFile), "glioma-sim" (shipped weights) or "twin" (with twinFile, else the scene's own `twin`)
    twin: the text that holds the twin which was calibrated here; members: how many draws of it
    followUpOutlines: whether the follow-ups' outlines are drawn over the forecast, on the days that are nearest to theirs
    """

    segmentation: vtkMRMLSegmentationNode
    reference: vtkMRMLScalarVolumeNode
    followUps: list[vtkMRMLSegmentationNode]
    followUpDays: list[float]
    followUp: vtkMRMLSegmentationNode
    images: list[vtkMRMLScalarVolumeNode]
    regions: vtkMRMLSegmentationNode
    dose: vtkMRMLScalarVolumeNode
    twin: vtkMRMLTextNode
    numbering: str = ""
    roles: str = "{}"
    regime: str = "none"
    regimeStartDay: Annotated[float, WithinRange(0, 3650)] = 0
    treatments: str = "[]"
    forecastName: str = "Forecast"
    horizonDays: Annotated[float, WithinRange(1, 1825)] = 90
    intervalDays: Annotated[float, WithinRange(1, 365)] = 10
    model: str = "mechanistic"
    weightsFile: str = ""
    twinFile: str = ""
    growthLaw: str = ""
    device: str = "auto"
    massEffect: Annotated[float, WithinRange(0, 1)] = 0
    infiltration: bool = True
    probabilities: bool = False
    loadedPlan: str = ""
    loadedDays: str = ""
    shownForecast: str = ""
    comparedTissue: str = ""
    resampleFollowUps: bool = False
    members: Annotated[int, WithinRange(2, 200)] = 20
    followUpOutlines: bool = False
