"""Exported files, opened by onnxruntime or OpenVINO."""

import importlib
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from mmbiformer.utils.arguments import RUNTIMES
from mmbiformer.utils.errors import CheckpointError, ConfigError
from mmbiformer.utils.files import check_checkpoint

from .metadata import KEY, parse

SUFFIXES = ('.onnx',)
"""tuple[str]: Files that the runtimes read."""
INPUT = 'images'
"""str: Name of the input of each file."""


def require(name: str) -> Any:
    """Import a package of the extra ``deploy``.

    Args:
        name (str): Its name.

    Returns:
        ModuleType: The package.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise ConfigError(
            f'{name} is needed, and {missing} is not installed: pip install '
            '"mmbiformer[deploy]"'
            + (' openvino' if name == 'openvino' else '')
        ) from None


def custom_ops_library() -> Optional[Path]:
    """Return the library of our operators for onnxruntime, if it was built."""
    try:
        module = importlib.import_module('mmbiformer.ops.backends.ort')
    except ImportError:
        return None
    return module.library_path()


class Session:
    """A file that is ready to run.

    Args:
        path (str): The file.
        runtime (str, optional): ``'onnxruntime'`` or ``'openvino'``.
            Default: None, which means the first.
        threads (int, optional): Threads of the CPU. Default: None, which
            leaves them to the runtime.

    Attributes:
        metadata (dict): See :func:`mmbiformer.deployment.metadata.describe`.
        output_names (list[str]): Names of the outputs.

    Raises:
        UserError: If the file is not there, is not ours, or the runtime is
            missing or does not read it.
    """

    def __init__(
        self,
        path: str,
        runtime: Optional[str] = None,
        threads: Optional[int] = None,
    ) -> None:
        runtime = runtime or RUNTIMES[0]
        if runtime not in RUNTIMES:
            raise ConfigError(
                f'runtime must be one of {RUNTIMES}, got runtime={runtime!r}'
            )
        check_checkpoint(path, 'model')
        if not path.lower().endswith(SUFFIXES):
            raise ConfigError(
                f'model={path!r} cannot be opened by {runtime}, which reads '
                f'{" and ".join(SUFFIXES)}; .pt2 files are for torch.export.'
                'load, which can run code that they hold'
            )
        self.path, self.runtime = path, runtime
        if runtime == 'onnxruntime':
            self._open_onnxruntime(threads)
        else:
            self._open_openvino(threads)
        self.output_names: List[str] = self.metadata['outputs']

    def _open_onnxruntime(self, threads: Optional[int]) -> None:
        """Open the file by onnxruntime."""
        ort = require('onnxruntime')
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        library = custom_ops_library()
        if library is not None:
            options.register_custom_ops_library(str(library))
        try:
            session = ort.InferenceSession(
                self.path, options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # onnxruntime raises many types.
            if 'RoutedAttention' in str(error):
                raise ConfigError(
                    f'model={self.path!r} was exported with --attention ort, '
                    'whose operator was not compiled when mmbiformer was '
                    'installed; export it with --attention portable'
                ) from None
            raise CheckpointError(
                f'model={self.path!r} cannot be opened by onnxruntime: '
                f'{str(error).splitlines()[0]}'
            ) from None
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        self.metadata: Dict[str, Any] = parse(text, self.path)
        self._run = lambda images: session.run(
            self.output_names, {INPUT: images}
        )

    def _open_openvino(self, threads: Optional[int]) -> None:
        """Open the file by OpenVINO, with the precision of float32."""
        openvino = require('openvino')
        self.metadata = parse(read_metadata(self.path), self.path)
        if self.metadata['attention'] != 'portable':
            raise ConfigError(
                f'model={self.path!r} was exported with --attention '
                f'{self.metadata["attention"]}, which OpenVINO does not '
                'know; export it with --attention portable'
            )
        options: Dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'f32'}
        if threads:
            options['INFERENCE_NUM_THREADS'] = threads
        try:
            compiled = openvino.Core().compile_model(self.path, 'CPU', options)
        except Exception as error:  # OpenVINO raises RuntimeError.
            raise CheckpointError(
                f'model={self.path!r} cannot be opened by OpenVINO: '
                f'{str(error).strip().splitlines()[-1]}'
            ) from None

        def run(images: np.ndarray) -> List[np.ndarray]:
            outputs = compiled({INPUT: images})
            return [outputs[name] for name in self.output_names]

        self._run = run

    def check_size(self, shape: tuple) -> None:
        """Check that the file takes images of a shape.

        Args:
            shape (tuple): Shape (N, C, H, W).

        Raises:
            ConfigError: If it was exported for another one.
        """
        taken = self.metadata['input']
        for name, index in (('height', 2), ('width', 3), ('batch', 0)):
            if taken[name] is not None and taken[name] != shape[index]:
                fixed = {
                    key: taken[key] for key in ('batch', 'height', 'width')
                }
                raise ConfigError(
                    f'model={self.path!r} was exported for {fixed}, where '
                    f'None is any; got {name}={shape[index]}. Export it '
                    'without --shape and --batch for all sizes'
                )

    def __call__(self, images: np.ndarray) -> Dict[str, np.ndarray]:
        """Run the file.

        Args:
            images (np.ndarray): Images of shape (N, C, H, W), from 0 to 255,
                in the order of colours BGR.

        Returns:
            dict[str, np.ndarray]: The outputs by name.

        Raises:
            ConfigError: If it was exported for images of another size.
        """
        self.check_size(images.shape)
        images = np.ascontiguousarray(images, dtype=np.float32)
        return dict(zip(self.output_names, self._run(images), strict=True))


def read_metadata(path: str) -> Optional[str]:
    """Return what stands under :data:`KEY` in an ONNX file.

    Args:
        path (str): The file.

    Returns:
        str, optional: The text, None if there is none.

    Raises:
        CheckpointError: If the file is not an ONNX file.
    """
    onnx = require('onnx')
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf raises types of its own.
        raise CheckpointError(
            f'model={path!r} is not an ONNX file, or is damaged'
        ) from None
    return {one.key: one.value for one in model.metadata_props}.get(KEY)
