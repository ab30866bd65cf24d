_base_ = './maskrcnn_biformer_3x.py'
