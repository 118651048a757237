"""Everything that training changes: built, restored, and copied out."""

from __future__ import annotations

import io
from typing import Any

import torch

from moco_ray.config import to_json
from moco_ray.core.encoders import build_encoder
from moco_ray.core.global_batch_norm import use_global_batch_norm
from moco_ray.core.group_batch_norm import keep_running_share, merged_running_statistics, use_group_batch_norm
from moco_ray.core.method import Setting
from moco_ray.core.optim import build_optimizer
from moco_ray.core.precision import autocast_of, weights_of
from moco_ray.core.step import Learner
from moco_ray.run_folder.checkpoint import State
from moco_ray.tasks.arithmetic import choose_dtype, dtype_of
from moco_ray.tasks.job import Job


def build_learner(job: Job, restored: State | None) -> Learner:
    """Build the method and its optimizer, fresh from the seed or from a checkpoint. All ranks must call."""
    config = job.config
    torch.manual_seed(config.run.seed)
    encoder = build_encoder(config.model, config.views.crop_px)
    if job.initial_weights is not None:
        encoder.load_state_dict(torch.load(io.BytesIO(job.initial_weights), weights_only=True))
    method = config.method.build(
        encoder,
        Setting(
            seed=config.run.seed,
            model=config.model,
            num_images=job.num_rows,
            held_out_rows=job.held_out_rows,
        ),
    )
    if config.method.batch_norm == "group":
        use_group_batch_norm(method, config.optim.group_size)
    else:
        use_global_batch_norm(method)
    device = worker_device(job.uses_gpu)
    dtype = choose_dtype(config.run, restored, device)
    method.to(device=device, dtype=weights_of(dtype), memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(method.trained(), config.optim)
    if restored is not None:
        method.load_state_dict(restored["method"])
        optimizer.load_state_dict(restored["optimizer"])
    learner = Learner(
        method,
        optimizer,
        mean=config.views.mean,
        std=config.views.std,
        autocast=autocast_of(dtype),
        micro_batch_groups=config.run.micro_batch_groups,
        compiler="inductor" if config.run.compile else None,
        compresses_gradients=config.run.compress_gradients,
    )
    if restored is not None and restored["scaler"]:
        learner.scaler.load_state_dict(restored["scaler"])
    keep_running_share(method)
    method.train()
    return learner


def learner_state(job: Job, learner: Learner, step: int, *, copy: bool) -> State | None:
    """Copy everything that training changes to the CPU. All ranks must call; only those with `copy` get it."""
    merged = merged_running_statistics(learner.method)
    if not copy:
        return None
    model = {**learner.method.state_dict(), **merged}
    return {
        "method": {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.items()},
        "optimizer": _to_cpu(learner.optimizer.state_dict()),
        "scaler": learner.scaler.state_dict() or None,
        "dtype": dtype_of(learner),
        "step": step,
        "position": step * job.config.optim.global_batch_size,
        "seed": job.config.run.seed,
        "config": to_json(job.config),
        "manifest_digest": job.manifest_digest,
    }


def worker_device(uses_gpu: bool) -> torch.device:
    """The device that this worker trains on."""
    if not uses_gpu:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _to_cpu(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_to_cpu(item) for item in value]
    return value
