"""`pydlm exec-o2dlm`: it becomes the program, or says why it cannot."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.o2dlm.nodes import PYDLM

from pydlm.errors import BadArgument, DlmError, Unsupported
from pydlm.o2dlm import preload
from pydlm.o2dlm.preload import check_program, find_program, preload_library


def shell(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PYDLM, "exec-o2dlm", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def refused(done: subprocess.CompletedProcess[str], status: int, why: str) -> None:
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith("pydlm: ") and done.stderr.count("\n") == 1
    assert why in done.stderr


def test_it_becomes_the_program() -> None:
    script = 'echo "$0 $1 $2 $LD_PRELOAD"; exit 5'
    done = shell("sh", "-c", script, "name", "--help", "-x", LD_PRELOAD="")
    assert done.returncode == 5
    assert done.stdout == f"name --help -x {preload_library()}\n"
    assert done.stderr == ""


def test_the_program_has_its_signals_as_from_a_shell() -> None:
    """Python ignores some for itself; what it was started with, as by nohup, stays ignored."""
    done = shell("grep", "^SigIgn", "/proc/self/status")
    status = Path("/proc/self/status").read_text()
    (ours,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    pythons = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))
    standard = (1 << 31) - 1  # glibc has some of the others for itself
    assert int(done.stdout.split()[1], 16) & standard == int(ours, 16) & standard & ~pythons


def test_what_is_not_there_or_cannot_run(tmp_path: Path) -> None:
    refused(shell("no-such-program"), 127, "in no directory of $PATH")
    refused(shell(tmp_path / "none"), 127, "no such file")
    refused(shell(tmp_path), 126, "is a directory")
    (tmp_path / "data").write_text("x")
    refused(shell(tmp_path / "data"), 126, "no permission")
    (tmp_path / "data").chmod(0o755)
    refused(shell(tmp_path / "data"), 126, "Exec format error")
    script = tmp_path / "script"
    script.write_text("#!/none/interpreter\n")
    script.chmod(0o755)
    refused(shell(script), 127, "No such file")


def test_a_static_program(tmp_path: Path) -> None:
    source = tmp_path / "static.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-static", "-o", tmp_path / "static", source], check=True)
    refused(shell(tmp_path / "static"), 126, "linked statically")
    script = tmp_path / "script"
    script.write_text(f"#! {tmp_path}/static -x\n")
    script.chmod(0o755)
    refused(shell(script), 126, "linked statically")


def test_a_program_for_another_machine(tmp_path: Path) -> None:
    program = bytearray(Path(shutil.which("true")).read_bytes())
    machine = int.from_bytes(program[18:20], "little")
    program[18:20] = (183 if machine != 183 else 62).to_bytes(2, "little")
    path = tmp_path / "foreign"
    path.write_bytes(program)
    path.chmod(0o755)
    with pytest.raises(Unsupported, match="another machine"):
        check_program(path)


@pytest.mark.parametrize(("bit", "word"), [(0o4755, "setuid"), (0o2755, "setgid")])
def test_a_program_with_privileges(
    bit: int, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(shutil.which("true"), tmp_path / "true"))
    path.chmod(bit)
    check_program(path)  # it is our own: nothing changes by running it
    status = path.stat()
    monkeypatch.setattr(preload.os, "getuid", lambda: status.st_uid + 1)
    monkeypatch.setattr(preload.os, "getgid", lambda: status.st_gid + 1)
    with pytest.raises(Unsupported, match=word):
        check_program(path)


def test_headers_that_are_cut_short(tmp_path: Path) -> None:
    """Whatever is in the file, it is for the kernel to refuse."""
    whole = Path(shutil.which("true")).read_bytes()[:4096]
    path = tmp_path / "program"
    for length in [*range(130), 500, 4096]:
        path.write_bytes(whole[:length])
        try:
            check_program(path)
        except Unsupported:
            assert length >= 64
    path.write_bytes(whole[:32] + b"\xff" * 8 + whole[40:])  # the table is nowhere
    check_program(path)


def test_a_path_that_cannot_be_preloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("with blank", "with:colon"):
        monkeypatch.setattr(preload, "__file__", str(tmp_path / name / "preload.py"))
        with pytest.raises(Unsupported, match="install pydlm-locks anew"):
            preload_library()
        (tmp_path / name).mkdir()
        (tmp_path / name / preload.LIBRARY).touch()
        with pytest.raises(BadArgument, match="install pydlm-locks elsewhere"):
            preload.preload_environment({})


def test_finding(tmp_path: Path) -> None:
    assert find_program("sh").name == "sh"
    with pytest.raises(DlmError, match="not found"):
        find_program("")
