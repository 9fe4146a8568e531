"""The host stack, between two processes, beside what the standard library has for that."""

from __future__ import annotations

from pydlm.cli.bench.host.alone import host_alone
from pydlm.cli.bench.host.handover import host_handover
from pydlm.cli.bench.host.notice import host_notice
from pydlm.cli.bench.host.scale import host_scale

__all__ = ["host_alone", "host_handover", "host_notice", "host_scale"]
