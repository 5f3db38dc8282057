"""Data sets of labelled clouds and scenes, one file a set."""
