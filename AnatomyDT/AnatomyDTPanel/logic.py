"""The logic of the module: runs forecasts in the background and shows them; needs no panel."""

import dataclasses
import json

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from AnatomyDTLib.engine import ForecastError
from AnatomyDTLib.scene import comparison
from AnatomyDTLib.scene import forecast as rooms
from AnatomyDTLib.scene import segmentation as reading
from AnatomyDTLib.scene.maps import reading_images, reading_maps
from AnatomyDTLib.scene.slices import saying
from AnatomyDTLib.scene.surfaces import stored_meshes

from .background import Run, Scoring
from .calibrating import Calibrations
from .jobs import Jobs
from .packages import Packages
from .parameters import AnatomyDTParameterNode
from .views import CENTER_ATTRIBUTE, Views

# An attribute of the browser: the plan of the forecast that it plays, so that it can be run again elsewhere.
PLAN_ATTRIBUTE = "AnatomyDT.Plan"


class AnatomyDTLogic(ScriptedLoadableModuleLogic, Jobs, Packages, Views, Calibrations):
    """Runs forecasts in the background and finds them in the scene; needs no panel.

        logic = AnatomyDTLogic()
        result, shown = logic.forecast(segmentationNode, plan, waitForCompletion=True)
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        Jobs.__init__(self)
        Packages.__init__(self)

    def getParameterNode(self):
        return AnatomyDTParameterNode(super().getParameterNode())

    def forecast(
        self, segmentation, plan, reference=None, assignment=None, regions=None, doses=None, name="Forecast",
        probabilities=False, device="auto", weights=None, images=(), twin=None, members=20, waitForCompletion=False,
        progress=None, completed=None,
    ):
        """Forecasts a segmentation in the background; arguments as AnatomyDTLib.scene.forecast.forecast.

        weights: path of a growth network's or a trained twin's weights, None for the mechanistic model alone
        images: volume nodes that the weights were trained with, in the order of their training
        twin: the calibrated twin that the plan's numbers are of, where they are; a baseline of another is warned of
        members: with `probabilities` and a twin of this baseline, the probability is that of so many draws of the twin,
            and the chart gets its 80 % band; 0: the forecast's own
        progress: called with (fraction, text, new lines of the log)
        completed: called with (forecast, shown, message); forecast and shown are None without a result
        waitForCompletion: return (forecast, shown) when it is there; raises ForecastError, or Cancelled when it
            was cancelled
        What is wrong with the input is the message of `completed`, or the ForecastError that is raised.
        """
        self._refuseSecond()
        if segmentation is None:
            raise ForecastError("no segmentation is chosen; choose the one that holds the anatomy and the tumor")
        scene = segmentation.GetScene()
        read = self._reading(segmentation, reference, plan, assignment, regions, doses, twin)
        draws = (twin, members) if probabilities else (None, 0)
        job = self._forecasting(scene, read, plan, name, device, probabilities, weights, images, *draws)
        return self.begin(job, scene, progress, completed, waitForCompletion)

    def _reading(self, segmentation, reference, plan, assignment, regions, doses, twin=None):
        """Slices of (baseline, labels, segments, maps, warnings); with a twin, its doubts are the first warning."""
        baseline = yield from reading.reading(segmentation, reference)
        labels, segments = yield from reading.assigning(baseline, plan, assignment)
        maps, warnings = yield from reading_maps(baseline, regions, doses)
        yield
        if twin is not None:
            warnings += self._twinWarnings(twin, labels, baseline.spacing_mm)
        return baseline, labels, segments, maps, baseline.warnings + warnings

    def _forecasting(self, scene, read, plan, name, device, probabilities, weights, images, twin, members):
        read = yield from saying(read, lambda nothing: (0.0, _("reading the segmentation")))
        baseline, labels, segments, maps, warnings = read
        seen = reading_images(baseline, images)
        images, doubts = yield from saying(seen, lambda nothing: (0.0, _("reading the images")))
        warnings += doubts
        if twin is not None and self._twinWarnings(twin, labels, baseline.spacing_mm):
            # What the draws say, they say of another patient.
            twin = None
        self.start(Run(
            labels, baseline.spacing_mm, plan, maps, device, probabilities, weights, baseline.grid.ijk_to_ras,
            twin and twin.to_json(), members, images))
        computed = yield from self.computed(0.9)
        complete, shown = yield from self._placing(scene, computed, baseline, segments, name, warnings)
        return complete, shown, _("The forecast '{name}' is complete.").format(name=name)

    def _placing(self, scene, computed, baseline, segments, name, warnings):
        """Slices that put what a process computed into the scene: (forecast, shown)."""
        found, count = computed.forecast, len(computed.forecast.days)

        def say(said):
            done, of = said
            text = _("making frame {number} of {count}").format(number=done, count=count)
            return 0.9 + 0.1 * done / of, text if done <= count else _("adding the forecast to the scene")

        meshes = None if computed.surfaces is None else stored_meshes(computed.surfaces)
        attributes = {PLAN_ATTRIBUTE: found.plan.to_json()}
        if computed.tumor_center is not None:
            attributes[CENTER_ATTRIBUTE] = json.dumps(computed.tumor_center)
        slices = rooms.showing(
            scene, found, baseline, segments, name, meshes, attributes, self.stage, computed.band)
        shown = yield from saying(slices, say)
        return dataclasses.replace(found, warnings=warnings + tuple(found.warnings)), shown

    @staticmethod
    def _twinWarnings(twin, labels, spacing_mm):
        try:
            twin.check_patient(labels, spacing_mm)
        except ValueError as error:
            return (str(error),)
        return ()

    def score(self, shown, followUps, waitForCompletion=False, progress=None, completed=None):
        """Compares a forecast with later segmentations, by segment name, in the background.

        shown: of the forecast; followUps: pairs of vtkMRMLSegmentationNode and its day; the nearest frame is taken
        completed: called with (scores, table, message): for each follow-up a list of evaluation.ClassScore as
            dictionaries, and the table node, which replaces an earlier one of its name
        waitForCompletion: return (scores, table)
        Raises ForecastError at once for what cannot be compared.
        """
        self._refuseSecond()
        compared = [comparison.FollowUp.of(shown, node, day) for node, day in followUps]
        scene = shown.browser.GetScene()
        return self.begin(self._scoring(shown, compared, scene), scene, progress, completed, waitForCompletion)

    def _scoring(self, shown, compared, scene):
        pairs = []
        for one in compared:
            pair = yield from saying(one.label_maps(shown), lambda nothing: (0.0, _("reading the follow-up")))
            pairs.append(pair)
        self.start(Scoring([pair[:3] for pair in pairs], pairs[0][3]))
        scores = yield from self.computed(0.99)
        table = comparison.add_table(scene, comparison.title(shown, compared), compared, scores)
        message = _("The comparison is in the table '{name}'.").format(name=table.GetName())
        return scores, table, "\n".join([message, *(one.remark for one in compared if one.remark)])

    def _refuseSecond(self):
        if self.running:
            raise ForecastError("a forecast or a comparison is running; wait for it or cancel it first")

    # What is in the scene

    def forecasts(self):
        """Every forecast in the scene, oldest first."""
        return rooms.all_shown(slicer.mrmlScene)

    def distinguish(self):
        """Gives forecasts of one name names of their own; former name -> that of the youngest which had it."""
        return rooms.distinguish(slicer.mrmlScene)

    def find(self, name):
        return rooms.find(slicer.mrmlScene, name) if name else None

    @staticmethod
    def planOf(shown):
        """The JSON of a forecast's plan; raises ForecastError where it has none."""
        text = shown.browser.GetAttribute(PLAN_ATTRIBUTE)
        if not text:
            raise ForecastError(f"the forecast '{shown.name}' does not hold its plan; run it again")
        return text

    def isForecast(self, node):
        return any(node is shown.proxy for shown in self.forecasts())
