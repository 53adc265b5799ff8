"""Every public function is called wrongly in every way that its arguments suggest, and has to say so.

`CALLS` holds one small valid call of each public function, constructor and method; `LEFT_OUT` says why a name has none. From each valid call wrong ones are made mechanically: another type,
another shape or length, nan, boxes inside out, numbers out of range, texts for numbers, unknown keywords. What comes of it is
*clear* (a TypeError, ValueError, KeyError or FileNotFoundError of ours that names the argument and what was found), *right* (the same as before, or what `RIGHT` says and the docstring
promises), *unclear* (an error from somewhere inside) or *silent* (a result, and nobody knows what it is worth). There may be none of the last two.
`python tests/test_sweep.py [MODULE ...]` prints the cases."""
import contextlib, fnmatch, functools, importlib, inspect, io, json, math, pickle, pkgutil, re, sys, tempfile, time, traceback, typing, warnings
from collections import Counter
from pathlib import Path
import matplotlib; matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, pytest, torch
from PIL import Image
from torch import nn, Tensor
from fastcore.docments import docments
import detbook

MODULES = [m.name for m in pkgutil.iter_modules(detbook.__path__) if not m.name.startswith('_')]

# ------------------------------------------------------------------ a small world to call things in
class World:
    "What the valid calls need; made once, and copied into each call."
    def __init__(self, folder): self.folder = Path(folder)

    boxes  = property(lambda w: torch.tensor([[10., 20, 30, 60], [0, 0, 9, 9], [40, 40, 50, 60]]))
    more   = property(lambda w: torch.tensor([[12., 20, 30, 64], [1, 1, 9, 9]]))
    scores = property(lambda w: torch.tensor([.9, .8, .7]))
    labels = property(lambda w: torch.tensor([0, 1, 2]))
    masks  = property(lambda w: torch.arange(64)[None,:,None].lt(torch.tensor([5, 9, 20])[:,None,None]).expand(3, 64, 64).clone())
    points = property(lambda w: torch.tensor([[[11., 22, 2], [20, 30, 1]], [[3, 4, 2], [5, 5, 2]], [[44, 44, 2], [0, 0, 0]]]))

    @functools.cached_property
    def scenes(w):
        from detbook.toy import scene
        return [scene(i, size=64, crowd=0, empty=0) for i in (1, 2)]
    images  = property(lambda w: [im.clone() for im,_ in w.scenes])
    targets = property(lambda w: [{k:v.clone() for k,v in t.items()} for _,t in w.scenes])
    image   = property(lambda w: w.images[0])
    target  = property(lambda w: w.targets[0])
    found   = property(lambda w: dict(boxes=w.boxes, scores=w.scores, labels=w.labels, masks=w.masks, keypoints=w.points))
    batch   = property(lambda w: importlib.import_module('detbook.batch').Preprocess()(w.images))
    truths  = property(lambda w: importlib.import_module('detbook.batch').pad_truths(w.targets, w.batch))
    sizes   = property(lambda w: w.batch.size_tensor())
    gen     = property(lambda w: importlib.import_module('detbook.anchors').AnchorGenerator((16, 32), scales=(2,)))
    feats   = property(lambda w: (torch.randn(2, 16, 16, 16), torch.randn(2, 16, 8, 8), torch.randn(2, 16, 4, 4), torch.randn(2, 16, 2, 2), torch.randn(2, 16, 1, 1)))

    @functools.lru_cache
    def model(w, name, **more):
        from detbook import models
        torch.manual_seed(0)
        model = getattr(models, name)(**dict(depth=18, channels=16, scratch=True) | ({} if name == 'rpn' else dict(num_classes=4)) | more).eval()
        for part in model.modules():                                    # few boxes: the calls are many
            for f in (getattr(part, k, None) for k in ('test_filter', 'train_filter')):
                if f is not None: f.max_per_img = f.nms_pre = 5
        return model
    mask  = property(lambda w: w.model('mask_rcnn'))
    point = property(lambda w: w.model('keypoint_rcnn', num_keypoints=4))
    canvas = property(lambda w: w.mask.roi_head.bbox_extractor.canvas(w.feats))

    @property
    def proposals(w):
        from detbook.detector import Proposals
        return Proposals(torch.stack([w.boxes, w.boxes]), torch.stack([w.scores, w.scores]), torch.ones(2, 3, dtype=torch.bool))
    @property
    def rpn_out(w): return w.mask.rpn_head(w.feats)
    @property
    def rois(w): torch.manual_seed(0); return w.mask.roi_head.sample(w.canvas, w.proposals, w.truths)

    @functools.cached_property
    def coco(w):
        from detbook.toy import write_coco
        return write_coco(w.folder/'toy', 3, size=64, crowd=0, empty=0)
    @functools.cached_property
    def film(w):
        from detbook.video import write_video
        return write_video(w.folder/'film.mp4', w.images*3, fps=10)
    @functools.cached_property
    def ds(w): return importlib.import_module('detbook.data').CocoDataset(w.coco)
    @functools.cached_property
    def results(w):
        d = json.loads(Path(w.coco).read_text())
        return [dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=.5, segmentation=a['segmentation'], keypoints=a['keypoints']) for a in d['annotations']]
    @functools.cached_property
    def saved(w):
        from detbook.describe import save_detector
        return save_detector(w.folder/'saved.safetensors', w.mask, ('a', 'b', 'c', 'd'))
    @functools.cached_property
    def png(w):
        Image.fromarray(w.image.permute(1, 2, 0).numpy()).save(w.folder/'one.png')
        return w.folder/'one.png'
    @functools.cached_property
    def run(w):
        (w.folder/'run').mkdir()
        runs = importlib.import_module('detbook.runs')
        runs.save_state(w.folder/'run', dict(a=torch.ones(2)), dict(step=1))
        runs.write_card(w.folder/'run', 'running', 1, dict(steps=2))
        (w.folder/'run'/'log.jsonl').write_text('{"step": 1, "loss": 1.0}\n')
        return w.folder/'run'
    lines = property(lambda w: w.run/'log.jsonl')
    @functools.cached_property
    def pickle(w):
        (w.folder/'arrays.pkl').write_bytes(pickle.dumps(dict(a=np.ones(2), b=[1])))
        return w.folder/'arrays.pkl'
    @functools.cached_property
    def program(w):
        (w.folder/'mine.py').write_text('class Mine: pass')
        return w.folder/'mine.py'
    def config(w, name='mask-rcnn_r50_fpn_1x_coco'): return importlib.import_module('detbook.config').Config.fromfile(name)
    def ax(w): plt.close('all'); return plt.subplots()[1]

CALLS, LEFT_OUT = {}, {}
def calls(module, **given):
    "Valid calls by name: a function of the world that gives the arguments, or (object, arguments) for a method, written Class__method."
    for k,v in given.items(): CALLS[f'{module}.{k}'] = v
def left_out(reason, *names): LEFT_OUT.update(dict.fromkeys(names, reason))

# ------------------------------------------------------------------ valid calls
calls('core',
    test_same=lambda w: dict(actual=w.boxes, expected=w.boxes, rtol=1e-5, atol=1e-6),
    strict=lambda w: dict(f=len), component=lambda w: dict(cls=type('A', (), dict(__init__=lambda self, a=1: None))), checked=lambda w: dict(f=w.ax),
    on_host=lambda w: dict(x=w.boxes), warn_once=lambda w: dict(message='sweep'), mean_over_ranks=lambda w: dict(x=torch.tensor(3.)), slow_products=lambda w: {}, check=lambda w: dict(text='a (N)'), check_keys=lambda w: dict(d=dict(a=1)), settings=lambda w: dict(x=new('nms.NMS')), constructor_parameters=lambda w: dict(cls=type(new('nms.NMS'))), say=lambda w: dict(text='sweep'))
left_out('a block: counts what runs inside', 'core.count_syncs', 'core.own_counts')
left_out('a line at the end of a chapter: tests/test_project.py looks for the names', 'core.moved')

calls('show',
    panels=lambda w: dict(cols=2, rows=1, size=(4, 2)), show_image=lambda w: dict(image=w.image, title='a'), label_color=lambda w: dict(i=3),
    show_boxes=lambda w: dict(boxes=w.boxes, kind='truth', labels=['a', 'b', 'c'], scores=w.scores, ax=w.ax(), width=1.5),
    show_masks=lambda w: dict(masks=w.masks, kind='truth', ax=w.ax(), alpha=.35), show_keypoints=lambda w: dict(keypoints=w.points, kind='truth', skeleton=[(0, 1)], ax=w.ax()),
    show_target=lambda w: dict(image=w.image, target=w.target, classes=list('abcd'), ax=w.ax(), title='a', skeleton=[(0, 1)]),
    show_prediction=lambda w: dict(image=w.image, pred=w.found, classes=list('abcd'), min_score=.5, ax=w.ax(), title='a', skeleton=[(0, 1)]),
    show_pair=lambda w: dict(image=w.image, target=w.target, pred=w.found, classes=list('abcd'), min_score=.5, skeleton=[(0, 1)]),
    show_grid=lambda w: dict(items=[w.image, (w.image, w.target)], cols=2, classes=list('abcd'), titles=['a', 'b'], min_score=.5, size=(4, 2), skeleton=[(0, 1)]))

calls('toy',
    read_digits=lambda w: dict(part='val'), draw=lambda w: dict(label=0, side=20, angle=.1, digit=importlib.import_module('detbook.toy').read_digits('val')[0]),
    tips=lambda w: dict(mask=torch.ones(20, 20, dtype=torch.bool), angle=.1), cover=lambda w: dict(owner=torch.full((20, 20), -1), mask=torch.eye(20).bool(), areas=[20], least=.75),
    mask_boxes=lambda w: dict(masks=w.masks), scene=lambda w: dict(seed=1, size=64, digits='train', objects=(1, 2), crowd=0., empty=0.),
    rle_encode=lambda w: dict(mask=w.masks[0]), rle_decode=lambda w: dict(rle=dict(size=[2, 3], counts=[1, 2, 3])),
    write_coco=lambda w: dict(dir=w.folder/'write', n=1, seed=0, size=32, digits='val', objects=(1, 2), crowd=0., empty=0.))

calls('batch',
    Batch__size_tensor=lambda w: (w.batch, {}), Preprocess=lambda w: dict(train_size=(64, 64)), Preprocess__forward=lambda w: (importlib.import_module('detbook.batch').Preprocess(), dict(images=w.images)),
    pad_truths=lambda w: dict(targets=w.targets, batch=w.batch, need=('masks',)), check_images=lambda w: dict(images=w.images), looks_dim=lambda w: dict(images=w.images),
    same_frames=lambda w: dict(images=w.images, divisor=32), warn_dim=lambda w: {}, check_batch=lambda w: dict(images=w.images, targets=w.targets, num_classes=4, look=True))

calls('boxes',
    box_area=lambda w: dict(boxes=w.boxes), xyxy_to_xywh=lambda w: dict(boxes=w.boxes), xywh_to_xyxy=lambda w: dict(boxes=w.boxes), xyxy_to_cxcywh=lambda w: dict(boxes=w.boxes),
    cxcywh_to_xyxy=lambda w: dict(boxes=w.boxes), intersection=lambda w: dict(a=w.boxes, b=w.more), iou_matrix=lambda w: dict(a=w.boxes, b=w.more), iof_matrix=lambda w: dict(a=w.boxes, b=w.more),
    clip_boxes=lambda w: dict(boxes=w.boxes, sizes=torch.tensor([40, 30])))

calls('anchors',
    cell_anchors=lambda w: dict(base_size=16., ratios=(.5, 1., 2.), scales=(1., 2.)), grid_anchors=lambda w: dict(cell=w.boxes, size=(2, 3), stride=8),
    AnchorGenerator=lambda w: dict(strides=(4, 8), ratios=(1.,), scales=(8,), sizes=((16,), (32,))),
    AnchorGenerator__grid=lambda w: (w.gen, dict(sizes=[(4, 4), (2, 2)])), AnchorGenerator__valid=lambda w: (w.gen, dict(sizes=[(4, 4), (2, 2)], pad_sizes=[(64, 64), (32, 64)])),
    octave_scales=lambda w: {}, PointGenerator=lambda w: {}, PointGenerator__grid=lambda w: (importlib.import_module('detbook.anchors').PointGenerator((16, 32)), dict(sizes=[(4, 4), (2, 2)])),
    inside_border=lambda w: dict(anchors=w.boxes, sizes=torch.tensor([[64., 64], [32, 32]]), border=0.))

def coder(w, **k): return importlib.import_module('detbook.coder').DeltaCoder(**k)
def points(w, **k): return importlib.import_module('detbook.coder').DistanceCoder(**k)
calls('coder',
    encode=lambda w: dict(anchors=w.boxes, boxes=w.boxes + 1), decode=lambda w: dict(anchors=w.boxes, deltas=torch.ones(3, 4), max_log=4., center_clamp=32.),
    DeltaCoder=lambda w: dict(center_clamp=32.), DeltaCoder__encode=lambda w: (coder(w), dict(anchors=w.boxes, boxes=w.boxes + 1)),
    DeltaCoder__decode=lambda w: (coder(w), dict(anchors=w.boxes, deltas=torch.ones(3, 4), sizes=torch.tensor([64., 64]))),
    DistanceCoder=lambda w: {}, DistanceCoder__encode=lambda w: (points(w, normalize=True), dict(points=w.boxes[:,:2], boxes=w.boxes, units=torch.tensor([8., 8, 16]))),
    DistanceCoder__decode=lambda w: (points(w, normalize=True), dict(points=w.boxes[:,:2], distances=torch.ones(3, 4), sizes=torch.tensor([64., 64]), units=torch.tensor([8., 8, 16]))))

def new(name, **k): m, c = name.split('.'); return getattr(importlib.import_module('detbook.' + m), c)(**k)
MATCHED = torch.tensor([[0, -1, -2, -1, 1], [-1, -1, 2, -2, -1]])
calls('assign',
    Matcher=lambda w: {}, Matcher____call__=lambda w: (new('assign.Matcher'), dict(boxes=w.boxes, truths=w.truths, usable=torch.ones(2, 3, dtype=torch.bool))),
    match_candidates=lambda w: dict(boxes=w.boxes, truths=w.truths, matcher=new('assign.Matcher'), usable=torch.ones(2, 3, dtype=torch.bool)),
    draw_samples=lambda w: dict(matched=MATCHED.clone(), keys=torch.rand(2, 5), num=4, pos_fraction=.5), RandomSampler=lambda w: {}, HardSampler=lambda w: {}, EverySampler=lambda w: {},
    RandomSampler____call__=lambda w: (new('assign.RandomSampler', num=4), dict(matched=MATCHED.clone())), EverySampler____call__=lambda w: (new('assign.EverySampler'), dict(matched=MATCHED.clone())),
    HardSampler____call__=lambda w: (new('assign.HardSampler', num=4), dict(matched=MATCHED.clone(), losses=torch.rand(2, 5))))

three = lambda w: dict(boxes=w.boxes, scores=w.scores, groups=w.labels)
calls('nms',
    nms_plain=lambda w: dict(boxes=w.boxes, scores=w.scores, iou=.5), nms=lambda w: dict(boxes=w.boxes, scores=w.scores, iou=.5), has_compiled_ops=lambda w: {}, nms_groups=lambda w: dict(three(w), iou=.5),
    nms_fixed=lambda w: dict(boxes=w.boxes[None], scores=w.scores[None], valid=torch.ones(1, 3, dtype=torch.bool), splits=[2, 1], iou=.5, max_out=2),
    soft_nms=lambda w: dict(three(w), iou=.3, sigma=.5, min_score=1e-3, method='linear'), NMS=lambda w: {}, SoftNMS=lambda w: {},
    NMS____call__=lambda w: (new('nms.NMS'), three(w)), SoftNMS____call__=lambda w: (new('nms.SoftNMS'), three(w)))

for name in 'L1Loss SmoothL1Loss IoULoss GIoULoss DIoULoss CIoULoss BoundedIoULoss'.split():
    calls('losses', **{name: lambda w: {}, f'{name}____call__': lambda w, n=name: (new(f'losses.{n}'), dict(pred=w.boxes, target=w.boxes + 1))})
logits = lambda: torch.tensor([[1., 2, 0], [0, 1, 3]])
calls('losses',
    sigmoid_loss=lambda w: dict(logits=logits(), targets=torch.eye(3)[:2]), softmax_loss=lambda w: dict(logits=logits(), labels=torch.tensor([0, 2])), SigmoidLoss=lambda w: {}, SoftmaxLoss=lambda w: {}, FocalLoss=lambda w: {},
    SigmoidLoss____call__=lambda w: (new('losses.SigmoidLoss'), dict(logits=logits(), targets=torch.eye(3)[:2])), SoftmaxLoss____call__=lambda w: (new('losses.SoftmaxLoss'), dict(logits=logits(), labels=torch.tensor([0, 2]))),
    FocalLoss____call__=lambda w: (new('losses.FocalLoss'), dict(logits=logits(), labels=torch.tensor([0, 2]))),
    weighted_sum=lambda w: dict(losses=torch.tensor([1., 2, 3]), used=torch.tensor([True, False, True]), count=torch.tensor(2)))

