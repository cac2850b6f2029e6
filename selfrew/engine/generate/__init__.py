"""The sampling engine: slots that are filled again as samples end. Layer 2.

A request's tokens depend on its prompt, its key and the parameters alone, never on its batch mates.
"""

from selfrew.engine.generate.requests import generate, request_keys
from selfrew.engine.generate.values import values

__all__ = ['generate', 'request_keys', 'values']
