"""Make the bundle: one directory that brings its own shell, Python and C library, for any Linux image.

    python release/bundle.py PREFIX

Run in the Dockerfile's stage `bundle-build`, with PREFIX (/opt/startup) empty but for PREFIX/lib/packages, where pip
has put the wheel and what it needs. Wants `patchelf`, `ldd`, a static `busybox` and GNU `env` on PATH. What it makes:

    bin/startup-entrypoint, bin/startup   what users call
    bin/sh, bin/env, bin/python3          what those run on; an image's PATH should not name this directory
    lib/*.so*                             every library that an ELF file in here asks for, the loader among them
    lib/pythonX.Y/                        the standard library, and in its site's directory what is compiled
    licences/                             of all that is not pip's
    lib/packages/                         plain Python, for this and (STARTUP_PYTHON) for the app's own interpreter
"""

from __future__ import annotations

import compileall
import importlib
import os
import pkgutil
import py_compile
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Tools for people, for builds and for tests, which no running task imports. Found by importing every module of the
# standard library that our own code, its packages and the examples load (`python -X importtime`), and by what the
# manual files under development, debugging, packaging and Tk. Whatever is left here can be imported: see check().
LEFT_OUT = """
    __pycache__ site-packages dist-packages config-* EXTERNALLY-MANAGED sitecustomize.py _aix_* _android_* _apple_*
    _ios_* ensurepip venv lib2to3 distutils _distutils* modulefinder.py pyclbr.py tabnanny.py
    idlelib turtledemo tkinter turtle.py _tkinter.* curses _curses* readline.* rlcompleter.py _pyrepl cmd.py
    pydoc_data pydoc.py pdb.py bdb.py cProfile.py profile.py pstats.py _lsprof.* dbm _dbm.* _gdbm.* wsgiref xmlrpc
    test tests unittest doctest.py _test* _xxtestfuzz.* xx* _ctypes_test.* __phello__ __hello__.py antigravity.py
    this.py
""".split()
#: What pip brings and nothing here reads.
NOT_PACKAGES = ("bin", "__pycache__")
#: What stands before an app's own packages of the same name, where STARTUP_PYTHON is the app's; all else behind them.
OURS = ("entrypoint", "startup", "startup_tasks", "yoyo", "yoyo_migrations", "dotenv", "python_dotenv")
#: Compiled for this Python alone, so it stands where another interpreter does not look.
COMPILED = ("psycopg", "psycopg_binary")
#: OpenSSL comes twice, as psycopg's and as the machine's: the standard library takes psycopg's, which libpq needs.
SHARED = ("libcrypto", "libssl")
#: The loader's own name for that file.
PRELOAD = b"/etc/ld.so.preload\0"


def main() -> None:
    if sys.argv[1:2] == ["--check"]:
        check(Path(sys.argv[2]))
        return
    if len(sys.argv) != 2 or not Path(sys.argv[1], "lib", "packages", "startup").is_dir():
        raise SystemExit("usage: bundle.py PREFIX, where PREFIX/lib/packages holds the wheel")
    prefix = Path(sys.argv[1])
    sources = programs(prefix)
    standard_library(prefix)
    packages(prefix)
    one_openssl(prefix)
    sources += collect_libraries(prefix)
    patch(prefix)
    compile_all(prefix)
    licences(prefix, sources)
    subprocess.run([prefix / "bin" / "python3", "-I", __file__, "--check", prefix], env={}, check=True)
    total = sum(path.stat().st_size for path in prefix.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"{prefix}: {total / 1e6:.1f} MB")


