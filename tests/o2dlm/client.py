"""Does by `pydlm.o2dlm` what it is told, in the words of client.c."""

from __future__ import annotations

import select
import sys

from pydlm import o2dlm

LEVELS = {"PR": o2dlm.O2DLM_LEVEL_PRMODE, "EX": o2dlm.O2DLM_LEVEL_EXMODE, "BOGUS": 7}
FLAGS = {"": 0, "TRY": o2dlm.O2DLM_TRYLOCK}

place = ""
ctxt: o2dlm.Context
basts: list[str] = []


def on_bast_unlock(name: str) -> None:
    basts.append(name)
    o2dlm.unlock(ctxt, name)


def run(verb: str, first: str = "", second: str = "", third: str = "") -> object:
    global ctxt, place
    if verb == "initialize":
        place = first
        ctxt = o2dlm.initialize(first, second)
    elif verb in ("supports_bast", "supports_stackglue"):
        return int(getattr(o2dlm, verb)(place))
    elif verb == "lock":
        o2dlm.lock(ctxt, first, FLAGS[third], LEVELS[second])
    elif verb in ("lock_with_bast", "bastdrop"):
        function = basts.append if verb == "lock_with_bast" else on_bast_unlock
        return o2dlm.lock_with_bast(ctxt, first, FLAGS[third], LEVELS[second], function, first)
    elif verb in ("unlock", "drop_lock"):
        getattr(o2dlm, verb)(ctxt, first)
    elif verb == "read_lvb":
        return o2dlm.read_lvb(ctxt, first, int(second)).hex()
    elif verb == "write_lvb":
        return o2dlm.write_lvb(ctxt, first, bytes.fromhex(second))
    elif verb == "poll":
        poll = select.poll()
        poll.register(int(first), select.POLLIN)
        return int(any(events & select.POLLIN for _, events in poll.poll(int(second))))
    elif verb == "process_bast":
        o2dlm.process_bast(ctxt, int(first))
        told = " ".join(basts)
        basts.clear()
        return told
    else:
        assert verb == "destroy"
        o2dlm.destroy(ctxt)
    return ""


def main() -> None:
    for line in sys.stdin:
        try:
            answer = f"ok {run(*line.split())}".rstrip()
        except o2dlm.O2dlmError as error:
            answer = f"error {error.code.name}"
        print(answer, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
