"""What the guides show of the examples is what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOWN = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def test_each_titled_block_stands_in_its_file() -> None:
    blocks = [(page.name, *found) for page in ROOT.glob("docs/**/*.md") for found in SHOWN.findall(page.read_text())]
    assert len(blocks) > 5
    assert [(page, name) for page, name, text in blocks if text not in (ROOT / name).read_text()] == []
