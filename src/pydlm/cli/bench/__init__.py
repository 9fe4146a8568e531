"""`pydlm bench`: latencies, always with a peer measured in the same run."""

from pydlm.cli.bench.command import bench

__all__ = ["bench"]
