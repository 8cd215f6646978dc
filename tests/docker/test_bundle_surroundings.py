"""The bundle where an image or its user has set or left out what it might lean on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import wait_for
from .first_process import BUNDLE

if TYPE_CHECKING:
    from .conftest import Docker

SHELL = f"{BUNDLE}/bin/sh"
VERB, ENTRYPOINT = f"{BUNDLE}/bin/startup", f"{BUNDLE}/bin/startup-entrypoint"
SETTINGS = ("--env=STARTUP_PING=none", "--env=STARTUP_TASKS=say@local")
#: The app ends by itself after its task has.
APP = 'echo "app $SHOWN"; until [ -e /tmp/said ]; do sleep 0.02; done; exit 5'


@pytest.fixture(scope="module")
def image(engine: Docker, bundle_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian's with the bundle; the verbs are on PATH by links, as somebody may have made them."""
    context = tmp_path_factory.mktemp("surroundings")
    (context / "Dockerfile").write_text(
        f"FROM debian:trixie-slim\nCOPY --from={bundle_image} /opt/startup /opt/startup\n"
        f'RUN ln -s {VERB} {ENTRYPOINT} /usr/local/bin/\nENTRYPOINT ["startup-entrypoint"]\n'
    )
    return engine.build(context)


def start(docker: Docker, image: str, shown: str, *options: str, shell: str = "sh") -> tuple[int, str, str]:
    """Exit code, the app's output, and everything else, of an app and a task that both print *shown*."""
    task = f'--env=STARTUP_TASK_SAY=echo "task {shown}"; touch /tmp/said'
    app = APP.replace("$SHOWN", shown)
    done = docker.run(*SETTINGS, task, *options, image, shell, "-c", app)
    return done.returncode, done.stdout, done.stderr


def test_a_variable_of_several_lines_forges_no_other(docker: Docker, image: str) -> None:
    """Nor is one of the loader's cut at the end of its first line."""
    options = ("--env=LD_LIBRARY_PATH=/a\n/b", "--env=NOTE=first\nLD_PRELOAD=/forged.so")
    code, app, said = start(docker, image, "$LD_LIBRARY_PATH ${LD_PRELOAD-none}", *options)
    assert (code, app) == (5, "app /a\n/b none\n"), said
    assert "\ntask /a\n/b none\n" in said


def test_the_app_has_every_variable_whatever_its_name(docker: Docker, image: str) -> None:
    """A shell loses the first of these, and our script has the others for its own."""
    names = ("spring.datasource.url", "name", "bundle", "loading", "state", "python", "no_proxy")
    options = ("--env=STARTUP_TASKS=none", "--env=STARTUP_PING=none", *(f"--env={name}=of the image" for name in names))
    direct = docker.run(*options, "--hostname=same", "--entrypoint=env", image)
    ours = docker.run(*options, "--hostname=same", image, "env")
    assert sorted(ours.stdout.splitlines()) == sorted(direct.stdout.splitlines()), ours.stderr


def test_what_the_image_preloads_into_every_program_is_not_for_ours(docker: Docker, image: str, tmp_path: Path) -> None:
    """Its newer library would end them, as with LD_PRELOAD."""
    (tmp_path / "preload").write_text("/not/there.so\n")
    preload = f"--volume={tmp_path}/preload:/etc/ld.so.preload:ro"
    assert "/not/there.so" in docker.run(preload, "--entrypoint=true", image).stderr
    done = docker.run(preload, image, "startup", "ping")
    assert (done.returncode, done.stderr) == (1, "")


