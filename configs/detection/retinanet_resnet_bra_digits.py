# retinanet_resnet_digits with bi-level routing attention in stages 2 and 3.
_base_ = 'retinanet_resnet_digits.py'

model = dict(
    backbone=dict(
        plugins=[
            dict(
                # Maps of 20 and 10 tokens a side: 5 needs no padding.
                cfg=dict(type='BRAPlugin', n_win=5, topk=4),
                stages=(False, True, True, False),
                position='after_conv3',
            )
        ]
    )
)
