"""The backbone, its attention layers, layers for other networks, a loss."""

from .attention import (
    BiLevelRoutingAttention,
    ConvolutionLayer,
    GlobalAttention,
)
from .biformer import BiFormer
from .layer_decay import LayerDecayOptimWrapperConstructor
from .losses import WeightedCrossEntropyLoss
from .plugin import BRANeck, BRAPlugin

__all__ = [
    'BRANeck',
    'BRAPlugin',
    'BiFormer',
    'BiLevelRoutingAttention',
    'ConvolutionLayer',
    'GlobalAttention',
    'LayerDecayOptimWrapperConstructor',
    'WeightedCrossEntropyLoss',
]
