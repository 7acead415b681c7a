"""Experiments, the protocol, statistics, measures and the store."""
