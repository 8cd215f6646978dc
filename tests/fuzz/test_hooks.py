"""Hook directories of any content: each file is a hook that the system can execute, or is told by its name."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

from startup.plan.hooks import find

STEMS = (
    "seed",
    "10-seed",
    "20_b.once",
    "b.never",
    "README",
    "9",
    "a b",
    "é",
    "_off",
    ".hidden",
    "x.change",
    "10-",
    "#x#",
)
ENDINGS = ("", ".sh", ".py", ".bak", "~", ".swp", ".SH", ".once.sh", ".tmp")
BODIES = (
    *(
        b"#!/bin/sh\n",
        b"#! /bin/sh -e\nexit 0\n",
        b"#!/bin/sh\r\n",
        b"#!/no/such\n",
        b"#!\n",
        b"",
        b"echo\n",
        b"\xff\xfe",
    ),
    *(
        b"#!/usr/bin/env sh\n",
        b"#!/usr/bin/env -S sh -e\n",
        b"#!/usr/bin/env nope\n",
        b"#!/usr/bin/env X=1 sh\n",
        b"#!/usr/bin/env X=1\n",
        b"#!/usr/bin/env sh -e\n",
        b"#!/usr/bin/env -Ssh -e\n",
        b"#!/usr/bin/env -S X=1 sh -e\n",
        b"#!/usr/bin/env -S -u X sh\n",
        b"#!/usr/bin/env -S\n",
        b"#!/etc\n",
    ),
)


def make(rng: random.Random, path: Path) -> None:
    kind = rng.random()
    if kind < 0.05:
        path.symlink_to("nowhere")
    elif kind < 0.1:
        os.mkfifo(path)
    elif kind < 0.15:
        path.mkdir()
    else:
        path.write_bytes(rng.choice(BODIES))
        path.chmod(rng.choice([0o755, 0o755, 0o755, 0o644, 0o777, 0o500]))


def test_each_file_is_a_hook_that_runs_or_is_told_of(rng: random.Random, cases: int, tmp_path: Path) -> None:
    directory = tmp_path / "post_start.d"
    for _ in range(cases):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o755)
        for name in sorted({rng.choice(STEMS) + rng.choice(ENDINGS) for _ in range(rng.randrange(1, 6))}):
            make(rng, directory / name)
        found = find(str(tmp_path), "post_start")
        paths = [hook.path for hook in found.hooks]
        assert paths == sorted(paths, key=os.fsencode)
        said = " ".join((*found.faults, *found.warnings))
        for file in directory.iterdir():
            silent = file.name.startswith((".", "_")) or file.is_dir()
            assert silent or str(file) in paths or file.name in said, (file.name, said)
            assert not silent or str(file) not in paths
        for path in paths:
            if not any(path in fault for fault in found.faults):
                assert (
                    subprocess.run([path], stdin=subprocess.DEVNULL, capture_output=True, timeout=20).returncode == 0
                ), path
