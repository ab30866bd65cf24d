"""The main job on a small scale: make digits, train, test, show the results.

Trains Mask R-CNN with a small BiFormer on scenes of real handwritten digits,
tests the saved checkpoint, and prints box and mask AP on scenes and digits
that training never saw. An interrupted run goes on from its last checkpoint.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from mmengine.runner import find_latest_checkpoint

TOOLS = Path(__file__).resolve().parent
CONFIG = os.path.relpath(
    TOOLS.parent / 'configs/detection/maskrcnn_biformer_digits.py'
)
DATA = 'data/digits'
WORK_DIR = Path('work_dirs/maskrcnn_biformer_digits')


def run(script: str, *arguments: object) -> float:
    """Run one of the tools; return its seconds, or end as it ended."""
    command = ['python', os.path.relpath(TOOLS / script)]
    command += map(str, arguments)
    print(f'\n$ {shlex.join(command)}', flush=True)
    start = time.monotonic()
    code = subprocess.run([sys.executable, *command[1:]]).returncode
    if code:
        sys.exit(f'demo.py: error: {script} ended with exit status {code}')
    return time.monotonic() - start


def print_results(metrics: dict) -> None:
    """Print a table of box and mask AP."""
    columns = ['AP', 'AP50', 'AP75']
    keys = ['mAP', 'mAP_50', 'mAP_75']
    print('\nOn the validation scenes:')
    print(f'{"":6}' + ''.join(f'{column:>8}' for column in columns))
    for name, kind in (('box', 'bbox'), ('mask', 'segm')):
        values = [metrics[f'coco/{kind}_{key}'] for key in keys]
        print(f'{name:6}' + ''.join(f'{value:8.3f}' for value in values))


def main() -> None:
    """Run the demo."""
    run('dataset_converters/digits.py', DATA)
    seconds = run('train.py', CONFIG, '--work-dir', WORK_DIR, '--resume')
    checkpoint = os.path.relpath(find_latest_checkpoint(str(WORK_DIR)))
    run(
        'test.py', CONFIG, checkpoint,
        '--work-dir', WORK_DIR / 'test', '--show-dir', 'pictures',
    )  # fmt: skip
    # mmengine names the folder of a run by its time.
    test_run = max(path.parent for path in WORK_DIR.glob('test/*/*.json'))
    metrics = json.loads((test_run / f'{test_run.name}.json').read_text())

    curves, routing = WORK_DIR / 'curves.png', WORK_DIR / 'routing'
    run('analysis_tools/plot_log.py', WORK_DIR, '--out', curves)
    run(
        'visualization/routing.py', f'{DATA}/images/val/000009.png', CONFIG,
        '--checkpoint', checkpoint,
        '--out', f'{routing}.png', '--html', f'{routing}.html',
    )  # fmt: skip

    print_results(metrics)
    print(f'\ntrain.py took {seconds:.0f} s, what it resumed not counted.')
    print(f'checkpoint  {checkpoint}')
    print(f'logs        {WORK_DIR}/<time>/')
    print(f'pictures    {test_run}/pictures/ (ground truth | prediction)')
    print(f'curves      {curves}')
    print(f'routing     {routing}.png, and {routing}.html to explore')


if __name__ == '__main__':
    main()
