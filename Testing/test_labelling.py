"""Label values, names and terminology to tissues."""

import json
import random
import subprocess
import sys

import pytest

from AnatomyDTLib import labelling, presets
from AnatomyDTLib.labelling import HOST, NUMBERINGS, Structure
from AnatomyDTLib.plan import ROLES, Anatomy, PlanError

NAMES = {
    "white": ["WM", "White Matter", "white_matter", "Left-Cerebral-White-Matter", "Brain-Stem", "corpus callosum", "Optic-Chiasm",
              "Cerebellum-White-Matter", "WM-hypointensities", "White matter lesion"],
    "grey": ["GM", "gray matter", "GREY", "Left-Thalamus", "ctx-lh-insula", "Cerebellum", "Right-VentralDC", "cortex", "hippocampus",
             "Caudate nucleus", "Left-Accumbens-area", "deep gray"],
    "csf": ["CSF", "Cerebrospinal fluid", "subarachnoid space", "cisterns"],
    "ventricle": ["Ventricles", "lateral ventricle", "3rd-Ventricle", "Left-Lateral-Ventricle", "Left-choroid-plexus", "Ventricular system"],
    "vessel": ["vessels", "Internal carotid artery", "Left-vessel", "transverse sinus"],
    "barrier": ["falx", "Falx cerebri", "Tentorium", "Skull", "dura mater", "bone"],
    "cavity": ["resection cavity", "Surgical Cavity", "RC", "tumor bed", "Tumour cavity"],
    "necrosis": ["Necrosis", "necrotic core", "NCR", "NETC", "Non-enhancing tumor core", "Treated tumor"],
    "edema": ["Edema", "peritumoral oedema", "ED", "SNFH", "FLAIR hyperintensity"],
    "tumor": ["Tumor", "Enhancing Tumor", "ET", "enhancing", "GTV", "GTV_1", "gtvp", "lesion", "Mass", "glioblastoma", "GBM", "Meningioma",
              "brain metastasis", "Tumour (left)", "Astrocytoma", "TumorSegmentation", "whole tumor"],
    "organ": ["Brain", "liver", "parenchyma", "heart ventricle left", "lung_upper_lobe_left", "healthy tissue"],
    "background": ["background", "Unknown", "air"],
}


@pytest.mark.parametrize("role, name", [(role, name) for role, names in NAMES.items() for name in names])
def test_a_name_tells_its_role(role, name):
    for written in (name, name.upper(), name.replace(" ", "_"), f" {name} "):
        assert labelling.role_of_name(written) == role


def test_words_written_together():
    assert labelling.role_of_name("leftWhiteMatter") == "white"


@pytest.mark.parametrize("name", ["Segment_1", "Segment 12", "", "PTV", "42", "!!", "foo", "editing", "red", "Ved"])
def test_a_name_that_tells_nothing(name):
    assert labelling.role_of_name(name) is None


SLICER = "Segmentation category and type - 3D Slicer General Anatomy list~SCT^{}~SCT^{}~^^~Anatomic codes - DICOM master list~^^~^^"


@pytest.mark.parametrize("category, kind, role", [
    ("49755003^Morphologically Altered Structure", "4147007^Mass", "tumor"),
    ("49755003^Morphologically Altered Structure", "86049000^Neoplasm, Primary", "tumor"),
    ("49755003^Morphologically Altered Structure", "79654002^Edema", "edema"),
    ("49755003^Morphologically Altered Structure", "6574001^Necrosis", "necrosis"),
    ("123037004^Anatomical Structure", "12738006^Brain", "organ"),
    ("123037004^Anatomical Structure", "66720007^Lateral ventricle", "ventricle"),
    ("123037004^Anatomical Structure", "0^White matter of brain", "white"),
    ("85756007^Tissue", "85756007^Tissue", None),
    ("123037004^Anatomical Structure", "0^Something", None),
])
def test_terminology(category, kind, role):
    assert labelling.role_of_terminology(SLICER.format(category, kind)) == role


@pytest.mark.parametrize("text", ["", "~", "a~b~c", "~~~~~~~", "x^y~SCT^4147007~", "|:|"])
def test_broken_terminology_tells_nothing(text):
    assert labelling.role_of_terminology(text) is None


def test_a_segments_name_goes_before_its_terminology():
    mass = SLICER.format("49755003^Morphologically Altered Structure", "4147007^Mass")
    assert labelling.structure_of_segment("Segment_1", None, mass).role == "tumor"
    assert labelling.structure_of_segment("Necrotic core", None, mass).role == "necrosis"
    assert labelling.structure_of_segment("Segment_1") is None
    kept = labelling.structure_of_segment("Segment_1", (0.1, 0.2, 0.3), mass)
    assert (kept.color, kept.terminology) == ((0.1, 0.2, 0.3), mass)


