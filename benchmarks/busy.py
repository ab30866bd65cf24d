"""Compare how long threads of OpenMP spin, beside busy processes.

    python benchmarks/busy.py train
    python benchmarks/busy.py inference --spin 0 1000 default --busy 1
    LD_PRELOAD=libomp.so python benchmarks/busy.py train \
        --variable KMP_BLOCKTIME --spin 0 1 10 default

Each count has its own process, which loads torch with it. The processes take
turns, while others run endless loops. It needs an otherwise idle machine.
"""

import argparse
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Dict, Iterator, List

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from measure import Candidate, Job, Setting

DIGITS = Path(__file__).parents[1] / (
    'configs/detection/maskrcnn_biformer_digits.py'
)
WORKLOADS = {
    'train': (Candidate('biformer-tiny'), Setting((128, 128), 4, train=True)),
    'inference': (Candidate('biformer-small'), Setting((800, 1333), 16)),
    'digits': (
        Candidate(str(DIGITS), is_config=True),
        Setting((160, 160), 8, batch_size=2, train=True),
    ),
}
"""dict[str, tuple]: What is measured, by name."""
SPINS = ('0', '500', '1000', '1300', '2000', '5000', '10000', 'default')
LOOP = 'while True: pass'
WARM_UP_RUNS = 2


def serve(connection: Connection, workload: str, threads: int) -> None:
    """Run the workload for each request; answer with the seconds."""
    import torch

    torch.set_num_threads(threads)
    candidate, setting = WORKLOADS[workload]
    job = Job(candidate, setting)
    forward = job.prepare(setting.shape)
    for _ in range(WARM_UP_RUNS):
        job.run(forward)
    connection.send(None)
    while connection.recv():
        start = time.perf_counter()
        job.run(forward)
        connection.send(time.perf_counter() - start)


@contextlib.contextmanager
def started(
    workload: str, variable: str, spins: List[str], threads: int
) -> Iterator[Dict[str, Connection]]:
    """Start a process for each count; yield the connections by count."""
    context = multiprocessing.get_context('spawn')
    connections, processes = {}, []
    try:
        for spin in spins:
            os.environ[variable] = spin
            if spin == 'default':
                del os.environ[variable]
            connections[spin], other = context.Pipe()
            process = context.Process(
                target=serve, args=(other, workload, threads), daemon=True
            )
            process.start()
            processes.append(process)
            connections[spin].recv()
        yield connections
    finally:
        for process in processes:
            process.kill()
            process.join()


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Keep other processes busy."""
    loops = [
        subprocess.Popen([sys.executable, '-c', LOOP]) for _ in range(number)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(
    connections: Dict[str, Connection], repeat: int
) -> Dict[str, List[float]]:
    """Return the seconds of each round, by count."""
    seconds = {spin: [] for spin in connections}
    for _ in range(repeat):
        for spin, connection in connections.items():
            connection.send(True)
            seconds[spin].append(connection.recv())
    return seconds


def row(busy: int, seconds: Dict[str, List[float]]) -> str:
    """Return a line of the table."""
    cells = [
        f'{median(values):.3f} ({min(values):.3f}–{max(values):.3f})'
        for values in seconds.values()
    ]
    return f'| {" | ".join([str(busy), *cells])} |'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'workload',
        choices=WORKLOADS,
        help='train: a step of BiFormer-T at 128×128; inference: BiFormer-S '
        'at 800×1333; digits: a step of the Mask R-CNN of the demo',
    )
    parser.add_argument(
        '--spin',
        nargs='+',
        default=SPINS,
        metavar='COUNT',
        help=f'values of the variable, or "default" for none (default: '
        f'{" ".join(SPINS)})',
    )
    parser.add_argument(
        '--variable',
        default='GOMP_SPINCOUNT',
        help="the setting: GOMP_SPINCOUNT of GNU's OpenMP, with which torch "
        "comes on Linux, or KMP_BLOCKTIME of LLVM's and Intel's (default: "
        '%(default)s)',
    )
    parser.add_argument(
        '--busy',
        nargs='+',
        type=int,
        default=(0, 1, 3),
        metavar='N',
        help='numbers of other busy processes (default: 0 1 3)',
    )
    parser.add_argument(
        '--threads',
        type=int,
        default=len(os.sched_getaffinity(0)),
        help='number of threads (default: the cores, %(default)s)',
    )
    parser.add_argument(
        '--repeat',
        type=int,
        default=15,
        help='number of rounds, in each of which every count runs once '
        '(default: %(default)s)',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    print(f'| busy | {" | ".join(args.spin)} |')
    print(f'| --- |{" ---: |" * len(args.spin)}')
    with started(
        args.workload, args.variable, args.spin, args.threads
    ) as connections:
        for busy in args.busy:
            with busy_loops(busy):
                seconds = measure(connections, args.repeat)
            print(row(busy, seconds), flush=True)


if __name__ == '__main__':
    main()
