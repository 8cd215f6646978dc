"""Section 4 of the contract up to the running: which name is which task, with which policy, and what is refused."""

from __future__ import annotations

import importlib
import linecache
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from startup.builtin.registry import BUILT_IN, make
from startup.errors import SettingError
from startup.plan import task as tasks
from startup.plan.planner import Plan, Planner, resolve
from startup.plan.task import Task
from startup.settings.parsers import POLICIES
from startup.settings.settings import load

POSTGRES = "postgresql://127.0.0.1:1/a"


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "registry", {})
    monkeypatch.setattr("startup.plan.planner.registry", tasks.registry)
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("startup", "yoyo")):
            del sys.modules[name]


def plan(phase: str = "post_start", named: list[str] | None = None, /, **environ: str) -> Plan:
    hooks = {"STARTUP_HOOKS_DIR": "hooks"} if Path("hooks").is_dir() else {}
    settings = load({"DATABASE_URL": POSTGRES, **hooks, **environ})
    return resolve(settings, phase, named)


def one(**environ: str) -> Task:
    """The only task of the plan."""
    (task,) = plan(**environ).tasks
    return task


def refused(phase: str = "post_start", named: list[str] | None = None, /, **environ: str) -> str:
    with pytest.raises(SettingError) as caught:
        plan(phase, named, **environ)
    return str(caught.value)


