"""The methods as the tests of all of them build them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from moco_ray.config.method import MethodConfig
from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.config.methods.simclr import SimCLRConfig
from moco_ray.config.model import ModelConfig
from moco_ray.core.step import Learner
from tests.core.tiny import TinyResNet, TinyViT, method_learner

V3_HEADS = ModelConfig(projector="mlp-bn", projector_layers=3, hidden_dim=16, dim=8)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method on a network."""

    config: MethodConfig
    backbone: Callable[[], nn.Module] = TinyResNet
    model: ModelConfig | None = None
    can_be_cut: bool = True

    def learner(self, micro_batch_groups: int | None = None) -> Learner:
        return method_learner(
            self.config,
            self.backbone,
            model=self.model,
            micro_batch_groups=micro_batch_groups,
            num_images=292,
        )


CASES = {
    "moco symmetric": Case(config=MoCoConfig(queue_size=70, encoder_momentum=0.99, symmetric=True, shuffle_bn=True)),
    "moco-v3 resnet": Case(
        config=MoCoV3Config(temperature=1.0, encoder_momentum=0.9, predictor_last_bn=False),
        model=V3_HEADS,
        can_be_cut=False,
    ),
    "moco-v3 vit": Case(config=MoCoV3Config(encoder_momentum=0.9), backbone=TinyViT, model=V3_HEADS),
    "end-to-end": Case(config=EndToEndConfig(temperature=0.2, shuffle_bn=True)),
    "memory-bank": Case(config=MemoryBankConfig(num_negatives=60, temperature=0.2)),
    "simclr resnet": Case(config=SimCLRConfig(temperature=0.5), can_be_cut=False),
    "simclr vit": Case(config=SimCLRConfig(temperature=0.5), backbone=TinyViT, model=V3_HEADS, can_be_cut=False),
    "simclr vit, plain head": Case(config=SimCLRConfig(temperature=0.5), backbone=TinyViT),
}
