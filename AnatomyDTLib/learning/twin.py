"""The learned twin: eq. 2 with every coefficient learned, treated, and a growth network on top. One torch module.

    ∂ₜp_k = ∇·(D_k ∇p_k − Σ_{j≠k} χ_kj p_k ∇p_j) + r_k + s_k                                          (eq. 2)

Label maps show the borders of p, a voxel or two wide, and visits are weeks apart; so each term is stepped by what is
exact for it, with the operators of `physics`, on the state of `interfaces`:

* Growth of the tumor, r: the logistic law, exactly (`State.reacted`, as `physics.reaction.correct`). A front of slope λ
  (per mm) that grows at the rate r advances r / λ mm/day. How far it comes in a step follows from how the whole tumor grows and
  responds, s (`burden`, whose largest radius stands for kappa); between tissues it goes with sqrt(D_j), as eq. 2's own front of
  speed 2 sqrt(D_j rho) does (Fisher 1937; as an eikonal front: Konukoglu et al. 2010, IEEE TMI 29:77). So only ratios of D are
  determined by the fronts; without the law of the whole tumor (`growth_law`) the speed is 2 sqrt(D_j rho) itself.
* Diffusion, D: what is left of it below the width of a border, a step of `physics.equation.Stepper`.
* Competition for space, χ_kj = −M: the part `pushed` of the tissue that growth displaces is not destroyed but moved, by the
  pressure of `physics.pressure` (here without fluid, `physics.screened`), whose range is learned. Where a tumor recedes there
  is no void: the tissue comes back.
* Attraction, χ_Tj: the tumor drifts up the gradient of tissue j.
* Along what it may not take (a vessel, a ventricle) a tumor may grow faster; into it its front comes no farther than that is
  pushed away. Up to the border of the first visit it recedes and comes back at its own rate: no tissue slows it there.
* Every other class may creep outward or inward by itself (a vessel's wall that thickens), at a rate that fades.
* The growth network sees the state, its surroundings, the treatment and optional images, at every step. It gives residual
  rates r_k, and corrects the front's speed and the pushed part from place to place.

Zero at initialisation, so that an untrained twin is the mechanistic model at the numbers of its anatomy.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..physics import screened
from ..physics.equation import CrossDiffusion, Stepper
from ..plan import Anatomy
from . import displacement, operation
from .batches import Batch, grid_of
from .burden import Bounded, Burden, BurdenLaw, ball_radius_mm, seen_radii_mm
from .displacement import LEAST
from .growth import GrowthConfig, GrowthNetwork, exposures
from .interfaces import SHARPNESS, Sides, State
from .losses import total_variation
from .smoothing import blur, extended, gradient
from .weights import TrainingError

FORMAT = "anatomydt-twin-3"
# Over what lengths a tissue's speed passes into the next one's, and the front's speed is carried to the voxels beside it, mm.
TISSUE_MM, FRONT_MM = 2.0, 4.0
# Widths in which walls are looked for beside a front, mm.
WALLS_MM = (2.0, 5.0)
# Distances to the tumor's border that the network sees as exp(−d/length), mm.
TUMOR_LENGTHS_MM = (3.0, 10.0, 30.0)
# Without creep the network's rates fade over this length from the tumor's border, mm; a choice, below the push's reach.
NEAR_TUMOR_MM = 10.0
# The network may change a speed by this factor at most, either way, and the odds of pushing likewise.
LARGEST_FACTOR = 4.0
FASTEST_CREEP_MM_PER_DAY = 0.2
# Probabilities between this and 1 less this are a border: what diffuses there. Beyond, a trace would become a tumor of its own
# behind a wall that it had leaked through.
BORDER = 1e-2
# Graphs of steps that together need more than this are computed again in the backward pass.
GRAPH_BYTES = 2e9


@dataclass(frozen=True)
class TwinConfig:
    """classes, axes, images: what it is for; width_mm: of the borders, 4 over the slope of the log-odds

    The parts, each of which can be left out: diffusion (D: the front's speed by tissue and what is left below its width;
    without it a tumor grows in place), cross_diffusion (the push and the attraction), growth_law, treatment (both the
    laws' and the network's), creep (what other tissue does by itself; without it the network's rates end with the tumor's
    surroundings, `NEAR_TUMOR_MM`), network
    hidden, blurs_mm, limit_per_day: of the growth network
    """

    classes: tuple[str, ...]
    axes: int
    images: int = 0
    width_mm: float = 2.0
    diffusion: bool = True
    cross_diffusion: bool = True
    growth_law: bool = True
    treatment: bool = True
    creep: bool = True
    network: bool = True
    hidden: int = 24
    blurs_mm: tuple[float, ...] = (2.0, 6.0)
    limit_per_day: float = 0.2


@dataclass(frozen=True)
class _Now:
    """What a step is told: radius, advance, come: (B,) mm, of the whole tumor's front; start, dt: (B,) days; exposed: (B, 4)."""

    radius: torch.Tensor
    advance: torch.Tensor
    come: torch.Tensor
    start: torch.Tensor
    dt: torch.Tensor
    exposed: torch.Tensor
    images: torch.Tensor | None
    spacing_mm: tuple[float, ...]

    def ways(self, like):
        """(within, beyond): the advance up to the border of the first visit and past it, mm, against `like` (B, *S).

        Only past it does the tissue that the front stands in count; what was gained there is lost at the same ratio.
        """
        beyond = torch.relu(self.come + self.advance) - torch.relu(self.come)
        return _each(self.advance - beyond, like), _each(beyond, like)


