"""Train a detector of objects: python jobs/detect.py RUN_FOLDER --data.uri VOC2007 (see --help)."""

import sys

from moco_ray.cli.detect import main

if __name__ == "__main__":
    sys.exit(main())
