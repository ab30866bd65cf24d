_base_ = './maskrcnn_biformer_base.py'
