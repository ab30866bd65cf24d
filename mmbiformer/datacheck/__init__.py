"""Data checks, before and during training."""
