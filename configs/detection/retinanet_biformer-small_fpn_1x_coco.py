_base_ = './retinanet_biformer.py'
