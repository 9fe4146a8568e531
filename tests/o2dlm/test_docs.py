"""What docs/o2dlm.md says, as far as a machine can tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pydlm import o2dlm

TEXT = (Path(__file__).parents[2] / "docs" / "o2dlm.md").read_text()


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    tmp_path.chmod(0o700)
    monkeypatch.setenv("PYDLM_HOST_DIR", str(tmp_path))
    exec(compile(code, "docs/o2dlm.md", "exec"), {})


def test_every_call_and_every_code_exists() -> None:
    for call in re.findall(r"^\| `(\w+)\(", TEXT, re.MULTILINE):
        assert callable(getattr(o2dlm, call))
    codes = set(re.findall(r"`([A-Z_]+)`", TEXT)) - {"LD_PRELOAD"}
    assert len(codes) > 20
    assert {code.removeprefix("O2DLM_ET_") for code in codes if code != "O2DLM_TRYLOCK"} <= {
        code.name for code in o2dlm.ErrorCode
    }