calls('backbone',
    prepared=lambda w: dict(norms=[nn.BatchNorm2d(4), nn.BatchNorm2d(2)]), constant_norms=lambda w: dict(net=w.mask.backbone),
    conv_norm=lambda w: dict(x=torch.randn(1, 3, 8, 8), conv=nn.Conv2d(3, 4, 3, bias=False), norm=nn.BatchNorm2d(4), frozen=True),
    BasicBlock=lambda w: dict(in_channels=4, channels=4), BasicBlock__forward=lambda w: (new('backbone.BasicBlock', in_channels=4, channels=4), dict(x=torch.randn(2, 4, 8, 8))),
    Bottleneck=lambda w: dict(in_channels=4, channels=4, groups=1, base_width=64), Bottleneck__forward=lambda w: (new('backbone.Bottleneck', in_channels=4, channels=4), dict(x=torch.randn(2, 4, 8, 8))),
    ResNet=lambda w: dict(depth=18), ResNet__forward=lambda w: (w.mask.backbone, dict(x=torch.randn(1, 3, 64, 64))),
    ResStage=lambda w: dict(depth=18), ResStage__forward=lambda w: (new('backbone.ResStage', depth=18), dict(x=torch.randn(2, 256, 4, 4))))
calls('efficientnet',
    InvertedResidual=lambda w: dict(in_channels=4, out_channels=8), InvertedResidual__forward=lambda w: (new('efficientnet.InvertedResidual', in_channels=4, out_channels=8), dict(x=torch.randn(2, 4, 8, 8))),
    EfficientNetLite=lambda w: {}, EfficientNetLite__forward=lambda w: (new('efficientnet.EfficientNetLite', out_indices=(0,)), dict(x=torch.randn(1, 3, 64, 64))))
calls('neck',
    Conv=lambda w: dict(in_channels=3, out_channels=4), Conv__forward=lambda w: (new('neck.Conv', in_channels=3, out_channels=4), dict(x=torch.randn(1, 3, 8, 8))),
    FPN=lambda w: dict(in_channels=(4, 8), out_channels=4, num_outs=3), FPN__forward=lambda w: (new('neck.FPN', in_channels=(4, 8), out_channels=4, num_outs=3), dict(stages=(torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)))),
    NoNeck=lambda w: dict(in_channels=8), NoNeck__forward=lambda w: (new('neck.NoNeck', in_channels=8), dict(stages=(torch.randn(1, 8, 8, 8),))))

calls('roi',
    bin_samples=lambda w: dict(start=torch.tensor([1., 2]), length=torch.tensor([3., 4]), bins=2, ratio=2),
    bin_cells=lambda w: dict(start=torch.tensor([1., 2]), length=torch.tensor([3., 4]), bins=2, ratio=2, size=8),
    roi_align_sparse=lambda w: dict(feats=torch.randn(2, 3, 64, 64), rois=torch.cat([torch.tensor([[0.], [1], [0]]), w.boxes], 1), size=2, scale=1., ratio=0, aligned=True),
    roi_align=lambda w: dict(feats=torch.randn(2, 3, 64, 64), rois=torch.cat([torch.tensor([[0.], [1], [0]]), w.boxes], 1), size=2, scale=1., ratio=0, aligned=True),
    roi_levels=lambda w: dict(boxes=w.boxes, num_levels=4), make_canvas=lambda w: dict(levels=w.feats[:4]), RoIExtractor=lambda w: {},
    RoIExtractor__canvas=lambda w: (new('roi.RoIExtractor'), dict(feats=w.feats)),
    RoIExtractor____call__=lambda w: (new('roi.RoIExtractor'), dict(canvas=w.canvas, boxes=w.boxes, image=torch.tensor([0, 1, 0]))))

calls('rpn',
    conv_few=lambda w: dict(x=torch.randn(2, 3, 8, 8), conv=nn.Conv2d(3, 4, 3, padding=1)), rank_scores=lambda w: dict(scores=torch.tensor([[.5, .9, .1]]), usable=torch.tensor([[True, False, True]])), ProposalFilter=lambda w: {},
    ProposalFilter__candidates=lambda w: (new('rpn.ProposalFilter'), dict(out=w.rpn_out, coder=coder(w), sizes=w.sizes)), ProposalFilter__choose=lambda w: (new('rpn.ProposalFilter'), dict(found=new('rpn.ProposalFilter').candidates(w.rpn_out, coder(w), w.sizes), max_out=3)),
    ProposalFilter____call__=lambda w: (new('rpn.ProposalFilter'), dict(out=w.rpn_out, coder=coder(w), sizes=w.sizes)),
    box_losses=lambda w: dict(deltas=torch.ones(3, 4), anchors=w.boxes, gt_boxes=w.boxes + 1, positive=torch.tensor([True, False, True]), coder=coder(w), loss=new('losses.L1Loss')),
    RPNHead=lambda w: dict(in_channels=16, feat_channels=16), lone_rpn_head=lambda w: dict(in_channels=16, feat_channels=16), RPNHead__forward=lambda w: (w.mask.rpn_head, dict(feats=w.feats)),
    RPNHead__loss=lambda w: (w.mask.rpn_head, dict(out=w.rpn_out, batch=w.batch, truths=w.truths)), RPNHead__propose=lambda w: (w.mask.rpn_head, dict(out=w.rpn_out, batch=w.batch)))

KEYWORDS = dict(mean=(1., 2., 3.), std=(1., 1., 1.))
def detector(module, cls, builder, proposals=False, **more):
    "The calls of one detector: built from parts, features, loss, propose, predict."
    model = lambda w: w.model(builder, **more)
    def parts(w):
        m = model(w)
        names = {n for n in inspect.signature(type(m)).parameters if n in ('backbone', 'neck', 'rpn_head', 'roi_head', 'bbox_head', 'keypoint_head')}
        if cls in ('RPN', 'CascadeRCNN', 'KeypointRCNN'): names &= {'backbone', 'neck'} | ({'rpn_head'} if cls == 'CascadeRCNN' else set())
        return {n: getattr(m, n) for n in names if hasattr(m, n)} | dict(num_classes=1 if cls == 'RPN' else 4) | ({} if cls != 'KeypointRCNN' else dict(num_keypoints=4))
    p = lambda w: dict(proposals=[w.boxes, w.more]) if proposals else {}
    calls(module, **{cls: parts, f'{cls}__loss': lambda w: (model(w), dict(images=w.images, targets=w.targets, **p(w))),
                     f'{cls}__predict': lambda w: (model(w), dict(images=w.images, **p(w)) | ({} if cls == 'RPN' else {}) | dict(sizes=[(64, 64), (64, 64)]))})
    if proposals: calls(module, **{f'{cls}__forward': lambda w: (model(w), dict(images=w.images, targets=w.targets, **p(w)))})
detector('rpn', 'RPN', 'rpn'); detector('fast_rcnn', 'FastRCNN', 'fast_rcnn', proposals=True); detector('faster_rcnn', 'FasterRCNN', 'faster_rcnn'); detector('mask_rcnn', 'MaskRCNN', 'mask_rcnn')
detector('cascade_rcnn', 'CascadeRCNN', 'cascade_rcnn'); detector('keypoint_rcnn', 'KeypointRCNN', 'keypoint_rcnn', num_keypoints=4); detector('retinanet', 'RetinaNet', 'retinanet'); detector('fcos', 'FCOS', 'fcos')

box_out = lambda w: w.mask.roi_head.boxes(w.canvas, w.proposals.boxes)
calls('fast_rcnn',
    linear=lambda w: dict(x=torch.randn(4, 8), fc=nn.Linear(8, 3)),
    pad_proposals=lambda w: dict(proposals=[w.boxes, w.more], batch=w.batch),
    sample_rois=lambda w: dict(proposals=w.proposals, truths=w.truths, matcher=w.mask.roi_head.matcher, sampler=w.mask.roi_head.sampler), BoxHead=lambda w: dict(num_classes=4, in_channels=4, fc_channels=8),
    BoxHead__forward=lambda w: (w.mask.roi_head.bbox_head, dict(x=torch.randn(2, 16, 7, 7))),
    BoxHead__loss=lambda w: (w.mask.roi_head.bbox_head, dict(zip(('logits', 'deltas'), w.mask.roi_head.boxes(w.canvas, w.rois.boxes)), rois=w.rois)), DetectionFilter=lambda w: {},
    DetectionFilter__candidates=lambda w: (new('fast_rcnn.DetectionFilter'), dict(zip(('logits', 'deltas'), box_out(w)), proposals=w.proposals, coder=coder(w), sizes=w.sizes)),
    DetectionFilter____call__=lambda w: (new('fast_rcnn.DetectionFilter'), dict(zip(('logits', 'deltas'), box_out(w)), proposals=w.proposals, coder=coder(w), sizes=w.sizes)),
    RoIHead=lambda w: dict(bbox_head=w.mask.roi_head.bbox_head),
    RoIHead__windows=lambda w: (w.mask.roi_head, dict(extractor=w.mask.roi_head.bbox_extractor, canvas=w.canvas, boxes=w.boxes, image=torch.tensor([0, 1, 0]))),
    RoIHead__read=lambda w: (w.mask.roi_head, dict(canvas=w.canvas, boxes=w.proposals.boxes)), RoIHead__boxes=lambda w: (w.mask.roi_head, dict(canvas=w.canvas, boxes=w.proposals.boxes)),
    RoIHead__sample=lambda w: (w.mask.roi_head, dict(canvas=w.canvas, proposals=w.proposals, truths=w.truths)),
    RoIHead__detect=lambda w: (w.mask.roi_head, dict(canvas=w.canvas, proposals=w.proposals, batch=w.batch)))

two_found = lambda w: [dict(boxes=w.boxes, labels=w.labels, scores=w.scores), dict(boxes=w.more, labels=w.labels[:2], scores=w.scores[:2])]
calls('masks',
    crop_masks=lambda w: dict(masks=w.masks, boxes=w.boxes, which=torch.tensor([0, 1, 2]), size=8), paste_weights=lambda w: dict(low=torch.tensor([1., 2]), high=torch.tensor([5., 9]), cells=4, size=16),
    paste_masks=lambda w: dict(masks=torch.rand(3, 8, 8), boxes=w.boxes, size=(64, 64), threshold=.5), whole_pixel_weights=lambda w: dict(low=torch.tensor([1., 2]), high=torch.tensor([5., 9]), cells=4, size=16),
    MaskHead=lambda w: dict(num_classes=4, in_channels=4, num_convs=1, channels=4), MaskHead__forward=lambda w: (w.mask.roi_head.mask_head, dict(x=torch.randn(3, 16, 14, 14), labels=w.labels)),
    mask_loss=lambda w: dict(roi_head=w.mask.roi_head, canvas=w.canvas, rois=w.rois, truths=w.truths), small_masks=lambda w: dict(roi_head=w.mask.roi_head, canvas=w.canvas, boxes=w.boxes, labels=w.labels, image=torch.tensor([0, 1, 1])), predict_masks=lambda w: dict(roi_head=w.mask.roi_head, canvas=w.canvas, detections=two_found(w), batch=w.batch, sizes=[(64, 64), (32, 32)]),
    MaskHead__loss=lambda w: (w.mask.roi_head.mask_head, dict(roi_head=w.mask.roi_head, canvas=w.canvas, rois=w.rois, truths=w.truths)),
    MaskHead__predict=lambda w: (w.mask.roi_head.mask_head, dict(roi_head=w.mask.roi_head, canvas=w.canvas, detections=two_found(w), batch=w.batch, sizes=[(64, 64), (32, 32)])))

for n in ('resnet', 'resnet_c4', 'resnet_dc5'): calls('c4', **{n: lambda w: dict(depth=18, scratch=True, style='pytorch')})
calls('c4', single_rpn_head=lambda w: dict(channels=16), c4_roi_head=lambda w: dict(depth=18, num_classes=3, style='pytorch', scratch=True),
    **{n: lambda w, n=n: dict(depth=18, style='pytorch', scratch=True) | ({} if n == 'rpn_c4' else dict(num_classes=3)) for n in ('rpn_c4', 'faster_rcnn_c4', 'mask_rcnn_c4', 'faster_rcnn_dc5')})

stage = lambda w: dict(head=w.mask.roi_head.bbox_head, logits=torch.randn(6, 5), deltas=torch.randn(6, 4, 4), sizes=w.sizes)
def cascade_rois(w):
    from detbook.fast_rcnn import RoIs
    return RoIs(w.proposals.boxes, torch.tensor([[0, -1, -2]]*2), torch.zeros(2, 3, dtype=torch.int64), w.proposals.boxes + 1, 1)
calls('cascade_rcnn',
    refine_boxes=lambda w: dict(stage(w), boxes=w.proposals.boxes, labels=torch.tensor([[0, 1, -1]]*2)), refine_rois=lambda w: dict(stage(w), rois=cascade_rois(w)),
    cascade_heads=lambda w: dict(num_classes=3, in_channels=4, fc_channels=8), CascadeRoIHead=lambda w: dict(bbox_heads=new('cascade_rcnn.cascade_heads', num_classes=3, in_channels=4, fc_channels=8)),
    CascadeRoIHead__stage=lambda w: (w.model('cascade_rcnn', masks=True).roi_head, dict(i=1)), CascadeRoIHead__mask_ensemble=lambda w: (w.model('cascade_rcnn', masks=True).roi_head, {}),
    cascade_rpn_head=lambda w: dict(in_channels=16, feat_channels=16),
    CascadeRoIHead__run_stages=lambda w: (w.model('cascade_rcnn').roi_head, dict(canvas=w.canvas, boxes=w.proposals.boxes, sizes=w.sizes)),
    CascadeRoIHead__mean_logits=lambda w: (w.model('cascade_rcnn').roi_head, dict(outputs=w.model('cascade_rcnn').roi_head.run_stages(w.canvas, w.proposals.boxes, w.sizes))),
    CascadeRoIHead__detect=lambda w: (w.model('cascade_rcnn').roi_head, dict(canvas=w.canvas, proposals=w.proposals, batch=w.batch)))

calls('keypoint_rcnn',
    keypoints_to_heatmap=lambda w: dict(keypoints=w.points, boxes=w.boxes, size=8), keypoint_maps=lambda w: dict(roi_head=w.point.roi_head, canvas=w.canvas, boxes=w.boxes, image=torch.tensor([0, 1, 1])), heatmaps_to_keypoints=lambda w: dict(maps=torch.randn(3, 2, 8, 8), boxes=w.boxes),
    KeypointHead=lambda w: dict(num_keypoints=2, in_channels=4, num_convs=1, channels=4), KeypointHead__forward=lambda w: (w.point.roi_head.keypoint_head, dict(x=torch.randn(2, 16, 14, 14))),
    keypoint_loss=lambda w: dict(roi_head=w.point.roi_head, canvas=w.canvas, rois=w.rois, truths=w.truths), predict_keypoints=lambda w: dict(roi_head=w.point.roi_head, canvas=w.canvas, detections=two_found(w)),
    KeypointHead__loss=lambda w: (w.point.roi_head.keypoint_head, dict(roi_head=w.point.roi_head, canvas=w.canvas, rois=w.rois, truths=w.truths)),
    KeypointHead__predict=lambda w: (w.point.roi_head.keypoint_head, dict(roi_head=w.point.roi_head, canvas=w.canvas, detections=two_found(w))),
    keypoint_roi_head=lambda w: dict(num_classes=1, in_channels=4, num_keypoints=2), keypoint_rpn_head=lambda w: dict(in_channels=16, feat_channels=16))

