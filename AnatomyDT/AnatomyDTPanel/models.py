"""The files of a model: weights of a growth network, and calibrated twins. No Qt, no scene, no torch."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass

from AnatomyDTLib import labelling, presets, shipped
from AnatomyDTLib.calibration.twin import Twin
from AnatomyDTLib.plan import Anatomy, Plan, PlanError

# The names of shipped weights are models too.
MECHANISTIC, WEIGHTS, TWIN = "mechanistic", "weights", "twin"
# A safetensors file begins with the length of its header: eight bytes, little endian. No header of ours is larger.
LONGEST_HEADER = 1 << 20
FORMAT_PREFIX = "anatomydt-"
# What the panel has room for.
MOST_IMAGES = 32


@dataclass(frozen=True)
class Weights:
    """What a weights file was trained for: tissue names in the order of the state and, where the file has them, roles.

    whole: it is a whole twin, which finds its tissues in any plan by itself; else a growth network, which needs their order
    images: how many it needs beside the segmentation
    """

    tissues: tuple[str, ...]
    roles: tuple[str, ...] | None = None
    whole: bool = False
    images: int = 0


def weights_file(model: str, chosen: str) -> str | None:
    """The weights file of a model: a shipped one, the one that was chosen, or None for a model without weights."""
    if model in shipped.NAMES:
        return shipped.path_of(model)
    return chosen if model == WEIGHTS else None


def weights_of(path: str) -> Weights:
    """Reads the header of a weights file (safetensors), which needs no torch; raises PlanError with one sentence."""
    name = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= LONGEST_HEADER else {}
        told = header.get("__metadata__", {})
        if not str(told.get("format", "")).startswith(FORMAT_PREFIX):
            raise ValueError(told)
        # A whole twin's header (which tells of its training too), or a growth network's.
        config = json.loads(told["twin"] if "twin" in told else told["config"])
        tissues, roles = config["classes"], json.loads(told.get("roles", "null"))
        if not isinstance(tissues, list) or not all(isinstance(t, str) for t in tissues):
            raise TypeError
        images = config.get("images", 0)
        if not isinstance(images, int) or images < 0:
            raise ValueError(images)
        if images > MOST_IMAGES:
            raise PlanError(f"the weights of '{name}' need {images} images, and the panel takes at most {MOST_IMAGES}; use the command line")
        return Weights(tuple(tissues), tuple(roles) if roles and len(roles) == len(tissues) else None, "twin" in told, images)
    except PlanError:
        raise
    except OSError as error:
        raise PlanError(f"the weights file '{name}' cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise PlanError(
            f"the file '{name}' does not hold weights of an AnatomyDT growth network (safetensors); choose another"
        ) from None


def twin_of(path: str):
    """The calibrated twin (`calibration.twin.Twin`) of a file; raises PlanError with one sentence."""
    name = os.path.basename(path)
    try:
        with open(path, encoding="utf-8") as file:
            return Twin.from_json(file.read())
    except OSError as error:
        raise PlanError(f"the twin file '{name}' cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise PlanError(f"the file '{name}' is not a calibrated twin: {error}") from None


def twin_in(node):
    """The calibrated twin of a text node; raises PlanError with one sentence."""
    try:
        return Twin.from_json(node.GetText() or "")
    except ValueError as error:
        raise PlanError(f"the text '{node.GetName()}' is not a calibrated twin: {error}") from None


def with_twin(plan: Plan, index: dict[str, int], twin) -> tuple[Plan, dict[str, int]]:
    """The plan with the patient's numbers, its tissues numbered as in the twin's, and the index that goes with it."""
    plan, index = as_calibrated(plan, index, twin)
    return twin.plan_for(plan=plan), index


def as_calibrated(plan: Plan, index: dict[str, int], twin) -> tuple[Plan, dict[str, int]]:
    """As `with_twin`, with the numbers that the plan has."""
    names = twin.plan.anatomy.names
    known = {name.casefold() for name in names}
    # What other treatments than the twin's leave behind comes after its own tissues.
    further = tuple(t.name for t in plan.anatomy.tissues if t.role in ("cavity", "necrosis") and t.name.casefold() not in known)
    return fitted(plan, index, names + further, made_for="the twin was calibrated for")


def fitted(
    plan: Plan, index: dict[str, int], trained: tuple[str, ...], roles: tuple[str, ...] | None = None,
    made_for: str = "the weights were trained for",
) -> tuple[Plan, dict[str, int]]:
    """The plan with its tissues in the names and the order that a model was made for, and the index that goes with it.

    index: segment ID -> tissue index; a tissue that the segmentation lacks (a cavity, treated tumor) is added, empty
    roles: of `trained`; None: as the names tell; made_for: how the refusal begins
    Raises PlanError when the plan has a tissue that the model does not know.
    """
    place = {name.casefold(): k for k, name in enumerate(trained)}
    tissues = plan.anatomy.tissues
    unknown = [t.name for k, t in enumerate(tissues) if t.name.casefold() not in place and k]
    if tissues[0].role == labelling.role_of_name(trained[0]):
        place[tissues[0].name.casefold()] = 0
    elif place.get(tissues[0].name.casefold()) != 0:
        unknown.insert(0, tissues[0].name)
    if unknown:
        raise PlanError(
            f"{made_for} the tissues {', '.join(trained)}, not for {', '.join(unknown)}; "
            "rename the segments, or choose another model"
        )
    order = {place[t.name.casefold()]: t for t in tissues}
    new_name = {t.name: trained[k] for k, t in order.items()}
    made = []
    for k, name in enumerate(trained):
        if k in order:
            dies_to = order[k].dies_to
            made.append(dataclasses.replace(order[k], name=name, dies_to=new_name[dies_to] if dies_to else None))
            continue
        role = labelling.role_of_name(name) if roles is None else roles[k]
        if role is None:
            raise PlanError(f"{made_for} the tissue '{name}', which the segmentation lacks; choose another model")
        made.append(presets.tissue(name, role))
    chi = tuple(
        dataclasses.replace(c, tissue=new_name[c.tissue], along=new_name[c.along]) for c in plan.anatomy.cross_diffusion)
    moved = {segment: place[tissues[k].name.casefold()] for segment, k in index.items()}
    return dataclasses.replace(plan, anatomy=Anatomy(tuple(made), chi)), moved
