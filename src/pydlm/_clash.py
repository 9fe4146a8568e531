"""The other `pydlm`: a distribution of time-series models that has the same import name.

Both write site-packages/pydlm, and pip lets them. What is left is a mixture, and `import pydlm`
runs the `__init__.py` of whichever came last:

* ours: it calls `refuse_other_distribution`, which looks for a file that only they have;
* theirs: it begins with `from pydlm.dlm import dlm`. Of `dlm.py` (theirs) and `dlm/` (ours) in
  one folder Python takes the folder, and `pydlm/dlm/__init__.py` refuses.

Removing only one of the two takes `pydlm/__init__.py` away from the other. So the advice is to
remove both.
"""

from __future__ import annotations

from os.path import dirname, exists, join
from typing import NoReturn

_ADVICE = """\
{what}
There are two distributions with the import name pydlm: `pydlm-locks` (the lock manager) and
`pydlm` (time-series models). They overwrite each other's files and cannot share an environment.
To get the lock manager:  pip uninstall -y pydlm pydlm-locks && pip install pydlm-locks"""


def refuse_other_distribution() -> None:
    """Raise ImportError if files of the other distribution are mixed with ours."""
    here = dirname(__file__)
    if exists(join(here, "dlm.py")):
        refuse(f"The distribution `pydlm` is installed in the same place as pydlm-locks, {here}.")


def refuse(what: str) -> NoReturn:
    """Raise ImportError with `what` is wrong and how to mend it."""
    raise ImportError(_ADVICE.format(what=what), name="pydlm")
