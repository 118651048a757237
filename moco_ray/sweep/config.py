"""The settings of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A search among runs of one preset. Every flag of jobs/pretrain.py sets what all trials have in common."""

    num_samples: int | None = None
    """Trials: runs in all, or for each point of a grid; with scheduler "pbt" the population. None: 16, or 1 with grids."""
    space: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What to search, repeatable: FIELD=log:LOW:HIGH, FIELD=uniform:LOW:HIGH, FIELD=1-log:LOW:HIGH (one minus the value is
    logarithmic), FIELD=choice:A,B or FIELD=grid:A,B; "default" adds the default space to others. None: optim.lr,
    method.temperature and method.encoder_momentum around the preset's values."""
    search: Literal["random", "tpe"] = "random"
    """How parameters are chosen: at random, or by Optuna's TPE, which learns from the trials before."""
    scheduler: Literal["none", "asha", "pbt"] = "none"
    """"asha" stops trials early that fall behind the others at the same number of images. "pbt" trains all of a population,
    replaces the worst by copies of the best now and then, and changes the copies' parameters."""
    metric: str = "auto"
    """What is maximised: eval/knn_top1 (needs labels) or eval/rankme. auto: the first with labels, else the second."""
    max_concurrent: int | None = None
    """Trials at once, at most. None: as many as the cluster holds with CPUs left for data."""
    cpus_per_trial: float | None = None
    """CPUs of a trial that trains in its own process (run.num-workers 0), its data included. None: 2, or what there is."""
    data_cpus: float = 1.0
    """CPUs that stay free for reading and augmenting images for each trial that trains with Ray workers."""
    asha_grace: float = 0.1
    """Share of a run that every trial gets before "asha" may stop it."""
    asha_reduction: int = 3
    """Of so many trials that reach a rung one goes on; rungs lie apart by this factor."""
    pbt_generations: int = 4
    """Parts of a run between which "pbt" copies and changes."""
    pbt_quantile: float = 0.25
    """Share of the population that "pbt" replaces, and that it copies from."""

    def __post_init__(self) -> None:
        """Check what needs neither data nor a cluster.

        Raises:
            ValueError: A number is impossible, or fields contradict each other.
        """
        at_least = {
            "num-samples": (self.num_samples, 1),
            "max-concurrent": (self.max_concurrent, 1),
            "asha-reduction": (self.asha_reduction, 2),
            "pbt-generations": (self.pbt_generations, 2),
        }
        for name, (value, least) in at_least.items():
            if value is not None and value < least:
                raise ValueError(f"--{name} is {value}; use {least} or more")
        if not 0 < self.asha_grace < 1:
            raise ValueError(f"--asha-grace is {self.asha_grace}; use a share between 0 and 1")
        if not 0 < self.pbt_quantile <= 0.5:
            raise ValueError(f"--pbt-quantile is {self.pbt_quantile}; use a share above 0, up to 0.5")
        if self.cpus_per_trial is not None and not self.cpus_per_trial > 0:
            raise ValueError(f"--cpus-per-trial is {self.cpus_per_trial}; use a number above 0")
        if self.data_cpus < 1:
            raise ValueError(f"--data-cpus is {self.data_cpus}; reading images needs at least 1 for each trial")
        if self.scheduler == "pbt" and self.search != "random":
            raise ValueError(f"--search {self.search} and --scheduler pbt both choose parameters; drop one of them")
        if self.scheduler == "pbt" and (self.num_samples or 16) < 2:
            raise ValueError(f"--num-samples {self.num_samples} is no population; use 2 or more with --scheduler pbt")
