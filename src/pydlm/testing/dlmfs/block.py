"""What a lock value block must hold after each step of a scenario, by pydlm's own rules.

Each write lands at its offset, and makes an invalid block valid. When it is invalid is for the
recordings to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydlm.testing.dlmfs.recording import Scenario, Step

__all__ = ["reads"]

_SIZE = 64


@dataclass
class _File:
    """An open file, which descriptors may share."""

    path: str
    appends: bool
    position: int = 0  #: where its next write goes; with O_APPEND the kernel's own is 64 higher


def reads(scenario: Scenario, got: list[dict[str, Any]]) -> dict[int, bytes]:
    """Return what each read must give, by index of the step, as far as others did what they did."""
    return dict(_Blocks().follow(scenario, got))


class _Blocks:
    """The blocks by path, and the open files by process and name."""

    def __init__(self) -> None:
        self.blocks: dict[str, bytes] = {}
        self.files: dict[tuple[int, str, str], _File] = {}

    def follow(self, scenario: Scenario, got: list[dict[str, Any]]) -> Iterator[tuple[int, bytes]]:
        for index, (step, outcome) in enumerate(zip(scenario.steps, got, strict=True)):
            ret = outcome.get("ret", 0)
            if step.call == "unlink" and ret == 0:
                self.blocks.pop(step.args[0], None)
            if ret < 0:
                continue
            if step.call == "open" and step.file:
                path, words = step.args[:2]
                self.files[step.node, step.proc, step.file] = _File(path, "APPEND" in words)
            elif step.args and (step.node, step.proc, step.args[0]) in self.files:
                file = self.files[step.node, step.proc, step.args[0]]
                if step.call in ("read", "pread"):
                    right = self.read(step, file)
                    if right and ret == 0:  # invalid: whoever writes it begins with nothing
                        self.blocks[file.path] = bytes(_SIZE)
                    else:
                        yield index, right
                self.moves(step, file, ret)

    def read(self, step: Step, file: _File) -> bytes:
        start = step.args[2] if step.call == "pread" else file.position
        if step.call == "read" and file.appends:
            start = _SIZE  # at the end of the file, where the kernel believes it has written
        return self.blocks.get(file.path, bytes(_SIZE))[start : start + step.args[1]]

    def moves(self, step: Step, file: _File, ret: int) -> None:
        if step.call in ("write", "pwrite"):
            start = step.args[2] if step.call == "pwrite" and not file.appends else file.position
            before = self.blocks.get(file.path, bytes(_SIZE))
            data = bytes.fromhex(step.args[1])[:ret]
            self.blocks[file.path] = before[:start] + data + before[start + ret :]
        if step.call in ("write", "read") or (step.call == "pwrite" and file.appends):
            file.position += ret
        elif step.call == "lseek":
            file.position = ret
        elif step.call == "dup" and step.file:
            self.files[step.node, step.proc, step.file] = file
