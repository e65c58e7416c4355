"""Fitting a tumor model to its visits: Levenberg–Marquardt with exact derivatives, several starts, coarse to fine.

    minimise  F(x) = Σ_visits L(x) / c + ½ (x − m)ᵀ P (x − m)

L is the misfit of a visit (`observations`), m and P mean and precision of the prior. On the coarse grid every start is
followed with a likelihood whose outliers count fully (ε = 0), which draws a far outline in; on the fine grid the
reader's error σ is estimated beside the parameters, from the outlines themselves.

Neighbouring voxels err together, so that the curvature H of L says too much. With G = Σ_blocks g gᵀ, g the gradient of
L over a block of space in all visits, the observations' information is H G⁻¹ H in place of H (the sandwich of Huber
1967 and White 1982, with blocks as in Liang & Zeger 1986), and the posterior's covariance is (H G⁻¹ H + P)⁻¹. A small
tumor has too few blocks to tell G from: it is taken as at least c₀ H, where c₀ is the number of voxels that tell of one
patch of an outline within which a reader's errors go together, c₀ = patch² · 1.8 σ / voxel (1.8 = ∫ φ²/(Φ(1 − Φ)) dt).
c is the mean ratio of the two. How large a patch is, is read off the residuals (`outlines.patch_of`).

The baseline's outline is as uncertain as the others'. A shift of all of it by σ patch/√area is what the prior of the
seed density allows (over the infiltration length), where that is among the parameters. What is wrong with its shape
acts twice, and both are found by drawing the baseline anew with errors ±b of size σ, smooth over a patch, and running
the model from there: the scatter of the gradients is part of G; their mean is a bias, as a rough outline is smoothed by
diffusion and its far tail follows its bumps. Drawn once more the bias is had once more, so that the estimate is moved
back by it (simulation and extrapolation, Cook & Stefanski 1994, in one linear step, by at most one standard error).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .observations import Noise, Visit, misfit, noise_of
from .outlines import outline_errors, patch_of, redrawn, surface_mm2, voxels_of_a_patch
from .parameters import SEED, Parameter

# Smaller expected gains of F end the search; F is a log-likelihood, so that a tenth is a fortieth of a standard error
# squared.
GAIN = 0.05
LARGEST_MOVE = 0.7  # of a coordinate in one iteration: a factor of two
COARSE_TRIES, FINE_TRIES = 10, 12
# The coarse grid is used where it still holds the largest tumor in this many voxels.
COARSE_VOXELS = 60
# The baseline is drawn anew, so many times with an error and with its opposite, where σ is at least this part of a
# voxel's edge.
SHAPE_SIGMA, PAIRS = 0.2, 6
# Of the voxel's edge: what σ is at the start, and at least (a label says which side of the outline a voxel's centre
# lies on).
FIRST_SIGMA, LEAST_SIGMA, LARGEST_SIGMA = 0.5, 0.05, 4.0


@dataclass(frozen=True)
class Settings:
    """How it is fitted.

    starts: how many, the plan's values first, then draws of the prior; seed: of the draws
    odd: ε, part of the voxels that a reader labels for reasons of their own
    block_mm: edge of the blocks of space over which the gradient is summed; patch_mm: edge of a patch of an outline
        within which a reader's errors go together at least
    coarse: whether to begin on voxels of twice the smallest edge
    """

    starts: int = 3
    seed: int = 0
    odd: float = 1e-3
    block_mm: float = 12.0
    patch_mm: float = 8.0
    coarse: bool = True


@dataclass(frozen=True)
class Fit:
    """What was found.

    x: (n,) coordinates; information: (n, n) of the observations, H G⁻¹ H; covariance: of the posterior
    noise: of the outlines; patch_mm: over which it goes together; inflation: c; shares: of every visit on the fine grid; evaluations: runs of the model
    value: F; precision: of the prior, with what the outlines' noise says of the seed density
    """

    x: np.ndarray
    information: np.ndarray
    covariance: np.ndarray
    noise: Noise
    patch_mm: float
    inflation: float
    shares: list
    evaluations: int
    value: float
    starts: tuple
    precision: np.ndarray


def fit(
    model,
    visits: list[Visit],
    parameters: tuple[Parameter, ...],
    mean: np.ndarray,
    precision: np.ndarray,
    visibility: float,
    settings: Settings = Settings(),
    *,
    state: dict | None = None,
    save: Callable[[dict], None] | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Fit:
    """Fits the parameters of a model to visits (ascending days).

    model: `TumorModel`, or what runs like one; mean, precision: of the prior in x; visibility: of the tumor's class
    save: called with a JSON-able state after every iteration; state: goes on from there, to the same result
    Raises InterruptedError when cancelled() says yes.
    """
    return _Search(
        model, visits, parameters, mean, precision, visibility, settings, state, save, progress, cancelled
    ).run()


@dataclass
class _Point:
    x: np.ndarray
    shares: list
    misfits: list
    value: float


class _Search:
    def __init__(
        self, model, visits, parameters, mean, precision, visibility, settings, state, save, progress, cancelled
    ):
        self.model, self.visits, self.parameters, self.settings = model, visits, parameters, settings
        self.mean, self.given, self.visibility = np.asarray(mean, float), np.asarray(precision, float), visibility
        self.low = np.array([p.coordinate(p.low) for p in parameters])
        self.high = np.array([p.coordinate(p.high) for p in parameters])
        self.save, self.progress, self.cancelled = save, progress, cancelled
        edge = 2 * min(h for h, n in zip(model.spacing_mm, model.labels.shape) if n > 1)
        coarse = model.coarse(edge) if settings.coarse else model.fine
        largest = max(float((np.asarray(v.values) > 0.5).sum()) for v in [*visits, Visit(0.0, model.labels == model.k)])
        if largest / math.prod(coarse.factor) < COARSE_VOXELS:
            coarse = model.fine
        self.coarse = coarse
        self.area = surface_mm2(model.labels == model.k, model.spacing_mm)
        self.outlined = [not v.density and not ((v.values > 0) & (v.values < 1)).any() for v in visits]
        self.evaluations = 0
        self.inflation, self.patch_mm = 1.0, settings.patch_mm
        self.told = 0.0
        # what a fit is expected to take, in runs on the fine grid
        cheap = max(0.05, math.prod(coarse.factor) ** -1.0)
        self.work = settings.starts * COARSE_TRIES * cheap + FINE_TRIES + 2 * PAIRS
        self.done = 0.0
        self.state = {
            "stage": "starts",
            "found": [],
            "x": None,
            "mu": None,
            "sigma": None,
            "tries": 0,
            "inflation": 1.0,
            "patch_mm": settings.patch_mm,
            "evaluations": 0,
        }
        self.state.update(state or {})
        self.evaluations = self.state["evaluations"]
        self.precision = self._prior(0.0)

    # ---- the search

    def run(self) -> Fit:
        s = self.state
        if s["stage"] == "starts":
            starts = self._starts()
            while len(s["found"]) < len(starts):
                if s["x"] is None:
                    s.update(x=starts[len(s["found"])].tolist(), mu=1e-2, tries=0, sigma=None)
                sigma = FIRST_SIGMA * self._edge(self.coarse)
                point = self._descend(self.coarse, lambda _: Noise(sigma, 0.0), COARSE_TRIES)
                s["found"].append({"x": point.x.tolist(), "value": point.value})
                s.update(x=None)
            best = min(s["found"], key=lambda f: f["value"])
            s.update(stage="fine", x=best["x"], mu=1e-3, tries=0, sigma=None)
        fine = self.model.fine
        self.inflation = s["inflation"]
        if s["stage"] == "weighed":
            self.patch_mm = s["patch_mm"]
            self.precision = self._prior(s["weighed_sigma"])
        point = self._descend(fine, self._noise, FINE_TRIES)
        if s["stage"] == "fine":
            self.patch_mm = self._patch(point)
            _, ratio = self._information(point)
            # once more, with the prior weighed against what the observations are really worth
            s.update(
                stage="weighed",
                inflation=ratio,
                weighed_sigma=self.noise.sigma_mm,
                patch_mm=self.patch_mm,
                mu=1e-3,
                tries=0,
                x=point.x.tolist(),
            )
            self.inflation, self.precision = ratio, self._prior(self.noise.sigma_mm)
            point = self._descend(fine, self._noise, FINE_TRIES, point)
        scatter, bias = self._of_baseline(point)
        information, _ = self._information(point, scatter)
        point = self._moved_back(point, information, bias)
        covariance = np.linalg.inv(information + self.precision)
        self._tell(1.0, "fitted")
        return Fit(
            point.x,
            information,
            (covariance + covariance.T) / 2,
            self.noise,
            self.patch_mm,
            self.inflation,
            point.shares,
            self.evaluations,
            point.value,
            tuple(f["value"] for f in s["found"]),
            self.precision,
        )

    def _prior(self, sigma_mm):
        """The prior's precision, the seed density's as this error of the baseline's outline allows; never wider than
        given."""
        names = [p.name for p in self.parameters]
        if SEED not in names:
            return self.given
        i = names.index(SEED)
        shift = (
            max(LEAST_SIGMA * self._edge(self.model.fine), sigma_mm)
            * self.patch_mm
            / math.sqrt(max(self.area, self.patch_mm**2))
        )
        length = self.model.plan.infiltration_mm
        covariance = np.linalg.inv(self.given)
        factor = min(1.0, shift / length / math.sqrt(covariance[i, i]))
        covariance[i] *= factor
        covariance[:, i] *= factor
        return np.linalg.inv(covariance)

    def _starts(self):
        """The plan's values, then draws of the prior (Sobol), within the bounds."""
        from scipy.stats import norm, qmc

        first = np.array([p.coordinate(p.start) for p in self.parameters])
        count = max(1, self.settings.starts)
        if count == 1:
            return [first]
        points = qmc.Sobol(len(first), scramble=True, seed=self.settings.seed).random_base2(
            math.ceil(math.log2(count))
        )[: count - 1]
        spread = np.sqrt(np.diag(np.linalg.inv(self.precision)))
        drawn = self.mean + norm.ppf(np.clip(points, 0.05, 0.95)) * spread
        return [first, *np.clip(drawn, self.low, self.high)]

    def _descend(self, grid, noise, tries, point=None) -> _Point:
        """Levenberg–Marquardt from the state's x until little can be gained."""
        s = self.state
        if point is None:
            point = self._point(np.array(s["x"]), grid, noise)
        else:
            point = self._valued(point, grid, noise(point))
        while s["tries"] < tries:
            gradient, curvature = self._quadratic(point)
            step, gain = self._step(point.x, gradient, curvature, s["mu"])
            if gain < GAIN:
                break
            s["tries"] += 1
            trial = self._point(point.x + step, grid, lambda _: self.noise)
            if trial.value < point.value:
                better = trial.value < point.value - 0.25 * gain
                point = self._valued(trial, grid, noise(trial))
                s.update(x=point.x.tolist(), mu=max(1e-7, s["mu"] / (10 if better else 2)))
            else:
                s["mu"] = min(1e6, s["mu"] * 10)
            s["evaluations"] = self.evaluations
            if self.save is not None:
                self.save(dict(s, found=list(s["found"])))
        return point

    def _step(self, x, gradient, curvature, mu):
        """A step within the bounds, and how much F is expected to fall by it."""
        free = ~(((x <= self.low) & (gradient > 0)) | ((x >= self.high) & (gradient < 0)))
        step = np.zeros_like(x)
        if not free.any():
            return step, 0.0
        h, g = curvature[np.ix_(free, free)], gradient[free]
        scale = np.diag(h)
        step[free] = np.linalg.solve(h + mu * np.diag(scale), -g)
        step *= min(
            1.0, LARGEST_MOVE / max(1e-12, np.abs(step[[p.positive for p in self.parameters]]).max(initial=1e-12))
        )
        step = np.clip(x + step, self.low, self.high) - x
        return step, float(-(gradient @ step) - 0.5 * step @ curvature @ step)

    def _quadratic(self, point):
        gradient = sum(m.gradient for m in point.misfits) / self.inflation + self.precision @ (point.x - self.mean)
        return gradient, sum(m.information for m in point.misfits) / self.inflation + self.precision

    # ---- one evaluation

    def _point(self, x, grid, noise) -> _Point:
        values = {p.name: p.value(v) for p, v in zip(self.parameters, x)}
        cost = 1.0 / math.prod(grid.factor)
        where = "on coarse voxels" if cost < 1 else "on the image's voxels"

        def told(fraction, day):
            self._tell((self.done + cost * fraction) / self.work, f"run {self.evaluations + 1}, day {day:.4g}, {where}")

        shares = self.model.run(
            [values], [v.day for v in self.visits], grid, self.parameters, progress=told, cancelled=self.cancelled
        )
        self.evaluations += 1
        self.done += cost
        bare = _Point(x, shares, [], math.inf)
        return self._valued(bare, grid, noise(bare))

    def _valued(self, point, grid, noise) -> _Point:
        self.noise = noise
        misfits = [
            misfit(s, v.on(grid), self.visibility, grid, noise, self.settings.block_mm)
            for s, v in zip(point.shares, self.visits)
        ]
        away = point.x - self.mean
        value = sum(m.value for m in misfits) / self.inflation + 0.5 * away @ self.precision @ away
        return dataclasses.replace(point, misfits=misfits, value=float(value))

    def _noise(self, point) -> Noise:
        """σ under which this point's outlines are most likely; it may shrink to a third at a time."""
        edge = self._edge(self.model.fine)
        former = self.state["sigma"]
        first = Noise(FIRST_SIGMA * edge if former is None else former, self.settings.odd)
        misfits = point.misfits or [
            misfit(s, v, self.visibility, self.model.fine, first) for s, v in zip(point.shares, self.visits)
        ]
        seen = [(m.distance, m.seen) for m, v in zip(misfits, self.visits) if not v.density]
        sigma = noise_of(seen, LEAST_SIGMA * edge, LARGEST_SIGMA * edge, self.settings.odd) if seen else first.sigma_mm
        if former is not None:
            sigma = max(sigma, former / 3)
        self.state["sigma"] = sigma
        maps = [m for m, v in zip(misfits, self.visits) if v.density]
        density = first.density
        if maps:
            squared = sum(float((m.distance**2).sum()) for m in maps) / max(1, sum(len(m.distance) for m in maps))
            density = max(0.01, math.sqrt(squared))
        return Noise(sigma, self.settings.odd, density)

    def _patch(self, point):
        """How far a reader's errors go together, mm; as given where the outlines are too sharp to tell."""
        if not self._drawn_roughly():
            return self.settings.patch_mm
        patterns = [m.pattern for m, outlined in zip(point.misfits, self.outlined) if outlined]
        return patch_of(patterns, self.model.spacing_mm, self.noise.sigma_mm, self.settings.patch_mm)

    def _drawn_roughly(self):
        """Whether outlines tell of errors like the baseline's; the σ of a probability map is its own softness."""
        return self.noise.sigma_mm >= SHAPE_SIGMA * self._edge(self.model.fine) and any(self.outlined)

    def _of_baseline(self, point):
        """What the error of the baseline's outline in shape does to the gradient: (second moment (n, n), mean (n,))."""
        sigma, n, model = self.noise.sigma_mm, len(point.x), self.model
        if not self._drawn_roughly() or not model.redraws or model.plan.infiltration_mm == 0:
            return np.zeros((n, n)), np.zeros(n)
        errors = sigma * outline_errors(
            model.labels == model.k, model.spacing_mm, self.patch_mm, PAIRS, self.settings.seed
        )
        values = {p.name: p.value(v) for p, v in zip(self.parameters, point.x)}
        before = sum(m.gradient for m in point.misfits)
        changes = []
        for error in (sign * e for e in errors for sign in (1.0, -1.0)):
            labels = redrawn(model.labels, model.k, model.group[1:], model.spacing_mm, error)
            shares = model.run(
                [values], [v.day for v in self.visits], None, self.parameters, redrawn=labels, cancelled=self.cancelled
            )
            self.evaluations += 1
            self.done += 1.0
            self._tell(self.done / self.work, f"run {self.evaluations}, baseline drawn anew")
            changes.append(
                sum(
                    misfit(s, v, self.visibility, model.fine, self.noise, self.settings.block_mm).gradient
                    for s, v in zip(shares, self.visits)
                )
                - before
            )
        changes = np.array(changes)
        return changes.T @ changes / len(changes), changes.mean(axis=0)

    def _moved_back(self, point, information, bias) -> _Point:
        """The point without the bias that the baseline's roughness gave it."""
        if not bias.any():
            return point
        _, curvature = self._quadratic(point)
        move = np.linalg.solve(curvature, bias / self.inflation)
        move /= max(1.0, math.sqrt(move @ (information + self.precision) @ move))
        return self._point(
            np.clip(point.x + move, self.low, self.high), self.model.fine, lambda _: self.noise
        )

    def _information(self, point, by_outline=0.0):
        """(H G⁻¹ H, mean of G's ratio to H)."""
        h = sum(m.information for m in point.misfits)
        sums: dict = {}
        for m in point.misfits:
            for block, score in zip(m.block.tolist(), m.scores):
                sums[block] = sums.get(block, 0.0) + score
        scores = np.array(list(sums.values())).reshape(-1, len(point.x))
        blocks = len(scores)
        scores = scores - scores.mean(0) if blocks else scores
        g = scores.T @ scores * (blocks / max(1, blocks - 1))
        values, vectors = np.linalg.eigh(h)
        values = np.maximum(values, 1e-9 * max(values.max(), 1e-30))
        half = vectors * np.sqrt(values)
        white = (vectors / np.sqrt(values)).T
        ratios, turn = np.linalg.eigh(white @ g @ white.T)
        ratios = np.maximum(ratios, voxels_of_a_patch(self.noise.sigma_mm, self.patch_mm, self.model.spacing_mm))
        middle = np.linalg.inv(turn * ratios @ turn.T + white @ (by_outline + np.zeros_like(h)) @ white.T)
        return half @ middle @ half.T, float(ratios.mean())

    def _edge(self, grid):
        return min(h for h, n in zip(grid.spacing_mm, grid.room.shape) if n > 1)

    def _tell(self, fraction, text):
        self.told = max(self.told, min(1.0, fraction))
        if self.progress is not None:
            self.progress(self.told, text)

