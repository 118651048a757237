"""The names of the numbers that a run can compute in."""

from __future__ import annotations

import torch

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_of(dtype: str) -> torch.dtype | None:
    """What a run of that dtype casts to; None: nothing."""
    return _AUTOCAST.get(dtype)


def weights_of(dtype: str) -> torch.dtype:
    """Of weights, and of all that is not cast."""
    return torch.float64 if dtype == "float64" else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16 rather than imitates it; CPUs count as not."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def encoding_autocast(dtype: str, device: torch.device) -> torch.dtype | None:
    """What an encoder that only encodes casts to; None: nothing. "auto" is bfloat16 where a GPU has it."""
    if dtype == "auto":
        return torch.bfloat16 if has_bfloat16(device) else None
    return autocast_of(dtype)
