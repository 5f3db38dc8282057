"""Clouds, voxels and classes to look at: figures for notebooks, pages and the app."""

from i2p_zoo.viewing.cloud_views import CloudView, VoxelLevel, view_cloud, view_file
from i2p_zoo.viewing.figures import draw_classes, draw_cloud
from i2p_zoo.viewing.pages import write_page

__all__ = ["CloudView", "VoxelLevel", "draw_classes", "draw_cloud", "view_cloud", "view_file", "write_page"]
