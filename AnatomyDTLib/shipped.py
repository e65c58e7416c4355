"""Weights that come with the program, by name. Standard library only: the panel asks before torch is there."""

from __future__ import annotations

from pathlib import Path

# A whole twin, trained on simulated gliomas in individual brains; `weights/glioma-sim.md` says on what, and what not to use it for.
GLIOMA_SIM = "glioma-sim"
NAMES = (GLIOMA_SIM,)


def path_of(weights: str) -> str:
    """The file of shipped weights, by their name; of others, what was given."""
    if weights not in NAMES:
        return str(weights)
    return str(Path(__file__).resolve().parent / "weights" / f"{weights}.safetensors")
