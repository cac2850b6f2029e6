"""The sampling engine: prefill and decode in one program. Layer 2.

A request's tokens depend on its prompt, its key and the parameters alone, never on its batch mates.
"""

from selfrew.generate.engine import generate, request_keys, values

__all__ = ['generate', 'request_keys', 'values']
