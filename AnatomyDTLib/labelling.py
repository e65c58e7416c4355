"""Label values, segment names and terminology codes -> tissues of a plan. Standard library only.

A `Structure` is what one label value of a file stands for. It comes, in this order, from the table
that the user names (`--labels`: a numbering below, or a JSON file), from the file's own segment names
and terminology, or from the numbering of the bundled sample.
"""

from __future__ import annotations

import colorsys
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from . import presets
from .plan import ROLES, PlanError, Tissue


@dataclass(frozen=True)
class Structure:
    """What a label value stands for: name, role (one of plan.ROLES), colour (0..1) and terminology if the file has them."""

    name: str
    role: str
    color: tuple[float, float, float] | None = None
    terminology: str | None = None


BACKGROUND = Structure("Background", "background")
HOST = Structure("Brain", "organ")

_DEFAULT_NAMES = {
    "background": "Background", "white": "White matter", "grey": "Grey matter", "organ": "Brain", "csf": "CSF",
    "ventricle": "Ventricles", "vessel": "Vessel", "barrier": "Barrier", "cavity": "Resection cavity",
    "necrosis": "Necrosis", "edema": "Edema", "tumor": "Tumor",
}

# FreeSurfer's aseg numbers (FreeSurferColorLUT.txt; SynthSeg uses a subset): left, right, name, role.
_PAIRED = (
    (2, 41, "cerebral white matter", "white"), (3, 42, "cerebral cortex", "grey"),
    (4, 43, "lateral ventricle", "ventricle"), (5, 44, "inferior lateral ventricle", "ventricle"),
    (7, 46, "cerebellum white matter", "white"), (8, 47, "cerebellum cortex", "grey"),
    (10, 49, "thalamus", "grey"), (11, 50, "caudate", "grey"), (12, 51, "putamen", "grey"),
    (13, 52, "pallidum", "grey"), (17, 53, "hippocampus", "grey"), (18, 54, "amygdala", "grey"),
    (26, 58, "accumbens", "grey"), (28, 60, "ventral DC", "grey"), (30, 62, "vessel", "vessel"),
    (31, 63, "choroid plexus", "ventricle"), (78, 79, "white matter hypointensities", "white"),
)
_SINGLE = {
    14: ("3rd ventricle", "ventricle"), 15: ("4th ventricle", "ventricle"), 16: ("Brainstem", "white"),
    24: ("CSF", "csf"), 72: ("5th ventricle", "ventricle"), 77: ("White matter hypointensities", "white"),
    80: ("Non-white-matter hypointensities", "grey"), 85: ("Optic chiasm", "white"),
    251: ("Corpus callosum, posterior", "white"), 252: ("Corpus callosum, mid-posterior", "white"),
    253: ("Corpus callosum, central", "white"), 254: ("Corpus callosum, mid-anterior", "white"),
    255: ("Corpus callosum, anterior", "white"),
}
# The cortical parcels of aparc (Desikan-Killiany): 1000 + i on the left, 2000 + i on the right.
_PARCELS = (
    "unknown", "bankssts", "caudal anterior cingulate", "caudal middle frontal", "corpus callosum", "cuneus",
    "entorhinal", "fusiform", "inferior parietal", "inferior temporal", "isthmus cingulate", "lateral occipital",
    "lateral orbitofrontal", "lingual", "medial orbitofrontal", "middle temporal", "parahippocampal", "paracentral",
    "pars opercularis", "pars orbitalis", "pars triangularis", "pericalcarine", "postcentral",
    "posterior cingulate", "precentral", "precuneus", "rostral anterior cingulate", "rostral middle frontal",
    "superior frontal", "superior parietal", "superior temporal", "supramarginal", "frontal pole",
    "temporal pole", "transverse temporal", "insula",
)


