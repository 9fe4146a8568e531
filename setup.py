"""Build what is compiled; all else about the package is in pyproject.toml.

That is `pydlm._core`, the one extension, and a library that is preloaded into programs of others
(`pydlm exec-o2dlm`). Three environment variables choose a variant, and each variant has its own
build directory:

PYDLM_DEBUG=1                      check every invariant after each operation
PYDLM_CRASH=1                      it can be told to die at any point (tests/host)
PYDLM_SANITIZE=address,undefined   any of gcc's -fsanitize= words
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

debug = os.environ.get("PYDLM_DEBUG", "0") not in ("", "0")
crash = os.environ.get("PYDLM_CRASH", "0") not in ("", "0")
sanitize = os.environ.get("PYDLM_SANITIZE", "")
names = ["debug" * debug, "crash" * crash, sanitize.replace(",", "-")]
variant = "-".join(filter(None, names)) or "normal"

compile_args = [
    "-std=gnu11",
    "-O2",
    "-fno-plt",  # calls into libpython and libc without a trampoline
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    # Cython's own code trips over these.
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    f"-DPYDLM_DEBUG={debug:d}",
]
link_args = []
if crash:
    compile_args += ["-DPYDLM_CRASH"]
if debug:
    compile_args += ["-UNDEBUG"]
    if not sanitize:  # under which gcc warns of what cannot be
        compile_args += ["-Werror"]
if sanitize:
    flags = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
    # Python's own flags have -fwrapv, under which a signed overflow is no error.
    compile_args += [*flags, "-fno-wrapv", "-O1", "-g", "-fno-omit-frame-pointer"]
    link_args += flags

core = Extension(
    "pydlm._core",
    ["src/core/_core.pyx"],
    include_dirs=["src/core"],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
)

# No sanitizer: it would have to be in the foreign program too.
preload = Extension(
    "pydlm.o2dlm.libo2dlm_preload",
    ["src/o2dlm/preload.c"],
    extra_compile_args=[
        "-std=gnu11",
        "-O2",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        *(["-Werror"] if debug and not sanitize else []),
    ],
)


class BuildExt(build_ext):
    """Gives a plain library its plain name: it is for no particular Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the file's path below the packages."""
        if fullname.rpartition(".")[2] == "libo2dlm_preload":
            return os.path.join(*fullname.split(".")) + ".so"
        return super().get_ext_filename(fullname)


setup(
    ext_modules=[
        *cythonize(
            [core],
            include_path=["src/core"],
            build_dir=f"build/{variant}/cython",
        ),
        preload,
    ],
    cmdclass={"build_ext": BuildExt},
    options={
        "build": {"build_base": f"build/{variant}"},
        # Nothing else notices that only the variant, so only the flags, have changed.
        "build_ext": {"force": True},
    },
)
