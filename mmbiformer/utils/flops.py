"""Parameters and multiply-adds, routed attention included.

The counter is mmengine's, which follows one forward pass. It knows neither
fused nor routed attention; the two handles here add them.
"""

from math import prod
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import torch
from mmengine.analysis import FlopAnalyzer
from torch import Tensor, nn

from mmbiformer.models import BiFormer


class Part(NamedTuple):
    """A part of a model.

    Attributes:
        name (str): What it is.
        params (int): Its parameters.
        flops (int): Its multiply-adds, each counted once, as the paper and
            mmengine do. Normalizations count as mmengine counts them, other
            element-wise operations not at all.
    """

    name: str
    params: int
    flops: int


def total(parts: Sequence[Part], name: str = 'total') -> Part:
    """Add parts up.

    Args:
        parts (Sequence[Part]): The parts.
        name (str): Name of their sum. Default: ``'total'``.

    Returns:
        Part: Their sum.
    """
    return Part(
        name, sum(p.params for p in parts), sum(p.flops for p in parts)
    )


def _shape(value: torch.Value) -> List[int]:
    """Return the shape of a tensor in a trace."""
    return value.type().sizes()


def _count_routed_attention(inputs: List[Any], _: List[Any]) -> int:
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
    """Follow a forward pass and count its multiply-adds.

    Args:
        model (nn.Module): Takes and returns tensors.
        inputs (tuple[Tensor, ...]): What it takes.

    Returns:
        FlopAnalyzer: mmengine's counter, after the count.
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
    # Else routed attention would be traced as its autograd function.
    with torch.no_grad():
        analyzer.total()
    return analyzer


def _part(
    name: str, analyzer: FlopAnalyzer, modules: Dict[str, nn.Module]
) -> Part:
    """Take some modules of an analyzed model together."""
    params = sum(p.numel() for m in modules.values() for p in m.parameters())
    return Part(name, params, sum(map(analyzer.total, modules)))


def _backbone_parts(
    backbone: BiFormer, analyzer: FlopAnalyzer, prefix: str = ''
) -> List[Part]:
    """Return the stages of a BiFormer, and the norms of its outputs."""
    parts = []
    for i in range(len(backbone.stages)):
        modules = {
            f'{prefix}downsample_layers.{i}': backbone.downsample_layers[i],
            f'{prefix}stages.{i}': backbone.stages[i],
        }
        parts.append(_part(f'stage {i + 1}', analyzer, modules))
    norms = {f'{prefix}extra_norms': backbone.extra_norms}
    return [*parts, _part('output norms', analyzer, norms)]


def count_backbone(backbone: BiFormer, shape: Tuple[int, int]) -> List[Part]:
    """Count a backbone for dense prediction, stage by stage.

    Args:
        backbone (BiFormer): The backbone.
        shape (tuple[int, int]): Height and width of the image, in pixels.

    Returns:
        list[Part]: The stages, each with the convolutions before it, and the
        norms of the outputs.
    """
    analyzer = analyze_flops(backbone.eval(), (torch.rand(1, 3, *shape),))
    return _backbone_parts(backbone, analyzer)


def count_classifier_head(
    dim: int, shape: Tuple[int, int], num_classes: int = 1000
) -> Part:
    """Count what the authors' classification networks have on top.

    Args:
        dim (int): Channels of the last stage.
        shape (tuple[int, int]): Height and width of the image, in pixels.
        num_classes (int): Default: 1000, as in ImageNet.

    Returns:
        Part: A batch norm, the mean over the map, and a linear layer.
    """
    head = nn.Sequential(
        nn.BatchNorm2d(dim),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(dim, num_classes),
    ).eval()
    height, width = (-(-side // 32) for side in shape)
    analyzer = analyze_flops(head, (torch.rand(1, dim, height, width),))
    return _part('final norm and head', analyzer, {'': head})


class _TensorMode(nn.Module):
    """A detector or segmentor as a module that takes images alone."""

    def __init__(self, model: nn.Module, data_samples: list) -> None:
        super().__init__()
        self.model = model
        self.data_samples = data_samples

    def forward(self, images: Tensor) -> Any:
        """Run every network of the model, without post-processing."""
        return self.model(images, self.data_samples, mode='tensor')


def count_model(
    model: nn.Module, images: Tensor, data_samples: list
) -> Tuple[List[Part], List[Part]]:
    """Count a detector or segmentor.

    Args:
        model (nn.Module): The model.
        images (Tensor): Prepared images of shape (N, 3, H, W).
        data_samples (list): Their N data samples.

    Returns:
        tuple[list[Part], list[Part]]: The parts of the model (backbone, neck,
        heads, …), and those of the backbone if it is a BiFormer, else none.
    """
    analyzer = analyze_flops(
        _TensorMode(model.eval(), data_samples), (images,)
    )
    parts = [
        _part(name, analyzer, {f'model.{name}': child})
        for name, child in model.named_children()
    ]
    parts = [part for part in parts if part.params or part.flops]
    stages = []
    if isinstance(model.backbone, BiFormer):
        stages = _backbone_parts(model.backbone, analyzer, 'model.backbone.')
    return parts, stages


def format_parts(parts: Sequence[Part], title: str) -> str:
    """Write parts and their sum as a table.

    Args:
        parts (Sequence[Part]): The parts.
        title (str): Title of the first column.

    Returns:
        str: Lines of text.
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
