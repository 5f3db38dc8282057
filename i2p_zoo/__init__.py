"""Image-pretrained timm networks as sparse 3D point-cloud networks (Image2Point, ECCV 2022)."""

import lazy_loader

from i2p_zoo._version import __version__ as __version__

# The public names and their homes stand in __init__.pyi; torch is imported when the first of them is used (PEP 562).
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
