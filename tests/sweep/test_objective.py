"""What a sweep maximises, and what it is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from moco_ray.sweep.objective import KNN, RANKME, check_metric, choose_metric, objective_warning
from moco_ray.sweep.space import parse_space
from tests.runs import tiny_config


def test_labels_decide_what_is_maximised(tmp_path: Path) -> None:
    config = tiny_config("images", tmp_path)
    assert choose_metric("auto", config, has_labels=True) == KNN
    assert choose_metric("auto", config, has_labels=False) == RANKME
    assert choose_metric(RANKME, config, has_labels=True) == RANKME
    with pytest.raises(ValueError, match=r"data\.uri images gives none"):
        choose_metric(KNN, config, has_labels=False)


@pytest.mark.parametrize("metric", ["train/loss", "loss", "train/contrast_accuracy", "eval/uniformity"])
def test_what_says_nothing_about_features_is_refused(metric: str) -> None:
    with pytest.raises(ValueError, match=f"--metric {metric} is no objective"):
        check_metric(metric)


def test_rankme_is_not_trusted_with_high_temperatures(tmp_path: Path) -> None:
    config = tiny_config("images", tmp_path)
    wide = parse_space(("method.temperature=grid:0.1,1,100",), config)
    warning = objective_warning(RANKME, wide)
    assert warning is not None and "temperatures up to 100" in warning
    assert objective_warning(KNN, wide) is None
    assert objective_warning(RANKME, parse_space((), config)) is None
