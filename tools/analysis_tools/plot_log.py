"""Plot the curves of one or several training runs on one page."""

import argparse
import signal
from pathlib import Path

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.files import check_output
from mmbiformer.visualization import PICTURE_SUFFIXES
from mmbiformer.visualization.curves import draw_curves, read_log


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'logs',
        nargs='+',
        metavar='LOG',
        help='work directory (its runs are merged, as parts of a resumed '
        'training), folder of a run, or scalars.json',
    )
    parser.add_argument(
        '--legend', nargs='+', metavar='NAME', help='name of each run'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default='curves.png',
        metavar='FILE',
        help=f'file to write, {", ".join(PICTURE_SUFFIXES)} '
        '(default: %(default)s)',
    )
    args = parser.parse_args()
    if args.legend and len(args.legend) != len(args.logs):
        parser.error(
            f'--legend must name each of the {len(args.logs)} runs, got '
            f'{len(args.legend)} names'
        )
    return args


def main() -> None:
    args = parse_args()
    names = args.legend or [None] * len(args.logs)
    with command_line('plot_log.py'):
        check_output(args.out, '--out', True, PICTURE_SUFFIXES)
        runs = [
            read_log(log, name)
            for log, name in zip(args.logs, names, strict=True)
        ]
        draw_curves(runs).savefig(args.out)
    print(f'picture     {args.out}')


if __name__ == '__main__':
    main()
