"""The seam between a run and what it trains: a run knows how to train anything, a task says what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from moco_ray.config import Config
from moco_ray.data.makers import Maker
from moco_ray.data.manifest import Images
from moco_ray.evaluate.eval_set import EvalSet, choose_eval_set
from moco_ray.evaluate.words import describe_eval_set
from moco_ray.run_folder.checkpoint import State
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.tasks.learner import Learner

if TYPE_CHECKING:
    from moco_ray.tasks.job import Job

Tell = Callable[[int, int], None]
"""Is told now and then how many images are done, and how many there are."""


class Watch:
    """Looks at evaluations for what a user should be warned of; this one sees nothing."""

    def see(self, step: int, state: State) -> None:
        """Look at the weights that are about to be measured."""

    def warnings(self, line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], loss: float | None) -> list[str]:
        """What an evaluation shows, each cause once.

        Args:
            line: The new one, of eval.jsonl; evaluations may end in another order than they began.
            lines: All up to now, by step.
            loss: The newest training loss.
        """
        return []

    def steps_warnings(self, first: int, values: Sequence[Mapping[str, float]]) -> list[str]:
        """What steps show, each cause once.

        Args:
            first: Number of the first one.
            values: What each has measured; at least one.
        """
        return []

    def collapse(self) -> str | None:
        """Why it is of no use to go on, as far as the newest steps and evaluations show."""
        return None

    def state(self) -> State:
        """What a checkpoint keeps of this: plain values."""
        return {}

    def restore(self, state: State) -> None:
        """Take over what `state` gave, or nothing."""


class Task(ABC):
    """What a run trains. It holds no state of its own: it travels to every process of a run.

    With these, a run is elastic, resumable, recorded, evaluated and the same on any number of workers.
    """

    results: ClassVar[tuple[str, ...]] = ()
    """Names of the files that `files` gives."""
    best_by: ClassVar[str | None] = None
    """Measure of an evaluation by whose highest value a checkpoint is kept beside the newest ones."""
    learned: ClassVar[str] = "encoder"
    """What is measured, in a word."""
    shown: ClassVar[tuple[str, str] | None] = None
    """Word and metric (percent) of the progress line, beside the loss."""

    def judged_by(self, config: Config) -> str | None:
        """The same for a configuration, where it depends on that."""
        return self.best_by

    def check(self, config: Config) -> None:
        """On the driver, before anything else: refuse what cannot be trained.

        Raises:
            ValueError: There is no such network, or it cannot be trained like that.
        """

    def initial_weights(self, config: Config) -> bytes | None:
        """On the driver: read what `build` finds in `Job.initial_weights`; None: it starts from the seed.

        Raises:
            ValueError: There are no such weights, or they do not fit.
            OSError: Their storage does not answer.
        """
        return None

    def resolve(self, config: Config, num_images: int) -> Config:
        """Replace automatic values by what they come to for so many images.

        Raises:
            ValueError: They contradict what was asked for.
        """
        return config

    def needs_same_images(self, config: Config) -> bool:
        """Whether a run cannot go on with other images: it keeps something for each of them."""
        return False

    def warnings(self, config: Config, num_images: int) -> list[str]:
        """What a user should know before so many images are trained on in this way."""
        return []

    def eval_set(
        self, config: Config, images: Images, train_options: StorageOptions, test_options: StorageOptions
    ) -> EvalSet:
        """The images to evaluate on.

        Args:
            config: Of the run.
            images: Its images.
            train_options: Access to those of data.uri.
            test_options: Access to those to classify.
        """
        return choose_eval_set(
            images.train,
            images.test,
            config.eval,
            config.run.seed,
            train_options,
            test_options,
            config.data.max_pixels,
        )

    def describe_eval_set(self, config: Config, eval_set: EvalSet, images: Images) -> list[str]:
        """Lines about what a run will be measured on."""
        return describe_eval_set(eval_set, config.eval, images.train, images.train.train_rows())

    @abstractmethod
    def maker(self, config: Config) -> Maker:
        """What a batch holds of each image."""

    @abstractmethod
    def build(self, job: Job, restored: State | None) -> Learner:
        """On each rank: build what is trained, from the seed or from a checkpoint. All ranks must call."""

    def opening(self, config: Config) -> list[str]:
        """Lines that are said before the first step: what the figures mean that follow."""
        return []

    def explain_first_nan(self, config: Config, dtype: str) -> str:
        """Where a loss that is not finite before anything was learned may come from."""
        return f"it comes from the weights to start from (model.init {config.model.init}) or from run.dtype {dtype}"

    def measured(self, state: State) -> State:
        """The part of a state that `evaluate` needs."""
        return {"method": state["method"]}

    def evaluate(self, job: Job, state: State, tell: Tell) -> Iterator[tuple[str, float]]:
        """Measure what was learned, in any process: yields names that begin with eval/ and values."""
        return iter(())

    def describe(self, line: Mapping[str, Any], untrained: Mapping[str, Any] | None) -> list[str]:
        """Lines about an evaluation.

        Args:
            line: Of eval.jsonl.
            untrained: That of step 0, if there is one.
        """
        measures = {name: value for name, value in line.items() if name.startswith("eval/")}
        return [
            f"after {line['step']:,} steps: " + " · ".join(f"{name} {value:.4g}" for name, value in measures.items())
        ]

    def watch(self, job: Job) -> Watch:
        """What looks at evaluations beside training, on rank 0."""
        return Watch()

    def files(self, state: State) -> dict[str, bytes]:
        """Name and content of what a finished run leaves, beside its records."""
        return {}

    def conclude(self, job: Job, run: Storage) -> list[str]:
        """On the driver, when all is done: draw what there is to see; returns lines that say how to use what was learned."""
        return []
