"""A second tenant of tasks/: a tiny supervised classifier of the labels of a folder. It knows nothing of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from moco_ray.config import Config
from moco_ray.core import collectives
from moco_ray.core.batch import Batch
from moco_ray.core.step_result import StepResult
from moco_ray.data.makers import Maker, Sample
from moco_ray.run_folder.checkpoint import State
from moco_ray.tasks.job import Job
from moco_ray.tasks.learner import Learner
from moco_ray.tasks.task import Task, Tell


class Labelled(Maker):
    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {"image": ((8, 8, 3), "uint8"), "label": ((), "int64")}

    def make(self, samples: Sequence[Sample], seed: int) -> None:
        for sample in samples:
            sample.out["image"][...] = np.resize(sample.image, (8, 8, 3))
            sample.out["label"][...] = sample.label


class Classification(Task):
    def maker(self, config: Config) -> Labelled:
        return Labelled()

    def build(self, job: Job, restored: State | None) -> Classifier:
        torch.manual_seed(job.config.run.seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, len(job.eval_set.classes))).double()
        learner = Classifier(net, torch.optim.SGD(net.parameters(), momentum=0.9), torch.device("cpu"), dtype="float64")
        if restored is not None:
            learner.restore(restored)
        return learner

    def evaluate(self, job: Job, state: State, tell: Tell) -> Iterator[tuple[str, float]]:
        yield "eval/weights", float(sum(value.abs().sum() for value in state["method"].values()))


class Classifier(Learner):
    def step(self, batch: Batch, *, lr: float, progress: float) -> StepResult:
        size, logits = batch.global_batch_size, self.module(batch.arrays["image"].double() / 255)  # (n, classes)
        loss = F.cross_entropy(logits, batch.arrays["label"], reduction="sum") / size
        self.optimizer.param_groups[0].update(lr=lr)
        gradients = torch.autograd.grad(loss, list(self.module.parameters()))
        for parameter, gradient in zip(self.module.parameters(), gradients, strict=True):
            parameter.grad = collectives.all_reduce_sum(gradient)
        self.optimizer.step()
        sums = torch.stack([loss.detach(), (logits.argmax(1) == batch.arrays["label"]).sum().double()])
        return StepResult.over_ranks(sums, batch, {"train/loss": (1.0, 1), "train/accuracy": (100.0, size)})
