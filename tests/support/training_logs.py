"""Logs as mmengine writes them."""

import json


def write_run(folder, steps, factor=1.0, evaluate=(), cut=''):
    """Write what mmengine logs: steps of training, epochs of evaluation."""
    path = folder / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    entries = [
        dict(
            lr=1e-3 / step, data_time=0.01, time=0.3, memory=4000,
            loss=factor / step, loss_cls=0.7 * factor / step,
            epoch=1 + step // 100, iter=step, step=step,
        )
        for step in steps
    ]  # fmt: skip
    for epoch in evaluate:
        entries.append(
            {'coco/bbox_mAP': 0.1 * epoch, 'coco/bbox_mAP_s': -1.0,
             'time': 0.1, 'step': epoch}
        )  # fmt: skip
        entries.append({'routing/stage3/entropy': 0.9, 'step': 100 * epoch})
    text = '\n'.join(json.dumps(entry) for entry in entries) + '\n' + cut
    path.write_text(text)
    return path
