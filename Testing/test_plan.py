"""The plan: known answers, round trip, every refusal, and a fuzz of its reader."""

import copy
import json
import math
import random

import pytest

from AnatomyDTLib import presets
from AnatomyDTLib.plan import (
    ROLES, Anatomy, Chemotherapy, CrossDiffusion, Plan, PlanError, Radiotherapy, Surgery, Tissue, kind_of,
)


def brain(*more):
    return Anatomy((
        presets.tissue("Background", "background"), presets.tissue("White matter", "white"),
        presets.tissue("Grey matter", "grey"), presets.tissue("Tumor", "tumor"),
        presets.tissue("Edema", "edema"), presets.tissue("Cavity", "cavity"), presets.tissue("Necrosis", "necrosis"), *more,
    ))


def full_plan():
    anatomy = Anatomy(brain().tissues, (CrossDiffusion("White matter", "Tumor", -0.05),))
    treatments = (
        Surgery(2, region="resection.nrrd", margin_mm=3.0, residual_fraction=0.02),
        Radiotherapy(28, 30, 2.0, region="PTV"),
        Radiotherapy(80.5, 3, None, weekdays_only=False, start_weekday="sunday", dose_map="dose.nrrd"),
        Chemotherapy("temozolomide", (28, 29.5), 0.35, 0.075, (0.375, 1.0)),
    )
    return Plan(anatomy, treatments, (30, 60.25, 100), infiltration_mm=2.3, interface_mm=0.5, mass_effect=0.4, step_days=0.5)


def document(**changes):
    made = json.loads(full_plan().to_json())
    made.update(changes)
    return made


def refusal(made) -> str:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(made if isinstance(made, str) else json.dumps(made))
    text = str(caught.value)
    assert text.strip() and "\n" not in text
    return text


# ---- known answers


def test_fractions_fall_on_weekdays():
    assert Radiotherapy(0, 6).event_days() == (0, 1, 2, 3, 4, 7)
    assert Radiotherapy(10, 3, start_weekday="thursday").event_days() == (10, 11, 14)
    assert Radiotherapy(10.5, 3, weekdays_only=False, start_weekday="saturday").event_days() == (10.5, 11.5, 12.5)
    assert Radiotherapy(0, 30).event_days()[-1] == 39          # six weeks less the last weekend


def test_stupp_protocol_by_hand():
    course, drug = presets.stupp(0, 400)
    assert (course.fractions, course.dose_gy, course.event_days()[-1]) == (30, 2.0, 39)
    assert len(drug.days) == 40 + 6 * 5
    assert drug.days[:3] == (0, 1, 2) and drug.days[39] == 39 and drug.days[40:45] == (68, 69, 70, 71, 72)
    assert drug.days[-1] == 68 + 5 * 28 + 4
    assert drug.doses[0] == 0.375 and drug.doses[40] == 0.75 and drug.doses[45] == 1.0


def test_a_regime_is_cut_at_the_horizon():
    course, drug = presets.stupp(0, 10)
    assert course.event_days() == (0, 1, 2, 3, 4, 7, 8, 9, 10) and drug.days[-1] == 10
    assert presets.regime("stupp", 5, start_day=6) == ()
    for name in presets.REGIMES:
        for last in (1, 27.5, 28, 39, 67, 68, 400):
            treatments = presets.regime(name, last)
            Plan(presets.completed(brain().tissues, treatments), treatments, (last,))


def test_regimes_hold_what_their_names_say():
    kinds = {name: [kind_of(t) for t in presets.regime(name, 200)] for name in presets.REGIMES}
    assert kinds == {
        "none": [], "surgery": ["surgery"], "radiotherapy": ["radiotherapy"], "temozolomide": ["chemotherapy"],
        "stupp": ["radiotherapy", "chemotherapy"], "surgery+stupp": ["surgery", "radiotherapy", "chemotherapy"],
    }
    assert presets.regime("surgery+stupp", 200, 3)[0].day == 3
    assert presets.regime("surgery+stupp", 200, 3)[1].start_day == 3 + presets.SURGERY_TO_RADIOTHERAPY_DAYS


