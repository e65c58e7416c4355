"""The process that computes a forecast, or its scores: arrays and a request from a folder, the result into it.

Run as a script, never imported: python worker.py FOLDER PARENT_PID. Lines that begin with PROGRESS
tell how far it is; every other line is for the log.
"""

import json
import os
import shutil
import sys
import threading
import time
import traceback

PROGRESS = "@progress "


def alive(pid: int) -> bool:
    """Does a process run? Asked without disturbing it."""
    if os.name == "nt":
        import ctypes

        kernel = ctypes.windll.kernel32
        # os.kill(pid, 0) would end the process on Windows.
        handle = kernel.OpenProcess(0x00100000, False, pid)
        if not handle:
            return False
        running = kernel.WaitForSingleObject(handle, 0) == 0x00000102
        kernel.CloseHandle(handle)
        return running
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def leave_with(folder: str, parent: int) -> None:
    """Ends this process when nobody waits for it: the application has gone, or has removed the folder.

    What an application that has gone cannot remove any more, the patient's label maps, is removed here.
    """
    while os.path.isdir(folder) and alive(parent):
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(3)


def compute(folder: str) -> None:
    path = os.path.join(folder, "request.json")
    while not os.path.exists(path):     # the last file that the application writes
        time.sleep(0.02)
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    sys.path.insert(0, request["library"])
    # Packages that only the application was told of are found too, after this interpreter's own.
    sys.path += [entry for entry in request["path"] if entry not in sys.path]
    tasks = {"forecast": forecast, "calibrate": calibrate, "compare": compare, "score": score, "devices": devices}
    tasks[request["task"]](folder, request)


def score(folder: str, request: dict) -> None:
    import dataclasses

    from AnatomyDTLib.learning import evaluation

    answer = []
    for number, names in enumerate(request["names"]):
        tell(number / len(request["names"]), "comparing")
        predicted, observed = load(folder, f"predicted{number}"), load(folder, f"observed{number}")
        names = {int(value): name for value, name in names}
        found = evaluation.score(predicted, observed, request["spacing_mm"], names)
        answer.append([dataclasses.asdict(one) for one in found])
    write(folder, "answer.json", answer)


def tell(fraction: float, text: str) -> None:
    print(f"{PROGRESS}{fraction:.4f} {text}", flush=True)


def devices(folder: str, request: dict) -> None:
    """What can be computed on: cores and memory (GB) of the processor, names and memory of the cards."""
    import torch

    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    write(folder, "answer.json", {
        "cores": os.cpu_count() or 1, "memory_gb": memory_gb(),
        "cards": [(card.name, card.total_memory / 1e9) for card in cards],
    })


def memory_gb():
    """Physical memory, None where the system does not tell."""
    if os.name == "nt":
        import ctypes

        class Status(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
                (name, ctypes.c_ulonglong) for name in ("total", "free", "pages", "free_pages", "virtual", "free_virtual", "extended")]

        status = Status(length=ctypes.sizeof(Status))
        return status.total / 1e9 if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):
        return None


def load(folder: str, name: str):
    import numpy as np

    return np.load(os.path.join(folder, name + ".npy"))


def forecast(folder: str, request: dict) -> None:
    """A forecast; with a twin also its ensemble, whose probability of tumor takes the place of the forecast's."""
    from AnatomyDTLib import engine
    from AnatomyDTLib.calibration.twin import Twin
    from AnatomyDTLib.plan import Plan

    plan, maps, labels = Plan.from_json(request["plan"]), maps_of(folder, request), load(folder, "labels")
    members = request["members"] if request["twin"] else 0
    share = 0.95 if not members else 0.2
    images = {name: load(folder, name) for name in request["images"]}
    found = engine.forecast(
        labels, request["spacing_mm"], plan, maps=maps, weights=request["weights"], images=images, device=request["device"],
        probabilities=request["probabilities"] and not members, progress=teller(0.0, share),
    )
    probability, band = found.tumor_probability, None
    if members:
        drawn = engine.ensemble(
            labels, request["spacing_mm"], Twin.from_json(request["twin"]), plan, maps=maps, members=members,
            progress=teller(share, 0.95))
        low, _, high = drawn.band()
        probability, band = drawn.probability.astype("float16"), {"lower": low.tolist(), "upper": high.tolist()}
    write(folder, "answer.json", {**forecast_answer(folder, request, found, probability), "band": band})


