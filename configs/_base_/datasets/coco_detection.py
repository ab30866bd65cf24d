_base_ = 'mmdet::_base_/datasets/coco_detection.py'
data_preparation = 'see docs/data_preparation.md'
