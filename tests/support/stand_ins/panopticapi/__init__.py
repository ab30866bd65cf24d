"""What mmdet takes from panopticapi, where that is not installed.

It has no release on PyPI. Its file format and its measure are those of
https://arxiv.org/abs/1801.00868.
"""
