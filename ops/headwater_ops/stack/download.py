"""Fetching the locked artifacts: in parallel, resumed where they broke off, never used before the hash is right."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tarfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self

from headwater_ops.stack.errors import DownloadFailed, HashMismatch, check_space, translated
from headwater_ops.stack.lock import LockedArtifact

__all__ = ["Downloads", "Progress", "Silent"]

_PARALLEL = 8
_ATTEMPTS = 4
_CHUNK = 1 << 17
_UNPACKED = 1.2  # the registry's archive holds jars: unpacked it is hardly larger
_PASSING = frozenset({408, 429, 500, 502, 503, 504})  # answers that another attempt may change


class Progress(Protocol):
    """Told about downloads, from several threads."""

    def expect(self, total_bytes: int) -> None:
        """So many more bytes are to be fetched. Not called when everything is cached."""
        ...

    def advance(self, fetched_bytes: int) -> None:
        """So many bytes have arrived."""
        ...


class Silent:
    """Progress that nobody watches."""

    def expect(self, total_bytes: int) -> None:
        return

    def advance(self, fetched_bytes: int) -> None:
        return


class Downloads:
    """What is kept in ``folder``. Safe to share between processes: one of them fetches, the others wait."""

    def __init__(self, folder: Path, progress: Progress | None = None, *, backoff: float = 0.5) -> None:
        self.folder = folder
        self._progress = progress or Silent()
        self._backoff = backoff  # seconds before the second attempt; doubles

    def fetch(self, artifacts: Iterable[LockedArtifact]) -> list[Path]:
        """Paths of the artifacts, each verified against its SHA-256, in the order given. Blocks while downloading.

        Raises:
            DownloadFailed: the repository cannot be reached, or does not have an artifact.
            HashMismatch: an artifact is not the locked one.
            NoSpace: the disk has too little room.
        """
        wanted = list(artifacts)
        with self._exclusive():
            with ThreadPoolExecutor(_PARALLEL) as pool:
                sound = list(pool.map(self._is_sound, wanted))
            missing = [artifact for artifact, is_sound in zip(wanted, sound, strict=True) if not is_sound]
            if missing:
                size = sum(artifact.bytes for artifact in missing)
                check_space(self.folder, size, "HEADWATER_CACHE_DIR")
                self._progress.expect(size)
                self._fetch(missing)
        return [self._path(artifact) for artifact in wanted]

    def unpack(self, archive: LockedArtifact) -> Path:
        """The folder with the content of a ``tar.gz`` artifact. The archive itself is removed once it is unpacked.

        Raises:
            DownloadFailed, HashMismatch, NoSpace: as ``fetch``.
        """
        target = self.folder / f"{archive.coordinate.split(':')[1]}-{archive.sha256[:16]}"
        if not target.exists():
            (path,) = self.fetch([archive])
            with self._exclusive():
                if not target.exists():
                    check_space(self.folder, int(archive.bytes * _UNPACKED), "HEADWATER_CACHE_DIR")
                    _extract(path, target)
                path.unlink(missing_ok=True)
        return target

    def _path(self, artifact: LockedArtifact) -> Path:
        _, name, version, *rest = artifact.coordinate.split(":")
        classifier, extension = rest if rest else ("", "jar")
        suffix = f"-{classifier}" if classifier else ""
        return self.folder / "artifacts" / f"{name}-{version}{suffix}.{extension}"

    def _is_sound(self, artifact: LockedArtifact) -> bool:
        path = self._path(artifact)
        if path.exists() and _sha256(path) == artifact.sha256:
            return True
        path.unlink(missing_ok=True)  # a damaged file is fetched again
        return False

    def _fetch(self, artifacts: list[LockedArtifact]) -> None:
        with _Fetch(self._progress, self._backoff) as fetch, ThreadPoolExecutor(_PARALLEL) as pool:
            futures = [pool.submit(fetch, artifact, self._path(artifact)) for artifact in artifacts]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:  # the first failure, or ^C, ends the others too
                fetch.give_up()
                pool.shutdown(cancel_futures=True)
                raise

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            (self.folder / "artifacts").mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "download.lock").open("w")
        except OSError as exc:
            raise translated(exc, self.folder, "HEADWATER_CACHE_DIR") from exc
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Fetch:
    """Fetches artifacts; called once per artifact, from several threads. jgo knows where artifacts live."""

    def __init__(self, progress: Progress, backoff: float) -> None:
        # Imported here, as they take a while and a stack whose artifacts are cached needs none of them.
        import httpx
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext

        self._maven = MavenContext(remote_repos=GlobalSettings.load().repositories or None)
        self._client = httpx.Client(follow_redirects=True, timeout=30)
        self._passing = (httpx.TransportError, _Interrupted)
        self._progress = progress
        self._backoff = backoff
        self._gave_up = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def give_up(self) -> None:
        """Make the calls in other threads end soon. What arrived is kept."""
        self._gave_up.set()

    def __call__(self, artifact: LockedArtifact, target: Path) -> None:
        """Put the artifact at ``target``, in one step once it is complete and verified."""
        partial = target.with_name(f"{target.name}.partial")
        try:
            self._complete(artifact, partial)
            found = _sha256(partial)
            if found != artifact.sha256:
                partial.unlink()
                raise HashMismatch(
                    f"{artifact.coordinate} has SHA-256 {found} but {artifact.sha256} is locked: it was not kept. "
                    "Run headwater up again; if it happens again, a proxy or mirror alters what it hands out"
                )
            partial.replace(target)
        except OSError as exc:
            raise translated(exc, partial, "HEADWATER_CACHE_DIR") from exc

    def _complete(self, artifact: LockedArtifact, partial: Path) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                self._append(artifact, partial)
                return
            except self._passing as exc:
                if attempt + 1 == _ATTEMPTS or self._gave_up.wait(self._backoff * 2**attempt):
                    raise DownloadFailed(
                        f"{artifact.coordinate} could not be downloaded ({exc}): check the network and run "
                        "headwater up again; it resumes where it broke off"
                    ) from exc

    def _append(self, artifact: LockedArtifact, partial: Path) -> None:
        """Fetch what ``partial`` lacks."""
        have = partial.stat().st_size if partial.exists() else 0
        if have >= artifact.bytes:
            return  # complete, or too long: the hash tells
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self._client.stream("GET", self._url(artifact), headers=headers) as response:
            if response.status_code in _PASSING:
                raise _Interrupted(f"the repository answers {response.status_code}")
            if response.status_code not in (200, 206):
                raise DownloadFailed(
                    f"{artifact.coordinate} could not be downloaded: the repository answers {response.status_code}"
                )
            with partial.open("ab" if response.status_code == 206 else "wb") as file:
                for chunk in response.iter_raw(_CHUNK):
                    file.write(chunk)
                    self._progress.advance(len(chunk))
                    if self._gave_up.is_set():
                        raise _Interrupted("given up")
        if partial.stat().st_size < artifact.bytes:
            raise _Interrupted(f"only {partial.stat().st_size} of {artifact.bytes} bytes arrived")

    def _url(self, artifact: LockedArtifact) -> str:
        group, name, version, *rest = artifact.coordinate.split(":")
        file = self._maven.project(group, name).at_version(version).artifact(*rest)
        repository = next(iter(self._maven.remote_repos.values()))
        return f"{repository}/{file.component.path_prefix.as_posix()}/{file.filename}"


class _Interrupted(Exception):
    """The transfer did not complete; trying again may help."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(archive: Path, target: Path) -> None:
    """Unpack beside ``target``, then rename, so that a broken-off unpacking is never taken for a whole one."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        partial.replace(target)
    except OSError as exc:
        raise translated(exc, partial, "HEADWATER_CACHE_DIR") from exc
