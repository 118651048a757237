"""The images of a run: listed, compared with those it began with, looked at."""
