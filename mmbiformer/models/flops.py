"""Count parameters and FLOPs (multiply-adds), including routed attention.

The counter is mmengine's, which traces one forward pass. It supports neither
fused nor routed attention; this module adds the handles of both.
"""

from math import prod
from typing import Any, List, Mapping, NamedTuple, Sequence, Tuple

import torch
from mmengine.analysis import FlopAnalyzer
from torch import Tensor, nn

from mmbiformer.models import BiFormer


class Complexity(NamedTuple):
    """Complexity of a part of a model.

    Attributes:
        name (str): Name of the part.
        params (int): Number of parameters.
        flops (int): Number of multiply-adds, each counted once, as in the
            paper and mmengine. Normalizations are counted as in mmengine,
            other element-wise operations are not counted.
    """

    name: str
    params: int
    flops: int


def total(parts: Sequence[Complexity], name: str = 'total') -> Complexity:
    """Sum the complexity of several parts.

    Args:
        parts (Sequence[Complexity]): The parts.
        name (str): Name of the sum. Default: ``'total'``.

    Returns:
        Complexity: The sum.
    """
    return Complexity(
        name, sum(p.params for p in parts), sum(p.flops for p in parts)
    )


def _shape(value: torch.Value) -> List[int]:
    """Return the shape of a traced tensor."""
    type_: Any = value.type()
    return type_.sizes()


def _count_routed_attention(inputs: List[Any], outputs: List[Any]) -> int:
    """Count ``q @ k`` and ``weights @ v`` of mmbiformer::routed_attention."""
    n, height, width, channels = _shape(inputs[0])
    _, regions, topk = _shape(inputs[3])
    tokens = height * width
    return 2 * n * tokens * topk * (tokens // regions) * channels


def _count_fused_attention(inputs: List[Any], _: List[Any]) -> int:
    """Count ``q @ k`` and ``weights @ v`` of torch's fused attention."""
    queries, keys, values = map(_shape, inputs[:3])
    rows = prod(queries[:-1]) * keys[-2]
    return rows * (queries[-1] + values[-1])


def analyze_flops(
    model: nn.Module, inputs: Tuple[Tensor, ...]
) -> FlopAnalyzer:
    """Trace a forward pass and count its multiply-adds.

    Args:
        model (nn.Module): A model that takes and returns tensors.
        inputs (tuple[Tensor, ...]): Its inputs.

    Returns:
        FlopAnalyzer: mmengine's counter, with the results.
    """
    analyzer = FlopAnalyzer(model, inputs)
    analyzer.set_op_handle(
        'mmbiformer::routed_attention',
        _count_routed_attention,
        'aten::scaled_dot_product_attention',
        _count_fused_attention,
    )
    analyzer.unsupported_ops_warnings(False)
    analyzer.uncalled_modules_warnings(False)
    # With gradients, the trace would contain the autograd function instead.
    with torch.no_grad():
        analyzer.total()
    return analyzer


def _complexity_of(
    name: str, analyzer: FlopAnalyzer, modules: Mapping[str, nn.Module]
) -> Complexity:
    """Sum the complexity of some modules of an analyzed model."""
    params = sum(p.numel() for m in modules.values() for p in m.parameters())
    return Complexity(name, params, sum(map(analyzer.total, modules)))


def _backbone_parts(
    backbone: BiFormer, analyzer: FlopAnalyzer, prefix: str = ''
) -> List[Complexity]:
    """Return the complexity of the stages and the norms after them."""
    parts = []
    for i in range(len(backbone.stages)):
        modules = {
            f'{prefix}downsample_layers.{i}': backbone.downsample_layers[i],
            f'{prefix}stages.{i}': backbone.stages[i],
        }
        parts.append(_complexity_of(f'stage {i + 1}', analyzer, modules))
    if backbone.norm is not None:
        norm = {f'{prefix}norm': backbone.norm}
        return [*parts, _complexity_of('last norm', analyzer, norm)]
    norms = {f'{prefix}extra_norms': backbone.extra_norms}
    return [*parts, _complexity_of('output norms', analyzer, norms)]


def count_backbone(
    backbone: BiFormer, shape: Tuple[int, int]
) -> List[Complexity]:
    """Count the stages of a backbone.

    Args:
        backbone (BiFormer): The backbone.
        shape (tuple[int, int]): Height and width of the image, in pixels.

    Returns:
        list[Complexity]: The stages, each with its downsampling layer, and
        the norms of the outputs, or the last norm of a classifier.
    """
    images = torch.rand(1, backbone.in_channels, *shape)
    analyzer = analyze_flops(backbone.eval(), (images,))
    return _backbone_parts(backbone, analyzer)


def count_classifier_head(
    dim: int, shape: Tuple[int, int], num_classes: int = 1000
) -> Complexity:
    """Count the head of the authors' classification networks.

    Args:
        dim (int): Channels of the last stage.
        shape (tuple[int, int]): Height and width of the image, in pixels.
        num_classes (int): Number of classes. Default: 1000, as in ImageNet.

    Returns:
        Complexity: Batch norm, global average pooling and linear layer.
    """
    head = nn.Sequential(
        nn.BatchNorm2d(dim),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(dim, num_classes),
    ).eval()
    height, width = (-(-side // 32) for side in shape)
    analyzer = analyze_flops(head, (torch.rand(1, dim, height, width),))
    return _complexity_of('final norm and head', analyzer, {'': head})


class _TensorMode(nn.Module):
    """Wrapper that makes a whole model take only images."""

    def __init__(self, model: nn.Module, data_samples: list) -> None:
        super().__init__()
        self.model = model
        self.data_samples = data_samples

    def forward(self, images: Tensor) -> Any:
        """Run all networks of the model, without post-processing."""
        return self.model(images, self.data_samples, mode='tensor')


def count_model(
    model: nn.Module, images: Tensor, data_samples: list
) -> Tuple[List[Complexity], List[Complexity]]:
    """Count the parts of a detector, segmentor or classifier.

    Args:
        model (nn.Module): The model.
        images (Tensor): Preprocessed images of shape (N, 3, H, W).
        data_samples (list): Their N data samples.

    Returns:
        tuple[list[Complexity], list[Complexity]]: The parts of the model
        (backbone, neck, heads, …), and those of the backbone if it is a
        BiFormer, else none.
    """
    analyzer = analyze_flops(
        _TensorMode(model.eval(), data_samples), (images,)
    )
    parts = [
        _complexity_of(name, analyzer, {f'model.{name}': child})
        for name, child in model.named_children()
    ]
    parts = [part for part in parts if part.params or part.flops]
    stages = []
    if isinstance(model.backbone, BiFormer):
        stages = _backbone_parts(model.backbone, analyzer, 'model.backbone.')
    return parts, stages


def format_parts(parts: Sequence[Complexity], title: str) -> str:
    """Format parts and their sum as a table.

    Args:
        parts (Sequence[Complexity]): The parts.
        title (str): Title of the first column.

    Returns:
        str: The table, of several lines.
    """
    rows = [*parts, total(parts)]
    width = max(len(title), *(len(part.name) for part in rows))
    lines = [f'{title:{width}}  params (M)   FLOPs (G)']
    lines.append('-' * len(lines[0]))
    lines += [
        f'{part.name:{width}}{part.params / 1e6:12.2f}{part.flops / 1e9:12.2f}'
        for part in rows
    ]
    return '\n'.join(lines)
