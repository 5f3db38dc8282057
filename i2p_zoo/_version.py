"""The version of the package, which no other module needs torch to read."""

__version__ = "0.1.0"
