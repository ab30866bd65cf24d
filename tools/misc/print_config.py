"""Print a config with all that it inherits."""

import argparse
import sys
from pathlib import Path

from mmbiformer.engine.config import add_config_arguments, read_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        '--save-path',
        type=Path,
        metavar='FILE',
        help='save it too: .py, .json or .yml; FILE must not exist',
    )
    args = parser.parse_args()
    path = args.save_path
    if path and path.suffix not in ('.py', '.json', '.yml'):
        parser.error(f'--save-path must end in .py, .json or .yml, got {path}')
    if path and (path.exists() or not path.parent.is_dir()):
        parser.error(f'--save-path={path} exists, or its folder does not')
    return args


def main() -> None:
    args = parse_args()
    try:
        cfg = read_config(args.config, args.cfg_options)
    except (OSError, ValueError) as error:
        sys.exit(f'print_config.py: error: {error}')
    if args.save_path:
        cfg.dump(args.save_path)
    print(f'Config:\n{cfg.pretty_text}')


if __name__ == '__main__':
    main()
