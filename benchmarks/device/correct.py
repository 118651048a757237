"""Whether a device computes what the CPU does: every method in float64, and several ranks that share the device."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.device.setup import Place, learner_of
from benchmarks.harness import Row, at_most
from moco_ray.config.method import MethodConfig
from moco_ray.config.methods.end_to_end import EndToEndConfig
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.config.methods.moco_v3 import MoCoV3Config
from moco_ray.config.methods.simclr import SimCLRConfig
from moco_ray.config.model import ModelConfig
from moco_ray.config.optim import OptimConfig
from moco_ray.core.batch import Batch, resident_batch
from moco_ray.core.encoders import Encoder, build_projector
from moco_ray.core.group_batch_norm import merged_running_statistics
from moco_ray.core.step import Learner

_LARGEST = 1e-9  # relative difference of a loss after some steps in float64
_BATCH_SIZE, _NUM_GROUPS, _DIM = 32, 8, 8
METHODS: dict[str, MethodConfig] = {
    "moco": MoCoConfig(queue_size=70, shuffle_bn=True, encoder_momentum=0.9),
    "moco symmetric": MoCoConfig(queue_size=70, shuffle_bn=True, symmetric=True, encoder_momentum=0.9),
    "moco-v3": MoCoV3Config(encoder_momentum=0.9),
    "end-to-end": EndToEndConfig(shuffle_bn=True),
    "memory-bank": MemoryBankConfig(num_negatives=50),
    "simclr": SimCLRConfig(),
}
_CPU = Place(device=torch.device("cpu"), is_tiny=True)

# Losses of some steps, and everything that was trained after them.
Curve = tuple[list[float], dict[str, Tensor]]


class _Net(nn.Module):
    """A residual block of two layers with BatchNorm, 12 features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        return F.relu(x + self.bn2(self.conv2(x))).mean(dim=(2, 3))


def correct(place: Place) -> list[Row]:
    """Every method, with each optimizer and with micro-batches, against the CPU."""
    rows = []
    for name, config in METHODS.items():
        for optimizer, micro in (("sgd", None), ("sgd", 3), ("adamw", None), ("lars", None)):
            here, there = (_curve(config, where, optimizer, micro) for where in (place, _CPU))
            case = f"{name}, {optimizer}{', micro-batches' * (micro is not None)}"
            rows.append(_row(case, here, there, judges_state=optimizer != "adamw"))  # it divides noise by noise
    return rows


def ranks(place: Place) -> list[Row]:
    """Two and three ranks on this one device against one; gloo carries tensors of a GPU, which NCCL would not share."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 2, 3):
            torch.multiprocessing.start_processes(_rank, (count, folder, place), nprocs=count, start_method="spawn")
        curves = {count: torch.load(f"{folder}/{count}.pt", weights_only=True) for count in (1, 2, 3)}
    for count in (2, 3):
        rows += [_row(f"{name}, {count} ranks", curves[count][name], curves[1][name]) for name in METHODS]
    return rows


def _rank(rank: int, num_ranks: int, folder: str, place: Place) -> None:
    warnings.simplefilter("ignore", FutureWarning)  # torch renames options; every rank would say so
    if not place.is_cuda:
        torch.set_num_threads(1)
    meeting = Path(folder) / f"meeting{num_ranks}"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=num_ranks)
    curves = {name: _curve(config, place, "sgd", None) for name, config in METHODS.items()}
    if rank == 0:
        torch.save(curves, Path(folder) / f"{num_ranks}.pt")
    dist.barrier()
    dist.destroy_process_group()


def tiny_learner(
    config: MethodConfig, place: Place, optimizer: str, micro: int | None, dtype: torch.dtype = torch.float64
) -> Learner:
    """A method with a network of two layers."""
    torch.manual_seed(0)
    projector = "mlp-bn" if isinstance(config, MoCoV3Config) else "mlp"
    model = ModelConfig(dim=_DIM, hidden_dim=16, projector=projector, projector_layers=2)
    encoder = Encoder(_Net(), build_projector(model, 12), _DIM).to(dtype)
    optim = OptimConfig(
        lr=0.1, weight_decay=1e-3, optimizer=optimizer, global_batch_size=_BATCH_SIZE, bn_groups=_NUM_GROUPS
    )
    return learner_of(encoder, model, config, optim, place, micro_batch_groups=micro)


def tiny_batch(config: MethodConfig, step: int) -> Batch:
    """Noise, the same for every device and number of ranks."""
    generator = torch.Generator().manual_seed(step)
    shape = (_BATCH_SIZE, 8, 8, 3)
    query, key = (torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(2))
    rows = np.arange(step * _BATCH_SIZE, (step + 1) * _BATCH_SIZE) % 100
    return resident_batch(query, key, rows, step=step, seed=5, num_groups=_NUM_GROUPS, shuffle_bn=config.shuffles_keys)


def _curve(config: MethodConfig, place: Place, optimizer: str, micro: int | None, steps: int = 5) -> Curve:
    learner = tiny_learner(config, place, optimizer, micro)
    results = [
        learner.step(tiny_batch(config, step).to(place.device), lr=0.1, progress=step / 10) for step in range(steps)
    ]
    state = {name: p.detach().cpu() for name, p in learner.method.named_parameters()}
    state |= {name: value.cpu() for name, value in merged_running_statistics(learner.method).items()}
    return [float(result.values()["train/loss"]) for result in results], state


def _row(case: str, here: Curve, there: Curve, *, judges_state: bool = True) -> Row:
    largest = max(abs(a - b) / abs(b) for a, b in zip(here[0], there[0], strict=True))
    if judges_state:
        of_state = (((here[1][n] - there[1][n]).abs() / (there[1][n].abs() + 1)).max() for n in there[1])
        largest = max(largest, *map(float, of_state))
    return at_most(case, largest, _LARGEST, "relative difference")
