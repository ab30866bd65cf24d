"""Put BiFormer under the heads of another config of mmdet or mmseg.

    swap_backbone.py mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py \
dino_biformer.py --arch small

writes a config that inherits from the first, with BiFormer as in our Mask
R-CNN (mmdet) or UperNet (mmseg) recipe: its weights, drop path and image
normalization; the channels that the neck or heads take; and the optimizer,
where the config has not AdamW already, with no decay of the norms.
"""

import argparse
import os.path as osp
import signal
from pathlib import Path

from mmbiformer_threads import limit_threads

if __name__ == '__main__':
    # Ctrl-C during the imports ends the tool without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_threads()

from mmbiformer.models import BiFormer
from mmbiformer.models.swap import render_config, swap_backbone, try_swap
from mmbiformer.utils.command_line import command_line
from mmbiformer.utils.config import read_config, task_of
from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.files import check_output

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
DONORS = dict(detection='maskrcnn_biformer', segmentation='upernet_biformer')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'config', help='config file path, or a name as mmdet::FOLDER/FILE.py'
    )
    parser.add_argument('out', type=Path, help='config file to write')
    parser.add_argument(
        '--arch', choices=list(BiFormer.arch_zoo), default='small'
    )
    parser.add_argument(
        '--donor',
        help='another config whose BiFormer to take, instead of --arch',
    )
    parser.add_argument(
        '--force', action='store_true', help='overwrite OUT where it exists'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with command_line('swap_backbone.py'):
        check_output(args.out, 'OUT', args.force)
        name = args.config
        cfg = read_config(name)
        if '::' not in name:
            name = osp.relpath(name, args.out.parent)
        suffix = '' if args.arch == 'small' else f'_{args.arch}'
        task = task_of(cfg)
        if task not in DONORS:
            raise ConfigError(
                f'config={name!r} is for {task}, not for one of '
                f'{tuple(DONORS)}; for classification, see '
                'docs/classification.md'
            )
        donor = CONFIGS / task / f'{DONORS[task]}{suffix}.py'
        donor = read_config(args.donor or str(donor))
        swap = swap_backbone(cfg, donor)
        notes = [*swap.notes, *try_swap(cfg, swap)]
        args.out.write_text(render_config(cfg, name, swap.settings))
    print(f'written to {args.out}', *notes, sep='\n')


if __name__ == '__main__':
    main()
