"""What pydlm is tested with: recordings of the kernel's lock manager, and a model of it.

`pydlm.testing.model` is the oracle, ``python -m pydlm.testing replay`` plays recordings of
fs/dlm on any stack and compares everything that comes back. `pydlm.testing.conformance` checks
what every stack owes to the programs on it.
"""
