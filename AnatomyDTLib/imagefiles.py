"""Image files, opened with care: what a file declares is compared with what it holds before it is decoded.

ITK's NIfTI and MetaImage readers take a truncated file for a whole one filled with zeros, print to the
terminal, and allocate whatever the header declares. So sizes are compared with bytes, and gzip and zlib
streams are checked to their end. NRRD is then decoded by ITK, NIfTI by nibabel, MetaImage here.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".seg.nrrd", ".mha", ".mhd")
MOST_VOXELS = 2**31
_BLOCK = 1 << 20


class VolumeError(ValueError):
    """A file that cannot be read or written; the text is the sentence the user reads."""


def by(numbers) -> str:
    """Sizes as a sentence shows them: 3 x 4 x 5."""
    return " x ".join(f"{n:.4g}" for n in numbers)


def checked(path: Path) -> tuple[dict[str, str], Callable]:
    """(key/value pairs of a NRRD header, what decodes the file), after the declared sizes were compared with the bytes.

    The second returns (layers (L, [Z,] Y, X), steps_mm, origin_mm). Raises VolumeError.
    """
    name = path.name
    if not name.lower().endswith(SUFFIXES):
        raise VolumeError(f"{name} has no suffix that can be read; give one of {', '.join(SUFFIXES)}")
    try:
        if path.is_dir():
            raise VolumeError(f"{path} is a folder; give an image file")
        with open(path, "rb") as stream:
            start = stream.read(2 * _BLOCK)
    except FileNotFoundError:
        raise VolumeError(f"there is no file {path}") from None
    except OSError as error:
        raise VolumeError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    if not start:
        raise VolumeError(f"{name} is an empty file")
    check = _check_nrrd if name.lower().endswith("nrrd") else _check_meta if name.lower().endswith((".mha", ".mhd")) else _check_nifti
    try:
        return check(path, start)
    except VolumeError:
        raise
    except OSError as error:
        raise VolumeError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, IndexError, KeyError, struct.error, zlib.error, OverflowError):
        raise VolumeError(f"{name} cannot be read as an image: it is damaged or not an image") from None


def _expect(path: Path, sizes: Sequence[int], bytes_per_voxel: int) -> int:
    """Bytes of image data that the declared sizes ask for; raises VolumeError for sizes no image has."""
    if min(sizes) < 1:
        raise VolumeError(f"{path.name} holds no voxels")
    voxels = math.prod(sizes)
    if voxels > MOST_VOXELS:
        raise VolumeError(f"{path.name} declares {by(sizes)} voxels, which is more than can be read")
    return voxels * bytes_per_voxel


def _spatial(path: Path, sizes: Sequence[int]) -> None:
    extra = [n for n in sizes[3:] if n != 1]
    if extra:
        raise VolumeError(f"{path.name} has {len(sizes)} dimensions ({by(sizes)}); give one volume of two or three")
    if len(sizes) < 2:
        raise VolumeError(f"{path.name} has {len(sizes)} dimension; give an image of two or three")


def _compare(path: Path, expected: int, found: int) -> None:
    if found < expected:
        raise VolumeError(f"{path.name} is truncated: it holds {found} bytes of image data and declares {expected}")


def _unpacked_size(path: Path, offset: int, expected: int, wbits: int) -> int:
    """Bytes in the compressed stream at `offset`, checked to its end; raises VolumeError when it is damaged."""
    total, packer = 0, zlib.decompressobj(wbits)
    with open(path, "rb") as stream:
        stream.seek(offset)
        while block := stream.read(_BLOCK):
            while block:
                total += len(packer.decompress(block, _BLOCK))
                if total > expected + _BLOCK:
                    raise VolumeError(f"{path.name} is damaged: it holds more image data than the {expected} bytes that it declares")
                block = packer.unconsumed_tail
                if packer.eof:
                    rest = packer.unused_data
                    if wbits != 31 or not rest.startswith(b"\x1f\x8b"):
                        return total
                    packer, block = zlib.decompressobj(wbits), rest      # gzip files may have several members
    while tail := packer.decompress(packer.unconsumed_tail, _BLOCK):
        total += len(tail)
        if total > expected + _BLOCK:
            break
    if not packer.eof:
        raise VolumeError(f"{path.name} is truncated: its compressed data end early")
    return total


def _check_nrrd(path: Path, start: bytes) -> tuple[dict[str, str], Callable]:
    if not start.startswith(b"NRRD000"):
        raise VolumeError(f"{path.name} is not a NRRD file")
    match = re.search(rb"\r?\n\r?\n", start)
    if match is None:
        raise VolumeError(f"{path.name} is truncated or not an image: its header has no end")
    head, offset = start[:match.start()].decode("utf-8", "replace"), match.end()
    fields, keys = {}, {}
    for line in head.splitlines()[1:]:
        if line.startswith("#"):
            continue
        if ":=" in line and (": " not in line or line.index(":=") < line.index(": ")):
            key, value = line.split(":=", 1)
            keys[key] = value.replace("\\n", "\n").replace("\\\\", "\\")
        elif ":" in line:
            key, value = line.split(":", 1)
            fields[key.strip().lower()] = value.strip()
    if "data file" in fields or "datafile" in fields:
        raise VolumeError(f"{path.name} keeps its data in another file; store it in one .nrrd")
    if any(int(fields.get(key, "0")) for key in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise VolumeError(f"{path.name} skips a part of its data; store it as a plain .nrrd")
    sizes = [int(n) for n in fields["sizes"].split()]
    if int(fields["dimension"]) != len(sizes):
        raise VolumeError(f"{path.name} is damaged: its header contradicts itself on the number of dimensions")
    bytes_per_voxel = _NRRD_BYTES.get(fields["type"])
    if bytes_per_voxel is None:
        raise VolumeError(f"{path.name} holds values of the type '{fields['type'][:30]}', which is not an image's")
    kinds = fields.get("kinds", "").split()
    layered = [k not in ("domain", "space", "time", "none", "???") for k in kinds]
    directions = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    if len(directions) == len(sizes):
        layered = [d == "none" for d in directions]
    spatial = [n for n, other in zip(sizes, layered) if not other] if len(layered) == len(sizes) else sizes
    _spatial(path, spatial)
    if len(spatial) + 1 < len(sizes):
        raise VolumeError(f"{path.name} has {len(sizes)} dimensions ({by(sizes)}); give one volume of two or three")
    expected = _expect(path, sizes, bytes_per_voxel)
    spacings = [float(n) for d in directions if d != "none" for n in d.strip("()").split(",")]
    spacings += [float(n) for n in fields.get("spacings", "").split() if n.lower() != "nan" or len(spatial) == len(sizes)]
    if not all(math.isfinite(n) for n in spacings):
        raise VolumeError(f"{path.name} has a voxel size that is not a number; repair its header")
    zero = [d for d in directions if d != "none" and not any(float(n) for n in d.strip("()").split(","))]
    if zero or any(float(n) == 0.0 for n in fields.get("spacings", "").split()):
        raise VolumeError(f"{path.name} has a voxel size of zero; repair its header")
    encoding = fields.get("encoding", "").lower()
    if encoding == "raw":
        _compare(path, expected, path.stat().st_size - offset)
    elif encoding in ("gzip", "gz"):
        _compare(path, expected, _unpacked_size(path, offset, expected, 31))
    else:
        raise VolumeError(f"{path.name} has the NRRD encoding '{encoding[:30]}'; store it with raw or gzip")
    return keys, functools.partial(_decode_nrrd, path)


_NRRD_BYTES = {
    name: size
    for size, names in {
        1: "signed char|int8|int8_t|uchar|unsigned char|uint8|uint8_t",
        2: "short|short int|signed short|signed short int|int16|int16_t|ushort|unsigned short|unsigned short int|uint16|uint16_t",
        4: "int|signed int|int32|int32_t|uint|unsigned int|uint32|uint32_t|float",
        8: "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t|ulonglong|unsigned long long"
           "|unsigned long long int|uint64|uint64_t|double",
    }.items()
    for name in names.split("|")
}

_META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4",
    "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}


def _check_meta(path: Path, start: bytes) -> tuple[dict[str, str], Callable]:
    match = re.search(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*)\r?\n?", start, re.MULTILINE)
    if match is None:
        raise VolumeError(f"{path.name} is not a MetaImage file, or its header is truncated")
    pairs = (line.split("=", 1) for line in start[:match.start()].decode("utf-8", "replace").splitlines() if "=" in line)
    fields = {key.strip(): value.strip() for key, value in pairs}

    def numbers(*keys):
        return next(([float(n) for n in fields[k].split()] for k in keys if k in fields), None)

    def yes(*keys):
        return any(fields.get(key, "false").lower() in ("true", "1") for key in keys)

    sizes = [int(n) for n in fields["DimSize"].split()]
    if int(fields["NDims"]) != len(sizes):
        raise VolumeError(f"{path.name} is damaged: its header contradicts itself on the number of dimensions")
    _spatial(path, sizes)
    if int(fields.get("ElementNumberOfChannels", "1")) != 1:
        raise VolumeError(f"{path.name} has several values per voxel (a colour or vector image); give one value per voxel")
    dtype = np.dtype(_META_TYPES[fields["ElementType"]])
    dtype = dtype.newbyteorder(">" if yes("BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<")
    expected = _expect(path, sizes, dtype.itemsize)
    n = len(sizes)
    spacing = np.array(numbers("ElementSpacing", "ElementSize") or [1.0] * n)
    axes = np.array(numbers("TransformMatrix", "Rotation", "Orientation") or np.eye(n).ravel()).reshape(n, n)
    origin = np.array(numbers("Offset", "Position", "Origin") or [0.0] * n)
    if len(spacing) != n or len(origin) != n:
        raise VolumeError(f"{path.name} is damaged: its header contradicts itself on the number of dimensions")
    if not (spacing > 0).all() or not np.isfinite(spacing).all():
        raise VolumeError(f"{path.name} has a voxel size of {by(spacing)} mm; repair its header")
    if int(fields.get("HeaderSize", "0")) != 0 or not yes("BinaryData"):
        raise VolumeError(f"{path.name} is not a plain binary MetaImage; store it with binary data right after its header")
    data, offset = path, match.end()
    where = match.group(1).decode("utf-8", "replace").strip()
    if where.upper() != "LOCAL":
        data, offset = path.parent / where, 0
        if where != os.path.basename(where) or where.upper().startswith("LIST") or "%" in where:
            raise VolumeError(f"{path.name} keeps its data in '{where[:60]}'; it must be one file beside it")
        if not data.is_file():
            raise VolumeError(f"{path.name} keeps its data in {where[:60]}, which is not beside it")
    packed = yes("CompressedData")
    _compare(path, expected, _unpacked_size(data, offset, expected, 15) if packed else data.stat().st_size - offset)
    return {}, functools.partial(_decode_meta, data, offset, packed, dtype, sizes, (axes * spacing[:, None], origin))


# bytes of one value, by NIfTI datatype; RGB (128, 2304), complex and long double are not label maps
_NIFTI_BYTES = {2: 1, 256: 1, 4: 2, 512: 2, 8: 4, 768: 4, 16: 4, 64: 8, 1024: 8, 1280: 8}


def _check_nifti(path: Path, start: bytes) -> tuple[dict[str, str], Callable]:
    packed = start.startswith(b"\x1f\x8b")
    head = zlib.decompressobj(31).decompress(start, 1024) if packed else start[:1024]
    if len(head) < 348:
        raise VolumeError(f"{path.name} is truncated or not a NIfTI file")
    order = next((o for o in "<>" if struct.unpack_from(o + "i", head)[0] in (348, 540)), None)
    if order is None:
        raise VolumeError(f"{path.name} is not a NIfTI file")
    second = struct.unpack_from(order + "i", head)[0] == 540
    if second:
        dim = struct.unpack_from(order + "8q", head, 16)
        datatype = struct.unpack_from(order + "h", head, 12)[0]
        pixdim = struct.unpack_from(order + "8d", head, 104)
        vox_offset = struct.unpack_from(order + "q", head, 168)[0]
        placed = struct.unpack_from(order + "18d", head, 352)
        magic = head[4:8]
    else:
        dim = struct.unpack_from(order + "8h", head, 40)
        datatype = struct.unpack_from(order + "h", head, 70)[0]
        pixdim = struct.unpack_from(order + "8f", head, 76)
        vox_offset = struct.unpack_from(order + "f", head, 108)[0]
        placed = struct.unpack_from(order + "18f", head, 256)
        magic = head[344:348]
    if magic[:3] not in (b"n+1", b"n+2"):
        raise VolumeError(f"{path.name} is not a NIfTI file with its data inside (magic {magic!r})")
    if not 1 <= dim[0] <= 7:
        raise VolumeError(f"{path.name} is damaged: it declares {dim[0]} dimensions")
    sizes = dim[1:1 + dim[0]]
    expected = _expect(path, sizes, 1)
    _spatial(path, sizes)
    if datatype in (128, 2304):
        raise VolumeError(f"{path.name} has several values per voxel (a colour or vector image); give one value per voxel")
    if datatype not in _NIFTI_BYTES:
        raise VolumeError(f"{path.name} holds values of the NIfTI type {datatype}, which no label map has")
    if not all(math.isfinite(v) for v in (*pixdim[:4], *placed)):
        raise VolumeError(f"{path.name} has a voxel size or position that is not a number; repair its header")
    spacing = pixdim[1:1 + min(3, dim[0])]
    if not all(v > 0 for v in spacing):
        raise VolumeError(f"{path.name} has a voxel size of {by(spacing)} mm; repair its header")
    if not (math.isfinite(vox_offset) and (540 if second else 348) <= vox_offset <= 2 * _BLOCK):
        raise VolumeError(f"{path.name} is damaged: its data start at byte {vox_offset:g}")
    expected = int(vox_offset) + expected * _NIFTI_BYTES[datatype]
    _compare(path, expected, _unpacked_size(path, 0, expected, 31) if packed else path.stat().st_size)
    return {}, functools.partial(_decode_nifti, path)


def _decode_meta(data: Path, offset: int, packed: bool, dtype, sizes, placed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # not with ITK, whose reader prints to the terminal whatever it dislikes
    with open(data, "rb") as stream:
        stream.seek(offset)
        count = math.prod(sizes)
        content = zlib.decompress(stream.read()) if packed else stream.read(count * dtype.itemsize)
    array = np.frombuffer(content, dtype, count).reshape(sizes[::-1]).astype(dtype.newbyteorder("="))
    n = min(len(sizes), 3)
    return array.reshape(1, *sizes[:n][::-1]), *_embedded(placed[0][:n, :n], placed[1][:n])


def _embedded(steps: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(steps_mm, origin_mm) of n steps along i, j(, k), given with n or three components; a 2D image is one slice of 1 mm."""
    n = len(steps)
    placed, at = np.zeros((3, 3)), np.zeros(3)
    placed[3 - n:, :steps.shape[1]] = steps[::-1]
    at[:len(origin)] = origin
    if n == 2:
        normal = np.cross(placed[2], placed[1])
        length = np.linalg.norm(normal)
        placed[0] = normal / length if length > 0 else 0.0
    return placed, at


def _decode_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    channels = image.GetNumberOfComponentsPerPixel()
    layers = np.moveaxis(array, -1, 0) if channels > 1 else array[None]
    ndim = image.GetDimension()
    while ndim > 3:                  # trailing axes of length 1
        layers, ndim = layers[:, 0], ndim - 1
    axes = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)
    n = min(ndim, 3)
    steps = (axes[:n, :n] * np.array(image.GetSpacing())[:n]).T
    return np.ascontiguousarray(layers), *_embedded(steps, np.array(image.GetOrigin())[:n])


def _decode_nifti(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # not with ITK: beside "a.nii" it reads the header of "a.nii.gz" and the voxels of "a.nii"; it refuses sheared axes
    # and knows no NIfTI-2
    import nibabel

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)      # it warns of repairs on the terminal
    try:
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
    except (nibabel.spatialimages.HeaderDataError, nibabel.filebasedimages.ImageFileError) as error:
        raise ValueError(str(error)) from None
    while array.ndim > 3:            # trailing axes of length 1
        array = array[..., 0]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine             # to left-posterior-superior
    return np.ascontiguousarray(array.T)[None], *_embedded(affine[:3, :array.ndim].T, affine[:3, 3])
