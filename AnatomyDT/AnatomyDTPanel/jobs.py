"""One job at a time on the main thread, in slices that a timer drives: the application answers in between.

A job is a generator. It yields (fraction, text) wherever the user may come, and returns (result, node, message) for
`completed`. Closing it ends whatever it does and leaves the scene as it was, until the fraction is 1: then the result
is there, only clean-up is left, and a cancel comes too late.
"""

import logging
import time

import qt
import slicer
from slicer.i18n import tr as _

from AnatomyDTLib.engine import Cancelled, ForecastError
from AnatomyDTLib.scene.slices import saying

# A logic that nobody holds any more finishes what it began.
_busy = set()


class Jobs:
    """A part of the logic."""

    POLL_MS = 100
    # Between two slices: what the user did, and what the views have to draw, comes first.
    SLICE_MS = 5

    def __init__(self):
        self._job = self._run = self._stopped = self._outcome = None
        self._inside = self._complete = False
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._tick)

    @property
    def running(self):
        return self._job is not None

    def begin(self, job, scene, progress, completed, waitForCompletion):
        """Starts a job; its result and node when `waitForCompletion`, else None.

        progress: called with (fraction, text, new lines of the log); completed: with (result, node, message)
        """
        assert self._job is None
        self._progress, self._completed = progress, completed
        self._stopped = self._outcome = None
        self._complete, self._told = False, 0
        self._scene, self._job = scene, self._apart(job)
        self._sceneTag = scene.AddObserver(scene.StartCloseEvent, self._onSceneClose)
        _busy.add(self)
        self._timer.setInterval(self.SLICE_MS)
        self._timer.start()
        if not waitForCompletion:
            return None
        while self.running:
            slicer.app.processEvents()
            time.sleep(0.005)
        result, node, message, error = self._outcome
        if error is not None:
            raise error
        if result is None:
            raise Cancelled(message)
        return result, node

    def _apart(self, job):
        """The same slices; what `completed` does is not part of the last one."""
        outcome = yield from job
        yield 1.0, ""
        return outcome

    def start(self, process):
        """Watches a process of `background`; it ends with the job."""
        self._run, self._told = process, 0

    def computed(self, share):
        """Slices, until the process has ended and its result was read: the result. They are `share` of the whole."""
        while not self._run.poll():
            self._timer.setInterval(self.SLICE_MS if self._run.sending else self.POLL_MS)
            yield share * self._run.fraction, self._run.text
        self._timer.setInterval(self.SLICE_MS)
        yield share * self._run.fraction, self._run.text
        return (yield from saying(self._run.loading(), lambda nothing: (share, _("reading the result"))))

    def cancel(self, message=""):
        """Ends the job, if there is one; the scene is as it was, or the result was there already."""
        if self._job is None:
            return
        if self._inside:
            # A slice is at work, and what it does called this: the job ends after it.
            self._stopped = message
        elif self._complete:
            while self._job is not None:
                self._tick()
        else:
            with slicer.util.RenderBlocker():
                self._job.close()
            self._end(None, None, message)

    def _onSceneClose(self, scene, event):
        self.cancel(_("The scene was closed, so the computation was cancelled."))

    def _tick(self):
        if self._job is None or self._inside:
            return
        job, outcome = self._job, None
        self._inside = True
        try:
            # Else each node that comes or goes makes the 3D views draw at once, several times in one slice.
            with slicer.util.RenderBlocker():
                fraction, text = next(job)
        except StopIteration as last:
            outcome = (*last.value, None)
        except ForecastError as error:
            outcome = (None, None, str(error), error)
        except Exception as error:
            # Whatever it was, the panel must not stay in the running state; the log has the details.
            logging.exception("The result could not be shown")
            outcome = (None, None, _("The result could not be shown: {why}").format(why=error), error)
        finally:
            self._inside = False
        if outcome is None:
            self._complete = fraction >= 1.0
        if outcome is None and self._stopped is not None and not self._complete:
            job.close()
            outcome = (None, None, self._stopped)
        if outcome is not None:
            return self._end(*outcome)
        self._tell(fraction, text)

    def _tell(self, fraction, text):
        if self._progress is not None:
            lines = self._run.log[self._told:] if self._run is not None else []
            self._told += len(lines)
            self._progress(fraction, text, lines)

    def _end(self, result, node, message, error=None):
        self._timer.stop()
        if self._run is not None:
            self._run.cancel()
        self._scene.RemoveObserver(self._sceneTag)
        self._job = self._run = self._scene = None
        self._outcome = (result, node, message, error)
        completed, self._completed, self._progress = self._completed, None, None
        _busy.discard(self)
        if completed is not None:
            completed(result, node, message)