def programs(prefix: Path) -> list[str]:
    """Copy the interpreter, GNU env (busybox's knows no --default-signal), the shell, and the script that it runs."""
    binaries = prefix / "bin"
    binaries.mkdir()
    sources = {"python3": os.path.realpath(sys.executable), "env": which("env"), "sh": which("busybox")}
    for name, source in sources.items():
        shutil.copy2(source, binaries / name)
    (prefix / "lib" / "packages" / "bin" / "startup-entrypoint").rename(prefix / "lib" / "packages" / "entrypoint.sh")
    text = (Path(__file__).parent / "bundle.sh").read_text()
    for line, ours in (("#!/bin/sh\n", f"#!{binaries}/sh\n"), ("\nbundle=/opt/startup\n", f"\nbundle={prefix}\n")):
        assert text.count(line) == 1, f"bundle.sh has no line {line!r}"
        text = text.replace(line, ours)
    script = binaries / "startup-entrypoint"
    script.write_text(text)
    script.chmod(0o755)
    (binaries / "startup").symlink_to(script.name)
    return list(sources.values())


def which(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not on PATH"
    return found


def stdlib_of(prefix: Path) -> Path:
    return prefix / "lib" / f"python{sysconfig.get_python_version()}"


def standard_library(prefix: Path) -> None:
    source = sysconfig.get_path("stdlib")
    shutil.copytree(source, stdlib_of(prefix), ignore=shutil.ignore_patterns(*LEFT_OUT))


def packages(prefix: Path) -> None:
    """What is compiled to where this Python alone looks: Docker's reads site-packages there, Debian's dist-packages.

    The metadata's directories lose their versions: where a newer bundle is copied over this one, none is there twice.
    """
    plain = prefix / "lib" / "packages"
    entries = sorted(plain.iterdir())
    (behind := plain / "behind").mkdir()
    own = next(path for path in map(Path, site.getsitepackages([str(prefix)])) if stdlib_of(prefix) in path.parents)
    own.mkdir(parents=True)
    for entry in entries:
        stem = entry.name.partition("-")[0].partition(".")[0]
        directory = own if stem in COMPILED else plain if stem in OURS else behind
        target = directory / (f"{stem}.dist-info" if entry.suffix == ".dist-info" else entry.name)
        if entry.name in NOT_PACKAGES:
            shutil.rmtree(entry)
        elif target != entry:
            shutil.move(entry, target)
    for library in (libraries := own / "psycopg_binary.libs").iterdir():
        shutil.move(library, prefix / "lib" / library.name)
    libraries.rmdir()


def elf_files(prefix: Path) -> Iterator[Path]:
    for path in sorted(prefix.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.open("rb").read(4) == b"\x7fELF":
            yield path


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def needed(path: Path) -> list[str]:
    return run("patchelf", "--print-needed", path).split()


def one_openssl(prefix: Path) -> None:
    for path in elf_files(stdlib_of(prefix) / "lib-dynload"):
        for name in needed(path):
            if (stem := name.partition(".")[0]) in SHARED:
                (psycopgs,) = (prefix / "lib").glob(f"{stem}-*.so*")
                run("patchelf", "--replace-needed", name, psycopgs.name, path)


def collect_libraries(prefix: Path) -> list[str]:
    """Copy what is asked for and lies outside, the C library and its loader too, again until nothing new turns up."""
    libraries = prefix / "lib"
    copied: list[str] = []
    while True:
        found: dict[str, str] = {}
        for path in elf_files(prefix):
            if path.name == "sh" or path.name.startswith("ld-"):  # static
                continue
            shown = run("env", f"LD_LIBRARY_PATH={libraries}", "ldd", path)
            assert "not found" not in shown, f"{path}: {shown}"
            found |= {Path(one).name: one for one in re.findall(r"(/\S+) \(0x", shown)}
        new = {name: source for name, source in found.items() if not (libraries / name).exists()}
        if not new:
            return copied
        for name, source in new.items():
            shutil.copy2(os.path.realpath(source), libraries / name)
            copied.append(os.path.realpath(source))


def patch(prefix: Path) -> None:
    """All are found in PREFIX/lib, before any LD_LIBRARY_PATH.

    A program's RPATH counts for whatever it loads, but for what has a RUNPATH, which comes after that (ld.so(8)).
    $ORIGIN would need /proc, and give no more: the loader's own path is absolute too.
    """
    (loader,) = (prefix / "lib").glob("ld-*.so*")
    for path in elf_files(prefix):
        if path.parent != prefix / "bin":
            if run("patchelf", "--print-rpath", path).strip():
                run("patchelf", "--remove-rpath", path)
        elif path.name != "sh":
            # apart and in this order: else patchelf 0.18 breaks a program that is not position independent
            run("patchelf", "--force-rpath", "--set-rpath", prefix / "lib", path)
            run("patchelf", "--set-interpreter", loader, path)
    # What the image loads into every program is built for its own C library (ld.so(8)): ours look where nothing can be.
    program = loader.read_bytes()
    assert program.count(PRELOAD) == 1, f"{loader} does not name {PRELOAD!r} once"
    loader.write_bytes(program.replace(PRELOAD, b"/dev/null/preload".ljust(len(PRELOAD), b"\0")))


def compile_all(prefix: Path) -> None:
    """The standard library as bytecode alone, which is what Python reads; all else keeps its text for tracebacks."""
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    stdlib = stdlib_of(prefix)
    apart = re.compile(r"/(site|dist)-packages/")
    compileall.compile_dir(stdlib, quiet=1, legacy=True, rx=apart, invalidation_mode=unchecked)
    for source in stdlib.rglob("*.py"):
        if not apart.search(str(source)):
            source.unlink()
    compileall.compile_dir(prefix / "lib", quiet=1, invalidation_mode=unchecked)


def licences(prefix: Path, sources: list[str]) -> None:
    """Python's own, and of each Debian package that a file in here is from; pip's packages have theirs with them.

    With the texts that they name, and where the sources of just these versions are, as the GPL asks (section 6).
    """
    here = prefix / "licences"
    shutil.copytree("/usr/share/common-licenses", here / "common-licenses")
    shutil.copyfile(Path(sysconfig.get_path("stdlib"), "LICENSE.txt"), here / "python")
    found = {}
    for source in sources:
        if not source.startswith("/usr/local/"):  # where Docker's image has built its Python
            package = run("dpkg-query", "--search", source).partition(":")[0]
            shutil.copyfile(Path("/usr/share/doc", package, "copyright"), here / package)
            found[package] = run("dpkg-query", "--show", "--showformat", "${source:Package}=${source:Version}", package)
    (here / "SOURCES").write_text(
        "Unchanged, but for the paths in the headers of env, python3 and the loader. The sources are Debian's:\n"
        + "".join(f"  {package}: apt-get source {source}\n" for package, source in sorted(found.items()))
        + f"Python {sys.version.split()[0]}, if it is not among them: its project's release of that version.\n"
        "What ends in -HASH.so is psycopg's wheel's: libpq, OpenSSL, Kerberos, OpenLDAP, SASL, keyutils, libxcrypt.\n"
    )


def check(prefix: Path) -> None:
    """Run by the bundle's own Python, with nothing in the environment: import all there is, and look where from."""
    sys.path[0] = str(prefix / "lib" / "packages")
    sys.path.append(str(prefix / "lib" / "packages" / "behind"))
    import startup

    stdlib = stdlib_of(prefix)
    names = {path.name.partition(".")[0] for path in (*stdlib.glob("*.pyc"), *stdlib.glob("lib-dynload/*.so"))}
    names |= {path.parent.name for path in stdlib.glob("*/__init__.pyc")}
    names |= {found.name for found in pkgutil.walk_packages(startup.__path__, "startup.")} - {"startup.__main__"}
    for name in sorted(names | {"psycopg", "yoyo", "dotenv"}):
        importlib.import_module(name)
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if ".so" in line}
    foreign = sorted(path for path in mapped if not path.startswith(f"{prefix}/"))
    assert not foreign, f"loaded from outside: {foreign}"
    assert importlib.import_module("psycopg").pq.__impl__ == "binary"


if __name__ == "__main__":
    main()
