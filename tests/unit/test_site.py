"""The site is built with warnings as errors, from this repository alone, and asks no other host for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="mkdocs-material is not installed: it is in the extra docs")
ROOT = Path(__file__).parents[2]
#: What the site is made of.
SOURCES = ("mkdocs.yml", "docs", "examples", "deploy", "LICENSE", "tests/README.md")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for name in (*SOURCES, *(page.name for page in ROOT.glob("*.md"))):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def build(directory: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does, where no request can leave this machine's network, if that may be had."""
    cut_off = (
        ["unshare", "--net"]
        if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0
        else []
    )
    words = [*cut_off, sys.executable, "-m", "mkdocs", "build"]
    return subprocess.run(words, cwd=directory, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1"})


def test_it_builds_without_a_warning_and_loads_nothing_from_elsewhere(sources: Path) -> None:
    done = build(sources)
    assert done.returncode == 0, done.stderr
    pages = list((sources / "build" / "site").rglob("*.html"))
    assert len(pages) > 25
    loads = r"""(?:\bsrc=|<link\b[^>]*\bhref=|url\(|@import )["']?(?:https?:)?//[^"'\s>)]+"""
    assert [(page.name, found) for page in pages for found in re.findall(loads, page.read_text())] == []
    assert "five-nodes-light.svg" in (sources / "build" / "site" / "index.html").read_text()
    assert (sources / "build" / "site" / "search" / "search_index.json").stat().st_size > 100_000


@pytest.mark.parametrize("link", ["tasks.md#nowhere", "nowhere.md", "guides/nowhere.md"])
def test_a_link_or_anchor_that_leads_nowhere_fails_it(sources: Path, link: str) -> None:
    with (sources / "docs" / "faq.md").open("a") as page:
        page.write(f"\n[there]({link})\n")
    assert build(sources).returncode == 1


def test_a_page_that_no_menu_leads_to_fails_it(sources: Path) -> None:
    (sources / "docs" / "lost.md").write_text("# Lost\n")
    assert build(sources).returncode == 1
