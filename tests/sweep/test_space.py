"""The space of a sweep: what a user may write, what is drawn from it, and one clear message for each mistake."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moco_ray.cli.presets import load_preset
from moco_ray.config import Config
from moco_ray.config.field_paths import get, paths, with_values
from moco_ray.config.presets import PRESETS
from moco_ray.sweep.space import (
    KNN,
    RANKME,
    check_metric,
    choose_metric,
    draw,
    grid_points,
    objective_warning,
    parse_space,
)
from tests.runs import tiny_config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny_config("images", tmp_path_factory.mktemp("space"))


@pytest.mark.parametrize("name", PRESETS)
def test_the_default_space_holds_the_presets_own_values(name: str) -> None:
    preset = load_preset(name)
    space = parse_space((), preset)
    assert "optim.lr" in [dimension.path for dimension in space]
    for dimension in space:
        assert dimension.low <= get(preset, dimension.path) <= dimension.high
        assert dimension.path in paths(preset)


def test_a_trials_draw_depends_on_seed_and_number_alone(config: Config) -> None:
    space = parse_space((), config)
    assert draw(space, 0, 5) == draw(space, 0, 5)
    assert draw(space, 0, 5) != draw(space, 0, 6) and draw(space, 0, 5) != draw(space, 1, 5)
    wider = parse_space(("default", "optim.weight_decay=log:1e-5:1e-3"), config)
    assert draw(wider, 0, 5).items() >= draw(space, 0, 5).items()


def test_draws_fill_their_range_on_its_own_axis(config: Config) -> None:
    texts = ("optim.lr=log:0.01:1", "optim.momentum=uniform:0.5:0.9", "method.encoder_momentum=1-log:0.9:0.999")
    space = parse_space(texts, config)
    draws = [draw(space, 0, index) for index in range(2000)]
    lr = np.log10([values["optim.lr"] for values in draws])
    momentum = np.array([values["optim.momentum"] for values in draws])
    encoder = np.log10([1 - values["method.encoder_momentum"] for values in draws])
    for x, low, high in ((lr, -2, 0), (momentum, 0.5, 0.9), (encoder, -3, -1)):
        assert low <= x.min() and x.max() <= high + 1e-9
        assert abs(x.mean() - (low + high) / 2) < 0.03 * (high - low)


def test_whole_numbers_stay_whole(config: Config) -> None:
    space = parse_space(("method.queue_size=log:80:160",), config)
    values = {draw(space, 0, index)["method.queue_size"] for index in range(200)}
    assert all(type(value) is int and 80 <= value <= 160 for value in values) and len(values) > 20


def test_choices_have_the_types_of_their_fields(config: Config) -> None:
    texts = (
        "method.shuffle_bn=choice:true,false",
        "model.projector=choice:mlp,linear",
        "optim.global-batch-size=choice:24,48",
    )
    space = parse_space(texts, config)
    draws = [draw(space, 0, index) for index in range(50)]
    assert {values["method.shuffle_bn"] for values in draws} == {True, False}
    assert {values["model.projector"] for values in draws} == {"mlp", "linear"}
    assert {values["optim.global_batch_size"] for values in draws} == {24, 48}


def test_grids_are_gone_through_point_by_point(config: Config) -> None:
    space = parse_space(("method.temperature=grid:0.1,0.2", "optim.lr=grid:0.1,0.3,0.5"), config)
    assert len(grid_points(space)) == 6
    assert {tuple(draw(space, 0, index).values()) for index in range(6)} == {
        (t, lr) for t in (0.1, 0.2) for lr in (0.1, 0.3, 0.5)
    }


def test_a_given_field_replaces_its_default(config: Config) -> None:
    space = parse_space(("default", "optim.lr=log:0.5:0.6"), config)
    assert [(d.low, d.high) for d in space if d.path == "optim.lr"] == [(0.5, 0.6)]
    assert len(space) == len(parse_space((), config))


def test_the_axes_of_ranges_go_back_and_forth(config: Config) -> None:
    for text in ("optim.lr=log:0.01:1", "method.encoder_momentum=1-log:0.9:0.999", "optim.momentum=uniform:0:0.9"):
        (dimension,) = parse_space((text,), config)
        for u in (0.0, 0.3, 0.99):
            assert math.isclose(dimension.share(dimension.at(u)), u, abs_tol=1e-9)


def test_values_reach_their_fields(config: Config) -> None:
    changed = with_values(config, {"optim.lr": 0.7, "method.temperature": 0.4, "optim.epochs": 2})
    assert (changed.optim.lr, changed.method.temperature, changed.optim.epochs) == (0.7, 0.4, 2)
    assert replace(changed, optim=config.optim, method=config.method) == config


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("",), r"the space is empty.*Write --space FIELD=KIND"),
        (("optim.learning_rate=log:0.1:1",), r"smoke has no such field.*there are|did you mean"),
        (("optim.temperature=log:0.1:1",), r"has no such field; did you mean method\.temperature\?"),
        (("optim.lr=log:1:0.1",), r"the lower bound 1 is not below the upper bound 0\.1; write 0\.1:1"),
        (("optim.lr=log:0.1:0.1",), r"a range needs two different bounds"),
        (("optim.lr=log:0:1",), r"needs bounds above 0"),
        (("optim.lr=log:0.1",), r"a range has two numbers, LOW:HIGH"),
        (("optim.lr=log:0.1:inf",), r"must be finite"),
        (("optim.lr=around:0.1:1",), r"write it as FIELD=KIND:VALUES"),
        (("optim.lr",), r"write it as FIELD=KIND:VALUES"),
        (("method.encoder_momentum=1-log:0.9:1",), r"needs bounds in \[0, 1\)"),
        (("method.encoder_momentum=uniform:0.9:1.5",), r"encoder-momentum is 1\.5; use a number in \[0, 1\]"),
        (("model.projector=uniform:0:1",), r"holds no number; use model\.projector=choice"),
        (("model.projector=choice:mlp,conv",), r"'conv' is not possible; use .*linear"),
        (("optim.lr=choice:0.1",), r"at least two different values, or the flag --optim\.lr"),
        (("optim.global_batch_size=choice:24,25",), r"25 is not a multiple"),
        (("model.arch=choice:timm:test_resnet,resnet51",), r"resnet51. is no torchvision ResNet"),
        (("model.arch=choice:timm:test_resnet,timm:test_convnext9",), r"timm:test_convnext9 is unknown to timm"),
        (("run.seed=choice:1,2",), r"it decides where and how a run runs"),
        (("data.uri=choice:a,b",), r"all trials of a sweep see the same images"),
        (("eval.k=choice:10,20",), r"measured differently cannot be compared"),
        (("optim.lr=log:0.1:1", "optim.lr=log:0.2:1"), r"names optim\.lr twice"),
        (("views.jitter=choice:1,2",), r"a field of several values cannot be searched"),
    ],
)
def test_mistakes_are_said(texts: tuple[str, ...], message: str, config: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse_space(texts, config)


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
        check_metric(metric, "pretraining")


def test_rankme_is_not_trusted_with_high_temperatures(tmp_path: Path) -> None:
    config = tiny_config("images", tmp_path)
    wide = parse_space(("method.temperature=grid:0.1,1,100",), config)
    warning = objective_warning(RANKME, wide)
    assert warning is not None and "temperatures up to 100" in warning
    assert objective_warning(KNN, wide) is None
    assert objective_warning(RANKME, parse_space((), config)) is None