dense = lambda w: w.model('retinanet').bbox_head(w.feats)
dense_points = lambda w: w.model('fcos').bbox_head(w.feats)
fcos_first = lambda w: new('fcos.FCOSHead', num_classes=1, in_channels=16, stacked_convs=1, feat_channels=16, norm_groups=4, first_stage=True)
calls('retinanet',
    pred_conv=lambda w: dict(in_channels=4, out_channels=4, prior=.01), HeadConv=lambda w: dict(in_channels=4, out_channels=4, groups=2), HeadConv__forward=lambda w: (new('retinanet.HeadConv', in_channels=4, out_channels=4), dict(x=torch.randn(1, 4, 8, 8))),
    conv_tower=lambda w: dict(num=1, in_channels=4, channels=4), flatten_map=lambda w: dict(x=torch.randn(2, 12, 3, 3), k=4), DenseFilter=lambda w: {}, RetinaHead=lambda w: dict(num_classes=2, in_channels=4, stacked_convs=1, feat_channels=4),
    DenseFilter__candidates=lambda w: (new('retinanet.DenseFilter'), dict(out=dense(w), coder=coder(w), sizes=w.sizes)), DenseFilter____call__=lambda w: (new('retinanet.DenseFilter'), dict(out=dense(w), coder=coder(w), sizes=w.sizes)),
    DenseFilter__pick=lambda w: (new('retinanet.DenseFilter'), dict(out=dense(w))), DenseFilter__clip=lambda w: (new('retinanet.DenseFilter'), dict(found=dict(boxes=w.boxes, scores=w.scores), size=w.sizes[0])),
    DenseFilter__choose=lambda w: (new('retinanet.DenseFilter'), dict(zip(('boxes', 'scores'), w.proposals[:2]), valid=w.proposals.valid, max_out=2)),
    DenseFilter__propose=lambda w: (new('retinanet.DenseFilter'), dict(out=dense(w), coder=coder(w), sizes=w.sizes)), RetinaHead__forward=lambda w: (w.model('retinanet').bbox_head, dict(feats=w.feats)),
    RetinaHead__loss=lambda w: (w.model('retinanet').bbox_head, dict(out=dense(w), batch=w.batch, truths=w.truths)), RetinaHead__detect=lambda w: (w.model('retinanet').bbox_head, dict(out=dense(w), batch=w.batch)))
calls('fcos',
    PointMatcher=lambda w: {}, PointMatcher____call__=lambda w: (new('fcos.PointMatcher', ranges=((-1, 32), (32, math.inf))), dict(points=w.boxes[:,:2], units=torch.tensor([8., 8, 16]), splits=[2, 1], truths=w.truths)),
    centerness=lambda w: dict(distances=torch.ones(3, 4)), Scale=lambda w: {}, Scale__forward=lambda w: (new('fcos.Scale'), dict(x=torch.ones(2))), FCOSHead=lambda w: dict(num_classes=2, in_channels=4, stacked_convs=1, feat_channels=4, norm_groups=2),
    FCOSHead__forward=lambda w: (w.model('fcos').bbox_head, dict(feats=w.feats)), FCOSHead__units=lambda w: (w.model('fcos').bbox_head, dict(out=dense_points(w))),
    FCOSHead__distances=lambda w: (w.model('fcos').bbox_head, dict(answers=torch.randn(2, 3, 4), units=torch.tensor([8., 8, 16]))), FCOSHead__loss=lambda w: (w.model('fcos').bbox_head, dict(out=dense_points(w), batch=w.batch, truths=w.truths)),
    FCOSHead__detect=lambda w: (w.model('fcos').bbox_head, dict(out=dense_points(w), batch=w.batch)), FCOSHead__propose=lambda w: ((h := fcos_first(w)), dict(out=h(w.feats), batch=w.batch)))

view = lambda: new('tta.View', scale=2., flip='horizontal')
calls('tta',
    view_size=lambda w: dict(size=(64, 48), scale=2.), View__show=lambda w: (view(), dict(image=w.image)), View__restore=lambda w: (view(), dict(points=w.boxes[:,:2], seen=(128, 128), size=(64, 64))),
    restore_boxes=lambda w: dict(boxes=w.boxes, view=view(), seen=(128, 128), size=(64, 64)), restore_masks=lambda w: dict(masks=w.masks, view=view(), size=(32, 32)),
    restore_keypoints=lambda w: dict(keypoints=w.points, view=view(), seen=(128, 128), size=(64, 64), pairs=[(0, 1)]),
    merge_views=lambda w: dict(found=[w.found, w.found], views=[view(), view()], seen=[(64, 64)]*2, size=(64, 64), max_per_img=5, pairs=[(0, 1)]),
    predict_augmented=lambda w: dict(model=w.mask, images=w.images), TestTimeAug=lambda w: dict(model=w.mask), TestTimeAug__predict=lambda w: (new('tta.TestTimeAug', model=w.mask), dict(images=w.images, sizes=[(64, 64)]*2)),
    TestTimeAug__forward=lambda w: (new('tta.TestTimeAug', model=w.mask), dict(images=w.images, targets=w.targets)))

def sample(w):
    image, target = w.ds[0]
    return dict(image=image, target=target)
step = lambda name, **k: lambda w: (new(f'transforms.{name}', **k), sample(w))
calls('transforms',
    fit_size=lambda w: dict(size=(64, 48), scale=(100, 50)), Resize=lambda w: {}, RandomResize=lambda w: dict(scales=[(100, 50), (200, 100)]), Flip=lambda w: dict(pairs=[(0, 1)]), Crop=lambda w: dict(size=(32, 32)),
    Augment=lambda w: dict(steps=[lambda i, t: (i, t)]), DropSmall=lambda w: {}, train_transforms=lambda w: dict(crop=(32, 32), flip_pairs=[(0, 1)]), test_transforms=lambda w: {},
    Resize____call__=step('Resize', scale=(100, 50)), RandomResize____call__=step('RandomResize', scales=[(100, 50)]), RandomResize__draw=lambda w: (new('transforms.RandomResize', scales=[(100, 50)]), {}),
    Flip____call__=lambda w: (new('transforms.Flip', p=1.), {k: v if k == 'image' else {a:b for a,b in v.items() if a != 'keypoints'} for k,v in sample(w).items()}), Crop__draw=lambda w: (new('transforms.Crop', size=(32, 32)), dict(h=64, w=64)),
    Crop____call__=lambda w: (new('transforms.Crop', size=(32, 32)), {k: v if k == 'image' else {a:b for a,b in v.items() if a != 'keypoints'} for k,v in sample(w).items()}),
    Augment____call__=lambda w: (new('transforms.train_transforms', scale=(100, 50)), sample(w)), DropSmall____call__=step('DropSmall'),
    original_size=lambda w: dict(target=dict(ori_size=(64, 48), scale=(2., 2.), size=(128, 96))), to_original=lambda w: dict(pred=w.found, target=dict(ori_size=(64, 64), scale=(2., 2.), size=(128, 128))))
for n in ('Resize', 'RandomResize'):
    CALLS[f'transforms.{n}____call__'] = lambda w, n=n: (new(f'transforms.{n}', **(dict(scale=(100, 50)) if n == 'Resize' else dict(scales=[(100, 50)]))), {k: v if k == 'image' else {a:b for a,b in v.items() if a != 'keypoints'} for k,v in sample(w).items()})

boxed_sample = lambda w: {k: v if k == 'image' else {a: b for a,b in v.items() if a != 'keypoints'} for k,v in sample(w).items()}
stepped = lambda name, **k: lambda w: (new(name, **k), boxed_sample(w))
more_samples = lambda w, n: dict(boxed_sample(w), others=[tuple(boxed_sample(w).values())]*n)
calls('transforms', check_sample=lambda w: boxed_sample(w), keep_rows=lambda w: dict(target=boxed_sample(w)['target'], keep=torch.ones(len(w.ds[0][1]['labels']), dtype=torch.bool)), move_target=lambda w: dict(f=lambda v: v, target=boxed_sample(w)['target']))
calls('augment',
    draw_between=lambda w: dict(low=0., high=1.), draw_below=lambda w: dict(n=3), show_augmented=lambda w: dict(picture=w.ds, transforms=[new('transforms.Flip')], n=2, index=0, seed=0, classes=list(w.ds.classes)),
    paste_sample=lambda w: dict(boxed_sample(w), canvas=torch.zeros(3, 80, 80), left=3, top=-2), warp_sample=lambda w: dict(boxed_sample(w), matrix=torch.eye(3), size=(64, 64)),
    PhotoMetricDistortion=lambda w: {}, Expand=lambda w: {}, Pad=lambda w: dict(size=(70, 70)), RandomShift=lambda w: {}, MinIoURandomCrop=lambda w: {}, CutOut=lambda w: dict(n_holes=1, cutout_shape=(4, 4)), RandomErasing=lambda w: dict(n_patches=1, ratio=.2), RandomAffine=lambda w: {},
    PhotoMetricDistortion____call__=stepped('augment.PhotoMetricDistortion'), Expand____call__=stepped('augment.Expand', prob=1.), Pad____call__=stepped('augment.Pad', size=(70, 70)), RandomShift____call__=stepped('augment.RandomShift', prob=1., max_shift_px=3),
    MinIoURandomCrop____call__=stepped('augment.MinIoURandomCrop', min_ious=(.1,)), CutOut____call__=stepped('augment.CutOut', n_holes=1, cutout_shape=(4, 4)), RandomErasing____call__=stepped('augment.RandomErasing', n_patches=1, ratio=.2),
    RandomAffine____call__=stepped('augment.RandomAffine'))
calls('policies',
    ColorTransform=lambda w: dict(kind='Color'), GeomTransform=lambda w: dict(kind='Rotate'), RandomChoice=lambda w: dict(transforms=[[lambda i, t: (i, t)]]), AutoAugment=lambda w: {}, RandAugment=lambda w: {}, Albu=lambda w: dict(transforms=lambda **k: k),
    ColorTransform____call__=stepped('policies.ColorTransform', kind='Invert'), GeomTransform____call__=stepped('policies.GeomTransform', kind='TranslateX', level=5, reversal_prob=1.), RandomChoice____call__=stepped('policies.RandomChoice', transforms=[[lambda i, t: (i, t)]]),
    RandAugment____call__=stepped('policies.RandAugment', aug_num=0), Albu____call__=stepped('policies.Albu', transforms=lambda **k: k))
calls('mixing',
    Mosaic=lambda w: {}, MixUp=lambda w: {}, CopyPaste=lambda w: {}, MixedDataset=lambda w: dict(dataset=w.ds, steps=[new('mixing.Mosaic')]), MixedDataset__summary=lambda w: (new('mixing.MixedDataset', dataset=w.ds, steps=[]), {}),
    Mosaic____call__=lambda w: (new('mixing.Mosaic', img_scale=(32, 32)), more_samples(w, 3)), MixUp____call__=lambda w: (new('mixing.MixUp', img_scale=(64, 64)), more_samples(w, 1)), CopyPaste____call__=lambda w: (new('mixing.CopyPaste', selected=False), more_samples(w, 1)))

run = lambda: new('schedule.Schedule', param_scheduler=[dict(type='MultiStepLR', milestones=[1])], steps_per_epoch=2, max_epochs=3)
wrap = lambda: dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=.1))
optim = lambda: new('schedule.OptimStep', model=nn.Linear(2, 2), optim_wrapper=wrap(), schedule=run())
calls('schedule',
    Schedule=lambda w: dict(param_scheduler=[dict(type='MultiStepLR', milestones=[1])], steps_per_epoch=2, max_epochs=3), Schedule__lr=lambda w: (run(), dict(step=3, base=.1)), Schedule__describe=lambda w: (run(), dict(lr=.1)),
    Schedule__plot=lambda w: (run(), dict(lr=.1, ax=w.ax())), scale_lr=lambda w: dict(lr=.1, batch=8, base_batch=16), lr_of_run=lambda w: dict(lr=.1, auto_scale_lr=dict(base_batch_size=16), images=4),
    build_optimizer=lambda w: dict(model=nn.Linear(2, 2), optim_wrapper=wrap(), lr=.1), NotFinite=lambda w: dict(step=1, losses=dict(loss=math.nan), images=('a',), hint='b'),
    OptimStep=lambda w: dict(model=nn.Linear(2, 2), optim_wrapper=wrap(), schedule=run(), lr=.1), OptimStep__lr=lambda w: (optim(), dict(step=1)),
    OptimStep__moves=lambda w: (optim(), dict(step=1)), OptimStep____call__=lambda w: ((o := optim()), dict(step=1, forward=lambda: dict(loss=o.model(torch.ones(1, 2)).sum()), images=('a',))), OptimStep__state=lambda w: (optim(), {}),
    OptimStep__load_state=lambda w: (optim(), dict(zip(('tensors', 'rest'), optim().state()))))

calls('detector',
    half_type=lambda w: dict(device=torch.device('cpu'), wanted='bfloat16'), mixed_precision=lambda w: dict(device=torch.device('cpu'), on=True),
    prepare=lambda w: dict(model=w.mask, images=w.images, targets=w.targets, num_classes=4, need=('masks',)), prepare_images=lambda w: dict(model=w.mask, images=w.images),
    scale_detections=lambda w: dict(detections=two_found(w), have=[(64, 64)]*2, want=[(32, 32)]*2), Proposals__to_list=lambda w: (w.proposals, {}), Proposals__trimmed=lambda w: (w.proposals, {}), check_fit=lambda w: dict(model=w.mask), check_detections=lambda w: dict(detections=two_found(w), images=2, need=('boxes', 'labels')),
    Detector__explain=lambda w: (w.model('faster_rcnn'), dict(image=w.image, target=w.target, scale=1.5)), Detector=lambda w: dict(backbone=w.mask.backbone, neck=w.mask.neck), Detector__features=lambda w: (w.mask, dict(images=w.images)), Detector__propose=lambda w: (w.mask, dict(images=w.images)), Detector__stages=lambda w: (w.mask, dict(batch=w.batch)),
    Detector__forward=lambda w: (w.mask, dict(images=w.images, targets=w.targets)), load_backbone=lambda w: dict(backbone=w.mask.backbone, weights=str(w.saved)))
left_out('the last call of a detector\'s constructor, whose arguments are the constructor\'s', 'detector.finish_init')

calls('models', resnet_fpn=lambda w: dict(depth=18, scratch=True),
    **{n: lambda w, n=n: dict(depth=18, channels=16, scratch=True) | ({} if n == 'rpn' else dict(num_classes=2)) for n in ('fast_rcnn', 'faster_rcnn', 'mask_rcnn', 'retinanet', 'fcos', 'rpn', 'cascade_rcnn', 'keypoint_rcnn')})

calls('images',
    read_image=lambda w: dict(source=w.png),
    picture_formats=lambda w: {},
    read_picture=lambda w: dict(source=w.png),
    find_pictures=lambda w: dict(folder=w.coco.parent/'images'),
    list_pictures=lambda w: dict(imgs=[w.image]),
    upright_size=lambda w: dict(source=w.png), open_picture=lambda w: dict(source=w.png))
calls('coco',
    read_coco=lambda w: dict(source=w.coco),
    segmentation_to_rle=lambda w: dict(segmentation=[[1., 1, 9, 1, 9, 9, 1, 9]], height=16, width=16),
    decode_masks=lambda w: dict(masks=[new('coco.segmentation_to_rle', segmentation=[[1., 1, 9, 1, 9, 9, 1, 9]], height=16, width=16)], size=(16, 16)),
    plain_value=lambda w: dict(x=(1, torch.ones(2))),
    whole_number=lambda w: dict(x='1'),
    plain_id=lambda w: dict(x='1'),
    written_id=lambda w: dict(x='1'),
    plain_record=lambda w: dict(r=dict(image_id='1')),
    spellings=lambda w: dict(records=[dict(id='1')]),
    link_record=lambda w: dict(r=dict(image_id='1', category_id=1), images={1: 1}, categories={1: 1}),
    read_json=lambda w: dict(path=w.coco),
    decode_runs=lambda w: dict(counts=importlib.import_module('detbook.results').encode_mask(w.masks[0])['counts']),
    has_mask=lambda w: dict(segmentation=[[1., 1, 9, 1, 9, 9]]),
    check_mask=lambda w: dict(segmentation=[[1., 1, 9, 1, 9, 9, 1, 9]], height=16, width=16),
    check_size=lambda w: dict(h=9, w=9),
    source_name=lambda w: dict(source='a.json'))
def bad_records(on_bad='raise'): return importlib.import_module('detbook.records').BadRecords('a set', on_bad)
def coco_rows(w, k): return new('coco.read_coco', source=w.coco)[k]
calls('records',
    BadRecords=lambda w: dict(name='a set'), BadRecords____call__=lambda w: (bad_records(on_bad='skip'), dict(kind='a kind', words='found')),
    pick_classes=lambda w: dict(categories=coco_rows(w, 'categories'), name='a set', classes=['digit', 'circle'], annotations=coco_rows(w, 'annotations')),
    find_folder=lambda w: dict(images=None, annotations=w.coco, files=['000000.png']), find_file=lambda w: dict(file='000000.png', folder=w.coco.parent/'images', cache={}),
    class_names=lambda w: dict(categories=[dict(id=1, name='a'), dict(id=2, name='a')], annotations=[dict(id=1, image_id=1, category_id=2)]),
    wrong_size=lambda w: dict(got=(9, 9), want=(9, 8)), good_images=lambda w: dict(records=coco_rows(w, 'images'), folder=w.coco.parent/'images', bad=bad_records()),
    good_annotations=lambda w: dict(annotations=coco_rows(w, 'annotations'), categories=coco_rows(w, 'categories'), images=new('records.good_images', records=coco_rows(w, 'images'), folder=w.coco.parent/'images', bad=bad_records()),
                                    wanted=[1, 2, 3, 4], masks=True, bad=bad_records()),
    flip_pairs=lambda w: dict(names=['left_eye', 'right_eye', 'nose']), read_keypoints=lambda w: dict(categories=coco_rows(w, 'categories'), name='a set'))
