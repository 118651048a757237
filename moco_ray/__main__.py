"""`python -m moco_ray pretrain …`: the same as `moco-ray pretrain …`, wherever the package can be imported."""

import sys

from moco_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
