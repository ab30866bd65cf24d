_base_ = 'mmdet::_base_/datasets/coco_detection.py'
data_preparation = 'see "Train on COCO" in README.md'
