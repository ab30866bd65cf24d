"""Inference on files, by the inferencers of mmdet and mmseg."""
