"""Networks: timm's, with stems and presets, as point-cloud networks, feature extractors and U-Nets."""
