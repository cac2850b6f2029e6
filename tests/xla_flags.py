"""Flags with which the programs of tests are compiled: they run once or twice."""

import importlib.metadata

# Without optimisation, and with the older way to compile fusions, which is a third faster. A jaxlib
# ends at a flag that it does not know.
FAST_COMPILATION = '--xla_backend_optimization_level=0'
if importlib.metadata.version('jaxlib').startswith('0.10.'):
    FAST_COMPILATION += ' --xla_cpu_use_fusion_emitters=false'
