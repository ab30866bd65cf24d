"""Inference on files, by the inferencers of the frameworks."""
