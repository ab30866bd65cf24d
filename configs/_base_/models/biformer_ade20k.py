# BiFormer in both segmentors of the authors: 8 regions per side for crops of
# 512 px, batch norms synced over the GPUs (where there is one, or none, they
# are plain ones).
_base_ = 'biformer.py'

biformer = dict(small=dict(n_win=8))
sync_bn = 'torch'
