"""What the twin learned, beside the generator's numbers: that those mean the same, and the table."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_burden import sizes
from twin_cases import one_case

from AnatomyDTLib.learning import identified
from AnatomyDTLib.learning.batches import grid_of
from AnatomyDTLib.learning.burden import Bounded, BurdenLaw
from AnatomyDTLib.learning.courses import Courses, GrowthLaw
from AnatomyDTLib.learning.gliomas import GliomaSettings
from AnatomyDTLib.learning.twin import AnatomyTwin
from AnatomyDTLib.learning.voronoi import VoronoiSettings, voronoi


def test_the_law_with_the_generators_numbers_gives_the_generators_sizes():
    """Of every course of treatment; nu is brought nearer to Gompertz's than its bounds let it come, where the growth is 6 % slower."""
    dataset, rng = one_case(), np.random.default_rng(4)
    law = BurdenLaw(dataset.anatomy, 2)
    known = identified.truth({"law": dataclasses.asdict(GrowthLaw())}, ())
    assert set(known) == set(BurdenLaw.BOUNDS)
    for name, value in known.items():
        setattr(law, name, Bounded(1e-3, 1e3, value or 2e-3))
    cases, seen = [], []
    for i in range(40):
        days, given = Courses().draw(rng)
        radius = rng.uniform(8, 12)
        seen.append(radius + GrowthLaw().advances(radius, days, given, 2)[0])
        cases.append(dataclasses.replace(one_case(days, given).cases[0], name=str(i)))
    with torch.no_grad():
        found = sizes(law, grid_of(cases, 5.0), torch.tensor(np.array(seen)[:, 0], dtype=torch.float32))[1].numpy()
    wrong = np.log(found / np.array(seen)[:, 1])
    print(f"radii differ by {100 * np.abs(wrong).max():.1f} % at most")
    assert np.abs(wrong).max() < 0.02


def test_speeds_are_ratios_and_the_table_has_the_spread_over_folds():
    dataset = voronoi(2, VoronoiSettings(shape=(24, 24)))
    twin = AnatomyTwin.of(dataset)
    learned = json.loads(json.dumps(twin.physical()))
    found = identified.numbers(learned)
    D = learned["diffusivity_mm2_per_day"]
    assert found["speed: Connective tissue"] == 1 and found["speed: Organ B"] == pytest.approx((D["Organ B"] / D["Connective tissue"]) ** 0.5)
    assert found["alpha_per_gy"] == learned["alpha_per_gy"]
    other = {**learned, "alpha_per_gy": learned["alpha_per_gy"] + 0.02}
    text = identified.table([{"learned": learned}, {"learned": other}], dataset.settings, dataset.anatomy.names)
    row = next(line for line in text.splitlines() if line.startswith("| alpha_per_gy "))
    assert f"{learned['alpha_per_gy'] + 0.01:.3g} ± 0.014" in row and row.rstrip(" |").endswith("0.06")
    assert next(line for line in text.splitlines() if "speed: Organ B" in line).rstrip(" |").endswith("1.3")
    assert identified.truth({"generator": "folder"}, ()) == {} == identified.truth({"law": {"growth_per_day": 1.0}}, ())
    brains = GliomaSettings()
    told = identified.truth(dataclasses.asdict(brains), ())
    assert told["speed: Grey matter"] == brains.speed_grey / brains.speed_white and told["pushed_part"] == brains.push.share
