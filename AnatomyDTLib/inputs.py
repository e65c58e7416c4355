"""A forecast's input files: a segmentation, the anatomy under it, the maps of its treatments, in one numbering."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from . import labelling
from .plan import Plan, PlanError

_LONGEST_TEXT = 16 << 20         # bytes of a plan or a label table


@dataclass(frozen=True)
class Labelled:
    """A segmentation, with the anatomy under it where one was given, in one numbering.

    volume: the segmentation as read
    codes: array of the volume's shape, values are keys of `structures`
    structures: code -> what it stands for; 0 is the background or the host
    values: code -> label value in the input, where the codes stand for one map's values; else empty
    ids: code -> segment ID of the input
    inputs: files that were read
    notes: what was taken for granted
    warnings: sentences for the user
    """

    volume: object
    codes: object
    structures: dict
    values: dict
    ids: dict
    inputs: tuple
    notes: tuple
    warnings: tuple


def table_of(given: str | None):
    if given is None:
        return None
    if given in labelling.NUMBERINGS:
        return labelling.NUMBERINGS[given]
    if not os.path.exists(given):
        raise PlanError(f"'{given}' is neither a numbering ({', '.join(labelling.NUMBERINGS)}) nor a file")
    return labelling.read_table(text_of(given, "the label table"), os.path.basename(given))


def text_of(path, what: str) -> str:
    try:
        with open(path, "rb") as stream:
            data = stream.read(_LONGEST_TEXT + 1)
        if len(data) > _LONGEST_TEXT:
            raise PlanError(f"{what} {path} is larger than {_LONGEST_TEXT >> 20} MB")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PlanError(f"{what} {path} is not UTF-8 text") from None
    except OSError as error:
        raise PlanError(f"{what} {path} cannot be read: {(error.strerror or str(error)).lower()}") from None


def read_labelled(segmentation, labels=None, anatomy=None, anatomy_labels=None, regions=()) -> Labelled:
    """Reads a segmentation and, where one is given, the anatomy that lies under it.

    labels, anatomy_labels: a numbering's name, a JSON file, or None; regions: names of segments that are no tissues
    """
    from . import volumes

    volume = volumes.read_labels(segmentation)
    table, notes, warnings = table_of(labels), [], list(volume.warnings)
    codes, found, values, ids = _coded(volume, table, regions, anatomy is None, warnings)
    if not any(found):
        raise PlanError(f"{volume.path.name} holds no label but 0: the segmentation is empty")
    inputs = [volume.path]
    if table is None and not volume.segments:
        notes.append(f"label values were taken in the numbering '{labelling.DEFAULT_NUMBERING}' (no --labels, no segment names)")
    if anatomy is not None:
        below = volumes.read_labels(anatomy)
        volumes.same_geometry(volume, below)
        table = table_of(anatomy_labels)
        if table is None and not below.segments:
            table = labelling.NUMBERINGS["synthseg"]
            notes.append("label values of the anatomy were taken in the numbering 'synthseg'")
        warnings += below.warnings
        lower_codes, lower, _, lower_ids = _coded(below, table, (), False, warnings)
        inputs.append(below.path)
        structures, of_lower, of_upper = labelling.overlaid(lower, found)
        ids = {**{of_lower[c]: i for c, i in lower_ids.items()}, **{of_upper[c]: i for c, i in ids.items()}}
        lower_codes, codes = volumes.recoded(lower_codes, of_lower), volumes.recoded(codes, of_upper)
        found, values, codes = structures, {}, volumes.overlaid(lower_codes, codes)
        notes.append(f"{volume.path.name} was laid over {below.path.name}")
    if found[0] == labelling.HOST:
        warnings.append(
            f"{volume.path.name} has no tissue that a tumor can grow into: everything outside its labels is taken as brain; "
            "give the anatomy with --anatomy"
        )
    return Labelled(volume, codes, found, values, ids, tuple(inputs), tuple(notes), tuple(warnings))


def _coded(volume, table, regions, needs_host, warnings):
    """(codes, code -> Structure, code -> label value, code -> segment ID) of one file."""
    from . import volumes

    name = volume.path.name
    tissues = [s for s in volume.segments if s.name.casefold() not in regions]
    skipped = [s for s in volume.segments if s.name.casefold() in regions]
    if len(volume.layers) == 1:
        array = volume.array
        for segment in skipped:
            hidden = int(volume.mask(segment).sum())
            array = volumes.without(array, segment.value)
            if hidden:
                warnings.append(f"what lies under the region '{segment.name}' is not in {name}: its {hidden} voxels are taken as label 0")
        named = {s.value: (s.name, s.color, s.terminology) for s in tissues}
        found = labelling.structures(volumes.labels_in(array), table, named, name, needs_host)
        return array, found, {v: v for v in found}, {s.value: s.id for s in tissues if s.id}
    if table is not None:
        raise PlanError(f"the segments of {name} overlap, so one label value has several meanings: leave --labels out and name the segments")
    number = {n: s for n, s in enumerate(tissues, start=1) if volume.mask(s).any()}
    named = {n: (s.name, s.color, s.terminology) for n, s in number.items()}
    if not named:
        raise PlanError(f"{name} holds no label but 0: the segmentation is empty")
    found = labelling.structures(number, None, named, name, needs_host)
    order = sorted(number, key=lambda n: (labelling.rank(found[n].role), n))
    array, covered = volumes.painted([(volume.mask(number[n]), n) for n in order])
    if covered:
        warnings.append(f"segments of {name} overlap in {covered} voxels; tumor, necrosis and cavity were laid over the tissues around them")
    return array, found, {}, {n: s.id for n, s in number.items() if s.id}


def matched(plan: Plan, labelled: Labelled) -> dict[int, int]:
    """code -> index of the plan's tissue of the same name; raises PlanError naming what the plan lacks."""
    names = {name.casefold(): i for i, name in enumerate(plan.anatomy.names)}
    index, missing = {}, []
    for code, structure in labelled.structures.items():
        if code == 0 and structure.role == "background":
            index[0] = 0
        elif structure.name.casefold() in names:
            index[code] = names[structure.name.casefold()]
        else:
            missing.append(structure.name)
    if missing:
        raise PlanError(
            f"the plan lacks the tissue {', '.join(repr(m) for m in missing[:6])}{' and others' if len(missing) > 6 else ''} of "
            f"{labelled.volume.path.name} (it has {', '.join(plan.anatomy.names)}); write a plan for this file with "
            "`anatomydt plan --segmentation`, or name its labels with --labels"
        )
    return index


