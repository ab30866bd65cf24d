"""Checkpoint files: loaded strictly, saved atomically, converted."""