def write(name: str, content: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if name.startswith("hooks/"):
        path.chmod(0o755)


MODULE = """
from startup import Context, task

@task
def plain(context: Context) -> None:
    "Does it."

@task(policy="once", timeout=60, files=["a.csv"], transaction=False)
def seed_plans(context: Context) -> None:
    ...

@task(name="Warm-Cache", policy="local")
def warm(context: Context) -> None:
    ...

def unmarked(context: Context) -> None:
    ...

class Group:
    @staticmethod
    def inner(context: Context) -> None:
        ...

async def later(context: Context) -> None: ...
def nothing() -> None: ...
"""


@pytest.fixture
def module() -> str:
    write("app_tasks.py", MODULE)
    return "app_tasks"


# ------------------------------------------------------------------------------------- what a name is, in this order


def test_a_variable_comes_before_a_function_a_hook_and_a_built_in(module: str) -> None:
    write("hooks/post_start.d/10-plain", "#!/bin/sh\n")
    assert one(STARTUP_TASKS="plain", STARTUP_MODULE=module, STARTUP_TASK_PLAIN="echo").kind == "command"
    assert one(STARTUP_TASKS="plain", STARTUP_MODULE=module).kind == "function"
    tasks.registry.clear()
    assert one(STARTUP_TASKS="plain").kind == "hook"
    assert [task.kind for task in plan(STARTUP_TASKS="migrate", STARTUP_TASK_MIGRATE="alembic upgrade head").tasks] == [
        *("command", "hook")
    ]


def test_a_function_comes_before_a_hook_and_a_hook_before_a_built_in() -> None:
    write("hooks/post_start.d/10-insert_users", "#!/bin/sh\n")
    assert one(STARTUP_TASKS="insert_users").kind == "hook"
    write("mine.py", "from startup import task\n@task\ndef insert_users(context): ...\n")
    assert one(STARTUP_TASKS="insert_users", STARTUP_MODULE="mine").kind == "function"


def test_module_and_function_on_the_list_or_in_a_variable(module: str) -> None:
    assert one(STARTUP_TASKS="app_tasks:unmarked").name == "app_tasks:unmarked"
    assert one(STARTUP_TASKS="app_tasks:Group.inner").function is not None
    task = one(STARTUP_TASKS="x", STARTUP_TASK_X="app_tasks:unmarked")
    assert (task.name, task.kind, task.policy) == ("x", "function", "always")


def test_a_value_that_is_not_module_and_function_is_a_command_line() -> None:
    for value in ("echo a:b", "./a:b", "a", "a:b c", "http://x"):
        task = one(STARTUP_TASKS="x", STARTUP_TASK_X=value)
        assert (task.kind, task.argv) == ("command", ("/bin/sh", "-c", value))


def test_names_are_lower_case_with_dash_and_underline_alike() -> None:
    assert one(STARTUP_TASKS="Warm-Cache", STARTUP_TASK_WARM_CACHE="true").name == "warm_cache"


def test_the_module_gives_its_functions_names_and_what_the_decorator_says(module: str) -> None:
    seed, warm = plan(STARTUP_TASKS="seed_plans warm-cache", STARTUP_MODULE=module, STARTUP_TIMEOUT="5").tasks
    assert (seed.policy, seed.timeout, seed.transaction, tuple(seed.files)) == ("once", 60, False, ("a.csv",))
    assert (warm.policy, warm.timeout, warm.transaction) == ("local", 5, True)


def test_a_reference_to_a_marked_function_has_what_its_decorator_says(module: str) -> None:
    assert one(STARTUP_TASKS="app_tasks:seed_plans").policy == "once"


# ------------------------------------------------------------------------------------------------------- policies


@pytest.mark.parametrize("policy", ["always", "change", "release", "once", "local"])
def test_a_policy_on_the_list_wins_over_the_decorators_the_file_names_and_the_default(policy: str, module: str) -> None:
    write("hooks/post_start.d/10-hook.once", "#!/bin/sh\n")
    settings = {"STARTUP_MODULE": module, "STARTUP_RELEASE": "1", "STARTUP_TASK_X": "true"}
    Path("a.csv").touch()
    resolved = plan(STARTUP_TASKS=f"x@{policy} seed_plans@{policy} hook@{policy}", **settings)
    assert [task.policy for task in resolved.tasks] == [policy] * 3


def test_without_one_it_is_the_decorators_or_the_file_names_or_always(module: str) -> None:
    write("hooks/post_start.d/10-hook.once", "#!/bin/sh\n")
    resolved = plan(STARTUP_TASKS="x seed_plans", STARTUP_TASK_X="true", STARTUP_MODULE=module)
    assert [(task.name, task.policy) for task in resolved.tasks] == [
        *(("x", "always"), ("seed_plans", "once"), ("hook", "once"))
    ]


@pytest.mark.parametrize("policy", ["always", "change", "release", "once", "local"])
@pytest.mark.parametrize("there", [True, False])
def test_migrate_takes_no_policy_whether_or_not_there_is_anything_to_migrate(policy: str, there: bool) -> None:
    if there:
        write("migrations/0001.sql", "SELECT 1")
    said = refused(STARTUP_TASKS=f"migrate@{policy}", STARTUP_RELEASE="1")
    assert f"migrate@{policy}" in said and "takes no policy" in said and "STARTUP_TASKS" in said


def test_release_without_a_release_is_refused() -> None:
    said = refused(STARTUP_TASKS="x@release", STARTUP_TASK_X="true")
    assert "STARTUP_RELEASE" in said and "task x" in said


def test_insert_users_cannot_be_local() -> None:
    write("seeds/users.csv", "email\na@example.com\n")
    assert "insert_users@local" in refused(STARTUP_TASKS="insert_users@local")


@pytest.mark.parametrize("phase", ["pre_stop", "post_stop", "failed"])
def test_no_stop_task_takes_the_lock(phase: str) -> None:
    variable = f"STARTUP_{phase.upper()}"
    assert [t.policy for t in plan(phase, **{variable: "x", "STARTUP_TASK_X": "true"}).tasks] == ["local"]
    for item in ("x@once", "x@always", "migrate", "insert_users"):
        write("seeds/users.csv", "email\n")
        assert variable in refused(phase, **{variable: item, "STARTUP_TASK_X": "true"})


def test_a_follower_may_not_have_an_always_task_and_is_told_the_way_out() -> None:
    said = refused(STARTUP_ROLE="follower", STARTUP_TASKS="x", STARTUP_TASK_X="true")
    assert "x@local" in said and "STARTUP_SKIP_TASKS" in said
    for policy in ("once", "change", "local"):
        assert plan(STARTUP_ROLE="follower", STARTUP_TASKS=f"x@{policy}", STARTUP_TASK_X="true").tasks


# ------------------------------------------------------------------------------------------ lists, defaults, skipping


@pytest.mark.parametrize("env", ["dev", "test", "prod", "staging"])
def test_a_list_that_is_set_is_obeyed_to_the_letter_in_every_environment(env: str) -> None:
    write("seeds/users.csv", "email\na@example.com\n")
    assert [task.name for task in plan(STARTUP_ENV=env, STARTUP_TASKS="insert_users").tasks] == ["insert_users"]
    assert plan(STARTUP_ENV=env, STARTUP_TASKS="none").tasks == []


def test_the_default_list_of_prod_has_no_users_and_that_of_dev_has() -> None:
    write("seeds/users.csv", "email\na@example.com\n")
    write("migrations/0001.sql", "SELECT 1")
    assert [task.name for task in plan().tasks] == ["migrate"]
    assert [task.name for task in plan(STARTUP_ENV="dev").tasks] == ["migrate", "insert_users"]


def test_the_defaults_files_may_be_missing_and_a_line_says_so() -> None:
    resolved = plan(STARTUP_ENV="dev")
    assert resolved.tasks == []
    assert "migrations" in resolved.notes[0] and "seeds/users.csv" in resolved.notes[1]


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"STARTUP_USERS": "people.csv", "STARTUP_ENV": "dev"}, "STARTUP_USERS"),
        ({"STARTUP_TASKS": "insert_users"}, "STARTUP_USERS"),
        ({"STARTUP_MIGRATIONS": "nowhere"}, "STARTUP_MIGRATIONS"),
        ({"STARTUP_MIGRATIONS": "empty"}, "STARTUP_MIGRATIONS"),
        ({"STARTUP_MIGRATIONS": "full nowhere"}, "STARTUP_MIGRATIONS"),
    ],
)
def test_what_was_set_may_be_neither_missing_nor_empty(environ: dict[str, str], variable: str) -> None:
    Path("empty").mkdir()
    write("full/0001.sql", "SELECT 1")
    assert variable in refused(**environ)


