"""Where `moco_ray.config.run` was before."""

from moco_ray.config.run import RunConfig, data_label, worker_resources

__all__ = ["RunConfig", "data_label", "worker_resources"]