def test_numberings_hold_the_published_values():
    roles = {name: {v: s.role for v, s in table.items() if v} for name, table in NUMBERINGS.items()}
    assert roles["anatomydt"] == {1: "white", 2: "grey", 3: "csf", 4: "ventricle", 5: "tumor"}
    assert roles["brats"] == {1: "necrosis", 2: "edema", 3: "tumor", 4: "tumor"}
    assert roles["brats2024"] == {1: "necrosis", 2: "edema", 3: "tumor", 4: "cavity"}
    assert roles["fast"] == {1: "csf", 2: "grey", 3: "white"}
    # every label that SynthSeg writes without parcellation
    synthseg = {2: "white", 3: "grey", 4: "ventricle", 5: "ventricle", 7: "white", 8: "grey", 14: "ventricle", 15: "ventricle",
                16: "white", 24: "csf", **{v: "grey" for v in (10, 11, 12, 13, 17, 18, 26, 28)}}
    synthseg |= {41: "white", 42: "grey", 43: "ventricle", 44: "ventricle", 46: "white", 47: "grey",
                 **{v: "grey" for v in (49, 50, 51, 52, 53, 54, 58, 60)}}
    assert {v: roles["synthseg"][v] for v in synthseg} == synthseg
    assert NUMBERINGS["freesurfer"][10].name == "Left thalamus" and NUMBERINGS["freesurfer"][49].name == "Right thalamus"
    assert NUMBERINGS["synthseg"][1035].role == NUMBERINGS["synthseg"][2035].role == "grey"


@pytest.mark.parametrize("name", NUMBERINGS)
def test_numberings_agree_with_their_own_names(name):
    for value, structure in NUMBERINGS[name].items():
        assert structure.role in ROLES
        told = labelling.role_of_name(structure.name)
        assert value == 0 or told == structure.role or structure.name in (
            "Left cortex, unknown", "Right cortex, unknown", "Non-white-matter hypointensities",
        ) or (structure.name.startswith(("Left cortex", "Right cortex")) and told in ("grey", "white")), structure


def test_only_what_occurs_is_in_the_anatomy_in_label_order():
    found = labelling.structures([53, 2, 10], NUMBERINGS["synthseg"])
    tissues, index = labelling.tissues(found)
    assert [t.name for t in tissues] == ["Background", "Left cerebral white matter", "Left thalamus", "Right hippocampus"]
    assert index == {0: 0, 2: 1, 10: 2, 53: 3}
    assert [t.role for t in tissues] == ["background", "white", "grey", "grey"]
    assert tissues[2].color != tissues[3].color


def test_a_growth_law_fills_the_numbers():
    found = labelling.structures([1, 5])
    tissues, _ = labelling.tissues(found, "swanson-high-grade")
    assert tissues[1].diffusivity_mm2_per_day == 0.65 and tissues[2].growth_per_day == 0.012
    with pytest.raises(PlanError, match="lipkova"):
        labelling.tissues(found, "fastest")


def test_all_of_freesurfer_is_one_anatomy():
    tissues, index = labelling.tissues(labelling.structures(NUMBERINGS["synthseg"], NUMBERINGS["synthseg"]))
    assert len(Anatomy(tissues)) == len(index) == len(NUMBERINGS["synthseg"])


def test_segments_keep_name_colour_and_terminology():
    found = labelling.structures([1, 2], None, {1: ("GTV left", (0.1, 0.2, 0.3), "a~b"), 2: ("My white matter", None, None)})
    tissues, index = labelling.tissues(found)
    gtv = tissues[index[1]]
    assert (gtv.name, gtv.role, gtv.color, gtv.terminology) == ("GTV left", "tumor", (0.1, 0.2, 0.3), "a~b")
    assert tissues[index[2]].color == presets.ROLE_COLORS["white"]


def test_several_foci_of_one_name_stay_apart():
    found = labelling.structures([1, 2, 3], None, {1: ("tumor", None, None), 2: ("Tumor", None, None), 3: ("White", None, None)})
    assert [s.name for s in found.values()] == ["Background", "tumor", "Tumor 2", "White"]


def test_a_map_without_anatomy_grows_in_one_host():
    found = labelling.structures([1, 2, 4], NUMBERINGS["brats"])
    assert found[0] == HOST
    tissues, index = labelling.tissues(found)
    assert tissues[0].role == "background" and tissues[index[0]].name == "Brain"
    assert labelling.structures([1, 2, 4], NUMBERINGS["brats"], needs_host=False)[0].role == "background"
    assert labelling.structures([1, 5])[0].role == "background"


def test_a_table_rules_over_segments_but_keeps_their_colour():
    table = labelling.read_table('{"1": {"name": "Core", "role": "tumor"}, "2": "white"}')
    found = labelling.structures([1, 2], table, {1: ("Segment_1", (0.5, 0.5, 1.0), "t~t")})
    assert found[1] == Structure("Core", "tumor", (0.5, 0.5, 1.0), "t~t")


