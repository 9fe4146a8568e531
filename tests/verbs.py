"""Stacks that have only verbs, for the tests of the locks made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydlm.stacks.local import LocalStack
from pydlm.types import Event


class Verbs:
    """A LocalStack without its native locks, whose verbs may be told to raise."""

    name = "verbs"

    def __init__(self, *lacking: str, **options: Any) -> None:
        self.inner = LocalStack.connect("tests", **options)
        self.capabilities = self.inner.capabilities - {"native", *lacking}
        self.failing: dict[str, Exception] = {}

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.inner, verb)

    def _may_fail(self, verb: str) -> None:
        if (error := self.failing.get(verb)) is not None:
            raise type(error)(*error.args)  # a new one: a traceback keeps alive what it saw

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        self._may_fail("dispatch")
        return self.inner.dispatch(limit)

    def unlock(self, *args: Any, **kwargs: Any) -> None:
        self._may_fail("unlock")
        self.inner.unlock(*args, **kwargs)

    def disconnect(self) -> None:
        self._may_fail("disconnect")
        self.inner.disconnect()
