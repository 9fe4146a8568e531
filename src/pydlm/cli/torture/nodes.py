"""How the orchestrator reaches a node, wherever it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread

from pydlm.cli.torture.player import Answer, Order, Player
from pydlm.lockspace import Lockspace

__all__ = ["NoAnswer", "Node", "ThreadNode"]


class NoAnswer(Exception):
    """A node has not answered in time: it hangs, or it waits for a lock it does not get."""


class Node(ABC):
    """One node, seen from the orchestrator. Each order gets one answer."""

    number: int

    @abstractmethod
    def post(self, order: Order) -> None:
        """Have the node carry out `order`. Does not wait."""

    @abstractmethod
    def answer(self, patience: float) -> Answer:
        """Return how the last order went.

        Waits up to `patience` seconds, then raises NoAnswer. Raises what the order raised.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the node, whatever it is doing; its locks are gone when it returns."""


class ThreadNode(Node):
    """A node that is a thread of this process, with a connection of its own."""

    def __init__(
        self,
        number: int,
        lockspace: Lockspace,
        player: Callable[[int, Lockspace], Player] = Player,
    ) -> None:
        self.number = number
        self._lockspace = lockspace
        self._player = player(number, lockspace)
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer | BaseException] = SimpleQueue()
        self._thread = Thread(target=self._serve, name=f"node {number}", daemon=True)
        self._thread.start()

    def post(self, order: Order) -> None:
        """Have the node carry out `order`."""
        self._orders.put(order)

    def answer(self, patience: float) -> Answer:
        """Return how the last order went."""
        try:
            answer = self._answers.get(timeout=patience)
        except Empty:
            raise NoAnswer from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def stop(self) -> None:
        """End the thread; closing the connection ends its wait, if it is in one."""
        self._orders.put(None)
        self._lockspace.close()
        self._thread.join()

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                self._answers.put(self._player.play(order))
            except BaseException as error:  # for whoever waits for the answer
                self._answers.put(error)
