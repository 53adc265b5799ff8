"Exported detectors find what the detectors find: in plain PyTorch, in onnxruntime, in torch.export."
import pytest, torch
from torch import nn
from detbook.backbone import ResNet
from detbook.neck import FPN
from detbook.models import RPN, FasterRCNN, MaskRCNN, CascadeRCNN, KeypointRCNN, RetinaNet, FCOS
from detbook.c4 import faster_rcnn_c4, mask_rcnn_c4
from detbook.anchors import AnchorGenerator
from detbook.rpn import RPNHead, ProposalFilter
from detbook.fast_rcnn import BoxHead, DetectionFilter, RoIHead
from detbook.masks import MaskHead, paste_masks
from detbook.keypoint_rcnn import KeypointHead, heatmaps_to_keypoints
from detbook.cascade_rcnn import CascadeRoIHead, cascade_heads
from detbook.retinanet import DenseFilter, RetinaHead
from detbook.fcos import FCOSHead
from detbook.roi import RoIExtractor
from detbook.export import _Whole, suppress_mask

C = 16

def parts(start=0, **fpn):
    backbone = ResNet(18, frozen_stages=-1, norm_eval=False)
    return dict(backbone=backbone, neck=FPN(backbone.out_channels, C, start_level=start, **fpn))

def rpn(**kw): return RPNHead(C, test_filter=ProposalFilter(60, 40), **kw)
def box(n=3, **kw): return BoxHead(n, C, fc_channels=32, **kw)

BUILD = {
    'rpn': lambda: RPN(**parts(), rpn_head=rpn()),
    'faster': lambda: FasterRCNN(3, **parts(), rpn_head=rpn(), roi_head=RoIHead(box())),
    'faster_agnostic': lambda: FasterRCNN(3, **parts(), rpn_head=rpn(), roi_head=RoIHead(box(), test_filter=DetectionFilter(class_agnostic=True, min_size=8),
        bbox_extractor=RoIExtractor(7, aligned=False, ratio=2))),
    'faster_fcos': lambda: FasterRCNN(3, **parts(1), rpn_head=FCOSHead(1, C, 1, C, norm_groups=4, first_stage=True), roi_head=RoIHead(box(), bbox_extractor=RoIExtractor(7, (8,16,32,64)))),
    'mask': lambda: MaskRCNN(3, **parts(), rpn_head=rpn(), roi_head=RoIHead(box(), MaskHead(3, C, 1, C))),
    'cascade': lambda: CascadeRCNN(3, **parts(), rpn_head=rpn(), roi_head=CascadeRoIHead(cascade_heads(3, C, 32), [MaskHead(3, C, 1, C) for _ in range(3)])),
    'cascade_boxes': lambda: CascadeRCNN(3, **parts(), rpn_head=rpn(), roi_head=CascadeRoIHead(cascade_heads(3, C, 32), mean_of='probabilities')),
    'keypoint': lambda: KeypointRCNN(1, 5, **parts(), rpn_head=rpn(), roi_head=RoIHead(box(1), keypoint_head=KeypointHead(5, C, 1, C))),
    'retina': lambda: RetinaNet(3, **parts(1, extra='on_input'), bbox_head=RetinaHead(3, C, 1, C)),
    'fcos': lambda: FCOS(3, **parts(1, extra='on_output', relu_before_extra=True), bbox_head=FCOSHead(3, C, 1, C, norm_groups=4, centerness_on_reg=True)),
    'fcos_late': lambda: FCOS(3, **parts(1), bbox_head=FCOSHead(3, C, 1, C, norm_groups=4, in_strides=True, test_filter=DenseFilter(50, .3, late_clip=True, root=True))),
    'c4': lambda: faster_rcnn_c4(18, 3, 'pytorch', True),
    'mask_c4': lambda: mask_rcnn_c4(18, 3, 'pytorch', True),
}

def spread(model, seed=0):
    "Random answers that differ: the last layers are made loud, so that no two scores are near each other."
    g = torch.Generator().manual_seed(seed)
    for name, m in model.named_modules():
        last = name.rpartition('.')[2]
        if last in ('rpn_cls', 'fc_cls', 'retina_cls', 'conv_cls', 'conv_centerness'):
            nn.init.normal_(m.weight, std=.3, generator=g); nn.init.zeros_(m.bias)
        if last in ('rpn_reg', 'retina_reg', 'fc_reg'): nn.init.normal_(m.weight, std=.05, generator=g)
        if last == 'conv_reg': nn.init.constant_(m.bias, 3.)
    return model.eval()

def build(kind):
    torch.manual_seed(0)
    model = spread(BUILD[kind]())
    if 'c4' in kind: model.rpn_head.test_filter = ProposalFilter(60, 20)      # a stage of the network for each of 1000 takes long
    return model

def pictures(n=2, size=(64, 96)): return [torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(i), dtype=torch.uint8) for i in range(n)]

def run_plain(model, images, suppress=suppress_mask, fixed=True):
    H, W = (max(-(-im.shape[d] // 32)*32 for im in images) for d in (1, 2))
    x = torch.zeros(len(images), 3, H, W)
    for o,im in zip(x, images): o[:, :im.shape[1], :im.shape[2]] = im
    sizes = torch.tensor([im.shape[1:] for im in images], dtype=torch.float32)
    with torch.no_grad(): return _Whole(model, suppress, fixed).eval()(x, sizes)

def same(model, images, out, want, box_tol=1e-3, score_tol=1e-4):
    assert len(out[3]) == len(want)
    for i, (im, w) in enumerate(zip(images, want)):
        v = out[3][i]
        assert int(v.sum()) == len(w['boxes'])
        boxes, scores, labels = (x[i][v] for x in out[:3])
        order, ref = scores.argsort(descending=True, stable=True), w['scores'].argsort(descending=True, stable=True)
        boxes = boxes[order]
        torch.testing.assert_close(scores[order], w['scores'][ref], rtol=0, atol=score_tol)
        assert torch.equal(labels[order], w['labels'][ref])
        torch.testing.assert_close(boxes, w['boxes'][ref], rtol=0, atol=box_tol)
        if 'masks' in w:
            head = getattr(model.roi_head.mask_head, '__getitem__', lambda i: model.roi_head.mask_head)(-1)
            m = paste_masks(out[4][i][v][order], boxes, tuple(im.shape[1:]), head.threshold, whole=head.whole)
            off = (m != w['masks'][ref]).flatten(1).sum(1)
            assert off.numel() == 0 or off.max() <= 3
        if 'keypoints' in w:
            p = heatmaps_to_keypoints(out[4][i][v][order], boxes, model.roi_head.keypoint_head.score == 'probability')
            torch.testing.assert_close(p, w['keypoints'][ref], rtol=0, atol=1e-2)

@pytest.mark.parametrize('kind', BUILD)
def test_fixed_shapes_find_the_same(kind):
    model = build(kind)
    images = pictures()
    want = model.predict(images)
    assert min(len(w['boxes']) for w in want) > 3
    for fixed in (True, False): same(model, images, run_plain(model, images, fixed=fixed), want)
