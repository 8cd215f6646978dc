"""docs/tutorial.md, from its first command to its last: each does what the page says, and prints it."""

from __future__ import annotations

import pytest

from . import pages
from .conftest import ROOT, Project, environment


@pytest.mark.timeout(600)
def test_each_command_of_the_tutorial_prints_what_the_page_shows(project: Project) -> None:
    found = pages.run(
        ROOT / "docs" / "tutorial.md", project.directory, environment() | {"COMPOSE_PROJECT_NAME": project.name}
    )
    assert found > 10
    assert project("ps", "--all", "--quiet").stdout == "", "it has tidied up"


def test_a_line_that_is_not_printed_fails_the_page(project: Project) -> None:
    page = project.directory / "page.md"
    page.write_text("```sh\necho one\n```\n\n```text\ntwo\n```\n")
    with pytest.raises(AssertionError, match=r"did not print \['two'\]"):
        pages.run(page, project.directory, environment(), timeout=1)
