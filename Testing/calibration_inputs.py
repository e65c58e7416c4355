"""What is fitted in the tests of calibration: plans with cross-diffusion, courses of treatment, names of parameters."""

import dataclasses

from calibration_cases import LATER_DRUG, RADIATION

from AnatomyDTLib.plan import Chemotherapy, CrossDiffusion, Radiotherapy, Surgery

TREATED = (RADIATION, LATER_DRUG)
EVERYTHING = (
    Surgery(12.0, region="cut"),
    Radiotherapy(15.0, 6),
    Chemotherapy("temozolomide", (16.0, 17.0, 18.0, 25.0), 0.8, 0.075),
    Chemotherapy("other", (20.0, 40.0), 0.1, 3.0),
    Chemotherapy("other", (22.0, 23.0), 0.1, 2.0, 0.5),
)
TINY = (8, 20, 18)
# So long that the tail ends outside of TINY: where it is cut off, a tail has no derivative.
TAIL_MM = 4.0
CHI = "chi_mm2_per_day:Tumor/Grey matter"


def with_chi(given, chi=-0.05):
    term = CrossDiffusion("Tumor", "Grey matter", chi)
    return dataclasses.replace(given, anatomy=dataclasses.replace(given.anatomy, cross_diffusion=(term,)))