calls('data',
    CocoDataset=lambda w: dict(annotations=w.coco, images=w.coco.parent/'images', classes=['digit', 'circle']),
    CocoDataset__path=lambda w: (w.ds, dict(i=1)),
    CocoDataset__image=lambda w: (w.ds, dict(i=1)),
    CocoDataset__target=lambda w: (w.ds, dict(i=1)),
    CocoDataset__show=lambda w: (w.ds, dict(i=1, ax=w.ax())),
    CocoDataset__record=lambda w: (w.ds, dict(i=1)), CocoDataset__subset=lambda w: (w.ds, dict(rows=[2, 0])), CocoDataset__repeat_factors=lambda w: (w.ds, dict(threshold=.5)), CocoDataset__split=lambda w: (w.ds, dict(share=.4, seed=1, by='id')),
    CocoDataset__summary=lambda w: (w.ds, {}),
    CocoDataset__to_coco=lambda w: (w.ds, {}),
    collate=lambda w: dict(batch=[(w.image, w.target)]*2))

def written(w, name, text):
    (w.folder/name).write_text(text)
    return w.folder/name
def faults(): return new('annotations.Faults', found=[])
xml = lambda w: written(w, 'one.xml', '<annotation><filename>one.png</filename><object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>')
table = dict(file='file', label='label', x='x', y='y', w='w', h='h')
calls('annotations',
    Faults=lambda w: dict(name='a set'), Faults____call__=lambda w: (faults(), dict(kind='a kind', file='a.xml', line=3, what='found', expected='wanted')), voc_objects=lambda w: dict(path=xml(w), file='one.xml', faults=faults()),
    read_yaml=lambda w: dict(path=written(w, 'data.yaml', 'names: [a, b]')), yolo_names=lambda w: dict(names=['a', 'b'], file='data.yaml'),
    yolo_objects=lambda w: dict(path=written(w, 'one.txt', '0 .5 .5 .1 .1'), file='one.txt', names=['a', 'b'], size=(64, 48), faults=faults()), table_columns=lambda w: dict(have=list(table), file='a.csv'),
    table_rows=lambda w: dict(source=written(w, 'a.csv', 'file,x,y,w,h,label\n')), table_objects=lambda w: dict(rows=[dict(file='a', label='b', x=1, y=2, w=3, h=4)], columns=table, file='a.csv', first=2, faults=faults()),
    read_list=lambda w: dict(path=written(w, 'list.json', '[]')), list_objects=lambda w: dict(r=dict(instances=[dict(bbox=[1, 2, 3, 4], bbox_label=0)]), num_classes=2, file='a', faults=faults()))
def voc(w):
    (w.folder/'voc').mkdir(exist_ok=True)
    for f in (xml(w), w.png): (w.folder/'voc'/f.name).write_bytes(f.read_bytes())
    return w.folder/'voc'
calls('formats',
    guess_format=lambda w: dict(path=voc(w)), read_records=lambda w: dict(path=voc(w), images=voc(w)), read_dataset=lambda w: dict(path=voc(w), images=voc(w), classes=['a'], split='all', format='voc'),
    VocDataset=lambda w: dict(path=voc(w), images=voc(w), classes=['a'], split='all'))

def new_place(w): return w.folder/f'new_{len(list(w.folder.iterdir()))}'
calls('writers', to_coco=lambda w: dict(ds=w.ds, path=w.folder/'written.json'), **{n: lambda w: dict(ds=w.ds, folder=new_place(w), pictures='link') for n in ('to_voc', 'to_yolo')})

calls('results',
    encode_mask=lambda w: dict(mask=w.masks[0]), to_coco=lambda w: dict(preds=[{k: v for k,v in w.found.items() if k != 'keypoints'}], image_ids=[7], category_ids=[1, 2, 3], keypoint_offset=.5),
    match_categories=lambda w: dict(truth=w.ds.to_coco(), classes=list(w.ds.classes), category_ids=[7, 8, 9, 10][:len(w.ds.classes)]))
boxes_of = lambda w: np.concatenate([np.zeros((3, 1)), w.boxes.numpy()], 1)
calls('voc', voc_curve=lambda w: dict(truths=boxes_of(w), ignored=np.zeros(3, bool), found=boxes_of(w), scores=w.scores.numpy()), voc_ap=lambda w: dict(precision=np.array([1., .5]), recall=np.array([.5, .5]), way='area'))
left_out('a step of `evaluate`, called by it: tests/test_voc.py', 'voc.voc_classes')
calls('metrics',
    cover_truths=lambda w: dict(truths=[w.boxes.numpy()], proposals=[w.more.numpy()], nums=(1, 10), least=.5), evaluate=lambda w: dict(truth=w.ds, preds=w.results, metrics=('bbox',)))
def result(w):
    from detbook.metrics import evaluate
    return evaluate(w.ds, w.results)
calls('result', Result__to_dict=lambda w: (result(w), {}), Result__to_json=lambda w: (result(w), {}), Result__save=lambda w: (result(w), dict(path=w.folder/'r.json')), Result__table=lambda w: (result(w), {}), Result__plot_pr=lambda w: (result(w), dict(metric='bbox', iou=.5, ax=w.ax())),
    Result__to_frame=lambda w: (result(w), dict(metric='bbox')), Result__best_scores=lambda w: (result(w), dict(classes=['digit', 'circle'], metric='bbox')), Result__interval=lambda w: (result(w), dict(stat='bbox_mAP', times=20)), Result__compare=lambda w: (result(w), dict(other=result(w), stat='bbox_mAP', times=20)),
    Result__confusion=lambda w: (result(w), dict(metric='bbox', min_score=.3)), Result__calibration=lambda w: (result(w), dict(metric='bbox', bins=5)), Result__worst=lambda w: (result(w), dict(n=3, metric='bbox')), Result__plot_confusion=lambda w: (result(w), dict(metric='bbox', ax=w.ax())),
    **{f'Result__{n}': lambda w: (result(w), dict(metric='bbox')) for n in ('errors', 'thresholds')}, **{f'Result__plot_{n}': lambda w: (result(w), dict(metric='bbox', ax=w.ax())) for n in ('sizes', 'errors', 'calibration', 'thresholds')})
calls('diagnosis', draw_images=lambda w: dict(images=4, times=3), interval=lambda w: dict(values=np.arange(9.), level=.9), sign_share=lambda w: dict(differences=np.arange(9.) - 4))
left_out('steps of `evaluate` and of a result, called by them: tests/test_fast_eval.py and tests/test_result.py', 'fast_eval.*', 'diagnosis.*', 'diagnosis.resampled_ap', 'result.figures', 'result.class_figures', 'result.known_mean', 'result.plain_figures', 'result.Record', 'result.Difference')
left_out('steps of `detbook_test`, called by it: tests/test_result.py', 'report.report_html', 'report.write_report')

calls('nodes',
    ConfigDict=lambda w: dict(values=dict(a=1)), ConfigDict__copy=lambda w: (new('nodes.ConfigDict', values=dict(a=1)), {}), ConfigDict__setdefault=lambda w: (new('nodes.ConfigDict', values=dict(a=1)), dict(key='b')),
    ConfigDict__pop=lambda w: (new('nodes.ConfigDict', values=dict(a=1)), dict(key='a')), ConfigDict__merge=lambda w: (new('nodes.ConfigDict', values=dict(a=1)), dict(other=dict(b=2))),
    ConfigDict__update=lambda w: (new('nodes.ConfigDict', values=dict(a=1)), dict(other=dict(b=2))), ConfigDict__to_dict=lambda w: (new('nodes.ConfigDict', values=dict(a=1)), {}))
calls('config',
    Config__fromfile=lambda w: (importlib.import_module('detbook.config').Config, dict(path='rpn_r50_fpn_1x_coco')), Config__origin=lambda w: (w.config(), dict(path='model.type')), Config__override=lambda w: (w.config(), dict(settings=['model.backbone.depth=18'])),
    Config__merge_from_dict=lambda w: (w.config(), dict(settings={'model.backbone.depth': 18})), Config__dump=lambda w: (w.config(), dict(file=w.folder/'c.py')),
    Config__unused=lambda w: (w.config(), dict(settings=['model'])))
calls('build', build_detector=lambda w: dict(model=w.config().model), load_own=lambda w: dict(names=f'{w.program}:Mine'))
calls('views', build_tta=lambda w: dict(cfg=dict(tta_model=dict(type='DetTTAModel'), tta_pipeline=[dict(type='TestTimeAug', transforms=[[dict(type='Resize', scale=(64, 64), keep_ratio=True)], [dict(type='RandomFlip', prob=1.)]])]), model=w.mask))
left_out('how the chapters read configs: its errors name the path in the config, shown in the chapter and tests/test_config.py', 'parts.ConfigPart*', 'parts.build_part', 'parts.finish_part', 'parts.one_value', 'build.build_soft_nms', 'parts.refuse_type',
    'nodes.copy_node', 'nodes.to_plain', 'expressions.*')

calls('checkpoint',
    find_weights=lambda w: dict(source=w.saved), read_weights=lambda w: dict(source=w.saved), load_checkpoint=lambda w: dict(model=w.mask, source=w.saved),
    save_checkpoint=lambda w: dict(path=w.folder/'c.safetensors', model=nn.Linear(2, 2), metadata=dict(a='b')))
calls('files',
    Budget=lambda w: dict(units=3, error=lambda n: ValueError(f'{n} units')), Budget__spend=lambda w: (new('files.Budget', units=3, error=lambda n: ValueError(f'{n} units')), dict(n=1)), check_file=lambda w: dict(path=w.saved), cache_folder=lambda w: {},
    folder_names=lambda w: dict(folder=w.folder), parse_json=lambda w: dict(text='{"a": 1}'), DoubleKey=lambda w: dict(key='a'), some_of=lambda w: dict(names=['a', 'b'], n=1), shown=lambda w: dict(text='a', n=9))
calls('reading',
    read_checkpoint=lambda w: dict(path=w.saved), strip_wrappers=lambda w: dict(key='module.a'), unwrap=lambda w: dict(found=dict(a=torch.ones(1)), budget=new('files.Budget', units=99, error=ValueError)), file_budget=lambda w: dict(path=w.saved), notes_budget=lambda w: dict(path=w.saved), read_arrays=lambda w: dict(path=w.pickle), Checkpoint=lambda w: dict(tensors=dict(a=torch.ones(1)), path='a', kind='b', metadata={}))
def told(w): return importlib.import_module('detbook.describe').describe(w.mask)
calls('describe',
    describe=lambda w: dict(model=w.mask), rebuild=lambda w: dict(description=told(w)), save_detector=lambda w: dict(path=w.folder/'d.safetensors', model=w.mask, classes=tuple('abcd'), preprocessing=dict(resize=[64, 48]), thresholds=dict(a=.5)),
    class_list=lambda w: dict(model=w.mask, classes=tuple('abcd')),
    read_detector=lambda w: dict(path=w.saved), check_weights_fit=lambda w: dict(description=told(w), weights=w.mask.state_dict()), first_difference=lambda w: dict(model=w.mask, twin=w.mask), upgrade=lambda w: dict(description=dict(type='detbook.nms.NMS')))
left_out('it asks the network', 'download.download', 'learner.detection_learner', 'hub.push_to_hub')
left_out('FiftyOne is not installed here: tests/test_export.py has its two classes stand for it', 'detections.Detections__to_fiftyone')
calls('hub', hub_card=lambda w: dict(file=w.saved, repo='me/cells'))
left_out('a step of `save_detector` and of `Detections.sure`, called by them with their classes', 'describe.check_thresholds')
left_out('a block', 'files.whole_file', 'runs.lock_folder', 'runs.naming_file', 'loader.drawn_from', 'timetable.stop_signals', 'distributed.process_group')
calls('names',
    from_torchvision=lambda w: dict(tensors=nn.Linear(2, 2).state_dict()), from_detectron2=lambda w: dict(tensors=nn.Linear(2, 2).state_dict()), from_detectron=lambda w: dict(tensors=nn.Linear(2, 2).state_dict()), weights_kind=lambda w: dict(tensors=w.mask.state_dict()),
    convert=lambda w: dict(tensors=w.mask.state_dict()))
calls('census',
    look_at=lambda w: dict(path=w.png), scan_pictures=lambda w: dict(paths=[w.png], workers=2, progress=False), find_copies=lambda w: dict(looks=[looked(w)], others=[looked(w)], least=.6))
def looked(w): return importlib.import_module('detbook.census').look_at(w.png)
def records(w): return importlib.import_module('detbook.coco').read_coco(w.coco)
calls('census',
    count_objects=lambda w: dict(d=records(w)), count_table=lambda w: dict(counts=new('census.count_objects', d=records(w))), show_counts=lambda w: dict(d=records(w), size=(6, 3)),
    anchor_coverage=lambda w: dict(boxes=w.boxes, sizes=torch.tensor([[64, 64]]*3), anchors=w.gen, scale=(128, 96), pad_divisor=32), compare_anchors=lambda w: dict(d=records(w), anchors=dict(a=w.gen), scale=(128, 96)),
    coverage_table=lambda w: dict(coverage=new('census.compare_anchors', d=records(w))))
def findings(): return importlib.import_module('detbook.faults').Findings('a')
def report(w): return new('check.check_dataset', path=w.coco)
calls('faults',
    Findings=lambda w: dict(name='a', ignore=['unused class']), Findings____call__=lambda w: (findings(), dict(kind='bad box', value='x', file='a.png', ann_id=3, fix='none')),
    check_annotations=lambda w: dict(annotations=records(w)['annotations'], images={r['id']: r for r in records(w)['images']}, classes={r['id']: r for r in records(w)['categories']}, say=findings(), format='coco'))
calls('check',
    check_dataset=lambda w: dict(path=w.coco, images=w.coco.parent/'images', ignore=['unused class'], scale=(128, 96)),
    **{f'CheckReport__{k}': lambda w, v=v: (report(w), v) for k, v in dict(title={}, statistics={}, to_dict={}, table=dict(rows=3), show=dict(n=2, cols=2)).items()},
    CheckReport__to_json=lambda w: (report(w), dict(path=w.folder/'report.json')), CheckReport__write_clean=lambda w: (report(w), dict(path=w.folder/'clean.json')))
calls('zoo', **{k: lambda w: dict(name='mask-rcnn_r50_fpn_1x_coco') for k in ('find_url', 'bare_name', 'plain_name', 'zoo_name')})
calls('weights',
    class_names=lambda w: dict(metadata=dict(classes=['a', 'b']), number=2), load_detector=lambda w: dict(path=w.saved),
    save_mmdetection=lambda w: dict(path=w.folder/'m.pth', model=w.mask, classes=tuple('abcd')), check_scale=lambda w: dict(scale=(64, 48)), same_scale=lambda w: dict(a=(64, 48), b=(48, 64)),
    picture_size=lambda w: dict(name='mine.pth', cfg=w.config(), notes=dict(preprocessing=dict(resize=[64, 48]))), pipeline_scale=lambda w: dict(cfg=w.config()), read_test_settings=lambda w: dict(cfg=w.config()), resize_note=lambda w: dict(model=w.mask))
left_out('builds a ResNet-50 detector by a name that is looked up; tests/test_weights.py tries wrong ones', 'weights.build_arch', 'weights.torchvision_detector', 'weights.detectron2_detector')
left_out('needs another package; tests/test_weights.py and tests/test_folder.py try wrong names and stages', 'efficientnet.TimmBackbone*')
calls('recipes', recipe_names=lambda w: {}, recipe_name=lambda w: dict(name='rpn_r50_fpn_1x_coco'), recipe=lambda w: dict(name='rpn_r50_fpn_1x_coco'))
calls('outputs', Progress=lambda w: dict(total=3, what='pictures', wanted=False), Progress__step=lambda w: (new('outputs.Progress', total=3, wanted=False), dict(count=1)))
calls('cli', make_parser=lambda w: dict(f=importlib.import_module('detbook.testing').test), run_command=lambda w: dict(f=lambda: {}, argv=[]), nearest=lambda w: dict(name='dept', options=['depth', 'width']))
calls('outputs',
    free_path=lambda w: dict(path=w.folder/'free.json'), never_over=lambda w: dict(path=w.folder/'free.json', sources=[w.png]), keep_pictures=lambda w: dict(paths=[w.folder/'drawn/a.png'], folder=w.folder/'drawn', sources=[w.png]),
    place_below=lambda w: dict(folder=w.folder/'drawn', names=['one.png'], sources=[w.png], suffix='.jpg'),
    map_files=lambda w: dict(f=len, items=['a', 'bc'], workers=2, progress=False))
