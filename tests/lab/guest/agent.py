"""Runs commands in a machine: orders and answers are JSON lines on the serial line.

To the machine: {"id", "run", "timeout"} begins a command, {"id", "input"} is for its standard
input (null: its end). Back: {"id", "out"} or {"id", "err"} as they come, {"id", "status"} at last.
A command that overruns its time is killed: status 124. The first line is {"hello": true}.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading

LINE = os.open("/dev/ttyS0", os.O_RDWR | os.O_NOCTTY)
WRITING = threading.Lock()


def say(**fields):
    data = json.dumps(fields).encode() + b"\n"
    with WRITING:
        while data:
            data = data[os.write(LINE, data[:2048]) :]


def run(number, command, timeout, processes):
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/tmp",
    )
    processes[number] = process
    pumps = [
        threading.Thread(target=pump, args=(number, kind, pipe), daemon=True)
        for kind, pipe in (("out", process.stdout), ("err", process.stderr))
    ]
    for each in pumps:
        each.start()
    threading.Thread(target=wait, args=(number, process, timeout, pumps, processes)).start()


def pump(number, kind, pipe):
    while data := os.read(pipe.fileno(), 65536):
        say(**{"id": number, kind: data.decode(errors="backslashreplace")})


def wait(number, process, timeout, pumps, processes):
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        status = 124
    with contextlib.suppress(ProcessLookupError):  # its children too, unless they went away
        os.killpg(process.pid, signal.SIGKILL)
    for each in pumps:
        each.join(1.0)  # not for ever: the kernel may hold one that cannot be killed
    del processes[number]
    say(id=number, status=status)


def main():
    processes = {}
    say(hello=True)
    with open(LINE, "rb", buffering=0, closefd=False) as line:
        waiting = b""
        while True:
            waiting += line.read(65536)
            *orders, waiting = waiting.split(b"\n")
            for order in map(json.loads, orders):
                number = order["id"]
                if "run" in order:
                    run(number, order["run"], order.get("timeout"), processes)
                elif number in processes:
                    pipe = processes[number].stdin
                    with contextlib.suppress(OSError, ValueError):
                        if order["input"] is None:
                            pipe.close()
                        else:
                            pipe.write(order["input"].encode())
                            pipe.flush()


main()
