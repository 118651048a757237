"""Trackers of runs, each in a process of its own beside rank 0, which they can neither slow nor end."""
