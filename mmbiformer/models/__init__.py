"""The backbone and its attention layers."""

from .attention import (
    BiLevelRoutingAttention,
    ConvolutionLayer,
    GlobalAttention,
)
from .biformer import BiFormer
from .layer_decay import LayerDecayOptimWrapperConstructor

__all__ = [
    'BiFormer',
    'BiLevelRoutingAttention',
    'ConvolutionLayer',
    'GlobalAttention',
    'LayerDecayOptimWrapperConstructor',
]
