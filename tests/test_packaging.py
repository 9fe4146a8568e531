"""What is built here installs, and imports, with the source tree out of sight."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command without this session's Python settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def check(*command: str | Path, cwd: Path | None = None) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Environment:
    """An empty virtual environment, without even pip."""

    def __init__(self, path: Path) -> None:
        self.bin = path / "bin"
        self.pip = (sys.executable, "-m", "pip", "--python", path, "--quiet")
        check(sys.executable, "-m", "venv", "--without-pip", path)

    def install(self, *arguments: str | Path) -> None:
        check(*self.pip, "install", *arguments)

    def uninstall(self, name: str) -> None:
        check(*self.pip, "uninstall", "--yes", name)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        # -I: neither the working directory nor the environment leads back to the source.
        return run(self.bin / "python", "-I", "-W", "error", "-c", code, cwd=self.bin)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "venv")


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist and the wheel that was built from it."""
    path = tmp_path_factory.mktemp("dist")
    check(sys.executable, "-m", "build", "--outdir", path, ROOT)
    return path


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("pydlm_locks-*.whl")
    return path


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel like that of the other distribution: same name, same first import."""
    path = tmp_path_factory.mktemp("other") / "pydlm-0.1.1.13-py3-none-any.whl"
    metadata = "pydlm-0.1.1.13.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pydlm/__init__.py", "from pydlm.dlm import dlm\n")
        archive.writestr("pydlm/dlm.py", "class dlm: pass\n")
        archive.writestr(
            f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: pydlm\nVersion: 0.1.1.13\n"
        )
        archive.writestr(
            f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        names = [*archive.namelist(), f"{metadata}/RECORD"]
        archive.writestr(f"{metadata}/RECORD", "".join(f"{name},,\n" for name in names))
    return path


def test_sdist_has_what_a_build_and_its_tests_need(dist: Path) -> None:
    (path,) = dist.glob("pydlm_locks-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {
        str(path.relative_to(ROOT))
        for folder in ("src", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in {".so", ".pyc"} and "egg-info" not in str(path)
    }
    assert tracked <= names
    assert not {name for name in names - tracked if name.endswith((".so", ".c", ".pyc"))}
    assert "src/core/_core.c" not in names


def test_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "pydlm").rglob("*")
        if path.is_file() and path.suffix not in {".so", ".pyc"}
    } | {"pydlm_pytest.py"}
    extension = {name for name in names if name.startswith("pydlm/_core.") and name[-3:] == ".so"}
    assert len(extension) == 1
    preload = {"pydlm/o2dlm/libo2dlm_preload.so"}
    assert {name for name in names if ".dist-info/" not in name} == source | extension | preload


def test_wheel_installs_and_works(wheel: Path, environment: Environment) -> None:
    environment.install(wheel)
    assert "torture" in check(environment.bin / "pydlm", "--help")
    done = environment.python("import pydlm, pydlm._core as core; print(core.__file__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(environment.bin.parent))


@pytest.mark.parametrize("order", ["ours last", "theirs last"])
def test_other_pydlm_in_the_same_place_is_refused(
    order: str, wheel: Path, other: Path, environment: Environment
) -> None:
    environment.install("--no-deps", *([other] if order == "ours last" else [wheel]))
    environment.install("--no-deps", *([wheel] if order == "ours last" else [other]))
    # The second way in is what the command `pydlm` does first.
    for statement in ("import pydlm", "from pydlm.cli import main", "import pydlm._core"):
        done = environment.python(statement)
        assert done.returncode == 1
        assert "ImportError: The distribution `pydlm` is installed" in done.stderr
        assert "pip uninstall -y pydlm pydlm-locks && pip install pydlm-locks" in done.stderr

    # The advice works.
    environment.uninstall("pydlm")
    environment.uninstall("pydlm-locks")
    environment.install("--no-deps", wheel)
    assert environment.python("import pydlm").returncode == 0


def test_import_of_the_other_pydlm_is_explained(wheel: Path, environment: Environment) -> None:
    environment.install("--no-deps", wheel)
    done = environment.python("from pydlm.dlm import dlm")
    assert done.returncode == 1
    assert "what is installed is pydlm-locks" in done.stderr
