"""Check all data of a config, before training.

All images, annotations, label maps and labels are read. The exit status is 1
if any problem would stop training or testing, or lead to wrong results.
"""

import argparse
import os
import signal
import sys

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from mmbiformer.datacheck.splits import SPLITS, check_split
from mmbiformer.utils.arguments import add_config_arguments
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.config import read_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--splits',
        nargs='+',
        choices=SPLITS,
        default=('train', 'val'),
        help='data sets to check (default: train val)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=os.cpu_count() or 1,
        help='number of processes that read images (default: one per core)',
    )
    parser.add_argument(
        '--show',
        type=int,
        default=3,
        metavar='N',
        help='number of files to list for each kind of problem '
        '(default: %(default)s)',
    )
    args = parser.parse_args()
    for name, least in (('workers', 1), ('show', 0)):
        if getattr(args, name) < least:
            parser.error(
                f'--{name} must be at least {least}, got {getattr(args, name)}'
            )
    return args


def main() -> None:
    args = parse_args()
    with command_line('check_dataset.py'):
        cfg = read_config(args.config, args.cfg_options)
        reports = [
            check_split(cfg, split, args.workers) for split in args.splits
        ]
    for report in reports:
        print(f'\n{report.text(args.show)}')
    fatal = [
        f'{report.name}: {kind}' for report in reports for kind in report.fatal
    ]
    if fatal:
        sys.exit(
            '\ncheck_dataset.py: training or testing would stop, or give '
            f'wrong results: {"; ".join(fatal)}'
        )
    print('\nnothing would stop training or testing')


if __name__ == '__main__':
    main()
