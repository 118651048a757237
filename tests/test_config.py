"""What a configuration refuses by itself, before it looks at images or connects to a cluster."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from moco_ray.cli import main
from moco_ray.config import Config
from moco_ray.config.run import RunConfig, data_label, worker_resources
from moco_ray.presets import load_preset
from moco_ray.train.plan import warn

WRONG_RUNS: list[tuple[dict[str, Any], str]] = [
    ({"min_workers": 5, "max_workers": 4}, "run.min-workers 5 is more than run.max-workers 4; swap them"),
    ({"max_workers": 9}, "run.max-workers 9 is more than the 8 BatchNorm groups of the batch (optim.bn-groups); use 8"),
    ({"min_workers": 9}, "run.min-workers 9 is more than the 8 BatchNorm groups"),
    ({"min_workers": 0}, "run.min-workers is 0; use 1 or more"),
    ({"max_workers": -1}, "run.max-workers is -1; use 1 or more"),
    ({"num_workers": -1}, "run.num-workers is -1; use 0 (no Ray) or more"),
    ({"num_workers": 2, "min_workers": 1}, "run.num-workers 2 is a fixed number and goes with neither"),
    ({"num_workers": 2, "max_workers": 4}, "run.num-workers 2 is a fixed number and goes with neither"),
    ({"num_workers": 0, "max_workers": 4}, "run.num-workers 0 is a fixed number and goes with neither"),
    ({"worker_resources": "trainer"}, "run.worker-resources is 'trainer'; write it as NAME=VALUE"),
    ({"worker_resources": "trainer=1,"}, "run.worker-resources is 'trainer=1,'; write it as NAME=VALUE"),
    ({"worker_resources": "=1"}, "run.worker-resources is '=1'; write it as NAME=VALUE"),
    ({"worker_resources": "trainer=one"}, "run.worker-resources trainer=one: the amount must be a number above 0"),
    ({"worker_resources": "trainer=0"}, "run.worker-resources trainer=0: the amount must be a number above 0"),
    ({"worker_resources": "trainer=-1"}, "run.worker-resources trainer=-1: the amount must be a number above 0"),
    ({"worker_resources": "trainer=nan"}, "run.worker-resources trainer=nan: the amount must be a number above 0"),
    ({"worker_resources": "trainer=inf"}, "run.worker-resources trainer=inf: the amount must be a number above 0"),
    ({"worker_resources": "CPU=2"}, "run.worker-resources CPU=2: use run.cpus-per-worker"),
    ({"worker_resources": "GPU=2"}, "run.worker-resources GPU=2: a worker has one GPU or none"),
    ({"data_label": "cpu-nodes"}, "run.data-label is 'cpu-nodes'; write it as NAME=VALUE"),
    ({"data_label": "role="}, "run.data-label is 'role='; write it as NAME=VALUE"),
]


def _config(**run: Any) -> Config:
    config = load_preset("smoke")
    return replace(
        config, optim=replace(config.optim, bn_groups=8), run=replace(config.run, **{"num_workers": None, **run})
    )


@pytest.mark.parametrize(("run", "message"), WRONG_RUNS)
def test_workers_that_make_no_sense_are_refused(run: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        _config(**run)


@pytest.mark.parametrize(("run", "message"), WRONG_RUNS)
def test_the_command_line_says_the_same_and_exits_with_2(
    run: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--run.{name.replace('_', '-')}={value}" for name, value in run.items()]
    assert main(["--preset", "smoke", "--optim.bn-groups", "8", *flags]) == 2
    printed = capsys.readouterr()
    assert " ".join(re.sub("[│╭╮╰╯─]", " ", printed.err).split()).startswith(f"moco_ray {message}")


@pytest.mark.parametrize(
    "run",
    [{}, {"num_workers": 0}, {"num_workers": 8}, {"min_workers": 8}, {"max_workers": 1}]
    + [{"min_workers": 3, "max_workers": 3}, {"worker_resources": "a=1"}, {"data_label": "a/b=c"}],
)
def test_workers_that_make_sense_are_taken(run: dict[str, Any]) -> None:
    assert _config(**run).run == replace(load_preset("smoke").run, **{"num_workers": None, **run})


def test_resources_and_labels_are_read() -> None:
    run = RunConfig(worker_resources="trainer=1, memory=2e9", data_label="moco-ray/role=data,zone=b")
    assert worker_resources(run) == {"trainer": 1.0, "memory": 2e9}
    assert data_label(run) == {"moco-ray/role": "data", "zone": "b"}
    assert (worker_resources(RunConfig()), data_label(RunConfig())) == ({}, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bn_groups": 1}, "with optim.bn-groups 1 a query and its key share BatchNorm statistics"),
        ({"warmup_epochs": 10.0, "epochs": 10}, "the learning rate never leaves the warm-up"),
        ({"schedule": "milestones", "milestones": (120, 160), "epochs": 100}, "the learning rate never falls"),
        ({}, None),
    ],
)
def test_a_recipe_that_undoes_itself_is_warned_of(changes: dict[str, Any], said: str | None) -> None:
    base = load_preset("moco-v2")
    lines: list[str] = []
    warn(replace(base, optim=replace(base.optim, **changes)), 1_281_167, lines.append)
    assert [said in line for line in lines] == ([True] if said else [])
