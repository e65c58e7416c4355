"""Problems that the tests of the physics share: a state with held classes in an irregular mask, equations on it."""

import torch

from AnatomyDTLib.physics.equation import CrossDiffusion

torch.set_num_threads(1)

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
TUMOR, WHITE, GREY, CSF, VENTRICLE, BACKGROUND = range(6)
GIVERS = (WHITE, GREY, CSF)
YIELDS = (GIVERS, (), (), (), (), ())
NO_DEAD = (-1,) * 6


def coordinates(shape, spacing=None):
    """Voxel centres about the middle, mm: one (*S) tensor per axis, float64."""
    spacing = spacing or (1.0,) * len(shape)
    axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * h for n, h in zip(shape, spacing)]
    return torch.meshgrid(*axes, indexing="ij")


def radius(shape, spacing=None):
    return sum(x * x for x in coordinates(shape, spacing)).sqrt()


def brain(shape, dtype=torch.float32, device="cpu", seed=0):
    """(1, 6, *S): tumor, three classes that give way, ventricle and background that hold; irregular, partial voxels."""
    random = torch.Generator().manual_seed(seed)
    distance = radius(shape)
    hosts = torch.rand((3, *shape), generator=random, dtype=torch.float64) + 0.05
    tumor = 0.9 * torch.exp(-((distance / 3) ** 2))
    p = torch.cat((tumor[None], (1 - tumor) * hosts / hosts.sum(0), torch.zeros(2, *shape, dtype=torch.float64)))
    outside = distance + 2 * torch.rand(shape, generator=random, dtype=torch.float64) > min(shape) / 2 - 1
    beside = sum((x - 4) ** 2 for x in coordinates(shape)).sqrt() < 2.5
    soft = torch.rand(shape, generator=random, dtype=torch.float64)
    part = torch.where(soft < 0.3, soft.clamp(min=0.05), torch.ones_like(soft))
    for k, where in ((VENTRICLE, beside), (BACKGROUND, outside)):
        share = torch.where(where, part, torch.zeros_like(part))
        p = p * (1 - share)
        p[k] += share
    return (p / p.sum(0)).to(device=device, dtype=dtype)[None]


def equation(p, diffusivity=0.65, *, spacing=None, yields=YIELDS, dead=NO_DEAD, **terms):
    """A `CrossDiffusion` whose class 0 diffuses; `diffusivity` a number or a tensor in one of its forms."""
    if not torch.is_tensor(diffusivity):
        diffusivity = torch.tensor([diffusivity, *[0.0] * (p.shape[1] - 1)], dtype=p.dtype, device=p.device)
    return CrossDiffusion(spacing or (1.0,) * (p.dim() - 2), diffusivity, yields, dead=dead, **terms)


def pair(u):
    """The state (1, 2, *S) of a class u and the one that gives way to it."""
    return torch.stack((u, 1 - u))[None]


def pair_equation(p, diffusivity, *, spacing=None, rho=0.0, dead=(1, -1), **terms):
    if not torch.is_tensor(diffusivity):
        diffusivity = torch.tensor([diffusivity, 0.0], dtype=p.dtype, device=p.device)
    if rho is not None and not torch.is_tensor(rho):
        rho = torch.tensor([rho, 0.0], dtype=p.dtype, device=p.device)
    return equation(p, diffusivity, spacing=spacing, yields=((1,), ()), dead=dead, rho=rho, **terms)


def mass(p):
    """Of each class, in voxels, summed in float64."""
    return p.double().sum((0, *range(2, p.dim())))


def run(stepper, p, dt, steps):
    """`steps` steps of alternating order, without gradients."""
    with torch.no_grad():
        p = p.clone()
        for i in range(steps):
            p = stepper.step(p, dt, reverse=i % 2 == 1)
    return p


def dice(a, b):
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def coarse(field, factor):
    """Means over blocks of so many voxels along every axis."""
    for axis in range(field.dim()):
        field = field.unflatten(axis, (-1, factor)).mean(axis + 1)
    return field
