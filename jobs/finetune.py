"""Fine-tune an encoder on labelled images: python jobs/finetune.py RUN_FOLDER --data.uri FOLDER (see --help)."""

import sys

from moco_ray.cli.finetune import main

if __name__ == "__main__":
    sys.exit(main())
