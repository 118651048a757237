"""Runs that learn nothing: how an evaluation shows it, and the cause that fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_MANY = 0.5  # share of the images
_NO_SPREAD = 2e-3  # -uniformity: about the mean squared distance of two embeddings, times 2
_HARDLY_MOVED = 1e-6
_SMALL_TEMPERATURE, _SENSELESS_TEMPERATURE = 0.02, 0.005
_LARGE_TEMPERATURE, _SMALL_MOMENTUM, _LARGE_DECAY = 2.0, 0.9, 1e-2
_NO_LOSS = 1e-3
SETTLED = 20  # updates after which the start makes up an eighth of a BatchNorm's running statistics (momentum 0.1)


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What is known of the training beside an evaluation."""

    loss: float | None
    """The newest training loss."""
    temperature: float | None
    """Of the method's softmax; None without one."""
    effective_lr: float
    """The learning rate for the batch, at its highest."""
    moved: float | None
    """How far the weights are from those of the start, relative to their length; None where that is not known."""
    encoder_momentum: float | None = None
    """Of the key encoder; None without one that follows."""
    weight_decay: float = 0.0
    """Times the learning rate, as SGD and LARS have it; 0 for others."""
    norm_updates: int | None = None
    """How often the running statistics of BatchNorm have been updated; None for a network without any."""


def diagnose(line: Mapping[str, Any], learning: Learning) -> dict[str, str]:
    """Say why nothing is learned, if that is so.

    Args:
        line: Of eval.jsonl.
        learning: Of the run so far.

    Returns:
        Sentences for the user by a name of the cause; mostly none.
    """
    flat, distinct = line.get("eval/flat", 0.0), line.get("eval/distinct", 1.0)
    if flat > _MANY:
        return {
            "flat": f"{_percent(flat)} of the images that are measured have hardly any contrast: of nearly one colour, they "
            "hold nothing to learn from. An empty scan, a drawing that is in the alpha channel alone, or a few bits in the "
            "lowest part of their range look like this; look at some of them, and at report/views.png"
        }
    if distinct < _MANY:
        return {
            "identical": f"only {_percent(distinct)} of the images that are measured differ from all others: the network "
            "must tell identical images apart and learns what they do not differ in; remove the copies"
        }
    if line["step"] == 0:
        return {}
    if learning.moved is not None and learning.moved < _HARDLY_MOVED:
        return {
            "still": f"the weights have not changed in {line['step']:,} steps (by {learning.moved:.0e} of their length): the "
            f"effective learning rate of {learning.effective_lr:.1e} is too low; raise optim.lr, or check the schedule"
        }
    has_no_loss = learning.loss is not None and learning.loss < _NO_LOSS
    temperature = math.inf if learning.temperature is None else learning.temperature
    if temperature < _SENSELESS_TEMPERATURE or (has_no_loss and temperature < _SMALL_TEMPERATURE):
        loss = "" if learning.loss is None else f" (the loss is {learning.loss:.4g})"
        return {
            "temperature": f"divided by method.temperature {temperature:g} the smallest difference of two similarities "
            f"decides, and nothing is left to learn{loss}; use 0.05 to 1"
        }
    if -line.get("eval/uniformity", -1.0) < _NO_SPREAD:
        seen = f"all images have nearly the same embedding (uniformity {line['eval/uniformity']:.0e}, RankMe {line['eval/rankme']:.1f})"
        if learning.norm_updates is not None and learning.norm_updates < SETTLED:
            return {
                "unsettled": f"the encoder has collapsed, or it looks so because the running statistics of its BatchNorm are "
                f"those of {learning.norm_updates} steps: {seen}. If an evaluation after {SETTLED} steps or more says it "
                f"again, begin anew, and {cure(learning)}"
            }
        return {"collapse": f"the encoder has collapsed: {seen}. Begin anew, and {cure(learning)}"}
    return {}


def cure(learning: Learning) -> str:
    """What to try where all embeddings become alike, the likeliest first."""
    tau, momentum, wishes = learning.temperature, learning.encoder_momentum, []
    if tau is not None and tau < _SMALL_TEMPERATURE:
        return f"raise method.temperature, which is {tau:g}, to 0.07 or more"
    if momentum is not None and momentum < _SMALL_MOMENTUM:
        wishes.append(f"raise method.encoder-momentum, which is {momentum:g}, to 0.99 or more")
    if tau is not None and tau > _LARGE_TEMPERATURE:
        wishes.append(f"lower method.temperature, which is {tau:g}, to 0.05 to 1")
    if learning.weight_decay > _LARGE_DECAY:
        wishes.append(f"lower optim.weight-decay, which is {learning.weight_decay:g}, to 1e-4")
    wishes.append(f"lower the learning rate (effective {learning.effective_lr:g}) or warm up (optim.warmup-epochs)")
    return ", or ".join(wishes)


def relative_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """How far weights have moved, relative to their length."""
    moved = sum(float((after[name].double() - weight.double()).square().sum()) for name, weight in before.items())
    length = sum(float(weight.double().square().sum()) for weight in before.values())
    return float((moved / max(length, 1e-300)) ** 0.5)


def weights_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the query encoder in a method's state, without the statistics of BatchNorm, which move by themselves."""
    return {
        name: value
        for name, value in state.items()
        if name.startswith("query_encoder.") and value.is_floating_point() and ".running_" not in name
    }


def norm_updates(state: Mapping[str, Tensor]) -> int | None:
    """How often the statistics of the query encoder's BatchNorms have been updated, from a method's state."""
    counts = [
        int(value)
        for name, value in state.items()
        if name.startswith("query_encoder.") and name.endswith(".num_batches_tracked")
    ]
    return min(counts) if counts else None


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
