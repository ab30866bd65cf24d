"""Plot the curves of training runs, from mmengine's JSON logs."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple, Union

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmbiformer.utils.errors import ConfigError, MissingFileError

# Okabe and Ito's palette, readable with color vision deficiency.
_COLORS = (
    '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9',
    '#000000', '#F0E442',
)  # fmt: skip
_STYLES = ('-', '--', ':', '-.')
_PANEL_SIZE = (4.6, 2.9)
# Title of each panel, and the last part of the keys that it shows.
_PANELS = {
    'Loss': {'loss'},
    'Learning rate': {'lr'},
    'AP': {'bbox_mAP', 'segm_mAP'},
    'mIoU': {'mIoU'},
    'Accuracy (%)': {'top1', 'top5'},
    'Seconds per iteration': {'time', 'data_time'},
    'Memory (MB)': {'memory'},
    'Routing: entropy of the selection': {'entropy'},
    'Routing: share outside the neighborhood': {'far'},
}

Curve = Dict[float, float]


@dataclass
class RunLog:
    """The log of one run.

    Attributes:
        name (str): Name of the run, for the legend.
        train (dict[str, dict[float, float]]): For each key of the training
            log, such as ``loss`` or ``lr``, its values by iteration.
        metrics (dict[str, dict[float, float]]): For each key of the
            validation log, its values by epoch or iteration.
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
        # mmengine names the folder of a run by its start time.
        files = sorted(path.glob(pattern))
        if files:
            return files
    raise MissingFileError(
        f'log={str(path)!r} is neither a JSON log of mmengine nor a folder '
        'of a run with vis_data/scalars.json'
    )


def _read_entries(path: Path) -> Iterator[dict]:
    """Yield the entries of a log."""
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError('not an object')
        except ValueError as error:
            # A running or killed training may leave an incomplete last line.
            if number == len(lines) > 1:
                return
            raise ConfigError(
                f'log={str(path)!r}, line {number}, is not an entry of a JSON '
                f'log of mmengine: {error}'
            ) from None
        yield entry


def read_log(path: Union[str, Path], name: Optional[str] = None) -> RunLog:
    """Read the log of a run.

    Args:
        path (str | Path): A ``scalars.json`` of mmengine, the folder of a run
            that has one in ``vis_data``, or a work directory. The runs in a
            work directory are merged, as parts of a resumed training.
        name (str, optional): Name of the run. Default: None, which means the
            name of the folder.

    Returns:
        RunLog: The log.

    Raises:
        MissingFileError: If there is no log.
        ConfigError: If the file is not a log, or has no training entry.
    """
    path = Path(path)
    log = RunLog(name or (path.parent if path.is_file() else path).name)
    for file in _find_files(path):
        newer = RunLog('')
        for entry in _read_entries(file):
            step = entry.get('step')
            is_training = 'loss' in entry or 'lr' in entry
            newer.by_epoch |= is_training and 'epoch' in entry
            is_routing = any(key.startswith('routing/') for key in entry)
            by_iteration = is_training or is_routing
            target = newer.train if by_iteration else newer.metrics
            for key, value in entry.items():
                if isinstance(value, (int, float)) and step is not None:
                    target[key][step] = value
        _append(log, newer)
    if not log.train:
        raise ConfigError(f'log={str(path)!r} has no training entry')
    return log


def _append(log: RunLog, newer: RunLog) -> None:
    """Continue a run with the log of the run that resumed it."""
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


def _choose_panels(runs: Sequence[RunLog]) -> List[Tuple[str, List[str]]]:
    """Return the titles of the panels, and the logged keys in each."""
    keys = list(
        dict.fromkeys(
            key for run in runs for key in (*run.train, *run.metrics)
        )
    )
    panels = []
    for title, names in _PANELS.items():
        # A single run also shows the parts of its loss ('decode.loss_ce').
        prefix = 'loss_' if title == 'Loss' and len(runs) == 1 else None
        shown = [
            key
            for key in keys
            if key.split('/')[-1] in names
            or (prefix and key.split('.')[-1].startswith(prefix))
        ]
        if shown:
            panels.append((title, shown))
    return panels


def draw_curves(runs: Sequence[RunLog]) -> Figure:
    """Plot the curves of one or several runs on one page.

    Shown are loss, learning rate, AP, mIoU or accuracy, time, memory and, if
    they were logged, the statistics of the routing.

    Args:
        runs (Sequence[RunLog]): The runs. Each run has its own color; for a
            single run, each curve.

    Returns:
        Figure: The figure; ``figure.savefig(path)`` writes it.
    """
    panels = _choose_panels(runs)
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(columns * _PANEL_SIZE[0], rows * _PANEL_SIZE[1] + 0.4),
        dpi=100,
        layout='constrained',
    )
    FigureCanvasAgg(figure)
    for number, (title, keys) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_title(title, fontsize=10)
        _draw_panel(axes, runs, keys)
    if len(runs) > 1:
        figure.legend(
            handles=[
                axes.plot([], [], color=_color(i), label=run.name)[0]
                for i, run in enumerate(runs)
            ],
            loc='outside lower center', ncols=min(4, len(runs)),
            fontsize=9, frameon=False,
        )  # fmt: skip
    return figure


def _color(index: int) -> str:
    """Return the color of a curve."""
    return _COLORS[index % len(_COLORS)]


def _draw_panel(
    axes: Axes, runs: Sequence[RunLog], keys: Sequence[str]
) -> None:
    """Plot the curves of one panel."""
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
