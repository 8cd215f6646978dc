"""What mkdocs is told beside mkdocs.yml: the pages that stand at the repository's top, and links out of docs/."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
#: Files of the repository that are pages of the site, too, each under a name in docs/.
TOP = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"(!?)\[([^\]]+)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the repository's own pages in."""
    for name, page in TOP.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links work in the repository; here one to a file that is no page becomes that file's name."""
    top = {new: old for old, new in TOP.items()}
    here = page.file.src_uri
    source = top.get(here, f"docs/{here}")

    def resolve(link: re.Match[str]) -> str:
        image, text, target, anchor = link[1], link[2], link[3], link[4] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        uri = TOP.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
        if uri and files.get_file_from_path(uri):
            return f"{image}[{text}]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{anchor})"
        if (ROOT / path).exists():
            return text if text.strip("`") == path else f"{text} (`{path}`)"
        return link[0]  # nowhere: mkdocs says so

    markdown = re.sub(r'(src|srcset)="docs/', r'\1="', markdown)
    fences = re.split(r"(^ *```.*?^ *```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if number % 2 else LINK.sub(resolve, part) for number, part in enumerate(fences))
