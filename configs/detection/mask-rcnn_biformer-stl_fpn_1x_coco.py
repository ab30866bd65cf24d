_base_ = './maskrcnn_biformer_stl.py'
