"""What the launcher knows of signals. That the app sees the right ones: tests/shell/test_unchanged.py."""

from __future__ import annotations

import signal

import pytest

from startup import launch


@pytest.mark.parametrize(
    ("status", "ignored"),
    [
        (b"Name:\tsh\nSigBlk:\t0000000000000000\nSigIgn:\t0000000200000004\nSigCgt:\t0000000000000002\n", {3, 34}),
        (b"Name:\tsh\nState:\tS (sleeping)\nUid:\t0\t0\t0\t0\n", set()),  # gVisor
    ],
)
def test_ignored_signals_are_read_where_the_kernel_tells_them(status: bytes, ignored: set[int]) -> None:
    mask = launch.ignored_in(status)
    assert {number for number in range(1, signal.NSIG) if mask >> (number - 1) & 1} == ignored
