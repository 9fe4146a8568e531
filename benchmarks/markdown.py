#!/usr/bin/env python3
"""Turns what `pydlm bench --json` prints into the results of docs/benchmarks.md.

pydlm bench --json | python benchmarks/markdown.py
"""

from __future__ import annotations

import json
import sys
from typing import Any


def amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value:.0f} B"
    return f"{value:.1f} ns" if value < 1000 else f"{value / 1000:.2f} µs"


def cell(figures: dict[str, float] | None, unit: str) -> str:
    if figures is None:
        return ""
    if unit == "bytes":
        return amount(figures["median"], unit)
    return f"{amount(figures['median'], unit)} ({amount(figures['p99'], unit)})"


def target(row: dict[str, Any]) -> str:
    if row["at_most"] is None:
        return ""
    if row["target_is"] == "ratio":
        return f"≤ {row['at_most']:.2f}"
    return f"≤ {amount(row['at_most'], row['unit'])}"


def main() -> None:
    found = json.load(sys.stdin)
    where = found["environment"]
    print(f"{where['cpu']}, {where['cores']}; {where['kernel']}; {where['python']}.\n")
    print("| line | what | pydlm (p99) | peer (p99) | beside | ratio | target | met |")
    print("|---|---|---|---|---|---|---|---|")
    for row in found["rows"]:
        cells = [
            f"`{row['name']}`",
            row["what"],
            cell(row["ours"], row["unit"]),
            cell(row["peer"], row["unit"]),
            row["peer_name"],
            f"{row['ratio']:.2f}" if row["ratio"] is not None else "",
            target(row),
            {True: "yes", False: "**no**", None: ""}[row["met"]],
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
