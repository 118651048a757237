"""How the encoder of a run is watched while it learns."""

from __future__ import annotations

from dataclasses import dataclass

from moco_ray.config.types import take_own_values


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation while training. kNN as in the reference's demo: k 200 where classes are that large, temperature 0.1."""

    uri: str = ""
    """Labelled images to classify. Empty: the val or test part of data.uri, if there is one; else a hold-out of the
    training images, if they have labels."""
    every_steps: int | None = None
    """Steps between evaluations. None: about 20 in a run, at most once an epoch."""
    holdout_fraction: float = 0.1
    """Share of labelled training images that training never sees, if no other images are to be classified."""
    max_queries: int = 2000
    """Images to classify at most."""
    max_bank: int = 10_000
    """Labelled images to find neighbours among, at most."""
    k: int | None = None
    """Neighbours that vote. None: 200, or half of the median class of the bank where that is fewer."""
    temperature: float = 0.1
    """Temperature of their weights, exp(similarity / temperature)."""
    resize_px: int | None = None
    """Shorter side before the centre crop. None: crop_px * 8 / 7 from 128 pixels on (256 for 224), else crop_px."""
    max_time_fraction: float = 0.05
    """Share of the time that evaluations may block training for, where no slot is free for them. 1: training waits for
    each of them, wherever it runs, and none is left out."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: A size or a share is impossible.
        """
        take_own_values(self, "eval")
        if not 0 <= self.holdout_fraction < 1:
            raise ValueError(f"eval.holdout-fraction is {self.holdout_fraction}; use a share in [0, 1), 0 for none")
        if self.max_queries < 2:
            raise ValueError(f"eval.max-queries is {self.max_queries}; use at least 2, normally 2000")
        positive = {
            "eval.every-steps": self.every_steps,
            "eval.max-bank": self.max_bank,
            "eval.k": self.k,
            "eval.temperature": self.temperature,
            "eval.resize-px": self.resize_px,
        }
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; use a number above 0")
        if not 0 <= self.max_time_fraction <= 1:
            raise ValueError(f"eval.max-time-fraction is {self.max_time_fraction}; use a share in [0, 1]")
