"""Presets hold the numbers of the papers and of the reference code."""

from __future__ import annotations

import pytest

from moco_ray.presets import load_preset


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


def test_cifar10_is_the_reference_demo() -> None:
    """The CIFAR-10 notebook of facebookresearch/moco, asymmetric."""
    config = load_preset("cifar10")
    assert (config.model.arch, config.model.stem, config.model.projector) == ("resnet18", "cifar", "linear")
    assert (config.method.queue_size, config.method.encoder_momentum, config.method.temperature) == (4096, 0.99, 0.1)
    optim = config.optim
    assert (optim.global_batch_size, optim.bn_groups, optim.weight_decay, optim.schedule) == (512, 8, 5e-4, "cosine")
    assert optim.effective_lr == pytest.approx(0.06)
    assert (config.views.crop_px, config.views.blur_p, config.eval.k, config.eval.temperature) == (
        32,
        (0.0, 0.0),
        200,
        0.1,
    )


def test_small_sizes_its_queue_from_the_data() -> None:
    from moco_ray.train.plan import decide

    sizes = {
        n: decide(load_preset("small"), n, has_batch_norm=True).method.queue_size
        for n in (200, 1813, 10_000, 1_000_000)
    }
    assert sizes == {200: 128, 1813: 896, 10_000: 4992, 1_000_000: 65536}
