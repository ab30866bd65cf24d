"""Convert a checkpoint of the authors' code for one of our configs.

SRC is what the authors' code left: ImageNet weights, or a checkpoint of a
whole detector (mmdet 2) or segmentor (mmseg 0). All its weights are accounted
for, and DST holds those that CONFIG's model has:

    weights of a whole model   tools/test.py CONFIG DST, or load_from=DST
    ImageNet weights           the same if CONFIG is for classification, else
                               model.backbone.init_cfg.checkpoint=DST

(The authors' ImageNet files load as they are, too.)
"""

import argparse
import signal
from pathlib import Path

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

from mmbiformer.checkpoints.convert import convert_checkpoint
from mmbiformer.checkpoints.io import load_checkpoint, save_atomically
from mmbiformer.utils.arguments import add_config_arguments
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.config import read_config
from mmbiformer.utils.files import check_output
from mmbiformer.utils.text import list_some


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument('src', metavar='SRC', help='checkpoint to convert')
    parser.add_argument('dst', metavar='DST', type=Path, help='file to write')
    parser.add_argument(
        '--force', action='store_true', help='overwrite DST where it exists'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with command_line('biformer_to_mmbiformer.py'):
        check_output(args.dst, 'DST', args.force)
        cfg = read_config(args.config, args.cfg_options)
        checkpoint = load_checkpoint(args.src, map_location='cpu')
        checkpoint, fates = convert_checkpoint(checkpoint, cfg, args.src)
        save_atomically(checkpoint, args.dst, args.force)
    print(f'{len(fates["kept"])} weights of {args.src} written to {args.dst}')
    for fate, why in (
        ('left out', 'the model has no such layer'),
        ('initial', 'not in SRC, so initialized by the model'),
    ):
        names = fates[fate]
        if names:
            print(f'{len(names)} {fate} ({why}): {list_some(names)}')


if __name__ == '__main__':
    main()
