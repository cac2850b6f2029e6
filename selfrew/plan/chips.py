"""TPU chips and the topologies they come in: capacities, speeds and, without a TPU, the devices."""

import dataclasses
import re

# Set before jax is imported: compile for a TPU without looking for one, ignore libtpu's lock, and
# silence its warnings.
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5e-8',
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip, which is one jax device. Bytes and seconds; FLOP/s in bfloat16."""

    hbm_gib: float  # what the compiler grants a program (libtpu 0.0.51)
    peak: float  # FLOP/s
    bandwidth: float  # of HBM, bytes/s
    ici: float  # bytes/s received over all links: half of the published bidirectional figure
    clock: float  # Hz
    cores: int = 1  # TensorCores of a chip: v4-N and v5p-N count these
    axes: int = 2  # of the torus
    options: tuple = ()

    def kernel_seconds(self, flops: float, touched: float) -> float:
        """The least time of Pallas kernels, which the compiler has no estimate for: of their FLOPs
        at peak, or of the bytes that they read and write, on one chip.
        """
        return max(flops / self.peak, touched / self.bandwidth)

    def bound(self, count: int, *, flops: float, touched: float) -> tuple[float, str]:
        """(The least time of a program on `count` chips, what sets it: 'FLOPs' or 'HBM').

        flops: of all chips together. touched: bytes that a chip must read and write.
        """
        computing, reading = flops / count / self.peak, touched / self.bandwidth
        return max((computing, 'FLOPs'), (reading, 'HBM'))

    def seconds(
        self, count: int, *, kernels: float, flops: float, touched: float, wire: float
    ) -> float:
        """The time of a program on `count` chips: its slowest floor, then its collectives.

        The floors: `kernels`, the estimated seconds of all that it computes, its model FLOPs (all
        chips together) at peak, and `touched` bytes a chip read once from HBM. The collectives
        receive `wire` bytes a chip.
        """
        floors = kernels, flops / count / self.peak, touched / self.bandwidth
        return max(floors) + wire / self.ici


# Peak, bandwidth and links: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; v4's links: arXiv
# 2304.01433. A clock is peak / (2 · 128² · matrix units). v6e's clock is not published; 1.75 GHz,
# the v5p's, is assumed.
CHIPS = {
    'v4': Chip(30.75, 275e12, 1.2e12, 300e9, 1.05e9, 2, 3, (('chip_config_name', 'megacore'),)),
    'v5e': Chip(15.75, 197e12, 0.819e12, 200e9, 1.5e9),
    'v5p': Chip(95.73, 459e12, 2.765e12, 600e9, 1.75e9, 2, 3),
    'v6e': Chip(31.24, 918e12, 1.638e12, 400e9, 1.75e9),
}


def topology(name: str) -> tuple[str, str]:
    """The chip and shape of a topology: ('v5p', '2x2x2') for 'v5p:2x2x2' or 'v5p-16'.

    'v5p-16' is the name Google Cloud rents it by. Its number counts chips (v5e, v6e) or
    TensorCores, two a chip (v4, v5p); the shape is the most cubic one. Raises ValueError for any
    other name.
    """
    parsed = re.fullmatch(r'(v\d+[a-z]*?)(litepod)?(?:-(\d+)|:(\d+(?:x\d+)*))', name)
    kind = parsed and (parsed[1] + 'e' if parsed[2] else parsed[1])
    if not parsed or kind not in CHIPS:
        raise ValueError(
            f'no topology {name!r}; want a chip and its number or shape, such as v5e-8, v6e:4x4, '
            f'v5p-16, v5p:4x4x4; there are: {", ".join(CHIPS)}'
        )
    if parsed[4]:
        return kind, parsed[4]
    chip = CHIPS[kind]
    count, remainder = divmod(int(parsed[3]), chip.cores)
    if remainder or count < 1 or count & (count - 1):
        unit = 'TensorCores, two a chip' if chip.cores > 1 else 'chips'
        raise ValueError(
            f'no topology {name!r}: {parsed[3]} counts {unit}, and the number of chips must be a '
            f'power of two; give the shape instead, such as {kind}:4x4'
        )
    sides = [1] * chip.axes
    for _ in range(count.bit_length() - 1):
        sides[sides.index(min(sides))] *= 2
    return kind, 'x'.join(map(str, sorted(sides, reverse=min(sides) == 1)))


def devices(name: str):
    """(chip, topology, devices) of a topology, such as ('v5p', 'v5p:2x2x2', [...]).

    Raises ValueError where the name is unknown, or libtpu is missing or refuses it.
    """
    from jax.experimental import topologies  # noqa: PLC0415 - jax reads ENVIRONMENT on import

    kind, shape = topology(name)
    try:
        description = topologies.get_topology_desc(
            platform='tpu', topology_name=f'{kind}:{shape}', **dict(CHIPS[kind].options)
        )
    except Exception as problem:
        reason = str(problem).splitlines()[0]
        is_name_refused = 'INVALID_ARGUMENT' in reason
        hint = '' if is_name_refused else '; is libtpu installed (pip install -e ".[plan]")?'
        raise ValueError(f'no topology {kind}:{shape}: {reason}{hint}') from None
    return kind, f'{kind}:{shape}', description.devices
