"""What a run is made of: config entries bound to functions, turns, stages on disk, checkpoints,
what is logged and shown.

Import from it: binding, turns, stage, checkpoint, metrics_log, turn_stats, console, report.
It imports: types, mesh, models, tasks, engine, shelves.
"""
