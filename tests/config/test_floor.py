"""The floor of the loss, against points that are spread by gradient descent, in the methods' own losses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import gammaln, ive
from torch import Tensor, nn

from moco_ray.config import Config
from moco_ray.config.methods import AnyMethod
from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.config.methods.floor import info_nce_floor, mean_weight
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.config.methods.simclr import SimCLRConfig
from moco_ray.config.model import ModelConfig
from moco_ray.core.batch import resident_batch
from moco_ray.core.encoders import build_encoder
from moco_ray.core.method import Setting
from moco_ray.core.methods.memory_bank import _Keys as BankKeys
from moco_ray.core.methods.moco import MoCo
from moco_ray.core.methods.moco import _Keys as MoCoKeys
from moco_ray.tasks.pretraining import PRETRAINING

_MODEL = ModelConfig(arch="tiny_resnet", projector="mlp-bn", dim=3)
_IMAGES, _TAU = 60, 0.5


def _bessel(temperature: float, dim: int) -> float:
    """E[exp((u.v - 1) / tau)] by scipy's Bessel function: the von Mises-Fisher constant over that of the sphere."""
    order, kappa = dim / 2 - 1, 1 / temperature
    return math.exp(gammaln(dim / 2) + order * math.log(2 / kappa) + math.log(ive(order, kappa)))


@pytest.mark.parametrize(("temperature", "dim"), [(0.2, 128), (0.07, 128), (1, 256), (0.001, 2), (0.1, 3), (10, 16)])
def test_the_mean_over_the_sphere_is_that_of_bessels_function(temperature: float, dim: int) -> None:
    assert mean_weight(temperature, dim) == pytest.approx(_bessel(temperature, dim), rel=1e-7)


def test_it_lies_between_the_bound_of_any_vectors_and_chance_and_never_overflows() -> None:
    for temperature in (1e-42, 1e-3, 0.07, 0.2, 1.0, 1e6):
        for dim in (1, 2, 128, 4096):
            floor = info_nce_floor(65_536, temperature, dim)
            assert math.log1p(65_536 * math.exp(-2 / temperature)) <= floor <= math.log1p(65_536)
    assert info_nce_floor(65_536, 0.2, 128) == pytest.approx(6.19, abs=0.005)
    assert info_nce_floor(65_536, 0.07, 128) == pytest.approx(0.087, abs=0.0005)
    assert info_nce_floor(65_536, 1.0, 128) == pytest.approx(10.09, abs=0.005)  # of 11.09 at chance: it looks stuck


@pytest.fixture(scope="module")
def spread() -> Tensor:
    """Points on the sphere that gradient descent has spread as InfoNCE wants them, each among the negatives of all."""
    points = torch.randn(_IMAGES, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.05)
    for _ in range(400):
        unit = F.normalize(points, dim=1)
        loss = torch.logsumexp(unit @ unit.T / _TAU, dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return F.normalize(points.detach(), dim=1)


def _loss(config: AnyMethod, x: Tensor) -> float:
    """The method's own loss of a batch whose queries are their keys, and whose dictionary is all of them."""
    method = config.build(build_encoder(_MODEL, 32), Setting(seed=0, model=_MODEL, num_images=len(x)))
    pixels = torch.zeros(len(x), 1, 1, 3, dtype=torch.uint8)
    batch = resident_batch(pixels, pixels, np.arange(len(x)), step=0, seed=0, num_groups=1, shuffle_bn=False)
    outputs, keys = [x, x], None
    if isinstance(method, MoCo):
        outputs = [torch.cat([x] * method.queries_per_image)]
        keys, method.queue.keys = MoCoKeys(x, outputs[0]), x
    elif isinstance(config, MoCoV3Config):
        keys = [x, x]
    elif isinstance(config, MemoryBankConfig):
        keys = BankKeys(x, x, torch.zeros(len(x), len(x), dtype=torch.bool))
    elif isinstance(config, SimCLRConfig):
        outputs = [torch.cat([x, x])]

    def encode(module: nn.Module, features: Tensor) -> Tensor:
        return features

    return float(method.loss(outputs, keys, slice(None), batch, encode).total) / len(x)


@pytest.mark.parametrize(
    "config",
    [
        MoCoConfig(queue_size=_IMAGES, temperature=_TAU),
        MoCoConfig(queue_size=_IMAGES, temperature=_TAU, symmetric=True),
        MemoryBankConfig(num_negatives=_IMAGES, temperature=_TAU),
        EndToEndConfig(temperature=_TAU, shuffle_bn=False),
        MoCoV3Config(temperature=_TAU),
        SimCLRConfig(temperature=_TAU),
    ],
    ids=["moco", "symmetric", "memory-bank", "end-to-end", "moco-v3", "simclr"],
)
def test_what_gradient_descent_reaches_is_the_floor(config: AnyMethod, spread: Tensor) -> None:
    floor = config.floor_loss(_IMAGES, 3)
    reached = _loss(config, spread)
    if isinstance(
        config, MoCoConfig | MemoryBankConfig
    ):  # whose dictionary holds all of the images, as that of many does
        assert floor <= reached <= floor * 1.001
    else:  # each of few images is unlike all its negatives, which spread a little better than evenly
        scale = 4 * _TAU if isinstance(config, MoCoV3Config) else 1.0
        fewer = (_IMAGES * mean_weight(_TAU, 3) - 1) / (_IMAGES - 1)
        negatives = math.expm1(floor / scale) / mean_weight(_TAU, 3)
        if not isinstance(config, SimCLRConfig):
            assert scale * math.log1p(negatives * fewer) <= reached * 1.0001
        assert floor * 0.96 < reached < floor
    random = F.normalize(torch.randn(_IMAGES, 3, dtype=torch.float64), dim=1)
    assert reached < _loss(config, random) < config.chance_loss(_IMAGES) * 1.1


def test_a_run_says_it_beside_chance() -> None:
    config = Config(method=MoCoConfig(temperature=1.0))
    said = PRETRAINING.opening(config)
    assert "11.09 is chance" in said[0]
    assert said[1].startswith("a loss of 10.09 is the floor at method.temperature 1:")
    assert replace(config, method=MoCoConfig()).method.floor_loss(256, 128) == pytest.approx(6.19, abs=0.005)
