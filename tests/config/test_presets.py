"""Presets hold the numbers of the papers and of the reference code."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moco_ray.cli.presets import load_preset
from moco_ray.cli.pretrain import main
from moco_ray.config import from_json, to_json
from moco_ray.config.data import DataConfig
from moco_ray.config.presets import PRESETS
from moco_ray.config.run import RunConfig
from moco_ray.core.crops import build_without_weights
from moco_ray.evaluate.against_chance import default_neighbours
from tests.web import web_server

WIDE = "moco-v3-vit-base"


def test_moco_v2_is_the_papers_recipe() -> None:
    """He et al. 2020, arXiv:2003.04297, Sec. 3 and Table 1; facebookresearch/moco for what the paper leaves open."""
    config = load_preset("moco-v2")
    assert (config.model.arch, config.model.stem, config.model.projector, config.model.dim) == (
        "resnet50",
        "imagenet",
        "mlp",
        128,
    )
    method = config.method
    assert (method.queue_size, method.temperature, method.encoder_momentum, method.shuffles_keys) == (
        65536,
        0.2,
        0.999,
        True,
    )
    optim = config.optim
    assert (optim.global_batch_size, optim.bn_groups, optim.epochs) == (256, 8, 200)
    assert (optim.effective_lr, optim.momentum, optim.weight_decay) == (0.03, 0.9, 1e-4)
    assert (optim.schedule, optim.schedule_per, optim.warmup_epochs) == ("cosine", "epoch", 0)
    views = config.views
    assert (views.crop_px, views.crop_min, views.jitter, views.jitter_p) == (224, 0.2, (0.4, 0.4, 0.4, 0.1), 0.8)
    assert (views.grayscale_p, views.blur_p, views.blur_sigma, views.flip_p) == (0.2, (0.5, 0.5), (0.1, 2.0), 0.5)
    assert (views.mean, views.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_moco_v1_differs_from_v2_in_head_views_temperature_and_schedule() -> None:
    """He et al. 2019, arXiv:1911.05722, Sec. 3.3 and 4.1."""
    config = load_preset("moco-v1")
    assert (config.model.projector, config.method.temperature, config.optim.schedule) == ("linear", 0.07, "milestones")
    assert config.optim.milestones == (120, 160)
    views = config.views
    assert (views.jitter, views.jitter_p, views.grayscale_p, views.grayscale_first) == ((0.4,) * 4, 1.0, 0.2, True)
    assert (views.blur_p, views.flip_p, views.crop_min) == ((0.0, 0.0), 0.5, 0.2)
    n, size = 1_281_167, 256
    rates = [config.optim.lr_at(epoch * n // size * size + size, n) for epoch in (0, 119, 120, 160, 199)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.0003, 0.0003])


def test_v3_resnet50_is_the_papers_recipe() -> None:
    """Chen et al. 2021, arXiv:2104.02057, Sec. 3, 5 and 6 (Table 8: 68.9 % after 100 epochs, with lr 0.6)."""
    config = load_preset("moco-v3-resnet50")
    model, method, optim, views = config.model, config.method, config.optim, config.views
    assert (model.arch, model.zero_init_residual, model.projector, model.projector_layers) == (
        "resnet50",
        True,
        "mlp-bn",
        2,
    )
    assert (model.hidden_dim, model.dim, method.predictor_last_bn) == (4096, 256, False)
    assert (method.temperature, method.encoder_momentum, method.momentum_schedule) == (1.0, 0.99, "cosine")
    assert (optim.global_batch_size, optim.optimizer, optim.momentum, optim.weight_decay) == (4096, "lars", 0.9, 1e-6)
    assert (optim.epochs, optim.warmup_epochs, optim.schedule, optim.schedule_per) == (100, 10, "cosine", "step")
    assert optim.effective_lr == pytest.approx(0.6 * 16)
    assert (views.crop_px, views.crop_min, views.jitter, views.jitter_p) == (224, 0.2, (0.4, 0.4, 0.2, 0.1), 0.8)
    assert (views.blur_p, views.solarize_p, views.grayscale_p, views.flip_p) == ((1.0, 0.1), (0.0, 0.2), 0.2, 0.5)
    n = 1_281_167
    assert optim.lr_at(5 * n, n) == pytest.approx(4.8)  # half of the warm-up
    assert optim.lr_at(10 * n, n) == pytest.approx(9.6)
    assert optim.lr_at(55 * n, n) == pytest.approx(4.8)  # half of the cosine that follows
    assert method.momentum_at(0.0) == pytest.approx(0.99) and method.momentum_at(1.0) == pytest.approx(1.0)
    assert method.momentum_at(0.5) == pytest.approx(0.995)


def test_v3_resnet50_of_1000_epochs_has_another_rate_decay_and_momentum() -> None:
    """Chen et al. 2021, arXiv:2104.02057: 74.6 % after 1000 epochs."""
    base, config = load_preset("moco-v3-resnet50"), load_preset("moco-v3-resnet50-1000ep")
    assert (config.optim.epochs, config.optim.lr, config.optim.weight_decay) == (1000, 0.3, 1.5e-6)
    assert (config.method.encoder_momentum, config.method.momentum_at(1.0)) == (0.996, pytest.approx(1.0))
    assert replace(config.optim, epochs=100, lr=0.6, weight_decay=1e-6) == base.optim
    assert replace(config.method, encoder_momentum=0.99) == base.method
    assert (config.model, config.views) == (base.model, base.views)


@pytest.mark.parametrize("name", ["moco-v3-vit-small", "moco-v3-vit-base"])
def test_v3_vits_are_the_papers_recipe(name: str) -> None:
    """Chen et al. 2021, arXiv:2104.02057, Sec. 4 to 6 (Table 3 and 5: 73.2 % and 76.7 % after 300 epochs)."""
    config = load_preset(name)
    model, method, optim = config.model, config.method, config.optim
    assert (model.arch, model.patch_px, model.train_patches) == (
        name.removeprefix("moco-v3-").replace("-", "_"),
        16,
        False,
    )
    assert (model.projector, model.projector_layers, model.hidden_dim, model.dim) == ("mlp-bn", 3, 4096, 256)
    assert (method.predictor_last_bn, method.temperature, method.encoder_momentum) == (True, 0.2, 0.99)
    assert (optim.optimizer, optim.lr, optim.weight_decay, optim.global_batch_size) == ("adamw", 1.5e-4, 0.1, 4096)
    assert (optim.epochs, optim.warmup_epochs, optim.schedule, optim.schedule_per) == (300, 40, "cosine", "step")
    assert optim.effective_lr == pytest.approx(1.5e-4 * 16)
    assert config.views == replace(load_preset("moco-v3-resnet50").views, crop_min=0.08)


def test_end_to_end_and_memory_bank_are_v1_with_another_dictionary() -> None:
    """He et al. 2019, arXiv:1911.05722, Sec. 4.1: the same pretext task and hyper-parameters for the three."""
    v1 = load_preset("moco-v1")
    for name in ("end-to-end", "memory-bank"):
        config = load_preset(name)
        assert (config.views, config.model, config.method.temperature) == (v1.views, v1.model, 0.07)
        assert replace(config.optim, global_batch_size=256) == v1.optim
    assert load_preset("end-to-end").optim.global_batch_size == 1024  # Fig. 3: its largest dictionary
    bank = load_preset("memory-bank")
    assert (bank.optim.global_batch_size, bank.method.num_negatives, bank.method.bank_momentum) == (256, 65536, 0.5)


def test_simclr_is_the_papers_recipe() -> None:
    """Chen et al. 2020, arXiv:2002.05709, Sec. 2.2 (default setting) and Appendix A."""
    config = load_preset("simclr")
    optim, views = config.optim, config.views
    assert (config.model.arch, config.model.projector, config.model.dim) == ("resnet50", "mlp", 128)
    assert (optim.global_batch_size, optim.epochs, optim.optimizer, optim.weight_decay) == (4096, 100, "lars", 1e-6)
    assert (optim.effective_lr, optim.warmup_epochs, optim.schedule) == (pytest.approx(4.8), 10, "cosine")
    assert config.method.temperature == 0.1
    assert (views.crop_min, views.jitter, views.jitter_p, views.grayscale_p) == (0.08, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2)
    assert (views.blur_p, views.blur_sigma, views.flip_p) == ((0.5, 0.5), (0.1, 2.0), 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRESETS if name != WIDE])
def test_every_preset_runs(name: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--optim.global-batch-size 16 --views.crop-px 32 --run.max-steps 2 --run.num-workers 0 --run.name run"
    where = ["--data.uri", str(images), "--run.storage-path", str(tmp_path)]
    evaluation = "--eval.max-queries 4 --eval.max-bank 8"
    assert main(["--preset", name, *where, *flags.split(), *evaluation.split()]) == 0, capsys.readouterr().err
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_wide_preset_is_another_by_its_architecture_alone_and_its_network_is_built() -> None:
    """What runs of the other prove, without 2 GB of checkpoints."""
    narrow, wide = load_preset("moco-v3-vit-small"), load_preset(WIDE)
    assert replace(wide, preset=narrow.preset, model=replace(wide.model, arch=narrow.model.arch)) == narrow
    encoder = build_without_weights(wide.model, wide.views.crop_px, num_images=2)
    assert sum(p.numel() for p in encoder.backbone.parameters()) == 85_798_656  # as timm's, without a classifier


def test_cifar10_is_the_reference_demo() -> None:
    """The CIFAR-10 notebook of facebookresearch/moco, asymmetric."""
    config = load_preset("cifar10")
    assert (config.model.arch, config.model.stem, config.model.projector) == ("resnet18", "cifar", "linear")
    assert (config.method.queue_size, config.method.encoder_momentum, config.method.temperature) == (4096, 0.99, 0.1)
    optim = config.optim
    assert (optim.global_batch_size, optim.bn_groups, optim.weight_decay, optim.schedule) == (512, 8, 5e-4, "cosine")
    assert optim.effective_lr == pytest.approx(0.06)
    assert (config.views.crop_px, config.views.blur_p, config.eval.temperature) == (32, (0.0, 0.0), 0.1)
    assert config.eval.k is None and default_neighbours(np.repeat(np.arange(10), 5000)) == 200


def test_small_sizes_its_queue_from_the_data() -> None:
    from moco_ray.tasks.pretraining import PRETRAINING

    sizes = {n: PRETRAINING.resolve(load_preset("small"), n).method.queue_size for n in (200, 1813, 10_000, 1_000_000)}
    assert sizes == {200: 128, 1813: 896, 10_000: 4992, 1_000_000: 65536}


def _saved(folder: Path) -> Path:
    config = replace(load_preset("small"), data=DataConfig(uri="/data/x"), run=RunConfig(name="old"))
    (folder / "best.json").write_text(to_json(config))
    return folder / "best.json"


def test_a_configuration_is_read_from_a_path_a_file_url_and_the_web(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    with web_server(tmp_path) as address:
        for name in (str(path), path, f"file://{path}", f"{address}/best.json", f"{address}/best.json?signed=1"):
            config = load_preset(name)
            assert (config.preset, config.data.uri, config.run.name) == ("small", "/data/x", None)
        with pytest.raises(ValueError, match=r"--preset http.*nothing\.json: there is no such file"):
            load_preset(f"{address}/nothing.json")
    with pytest.raises(ValueError, match=r"--preset .*nothing\.json: there is no such file"):
        load_preset(tmp_path / "nothing.json")


@pytest.mark.parametrize("name", ["pre/noext", "pre/ok.JSON", "noext", "./noext", "pre/smoke.txt"])
def test_a_file_is_read_whatever_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pre").mkdir()
    monkeypatch.chdir(tmp_path)
    _saved(tmp_path).rename(tmp_path / name)
    assert load_preset(name).data.uri == "/data/x"
    Path(name).write_text("not JSON")
    with pytest.raises(ValueError, match=r"is no valid JSON"):
        load_preset(name)


@pytest.mark.parametrize("name", ["pre/noext", "./smoke", "ok.JSON"])
def test_a_path_without_a_file_is_no_mistyped_preset(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"--preset {name}: there is no such file"):
        load_preset(name)


def test_a_preset_behind_a_url_that_does_not_answer_is_named_soon() -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"--preset: http://no-such-host\.invalid"):
        load_preset("http://no-such-host.invalid/best.json")
    assert time.monotonic() - start < 20


def test_paths_of_pathlib_are_text_wherever_a_configuration_takes_them(tmp_path: Path) -> None:
    base = load_preset("smoke")
    config = replace(
        base,
        data=replace(base.data, uri=tmp_path / "images", storage_options=tmp_path / "options.json"),
        eval=replace(base.eval, uri=tmp_path / "test"),
        model=replace(base.model, init=tmp_path / "encoder.safetensors"),
        run=replace(base.run, storage_path=tmp_path / "runs", storage_options=tmp_path / "options.json"),
    )
    assert config.data.uri == f"{tmp_path}/images" and config.run.storage_path == f"{tmp_path}/runs"
    assert config.eval.uri == f"{tmp_path}/test" and config.model.init == f"{tmp_path}/encoder.safetensors"
    again = from_json(to_json(config))
    assert again.data.uri == config.data.uri and again.model == config.model


@pytest.mark.parametrize(
    ("value", "message"),
    [(Path("s3://bucket/x"), "one slash of two"), (5, "5, a int"), (b"/data", "a bytes"), (["a"], "a list")],
)
def test_what_is_neither_text_nor_a_path_is_one_message(value: object, message: str) -> None:
    base = load_preset("smoke")
    with pytest.raises(ValueError, match=rf"data\.uri is .*{message}"):
        replace(base, data=replace(base.data, uri=value))  # type: ignore[arg-type]


def test_options_that_are_no_text_are_not_shown() -> None:
    base = load_preset("smoke")
    with pytest.raises(ValueError, match=r"data\.storage-options is a dict") as caught:
        replace(base, data=replace(base.data, storage_options={"secret": "hush"}))  # type: ignore[arg-type]
    assert "hush" not in str(caught.value)
