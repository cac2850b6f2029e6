"""TPU chips: what one holds and does, and the topologies that they come in, without owning one.
Layer 0.
"""

import dataclasses
import re

# Before jax is imported: compile for a TPU, look for none, leave libtpu's lock alone, and spare its
# warnings.
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5e-8',
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip: what one device is. Bytes and seconds; FLOP/s in bfloat16."""

    hbm: float  # GiB that the compiler grants a program (libtpu 0.0.51)
    peak: float  # FLOP/s
    bandwidth: float  # of HBM, bytes/s
    ici: float  # bytes/s that all its links together can receive: half of the published bidirectional figure
    clock: float  # Hz
    cores: int = 1  # TensorCores a chip, which is what v4-N and v5p-N count
    axes: int = 2  # of the torus
    options: tuple = ()

    def seconds(
        self, count: int, *, cycles: float, flops: float, touched: float, wire: float
    ) -> float:
        """Of a program on `count` chips: its slowest floor, and its collectives (`wire` bytes
        received) after that.

        The floors: kernels by the compiler's estimate, model FLOPs at peak, `touched` bytes read
          once from HBM.
        """
        floors = cycles / self.clock, flops / count / self.peak, touched / self.bandwidth
        return max(floors) + wire / self.ici


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} for peak, bandwidth and links; arXiv 2304.01433 for
# v4's links. A clock is peak / (2 · 128² · matrix units), except v6e's, which is not published:
# 1.75 GHz, the v5p's, is assumed.
CHIPS = {
    'v4': Chip(30.75, 275e12, 1.2e12, 300e9, 1.05e9, 2, 3, (('chip_config_name', 'megacore'),)),
    'v5e': Chip(15.75, 197e12, 0.819e12, 200e9, 1.5e9),
    'v5p': Chip(95.73, 459e12, 2.765e12, 600e9, 1.75e9, 2, 3),
    'v6e': Chip(31.24, 918e12, 1.638e12, 400e9, 1.75e9),
}


def topology(name: str) -> tuple[str, str]:
    """('v5p', '2x2x2') of 'v5p:2x2x2' or of the name that Google Cloud rents it by, 'v5p-16'.

    A rented name's number counts chips (v5e, v6e) or TensorCores, two a chip (v4, v5p); the shape
    is the most cubic.
    Raises ValueError, in a sentence, for any other name.
    """
    read = re.fullmatch(r'(v\d+[a-z]*?)(litepod)?(?:-(\d+)|:(\d+(?:x\d+)*))', name)
    kind = read and (read[1] + 'e' if read[2] else read[1])
    if not read or kind not in CHIPS:
        raise ValueError(
            f'no topology {name!r}; want a chip and its number or shape, such as v5e-8, v6e:4x4, v5p-16, '
            f'v5p:4x4x4; there are: {", ".join(CHIPS)}'
        )
    if read[4]:
        return kind, read[4]
    chips, left = divmod(int(read[3]), CHIPS[kind].cores)
    if left or chips < 1 or chips & (chips - 1):
        raise ValueError(
            f'{name}: {read[3]} counts {"TensorCores, two a chip" if CHIPS[kind].cores > 1 else "chips"}, '
            f'and chips come in powers of two; give the shape instead, such as {kind}:4x4'
        )
    sides = [1] * CHIPS[kind].axes
    for _ in range(chips.bit_length() - 1):
        sides[sides.index(min(sides))] *= 2
    return kind, 'x'.join(map(str, sorted(sides, reverse=min(sides) == 1)))


def devices(name: str):
    """The chip's name and the devices of a topology, without a TPU. ValueError where libtpu is
    missing or refuses.
    """
    from jax.experimental import topologies

    kind, shape = topology(name)
    try:
        options = dict(CHIPS[kind].options)
        found = topologies.get_topology_desc(
            platform='tpu', topology_name=f'{kind}:{shape}', **options
        )
    except Exception as problem:
        words = str(problem).splitlines()[0]
        hint = (
            ''
            if 'INVALID_ARGUMENT' in words
            else '; is libtpu installed (pip install -e ".[plan]")?'
        )
        raise ValueError(f'no topology {kind}:{shape}: {words}{hint}') from None
    return kind, f'{kind}:{shape}', found.devices
