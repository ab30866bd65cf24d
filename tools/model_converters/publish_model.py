"""Publish a checkpoint: without the optimizer, its hash in the name."""

import argparse
import signal
from pathlib import Path

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

from mmbiformer.checkpoints.convert import strip_checkpoint
from mmbiformer.checkpoints.io import load_checkpoint, save_atomically
from mmbiformer.utils.command_line import command_line


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('in_file', help='checkpoint to publish')
    parser.add_argument(
        'out_file',
        type=Path,
        help='NAME.pth, which becomes NAME-<8 digits of its sha256>.pth',
    )
    parser.add_argument(
        '--save-keys',
        nargs='+',
        default=['meta', 'state_dict'],
        help='what to keep of the checkpoint (default: meta state_dict)',
    )
    parser.add_argument(
        '--force', action='store_true', help='overwrite where it exists'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with command_line('publish_model.py'):
        checkpoint, left_out = strip_checkpoint(
            load_checkpoint(args.in_file, map_location='cpu'),
            args.in_file,
            args.save_keys,
        )
        path = save_atomically(
            checkpoint, args.out_file, args.force, add_hash=True
        )
    print(f'left out: {", ".join(left_out) or "nothing"}')
    print(f'written to {path}')


if __name__ == '__main__':
    main()
