"""What every stack owes to the programs on it, as checks that anybody can run on theirs.

``python -m pydlm.testing conformance --stack NAME``, or one test for each of `CHECKS`::

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
    def test_my_stack(check):
        with closing(Ground(["mine"], "tests")) as ground:
            if check.applies(ground):
                check.run(ground)

A check applies where the stack has the capabilities that it is about, and says by NotConforming
what is otherwise. What the kernel's lock manager does in every detail, its recordings say.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Final

from pydlm.errors import DlmError
from pydlm.testing.conformance import blocks, handles, requests
from pydlm.testing.conformance.ground import CHECKS, Call, Check, Ground, NotConforming

__all__ = [
    "CHECKS",
    "Check",
    "Ground",
    "NotConforming",
    "blocks",
    "conform",
    "handles",
    "requests",
]

_MINUTE: Final = 60.0


def conform(
    stacks: Sequence[str], lockspace: str, without: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Run all checks; yield the name of each and ``passed``, ``not for it``, or what failed.

    `stacks` names the stack of both connections, or one for each. Raises StackUnavailable.
    """
    with closing(Ground(stacks, lockspace)) as ground:
        for check in CHECKS:
            if check.name in without or not check.applies(ground):
                yield check.name, "left out" if check.name in without else "not for it"
                continue
            try:
                Call(partial(check.run, ground)).result(_MINUTE)
            except (NotConforming, DlmError) as error:
                yield check.name, f"failed: {error}"
            else:
                yield check.name, "passed"
