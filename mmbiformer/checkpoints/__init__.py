"""Checkpoint files: loaded safely, downloaded, converted, written whole."""
