"""Earlier versions of the contracts, out of git: what the gate compares with when no registry is at hand."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from headwater_schemas.catalogue import PACKAGE_FOLDER, Catalogue
from headwater_schemas.errors import UsageError

__all__ = ["Release", "default_revision", "load_folder", "releases"]


@dataclass(frozen=True, slots=True)
class Release:
    """The catalogue of a contract folder at one revision; ``label`` is how people call it."""

    label: str
    catalogue: Catalogue


def load_folder(folder: Path, *, shipped: bool | None = None) -> Catalogue:
    """The catalogue of one contract folder; other folders than the shipped one may use the shipped contracts.

    Raises:
        UsageError: as ``Catalogue.load``.
    """
    if _is_shipped(folder) if shipped is None else shipped:
        return Catalogue.load(folder)
    return Catalogue.load(PACKAGE_FOLDER, folder)


def _is_shipped(folder: Path) -> bool:
    return folder.resolve() == PACKAGE_FOLDER.resolve()


def default_revision(folder: Path) -> str:
    """Where the work at hand left the main line: the merge base of HEAD and ``main``; ``HEAD`` when there is none."""
    for main in ("main", "origin/main", "master", "origin/master"):
        base = _git(folder, "merge-base", "HEAD", main, check=False)
        if base is not None:
            return base.decode().strip()
    return "HEAD"


def releases(folder: Path, revision: str, tags: str = "v*") -> list[Release]:
    """The contract folder at each tagged release up to ``revision``, then at ``revision`` itself; oldest first.

    Drafts between two releases are no promise to anyone, so they are left out. Blocks while git runs.

    Args:
        folder: a contract folder inside a git work tree.
        revision: a commit, branch or tag.
        tags: which tags are releases, as a glob.

    Raises:
        UsageError: the folder is not in git, git does not know the revision, or the contracts there are wrong.
    """
    if _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False) is None:
        raise UsageError(f"git has no revision {revision!r} for {folder}: pass a commit, branch or tag to --against")
    merged = _git(folder, "tag", "--list", tags, "--merged", revision, "--sort=creatordate") or b""
    found = []
    for name in [*merged.decode().split(), revision]:
        catalogue = _catalogue_at(folder, name)
        if catalogue is not None:
            found.append(Release(_label(name), catalogue))
    return found


def _label(revision: str) -> str:
    return revision[:12] if len(revision) == 40 else revision


def _catalogue_at(folder: Path, revision: str) -> Catalogue | None:
    """``None`` when there were no contracts yet."""
    root = Path((_git(folder, "rev-parse", "--show-toplevel") or b"").decode().strip())
    prefix = (_git(folder, "rev-parse", "--show-prefix") or b"").decode().strip()
    # From the root: in a subfolder git takes paths, also those inside the named tree, as relative to it.
    listed = _git(root, "ls-tree", "--name-only", f"{revision}:{prefix}", check=False)
    if listed is None or b"topics.toml" not in listed.split(b"\n"):
        return None
    paths = [name for name in ("topics.toml", "contracts") if name.encode() in listed.split(b"\n")]
    archive = _git(root, "archive", "--format=tar", f"{revision}:{prefix}", *paths) or b""
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(directory, filter="data")
        try:
            return load_folder(Path(directory), shipped=_is_shipped(folder))
        except UsageError as exc:
            message = str(exc).replace(directory, f"{revision}:{prefix.rstrip('/')}")
            raise UsageError(f"the contracts of {_label(revision)} cannot be read: {message}") from exc


def _git(folder: Path, *arguments: str, check: bool = True) -> bytes | None:
    """What git prints; ``None`` when it fails and that is an answer (``check=False``)."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except OSError as exc:
        raise UsageError(f"git cannot be run ({exc.strerror}): install it, or check against --registry") from exc
    if done.returncode == 0:
        return done.stdout
    if check or b"not a git repository" in done.stderr:
        reason = done.stderr.decode(errors="replace").strip()
        raise UsageError(f"git {arguments[0]} failed in {folder}: {reason}; or check against --registry")
    return None
