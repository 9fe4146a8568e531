"""Which stack this host runs, for programs that do not care: ``connect("orders", stack="auto")``.

As ``ocfs2_cluster_connect_agnostic`` takes the cluster stack that the host has been set up for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["AGNOSTIC", "running_stack"]

#: What programs say that take what there is.
AGNOSTIC: Final = "auto"

_DLM_NODES: Final = "sys/kernel/config/dlm/cluster/comms"
_MOUNTS: Final = "proc/self/mountinfo"


def running_stack(root: Path = Path("/")) -> str:
    """Return the name, with its locator, of the stack that spans most.

    `fsdlm` where dlm_controld has told the kernel of its cluster; else `dlmfs:` and the place
    where ocfs2_dlmfs is mounted; else `host`. Looks at what is set up, not whether it works.
    """
    if any((root / _DLM_NODES).glob("*/local")):
        return "fsdlm"
    for line in (root / _MOUNTS).read_text(errors="surrogateescape").splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.split(" ", 1)[0] == "ocfs2_dlmfs":
            return f"dlmfs:{_unescaped(mount.split(' ')[4])}"
    return "host"


def _unescaped(path: str) -> str:
    """Undo what proc(5) does to blanks: three octal digits for each."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path)
