"""Specifications of GPU hosts by their manufacturer, as input of the planner.

Sources: the data sheets and user guides of NVIDIA DGX A100 (80 GB), DGX H100 and DGX H200. Bandwidths are peaks in one
direction, since an all-to-all sends and receives at once: half of what the data sheets give for NVLink and PCIe, which
count both. Gigabytes are 10^9 bytes. Measured bandwidths are below peaks, so predicted times are lower bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchrec.distributed.planner import Topology

GB = 10**9
GPUS = 8
"""GPUs of each of these hosts."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """One kind of host. Capacities in bytes, bandwidths in bytes per second."""

    name: str
    hbm: int
    """HBM of one GPU."""
    hbm_bandwidth: float
    ddr: int
    """Memory of the host."""
    nvlink: float
    """Bandwidth from one GPU to the others of its host."""
    network: float
    """Bandwidth from one GPU to other hosts: one network adapter per GPU."""
    pcie: float
    """Bandwidth between one GPU and the host's memory."""

    def topology(self, hosts: int, gpus: int, *, ddr_share: float) -> Topology:
        """TorchRec's topology of `hosts` hosts; its bandwidths are in bytes per millisecond.

        Args:
            gpus: GPUs per host.
            ddr_share: fraction of the host's memory for tables, divided among its GPUs.
        """
        return Topology(
            world_size=hosts * gpus,
            local_world_size=gpus,
            compute_device="cuda",
            hbm_cap=self.hbm,
            ddr_cap=int(self.ddr * ddr_share / gpus),
            hbm_mem_bw=self.hbm_bandwidth / 1_000,
            hbm_to_ddr_mem_bw=self.pcie / 1_000,
            intra_host_bw=self.nvlink / 1_000,
            inter_host_bw=self.network / 1_000,
        )


HOSTS = {
    host.name: host
    for host in (
        # NVLink 3: 600 GB/s both ways; 8 adapters of 200 Gb/s; PCIe 4 x16; 2 TB of memory
        Host(
            name="a100",
            hbm=80 * GB,
            hbm_bandwidth=2_039 * GB,
            ddr=2_000 * GB,
            nvlink=300 * GB,
            network=25 * GB,
            pcie=32 * GB,
        ),
        # NVLink 4: 900 GB/s both ways; 8 adapters of 400 Gb/s; PCIe 5 x16; 2 TB of memory
        Host(
            name="h100",
            hbm=80 * GB,
            hbm_bandwidth=3_350 * GB,
            ddr=2_000 * GB,
            nvlink=450 * GB,
            network=50 * GB,
            pcie=64 * GB,
        ),
        Host(
            name="h200",
            hbm=141 * GB,
            hbm_bandwidth=4_800 * GB,
            ddr=2_000 * GB,
            nvlink=450 * GB,
            network=50 * GB,
            pcie=64 * GB,
        ),
    )
}
