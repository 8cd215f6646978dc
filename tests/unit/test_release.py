"""release/check.py's own logic: what must agree is compared, and what disagrees is named by its file."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from release import check, sbom

ROOT = Path(__file__).parents[2]
CHANGES = "# Changes\n\n"
UNRELEASED = "## Unreleased\n### Added\n- something\n  that is new\n- another\n\n"
SECOND = "## 0.2.0 - 2026-11-30\n### Fixed\n- the second\n\n"
FIRST = "## 0.1.0 - 2026-10-01\n- the first\n"


def tree(root: Path, version: str, *sections: str) -> Path:
    (root / "startup").mkdir()
    (root / check.VERSION_FILE).write_text(f'"""Some."""\n\n__version__ = "{version}"\n')
    (root / check.CHANGELOG).write_text(CHANGES + "".join(sections))
    return root


@pytest.mark.parametrize(
    ("sections", "tags"),
    [
        pytest.param((UNRELEASED,), [], id="nothing released yet"),
        pytest.param((UNRELEASED, SECOND, FIRST), [], id="changes since the release"),
        pytest.param((UNRELEASED, FIRST), [], id="the version is raised already"),
        pytest.param((SECOND, FIRST), [], id="ready for its tag"),
        pytest.param((SECOND, FIRST), ["v0.2.0"], id="tagged"),
    ],
)
def test_version_changelog_and_tag_agree(tmp_path: Path, sections: tuple[str, ...], tags: list[str]) -> None:
    assert check.agree(tree(tmp_path, "0.2.0", *sections), tags) == "0.2.0"


@pytest.mark.parametrize(
    ("version", "sections", "tags", "told"),
    [
        ("0.2.0", (SECOND,), ["v0.3.0"], "startup/__init__.py: the version is 0.2.0, but HEAD has the tag v0.3.0"),
        ("0.2.0", (SECOND,), ["v0.2.0", "v0.2.1"], "startup/__init__.py: the version is 0.2.0, but HEAD .* v0.2.1"),
        ("0.2.0", (UNRELEASED, SECOND), ["v0.2.0"], "CHANGELOG.md: the newest section is 'Unreleased', but .* v0.2.0"),
        ("0.3.0", (SECOND, FIRST), [], "CHANGELOG.md: the newest section is 0.2.0, but startup/__init__.py has 0.3.0"),
        ("0.1.9", (UNRELEASED, SECOND), [], "CHANGELOG.md: 0.2.0 is released, but startup/__init__.py has 0.1.9"),
        ("0.10.0", (UNRELEASED, "## 0.9.0\n"), [], "CHANGELOG.md: '## 0.9.0' is neither"),
        ("0.2", (UNRELEASED,), [], "startup/__init__.py: __version__ = '0.2' is not of the form 1.2.3"),
        ("0.2.0", (), [], "CHANGELOG.md: there is no section"),
    ],
)
def test_what_disagrees_is_named_by_its_file(
    tmp_path: Path, version: str, sections: tuple[str, ...], tags: list[str], told: str
) -> None:
    with pytest.raises(check.Fault, match=f"^{told}"):
        check.agree(tree(tmp_path, version, *sections), tags)


def test_ten_comes_after_nine(tmp_path: Path) -> None:
    nine = "## 0.9.0 - 2026-11-30\n- nine\n"
    assert check.agree(tree(tmp_path, "0.10.0", UNRELEASED, nine), []) == "0.10.0"


def test_a_releases_notes_are_its_own_section(tmp_path: Path) -> None:
    assert check.notes(tree(tmp_path, "0.2.0", SECOND, FIRST)) == "### Fixed\n- the second"


def test_a_version_without_a_section_has_the_notes_of_what_is_unreleased_each_item_on_one_line(tmp_path: Path) -> None:
    assert check.notes(tree(tmp_path, "0.3.0", UNRELEASED, SECOND)) == "### Added\n- something that is new\n- another"


@pytest.mark.parametrize("sections", [(FIRST,), ("## 0.2.0 - 2026-11-30\n\n", FIRST)], ids=["none", "an empty one"])
def test_a_release_without_notes_is_refused(tmp_path: Path, sections: tuple[str, ...]) -> None:
    with pytest.raises(check.Fault, match=r"^CHANGELOG\.md: there is nothing about 0\.2\.0"):
        check.notes(tree(tmp_path, "0.2.0", *sections))


def test_an_image_is_found_by_each_part_of_its_version() -> None:
    assert check.image_tags("1.2.3", "base") == ["latest", "1", "1.2", "1.2.3"]
    assert check.image_tags("1.2.3", "bundle") == ["bundle", "1-bundle", "1.2-bundle", "1.2.3-bundle"]


def test_tags_of_versions_count_and_what_is_not_committed_is_named(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.example", *words], cwd=tmp_path, check=True)

    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message=one")
    git("tag", "vendored")
    (tmp_path / "file").write_text("2")
    assert check.tags_on_head(tmp_path) == []
    git("tag", "v0.2.0")
    with pytest.raises(check.Fault, match=r"^file: not committed, but HEAD has the tag v0\.2\.0"):
        check.tags_on_head(tmp_path)
    git("checkout", "--quiet", "file")
    assert check.tags_on_head(tmp_path) == ["v0.2.0"]


def test_a_failed_command_is_told_with_its_code_and_what_it_said() -> None:
    script = "print('why'); raise SystemExit(3)"
    assert check.run("thing", sys.executable, "-c", script, expect=3) == "why\n"
    with pytest.raises(check.Fault, match=r"^thing: exit code 3, not 0: .*\nwhy$"):
        check.run("thing", sys.executable, "-c", script)
    with pytest.raises(check.Fault, match=r"^thing: .*no-such-program"):
        check.run("thing", "no-such-program")


def test_another_version_than_the_files_is_named() -> None:
    check.expect_version("wheel", "0.2.0", "startup-tasks 0.2.0\n")
    with pytest.raises(check.Fault, match=r"^wheel: --version says 'startup-tasks 0.1.0', but .* has 0.2.0"):
        check.expect_version("wheel", "0.2.0", "startup-tasks 0.1.0\n")


PINS = check.locked(ROOT)
PIPS = "".join(f"{name} {PINS[name]}\n" for name in ("psycopg", "yoyo-migrations"))
OURS = "startup-tasks 0.2.0\n"
PYTHON = "Python 3.13.5\nOpenSSL 3.5.1\nlibpq 18.0\n"
DEBIAN = "busybox-static 1:1.37.0-6+b9 amd64\ncoreutils 9.7-3 amd64\nlibc6 2.41-12 amd64\n"


def bom() -> sbom.Bom:
    return sbom.bom(*check.bundle_parts(ROOT, "0.2.0", PIPS + OURS + PYTHON, DEBIAN), 1_700_000_000)


def test_the_bundles_parts_are_the_locked_packages_python_and_debians() -> None:
    document = bom()
    assert sbom.faults(document) == []
    assert document["metadata"]["component"]["purl"] == "pkg:pypi/startup-tasks@0.2.0"
    assert [component["purl"] for component in document["components"]] == [
        "pkg:deb/debian/busybox-static@1%3A1.37.0-6%2Bb9?arch=amd64",
        "pkg:deb/debian/coreutils@9.7-3?arch=amd64",
        "pkg:deb/debian/libc6@2.41-12?arch=amd64",
        "pkg:generic/libpq@18.0",
        "pkg:generic/openssl@3.5.1",
        "pkg:generic/python@3.13.5",
        f"pkg:pypi/psycopg@{PINS['psycopg']}",
        f"pkg:pypi/yoyo-migrations@{PINS['yoyo-migrations']}",
    ]


def test_the_same_parts_make_the_same_document_and_others_another() -> None:
    parts = [sbom.Part("pypi", "a", "1"), sbom.Part("pypi", "b", "2")]
    one = sbom.bom(sbom.Part("pypi", "x", "1"), parts, 0)
    assert one == sbom.bom(sbom.Part("pypi", "x", "1"), parts[::-1], 0)
    assert one["serialNumber"] != sbom.bom(sbom.Part("pypi", "x", "1"), parts[:1], 0)["serialNumber"]


@pytest.mark.parametrize(
    ("python", "debian", "told"),
    [
        (PIPS + OURS + PYTHON + "other 1\n", DEBIAN, "release/packages.txt: has other None, but the bundle has 1"),
        ("psycopg 3.0\n" + OURS + PYTHON, DEBIAN, "release/packages.txt: has psycopg .*, but the bundle has 3.0"),
        (PIPS + "startup-tasks 0.1.0\n" + PYTHON, DEBIAN, "startup/__init__.py: has 0.2.0, but the bundle has 0.1.0"),
        (PIPS + OURS, "coreutils 9.7-3 amd64\n", "Dockerfile: the bundle's parts lack busybox-static, libc6, libpq"),
    ],
)
def test_a_part_that_should_not_be_so_is_named(python: str, debian: str, told: str) -> None:
    with pytest.raises(check.Fault, match=f"^{told}"):
        check.bundle_parts(ROOT, "0.2.0", python, debian)


def test_the_shape_that_readers_rely_on_is_looked_at() -> None:
    def faults(**changed: object) -> list[str]:
        return sbom.faults({**copy.deepcopy(bom()), **changed})

    first, *others = bom()["components"]
    assert faults(specVersion="1.4") == ["specVersion is '1.4', not '1.6'"]
    assert faults(serialNumber="1") == ["serialNumber is '1', not urn:uuid:..."]
    assert "there are no components" in faults(components=[], dependencies=[])
    assert faults(components=[{**first, "version": ""}, *others]) == ["component 'busybox-static' lacks version"]
    assert faults(components=[{**first, "purl": "busybox"}, *others]) == [
        "component 'busybox-static' has the purl 'busybox'"
    ]
    assert faults(components=[first, first, *others]) == [f"bom-ref {first['bom-ref']!r} is there twice"]
    assert faults(components=others) == [f"dependencies name {first['bom-ref']!r}, which is no component"]


@pytest.mark.parametrize(("words", "code"), [(["tags", "bundle"], 0), (["notes"], 0), (["tags"], 2), (["note"], 2)])
def test_the_command_line_has_three_forms(words: list[str], code: int) -> None:
    command = [sys.executable, "-m", "release.check", *words]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == code
