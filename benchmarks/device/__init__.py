"""Sections of benchmarks.gpu."""
