"""Forecasts and their scores in a process of their own, watched without waiting.

A process and not a thread, because
* Slicer's main thread keeps Python's lock while it waits for events: a Python thread then ran at less than a
  hundredth of its speed (Slicer 5.13, counting in a loop);
* ending a process takes milliseconds at any point of the computation, frees the memory of the graphics card and
  cannot harm the application;
* a crash or an exhausted memory ends the process and not Slicer.
What it costs is one import of torch, two to five seconds, in each run.

Nothing here knows of Qt or of a scene: the caller polls from a timer, and fetches the result in slices.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from AnatomyDTLib.engine import Forecast, ForecastError
from AnatomyDTLib.plan import Plan

WORKER = Path(__file__).with_name("worker.py")
PROGRESS = "@progress "
# An ended process is waited for, but not for ever: a driver of a graphics card can hold it back.
LONGEST_WAIT_SECONDS = 1.5
# Up to here arrays are written before the process starts; more is written while it starts, so much in each poll.
AT_ONCE_BYTES, SLAB_BYTES = 16_000_000, 8_000_000


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
        """Starts the process, which waits for its request: that is written after the arrays, some of it in each `poll`.

        arrays: file name without suffix -> values, which nobody changes until all are written
        """
        import AnatomyDTLib

        self.fraction, self.text, self.log = 0.0, "", []
        self._read, self._folder = 0, None
        interpreter = python()
        request["path"] = [entry for entry in sys.path if entry]
        request["library"] = str(Path(AnatomyDTLib.__file__).resolve().parent.parent)
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="AnatomyDT-"))
            self._sending = self._send(request, arrays)
            if sum(values.nbytes for values in arrays.values()) <= AT_ONCE_BYTES:
                while self._sending is not None:
                    self._send_more()
            command = [interpreter, "-u", str(WORKER), str(self._folder), str(os.getpid())]
            # A group of its own: PythonSlicer is a launcher, and what it launched has to end with it.
            options = {"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {"start_new_session": True}
            with open(self._folder / "log.txt", "wb") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options
                )
        except OSError as error:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            raise ForecastError(f"the computation could not be started: {error.strerror or error}") from None

    @property
    def sending(self) -> bool:
        """Whether `poll` has more to write."""
        return self._sending is not None

    def _send(self, request, arrays):
        """Slices that write the arrays and, at last and whole, the request."""
        for name, values in arrays.items():
            with open(self._folder / f"{name}.npy", "wb") as file:
                header = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False, "shape": values.shape}
                np.lib.format.write_array_header_1_0(file, header)
                rows = values if values.ndim else values[None]
                thickness = max(1, SLAB_BYTES * len(rows) // max(1, values.nbytes))
                for start in range(0, len(rows), thickness):
                    file.write(rows[start:start + thickness].tobytes())
                    yield
        part = self._folder / "request.part"
        part.write_text(json.dumps(request), encoding="utf-8")
        os.replace(part, self._folder / "request.json")

    def _send_more(self) -> None:
        try:
            next(self._sending)
        except StopIteration:
            self._sending = None

    def poll(self) -> bool:
        """Reads what the process said since the last call; True when it has ended.

        Raises ForecastError when what it is to compute with cannot be written.
        """
        if self._sending is not None:
            try:
                self._send_more()
            except OSError as error:
                self._sending = None
                raise ForecastError(f"the computation could not be started: {error.strerror or error}") from None
        ended = self._process.poll() is not None
        try:
            with open(self._folder / "log.txt", "rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            new = b""  # somebody cleaned the temporary folder; the process ends itself then
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
        slices = self.loading()
        while True:
            try:
                next(slices)
            except StopIteration as last:
                return last.value

    def loading(self):
        """The result in slices: a generator that returns it. However it ends, the process's files are removed."""
        code = self._process.wait()
        try:
            yield
            refusal = self._folder / "refusal.json"
            if refusal.is_file():
                raise ForecastError(json.loads(refusal.read_text(encoding="utf-8")))
            if code != 0 or not (self._folder / "answer.json").is_file():
                raise ForecastError(self._why(code))
            return (yield from self._loading(json.loads((self._folder / "answer.json").read_text(encoding="utf-8"))))
        except (OSError, EOFError) as error:
            raise ForecastError(f"the result of the computation cannot be read: {error}") from None
        finally:
            self._remove_files()

    def _loading(self, answer):
        """Slices that make the result of what the process answered."""
        yield
        return self._result(answer)

    def _load(self, name: str) -> np.ndarray:
        return np.load(self._folder / f"found_{name}.npy")

    def cancel(self) -> None:
        """Ends the process and all that it started; harmless when it has ended."""
        self._sending = None
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
            try:
                self._process.wait(LONGEST_WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                pass  # it was told; the user is not kept waiting
        self._remove_files()

    def _remove_files(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _why(self, code: int) -> str:
        said = "\n".join(self.log)
        if "No module named 'torch'" in said:
            return "PyTorch is not installed; install it with the PyTorch extension and press Apply again"
        full = (
            "the computation was ended because the memory was full: "
            "crop the image, use larger voxels or close other programs"
        )
        if "out of memory" in said or "can't allocate memory" in said or "not enough memory" in said:
            return full
        if code in (-9, 137):
            return full.replace("because", "by the system, most often because")
        if code < 0 or code >= 0xC0000000:
            return (
                f"the computation crashed ({_crash(code)}); the log says what it did last. "
                "Run it again, or on another device"
            )
        last = self.log[-1] if self.log else "it said nothing"
        return f"the computation ended unexpectedly (exit code {code}): {last}"


def _files(maps) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """(name of a map -> its file, file -> values): names are the user's, and no file names."""
    files = {name: f"map{number}" for number, name in enumerate(maps or {})}
    return files, {files[name]: values for name, values in (maps or {}).items()}


def _crash(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code:#x}"


@dataclass(frozen=True)
class Computed:
    """What a forecast's process made.

    surfaces: frame by frame, the closed surfaces of tissues 1, 2, ... as `scene.surfaces.arrays_of` gives them; the
        same object in two frames that do not differ. None where the process has no VTK
    tumor_center: (k, j, i) of the tumor's middle on day 0, None without a tumor
    band: (lower, upper), each (T,) mL, between which an ensemble's tumor lies with 80 %; None without one
    """

    forecast: Forecast
    surfaces: list[list[dict[str, np.ndarray]]] | None
    tumor_center: tuple[float, float, float] | None
    band: tuple[list[float], list[float]] | None = None


class Run(Process):
    """A forecast; arguments as `engine.forecast`, result() is Computed.

    ijk_to_ras: (4, 4) of the labels' grid, for the surfaces; None: no surfaces are made
    images: arrays that the weights need, in the order of their training
    twin: JSON of the calibrated twin that the plan's numbers are of; with `members`, draws of it are forecast too
    """

    def __init__(
        self, labels: np.ndarray, spacing_mm, plan: Plan, maps=None, device="auto", probabilities=False, weights=None,
        ijk_to_ras=None, twin=None, members=0, images=(),
    ):
        pictures = {f"image{number}": image for number, image in enumerate(images, start=1)}
        request = {
            "task": "forecast", "probabilities": probabilities, "weights": weights, "twin": twin, "members": members,
            "images": list(pictures)}
        self._begin(request, {"labels": labels, **pictures}, labels, spacing_mm, plan, maps, device, ijk_to_ras)

    def _begin(self, request, arrays, labels, spacing_mm, plan, maps, device, ijk_to_ras):
        self.spacing_mm, self._shape = tuple(spacing_mm), labels.shape
        files, stored = _files(maps)
        request |= {
            "plan": plan.to_json(), "spacing_mm": list(self.spacing_mm), "maps": files, "device": device,
            "ijk_to_ras": None if ijk_to_ras is None else np.asarray(ijk_to_ras).tolist(),
        }
        Process.__init__(self, request, {**arrays, **stored})

    def _loading(self, answer: dict):
        days = np.array(answer["days"])
        # Frame by frame: many frames of a large image take seconds to read.
        labels = np.empty((len(days), *self._shape), np.uint8)
        probability = np.empty(labels.shape, np.float16) if answer["probabilities"] else None
        for frame in range(len(days)):
            yield
            labels[frame] = self._load(f"labels{frame}")
            if probability is not None:
                yield
                probability[frame] = self._load(f"probability{frame}")
        surfaces, read = None, {}
        if answer["surfaces"] is not None:
            surfaces = []
            for numbers in answer["surfaces"]:
                yield
                for number in numbers:
                    if number not in read:
                        read[number] = {key: self._load(f"{key}{number}") for key in ("points", "normals", "triangles")}
                surfaces.append([read[number] for number in numbers])
        forecast = Forecast(
            days, labels, np.array(answer["volume_ml"]), probability, self.spacing_mm, Plan.from_json(answer["plan"]),
            tuple(answer["warnings"]), answer["run"],
        )
        band = answer["band"] and (answer["band"]["lower"], answer["band"]["upper"])
        return Computed(forecast, surfaces, answer["tumor_center"] and tuple(answer["tumor_center"]), band)


class Calibration(Run):
    """A twin fitted to visits; result() is (its JSON, Computed of the fit on the days of the visits).

    visits: (day, labels (Z, Y, X) in the plan's numbering) after the baseline, ascending
    twin: JSON of a former twin, which is updated; None: a new one; starts: as calibration.fit.Settings
    reached: what another calibration had reached that ended without a result; the same one goes on from there. When this
        one has ended so, `reached` is where it was
    """

    def __init__(
        self, labels, spacing_mm, plan, visits, maps=None, device="auto", ijk_to_ras=None, twin=None, starts=3, reached=None,
    ):
        self.reached = reached
        request = {
            "task": "calibrate", "visits": [day for day, _ in visits], "twin": twin, "starts": starts, "reached": reached}
        arrays = {"labels": labels, **{f"visit{number}": seen for number, (_, seen) in enumerate(visits)}}
        self._begin(request, arrays, labels, spacing_mm, plan, maps, device, ijk_to_ras)

    def _loading(self, answer):
        computed = yield from super()._loading(answer)
        self.reached = None
        return answer["twin"], computed

    def _remove_files(self):
        try:
            self.reached = json.loads((self._folder / "reached.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass  # it had not come so far, or all was removed already
        super()._remove_files()


class Comparing(Process):
    """Plans over a twin's ensemble; result() is (what the worker's `compare` tells, (Z, Y, X) difference of the first two).

    plans: (name, plan's JSON, labels in its numbering) of each; maps: of all of them; twin: its JSON
    """

    def __init__(self, plans, spacing_mm, twin, members, maps=None, device="auto"):
        files, stored = _files(maps)
        request = {
            "task": "compare", "plans": [(name, plan) for name, plan, _ in plans], "twin": twin, "members": members,
            "spacing_mm": list(spacing_mm), "maps": files, "device": device}
        arrays = {f"labels{number}": labels for number, (_, _, labels) in enumerate(plans)}
        super().__init__(request, {**arrays, **stored})

    def _result(self, answer):
        return answer, self._load("difference")


class Scoring(Process):
    """How well label maps predict others; result() has a list for each pair, of evaluation.ClassScore as dictionaries.

    pairs: (predicted, observed, label value -> name), the maps (Z, Y, X) of whole numbers
    """

    def __init__(self, pairs, spacing_mm):
        arrays = {}
        for number, (predicted, observed, _) in enumerate(pairs):
            arrays |= {f"predicted{number}": predicted, f"observed{number}": observed}
        request = {
            "task": "score", "spacing_mm": list(spacing_mm), "names": [list(names.items()) for _, _, names in pairs]}
        super().__init__(request, arrays)

    def _result(self, answer: list) -> list[list[dict]]:
        return answer
