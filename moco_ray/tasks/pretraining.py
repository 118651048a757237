"""Pretraining of an image encoder by a contrastive method: the task of jobs/pretrain.py."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from moco_ray.config import Config
from moco_ray.config.methods.memory_bank import MemoryBankConfig
from moco_ray.config.methods.moco import MoCoConfig
from moco_ray.core.encoders import Encoder, build_encoder
from moco_ray.core.group_batch_norm import has_batch_norm
from moco_ray.core.method import Setting
from moco_ray.data.makers import TwoViews
from moco_ray.evaluate.measure import evaluate
from moco_ray.evaluate.words import describe_evaluation
from moco_ray.run_folder.checkpoint import State
from moco_ray.storage.storage import Storage
from moco_ray.tasks.job import Job
from moco_ray.tasks.learning import LearningWatch
from moco_ray.tasks.method_learner import MethodLearner, method_learner
from moco_ray.tasks.network import check_network, initial_weights, network_without_weights
from moco_ray.tasks.task import Task, Tell
from moco_ray.weights.encoder_file import NAME, load_encoder, state_encoder

log = logging.getLogger(__name__)

_EVALUATIONS_A_RUN = 20
_QUERY_ENCODER = "query_encoder."
_COURSES = {
    MoCoConfig.name: ": it starts lower, rises towards that while the queue fills, and falls",
    MemoryBankConfig.name: ": it starts above that, while the bank holds random directions, and falls",
}


class Pretraining(Task):
    """A method of config/methods/ on two views of each image."""

    results = (NAME,)
    best_by = "eval/knn_top1"
    shown = ("key", "train/contrast_accuracy")

    def check(self, config: Config) -> None:
        """Refuse a network that does not exist, does not take the crops, or that the method cannot train."""
        check_network(config)

    def initial_weights(self, config: Config) -> bytes | None:
        """The state dict of the query encoder to start from, as torch.save writes it."""
        return initial_weights(config)

    def resolve(self, config: Config, num_images: int) -> Config:
        """Let the method decide on its dictionary, and evaluate once an epoch, but no more than so often a run."""
        size, every = config.optim.global_batch_size, config.eval.every_steps
        has_norms = has_batch_norm(network_without_weights(config))
        method = config.method.resolve(num_images=num_images, global_batch_size=size, has_batch_norm=has_norms)
        if every is None:
            steps = config.optim.num_steps(num_images)
            every = max(1, math.ceil(num_images / size), math.ceil(steps / _EVALUATIONS_A_RUN))
        return replace(config, method=method, eval=replace(config.eval, every_steps=every))

    def needs_same_images(self, config: Config) -> bool:
        """Whether the method keeps an entry for each image."""
        return config.method.num_entries(1) != config.method.num_entries(2)

    def warnings(self, config: Config, num_images: int) -> list[str]:
        """What the method has to say of so many images, and of shuffling where there is nothing to shuffle."""
        warning = config.method.warning(num_images, config.optim.global_batch_size)
        warnings = [warning] if warning is not None else []
        if config.method.shuffles_keys and config.optim.bn_groups == 1:
            warnings.append(
                "with optim.bn-groups 1 a query and its key share BatchNorm statistics, and shuffling changes nothing; "
                "use more groups"
            )
        return warnings

    def maker(self, config: Config) -> TwoViews:
        """A query view and a key view; key views change BatchNorm groups where the method shuffles."""
        return TwoViews(config.views, shuffle_bn=config.method.shuffles_keys)

    def build(self, job: Job, restored: State | None) -> MethodLearner:
        """Build encoders, dictionary and optimizer. All ranks must call."""
        config = job.config
        torch.manual_seed(config.run.seed)
        encoder = build_encoder(config.model, config.views.crop_px)
        if job.initial_weights is not None:
            encoder.load_state_dict(torch.load(io.BytesIO(job.initial_weights), weights_only=True))
        method = config.method.build(
            encoder, Setting(seed=config.run.seed, model=config.model, num_images=job.num_rows)
        )
        return method_learner(method, job, restored)

    def opening(self, config: Config) -> list[str]:
        """The learning rate, and the losses of embeddings that know nothing and that could not be better."""
        optim, method = config.optim, config.method
        chance = method.chance_loss(optim.global_batch_size)
        floor = method.floor_loss(optim.global_batch_size, config.model.dim)
        lines = [
            f"effective learning rate {optim.effective_lr:g} (optim.lr {optim.lr:g} for 256 images); a loss of about "
            f"{chance:.2f} is chance{_COURSES.get(method.name, '')}"
        ]
        if floor is not None:
            lines.append(
                f"a loss of {floor:.2f} is the floor at method.temperature {method.temperature:g}: of embeddings that are alike "
                "for the views of an image and spread evenly over all images"
            )
        return [
            *lines,
            "below, key is how often a query finds its own key, and img/s how many images are trained on a second",
        ]

    def explain_first_nan(self, config: Config, dtype: str) -> str:
        """Weights, temperature, views or dtype."""
        tau = config.method.temperature
        softmax = f"from method.temperature {tau:g}, " if tau is not None else ""
        return (
            f"it comes from the weights to start from (model.init {config.model.init}), {softmax}from views.std "
            f"{config.views.std} or from run.dtype {dtype}"
        )

    def measured(self, state: State) -> State:
        """The query encoder: the rest is four times as much, and would travel for nothing."""
        own = {name: value for name, value in state["method"].items() if name.startswith(_QUERY_ENCODER)}
        return {"method": own}

    def evaluate(self, job: Job, state: State, tell: Tell) -> Iterator[tuple[str, float]]:
        """Measure the query encoder, on a GPU if this process has one."""
        encoder = _encoder_of(job.config, state)
        if job.uses_gpu and torch.cuda.is_available():
            encoder = encoder.to("cuda")
        return evaluate(encoder, job.eval_set, job.config.views, job.config.eval, tell=tell)

    def describe(self, line: Mapping[str, Any], untrained: Mapping[str, Any] | None) -> list[str]:
        """Each figure beside what it must be compared with."""
        return describe_evaluation(line, untrained)

    def watch(self, job: Job) -> LearningWatch:
        """Look for runs that learn nothing."""
        return LearningWatch(job)

    def files(self, state: State) -> dict[str, bytes]:
        """The query encoder, for other tools."""
        return {NAME: state_encoder(state)}

    def conclude(self, job: Job, run: Storage) -> list[str]:
        """Draw the pictures of the run, and say how to use its encoder."""
        from moco_ray.report.run_report import illustrate  # here, because matplotlib takes half a second to import

        encoder = f"{job.run_uri}/{NAME}"
        try:
            network = load_encoder(encoder, job.config.run.storage_options)
            pictures = illustrate(job.config, run, network, job.eval_set)
            log.info(f"pictures: {', '.join(run.uri(path) for path in pictures)}")
        except Exception as error:  # a picture is no reason to lose a finished run
            log.warning(f"the pictures could not be drawn ({type(error).__name__}: {error})")
        return [
            "to use the encoder:",
            "    import moco_ray",
            f"    encoder = moco_ray.load_encoder({encoder!r})",
            "    features = encoder(images)  # images: (N, 3, H, W), standardised as moco_ray.encoder_info says",
        ]


PRETRAINING = Pretraining()


def _encoder_of(config: Config, state: State) -> Encoder:
    """The query encoder of a checkpoint, with plain BatchNorm, in float32 and channels-last on the CPU."""
    encoder = build_encoder(config.model, config.views.crop_px)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    encoder.load_state_dict({name.removeprefix(_QUERY_ENCODER): value for name, value in state["method"].items()})
    return encoder.eval()
