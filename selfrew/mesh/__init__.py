"""Devices and processes: the mesh and the sharding of each axis, several processes as one, bucketed
sizes, random keys.

Import from it: sharding, processes, buckets, keys, memory, platforms; mostly
imported whole.
It imports: nothing of selfrew.
"""
