"""Reading the file of a trained twin."""

from __future__ import annotations

import json

from ..plan import Anatomy
from .growth import check_trained_for
from .twin import FORMAT, AnatomyTwin, TwinConfig
from .weights import TrainingError, read_tensors


def load_twin(path, anatomy: Anatomy, axes: int) -> AnatomyTwin:
    """Reads a twin that was trained for these classes and this number of axes.

    Raises ValueError with one sentence when the file is missing, is no twin of this version, or was trained for others.
    """
    state, meta = read_tensors(path, FORMAT, "twin")
    try:
        values = json.loads(meta["twin"])
        config = TwinConfig(**{**values, "classes": tuple(values["classes"]), "blurs_mm": tuple(values["blurs_mm"])})
        roles = json.loads(meta["roles"])
    except (KeyError, TypeError, ValueError):
        raise TrainingError(f"the weights file {path} is damaged: its header cannot be read") from None
    check_trained_for(config.classes, config.axes, anatomy.names, axes)
    if roles != [tissue.role for tissue in anatomy.tissues]:
        raise TrainingError(f"the weights were trained with the roles {', '.join(roles)}; give the tissues the same ones")
    twin = AnatomyTwin(anatomy, config)
    try:
        twin.load_state_dict(state)
    except RuntimeError:
        raise TrainingError(f"the weights file {path} is damaged: its configuration and its weights do not agree") from None
    return twin.eval()