left_out('of the commands themselves: it takes a caught error, or a function of the package', 'cli.is_slip', 'cli.read_function')
left_out('it changes how this process handles memory; its chapter runs it in processes of their own', 'cli.keep_freed_memory')

alone = lambda f: f
calls('distributed',
    place=lambda w: {}, is_main=lambda w: {}, agree=lambda w: dict(flag=True), max_over_ranks=lambda w: dict(number=3), barrier=lambda w: {}, broadcast_value=lambda w: dict(value=3, source=0), gather_list=lambda w: dict(items=[1, 2]), mean_values=lambda w: dict(values=dict(a=torch.tensor(1.))),
    shard=lambda w: dict(n=10, rank=1, world_size=2), first_host=lambda w: dict(nodes='node[3-5]'), who_am_i=lambda w: dict(launcher='pytorch', env=dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1', LOCAL_WORLD_SIZE='2', MASTER_ADDR='here', MASTER_PORT='29500')), talks_on_cpu=lambda w: {})
left_out('it needs a process group, which tests/test_distributed.py and tests/test_launchers.py start', 'distributed.parallel', 'distributed.end_distributed', 'distributed.init_distributed', 'distributed.run_on')

bare  = lambda w: dict(boxes=w.boxes, scores=w.scores, labels=w.labels)
there = lambda w: importlib.import_module('detbook.detections').bring_back(dict(bare(w), masks=w.masks), (64, 64), (0, 0, 64, 64))
calls('images',
    read_ahead=lambda w: dict(items=[w.image]), tile_grid=lambda w: dict(size=(100, 100), tile=(64, 64), overlap=.25), cut_windows=lambda w: dict(image=w.image, scale=(32, 32), tiles=(40, 40)),
    Window__pixels=lambda w: (new('images.Window', image=w.image, box=(0, 0, 32, 32), shape=(16, 16)), {}))
calls('detections',
    Detections=lambda w: dict(found=bare(w), size=(64, 64), source='a', classes=tuple('abcd')), Detections__to_frame=lambda w: (new('detections.Detections', found=bare(w)), {}), Detections__sure=lambda w: (new('detections.Detections', found=bare(w), classes=tuple('abcd')), dict(min_score=.3)), Detections__to_supervision=lambda w: (new('detections.Detections', found=bare(w)), {}), Detections__to_coco=lambda w: (new('detections.Detections', found=bare(w), size=(64, 64), classes=tuple('abcd')), dict(image_id=1, category_ids=[1, 2, 3, 4])),
    any_class=lambda w: dict(suppress=new('nms.NMS'), num_classes=4), changed_filter=lambda w: dict(model=w.mask, score_thr=.3), mask_patch=lambda w: dict(mask=torch.rand(8, 8) > .5, box=(1, 2, 7, 8), size=(64, 64)),
    bring_back=lambda w: dict(found=dict(bare(w), masks=w.masks, keypoints=w.points), seen=(64, 64), window=(2, 3, 34, 35)), join_windows=lambda w: dict(found=[there(w), there(w)], windows=[(0, 0, 64, 64), (0, 0, 64, 64)], size=(64, 64)),
    merge_tiles=lambda w: dict(boxes=w.boxes, scores=w.scores, labels=w.labels, windows=torch.tensor([[0., 0, 64, 64]]*3), size=(64, 64), iou=.5),
    show_result=lambda w: dict(image=w.image, result=w.found, classes=list('abcd'), min_score=.3, out_file=w.folder/'s.png', skeleton=((0, 1),)))
def entered(writer):
    writer.__enter__()
    return writer
calls('video',
    VideoReader=lambda w: dict(path=w.film), VideoReader__frame_at=lambda w: (new('video.VideoReader', path=w.film), dict(seconds=.1)), VideoWriter=lambda w: dict(path=w.folder/'new.mp4', fps=10., crf=30),
    VideoWriter__write=lambda w: (entered(new('video.VideoWriter', path=w.folder/'new.mp4')), dict(frame=w.image, seconds=1.)), write_video=lambda w: dict(path=w.folder/'new.mkv', frames=w.images, fps=10., crf=30, overwrite=True),
    is_video=lambda w: dict(name=w.film), camera_number=lambda w: dict(name='7'))
left_out('a generator: the chapter and tests/test_video.py go through it', 'video.VideoReader__timed')
left_out('there may be no camera: tests/test_video.py puts a test pattern in its place', 'video.Camera*')
calls('inference',
    init_detector=lambda w: dict(config=None, checkpoint=str(w.saved), device='cpu'), Predictor=lambda w: dict(model=w.mask, progress=False),
    Predictor____call__=lambda w: (new('inference.Predictor', model=w.mask, progress=False), dict(imgs=[w.image])), inference_detector=lambda w: dict(model=w.mask, imgs=w.image))
left_out('a generator: Predictor() is the same call', 'inference.Predictor__stream')

calls('proposals', ProposalTable=lambda w: dict(ids=[1], rows=[w.boxes]))
calls('steps',
    Pipeline=lambda w: {}, Pipeline__add=lambda w: (new('steps.Pipeline'), dict(name='a', step=lambda i, t: (i, t))), Pipeline____call__=lambda w: (new('steps.Pipeline'), sample(w)),
    build_transforms=lambda w: dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]))
left_out('a step of `build_transforms`, called by it: tests/test_steps.py', 'steps.add_steps')
calls('pipeline',
    JoinedDataset=lambda w: dict(parts=[w.ds, w.ds]), class_balanced=lambda w: dict(ds=w.ds, threshold=.5),
    JoinedDataset__summary=lambda w: (new('pipeline.JoinedDataset', parts=[w.ds, w.ds]), {}))
calls('loader',
    item_seed=lambda w: dict(seed=1, epoch=2, index=3), SeededItems=lambda w: dict(dataset=w.ds), group_by_shape=lambda w: dict(order=[2, 0, 1], upright=[True, False, True], batch_size=2), BatchPlan=lambda w: dict(sizes=torch.tensor([[64, 64], [64, 32], [32, 64]]), batch_size=2),
    BatchPlan__indices=lambda w: (new('loader.BatchPlan', sizes=torch.tensor([[64, 64], [64, 32], [32, 64]])), dict(epoch=1)), BatchPlan__epoch=lambda w: (new('loader.BatchPlan', sizes=torch.tensor([[64, 64], [64, 32], [32, 64]])), dict(epoch=1)),
    PlannedBatches=lambda w: dict(plan=new('loader.BatchPlan', sizes=torch.tensor([[64, 64], [64, 32]]))), PlannedBatches__go_to=lambda w: (new('loader.PlannedBatches', plan=new('loader.BatchPlan', sizes=torch.tensor([[64, 64], [64, 32]]))), dict(epoch=1)))
calls('settings', inner_datasets=lambda w: dict(cfg=w.config(), loader='train_dataloader'), check_names=lambda w: dict(cfg=w.config()), inner_dataset=lambda w: dict(cfg=w.config(), loader='train_dataloader'))
left_out('settings of a config, whose errors name the path: tests/test_pipeline.py', 'pipeline.build_dataset', 'loader.build_plan', 'loader.build_loader', 'proposals.read_proposals')

calls('testing',
    check_metrics=lambda w: dict(metrics=('bbox',), model=w.mask), detect_all=lambda w: dict(model=w.mask, ds=w.ds), label_categories=lambda w: dict(model=w.mask, ds=w.ds), read_truths=lambda w: dict(ds=w.ds, ann_file=w.coco),
    read_flag=lambda w: dict(cfg=dict(channels_last=True), name='channels_last'), read_evaluator=lambda w: dict(cfg=w.config()))
left_out('steps of `test`, called by it with its own results: tests/test_testing.py', 'report.draw_pair', 'report.draw_worst', 'report.found_in', 'testing.measure', 'testing.predict_dataset', 'testing.write_results', 'testing.read_results')

times = lambda: new('timetable.Timetable', steps=6, per_epoch=3)
changes = lambda: {'a.b': [1, 2]}
calls('timetable',
    **{f'Timetable__{k}': lambda w: (times(), dict(step=2)) for k in ('logs', 'measures', 'name', 'saves')}, Timetable__count=lambda w: (times(), dict(step=2, by_epoch=True)), read_timetable=lambda w: dict(cfg=w.config(), per_epoch=3),
    read_hooks=lambda w: dict(cfg=w.config()), read_environment=lambda w: dict(cfg=w.config()), seed_step=lambda w: dict(seed=1, step=2, rank=0), Watch=lambda w: {}, Watch__better=lambda w: (new('timetable.Watch'), dict(name='bbox_mAP', new=.5, old=.4)),
    Watch____call__=lambda w: (new('timetable.Watch'), dict(stats=dict(bbox_mAP=.5))), Watch__fits=lambda w: (new('timetable.Watch', best=['bbox_mAP']), dict(names=['bbox_mAP'])),
    flat_settings=lambda w: dict(value=dict(a=dict(b=1)), path='x'), setting_changes=lambda w: dict(old={'a': 1}, new={'a': 2}), deciding_settings=lambda w: dict(cfg=w.config()), show_changes=lambda w: dict(changed=changes()))
calls('runs',
    checksum=lambda w: dict(tensors=dict(a=torch.ones(2))),
    save_state=lambda w: dict(folder=w.folder, tensors=dict(a=torch.ones(2)), notes=dict(step=1)), read_state=lambda w: dict(source=w.run), Log=lambda w: {}, Log__add=lambda w: (new('runs.Log'), dict(losses=dict(loss=torch.ones(())))), say=lambda w: dict(text='a'),
    Lines=lambda w: dict(path=w.folder/'lines.jsonl'), Lines__add=lambda w: (new('runs.Lines', path=w.folder/'lines.jsonl'), dict(line=dict(a=1))), read_lines=lambda w: dict(path=w.lines),
    state_settings=lambda w: dict(state=importlib.import_module('detbook.runs').read_state(w.run)), versions=lambda w: {}, memory_used=lambda w: {}, fingerprint=lambda w: dict(data=w.ds), fingerprint_pictures=lambda w: dict(data=w.ds, most=100),
    write_card=lambda w: dict(folder=w.run, status='running', step=1, more=dict(a=1)), read_card=lambda w: dict(folder=w.run), Run=lambda w: dict(work_dir=w.run), Run__plot=lambda w: (new('runs.Run', work_dir=w.run), dict(terms=['loss'], ax=w.ax())),
    check_notes=lambda w: dict(notes=dict(step=4, per_epoch=4, seed=0, measured=4, kept=['epoch_1'], why='', watch=dict(best={}, top=None, waited=0), logged=[{}, 0], optim=dict(optimizer='SGD', parameters=['w'], numbers={}, scaler={}))))
average = lambda: new('ema.WeightAverage', model=nn.Linear(2, 2))
calls('ema', WeightAverage=lambda w: dict(model=w.mask, momentum=.1, gamma=3, interval=2), WeightAverage__share=lambda w: (average(), dict(count=1)), WeightAverage__load=lambda w: (average(), dict(averages=dict(weight=torch.ones(2, 2), bias=torch.ones(2)), count=2)))
left_out('without arguments', 'ema.WeightAverage__update', 'ema.WeightAverage__exchange', 'hooks.Hooks__state', 'hooks.Boards__close')
left_out('a block', 'ema.WeightAverage__in_place')
def resting(w): torch.manual_seed(0); return new('detector.Detector', backbone=new('backbone.ResNet', depth=18, frozen_stages=4, norm_eval=True))
def features(w): return new('features.FeatureSet', dataset=w.ds, model=resting(w), folder=w.folder/'features')
calls('features', FeatureSet=lambda w: dict(dataset=w.ds, model=resting(w), folder=w.folder/'features', dtype='float16'), FeatureSet__stages=lambda w: (features(w), dict(i=1, mirrored=False)),
    FeatureSet__still_fits=lambda w: (features(w), dict(model=resting(w))), check_frozen=lambda w: dict(model=resting(w)), check_features=lambda w: dict(dataset=w.ds, model=resting(w)))
calls('hooks', Hooks=lambda w: dict(parts=[]), Hooks____call__=lambda w: (new('hooks.Hooks', parts=[]), dict(event='after_step', run=w.mask)), Hooks__load=lambda w: (new('hooks.Hooks', parts=[]), dict(tensors={}, values={})))
calls('hooks', Boards=lambda w: dict(boards={}), Boards__add=lambda w: (new('hooks.Boards', boards={}), dict(group='train', figures=dict(loss=1.), step=1)), open_board=lambda w: dict(cfg=w.config(), work_dir=w.folder, step=1))
calls('curves', read_log=lambda w: dict(folder=w.run))
left_out('what `read_log` makes', 'curves.RunLog')
calls('callbacks', SaveState=lambda w: dict(folder=w.folder/'fit', every=2), Distributed=lambda w: {})
left_out('fastai calls it: the chapter and tests/test_callbacks.py', 'callbacks.SaveState__*', 'callbacks.Distributed__*')
calls('trainer', clock=lambda w: dict(seconds=2.5))
calls('training', read_training_config=lambda w: dict(config='rpn_r50_fpn_1x_coco'))
calls('adapt', adapt_config=lambda w: dict(cfg=w.config(), data=w.coco, folder=w.folder/'data', choices=new('adapt.Choices', val=.5, epochs=1, size=64, batch_size=1)), small_config=lambda w: dict(frozen=True))
left_out('trial steps in a process of its own, and the size they try: tests/test_folder.py', 'adapt.fit_batch', 'adapt.largest_size')
left_out('the heads call them with what they have made: the chapter', 'anchors.all_anchors', 'anchors.valid_anchors')
left_out('steps of `forecast_memory`: tests/test_memory.py', 'bench.step_memory', 'bench.forecast_curve')
left_out('what resuming does with an optimizer: tests/test_hooks.py, tests/test_callbacks.py', 'schedule.lay_out_state')
left_out('steps of `train`, called by it: tests/test_training.py', 'trainer.Trainer*', 'runs.Log__write', 'runs.begin_folder', 'trainer.build_model', 'trainer.read_compile', 'training.next_commands')

left_out('what labels are written with: the chapters show and detections', 'show.ink', 'show.place_labels')
def named(w):
    (w.folder/'named').mkdir(exist_ok=True)
    return new('label.BoxLabels', images=[w.png], classes=['a', 'b'], path=w.folder/'named'/'l.json')
calls('label',
    BoxLabels=lambda w: dict(images=[w.png], classes=['a', 'b'], path=w.folder/'new.json', guesses=[dict(boxes=w.boxes, scores=w.scores, labels=w.labels)], min_score=.5),
    BoxLabels__target=lambda w: (named(w), dict(i=0)), BoxLabels__put=lambda w: (named(w), dict(i=0, boxes=w.boxes, labels=torch.tensor([0, 1, 1]))))
left_out('boxes and colours are those of `BoxLabels` and `iou_widget`, which check them', 'label.box_canvas')
left_out('what a notebook stores of a widget, and one control of it: the chapter and tests/test_widgets.py', 'explore.make_control', 'explore.figure_png', 'explore.page_bundle', 'explore.Explorer*')
slide = lambda: dict(score=(0., 1., .5))
calls('explore', live_kernel=lambda w: {}, explore=lambda w: dict(draw=lambda ax, score: f'{score}', controls=slide(), settings=[dict(score=.2)], name=None, size=(2, 2)))
calls('widgets', iou_widget=lambda w: dict(name=None),
    anchor_designer=lambda w: dict(boxes=w.boxes, sizes=torch.full((3, 2), 64), strides=(8, 16), name=None), prediction_explorer=lambda w: dict(model=w.mask, image=w.image, classes=list('abcd'), name=None),
    matcher_explorer=lambda w: dict(image=w.image, target=w.target, anchors=w.gen, name=None), error_kinds=lambda w: dict(pred=w.found, target=w.target, min_score=.5, iou=.5),
    browse=lambda w: dict(pictures=[(w.image, w.target)], predictions=[w.found], classes=list('abcd'), name=None), schedule_composer=lambda w: dict(per_epoch=3, losses=[1., .5], name=None))
left_out('in place; its arguments are those of torch.compile: tests/test_contract.py', 'models.compile_parts')
calls('bench', forecast_memory=lambda w: dict(model=w.model('faster_rcnn'), size=(64, 96), batch=2, states=2, amp=False), toy_batch=lambda w: dict(batch=1, size=64, device=torch.device('cpu')), kept_bytes=lambda w: dict(model=nn.Linear(2, 2), forward=lambda: nn.Linear(2, 2)(torch.ones(1, 2)).sum()))
calls('nms', find_suppressors=lambda w: dict(boxes=w.boxes, scores=w.scores, groups=w.labels, kept=torch.tensor([0, 1]), iou=.5))
calls('roi', sampling_grid=lambda w: dict(extractor=w.mask.roi_head.bbox_extractor, boxes=w.boxes),
    Grids__points=lambda w: (new('roi.sampling_grid', extractor=w.mask.roi_head.bbox_extractor, boxes=w.boxes), dict(i=1)))
