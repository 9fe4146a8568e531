"""What holds for every test: the build it means to test, and nothing left behind."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import HealthCheck, settings

# What pydlm's users have; by its name, as there, so that it is not loaded twice.
pytest_plugins = ["pydlm_pytest"]

# Examples share their machine with other tests, so a slow one says nothing.
settings.register_profile(
    "full", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("quick", settings.get_profile("full"), max_examples=20)
settings.load_profile("full")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--expect-build", metavar="DIR", help="fail unless pydlm is imported from DIR")


def pytest_report_header(config: pytest.Config) -> str:
    from pydlm import _core

    expected = config.getoption("--expect-build")
    if expected and not Path(_core.__file__).is_relative_to(Path(expected).resolve()):
        raise pytest.UsageError(f"meant to test {expected}, but imported {_core.__file__}")
    return f"pydlm: {_core.__file__}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let faulthandler, too, wait for as long as a test has by its own mark."""
    mark = item.get_closest_marker("timeout")
    stderr = item.config.stash.get(fault_handler_stderr_fd_key, None)
    if mark is not None and stderr is not None:
        faulthandler.dump_traceback_later(mark.args[0] + 10, file=stderr, exit=True)


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that ends with more threads or file descriptors than it began with."""
    before = _belongings()
    yield
    # A handle in a reference cycle, or a thread about to end, is no leak: give them a moment.
    give_up = time.monotonic() + 2.0
    while left := _belongings() - before:
        if time.monotonic() > give_up:
            pytest.fail("left behind: " + ", ".join(sorted(left)), pytrace=False)
        gc.collect()
        time.sleep(0.01)


def _belongings() -> set[str]:
    owned = {repr(thread) for thread in threading.enumerate()}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed the directory
            owned.add(f"fd {fd} ({os.readlink(f'/proc/self/fd/{fd}')})")
    return owned
