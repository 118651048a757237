"""Pretrain on handwritten digits that a package ships, and show what was learned: python jobs/demo.py."""

import sys

from moco_ray.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
