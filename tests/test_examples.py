"""The examples, with a real server, real requests and real deaths."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import pydlm
from pydlm import Mode

EXAMPLE = Path(__file__).parents[1] / "examples" / "cached_config"
WORKERS = 3
TIMEOUT = 30.0  # seconds; far more than anything here takes


class Service:
    """The example, run by uvicorn on a free port, with a directory of its own."""

    def __init__(self, application: Path = EXAMPLE / "app.py") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pydlm-example-", dir="/dev/shm"))
        self.file = self.directory / "config.json"
        # Requests queue here until a worker is up. Accepted connections inherit TCP_NODELAY.
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = "http://127.0.0.1:{1}".format(*self.socket.getsockname())
        options = {"--fd": self.socket.fileno(), "--workers": WORKERS, "--timeout-keep-alive": 100}
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", f"{application.stem}:app", "--no-access-log"),
                *("--app-dir", str(application.parent)),
                *(str(part) for option in options.items() for part in option),
            ],
            env=os.environ | {"PYDLM_HOST_DIR": str(self.directory), "CONFIG_FILE": str(self.file)},
            pass_fds=[self.socket.fileno()],
            start_new_session=True,
        )

    def client(self) -> Any:
        """Return a client that stays with one connection, so with one worker."""
        only_one = httpx.Limits(max_connections=1, keepalive_expiry=None)
        return httpx.Client(base_url=self.url, timeout=TIMEOUT, limits=only_one, trust_env=False)

    @contextlib.contextmanager
    def clients(self) -> Iterator[dict[int, Any]]:
        """Give a client for each worker, by pid, once all are there."""
        give_up = time.monotonic() + TIMEOUT
        with contextlib.ExitStack() as stack:
            found: dict[int, Any] = {}
            while len(found) < WORKERS:
                assert time.monotonic() < give_up, f"only {list(found)} answer"
                client = stack.enter_context(self.client())
                with contextlib.suppress(httpx.TransportError):  # a worker that was just killed
                    found.setdefault(get(client)["pid"], client)
            yield found

    def connect(self) -> pydlm.Lockspace:
        """Join the workers' lockspace."""
        return pydlm.connect("cached-config", f"host:{self.directory}")

    def close(self) -> None:
        self.process.terminate()
        try:
            status = self.process.wait(TIMEOUT)
        finally:
            with contextlib.suppress(ProcessLookupError):  # as it should be
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.socket.close()
            shutil.rmtree(self.directory)
        assert status == 0


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with contextlib.closing(Service()) as running:
        yield running


@pytest.fixture
def workers(service: Service) -> Iterator[dict[int, Any]]:
    with service.clients() as clients:
        yield clients


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as executor:
        yield executor


