"""Config and checkpoint to a verified file."""

import functools
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from torch import nn

from mmbiformer.inference.inferencer import (
    dataset_meta,
    image_dataset,
    load_weights,
    quiet,
)
from mmbiformer.inference.media import read_image
from mmbiformer.utils.config import build_model
from mmbiformer.utils.errors import ConfigError, DataError
from mmbiformer.utils.files import atomic_write

from .families import graph_of
from .metadata import describe
from .quantization import Loss, compare_files, quantize
from .routing import RoutingGraph, describe_routing, verify_routing
from .runtime import Session, custom_ops_library, require
from .scenes import scene, sizes_to_try
from .table import DRAWN, GREY, Row, VerificationError, format_table, unproven
from .tracing import (
    SMALLEST_SIDE,
    Sizes,
    check_torch,
    trace,
    write_onnx,
    write_pt2,
)
from .verify import stable_scene, verify


class Options(NamedTuple):
    """What is to be exported, and how.

    Attributes:
        sizes (Sizes): Sizes that the file takes.
        opset (int): Version of ONNX' standard operators.
        attention (str): Form of routed attention.
        backbone (bool): Whether to export the backbone only.
        images (list[str]): Image files to verify with, beside others.
        int8 (str, optional): ``'dynamic'`` or ``'static'`` for a file of 8
            bits, None for float32.
        calibration (list[str]): Image files that the ranges of values are
            taken from, and that a file of 8 bits is compared on.
        routing (bool): Whether the file also has the routing of each layer.
    """

    sizes: Sizes = Sizes()
    opset: int = 20
    attention: str = 'portable'
    backbone: bool = False
    images: Sequence[str] = ()
    int8: Optional[str] = None
    calibration: Sequence[str] = ()
    routing: bool = False


class Report(NamedTuple):
    """What is known of a file.

    Attributes:
        rows (list[Row]): How far it, in float32, is from PyTorch.
        loss (Loss, optional): What 8 bits lose, if so exported.
        metadata (dict): What it says of itself.
    """

    rows: List[Row]
    loss: Optional[Loss]
    metadata: Dict[str, Any]


def check_requirements(path: Path, options: Options) -> None:
    """Check that what an export needs is installed, before any work.

    Args:
        path (Path): File to write.
        options (Options): What is to be exported.

    Raises:
        ConfigError: If a package is missing, torch is too old, or options do
            not fit.
    """
    check_torch()
    if path.suffix.lower() == '.onnx':
        for name in ('onnx', 'onnxscript', 'onnxruntime'):
            require(name)
    elif options.attention != 'portable' or options.int8 or options.routing:
        raise ConfigError(
            '--attention, --int8 and --routing are for .onnx files, got '
            f'{str(path)!r}'
        )
    if options.int8 == 'static' and not options.calibration:
        raise ConfigError('--int8 static needs images: --calib FOLDER')
    if options.routing and options.attention != 'portable':
        raise ConfigError(
            'the operators of --attention ort do not return the routing: '
            '--routing needs --attention portable'
        )
    if options.attention == 'ort' and custom_ops_library() is None:
        raise ConfigError(
            "attention='ort' needs the operator for onnxruntime, which was "
            'not compiled when mmbiformer was installed; '
            "attention='portable' works without it"
        )


def check_size(cfg: Config, sizes: Sizes) -> None:
    """Check that the test pipeline makes images of a fixed size.

    Args:
        cfg (Config): Config of the model.
        sizes (Sizes): Sizes that the file is to take.

    Raises:
        ConfigError: If it does not.
    """
    if sizes.height is None or sizes.width is None:
        return
    height, width = sizes.height, sizes.width
    if min(height, width) < SMALLEST_SIDE:
        raise ConfigError(
            f'--shape must be at least {SMALLEST_SIDE}x{SMALLEST_SIDE}, got '
            f'--shape {height}x{width}'
        )
    image = np.zeros((height, width, 3), np.uint8)
    made = prepare(cfg, image).shape[1:]
    if made != (height, width):
        raise ConfigError(
            f'the test pipeline of {cfg.filename} does not make images of '
            f'--shape {height}x{width}: it resizes these to {made[0]}x'
            f'{made[1]}. Take a size that it makes, or set the pipeline by '
            '--cfg-options'
        )


def prepare(cfg: Config, image: np.ndarray) -> np.ndarray:
    """Pass an image through the test pipeline of a config.

    Args:
        cfg (Config): The config.
        image (np.ndarray): Image of shape (H, W, 3).

    Returns:
        np.ndarray: Image of shape (3, H', W').
    """
    from mmengine.registry import DefaultScope

    size = image.shape[:2]
    data = dict(
        img=image, img_id=0, img_path='', img_shape=size, ori_shape=size
    )
    steps = []
    for step in image_dataset(cfg).pipeline:
        if step.type != 'LoadImageFromFile':
            steps.append(step)
        elif cfg.default_scope != 'mmpretrain':
            # mmpretrain has no such step.
            steps.append(
                dict(step, type=f'{cfg.default_scope}.LoadImageFromNDArray')
            )
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        data = Compose(steps)(data)
    return data['inputs'].numpy()


