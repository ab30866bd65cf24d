"""The backbone, its attention layers, and the layers for other networks."""

from .attention import BiLevelRoutingAttention, GlobalAttention
from .biformer import BiFormer
from .plugin import BRANeck, BRAPlugin

__all__ = [
    'BRANeck',
    'BRAPlugin',
    'BiFormer',
    'BiLevelRoutingAttention',
    'GlobalAttention',
]
