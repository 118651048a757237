"""What a configuration refuses by itself, before it looks at images or connects to a cluster."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moco_ray.cli.presets import load_preset
from moco_ray.cli.pretrain import main, parse
from moco_ray.config import Config, from_json, to_json
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.run import RunConfig, data_label, worker_resources
from moco_ray.driver.plan import warnings_of_schedule
from moco_ray.tasks.pretraining import PRETRAINING

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
    config = replace(base, optim=replace(base.optim, **changes))
    lines = [*PRETRAINING.warnings(config, 1_281_167), *warnings_of_schedule(config)]
    assert [said in line for line in lines] == ([True] if said else [])


def _with_field(path: str, value: Any) -> str:
    """The JSON of a preset with another value of a field."""
    values: dict[str, Any] = json.loads(to_json(load_preset("small")))
    group = values
    *parents, name = path.split(".")
    for parent in parents:
        group = group[parent]
    group[name] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optim.global_batch_size", "64", 'optim.global_batch_size is "64"; use a whole number'),
        ("optim.lr", "fast", 'optim.lr is "fast"; use a number'),
        ("optim.epochs", 2.5, "optim.epochs is 2.5; use a whole number"),
        ("optim.epochs", True, "optim.epochs is true; use a whole number"),
        ("optim.lr", False, "optim.lr is false; use a number"),
        ("optim.lr", None, "optim.lr is null; use a number"),
        ("run.seed", None, "run.seed is null; use a whole number"),
        ("run.max_steps", [], "run.max_steps is []; use a whole number or null"),
        ("views.grayscale_first", 1, "views.grayscale_first is 1; use true or false"),
        ("views.jitter", [0.4, 0.4, 0.4], "views.jitter is [0.4, 0.4, 0.4]; use 4 numbers"),
        ("views.jitter", 0.4, "views.jitter is 0.4; use 4 numbers"),
        ("views.jitter", [0.4, 0.4, 0.4, "x"], 'views.jitter[3] is "x"; use a number'),
        ("views.mean", "0.5 0.5 0.5", 'views.mean is "0.5 0.5 0.5"; use 3 numbers'),
        ("optim.milestones", [60, 80.5], "optim.milestones[1] is 80.5; use a whole number"),
        ("optim.optimizer", "adam", 'optim.optimizer is "adam"; use sgd, lars or adamw'),
        ("method.queue_size", "auto", 'method.queue_size is "auto"; use a whole number or null'),
        ("method.name", "byol", 'method.name is "byol"; use one of moco, moco-v3'),
        ("method", "moco", 'method is "moco"; use an object of its fields'),
        ("optim", None, "optim is null; use an object of its fields"),
        ("data", [1, 2], "data is [1, 2]; use an object of its fields"),
        ("preset", 3, "preset is 3; use a text"),
        ("optim.lrr", 3, "it has unknown fields: optim.lrr"),
        ("model.dim", -3, "model.dim is -3; use a number above 0"),
        ("optim.lr", float("nan"), "optim.lr is nan; use a finite number"),
    ],
)
def test_a_value_of_the_wrong_type_in_json_is_named_with_its_file(
    path: str, value: Any, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_text(_with_field(path, value))
    with pytest.raises(ValueError, match=re.escape(f"--preset {file}: {message}")):
        load_preset(str(file))


def test_a_secret_of_the_wrong_type_is_not_shown() -> None:
    with pytest.raises(ValueError, match=r"data\.storage_options is no text; use the JSON object in quotes") as error:
        from_json(_with_field("data.storage_options", {"key": "the-secret"}))
    assert "the-secret" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no valid JSON"),
        (b"", "is no valid JSON"),
        (b"[1]", "is no JSON object"),
        (b"\xff\xfe{\x00}\x00", "is no text"),
    ],
)
def test_a_preset_that_is_no_json_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"--preset {file} {message}")):
        load_preset(str(file))


def test_json_that_people_write_is_read(tmp_path: Path) -> None:
    """Whole numbers where fractions may stand, and the other way round; a mark of its encoding at the start."""
    (tmp_path / "mine.json").write_bytes(b"\xef\xbb\xbf" + b'{"optim": {"lr": 0.5}}')
    assert load_preset(str(tmp_path / "mine.json")).optim.lr == 0.5
    assert from_json(_with_field("optim.lr", 1)).optim.lr == 1
    assert from_json(_with_field("optim.epochs", 100.0)).optim.epochs == 100
    assert from_json('{"optim": {"lr": 0.5}}').optim.lr == 0.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--optim.lr inf", "optim.lr is inf; use a finite number"),
        ("--optim.lr -0.1", "optim.lr is -0.1; use a number above 0"),
        ("--optim.weight-decay nan", "optim.weight-decay is nan; use a finite number"),
        ("--optim.weight-decay -1e-4", "optim.weight-decay is -0.0001; use 0 or more"),
        ("--optim.momentum -0.1", "optim.momentum is -0.1; use a number in [0, 1)"),
        ("--optim.momentum 1", "optim.momentum is 1.0; use a number in [0, 1)"),
        ("--optim.warmup-epochs nan", "optim.warmup-epochs is nan"),
        ("--optim.milestones -3", "optim.milestones are (-3,); use epochs"),
        ("--method.temperature inf", "method.temperature is inf"),
        ("--method.encoder-momentum nan", "method.encoder-momentum is nan"),
        ("--eval.temperature inf", "eval.temperature is inf"),
        ("--data.max-bad-fraction nan", "data.max-bad-fraction is nan"),
        ("--data.max-bad-fraction 5", "data.max-bad-fraction is 5.0; use a share in [0, 1]"),
        ("--data.max-pixels 0", "data.max-pixels is 0; use a number above 0"),
        ("--views.blur-sigma 0.1 inf", "views.blur-sigma is 0.1 inf; use finite numbers"),
        ("--views.mean 123.7 116.3 103.5", "those of 0 to 255 divided by 255"),
        ("--views.std 58 57 57", "those of 0 to 255 divided by 255"),
        ("--views.flip-p 50", "views.flip-p is 50.0; a probability lies in [0, 1]"),
        ("--run.checkpoint-every-s nan", "run.checkpoint-every-s is nan"),
        ("--run.seed 18446744073709551616", "run.seed is 18446744073709551616; use a whole number of 64 bits"),
        ("--run.seed -9223372036854775809", "run.seed is -9223372036854775809; use a whole number of 64 bits"),
        ("--run.seed 1e30", "--run.seed is '1e30'; use a whole number, such as 0"),
        ("--method.queue-size 100000000", "method.queue-size 100,000,000 is more than 16,777,216"),
        ("--method memory-bank --method.num-negatives 100000000", "method.num-negatives 100,000,000 is more than"),
        ("--optim.global-batch-size 0", "use a batch of 8 or more"),
        ("--optim.global-batch-size -8", "use a batch of 8 or more"),
        ("--optim.global-batch-size 4", "which need 2 images each; use a batch of 8 or more, or 2 groups or fewer"),
        ("--optim.global-batch-size 1 --optim.bn-groups 1", "use a batch of 2 or more"),
        ("--optim.bn-groups 0", "optim.bn-groups is 0; use 1 or more"),
        ("--method simclr --optim.global-batch-size 1 --optim.bn-groups 1", "use a batch of 2 or more"),
    ],
)
def test_numbers_that_nobody_means_are_refused(flags: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(["--preset", "small", *flags.split()])


def test_the_largest_seed_and_times_without_end_are_taken() -> None:
    flags = "--run.seed 18446744073709551615 --run.resize-every-s inf --run.checkpoint-every-s inf"
    run = parse(flags.split()).config.run
    assert (run.seed, run.resize_every_s, run.checkpoint_every_s) == (2**64 - 1, math.inf, math.inf)


@pytest.mark.parametrize(
    ("method", "num_images", "batch", "advice"),
    [
        (MoCoConfig(queue_size=64), 100, 32, "method.queue-size 50 or less is better"),
        (MoCoConfig(queue_size=64), 100, 64, "a smaller optim.global-batch-size with a smaller method.queue-size"),
        (MoCoConfig(queue_size=64, symmetric=True), 65, 32, "a smaller optim.global-batch-size"),
        (MemoryBankConfig(num_negatives=9), 1, 4, "1 or less is better"),
    ],
)
def test_advice_about_a_dictionary_can_be_followed(method: Any, num_images: int, batch: int, advice: str) -> None:
    assert advice in str(method.warning(num_images, batch))


@pytest.mark.parametrize(
    "flag",
    "run.storage-path run.name run.storage-options run.data-label run.worker-resources model.init model.arch "
    "data.storage-options data.image-column data.label-column".split(),
)
def test_an_empty_text_is_no_value(flag: str) -> None:
    group, name = flag.replace("-", "_").split(".")
    base = load_preset("smoke")
    with pytest.raises(ValueError, match=rf"{flag} is ''.*leave it out"):
        parse(["--preset", "smoke", f"--{flag}", ""])
    with pytest.raises(ValueError, match=rf"{flag} is ''"):
        replace(base, **{group: replace(getattr(base, group), **{name: ""})})
    with pytest.raises(ValueError, match=rf"{flag} is ''"):
        from_json(json.dumps({group: {name: ""}}))


def test_an_empty_text_is_one_where_it_means_something() -> None:
    config = parse(["--preset", "smoke", "--data.uri", "", "--eval.uri", ""]).config
    assert config == load_preset("smoke")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"optim": {"globalBatchSize": 8}}',
            "unknown fields: optim.globalBatchSize (did you mean global_batch_size?)",
        ),
        ('{"optim": {"global-batch-size": 8}}', "optim.global-batch-size (did you mean global_batch_size?)"),
        ('{"optimizer": {}, "Run": {}}', "Run (did you mean run?), optimizer (did you mean optim?)"),
        ('{"method": {"name": "simclr", "temprature": 1}}', "method.temprature (did you mean temperature?)"),
        ('{"optim": {"xyzzy": 8}}', "it has unknown fields: optim.xyzzy"),
        ('{"optim": {"lr": 1, "lr": 2}}', "the field lr is there twice"),
        ('{"optim": {"lr": 1}, "optim": {}}', "the field optim is there twice"),
    ],
)
def test_fields_of_json_are_known_and_there_once(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        from_json(text)
