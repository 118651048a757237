"""Memory that a worker of each preset takes, counted on tensors without content: python -m benchmarks.memory [PRESET ...].

Trained state (weights, gradients, the optimizer's moments, keys that are kept) stays; activations are what the backward
pass needs of one BatchNorm group, and what goes through an encoder at once decides how many groups that is. Both in GB
of bfloat16 autocast over float32 weights; in float32 activations take twice as much. As a Markdown table.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from moco_ray.cli.presets import load_preset
from moco_ray.config.presets import PRESETS
from moco_ray.driver.estimate import measure_size
from moco_ray.tasks.pretraining import PRETRAINING

_NUM_IMAGES = 1_281_167  # ImageNet's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"of {', '.join(PRESETS)}; none: all")
    names = parser.parse_args().presets or list(PRESETS)
    print("| preset | weights | checkpoint | trained state | activations of a group | a worker with the whole batch |")
    print("|---|---|---|---|---|---|")
    for name in names:
        config = PRETRAINING.resolve(load_preset(name), _NUM_IMAGES)
        config = replace(config, run=replace(config.run, dtype="bfloat16"))
        size = measure_size(config, _NUM_IMAGES, torch.device("cpu"))
        whole = size.training + size.all_activations
        group = f"{size.activations / 1e9:.2f} GB ({config.optim.group_size} images)" if size.can_be_cut else "not cut"
        print(
            f"| `{name}` | {size.parameters / 1e6:.1f} M | {size.checkpoint / 1e6:,.0f} MB | {size.training / 1e9:.2f} GB "
            f"| {group} | {whole / 1e9:.1f} GB |"
        )


if __name__ == "__main__":
    main()
