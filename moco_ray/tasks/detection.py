"""Detection of objects, from an encoder or from scratch: the task of jobs/detect.py."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from moco_ray.config import Config
from moco_ray.core.batch import Batch
from moco_ray.core.optim import build_optimizer
from moco_ray.core.precision import autocast_of, weights_of
from moco_ray.core.step_result import StepResult
from moco_ray.data.boxes.coco import coco_numbers
from moco_ray.data.boxes.maker import BoxedView
from moco_ray.data.boxes.table import COLUMNS
from moco_ray.data.manifest import Images
from moco_ray.evaluate.average_precision import Found, average_precision, check_installed
from moco_ray.evaluate.detections import find_objects
from moco_ray.evaluate.eval_set import EvalSet, labelled_eval_set
from moco_ray.report.evaluated import keep_results
from moco_ray.run_folder.checkpoint import CheckpointStore, State
from moco_ray.run_folder.results import RESULTS, write_results
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.tasks.arithmetic import choose_dtype
from moco_ray.tasks.job import Job
from moco_ray.tasks.learner import Learner, worker_device
from moco_ray.tasks.network import initial_backbone, initial_options
from moco_ray.tasks.task import Task, Tell
from moco_ray.weights.detector_file import NAME, detector_bytes, state_detector

if TYPE_CHECKING:
    from moco_ray.core.detection.step import DetectorLearner

log = logging.getLogger(__name__)
_EVALUATIONS_A_RUN = 5
DETECTIONS = "detections.json"
"""What the finished detector finds in the images to test on, in COCO's format for results."""