def read_images(files, labelled: Labelled) -> dict:
    """File as given -> array, of images on the voxels of the segmentation, in the order given; raises PlanError or VolumeError."""
    import numpy as np

    from . import volumes

    found = {}
    for file in files:
        image = volumes.read(file)
        volumes.same_geometry(image, labelled.volume)
        if len(image.layers) > 1:
            raise PlanError(f"{image.path.name} is a segmentation whose segments overlap; give an image")
        if not np.isfinite(image.array).all():
            raise PlanError(f"the image {image.path.name} holds values that are not numbers (NaN or infinite)")
        if str(file) in found:
            raise PlanError(f"the image {file} was given twice; give each image that the weights were trained with once")
        found[str(file)] = image.array
    return found


def read_maps(plan: Plan, labelled: Labelled, folder: Path):
    """(name -> array, files read) of the maps that the treatments name: segments of the input, or files beside the plan."""
    import numpy as np

    from . import volumes

    maps, files = {}, []
    volume = labelled.volume
    for name in plan.map_names():
        segment = next((s for s in volume.segments if s.name.casefold() == name.casefold()), None)
        code = next((c for c, s in labelled.structures.items() if s.name.casefold() == name.casefold()), None)
        if segment is not None:
            maps[name] = volume.mask(segment)
        elif code is not None:
            maps[name] = labelled.codes == code
        else:
            path = folder / name
            if not path.is_file():
                raise PlanError(f"the plan names the map '{name}', which is neither a segment of {volume.path.name} nor a file beside the plan")
            other = volumes.read(path)
            volumes.same_geometry(other, volume)
            if not np.isfinite(other.layers).all():
                raise PlanError(f"the map {path.name} holds values that are not numbers (NaN or infinite)")
            maps[name] = other.layers.any(axis=0) if len(other.layers) > 1 else other.array
            files.append(path)
    return maps, files
