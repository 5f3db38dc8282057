"""Segmentation: classes of points."""
