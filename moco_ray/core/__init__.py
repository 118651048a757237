"""The algorithm in plain torch: encoders, group BatchNorm, queue, losses and the step. Needs no Ray."""
