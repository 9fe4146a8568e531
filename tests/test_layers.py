"""Calls go down by import: who may import whom, and what each module offers."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

#: From the ground up. A module may import from its own layer and from those below it. A name
#: stands for a module or for a package with all that is in it; the longest one counts.
LAYERS = {
    "words": ["pydlm.types", "pydlm.errors", "pydlm.contract", "pydlm._clash", "pydlm.dlm"],
    "core": ["pydlm._core"],
    "stacks": ["pydlm.stacks"],
    "stackglue": ["pydlm.stackglue"],
    "api": ["pydlm", "pydlm.lockspace", "pydlm.blocking", "pydlm.cached", "pydlm.aio"],
    "mount": ["pydlm.dlmfs"],
    "front ends": ["pydlm.cli", "pydlm.o2dlm", "pydlm.testing"],
}
RANK = {name: rank for rank, names in enumerate(LAYERS.values()) for name in names}

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "pydlm"


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
#: pydlm.dlm exists to fail.
PUBLIC = [name for name in MODULES if "._" not in name and name != "pydlm.dlm"]


def place(module: str) -> str:
    """The entry of LAYERS that `module` falls under."""
    for name in (module, *(module.rsplit(".", n)[0] for n in range(1, module.count(".")))):
        if name in RANK:
            return name
    pytest.fail(f"{module} has no layer: give it a place in LAYERS of {Path(__file__).name}")


def imports(module: str) -> Iterator[str]:
    """The modules of pydlm that `module` names in import statements, wherever they stand."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if within(alias.name, "pydlm"))
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                source = importlib.util.resolve_name("." * node.level + source, package)
            if within(source, "pydlm"):
                for alias in node.names:
                    child = f"{source}.{alias.name}"
                    yield child if child in MODULES or child == "pydlm._core" else source


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    for imported in imports(module):
        assert RANK[place(imported)] <= RANK[place(module)], f"{module} imports {imported}"


def test_stacks_do_not_know_each_other() -> None:
    for module in MODULES:
        if within(module, "pydlm.stacks"):
            own = ".".join(module.split(".")[:3])
            for imported in imports(module):
                # What begins with an underscore is no stack, but what several have in common.
                shared = imported.startswith("pydlm.stacks._")
                foreign = within(imported, "pydlm.stacks") and not within(imported, own)
                assert shared or not foreign, f"{module} imports {imported}"


def test_core_imports_words_only() -> None:
    statement = re.compile(r"^\s*(?:from|c?import)\s+(pydlm[\w.]*)", re.MULTILINE)
    for path in sorted((ROOT / "src" / "core").iterdir()):
        if path.suffix in {".pyx", ".pxi", ".pxd"}:
            for imported in statement.findall(path.read_text()):
                assert RANK[place(imported)] == 0, f"{path.name} imports {imported}"


def test_every_name_in_the_table_is_a_module() -> None:
    assert {name for name in RANK if name not in MODULES} <= {"pydlm._core"}


def is_command(node: ast.stmt) -> bool:
    """Whether it stands under `@app.command(...)`: run from a shell, not imported."""
    return any(
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr in {"command", "callback"}
        for decorator in getattr(node, "decorator_list", ())
    )


@pytest.mark.parametrize("module", PUBLIC)
def test_all_is_exact(module: str) -> None:
    """`__all__` names what exists, and every definition without an underscore is in it."""
    exported = set(getattr(importlib.import_module(module), "__all__", ()))
    missing = {name for name in exported if not hasattr(sys.modules[module], name)}
    assert not missing, f"in __all__ of {module}, but not there"

    defined = set()
    body = ast.parse(MODULES[module].read_text()).body
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not is_command(node):
                defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
    hidden = {name for name in defined - exported if not name.startswith("_")}
    assert not hidden, f"public in {module}: put it into __all__, or give it an underscore"
    if len(body) > 1:
        assert "__all__" in defined, f"{module} has no __all__"
