"""Print a config with everything that it inherits."""

import argparse
import sys
from pathlib import Path

from mmbiformer.utils.config import add_config_arguments, read_config
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
    try:
        if args.save_path:
            check_output(
                args.save_path,
                '--save-path',
                suffixes=('.py', '.json', '.yml'),
            )
        cfg = read_config(args.config, args.cfg_options)
    except (OSError, ValueError) as error:
        sys.exit(f'print_config.py: error: {error}')
    if args.save_path:
        cfg.dump(args.save_path)
    print(f'Config:\n{cfg.pretty_text}')


if __name__ == '__main__':
    main()
