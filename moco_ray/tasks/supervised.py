"""Learning from labels: the tasks of jobs/linear_probe.py and jobs/finetune.py."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from moco_ray.config import Config
from moco_ray.core.classifier import Classifier, with_head
from moco_ray.core.encoders import build_backbone, digest_of
from moco_ray.core.optim import check_layer_decay
from moco_ray.data.makers import LabelledView
from moco_ray.data.manifest import Images
from moco_ray.evaluate.classification import evaluate_classifier, largest_class
from moco_ray.evaluate.eval_set import EvalSet, labelled_eval_set
from moco_ray.report.evaluated import keep_results
from moco_ray.run_folder.checkpoint import CheckpointStore, State
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.run_folder.results import RESULTS, write_results
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.tasks.job import Job
from moco_ray.tasks.method_learner import MethodLearner, method_learner
from moco_ray.tasks.network import check_network, initial_backbone, initial_options, network_without_weights
from moco_ray.tasks.task import Task, Tell
from moco_ray.weights.classifier_file import NAME as CLASSIFIER
from moco_ray.weights.classifier_file import classifier_bytes, state_network
from moco_ray.weights.encoder_file import NAME as ENCODER
from moco_ray.weights.encoder_file import state_encoder

log = logging.getLogger(__name__)
_EVALUATIONS_A_RUN = 20
_CLASSES_SAID = 20
_MEASURES = {"top1": "top-1", "top5": "top-5", "mean_class_top1": "mean over classes", "auroc": "AUROC"}


class Supervised(Task):
    """A backbone with a linear head on one view of each labelled image."""

    results: ClassVar[tuple[str, ...]] = (CLASSIFIER, RESULTS)
    best_by = "eval/top1"
    learned = "classifier"
    shown = ("right", "train/accuracy")

    def judged_by(self, config: Config) -> str | None:
        """AUROC of several labels an image."""
        return "eval/auroc" if config.data.target_columns is not None else self.best_by

    def check(self, config: Config) -> None:
        """Refuse a network that does not exist, does not take the crops, or has no blocks for optim.layer-decay."""
        check_network(config)
        if config.optim.layer_decay != 1:
            check_layer_decay(network_without_weights(config).backbone, config.optim)

    def initial_weights(self, config: Config) -> bytes | None:
        """The state dict of the backbone to start from, as torch.save writes it."""
        return initial_backbone(config)

    def resolve(self, config: Config, num_images: int) -> Config:
        """Evaluate once an epoch, but no more than so often a run."""
        if config.eval.every_steps is not None:
            return config
        steps = config.optim.num_steps(num_images)
        every = max(1, math.ceil(num_images / config.optim.global_batch_size), math.ceil(steps / _EVALUATIONS_A_RUN))
        return replace(config, eval=replace(config.eval, every_steps=every))

    def eval_set(
        self, config: Config, images: Images, train_options: StorageOptions, test_options: StorageOptions
    ) -> EvalSet:
        """All labelled images that are not trained on, up to eval.max-queries."""
        return labelled_eval_set(config, images, train_options, test_options)

    def describe_eval_set(self, config: Config, eval_set: EvalSet, images: Images) -> list[str]:
        """How many images are classified, and what guessing gives."""
        if images.train.target_names:
            return [f"{eval_set.words}; guessing gives an AUROC of 50 %"]
        largest = largest_class(eval_set.queries.labels)
        chance = 100 / len(eval_set.classes)
        return [f"{eval_set.words}; guessing gives {chance:.1f} %, always the largest class {largest:.1f} %"]

    def maker(self, config: Config) -> LabelledView:
        """One view of each image, and its label."""
        return LabelledView(config.views, len(config.data.target_columns or ()))

    def build(self, job: Job, restored: State | None) -> MethodLearner:
        """Build backbone, head and optimizer. All ranks must call."""
        config = job.config
        network = with_head(
            initial_network(config, job.initial_weights),
            len(job.eval_set.classes),
            is_frozen=config.batch_norm == "frozen",
        )
        return method_learner(Classifier(network, has_targets=config.data.target_columns is not None), job, restored)

    def opening(self, config: Config) -> list[str]:
        """Where the weights come from, and the learning rate."""
        begins = (
            f"from {config.model.init}" if config.model.init else f"from random weights (run.seed {config.run.seed})"
        )
        return [
            f"{config.model.arch} {begins}; effective learning rate {config.optim.effective_lr:g} (optim.lr "
            f"{config.optim.lr:g} for 256 images)",
            "below, right is the share of training views that are classified right",
        ]

    def evaluate(self, job: Job, state: State, tell: Tell) -> Iterator[tuple[str, Any]]:
        """Classify the images to evaluate on, on a GPU if this process has one."""
        network: nn.Module = state_network(state, job.config)
        if job.uses_gpu and torch.cuda.is_available():
            network = network.to("cuda")
        return evaluate_classifier(network, job.eval_set, job.config.views, job.config.eval, tell)

    def describe(self, line: Mapping[str, Any], untrained: Mapping[str, Any] | None) -> list[str]:
        """Accuracy with its standard error, or AUROC."""
        after = f"after {line['step']:,} steps: "
        if "eval/auroc" in line:
            return [f"{after}AUROC {line['eval/auroc']:.1f} %, loss {line['eval/loss']:.3f}"]
        top5 = f", top-5 {line['eval/top5']:.1f} %" if "eval/top5" in line else ""
        error = f" ± {line['eval/top1_error']:.1f}"
        return [f"{after}top-1 {line['eval/top1']:.1f}{error} %{top5}, loss {line['eval/loss']:.3f}"]

    def conclude(self, job: Job, run: Storage) -> list[str]:
        """Write results.json and draw the curves and the confusion matrix."""
        from moco_ray.report.classification import draw_results  # matplotlib takes long

        store = CheckpointStore(storage=run)
        state = store.read(store.newest() or 0)
        extra = self.examine(state, run)
        network = state_network(state, job.config)
        run.write_bytes(run.join(CLASSIFIER), classifier_bytes(network, job.config, job.eval_set.classes))
        results = write_results(run, job.config, job.eval_set.classes, num_train=job.num_rows, extra=extra)
        try:
            log.info(f"pictures: {', '.join(draw_results(run, results))}")
        except Exception as error:  # a picture is no reason to lose a finished run
            log.warning(f"the pictures could not be drawn ({type(error).__name__}: {error})")
        keep_results(job.config.model.init, initial_options(job.config), results)
        classifier = json.dumps(f"{job.run_uri}/{CLASSIFIER}")
        usage = [
            "to use the classifier:",
            "    import moco_ray",
            f"    classifier = moco_ray.load_classifier({classifier})",
        ]
        return [*result_lines(results), *usage]

    def examine(self, state: State, run: Storage) -> dict[str, Any]:
        """What else the results say of the weights."""
        return {}


class LinearProbe(Supervised):
    """A linear classifier on frozen features: the linear protocol of arXiv:1911.05722, Sec. 4.1."""

    def warnings(self, config: Config, num_images: int) -> list[str]:
        """That there is nothing to probe, if so."""
        if config.model.init is None:
            return ["no --model.init: this probes a random backbone, which is what others are compared with"]
        return []

    def evaluate(self, job: Job, state: State, tell: Tell) -> Iterator[tuple[str, Any]]:
        """As for all classifiers, and a digest of the backbone."""
        yield "backbone", digest_of(_backbone(state))
        yield from super().evaluate(job, state, tell)

    def examine(self, state: State, run: Storage) -> dict[str, Any]:
        """Check that the backbone is bitwise what it was at each evaluation, the first one of which is before all steps.

        Raises:
            RuntimeError: It is not.
        """
        now, evaluations = digest_of(_backbone(state)), stored_lines(run, "eval.jsonl")
        changed = [line["step"] for line in evaluations if line.get("backbone", now) != now]
        if changed:
            raise RuntimeError(f"the frozen backbone has changed since step {changed[-1]:,}: this is a bug of moco_ray")
        if not any("backbone" in line and line["step"] == 0 for line in evaluations):
            return {}  # that evaluation has failed, and was warned of
        log.info("the backbone is bitwise what it was before the first step")
        return {"backbone_unchanged": True}


class FineTuning(Supervised):
    """The whole network, from an encoder or from scratch."""

    results = (CLASSIFIER, ENCODER, RESULTS)

    def files(self, state: State) -> dict[str, bytes]:
        """The backbone, for other tools and jobs."""
        return {ENCODER: state_encoder(state)}


LINEAR_PROBE, FINE_TUNING = LinearProbe(), FineTuning()


def initial_network(config: Config, weights: bytes | None) -> nn.Module:
    """The backbone that training begins with: drawn from the seed, or with the weights that were read."""
    torch.manual_seed(config.run.seed)
    backbone = build_backbone(config.model, config.views.crop_px)
    if weights is not None:
        backbone.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    return backbone


def _backbone(state: State) -> dict[str, torch.Tensor]:
    prefix = "query_encoder.backbone."
    return {name.removeprefix(prefix): v for name, v in state["method"].items() if name.startswith(prefix)}


def result_lines(results: Mapping[str, Any]) -> list[str]:
    """What results say to a person."""
    measured = ", ".join(f"{name} {results[key]:.2f} %" for key, name in _MEASURES.items() if key in results)
    lines = [f"on {results['num_test']:,} images: {measured}"]
    each = results.get("per_class", {})
    width = max(map(len, each), default=0)
    for name, value in list(each.items())[:_CLASSES_SAID]:
        lines.append(f"    {name:{width}}  {'no image' if value is None else f'{value:5.1f} %'}")
    if len(each) > _CLASSES_SAID:
        lines.append(f"    and {len(each) - _CLASSES_SAID:,} classes more in {RESULTS}")
    return lines