def calibrate(folder: str, request: dict) -> None:
    """A twin, and its forecast of the visits that it was fitted to.

    Until the twin is there, reached.json says how far the search is, and of which calibration.
    """
    import dataclasses

    from AnatomyDTLib import engine
    from AnatomyDTLib.calibration.fit import Settings
    from AnatomyDTLib.calibration.twin import Twin
    from AnatomyDTLib.plan import Plan

    maps, labels = maps_of(folder, request), load(folder, "labels")
    visits = [(day, load(folder, f"visit{number}")) for number, day in enumerate(request["visits"])]
    key, reached = calibration_key(request, [labels, *(seen for _, seen in visits), *maps.values()]), request["reached"]
    state = reached["state"] if reached is not None and reached["key"] == key else None
    if state is not None:
        print("going on where the former calibration of the same ended", flush=True)
    twin = engine.calibrate(
        [(0.0, labels), *visits], request["spacing_mm"], Plan.from_json(request["plan"]), maps=maps,
        twin=Twin.from_json(request["twin"]) if request["twin"] else None, settings=Settings(starts=request["starts"]),
        state=state, save=lambda found: write(folder, "reached.json", {"key": key, "state": found}),
        progress=teller(0.0, 0.85))
    fit = twin.plan_for()
    fit = dataclasses.replace(fit, days=tuple(visit.day for visit in twin.observations))
    found = engine.forecast(
        labels, request["spacing_mm"], fit, maps=maps, device=request["device"], progress=teller(0.85, 0.95))
    answer = {**forecast_answer(folder, request, found, None), "band": None, "twin": twin.to_json()}
    answer["warnings"] = list(dict.fromkeys([*twin.fit["warnings"], *answer["warnings"]]))
    write(folder, "answer.json", answer)
    if os.path.exists(os.path.join(folder, "reached.json")):
        os.remove(os.path.join(folder, "reached.json"))


def calibration_key(request: dict, arrays) -> str:
    """Names a calibration by all that decides its result."""
    import hashlib

    import AnatomyDTLib

    named = {key: request[key] for key in ("plan", "spacing_mm", "visits", "twin", "starts", "maps")}
    found = hashlib.sha256(json.dumps([AnatomyDTLib.__version__, named], sort_keys=True).encode())
    for values in arrays:
        found.update(f"{values.shape} {values.dtype}".encode())
        found.update(values.tobytes())
    return found.hexdigest()


def compare(folder: str, request: dict) -> None:
    """What several plans lead to over a twin's ensemble, and where the first leaves more tumor than the second."""
    import dataclasses

    import numpy as np

    from AnatomyDTLib import engine
    from AnatomyDTLib.calibration.compare import BAND, Candidate, of_patient, paired_members
    from AnatomyDTLib.calibration.twin import Twin
    from AnatomyDTLib.plan import Plan

    twin, maps = Twin.from_json(request["twin"]), maps_of(folder, request)
    candidates = []
    for number, (name, text) in enumerate(request["plans"]):
        labels, plan = load(folder, f"labels{number}"), of_patient(Plan.from_json(text), twin.plan)
        twin.check_patient(labels, request["spacing_mm"])
        candidates.append(Candidate(name, plan, labels, {key: maps[key] for key in plan.map_names()}))
    members = paired_members(twin, [one.plan for one in candidates], request["members"])
    found = engine.compare(
        candidates, request["spacing_mm"], members=members, device=request["device"], progress=teller(0.0, 0.98))
    answer = {"members": found.members, "outcomes": [], "preferences": [dataclasses.asdict(p) for p in found.preferences]}
    for outcome in found.outcomes:
        low, middle, high = np.quantile(outcome.tumor_ml, (BAND[0], 0.5, BAND[1]), axis=0, method="hazen")
        days = [outcome.progression_quantile(part) for part in (BAND[0], 0.5, BAND[1])]
        answer["outcomes"].append({
            "name": outcome.name, "days": outcome.days.tolist(), "lower": low.tolist(), "median": middle.tolist(),
            "upper": high.tolist(), "progression": [day if np.isfinite(day) else None for day in days],
            "progressed": float(outcome.progressed.mean()),
            "dose_gy": {dose.tissue: dose.mean_gy for dose in outcome.doses},
        })
    last = found.outcomes[0].reported[-1]
    save(folder, "difference", found.difference(request["plans"][0][0], request["plans"][1][0], last))
    write(folder, "answer.json", {**answer, "day": last})


