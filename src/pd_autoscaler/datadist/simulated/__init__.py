"""A stand-in for the native library: the same surface and semantics over loopback TCP.

It exists for the embedded cluster and for tests. The contract suite runs on it and, where the
real package can be imported, on that; what the real one adds (HCCL, RDMA, memory) is not here.
"""

from pd_autoscaler.datadist.simulated.caches import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    SimulatedCacheManager,
)
from pd_autoscaler.datadist.simulated.faults import Faults
from pd_autoscaler.datadist.simulated.library import SimulatedDataDist
from pd_autoscaler.datadist.simulated.process import SimulatedProcess
from pd_autoscaler.datadist.simulated.timing import LinkTiming

__all__ = [
    "BlocksCacheKey",
    "Cache",
    "CacheDesc",
    "Faults",
    "LinkTiming",
    "SimulatedCacheManager",
    "SimulatedDataDist",
    "SimulatedProcess",
]