calls('listen', hear_step=lambda w: dict(model=w.model('faster_rcnn'), image=w.image, target=w.target))
left_out('drawings of a step: the chapter; a list of a part: `explain`', 'listen.check_target', 'listen.show_pale', 'listen.show_drawn', 'listen.show_calls', 'listen.parts_of')
calls('explain', explain=lambda w: dict(model=w.model('faster_rcnn'), image=w.image, target=w.target, scale=1.5),
    Trace__show=lambda w: (w.model('faster_rcnn').explain(w.image), dict(name='final', ax=w.ax())))
left_out('the parts of a trace, as `explain` and `hear_step` make them', 'roi.Grids', 'listen.Call', 'listen.Drawn', 'listen.Step', 'explain.Pyramid', 'explain.Anchors', 'explain.Choice*', 'explain.Stage', 'explain.Masks', 'explain.Heatmaps', 'explain.Trace')
def book(w): return new('misses.misses', model=w.model('faster_rcnn'), data=[(w.image, w.target)])
calls('misses', misses=lambda w: dict(model=w.model('faster_rcnn'), data=[(w.image, w.target)], iou=.5, metric='bbox'), average_precision=lambda w: dict(scores=w.scores, hits=torch.tensor([True, False, True]), labels=w.labels, truths={0: 1, 2: 1}),
    match_found=lambda w: dict(found=dict(boxes=w.boxes, scores=w.scores, labels=w.labels), target=dict(boxes=w.more, labels=w.labels[:2]), overlap=torch.rand(3, 2), least=.5),
    find_loss=lambda w: dict(model=w.model('faster_rcnn'), t=w.model('faster_rcnn').explain(w.image), box=w.target['boxes'][0], label=1, least=.5), Ledger__save=lambda w: (book(w), dict(path=w.folder/'ledger.json')),
    Ledger__plot=lambda w: (book(w), dict(ax=w.ax())), Ledger__show=lambda w: (book(w), dict(i=0, ax=w.ax())), Ledger__to_json=lambda w: (book(w), {}), Ledger__table=lambda w: (book(w), {}), Ledger__counts=lambda w: (book(w), {}))
left_out('a step of `misses` and of `error_kinds`, which look at what they are given: tests/test_misses.py', 'misses.overlaps', 'misses.alarm_kind')
left_out('the parts of a ledger, as `misses` makes them', 'misses.Ledger', 'misses.Miss', 'misses.Alarm')
calls('tiny', TinyNet=lambda w: dict(channels=(4, 8)), TinyNet__forward=lambda w: (new('tiny.TinyNet', channels=(4, 8)), dict(x=torch.randn(1, 3, 16, 16))), tiny_detector=lambda w: dict(num_classes=2, channels=16), toy_detector=lambda w: {})
left_out('a training of minutes: the slow cell of the chapter', 'tiny.train_toy_detector')
left_out('a step of `bench`, called by it: tests/test_demo.py', 'bench.TorchvisionPeer*', 'bench.crowded_batch', 'bench.bench_curve', 'bench.curve_table', 'bench.show_curves', 'bench.bench_table', 'bench.show_bench', 'bench.bench_pair', 'bench.lively_weight', 'bench.count_flops', 'bench.count_operations', 'bench.best_flops', 'bench.time_in_turn', 'bench.train_step', 'bench.agreement', 'bench.step_variants', 'bench.step_profile', 'bench.gpu_table', 'demo.demo_data', 'demo.save_pictures')
left_out('a step of a graph, in which no value can be looked at: tests/test_export.py', 'export.suppress_mask')
left_out('a graph is traced, for half a minute: tests/test_export.py calls it rightly and wrongly', 'export.export', 'export.detbook_export', 'export.load_onnx', 'export.OnnxDetector*', 'page.write_page', 'page.write_demo')
left_out('npm and its package: the chapter, and tests/test_page.py', 'page.fetch_runtime', 'page.unpack_runtime')
calls('demo', small_detector=lambda w: dict(num_classes=2, channels=16), smooth=lambda w: dict(values=[1., 2., 3.], width=2))
calls('learner', computes_bfloat16=lambda w: dict(device='cpu'), sum_losses=lambda w: dict(losses=dict(a=torch.ones(()))), split_backbone=lambda w: dict(model=w.mask))
calls('dataloaders', PictureSet=lambda w: dict(dataset=w.ds), PictureSet__target=lambda w: (new('dataloaders.PictureSet', dataset=w.ds), dict(i=1)),
    PictureSet__to_coco=lambda w: (new('dataloaders.PictureSet', dataset=w.ds), {}), still=lambda w: dict(transforms=new('transforms.test_transforms')), as_pictures=lambda w: dict(dataset=w.ds))
left_out('fastai calls it, or it needs a fit: the chapter and tests/test_testing.py', 'learner.AverageWeights*', 'learner.Bfloat16*', 'dataloaders.DetectionDL*', 'learner.DetectionLearner*', 'learner.DetectionStep*', 'dataloaders.detection_dls')
calls('learner', computes_bfloat16=lambda w: dict(device='cpu'), sum_losses=lambda w: dict(losses=dict(a=torch.ones(()))), split_backbone=lambda w: dict(model=w.mask), PictureSet=lambda w: dict(dataset=w.ds),
    PictureSet__target=lambda w: (new('learner.PictureSet', dataset=w.ds), dict(i=1)), PictureSet__to_coco=lambda w: (new('learner.PictureSet', dataset=w.ds), {}), still=lambda w: dict(transforms=new('transforms.test_transforms')))
left_out('fastai calls it, or it needs a fit: the chapter and tests/test_testing.py', 'learner.AverageWeights*', 'learner.Bfloat16*', 'learner.DetectionDL*', 'learner.DetectionLearner*', 'learner.DetectionStep*', 'learner.detection_dls')
left_out('the parts of a result, as `evaluate` makes them', 'result.Result')
left_out('the parts of a report, as `check_dataset` makes them', 'check.CheckReport', 'check.Checks')
left_out('makes the constructor of a detector', 'retinanet.one_stage')
calls('doctor', doctor=lambda w: dict(patient=w.model('retinanet'), data=w.scenes, steps=0, pictures=1))
left_out('what `doctor` examines, step by step: the chapter and tests/test_doctor.py', 'checkup.Check', 'checkup.Patient*', 'checkup.examine', 'checkup.untouched')
left_out('the parts of a report, as `doctor` and `verify` make them', 'doctor.DoctorReport*', 'verify.Row', 'verify.Verification*')
left_out('needs a run that was trained: tests/test_verify.py', 'verify.verify', 'verify.rerun')

left_out('a command: `cli` names its slips, shown in tests/test_demo.py and the tests of each command', 'bench.detbook_bench', 'check.detbook_check', 'demo.detbook_demo', 'inference.detbook_predict', 'testing.test', 'testing.detbook_test',
         'testing.detbook_eval', 'training.train', 'training.detbook_train', 'curves.log', 'curves.detbook_log', 'doctor.detbook_doctor', 'verify.detbook_verify', 'weights.detbook_convert', 'cli.main')

