"""Measure an encoder without training: python jobs/evaluate.py --model.init runs/NAME --data.uri FOLDER (see --help)."""

import sys

from moco_ray.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
