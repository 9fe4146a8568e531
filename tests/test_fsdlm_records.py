"""The records of fsdlm: as the kernel's header has them. The rest is tested in tests/lab."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pydlm.errors import StackUnavailable
from pydlm.stacks.fsdlm.records import COMPLETION, LVB_LEN, RESULT_SIZE, Requests, result

SOURCE = r"""
#include <linux/dlm_device.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
/* Reads a request and says what it asks, or writes a result. */
int main(int argc, char **argv)
{
    if (argc > 1) {
        struct dlm_lock_result r = {
            .version = {6, 0, 2}, .length = sizeof r + 32, .user_astaddr = (void *)1,
            .user_astparam = (void *)0x123456789aL, .user_lksb = (void *)3, .bast_mode = 5,
            .lksb = {.sb_status = -11, .sb_lkid = 77, .sb_flags = 6, .sb_lvbptr = (void *)4},
            .lvb_offset = sizeof r,
        };
        fwrite(&r, sizeof r, 1, stdout);
        fwrite("0123456789abcdefghijklmnopqrstuv", 32, 1, stdout);
        return 0;
    }
    char buffer[1024];
    struct dlm_write_request *q = (void *)buffer;
    long size = read(0, buffer, sizeof buffer);
    printf("%u.%u.%u %d %d ", q->version[0], q->version[1], q->version[2], q->cmd, q->is64bit);
    if (q->cmd == DLM_USER_PURGE)
        printf("%d %u %u", size >= (long)sizeof *q, q->i.purge.nodeid, q->i.purge.pid);
    else
        printf("%d %x %u %lx %lx %.32s %.*s %d", q->i.lock.mode, q->i.lock.flags, q->i.lock.lkid,
               (long)q->i.lock.castparam, (long)q->i.lock.bastparam, q->i.lock.lvb,
               q->i.lock.namelen, q->i.lock.name,
               size == (long)sizeof *q + q->i.lock.namelen && q->i.lock.castaddr
               && q->i.lock.bastaddr && q->i.lock.lksb && !q->i.lock.parent && !q->i.lock.xid);
    return 0;
}
"""

VERSION = b"\6\0\0\0\0\0\0\0\2\0\0\0"
LVB = bytes(range(65, 65 + LVB_LEN))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("records") / "kernel"
    build = ["gcc", "-x", "c", "-", "-o", str(program)]
    subprocess.run(build, input=SOURCE, text=True, check=True)
    return program


def understood(kernel: Path, record: bytes) -> str:
    done = subprocess.run([kernel], input=record, capture_output=True, check=True)
    return done.stdout.decode()


def test_requests(kernel: Path) -> None:
    make, block = Requests(VERSION), LVB.decode()
    record = make.lock(5, 0x8010, 7, 0x123456789A, LVB, b"name")
    expected = f"6.0.2 1 1 5 8010 7 123456789a 123456789a {block} name 1"
    assert understood(kernel, record) == expected
    record = make.unlock(0x28, 7, 9, LVB)
    assert understood(kernel, record) == f"6.0.2 2 1 0 28 7 9 9 {block}  1"
    assert understood(kernel, make.purge(2, 4711)) == "6.0.2 6 1 1 2 4711"
    assert understood(kernel, make.deadlock_cancel(7)).startswith("6.0.2 7 1 0 0 7 ")


def test_results(kernel: Path) -> None:
    record = subprocess.run([kernel, "result"], capture_output=True, check=True).stdout
    assert len(record) == RESULT_SIZE
    block = b"0123456789abcdefghijklmnopqrstuv"
    assert result(record) == (COMPLETION, 0x123456789A, -11, 77, 6, 5, block)


def test_kernel_of_another_version() -> None:
    with pytest.raises(StackUnavailable, match=r"speak version 7\.0\.0, and pydlm 6 only"):
        Requests(b"\7" + bytes(11))