def test_event_days_are_sorted_and_single():
    plan = Plan(brain(), (Chemotherapy("x", (5, 1), 0.1, 1), Surgery(5), Radiotherapy(1, 2)), (9,))
    assert plan.event_days() == (1, 2, 5)
    assert plan.reported_days == (0, 9)


def test_maps_are_named_once():
    assert full_plan().map_names() == ("resection.nrrd", "PTV", "dose.nrrd")


def test_doses():
    assert Chemotherapy("x", (1, 2, 3), 0.1, 1).doses == (1.0, 1.0, 1.0)
    assert Chemotherapy("x", (1, 2), 0.1, 1, [0.5, 1]).doses == (0.5, 1.0)


def test_what_gives_way_to_what():
    anatomy = brain()
    white, grey, tumor, edema, cavity, necrosis = range(1, 7)
    assert anatomy.tumors == (tumor, edema)
    assert anatomy.yields(tumor) == (white, grey, edema, necrosis)
    assert anatomy.yields(edema) == (white, grey, necrosis)
    assert anatomy.dead_class(tumor) == necrosis and anatomy.dead_class(necrosis) == cavity
    assert Anatomy(anatomy.tissues[:4]).dead_class(3) is None
    named = Anatomy((*anatomy.tissues[:3], Tissue("T", "tumor", dies_to="Grey matter")))
    assert named.dead_class(3) == 2


def test_growth_laws_keep_their_published_numbers():
    law = presets.GROWTH_LAWS["swanson-high-grade"]
    assert (law.white_mm2_per_day, law.grey_mm2_per_day, law.proliferation_per_day) == (0.65, 0.13, 0.012)
    law = presets.GROWTH_LAWS["lipkova"]
    assert (law.white_mm2_per_day, law.grey_mm2_per_day, law.proliferation_per_day) == (0.13, 0.013, 0.025)
    front_mm_per_year = 2 * math.sqrt(0.13 * 0.025) * 365        # Fisher 1937; method: 42 mm/year
    assert round(front_mm_per_year) == 42
    for law in presets.GROWTH_LAWS.values():
        assert law.source and law.alpha_per_gy / law.beta_per_gy2 == pytest.approx(10)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_makes_a_tissue(role):
    for law in presets.GROWTH_LAWS:
        made = presets.tissue("x", role, law)
        assert made.color == presets.ROLE_COLORS[role]
        assert (made.growth_per_day > 0) == (made.alpha_per_gy > 0) == made.is_tumor
        if role in ("csf", "ventricle", "vessel", "barrier", "cavity", "background"):
            assert made.diffusivity_mm2_per_day == 0.0


def test_completed_adds_what_treatments_need_once():
    bare = brain().tissues[:4]
    assert presets.completed(bare, ()).names == brain().names[:4]
    both = presets.completed(bare, presets.regime("surgery+stupp", 90))
    assert both.names[4:] == ("Resection cavity", "Treated tumor")
    assert presets.completed(both.tissues, presets.regime("surgery+stupp", 90)) == both
    taken = presets.completed((*bare, presets.tissue("Resection cavity", "csf")), presets.regime("surgery", 9))
    assert taken.names[-1] == "Resection cavity 2"


# ---- round trip


def test_round_trip():
    plan = full_plan()
    again = Plan.from_json(plan.to_json())
    assert again == plan and again.to_json() == plan.to_json()


@pytest.mark.parametrize("name", presets.REGIMES)
def test_round_trip_of_every_regime(name):
    for growth in presets.GROWTH_LAWS:
        treatments = presets.regime(name, 180, 1.5)
        plan = Plan(presets.completed(brain().tissues[:4], treatments, growth), treatments, (180,))
        assert Plan.from_json(plan.to_json()) == plan


def test_round_trip_keeps_names_in_any_script():
    anatomy = Anatomy((Tissue("背景", "background"), Tissue('a "b" \\ \n é', "tumor", terminology="x~y^z|", color=(0.1, 0.2, 0.3))))
    assert Plan.from_json(Plan(anatomy, (), (1,)).to_json()).anatomy == anatomy


def test_the_shortest_plan():
    plan = Plan.from_json('{"anatomydt_plan": 1, "tissues": [{"name": "a", "role": "background"}, {"name": "b", "role": "tumor"}]}')
    assert plan.days == (30, 60, 90) and plan.treatments == () and plan.step_days is None


