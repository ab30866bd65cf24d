"""A config of every folder of mmdet's and mmseg's configs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A config, and what comes of it with BiFormer.

    Attributes:
        name (str): Its name.
        when (str): ``'quick'`` for every run of the tests, ``'ci'`` for the
            slow ones of CI, ``'every'`` for the run over all folders.
        refused (str): Part of the error, for a config that cannot work.
        needs (str): What the page says that it needs, for one that cannot be
            tried without.
        message (str): Part of the error that its absence causes.
        no_prediction (str): Part of the error of its head's prediction, which
            fails here with any backbone.
    """

    name: str
    when: str = 'every'
    refused: str = ''
    needs: str = ''
    message: str = ''
    no_prediction: str = ''


WITHOUT_MODEL = {'_base_', 'common'}
"""set[str]: Folders whose files have no model of their own."""
CASES = (
    Case('mmdet::albu_example/mask-rcnn_r50_fpn_albu-1x_coco.py'),
    Case('mmdet::atss/atss_r50_fpn_1x_coco.py', when='ci'),
    Case('mmdet::autoassign/autoassign_r50-caffe_fpn_1x_coco.py'),
    Case(
        'mmdet::boxinst/boxinst_r50_fpn_ms-90k_coco.py',
        needs='scikit-image',
        message='skimage',
    ),
    Case(
        'mmdet::bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot20train_test-mot20test.py',
        when='ci',
        refused='no backbone of its own',
    ),
    Case(
        'mmdet::carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py',
        needs='an operator for GPUs',
        message='device cpu',
    ),
    Case(
        'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', when='ci'
    ),
    Case(
        'mmdet::cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py'
    ),
    Case(
        'mmdet::centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py',
        when='ci',
    ),
    Case(
        'mmdet::centripetalnet/centripetalnet_hourglass104_16xb6-crop511-210e-mstest_coco.py',
        refused='maps have strides [4, 4]',
    ),
    Case('mmdet::cityscapes/faster-rcnn_r50_fpn_1x_cityscapes.py'),
    Case(
        'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
        when='ci',
    ),
    Case(
        'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
        when='ci',
    ),
    Case(
        'mmdet::convnext/cascade-mask-rcnn_convnext-s-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py',
        needs='mmpretrain',
    ),
    Case(
        'mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py',
        when='ci',
        refused='maps have strides [4, 4]',
    ),
    Case(
        'mmdet::crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py',
        needs='torchvision',
        message='torchvision',
    ),
    Case('mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py', when='ci'),
    Case(
        'mmdet::dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py',
        needs='an operator for GPUs',
        message='device cpu',
    ),
    Case(
        'mmdet::dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco.py',
        needs='an operator for GPUs',
        message='device cpu',
    ),
    Case('mmdet::ddod/ddod_r50_fpn_1x_coco.py'),
    Case('mmdet::ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py'),
    Case('mmdet::deepfashion/mask-rcnn_r50_fpn_15e_deepfashion.py'),
    Case(
        'mmdet::deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_mot17train_test-mot17test.py',
        refused='no backbone of its own',
    ),
    Case(
        'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        when='ci',
    ),
    Case(
        'mmdet::detectors/detectors_cascade-rcnn_r50_1x_coco.py',
        when='ci',
        refused='5 maps of strides [1, 4, 8, 16, 32]',
    ),
    Case('mmdet::detr/detr_r50_8xb2-150e_coco.py', when='ci'),
    Case('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', when='quick'),
    Case('mmdet::double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py'),
    Case('mmdet::dsdl/coco.py'),
    Case('mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py', when='ci'),
    Case('mmdet::dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py'),
    Case('mmdet::efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py'),
    Case('mmdet::empirical_attention/faster-rcnn_r50-attn0010_fpn_1x_coco.py'),
    Case('mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py'),
    Case(
        'mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py',
        when='ci',
        refused='C4 or DC5',
    ),
    Case('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', when='ci'),
    Case('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', when='ci'),
    Case('mmdet::foveabox/fovea_r50_fpn_4xb4-1x_coco.py'),
    Case('mmdet::fpg/faster-rcnn_r50_fpg_crop640-50e_coco.py'),
    Case('mmdet::free_anchor/freeanchor_r50_fpn_1x_coco.py'),
    Case('mmdet::fsaf/fsaf_r50_fpn_1x_coco.py'),
    Case('mmdet::gcnet/mask-rcnn_r50-syncbn_fpn_1x_coco.py'),
    Case('mmdet::gfl/gfl_r50_fpn_1x_coco.py', when='ci'),
    Case('mmdet::ghm/retinanet_r50_fpn_ghm-1x_coco.py'),
    Case(
        'mmdet::glip/glip_atss_swin-t_fpn_dyhead_16xb2_ms-2x_funtune_coco.py',
        when='ci',
        needs='transformers',
        message='transformers',
    ),
    Case('mmdet::gn+ws/mask-rcnn_r50_fpn_gn-ws-all_2x_coco.py'),
    Case('mmdet::gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py'),
    Case('mmdet::grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py'),
    Case('mmdet::groie/faste-rcnn_r50_fpn_groie_1x_coco.py'),
    Case(
        'mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py',
        needs='transformers',
    ),
    Case(
        'mmdet::guided_anchoring/ga-faster-rcnn_r50_fpn_1x_coco.py',
        no_prediction='implementation for device cpu not found',
    ),
    Case('mmdet::hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py'),
    Case('mmdet::htc/htc_r50_fpn_1x_coco.py', when='ci'),
    Case('mmdet::instaboost/cascade-mask-rcnn_r50_fpn_instaboost-4x_coco.py'),
    Case(
        'mmdet::lad/lad_r101-paa-r50_fpn_2xb8_coco_1x.py',
        when='ci',
        needs='weights of a teacher',
        message='URLError',
    ),
    Case(
        'mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py',
        needs='the config of a teacher',
        message='FileNotFoundError',
    ),
    Case('mmdet::legacy_1.x/retinanet_r50_fpn_1x_coco_v1.py'),
    Case('mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py'),
    Case('mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py'),
    Case(
        'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
        when='quick',
    ),
    Case('mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', when='ci'),
    Case(
        'mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py',
        needs='videos',
    ),
    Case('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'),
    Case('mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py', when='ci'),
    Case(
        'mmdet::masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py',
        refused='no backbone of its own',
    ),
    Case(
        'mmdet::misc/d2_mask-rcnn_r50-caffe_fpn_ms-90k_coco.py',
        refused='no backbone of its own',
    ),
    Case(
        'mmdet::mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365.py',
        needs='transformers',
    ),
    Case('mmdet::ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py'),
    Case(
        'mmdet::nas_fcos/nas-fcos_r50-caffe_fpn_fcoshead-gn-head_4xb4-1x_coco.py',
        when='ci',
    ),
    Case('mmdet::nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py'),
    Case('mmdet::objects365/faster-rcnn_r50_fpn_16xb4-1x_objects365v1.py'),
    Case(
        'mmdet::ocsort/ocsort_yolox_x_8xb4-amp-80e_crowdhuman-mot20train_test-mot20test.py',
        when='ci',
        refused='no backbone of its own',
    ),
    Case('mmdet::openimages/faster-rcnn_r50_fpn_32xb2-1x_openimages.py'),
    Case('mmdet::paa/paa_r50_fpn_1x_coco.py', when='ci'),
    Case('mmdet::pafpn/faster-rcnn_r50_pafpn_1x_coco.py', when='ci'),
    Case('mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', when='ci'),
    Case('mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712-cocofmt.py'),
    Case('mmdet::pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py'),
    Case(
        'mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py', when='ci'
    ),
    Case('mmdet::pvt/retinanet_pvtv2-b0_fpn_1x_coco.py'),
    Case(
        'mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py',
        refused='no backbone of its own',
    ),
    Case('mmdet::queryinst/queryinst_r50_fpn_1x_coco.py'),
    Case('mmdet::regnet/mask-rcnn_regnetx-4GF_fpn_1x_coco.py'),
    Case(
        'mmdet::reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20.py',
        needs='mmpretrain',
    ),
    Case('mmdet::reppoints/reppoints-moment_r50_fpn_1x_coco.py', when='ci'),
    Case('mmdet::res2net/cascade-mask-rcnn_res2net-101_fpn_20e_coco.py'),
    Case(
        'mmdet::resnest/cascade-mask-rcnn_s50_fpn_syncbn-backbone+head_ms-1x_coco.py'
    ),
    Case(
        'mmdet::resnet_strikes_back/cascade-mask-rcnn_r50-rsb-pre_fpn_1x_coco.py'
    ),
    Case('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'),
    Case('mmdet::rpn/rpn_r50_fpn_1x_coco.py'),
    Case('mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', when='ci'),
    Case('mmdet::sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py'),
    Case('mmdet::scnet/scnet_r50_fpn_1x_coco.py'),
    Case('mmdet::scratch/faster-rcnn_r50-scratch_fpn_gn-all_6x_coco.py'),
    Case(
        'mmdet::seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py'
    ),
    Case('mmdet::selfsup_pretrain/mask-rcnn_r50-swav-pre_fpn_1x_coco.py'),
    Case(
        'mmdet::simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-90k_coco.py',
        needs='distributed training',
        message='process group',
    ),
    Case(
        'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
        when='ci',
        refused='no backbone of its own',
    ),
    Case('mmdet::solo/solo_r50_fpn_1x_coco.py'),
    Case('mmdet::solov2/solov2_r50_fpn_1x_coco.py', when='ci'),
    Case(
        'mmdet::sort/faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py'
    ),
    Case('mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py', when='ci'),
    Case(
        'mmdet::ssd/ssd300_coco.py',
        no_prediction="'SSDHead' object has no attribute 'loss_cls'",
    ),
    Case(
        'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
        no_prediction="'SSDHead' object has no attribute 'loss_cls'",
    ),
    Case(
        'mmdet::strong_baselines/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-50e_coco.py',
        needs='distributed training',
        message='process group',
    ),
    Case(
        'mmdet::strongsort/strongsort_yolox_x_8xb4-80e_crowdhuman-mot20train_test-mot20test.py',
        when='ci',
        refused='no backbone of its own',
    ),
    Case('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
    Case(
        'mmdet::timm_example/retinanet_timm-tv-resnet50_fpn_1x_coco.py',
        needs='mmpretrain',
    ),
    Case('mmdet::tood/tood_r50_fpn_1x_coco.py'),
    Case(
        'mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py',
        refused='C4 or DC5',
    ),
    Case(
        'mmdet::v3det/cascade_rcnn_r50_fpn_8x4_sample1e-3_mstrain_v3det_2x.py'
    ),
    Case('mmdet::vfnet/vfnet_r50_fpn_1x_coco.py', when='ci'),
    Case('mmdet::wider_face/retinanet_r50_fpn_1x_widerface.py'),
    Case('mmdet::yolact/yolact_r50_1xb8-55e_coco.py', when='ci'),
    Case('mmdet::yolo/yolov3_d53_8xb8-ms-608-273e_coco.py', when='ci'),
    Case('mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py', when='ci'),
    Case('mmdet::yolox/yolox_s_8xb8-300e_coco.py', when='ci'),
    Case('mmseg::ann/ann_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case('mmseg::apcnet/apcnet_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case('mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'),
    Case(
        'mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_coco-stuff164k-512x512.py'
    ),
    Case(
        'mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py',
        refused='5 maps of strides [8, 4, 8, 16, 32]',
    ),
    Case('mmseg::ccnet/ccnet_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case('mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py'),
    Case(
        'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
        needs='mmpretrain',
    ),
    Case('mmseg::danet/danet_r50-d8_4xb4-80k_ade20k-512x512.py', when='ci'),
    Case(
        'mmseg::ddrnet/ddrnet_23_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',
        refused="'DDRNet' returns 2 maps in training and 1 otherwise",
    ),
    Case('mmseg::deeplabv3/deeplabv3_r18b-d8_4xb2-80k_cityscapes-769x769.py'),
    Case(
        'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py',
        when='ci',
    ),
    Case('mmseg::dmnet/dmnet_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case('mmseg::dnlnet/dnl_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case(
        'mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py',
        when='ci',
        refused='more than maps',
    ),
    Case('mmseg::dsdl/voc.py'),
    Case('mmseg::emanet/emanet_r50-d8_4xb2-80k_cityscapes-769x769.py'),
    Case('mmseg::encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case('mmseg::erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py'),
    Case(
        'mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb4-80k_ade20k-512x512.py',
        when='ci',
    ),
    Case('mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py'),
    Case('mmseg::fcn/fcn_r18b-d8_4xb2-80k_cityscapes-769x769.py'),
    Case('mmseg::gcnet/gcnet_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case('mmseg::hrnet/fcn_hr18_4xb4-80k_ade20k-512x512.py'),
    Case('mmseg::icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py'),
    Case('mmseg::isanet/isanet_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case(
        'mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py',
        when='ci',
    ),
    Case('mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py'),
    Case(
        'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
        when='ci',
    ),
    Case(
        'mmseg::maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py',
        when='ci',
    ),
    Case(
        'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb4-160k_ade20k-512x512.py'
    ),
    Case(
        'mmseg::mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py',
        when='ci',
        refused='Output size is too small',
    ),
    Case('mmseg::nonlocal_net/nonlocal_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case('mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py', when='ci'),
    Case(
        'mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
        refused="'PIDNet' returns 3 maps in training and 1 otherwise",
    ),
    Case(
        'mmseg::point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py',
        when='ci',
    ),
    Case(
        'mmseg::poolformer/fpn_poolformer_s36_8x4_512x512_40k_ade20k.py',
        needs='mmpretrain',
    ),
    Case('mmseg::psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py'),
    Case('mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py', when='ci'),
    Case(
        'mmseg::resnest/resnest_s101-d8_deeplabv3_4xb4-160k_ade20k-512x512.py'
    ),
    Case(
        'mmseg::san/san-vit-b16_coco-stuff164k-640x640.py',
        refused='no backbone of its own',
    ),
    Case(
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        when='quick',
    ),
    Case(
        'mmseg::segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512.py',
        when='ci',
    ),
    Case(
        'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py',
        when='ci',
    ),
    Case('mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'),
    Case(
        'mmseg::setr/setr_vit-l-mla_8xb1-160k_ade20k-512x512.py',
        when='ci',
        refused='MLANeck cannot read maps of strides [4, 8, 16, 32]',
    ),
    Case('mmseg::setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512.py', when='ci'),
    Case('mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py'),
    Case(
        'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
        when='ci',
    ),
    Case('mmseg::twins/twins_pcpvt-s_uperhead_8xb4-160k_ade20k-512x512.py'),
    Case(
        'mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py',
        refused='5 maps of strides [16, 8, 4, 2, 1]',
    ),
    Case('mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py'),
    Case('mmseg::vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py'),
    Case(
        'mmseg::vpd/vpd_sd_4xb8-25k_nyu-480x480.py',
        needs='the packages of VPD',
        message='To use VPD model',
    ),
)
