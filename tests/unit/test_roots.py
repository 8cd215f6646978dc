"""Root certificates: the image's are found for an OpenSSL that was built for another place, and override none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from startup import roots


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image that keeps them in this file."""
    path = tmp_path / "roots.crt"
    path.touch()
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(roots, "FILES", (str(tmp_path / "none"), str(path)))
    monkeypatch.setattr(roots, "DIRECTORIES", ())
    return path


def variables() -> list[str]:
    """As a library of this process sees them, and a child that gets no environment of its own."""
    shown = subprocess.run(["env"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [line for line in shown.splitlines() if line.startswith("SSL_CERT")]


def test_another_openssl_than_pythons_is_told_for_a_while_and_pythons_own_place_counts_afterwards(image: Path) -> None:
    with roots.known() as found:
        assert found
        assert variables() == [f"SSL_CERT_FILE={image}"]
        assert "SSL_CERT_FILE" not in os.environ
    assert variables() == []


def test_what_the_user_has_set_stays(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", "/own")
    with roots.known() as found:
        assert found
        assert variables() == ["SSL_CERT_DIR=/own"]
    assert variables() == ["SSL_CERT_DIR=/own"]


def test_an_image_without_any_is_known_as_one(image: Path) -> None:
    image.unlink()
    with roots.known() as found:
        assert not found
    assert roots.find() == ("", "")