# ---- refusals: each says what was wrong, and where


TISSUE_REFUSALS = [
    ({"name": ""}, "name"), ({"name": 3}, "name"), ({"role": "brain"}, "role"), ({"role": ["white"]}, "role"), ({"role": {}}, "role"),
    ({"diffusivity_mm2_per_day": -1}, "diffusivity"), ({"diffusivity_mm2_per_day": "fast"}, "diffusivity"),
    ({"growth_per_day": -0.1}, "growth_per_day"), ({"growth_per_day": True}, "growth_per_day"),
    ({"carrying_capacity": 0}, "carrying_capacity"), ({"carrying_capacity": 1.5}, "carrying_capacity"),
    ({"visibility": 0}, "visibility"), ({"visibility": 1}, "visibility"),
    ({"alpha_per_gy": -0.1}, "alpha_per_gy"), ({"beta_per_gy2": -1e-9}, "beta_per_gy2"), ({"gives_way": 1}, "gives_way"),
    ({"dies_to": "nowhere"}, "nowhere"), ({"dies_to": "Tumor"}, "itself"), ({"dies_to": []}, "dies_to"), ({"terminology": 5}, "terminology"),
    ({"color": [1, 2, 0]}, "color"), ({"color": [1, 0]}, "color"), ({"color": "red"}, "color"), ({"colour": [1, 0, 0]}, "colour"),
]


@pytest.mark.parametrize("change, word", TISSUE_REFUSALS)
def test_a_wrong_tissue(change, word):
    made = document()
    made["tissues"][3].update(change)
    assert word in refusal(made)


TREATMENT_REFUSALS = [
    ({"type": "magic"}, "magic"), ({"type": None}, "type"), ({"type": ["surgery"]}, "type"), ({}, "type"),
    ({"type": "surgery"}, "day"), ({"type": "surgery", "day": -1}, "day"), ({"type": "surgery", "day": 101}, "100"),
    ({"type": "surgery", "day": "soon"}, "day"), ({"type": "surgery", "day": 1, "extent": 1.2}, "extent"),
    ({"type": "surgery", "day": 1, "extent": 0.5, "region": "r"}, "region"), ({"type": "surgery", "day": 1, "region": ""}, "region"),
    ({"type": "surgery", "day": 1, "extent": 0.5, "margin_mm": 2}, "margin"), ({"type": "surgery", "day": 1, "margin_mm": -2}, "margin"),
    ({"type": "surgery", "day": 1, "residual_fraction": 2}, "residual"), ({"type": "surgery", "day": 1, "surgeon": "x"}, "surgeon"),
    ({"type": "radiotherapy", "start_day": 0}, "fractions"), ({"type": "radiotherapy", "start_day": 0, "fractions": 0}, "fractions"),
    ({"type": "radiotherapy", "start_day": 0, "fractions": 2.0}, "fractions"), ({"type": "radiotherapy", "start_day": 0, "fractions": 200}, "after"),
    ({"type": "radiotherapy", "start_day": 0, "fractions": 2, "dose_gy": -2}, "dose_gy"),
    ({"type": "radiotherapy", "start_day": 0, "fractions": 2, "dose_gy": None}, "dose"),
    ({"type": "radiotherapy", "start_day": 0, "fractions": 2, "dose_gy": 2, "dose_map": "m"}, "dose"),
    ({"type": "radiotherapy", "start_day": 0, "fractions": 2, "start_weekday": "mon"}, "weekday"),
    ({"type": "radiotherapy", "start_day": 0, "fractions": 2, "start_weekday": "sunday"}, "weekdays"),
    ({"type": "radiotherapy", "start_day": 0, "fractions": 2, "weekdays_only": "yes"}, "weekdays_only"),
    ({"type": "chemotherapy", "drug": "x", "days": [1], "sensitivity_per_day": 0.1}, "half_life_day"),
    ({"type": "chemotherapy", "drug": "", "days": [1], "sensitivity_per_day": 0.1, "half_life_day": 1}, "drug"),
    ({"type": "chemotherapy", "drug": "x", "days": [], "sensitivity_per_day": 0.1, "half_life_day": 1}, "days"),
    ({"type": "chemotherapy", "drug": "x", "days": [-1], "sensitivity_per_day": 0.1, "half_life_day": 1}, "days"),
    ({"type": "chemotherapy", "drug": "x", "days": [1], "sensitivity_per_day": -0.1, "half_life_day": 1}, "sensitivity"),
    ({"type": "chemotherapy", "drug": "x", "days": [1], "sensitivity_per_day": 0.1, "half_life_day": 0}, "half_life_day"),
    ({"type": "chemotherapy", "drug": "x", "days": [1], "sensitivity_per_day": 0.1, "half_life_day": 1, "dose": -1}, "dose"),
    ({"type": "chemotherapy", "drug": "x", "days": [1], "sensitivity_per_day": 0.1, "half_life_day": 1, "dose": [1, 1]}, "doses"),
    ({"type": "chemotherapy", "drug": "x", "days": [1e4], "sensitivity_per_day": 0.1, "half_life_day": 1}, "after"),
]


