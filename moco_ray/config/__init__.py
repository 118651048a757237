"""The configuration of a run as plain values: nothing here imports a network, Ray or an image library."""

from moco_ray.config.config import Config, experiment_differences
from moco_ray.config.reading import from_json, to_json

__all__ = ["Config", "experiment_differences", "from_json", "to_json"]
