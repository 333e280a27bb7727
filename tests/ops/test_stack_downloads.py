"""Downloads against a small repository of our own that counts, truncates and lies."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from headwater_ops.stack.download import Downloads
from headwater_ops.stack.errors import DownloadFailed, HashMismatch, NoSpace, UsageError, check_space
from headwater_ops.stack.lock import LOCK_FILE, LockedArtifact, load_lock

JAR = bytes(range(256)) * 4096  # 1 MiB


class Repository:
    """A Maven repository with one artifact. ``breaks`` answers break off half-way."""

    def __init__(self) -> None:
        self.content = JAR
        self.status = 200
        self.breaks = 0
        self.requests: list[tuple[str, str | None]] = []

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append((handler.path, wanted))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        body = self.content[start:] if self.status == 200 else b""
        handler.send_response(self.status if not wanted else 206)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.breaks:
            self.breaks -= 1
            body = body[: len(body) // 2]
        handler.wfile.write(body)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """Named as the user would name a mirror: in jgo's configuration file."""
    repository = Repository()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            repository.answer(self)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        config = tmp_path / "jgo.conf"
        config.write_text(f"[repositories]\nmirror = http://127.0.0.1:{server.server_port}/maven\n")
        monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield repository
        server.shutdown()
        thread.join()


def locked(content: bytes = JAR, coordinate: str = "org.example:thing:1.0") -> LockedArtifact:
    return LockedArtifact(coordinate, hashlib.sha256(content).hexdigest(), len(content))


def downloads(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path / "cache", backoff=0.0)


def leftovers(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "artifacts").iterdir()]


def test_an_artifact_is_fetched_once(repository: Repository, tmp_path: Path) -> None:
    (path,) = downloads(tmp_path).fetch([locked()])
    downloads(tmp_path).fetch([locked()])

    assert path.read_bytes() == JAR
    assert repository.requests == [("/maven/org/example/thing/1.0/thing-1.0.jar", None)]


def test_a_wrong_hash_is_refused_and_nothing_is_kept(repository: Repository, tmp_path: Path) -> None:
    repository.content = JAR[:-1] + b"!"

    with pytest.raises(HashMismatch, match=r"org\.example:thing:1\.0 has SHA-256 .* is locked"):
        downloads(tmp_path).fetch([locked()])

    assert leftovers(tmp_path) == []


def test_a_broken_transfer_is_resumed_where_it_broke(repository: Repository, tmp_path: Path) -> None:
    repository.breaks = 2

    (path,) = downloads(tmp_path).fetch([locked()])

    assert path.read_bytes() == JAR
    starts = [wanted for _, wanted in repository.requests]
    assert starts[0] is None
    assert all(wanted is not None for wanted in starts[1:])
    assert len(starts) == 3


def test_what_arrived_before_a_failure_is_used_by_the_next_run(repository: Repository, tmp_path: Path) -> None:
    repository.breaks = 4
    with pytest.raises(DownloadFailed, match="resumes where it broke off"):
        downloads(tmp_path).fetch([locked()])
    repository.requests.clear()

    downloads(tmp_path).fetch([locked()])

    assert repository.requests[0][1] is not None


def test_a_missing_artifact_is_named(repository: Repository, tmp_path: Path) -> None:
    repository.status = 404

    with pytest.raises(DownloadFailed, match=r"org\.example:thing:1\.0 .* answers 404"):
        downloads(tmp_path).fetch([locked()])


def test_a_passing_refusal_is_tried_again(repository: Repository, tmp_path: Path) -> None:
    repository.status = 503

    with pytest.raises(DownloadFailed, match="answers 503"):
        downloads(tmp_path).fetch([locked()])

    assert len(repository.requests) == 4


def test_an_unreachable_repository_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "jgo.conf"
    config.write_text("[repositories]\nnowhere = http://127.0.0.1:9/maven\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))

    with pytest.raises(DownloadFailed, match="check the network"):
        downloads(tmp_path).fetch([locked()])


def test_a_damaged_file_in_the_cache_is_fetched_again(repository: Repository, tmp_path: Path) -> None:
    (path,) = downloads(tmp_path).fetch([locked()])
    path.write_bytes(b"damaged")

    downloads(tmp_path).fetch([locked()])

    assert path.read_bytes() == JAR


def test_an_archive_is_unpacked_once_and_a_broken_unpacking_does_not_count(
    repository: Repository, tmp_path: Path
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo("app/run.jar")
        entry.size = len(JAR)
        tar.addfile(entry, io.BytesIO(JAR))
    repository.content = packed.getvalue()
    archive = locked(packed.getvalue(), "org.example:app:1.0:all:tar.gz")
    broken_off = tmp_path / "cache" / f"app-{archive.sha256[:16]}.partial"
    broken_off.mkdir(parents=True)

    home = downloads(tmp_path).unpack(archive)
    downloads(tmp_path).unpack(archive)

    assert (home / "app" / "run.jar").read_bytes() == JAR
    assert [path for path, _ in repository.requests] == ["/maven/org/example/app/1.0/app-1.0-all.tar.gz"]
    assert not broken_off.exists()
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="set HEADWATER_CACHE_DIR to a folder on another disk"):
        check_space(tmp_path, 1 << 60, "HEADWATER_CACHE_DIR")


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")

    with pytest.raises(UsageError, match="set HEADWATER_CACHE_DIR"):
        downloads(tmp_path).fetch([locked()])


def test_the_lock_names_coordinates_and_hashes_but_no_host() -> None:
    lock = load_lock()

    assert "://" not in LOCK_FILE.read_text()
    assert lock.kafka_version in {artifact.coordinate.split(":")[2] for artifact in lock.kafka}
    assert all(len(bytes.fromhex(artifact.sha256)) == 32 for artifact in (*lock.kafka, lock.registry))
