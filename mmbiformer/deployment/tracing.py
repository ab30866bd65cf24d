"""From a model to a file: trace, translate and write it."""

import contextlib
import inspect
import json
import logging
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

import torch
import torch.fx.experimental._config as symbolic_config
from torch import nn

from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.text import describe_briefly

from .metadata import KEY
from .operators import translations
from .rewrites import ATTENTIONS, exportable
from .runtime import INPUT, require

OPSETS = range(18, 24)
"""range: Versions of ONNX' standard operators that can be asked for."""
DEFAULT_OPSET = 20
"""int: The one that most runtimes read."""
SMALLEST_SIDE = 33
"""int: Sides of images above one stride of the last map, which has then more
than one cell: torch takes a side of 1 for a constant."""
LARGEST_SIDE = 8192
"""int: Bound on the sides, which torch wants to have."""


class Sizes(NamedTuple):
    """Sizes that a file takes; None is any.

    Attributes:
        batch (int, optional): Images.
        height (int, optional): Their height, in pixels.
        width (int, optional): Their width.
    """

    batch: Optional[int] = None
    height: Optional[int] = None
    width: Optional[int] = None

    @property
    def example(self) -> Tuple[int, int, int]:
        """tuple[int, int, int]: Sizes that all of it allows."""
        return self.batch or 2, self.height or 260, self.width or 300


def check_torch() -> None:
    """Check that torch can export models.

    Raises:
        ConfigError: If it is too old, such as 2.6.
    """
    arguments = inspect.signature(torch.export.export).parameters
    if not hasattr(symbolic_config, 'backed_size_oblivious') or (
        'prefer_deferred_runtime_asserts_over_guards' not in arguments
    ):
        raise ConfigError(
            f'torch {torch.__version__} is too old to export models; exported '
            'with 2.13.0 and 2.14.1, they were verified'
        )


def trace(
    graph: nn.Module, sizes: Sizes, attention: str = 'portable'
) -> torch.export.ExportedProgram:
    """Follow a model through one run.

    Args:
        graph (nn.Module): Function from images to tensors, such as
            :class:`mmbiformer.deployment.graphs.SegmentorGraph`.
        sizes (Sizes): Sizes that the program is to take.
        attention (str): Form of routed attention. Default: ``'portable'``.

    Returns:
        ExportedProgram: The program.

    Raises:
        ConfigError: If the model does what torch cannot follow.
    """
    if attention not in ATTENTIONS:
        raise ConfigError(
            f'attention must be one of {ATTENTIONS}, got '
            f'attention={attention!r}'
        )
    dims = {}
    if sizes.batch is None:
        dims[0] = torch.export.Dim('batch', min=1, max=1024)
    for index, name in ((2, 'height'), (3, 'width')):
        if getattr(sizes, name) is None:
            dims[index] = torch.export.Dim(
                name, min=SMALLEST_SIDE, max=LARGEST_SIDE
            )
    batch, height, width = sizes.example
    images = torch.rand(batch, 3, height, width) * 255
    try:
        with (
            exportable(attention),
            torch.no_grad(),
            symbolic_config.patch(backed_size_oblivious=True),
            _quiet(),
        ):
            return torch.export.export(
                graph.eval(),
                (images,),
                dynamic_shapes=(dims,),
                strict=False,
                # A guard would make a constant of what the example has.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # torch raises many types.
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f'torch.export cannot follow {type(graph).__name__} of this '
            f'model: {describe_briefly(error)}'
        ) from error


def write_onnx(
    program: torch.export.ExportedProgram,
    output_names: Tuple[str, ...],
    metadata: Dict[str, Any],
    path: Path,
    opset: int = DEFAULT_OPSET,
) -> None:
    """Write a program as an ONNX file.

    Args:
        program (ExportedProgram): The program.
        output_names (tuple[str]): Names of its outputs.
        metadata (dict): What the file says of itself.
        path (Path): The file.
        opset (int): Version of ONNX' standard operators. Default: 20.

    Raises:
        ConfigError: If ONNX has no operators for it.
    """
    require('onnx')
    require('onnxscript')
    try:
        with _quiet():
            written = torch.onnx.export(
                program,
                input_names=[INPUT],
                output_names=list(output_names),
                opset_version=opset,
                dynamo=True,
                verbose=False,
                custom_translation_table=translations(opset),
            )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ConfigError(
            'torch.onnx cannot translate this model: '
            f'{describe_briefly(cause)}'
        ) from error
    written.model.metadata_props[KEY] = json.dumps(metadata)
    written.model.producer_name = 'mmbiformer'
    written.save(str(path))


def write_pt2(
    program: torch.export.ExportedProgram, metadata: Dict[str, Any], path: Path
) -> None:
    """Write a program as an archive of ``torch.export``.

    Args:
        program (ExportedProgram): The program.
        metadata (dict): What the file says of itself.
        path (Path): The file.
    """
    extra = {f'{KEY}.json': json.dumps(metadata)}
    with _quiet():
        torch.export.save(program, path, extra_files=extra)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch and onnxscript tell of their own work."""
    names = ('torch.onnx', 'torch.export', 'onnxscript', 'onnx_ir')
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
