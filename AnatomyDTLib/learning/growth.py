"""The growth network: learned residual rates on top of the mechanistic reaction (paper, section 2.3)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
from torch import nn

FORMAT = "anatomydt-growth-1"


@dataclass(frozen=True)
class GrowthConfig:
    """classes: tissue names in the order of the state; axes: 2 or 3; images: number of image channels

    exposures: treatment channels (dose given so far, drug concentration); width: channels of the hidden layers
    limit_per_day: k_max, the largest rate, 1/day
    """

    classes: tuple[str, ...]
    axes: int = 3
    images: int = 0
    exposures: int = 2
    width: int = 16
    limit_per_day: float = 0.02


class GrowthNetwork(nn.Module):
    """r_k = p_k g_k with |g_k| ≤ k_max and Σ_k p_k g_k = 0; acts on the reaction term, evaluated at t_n.

    g = a − Σ_j p_j a_j with a = (k_max / 2) tanh(net(p, exposure, images)). Convolutions only, so that it is translation
    equivariant, works on any size, and sees 5 voxels across. Zero at initialisation: an untrained twin is the
    mechanistic model.
    """

    def __init__(self, config: GrowthConfig):
        super().__init__()
        self.config = config
        convolution = (nn.Conv2d, nn.Conv3d)[config.axes - 2]
        inputs = len(config.classes) + config.exposures + config.images
        self.net = nn.Sequential(
            convolution(inputs, config.width, 3, padding=1, padding_mode="replicate"), nn.SiLU(),
            convolution(config.width, config.width, 3, padding=1, padding_mode="replicate"), nn.SiLU(),
            convolution(config.width, len(config.classes), 1),
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, p: torch.Tensor, exposure: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        """Rates g (B, K, *S), 1/day. p: (B, K, *S); exposure: (B, E); images: (B, I, *S), scaled to about 0..1."""
        shape = (p.shape[0], self.config.exposures, *p.shape[2:])
        channels = [p, exposure.reshape(*exposure.shape, *[1] * (p.dim() - 2)).expand(shape)]
        if images is not None:
            channels.append(images)
        raw = 0.5 * self.config.limit_per_day * torch.tanh(self.net(torch.cat(channels, 1)))
        return raw - (p * raw).sum(1, keepdim=True)


def save_growth(network: GrowthNetwork, path) -> None:
    """Writes weights and configuration as safetensors."""
    from safetensors.torch import save_file

    meta = {"format": FORMAT, "config": json.dumps(asdict(network.config))}
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, str(path), metadata=meta)


def load_growth(path, classes: tuple[str, ...], axes: int) -> GrowthNetwork:
    """Reads weights that were trained for these classes and this number of axes.

    Raises ValueError with one sentence when the file is missing, is no such file, or was trained for something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            meta = stream.metadata() or {}
            state = {key: stream.get_tensor(key) for key in stream.keys()}
    except FileNotFoundError:
        raise ValueError(f"the weights file {path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the weights file {path} cannot be read as safetensors: {error}") from None
    if meta.get("format") != FORMAT:
        raise ValueError(f"the weights file {path} does not hold an AnatomyDT growth network")
    try:
        values = json.loads(meta["config"])
        config = GrowthConfig(**{**values, "classes": tuple(values["classes"])})
        network = GrowthNetwork(config)
        network.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise ValueError(f"the weights file {path} is damaged: its configuration and its weights do not agree") from None
    if config.classes != tuple(classes):
        raise ValueError(f"the weights were trained for the tissues {', '.join(config.classes)}, not for {', '.join(classes)}")
    if config.axes != axes:
        raise ValueError(f"the weights were trained for {config.axes}D images, not for {axes}D")
    return network.eval()


def exposure(course, day: float) -> tuple[float, float]:
    """What the network sees of the treatment at a day: radiation given so far (units of 60 Gy), drug concentration.

    course: a `physics.stepping.Course`. A dose map counts with its largest value.
    """
    given = sum(float(torch.as_tensor(e.dose_gy).max()) for when, e in course.events if when <= day and hasattr(e, "dose_gy"))
    concentration = 0.0
    for drug in course.drugs:
        for when, dose in zip(drug.days, drug.doses.tolist()):
            if when <= day:
                concentration += dose * 0.5 ** ((day - when) / float(drug.half_life))
    return given / 60.0, concentration
