_base_ = './retinanet_biformer_tiny.py'