def maps_of(folder: str, request: dict) -> dict:
    return {name: load(folder, file) for name, file in request["maps"].items()}


def teller(first: float, last: float):
    """What an engine tells its progress to: its own 0 to 1 are this part of the whole."""
    told = [-1.0]

    def say(fraction, text):
        if fraction - told[0] >= 0.002 or fraction >= 1.0:
            told[0] = fraction
            tell(first + (last - first) * fraction, text)

    return say


def forecast_answer(folder: str, request: dict, found, probability) -> dict:
    """Writes the arrays of a forecast; returns the rest of it."""
    import numpy as np

    for number, labels in enumerate(found.labels):
        save(folder, f"labels{number}", labels)
        if probability is not None:
            save(folder, f"probability{number}", probability[number])
    tumor = np.argwhere(np.isin(found.labels[0], found.plan.anatomy.tumors))
    return {
        "days": found.days.tolist(), "volume_ml": found.volume_ml.tolist(), "warnings": list(found.warnings),
        "run": found.run, "plan": found.plan.to_json(), "probabilities": probability is not None,
        "surfaces": surfaces(folder, found, request["ijk_to_ras"]) if request["ijk_to_ras"] else None,
        "tumor_center": tumor.mean(0).tolist() if len(tumor) else None,
    }


def surfaces(folder: str, found, ijk_to_ras):
    """Writes the closed surfaces of all frames; for each frame, the numbers of its surfaces. None without VTK."""
    import types

    import numpy as np

    try:
        from AnatomyDTLib.scene import surfaces
    except ImportError as error:
        print(f"the application makes the surfaces: {error}", flush=True)
        return None
    frames = found.labels.reshape(len(found.days), *found.labels.shape[-3:])
    matrix = np.array(ijk_to_ras)
    spacing_mm = np.linalg.norm(matrix[:3, :3], axis=0)[::-1]
    grid = types.SimpleNamespace(shape=frames.shape[1:], spacing_mm=tuple(spacing_mm), ijk_to_ras=matrix)
    made, written, answer = surfaces.Surfaces(grid), {}, []
    for frame, labels in enumerate(frames):
        tell(0.95 + 0.05 * frame / len(frames), f"making surfaces {frame + 1} of {len(frames)}")
        row = []
        for mesh in made.of(labels, len(found.plan.anatomy.tissues) - 1):
            if id(mesh) not in written:
                # Kept with its number: an object that has gone would leave its id to another one.
                written[id(mesh)] = (len(written), mesh)
                for key, values in surfaces.arrays_of(mesh).items():
                    save(folder, f"{key}{written[id(mesh)][0]}", values)
            row.append(written[id(mesh)][0])
        answer.append(row)
    return answer


def save(folder: str, name: str, values) -> None:
    import numpy as np

    np.save(os.path.join(folder, f"found_{name}.npy"), values)


def write(folder: str, name: str, document) -> None:
    """Writes a JSON that is there whole or not at all."""
    path = os.path.join(folder, name)
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(document, file)
    os.replace(path + ".part", path)


def main(folder: str, parent: str) -> int:
    threading.Thread(target=leave_with, args=(folder, int(parent)), daemon=True).start()
    try:
        compute(folder)
    except ValueError as error:
        write(folder, "refusal.json", str(error))
        if type(error) is ValueError:
            traceback.print_exc()
        return 2
    except MemoryError:
        text = "there is not enough memory for this forecast: crop the image or use larger voxels"
        write(folder, "refusal.json", text)
        return 2
    except OSError as error:
        traceback.print_exc()
        write(folder, "refusal.json", f"the computation could not read or write its files: {error.strerror or error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