class Detection(Task):
    """Faster R-CNN on a ResNet: the transfer of arXiv:1911.05722, Sec. 4.2."""

    results: ClassVar[tuple[str, ...]] = (NAME, RESULTS, DETECTIONS)
    best_by = "eval/AP"
    learned = "detector"

    def check(self, config: Config) -> None:
        """Refuse what cannot be built, measured or computed."""
        check_installed()
        if config.run.micro_batch_groups is not None or config.run.compile:
            raise ValueError(
                "run.micro-batch-groups and run.compile are not for detection: BatchNorm sees the whole global batch, and every "
                "batch has another size; drop them"
            )
        from moco_ray.core.detection.detector import build_detector

        with torch.device("meta"):
            build_detector(config.detection, config.model, 1)

    def initial_weights(self, config: Config) -> bytes | None:
        """The state dict of the backbone to start from, as torch.save writes it."""
        return initial_backbone(config)

    def resolve(self, config: Config, num_images: int) -> Config:
        """Measure a few times a run: looking at every image to test on takes a while."""
        if config.eval.every_steps is not None:
            return config
        every = max(1, math.ceil(config.optim.num_steps(num_images) / _EVALUATIONS_A_RUN))
        return replace(config, eval=replace(config.eval, every_steps=every))

    def eval_set(
        self, config: Config, images: Images, train_options: StorageOptions, test_options: StorageOptions
    ) -> EvalSet:
        """The images to test on, up to eval.max-queries."""
        found = labelled_eval_set(config, images, train_options, test_options)
        return replace(found, words=f"average precision: on {len(found.queries):,} images to test on")

    def describe_eval_set(self, config: Config, eval_set: EvalSet, images: Images) -> list[str]:
        """How many images are looked at."""
        return [eval_set.words]

    def maker(self, config: Config) -> BoxedView:
        """A resized image and its boxes."""
        return BoxedView(config.detection)

    def build(self, job: Job, restored: State | None) -> DetectionLearner:
        """Build detector and optimizer. All ranks must call."""
        from moco_ray.core.detection.detector import build_detector  # torchvision takes long
        from moco_ray.core.detection.step import DetectorLearner

        config, initial = job.config, job.initial_weights
        torch.manual_seed(config.run.seed)
        detector = build_detector(
            config.detection,
            config.model,
            len(job.eval_set.classes),
            seed=config.run.seed,
            weights=None if initial is None else torch.load(io.BytesIO(initial), weights_only=True),
        )
        device = worker_device(job.uses_gpu)
        dtype = choose_dtype(config.run, restored, device)
        detector.to(device=device, dtype=weights_of(dtype), memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps = DetectorLearner(
            detector.train(),
            build_optimizer([detector], config.optim),
            mean=config.views.mean,
            std=config.views.std,
            autocast=autocast_of(dtype),
            compresses_gradients=config.run.compress_gradients,
        )
        learner = DetectionLearner(steps, dtype)
        if restored is not None:
            learner.restore(restored)
        return learner

    def opening(self, config: Config) -> list[str]:
        """Where the weights come from, and the learning rate."""
        begins = f"from {config.model.init}" if config.model.init else f"from scratch (run.seed {config.run.seed})"
        return [
            f"Faster R-CNN, {config.detection.neck}, on {config.model.arch} {begins}; effective learning rate "
            f"{config.optim.effective_lr:g} (optim.lr {config.optim.lr:g} for 256 images)"
        ]

    def measured(self, state: State) -> State:
        """The detector, and after how many steps."""
        return {"method": state["method"], "step": state["step"]}

    def evaluate(self, job: Job, state: State, tell: Tell) -> Iterator[tuple[str, Any]]:
        """Look at the images to test on, on a GPU if this process has one; the last time, leave detections.json."""
        config, images, classes = job.config, job.eval_set.queries, job.eval_set.classes
        detector = state_detector(state, config, len(classes))
        if job.uses_gpu and torch.cuda.is_available():
            detector = detector.to("cuda")
        found = find_objects(
            detector,
            images,
            shorter_px=config.detection.test_px,
            longest_px=config.detection.max_px,
            mean=config.views.mean,
            std=config.views.std,
            tell=tell,
        )
        if state["step"] == job.last_step:
            run = Storage.open(job.run_uri, job.run_options)
            run.write_bytes(run.join(DETECTIONS), detection_lines(job, found))
        measures = average_precision(found, targets_of(job), classes, config.detection.detections_per_image)
        yield "eval/num_images", len(images)
        for name in ("AP", "AP50", "AP75"):
            yield f"eval/{name}", measures.get(name, 0.0)
        yield "per_class", [measures.get(f"AP50/{name}") for name in classes]

    def describe(self, line: Mapping[str, Any], untrained: Mapping[str, Any] | None) -> list[str]:
        """COCO's three numbers."""
        return [
            f"after {line['step']:,} steps: AP {line['eval/AP']:.1f} %, AP50 {line['eval/AP50']:.1f} %, AP75 "
            f"{line['eval/AP75']:.1f} %"
        ]

    def conclude(self, job: Job, run: Storage) -> list[str]:
        """Write the detector and results.json, and draw curves and detections."""
        store = CheckpointStore(storage=run)
        classes = job.eval_set.classes
        run.write_bytes(run.join(NAME), detector_bytes(store.read(store.newest() or 0), job.config, classes))
        results = write_results(run, job.config, classes, num_train=job.num_rows, extra={"per_class_is": "AP50"})
        if job.config.detection.test_annotations and run.exists(run.join(DETECTIONS)):
            try:
                _give_coco_numbers(run, job.config)
            except Exception as error:  # ids are no reason to lose a finished run
                log.warning(
                    f"{DETECTIONS} has rows for ids: those of detection.test-annotations could not be read "
                    f"({type(error).__name__}: {error})"
                )
        try:
            from moco_ray.report.detection import draw_run  # here, because matplotlib takes half a second to import

            log.info(f"pictures: {', '.join(draw_run(run, job.eval_set, targets_of(job), _read_found(run, job)))}")
        except Exception as error:  # a picture is no reason to lose a finished run
            log.warning(f"the pictures could not be drawn ({type(error).__name__}: {error})")
        keep_results(job.config.model.init, initial_options(job.config), results)
        measured = ", ".join(f"{name} {results[name]:.2f} %" for name in ("AP", "AP50", "AP75") if name in results)
        return [
            f"on {results['num_test']:,} images: {measured}; AP50 of each class:",
            *(
                f"    {name}: {'no box' if value is None else f'{value:.1f} %'}"
                for name, value in results.get("per_class", {}).items()
            ),
            f"the detector: {job.run_uri}/{NAME}; what it finds: {job.run_uri}/{DETECTIONS}",
        ]


DETECTION = Detection()


class DetectionLearner(Learner):
    """A detector's learner on this rank.

    Attributes:
        steps: Whose steps these are.
    """

    def __init__(self, steps: DetectorLearner, dtype: str) -> None:
        super().__init__(steps.detector, steps.optimizer, steps.device, dtype=dtype, scaler=steps.scaler)
        self.steps = steps

    def step(self, batch: Batch, *, lr: float, progress: float) -> StepResult:
        """Train on one global batch. All ranks must call."""
        return self.steps.step(batch, lr=lr)


def targets_of(job: Job) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """The boxes (n, 7) of each image to test on."""
    images = job.eval_set.queries
    return [own.reshape(-1, COLUMNS) for own in images.manifest.targets(images.rows) or []]


def detection_lines(job: Job, found: list[Found]) -> bytes:
    """Detections as COCO's programs read them, with each image's place and each class's name beside the numbers.

    An image's number is its row among the images to test on, and a class's that in the order of results.json, from 1.
    """
    images, classes = job.eval_set.queries, job.eval_set.classes
    uris = [images.manifest.uri(int(row)) for row in images.rows]
    entries = [
        {
            "image_id": i,
            "category_id": label + 1,
            "bbox": [round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)],
            "score": round(score, 5),
            "category": classes[label],
            "uri": uri,
        }
        for i, (uri, own) in enumerate(zip(uris, found, strict=True))
        for (x1, y1, x2, y2), label, score in zip(
            own.boxes.tolist(), own.labels.tolist(), own.scores.tolist(), strict=True
        )
    ]
    return json.dumps(entries).encode()


