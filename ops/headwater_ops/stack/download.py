"""Fetching the locked artifacts: in parallel, resumed where they broke off, never used before the hash is right."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import shutil
import tarfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self

import httpx

from headwater_ops.stack.errors import DownloadFailed, HashMismatch, NoSpace
from headwater_ops.stack.lock import LockedArtifact

__all__ = ["Downloads", "Progress", "Silent"]

_PARALLEL = 8
_ATTEMPTS = 4
_CHUNK = 1 << 17
_SPARE = 64 << 20  # bytes the disk should keep free beside the downloads
_UNPACKED = 1.2  # the registry's archive holds jars: unpacked it is hardly larger


class Progress(Protocol):
    """Told about downloads, from several threads."""

    def expect(self, total_bytes: int) -> None:
        """So many bytes are to be fetched. Not called when everything is cached."""
        ...

    def advance(self, fetched_bytes: int) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def expect(self, total_bytes: int) -> None: ...

    def advance(self, fetched_bytes: int) -> None: ...


class Downloads:
    """The cache of artifacts in ``folder``. Safe to share between processes: one of them fetches, others wait."""

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        self._folder = folder
        self._progress = progress or Silent()

    def fetch(self, artifacts: Iterable[LockedArtifact]) -> list[Path]:
        """Paths of the artifacts, each verified against its SHA-256, in the order given. Blocks while downloading.

        Raises:
            DownloadFailed: the repository cannot be reached, or does not have an artifact.
            HashMismatch: an artifact is not the locked one.
            NoSpace: the disk has too little room.
        """
        wanted = list(artifacts)
        with self._exclusive(), ThreadPoolExecutor(_PARALLEL) as pool:
            missing = [a for a, sound in zip(wanted, pool.map(self._is_sound, wanted), strict=True) if not sound]
            if missing:
                self._check_space(sum(a.bytes for a in missing))
                self._progress.expect(sum(a.bytes for a in missing))
                with _Fetch(self._progress) as fetch:
                    list(pool.map(fetch, missing, [self._path(a) for a in missing]))
        return [self._path(a) for a in wanted]

    def unpack(self, archive: LockedArtifact) -> Path:
        """The folder with the content of a ``tar.gz`` artifact. The archive itself is removed once it is unpacked.

        Raises:
            DownloadFailed, HashMismatch, NoSpace: as ``fetch``.
        """
        target = self._folder / f"{archive.coordinate.split(':')[1]}-{archive.sha256[:16]}"
        if not target.exists():
            (path,) = self.fetch([archive])
            with self._exclusive():
                if not target.exists():
                    self._check_space(int(archive.bytes * _UNPACKED))
                    _extract(path, target)
                path.unlink(missing_ok=True)
        return target

    def _path(self, artifact: LockedArtifact) -> Path:
        _, name, version, *rest = artifact.coordinate.split(":")
        classifier, extension = rest if rest else ("", "jar")
        suffix = f"-{classifier}" if classifier else ""
        return self._folder / "artifacts" / f"{name}-{version}{suffix}.{extension}"

    def _is_sound(self, artifact: LockedArtifact) -> bool:
        path = self._path(artifact)
        if path.exists() and _sha256(path) == artifact.sha256:
            return True
        path.unlink(missing_ok=True)  # a damaged file is fetched again
        return False

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < needed + _SPARE:
            raise NoSpace(
                f"{self._folder} has {free >> 20} MiB free, the embedded stack needs {(needed + _SPARE) >> 20} MiB: "
                "free some space, or set HEADWATER_CACHE_DIR to another disk"
            )

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "download.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Fetch:
    """Fetches artifacts; called once per artifact, from several threads. jgo knows where artifacts live."""

    def __init__(self, progress: Progress) -> None:
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext

        self._progress = progress
        self._maven = MavenContext(remote_repos=GlobalSettings.load().repositories or None)
        self._client = httpx.Client(follow_redirects=True, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def __call__(self, artifact: LockedArtifact, target: Path) -> None:
        """Put the artifact at ``target``, in one step once it is complete and verified."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        for attempt in range(_ATTEMPTS):
            try:
                self._append(artifact, partial)
                break
            except (httpx.TransportError, _Interrupted) as exc:
                if attempt + 1 == _ATTEMPTS:
                    raise DownloadFailed(
                        f"{artifact.coordinate} could not be downloaded ({exc}): check the network, then run "
                        "headwater up again; it resumes where it broke off"
                    ) from exc
                time.sleep(0.5 * 2**attempt)
            except OSError as exc:
                raise _translated(exc, partial) from exc
        found = _sha256(partial)
        if found != artifact.sha256:
            partial.unlink()
            raise HashMismatch(
                f"{artifact.coordinate} has SHA-256 {found}, locked is {artifact.sha256}: it was not kept; a proxy or "
                "mirror may have altered it. Run headwater up again; if it stays so, do not trust the mirror"
            )
        partial.replace(target)

    def _append(self, artifact: LockedArtifact, partial: Path) -> None:
        """Fetch what ``partial`` lacks."""
        have = partial.stat().st_size if partial.exists() else 0
        if have == artifact.bytes:
            return
        headers = {"Range": f"bytes={have}-"} if 0 < have < artifact.bytes else {}
        with self._client.stream("GET", self._url(artifact), headers=headers) as response:
            if response.status_code in _PASSING:
                raise _Interrupted(f"the repository answers {response.status_code}")
            if response.status_code not in (200, 206):
                raise DownloadFailed(
                    f"{artifact.coordinate}: the repository answers {response.status_code} {response.reason_phrase}"
                )
            with partial.open("ab" if response.status_code == 206 else "wb") as file:
                for chunk in response.iter_raw(_CHUNK):
                    file.write(chunk)
                    self._progress.advance(len(chunk))
        if partial.stat().st_size != artifact.bytes:
            raise _Interrupted(f"{partial.stat().st_size} of {artifact.bytes} bytes arrived")

    def _url(self, artifact: LockedArtifact) -> str:
        group, name, version, *rest = artifact.coordinate.split(":")
        file = self._maven.project(group, name).at_version(version).artifact(*rest)
        repository = next(iter(self._maven.remote_repos.values()))
        return f"{repository}/{file.component.path_prefix.as_posix()}/{file.filename}"


class _Interrupted(Exception):
    """The transfer did not complete; trying again may help."""


_PASSING = frozenset({408, 429, 500, 502, 503, 504})


def _translated(exc: OSError, path: Path) -> NoSpace | DownloadFailed:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left at {path}: free some, or set HEADWATER_CACHE_DIR to another disk")
    return DownloadFailed(f"{path} could not be written ({exc.strerror}): check it, or set HEADWATER_CACHE_DIR")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(archive: Path, target: Path) -> None:
    """Unpack beside ``target``, then rename, so that a broken-off unpacking is never taken for a whole one."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
    except OSError as exc:
        raise _translated(exc, partial) from exc
    partial.replace(target)
