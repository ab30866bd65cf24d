"""Print a config with everything that it inherits."""

import argparse
import signal
from pathlib import Path

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

from mmbiformer.utils.arguments import add_config_arguments
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.config import read_config
from mmbiformer.utils.files import check_output


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        '--save-path',
        type=Path,
        metavar='FILE',
        help='also save it to a new file: .py, .json or .yml',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with command_line('print_config.py'):
        if args.save_path:
            check_output(
                args.save_path,
                '--save-path',
                suffixes=('.py', '.json', '.yml'),
            )
        cfg = read_config(args.config, args.cfg_options)
        if args.save_path:
            cfg.dump(args.save_path)
        print(f'Config:\n{cfg.pretty_text}')


if __name__ == '__main__':
    main()
