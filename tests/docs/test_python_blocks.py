"""Every Python block of the pages: it compiles, what it imports is there, and no name comes from nowhere.

Blocks of a page follow one another. Names that stand for what the reader has are listed here. That examples *do* what
is said is proven elsewhere.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
}
BLOCK = re.compile(r'^```python(?: title="[^"]*")?\n(.*?)^```', re.MULTILINE | re.DOTALL)

MODULES = {"app", "events"}
"""Of the reader: the app, and what ``headwater schemas generate`` writes."""

NAMES = {
    *("dsn", "engine", "bank", "payments", "store", "draw", "write_report"),
    *("order", "orders", "batch", "Booking", "Quote"),
}
"""Of the reader, as examples mention them."""


def blocks(page: str) -> Iterator[ast.Module]:
    """Parsed, with positions of the page in errors. ``await`` may stand anywhere, as in the REPL of asyncio."""
    for found in BLOCK.finditer(PAGES[page]):
        source = "\n" * PAGES[page].count("\n", 0, found.start(1)) + found[1]
        compile(source, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        yield ast.parse(source, page)


each_page = pytest.mark.parametrize("page", sorted(page for page, text in PAGES.items() if BLOCK.search(text)))


@each_page
def test_what_a_block_imports_is_there(page: str) -> None:
    for block in blocks(page):
        for node in ast.walk(block):
            if isinstance(node, ast.Import):
                missing = [name.name for name in node.names if name.name not in MODULES and not find_spec(name.name)]
                assert not missing, f"{page}:{node.lineno}: there is no {missing}"
            elif isinstance(node, ast.ImportFrom) and node.module not in MODULES:
                module = import_module(node.module or "")
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not missing, f"{page}:{node.lineno}: {node.module} has no {missing}"


def bound(block: ast.Module) -> set[str]:
    """The names that a block makes, wherever in it."""
    made: set[str] = set()
    for node in ast.walk(block):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                made |= {name.asname or name.name for name in names}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                made.add(name)
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                made.add(name)
            case ast.ExceptHandler(name=str(name)):
                made.add(name)
    return made


def from_nowhere(page: str) -> set[str]:
    known = set(dir(builtins)) | NAMES
    found: set[str] = set()
    for block in blocks(page):
        known |= bound(block)
        loads = (node for node in ast.walk(block) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
        found |= {f"line {node.lineno}: {node.id}" for node in loads if node.id not in known}
    return found


@each_page
def test_no_name_of_a_block_comes_from_nowhere(page: str) -> None:
    assert from_nowhere(page) == set()


def test_a_page_whose_example_is_wrong_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PAGES, "x.md", "```python\nfrom headwater_cache import NoCache\nEntityCache(url)\n```\n")
    assert from_nowhere("x.md") == {"line 3: EntityCache", "line 3: url"}
    with pytest.raises(AssertionError, match=r"x\.md:2: headwater_cache has no \['NoCache'\]"):
        test_what_a_block_imports_is_there("x.md")
    monkeypatch.setitem(PAGES, "x.md", "```python\nvalue = encode({…})\n```\n")
    with pytest.raises(SyntaxError, match=r"x\.md, line 2"):
        from_nowhere("x.md")
