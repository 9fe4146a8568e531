"""One line of the table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydlm.cli.bench.sampling import Comparison, Figures

__all__ = ["Row", "compared"]


@dataclass(frozen=True)
class Row:
    """What was measured, beside what, and what it should be."""

    name: str
    what: str
    ours: Figures
    peer_name: str = ""
    peer: Figures | None = None
    ratio: float | None = None
    ratios: tuple[float, ...] = ()  #: of each round
    unit: Literal["ns", "bytes"] = "ns"
    at_most: float | None = None  #: the target
    target_is: Literal["ratio", "value"] = "ratio"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        value = self.ratio if self.target_is == "ratio" else self.ours.median
        return None if self.at_most is None or value is None else value <= self.at_most

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "met": self.met}


def compared(name: str, what: str, comparison: Comparison, peer_name: str, **more: Any) -> Row:
    """Return the row for a comparison."""
    return Row(
        name=name,
        what=what,
        ours=comparison.ours,
        peer_name=peer_name,
        peer=comparison.peer,
        ratio=comparison.ratio,
        ratios=tuple(comparison.ratios),
        **more,
    )