def get(client: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/").raise_for_status().json()
    return answer


def put(client: Any, settings: Any) -> int:
    version: int = client.put("/config", json=settings).raise_for_status().json()["version"]
    return version


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < give_up


def lock_states(lockspace: pydlm.Lockspace) -> list[tuple[int, Mode | None, int]]:
    return sorted((s.owner >> 32, s.granted, s.token) for s in lockspace.dump("config"))


def test_every_worker_answers_from_its_cache(service: Service, workers: dict[int, Any]) -> None:
    version = put(next(iter(workers.values())), {"colour": "green"})
    expected = {"version": version, "settings": {"colour": "green"}}
    with service.connect() as lockspace:
        dropped = lock_states(lockspace)
        assert {mode for _, mode, _ in dropped} == {Mode.NL}
        for pid, client in workers.items():
            assert get(client) == expected | {"pid": pid}
        cached = lock_states(lockspace)
        assert {pid for pid, mode, _ in cached if mode is Mode.PR} == set(workers)
        for pid, client in list(workers.items()) * 20:
            assert get(client) == expected | {"pid": pid}
        assert lock_states(lockspace) == cached  # no worker has taken it again


def test_once_put_has_answered_no_worker_is_behind(
    workers: dict[int, Any], background: ThreadPoolExecutor
) -> None:
    clients = list(workers.values())
    for n in range(60):
        version = put(clients[n % WORKERS], n)
        for answer in background.map(get, clients):
            assert (answer["version"], answer["settings"]) == (version, n)


def test_a_worker_that_waits_for_the_lock_answers_other_requests(
    service: Service, workers: dict[int, Any], background: ThreadPoolExecutor
) -> None:
    version = put(next(iter(workers.values())), "before")
    pid, client = next(iter(workers.items()))
    with contextlib.ExitStack() as stack, service.connect() as lockspace:
        other = stack.enter_context(service.client())
        while get(other)["pid"] != pid:
            other = stack.enter_context(service.client())
        with lockspace.lock("config").held(Mode.EX, timeout=TIMEOUT) as lock:
            answer = background.submit(get, client)
            assert select.select([lock], [], [], TIMEOUT)[0]  # the worker waits for us
            assert other.get("/nothing").status_code == 404
            assert not answer.done()
        assert answer.result(TIMEOUT)["version"] == version


class Traffic:
    """Clients that read and write at the same time, and check what they are told."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.guard = threading.Condition()
        self.answered = 0  # the newest version that a PUT has answered with
        self.puts = 0
        self.broken = 0  # requests whose worker died
        self.settings: dict[int, Any] = {}  # by version
        self.stop = threading.Event()
        self.clients: list[Any] = []

    def client(self) -> Any:
        self.clients.append(self.service.client())
        return self.clients[-1]

    def check(self, version: int, settings: Any) -> None:
        assert self.settings.setdefault(version, settings) == settings

    def ask(self, client: Any, request: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        while True:
            try:
                return client, request(client, *arguments)
            except httpx.TransportError:
                client = self.client()
                with self.guard:
                    self.broken += 1

    def read(self) -> None:
        client, newest = self.client(), 0
        while not self.stop.is_set():
            newest = max(newest, self.answered)
            client, answer = self.ask(client, get)
            assert answer["version"] >= newest
            newest = answer["version"]
            self.check(newest, answer["settings"])

    def write(self, name: str, times: int) -> None:
        client = self.client()
        for n in range(times):
            newest = self.answered
            client, version = self.ask(client, put, [name, n])
            assert version > newest
            with self.guard:
                self.answered = max(self.answered, version)
                self.puts += 1
                self.guard.notify_all()
            self.check(version, [name, n])
            client, answer = self.ask(client, get)
            assert answer["version"] >= version

    def end(self) -> None:
        self.stop.set()
        for client in self.clients:
            client.close()

    def await_puts(self, count: int) -> None:
        with self.guard:
            assert self.guard.wait_for(lambda: self.puts >= count, TIMEOUT)


@pytest.mark.parametrize("victims", [0, 2])
def test_reads_and_writes_at_once(
    service: Service, workers: dict[int, Any], background: ThreadPoolExecutor, victims: int
) -> None:
    traffic = Traffic(service)
    first = put(next(iter(workers.values())), "first")
    readers: list[Future[None]] = [background.submit(traffic.read) for _ in range(6)]
    # More writers than a worker has threads.
    writers = [background.submit(traffic.write, f"writer {n}", 6) for n in range(24)]
    try:
        for n, pid in enumerate(list(workers)[:victims]):
            traffic.await_puts(30 * (n + 1))
            os.kill(pid, signal.SIGKILL)
        for writer in writers:
            writer.result(TIMEOUT)
        traffic.stop.set()
        for reader in readers:
            reader.result(TIMEOUT)
    finally:
        traffic.end()
    assert traffic.puts == 24 * 6
    assert bool(traffic.broken) == bool(victims)
    with service.client() as client:
        last = get(client)["version"]
    assert traffic.puts <= last - first <= traffic.puts + traffic.broken


def test_a_worker_is_killed_while_it_reads(service: Service, workers: dict[int, Any]) -> None:
    (dead, _), *others = workers.items()
    before = {get(client)["version"] for client in workers.values()}.pop()  # all hold PR now
    os.kill(dead, signal.SIGKILL)
    for n, (_, client) in enumerate(others):
        assert put(client, n) == before + n + 1
        assert {get(other)["version"] for _, other in others} == {before + n + 1}
    with service.clients() as restarted:
        assert dead not in restarted
        assert {get(client)["version"] for client in restarted.values()} == {before + 2}


def test_a_worker_is_killed_while_it_writes(
    service: Service, workers: dict[int, Any], background: ThreadPoolExecutor
) -> None:
    (dead, writer), (waiting, reader), (_, other) = workers.items()
    version = put(other, "old")
    pipe = service.file.with_suffix(".new")
    os.mkfifo(pipe)  # so the worker gets stuck in the middle of the new file
    with service.connect() as lockspace, open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)) as end:
        lost = background.submit(put, writer, "x" * 1_000_000)
        assert select.select([end], [], [], TIMEOUT)[0]
        answer = background.submit(get, reader)
        until(lambda: any(s.requested is Mode.PR for s in lockspace.dump("config")))
        os.kill(dead, signal.SIGKILL)
        assert answer.result(TIMEOUT) == {"version": version, "settings": "old", "pid": waiting}
        with pytest.raises(httpx.TransportError):
            lost.result(TIMEOUT)
        pipe.unlink()
        lock = lockspace.lock("config")
        with lock.held(Mode.PR, timeout=TIMEOUT), pytest.raises(pydlm.LVBInvalid):
            lock.lvb  # noqa: B018
        assert put(other, "new") == version + 1
        with lock.held(Mode.PR, timeout=TIMEOUT):
            assert int.from_bytes(lock.lvb, "little") == version + 1
    assert {get(client)["settings"] for client in (reader, other)} == {"new"}


def test_a_worker_is_killed_between_the_file_and_the_release(tmp_path: Path) -> None:
    application = tmp_path / "mortal.py"
    application.write_text(
        "import os, pathlib, signal, sys\n"
        f"sys.path.insert(0, {str(EXAMPLE)!r})\n"
        "from app import app\n"
        "replace = pathlib.Path.replace\n"
        "def replace_and_die(self, target):\n"
        "    replace(self, target)\n"
        "    if 'die' in target.read_text():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "pathlib.Path.replace = replace_and_die\n"
    )
    with contextlib.closing(Service(application)) as service, service.clients() as workers:
        (_, writer), *others = workers.items()
        version = put(writer, "live")
        assert {get(client)["settings"] for client in workers.values()} == {"live"}
        with pytest.raises(httpx.TransportError):
            put(writer, "die")
        # It was not told to the client, but it is there, so everybody has to see it.
        for pid, client in others * 2:
            assert get(client) == {"version": version + 1, "settings": "die", "pid": pid}
        for n, (_, client) in enumerate(others):
            assert put(client, n) == version + 2 + n
            assert {get(other)["settings"] for _, other in others} == {n}
