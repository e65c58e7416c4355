"""Volumes and label maps in and out of files: .nii, .nii.gz, .nrrd, .seg.nrrd, .mha, .mhd.

NRRD is written here, not with ITK, which does not tell a full disk from success.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .imagefiles import VolumeError, by, checked

MOST_LABELS = 254        # an anatomy has at most 255 tissues, one is the background
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Geometry:
    """Where the voxels lie.

    shape: (Z, Y, X) voxels; a 2D image is one slice
    steps_mm: (3, 3), row a is the step in mm, in patient coordinates (left, posterior, superior), from one
        voxel to the next along array axis a; neither orthogonal nor right-handed in general
    origin_mm: (3,) centre of voxel (0, 0, 0), left-posterior-superior
    """

    shape: tuple[int, int, int]
    steps_mm: np.ndarray
    origin_mm: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size in mm in the order (z, y, x)."""
        return tuple(float(s) for s in np.linalg.norm(self.steps_mm, axis=1))

    @property
    def shear(self) -> float:
        """Largest |cosine| between two axes; 0 when they are orthogonal."""
        units = self.steps_mm / np.linalg.norm(self.steps_mm, axis=1, keepdims=True)
        return float(np.abs(units @ units.T - np.eye(3)).max())

    def ijk_to_ras(self) -> np.ndarray:
        """(4, 4) matrix from voxel indices (i, j, k) = (x, y, z) to right-anterior-superior mm, as Slicer has it."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.steps_mm[::-1].T
        matrix[:3, 3] = self.origin_mm
        matrix[:2] *= -1.0
        return matrix

    def difference(self, other: Geometry) -> str | None:
        """What differs from another geometry, in words with both values; None when voxels coincide within a tenth."""
        if self.shape != other.shape:
            return f"{by(self.shape[::-1])} voxels and {by(other.shape[::-1])} voxels"
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=2e-3, atol=0):
            return f"voxels of {by(self.spacing_mm[::-1])} mm and of {by(other.spacing_mm[::-1])} mm"
        tolerance = 0.1 * min(self.spacing_mm)
        offset = np.linalg.norm(self.origin_mm - other.origin_mm)
        if offset > tolerance:
            return f"origins {offset:.3g} mm apart"
        ends = np.abs(self.steps_mm - other.steps_mm) * (np.array(self.shape) - 1)[:, None]
        if np.linalg.norm(ends, axis=1).max() > tolerance:
            return "differently directed axes"
        return None


@dataclass(frozen=True)
class Segment:
    """A segment of a .seg.nrrd: its label value in one layer of the file, and what the file says of it."""

    name: str
    value: int
    layer: int = 0
    id: str | None = None
    color: tuple[float, float, float] | None = None
    terminology: str | None = None


@dataclass(frozen=True)
class Volume:
    """An image as it lies in the file.

    layers: (L, Z, Y, X) or, for a 2D image, (L, Y, X); L is 1 but for segmentations whose segments overlap
    geometry: of the three-dimensional grid
    segments: of a .seg.nrrd that names them, in the file's order, else empty
    warnings: sentences about what was assumed
    """

    path: Path
    layers: np.ndarray
    geometry: Geometry
    segments: tuple[Segment, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @property
    def array(self) -> np.ndarray:
        """(Z, Y, X) or (Y, X): the first layer."""
        return self.layers[0]

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size in mm, in the order of the array's axes."""
        return self.geometry.spacing_mm[3 - self.array.ndim:]

    def mask(self, segment: Segment) -> np.ndarray:
        """Where a segment is, also where another layer hides it; bool, shape of `array`."""
        return self.layers[segment.layer] == segment.value


def read(path) -> Volume:
    """Reads an image; raises VolumeError with one sentence when it cannot be one."""
    path = Path(path)
    header, decode = checked(path)
    try:
        layers, steps, origin = decode()
    except MemoryError:
        raise VolumeError(f"{path.name} does not fit into memory") from None
    except (RuntimeError, ValueError, OSError, OverflowError, ArithmeticError, KeyError, IndexError, struct.error, zlib.error):
        raise VolumeError(f"{path.name} cannot be read as an image: it is damaged or not an image") from None
    if layers.shape[0] > 1 and not any(key.startswith("Segment") for key in header):
        raise VolumeError(f"{path.name} has {layers.shape[0]} values per voxel (a colour or vector image); give one value per voxel")
    if 0 in layers.shape:
        raise VolumeError(f"{path.name} holds no voxels")
    warnings = []
    spatial = layers.shape[1:]
    geometry = Geometry((1,) * (3 - len(spatial)) + spatial, steps, origin)
    if not (np.isfinite(steps).all() and np.isfinite(origin).all()):
        raise VolumeError(f"{path.name} has a voxel size or position that is not a number; repair its header")
    spacing = geometry.spacing_mm
    if min(spacing) <= 0 or max(spacing) > 1e6 or abs(np.linalg.det(steps / np.array(spacing)[:, None])) < 1e-3:
        raise VolumeError(f"{path.name} has voxels of {by(spacing[::-1])} mm along axes that span no volume; repair its header")
    if geometry.shear > 1e-3:
        degrees = math.degrees(math.asin(min(1.0, geometry.shear)))
        warnings.append(
            f"the axes of {path.name} are sheared by up to {degrees:.1f} degrees: the results keep the shear, "
            "and distances are measured along the axes as if they were at right angles"
        )
    segments = _segments(header, path)
    if any(s.layer >= len(layers) for s in segments):
        raise VolumeError(f"{path.name} is damaged: a segment lies in a layer that the file does not have")
    return Volume(path, layers, geometry, segments, tuple(warnings))


