"""Curves of one or several training runs, from mmengine's JSON logs."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple, Union

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, told apart by colour-blind readers.
_COLORS = (
    '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9',
    '#000000', '#F0E442',
)  # fmt: skip
_STYLES = ('-', '--', ':', '-.')
_PANEL = (4.6, 2.9)

Curve = Dict[float, float]


@dataclass
class RunLog:
    """What one run logged.

    Attributes:
        name (str): What to call it.
        train (dict[str, dict[float, float]]): For each key of the training
            log its values by iteration, such as ``loss`` or ``lr``.
        metrics (dict[str, dict[float, float]]): For each key of the
            validation log its values by epoch or iteration.
        by_epoch (bool): Whether ``metrics`` counts epochs. Default: False.
    """

    name: str
    train: Dict[str, Curve] = field(default_factory=lambda: defaultdict(dict))
    metrics: Dict[str, Curve] = field(
        default_factory=lambda: defaultdict(dict)
    )
    by_epoch: bool = False


def _find_files(path: Path) -> List[Path]:
    """Return the logs in a file, the folder of a run or a work directory."""
    if path.is_file():
        return [path]
    for pattern in (
        'scalars.json',
        'vis_data/scalars.json',
        '*/vis_data/scalars.json',
    ):
        # mmengine names the folder of a run by its time.
        files = sorted(path.glob(pattern))
        if files:
            return files
    raise FileNotFoundError(
        f'log={str(path)!r} is neither a JSON log of mmengine nor the folder '
        'of a run with vis_data/scalars.json'
    )


def _read_lines(path: Path) -> Iterator[dict]:
    """Yield the entries of a log."""
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError('not an object')
        except ValueError as error:
            # A run that goes on, or was killed, may leave half a line.
            if number == len(lines) > 1:
                return
            raise ValueError(
                f'log={str(path)!r}, line {number}, is not of a JSON log of '
                f'mmengine: {error}'
            ) from None
        yield entry


def read_log(path: Union[str, Path], name: Optional[str] = None) -> RunLog:
    """Read the log of a run.

    Args:
        path (str | Path): A ``scalars.json`` of mmengine, the folder of a run
            that has one in ``vis_data``, or a work directory: its runs are
            joined, as those of a training that was resumed.
        name (str, optional): What to call the run. Default: None, which means
            the name of the folder.

    Returns:
        RunLog: What it logged.

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If the file is no log, or has no entry of training.
    """
    path = Path(path)
    log = RunLog(name or (path.parent if path.is_file() else path).name)
    for file in _find_files(path):
        newer = RunLog('')
        for entry in _read_lines(file):
            step = entry.get('step')
            is_training = 'loss' in entry or 'lr' in entry
            newer.by_epoch |= is_training and 'epoch' in entry
            routing = any(key.startswith('routing/') for key in entry)
            target = newer.train if is_training or routing else newer.metrics
            for key, value in entry.items():
                if isinstance(value, (int, float)) and step is not None:
                    target[key][step] = value
        _append(log, newer)
    if not log.train:
        raise ValueError(f'log={str(path)!r} has no entry of a training')
    return log


def _append(log: RunLog, newer: RunLog) -> None:
    """Let a run go on as a newer one that was resumed from it."""
    log.by_epoch |= newer.by_epoch
    for target, source in (
        (log.train, newer.train),
        (log.metrics, newer.metrics),
    ):
        first = min(source.get('step', {None: 0}), default=None)
        for key, curve in target.items():
            if first is not None:
                target[key] = {x: y for x, y in curve.items() if x < first}
        for key, curve in source.items():
            target[key].update(curve)


def _panels(runs: Sequence[RunLog]) -> List[Tuple[str, List[str]]]:
    """Choose titles of panels and their keys, by what the runs logged."""
    keys = list(dict.fromkeys(key for run in runs for key in run.train))
    metrics = list(dict.fromkeys(key for run in runs for key in run.metrics))
    losses = ['loss']
    if len(runs) == 1:
        parts = [key.split('.')[-1].startswith('loss') for key in keys]
        losses += [
            key for key, is_part in zip(keys, parts, strict=True)
            if is_part and key != 'loss'
        ]  # fmt: skip
    main = [
        key
        for key in metrics
        if key.endswith(('bbox_mAP', 'segm_mAP', 'mIoU'))
    ]
    panels = [
        ('Loss', losses),
        ('Learning rate', ['lr']),
        ('AP' if any('mAP' in key for key in main) else 'mIoU', main),
        ('Seconds per iteration', ['time', 'data_time']),
        ('Memory (MB)', ['memory']),
    ]
    panels += [
        (f'Routing: {what}', [key for key in keys if key.endswith(f'/{name}')])
        for name, what in (
            ('entropy', 'entropy of the choice'),
            ('far', 'share outside the neighbourhood'),
        )
    ]
    present = set(keys) | set(metrics)
    panels = [
        (title, [key for key in wanted if key in present])
        for title, wanted in panels
    ]
    return [(title, wanted) for title, wanted in panels if wanted]


def draw_curves(
    runs: Sequence[RunLog],
    keys: Optional[Sequence[str]] = None,
    title: Optional[str] = None,
) -> Figure:
    """Draw the curves of runs, a panel for each kind.

    Args:
        runs (Sequence[RunLog]): The runs; each has a colour of its own, or
            each curve where there is one run.
        keys (Sequence[str], optional): Keys of the logs, a panel for each.
            Default: None, which means loss, learning rate, AP or mIoU, time,
            memory and, where they were logged, statistics of the routing.
        title (str, optional): Title of the picture. Default: None.

    Returns:
        Figure: The picture; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: If no run logged one of ``keys``.
    """
    known = {key for run in runs for key in (*run.train, *run.metrics)}
    unknown = [key for key in keys or [] if key not in known]
    if unknown:
        raise ValueError(
            f'keys={unknown} were not logged; logged were {sorted(known)}'
        )
    panels = [(key, [key]) for key in keys] if keys else _panels(runs)
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(columns * _PANEL[0], rows * _PANEL[1] + 0.4),
        dpi=100,
        layout='constrained',
    )
    FigureCanvasAgg(figure)
    for number, (name, wanted) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_title(name, fontsize=10)
        _draw_panel(axes, runs, wanted)
    if len(runs) > 1:
        figure.legend(
            handles=[
                axes.plot([], [], color=_color(i), label=run.name)[0]
                for i, run in enumerate(runs)
            ],
            loc='outside lower center', ncols=min(4, len(runs)),
            fontsize=9, frameon=False,
        )  # fmt: skip
    if title:
        figure.suptitle(title)
    return figure


def _color(number: int) -> str:
    """Return the colour of a curve."""
    return _COLORS[number % len(_COLORS)]


def _draw_panel(
    axes: Axes, runs: Sequence[RunLog], keys: Sequence[str]
) -> None:
    """Draw curves into one panel."""
    units = set()
    for i, run in enumerate(runs):
        for j, key in enumerate(keys):
            is_metric = key in run.metrics and key not in run.train
            curve = run.metrics[key] if is_metric else run.train.get(key)
            if not curve:
                continue
            units.add('epoch' if is_metric and run.by_epoch else 'iteration')
            axes.plot(
                list(curve), list(curve.values()),
                color=_color(j if len(runs) == 1 else i),
                linestyle=_STYLES[0 if len(runs) == 1 else j % len(_STYLES)],
                marker='o' if len(curve) == 1 or is_metric else None,
                markersize=4, linewidth=1.4, label=key,
            )  # fmt: skip
    axes.set_xlabel(' or '.join(sorted(units)), fontsize=9)
    axes.tick_params(labelsize=8)
    axes.set_xlim(0, 1.04 * axes.dataLim.xmax)
    if axes.dataLim.ymin > 0:
        axes.set_ylim(0, 1.06 * axes.dataLim.ymax)
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=6, integer=True, min_n_ticks=1)
    )
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    if len(keys) > 1:
        handles, labels = axes.get_legend_handles_labels()
        by_label = dict(zip(labels, handles, strict=True))
        axes.legend(by_label.values(), by_label, fontsize=7)
