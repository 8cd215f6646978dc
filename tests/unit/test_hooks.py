"""Hook directories, as section 2 of the contract has them: what is a task, in which order, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from startup.plan.hooks import HookScan, find

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    directory = tmp_path / "hooks"
    directory.mkdir(mode=0o755)
    return directory


def write(
    hooks: Path, name: str, body: str = "#!/bin/sh\ntrue\n", mode: int = 0o755, phase: str = "post_start"
) -> Path:
    directory = hooks / f"{phase}.d"
    if not directory.exists():
        directory.mkdir(mode=0o755)
    path = directory / name
    path.write_bytes(body.encode())
    path.chmod(mode)
    return path


def names(found: HookScan) -> list[tuple[str, str | None]]:
    return [(hook.name, hook.policy) for hook in found.hooks]


@pytest.mark.parametrize(
    ("file", "name", "policy"),
    [
        ("20-seed_plans.once.sh", "seed_plans", "once"),
        ("99-seed_plans.once.sh", "seed_plans", "once"),
        ("20_seed.sh", "seed", None),
        ("20.seed.py", "seed", None),
        ("seed", "seed", None),
        ("seed.once", "seed", "once"),
        ("10-Warm-Cache.local.sh", "warm_cache", "local"),
        ("10-load.release.py", "load", "release"),
        ("10-load.change.py", "load", "change"),
        ("10-load.always.py", "load", "always"),
        ("10-once.sh", "once", None),
    ],
)
def test_the_name_is_the_files_without_number_and_ending_and_holds_the_policy(
    hooks: Path, file: str, name: str, policy: str | None
) -> None:
    write(hooks, file)
    assert names(find(str(hooks), "post_start")) == [(name, policy)]


def test_they_come_in_c_order(hooks: Path) -> None:
    for file in ("b", "10-z", "9-y", "C", "a"):
        write(hooks, file)
    found = find(str(hooks), "post_start")
    assert [os.path.basename(hook.path) for hook in found.hooks] == ["10-z", "9-y", "C", "a", "b"]


@pytest.mark.parametrize("file", ["_10-seed.sh", ".10-seed.sh", "..data", "_", ".gitkeep"])
def test_a_name_that_begins_with_an_underscore_or_a_dot_is_never_a_hook(hooks: Path, file: str) -> None:
    write(hooks, file)
    assert find(str(hooks), "post_start") == HookScan()


@pytest.mark.parametrize("file", ["10-é.sh", "10-.sh", "10-a b.sh", "10-seed.onec.sh"])
def test_a_file_name_that_gives_no_task_name_is_an_error(hooks: Path, file: str) -> None:
    path = write(hooks, file)
    (fault,) = find(str(hooks), "post_start").faults
    assert str(path) in fault and "letters, digits, - and _" in fault


def test_only_the_phases_own_directory_is_read(hooks: Path) -> None:
    for phase in ("pre_start", "post_start", "pre_stop", "post_stop", "failed"):
        write(hooks, f"in_{phase}", phase=phase)
        assert names(find(str(hooks), phase)) == [(f"in_{phase}", None)]


def test_no_directory_is_no_hooks(hooks: Path) -> None:
    assert find(str(hooks), "post_start") == HookScan()
    assert find("/nowhere", "post_start") == HookScan()


@pytest.mark.parametrize("first", ["10-seed.sh", "10-Seed.sh", "seed.once"])
def test_a_name_given_twice_is_an_error_that_names_both_files(hooks: Path, first: str) -> None:
    one, other = write(hooks, first), write(hooks, "20-seed.py")
    (fault,) = find(str(hooks), "post_start").faults
    assert str(one) in fault and str(other) in fault and "'seed'" in fault


@pytest.mark.parametrize(
    ("file", "body", "mode", "cure"),
    [
        ("10-seed.sh", "#!/bin/sh\n", 0o644, "chmod +x"),
        ("seed.sh", "true\n", 0o644, "chmod +x"),
        ("10-seed", "true\n", 0o644, "chmod +x"),
        ("seed", "#!/bin/sh\n", 0o644, "chmod +x"),
        ("10-seed.sql", "SELECT 1;\n", 0o755, "right would be #!/bin/sh"),
        ("seed.sh", "true\n", 0o755, "right would be #!/bin/sh"),
        ("10-seed.sh", "#!/bin/sh\r\ntrue\r\n", 0o755, "dos2unix"),
        ("seed", "#!/no/such/interpreter -x\n", 0o755, "'/no/such/interpreter', is not there"),
        ("seed", "#!/usr/bin/env no-such-interpreter\n", 0o755, "'no-such-interpreter', is not on PATH"),
        ("seed", "#!/usr/bin/env -S no-such-interpreter -v\n", 0o755, "'no-such-interpreter', is not on PATH"),
        ("seed", "#!\n", 0o755, "'', is not there"),
        ("seed", "#!/usr/bin/env sh -e\n", 0o755, "right would be #!/usr/bin/env -S sh -e"),
        ("seed", "#!/usr/bin/env X=1 sh\n", 0o755, "right would be #!/usr/bin/env -S X=1 sh"),  # it would run for ever
        ("seed", "#!/usr/bin/env X=1\n", 0o755, "its interpreter, '', is not on PATH"),
        ("seed", "#!/etc\n", 0o755, "its interpreter, '/etc', is not there"),
        ("10-seed.sh", "", 0o755, "no first line that names its interpreter"),
    ],
)
def test_what_is_meant_as_a_hook_and_cannot_run_is_an_error_with_the_cure(
    hooks: Path, file: str, body: str, mode: int, cure: str
) -> None:
    path = write(hooks, file, body, mode)
    found = find(str(hooks), "post_start")
    assert found.hooks == []
    (fault,) = found.faults
    assert f"the hook {path} cannot run" in fault and cure in fault


def test_files_that_are_no_hooks_are_named_in_one_warning(hooks: Path) -> None:
    names_of_others = ("10-seed.sh.bak", "10-seed.sh.dpkg-old", "10-seed.sh~", "README", "data.json", "#10-seed.sh#")
    for file in names_of_others:
        write(hooks, file, "#!/bin/sh\n" if file.startswith(("10", "#")) else "text\n")
    found = find(str(hooks), "post_start")
    assert (found.hooks, found.faults) == ([], [])
    (warning,) = found.warnings
    assert all(file in warning for file in names_of_others)


def test_a_link_to_nothing_is_an_error_and_a_link_to_a_hook_is_one(hooks: Path) -> None:
    target = write(hooks, "real", phase="elsewhere")
    write(hooks, "placeholder").unlink()
    (hooks / "post_start.d/10-broken").symlink_to("/nowhere")
    (hooks / "post_start.d/20-good").symlink_to(target)
    found = find(str(hooks), "post_start")
    assert names(found) == [("good", None)]
    assert "10-broken" in found.faults[0] and "link to nothing" in found.faults[0]


def test_a_program_is_a_hook_without_a_first_line(hooks: Path) -> None:
    write(hooks, "placeholder").unlink()
    shutil.copy("/bin/true", hooks / "post_start.d/check")
    assert names(find(str(hooks), "post_start")) == [("check", None)]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
def test_what_everybody_may_write_is_not_refused_where_nobody_can(hooks: Path) -> None:
    """A ConfigMap: mode 0777, mounted read-only."""
    write(hooks, "10-seed.sh", mode=0o777).parent.chmod(0o777)
    code = "import sys; sys.path.insert(0, sys.argv[1])\nfrom startup.plan.hooks import find\n"
    code += "found = find(sys.argv[2], 'post_start'); print(found.faults, [hook.name for hook in found.hooks])"
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -c "$3" "$4" "$1"'
    words = ("unshare", "--mount", "sh", "-c", mount, "sh", str(hooks), sys.executable, code, str(ROOT))
    done = subprocess.run(words, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.stdout == "[] ['seed']\n", done.stderr


def test_a_directory_that_was_set_must_be_there_and_its_subdirectories_must_be_phases(
    startup: Any, hooks: Path
) -> None:
    done = startup("init", STARTUP_HOOKS_DIR="/nowhere", STARTUP_TASKS="none")
    assert done.returncode == 78 and "STARTUP_HOOKS_DIR is '/nowhere'" in done.stderr
    write(hooks, "10-seed.sh", phase="poststart")
    (hooks / "20-lost.sh").write_text("#!/bin/sh\n")
    for name in ("..data", "_old.d", ".git"):
        (hooks / name).mkdir()
    done = startup("init", STARTUP_HOOKS_DIR=str(hooks), STARTUP_TASKS="none")
    assert done.returncode == 0
    assert (
        f"{hooks}/poststart.d is no phase's directory" in done.stderr and "right would be post_start.d" in done.stderr
    )
    assert "20-lost.sh is in no phase's directory" in done.stderr
    assert "..data" not in done.stderr and "_old" not in done.stderr and ".git" not in done.stderr


def test_a_file_that_everybody_may_write_is_refused(hooks: Path) -> None:
    path = write(hooks, "10-seed.sh", mode=0o757)
    found = find(str(hooks), "post_start")
    assert found.hooks == [] and str(path) in found.faults[0] and "chmod o-w" in found.faults[0]


def test_a_directory_that_everybody_may_write_is_refused(hooks: Path) -> None:
    path = write(hooks, "10-seed.sh").parent
    path.chmod(0o777)
    found = find(str(hooks), "post_start")
    assert found.hooks == [] and str(path) in found.faults[0] and "chmod o-w" in found.faults[0]


def test_the_hooks_directory_above_it_counts_too(hooks: Path) -> None:
    write(hooks, "10-seed.sh")
    hooks.chmod(0o777)
    found = find(str(hooks), "post_start")
    assert found.hooks == [] and str(hooks) in found.faults[0]


def test_the_comment_at_its_head_is_its_description(hooks: Path) -> None:
    write(hooks, "10-seed", "#!/bin/sh\n# Loads the plans.\n#\n# Twice is fine.\nset -e\n# not this\n")
    assert find(str(hooks), "post_start").hooks[0].description() == "Loads the plans. Twice is fine."


def test_hooks_run_after_the_tasks_that_variables_name_as_children_that_get_what_commands_get(
    startup: Any, hooks: Path
) -> None:
    write(hooks, "10-second.local", '#!/bin/sh\necho "2 $STARTUP_TASK $STARTUP_PHASE"; exit=1; export A=b\n')
    write(hooks, "20-third.local", '#!/bin/sh\necho "3 ${A-unset} $0"\n')
    settings = {"STARTUP_TASKS": "first@local", "STARTUP_TASK_FIRST": 'echo "1 $STARTUP_TASK"'}
    done = startup("init", STARTUP_HOOKS_DIR=str(hooks), **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if not line.startswith("startup: ")]
    assert said == ["1 first", "2 second post_start", f"3 unset {hooks}/post_start.d/20-third.local"]


def test_a_hook_that_the_list_names_runs_once_where_the_list_has_it_with_the_lists_policy(
    startup: Any, hooks: Path
) -> None:
    write(hooks, "10-seed.once.sh", "#!/bin/sh\necho seeding\n")
    write(hooks, "20-other.local.sh", "#!/bin/sh\necho other\n")
    done = startup(
        "init", STARTUP_HOOKS_DIR=str(hooks), STARTUP_TASKS="seed@local last@local", STARTUP_TASK_LAST="echo last"
    )
    assert [s for s in done.stderr.splitlines() if not s.startswith("startup: ")] == ["seeding", "last", "other"]


def test_a_variable_overrides_a_hook_file_of_its_name(startup: Any, hooks: Path) -> None:
    write(hooks, "10-seed.local.sh", "#!/bin/sh\necho from file\n")
    done = startup(
        "init", STARTUP_HOOKS_DIR=str(hooks), STARTUP_TASK_SEED="echo from variable", STARTUP_SKIP_TASKS="migrate"
    )
    assert "seed" in done.stderr and "from file" not in done.stderr


def test_faults_are_78_and_name_everything(startup: Any, hooks: Path) -> None:
    write(hooks, "10-seed.sh")
    write(hooks, "20-seed.sh")
    write(hooks, "30-open", mode=0o777)
    done = startup("init", STARTUP_HOOKS_DIR=str(hooks))
    assert done.returncode == 78
    for word in ("10-seed.sh", "20-seed.sh", "30-open"):
        assert word in done.stderr


def test_one_name_in_both_start_phases_is_an_error_for_the_ledger_knows_one(startup: Any, hooks: Path) -> None:
    write(hooks, "10-seed.once.sh", phase="pre_start")
    write(hooks, "10-seed.once.sh")
    done = startup("init", STARTUP_HOOKS_DIR=str(hooks))
    assert done.returncode == 78 and "pre_start.d" in done.stderr and "post_start.d" in done.stderr


def test_one_name_around_the_apps_end_is_none(startup: Any, hooks: Path) -> None:
    write(hooks, "10-notify.local.sh")
    write(hooks, "10-notify.sh", phase="post_stop")
    assert startup("init", STARTUP_HOOKS_DIR=str(hooks)).returncode == 0


@pytest.mark.parametrize(
    "line", ["sh", "-S sh -e", "-Ssh -e", "-S X=1 sh", "-S -u X sh", "-vS sh", "--split-string=sh"]
)
def test_what_env_finds_is_a_hook(hooks: Path, line: str) -> None:
    write(hooks, "seed", f"#!/usr/bin/env {line}\n")
    assert names(find(str(hooks), "post_start")) == [("seed", None)]


def test_a_fifo_is_no_hook_and_is_not_opened(startup: Any, hooks: Path) -> None:
    """It would be waited for, for ever, by a boot."""
    write(hooks, "10-first.local.sh")
    for name in ("20-pipe.sh", "notes"):
        os.mkfifo(hooks / "post_start.d" / name, 0o644)
        os.chmod(hooks / "post_start.d" / name, 0o755)
    done = startup("plan", STARTUP_HOOKS_DIR=str(hooks))
    assert done.returncode == 78
    assert "20-pipe.sh cannot run: it is no file" in done.stderr
    assert "no hooks, and are not run: notes" in find(str(hooks), "post_start").warnings[0]


def test_a_hook_that_cannot_run_stops_everything_before_anything_runs(startup: Any, hooks: Path) -> None:
    write(hooks, "10-first.local.sh", "#!/bin/sh\necho ran\n")
    write(hooks, "20-seed.sh", mode=0o644)
    for verb in ("init", "plan"):
        done = startup(verb, STARTUP_HOOKS_DIR=str(hooks))
        assert done.returncode == 78 and "20-seed.sh cannot run" in done.stderr and "ran" not in done.stderr.split()


def test_files_that_are_not_run_are_in_a_warning_on_stderr(startup: Any, hooks: Path) -> None:
    write(hooks, "README", "Read me.\n", mode=0o644)
    done = startup("init", STARTUP_HOOKS_DIR=str(hooks))
    assert done.returncode == 0 and "README" in done.stderr and "warning" in done.stderr


def test_skipped_tasks_are_skipped_in_hook_directories_too(startup: Any, hooks: Path) -> None:
    write(hooks, "10-seed.local.sh", "#!/bin/sh\necho seeding\n")
    done = startup("init", STARTUP_HOOKS_DIR=str(hooks), STARTUP_SKIP_TASKS="seed")
    assert done.returncode == 0 and "seeding" not in done.stderr.splitlines()