def test_run_asks_for_what_it_names() -> None:
    assert "STARTUP_USERS" in refused("post_start", ["insert_users"], STARTUP_ENV="dev")


def test_skipped_tasks_are_left_out_of_every_list_and_a_note_says_so() -> None:
    settings = {"STARTUP_TASK_X": "true", "STARTUP_TASK_Y": "true", "STARTUP_SKIP_TASKS": "x, Insert-Users"}
    resolved = plan(STARTUP_TASKS="x y insert_users", **settings)
    assert [task.name for task in resolved.tasks] == ["y"]
    assert any("x" in note and "STARTUP_SKIP_TASKS" in note for note in resolved.notes)
    for phase in ("pre_start", "pre_stop", "post_stop", "failed"):
        assert plan(phase, **{f"STARTUP_{phase.upper()}": "x"}, **settings).tasks == []


def test_skipping_a_task_that_is_none_is_an_error_for_the_right_one_would_run() -> None:
    said = refused(STARTUP_SKIP_TASKS="insert_user")
    assert "STARTUP_SKIP_TASKS" in said and "'insert_user'" in said and "insert_users?" in said


def test_a_task_that_is_skipped_is_not_asked_for_what_it_needs() -> None:
    assert plan(STARTUP_MIGRATIONS="nowhere", STARTUP_SKIP_TASKS="migrate").tasks == []


def test_run_runs_what_it_names_skipped_or_not_and_nothing_else() -> None:
    write("hooks/post_start.d/10-hook", "#!/bin/sh\n")
    settings = {"STARTUP_TASK_X": "true", "STARTUP_SKIP_TASKS": "x"}
    assert [task.name for task in plan("post_start", ["X"], **settings).tasks] == ["x"]
    assert [(t.name, t.policy) for t in plan("post_start", ["x@once", "hook"], **settings).tasks] == [
        *(("x", "once"), ("hook", "always"))
    ]


# ------------------------------------------------------------------------------------------------ what is refused


def test_an_unknown_task_is_named_with_the_nearest_and_all_known_ones() -> None:
    said = refused(STARTUP_TASKS="migrat", STARTUP_TASK_SEED="true")
    for word in ("STARTUP_TASKS", "'migrat'", "did you mean migrate?", "insert_users", "seed", "module:function"):
        assert word in said
    assert "STARTUP_PRE_START" in refused("pre_start", STARTUP_PRE_START="nope")
    assert "command line" in refused("post_start", ["nope"])
    assert "command line" in refused("post_start", ["x@nope"], STARTUP_TASK_X="true")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import nothing_like_it", ("ModuleNotFoundError", "nothing_like_it", "broken.py, line 1")),
        ("a = 1\nraise ValueError('hm')", ("ValueError: hm", "broken.py, line 2")),
        ("a = 1\nb = (", ("SyntaxError", "broken.py")),
        ("import sys\nsys.exit(0)", ("SystemExit", "broken.py, line 2")),
        (
            "from startup import task\n@task(policy='sometimes')\ndef a(context): ...",
            (
                "'sometimes'",
                "always, change, release, once, local",
                "broken.py, line ",
            ),  # the decorator's, 3.10: the function's
        ),
        ("from startup import task\n@task\ndef a(context): ...\n@task(name='A')\ndef b(context): ...", ("twice",)),
        ("from startup import task\n@task(timeout='60')\ndef a(context): ...", ("'60'", "seconds")),
        ("from startup import task\n@task(timeout=-1)\ndef a(context): ...", ("-1", "seconds")),
        ("from startup import task\n@task\nasync def a(context): ...", ("async", "asyncio.run")),
        ("from startup import task\n@task\ndef a(): ...", ("one argument",)),
    ],
)
def test_a_module_that_does_not_import_is_refused_with_file_and_line(content: str, words: tuple[str, ...]) -> None:
    write("broken.py", content)
    for said in (refused(STARTUP_MODULE="broken"), refused(STARTUP_TASKS="broken:a")):
        for word in ("broken", *words):
            assert word in said


