"""With and without shuffle-BN: python -m benchmarks.comparisons.shuffle_bn [--data FOLDER --eval FOLDER].

Claim (He et al. 2020, arXiv:1911.05722, Sec. 3.3 and Appendix A.9): a query and its key that share batch statistics let the model
cheat, so that it finds its keys more often and its features are worse. Goals: without the shuffle contrast accuracy is
at least that with it, and the loss at most; with the shuffle kNN is at least that without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.comparisons.common import describe, knn_row, parse, setting, train
from benchmarks.comparisons.plots import Bar, save_bars
from benchmarks.harness import at_least, finish


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(__doc__, arguments)
    base = setting(options)
    trained = {
        name: train(name, replace(base, method=replace(base.method, shuffle_bn=shuffles)), options)
        for name, shuffles in (("with shuffle-BN", None), ("without shuffle-BN", False))
    }
    with_it, without = trained.values()
    rows = [
        knn_row("with shuffle-BN", with_it.knn, "random encoder", with_it.random_knn),
        knn_row("with shuffle-BN", with_it.knn, "without", without.knn),
        at_least(
            "contrast accuracy without against with it", without.contrast_accuracy, with_it.contrast_accuracy, "%"
        ),
        at_least("loss with it against without", with_it.loss, without.loss, "nats"),
    ]
    describe(trained)
    for name, result in trained.items():
        print(
            f"{name}: finds its key {result.contrast_accuracy:.2f} ± {result.contrast_error:.2f} %, "
            f"loss {result.loss:.3f} ± {result.loss_error:.3f}"
        )
    if options.plot:
        panels = {
            "loss": [Bar(name, result.loss, result.loss_error) for name, result in trained.items()],
            "contrast accuracy, %": [
                Bar(name, result.contrast_accuracy, result.contrast_error) for name, result in trained.items()
            ],
            "kNN, %": [Bar(name, result.knn, result.error) for name, result in trained.items()],
        }
        save_bars(options.plot, panels, title="With and without shuffle-BN: mean and standard error")
    finish(rows, options.json)


if __name__ == "__main__":
    main()