def _batches(
    cfg: Config, options: Options, draw: Callable[..., np.ndarray] = scene
) -> List[Tuple[str, np.ndarray]]:
    """Return the images to verify with; `draw` makes those of given sizes."""
    sizes = options.sizes
    batches = []
    for seed, (batch, height, width) in enumerate(sizes_to_try(sizes)):
        batches.append((DRAWN, draw(batch, height, width, seed)))
    batch, height, width = sizes_to_try(sizes)[-1]
    batches.append((GREY, np.full((batch, 3, height, width), 114, np.uint8)))
    batches.extend(
        _prepared(cfg, path, sizes, '--verify') for path in options.images
    )
    return batches


def _prepared(
    cfg: Config, path: str, sizes: Sizes, argument: str
) -> Tuple[str, np.ndarray]:
    """Return the name of an image file, and a batch of it."""
    try:
        image = prepare(cfg, read_image(path))
    except (DataError, OSError) as error:
        raise DataError(f'{argument} {path!r} {error}') from None
    for name, side in zip(('height', 'width'), image.shape[1:], strict=True):
        if getattr(sizes, name) not in (None, side):
            raise ConfigError(
                f'{argument} {path!r} becomes {image.shape[1]}x'
                f'{image.shape[2]} px by the test pipeline, and --shape is '
                f'{sizes.height}x{sizes.width}'
            )
    return Path(path).name, np.repeat(image[None], sizes.batch or 1, 0)


def load_model(
    cfg: Config, checkpoint: Optional[str]
) -> Tuple[nn.Module, Dict[str, Any]]:
    """Build the model of a config with the weights of a checkpoint.

    Args:
        cfg (Config): The config.
        checkpoint (str, optional): The checkpoint; None leaves the weights
            that the config says.

    Returns:
        tuple[nn.Module, dict]: The model on the CPU, and classes and palette.

    Raises:
        UserError: If either is wrong, or weights are missing.
    """
    with quiet():
        model = build_model(cfg)
        meta = load_weights(model, cfg, checkpoint)
    return model.eval(), dataset_meta(cfg, meta, checkpoint or '')


def export(
    cfg: Config, checkpoint: str, path: Path, options: Options
) -> Report:
    """Export a model to a file, once it has been verified.

    Args:
        cfg (Config): Config of the model.
        checkpoint (str): Its weights.
        path (Path): The file, ``.onnx`` or ``.pt2``.
        options (Options): What is to be exported.

    Returns:
        Report: What is known of the file.

    Raises:
        UserError: If the model cannot be exported, an input is wrong, or the
            file computes something else; nothing is written then.
    """
    check_requirements(path, options)
    check_size(cfg, options.sizes)
    model, classes = load_model(cfg, checkpoint)
    with atomic_write(path) as scratch:
        rows, metadata = write_verified(
            cfg, model, classes, Path(checkpoint), scratch, options
        )
        loss = None
        if options.int8:
            images = _calibration(cfg, options)
            full = scratch.with_name(f'{scratch.stem}.float32.onnx')
            scratch.replace(full)
            try:
                quantize(full, scratch, options.int8, images)
                loss = compare_files(full, scratch, images)
            finally:
                full.unlink()
    return Report(rows, loss, metadata)


def _calibration(cfg: Config, options: Options) -> List[np.ndarray]:
    """Return the images for calibration, or those of the verification."""
    batches = _batches(cfg, options)
    if options.calibration:
        batches = [
            _prepared(cfg, path, options.sizes, '--calib')
            for path in options.calibration
        ]
    return [images for _, images in batches]


def write_verified(
    cfg: Config,
    model: nn.Module,
    classes: Dict[str, Any],
    checkpoint: Optional[Path],
    path: Path,
    options: Options,
) -> Tuple[List[Row], Dict[str, Any]]:
    """Write a model to a file, and compare it with PyTorch.

    Args:
        cfg (Config): Config of the model.
        model (nn.Module): The model, on the CPU.
        classes (dict): Classes and palette.
        checkpoint (Path, optional): File of the weights, for the metadata.
        path (Path): The file.
        options (Options): What is to be exported.

    Returns:
        tuple[list[Row], dict]: How far the file is from PyTorch, and what it
        says of itself.

    Raises:
        VerificationError: If it computes something else, or no image of the
            user can tell; the message has the table.
    """
    graph = graph_of(model, cfg, options.backbone)
    names = tuple(graph.output_names)
    metadata = describe(
        cfg, model, names, classes, options.sizes._asdict(),
        options.attention, checkpoint,
    )  # fmt: skip
    draw = functools.partial(stable_scene, model, metadata['task'])
    batches = _batches(cfg, options, draw)
    if options.routing:
        graph = RoutingGraph(graph).eval()
    program = trace(graph, options.sizes, options.attention)
    if options.routing:
        metadata['routing'] = describe_routing(model)
    if path.suffix == '.pt2':
        write_pt2(program, metadata, path)
        run = _program_runner(torch.export.load(path), names)
    else:
        write_onnx(
            program, tuple(graph.output_names), metadata, path, options.opset
        )
        run = Session(str(path))
    rows = verify(run, model, metadata['task'], batches)
    if options.routing:
        rows += verify_routing(str(path), model, metadata['task'], batches)
    if any(row.failed for row in rows):
        raise VerificationError(
            'the exported file does not compute what the model computes, and '
            f'was not kept\n{format_table(rows)}'
        )
    unproven(rows)
    return rows, metadata


def _program_runner(
    program: torch.export.ExportedProgram, names: Sequence[str]
) -> Any:
    """Return what runs a program of torch on arrays."""
    module = program.module()

    def run(images: np.ndarray) -> Dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = module(torch.from_numpy(images))
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return {
            name: one.numpy() for name, one in zip(names, outputs, strict=True)
        }

    return run