@pytest.mark.parametrize(
    ("reference", "word"),
    [
        ("app_tasks:nope", "no function 'nope'"),
        ("app_tasks:MODULE.nope", "no function"),
        ("nowhere:run", "there is no module 'nowhere' in the working directory"),
        ("app_tasks:later", "async"),
        ("app_tasks:nothing", "one argument"),
        ("startup:task", "own package"),
    ],
)
def test_a_reference_that_leads_to_no_task_is_refused(module: str, reference: str, word: str) -> None:
    assert word in refused(STARTUP_TASKS=reference)
    said = refused(STARTUP_TASKS="x", STARTUP_TASK_X=reference)
    assert word in said and "STARTUP_TASK_X" in said


def test_a_missing_file_of_a_change_task_is_refused_before_anything_runs(module: str) -> None:
    said = refused(STARTUP_TASKS="seed_plans@change", STARTUP_MODULE=module)
    assert "a.csv" in said and "seed_plans" in said


def test_all_faults_of_all_phases_are_told_at_once() -> None:
    planner = Planner(
        load({"STARTUP_TASKS": "a", "STARTUP_PRE_STOP": "b", "STARTUP_TIMEOUT": "c", "STARTUP_MODULE": "d"})
    )
    planner.plan("post_start")
    planner.plan("pre_stop")
    with pytest.raises(SettingError) as caught:
        planner.check()
    assert len(caught.value.faults) == 4


def test_a_plan_prints_nothing_on_stdout_whatever_its_modules_print(capfd: pytest.CaptureFixture[str]) -> None:
    write("loud.py", "print('hello')\ndef run(context): ...\n")
    plan(STARTUP_TASKS="loud:run@local")
    out, err = capfd.readouterr()
    assert out == "" and "hello" in err


# ------------------------------------------------------------------------------ what an app's modules do not shadow


def test_an_apps_modules_come_after_the_modules_own_and_are_seen() -> None:
    for name in ("startup", "dotenv", "log", "yoyo", "settings"):
        write(f"{name}.py", f"raise SystemExit('the app has a {name}.py')")
    write("mine.py", "import json, startup, dotenv\ndef run(context): ...\n")
    task = one(STARTUP_TASKS="mine:run")
    assert task.function is not None and task.function.__module__ == "mine"


# ------------------------------------------------------------------------------------------------------- the content


def content(name: str, text: str, **environ: str) -> str:
    write(name, text)
    sys.modules.pop("mine", None)
    importlib.invalidate_caches()
    linecache.clearcache()
    return one(**environ).content()


def test_the_content_of_a_command_is_its_line_and_of_a_hook_its_file() -> None:
    def command(line: str) -> str:
        return one(STARTUP_TASKS="x@change", STARTUP_TASK_X=line).content()

    assert command("echo 1") == command("echo 1") != command("echo 2")
    hook = "hooks/post_start.d/10-x"
    first = content(hook, "#!/bin/sh\n1\n", STARTUP_TASKS="none")
    assert first != content(hook, "#!/bin/sh\n2\n", STARTUP_TASKS="none")
    assert first == content(hook, "#!/bin/sh\n1\n", STARTUP_TASKS="none")
    Path(hook).rename("hooks/post_start.d/90-x")
    assert first == one(STARTUP_TASKS="none").content()


