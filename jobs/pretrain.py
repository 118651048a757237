"""Pretrain an image encoder with MoCo: python jobs/pretrain.py --preset small --data.uri FOLDER (see --help)."""

import sys

from moco_ray.cli.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
