"""From image files to predictions on disk."""