@pytest.mark.parametrize("treatment, word", TREATMENT_REFUSALS)
def test_a_wrong_treatment(treatment, word):
    assert word in refusal(document(treatments=[treatment]))


PLAN_REFUSALS = [
    ({"days": []}, "days"), ({"days": [0]}, "days"), ({"days": [-5]}, "days"), ({"days": [30, 30]}, "ascending"), ({"days": [60, 30]}, "ascending"),
    ({"days": "90"}, "days"), ({"days": [True]}, "days"), ({"mass_effect": 2}, "mass_effect"), ({"infiltration_mm": -1}, "infiltration_mm"),
    ({"interface_mm": None}, "interface_mm"), ({"step_days": 0}, "step_days"), ({"step_days": -1}, "step_days"),
    ({"tissues": []}, "tissues"), ({"tissues": {}}, "tissues"), ({"tissues": [1]}, "tissues"), ({"tissues": None}, "tissues"),
    ({"treatments": {}}, "treatments"), ({"cross_diffusion": [[]]}, "cross_diffusion"),
    ({"cross_diffusion": [{"tissue": "Tumor", "along": "Tumor", "chi_mm2_per_day": 1}]}, "itself"),
    ({"cross_diffusion": [{"tissue": "Tumor", "along": "Bone", "chi_mm2_per_day": 1}]}, "Bone"),
    ({"cross_diffusion": [{"tissue": "Tumor", "along": "Edema"}]}, "chi_mm2_per_day"),
    ({"anatomydt_plan": 2}, "version"), ({"anatomydt_plan": True}, "version"), ({"anatomydt_plan": "1"}, "version"),
    ({"anatomy": []}, "anatomy"), ({"dose": 3}, "dose"),
]


@pytest.mark.parametrize("change, word", PLAN_REFUSALS)
def test_a_wrong_plan(change, word):
    assert word in refusal(document(**change))


def test_a_tissue_named_twice():
    made = document()
    made["tissues"].append(dict(made["tissues"][3]))
    assert "twice" in refusal(made)


def test_a_key_given_twice():
    assert "twice" in refusal('{"anatomydt_plan": 1, "days": [1], "days": [2]}')


def test_too_many_tissues():
    made = document(tissues=[{"name": f"t{i}", "role": "white"} for i in range(256)])
    assert "255" in refusal(made)


