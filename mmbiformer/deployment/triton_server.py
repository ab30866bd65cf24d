"""The settings that NVIDIA's Triton Inference Server asks for."""

import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

from mmbiformer.utils.errors import OutputError
from mmbiformer.utils.files import atomic_write, check_writable

_TYPES = {'labels': 'TYPE_INT64'}
_SHAPES = {
    'boxes': (None, 4),
    'scores': (None,),
    'labels': (None,),
    'masks': (None, 28, 28),
}


def render(name: str, metadata: Dict[str, Any]) -> str:
    """Return the ``config.pbtxt`` of an ONNX file.

    Args:
        name (str): Name of the model, that of its folder.
        metadata (dict): What the file says of itself.

    Returns:
        str: The text. The batch is part of the shapes, as Triton must not
        split outputs whose number of boxes differs.
    """
    taken = metadata['input']
    batch = taken['batch']
    sides = taken['height'], taken['width']
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        'max_batch_size: 0',
        _tensors('input', [(taken['name'], 'TYPE_FP32', (batch, 3, *sides))]),
    ]
    outputs = []
    for output in metadata['outputs']:
        if metadata['task'] == 'image classification':
            shape = (len(metadata['classes']),)
        elif output == 'logits':
            shape = (len(metadata['classes']), *sides)
        else:
            # The channels and sides of maps are not in the metadata.
            shape = _SHAPES.get(output, (None, None, None))
        outputs.append(
            (output, _TYPES.get(output, 'TYPE_FP32'), (batch, *shape))
        )
    lines.append(_tensors('output', outputs))
    return '\n'.join(lines) + '\n'


def _tensors(kind: str, tensors: List[tuple]) -> str:
    """Return inputs or outputs; sides of any length are -1."""
    entries = []
    for name, type_, shape in tensors:
        dims = ', '.join(map(_dim, shape))
        entries.append(
            f'  {{\n    name: "{name}"\n    data_type: {type_}\n'
            f'    dims: [ {dims} ]\n  }}'
        )
    return f'{kind} [\n' + ',\n'.join(entries) + '\n]'


def _dim(side: Optional[int]) -> str:
    """Return a side as Triton writes it."""
    return str(-1 if side is None else side)


def check_repository(repository: Path, name: str, force: bool) -> None:
    """Check that a model can be added to a repository.

    Args:
        repository (Path): Folder of the models; need not exist.
        name (str): Name of the model.
        force (bool): Whether it may exist.

    Raises:
        OutputError: If it exists and may not, or cannot be written.
    """
    check_writable(repository, '--triton')
    if (repository / name).exists() and not force:
        raise OutputError(
            f'--triton={str(repository)!r} has a model {name!r} already; name '
            'another folder, or overwrite it by --force'
        )


def write_model(
    repository: Path, file: Path, metadata: Dict[str, Any]
) -> Path:
    """Add an exported file to a repository, as version 1 of a model.

    Args:
        repository (Path): Folder of the models; created if missing.
        file (Path): The ONNX file, whose name without suffix is the model's.
        metadata (dict): What it says of itself.

    Returns:
        Path: Folder of the model.
    """
    folder = repository / file.stem
    (folder / '1').mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / '1/model.onnx') as scratch:
        shutil.copyfile(file, scratch)
    with atomic_write(folder / 'config.pbtxt') as scratch:
        scratch.write_text(render(file.stem, metadata))
    return folder
