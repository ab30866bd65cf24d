"""Check and time the Triton backend of routed attention on a GPU.

One command for a machine with an NVIDIA GPU; it takes less than ten minutes:
  python tools/analysis_tools/gpu_check.py --out gpu_check
It compares the outputs and gradients with the reference in float64, times the
backend in turn with sdpa, and says whether backend='auto' should select it.
--interpret runs the same code at tiny sizes in Triton's interpreter, without
a GPU, to test this tool; its times mean nothing.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()
    if '--interpret' in sys.argv:
        # Read when triton is imported.
        os.environ['TRITON_INTERPRET'] = '1'

import torch
from torch import Tensor

from mmbiformer import BiFormer
from mmbiformer.ops import routed_attention
from mmbiformer.ops.backends import triton as backend
from mmbiformer.utils.command_line import command_line, describe_error
from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.files import check_output, check_writable
from mmbiformer.version import __version__

BASELINE, NEW = 'sdpa', 'triton'
TYPES = {
    'float16': torch.float16,
    'bfloat16': torch.bfloat16,
    'float32': torch.float32,
}


class Layer(NamedTuple):
    """Sizes of a routed attention layer.

    Attributes:
        name (str): Name for the report.
        region (tuple[int, int]): Rows and columns of a region, in tokens.
        topk (int): Routed regions.
        heads (int): Heads of ``head_dim`` channels.
        n_win (int): Regions per side. Default: 16.
        head_dim (int): Channels of a head. Default: 32.
    """

    name: str
    region: Tuple[int, int]
    topk: int
    heads: int
    n_win: int = 16
    head_dim: int = 32


class Scale(NamedTuple):
    """What is run: the full check, or a tiny one.

    Attributes:
        layers (tuple[Layer, ...]): Layers to time.
        checked (tuple[Layer, ...]): Layers to compare with the reference.
        batches (tuple[int, ...]): Batch sizes to time.
        checked_batches (tuple[int, ...]): Batch sizes to compare.
        types (tuple[str, ...]): Names in :data:`TYPES`.
        tiles (tuple[backend.Tile, ...]): Tiles to try.
        backbone (dict): Arguments of the backbone.
        shapes (tuple): Image sizes and regions per side of the backbone.
        rounds (int): Rounds of each timing.
        seconds (float): Least duration of a round.
    """

    layers: Tuple[Layer, ...]
    checked: Tuple[Layer, ...]
    batches: Tuple[int, ...]
    checked_batches: Tuple[int, ...]
    types: Tuple[str, ...]
    tiles: Tuple[backend.Tile, ...]
    backbone: Dict[str, Any]
    shapes: Tuple[Tuple[Tuple[int, int], int], ...]
    rounds: int
    seconds: float


# BiFormer-S at 800x1333: 273, 77 and 24 tokens a region.
STAGES = (
    Layer('stage 1', (13, 21), 1, 2),
    Layer('stage 2', (7, 11), 4, 4),
    Layer('stage 3', (4, 6), 16, 8),
)
FULL = Scale(
    layers=STAGES,
    checked=(
        *STAGES,
        Layer('one token', (1, 1), 4, 2, n_win=7),
        Layer('heads of 64', (5, 7), 3, 2, n_win=4, head_dim=64),
        Layer('heads of 48', (5, 7), 3, 2, n_win=4, head_dim=48),
    ),
    batches=(1, 2, 8),
    checked_batches=(1, 64),
    types=('float16', 'bfloat16', 'float32'),
    tiles=tuple(
        backend.Tile(*tile)
        for tile in (
            (32, 32, 2, 3),
            (32, 64, 2, 3),
            (32, 64, 2, 5),
            (64, 32, 2, 3),
            (64, 32, 2, 5),
            (64, 32, 4, 3),
            (64, 64, 4, 3),
            (64, 64, 4, 5),
            (128, 64, 4, 3),
        )
    ),
    backbone=dict(arch='small'),
    shapes=(((224, 224), 7), ((800, 1333), 16)),
    rounds=5,
    seconds=0.03,
)  # fmt: skip
TINY_LAYER = Layer('tiny', (1, 2), 1, 1, n_win=1, head_dim=16)
TINY = Scale(
    layers=(TINY_LAYER,),
    checked=(TINY_LAYER,),
    batches=(1,),
    checked_batches=(1, 2),
    types=('float16',),
    tiles=(backend.Tile(16, 16, 1, 1),),
    backbone=dict(
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 32, 32, 32)),
        topks=(1, 1, 1, -2),
        norm_eval=True,
    ),
    shapes=(((32, 32), 1),),
    rounds=1,
    seconds=0,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('gpu_check'),
        metavar='NAME',
        help='write NAME.json, NAME.md and NAME.png, which must not exist '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--minutes',
        type=float,
        default=9,
        metavar='N',
        help='start no further measurement after this time (default: 9)',
    )
    parser.add_argument(
        '--interpret',
        action='store_true',
        help="run at tiny sizes in Triton's interpreter, without a GPU",
    )
    return parser.parse_args()


class Check:
    """The state of a run: what to run, where, and the results.

    Args:
        scale (Scale): What to run.
        device (torch.device): Where.
        deadline (float): When to start nothing new, by ``time.monotonic``.
    """

    def __init__(
        self, scale: Scale, device: torch.device, deadline: float
    ) -> None:
        self.scale = scale
        self.device = device
        self.deadline = deadline
        self.rows: Dict[str, List[Dict[str, Any]]] = {}

    def add(self, section: str, run: Callable[[], dict], **what: Any) -> None:
        """Measure, and keep the result or the error."""
        row = what
        if time.monotonic() > self.deadline:
            row['error'] = 'not measured: no time left'
        else:
            try:
                row.update(run())
            except Exception as error:
                # The other measurements on a borrowed GPU must not be lost.
                row['error'] = describe_error(error)
        self.rows.setdefault(section, []).append(row)
        cells = ', '.join(f'{k} {format_cell(v)}' for k, v in row.items())
        print(f'{section}: {cells}', flush=True)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def time_in_turn(
        self, functions: Dict[str, Callable[[], Any]]
    ) -> Dict[str, float]:
        """Time functions in alternating rounds.

        Args:
            functions (dict[str, Callable]): Functions by name.

        Returns:
            dict[str, float]: For each name, the median milliseconds of a call
            (``NAME ms``), of its launches on the host (``NAME host ms``) and
            the peak of memory above that before (``NAME MiB``).
        """
        runs, peaks = {}, {}
        for name, function in functions.items():
            # Compiles, and fills torch's pool of memory.
            function()
            self.synchronize()
            start = time.perf_counter()
            if self.device.type == 'cuda':
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            function()
            self.synchronize()
            seconds = time.perf_counter() - start
            runs[name] = 1 + int(self.scale.seconds / max(seconds, 1e-6))
            if self.device.type == 'cuda':
                peak = torch.cuda.max_memory_allocated() - before
                peaks[f'{name} MiB'] = peak / 2**20
        times: Dict[str, List[float]] = {}
        for _ in range(self.scale.rounds):
            for name, function in functions.items():
                start = time.perf_counter()
                for _ in range(runs[name]):
                    function()
                host = time.perf_counter() - start
                self.synchronize()
                total = time.perf_counter() - start
                times.setdefault(f'{name} ms', []).append(total / runs[name])
                times.setdefault(f'{name} host ms', []).append(
                    host / runs[name]
                )
        return {k: 1000 * median(v) for k, v in times.items()} | peaks


def make_inputs(
    check: Check, layer: Layer, batch: int, dtype: str, skew: str = 'random'
) -> Tuple[List[Tensor], Tensor, Tensor]:
    """Return maps, routing and the gradient of the output.

    Args:
        check (Check): For the device.
        layer (Layer): Sizes.
        batch (int): Images.
        dtype (str): Name of a type.
        skew (str): ``'random'``: random regions; ``'even'``: each region is
            chosen equally often; ``'quarter'``: by a quarter of the regions
            only; ``'one'``: all regions choose the same. Default:
            ``'random'``.

    Returns:
        tuple: q, k and v; the routing; and the gradient.
    """
    generator = torch.Generator().manual_seed(0)
    regions = layer.n_win**2
    size = [side * layer.n_win for side in layer.region]
    maps = torch.randn(
        4, batch, *size, layer.heads * layer.head_dim, generator=generator
    ).to(check.device, TYPES[dtype])
    if skew == 'random':
        order = torch.rand(batch, regions, regions, generator=generator)
        routing = order.argsort(-1)[..., : layer.topk]
    else:
        used = {
            'even': regions,
            'quarter': max(layer.topk, regions // 4),
            'one': layer.topk,
        }
        each = torch.arange(regions)[:, None] + torch.arange(layer.topk)
        routing = (each % used[skew]).expand(batch, -1, -1)
    q, k, v, grad = maps.unbind()
    return [q, k, v], routing.contiguous().to(check.device), grad


def attend(
    layer: Layer, maps: List[Tensor], routing: Tensor, name: str
) -> Tensor:
    """Return the output of a backend."""
    width = layer.heads * layer.head_dim
    return routed_attention(*maps, routing, layer.heads, width**-0.5, name)


def differentiate(
    layer: Layer, maps: List[Tensor], routing: Tensor, grad: Tensor, name: str
) -> Tuple[Tensor, ...]:
    """Return output and gradients of a backend."""
    leaves = [x.detach().requires_grad_() for x in maps]
    out = attend(layer, leaves, routing, name)
    return out.detach(), *torch.autograd.grad(out, leaves, grad)


def check_errors(
    check: Check, layer: Layer, batch: int, dtype: str, skew: str
) -> Dict[str, Any]:
    """Compare output and gradients with the reference in float64."""
    maps, routing, grad = make_inputs(check, layer, batch, dtype, skew)
    reason = backend.why_not(maps[0], routing, layer.heads, 1.0)
    if reason is not None:
        raise ConfigError(f'the kernels do not support this: {reason}')
    new = differentiate(layer, maps, routing, grad, NEW)
    again = differentiate(layer, maps, routing, grad, NEW)
    old = differentiate(layer, maps, routing, grad, BASELINE)
    worst = {BASELINE: 0.0, NEW: 0.0}
    # Image by image: the reference gathers topk times the map.
    for i in range(batch):
        one = slice(i, i + 1)
        exact = differentiate(
            layer, [x[one].double() for x in maps], routing[one],
            grad[one].double(), 'reference',
        )  # fmt: skip
        for name, results in ((NEW, new), (BASELINE, old)):
            for a, b in zip(results, exact, strict=True):
                largest = b.abs().max().clamp(min=1e-9)
                error = float((a[one].double() - b).abs().max() / largest)
                # A comparison with NaN is false.
                if not error <= worst[name]:
                    worst[name] = error
    eps = torch.finfo(TYPES[dtype]).eps
    allowed = 2 * worst[BASELINE] + 4 * eps
    return {
        f'{NEW} error': worst[NEW],
        f'{BASELINE} error': worst[BASELINE],
        'equal bits': all(map(torch.equal, new, again)),
        'passed': worst[NEW] <= allowed and all(map(torch.equal, new, again)),
    }


def check_correctness(check: Check) -> None:
    """Check all types and layers, skewed routing and large batches."""
    for layer in check.scale.checked:
        for dtype in check.scale.types:
            for skew in ('random', 'one'):
                check.add(
                    'correctness',
                    lambda case=(layer, 1, dtype, skew): check_errors(
                        check, *case
                    ),
                    layer=layer.name, batch=1, type=dtype, routing=skew,
                )  # fmt: skip
    # More programs than the second dimension of a grid takes.
    layer, dtype = check.scale.layers[-1], check.scale.types[0]
    for batch in check.scale.checked_batches[1:]:
        check.add(
            'correctness',
            lambda batch=batch: check_errors(
                check, layer, batch, dtype, 'random'
            ),
            layer=layer.name, batch=batch, type=dtype, routing='random',
        )  # fmt: skip


def time_layer(
    check: Check, layer: Layer, batch: int, dtype: str, mode: str,
    skew: str = 'random',
) -> Dict[str, float]:  # fmt: skip
    """Time both backends in turn."""
    maps, routing, grad = make_inputs(check, layer, batch, dtype, skew)

    def run(name: str) -> None:
        if mode == 'forward':
            with torch.no_grad():
                attend(layer, maps, routing, name)
        else:
            differentiate(layer, maps, routing, grad, name)

    times = check.time_in_turn(
        {name: lambda name=name: run(name) for name in (BASELINE, NEW)}
    )
    return {**times, 'ratio': times[f'{NEW} ms'] / times[f'{BASELINE} ms']}


MODES = ('forward', 'forward + backward')


def time_layers(check: Check) -> None:
    """Time all layers, batch sizes and types."""
    for dtype in check.scale.types:
        for batch in check.scale.batches:
            for layer in check.scale.layers:
                for mode in MODES:
                    check.add(
                        'speed',
                        lambda case=(layer, batch, dtype, mode): time_layer(
                            check, *case
                        ),
                        layer=layer.name, batch=batch, type=dtype, mode=mode,
                    )  # fmt: skip


def time_skew(check: Check) -> None:
    """Time routing from even to all regions choosing the same."""
    for layer in check.scale.layers:
        for skew in ('even', 'quarter', 'one'):
            check.add(
                'skew',
                lambda case=(layer, skew): time_layer(
                    check, case[0], 1, check.scale.types[0], MODES[1], case[1]
                ),
                layer=layer.name, routing=skew,
            )  # fmt: skip


@contextmanager
def tile_of(kernel: str, tile: backend.Tile) -> Iterator[None]:
    """Use a tile for a kernel, for every kind of input."""
    before = dict(backend.TILES)
    for key in before:
        if key[0] == kernel:
            backend.TILES[key] = tile
    try:
        yield
    finally:
        backend.TILES.update(before)


def time_tiles(check: Check) -> None:
    """Time each kernel with other tiles; the others keep theirs."""
    dtype = check.scale.types[0]
    for layer in check.scale.layers:
        maps, routing, grad = make_inputs(check, layer, 1, dtype)
        sizes = backend.plan(maps[0], routing, layer.heads)
        for kernel in ('forward', 'grad_q', 'grad_kv'):
            for tile in dict.fromkeys(
                (sizes.tile(kernel), *check.scale.tiles)
            ):

                def run(
                    kernel: str = kernel,
                    tile: backend.Tile = tile,
                    inputs: tuple = (layer, maps, routing, grad, NEW),
                ) -> Dict[str, float]:
                    with tile_of(kernel, tile):
                        return check.time_in_turn(
                            {NEW: lambda: differentiate(*inputs)}
                        )

                check.add(
                    'tiles', run, layer=layer.name, kernel=kernel,
                    **tile._asdict(), chosen=tile == sizes.tile(kernel),
                )  # fmt: skip


def make_backbone(
    check: Check, shape: Tuple[int, int], n_win: int, name: str, train: bool
) -> Callable[[], None]:
    """Return a function that runs the backbone in mixed precision."""
    torch.manual_seed(0)
    model = BiFormer(**check.scale.backbone, n_win=n_win, attn_backend=name)
    model = model.to(check.device).train(train)
    image = torch.rand(1, 3, *shape, device=check.device)
    device = check.device.type
    dtype = TYPES['bfloat16' if device == 'cpu' else 'float16']

    def run() -> None:
        with torch.set_grad_enabled(train), torch.autocast(device, dtype):
            outs = model(image)
        if train:
            model.zero_grad()
            sum(out.float().mean() for out in outs).backward()

    return run


def time_backbone(check: Check) -> None:
    """Time the backbone as --amp and --train do."""
    for shape, n_win in check.scale.shapes:
        for train in (False, True):

            def run(case: tuple = (shape, n_win, train)) -> Dict[str, float]:
                shape, n_win, train = case
                times = check.time_in_turn(
                    {
                        name: make_backbone(check, shape, n_win, name, train)
                        for name in (BASELINE, NEW)
                    }
                )
                ratio = times[f'{NEW} ms'] / times[f'{BASELINE} ms']
                return {**times, 'ratio': ratio}

            check.add(
                'backbone', run, image='x'.join(map(str, shape)),
                mode=MODES[train],
            )  # fmt: skip


def profile_step(check: Check, name: str, top: int = 25) -> Dict[str, str]:
    """Return what takes the most time of a training step, and its share."""
    from torch.profiler import ProfilerActivity, profile

    shape, n_win = check.scale.shapes[-1]
    on_gpu = check.device.type == 'cuda'
    run = make_backbone(check, shape, n_win, name, True)
    run()
    check.synchronize()
    with profile(
        activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    ) as profiler:
        run()
        check.synchronize()
    key = 'self_device_time_total' if on_gpu else 'self_cpu_time_total'
    # On a GPU only the kernels: an operator's time is that of its kernels.
    times = {
        event.key[:60]: getattr(event, key)
        for event in profiler.key_averages()
        if not on_gpu or event.device_type.name == 'CUDA'
    }
    total = sum(times.values())
    largest = sorted(times, key=times.get, reverse=True)[:top]
    return {part: f'{times[part] / total:.1%}' for part in largest}


def profile_backbone(check: Check) -> None:
    """List the shares of the parts of a training step."""
    for name in (BASELINE, NEW):
        check.add(
            'share',
            lambda name=name: dict(parts=profile_step(check, name)),
            backend=name,
        )


def verdict(check: Check, interpreted: bool) -> str:
    """Return whether ``'auto'`` should select the backend, and why."""
    checks = check.rows.get('correctness', [])
    wrong = [row for row in checks if not row.get('passed')]
    if wrong or not checks:
        return (
            f'NO: {len(wrong)} of {len(checks)} checks of correctness failed. '
            'Leave AUTO_ON_CUDA = False'
        )
    if interpreted:
        return (
            f'NONE: all {len(checks)} checks of correctness passed in the '
            'interpreter, whose speed says nothing'
        )
    rows = [
        row for part in ('speed', 'skew', 'backbone')
        for row in check.rows.get(part, [])
    ]  # fmt: skip
    missing = [row for row in rows if 'error' in row]
    slower = [row for row in rows if row.get('ratio', 0) > 1.05]
    if missing or slower:
        return (
            f'NOT YET: of {len(rows)} measurements, {len(slower)} are slower '
            f'than {BASELINE} by more than 5 %, and {len(missing)} are '
            'missing. Leave AUTO_ON_CUDA = False, and see the table'
        )
    return (
        f'YES: all {len(checks)} checks of correctness passed, and none of '
        f'{len(rows)} measurements is slower than {BASELINE} by more than '
        '5 %. Set AUTO_ON_CUDA = True in mmbiformer/ops/backends/triton.py'
    )


def format_cell(value: Any) -> str:
    """Format a value of the results."""
    if isinstance(value, dict):
        return '; '.join(f'{key}: {part}' for key, part in value.items())
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def to_markdown(report: Dict[str, Any]) -> str:
    """Format the report as Markdown tables."""
    machine = ', '.join(f'{k} {v}' for k, v in report['machine'].items())
    lines = ['# Triton backend', '', f'**{report["verdict"]}.**', '', machine]
    for section, rows in report['results'].items():
        titles = list(dict.fromkeys(key for row in rows for key in row))
        lines += ['', f'## {section}', '', f'| {" | ".join(titles)} |']
        lines.append(f'| {" | ".join("---" for _ in titles)} |')
        for row in rows:
            cells = (format_cell(row.get(title, '–')) for title in titles)
            lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def plot(rows: List[Dict[str, Any]], path: Path) -> None:
    """Plot the times of the layers side by side."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if 'ratio' in row]
    figure = Figure(figsize=(11, 1.5 + 0.22 * len(rows)), layout='constrained')
    axes = figure.subplots()
    labels = [
        f'{row["layer"]}, batch {row["batch"]}, {row["type"]}, {row["mode"]}'
        for row in rows
    ]
    for name, color, shift in (
        (BASELINE, '#0072B2', -0.2),
        (NEW, '#D55E00', 0.2),
    ):
        axes.barh(
            [i + shift for i in range(len(rows))],
            [row[f'{name} ms'] for row in rows],
            height=0.4, color=color, label=name,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xscale('log')
    axes.set_xlabel('ms')
    axes.legend()
    figure.savefig(path, dpi=150)


def describe_machine(device: torch.device) -> Dict[str, str]:
    """Return names and versions."""
    import triton

    machine = {
        'mmbiformer': __version__,
        'torch': torch.__version__,
        'triton': triton.__version__,
        'Python': platform.python_version(),
    }
    if device.type == 'cuda':
        machine['GPU'] = torch.cuda.get_device_name()
        machine['CUDA'] = torch.version.cuda
    else:
        machine['device'] = "Triton's interpreter on the CPU"
    return machine


def write_report(
    check: Check, paths: Dict[str, Path], interpreted: bool
) -> str:
    """Write what there is so far; return the verdict."""
    report = dict(
        command=['python', *sys.argv],
        machine=describe_machine(check.device),
        verdict=verdict(check, interpreted),
        results=check.rows,
    )
    text = json.dumps(report, indent=2) + '\n'
    paths['.json'].write_text(text, encoding='utf-8')
    paths['.md'].write_text(to_markdown(report), encoding='utf-8')
    if any('ratio' in row for row in check.rows.get('speed', [])):
        plot(check.rows['speed'], paths['.png'])
    return report['verdict']


def prepare(args: argparse.Namespace) -> Tuple[torch.device, Dict[str, Path]]:
    """Check the arguments and the machine."""
    if not backend.is_available():
        raise ConfigError('Triton is not installed')
    device = torch.device('cpu' if args.interpret else 'cuda')
    if not args.interpret and not torch.cuda.is_available():
        raise ConfigError(
            'torch finds no GPU; --interpret tests the tool without one'
        )
    check_writable(args.out.parent, '--out')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    paths = {}
    for suffix in ('.json', '.md', '.png'):
        paths[suffix] = args.out.with_name(args.out.name + suffix)
        check_output(paths[suffix], '--out')
    return device, paths


def run(args: argparse.Namespace) -> None:
    """Run all parts, the most important first."""
    device, paths = prepare(args)
    deadline = time.monotonic() + 60 * args.minutes
    check = Check(TINY if args.interpret else FULL, device, deadline)
    for part in (
        check_correctness,
        time_layers,
        time_skew,
        time_backbone,
        profile_backbone,
        time_tiles,
    ):
        part(check)
        # After each part, so that an interrupted run leaves what it has.
        answer = write_report(check, paths, args.interpret)
    print(f'\nresults     {", ".join(map(str, paths.values()))}')
    print(f'verdict     {answer}')


def main() -> None:
    args = parse_args()
    with command_line('gpu_check.py'):
        run(args)


if __name__ == '__main__':
    main()
