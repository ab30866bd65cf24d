_base_ = './sfpn_biformer_tiny.py'
