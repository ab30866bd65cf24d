_base_ = './retinanet_biformer_base.py'
