"""Train a linear classifier on frozen features: python jobs/linear_probe.py RUN_FOLDER (see --help)."""

import sys

from moco_ray.cli.linear_probe import main

if __name__ == "__main__":
    sys.exit(main())
