"""Stores what this version of detbook saves: one small detector of each kind with few default settings, its detections and its losses.

`python tests/golden/store_files.py` writes the folder `files_VERSION` beside this file, once for each version that is published; tests/test_describe.py holds every later version to all of
these folders. Settings are changed after the parts are built, for that is what a file has to keep. Weights are rounded to eight bits of mantissa, so that git can pack them."""
import sys
from pathlib import Path
import numpy as np, torch
import detbook
from detbook import models
from detbook.anchors import AnchorGenerator, PointGenerator
from detbook.assign import EverySampler, HardSampler, RandomSampler
from detbook.backbone import ResNet, ResStage
from detbook.batch import Preprocess
from detbook.cascade_rcnn import CascadeRoIHead, cascade_heads
from detbook.coder import DeltaCoder, DistanceCoder
from detbook.describe import save_detector
from detbook.fast_rcnn import BoxHead, RoIHead
from detbook.fcos import FCOSHead, PointMatcher
from detbook.keypoint_rcnn import KeypointHead
from detbook.losses import FocalLoss, GIoULoss, IoULoss, L1Loss, SmoothL1Loss
from detbook.masks import MaskHead
from detbook.neck import FPN, NoNeck
from detbook.nms import SoftNMS
from detbook.retinanet import DenseFilter, RetinaHead
from detbook.roi import RoIExtractor
from detbook.rpn import ProposalFilter, RPNHead
from detbook.toy import CLASSES, scene

C, STRIDES, N = 16, (4, 8), len(CLASSES)
SEEDS, BOXES  = (4, 5), torch.tensor([[4., 4, 40, 40], [20, 10, 60, 64], [0, 0, 30, 70]])    # scenes to look at; windows for Fast R-CNN

def backbone(**k): return ResNet(18, out_indices=(0,), strides=(1,), dilations=(1,), **k)
def trunk(**k):    return dict(backbone=backbone(**k), neck=FPN((64,), C, num_outs=2), preprocess=Preprocess((100., 110., 120.), (60., 50., 55.), bgr=True, pad_divisor=16))
def anchors(**k):  return AnchorGenerator(STRIDES, **k)
def rpn(**k):      return RPNHead(C, **(dict(anchors=anchors(scales=(6,)), test_filter=ProposalFilter(150, 50), train_filter=ProposalFilter(150, 50)) | k))
def read(size=7):  return RoIExtractor(size, STRIDES)

def rpn_alone():
    m = models.RPN(**trunk(), rpn_head=rpn(border=8, sampler=RandomSampler(40, .3)))
    m.rpn_head.test_filter.iou, m.rpn_head.matcher.pos_iou = .55, .6
    return m
def fast_rcnn():
    m = models.FastRCNN(N, **trunk(style='caffe'), roi_head=RoIHead(BoxHead(N, C, fc_channels=8), bbox_extractor=read(), sampler=EverySampler(add_truths=True)))
    m.roi_head.bbox_head.coder.stds, m.roi_head.test_filter.class_agnostic = (.2, .2, .3, .3), True
    return m
def faster_rcnn():
    head = RoIHead(BoxHead(N, C, fc_channels=8, class_agnostic=True, loss_bbox=GIoULoss(weight=3.), decoded=True), bbox_extractor=read(), sampler=HardSampler(32))
    m = models.FasterRCNN(N, **trunk(), rpn_head=rpn(loss_bbox=L1Loss(2.)), roi_head=head)
    m.roi_head.test_filter.suppress, m.roi_head.test_filter.score_thr = SoftNMS(.4, .6, .01, 'gaussian'), .02
    return m
def faster_rcnn_c4():
    head = RoIHead(BoxHead(N, 128, num_fcs=0, avg_pool=True, size=7), bbox_extractor=RoIExtractor(14, (4,)), shared_head=ResStage(18, 1), sampler=RandomSampler(32))
    m = models.FasterRCNN(N, **trunk() | dict(neck=NoNeck(64)), rpn_head=RPNHead(64, anchors=AnchorGenerator((4,), scales=(4, 8)), test_filter=ProposalFilter(100, 40), train_filter=ProposalFilter(100, 40)),
        roi_head=head)
    m.roi_head.bbox_extractor.ratio = 1
    return m
def mask_rcnn():
    m = models.MaskRCNN(N, **trunk(), rpn_head=rpn(coder=DeltaCoder(stds=(.5, .5, .5, .5))), roi_head=RoIHead(BoxHead(N, C, fc_channels=8, num_fcs=1), MaskHead(N, C, 1, C), read(), read(10),
        sampler=RandomSampler(32)))
    m.roi_head.mask_head.threshold, m.roi_head.mask_extractor.ratio, m.preprocess.pad_divisor = .4, 1, 8
    return m
