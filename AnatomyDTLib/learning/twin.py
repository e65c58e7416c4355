"""The learned twin: eq. 2 near its sharp interfaces, with every coefficient learned and a growth network on top.

    ∂ₜp_k = ∇·(D_k ∇p_k − Σ_{j≠k} χ_kj p_k ∇p_j) + r_k + s_k                                          (eq. 2)

Between label maps only the interfaces of p are seen, so they are what is solved for (`levels`), term by term:

* Diffusion and growth of the tumor make a travelling front. Its speed in tissue j goes with sqrt(D_j rho) (Fisher 1937; the
  sharp limit is an eikonal equation: Konukoglu et al. 2010, IEEE TMI 29:77), so between tissues it goes with sqrt(D_j); how
  fast it is at all follows from how fast the whole tumor grows under its treatment (`burden`).
* Cross-diffusion is a velocity v_k = Σ_j χ_kj ∇p_j. All other classes move down the tumor's gradient (χ_kT < 0, competition
  for space), all with the same velocity: the limit of a stiff competition, as in `physics.pressure`. There it solves a
  pressure equation whose solution beside a front falls off as exp(−d / reach); here that profile is taken, with the part of
  the front's advance that pushes, and the reach, learned. Where a tumor recedes there is no void: the tissue beside it comes
  back with it. The tumor itself moves along χ_Tj ∇p_j.
* Along a wall that it does not pass (a vessel, a ventricle) a tumor may grow faster, over a learned distance.
* Every other class may creep outward or inward by itself (a vessel's wall that thickens), at a rate that fades.
* s_k: radiation and drugs act on the living part of the tumor; an operation leaves a cavity.
* The growth network sees the state, its surroundings, the treatment and optional images, at every step. It gives residual
  rates r_k, and corrects the front's speed and the push from place to place: a χ that varies in space.

Zero at initialisation, so that an untrained twin is the mechanistic model at the numbers of its anatomy.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..physics.assembly import SPARED_AROUND_TUMOR, resected
from ..plan import Anatomy
from .batches import Batch, signed_distances
from .burden import Bounded, Burden, BurdenLaw
from .growth import GrowthConfig, GrowthNetwork, check_trained_for, exposures
from .levels import Tiers, blur, carried, extended, gradient, outward
from .losses import total_variation
from .weights import TrainingError, read_tensors

FORMAT = "anatomydt-twin-1"
# Widths in which the tumor's surroundings are looked at, mm.
DIRECTION_MM, TISSUE_MM = 2.0, 2.0
# Over what lengths the front's speed is carried to the voxels beside it: for the front itself, for the tissue that it pushes.
FRONT_MM, EXTENSION_MM = 2.0, 6.0
# Distances to the tumor that the network sees as exp(−d/length), to the other classes as tanh(d/length), mm.
TUMOR_LENGTHS_MM, CLASS_LENGTH_MM = (3.0, 10.0, 30.0), 6.0
# The network may change a speed or a push by this factor at most, either way.
LARGEST_FACTOR = 4.0
FASTEST_CREEP_MM_PER_DAY = 0.2
# The level of a class that is nowhere.
ABSENT = 60.0
# Graphs of steps that together need more than this are computed again in the backward pass.
GRAPH_BYTES = 2e9


@dataclass(frozen=True)
class TwinConfig:
    """classes, axes, images: what it is for; width_mm: of the interfaces

    The parts, each of which can be left out: diffusion (the front; without it a tumor grows in place), cross_diffusion
    (the push and χ), growth_law, treatment (both the laws' and the network's), network
    hidden, limit_per_day: of the growth network
    """

    classes: tuple[str, ...]
    axes: int
    images: int = 0
    width_mm: float = 2.0
    diffusion: bool = True
    cross_diffusion: bool = True
    growth_law: bool = True
    treatment: bool = True
    network: bool = True
    hidden: int = 32
    limit_per_day: float = 0.2


class AnatomyTwin(nn.Module):
    """batch -> probabilities of every later visit. `anatomy` gives the roles of the classes and the starting values."""

    name = "AnatomyDT"
    # The physical numbers are few and far from linear: they learn faster than the network's weights.
    rates = {"growth.": 1.0, "chi": 1.0, "creep": 1.0, "": 20.0}

    def __init__(self, anatomy: Anatomy, config: TwinConfig):
        super().__init__()
        assert config.classes == anatomy.names and config.axes in (2, 3)
        if not anatomy.tumors:
            raise TrainingError("the twin needs a class with the role tumor or edema")
        self.anatomy, self.config, self.tiers = anatomy, config, Tiers.of(anatomy)
        self.tumors = list(anatomy.tumors)
        self.others = [k for k in range(len(anatomy)) if k not in self.tumors]
        self.still = list(anatomy.with_role("background", "barrier"))
        self.law = BurdenLaw(anatomy, config.axes, config.treatment)
        D = torch.tensor([anatomy.tissues[k].diffusivity_mm2_per_day or 0.0 for k in self.others])
        typical = float(D[D > 0].mean()) if bool((D > 0).any()) else 0.1
        self.diffusivity = Bounded(1e-3, 10.0, torch.where(D > 0, D, torch.full_like(D, 0.3 * typical)))
        self.register_buffer("typical", torch.tensor(typical))
        self.push = nn.Parameter(torch.tensor(0.0))
        self.closing = nn.Parameter(torch.tensor(2.0))
        self.reach_mm = Bounded(2.0, 100.0, 15.0)
        self.walls = [k for k in self.others if k not in self.tiers.hosts and k not in self.still]
        self.along = nn.Parameter(torch.zeros(len(self.walls)))
        self.along_mm = Bounded(1.0, 30.0, torch.full((len(self.walls),), 5.0))
        self.chi = nn.Parameter(torch.zeros(len(self.others)))
        self.creep = nn.Parameter(torch.zeros(len(self.others)))
        self.creep_days = Bounded(5.0, 1000.0, torch.full((len(self.others),), 60.0))
        self.sharpness = Bounded(1.0, 10.0, 1.5)
        self.growth = GrowthNetwork(GrowthConfig(
            anatomy.names, config.axes, config.images, context=len(anatomy) + len(TUMOR_LENGTHS_MM), numbers=5, extra=2,
            width=config.hidden, limit_per_day=config.limit_per_day,
        )) if config.network else None
        self.variation = None

    @classmethod
    def of(cls, dataset, seed: int = 0, **settings) -> AnatomyTwin:
        """A twin for a dataset, with interfaces two voxels wide; seed: of the network's first weights."""
        torch.manual_seed(seed)
        images = dataset.cases[0].images
        config = TwinConfig(
            dataset.anatomy.names, len(dataset.spacing_mm), 0 if images is None else len(images), 2 * min(dataset.spacing_mm),
        )
        return cls(dataset.anatomy, replace(config, **settings))

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, V − 1, K, *S)"""
        grid = batch.grid
        psi = 4 / self.config.width_mm * batch.distances
        burden = self.law.begin(self._radius_mm(batch.states[:, 0], batch.spacing_mm))
        given_gy, given_kill = torch.zeros_like(grid.dt[0]), torch.zeros_like(grid.dt[0])
        keep = not torch.is_grad_enabled() or self._graph_bytes(psi) * len(grid) < GRAPH_BYTES
        self.variation = psi.new_zeros(())
        visits, states = set(grid.visits), []
        # how far the front has come since the first visit (or the last operation), and the furthest it had come; mm
        come = furthest = torch.zeros_like(grid.dt[0])
        psi, burden, _ = self._operated(psi, burden, batch, 0)
        for step in range(len(grid)):
            dt, radius = grid.dt[step], self.law.radius_mm(burden)
            burden = self.law.step(burden, dt, grid.parts_gy[step], grid.parts2_gy2[step], grid.parts_drug[step])
            advance = self.law.radius_mm(burden) - radius if self.config.growth_law else self.law.front_mm_per_day(self.typical) * dt
            given_gy, given_kill = given_gy + grid.dose_gy[step], given_kill + grid.drug[step]
            exposed = exposures(given_gy, grid.dose_gy[step], given_kill, grid.drug[step], dt)
            if not self.config.treatment:
                exposed = torch.zeros_like(exposed)
            inputs = (psi, radius, advance, come, furthest, grid.start[step], dt, exposed, batch.images, batch.spacing_mm)
            psi, variation = self._step(*inputs) if keep else checkpoint(
                self._step, *inputs, use_reentrant=False, preserve_rng_state=False)
            self.variation = self.variation + variation / len(grid)
            come = come + advance
            furthest = torch.maximum(furthest, come)
            psi, burden, whole = self._operated(psi, burden, batch, step + 1)
            come, furthest = come * whole, furthest * whole
            if step + 1 in visits:
                states.append(self.tiers.decode(psi, self.sharpness()))
        return torch.stack(states, 1)

    def growth_variation(self) -> torch.Tensor:
        """TV of the growth map over the last forward, mean over its steps."""
        return self.variation

    # ---- one step

    def _step(self, psi, radius, advance, come, furthest, start, dt, exposed, images, spacing_mm):
        """One step: (levels, TV of the growth map).

        radius, advance: (B,) mm, of the whole tumor, and how far its front comes where D is typical
        come, furthest: (B,) mm, how far it has come by now, and the furthest it had come
        """
        config = self.config
        tumor = psi[:, self.tumors].amax(1, keepdim=True)
        distance = tumor * (config.width_mm / 4)
        speed, push = torch.zeros_like(tumor), torch.zeros_like(tumor)
        change, variation = torch.zeros_like(psi), psi.new_zeros(())
        if self.growth is not None:
            context = [torch.tanh(psi * (config.width_mm / 4 / CLASS_LENGTH_MM))]
            context += [torch.exp(-distance.abs() / length) for length in TUMOR_LENGTHS_MM]
            days = dt.clamp(min=1.0)
            numbers = (torch.log(radius / 12), torch.tanh(5 * advance / days), torch.sign(advance), come / 12, start / 100)
            p = self.tiers.decode(psi, self.sharpness())
            rates, extra = self.growth(p, exposed, images, spacing_mm=spacing_mm, context=torch.cat(context, 1),
                                       numbers=torch.stack(numbers, 1))
            bound = math.log(LARGEST_FACTOR)
            speed, push = (bound * torch.tanh(e / bound) for e in extra.split(1, 1))
            change, variation = rates * _each(dt, rates), total_variation(rates, spacing_mm)
        if config.diffusion:
            psi = self._transported(psi, advance, come, furthest, dt, distance, speed, push, spacing_mm)
        elif config.growth_law:
            # without a front the tumor's growth is a rate in place
            grown = torch.zeros_like(psi)
            grown[:, self.tumors] = _each(config.axes * torch.log1p(advance / radius), psi)
            change = change + grown
        if self.growth is not None or not config.diffusion:
            psi = self.tiers.react(psi, change, self.sharpness())
        return psi + self._crept(psi, start, dt), variation

    def _transported(self, psi, advance, come, furthest, dt, distance, speed, push, spacing_mm):
        """The front moves by c n, all other tissue by a part of it that falls off as exp(−|d|/reach), n the tumor's normal.

        c = sqrt(D/D_typical) e^(speed + Σ_j along_j exp(−d_j/l_j)) times the advance, in mm, d_j the distance to a wall that it
        does not pass. It recedes the way it came; inside its first extent it does so everywhere alike. The part: `push`
        where the front is further than ever, `closing` where it recedes or comes back.
        """
        config = self.config
        tumor = psi[:, self.tumors].amax(1, keepdim=True)
        without_tumor = self._tissue(psi)
        tissue = (without_tumor[:, self.others] * _across(self.diffusivity(), psi)).sum(1, keepdim=True)
        factor = blur(torch.sqrt(tissue / self.typical), TISSUE_MM, spacing_mm) * torch.exp(speed)
        if self.walls:
            outside = functional.relu(psi[:, self.walls] * (-config.width_mm / 4))
            nearness = torch.exp(-outside / _across(self.along_mm(), psi))
            factor = factor * torch.exp((_across(self.along, psi) * nearness).sum(1, keepdim=True))
        front = torch.sigmoid(tumor) * torch.sigmoid(-tumor) + 1e-12
        after = come + advance
        by_tissue = _each(functional.relu(after) - functional.relu(come), psi)
        alike = _each(advance, psi) - by_tissue
        direction = outward(distance, DIRECTION_MM, spacing_mm) * (1 - self._still(psi))
        moved = [None] * psi.shape[1]
        u = (extended(factor, front, FRONT_MM, spacing_mm) * by_tissue + alike) * direction
        if config.cross_diffusion:
            beside = extended(factor, front, EXTENSION_MM, spacing_mm)
            new = beside * _each(functional.relu(after - furthest), psi)
            part = torch.sigmoid(self.push + push) * new + torch.sigmoid(self.closing) * (beside * by_tissue + alike - new)
            pushed = [k for k in self.others if k not in self.still]
            carrying = direction * part * torch.exp(-distance.abs() / self.reach_mm())
            for i, level in zip(pushed, carried(psi[:, pushed], carrying, spacing_mm).unbind(1)):
                moved[i] = level
            attracting = (without_tumor[:, self.others] * _across(self.chi, psi)).sum(1, keepdim=True)
            u = u + _each(dt, psi) * gradient(blur(attracting, TISSUE_MM, spacing_mm)[:, 0], spacing_mm) * (1 - self._still(psi))
        for i, level in zip(self.tumors, carried(psi[:, self.tumors], u, spacing_mm).unbind(1)):
            moved[i] = level
        return torch.stack([psi[:, k] if level is None else level for k, level in enumerate(moved)], 1)

    def _tissue(self, psi):
        """What would be in each voxel if the tumor had not come: (B, K, *S), 0 for the tumor classes."""
        absent = psi.clone()
        absent[:, self.tumors] = -ABSENT
        return self.tiers.decode(absent, 1.0)

    def _crept(self, psi, start, dt):
        """Change of the levels of the classes that creep: a speed in mm/day that fades with the days, over a level's slope."""
        fading = self.creep_days()
        days = fading * torch.exp(-start[:, None] / fading) * -torch.expm1(-dt[:, None] / fading)
        crept = psi.new_zeros(psi.shape[:2])
        crept[:, self.others] = FASTEST_CREEP_MM_PER_DAY * torch.tanh(self.creep) * days * (4 / self.config.width_mm)
        return crept.reshape(*crept.shape, *[1] * self.config.axes)

    def _still(self, psi):
        """The part of each voxel that no push moves, (B, 1, *S)."""
        return torch.sigmoid(psi[:, self.still].amax(1, keepdim=True)) if self.still else psi.new_zeros(())

    # ---- the whole tumor

    def _radius_mm(self, state, spacing_mm):
        """(B,) radius of the disc or ball as large as the tumor of a state; a voxel at least."""
        size = state[:, self.tumors].flatten(1).sum(1).clamp(min=1.0) * math.prod(spacing_mm)
        return torch.sqrt(size / math.pi) if self.config.axes == 2 else (0.75 * size / math.pi) ** (1 / 3)

    def _operated(self, psi, burden: Burden, batch: Batch, steps: int):
        """Levels, burden and (B,) 0 for an operated case, 1 for others; the mask is found without gradients."""
        whole = torch.ones_like(burden.dead)
        for due, case, surgery in batch.grid.resections:
            if due != steps or not self.config.treatment:
                continue
            cavity = self.anatomy.with_role("cavity")
            if not cavity:
                raise TrainingError(f"the case '{batch.names[case]}' has a surgery but no tissue has the role cavity")
            labels = self.tiers.decode(psi[case : case + 1].detach(), self.sharpness().detach())[0].argmax(0).cpu().numpy()
            visible = torch.from_numpy(labels == self.tumors[0])
            for k in self.tumors[1:]:
                visible |= torch.from_numpy(labels == k)
            mask = torch.from_numpy(resected(visible.numpy(), batch.spacing_mm, None, surgery.extent, surgery.margin_mm))
            for k in self.anatomy.with_role(*SPARED_AROUND_TUMOR):
                mask &= torch.from_numpy(labels != k)
            if not bool(mask.any()):
                continue
            level = 4 / self.config.width_mm * torch.from_numpy(signed_distances(mask.numpy(), 2, batch.spacing_mm)[1]).to(psi)
            new = list(psi[case].unbind(0))
            if surgery.residual_fraction == 0:
                new[cavity[0]] = torch.maximum(new[cavity[0]], level)
            for k in self.tumors:
                remains = math.log(max(surgery.residual_fraction, 1e-6))
                new[k] = torch.minimum(new[k], -level) if surgery.residual_fraction == 0 else new[k] + remains * mask.to(psi)
            psi = torch.cat((psi[:case], torch.stack(new).unsqueeze(0), psi[case + 1 :]))
            kept = 1 - float((mask & visible).sum()) / max(int(visible.sum()), 1) * (1 - surgery.residual_fraction)
            burden = self.law.cut(burden, torch.where(whole.new_tensor(range(len(psi))) == case, kept, 1.0))
            whole[case] = 0.0
        return psi, burden, whole

    # ---- what it takes, what it has learned, where it is kept

    def _graph_bytes(self, psi) -> int:
        """About what one step keeps for the backward pass: some twenty fields of a class, four of a hidden channel."""
        fields = 20 * psi.shape[1] + (4 * self.config.hidden if self.growth is not None else 0)
        return 4 * fields * psi[:, 0].numel()

    def physical(self) -> dict[str, object]:
        """What was learned, in physical units, by name."""
        each = [self.anatomy.tissues[k].name for k in self.others]
        creep = FASTEST_CREEP_MM_PER_DAY * torch.tanh(self.creep.detach())
        return {
            **self.law.values(), "reach_mm": float(self.reach_mm().detach()), "pushed_part": float(torch.sigmoid(self.push.detach())),
            "closing_part": float(torch.sigmoid(self.closing.detach())),
            "diffusivity_mm2_per_day": dict(zip(each, self.diffusivity().tolist())),
            "along_walls": dict(zip([self.anatomy.tissues[k].name for k in self.walls], self.along.tolist())),
            "chi_mm2_per_day": dict(zip(each, self.chi.tolist())), "creep_mm_per_day": dict(zip(each, creep.tolist())),
        }

    def metadata(self) -> dict[str, str]:
        """The header of its weights file."""
        roles = [tissue.role for tissue in self.anatomy.tissues]
        texts = {"twin": asdict(self.config), "roles": roles, "physical": self.physical()}
        return {"format": FORMAT, **{key: json.dumps(value) for key, value in texts.items()}}