@pytest.mark.parametrize("values, table, words", [
    ([2, 7, 41], "anatomydt", ["7, 41", "--labels", "synthseg"]),
    ([300], "synthseg", ["300"]),
    (range(1, 200), "anatomydt", ["and 186 more"]),
    ([-3, 1], "anatomydt", ["-3"]),
])
def test_labels_that_are_not_in_the_table_are_named(values, table, words):
    with pytest.raises(PlanError) as caught:
        labelling.structures(values, NUMBERINGS[table])
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_a_segment_that_tells_nothing_is_refused_by_name():
    with pytest.raises(PlanError, match="Segment_3.*rename"):
        labelling.structures([3], None, {3: ("Segment_3", None, None)})
    with pytest.raises(PlanError, match="label 4"):
        labelling.structures([3, 4], None, {3: ("Tumor", None, None)})


def test_one_map_over_another():
    below = labelling.structures([2, 42], NUMBERINGS["synthseg"], needs_host=False)
    above = labelling.structures([1, 2], NUMBERINGS["brats"], needs_host=False)
    codes, lower, upper = labelling.overlaid(below, above)
    assert [s.name for s in codes.values()] == [
        "Background", "Left cerebral white matter", "Right cerebral cortex", "Necrotic core", "Edema",
    ]
    assert lower == {0: 0, 2: 1, 42: 2} and upper == {0: 0, 1: 3, 2: 4}
    codes, lower, upper = labelling.overlaid(labelling.structures([1, 2, 5]), labelling.structures([5, 3]))
    assert lower[5] == upper[5] and len(codes) == 5


# ---- LABELS.json


def test_a_table_in_short_and_in_long():
    table = labelling.read_table(
        '{"1": "white", "2": "grey", "3": "grey", "4": "Lateral ventricles", "5": {"name": "Core", "role": "tumor", "color": [1, 0, 0]},'
        ' "6": {"name": "Edema"}, "7": {"role": "csf"}, "-1": {"name": "x", "role": "organ", "terminology": "a~b"}}'
    )
    assert table[1] == Structure("White matter", "white")
    assert [table[v].name for v in (2, 3)] == ["Grey matter 2", "Grey matter 3"]
    assert table[4] == Structure("Lateral ventricles", "ventricle")
    assert table[5] == Structure("Core", "tumor", (1.0, 0.0, 0.0))
    assert table[6].role == "edema" and table[7].name == "CSF 7" and table[-1].terminology == "a~b"


@pytest.mark.parametrize("text, word", [
    ("", "JSON"), ("[", "JSON"), ("[]", "object"), ("{}", "object"), ("3", "object"), ('{"a": "white"}', '"a"'), ('{"1.5": "white"}', "1.5"),
    ('{"1": "white", "1": "grey"}', "twice"), ('{"1": "white", "01": "grey"}', "twice"), ('{"1": 5}', "role"), ('{"1": null}', "role"),
    ('{"1": "blob"}', "blob"), ('{"1": {}}', "name"), ('{"1": {"role": "brain"}}', "brain"), ('{"1": {"role": []}}', "role"),
    ('{"1": {"name": ""}}', "name"), ('{"1": {"name": 3, "role": "white"}}', "name"), ('{"1": {"name": "x"}}', "role"),
    ('{"1": {"name": "x", "role": "white", "volume": 3}}', "volume"), ('{"1": {"role": "white", "color": "red"}}', "color"),
    ('{"1": {"role": "white", "color": [1, 2, 3]}}', "color"), ('{"1": {"role": "white", "terminology": 3}}', "terminology"),
    ('{"1": {"name": "A", "role": "white"}, "2": {"name": "a", "role": "white"}}', "own"), ("[" * 50000, "JSON"),
    ('{"99999999999": "white"}', "99999999999"),
])
def test_a_wrong_table_is_refused_in_one_sentence(text, word):
    with pytest.raises(PlanError) as caught:
        labelling.read_table(text)
    assert word in str(caught.value) and "\n" not in str(caught.value)


def test_fuzz_of_the_table():
    dice = random.Random(5)
    odd = [None, True, 1, -1.5, "", "white", "x", [], {}, [1], {"name": "tumor"}, {"role": "white"}, {"name": 1}, {"color": [0, 0, 0]}, 10**400]
    for _ in range(3000):
        entry = {k: dice.choice(odd) for k in ("name", "role", "color", "terminology", "x") if dice.random() < 0.5}
        made = {dice.choice(["1", "2", "x", "-3", ""]): dice.choice(odd + [entry, entry]) for _ in range(3)}
        text = json.dumps(made)
        if dice.random() < 0.3:
            text = text[:dice.randrange(len(text) + 1)]
        try:
            table = labelling.read_table(text)
        except PlanError:
            continue
        labelling.tissues(labelling.structures(table, table))


def test_standard_library_only():
    code = "import sys, AnatomyDTLib.labelling; print([m for m in ('numpy', 'torch', 'SimpleITK', 'slicer') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
