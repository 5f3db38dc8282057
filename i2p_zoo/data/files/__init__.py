"""Files of meshes and point clouds, one file a format."""
