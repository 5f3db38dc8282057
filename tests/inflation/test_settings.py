"""Settings: numbers and words out of range are refused with their value, and a change is a copy."""

from __future__ import annotations

from i2p_zoo.inflation.settings import Settings

# Settings and the structure's weights.


def test_settings_are_changed_in_a_copy():
    settings = Settings()
    changed = settings.changed(stem="point", voxel_size=0.1)
    assert (settings.stem, settings.voxel_size) == ("image", 0.05)
    assert changed.to_dict() == {
        "inflation": "center",
        "axis": "z",
        "depth": None,
        "stem": "point",
        "skip_downsamples": 0,
        "voxel_size": 0.1,
        "features": "xyz",
        "preset": "",
    }