def load_twin(path, anatomy: Anatomy, axes: int) -> AnatomyTwin:
    """Reads a twin that was trained for these classes and this number of axes.

    Raises ValueError with one sentence when the file is missing, is no twin of this version, or was trained for others.
    """
    state, meta = read_tensors(path, FORMAT, "twin")
    try:
        values = json.loads(meta["twin"])
        config = TwinConfig(**{**values, "classes": tuple(values["classes"])})
        roles = json.loads(meta["roles"])
    except (KeyError, TypeError, ValueError):
        raise TrainingError(f"the weights file {path} is damaged: its header cannot be read") from None
    check_trained_for(config.classes, config.axes, anatomy.names, axes)
    if roles != [tissue.role for tissue in anatomy.tissues]:
        raise TrainingError(f"the weights were trained with the roles {', '.join(roles)}; give the tissues the same ones")
    twin = AnatomyTwin(anatomy, config)
    try:
        twin.load_state_dict(state)
    except RuntimeError:
        raise TrainingError(f"the weights file {path} is damaged: its configuration and its weights do not agree") from None
    return twin.eval()


def _each(values, like):
    """(B,) numbers against fields (B, C, *S)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _across(values, like):
    """(C,) numbers against fields (B, C, *S)."""
    return values.reshape(1, -1, *[1] * (like.dim() - 2))
