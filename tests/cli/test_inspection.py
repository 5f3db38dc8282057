from __future__ import annotations

from pathlib import Path

from i2p_zoo.data.files.cloud_files import SUFFIXES
from tests.cli.conftest import succeed

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "finetune.md"


def test_help_and_guide_name_every_format_of_files():
    words = succeed("predict", "--help").stdout.split()
    assert not [suffix for suffix in SUFFIXES if suffix[1:] not in words and f"{suffix[1:]}." not in words]
    text = GUIDE.read_text(encoding="utf-8").lower()
    assert not [suffix for suffix in SUFFIXES if suffix[1:] not in text]
