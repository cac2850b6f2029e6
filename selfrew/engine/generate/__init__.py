"""The sampling engine: a scheduler puts requests into slots and refills them as samples end.

Import from it: Control, generate, request_keys; journal and early_stop (imported whole); for the
planner also memory_plan, programs, scheduler.
It imports: types, mesh, models.

A result depends on its request's prompt, key and options, and on the parameters. For given cache
and slot sizes it is the same to the last bit, whatever else is in the slots; across sizes it agrees
up to rounding.
"""

from selfrew.engine.generate.control import Control
from selfrew.engine.generate.requests import generate, request_keys

__all__ = ['Control', 'generate', 'request_keys']