class AnatomyTwin(nn.Module):
    """batch -> probabilities of every later visit. `anatomy` gives the roles of the classes and the starting values."""

    name = "AnatomyDT"
    # The physical numbers are few and far from linear: they learn faster than the network's weights. Those of the whole tumor
    # are fitted before (`prepare`): at the rate of the others the first steps threw its size off by a sixth.
    rates = {"growth.": 1.0, "attraction": 1.0, "law.": 2.0, "creep": 10.0, "": 20.0}

    def __init__(self, anatomy: Anatomy, config: TwinConfig):
        super().__init__()
        assert config.classes == anatomy.names and config.axes in (2, 3)
        if not anatomy.tumors:
            raise TrainingError("the twin needs a class with the role tumor or edema")
        self.anatomy, self.config, self.sides = anatomy, config, Sides.of(anatomy)
        if not self.sides.hosts_at:
            raise TrainingError("the twin needs a tissue that the tumor may grow into, such as white matter or an organ")
        sides = self.sides
        self.law = BurdenLaw(anatomy, config.axes, config.treatment)
        D = torch.tensor([anatomy.tissues[sides.rest[i]].diffusivity_mm2_per_day or 0.0 for i in sides.hosts_at])
        typical = float(D[D > 0].mean()) if bool((D > 0).any()) else 0.1
        self.diffusivity = Bounded(1e-3, 10.0, torch.where(D > 0, D, torch.full_like(D, 0.3 * typical)))
        self.register_buffer("typical", torch.tensor(typical))
        self.below_mm2_per_day = Bounded(1e-4, 0.1, 2e-3)
        self.pushed, self.returning = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(2.0))
        self.range_mm = Bounded(2.0, 200.0, 40.0)
        self.attraction = nn.Parameter(torch.zeros(len(sides.hosts_at)))
        self.walls = [i for i in sides.others_at if i not in sides.still_at]
        self.along = nn.Parameter(torch.zeros(len(WALLS_MM), len(self.walls)))
        self.creep = nn.Parameter(torch.zeros(len(sides.rest)))
        self.creep_days = Bounded(5.0, 1000.0, torch.full((len(sides.rest),), 60.0))
        self.growth = GrowthNetwork(GrowthConfig(
            anatomy.names, config.axes, config.images, context=len(TUMOR_LENGTHS_MM), numbers=5, extra=2,
            width=config.hidden, blurs_mm=config.blurs_mm, limit_per_day=config.limit_per_day,
        )) if config.network else None
        self.variation = None

    @classmethod
    def of(cls, dataset, seed: int = 0, **settings) -> AnatomyTwin:
        """A twin for a dataset, with borders two voxels wide; seed: of the network's first weights."""
        torch.manual_seed(seed)
        images = dataset.cases[0].images
        config = TwinConfig(
            dataset.anatomy.names, len(dataset.spacing_mm), 0 if images is None else len(images), 2 * min(dataset.spacing_mm),
        )
        return cls(dataset.anatomy, replace(config, **settings))

    @property
    def slope(self) -> float:
        """λ of the log-odds at a border, per mm."""
        return 4 / self.config.width_mm

    def prepare(self, dataset, chosen, longest_step_days: float) -> None:
        """Fits the law of the whole tumor to nothing but the sizes of the tumors of these cases, before any step of a training.

        chosen: indices of the cases; longest_step_days: of the grid
        """
        cases = [dataset.cases[int(i)] for i in chosen]
        radii = seen_radii_mm(cases, self.sides.tumors, dataset.spacing_mm).to(self.typical.device)
        # a case that is operated on at once has no size to fit
        told = torch.isfinite(radii[1:]).any(0)
        if self.config.growth_law and bool(told.any()):
            kept = [case for case, use in zip(cases, told.tolist()) if use]
            self.law.fit(grid_of(kept, longest_step_days, radii.device), radii[:, told])

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, V − 1, K, *S)"""
        return torch.stack([state.probabilities() for state in self.rollout(batch)], 1)

    def rollout(self, batch: Batch, told=None):
        """Yields the `State` on every later visit; told: called with the part of the steps that is done."""
        grid = batch.grid
        state = State.of(self.sides, batch.distances, self.slope)
        burden = self.law.begin(self.radius_mm(batch.states[:, 0], batch.spacing_mm))
        given_gy, given_kill = torch.zeros_like(grid.dt[0]), torch.zeros_like(grid.dt[0])
        keep = not torch.is_grad_enabled() or self._graph_bytes(batch.distances) * len(grid) < GRAPH_BYTES
        self.variation = batch.distances.new_zeros(())
        visits = set(grid.visits)
        # how far the front has come since the first visit, or the last operation; mm
        come = torch.zeros_like(grid.dt[0])
        state, burden, _ = self._operated(state, burden, batch, 0)
        for step in range(len(grid)):
            dt, radius = grid.dt[step], self.law.radius_mm(burden)
            burden = self.law.step(burden, dt, grid.parts_gy[step], grid.parts2_gy2[step], grid.parts_drug[step])
            advance = self.law.radius_mm(burden) - radius if self.config.growth_law else self.law.front_mm_per_day(self.typical) * dt
            given_gy, given_kill = given_gy + grid.dose_gy[step], given_kill + grid.drug[step]
            exposed = exposures(given_gy, grid.dose_gy[step], given_kill, grid.drug[step], dt)
            if not self.config.treatment:
                exposed = torch.zeros_like(exposed)
            now = _Now(radius, advance, come, grid.start[step], dt, exposed, batch.images, batch.spacing_mm)
            state, variation = self._step(state, now) if keep else checkpoint(
                self._step, state, now, use_reentrant=False, preserve_rng_state=False)
            self.variation = self.variation + variation / len(grid)
            come = come + advance
            state, burden, whole = self._operated(state, burden, batch, step + 1)
            come = come * whole
            if told is not None:
                told((step + 1) / len(grid))
            if step + 1 in visits:
                yield state

    def growth_variation(self) -> torch.Tensor:
        """TV of the growth map over the last forward, mean over its steps."""
        return self.variation

    # ---- one step

    def _step(self, state: State, now: _Now) -> tuple[State, torch.Tensor]:
        """One step: (state, TV of the growth map). Under autocast only the growth network is in half precision."""
        speed = push = None
        first = state
        variation = state.u.new_zeros(())
        if self.growth is not None:
            state, speed, push, variation = self._corrected(state, now)
        with torch.autocast(state.u.device.type, enabled=False):
            grown = self._crept(self._grown(state, now, speed, push), now)
        return grown.with_still_of(first), variation

    def _grown(self, state, now, speed, push):
        """The state after the tumor's growth and what that displaces; speed, push: of the network, (B, *S), or None."""
        config, pressure = self.config, None
        if config.diffusion:
            within, beyond = now.ways(state.u)
            way = beyond * self._speeds(state, now, speed)
            if config.cross_diffusion:
                pressure = self._pressure(state, within + way, now, push)
                way = self._held(state, within, way, pressure, now.spacing_mm)
            front = torch.sigmoid(state.u) * torch.sigmoid(-state.u) + 1e-12
            advance = within + extended(way.unsqueeze(1), front.unsqueeze(1), FRONT_MM, now.spacing_mm)[:, 0]
            grown = self._drifted(replace(state, u=state.u + self.slope * advance), now)
            grown = self._diffused(grown, now)
        elif config.growth_law:
            # without a front the tumor's growth is a rate in place
            rate = _each(config.axes * torch.log1p(now.advance / now.radius), state.u)
            grown = replace(state, u=state.u + rate)
            if config.cross_diffusion:
                pressure = self._pressure(state, rate / self.slope, now, push)
        else:
            grown = state
        return grown if pressure is None else displacement.moved(grown, pressure, now.spacing_mm)

    def _corrected(self, state, now):
        """The growth network: the state after its residual rates, its two further outputs, and the TV of its rates."""
        days = now.dt.clamp(min=1.0)
        numbers = torch.stack((
            torch.log(now.radius / 12), torch.tanh(5 * now.advance / days), torch.sign(now.advance), now.come / 12, now.start / 100), 1)
        distance = state.u.abs() / self.slope
        context = torch.stack([torch.exp(-distance / length) for length in TUMOR_LENGTHS_MM], 1)
        rates, extra = self.growth(
            state.probabilities(), now.exposed, now.images, spacing_mm=now.spacing_mm, context=context, numbers=numbers)
        if not self.config.creep:
            rates = rates * torch.exp(torch.clamp(state.u, max=0.0) / (self.slope * NEAR_TUMOR_MM)).unsqueeze(1)
        bound = math.log(LARGEST_FACTOR)
        speed, push = (bound * torch.tanh(e / bound) for e in extra.unbind(1))
        return state.reacted(rates * _each(now.dt, rates)), speed, push, total_variation(rates, now.spacing_mm)

    def _speeds(self, state, now, speed):
        """(B, *S), a front's speed over that where D is typical: sqrt(D / D_typical) e^(speed + Σ along · nearness); Fisher 1937 for the root."""
        hosts = state.c[:, list(self.sides.hosts_at)]
        speeds = torch.sqrt(self.diffusivity() / self.typical)
        both = blur(torch.stack(((hosts * _across(speeds, hosts)).sum(1), hosts.sum(1)), 1), TISSUE_MM, now.spacing_mm)
        factor = both[:, :1] / (both[:, 1:] + LEAST)
        if speed is not None:
            factor = factor * torch.exp(speed.unsqueeze(1))
        if self.walls:
            near = sum(
                (blur(state.c[:, self.walls], width, now.spacing_mm) * _across(weight, hosts)).sum(1, keepdim=True)
                for width, weight in zip(WALLS_MM, self.along))
            factor = factor * torch.exp(near)
        return factor[:, 0]

    def _held(self, state, within, way, pressure, spacing_mm):
        """way − c_walls (way − (m − within)₊)₊, (B, *S) mm: into what it may not take no front comes farther than that is pushed.

        m = ∇P · ∇u / |∇u|, how far that is, mm. within: (B, 1, ...) mm; way: (B, *S) mm past the first border; pressure: P (B, *S) mm²
        """
        if not self.walls:
            return way
        walls = state.c[:, self.walls].sum(1)
        normal = gradient(state.u, spacing_mm)      # inward: up the log-odds, as P
        normal = normal / (normal.square().sum(1, keepdim=True) + LEAST).sqrt()
        pushed = (gradient(pressure, spacing_mm) * normal).sum(1)
        return way - walls * torch.relu(way - torch.relu(pushed - within))

    def _drifted(self, state, now):
        """After the attraction: ∂ₜp = −∇·(χ_Tj p ∇p_j), for log-odds their transport with Σ_j χ_Tj ∇c_j."""
        if not self.config.cross_diffusion:
            return state
        hosts = state.c[:, list(self.sides.hosts_at)]
        field = blur((hosts * _across(self.attraction, hosts)).sum(1, keepdim=True), TISSUE_MM, now.spacing_mm)[:, 0]
        along = (gradient(field, now.spacing_mm) * gradient(state.u, now.spacing_mm)).sum(1)
        return replace(state, u=state.u - _each(now.dt, state.u) * along)

    def _diffused(self, state, now):
        """After a diffusion step of the tumor among its hosts, by the solver of the physics."""
        before = state.tumor_and_hosts()
        D = (self.below_mm2_per_day() * now.dt).reshape(-1, *[1] * self.config.axes).expand_as(state.u)
        nothing = torch.zeros_like(D)
        equation = CrossDiffusion(now.spacing_mm, torch.stack((D, nothing, nothing), 1), ((1,), (), ()))
        after = Stepper(equation).step(before, 1.0)
        return replace(state, u=state.u + _log_odds(after) - _log_odds(before))

    def _pressure(self, state, advance, now, push):
        """P of what the tumor displaces as it comes forward by `advance` (B, *S) mm; mm². What it cannot take it pushes, all of it."""
        up, down = (parameter if push is None else parameter + push for parameter in (self.pushed, self.returning))
        part = torch.where(_each(now.advance, state.u) >= 0, torch.sigmoid(up), torch.sigmoid(down))
        after = replace(state, u=state.u + self.slope * advance)
        grown = torch.sigmoid(after.u) - torch.sigmoid(state.u)
        walls = state.c[:, self.walls].sum(1) if self.walls else 0.0
        source = displacement.from_inside((part * state.room + walls) * grown, after, now.spacing_mm)
        return screened.solve(source, self.range_mm(), now.spacing_mm)

    def _crept(self, state, now):
        """Every class of the rest comes forward by a speed in mm/day that fades with the days: its log-odds by λ times the way."""
        if not self.config.creep:
            return state
        fading = self.creep_days()
        days = fading * torch.exp(-now.start[:, None] / fading) * -torch.expm1(-now.dt[:, None] / fading)
        way = FASTEST_CREEP_MM_PER_DAY * torch.tanh(self.creep) * days
        c = state.c * torch.exp(SHARPNESS * self.slope * way).reshape(*way.shape, *[1] * self.config.axes)
        return replace(state, c=c / c.sum(1, keepdim=True))

    # ---- the whole tumor

    def radius_mm(self, state, spacing_mm):
        """(B,) radius of the disc or ball as large as the tumor of a state; a voxel at least."""
        return ball_radius_mm(state[:, list(self.sides.tumors)].flatten(1).sum(1), spacing_mm)

    def _operated(self, state: State, burden: Burden, batch: Batch, steps: int):
        """State, burden and (B,) 0 for an operated case, 1 for others; the mask is found without gradients."""
        whole = torch.ones_like(burden.dead)
        for due, case, surgery in batch.grid.resections:
            if due != steps or not self.config.treatment:
                continue
            if not self.anatomy.with_role("cavity"):
                raise TrainingError(f"the case '{batch.names[case]}' has a surgery but no tissue has the role cavity")
            region = None if surgery.region is None else batch.regions[surgery.region]
            done = operation.operated(state, case, surgery, region, self.anatomy, batch.spacing_mm, self.slope)
            if done is None:
                continue
            state, kept = done
            burden = self.law.cut(burden, torch.where(whole.new_tensor(range(len(whole))) == case, kept, 1.0))
            whole[case] = 0.0
        return state, burden, whole

    # ---- what it takes, what it has learned, where it is kept

    def _graph_bytes(self, distances) -> int:
        """About what one step keeps for the backward pass: fields of a class, and four of a hidden channel."""
        fields = 40 * distances.shape[1] + (4 * self.config.hidden if self.growth is not None else 0)
        return 4 * fields * distances[:, 0].numel()

    def physical(self) -> dict[str, object]:
        """What was learned, in physical units, by name."""
        names = [self.anatomy.tissues[k].name for k in self.sides.rest]
        hosts = [names[i] for i in self.sides.hosts_at]
        creep = FASTEST_CREEP_MM_PER_DAY * torch.tanh(self.creep.detach())
        along = {names[i]: self.along[:, j].tolist() for j, i in enumerate(self.walls)}
        return {
            **self.law.values(), "range_mm": float(self.range_mm().detach()), "pushed_part": float(torch.sigmoid(self.pushed.detach())),
            "returning_part": float(torch.sigmoid(self.returning.detach())),
            "diffusivity_mm2_per_day": dict(zip(hosts, self.diffusivity().tolist())),
            "below_mm2_per_day": float(self.below_mm2_per_day().detach()), "along_walls": along,
            "chi_mm2_per_day": dict(zip(hosts, self.attraction.tolist())), "creep_mm_per_day": dict(zip(names, creep.tolist())),
        }

    def metadata(self) -> dict[str, str]:
        """The header of its weights file."""
        roles = [tissue.role for tissue in self.anatomy.tissues]
        texts = {"twin": asdict(self.config), "roles": roles, "physical": self.physical()}
        return {"format": FORMAT, **{key: json.dumps(value) for key, value in texts.items()}}


def _log_odds(p):
    """Of tumor against hosts, cut where there is no border; p: (B, 3, *S)."""
    tumor, hosts = p[:, 0], p[:, 1]
    return torch.logit((tumor / (tumor + hosts).clamp(min=LEAST)).clamp(BORDER, 1 - BORDER))


def _each(values, like):
    """(B,) numbers against fields (B, *S) or (B, C, *S)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _across(values, like):
    """(C,) numbers against fields (B, C, *S)."""
    return values.reshape(1, -1, *[1] * (like.dim() - 2))
