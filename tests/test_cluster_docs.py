"""docs/cluster.md: its table of capabilities is what the stacks say."""

from __future__ import annotations

from pathlib import Path

from pydlm.contract import CAPABILITIES
from pydlm.stackglue import find_stack
from pydlm.stacks.dlmfs.place import capabilities_on

PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"

#: By what heads the table.
COLUMNS = {
    "local, host": find_stack("local").capabilities & find_stack("host").capabilities,  # type: ignore[operator]
    "fsdlm": find_stack("fsdlm").capabilities,
    "dlmfs on pcmk": capabilities_on("pcmk"),
    "dlmfs on o2cb, on `pydlm mount`": capabilities_on("o2cb") & capabilities_on(None),
}


def test_table_of_capabilities() -> None:
    table = PAGE.read_text().partition("## Capabilities")[2].strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert rows[0][2:] == list(COLUMNS)
    for (word, what), row in zip(CAPABILITIES.items(), rows[2:], strict=True):
        expected = ["yes" if word in column else "no" for column in COLUMNS.values()]  # type: ignore[operator]
        assert row == [f"`{word}`", what, *expected]


def test_stacks_of_one_column_can_do_the_same() -> None:
    assert find_stack("local").capabilities == find_stack("host").capabilities
    assert capabilities_on("o2cb") == capabilities_on(None)
