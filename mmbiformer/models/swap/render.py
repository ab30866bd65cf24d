"""Configs as text, and pure-python configs as plain ones."""

import inspect
from copy import deepcopy
from typing import Any

from mmengine.config import Config


def render_config(cfg: Config, base: str, settings: dict) -> str:
    """Return the text of a config file with some settings replaced.

    It inherits from the original file, but where that is a pure-python
    config: other configs cannot, and the text is the whole config.

    Args:
        cfg (Config): The original config.
        base (str): Its file, or its name as ``mmdet::FOLDER/FILE.py``.
        settings (dict): Settings that replace those of ``cfg``.

    Returns:
        str: The text.
    """
    if _is_pure_python(cfg):
        return merge_settings(cfg, settings).pretty_text
    return f'_base_ = {base!r}\n\n{Config(settings).pretty_text}'


def merge_settings(cfg: Config, settings: dict) -> Config:
    """Return a config with some settings replaced.

    Args:
        cfg (Config): The original config.
        settings (dict): Settings that replace those of ``cfg``.

    Returns:
        Config: A copy, in which types are names.
    """
    merged = deepcopy(name_types(cfg))
    merged.merge_from_dict(deepcopy(settings))
    return merged


def name_types(cfg: Config) -> Config:
    """Return a pure-python config with the names of its types.

    Args:
        cfg (Config): Any config.

    Returns:
        Config: The same with types as ``'mmdet.models.detectors.FCOS'``,
        which the registries find as well.
    """
    if not _is_pure_python(cfg):
        return cfg
    return Config(_named(cfg.to_dict()), filename=cfg.filename)


def _named(node: object) -> Any:
    """Return settings with the names of classes and functions for them."""
    if isinstance(node, dict):
        return {key: _named(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_named(value) for value in node)
    if isinstance(node, type) or inspect.isfunction(node):
        return f'{node.__module__}.{node.__qualname__}'
    return node


def _is_pure_python(cfg: Config) -> bool:
    """Return whether the types of a config are classes."""
    return isinstance(cfg.model.get('type'), type)
