"""Build the sdist and the wheel from a clean clone, check them, and try them where nothing else is.

    make dist-test
    python tests/release/distribution.py --pythons 3.11 --core-only --output dist

It needs git, network access for pip, and about 8 GB of disk while it runs where pip's torch is a
CUDA build. An interpreter that this machine lacks is named and skipped. What is not committed is
not in it.
"""

from __future__ import annotations

import argparse
import email
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
TOOLS = ("build>=1.2", "twine>=6.1")
CONSTRAINTS = ROOT / "constraints" / "py311.txt"
SELF_MADE = re.compile(r"\]\((?![a-z]+:|#)[^)]*\)")


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """What a command prints; SystemExit with all of it if it fails."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"FAILED: {' '.join(map(str, words))}\n{done.stdout}")
    return done.stdout


def environment(python: str | Path, folder: Path) -> Path:
    """The Python of a new virtual environment."""
    run(python, "-m", "venv", folder)
    return folder / "bin" / "python"


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist and the wheel (made from it) of what is committed, checked by twine."""
    clone, made = folder / "clone", folder / "dist"
    run("git", "clone", "--quiet", "--no-hardlinks", ROOT, clone)
    tools = environment(sys.executable, folder / "tools")
    run(tools, "-m", "pip", "install", *TOOLS)
    run(tools, "-m", "build", "--outdir", made, clone)
    (sdist,), (wheel,) = made.glob("*.tar.gz"), made.glob("*.whl")
    print(run(tools, "-m", "twine", "check", "--strict", sdist, wheel).strip())
    return sdist, wheel


def check_contents(wheel: Path) -> None:
    """Every file of src is in the wheel, and no link of its description needs the repository."""
    tracked = run("git", "ls-files", "src", cwd=ROOT).split()
    with zipfile.ZipFile(wheel) as archive:
        missing = {name.removeprefix("src/") for name in tracked} - set(archive.namelist())
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    if missing:
        raise SystemExit(f"FAILED: the wheel lacks {', '.join(sorted(missing))}")
    description = metadata.get_payload()
    if dead := SELF_MADE.findall(description):
        raise SystemExit(f"FAILED: links that lead nowhere from a package index: {dead}")
    print(f"{wheel.name}: {len(tracked)} files, a description of {len(description):,} letters")


def interpreter(version: str) -> str | None:
    """A Python of this version with venv: on the PATH, uv's or pyenv's; None without."""
    for found in _candidates(version):
        question = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
        asked = subprocess.run([found, "-c", question], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return found
    return None


def _candidates(version: str) -> Iterator[str]:
    yield from filter(None, [shutil.which(f"python{version}")])
    if shutil.which("uv"):
        asked = subprocess.run(["uv", "python", "find", version], capture_output=True, text=True)
        yield from asked.stdout.split()
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")), reverse=True)


def try_out(python: str, wheel: Path, folder: Path, core_only: bool) -> Iterator[str]:
    """Install the wheel alone and use it; then with the extra ``demo``, then with ``all``."""
    own = environment(python, folder / "venv")
    for extra in ("",) if core_only else ("", "demo", "all"):
        named = f"[{extra}]" if extra else ""
        start, empty = time.perf_counter(), Path(tempfile.mkdtemp(dir=folder))
        run(own, "-m", "pip", "install", "-c", CONSTRAINTS, f"{wheel}{named}")
        run(own, "-m", "pip", "check")
        installed = time.perf_counter() - start
        script = shutil.copy(Path(__file__).with_name("installed.py"), empty)
        said = run(own, script, extra, cwd=empty).strip().splitlines()[-1]
        megabytes = sum(p.lstat().st_size for p in own.parents[1].rglob("*")) / 1e6
        tried = time.perf_counter() - start - installed
        yield (
            f"weightcast{named}: {said} (installed in {installed:.0f} s, tried in {tried:.0f} s, "
            f"{megabytes:,.0f} MB)"
        )


def main() -> None:
    """Build, check, and try out in every interpreter that is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, metavar="VERSION")
    parser.add_argument("--core-only", action="store_true", help="without any extra")
    parser.add_argument("--output", type=Path, help="where to leave the sdist and the wheel")
    options = parser.parse_args()
    if run("git", "status", "--porcelain", cwd=ROOT):
        print("note: there are changes that are not committed, and so not in what is built")
    tried = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist, wheel = build(folder)
        check_contents(wheel)
        for version in options.pythons:
            python = interpreter(version)
            if python is None:
                print(f"skipped: no Python {version} with venv on the PATH, of uv or of pyenv")
                continue
            with tempfile.TemporaryDirectory(dir=folder) as own:
                for line in try_out(python, wheel, Path(own), options.core_only):
                    print(line, flush=True)
            tried += 1
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            for made in (sdist, wheel):
                shutil.copy(made, options.output)
    if not tried:
        raise SystemExit("FAILED: none of the interpreters was found, so nothing was tried out")


if __name__ == "__main__":
    main()
