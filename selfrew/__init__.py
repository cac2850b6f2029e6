"""selfrew: language models that generate, judge and learn from their own answers, in JAX.

The map of the package is in README.md; importing this module loads nothing else.
"""

__version__ = '0.1.0'
