"""Files to write pictures and pages to."""

from pathlib import Path
from typing import Sequence

PICTURE_SUFFIXES = ('.png', '.pdf', '.svg')
"""tuple[str]: Kinds of files that pictures can be written to."""
PICTURES = ', '.join(PICTURE_SUFFIXES)
"""str: The same, for a help text."""


def check_output(
    argument: str, path: Path, suffixes: Sequence[str] = PICTURE_SUFFIXES
) -> None:
    """Refuse a file that cannot be written, before any work.

    Args:
        argument (str): What to call it.
        path (Path): The file.
        suffixes (Sequence[str]): Suffixes that are allowed. Default:
            :data:`PICTURE_SUFFIXES`.

    Raises:
        FileNotFoundError: If its folder does not exist.
        IsADirectoryError: If it is a folder.
        ValueError: If its suffix is another.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f'{argument} must end in {" or ".join(suffixes)}, got '
            f'{argument}={str(path)!r}'
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f'{argument}={str(path)!r}: there is no folder '
            f'{str(path.parent.resolve())!r}'
        )
    if path.is_dir():
        raise IsADirectoryError(f'{argument}={str(path)!r} is a folder')
