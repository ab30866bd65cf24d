# BiFormer in both detectors of the authors: 16 regions per side, batch norms
# that keep the statistics of ImageNet.
_base_ = 'biformer.py'

biformer = dict(
    small=dict(n_win=16, drop_path_rate=0.2, norm_eval=True),
    base=dict(drop_path_rate=0.3),
    # The authors trained no detector with BiFormer-T; the rate is ours.
    tiny=dict(drop_path_rate=0.1),
)
