"""How images and features go through a module: standardised, under autocast, compiled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moco_ray.core.encoders import normalize

_MOST_SHAPES = 64  # of micro-batches through one encoder, with and without gradient: torch gives up after 8


@dataclass(kw_only=True)
class Encoding:
    """Sends images and features through modules as a run does; an `Encode` of `core/method.py`."""

    mean: Tensor
    """(3,) of red, green and blue in [0, 1]; on the device and in the dtype of the weights."""
    std: Tensor
    """(3,), likewise."""
    autocast: torch.dtype | None
    """What modules cast to; None: nothing."""
    compiler: str | None
    """torch.compile's backend for what images go through; None: it is not compiled."""

    @property
    def dtype(self) -> torch.dtype:
        """In which modules compute."""
        return self.autocast or self.mean.dtype

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        """Apply a module to uint8 images (n, H, W, 3) or features (n, d); the result (n, d) in the dtype of the weights."""
        if x.dtype == torch.uint8:
            self._compile(module)
            x = normalize(x, self.mean, self.std, self.dtype)  # (n, 3, H, W)
        with torch.autocast(self.mean.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            output: Tensor = module(x)
        return output.to(self.mean.dtype)

    def _compile(self, module: nn.Module) -> None:
        """Compile a module that images go through, when the first ones do; its keys stay."""
        if self.compiler and module._compiled_call_impl is None:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_SHAPES)
            module.compile(backend=self.compiler, dynamic=False)
