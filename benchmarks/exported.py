"""Compare exported backbones, run by onnxruntime, with PyTorch.

    python benchmarks/exported.py --shape 512x512

BiFormer-S with random weights is exported in both forms of attention to a
temporary folder, or to --folder, where files of an earlier run are used. All
take turns in one process. It needs an idle machine; with --threads 1, the time
of the CPU is measured, which other processes hardly change.
"""

import argparse
import contextlib
import signal
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Callable, Dict, List

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch
from mmengine.config import Config

from mmbiformer.deployment.graphs import BackboneGraph
from mmbiformer.deployment.metadata import describe
from mmbiformer.deployment.rewrites import ATTENTIONS
from mmbiformer.deployment.runtime import Session
from mmbiformer.deployment.tracing import Sizes, trace, write_onnx
from mmbiformer.utils.config import build_model, read_config

CONFIGS = Path(__file__).parents[1] / 'configs'
WARM_UP_RUNS = 2


def read_recipe(height: int) -> Config:
    """Return the recipe of a size: 16 x 16 regions for images of COCO."""
    name = 'detection/maskrcnn_biformer.py'
    if height <= 512:
        name = 'segmentation/sfpn_biformer.py'
    return read_config(str(CONFIGS / name))


def export(
    cfg: Config, model: torch.nn.Module, sizes: Sizes, form: str, path: Path
) -> None:
    """Write the backbone of a model; its weights are of no importance."""
    graph = BackboneGraph(model).eval()
    names = tuple(graph.output_names)
    metadata = describe(
        cfg, model, names, dict(classes=[], palette=[]), sizes._asdict(),
        form, None,
    )  # fmt: skip
    write_onnx(trace(graph, sizes, form), names, metadata, path)


def take_turns(
    runs: Dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float],
) -> Dict[str, List[float]]:
    """Return the milliseconds of each run, by name."""
    times: Dict[str, List[float]] = {name: [] for name in runs}
    for i in range(-WARM_UP_RUNS, rounds):
        for name, run in runs.items():
            start = clock()
            run()
            if i >= 0:
                times[name].append(1000 * (clock() - start))
    return times


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--shape', default='512x512', metavar='HxW')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--folder', type=Path, help='keep the files here')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    height, width = map(int, args.shape.split('x'))
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cfg = read_recipe(height)
    model = build_model(cfg).eval()
    sizes = Sizes(1, height, width)
    images = 255 * torch.rand(1, 3, height, width)
    graph = BackboneGraph(model).eval()
    runs: Dict[str, Callable[[], object]] = {'torch': lambda: graph(images)}
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory())
        )
        stack.enter_context(torch.no_grad())
        for form in ATTENTIONS:
            path = folder / f'{form}_{args.shape}.onnx'
            if not path.exists():
                export(cfg, model, sizes, form, path)
            session = Session(str(path), threads=args.threads)
            # Of other weights if the file is of an earlier run.
            runs[form] = lambda session=session: session(images.numpy())
        clock = time.perf_counter if args.threads > 1 else time.process_time
        times = take_turns(runs, args.rounds, clock)
    base = min(times['torch'])
    print(f'{"":10}  least ms  median ms  of torch')
    for name, values in times.items():
        print(
            f'{name:10}  {min(values):8.1f}  {median(values):9.1f}  '
            f'{min(values) / base:8.2f}'
        )


if __name__ == '__main__':
    main()