#: Each is for the app, or wrong, or both.
FOR_OTHERS = {
    "TZ": "Nowhere/Land",
    "LANG": "xx_YY.UTF-8",
    "LC_ALL": "zz_ZZ",
    "PYTHONHOME": "/not/there",
    "PYTHONPATH": "/not/there",
    "PYTHONSTARTUP": "/not/there",
    "PYTHONHASHSEED": "none",
    "PYTHONMALLOC": "none",
    "PYTHONIOENCODING": "none",
    "PYTHONINSPECT": "1",
    "LD_BIND_NOW": "1",
    "LD_PRELOAD": "/not/there.so /nor/this.so:/nor/that.so",
    "LD_LIBRARY_PATH": "/older",
    "GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.not.there=1",
    "MALLOC_ARENA_MAX": "none",
    "POSIXLY_CORRECT": "1",
    "ENV": "/not/there",
    "TMPDIR": "/not/there",
    "HOME": "/not/there",
}


def test_what_is_set_for_others_does_not_disturb_it_and_is_handed_on(
    docker: Docker, engine: Docker, bundle_image: str, tmp_path: Path
) -> None:
    """Also an older C library on the path, name services that are not there, and a user whom nobody knows."""
    (tmp_path / "nsswitch.conf").write_text("passwd: ldap sss\nhosts: wins [NOTFOUND=continue] resolve files\n")
    (tmp_path / "Dockerfile").write_text(
        "FROM debian:bookworm-slim\nRUN mkdir /older && cp -L /lib/*-linux-gnu/lib[cm].so.6 /older/\n"
        f'COPY nsswitch.conf /etc/\nCOPY --from={bundle_image} /opt/startup /opt/startup\nENTRYPOINT ["{ENTRYPOINT}"]\n'
    )
    settings = [f"--env={name}={value}" for name, value in FOR_OTHERS.items()]
    shown = ",".join(f"${name}" for name in FOR_OTHERS)
    code, app, said = start(docker, engine.build(tmp_path), shown, "--user=77777", *settings)
    assert (code, app) == (5, f"app {','.join(FOR_OTHERS.values())}\n"), said
    assert f"task {','.join(FOR_OTHERS.values())}\n" in said


def test_it_runs_beside_musl_and_busybox(docker: Docker, engine: Docker, bundle_image: str, tmp_path: Path) -> None:
    """As in Alpine: a C library that knows nothing of the other one, and a shell with applets of its own."""
    (tmp_path / "Dockerfile").write_text(
        "FROM debian:trixie-slim AS debian\n"
        "RUN apt-get update && apt-get install --yes --no-install-recommends busybox-static gcc musl-tools\n"
        "RUN echo 'int main(void) { return 5; }' >app.c && musl-gcc -o app app.c"
        " && mkdir -p /alpine/bin /alpine/lib && cp app /bin/busybox /alpine/bin"
        " && cp -L /lib/ld-musl-*.so.1 /alpine/lib && ln -s busybox /alpine/bin/sh\n"
        f"FROM scratch\nCOPY --from=debian /alpine /\nCOPY --from={bundle_image} /opt/startup /opt/startup\n"
        f'ENTRYPOINT ["{ENTRYPOINT}"]\n'
    )
    image = engine.build(tmp_path)
    code, app, said = start(docker, image, "$0", "--tmpfs=/tmp", "--env=LD_PRELOAD=")
    assert (code, app, "task /bin/sh" in said) == (5, "app sh\n", True), said
    done = docker.run("--env=STARTUP_PING=none", "--env=STARTUP_TASKS=none", image, "/bin/app")
    assert done.returncode == 5, done.stderr


