"""kNN of four methods after equal training: python -m benchmarks.comparisons.methods_knn [--data FOLDER --eval FOLDER].

The same images in the same order, the same views, backbone and optimizer, and as many images seen; SimCLR with two
sizes of batch. Temperatures: 0.2 for the three dictionaries, 0.1 for SimCLR, as in its paper.

Claims and goals: MoCo v2 is at least as good as SimCLR at the same batch, and SimCLR loses with a small batch (Chen et al.
2020, arXiv:2003.04297, Table 2: 67.5 against 61.9 at 256, and 66.6 at 8192); MoCo is at least as good as the memory bank
(arXiv:1911.05722, Sec. 4.1: by 2.6 points) and, with a queue of many batches, as the end-to-end dictionary of one (Fig. 3).
MoCo v3 is left out: its heads, batch and schedule are its own, and its paper compares it at those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.comparisons.common import describe, knn_row, parse, setting, train, with_batch
from benchmarks.comparisons.plots import Bar, save_bars
from benchmarks.harness import finish
from moco_ray import Config
from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.methods.simclr import SimCLRConfig

_FEWER = 4  # the small batch is this part of the usual one


def cases(base: Config) -> dict[str, Config]:
    assert isinstance(base.method, MoCoConfig)
    size = base.optim.global_batch_size
    small = size // _FEWER
    temperature = base.method.temperature
    simclr = replace(base, method=SimCLRConfig())
    return {
        f"MoCo v2, {size}": base,
        f"SimCLR, {size}": simclr,
        f"SimCLR, {small}": with_batch(simclr, small),
        f"memory bank, {size}": replace(
            base, method=MemoryBankConfig(num_negatives=base.method.queue_size, temperature=temperature)
        ),
        f"end-to-end, {size}": replace(base, method=EndToEndConfig(temperature=temperature)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(__doc__, arguments)
    trained = {name: train(name, config, options) for name, config in cases(setting(options)).items()}
    moco, simclr, simclr_small, bank, end_to_end = trained
    rows = [knn_row(moco, trained[moco].knn, "random encoder", trained[moco].random_knn)]
    pairs = [(moco, simclr), (simclr, simclr_small), (moco, bank), (moco, end_to_end)]
    rows += [knn_row(ours, trained[ours].knn, theirs, trained[theirs].knn) for ours, theirs in pairs]
    describe(trained)
    if options.plot:
        bars = [Bar(name, result.knn, result.error) for name, result in trained.items()]
        save_bars(
            options.plot, {"kNN, %": bars}, title="kNN after equal training, by method and batch, with standard errors"
        )
    finish(rows, options.json)


if __name__ == "__main__":
    main()
