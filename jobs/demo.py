"""Pretrain on handwritten digits that a package ships, and show what was learned: python jobs/demo.py."""

from moco_ray.demo import demo
from moco_ray.report.screen import Screen

if __name__ == "__main__":
    with Screen() as say:
        demo(say=say)