# ------------------------------------------------------------------ what is right though it looks wrong, and is promised in the docstring
# a pattern of function:argument:what is wrong -> the promise
RIGHT = {
    '*.Detector__explain:target:keypoints nan': 'what the detector does not learn from is not looked at', '*.Detector__explain:image:as float': 'floats run to 255', 'listen.hear_step:target:keypoints nan': 'likewise', 'explain.explain:target:keypoints nan': 'what the detector does not learn from is not looked at', 'explain.explain:image:as float': 'floats run to 255', 'nms.find_suppressors:iou:zero': 'any overlap is too much', 'roi.Grids__points:i:zero': 'the first',
    'nms.find_suppressors:boxes:*': 'overlaps nothing', 'nms.find_suppressors:scores:*': 'any number is a score', 'nms.find_suppressors:groups:*': 'any number is a group', 'roi.sampling_grid:boxes:turned': 'a box inside out has no samples',
    'cascade_rcnn.CascadeRoIHead__run_stages:boxes:*n*': 'reads zeros', 'cascade_rcnn.CascadeRoIHead__run_stages:boxes:turned': 'reads zeros', '*.small_masks:boxes:*n*': 'reads zeros', '*.keypoint_maps:boxes:*n*': 'reads zeros', '*.small_masks:boxes:turned': 'reads zeros', '*.keypoint_maps:boxes:turned': 'reads zeros',
    '*.small_masks:image:number*': 'of no image: reads zeros', '*.keypoint_maps:image:number*': 'of no image: reads zeros', 'retinanet.DenseFilter__choose:boxes:*': 'is not kept, or overlaps nothing', 'retinanet.DenseFilter__choose:scores:*n*': 'comes last, or is not kept', 'retinanet.DenseFilter__choose:scores:score*': 'any number is a score',
    'retinanet.DenseFilter__clip:found:*nan': 'is left out, or goes along', 'retinanet.DenseFilter__clip:found:boxes turned': 'has no sides', 'retinanet.DenseFilter__clip:found:no scores': 'boxes are enough', 'retinanet.DenseFilter__clip:size:*n*': 'the sizes of a batch are whole numbers',
    'misses.average_precision:truths:no keys': 'nan where there are no truths', 'misses.average_precision:scores:*': 'any number is a score', 'misses.average_precision:labels:number*': 'a class without truths does not count', 'misses.match_found:*': 'compared as they are', 'misses.find_loss:box:turned': 'overlaps nothing', 'misses.find_loss:least:zero': 'any overlap is near', 'misses.find_loss:label:zero': 'the first',
    'describe.save_detector:thresholds:no keys': 'no class is known', 'result.Result__best_scores:classes:list of *': 'nothing is known of it', 'diagnosis.interval:level:zero': 'the middle value', 'result.Result__*:level:zero': 'likewise', 'ema.WeightAverage__share:count:zero': 'the first is a copy', 'ema.WeightAverage__load:averages:* nan': 'any value', 'ema.WeightAverage__load:count:zero': 'an average that has not begun',
    'hooks.Hooks__load:*:no keys': 'nothing was kept', 'hooks.Boards:boards:no keys': 'none', 'hooks.Boards__add:group:*': 'any name', 'hooks.Boards__add:figures:*': 'what is no finite number is left out',
    'adapt.adapt_config:val:text': 'a share may be a text, as a command line gives it',
    'writers.to_coco:path:missing': 'a new file',
    'label.BoxLabels:guesses:list of None': 'nothing is guessed', '*.explore:settings:list of {}': 'the start values', '*.explore:controls:no keys': 'an error that says so', 'widgets.anchor_designer:boxes:*': 'an area of no box is never reached', 'widgets.anchor_designer:sizes:number 99': 'a larger picture',
    'widgets.anchor_designer:*:no rows': 'an error that says so', 'widgets.*:image:as float': 'floats run to 255', 'widgets.*:target:boxes turned': 'overlaps nothing', 'widgets.*:target:label *': 'any number', 'widgets.*:*:masks *': 'nobody looks at masks', 'widgets.*:*:keypoints *': 'nor at keypoints',
    'widgets.error_kinds:iou:zero': 'any free truth of the class is right', 'widgets.error_kinds:pred:boxes turned': 'overlaps nothing', 'widgets.error_kinds:pred:label *': 'any number', 'widgets.schedule_composer:losses:*n*': 'drawn as they are', 'widgets.schedule_composer:losses:*e*': 'drawn as they are',
    'outputs.map_files:items:list of*': 'an error of the function, which names the item', 'video.is_video:name:missing': 'no file is opened',
    'outputs.Progress:total:zero': 'there is nothing to count', 'outputs.Progress__step:count:zero': 'nothing was done',
    'records.find_folder:annotations:missing': 'its place is enough', 'annotations.Faults____call__:kind:*': 'any words', 'annotations.table_objects:rows:list of*': 'a row to pass over, or a fault', 'annotations.table_objects:columns:* text': 'a fault of each row',
    'annotations.list_objects:r:*': 'no objects, or a fault',
    'distributed.max_over_ranks:number:*e*': 'any whole number',
    'boxes.*:nan': 'nan stays nan', 'boxes.*:inf': 'an endless side is arithmetic like any other', 'boxes.*:turned': 'negative sizes, no area, no overlap', 'boxes.clip_boxes:sizes:number 99': 'a larger picture', 'boxes.clip_boxes:boxes:turned': 'corners are clipped',
    'anchors.grid_anchors:cell:*n*': 'a cell is repeated as it is', 'anchors.grid_anchors:size:zero': 'a map without cells has no anchors', 'anchors.*.grid:sizes:zero': 'likewise', 'anchors.inside_border:anchors:nan': 'none with nan is inside', 'anchors.inside_border:*:inf': 'nothing endless is inside', 'anchors.*:stride:half': 'a stride may be a fraction',
    'coder.*:nan': 'nan where a number is nan', 'coder.*:inf': 'nan or endless', 'coder.*code:*:turned': 'nan where a side is not positive', 'coder.*Coder__*:turned': 'likewise', 'coder.decode:max_log:*e*': 'a bound at or below 1 is a bound',
    'assign.*:boxes:nan': 'NEITHER', 'assign.*:boxes:inf': 'NEITHER', 'assign.*:boxes:turned': 'overlaps nothing', 'assign.*:matched:number -1': 'BACKGROUND', 'assign.*:matched:number 99': 'any truth',
    'nms.*:nan': 'comes last, or is not kept', 'nms.*:inf': 'comes last, or is not kept', 'nms.*:turned': 'overlaps nothing', 'nms.*:scores:score*': 'any number is a score', 'nms.*:groups:number*': 'any number is a group', 'nms.*:zero': 'no overlap is allowed, no score is too low',
    'losses.*:nan': 'a loss of nan, and no gradient', 'losses.*:inf': 'nan, or arithmetic', 'losses.*:turned': 'overlaps nothing', 'losses.*:labels:number*': 'nan, and no gradient', 'losses.*:weight:zero': 'no loss', 'losses.FocalLoss:alpha:zero': 'a share', 'losses.weighted_sum:count:number*': 'less than 1 counts as 1',
    'boxes.clip_boxes:sizes:number -1': 'nothing is left', 'anchors.AnchorGenerator__valid:pad_sizes:one*': 'any number of images', 'anchors.inside_border:border:negative': 'deeper inside', 'anchors.inside_border:anchors:turned': 'the sides are compared', 'anchors.inside_border:sizes:nan': 'nothing is inside',
    'assign.draw_samples:keys:*n*': 'the lowest key, or above 1 the highest', 'assign.draw_samples:pos_fraction:zero': 'no positives', 'assign.HardSampler*:losses:*n*': 'the largest',
    'nms.*:scores:as int': 'whole numbers are scores', 'nms.SoftNMS*:groups:None': 'one group', 'nms.soft_nms:min_score:negative': 'none is too low', 'roi.RoIExtractor__canvas:feats:one less': 'four of five are read',
    'anchors.cell_anchors:*:empty': 'no anchors', 'coder.DistanceCoder*:units:*': 'units broadcast', 'losses.*:targets:as bool': 'a truth may be bool',
    'rpn.box_losses:*n*': 'a loss of nan', 'rpn.rank_scores:scores:score*': 'any number is a score', 'masks.paste_masks:*:*n*': 'a probability or box that is nan is no object', 'masks.paste_masks:*:turned': 'nothing is inside', 'masks.paste_masks:threshold:zero': 'every pixel',
    'masks.*weights:*:*n*': 'nan stays nan', 'keypoint_rcnn.keypoints_to_heatmap:*:*n*': 'not asked', 'keypoint_rcnn.keypoints_to_heatmap:*:turned': 'not asked', 'retinanet.conv_tower:num:zero': 'no convolutions', 'retinanet.flatten_map:x:*n*': 'numbers are laid as they are', 'fcos.centerness:*:*n*': 'nan stays nan',
    'tta.restore_*:nan': 'nan stays nan', 'tta.restore_*:inf': 'an endless side stays endless', 'tta.restore_boxes:*:turned': 'corners are put in order', 'tta.restore_keypoints:pairs:empty': 'none trades places', 'batch.pad_truths:need:empty': 'nothing is needed',
    '*:skeleton:empty': 'no lines', '*:pairs:empty': 'none trades places', 'show.show_*:*:list': 'lists and arrays are taken', 'show.show_*:labels:list of*': 'any texts or numbers', 'show.*:classes:*': 'any names', 'show.show_keypoints:keypoints:last dim 1 less': '(N,K,2) has no flags',
    'show.show_*:masks:as*': 'anything that is not 0', 'show.show_image:image:as float': 'floats run to 255', 'show.*:scores:score*': 'written as it is', 'show.label_color:i:negative': 'colours go round',
    'show.*:* a list': 'lists and arrays are taken', 'show.*:image:as float': 'floats run to 255', 'show.*:image:fewer dims': '(H,W) is grey', 'show.*:boxes:as*': 'any numbers', 'show.*:keypoints:as*': 'any numbers',
    'show.*:turned': 'the same outline', 'show.*:boxes turned': 'the same outline', 'show.*:scores*nan': 'written as it is, or left out', 'show.show_boxes:scores:*': 'written as they are', 'show.show_masks:alpha:zero': 'no veil',
    '*:min_score:negative': 'no score is too low', '*:min_score:zero': 'likewise', 'toy.*:angle:*e*': 'any turn', 'toy.*:seed:zero': 'any integer', 'toy.cover:least:zero': 'all may be hidden', 'toy.cover:owner:number -1': 'the ground',
    'toy.cover:areas:zero': 'an area that is nothing', 'toy.*:objects:zero': 'none at least', 'batch.Preprocess:mean:*e*': 'any mean',
    '*:sizes:nan': 'the sizes of a batch are whole numbers; on the path of a step no value is looked at', '*:sizes:inf': 'nothing is cut', '*:sizes:as int': 'whole numbers', '*.[BRKFMH]*Head*:x:*n*': 'nan features stay nan', '*:num_fcs:zero': 'no layer between',
    'fast_rcnn.BoxHead__loss:*:*n*': 'a loss of nan, and no gradient', 'fast_rcnn.DetectionFilter*:*:*n*': 'a score of nan is not above any', '*Filter:score_thr:*e*': 'no score is too low', '*Filter:iou:zero': 'no overlap is allowed', '*:max_per_img:zero': 'none', '*:nms_pre:zero': 'none',
    '*Filter:min_size:negative': 'any size', 'fast_rcnn.RoIHead__*:boxes:*': 'reads zeros', 'fast_rcnn.RoIHead__*:image:number*': 'reads zeros', 'rpn.rank_scores:scores:nan': 'the last of those that are usable', 'masks.crop_masks:boxes:*n*': 'reads zeros', 'masks.crop_masks:which:number*': 'reads zeros',
    '*:num_convs:zero': 'no convolutions before', '*:stacked_convs:zero': 'likewise', '*:threshold:zero': 'every pixel', '*:labels:number*': 'on the path of a step no value is looked at: a label comes from the truths, which were', '*:stage_weights:zero': 'no loss', '*:weight:zero': 'no loss',
    'cascade_rcnn.refine_*:*:*n*': 'nan stays nan', 'cascade_rcnn.refine_*:deltas:as int': 'any numbers', 'keypoint_rcnn.heatmaps*:maps:*n*': 'nan scores nan', 'keypoint_rcnn.heatmaps*:boxes:turned': 'a side counts as one pixel at least', 'keypoint_rcnn.heatmaps*:maps:another S': 'it need not be square',
    'fcos.PointMatcher:ranges:one*': 'any number of levels', 'fcos.PointMatcher____call__:*:*n*': 'inside of nothing', 'fcos.Scale*:*:*': 'any number', 'fcos.PointMatcher*:no rows': 'the splits say how many', 'fcos.FCOSHead__distances:*': 'any numbers, with any leading dimensions',
    'tta.View*:points:*n*': 'nan stays nan', 'tta.View*:image:as float': 'a picture of floats', 'tta.*:scales:one*': 'a pair of limits, or two factors', 'tta.*:flips:list of None': 'no mirror', 'tta.*:flips:one*': 'any number of mirrors', '*:need:empty': 'nothing is needed', 'detector.Detector:fpn:no keys': 'the defaults', 'detector.check_detections:need:one*': 'any keys',
    '*.save*:path:missing': 'a new file', '*__save:path:missing': 'a new file', '*__dump:file:missing': 'a new file', 'results.*:*_ids:*': 'any ids', 'metrics.cover_truths:least:zero': 'any overlap', 'metrics.evaluate:sigmas:*': 'not asked for boxes', 'results.match_categories:truth:images text': 'handed on',
    'nodes.ConfigDict*:*': 'any values', 'config.Config__merge_from_dict:settings:*': 'looked at when it is built', 'build.load_own:names:list': 'or a list', 'checkpoint.load_checkpoint:ignore:text': 'a module that is not there', 'checkpoint.save_checkpoint:metadata:*': 'notes of any kind', 'files.Budget:units:zero': 'nothing may be spent',
    'files.Budget__spend:n:*': 'called for every item of a file, by its reader alone', 'files.shown:text:*': 'anything is shown', 'describe.check_weights_fit:weights:* nan': 'shapes are compared', 'reading.Checkpoint:*:*': 'what was read, of any kind', '*:cfg:no keys': 'it says nothing', 'outputs.keep_pictures:paths:list of text': 'a text is a path', 'distributed.mean_values:*': 'numbers like any other', 'reading.unwrap:found:*': 'what a file held, of any kind', 'names.con*:tensors:*': 'a tensor of any shape and value is renamed', 'names.weights_kind:*': 'names alone tell', 'names.from_*:tensors:*': 'a tensor of any shape and value is renamed', 'weights.picture_size:notes:*': 'a note that is no dict says nothing', 'outputs.keep_pictures:sources:*': 'any pictures',
 '*:classes:empty': 'no names are known', 'coco.plain_*:*': 'what is plain is handed on, and what is not is for the checks to name', 'coco.w*:x:*': 'None: it is none', 'coco.has_mask:*': 'whether it says anything', 'coco.link_record:*': 'what has no partner stays',
    'records.find_file:cache:no keys': 'it is filled', 'census.look_at:path:missing': 'a fault of the file', 'census.scan_pictures:paths:list of text': 'likewise', 'census.find_copies:least:zero': 'everything is alike', 'census.*:d:info text': 'nobody asks for it', 'census.compare_anchors:d:categories text': 'likewise',
    'census.*:scale:number': 'a factor', 'check.check_dataset:scale:number': 'a factor', 'census.anchor_coverage:boxes:turned': 'overlaps nothing', 'census.anchor_coverage:sizes:number 99': 'a larger picture', 'census.compare_anchors:anchors:no keys': 'none is tried', 'census.coverage_table:coverage:no keys': 'none was tried', 'check.CheckReport__*:path:missing': 'a new file',
    'faults.check_annotations:*:no keys': 'nothing is known of', 'faults.check_annotations:annotations:list of*': 'what is wrong is noted', 'faults.Findings____call__:*': 'words for a report',
    'coco.check_mask:*': 'the answer says what is wrong', 'coco.check_size:*': 'likewise', 'coco.source_name:*': 'anything has a name', 'files.some_of:names:*': 'names of any kind', 'images.list_pictures:*': 'each is read later', 'coco.spellings:*': 'a record without an id has no spelling', '*:empty': 'no items', 'data.CocoDataset:max_bad:zero': 'none may be bad', '*:keypoint_offset:*e*': 'any shift', 'records.class_names:annotations:*': 'only those with a category count', 'records.pick_classes:annotations:*': 'likewise', 'records.BadRecords:max_bad:zero': 'none may be bad', 'records.BadRecords____call__:kind:*': 'any words',
    'records.good_annotations:annotations:list of {}': 'its number in the file', 'records.good_annotations:wanted:*': 'objects of other classes are left out and counted', 'records.read_keypoints:categories:list of {}': 'no keypoints',
    'describe.first_difference:*': 'the difference', 'describe.upgrade:*': 'what is not of version 0.1 stays', 'describe.save_detector:preprocessing:*': 'notes, looked at where they are used', 'weights.class_names:*:*': 'no names are known', 'weights.check_scale:scale:number': 'a factor', 'weights.check_scale:what:*': 'words for a message', 'coco.segmentation_to_rle:*:text': 'numbers may be written as text', 'weights.same_scale:*': 'they are not the same',
    'schedule.*:lr:zero': 'nothing moves', 'schedule.lr_of_run:auto_scale_lr:no keys': 'no rule', 'schedule.NotFinite:losses:no keys': 'no terms are told', 'schedule.OptimStep__load_state:tensors:no keys': 'as before the first step', 'schedule.*:base:zero': 'nothing moves', 'schedule.*:step:zero': 'the first', 'schedule.Schedule:max_epochs:zero': 'no step', 'schedule.build_optimizer:optim_wrapper:type text': 'settings of the step are passed over', 'schedule.*:images:*': 'names of any kind',
    'distributed.broadcast_value:*': 'any value', 'distributed.gather_list:*': 'any items', 'distributed.shard:*:zero': 'the first; nothing', 'distributed.first_host:nodes:unknown': 'one host', 'distributed.who_am_i:env:*': 'a host of any name',
    'transforms.*:image:as float': 'a picture of floats', 'transforms.*__*:boxes nan': 'a box that is nowhere is dropped, or stays', 'transforms.*:boxes turned': 'dropped, or it stays: check_batch names it', 'transforms.*:label *': 'check_batch names it', 'transforms.*:no *': 'what is not there does not move',
    'transforms.*:* text': 'a field that a step does not use is handed on', 'transforms.*:* nan': 'nan stays nan', 'transforms.*:p:*': 'a probability, or several', 'transforms.*:flip:zero': 'never', 'transforms.*:min_size:*e*': 'any size will do', 'transforms.DropSmall:*:zero': 'any size will do',
    **{f'{m}.*{k}': why for m in ('augment', 'policies', 'mixing') for k,why in {':image:as float': 'a picture of floats', '__*:boxes nan': 'a box that is nowhere is dropped, or stays', ':*boxes turned': 'dropped, or it stays: check_batch names it', ':*label *': 'check_batch names it', ':target:no *': 'what is not there does not move',
        ':target:* text': 'a field that a step does not use is handed on', ':target:* nan': 'nan stays nan', ':prob:zero': 'never', ':*delta:zero': 'no change', ':*range:zero': 'down to nothing', ':*thr*:zero': 'any size will do', ':max_*:zero': 'no change', ':*prob:zero': 'never', ':*border_val*:*e*': 'any grey', ':fill*:*e*': 'any grey', ':pad_val:zero': 'black', ':mean:zero': 'black', ':border:*e*': 'it shrinks', ':ratio:zero': 'nothing is erased',
        ':n_*:zero': 'none', ':min_mag:*': 'of the kind', ':level:zero': 'the least', ':aug_num:zero': 'none', ':flip_ratio:zero': 'always', ':mask*thr:zero': 'any', ':center_ratio_range:zero': 'at the edge', ':cutout_shape:zero': 'nothing is hidden', ':selected:*': 'a flag', ':boxes a list': 'refused by Augment', ':classes:list of*': 'any names', ':min_ious:zero': 'any window', ':seed:zero': 'any integer'}.items()},
    'augment.paste_sample:canvas:*n*': 'any picture', 'augment.Expand:mean:negative': 'any colour', 'augment.Pad:pad_val:negative': 'any colour', 'transforms.keep_rows:target:*': 'rows are taken; whether they fit together is the business of Augment', 'transforms.move_target:target:*': 'likewise',
    'augment.draw_between:*:*e*': 'any number', 'augment.paste_sample:left:*e*': 'any place', 'augment.paste_sample:top:*e*': 'any place', 'augment.paste_sample:canvas:as int': 'a canvas of whole numbers',
    'images.read_ahead:items:list of*': 'each is read later', 'images.cut_windows:scale:number': 'a factor', 'detections.bring_back:found:* nan': '`Detections` names it', 'detections.bring_back:found:boxes turned': 'likewise', 'detections.bring_back:found:label *': 'likewise', 'detections.bring_back:window:zero': 'it begins at the edge',
    'detections.mask_patch:box:zero': 'it begins at the edge', 'detections.Detections:found:* a list': 'lists and arrays are taken', 'detections.show_result:result:* a list': 'as `Detections` takes them', 'detections.Detections__to_coco:image_id:[tnz]e*': 'any number or text',
    'detections.Detections__to_coco:category_ids:list of text': 'numbers or texts', 'detections.Detections__to_coco:category_ids:[nz]e*': 'any number', 'detections.merge_tiles:scores:score*': 'any number is a score', 'inference.Predictor:scale:number': 'a factor', 'testing.read_truths:ann_file:missing': 'the file of the data set',
    'retinanet.HeadConv__forward:x:*n*': 'nan features stay nan', 'core.check:where:*': 'words for a message', 'core.check_keys:d:no keys': 'none is asked for', 'core.check_keys:d:a text': 'what it holds is for others to judge', '*:eps:zero': 'nothing is added', 'show.show_boxes:*:no rows': 'there are still labels',
    '*.nearest:*': 'anything is compared as text', 'core.test_same:*tol:zero': 'no difference', 'core.mean_over_ranks:*n*': 'a number like any other', 'core.on_host:x:*': 'where it lies matters, not what it holds',
    'anchors.*Generator:*:empty': 'no anchors', 'anchors.*:*offset:*e*': 'a shift may be negative or none', 'assign.*:*:zero': 'a share of 0', 'losses.SmoothL1Loss:beta:zero': 'the absolute difference',
    'backbone.*:x:*n*': 'nan features stay nan', 'rpn.conv_few:x:*n*': 'nan features stay nan', 'fast_rcnn.linear:x:*n*': 'nan features stay nan', 'efficientnet.*:x:*n*': 'nan features stay nan', 'tiny.*:x:*n*': 'nan features stay nan', 'neck.*:*:nan': 'nan features stay nan', 'neck.*:x:inf': 'arithmetic', 'neck.NoNeck__forward:stages:one more': 'all are handed on', 'coder.DeltaCoder:means:negative': 'any mean', 'coder.DeltaCoder:means:zero': 'any mean', 'rpn.ProposalFilter:*:zero': 'no proposals', 'rpn.ProposalFilter:min_size:negative': 'any size', 'rpn.rank_scores:scores:inf': 'the best',
    'steps.Pipeline____call__:target:*nan': 'nan stays nan', 'steps.Pipeline____call__:target:label *': 'check_batch names it', 'steps.Pipeline____call__:target:no labels': 'what is not there does not move', 'steps.Pipeline____call__:target:* text': 'a field that a step does not use is handed on',
    '*:seed:zero': 'any integer', 'proposals.ProposalTable:ids:list of text': 'an id may be a text', 'proposals.ProposalTable:ids:negative': 'any whole number is an id', 'proposals.ProposalTable:ids:zero': 'likewise', 'loader.group_by_shape:order:zero': 'an image may come twice', 'loader.group_by_shape:upright:one more': 'an order of some images',
    'loader.BatchPlan:sizes:number 99': 'a larger picture', 'loader.BatchPlan:sizes:no rows': 'ValueError: nothing to plan', 'demo.smooth:values:negative': 'any number', 'demo.smooth:values:zero': 'any number', 'learner.sum_losses:losses:a nan': 'the sum is nan',
    'runs.save_state:tensors:no keys': 'nothing but notes', 'runs.save_state:tensors:a one less': 'any shape', 'runs.save_state:tensors:a nan': 'any value', 'runs.save_state:notes:no keys': 'looked at by check_notes when it is read', 'runs.save_state:notes:step text': 'likewise', 'timetable.Watch:best:text': 'one figure',
    'timetable.Watch__better:*:negative': 'any number', 'timetable.Watch__better:*:zero': 'any number', 'runs.Log__add:losses:loss a list': 'a number', 'timetable.flat_settings:value:no keys': 'one setting', 'timetable.flat_settings:value:a text': 'any value', 'timetable.setting_changes:*:no keys': 'no settings', 'timetable.setting_changes:*:a text': 'any value', 'timetable.show_changes:changed:no keys': 'no lines',
    'runs.checksum:tensors:no keys': 'of nothing', 'runs.checksum:tensors:a one less': 'any shape', 'runs.checksum:tensors:a nan': 'any value',
    'runs.Lines:path:missing': 'a new file', 'runs.fingerprint_pictures:most:zero': 'names and sizes alone', 'runs.read_lines:path:missing': 'no lines', 'runs.Lines__add:line:no keys': 'a line', 'runs.Lines__add:line:a text': 'any value', 'runs.write_card:more:no keys': 'nothing more', 'runs.write_card:more:a text': 'any value',
    'roi.*:nan': 'reads zeros; nan features read nan', 'roi.*:inf': 'reads zeros; endless features are arithmetic', 'roi.*:turned': 'reads zeros', 'roi.*:image:number*': 'reads zeros', 'roi.*:ratio:negative': 'as 0: as many samples as cells', 'roi.RoIExtractor__canvas:feats:one more': 'more levels than are read',
}


# ------------------------------------------------------------------ wrong values
NOTHING = object()
def plain(v): return isinstance(v, (list, tuple)) and v and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in v)
def allows(annotation, kind): return kind in (typing.get_args(annotation) or (annotation,)) or annotation in (object, inspect.Parameter.empty, typing.Any)
def letters(doc):
    "The dimensions that a comment gives: '(N,4) xyxy' -> ['N', '4']."
    m = re.match(r'\(([^)]*)\)', doc)
    return None if m is None else [d.strip() for d in m[1].split(',') if d.strip()]

