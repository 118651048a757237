"""Sweeps: many runs that search for good hyper-parameters."""
