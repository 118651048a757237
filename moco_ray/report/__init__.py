"""Metric sinks and pictures."""
