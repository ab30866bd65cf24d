"""Format benchmark results as text, JSON, Markdown and a plot."""

import json
import platform
from pathlib import Path
from statistics import median
from typing import Dict, List, Sequence

import mmengine
import torch
from measure import Result, Setting

from mmbiformer.version import __version__

MIB = 2**20

# Okabe and Ito's palette, readable with color vision deficiency; markers
# distinguish the lines in grayscale, too.
_COLORS = (
    '#0072B2', '#D55E00', '#009E73', '#CC79A7',
    '#E69F00', '#56B4E9', '#000000',
)  # fmt: skip
_MARKERS = 'os^DvPX'


def describe_machine(setting: Setting) -> Dict[str, str]:
    """Describe the hardware and software of a benchmark.

    Args:
        setting (Setting): The setting, for device and threads.

    Returns:
        dict[str, str]: Names of hardware and versions of software.
    """
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith('model name'):
                cpu = line.partition(':')[2].strip()
                break
    machine = {
        'CPU': f'{cpu} ({torch.backends.cpu.get_cpu_capability()})',
        'threads': str(setting.threads),
    }
    if setting.device == 'cuda':
        machine['GPU'] = torch.cuda.get_device_name()
        machine['CUDA'] = torch.version.cuda
    return {
        **machine,
        'torch': torch.__version__,
        'mmengine': mmengine.__version__,
        'mmbiformer': __version__,
    }


def describe_setting(setting: Setting, repeat: int) -> str:
    """Describe what was measured.

    Args:
        setting (Setting): The setting; shape and n_win are not described.
        repeat (int): Number of rounds.

    Returns:
        str: One line.
    """
    what = 'forward and backward' if setting.train else 'inference'
    precision = 'mixed precision' if setting.amp else 'float32'
    return (
        f'{what}, batch size {setting.batch_size}, {precision}, '
        f'{setting.device}, median of {repeat} rounds (min–max)'
    )


def _size(result: Result) -> str:
    """Format the image size."""
    return '×'.join(map(str, result.shape))


def _number(value: float) -> str:
    """Format a number with at least three digits."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _mib(value: int) -> str:
    """Format bytes as MiB."""
    return f'{value / MIB:,.0f}'


def result_row(result: Result, train: bool) -> List[str]:
    """Format a result as cells of a table.

    Args:
        result (Result): The result.
        train (bool): Whether there is a column for the kept bytes.

    Returns:
        list[str]: The cells, in the order of :func:`header`.
    """
    name = [_size(result), result.candidate]
    name.append('–' if result.n_win is None else str(result.n_win))
    if result.error is not None:
        return [*name, result.error, *['–'] * (4 if train else 3)]
    low, mid, high = (
        _number(1000 * f(result.seconds)) for f in (min, median, max)
    )
    cells = [
        f'{mid} ({low}–{high})',
        _number(result.images_per_second),
        '–' if result.ratio is None else f'{result.ratio:.2f}',
        _mib(result.peak_bytes),
    ]
    if train:
        cells.append(_mib(result.kept_bytes))
    return [*name, *cells]


def header(train: bool) -> List[str]:
    """Return the titles of the columns.

    Args:
        train (bool): Whether there is a column for the kept bytes.

    Returns:
        list[str]: The titles.
    """
    titles = ['image', 'model', 'n_win', 'ms', 'images/s', 'time ÷ first']
    titles.append('peak MiB')
    return [*titles, 'MiB kept for backward'] if train else titles


def to_markdown(
    results: Sequence[Result], setting: Setting, repeat: int, command: str
) -> str:
    """Format results as a Markdown table, with the command and machine.

    Args:
        results (Sequence[Result]): The results.
        setting (Setting): Their common setting.
        repeat (int): Number of rounds.
        command (str): The command line.

    Returns:
        str: The text.
    """
    machine = ', '.join(
        f'{name} {value}' for name, value in describe_machine(setting).items()
    )
    rows = [header(setting.train)]
    rows += [result_row(result, setting.train) for result in results]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ['-' * width for width in widths])
    # Align names to the left, numbers to the right.
    aligned = [
        [
            f'{cell:{"<" if i < 2 else ">"}{width}}'
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    aligned[1] = [
        cell if i < 2 else f'{cell[:-1]}:' for i, cell in enumerate(aligned[1])
    ]
    table = '\n'.join(f'| {" | ".join(row)} |' for row in aligned)
    what = describe_setting(setting, repeat)
    return f'```shell\n{command}\n```\n\n{machine}; {what}.\n\n{table}\n'


def to_json(
    results: Sequence[Result], setting: Setting, repeat: int, command: str
) -> str:
    """Format results as JSON; the arguments are those of :func:`to_markdown`.

    Returns:
        str: The text.
    """
    shared = {
        key: value
        for key, value in setting._asdict().items()
        if key not in ('shape', 'n_win')
    }
    content = dict(
        command=command,
        machine=describe_machine(setting),
        setting=dict(shared, repeat=repeat),
        results=[result._asdict() for result in results],
    )
    return json.dumps(content, indent=2) + '\n'


def plot(results: Sequence[Result], setting: Setting, path: Path) -> None:
    """Plot time and memory over image size.

    Args:
        results (Sequence[Result]): The results.
        setting (Setting): Their common setting.
        path (Path): File to write, in a format that matplotlib supports.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import (
        LogLocator,
        NullFormatter,
        NullLocator,
        StrMethodFormatter,
    )

    figure = Figure(figsize=(11, 4.8), layout='constrained')
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(result.candidate for result in results))
    for i, name in enumerate(names):
        own = sorted(
            (r for r in results if r.candidate == name and r.error is None),
            key=lambda r: r.shape[0] * r.shape[1],
        )
        if not own:
            continue
        pixels = [r.shape[0] * r.shape[1] for r in own]
        mids = [1000 * median(r.seconds) for r in own]
        spread = [
            [
                m - 1000 * min(r.seconds)
                for m, r in zip(mids, own, strict=True)
            ],
            [
                1000 * max(r.seconds) - m
                for m, r in zip(mids, own, strict=True)
            ],
        ]
        style = dict(
            color=_COLORS[i % len(_COLORS)],
            marker=_MARKERS[i % len(_MARKERS)],
            linestyle='-' if i < len(_COLORS) else '--',
            label=name,
        )
        left.errorbar(pixels, mids, yerr=spread, capsize=3, **style)
        right.plot(pixels, [r.peak_bytes / MIB for r in own], **style)
    sizes = {_size(r): r.shape[0] * r.shape[1] for r in results}
    what = 'step of training' if setting.train else 'inference'
    left.set_ylabel(f'ms for a {what}' if setting.train else f'ms for {what}')
    right.set_ylabel('peak memory above the model, MiB')
    for axes in (left, right):
        axes.set_xscale('log')
        axes.set_yscale('log')
        axes.set_xlabel('image, pixels')
        axes.set_xticks(list(sizes.values()), list(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter('{x:,g}'))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    left.legend()
    machine = describe_machine(setting)
    where = machine.get('GPU') or (
        f'{machine["CPU"]}, threads: {setting.threads}'
    )
    figure.suptitle(
        f'batch size {setting.batch_size}, {where}', fontsize='medium'
    )
    figure.savefig(path, dpi=150)
