"""Search for good hyper-parameters: python tune/sweep.py --preset small --data.uri FOLDER --num-samples 16 (see --help)."""

import sys

from moco_ray.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main())
