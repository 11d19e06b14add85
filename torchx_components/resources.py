"""Named resources: whole hosts that a job requests by `-h NAME`.

They extend those of TorchX: `aws_p4d.24xlarge` (8 A100), `aws_p5.48xlarge` (8 H100) and others of AWS, and the generic
`cpu.*` and `gpu.*`.

A host offers a job less memory than it has, because firmware, kernel and the scheduler's agents use some of it, and a
job that requests all of it waits forever. The names request 96%, as TorchX's names of AWS hosts do.
"""

from torchx.specs import Resource
from torchx.specs.named_resources_aws import EFA_DEVICE, K8S_ITYPE

GiB = int(1024 * 0.96)
"""MB to request per GiB of a host."""


def a100_8() -> Resource:
    """8 A100 (40 or 80 GB), 128 cores, 1 TiB: NVIDIA DGX A100, in its smaller configuration.

    Two AMD EPYC 7742 of 64 cores; 1 TB with GPUs of 40 GB, 2 TB with GPUs of 80 GB (DGX A100 System User Guide). Hosts
    with fewer cores, as in clouds, are requested by numbers: --cpu, --gpu and --memMB.
    """
    return Resource(cpu=128, gpu=8, memMB=1024 * GiB)


def h100_8() -> Resource:
    """8 H100 (80 GB), 112 cores, 2 TiB: NVIDIA DGX H100.

    Two Intel Xeon Platinum 8480C of 56 cores, 2 TB (DGX H100/H200 System User Guide).
    """
    return Resource(cpu=112, gpu=8, memMB=2048 * GiB)


def h200_8() -> Resource:
    """8 H200 (141 GB), 112 cores, 2 TiB: NVIDIA DGX H200.

    Two Intel Xeon Platinum 8480C of 56 cores, 2 TB (DGX H100/H200 System User Guide).
    """
    return Resource(cpu=112, gpu=8, memMB=2048 * GiB)


def aws_p5e_48xlarge() -> Resource:
    """8 H200 (141 GB) as AWS p5e.48xlarge: 192 vCPUs, 2,048 GiB, 32 network interfaces with EFA.

    From the table of accelerated computing instances in the Amazon EC2 documentation; TorchX 0.7.0 has no name for it.
    """
    return Resource(
        cpu=192, gpu=8, memMB=2048 * GiB, capabilities={K8S_ITYPE: "p5e.48xlarge"}, devices={EFA_DEVICE: 32}
    )


def aws_p5en_48xlarge() -> Resource:
    """8 H200 (141 GB) as AWS p5en.48xlarge: 192 vCPUs, 2,048 GiB, 16 network interfaces with EFA.

    From the table of accelerated computing instances in the Amazon EC2 documentation; TorchX 0.7.0 has no name for it.
    """
    return Resource(
        cpu=192, gpu=8, memMB=2048 * GiB, capabilities={K8S_ITYPE: "p5en.48xlarge"}, devices={EFA_DEVICE: 16}
    )


def cpu_16() -> Resource:
    """16 CPUs and 64 GiB, no GPU: the general-purpose size that clouds share.

    AWS m5 to m7i .4xlarge, Google Cloud n2-standard-16, Azure D16s v5. The name belongs to none of them, so it requests
    no instance type.
    """
    return Resource(cpu=16, gpu=0, memMB=64 * GiB)
