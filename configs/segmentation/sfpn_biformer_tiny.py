# Semantic FPN 80k on ADE20K with BiFormer-T. The authors trained no segmentor
# with it; the drop path rate is ours, below that of BiFormer-S.
_base_ = ['sfpn_biformer.py', '../_base_/models/biformer_tiny.py']

model = dict(backbone=dict(drop_path_rate=0.1, **_base_.biformer_tiny))