@pytest.fixture(scope="module")
def scratch(engine: Docker, bundle_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    context = tmp_path_factory.mktemp("scratch")
    (context / "20-strict.local.sh").write_text("#!/bin/sh -e\necho a hook; false; echo not reached\n")
    (context / "20-strict.local.sh").chmod(0o755)
    (context / "Dockerfile").write_text(
        f"FROM scratch\nCOPY --from={bundle_image} /opt/startup /opt/startup\n"
        f'COPY 20-strict.local.sh /etc/startup/hooks/post_start.d/\nENTRYPOINT ["{ENTRYPOINT}"]\n'
    )
    return engine.build(context)


@pytest.mark.parametrize("applet", ["httpd", "nc", "sh", "[", "env"])
def test_an_applet_of_its_shell_is_no_app_of_the_image(docker: Docker, scratch: str, applet: str) -> None:
    for enabled in ("true", "false"):
        done = docker.run(f"--env=STARTUP_ENABLED={enabled}", scratch, applet, "x")
        assert (done.returncode, done.stdout) == (127, ""), enabled
        assert f"'{applet}'" in done.stderr


def test_in_scratch_without_tmp_a_command_ping_answers_and_a_hooks_options_count(docker: Docker, scratch: str) -> None:
    words = ("--read-only", "--env=STARTUP_PING=cmd:echo up | grep up", "--env=STARTUP_TASKS=none")
    done = docker.run(*words, scratch, SHELL, "-c", "sleep 60")
    assert done.returncode == 70, done.stderr
    assert "(the command 'echo up | grep up': exit status 0)" in done.stderr
    assert "\na hook\n" in done.stderr
    assert "not reached" not in done.stderr


def test_any_user_may_ask_for_its_health_from_a_read_only_root(docker: Docker, scratch: str) -> None:
    settings = (
        "--read-only",
        "--user=99",
        "--env=STARTUP_PING=none",
        "--env=STARTUP_TASKS=none",
        "--env=STARTUP_SKIP_TASKS=strict",
    )
    container = docker.start(*settings, scratch, SHELL, "-c", "sleep 60")
    wait_for(lambda: container.exec(VERB, "health", check=False).stdout == "ready\n", "ready")
    for user in ("0", "99", "1234"):
        asked = docker("exec", f"--user={user}", "--env=LD_PRELOAD=/not/there.so", container.name, VERB, "health")
        assert asked.stdout == "ready\n", user


def test_it_may_be_mounted_read_only_and_called_through_links(
    docker: Docker, image: str, bundle_directory: Path
) -> None:
    mounted = (f"--volume={bundle_directory}:/opt/startup:ro", "--user=99")
    code, app, said = start(docker, image, "$0", *mounted)
    assert (code, app) == (5, "app sh\n"), said
    task = "--env=STARTUP_TASK_SAY=echo by a link"
    done = docker.run(*mounted, task, "--entrypoint=startup", image, "run", "say@local")
    assert (done.returncode, "by a link" in done.stderr) == (0, True), done.stderr


def test_it_needs_no_proc(docker: Docker, image: str) -> None:
    """The loader would look there for the place that $ORIGIN stands for."""
    rights = ("--cap-add=SYS_ADMIN", "--security-opt=apparmor=unconfined", "--env=LD_LIBRARY_PATH=/a")
    command = f"umount -l /proc; exec {ENTRYPOINT} sh -c '{APP}'".replace("$SHOWN", "$LD_LIBRARY_PATH")
    settings = (*SETTINGS, "--env=STARTUP_TASK_SAY=echo task $LD_LIBRARY_PATH; touch /tmp/said")
    done = docker.run(*settings, *rights, "--entrypoint=sh", image, "-c", command)
    assert (done.returncode, done.stdout) == (5, "app /a\n"), done.stderr
    assert "\ntask /a\n" in done.stderr


def test_an_apps_python_that_is_too_old_is_named(docker: Docker, bundle_image: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM debian:bookworm-slim\nRUN apt-get update && apt-get install --yes --no-install-recommends pypy3\n"
        f'COPY --from={bundle_image} /opt/startup /opt/startup\nENTRYPOINT ["{ENTRYPOINT}"]\n'
    )
    image = docker.build(tmp_path)
    old = "--env=STARTUP_PYTHON=pypy3"
    done = docker.run(old, image, "startup", "describe")
    text = "startup: error: STARTUP_PYTHON is /usr/bin/pypy3, a Python 3.9: it must be 3.10 or newer"
    assert (done.returncode, done.stderr.splitlines()) == (78, [text])
    code, _, said = start(docker, image, "", old)
    assert (code, said.splitlines()[0]) == (78, text)
