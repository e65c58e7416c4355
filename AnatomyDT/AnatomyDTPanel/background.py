"""Forecasts and their scores in a process of their own, watched without waiting.

A process and not a thread, because
* Slicer's main thread keeps Python's lock while it waits for events: a Python thread then ran at less than a
  hundredth of its speed (Slicer 5.13, counting in a loop);
* ending a process takes milliseconds at any point of the computation, frees the memory of the graphics card and
  cannot harm the application;
* a crash or an exhausted memory ends the process and not Slicer.
What it costs is one import of torch, two to five seconds, in each run.

Nothing here knows of Qt or of a scene: the caller polls from a timer.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from AnatomyDTLib.engine import Forecast, ForecastError
from AnatomyDTLib.plan import Plan

WORKER = Path(__file__).with_name("worker.py")
PROGRESS = "@progress "


def python() -> str:
    """The interpreter that computes: Slicer's own, with everything that it has installed."""
    slicers = shutil.which("PythonSlicer")
    if slicers:
        return slicers
    if "python" in os.path.basename(sys.executable or "").lower():
        return sys.executable
    # Inside an application sys.executable may be the application.
    found = shutil.which("python3", path=os.path.join(sys.prefix, "bin")) or shutil.which("python", path=sys.prefix)
    if not found:
        raise ForecastError("Slicer's Python interpreter (PythonSlicer) was not found; reinstall Slicer")
    return found


class Process:
    """Something under way.

    fraction: 0..1, text: what it does now; log: every line it said
    """

    def __init__(self, request: dict, arrays: dict[str, np.ndarray]):
        """Writes the request and starts the process. arrays: file name without suffix -> values."""
        import AnatomyDTLib

        self.fraction, self.text, self.log = 0.0, "", []
        self._read = 0
        self._folder = Path(tempfile.mkdtemp(prefix="AnatomyDT-"))
        request["path"] = [entry for entry in sys.path if entry]
        request["library"] = str(Path(AnatomyDTLib.__file__).resolve().parent.parent)
        try:
            for name, values in arrays.items():
                np.save(self._folder / f"{name}.npy", values)
            (self._folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
            command = [python(), "-u", str(WORKER), str(self._folder), str(os.getpid())]
            # A group of its own: PythonSlicer is a launcher, and what it launched has to end with it.
            options = {"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {"start_new_session": True}
            with open(self._folder / "log.txt", "wb") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options
                )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise ForecastError(f"the computation could not be started: {error.strerror or error}") from None

    def poll(self) -> bool:
        """Reads what the process said since the last call; True when it has ended."""
        ended = self._process.poll() is not None
        with open(self._folder / "log.txt", "rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = len(new) if ended else new.rfind(b"\n") + 1
        self._read += whole
        for line in new[:whole].decode("utf-8", "replace").splitlines():
            if line.startswith(PROGRESS):
                fraction, _, self.text = line[len(PROGRESS):].partition(" ")
                self.fraction = float(fraction)
            elif line.strip():
                self.log.append(line.rstrip())
        return ended

    def result(self):
        """What came out, once poll() is True; raises ForecastError with one sentence if nothing did."""
        code = self._process.wait()
        try:
            refusal = self._folder / "refusal.json"
            if refusal.is_file():
                raise ForecastError(json.loads(refusal.read_text(encoding="utf-8")))
            if code != 0 or not (self._folder / "answer.json").is_file():
                raise ForecastError(self._why(code))
            return self._result(json.loads((self._folder / "answer.json").read_text(encoding="utf-8")))
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def cancel(self) -> None:
        """Ends the process and all that it started; harmless when it has ended."""
        if self._process.poll() is None:
            if os.name == "nt":
                subprocess.run(
                    ["taskkill", "/F", "/T", "/PID", str(self._process.pid)], capture_output=True,
                    creationflags=subprocess.CREATE_NO_WINDOW,
                )
            else:
                try:
                    os.killpg(self._process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it ended in between
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _why(self, code: int) -> str:
        said = "\n".join(self.log)
        if "No module named 'torch'" in said:
            return "PyTorch is not installed; install it with the PyTorch extension and press Apply again"
        if code in (-9, 137):
            return (
                "the computation was ended by the system, most often because the memory was full: "
                "crop the image, use larger voxels or close other programs"
            )
        last = self.log[-1] if self.log else "it said nothing"
        return f"the computation ended unexpectedly (exit code {code}): {last}"


class Run(Process):
    """A forecast; arguments as `engine.forecast`, result() is a Forecast."""

    def __init__(
        self, labels: np.ndarray, spacing_mm, plan: Plan, maps=None, device="auto", probabilities=False, weights=None,
    ):
        self.plan, self.spacing_mm = plan, tuple(spacing_mm)
        files = {name: f"map{number}" for number, name in enumerate(maps or {})}
        request = {
            "task": "forecast", "plan": plan.to_json(), "spacing_mm": list(self.spacing_mm), "maps": files,
            "device": device, "probabilities": probabilities, "weights": weights,
        }
        super().__init__(request, {"labels": labels, **{files[name]: values for name, values in (maps or {}).items()}})

    def _result(self, answer: dict) -> Forecast:
        probability = self._folder / "found_probability.npy"
        return Forecast(
            np.array(answer["days"]), np.load(self._folder / "found_labels.npy"), np.array(answer["volume_ml"]),
            np.load(probability) if probability.is_file() else None, self.spacing_mm, self.plan,
            tuple(answer["warnings"]), answer["run"],
        )


class Scoring(Process):
    """How well a label map predicts another; result() is a list of dictionaries, evaluation.ClassScore by name.

    predicted, observed: (Z, Y, X) whole numbers; names: label value -> name
    """

    def __init__(self, predicted: np.ndarray, observed: np.ndarray, spacing_mm, names: dict[int, str]):
        request = {"task": "score", "spacing_mm": list(spacing_mm), "names": list(names.items())}
        super().__init__(request, {"predicted": predicted, "observed": observed})

    def _result(self, answer: list) -> list[dict]:
        return answer
