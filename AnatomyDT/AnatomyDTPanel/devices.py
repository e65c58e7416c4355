"""What this computer can compute on, asked in a process of its own: the application never imports torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from slicer.i18n import tr as _

from .background import Process


@dataclass(frozen=True)
class Devices:
    """cores, memory_gb: of the processor, the memory None where the system does not tell; cards: (name, GB) of the
    graphics cards that PyTorch can use, the one that is used first"""

    cores: int
    memory_gb: float | None
    cards: tuple[tuple[str, float], ...]


class DeviceQuery(Process):
    """Asks PyTorch; result() is Devices."""

    def __init__(self):
        super().__init__({"task": "devices"}, {})

    def _result(self, answer: dict) -> Devices:
        cards = tuple((str(name), float(size)) for name, size in answer["cards"])
        return Devices(int(answer["cores"]), answer["memory_gb"], cards)


# Asked once: importing torch takes seconds, and a computer keeps its devices.
_known: Devices | None = None


def known() -> Devices | None:
    """What a query found, None before one."""
    return _known


def remember(devices: Devices | None) -> None:
    global _known
    _known = devices


def torch_is_installed() -> bool:
    # Not remembered: the PyTorch extension installs it while the panel is open.
    try:
        return importlib.util.find_spec("torch") is not None
    except (ModuleNotFoundError, ValueError):
        return False


def texts(devices: Devices | None, asking: bool) -> dict[str, str]:
    """Choice -> the words that the user reads."""
    processor = _("Processor (CPU)")
    automatic, cuda = _("Automatic"), _("Graphics card (CUDA)")
    if not torch_is_installed():
        return {"auto": automatic, "cpu": processor, "cuda": _("Graphics card (CUDA): PyTorch is not installed")}
    if devices is None:
        return {"auto": automatic, "cpu": processor, "cuda": _("Graphics card (CUDA): looking...") if asking else cuda}
    if devices.memory_gb:
        processor = _("Processor: {cores} cores, {memory} GB").format(
            cores=devices.cores, memory=format(devices.memory_gb, ".0f"))
    else:
        processor = _("Processor: {cores} cores").format(cores=devices.cores)
    if not devices.cards:
        return {"auto": _("Automatic: processor"), "cpu": processor, "cuda": _("Graphics card (CUDA): none found")}
    name, size = devices.cards[0]
    return {
        "auto": _("Automatic: {name}").format(name=name), "cpu": processor,
        "cuda": _("CUDA: {name}, {memory} GB").format(name=name, memory=format(size, ".0f")),
    }


def refusal(device: str, devices: Devices | None) -> str:
    """Why a choice cannot be computed on, in words; "" where it can or where that is not known yet."""
    if device == "cuda" and devices is not None and not devices.cards:
        return _("This computer has no graphics card that PyTorch can use: compute on the processor, or automatically.")
    return ""
