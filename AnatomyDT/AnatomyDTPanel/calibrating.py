"""The logic's part that fits a patient's twin to follow-ups and compares regimes over it."""

import dataclasses

from slicer.i18n import tr as _

from AnatomyDTLib.calibration.twin import Twin
from AnatomyDTLib.engine import ForecastError
from AnatomyDTLib.plan import Plan
from AnatomyDTLib.scene import segmentation as reading
from AnatomyDTLib.scene import twins
from AnatomyDTLib.scene.maps import reading_maps
from AnatomyDTLib.scene.slices import saying

from .background import Calibration, Comparing


class Calibrations:
    """A part of the logic."""

    # The last calibration, which knows how far it came if it ended without a twin.
    _calibration = None

    def calibrate(
        self, segmentation, plan, followUps, reference=None, assignment=None, regions=None, doses=None, name="Fit",
        twin=None, resample=False, device="auto", starts=3, waitForCompletion=False, progress=None, completed=None,
    ):
        """Fits the plan's numbers to follow-ups in the background, and shows the fit as a forecast of their days.

        segmentation, plan, ...: as `forecast`; the plan's treatments are those that were given between the visits
        followUps: pairs of vtkMRMLSegmentationNode and its day, ascending
        twin: a former `calibration.twin.Twin`, which the follow-ups that it has not seen update; None: a new one
        resample: whether a follow-up may have other voxels than the segmentation
        completed: called with ((twin, forecast), shown, message); None without a result
        waitForCompletion: return them; what cannot be calibrated is raised, or `completed`'s message
        One that ended before its twin was there, cancelled or by itself, goes on from there when the same is asked for again.
        """
        self._refuseSecond()
        if segmentation is None:
            raise ForecastError("no segmentation is chosen; choose the one that holds the anatomy and the tumor")
        if twin is not None:
            seen = twin.observations[-1].day
            followUps = [one for one in followUps if one[1] > seen]
        if not followUps:
            raise ForecastError("there is no follow-up to calibrate with; add a later segmentation and its day under Inputs"
                                if twin is None else f"the twin has seen every follow-up until day {seen:g}; add a later one")
        plan = dataclasses.replace(plan, days=tuple(sorted({*plan.days, *(float(day) for node, day in followUps)})))
        scene = segmentation.GetScene()
        read = self._reading(segmentation, reference, plan, assignment, regions, doses)
        job = self._calibrating(scene, read, plan, assignment, followUps, name, twin, resample, device, starts)
        return self.begin(job, scene, progress, completed, waitForCompletion)

    def _calibrating(self, scene, read, plan, assignment, followUps, name, twin, resample, device, starts):
        def say(nothing):
            return 0.0, _("reading the follow-ups")

        baseline, labels, segments, maps, warnings = yield from saying(read, say)
        tissues = {s.name: assignment[s.id] for s in baseline.segments if assignment.get(s.id)}
        visits = []
        for node, day in followUps:
            visit = twins.reading_visit(baseline, node, tissues, plan.anatomy.tumors, resample)
            visits.append((float(day), (yield from saying(visit, say))))
        reached = self._calibration.reached if self._calibration is not None else None
        self._calibration = Calibration(
            labels, baseline.spacing_mm, plan, visits, maps, device, baseline.grid.ijk_to_ras,
            twin and twin.to_json(), starts, reached)
        self.start(self._calibration)
        text, computed = yield from self.computed(0.9)
        complete, shown = yield from self._placing(scene, computed, baseline, segments, name, warnings)
        message = _("The twin is calibrated; its fit is the forecast '{name}'.").format(name=name)
        return (Twin.from_json(text), complete), shown, message

    def compareRegimes(
        self, twin, forecasts, members=20, regions=None, doses=None, device="auto", waitForCompletion=False, progress=None,
        completed=None,
    ):
        """Compares the plans of forecasts over draws of a twin, in the background.

        forecasts: two or more, shown; twin: `calibration.twin.Twin`
        completed: called with (what was found, (table, chart, difference volume), message)
        """
        self._refuseSecond()
        if len(forecasts) < 2:
            raise ForecastError("a comparison takes two forecasts or more; run another one under another name")
        scene = forecasts[0].browser.GetScene()
        job = self._comparing(scene, twin, forecasts, members, regions, doses, device)
        return self.begin(job, scene, progress, completed, waitForCompletion)

    def _comparing(self, scene, twin, forecasts, members, regions, doses, device):
        plans, maps, baseline = [], {}, None
        for shown in forecasts:
            text = self.planOf(shown)
            frame = shown.sequence.GetNthDataNode(0)
            first = reading.reading(frame, parent=shown.proxy.GetParentTransformNode(), may_be_empty=True)
            # Its segments are the tissues of its plan in their order, so that its labels are in the plan's numbering.
            own = yield from saying(first, lambda nothing: (0.0, _("reading the forecasts")))
            baseline = baseline or own
            plans.append((shown.name, text, own.labels))
            named = Plan.from_json(text).map_names()
            wanted = [{k: chosen[k] for k in named if k in (chosen or {}) and k not in maps} for chosen in (regions or {}, doses or {})]
            found, _warnings = yield from saying(
                reading_maps(baseline, *wanted), lambda nothing: (0.0, _("reading the forecasts")))
            maps |= found
            missing = [k for k in named if k not in maps]
            if missing:
                raise ForecastError(
                    f"the plan of '{shown.name}' names '{missing[0]}': choose what holds it under Regions or Dose volume")
        self.start(Comparing(plans, baseline.spacing_mm, twin.to_json(), members, maps, device))
        found, difference = yield from self.computed(0.98)
        table, chart = twins.add_comparison(scene, found)
        name = _("Tumor probability: {one} less {other}").format(one=plans[0][0], other=plans[1][0])
        parent = forecasts[0].proxy.GetParentTransformNode()
        volume = twins.add_difference(scene, difference, baseline.grid, parent, name)
        message = _("{count} regimes are compared over {members} draws in the table '{name}'.").format(
            count=len(plans), members=found["members"], name=table.GetName())
        return found, (table, chart, volume), message
