"""The twin's state between two visits: eq. 2's probabilities, kept so that single precision does not lose their tails.

    p_tumor,i = σ(u) H q_i,    p_host = σ(−u) c_host,    p_other = c_other,    H = Σ_hosts c

u: log-odds of tumor against the tissue that it may take; c: composition of all that is not tumor, Σ c = 1; q: composition
of the tumor classes. A reaction adds to log-odds, which is the exact solution of the logistic law; transport moves c.
Log-odds because 1 − σ is 0 in single precision from 17 on, a distance of a few voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from ..plan import Anatomy

# Slope of the composition at a border, relative to that of the tumor's log-odds: its borders are about a voxel wide.
SHARPNESS = 1.5
# Roles of what stays where it is.
STILL = ("background", "barrier")
# Kept of every host, so that shares of hosts exist where there are none.
TRACE = 1e-12


@dataclass(frozen=True)
class Sides:
    """Which class plays what part: indices into the anatomy; hosts_at, others_at, still_at: places in `rest`.

    tumors; rest: all other classes; hosts: of those, what a tumor may take; others: what it may not; still: of those,
    what no push moves
    """

    tumors: tuple[int, ...]
    rest: tuple[int, ...]
    hosts_at: tuple[int, ...]
    others_at: tuple[int, ...]
    still_at: tuple[int, ...]

    @classmethod
    def of(cls, anatomy: Anatomy) -> Sides:
        rest = tuple(k for k in range(len(anatomy)) if k not in anatomy.tumors)
        still = anatomy.with_role(*STILL)
        hosts = tuple(i for i, k in enumerate(rest) if anatomy.tissues[k].may_be_invaded)
        return cls(
            tuple(anatomy.tumors), rest, hosts, tuple(i for i in range(len(rest)) if i not in hosts),
            tuple(i for i, k in enumerate(rest) if k in still),
        )


@dataclass(frozen=True)
class State:
    """u: (B, *S); c: (B, R, *S); q: (B, T, *S), None for one tumor class. Immutable; every change is a new one."""

    sides: Sides
    u: torch.Tensor
    c: torch.Tensor
    q: torch.Tensor | None = None

    @classmethod
    def of(cls, sides: Sides, distances: torch.Tensor, slope: float) -> State:
        """From signed distances to the borders of every class, (B, K, *S) mm, positive inside; slope: of u, per mm.

        Below the tumor the composition is that of the nearest hosts.
        """
        psi = slope * distances
        levels = psi[:, list(sides.rest)]
        columns: list = [None] * len(sides.rest)
        left = torch.ones_like(levels[:, 0])
        for i in sides.others_at:
            columns[i] = left * torch.sigmoid(SHARPNESS * levels[:, i])
            left = left * torch.sigmoid(-SHARPNESS * levels[:, i])
        if sides.hosts_at:
            share = torch.softmax(0.5 * SHARPNESS * levels[:, list(sides.hosts_at)], 1)
            for j, i in enumerate(sides.hosts_at):
                columns[i] = left * share[:, j]
        c = torch.stack(columns, 1)
        own = psi[:, list(sides.tumors)]
        q = torch.softmax(0.5 * SHARPNESS * own, 1) if len(sides.tumors) > 1 else None
        return cls(sides, own.amax(1), c / c.sum(1, keepdim=True), q)

    @property
    def room(self) -> torch.Tensor:
        """H (B, *S): the part of a voxel that is tumor or could become it."""
        return self.c[:, list(self.sides.hosts_at)].sum(1)

    def probabilities(self) -> torch.Tensor:
        """p (B, K, *S), on the simplex."""
        sides, p = self.sides, [None] * (self.c.shape[1] + len(self.sides.tumors))
        tumor, free = torch.sigmoid(self.u), torch.sigmoid(-self.u)
        for i, k in enumerate(sides.rest):
            p[k] = self.c[:, i] * free if i in sides.hosts_at else self.c[:, i]
        mass = tumor * self.room
        for j, k in enumerate(sides.tumors):
            p[k] = mass if self.q is None else mass * self.q[:, j]
        return torch.stack(p, 1)

    def reacted(self, change: torch.Tensor) -> State:
        """After p_k e^{change_k} / Σ_j p_j e^{change_j}, the residual reaction of `physics.reaction.correct`, on these variables."""
        sides = self.sides
        at, other = list(sides.hosts_at), list(sides.others_at)
        host = self.c[:, at] + TRACE
        room = host.sum(1)
        log_hosts = torch.log((host / room.unsqueeze(1) * torch.exp(change[:, [sides.rest[i] for i in at]])).sum(1))
        grown = change[:, list(sides.tumors)]
        if self.q is None:
            q, log_tumor = None, grown[:, 0]
        else:
            weighted = self.q * torch.exp(grown)
            log_tumor = torch.log(weighted.sum(1))
            q = weighted / weighted.sum(1, keepdim=True)
        u = self.u + log_tumor - log_hosts
        columns: list = [None] * len(sides.rest)
        # What a voxel may exchange between tumor and hosts grows by e^log_hosts and e^log_tumor together.
        scale = torch.exp(log_tumor) * torch.sigmoid(self.u) + torch.exp(log_hosts) * torch.sigmoid(-self.u)
        for j, i in enumerate(at):
            columns[i] = host[:, j] * torch.exp(change[:, sides.rest[i]] - log_hosts) * scale
        for i in other:
            columns[i] = self.c[:, i] * torch.exp(change[:, sides.rest[i]])
        c = torch.stack(columns, 1)
        return State(sides, u, c / c.sum(1, keepdim=True), q)

    def with_cavity(self, case: int, place: int, distance_mm: torch.Tensor, slope: float) -> State:
        """One case with the class at `place` of the rest inside of a border, and no tumor there.

        distance_mm: (*S) signed distance to that border, positive inside; slope: of the log-odds, per mm
        """
        inside = torch.sigmoid(SHARPNESS * slope * distance_mm)
        c = self.c[case] * (1 - inside)
        c = torch.cat((c[:place], (c[place] + inside).unsqueeze(0), c[place + 1 :]))
        u = torch.minimum(self.u[case], -slope * distance_mm)
        return self.replaced(case, u, c)

    def replaced(self, case: int, u: torch.Tensor, c: torch.Tensor) -> State:
        """With another u (*S) and c (R, *S) of one case."""
        def put(whole, part):
            return torch.cat((whole[:case], part.unsqueeze(0), whole[case + 1 :]))

        return State(self.sides, put(self.u, u), put(self.c, c), self.q)

    def with_still_of(self, former: State) -> State:
        """With the classes that nothing moves as they were in `former`; all others share the rest as before."""
        still = list(self.sides.still_at)
        if not still:
            return self
        moving = [i for i in range(self.c.shape[1]) if i not in still]
        held = former.c[:, still]
        left = 1 - held.sum(1, keepdim=True)
        others = self.c[:, moving]
        total = others.sum(1, keepdim=True)
        others = others * left / torch.where(total > 0, total, torch.ones_like(total))
        columns: list = [None] * self.c.shape[1]
        for part, places in ((held, still), (others, moving)):
            for j, i in enumerate(places):
                columns[i] = part[:, j]
        c = torch.stack(columns, 1)
        return State(self.sides, self.u, c / c.sum(1, keepdim=True), self.q)

    def tumor_and_hosts(self) -> torch.Tensor:
        """(B, 3, *S) on the simplex: tumor, hosts, everything else."""
        room = self.room
        return torch.stack((torch.sigmoid(self.u) * room, torch.sigmoid(-self.u) * room, functional.relu(1 - room)), 1)
