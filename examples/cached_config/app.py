"""A web service whose worker processes keep their configuration parsed until one changes it.

GET / answers from the cache, without a call to the lock manager. PUT /config takes the lock
exclusively, upon which every worker lets go of what it has cached. Once PUT has answered, no worker
answers from an older configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import pydlm
from pydlm import Mode

CONFIG_FILE = Path(os.environ.get("CONFIG_FILE", "config.json"))
PATIENCE = 10.0  # seconds that a request waits for the lock


class CachedConfig:
    """The configuration in a file, and this process' copy of it."""

    def __init__(self, lockspace: pydlm.Lockspace, path: Path) -> None:
        self.path = path
        self.reader = lockspace.lock("config")  # held in PR as long as the copy is good
        self.writer = lockspace.lock("config")  # in EX: all readers let go, ours too
        self.current: dict[str, Any] | None = None  # the copy, as long as it is good
        self.last_read: dict[str, Any] = {}
        self.refreshing: asyncio.Task[dict[str, Any]] | None = None

    async def get(self) -> dict[str, Any]:
        """Return the configuration."""
        if self.current is not None:
            return self.current  # nearly always; asks nobody
        if self.refreshing is None:
            self.refreshing = asyncio.create_task(self._refresh())
        # Requests share the task; one that is cancelled must not take it along.
        return await asyncio.shield(self.refreshing)

    async def _refresh(self) -> dict[str, Any]:
        try:
            acquire = self.reader.acquire
            if not acquire(blocking=False, mode=Mode.PR):  # somebody writes
                if not await asyncio.to_thread(acquire, timeout=PATIENCE, mode=Mode.PR):
                    raise pydlm.LockTimeout("the configuration is being changed")
            try:
                version = self._version()
                if version is None or version != self.last_read.get("version"):
                    # Not in a thread: those may all be taken by put(), which waits for us.
                    self.last_read = self._read()
            except BaseException:
                self.reader.release()
                raise
            self.current = self.last_read
            # If somebody has asked meanwhile, it is readable already, and _drop comes next.
            asyncio.get_running_loop().add_reader(self.reader.fileno(), self._drop)
            return self.current
        finally:
            self.refreshing = None

    def _drop(self) -> None:
        """Let go, because somebody wants to write; the next request takes the lock again."""
        asyncio.get_running_loop().remove_reader(self.reader.fileno())
        self.current = None
        self.reader.release()

    def _version(self) -> int | None:
        try:
            return int.from_bytes(self.reader.lvb, "little")
        except pydlm.LVBInvalid:
            return None  # a worker died while it was writing: only the file knows

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"version": 0, "settings": {}}
        return dict(json.loads(self.path.read_bytes()))

    def put(self, settings: Any) -> int:
        """Replace the settings and return their version. Waits, so call it in a thread."""
        with self.writer.held(Mode.EX, timeout=PATIENCE):
            version: int = self._read()["version"] + 1
            new = self.path.with_suffix(".new")
            with new.open("w") as file:
                json.dump({"version": version, "settings": settings}, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
            self.writer.lvb = version.to_bytes(8, "little")  # travels with the release
        return version


async def show(request: Request) -> JSONResponse:
    """GET /: what the service is for; here it shows its configuration."""
    return JSONResponse(await request.state.config.get() | {"pid": os.getpid()})


async def change(request: Request) -> JSONResponse:
    """PUT /config: new settings, as JSON."""
    version = await asyncio.to_thread(request.state.config.put, await request.json())
    return JSONResponse({"version": version, "pid": os.getpid()})


async def busy(_request: Request, error: Exception) -> JSONResponse:
    """Answer where the lock could not be had in time."""
    return JSONResponse({"error": str(error)}, status_code=503)


@contextlib.asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Connect, in each worker for itself: a connection does not survive a fork."""
    # One thread takes a lock and another gives it back here; a search for deadlocks between
    # threads would find some that are none.
    with pydlm.connect("cached-config", stack="host", deadlock_wait=None) as lockspace:
        yield {"config": CachedConfig(lockspace, CONFIG_FILE)}


app = Starlette(
    routes=[Route("/", show), Route("/config", change, methods=["PUT"])],
    exception_handlers={pydlm.LockTimeout: busy},
    lifespan=lifespan,
)
