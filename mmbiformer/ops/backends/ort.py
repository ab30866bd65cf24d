"""Where the operators for onnxruntime lie, see ``csrc/onnxruntime``."""

from pathlib import Path
from typing import Optional

from . import library


def library_path() -> Optional[Path]:
    """Return the library of operators for this CPU.

    Returns:
        Path | None: The file for onnxruntime's
        ``SessionOptions.register_custom_ops_library``; None where it was not
        compiled.
    """
    for path in library.candidates('_ort'):
        if path.is_file():
            return path
    return None
