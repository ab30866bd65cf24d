_base_ = './maskrcnn_biformer.py'