def _freesurfer() -> dict[int, Structure]:
    table = {0: BACKGROUND}
    for left, right, name, role in _PAIRED:
        table[left] = Structure(f"Left {name}", role)
        table[right] = Structure(f"Right {name}", role)
    table.update({value: Structure(name, role) for value, (name, role) in _SINGLE.items()})
    for side, base in (("Left", 1000), ("Right", 2000)):
        table.update({base + i: Structure(f"{side} cortex, {name}", "grey") for i, name in enumerate(_PARCELS)})
    return dict(sorted(table.items()))


NUMBERINGS: dict[str, dict[int, Structure]] = {
    # the bundled sample and the Brain-Tumor-Progression maps
    "anatomydt": {
        0: BACKGROUND, 1: Structure("White matter", "white"), 2: Structure("Grey matter", "grey"),
        3: Structure("CSF", "csf"), 4: Structure("Ventricles", "ventricle"), 5: Structure("Tumor", "tumor"),
    },
    # BraTS: 4 is enhancing tumor until 2022, 3 from 2023 on
    "brats": {
        0: BACKGROUND, 1: Structure("Necrotic core", "necrosis"), 2: Structure("Edema", "edema"),
        3: Structure("Enhancing tumor", "tumor"), 4: Structure("Enhancing tumor", "tumor"),
    },
    # BraTS 2024 post-treatment and UCSF-ALPTDG: NETC, SNFH, ET, RC
    "brats2024": {
        0: BACKGROUND, 1: Structure("Non-enhancing tumor core", "necrosis"),
        2: Structure("FLAIR hyperintensity", "edema"), 3: Structure("Enhancing tumor", "tumor"),
        4: Structure("Resection cavity", "cavity"),
    },
    "synthseg": _freesurfer(),
    "fast": {
        0: BACKGROUND, 1: Structure("CSF", "csf"), 2: Structure("Grey matter", "grey"),
        3: Structure("White matter", "white"),
    },
}
NUMBERINGS["freesurfer"] = NUMBERINGS["synthseg"]
DEFAULT_NUMBERING = "anatomydt"

# The first pattern that is found in the name (lower case, words separated by one blank) decides, so
# what contains another word stands before it: "peritumoral edema" before "tumor", "white matter
# lesion" before "lesion", "cerebellum white matter" before "cerebellum".
_NAME_RULES = tuple((re.compile(pattern), role) for pattern, role in (
    (r"^(back ?ground|air|unknown|outside|exterior)$", "background"),
    (r"\b(resection|resected|surgical|operative|tumou?r|postoperative|postop) (cavity|bed)\b|^(cavity|rc|resection)$", "cavity"),
    (r"necro|\bnetc\b|\bncr\b|\bnon ?enhancing\b.*\bcore\b|\b(treated|dead) tumou?r\b", "necrosis"),
    (r"o?edema|\bed\b|\bsnfh\b|\bflair hyperintens", "edema"),
    (r"\bwhite matter (lesion|hypo|hyper)|\bwmh\b", "white"),
    (r"\bfalx\b|\btentorium\b|\bdura\b|\bskull\b|\bcrani(um|al bone)\b|\bcalvari|\bbones?\b|\bmeninx\b|\bmeninges\b", "barrier"),
    (r"tumou?r|gli(oma|oblastoma|osarcoma)|\bgbm\b|cytoma\b|\bmetasta|mening(e)?ioma|sarcoma|carcinoma|lymphoma|adenoma|schwannoma"
     r"|\bcancer|neoplas|\bgtv\w*|\blesions?\b|\bmass(es)?\b|\bet\b|\benhancing\b", "tumor"),
    (r"\b(heart|cardiac|myocard\w*|atrial|atrium)\b", "organ"),
    (r"\bvent(ricle|ricles|ricular)\b|\blat(eral)? vent|\binf lat vent\b|\bchoroid plexus\b|\bcavum septum\b", "ventricle"),
    (r"\bcsf\b|cerebro ?spinal|\bliquor\b|subarachnoid|\bcisterns?\b|\bsulc(us|i|al)\b", "csf"),
    (r"\bvessels?\b|\barter(y|ies|ial)\b|\bveins?\b|\bvenous\b|\bvascular\b|\baorta\b|\bsinus(es)?\b", "vessel"),
    (r"\bwhite\b|\bwm\b|brain ?stem|corpus callosum|\bfornix\b|\bpons\b|\bmedulla\b|\bmid ?brain\b|\b(internal|external) capsule\b"
     r"|\btracts?\b|\boptic (chiasm|nerve)|\bcorona radiata\b", "white"),
    (r"\bgr[ea]y\b|\bd?gm\b|cort(ex|ical)|\bctx\b|thalam|\bcaudate\b|\bputamen\b|pallid|hippocamp|amygdal|accumbens"
     r"|\bnucle(us|i)\b|basal ganglia|\bventral ?dc\b|\bgyr(us|i)\b|\binsula\b|cerebell|\bstriatum\b", "grey"),
    (r"\bbrain\b|parenchyma|\bcerebrum\b|\borgan\b|\bhealthy\b|\bnormal\b|\btissue\b|\bliver\b|\bkidneys?\b|\blungs?\b|\bbreast\b"
     r"|\bprostate\b|\bpancreas\b|\bspleen\b|\bmuscles?\b|\bskin\b|\bfat\b|\bstomach\b|\bbladder\b", "organ"),
))

