_base_ = './upernet_biformer_stl.py'
