"""The backbone and its attention layers."""

from .attention import (
    BiLevelRoutingAttention,
    ConvolutionLayer,
    GlobalAttention,
)
from .biformer import BiFormer

__all__ = [
    'BiFormer',
    'BiLevelRoutingAttention',
    'ConvolutionLayer',
    'GlobalAttention',
]
