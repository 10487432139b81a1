"""Faults of TVM 0.27 that we work around: what is wrong, the evidence, when to delete."""