# SNOMED CT codes that Slicer's and DICOM's terminologies use for segments.
_CODES = {
    "4147007": "tumor",       # Mass
    "86049000": "tumor",      # Neoplasm, primary
    "14799000": "tumor",      # Neoplasm, secondary
    "108369006": "tumor",     # Neoplasm
    "52988006": "tumor",      # Lesion
    "6574001": "necrosis",    # Necrosis
    "79654002": "edema",      # Edema
    "12738006": "organ",      # Brain
    "66720007": "ventricle",  # Lateral ventricle
    "49841001": "ventricle",  # Third ventricle
    "35918002": "ventricle",  # Fourth ventricle
    "65216001": "csf",        # Cerebrospinal fluid
    "15926001": "white",      # Brainstem
    "113305005": "grey",      # Cerebellum
    "42695009": "grey",       # Thalamus
}
# "Tissue" (85756007) is what Slicer gives a segment that nobody has described: it says nothing.
_SAYS_NOTHING = {"85756007"}


def role_of_name(name: str) -> str | None:
    """The role that a structure's name tells, None where it tells nothing."""
    words = " ".join(re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))).lower()
    return next((role for pattern, role in _NAME_RULES if pattern.search(words)), None)


def role_of_terminology(entry: str) -> str | None:
    """The role that a Slicer terminology entry tells (context~category~type~modifier~...), None where it tells nothing."""
    fields = entry.split("~")
    for field in fields[3:4] + fields[2:3] + fields[1:2]:    # modifier ("Necrotic"), then type, then category
        scheme_code_meaning = field.split("^")
        if len(scheme_code_meaning) != 3 or scheme_code_meaning[1] in _SAYS_NOTHING:
            continue
        role = _CODES.get(scheme_code_meaning[1]) or role_of_name(scheme_code_meaning[2])
        if role:
            return role
    return None


def read_table(text: str, source: str = "the label table") -> dict[int, Structure]:
    """A LABELS.json: {"1": "white", "2": "Edema", "3": {"name": "Core", "role": "tumor", "color": [1, 0, 0]}}.

    A bare text is a role or a name that tells one. Raises PlanError with one sentence.
    """
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except PlanError:
        raise
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{source} is not JSON: {error}") from None
    if not isinstance(document, dict) or not document:
        raise PlanError(f'{source} must be a JSON object such as {{"1": "white", "5": {{"name": "Tumor", "role": "tumor"}}}}')
    table = {}
    for key, entry in document.items():
        if not re.fullmatch(r"-?[0-9]{1,10}", key):
            raise PlanError(f'{source} has the key "{key[:40]}"; each key must be a label value such as "1"')
        if int(key) in table:
            raise PlanError(f"{source} names the label {int(key)} twice")
        table[int(key)] = _entry(int(key), entry, f"label {int(key)} of {source}", document)
    names = [s.name.casefold() for s in table.values()]
    for structure in table.values():
        if names.count(structure.name.casefold()) > 1:
            raise PlanError(f"{source} gives the name '{structure.name}' to two labels; give each a name of its own")
    return table


