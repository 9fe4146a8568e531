"""What the machines are made of: a kernel, a root directory, and two small libraries.

All of it comes from Debian packages, once, into a directory that every lab of a user shares.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["CACHE", "KERNEL", "LIBRARIES", "MODULES", "ROOT", "SHIM", "build", "missing"]

CACHE = Path(os.environ.get("PYDLM_LAB") or Path.home() / ".cache" / "pydlm-lab").absolute()
KERNEL = CACHE / "kernel" / "usr" / "bin" / "linux.uml"
MODULES = CACHE / "kernel" / "usr" / "lib" / "uml" / "modules"
ROOT = CACHE / "root"
LIBRARIES = CACHE / "lib"  #: libdlm alone, for programs that run on the host's file system
SHIM = CACHE / "xstate.so"

#: In the machines. The first few are in the base that the others are installed into.
_BASE = ("kmod", "iproute2", "procps", "python3-minimal")
_PACKAGES = ("libpython3-stdlib", "corosync", "dlm-controld", "libdlm3", "libdlm-dev")
_RELEASE = "bookworm"

_HERE = Path(__file__).parent
_DONE = CACHE / f"built-{_RELEASE}-1"  # another number: build again


def missing() -> str | None:
    """Return what this host lacks for a lab; None: nothing."""
    if platform.machine() != "x86_64":
        return f"user-mode-linux is for x86_64, this is {platform.machine()}"
    if os.geteuid():
        return "a lab needs root"
    if _DONE.exists():
        return None
    for tool, package in (
        ("apt-get", "apt"),
        ("dpkg-deb", "dpkg"),
        ("debootstrap", "debootstrap"),
        ("gcc", "gcc"),
    ):
        if not shutil.which(tool):
            return f"a lab is built with {tool}; install {package}"
    return None


def build() -> None:
    """Build what is not there yet. Takes a minute or two, and some 600 MB."""
    if reason := missing():
        raise SystemExit(reason)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _DONE.exists():
            for path in (KERNEL.parents[2], ROOT, LIBRARIES):
                shutil.rmtree(path, ignore_errors=True)
            _kernel()
            _root()
            _libraries()
            _DONE.touch()
        if not SHIM.exists() or SHIM.stat().st_mtime < (_HERE / "xstate.c").stat().st_mtime:
            _run("gcc", "-O2", "-shared", "-fPIC", "-o", str(SHIM), str(_HERE / "xstate.c"))


def _kernel() -> None:
    where = CACHE / "kernel"
    where.mkdir()
    _run("apt-get", "download", "user-mode-linux", cwd=where)
    (package,) = where.glob("user-mode-linux_*.deb")
    _run("dpkg-deb", "-x", str(package), str(where))


def _root() -> None:
    _run("debootstrap", "--variant=minbase", f"--include={','.join(_BASE)}", _RELEASE, str(ROOT))
    # Nothing that is installed is started: there is no machine yet.
    policy = ROOT / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    install = "apt-get -q update && apt-get -qy --no-install-recommends install "
    _run("chroot", str(ROOT), "sh", "-c", install + " ".join(_PACKAGES))
    (ROOT / "host").mkdir(exist_ok=True)
    (ROOT / "lib/modules").mkdir(exist_ok=True)
    # All else that a machine does at boot stands in guest/init, which so can change.
    init = ROOT / "lab-init"
    init.write_text(
        '#!/bin/sh\nmount -t hostfs none /host -o /\nexec /bin/sh "/host$LAB_GUEST/init"\n'
    )
    init.chmod(0o755)


def _libraries() -> None:
    LIBRARIES.mkdir()
    for path in (ROOT / "usr/lib/x86_64-linux-gnu").glob("libdlm.so*"):
        shutil.copy(path, LIBRARIES / path.name, follow_symlinks=False)


def _run(*command: str, cwd: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{_shown(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _shown(command: Sequence[str]) -> str:
    return " ".join(command)
