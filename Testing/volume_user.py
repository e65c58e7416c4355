"""Images for the tests of files, as other programs write them."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from AnatomyDTLib import volumes
from AnatomyDTLib.volumes import VolumeError

FORMATS = (".nii", ".nii.gz", ".nrrd", ".seg.nrrd", ".mha", ".mhd")
OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def ball(shape=(6, 9, 11), dtype=np.uint8):
    z, y, x = np.indices(shape)
    labels = np.ones(shape, dtype)
    labels[(z - 2) ** 2 + (y - 4) ** 2 + (x - 6) ** 2 < 8] = 5
    labels[0] = 0
    return labels


def image(array, spacing=(0.86, 1.2, 6.5), origin=(10.0, -20.0, 33.0), direction=OBLIQUE):
    made = sitk.GetImageFromArray(array)
    n = array.ndim
    made.SetSpacing(spacing[:n])
    made.SetOrigin(origin[:n])
    if n == 3:
        made.SetDirection(direction)
    return made


def saved(path, array, compressed=True, **geometry) -> Path:
    sitk.WriteImage(image(array, **geometry), str(path), compressed)
    return Path(path)


def refusal(path, read=volumes.read_labels) -> str:
    with pytest.raises(VolumeError) as caught:
        read(path)
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 300
    return text
LAYERED = """NRRD0004
type: uint8
dimension: 4
space: left-posterior-superior
sizes: 2 11 9 6
space directions: none (1,0,0) (0,1,0) (0,0,2)
kinds: list domain domain domain
encoding: raw
space origin: (0,0,0)
Segment0_ID:=b
Segment0_Name:=Brain
Segment0_LabelValue:=1
Segment0_Layer:=0
Segment0_Color:=0.5 0.25 1
Segment0_Extent:=0 10 0 8 0 5
Segment0_Tags:=Segmentation.Status:completed|TerminologyEntry:ctx~SCT^1^a~SCT^12738006^Brain|
Segment1_ID:=t
Segment1_Name:=Tum\\nor
Segment1_LabelValue:=1
Segment1_Layer:=1

"""


def layered(path, header=LAYERED):
    both = np.stack([ball() > 0, ball() == 5], axis=-1).astype(np.uint8)
    path.write_bytes(header.encode() + both.tobytes())
    return path