def test_the_content_of_a_function_is_its_source_and_the_files_it_declares() -> None:
    text = "from startup import task\n@task(policy='change', files='plans.csv')\ndef x(context):\n    return 1\n"
    write("plans.csv", "a")
    settings = {"STARTUP_MODULE": "mine", "STARTUP_TASKS": "x"}
    tasks.registry.clear()
    first = content("mine.py", text, **settings)
    write("plans.csv", "b")
    second = content("mine.py", text, **settings)
    write("plans.csv", "a")
    tasks.registry.clear()
    third = content("mine.py", text.replace("return 1", "return 22"), **settings)
    tasks.registry.clear()
    again = content("mine.py", "# moved\n\n" + text, **settings)
    assert first == again and len({first, second, third}) == 3


def test_the_content_of_a_callable_without_source_is_the_same_in_every_process() -> None:
    text = (
        "import functools\ndef f(x, context): ...\npartial = functools.partial(f, 1)\n"
        "class C:\n    def __call__(self, context): ...\ninstance = C()\n"
        "exec('def made(context): return 1')\n"
    )
    for name in ("partial", "instance", "made"):
        settings = {"STARTUP_TASKS": f"mine:{name}@change"}
        assert content("mine.py", text, **settings) == content("mine.py", text, **settings), name


def test_the_content_of_insert_users_is_its_file_and_its_table() -> None:
    file, settings = "seeds/users.csv", {"STARTUP_TASKS": "insert_users"}
    first = content(file, "email\na@example.com\n", **settings)
    assert first == content(file, "email\na@example.com\n", **settings)
    assert first != content(file, "email\nb@example.com\n", **settings)
    assert first != content(file, "email\na@example.com\n", STARTUP_USERS_TABLE="people", **settings)


def test_the_content_is_the_same_for_ever_or_each_deployed_image_would_run_its_tasks_again() -> None:
    write("seeds/users.csv", "email\na@example.com\n")
    write("hooks/post_start.d/10-x.change.sh", "#!/bin/sh\necho 1\n")
    function = "@task(policy='change', files='plans.csv')\ndef plans(context):\n    return 1\n"
    write("mine.py", f"from startup import task\n\n{function}")
    write("plans.csv", "name\nfree\n")
    settings = {"STARTUP_MODULE": "mine", "STARTUP_TASK_SEED": "bin/seed --all"}
    resolved = plan(STARTUP_TASKS="insert_users seed@change plans", **settings)
    assert [(task.kind, task.content()) for task in resolved.tasks] == [
        ("users", "6bf77ff0dc6648908ce18f5e74d3f698f2c651358044289e197022572f137045"),
        ("command", "ad42d052bc25b20df33fda9d2b2e3fba05f0bf330c8d363d506a19ea275a2282"),
        ("function", "dadaf7c1695098e0fa739011f0fd930e92f2e09345621fafd1d73aacedd092cd"),
        ("hook", "a3bd3807a4cff4565d3fdc725503a02da4c2e0e3ba2a59b1933f016f6abf88e8"),
    ]


def test_the_key_is_what_a_task_has_to_be_done_for() -> None:
    keys = {policy: Task("x", "command", "", policy, definition="true").key("1.2") for policy in POLICIES}
    content = "788fade64dd52405b132dc52eefec14c55f66e16eb9734c2dc47a412f98e7b2c"
    assert keys == {
        "always": "always",
        "change": f"content {content}",
        "release": "release 1.2",
        "once": "once",
        "local": "local",
    }


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_built_in_task_is_made_by_its_name_and_names_the_policies_that_it_takes(name: str) -> None:
    built_in = make(name, load({}))
    assert built_in is not None and built_in.kind not in ("function", "command", "hook")
    assert set(built_in.policies) < set(POLICIES) and built_in.policy in POLICIES
    for policy in set(POLICIES) - set(built_in.policies):
        assert f"{name}@{policy}: {built_in.refusal}" in refused(STARTUP_TASKS=f"{name}@{policy}")


def test_a_module_that_is_nowhere_is_told_with_the_places() -> None:
    text = refused(STARTUP_MODULE="no_such", STARTUP_TASKS="none", PYTHONPATH="/a:/b")
    places = (
        f"in the working directory ({os.getcwd()}), in PYTHONPATH (/a:/b) or among the packages of {sys.executable}"
    )
    assert text == f"STARTUP_MODULE is 'no_such': there is no module 'no_such' {places}"


def test_a_package_that_a_module_misses_is_told_with_the_python_that_misses_it() -> None:
    write("mine.py", "import no_such_package\n")
    text = refused(STARTUP_MODULE="mine")
    assert "No module named 'no_such_package'" in text and "mine.py, line 1)" in text
    assert f"{sys.executable} has no such package; STARTUP_PYTHON names the Python that has" in text