@pytest.mark.parametrize("text", [
    "", " ", "{", "null", "[]", "3", '"x"', "{}", '{"tissues": []}', "[" * 100000, '{"a":' * 100000, "\x00", "\ufeff{}",
    '{"anatomydt_plan": 1, "days": [NaN]}', "1" * 100000, '{"anatomydt_plan": ' + "9" * 5000 + "}",
])
def test_text_that_is_no_plan(text):
    refusal(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
def test_numbers_that_are_not_finite(number):
    text = full_plan().to_json().replace('"mass_effect": 0.4', f'"mass_effect": {number}')
    assert "mass_effect" in refusal(text)


def test_an_unknown_regime_or_law():
    with pytest.raises(PlanError, match="stupp"):
        presets.regime("homeopathy", 90)
    with pytest.raises(PlanError, match="lipkova"):
        presets.tissue("x", "tumor", "gompertz")


def test_an_endless_course_is_refused_at_once():
    refusal(document(treatments=[{"type": "radiotherapy", "start_day": 0, "fractions": 10**9}]))


# ---- fuzz: whatever is done to a plan, only PlanError comes out


ODD_VALUES = [
    None, True, False, 0, -1, 1, 1.5, 1e308, -1e308, 10**400, "", "x", "Tumor", "surgery", [], [[]], [None], ["a", 1], {}, {"a": 1},
    {"type": "surgery"}, [1, 2, 3], [float("nan")], float("inf"), "\ud800", "9" * 50,
]


def mutated(node, dice):
    """A copy of a JSON document with one to three random changes."""
    made = json.loads(json.dumps(node))
    for _ in range(dice.randint(1, 3)):
        spot = made
        while True:
            inner = [k for k in (spot if isinstance(spot, dict) else range(len(spot)))
                     if isinstance(spot[k], (dict, list)) and spot[k]]
            if not inner or dice.random() < 0.3:
                break
            spot = spot[dice.choice(inner)]
        keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        key = dice.choice(keys)
        action = dice.random()
        if action < 0.6:
            spot[key] = copy.deepcopy(dice.choice(ODD_VALUES))
        elif action < 0.75:
            del spot[key]
            if not made:
                return made
        elif action < 0.9 and isinstance(spot, dict):
            spot[dice.choice(["name", "day", "days", "type", "extra", "dose", "anatomy", "region"])] = copy.deepcopy(dice.choice(ODD_VALUES))
        elif isinstance(spot, list):
            spot.append(copy.deepcopy(dice.choice(ODD_VALUES + [spot[key]])))
        if not spot:
            return made
    return made


def test_fuzz_of_the_document():
    dice, read, refused = random.Random(20), 0, 0
    original = json.loads(full_plan().to_json())
    for _ in range(4000):
        try:
            plan = Plan.from_json(json.dumps(mutated(original, dice)))
        except PlanError as error:
            refused += 1
            assert str(error)
        else:
            read += 1
            assert Plan.from_json(plan.to_json()) == plan          # what is accepted can be written and read again
    assert read > 100 and refused > 1000


def test_fuzz_of_the_text():
    dice = random.Random(21)
    original = full_plan().to_json()
    for _ in range(2000):
        text = list(original)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(text))
            action = dice.random()
            if action < 0.4:
                text[at] = dice.choice('{}[]",:0123456789.eE+-\\ \n\x00ntf\u2028é')
            elif action < 0.6:
                del text[at:at + dice.randint(1, 40)]
            elif action < 0.8:
                text[at:at] = text[max(0, at - dice.randint(1, 60)):at]
            else:
                text = text[:at + 1]
        try:
            plan = Plan.from_json("".join(text))
        except PlanError:
            continue
        assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("change, word", [
    ({"days": [1, 1.0000000001]}, "apart"),
    ({"days": [5e-7]}, "apart"),
    ({"days": [1e300]}, "36525"),
    ({"step_days": 1e-12}, "step_days"),
    ({"days": [36000.0], "step_days": 0.01}, "steps"),
    ({"infiltration_mm": 1e300}, "infiltration_mm"),
    ({"tissues": [{"name": "T", "role": "tumor"}, {"name": "W", "role": "white"}]}, "first tissue"),
    ({"tissues": [{"name": "B", "role": "background"}, {"name": "T", "role": "tumor", "growth_per_day": 1e6}]}, "growth_per_day"),
    ({"tissues": [{"name": "B", "role": "background"}, {"name": "W", "role": "white", "diffusivity_mm2_per_day": 1e8}]}, "diffusivity"),
    ({"tissues": [{"name": "B", "role": "background"}, {"name": "T", "role": "tumor", "visibility": 1e-300}]}, "visibility"),
    ({"treatments": [{"type": "radiotherapy", "start_day": 0, "fractions": 1, "dose_gy": 1e200}]}, "dose_gy"),
])
def test_numbers_that_would_overflow_or_never_end_are_refused(change, word):
    assert word in refusal(document(**change))


@pytest.mark.parametrize("build", [
    lambda: Plan(brain(), 5), lambda: Plan(brain(), ("x",)), lambda: Plan("x"), lambda: Anatomy(("x", "y")),
])
def test_what_is_no_plan_is_refused_in_python_too(build):
    with pytest.raises(PlanError):
        build()
