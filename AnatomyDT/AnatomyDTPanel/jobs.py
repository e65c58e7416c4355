"""One job at a time on the main thread, in slices that a timer drives: the application answers in between.

A job is a generator. It yields (fraction, text) wherever the user may come, and returns (result, node, message) for
`completed`. A slice of it, what each view has to draw after it and the line that tells of it are turns of their own.
Closing it ends whatever it does and leaves the scene as it was, until the fraction is 1: then the result is there, only
clean-up is left, and a cancel comes too late.
"""

import logging
import time

import qt
import slicer
from slicer.i18n import tr as _

from AnatomyDTLib.engine import Cancelled, ForecastError
from AnatomyDTLib.scene.slices import saying

from .rendering import HeldViews

# A logic that nobody holds any more finishes what it began.
_busy = set()


class Jobs:
    """A part of the logic."""

    POLL_MS = 100
    # Between two slices: what the user did, and what the views have to draw, comes first.
    SLICE_MS = 5

    def __init__(self):
        self._job = self._run = self._stopped = self._outcome = None
        self._views = self._untold = self._ending = None
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
        self._complete, self._told, self._pause = False, 0, self.SLICE_MS
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
            self._pause = self.SLICE_MS if self._run.sending else self.POLL_MS
            yield share * self._run.fraction, self._run.text
        self._pause = self.SLICE_MS
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
        """One turn: what is left to draw or to tell of the last slice, or the next slice."""
        if self._job is None or self._inside:
            return
        if self._views is not None and self._views.letOneGo():
            return
        if self._ending is not None:
            return self._end(*self._ending)
        if self._untold is not None:
            said, self._untold = self._untold, None
            self._tell(*said)
            return self._timer.setInterval(self._pause)
        self._slice()
        self._timer.setInterval(self.SLICE_MS)

    def _slice(self):
        job, outcome = self._job, None
        self._inside = True
        # Else each node that comes or goes makes the 3D views draw at once, several times in one slice.
        self._views = HeldViews()
        try:
            self._untold = next(job)
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
            self._complete = self._untold[0] >= 1.0
            if self._stopped is not None and not self._complete:
                job.close()
                outcome = (None, None, self._stopped, None)
        self._ending = outcome

    def _tell(self, fraction, text):
        if self._progress is not None:
            lines = self._run.log[self._told:] if self._run is not None else []
            self._told += len(lines)
            self._progress(fraction, text, lines)

    def _end(self, result, node, message, error=None):
        self._timer.stop()
        if self._views is not None:
            self._views.letGo()
        if self._run is not None:
            self._run.cancel()
        self._scene.RemoveObserver(self._sceneTag)
        self._job = self._run = self._scene = self._views = self._untold = self._ending = None
        self._outcome = (result, node, message, error)
        completed, self._completed, self._progress = self._completed, None, None
        _busy.discard(self)
        if completed is not None:
            completed(result, node, message)
