"""Files of weights: safetensors with a header of texts, written so that a failure leaves the former file."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import torch


class TrainingError(ValueError):
    """A training that cannot run or go on; the text is the sentence the user reads."""


def made_folder(folder: Path) -> Path:
    """The folder, made where it is missing; raises TrainingError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"the folder {folder} cannot be made: {error.strerror or error}") from None
    return folder


def header_of(path) -> dict[str, str]:
    """The header of a weights file, without its tensors; ValueError with one sentence when it cannot be read."""
    with _opened(path) as stream:
        return stream.metadata() or {}


@contextmanager
def _opened(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            yield stream
    except FileNotFoundError:
        raise TrainingError(f"the weights file {path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"the weights file {path} cannot be read as safetensors: {error}") from None


def write_tensors(path, tensors: dict[str, torch.Tensor], meta: dict[str, str]) -> None:
    """Writes beside the file and renames: a full disk leaves what was there, and raises TrainingError."""
    from safetensors.torch import save

    path = Path(path)
    # an own copy of each: safetensors refuses tensors that share memory
    content = save({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, metadata=meta)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        kept = "; the former one is kept" if path.exists() else ""
        raise TrainingError(f"{path} could not be written: {error.strerror or error}{kept}") from None


def read_tensors(path, expected: str, what: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, header) of a file whose header's format is `expected`; ValueError with one sentence otherwise."""
    with _opened(path) as stream:
        meta = stream.metadata() or {}
        tensors = {key: stream.get_tensor(key) for key in stream.keys()}
    if meta.get("format") != expected:
        family = expected.rsplit("-", 1)[0]
        if str(meta.get("format", "")).startswith(family):
            raise TrainingError(f"the weights file {path} has the version {meta['format']}; this program reads {expected}")
        raise TrainingError(f"the weights file {path} does not hold an AnatomyDT {what}")
    return tensors, meta
