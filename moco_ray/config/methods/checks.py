"""Checks of configurations that several methods share."""

from __future__ import annotations

_MOST_KEYS = 2**24  # each query of a batch is compared with all of them


def check_dictionary(name: str, num_keys: int | None) -> None:
    """Check how many keys a query is compared with.

    Raises:
        ValueError: They are more than anybody means.
    """
    if num_keys is not None and num_keys > _MOST_KEYS:
        raise ValueError(
            f"{name} {num_keys:,} is more than {_MOST_KEYS:,}, which no memory holds; the paper's is 65,536"
        )


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