def set_first(v, x):
    v = v.clone(); v.view(-1)[0] = x
    return v

def of_tensor(name, v, doc):
    dims = letters(doc)
    yield 'list', v.tolist()
    yield 'text', 'seven'
    yield 'number', 7
    if v.dtype.is_floating_point:
        yield 'as int', v.long()
        yield 'as bool', v.bool()
    elif v.dtype == torch.bool: yield 'as int', v.long(); yield 'as float', v.float()
    else: yield 'as float', v.float()
    if dims is not None:
        open_ = '...' in dims or 'or' in doc.split(':')[0].split(' ')
        if not open_: yield 'more dims', v[None]
        if not open_ and v.ndim: yield 'fewer dims', v[0] if v.shape[0] else v.sum(0)
        if dims and dims[-1].isdigit(): yield 'last dim 1 less', v[...,:-1]; yield 'last dim 1 more', torch.cat([v, v[...,:1]], -1)
    if v.dtype.is_floating_point and v.numel(): yield 'nan', set_first(v, math.nan); yield 'inf', set_first(v, math.inf)
    if 'xyxy' in doc and v.dtype.is_floating_point: yield 'turned', torch.cat([v[...,:-4], v[...,-2:], v[...,-4:-2]], -1)
    if v.dtype == torch.int64 and v.numel(): yield 'number -1', set_first(v, -1); yield 'number 99', set_first(v, 99)
    if name == 'scores': yield 'score 1.5', set_first(v, 1.5); yield 'score -0.5', set_first(v, -.5)

def of_number(name, v, doc, whole):
    yield 'text', str(v)
    yield 'nan', math.nan
    if whole: yield 'half', v + .5
    if not re.search(r'below 0|-1|any integer|negative', doc): yield 'negative', -1 if whole else -1.
    if not re.search(r'\b0[:,;]|from 0|or 0|; 0\b', doc) and v != 0: yield 'zero', 0 if whole else 0.
    yield 'list', [v]

def of_list(name, v, doc, alone=False):
    yield 'text', 'seven'
    yield 'number', 7
    if v: yield 'list of None', [None]
    if v: yield 'list of text', ['seven']*len(v) if not all(isinstance(x, str) for x in v) else [7]*len(v)
    if plain(v):
        if re.search(r'\(\w+, ?\w+\)|pair|three|subtracted|divided|likewise', doc) or name in ('size', 'means', 'stds'): yield 'one more', type(v)([*v, v[0]]); yield 'one less', type(v)(v[1:])
        yield 'nan', type(v)([math.nan, *v[1:]])
        yield 'negative', type(v)([-1, *v[1:]])
        if v[0] != 0: yield 'zero', type(v)([0, *v[1:]])
    elif v:
        if not alone and re.search(r'\bB\b|each|likewise|they |same order|to its|label in', doc):      # it goes with another list
            yield 'one less', type(v)(v[1:]); yield 'one more', type(v)([*v, v[0]])
        yield 'list of number', [7]*len(v)
        if isinstance(v[0], dict): yield 'list of {}', [{}]*len(v)
    if v: yield 'empty', type(v)()

def wrong_values(name, v, annotation, default, doc, alone=False):
    "(what is wrong, value) for one argument; `alone`: there is no list beside it that it could go with."
    if v is not None and not (default is None or allows(annotation, type(None))): yield 'None', None
    if isinstance(v, Tensor): yield from of_tensor(name, v, doc)
    elif isinstance(v, bool): yield 'text', 'no'; yield 'number', 2
    elif isinstance(v, (int, float)): yield from of_number(name, v, doc, isinstance(v, int) and not allows(annotation, float))
    elif isinstance(v, str):
        yield 'number', 7
        yield 'list', [v]
        if "'" in doc and not re.search('such as|messages|what the user calls', doc) or name in ('kind', 'style', 'method', 'part', 'wanted'): yield 'unknown', 'no_such'
    elif isinstance(v, Path):
        yield 'number', 7
        if v.is_file(): yield 'missing', v.with_name(f'missing_{name}.json')
    elif isinstance(v, dict):
        yield 'text', 'seven'; yield 'number', 7; yield 'list', [1]; yield 'no keys', {}
        for k, x in list(v.items())[:8]:
            if isinstance(x, Tensor):
                yield f'{k} a list', {**v, k: x.tolist()}
                if x.ndim: yield f'{k} one less', {**v, k: x[1:]}
                if x.dtype.is_floating_point and x.numel(): yield f'{k} nan', {**v, k: set_first(x, math.nan)}
                if k == 'boxes': yield 'boxes turned', {**v, k: x[:,[2,3,0,1]]}; yield 'boxes (N,5)', {**v, k: torch.cat([x, x[:,:1]], 1)}
                if k == 'labels': yield 'label -1', {**v, k: set_first(x, -1)}; yield 'label 99', {**v, k: set_first(x, 99)}; yield 'labels float', {**v, k: x.float() + .5}
            if k in ('boxes', 'labels', 'scores'): yield f'no {k}', {a:b for a,b in v.items() if a != k}
            if len(v) <= 8: yield f'{k} text', {**v, k: 'seven'}        # the keys of a whole config are tests/test_config.py's
    elif isinstance(v, tuple) and hasattr(v, '_fields'): yield 'number', 7; yield 'text', 'seven'; yield 'bare tuple', tuple(v)
    elif isinstance(v, (list, tuple)): yield from of_list(name, v, doc, alone)
    elif v is None:
        kinds = typing.get_args(annotation) or (annotation,)
        if int in kinds or float in kinds: yield 'text', 'seven'
        if Tensor in kinds: yield 'text', 'seven'; yield 'list', [1]
        if str in kinds: yield 'number', 7
        if list in kinds or tuple in kinds: yield 'number', 7
        if dict in kinds: yield 'number', 7
        if any(isinstance(k, type) and issubclass(k, nn.Module) for k in kinds): yield 'text', 'seven'; yield 'number', 7
    elif annotation not in (object, inspect.Parameter.empty): yield 'number', 7; yield 'text', 'seven'

SAME = {'list', 'as int', 'as float', 'array', 'list of text', 'number'}       # another form of the same: right where the result is the same
def same(a, b, depth=0):
    if isinstance(a, Tensor) and isinstance(b, Tensor): return a.shape == b.shape and torch.allclose(a.double(), b.double(), equal_nan=True) if not a.is_complex() else False
    if isinstance(a, nn.Module): return isinstance(b, nn.Module) and {k:v.shape for k,v in a.state_dict().items()} == {k:v.shape for k,v in b.state_dict().items()}
    if isinstance(a, Tensor) or isinstance(b, Tensor): return False
    if isinstance(a, np.ndarray): return isinstance(b, np.ndarray) and a.shape == b.shape and np.allclose(a, b)
    if isinstance(a, Image.Image): return isinstance(b, Image.Image) and same(np.asarray(a), np.asarray(b))
    if isinstance(a, (list, tuple)): return isinstance(b, (list, tuple)) and len(a) == len(b) and all(same(x, y, depth) for x,y in zip(a, b))
    if isinstance(a, dict): return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k], depth) for k in a)
    if isinstance(a, (int, float, str, bool, type(None), Path)): return type(a) in (int, float) and a != a and b != b or a == b
    return type(a) is type(b) and depth < 2 and hasattr(a, '__dict__') and not isinstance(a, type) and same(vars(a), vars(b), depth + 1)

def signature_of(f):
    "The parameters that a call can name, with their comments."
    try: docs = docments(f)
    except Exception: docs = {}
    return {n: (p.annotation, p.default, str(docs.get(n) or '')) for n,p in inspect.signature(f).parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n != 'self'}

def find(key):
    "The module, the object and the name of the method of one key of CALLS."
    module, name = key.split('.', 1)
    name, _, method = name.partition('__')
    return getattr(importlib.import_module(f'detbook.{module}'), name), method

def prepared(key, w):
    "The bound function and a valid set of arguments."
    owner, method = find(key)
    given = CALLS[key](w)
    if not method: return owner, given
    thing, given = given
    return getattr(thing, method if not isinstance(thing, nn.Module) or method != 'forward' else 'forward'), given

def cases(key, w):
    "(argument, what is wrong, maker of the arguments) for every wrong call of one function."
    f, given = prepared(key, w)
    owner, method = find(key)
    params = signature_of(getattr(owner, method) if method else owner)
    full = {n: d for n,(a,d,_) in params.items() if d is not inspect.Parameter.empty} | given
    for n, v in full.items():
        if n not in params or n in ('ax', 'axs', 'device'): continue
        annotation, default, doc = params[n]
        alone = not any(isinstance(o, (list, tuple, Tensor)) for k,o in given.items() if k != n)
        for what, x in wrong_values(n, v, annotation, default, doc, alone): yield n, what, x
    by_letter = {}
    for n, v in given.items():
        for i, d in enumerate(letters(params[n][2]) or ()) if n in params and isinstance(v, Tensor) else ():
            if d.isalpha() and d.isupper() and '...' not in letters(params[n][2]) and v.ndim == len(letters(params[n][2])): by_letter.setdefault(d, []).append((n, i))
    for d, places in by_letter.items():
        if len(places) > 1:
            for n, i in places: yield n, f'another {d}', given[n].narrow(i, 0, max(given[n].shape[i] - 1, 0))
        if d in 'NPKGS' and all(i == 0 for _,i in places) and len(places) == sum(isinstance(v, Tensor) for v in given.values()): yield tuple(n for n,_ in places), 'no rows', None
    yield None, 'unknown keyword', None

def arguments(given, name, what, x):
    if what == 'unknown keyword': return dict(given, no_such_keyword=1)
    if what == 'no rows': return given | {n: given[n][:0] for n in name}
    return given | {name: x}

def says(x, message):
    "Does a message show the value?"
    m = message.lower()
    if x is None: return 'none' in m
    if isinstance(x, dict): return any(w in m for w in ('without', 'lack', 'missing', 'has no', 'takes', 'dict', 'none', *(str(k).lower() for k in x), *(v.lower() for v in x.values() if isinstance(v, str))))
    if isinstance(x, bool): return str(x).lower() in m
    if isinstance(x, (int, float)): return f'{x:g}' in m or repr(x) in m or ' int' in m
    if isinstance(x, str): return x.lower() in m or 'str' in m
    if isinstance(x, (list, tuple)) and repr(x).lower() in m: return True
    if isinstance(x, Tensor): return any(t in m for t in ('tensor', 'shape', 'runs from', str(x.dtype)[6:], 'nan', 'inf', '[', 'turned'))
    if isinstance(x, (list, tuple)) and x and type(x[0]).__name__.lower() in m: return True
    return type(x).__name__ in m or str(len(x)) in m or any(str(i).lower() in m for i in (x.values() if isinstance(x, dict) else x)) if hasattr(x, '__len__') else True

ALSO = dict(have=['column'], categories=['category'], records=['image'], settings=['set'], preds=['prediction', 'predictions'], classes=['category', 'class'], path=['the config has no'], names=['named'], prefix=['below'], size=['height'], segmentation=['polygon'], source=['picture'], imgs=['picture'], rest=['state'], env=['environment variable'], want=['sizes'], weights=['weights_backbone'], feats=['feature maps', 'levels'], f=['check does not understand'])      # what a message may call an argument
OURS = str(Path(detbook.__file__).parent)
def is_clear(e, name, x, what, params=()):
    message = str(e)
    if what == 'unknown keyword': return isinstance(e, TypeError) and 'no_such_keyword' in message
    if not isinstance(e, (TypeError, ValueError, KeyError, IndexError, FileNotFoundError, FileExistsError)): return False
    if isinstance(e, FileNotFoundError) and str(x) in message: return True
    tb = traceback.extract_tb(e.__traceback__)
    if not tb or not tb[-1].filename.startswith(OURS): return False
    names = {*(set(params) if what.startswith('another') or what in ('one less', 'one more', 'empty') else ()), name, name.removesuffix('s'), name.replace('_', ' '), *ALSO.get(name, ())}
    if what == 'list of {}' and re.search('without|lacks|has no|missing', message): return True
    if isinstance(x, Path) and str(x) in message: return True
    if isinstance(x, dict): names.add(what.split()[0])
    named = any(re.search(rf'\b{re.escape(n)}\b', message) for n in names)
    return named and (what.startswith('another') or says(x, message))

def call(f, given):
    torch.manual_seed(0)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter('ignore')
        return f(**given)

def right(key, name, what):
    name = ','.join(name) if isinstance(name, tuple) else name
    return next((why for pattern, why in RIGHT.items() if fnmatch.fnmatchcase(f'{key}:{name}:{what}', pattern)), None)

def sweep(key, w):
    "(argument, what is wrong, verdict, what was seen) for one function."
    f, given = prepared(key, w)
    baseline = call(f, given)
    for name, what, x in cases(key, w):
        f, given = prepared(key, w)
        if what == 'missing': x.unlink(missing_ok=True)      # an earlier call may have written it
        try: out = call(f, arguments(given, name, what, x))
        except AssertionError as e: yield name, what, 'clear' if key == 'core.test_same' else 'unclear', str(e)[:150]     # its purpose
        except (Exception, SystemExit) as e:
            if what == 'no rows': verdict = 'right' if right(key, name, what) else 'unclear'
            else: verdict = 'clear' if is_clear(e, name, x, what, given) else 'right' if right(key, name, what) else 'unclear'
            yield name, what, verdict, f'{type(e).__name__}: {str(e)[:150]}'
        else:
            fine = what == 'no rows' or what in SAME and same(out, baseline) or right(key, name, what)
            yield name, what, 'right' if fine else 'silent', f'{object.__repr__(out) if isinstance(out, dict) else str(out)[:60]!r}'
    plt.close('all')

# ------------------------------------------------------------------ every public name is called, or it is said why not
def public():
    "Every function, constructor and method without an underscore, helpers too: the keys that CALLS or LEFT_OUT has to have."
    for m in MODULES:
        module = importlib.import_module(f'detbook.{m}')
        for n, o in vars(module).items():
            if n.startswith('_') or getattr(o, '__module__', None) != module.__name__ or not callable(o): continue
            if not inspect.isclass(o): yield f'{m}.{n}'; continue
            record = issubclass(o, tuple) or hasattr(o, '__dataclass_fields__')
            if not record and '__init__' in vars(o): yield f'{m}.{n}'
            for k, v in vars(o).items():
                v = getattr(v, '__func__', v)
                if (k == '__call__' or not k.startswith('_')) and inspect.isfunction(v): yield f'{m}.{n}__{k}'

def test_every_public_name_is_called():
    "No function without a valid call or a reason; and no call of what is gone."
    names = set(public())
    missing = sorted(names - CALLS.keys() - {n for n in names for p in LEFT_OUT if fnmatch.fnmatchcase(n, p)})
    assert not missing, f'{len(missing)} public names have neither a call nor a reason: {missing}'
    gone = [k for k in CALLS if not hasattr(find(k)[0], find(k)[1] or '__call__')]      # an AttributeError names a function or class that is gone
    assert not gone, f'calls of methods that are gone: {gone}'

@pytest.fixture(scope='module')
def world():
    with tempfile.TemporaryDirectory() as d: yield World(d)

@pytest.mark.parametrize('module', sorted({k.split('.')[0] for k in CALLS}))
def test_wrong_calls(module, world, one_thread):
    "No error from somewhere inside, and no result that nobody asked for."
    rows = [(k, *r) for k in CALLS if k.split('.')[0] == module for r in sweep(k, world)]
    count = Counter(r[3] for r in rows)
    bad = [f'{k} {n} {what}: {verdict}, {seen}' for k,n,what,verdict,seen in rows if verdict in ('unclear', 'silent')]
    print(module, dict(count))
    assert not bad, f'{module}: {len(bad)} wrong calls are not refused clearly:\n' + '\n'.join(bad)

if __name__ == '__main__':
    torch.set_num_threads(1)
    total, patterns = Counter(), sys.argv[1:] or ['*']
    with tempfile.TemporaryDirectory() as d:
        w = World(d)
        per = {}
        for k in CALLS:
            if not any(fnmatch.fnmatchcase(k, p) or k.split('.')[0] == p for p in patterns): continue
            began = time.perf_counter()
            try: rows = list(sweep(k, w))
            except Exception as e: print(f'!! {k}: the valid call fails: {type(e).__name__}: {str(e)[:200]}'); traceback.print_exc(limit=-3); continue
            if (took := time.perf_counter() - began) > 1: print(f'   {k}: {took:.1f} s for {len(rows)}', flush=True)
            for n, what, verdict, seen in rows:
                total[verdict] += 1; per.setdefault(k.split('.')[0], Counter())[verdict] += 1
                if verdict in ('unclear', 'silent'): print(f'{k:40} {str(n):14} {what:16} {verdict:8} {seen}')
    for m, c in per.items(): print(f'{m:14}', dict(c))
    print(dict(total), sum(total.values()))
