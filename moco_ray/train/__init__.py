"""The training job: worker loop, checkpoints, trainer."""
