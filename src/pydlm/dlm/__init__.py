"""A tripwire, not a part of pydlm-locks. Keep it: `pydlm._clash` says what for."""

from pydlm._clash import refuse, refuse_other_distribution

refuse_other_distribution()
refuse("pydlm.dlm belongs to the distribution `pydlm`; what is installed is pydlm-locks.")
