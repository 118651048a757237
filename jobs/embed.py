"""Keep an encoder's features of all images: python jobs/embed.py RUN --data.uri FOLDER --output FOLDER (see --help)."""

import sys

from moco_ray.cli.embed import main

if __name__ == "__main__":
    sys.exit(main())
