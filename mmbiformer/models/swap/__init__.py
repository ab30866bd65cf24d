"""Replacing the backbone of any config by BiFormer."""

from .render import render_config
from .settings import Swap, swap_backbone
from .trial import random_batch, try_swap

__all__ = [
    'Swap',
    'random_batch',
    'render_config',
    'swap_backbone',
    'try_swap',
]