def read_labels(path) -> Volume:
    """Reads a label map: whole numbers, at most 254 different ones but 0; raises VolumeError.

    Float maps that hold whole values come back as integers, with a warning.
    """
    volume = read(path)
    layers, warnings = volume.layers, volume.warnings
    if layers.dtype.kind == "f":
        if not np.isfinite(layers).all():
            raise VolumeError(f"{volume.path.name} holds values that are not numbers (NaN or infinite); a label map is expected")
        if (layers != np.rint(layers)).any():
            raise VolumeError(f"{volume.path.name} holds fractional values such as {_fraction(layers):.4g}; a label map of whole numbers is expected")
        if np.abs(layers).max() > 2**31 - 1:
            raise VolumeError(f"{volume.path.name} holds values beyond 2147483647; a label map is expected")
        layers = layers.astype(np.int32)
        warnings += (f"{volume.path.name} stores its labels as decimal numbers; they hold whole values and were taken as labels",)
    elif layers.dtype.kind not in "iu":
        raise VolumeError(f"{volume.path.name} holds {layers.dtype} values; a label map of whole numbers is expected")
    found = len(labels_in(layers))
    if found > MOST_LABELS:
        raise VolumeError(f"{volume.path.name} holds {found} different values; a label map with at most {MOST_LABELS} labels is expected")
    return Volume(volume.path, layers, volume.geometry, volume.segments, warnings)


def labels_in(array: np.ndarray) -> tuple[int, ...]:
    """The values but 0 that occur, ascending."""
    return tuple(int(v) for v in np.unique(array) if v != 0)


def recoded(array: np.ndarray, codes: Mapping[int, int]) -> np.ndarray:
    """The array with each value replaced by its code, uint8. Every value must have a code."""
    values, inverse = np.unique(array, return_inverse=True)
    table = np.array([codes[int(v)] for v in values], dtype=np.uint8)
    return table[inverse].reshape(array.shape)


