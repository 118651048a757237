"""Checks of configurations that several methods share."""

from __future__ import annotations


def check_fields(*, temperature: float, encoder_momentum: float = 0.0) -> None:
    """Check a temperature and a momentum.

    Raises:
        ValueError: They are out of range.
    """
    if not temperature > 0:
        raise ValueError(f"method.temperature is {temperature}; use a number above 0")
    if not 0 <= encoder_momentum <= 1:
        raise ValueError(f"method.encoder-momentum is {encoder_momentum}; use a number in [0, 1]")


def check_shuffle(shuffle_bn: bool | None, has_batch_norm: bool) -> None:
    """Check that there is something to shuffle for.

    Raises:
        ValueError: A shuffle is asked for, and the network has no BatchNorm.
    """
    if shuffle_bn and not has_batch_norm:
        raise ValueError(
            "method.shuffle-bn is on, but the network has no BatchNorm whose statistics a query and its key could share; "
            "drop the flag"
        )
