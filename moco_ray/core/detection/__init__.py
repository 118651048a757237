"""Faster R-CNN that learns the same on any number of ranks."""
