"""docs/cluster.md: its table of capabilities is what the stacks say."""

from __future__ import annotations

from pathlib import Path

from pydlm.contract import CAPABILITIES
from pydlm.stackglue import find_stack

PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"


def test_table_of_capabilities() -> None:
    table = PAGE.read_text().partition("## Capabilities")[2].strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    stacks = [[find_stack(name) for name in head.split(", ")] for head in rows[0][2:]]
    for (word, what), row in zip(CAPABILITIES.items(), rows[2:], strict=True):
        expected = [
            "yes" if all(word in stack.capabilities for stack in column) else "no"
            for column in stacks
        ]
        assert row == [f"`{word}`", what, *expected]
