"""The sampling engine: a scheduler puts requests into slots and refills them as samples end.

Import from it: generate, request_keys, values; journal (imported whole); for the planner also
memory_plan, programs, scheduler.
It imports: types, mesh, models.

A request's tokens depend on its prompt, its key and the parameters only, never on other requests.
"""

from selfrew.engine.generate.requests import generate, request_keys
from selfrew.engine.generate.values import values

__all__ = ['generate', 'request_keys', 'values']
