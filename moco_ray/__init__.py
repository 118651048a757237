"""Momentum Contrast (MoCo) self-supervised pretraining on elastic Ray clusters."""
