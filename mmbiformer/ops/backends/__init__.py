"""Implementations of routed attention, a file each; all take the same."""