def revalued(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """The array with each index replaced by its value."""
    return np.asarray(values, dtype=np.uint8 if max(values) < 256 else np.uint16 if max(values) < 65536 else np.uint32)[labels]


def without(array: np.ndarray, value: int) -> np.ndarray:
    """The array with one value replaced by 0."""
    return np.where(array == value, array.dtype.type(0), array)


def overlaid(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """The array above, and the one below where that is 0."""
    return np.where(above != 0, above, below)


def painted(masks: Sequence[tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
    """(masks painted one over the other with their values, number of voxels that were painted twice)."""
    array = np.zeros(masks[0][0].shape, dtype=np.int32)
    count = np.zeros(array.shape, dtype=np.uint8)
    for mask, value in masks:
        array[mask] = value
        count += mask & (count < 2)
    return array, int((count > 1).sum())


def same_geometry(volume: Volume, reference: Volume) -> None:
    """Raises VolumeError saying what differs, when two images do not lie on the same voxels."""
    if volume.array.ndim != reference.array.ndim:
        what = f"{volume.array.ndim} and {reference.array.ndim} dimensions"
    else:
        what = volume.geometry.difference(reference.geometry)
    if what:
        raise VolumeError(f"{volume.path.name} and {reference.path.name} differ in geometry ({what}); resample one onto the other first")


@contextlib.contextmanager
def written(path):
    """A temporary file beside `path`, open for writing, that takes its place only when it is complete.

    Whatever interrupts the writing leaves nothing behind. Raises VolumeError for a full disk and the like.
    """
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            yield stream
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)      # mkstemp makes it private
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise VolumeError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_bytes(path, data: bytes) -> None:
    """Writes a file whole or not at all; raises VolumeError."""
    with written(path) as stream:
        stream.write(data)


def is_whole_zip(path) -> bool:
    """Whether a zip archive (an .mrb) is there and undamaged to its end."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error):
        return False


def write_segmentation(path, labels: np.ndarray, geometry: Geometry, segments: Sequence[Segment]) -> None:
    """Writes a label map as a single-layer .seg.nrrd that Slicer opens with names and colours.

    labels: (Z, Y, X) or (Y, X) whole numbers >= 0; a 2D map is written as one slice, which is what Slicer reads
    segments: name, value, id, colour and terminology of each label; those that do not occur are listed too
    The same input gives the same bytes.
    """
    volume = labels.reshape(geometry.shape)
    fields = []
    for n, segment in enumerate(segments):
        extent = _extent(volume == segment.value)
        fields += [
            (f"Segment{n}_ID", segment.id or f"Segment_{segment.value}"),
            (f"Segment{n}_Name", segment.name),
            (f"Segment{n}_NameAutoGenerated", "0"),
            (f"Segment{n}_Color", " ".join(f"{c:.6g}" for c in segment.color or (0.5, 0.5, 0.5))),
            (f"Segment{n}_ColorAutoGenerated", "0"),
            (f"Segment{n}_LabelValue", str(segment.value)),
            (f"Segment{n}_Layer", "0"),
            (f"Segment{n}_Extent", " ".join(str(e) for e in extent)),
            (f"Segment{n}_Tags", f"TerminologyEntry:{segment.terminology}|" if segment.terminology else ""),
        ]
    fields += [
        ("Segmentation_ContainedRepresentationNames", "Binary labelmap|"),
        ("Segmentation_MasterRepresentation", "Binary labelmap"),
        ("Segmentation_SourceRepresentation", "Binary labelmap"),
        ("Segmentation_ReferenceImageExtentOffset", "0 0 0"),
    ]
    highest = max([int(volume.max(initial=0))] + [s.value for s in segments])
    write_nrrd(path, volume.astype(np.uint8 if highest < 256 else np.uint16 if highest < 65536 else np.uint32), geometry, fields)


_NRRD_TYPES = {"u1": "uint8", "u2": "uint16", "u4": "uint32", "i1": "int8", "i2": "int16", "i4": "int32", "f4": "float", "f8": "double"}


def write_nrrd(path, array: np.ndarray, geometry: Geometry, fields: Sequence[tuple[str, str]] = ()) -> None:
    """Writes an image as gzip-compressed NRRD in the given geometry, with key/value `fields`; deterministic.

    float16 is written as float32. Raises VolumeError.
    """
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    volume = np.ascontiguousarray(array.reshape(geometry.shape))
    volume = volume.astype(volume.dtype.newbyteorder("<"), copy=False)
    vectors = [tuple(float(c) for c in v) for v in (*geometry.steps_mm[::-1], geometry.origin_mm)]
    *steps, origin = ["(" + ",".join(repr(c + 0.0) for c in v) + ")" for v in vectors]      # + 0.0: no "-0.0"
    lines = [
        "NRRD0004", f"type: {_NRRD_TYPES[volume.dtype.str[1:]]}", "dimension: 3", "space: left-posterior-superior",
        "sizes: " + " ".join(str(n) for n in geometry.shape[::-1]), "space directions: " + " ".join(steps),
        "kinds: domain domain domain", "endian: little", "encoding: gzip", "space origin: " + origin,
    ]
    lines += [f"{key}:={_escaped(value)}" for key, value in fields]
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    with written(path) as stream:
        stream.write(("\n".join(lines) + "\n\n").encode())
        data = memoryview(volume).cast("B")
        for start in range(0, len(data), _BLOCK):
            stream.write(packer.compress(data[start:start + _BLOCK]))
        stream.write(packer.flush())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\r", " ").replace("\n", "\\n")


def _fraction(layers: np.ndarray) -> float:
    return float(layers[layers != np.rint(layers)].flat[0])


def _extent(mask: np.ndarray) -> list[int]:
    """First and last index along x, y, z; (0, -1) thrice for an empty mask, as Slicer writes it."""
    extent = []
    for axis in (2, 1, 0):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in (0, 1, 2) if a != axis)))
        extent += [int(found[0]), int(found[-1])] if found.size else [0, -1]
    return extent


def _segments(header: Mapping[str, str], path: Path) -> tuple[Segment, ...]:
    numbers = sorted(int(m.group(1)) for m in (re.fullmatch(r"Segment([0-9]{1,6})_ID", key) for key in header) if m)
    found = []
    for n in numbers:
        def key(what, default=""):
            return header.get(f"Segment{n}_{what}", default).strip()

        try:
            value, layer = int(key("LabelValue", "1")), int(key("Layer", "0"))
            color = tuple(min(1.0, max(0.0, float(c))) for c in key("Color").split())
        except ValueError:
            raise VolumeError(f"{path.name} is damaged: its segment {n} has no readable label value, layer or colour") from None
        if value < 0 or layer < 0:
            raise VolumeError(f"{path.name} is damaged: its segment {n} has a negative label value or layer")
        tag = next((t.partition(":")[2] for t in key("Tags").split("|") if t.partition(":")[0] in ("TerminologyEntry", "Segmentation.TerminologyEntry")), None)
        usable = len(color) == 3 and all(math.isfinite(c) for c in color)
        name = key("Name") or key("ID") or f"Segment {n}"
        found.append(Segment(name, value, layer, key("ID") or None, color if usable else None, tag or None))
    return tuple(found)