def _give_coco_numbers(run: Storage, config: Config) -> None:
    """Give the images and classes of detections.json the ids of detection.test-annotations; null where it has none."""
    of_image, of_class = coco_numbers(
        *(
            Storage.open(uri, resolve_storage_options(uri, config.data.storage_options))
            for uri in (config.eval.uri or config.data.uri, config.detection.test_annotations)
        )
    )
    entries = json.loads(run.read_bytes(run.join(DETECTIONS)))
    for entry in entries:
        entry["image_id"], entry["category_id"] = of_image.get(entry["uri"]), of_class.get(entry["category"])
    if unknown := sum(entry["image_id"] is None or entry["category_id"] is None for entry in entries):
        log.warning(
            f"{unknown:,} of {len(entries):,} entries of {DETECTIONS} have a null for an id: "
            "detection.test-annotations does not name their image or class"
        )
    run.write_bytes(run.join(DETECTIONS), json.dumps(entries).encode())


def _read_found(run: Storage, job: Job) -> list[Found]:
    """What detections.json holds, image by image."""
    images, classes = job.eval_set.queries, job.eval_set.classes
    rows: dict[str, list[list[float]]] = {images.manifest.uri(int(row)): [] for row in images.rows}
    for entry in json.loads(run.read_bytes(run.join(DETECTIONS))):
        x, y, width, height = entry["bbox"]
        rows[entry["uri"]].append([x, y, x + width, y + height, classes.index(entry["category"]), entry["score"]])
    tables = [np.array(own, dtype=np.float64).reshape(-1, 6) for own in rows.values()]
    return [Found(table[:, :4], table[:, 4].astype(np.int64), table[:, 5]) for table in tables]
