"""From MoCo v1 to v2, one change at a time: python -m benchmarks.comparisons.ablation [--data FOLDER --eval FOLDER].

Claim (Chen et al. 2020, arXiv:2003.04297, Table 1 and Sec. 3; ImageNet, 200 epochs, linear top-1): v1 60.6; MLP head 62.9 at
temperature 0.07 and 66.2 at 0.2; v2's views 63.4; both 67.3; and a cosine schedule 67.5. Goal: each is at least what the
paper says it improves on. Milestones lie at 3/5 and 4/5 of the training, as 120 and 160 of 200 epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.comparisons.common import describe, knn_row, parse, setting, train
from benchmarks.comparisons.plots import Bar, save_bars
from benchmarks.harness import finish
from moco_ray import Config
from moco_ray.config.views import v1_views, v2_views

V1, MLP, MLP_02, VIEWS = "v1", "+ MLP", "+ MLP, temperature 0.2", "+ v2 views"
MLP_VIEWS, V2 = "+ MLP, temperature 0.2, v2 views", "v2: all that and cosine"
_IMPROVES_ON = (
    (MLP, V1),
    (MLP_02, MLP),
    (VIEWS, V1),
    (MLP_VIEWS, MLP_02),
    (MLP_VIEWS, VIEWS),
    (V2, MLP_VIEWS),
    (V2, V1),
)


def cases(base: Config) -> dict[str, Config]:
    def case(projector: str, views: str, schedule: str, temperature: float) -> Config:
        epochs, px = base.optim.epochs, base.views.crop_px
        views_config = v1_views(px) if views == "v1" else v2_views(px)
        return replace(
            base,
            model=replace(base.model, projector=projector),
            views=replace(views_config, mean=base.views.mean, std=base.views.std),
            method=replace(base.method, temperature=temperature),
            optim=replace(base.optim, schedule=schedule)
            if schedule == "cosine"
            else replace(base.optim, schedule=schedule, milestones=(round(0.6 * epochs), round(0.8 * epochs))),
        )

    return {
        V1: case("linear", "v1", "milestones", 0.07),
        MLP_02: case("mlp", "v1", "milestones", 0.2),
        VIEWS: case("linear", "v2", "milestones", 0.07),
        MLP_VIEWS: case("mlp", "v2", "milestones", 0.2),
        V2: case("mlp", "v2", "cosine", 0.2),
        MLP: case("mlp", "v1", "milestones", 0.07),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(__doc__, arguments)
    trained = {name: train(name, config, options) for name, config in cases(setting(options)).items()}
    rows = [knn_row(V1, trained[V1].knn, "random encoder", trained[V1].random_knn)]
    rows += [knn_row(ours, trained[ours].knn, theirs, trained[theirs].knn) for ours, theirs in _IMPROVES_ON]
    describe(trained)
    if options.plot:
        bars = [Bar(name, result.knn, result.error) for name, result in trained.items()]
        save_bars(options.plot, {"kNN, %": bars}, title="From v1 to v2: kNN and standard error")
    finish(rows, options.json)


if __name__ == "__main__":
    main()
