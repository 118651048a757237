"""Take the encoder of a run that was stopped or goes on: python jobs/export.py RUN_FOLDER (see --help)."""

import sys

from moco_ray.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
