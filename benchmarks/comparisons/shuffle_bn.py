"""With and without shuffle-BN: python -m benchmarks.comparisons.shuffle_bn [--data FOLDER --eval FOLDER].

Claim (He et al. 2020, arXiv:1911.05722, Sec. 3.3 and Appendix A.9): a query and its key that share batch statistics let the model
cheat, so that it finds its keys more often and its features are worse. Goals: without the shuffle contrast accuracy is
at least that with it; with the shuffle kNN is at least that without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.comparisons.common import UNIT, describe, knn_row, parse, setting, train
from benchmarks.comparisons.plots import Bar, save_bars
from benchmarks.harness import Row, finish


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(__doc__, arguments)
    base = setting(options)
    trained = {
        name: train(name, replace(base, method=replace(base.method, shuffle_bn=shuffles)), options)
        for name, shuffles in (("with shuffle-BN", None), ("without shuffle-BN", False))
    }
    with_it, without = trained.values()
    ratio = without.contrast_accuracy / with_it.contrast_accuracy
    rows = [
        knn_row("with shuffle-BN", with_it.knn, "random encoder", with_it.random_knn),
        knn_row("with shuffle-BN", with_it.knn, "without", without.knn),
        Row(
            case="contrast accuracy without shuffle-BN against with it",
            value=without.contrast_accuracy,
            unit="%",
            baseline=with_it.contrast_accuracy,
            ratio=ratio,
            goal=1.0,
            passed=ratio >= 1.0,
        ),
    ]
    describe(trained)
    if options.plot:
        save_bars(
            options.plot,
            {
                "contrast accuracy, %": [Bar(name, result.contrast_accuracy, 0.0) for name, result in trained.items()],
                UNIT: [Bar(name, result.knn, result.error) for name, result in trained.items()],
            },
            title="Without the shuffle the task leaks",
        )
    finish(rows, options.json)


if __name__ == "__main__":
    main()