def _entry(value: int, entry, what: str, document: Mapping) -> Structure:
    roles = ", ".join(ROLES)
    if isinstance(entry, str):
        if entry in ROLES:
            several = sum(other == entry for other in document.values()) > 1
            return Structure(_DEFAULT_NAMES[entry] + (f" {value}" if several else ""), entry)
        entry = {"name": entry}
    if not isinstance(entry, dict):
        raise PlanError(f'{what} must be a role or an object with "name" and "role", not {str(entry)[:40]!r}')
    for key in entry:
        if key not in ("name", "role", "color", "terminology"):
            raise PlanError(f'{what} has the unknown key "{key[:40]}"; known keys are name, role, color, terminology')
    name, role = entry.get("name"), entry.get("role")
    if role is not None and (not isinstance(role, str) or role not in ROLES):
        raise PlanError(f"{what} has the role {str(role)[:40]!r}; write one of {roles}")
    if name is None and role is None:
        raise PlanError(f'{what} needs a "name" or a "role"')
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise PlanError(f"{what}: the name must be a non-empty text")
    if role is None:
        role = role_of_name(name)
        if role is None:
            raise PlanError(f"{what}: the name '{name[:40]}' does not tell its role; add \"role\", one of {roles}")
    structure = Structure(name or f"{_DEFAULT_NAMES[role]} {value}", role, entry.get("color"), entry.get("terminology"))
    checked = Tissue(structure.name, role, color=structure.color, terminology=structure.terminology)
    return Structure(structure.name, role, checked.color, checked.terminology)


def _unique(pairs):
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise PlanError(f'the key "{key[:40]}" stands twice in the label table')
    return dict(pairs)


def structure_of_segment(name: str, color=None, terminology: str | None = None) -> Structure | None:
    """What a named segment stands for; its name decides before its terminology. None where neither tells."""
    role = role_of_name(name) or (role_of_terminology(terminology) if terminology else None)
    return Structure(name, role, color, terminology) if role else None


def structures(
    values: Iterable[int],
    table: Mapping[int, Structure] | None = None,
    segments: Mapping[int, tuple] | None = None,
    source: str = "the segmentation",
    needs_host: bool = True,
    remedy: str = "--labels",
) -> dict[int, Structure]:
    """Every label value found in a map -> what it stands for; value 0 included.

    values: the values that occur
    table: a numbering or a read_table(); it rules where it is given
    segments: label value -> (name, colour, terminology) as the file names them; used without a table
    needs_host: without any tissue that a tumor can grow into, everything outside the labels becomes
        one, `HOST` (a tumor segmentation without anatomy)
    remedy: what a refusal asks the user to give
    Names come back unique. Raises PlanError naming the values that the table lacks.
    """
    values = sorted({int(v) for v in values} - {0})
    if table is None and not segments:
        table = NUMBERINGS[DEFAULT_NUMBERING]
    found = {0: (table or {}).get(0, BACKGROUND)}
    if table is not None:
        missing = [v for v in values if v not in table]
        if missing:
            raise PlanError(_not_in_table(missing, values, table, source, remedy))
        for value in values:
            own = (segments or {}).get(value, (None, None, None))
            entry = table[value]
            found[value] = Structure(entry.name, entry.role, entry.color or own[1], entry.terminology or own[2])
    else:
        missing = [v for v in values if v not in segments]
        if missing:
            raise PlanError(f"{source} holds the label {_listed(missing)}, which no segment of it names; give {remedy}")
        for value in values:
            structure = structure_of_segment(*segments[value])
            if structure is None:
                raise PlanError(
                    f"the segment '{segments[value][0]}' of {source} does not tell which tissue it is; rename it "
                    f"(for example White matter, Ventricles, Tumor) or give {remedy}"
                )
            found[value] = structure
    if needs_host and found[0].role == "background" and not any(s.role in ("white", "grey", "organ") for s in found.values()):
        found[0] = HOST
    return _with_unique_names(found)


