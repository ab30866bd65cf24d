"""Train, test and visualize a small BiFormer on handwritten digits.

The data sets consist of scenes of real handwritten digits or, for
classification, of images of one digit. The saved checkpoint is tested on
images and digits that were not used for training, and box and mask AP, mIoU,
or top-1 and top-5 accuracy are printed. To show the effect of pretraining,
the segmentors are trained from scratch and from the backbone of the Mask
R-CNN, which is trained first if it is missing, and with the classifier, Mask
R-CNN is trained in half of its epochs, from scratch and from the backbone of
the classifier. An interrupted run resumes from its last checkpoint.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Dict, Tuple

ROOT = Path(__file__).resolve().parents[1]
TOOLS, CONFIGS = ROOT / 'tools', ROOT / 'configs'
DATA = 'data/digits'
SINGLE_DIGITS = 'data/single_digits'
WORK_DIRS = Path('work_dirs')
RUNS = {
    'classification': [
        'classification/biformer_digits',
        'detection/maskrcnn_biformer_digits_half',
        'detection/maskrcnn_biformer_digits_pretrained',
    ],
    'maskrcnn': ['detection/maskrcnn_biformer_digits'],
    'retinanet': ['detection/retinanet_biformer_digits'],
    'sfpn': [
        'segmentation/sfpn_biformer_digits',
        'segmentation/sfpn_biformer_digits_finetune',
    ],
    'upernet': [
        'segmentation/upernet_biformer_digits',
        'segmentation/upernet_biformer_digits_finetune',
    ],
}
"""dict[str, list[str]]: Configs by task, from the first to the last run."""
METRICS = {
    'box AP': 'coco/bbox_mAP',
    'AP50': 'coco/bbox_mAP_50',
    'AP75': 'coco/bbox_mAP_75',
    'mask AP': 'coco/segm_mAP',
    'mask AP50': 'coco/segm_mAP_50',
    'mask AP75': 'coco/segm_mAP_75',
    'mIoU': 'mIoU',
    'mAcc': 'mAcc',
    'aAcc': 'aAcc',
    'top-1': 'accuracy/top1',
    'top-5': 'accuracy/top5',
}
"""dict[str, str]: What to print, and its key in the metrics."""


def run(script: str, *arguments: object) -> float:
    """Run one of the tools and return its seconds; exit if it fails."""
    command = ['python', os.path.relpath(TOOLS / script)]
    command += map(str, arguments)
    print(f'\n$ {shlex.join(command)}', flush=True)
    start = time.monotonic()
    code = subprocess.run([sys.executable, *command[1:]]).returncode
    if code:
        sys.exit(f'demo.py: error: {script} ended with exit status {code}')
    return time.monotonic() - start


def train(name: str) -> Tuple[str, Path, float]:
    """Train with a config, or resume its run.

    Args:
        name (str): The config, without ``.py``, in the folder of configs.

    Returns:
        tuple: The config file, the last checkpoint and the seconds.
    """
    # It takes seconds to import; --help should not.
    from mmbiformer.reliable.resume import find_checkpoint

    config = os.path.relpath(CONFIGS / f'{name}.py')
    work_dir = WORK_DIRS / Path(name).name
    seconds = run('train.py', config, '--work-dir', work_dir, '--resume')
    checkpoint = os.path.relpath(find_checkpoint(work_dir))
    return config, Path(checkpoint), seconds


def evaluate(config: str, checkpoint: Path) -> dict:
    """Test a checkpoint and draw its predictions.

    Args:
        config (str): The config file.
        checkpoint (Path): The checkpoint, in the folder of its run.

    Returns:
        dict: The metrics by name.
    """
    out = checkpoint.parent / 'test'
    run(
        'test.py', config, checkpoint,
        # mmdet takes a relative folder as one in that of the run.
        '--work-dir', out, '--show-dir', Path(out, 'pictures').resolve(),
    )  # fmt: skip
    # mmengine names the folder of a run by its time.
    metrics = max(out.glob('[0-9]*_*/[0-9]*_*.json'))
    return json.loads(metrics.read_text())


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--task',
        choices=RUNS,
        default='maskrcnn',
        help='what to train (default: %(default)s)',
    )
    task = parser.parse_args().task

    classifies = task == 'classification'
    run('dataset_converters/digits.py', DATA)
    if classifies:
        run('dataset_converters/single_digits.py', SINGLE_DIGITS)
    results = {}
    for name in RUNS[task]:
        if name.endswith('_finetune'):
            train(*RUNS['maskrcnn'])
        config, checkpoint, seconds = train(name)
        metrics = evaluate(config, checkpoint)
        results[Path(name).name] = (config, checkpoint, seconds, metrics)

    # The classifier comes first, and what starts from it follows.
    config, checkpoint, *_ = list(results.values())[0 if classifies else -1]
    work_dir = checkpoint.parent
    curves, routing = work_dir / 'curves.png', work_dir / 'routing'
    run('analysis_tools/plot_log.py', work_dir, '--out', curves)
    image = f'{DATA}/images/val/000009.png'
    if classifies:
        image = min(Path(SINGLE_DIGITS).glob('val/3/*.png'))
    run(
        'visualization/routing.py', image, config,
        '--checkpoint', checkpoint,
        '--out', f'{routing}.png', '--html', f'{routing}.html',
    )  # fmt: skip

    print('\nOn the validation images:')
    print_metrics({name: metrics for name, (*_, metrics) in results.items()})
    print()
    for name, (*_, seconds, _) in results.items():
        print(f'{name}: train.py took {seconds:.0f} s')
    print('Training that an earlier call did is not included.')
    print(f'checkpoint  {checkpoint}')
    print(f'logs        {work_dir}/<time>/')
    print(f'pictures    {work_dir}/test/pictures/')
    print(f'curves      {curves}')
    print(f'routing     {routing}.png, and {routing}.html to explore')


def print_metrics(results: Dict[str, dict]) -> None:
    """Print a table of the runs, with a header for each kind of metrics."""
    width = max(map(len, results))

    def header(name: str) -> str:
        shown = [one for one, key in METRICS.items() if key in results[name]]
        return ''.join(f'{one:>11}' for one in shown)

    for names, group in groupby(results, header):
        print(' ' * width + names)
        for name in group:
            values = ''.join(
                f'{results[name][key]:11.3f}'
                for key in METRICS.values()
                if key in results[name]
            )
            print(f'{name:{width}}{values}')


if __name__ == '__main__':
    main()
