"""What each preset would take for the images at hand, and which of them this machine has the memory for."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch

from moco_ray.config import Config
from moco_ray.config.presets import PRESETS
from moco_ray.driver.estimate import Size, measure_size
from moco_ray.driver.images.listing import last_step
from moco_ray.driver.memory import free_memory
from moco_ray.tasks.pretraining import PRETRAINING
from moco_ray.worker.progress import duration

log = logging.getLogger(__name__)

# Those that a user chooses among; the others are older recipes, longer ones, and what the papers compare with.
_CHOICE = ("small", "cifar10", "moco-v2", "moco-v3-vit-mini", "moco-v3-vit-small", "moco-v3-resnet50")
_FEWEST_BATCHES = 4  # of an epoch
_LARGEST_CROP, _SMALLEST_CROP = 2.0, 1 / 6  # in shorter sides of the images
_ROOM = {
    "cuda": 0.9,
    "cpu": 0.6,
}  # of the memory: kernels and the batches that come take the rest, on a CPU all processes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a preset would take, estimated for one worker."""

    preset: str
    """Its name."""
    is_chosen: bool
    """Whether it is that of the run, with the run's settings."""
    is_suggested: bool
    """Whether it is the one that fits the images."""
    images_a_batch: int
    """Of the global batch."""
    memory: int
    """Bytes with all of the batch at once."""
    groups_at_once: int | None
    """BatchNorm groups of which there is memory for here, at most those of the batch; None where that is not known."""
    num_groups: int
    """Those of the batch."""
    can_be_cut: bool
    """Whether fewer than all of them can be trained at once."""
    step_s: float
    """Seconds of a step."""
    run_s: float
    """Seconds of all steps, for these images."""

    @property
    def fits(self) -> bool | None:
        """Whether it can be trained here, if need be in micro-batches; None where that is not known."""
        if self.groups_at_once is None:
            return None
        return self.groups_at_once >= (1 if self.can_be_cut else self.num_groups)


def suggest_preset(num_images: int, median_px: float) -> str:
    """The preset that fits so many images of such a shorter side, in pixels."""
    if median_px <= 40 and num_images >= 10_000:
        return "cifar10"
    return "small" if num_images < 100_000 else "moco-v2"


def costs_of_presets(
    config: Config,
    num_images: int,
    median_px: float,
    device: torch.device,
    *,
    flops_per_s: float,
    seconds_an_image: float,
) -> list[Cost]:
    """Estimate the presets that make sense for some images, the run's own among them.

    Args:
        config: Of the run, with every automatic value decided.
        num_images: To train on.
        median_px: Median of their shorter sides.
        device: Where they would be trained.
        flops_per_s: What the network of the run has reached here.
        seconds_an_image: To decode one and make its views, with all cores.
    """
    suggested = suggest_preset(num_images, median_px)
    memory, costs = free_memory(device), []
    for name, of_preset in _choice(config, num_images, median_px, suggested).items():
        try:
            size = measure_size(of_preset, num_images, device)
        except (ValueError, RuntimeError) as error:  # one that cannot be had is no reason not to tell of the others
            log.debug(f"preset {name}: {error}")
            continue
        batch = of_preset.optim.global_batch_size
        step_s = max(size.flops / flops_per_s, seconds_an_image * batch)
        costs.append(
            Cost(
                preset=name,
                is_chosen=name == config.preset,
                is_suggested=name == suggested,
                images_a_batch=batch,
                memory=size.training + size.all_activations,
                groups_at_once=None
                if memory is None
                else min(size.num_groups, size.groups_at_once(_ROOM[device.type] * memory)),
                num_groups=size.num_groups,
                can_be_cut=size.can_be_cut,
                step_s=step_s,
                run_s=step_s * last_step(of_preset, num_images),
            )
        )
    return costs


def say_costs(costs: list[Cost], config: Config, size: Size, device: torch.device) -> list[str]:
    """Lines for the user: a table, and what the run's own batch could be here."""
    memory = free_memory(device)
    where = "the GPU" if device.type == "cuda" else "the CPU"
    has = "how much memory there is cannot be known" if memory is None else f"{memory / 1e9:,.1f} GB of memory are free"
    rows = [("preset", "batch", "memory", "a step", "these images", "fits here")]
    for cost in costs:
        mark = " (this run)" if cost.is_chosen else ""
        mark += " (suggested)" if cost.is_suggested else ""
        row = (f"{cost.preset}{mark}", f"{cost.images_a_batch:,}", f"{cost.memory / 1e9:,.1f} GB")
        rows.append((*row, _time(cost.step_s), _time(cost.run_s), _fits(cost)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        "    " + "  ".join(f"{cell:{'<' if i in (0, 5) else '>'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in rows
    ]
    head = f"presets for these images, estimated for one worker on {where} here, where {has}; times by the work of each network:"
    lines = [head, *table]
    if memory is not None:
        lines.append(_largest(config, size, _ROOM[device.type] * memory, is_gpu=device.type == "cuda"))
    suggested = next((cost for cost in costs if cost.is_suggested), None)
    if suggested is not None:
        lacks = "" if suggested.fits is not False else ", for which this machine lacks the memory"
        lines.append(f"suggested preset: {suggested.preset}{lacks}")
    return lines


def _choice(config: Config, num_images: int, median_px: float, suggested: str) -> dict[str, Config]:
    """Presets by name, with the run's images."""
    found: dict[str, Config] = {}
    for name, make in PRESETS.items():
        if name == config.preset:
            found[name] = config
            continue
        preset = make()
        crop, batch = preset.views.crop_px, preset.optim.global_batch_size
        is_of_size = _SMALLEST_CROP * median_px <= crop <= _LARGEST_CROP * median_px
        makes_sense = name in _CHOICE and is_of_size and _FEWEST_BATCHES * batch <= num_images
        if makes_sense or name == suggested:
            mine = replace(preset, data=config.data, run=replace(preset.run, dtype=config.run.dtype))
            found[name] = PRETRAINING.resolve(mine, num_images)
    if config.preset not in PRESETS:
        found = {config.preset: config, **found}
    return found


def _largest(config: Config, size: Size, memory: float, *, is_gpu: bool) -> str:
    """What the batch of the run could be here."""
    groups, own = size.groups_at_once(memory), config.optim.bn_groups
    batch, group_size = config.optim.global_batch_size, config.optim.group_size
    if groups >= own:
        return f"this run's batch of {batch:,} fits whole; up to about {groups * group_size:,} images of its size would"
    if not size.can_be_cut:
        return (
            f"this run's batch of {batch:,} does not fit, and cannot be cut: up to about {groups * group_size:,} images do; use "
            "more workers, or a smaller optim.global-batch-size or views.crop-px"
        )
    if groups == 0:
        return (
            f"not one of this run's groups of {group_size:,} images fits: use more optim.bn-groups (smaller groups) or a smaller "
            "views.crop-px"
        )
    found = ", which it finds by itself" if is_gpu else ""
    return (
        f"this run's batch of {batch:,} fits in micro-batches of up to {groups:,} of its {own:,} groups "
        f"({groups * group_size:,} images): --run.micro-batch-groups {groups}{found}"
    )


def _fits(cost: Cost) -> str:
    if cost.groups_at_once is None or cost.fits is None:
        return "?"
    if cost.groups_at_once >= cost.num_groups:
        return "yes"
    return f"{cost.groups_at_once} of {cost.num_groups} groups at a time" if cost.fits else "no"


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"
