"""What runs there are, how far they came, and which old checkpoints may go: python jobs/runs.py STORAGE_PATH (see --help)."""

import sys

from moco_ray.cli.runs import main

if __name__ == "__main__":
    sys.exit(main())
