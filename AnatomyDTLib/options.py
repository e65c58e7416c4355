"""The options of every verb of the command line. No torch, no numpy: `--help` comes at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from . import __version__, labelling, presets


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parser(run: Mapping[str, Callable]) -> argparse.ArgumentParser:
    """run: the function of each verb, called with its parsed arguments."""
    made = _Parser(prog="anatomydt", description="Forecast a patient's anatomy and tumor. Research use, not a medical device.")
    made.add_argument("--version", action="version", version=f"anatomydt {__version__}")
    verbs = made.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    numberings = ", ".join(labelling.NUMBERINGS)
    files = ".nii, .nii.gz, .nrrd, .seg.nrrd, .mha or .mhd"

    def labels(to):
        to.add_argument("--labels", metavar="NAME_OR_FILE", help=f"what the label values mean: {numberings}, or a JSON file")
        to.add_argument("--anatomy", metavar="FILE", help="label map of the anatomy that lies under the segmentation, e.g. from SynthSeg")
        to.add_argument("--anatomy-labels", metavar="NAME_OR_FILE", help="what its label values mean (default: its segment names, else synthseg)")

    def treatment(to, default):
        to.add_argument("--preset", choices=presets.REGIMES, default=default, help="treatment (default: none)")
        to.add_argument("--start-day", type=float, metavar="DAY", help="day on which it starts (default: 0)")
        to.add_argument("--growth", choices=tuple(presets.GROWTH_LAWS), help=f"growth law (default: {presets.DEFAULT_GROWTH})")
        to.add_argument("--mass-effect", type=float, metavar="F", help="fraction of the growth that pushes tissue aside (default: 0; slow)")
        to.add_argument("--days", type=float, nargs="+", metavar="DAY", help="days to report (default: 30 60 90)")

    def images(to):
        to.add_argument("--image", metavar="FILE", action="append", default=[],
                        help="an image that the weights were trained with, on the voxels of the segmentation; one --image for each, in the order of training")

    verb = verbs.add_parser("forecast", help="forecast a segmentation", description="Forecast a segmentation and write the results to a folder.")
    verb.add_argument("segmentation", metavar="SEGMENTATION", help=files)
    verb.add_argument("--plan", metavar="PLAN.json", help="tissues, treatments and days; see `anatomydt plan`")
    verb.add_argument("--out", metavar="DIR", required=True, help="folder for the results")
    labels(verb)
    treatment(verb, None)
    verb.add_argument("--weights", metavar="FILE", help="weights of a trained twin or growth network: a file (.safetensors), or glioma-sim")
    images(verb)
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.add_argument("--probabilities", action="store_true", help="also write the tumor's probability of each day")
    verb.set_defaults(run=run["forecast"])

    verb = verbs.add_parser("plan", help="write a plan to start from", description="Write a plan to start from.")
    verb.add_argument("--segmentation", metavar="FILE", help="take the tissues from this file")
    labels(verb)
    treatment(verb, "none")
    verb.add_argument("--out", metavar="FILE", help="where to write it (default: the terminal)")
    verb.set_defaults(run=run["plan"])

    verb = verbs.add_parser("compare", help="compare plans for one patient", description="Compare plans for one patient and write the results to a folder.")
    verb.add_argument("segmentation", metavar="SEGMENTATION", help=files)
    verb.add_argument("--plans", metavar="PLAN.json", nargs="+", required=True, help="plans to compare; the maps show how each differs from the first")
    verb.add_argument("--twin", metavar="TWIN.json", help="this patient's calibrated parameters; without it the plans' own, and no uncertainty")
    verb.add_argument("--members", type=int, metavar="N", help="draws of the twin's parameters (default: 20)")
    verb.add_argument("--seed", type=int, metavar="N", help="of the draws (default: 0)")
    verb.add_argument("--out", metavar="DIR", required=True, help="folder for the results")
    labels(verb)
    verb.add_argument("--progression-factor", type=float, metavar="F", help="progression is F times the smallest volume (default: 2)")
    verb.add_argument("--measurable-ml", type=float, metavar="ML", help="smallest volume or new focus that counts as progression (default: 0.52)")
    verb.add_argument("--recurrence", metavar="FILE", help="a follow-up's segmentation: how much of its tumor radiotherapy margins cover")
    verb.add_argument("--recurrence-labels", metavar="NAME_OR_FILE", help="what its label values mean (default: as --labels)")
    verb.add_argument("--recurrence-day", type=float, metavar="DAY", help="day of the follow-up, one that a plan reports (default: the last)")
    verb.add_argument("--margin-mm", type=float, metavar="MM", help="uniform margin around the tumor (default: 15)")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.set_defaults(run=run["compare"])

    verb = verbs.add_parser("calibrate", help="fit a patient's parameters to visits", description="Fit the plan's parameters to a patient's visits, or update a stored twin.")
    verb.add_argument("baseline", metavar="BASELINE", help="segmentation of day 0")
    verb.add_argument("followups", metavar="FOLLOWUP@DAY", nargs="+", help="later segmentations with their days after the baseline, in order")
    verb.add_argument("--plan", metavar="PLAN.json", help="tissues, and the treatments given between the visits")
    verb.add_argument("--out", metavar="TWIN.json", required=True, help="where to write the twin")
    verb.add_argument("--update", metavar="TWIN.json", help="a twin of the same baseline: the follow-ups are new to it, its fit is the prior")
    verb.add_argument("--parameters", nargs="+", metavar="NAME", help="what to fit (default: diffusivity, growth, and the sensitivities to the plan's treatments)")
    verb.add_argument("--bounds", nargs="+", metavar="NAME=LOW:HIGH", help="bounds of parameters, in their units")
    verb.add_argument("--probability", nargs="+", metavar="FILE@DAY", help="probability maps of the tumor, fitted in place of that day's labels")
    verb.add_argument("--cellularity", nargs="+", metavar="FILE@DAY", help="maps of the tumor's density, 0 to 1, fitted in place of that day's labels")
    verb.add_argument("--weights", metavar="FILE", help="weights of a growth network (.safetensors), for --refine-network")
    images(verb)
    verb.add_argument("--refine-network", action="store_true", help="also refine the last layer of --weights for this patient, beside the twin")
    verb.add_argument("--resample", action="store_true", help="bring follow-ups of another geometry onto the baseline's voxels")
    verb.add_argument("--starts", type=int, default=3, metavar="N", help="starting points of the search (default: 3)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the starting points (default: 0)")
    labels(verb)
    verb.set_defaults(run=run["calibrate"])

    def data(to):
        to.add_argument("--cases", type=int, metavar="N", help="how many cases to generate (default: 100, of brains 40)")
        to.add_argument("--size", type=int, nargs="+", metavar="N",
                        help="voxels along each edge of a generated case, one number or one for each of two or three axes (default: 96, of brains 48)")
        to.add_argument("--noise", type=float, metavar="MM", help="how far an observer's borders stray in generated cases (default: 0)")
        to.add_argument("--brains", metavar="FOLDER", help="label maps of healthy brains, for the dataset brains")
        to.add_argument("--spacing", type=float, nargs="+", metavar="MM", help="voxel edges that a folder's cases are brought to: one, or z y x")

    verb = verbs.add_parser("benchmark", help="compare the learned twin with other methods", description="Train and score every method on the same cases, folds and budget.")
    verb.add_argument("dataset", metavar="DATASET", help="voronoi, vessel, brains, or a folder of cases")
    verb.add_argument("--out", metavar="DIR", required=True, help="folder for tables and figures, and for what the same command goes on from")
    verb.add_argument("--methods", nargs="+", metavar="NAME", help="rows of the table (default: all)")
    studies = ("methods", "ablation", "data", "extrapolation", "visits", "sensitivity")
    verb.add_argument("--study", nargs="+", choices=studies, help="what to run (default: methods)")
    verb.add_argument("--folds", type=int, metavar="N", help="parts of the cross-validation (default: 5)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the data, the folds and the training (default: 0)")
    data(verb)
    verb.add_argument("--seconds", type=float, metavar="S", help="CPU seconds of training per method and fold (default: 120)")
    verb.add_argument("--steps", type=int, metavar="N", help="longest training in steps of 8 cases, in place of seconds or beside them")
    verb.add_argument("--trials", type=int, metavar="N", help="settings that are tried for each method (default: 4)")
    verb.add_argument("--processes", type=int, default=2, metavar="N", help="jobs side by side, one thread each (default: 2)")
    verb.add_argument("--quick", action="store_true", help="every row in ten minutes: 40 cases, 2 folds, short training")
    verb.set_defaults(run=run["benchmark"])

    verb = verbs.add_parser("train", help="train the learned twin", description="Train the learned twin on a dataset; under torchrun on several processes.")
    verb.add_argument("dataset", metavar="DATASET", help="voronoi, vessel, brains, or a folder of cases")
    verb.add_argument("--out", metavar="DIR", required=True, help="folder for the weights, the checkpoint and the curves")
    data(verb)
    verb.add_argument("--steps", type=int, metavar="N", help="longest training (default: 400)")
    verb.add_argument("--batch", type=int, metavar="N", help="cases per step (default: as many as have a million voxels, at most 8)")
    verb.add_argument("--rate", type=float, metavar="R", help="learning rate (default: 0.003)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the data, the split and the training (default: 0)")
    parts = ("diffusion", "cross_diffusion", "growth_law", "treatment", "creep", "network", "topology")
    verb.add_argument("--without", nargs="+", choices=parts, help="parts of the twin or of its loss to leave out")
    verb.add_argument("--resume", action="store_true", help="go on with the training in the folder")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    verb.set_defaults(run=run["train"])

    verb = verbs.add_parser("bench", help="measure speed and accuracy", description="Measure speed and accuracy on the reference problems.")
    verb.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    verb.set_defaults(run=run["bench"])
    return made
