"""Jobs on the main thread: what a slice does, what each view draws after it and what is said are turns of their own."""

import types

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

import slicer

from AnatomyDTLib.engine import ForecastError


class View:
    """A slice or 3D view that always has something to draw: it does so when it is resumed."""

    def __init__(self, happened, visible):
        self.visible, self.paused, self._happened = visible, 0, happened

    def pauseRender(self):
        self.paused += 1

    def resumeRender(self):
        self.paused -= 1
        assert self.paused >= 0
        if not self.paused and self.visible:
            self._happened.append("view")

    def sliceView(self):
        return self

    def threeDView(self):
        return self


class Turns:
    """A job of three slices under a layout of two 3D and three slice views, one of each hidden, turn by turn."""

    def __init__(self, host, monkeypatch, last=None):
        self.happened = []
        self.views = {name: View(self.happened, name not in ("Green", 1)) for name in (0, 1, "Red", "Green", "Yellow")}
        names = ["Red", "Green", "Yellow"]
        layout = types.SimpleNamespace(
            threeDViewCount=2, threeDWidget=self.views.__getitem__, sliceViewNames=lambda: names, sliceWidget=self.views.__getitem__)
        monkeypatch.setattr(slicer.app, "layoutManager", lambda: layout)
        self.logic = host.module.AnatomyDTLogic()
        self.outcome = None
        self.logic.begin(
            self._job(last), slicer.mrmlScene, lambda *said: self.happened.append("said"), self._completed, False)
        self.logic._timer.stop()

    def _job(self, last):
        for number in range(3):
            assert all(view.paused for view in self.views.values())
            self.happened.append("slice")
            if number == 2 and last is not None:
                last()
            yield number / 3, "working"
        return "result", "node", "done"

    def _completed(self, *outcome):
        self.happened.append("completed")
        self.outcome = outcome

    def turn(self):
        self.happened.clear()
        self.logic._tick()
        return list(self.happened)

    def rest(self):
        found = []
        while self.logic.running:
            found.append(self.turn())
            assert len(found) < 100
        return found


def test_every_view_draws_in_a_turn_of_its_own(host, monkeypatch):
    turns = Turns(host, monkeypatch)
    found = turns.rest()
    assert all(len(turn) <= 1 for turn in found), found
    once = [["slice"], ["view"], ["view"], ["view"], ["said"]]
    assert [turn for turn in found if turn][:15] == 3 * once
    assert turns.outcome == ("result", "node", "done") and found[-1] == ["completed"]
    assert not any(view.paused for view in turns.views.values())


@pytest.mark.parametrize("turn", range(12))
def test_a_cancel_at_any_turn_lets_the_views_go(host, monkeypatch, turn):
    turns = Turns(host, monkeypatch)
    for _ in range(turn):
        turns.turn()
    turns.logic.cancel("Enough.")
    assert not turns.logic.running and turns.outcome == (None, None, "Enough.")
    assert not any(view.paused for view in turns.views.values())


def test_a_cancel_within_a_slice_ends_the_job_after_it(host, monkeypatch):
    turns = Turns(host, monkeypatch, lambda: turns.logic.cancel("Enough."))
    found = turns.rest()
    assert turns.outcome == (None, None, "Enough.") and [t for t in found if t][-4:] == [["view"]] * 3 + [["completed"]]
    assert not any(view.paused for view in turns.views.values())


def test_a_job_that_fails_lets_the_views_go_and_says_why(host, monkeypatch):
    def fail():
        raise ForecastError("there is no room")

    turns = Turns(host, monkeypatch, fail)
    turns.rest()
    assert turns.outcome == (None, None, "there is no room")
    assert not any(view.paused for view in turns.views.values())
