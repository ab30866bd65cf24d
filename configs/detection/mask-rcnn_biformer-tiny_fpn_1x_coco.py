_base_ = './maskrcnn_biformer_tiny.py'
