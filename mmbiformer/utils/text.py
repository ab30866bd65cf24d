"""Parts of messages."""

from difflib import get_close_matches
from typing import Iterable, Sequence


def list_some(names: Sequence[str], limit: int = 8) -> str:
    """Join names for a message, with their number where there are many.

    Args:
        names (Sequence[str]): The names.
        limit (int): How many to show. Default: 8.

    Returns:
        str: Such as ``'a, b, … (12 in all)'``.
    """
    more = f', … ({len(names)} in all)' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def shorten(value: object, limit: int = 8) -> object:
    """Shorten the lists in a setting, for a message.

    Args:
        value (object): The setting.
        limit (int): How many items of a list or tuple to show. Default: 8.

    Returns:
        object: The setting, with plain dicts, and lists and tuples of more
        items replaced by some of them as text.
    """
    if isinstance(value, dict):
        return {key: shorten(one, limit) for key, one in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    if len(value) > limit:
        return f'[{list_some(list(map(repr, value)), limit)}]'
    kind = tuple if isinstance(value, tuple) else list
    return kind(shorten(one, limit) for one in value)


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line.

    Args:
        error (BaseException): The error.

    Returns:
        str: Its message, or the name of its type if it has none.
    """
    # str() of a KeyError shows its message in quotes.
    message = error.args[0] if isinstance(error, KeyError) else error
    return ' '.join(str(message).split()) or type(error).__name__


def suggest(name: str, known: Iterable[str]) -> str:
    """Suggest names that are similar to one that is not known.

    Args:
        name (str): The name.
        known (Iterable[str]): The names that are known.

    Returns:
        str: Such as ``" (did you mean 'topks'?)"``, or nothing if no name is
        similar.
    """
    similar = get_close_matches(name, sorted(known))
    if not similar:
        return ''
    return f' (did you mean {" or ".join(map(repr, similar))}?)'


def describe_briefly(error: BaseException) -> str:
    """Return the type and the first line of an error.

    Args:
        error (BaseException): The error.

    Returns:
        str: One line.
    """
    lines = str(error).strip().splitlines()
    return ': '.join([type(error).__name__, *lines[:1]])
