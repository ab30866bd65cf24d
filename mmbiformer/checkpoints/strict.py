"""mmengine's loaders made strict, inside a block or for the whole process."""

import threading
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Callable, Iterator

from mmengine.infer import BaseInferencer
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmbiformer.utils.errors import ConfigError

from .classifiers import weights_of_authors
from .io import MMENGINE_FUNCTIONS, load_checkpoint, replaced
from .weights import load_all_weights

_lock = threading.Lock()
_blocks = 0
_replacements = ExitStack()


def _load_checkpoint(
    cls: type, filename: str, map_location: Any = None, logger: str = 'current'
) -> Any:
    """Load a checkpoint strictly; replaces mmengine's method."""
    print_log(f'Loads checkpoint strictly from: {filename}', logger=logger)
    return load_checkpoint(filename, map_location)


def _with_whole_classifiers(load: Callable) -> Callable:
    """Wrap mmengine's function that loads weights into a whole model.

    It only warns of what does not fit. The weights of a classifier of the
    authors' code are for all of a model.
    """

    @wraps(load)
    def wrapper(
        model: nn.Module, filename: str, *args: Any, **kwargs: Any
    ) -> Any:
        checkpoint = load(model, filename, *args, **kwargs)
        if hasattr(model, 'backbone') and weights_of_authors(checkpoint):
            load_all_weights(model, checkpoint, filename)
        return checkpoint

    return wrapper


def _with_config_only(init_model: Callable) -> Callable:
    """Wrap mmengine's method that builds the model of an inferencer."""

    @wraps(init_model)
    def wrapper(
        self: BaseInferencer, cfg: Any, weights: Any, *args: Any, **kwargs: Any
    ) -> nn.Module:
        if not cfg:
            raise ConfigError(
                f'weights={weights!r} without a model: the config would be '
                'taken out of the checkpoint, and configs are code. Name the '
                'config, too: model=CONFIG'
            )
        return init_model(self, cfg, weights, *args, **kwargs)

    return wrapper


def install() -> None:
    """Make every load of mmengine strict until :func:`remove` is called.

    Files, URLs, model zoos and stores are read as by
    :func:`mmbiformer.checkpoints.io.load_checkpoint`. The authors' ImageNet
    files must fit a classifier whole. Inferencers do not take a config, which
    is code, out of a checkpoint.
    """
    global _blocks
    with _lock:
        _blocks += 1
        if _blocks > 1:
            return
        enter = _replacements.enter_context
        method = classmethod(_load_checkpoint)
        enter(replaced(CheckpointLoader, 'load_checkpoint', method))
        function = _with_whole_classifiers(mmengine_checkpoint.load_checkpoint)
        enter(replaced(mmengine_checkpoint, 'load_checkpoint', function))
        function = _with_config_only(BaseInferencer._init_model)
        enter(replaced(BaseInferencer, '_init_model', function))
        for name, function in MMENGINE_FUNCTIONS.items():
            enter(replaced(mmengine_checkpoint, name, function))


def remove() -> None:
    """Undo one :func:`install`; the last one restores mmengine's loaders."""
    global _blocks
    with _lock:
        _blocks -= 1
        if not _blocks:
            _replacements.close()


@contextmanager
def strict_loading() -> Iterator[None]:
    """Make every load of mmengine strict inside a block; see :func:`install`.

    Example:
        >>> with strict_loading():
        ...     runner.train()
    """
    install()
    try:
        yield
    finally:
        remove()
