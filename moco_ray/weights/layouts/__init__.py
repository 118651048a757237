"""Layouts of encoder files that other tools load, each checked by the tool that it is for."""
