"""Pretrain on handwritten digits that a package ships, and show what was learned: python jobs/demo.py."""

from moco_ray.demo import demo

if __name__ == "__main__":
    demo()
