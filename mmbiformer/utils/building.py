"""What is wrong in a config, where a registry fails to build from it."""

import inspect
import traceback
from contextlib import contextmanager
from typing import Callable, Iterator, Optional, Set, Tuple, Union

from mmengine.config import Config
from mmengine.registry import Registry, build_from_cfg

from .errors import ConfigError
from .text import list_some, suggest


@contextmanager
def config_errors(cfg: Union[Config, dict]) -> Iterator[None]:
    """Name the setting if something cannot be built from a config.

    Two mistakes are recognized, each by repeating the step that failed: a
    ``type`` that is not in its registry, and a setting that is not an
    argument of its ``type`` or is missing. Any other error passes unchanged.

    Args:
        cfg (Config | dict): Config that the block builds from.

    Yields:
        None: The block.

    Raises:
        ConfigError: If one of the two is the cause.
    """
    try:
        yield
    except (KeyError, TypeError) as error:
        problem = config_problem(error, cfg)
        if problem is None:
            raise
        raise ConfigError(problem) from error


def config_problem(
    error: Exception, cfg: Union[Config, dict]
) -> Optional[str]:
    """Say what is wrong in a config, if that is the cause of an error.

    Args:
        error (Exception): What was raised by building from the config.
        cfg (Config | dict): The config.

    Returns:
        str, optional: What :func:`config_errors` recognizes, or None.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    # Constructors pass settings on to those of their base classes.
    constructor = None
    while frames and frames[-1].f_code.co_name == '__init__':
        frame = frames.pop()
        constructor = constructor or frame
    if not frames or frames[-1].f_code is not build_from_cfg.__code__:
        return None
    call = frames[-1].f_locals
    settings = call['cfg']
    kind, scope = settings.get('type'), settings.get('_scope_')
    with call['registry'].switch_scope_and_registry(scope) as registry:
        built = registry.get(kind) if isinstance(kind, str) else kind
    if isinstance(kind, str) and built is None:
        where = _locate(settings, cfg, 'type')
        return describe_unregistered(kind, registry, where)
    if not isinstance(error, TypeError) or not callable(built):
        return None
    filled_in = set(call['default_args'] or ())
    if constructor is None:
        return _unknown_argument(
            settings, set(settings), filled_in, built, cfg
        ) or _missing_argument(settings, filled_in, built, cfg)
    arguments = inspect.getargvalues(constructor)
    passed_on = set(arguments.locals.get(arguments.keywords) or ())
    return _unknown_argument(settings, passed_on, filled_in, built, cfg)


def describe_unregistered(kind: str, registry: Registry, setting: str) -> str:
    """Say that a ``type`` is not registered, and which similar ones are.

    Args:
        kind (str): The type.
        registry (Registry): Where it was looked up.
        setting (str): Path of the setting that names it.

    Returns:
        str: The message.
    """
    known = set()
    node = registry
    while node is not None:
        known.update(node.module_dict)
        node = node.parent
    return (
        f'{setting}={kind!r} is not in the registry {registry.scope}::'
        f'{registry.name}{suggest(kind, known)}. The module that registers '
        'a type of your own must be in custom_imports of the config file; a '
        'config that sets custom_imports.imports replaces the list that it '
        'inherits'
    )


def _unknown_argument(
    settings: dict,
    names: Set[str],
    filled_in: Set[str],
    built: Callable,
    cfg: Union[Config, dict],
) -> Optional[str]:
    """Say which setting is not an argument, if one of these names is not."""
    accepted = _accepted_names(built)
    if accepted is None:
        return None
    names = names & set(settings)
    unknown = sorted(names - accepted - {'type', '_scope_'})
    if not unknown:
        return None
    accepted -= filled_in
    return (
        f'{_locate(settings, cfg, unknown[0])}={settings[unknown[0]]!r}: '
        f'{_name(built)} has no argument {unknown[0]!r}'
        f'{suggest(unknown[0], accepted)}. Its arguments: '
        f'{list_some(sorted(accepted), 30)}'
    )


def _missing_argument(
    settings: dict,
    filled_in: Set[str],
    built: Callable,
    cfg: Union[Config, dict],
) -> Optional[str]:
    """Say which argument has neither a setting nor a default, if any."""
    try:
        parameters = inspect.signature(built).parameters.values()
    except ValueError:  # of some classes that are written in C
        return None
    missing = [
        one.name
        for one in parameters
        if one.default is one.empty
        and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        and one.name not in filled_in
        and one.name not in settings
    ]
    if not missing:
        return None
    return (
        f'{_locate(settings, cfg, "type")}={_name(built)!r} needs the '
        f'argument {missing[0]!r}, which the config does not set'
    )


def _name(built: Callable) -> str:
    """Return the name of a class or function."""
    return getattr(built, '__name__', repr(built))


def _accepted_names(built: Callable) -> Optional[Set[str]]:
    """Return the names of the arguments of a class or function.

    Where a constructor takes ``**kwargs``, those of the next base class are
    added.

    Returns:
        set[str], optional: None if any name is accepted.
    """
    if inspect.isclass(built):
        functions = [
            vars(one)['__init__']
            for one in built.__mro__
            if '__init__' in vars(one)
        ]
    else:
        functions = [built]
    accepted = set()
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:
            return None
        accepted.update(
            one.name
            for one in parameters
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        )
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            return accepted - {'self'}
    return None


def _locate(settings: dict, cfg: Union[Config, dict], key: str) -> str:
    """Return where a setting stands in a config.

    Args:
        settings (dict): The settings of one object.
        cfg (Config | dict): The config.
        key (str): One of the settings.

    Returns:
        str: Such as ``'model.backbone.type'``, or ``key`` alone if the
        config has no such settings.
    """
    equal, alike, others = [], [], []
    for where, node in walk(cfg):
        if key in node and node[key] == settings[key]:
            others.append(f'{where}.{key}')
        if key in node and node.get('type') == settings['type']:
            alike.append(f'{where}.{key}')
            if node == settings:
                equal.append(f'{where}.{key}')
    # Runners and models fill in settings, and the type where it has a default.
    return list_some(equal or alike or others, 3) or key


def walk(node: object, where: str = '') -> Iterator[Tuple[str, dict]]:
    """Yield all dicts of a config, each with its path.

    Args:
        node (object): The config, or a setting of it.
        where (str): Path of the setting. Default: ``''``.

    Yields:
        tuple[str, dict]: Path and dict, without the config itself.
    """
    if isinstance(node, (Config, dict)):
        if where:
            yield where, node
        for key, value in node.items():
            yield from walk(value, f'{where}.{key}' if where else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from walk(value, f'{where}.{index}')