def _not_in_table(missing, values, table, source, remedy) -> str:
    known = ", ".join(str(v) for v in sorted(table) if v)
    fitting = [n for n, t in NUMBERINGS.items() if n != "freesurfer" and all(v in t for v in values)]
    hint = f" (all its labels are in the numbering {' and '.join(fitting)})" if fitting else ""
    known = known if len(known) < 60 else known[:56] + " ..."
    return f"{source} holds the label {_listed(missing)}, which is not in the label table ({known}); give {remedy}{hint}"


def _listed(values) -> str:
    shown = ", ".join(str(v) for v in values[:8])
    return shown + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def _with_unique_names(found: dict[int, Structure]) -> dict[int, Structure]:
    unique, taken = {}, set()
    for value, s in found.items():
        name, n = s.name, 2
        while name.casefold() in taken:
            name, n = f"{s.name} {n}", n + 1
        taken.add(name.casefold())
        unique[value] = Structure(name, s.role, s.color, s.terminology)
    return unique


def rank(role: str) -> int:
    """What is laid over what where segments overlap: the higher rank on top, so that a core shows inside a tumor."""
    return ("background", "organ", "white", "grey", "csf", "ventricle", "vessel", "barrier", "edema", "tumor", "necrosis", "cavity").index(role)


def overlaid(
    below: Mapping[int, Structure], above: Mapping[int, Structure]
) -> tuple[dict[int, Structure], dict[int, int], dict[int, int]]:
    """Two maps in one numbering: (code -> structure, value below -> code, value above -> code).

    Code 0 is the background of both; a structure that both have (same name and role) has one code.
    """
    codes = {0: below.get(0, BACKGROUND)}
    numbers = []
    for found in (below, above):
        number = {0: 0}
        for value, s in sorted(found.items()):
            if value == 0:
                continue
            same = [c for c, t in codes.items() if t.role == s.role and t.name.casefold() == s.name.casefold()]
            number[value] = same[0] if same else len(codes)
            codes.setdefault(number[value], s)
        numbers.append(number)
    return _with_unique_names(codes), numbers[0], numbers[1]


def tissues(found: Mapping[int, Structure], growth: str = presets.DEFAULT_GROWTH) -> tuple[tuple[Tissue, ...], dict[int, int]]:
    """(tissues with the numbers of a growth law, background first; label value -> index into them)."""
    ordered = sorted(found.items())
    made = [presets.tissue(BACKGROUND.name, "background", growth)]
    index = {}
    peers: dict[str, int] = {}
    for value, s in ordered:
        if s.role == "background" and (value == 0 or s.name.casefold() == BACKGROUND.name.casefold()):
            index[value] = 0
            continue
        nth = peers[s.role] = peers.get(s.role, -1) + 1
        given = {"terminology": s.terminology, "color": s.color or _shade(presets.ROLE_COLORS[s.role], nth)}
        index[value] = len(made)
        made.append(presets.tissue(s.name, s.role, growth, **given))
    return tuple(made), index


def _shade(color, nth: int) -> tuple[float, float, float]:
    """The role's colour for its first structure; nearby shades for the others, so that neighbours can be told apart."""
    if nth == 0:
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*color)
    turn = (nth * 0.618034) % 1.0 - 0.5      # the golden ratio spreads any number of shades evenly
    shade = colorsys.hls_to_rgb((hue + 0.06 * turn) % 1.0, min(0.95, max(0.15, lightness * (1 + 0.24 * turn))), saturation)
    return tuple(round(c, 4) for c in shade)