def cascade_rcnn():
    m = models.CascadeRCNN(N, **trunk(), rpn_head=rpn(), roi_head=CascadeRoIHead(cascade_heads(N, C, 8), [MaskHead(N, C, 1, C) for _ in range(3)], read(), read(14)))
    for s in m.roi_head.samplers: s.num = 32
    m.roi_head.mean_of, m.roi_head.stage_weights, m.roi_head.matchers[1].pos_iou = 'probabilities', (1., .8, .3), .65
    m.roi_head.bbox_heads[2].coder.stds = (.04, .04, .06, .06)
    return m
def keypoint_rcnn():
    m = models.KeypointRCNN(N, 4, **trunk(), rpn_head=rpn(), roi_head=RoIHead(BoxHead(N, C, fc_channels=8), bbox_extractor=read(), keypoint_head=KeypointHead(4, C, 1, C), keypoint_extractor=read(14),
        sampler=RandomSampler(32)))
    m.roi_head.keypoint_head.score, m.roi_head.keypoint_head.weight = 'logit', .7
    return m
def retinanet():
    m = models.RetinaNet(N, **trunk(), bbox_head=RetinaHead(N, C, 1, C, anchors(scales=(2., 4.)), loss_cls=FocalLoss(.4), loss_bbox=SmoothL1Loss(.2), norm_groups=4))
    f = m.bbox_head.test_filter
    f.score_thr, f.max_per_img, f.iou, m.bbox_head.matcher.neg_iou = .008, 30, .35, .3
    return m
def fcos():
    m = models.FCOS(N, **trunk(), bbox_head=FCOSHead(N, C, 1, C, PointGenerator(STRIDES), matcher=PointMatcher(((-1, 24), (24, 1e8)), radius=1.5), coder=DistanceCoder(clip=False),
        loss_bbox=IoULoss('linear'), in_strides=True, centerness_on_reg=True, norm_groups=4))
    m.bbox_head.test_filter = DenseFilter(60, .01, .6, 20, root=True)
    return m
DETECTORS = dict(rpn=rpn_alone, fast_rcnn=fast_rcnn, faster_rcnn=faster_rcnn, faster_rcnn_c4=faster_rcnn_c4, mask_rcnn=mask_rcnn, cascade_rcnn=cascade_rcnn, keypoint_rcnn=keypoint_rcnn,
    retinanet=retinanet, fcos=fcos)

def scenes(): return [scene(s, size=72) for s in SEEDS]

def measure(
    name:str, # of the detector, as in DETECTORS
    model, # to look at the scenes
    losses:bool=True, # these as well? Files of version 0.1 were stored without
)->dict: # `{image}.{key}` for detections, `loss.{name}` for losses, each a tensor
    "What a file is held to."
    images, targets = zip(*scenes())
    boxes = [[BOXES]*2] if name == 'fast_rcnn' else []
    model.eval()
    out = {f'{i}.{k}': v for i, d in enumerate(model.predict(list(images), *boxes)) for k, v in d.items()}
    if not losses: return out
    if name == 'rpn': targets = [t | dict(labels=torch.zeros_like(t['labels'])) for t in targets]
    torch.manual_seed(0)                                           # samples are drawn
    with torch.no_grad(): return out | {f'loss.{k}': v for k, v in model.loss(list(images), list(targets), *boxes).items()}

def packed(v): return np.packbits(v.numpy()) if v.dtype == torch.bool else v.numpy()

if __name__ == '__main__':
    torch.set_num_threads(1)
    folder = Path(__file__).parent/f'files_{detbook.__version__}'
    if folder.exists(): sys.exit(f'{folder} is there: files of a published version stay as they are')
    folder.mkdir()
    for seed, (name, make) in enumerate(DETECTORS.items()):
        torch.manual_seed(seed)
        model = make()
        with torch.no_grad():
            for p in model.parameters(): p.copy_((p*(2 if p.dim() > 1 else 1)).bfloat16().float())      # a bit wilder than fresh weights, so that scores differ
        save_detector(folder/f'{name}.safetensors', model, ('object',) if name == 'rpn' else CLASSES)
        found = measure(name, model)
        np.savez_compressed(folder/f'{name}.npz', **{k: packed(v) for k, v in found.items()})
        print(f'{name:15} {sum(len(v) for k, v in found.items() if k.endswith("boxes")):4} boxes, losses ' + ' '.join(f'{float(v):.4f}' for k, v in found.items() if k.startswith('loss.')))
