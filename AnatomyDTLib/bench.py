"""`anatomydt bench`: three problems, process CPU seconds, final sums, beside what the best peers took.

The peers' rows were measured once on one thread of another machine of the same kind; the ratio is a guide, not a race.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

import numpy as np

# process CPU seconds on one thread, and quality, as measured for the project's method notes
PEERS = {
    "reference": (
        ("TumorGrowthToolkit (explicit)", 0.44, "first order"),
        ("TumorTwin (RK4, dt 0.5 d, f32)", 1.34, "mass right to 6e-6"),
        ("PhiFlow (explicit)", 2.1, "mass off by 1.4 %"),
        ("py-pde (explicit)", 6.4, "mass off by 3 %"),
    ),
    "treated": (("TumorTwin (RK4, f32)", 4.3, ""),),
    "brain": (("TumorGrowthToolkit, D 0.65, 100 d", 46.7, "no treatment, one class"),),
}
REFERENCE_SUM = 9898.4450


def reference(step_days: float | None = None) -> dict:
    """64³ voxels of 1 mm, D 0.13 mm²/d, rho 0.05 /d, 100 days from 0.8 exp(−r²/18), no flux; final sum 9898.4450."""
    import torch

    from .physics.equation import CrossDiffusion
    from .physics.stepping import Course, integrate, longest_stable_step

    x = torch.arange(64, dtype=torch.float32) - 32
    r2 = x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2
    tumor = 0.8 * torch.exp(-r2 / 18)
    p = torch.stack((1 - tumor, tumor))[None]
    equation = CrossDiffusion((1.0,) * 3, torch.tensor([0.0, 0.13]), ((), (0,)), rho=torch.tensor([0.0, 0.05]))
    step = step_days or longest_stable_step(equation)
    began = time.process_time()
    with torch.no_grad():
        (final,), ran = integrate(p, equation, Course((100.0,), step), window=False)
    seconds = time.process_time() - began
    total = float(final[:, 1].double().sum())
    return {"problem": "reference", "cpu_seconds": seconds, "sum": total, "steps": ran["steps"],
            "error_percent": 100 * (total / REFERENCE_SUM - 1)}


def treated() -> dict:
    """77x116x36 voxels of 1.5x1.5x3 mm, 225 days, 30 fractions of 2 Gy, 74 doses of temozolomide, one tumor class."""
    import torch

    from .physics.equation import CrossDiffusion
    from .physics.stepping import Course, integrate, longest_stable_step
    from .physics.treatments import Drug, Irradiate
    from .presets import DRUGS, GROWTH_LAWS, stupp

    law, drug = GROWTH_LAWS["lipkova"], DRUGS["temozolomide"]
    course, chemotherapy = stupp(0.0, 225.0)
    axes = [torch.arange(n, dtype=torch.float32) - n // 2 for n in (36, 116, 77)]
    r2 = (3 * axes[0])[:, None, None] ** 2 + (1.5 * axes[1])[None, :, None] ** 2 + (1.5 * axes[2])[None, None, :] ** 2
    tumor = 0.8 * torch.exp(-r2 / 200)
    p = torch.stack((1 - tumor, tumor, torch.zeros_like(tumor)))[None]
    equation = CrossDiffusion(
        (3.0, 1.5, 1.5), torch.tensor([0.0, law.white_mm2_per_day, 0.0]), ((), (0, 2), ()),
        rho=torch.tensor([0.0, law.proliferation_per_day, 0.0]), dead=(-1, 2, -1),
    )
    alpha, beta = torch.tensor([0.0, law.alpha_per_gy, 0.0]), torch.tensor([0.0, law.beta_per_gy2, 0.0])
    fraction = Irradiate(torch.tensor(course.dose_gy), alpha, beta, equation.dead)
    daily = tuple((40.0 + i, 0.375) for i in range(4))  # 44 daily doses and six cycles of five are 74
    given = tuple(sorted((*zip(chemotherapy.days, chemotherapy.doses), *daily)))
    drugs = (Drug(tuple(d for d, _ in given), torch.tensor([x for _, x in given]), torch.tensor(drug.half_life_day),
                  torch.tensor([0.0, drug.sensitivity_per_day, 0.0])),)
    events = tuple((day, fraction) for day in course.event_days())
    began = time.process_time()
    with torch.no_grad():
        (final,), ran = integrate(p, equation, Course((225.0,), longest_stable_step(equation), events, drugs))
    return {"problem": "treated", "cpu_seconds": time.process_time() - began, "sum": float(final[:, 1].double().sum()),
            "steps": ran["steps"], "fractions": len(events), "doses": len(given)}


def brain_phantom(shape=(155, 240, 240)) -> np.ndarray:
    """A folded brain of five tissues and a tumor, 1 mm, label values as in the sample: for timing, not anatomy."""
    z, y, x = (np.arange(n, dtype=np.float32) - n / 2 for n in shape)
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    angle = np.arctan2(y, np.abs(x) + 1e-3)
    radius = np.sqrt((z / 66) ** 2 + (y / 84) ** 2 + (x / 68) ** 2)
    fold = 0.05 * np.sin(11 * angle + z / 6) * np.cos(z / 9)
    labels = np.zeros(shape, np.uint8)
    labels[radius < 1.0] = 3
    labels[radius + fold < 0.94] = 2
    labels[radius + 1.6 * fold < 0.82] = 1
    labels[(radius < 0.97) & (np.abs(x) < 1.5) & (z > -20)] = 3
    labels[((z - 4) / 12) ** 2 + (y / 32) ** 2 + ((np.abs(x) - 12) / 7) ** 2 < 1] = 4
    labels[(((z - 14) / 17) ** 2 + ((y - 6) / 20) ** 2 + ((x - 40) / 15) ** 2 < 1) & (labels == 1)] = 5
    return labels


def brain(days: float = 90.0) -> dict:
    """240x240x155 voxels of 1 mm, six classes, daily radiation and drug for the whole horizon, on one thread."""
    from .engine import forecast
    from .plan import Chemotherapy, Plan, Radiotherapy
    from .presets import DRUGS, completed, tissue

    roles = (("Background", "background"), ("White matter", "white"), ("Grey matter", "grey"), ("CSF", "csf"),
             ("Ventricles", "ventricle"), ("Tumor", "tumor"))
    drug = DRUGS["temozolomide"]
    treatments = (
        Radiotherapy(0.0, int(days), 0.1, weekdays_only=False),
        Chemotherapy(drug.name, tuple(float(d) for d in range(int(days))), drug.sensitivity_per_day, drug.half_life_day, 0.1),
    )
    tissues = [tissue(name, role, "swanson-high-grade") for name, role in roles]
    plan = Plan(completed(tissues, treatments), treatments, days=tuple(range(10, int(days) + 1, 10)))
    labels = brain_phantom()
    began, wall = time.process_time(), time.perf_counter()
    result = forecast(labels, (1.0, 1.0, 1.0), plan, device="cpu")
    row = {"problem": "brain", "cpu_seconds": time.process_time() - began, "wall_seconds": time.perf_counter() - wall,
           "tumor_ml": [round(float(v), 3) for v in result.volume_ml[:, 5]], "steps": result.run["steps"],
           "window": result.run["window"],
           "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9}
    return row


def main(arguments=None) -> int:
    """Runs the problems, prints the table, writes it as JSON when asked to."""
    parser = argparse.ArgumentParser(prog="anatomydt bench", description="Time the solver on three problems.")
    parser.add_argument("--json", metavar="FILE", help="write the rows here as well")
    parser.add_argument("--only", choices=tuple(PEERS), help="run one problem only")
    options = parser.parse_args(arguments)
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    for name, run in (("reference", reference), ("treated", treated), ("brain", brain)):
        if options.only in (None, name):
            if name == "reference":
                run()  # the first call pays for torch's own start-up
            rows.append(run())
            _show(rows[-1])
    torch.set_num_threads(threads)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump({"rows": rows, "peers": PEERS, "torch": torch.__version__}, stream, indent=2)
            stream.write("\n")
    return 0


def _show(row: dict) -> None:
    details = ", ".join(f"{key} {value}" for key, value in row.items() if key not in ("problem", "cpu_seconds"))
    print(f"{row['problem']:10s} AnatomyDT {row['cpu_seconds']:8.2f} CPU s   {details}")
    for peer, seconds, quality in PEERS[row["problem"]]:
        print(f"{'':10s} {peer:34s} {seconds:6.2f} CPU s   {seconds / row['cpu_seconds']:5.1f}x   {quality}")
