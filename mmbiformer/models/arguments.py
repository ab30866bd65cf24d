"""Checks of arguments; messages name the argument, its value and the rule."""

import math
from typing import Optional, Sequence, Tuple

from mmbiformer.utils.errors import ConfigError


def check_int(
    name: str, value: object, low: int, high: Optional[int] = None
) -> None:
    """Raise an error for what is no whole number in a range.

    Args:
        name (str): Name of the argument.
        value (object): Its value.
        low (int): Lowest allowed value.
        high (int, optional): Highest allowed value. Default: None.

    Raises:
        ConfigError: If the value is not allowed.
    """
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value < low
        or (high is not None and value > high)
    ):
        allowed = (
            f'of at least {low}' if high is None else f'from {low} to {high}'
        )
        raise ConfigError(
            f'{name} must be a whole number {allowed}, got {name}={value!r}'
        )


def check_length(name: str, values: object, length: int) -> None:
    """Check that a value is a list or tuple of a certain length.

    Args:
        name (str): Name of the argument.
        values (object): Its value.
        length (int): Allowed length.

    Raises:
        ConfigError: If the value is not allowed.
    """
    if not isinstance(values, (list, tuple)) or len(values) != length:
        raise ConfigError(
            f'{name} must be a list or tuple of {length} values, got '
            f'{name}={values!r}'
        )


def check_bool(name: str, value: object) -> None:
    """Check that a value is True or False.

    Args:
        name (str): Name of the argument.
        value (object): Its value.

    Raises:
        ConfigError: If the value is not allowed.
    """
    if not isinstance(value, bool):
        raise ConfigError(
            f'{name} must be True or False, got {name}={value!r}'
        )


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Check that a value is one of some strings.

    Args:
        name (str): Name of the argument.
        value (object): Its value.
        choices (Sequence[str]): Allowed values.

    Raises:
        ConfigError: If the value is not allowed.
    """
    if value not in choices:
        raise ConfigError(
            f'{name} must be one of {tuple(choices)}, got {name}={value!r}'
        )


def is_number(value: object) -> bool:
    """Return whether a value is a finite number.

    Args:
        value (object): Any value; True and False are no numbers.

    Returns:
        bool: Whether it is a number.
    """
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def resolve_stages(name: str, stages: object, number: int) -> Tuple[int, ...]:
    """Check stages that may be counted from the last, and resolve them.

    Args:
        name (str): Name of the argument.
        stages (object): Its value: a whole number, or a list, tuple or range
            of them.
        number (int): Number of stages.

    Returns:
        tuple[int]: The stages, counted from 0.

    Raises:
        ConfigError: If they are not ascending whole numbers in range.
    """
    given = [stages] if type(stages) is int else stages
    if isinstance(given, (list, tuple, range)) and all(
        type(i) is int and -number <= i < number for i in given
    ):
        resolved = [i % number for i in given]
        if resolved and resolved == sorted(set(resolved)):
            return tuple(resolved)
    raise ConfigError(
        f'{name} must be whole numbers from 0 to {number - 1} in ascending '
        f'order, or from -{number} to -1 to count from the last, got '
        f'{name}={stages!r}'
    )
