"""Write a pretrained encoder for another tool: python jobs/weights.py RUN_FOLDER --to timm --output FILE (see --help)."""

import sys

from moco_ray.cli.weights import main

if __name__ == "__main__":
    sys.exit(main())
