"""kNN against the size of the queue: python -m benchmarks.comparisons.queue_size [--data FOLDER --eval FOLDER].

Claim (He et al. 2020, arXiv:1911.05722, Fig. 3): MoCo's accuracy grows with the number of negatives, by a few points from
256 to 65,536. Goal: each queue is at least as good as that of one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.comparisons.common import describe, knn_row, parse, setting, train
from benchmarks.comparisons.plots import Point, save_lines
from benchmarks.harness import finish


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(__doc__, arguments)
    base = setting(options)
    smallest = base.optim.global_batch_size
    sizes = [smallest, 4 * smallest, 16 * smallest]
    trained = {
        size: train(f"queue of {size:,}", replace(base, method=replace(base.method, queue_size=size)), options)
        for size in sizes
    }
    first = trained[smallest]
    rows = [knn_row(f"queue of {smallest:,}", first.knn, "random encoder", first.random_knn)]
    rows += [
        knn_row(f"queue of {size:,}", trained[size].knn, f"queue of {smallest:,}", first.knn) for size in sizes[1:]
    ]
    describe(trained)
    if options.plot:
        points = [Point(size, result.knn, result.error) for size, result in trained.items()]
        save_lines(
            options.plot,
            {"": points},
            title="kNN by queue size, with standard errors",
            x_label="keys in the queue",
            y_label="kNN, %",
            log=2,
        )
    finish(rows, options.json)


if __name__ == "__main__":
    main()
