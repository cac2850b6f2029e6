"""Devices and processes: the mesh and where each axis lies, several processes as one, few sizes of
arrays, keys.

Import from it: sharding, processes, buckets, keys, each imported whole.
It imports: nothing of selfrew.
"""
