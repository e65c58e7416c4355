"""What a process of the panel computes with is written while it starts, some of it at a time."""

import time

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

from panel_user import ready

from AnatomyDTLib.engine import ForecastError

NAMES = {1: "White matter", 2: "Tumor"}


@pytest.fixture
def background(host):
    """The panel's module, found once the host has loaded it."""
    from AnatomyDTPanel import background

    return background


@pytest.fixture
def in_slabs(background, monkeypatch):
    monkeypatch.setattr(background, "AT_ONCE_BYTES", 0)
    monkeypatch.setattr(background, "SLAB_BYTES", 20_000)


def pair():
    k, j, i = np.indices((30, 32, 34))
    observed = 1 + ((k - 15) ** 2 + (j - 16) ** 2 + (i - 17) ** 2 < 60).astype(np.uint8)
    # turned: not in the order of memory, which a file must not care about
    return np.roll(observed, 1, 2).copy(order="F"), observed, NAMES


def ended(process):
    polls = 0
    while not process.poll():
        polls += 1
        if not process.sending:
            time.sleep(0.05)
        assert polls < 2000
    return process.result()


def test_arrays_that_go_out_in_slabs_arrive_whole(background, in_slabs, monkeypatch):
    process = background.Scoring([pair()], (1.0, 1.0, 1.0))
    folder = process._folder
    assert process.sending and not (folder / "request.json").exists()
    found = ended(process)
    monkeypatch.setattr(background, "AT_ONCE_BYTES", 10**9)
    at_once = background.Scoring([pair()], (1.0, 1.0, 1.0))
    assert not at_once.sending
    assert ended(at_once) == found and 0.5 < found[0][-1]["dice"] < 1 and not folder.exists()


def test_one_that_is_cancelled_while_it_is_told_leaves_nothing(background, in_slabs):
    process = background.Scoring([pair()], (1.0, 1.0, 1.0))
    process.poll()
    process.cancel()
    assert not process._folder.exists() and process._process.wait(5) != 0


def test_a_full_disk_is_one_sentence_and_a_forecast_in_slabs_is_one(host, background, in_slabs, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(background.os, "replace", full)
        process = background.Scoring([pair()], (1.0, 1.0, 1.0))
        with pytest.raises(ForecastError, match="could not be started: No space left"):
            ended(process)
        process.cancel()
    ready(host, days=4)
    host.widget.ui.applyButton.click()
    host.wait(lambda: not host.widget.logic.running, 120)
    assert "complete" in host.widget.ui.statusLabel.text, host.widget.ui.logTextEdit.toPlainText()
