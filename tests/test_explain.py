"A trace of a prediction: for every detector of the family it ends where `predict` ends, and each of its stages follows from the one before."
import functools, warnings
import pytest, torch
from torch import nn
from detbook import models
from detbook.c4 import faster_rcnn_c4, faster_rcnn_dc5, mask_rcnn_c4, rpn_c4
from detbook.boxes import iou_matrix
from detbook.explain import PICTURES, explain
from detbook.nms import find_suppressors
from detbook.fcos import FCOSHead
from detbook.faster_rcnn import FasterRCNN
from detbook.fast_rcnn import BoxHead, DetectionFilter, RoIHead
from detbook.keypoint_rcnn import KeypointHead, KeypointRCNN
from detbook.nms import SoftNMS
from detbook.retinanet import DenseFilter
from detbook.tiny import toy_detector
from detbook.toy import scene

def picture(seed=3, size=64): return scene(seed, size=size, objects=(2, 3), crowd=0, empty=0)

def fcos_first():
    model = models.faster_rcnn(depth=18, num_classes=4, channels=16, scratch=True)
    head = FCOSHead(1, 16, 1, 16, first_stage=True, norm_groups=4)
    neck = models.fcos(depth=18, num_classes=4, channels=16, scratch=True).neck
    from detbook.roi import RoIExtractor
    return FasterRCNN(4, backbone=model.backbone, neck=neck, rpn_head=head, roi_head=RoIHead(BoxHead(4, 16), bbox_extractor=RoIExtractor(7, (8, 16, 32, 64))))

SMALL = dict(depth=18, channels=16, scratch=True)
BUILD = dict(
    rpn=lambda: models.rpn(**SMALL), fast=lambda: models.fast_rcnn(num_classes=4, **SMALL), faster=lambda: models.faster_rcnn(num_classes=4, **SMALL),
    mask=lambda: models.mask_rcnn(num_classes=4, **SMALL), cascade=lambda: models.cascade_rcnn(num_classes=4, **SMALL),
    cascade_mask=lambda: models.cascade_rcnn(num_classes=4, masks=True, **SMALL), keypoint=lambda: KeypointRCNN(4, 4, keypoint_head=KeypointHead(4, 16, 2, 32), **models.resnet_fpn(18, channels=16, scratch=True)),
    retinanet=lambda: models.retinanet(num_classes=4, **SMALL), fcos=lambda: models.fcos(num_classes=4, **{**SMALL, 'channels': 32}),
    rpn_c4=lambda: rpn_c4(18, 'pytorch', True), faster_c4=lambda: faster_rcnn_c4(18, 4, 'pytorch', True), mask_c4=lambda: mask_rcnn_c4(18, 4, 'pytorch', True),
    dc5=lambda: faster_rcnn_dc5(18, 4, 'pytorch', True), fcos_first=fcos_first, toy=toy_detector)

@functools.lru_cache
def lively(name):
    "A small detector with random weights whose answers differ from place to place, and few enough to be quick."
    torch.manual_seed(0)
    model = BUILD[name]().eval()
    if name == 'toy': return model
    with torch.no_grad():
        for n, m in model.named_modules():
            if n.endswith(('fc_cls', 'fc_reg', 'rpn_cls', 'rpn_reg', 'retina_cls', 'retina_reg', 'conv_cls', 'conv_reg')): m.weight.mul_(8)
            if n.endswith(('retina_cls', 'conv_cls')): m.bias.fill_(-1.)
    for part in model.modules():
        if isinstance(f := getattr(part, 'test_filter', None), (DetectionFilter, DenseFilter)): f.score_thr, f.max_per_img = .01, 8
        elif f is not None: f.nms_pre, f.max_per_img = 100, 24
        if (f := getattr(part, 'train_filter', None)) is not None: f.nms_pre, f.max_per_img = 100, 40
    return model

def given(name, image):
    if name != 'fast': return {}, []
    g = torch.Generator().manual_seed(0)
    xy = torch.rand(40, 2, generator=g) * 40
    p = torch.cat([xy, xy + 4 + torch.rand(40, 2, generator=g) * 20, torch.rand(40, 1, generator=g)], 1)
    return dict(proposals=p), [[p]]

def same(a, b):
    assert a.keys() == b.keys()
    for k in a: torch.testing.assert_close(a[k].float(), b[k].float(), rtol=0, atol=0)

def check_positives(drawn, target, least):
    "Every positive that was drawn lies on its truth."
    yes = drawn.truth >= 0
    assert yes.any() and (iou_matrix(drawn.sampled[yes], target['boxes'])[torch.arange(int(yes.sum())), drawn.truth[yes]] >= least - 1e-4).all()

def check_choice(c, iou=True):
    "Candidates add up, survivors are among them, and each suppressor is better and overlaps by more than the threshold."
    n = c.counts()
    assert n['candidates'] == len(c.boxes) == sum(v for k,v in n.items() if k != 'candidates')
    assert n['chosen'] == len(c.chosen) == len(c.chosen.unique()) and n['chosen'] <= c.limit
    assert c.kept[c.chosen].all() and not (c.kept & ~c.valid).any()
    by = c.suppressor >= 0
    assert not (by & (c.kept | ~c.valid)).any()
    if not iou: return
    gone = c.valid & ~c.kept
    assert torch.equal(by, gone)                                        # every one that is gone has a suppressor
    j = c.suppressor[gone]
    assert c.kept[j].all() and (c.scores[j] >= c.scores[gone]).all() and torch.equal(c.groups[j], c.groups[gone]) and (c.overlap[gone] > c.iou - 1e-6).all()
    near = iou_matrix(c.boxes[gone].double(), c.boxes[j].double()).diagonal() if len(j) else c.overlap[gone]
    torch.testing.assert_close(near.float(), c.overlap[gone], rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('name', BUILD)
def test_a_trace_ends_where_predict_ends(name):
    model, (image, _) = lively(name), picture()
    more, args = given(name, image)
    t, plain = model.explain(image, **more), model.predict([image], *args)[0]
    same(t.detections, plain)
    assert len(plain['boxes']) > 2, 'nothing to see'
    assert t.step is None and 'matches' not in t.steps
    if t.anchors is not None:
        assert len(t.anchors.boxes) == len(t.anchors.level) == len(t.anchors.scores) == len(t.anchors.decoded) == len(t.anchors.place)
        assert t.anchors.level.max() < len(t.pyramid.levels) and (t.anchors.points is not None) == name.startswith('fcos')
    else: assert name == 'fast'
    for c in filter(None, (t.proposals, t.final)): check_choice(c)
    if t.proposals is not None:
        torch.testing.assert_close(t.anchors.decoded[t.proposals.source], t.proposals.boxes)
        if name != 'fcos_first': torch.testing.assert_close(t.anchors.objectness[t.proposals.source], t.proposals.scores)
        n = len(t.proposals.chosen)
        if t.rois is not None: assert torch.equal(t.rois.boxes[0,:n], t.proposals.boxes[t.proposals.chosen]) and int(t.rois.valid.sum()) == n
        for b in model.propose([image]): torch.testing.assert_close(b[:,:4], t.proposals.boxes[t.proposals.chosen])
    chosen = t.final.chosen
    assert len(chosen) == len(plain['boxes'])
    torch.testing.assert_close(t.final.boxes[chosen], plain['boxes'])
    assert torch.equal(t.final.labels[chosen], plain['labels'])
    torch.testing.assert_close(t.final.scores[chosen], plain['scores'])
    assert [t.final.fate[i] for i in chosen.tolist()] == ['chosen']*len(chosen)

@pytest.mark.parametrize('name', [n for n in BUILD if n not in ('rpn', 'rpn_c4', 'retinanet', 'fcos')])
def test_the_second_stage(name):
    model, (image, _) = lively(name), picture()
    t = model.explain(image, **given(name, image)[0])
    assert len(t.stages) == (3 if name.startswith('cascade') else 1) and ('stages' in t.steps)
    assert torch.equal(t.stages[0].boxes, t.rois.boxes[0])
    for a,b in zip(t.stages, t.stages[1:]): assert torch.equal(a.refined, b.boxes)
    torch.testing.assert_close(t.scores.sum(1), torch.ones(len(t.scores)))
    if len(t.stages) == 1: assert torch.equal(t.scores, t.stages[0].scores)
    c = t.final
    torch.testing.assert_close(t.scores[c.source, c.labels], c.scores)      # a candidate is a class of a proposal
    which = c.labels if t.class_boxes.shape[1] > 1 else torch.zeros_like(c.labels)
    torch.testing.assert_close(t.class_boxes[c.source, which], c.boxes, rtol=1e-4, atol=1e-3)
    assert len(c.boxes) == int((t.scores[:len(t.rois.valid[0].nonzero()),:-1] > model.roi_head.test_filter.score_thr).sum())
    # the sampling grid, read by hand, is what RoIAlign reads
    e, rois = model.roi_head.bbox_extractor, t.rois.boxes[0][:8]
    pooled = e(e.canvas([f[None] for f in t.pyramid.levels]), rois, torch.zeros(len(rois), dtype=torch.int64))
    for i in range(len(rois)):
        l = int(t.stages[0].level[i])
        x, y = t.grids.x[i], t.grids.y[i]
        x, y = x[:,~x[0].isnan()], y[:,~y[0].isnan()]
        feats, s = t.pyramid.levels[l], e.strides[l]
        at = lambda v, n: (v / s).clamp(.5, n - .5) / n * 2 - 1
        grid = torch.stack(torch.broadcast_tensors(at(x, feats.shape[2])[None,None], at(y, feats.shape[1])[:,:,None,None]), -1)
        read = nn.functional.grid_sample(feats[None], grid.reshape(1, -1, 1, 2), align_corners=False)[0,:,:,0]
        torch.testing.assert_close(read.view(len(feats), *grid.shape[:4]).mean((2, 4)), pooled[i], rtol=1e-3, atol=1e-3)
        assert len(t.grids.points(i)) == x.numel() * y.numel()

def test_masks_and_keypoints():
    for name in ('mask', 'cascade_mask', 'mask_c4'):
        t = lively(name).explain(picture()[0])
        n = len(t.detections['boxes'])
        assert len(t.masks.small) == n and 0 <= t.masks.small.min() and t.masks.small.max() <= 1 and torch.equal(t.masks.pasted, t.detections['masks'])
    t = lively('keypoint').explain(picture()[0])
    assert t.heatmaps.maps.shape[:2] == t.heatmaps.points.shape[:2] == (len(t.detections['boxes']), 4)
    assert torch.equal(t.heatmaps.points, t.detections['keypoints'])

@pytest.mark.parametrize('name', BUILD)
def test_a_training_step_is_the_one_that_loss_makes(name):
    model, (image, target) = lively(name), picture()
    more, args = given(name, image)
    if name in ('rpn', 'rpn_c4'): target = target | dict(labels=torch.zeros_like(target['labels']))
    state, rng = {k: v.clone() for k,v in model.state_dict().items()}, torch.random.get_rng_state()
    parts = {n: vars(m).copy() for n,m in model.named_modules()}
    t = model.explain(image, target, **more)
    assert torch.equal(rng, torch.random.get_rng_state())
    with torch.no_grad(): losses = model.loss([image], [target], *args)
    torch.random.set_rng_state(rng)
    assert t.step.losses == {k: float(v) for k,v in losses.items()}
    assert all(torch.equal(v, state[k]) for k,v in model.state_dict().items())
    for n, m in model.named_modules(): assert all(vars(m)[k] is v for k,v in parts[n].items() if k in ('matcher', 'sampler', 'matchers', 'samplers'))
    d = t.step.anchors
    if name == 'fast': assert d is None
    else:
        torch.testing.assert_close(d.boxes, t.anchors.boxes if t.anchors.points is None else t.anchors.points.repeat(1, 2))
        assert len(d.matched) == len(d.boxes) and d.matched.max() < len(target['boxes'])
        assert len(d.sampled) == len(d.truth) and (d.truth >= -1).all()
        assert ((d.truth >= 0).sum() <= (d.matched >= 0).sum())
    heads = 3 if name.startswith('cascade') else 0 if name in ('rpn', 'rpn_c4', 'retinanet', 'fcos') else 1
    assert len(t.step.rois) == heads
    for r in t.step.rois:
        assert (r.truth >= -1).all()
        check_positives(r, target, .5)
    calls = [c.part for c in t.step.calls]
    assert calls[:3] == ['preprocess', 'backbone', 'neck'] and all(c.given and c.gave for c in t.step.calls)

@pytest.mark.parametrize('name', ['rpn', 'fast', 'faster', 'cascade_mask', 'keypoint', 'retinanet', 'fcos'])
def test_every_stage_has_a_picture(name):
    import matplotlib.pyplot as plt
    image, target = picture()
    if name == 'rpn': target = target | dict(labels=torch.zeros_like(target['labels']))
    t = lively(name).explain(image, target, **given(name, image)[0])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        axs = t.show()
        axs[0].figure.canvas.draw()
    assert len(axs) == len(t.steps) and all(a.get_title() for a in axs) and set(t.steps) <= set(PICTURES)
    plt.close('all')
    with pytest.raises(ValueError, match="no stage 'pictures', perhaps 'picture'|no stage 'pictures'"): t.show('pictures')

def test_nothing_to_see():
    "No candidate, no truth, one pixel."
    image, _ = picture()
    none = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), masks=torch.zeros(0, 64, 64, dtype=torch.uint8), keypoints=torch.zeros(0, 4, 3))
    import matplotlib.pyplot as plt
    for name in ('faster', 'cascade_mask', 'keypoint', 'retinanet', 'fcos'):
        model = lively(name)
        f = (getattr(model, 'roi_head', None) or model.bbox_head).test_filter
        was, f.score_thr = f.score_thr, 1.
        try: t = model.explain(image, none)
        finally: f.score_thr = was
        assert len(t.detections['boxes']) == 0 == len(t.final.chosen)
        t.show()[0].figure.canvas.draw()
        plt.close('all')
    t = lively('fast').explain(image, proposals=torch.zeros(0, 4))
    assert len(t.detections['boxes']) == 0
    for size in ((3, 1, 1), (3, 5, 33)): assert lively('mask').explain(torch.zeros(size)).image.shape == size

def test_filters_of_other_kinds():
    model, (image, _) = lively('faster'), picture()
    was = model.roi_head.test_filter
    class Own:                                                              # no `candidates`
        def __call__(self, *args): return was(*args)
    try:
        model.roi_head.test_filter = DetectionFilter(.01, suppress=SoftNMS(min_score=.02), max_per_img=7)
        t = model.explain(image)
        same(t.detections, model.predict([image])[0])
        check_choice(t.final, iou=False)
        assert t.final.iou is None and (t.final.suppressor >= 0).any()
        model.roi_head.test_filter = DetectionFilter(.01, class_agnostic=True, min_size=6)
        t = model.explain(image)
        same(t.detections, model.predict([image])[0])
        check_choice(t.final)
        model.roi_head.test_filter = Own()
        t = model.explain(image)
        same(t.detections, model.predict([image])[0])
        assert t.final is None and 'final' not in t.steps and 'detections' in t.steps
    finally: model.roi_head.test_filter = was
    model = lively('retinanet')
    was, model.bbox_head.test_filter = model.bbox_head.test_filter, DenseFilter(50, .01, late_clip=True, min_size=20, max_per_img=9)
    try:
        t = model.explain(image)
        same(t.detections, model.predict([image])[0])
        assert len(t.final.chosen) == len(t.detections['boxes'])
    finally: model.bbox_head.test_filter = was
    model = lively('fcos')
    was, model.bbox_head.test_filter = model.bbox_head.test_filter, DenseFilter(50, .01, root=True, max_per_img=9)
    try: same(model.explain(image).detections, model.predict([image])[0])
    finally: model.bbox_head.test_filter = was

def test_a_picture_at_another_size():
    "Everything is in pixels of the picture that was given."
    from detbook.inference import inference_detector, init_detector
    image, target = picture(5, 96)
    model = init_detector('toy_detector')
    t = explain(model, image, target, scale=2.)
    assert t.resized.shape == (3, 192, 192) and t.image is image
    same(t.detections, model.predict([t.resized], sizes=[(96, 96)])[0])
    small = explain(model, image, target)
    torch.testing.assert_close(t.anchors.boxes[0], small.anchors.boxes[0] / 2)
    assert (t.proposals.boxes <= 96).all()
    assert (t.grids.x.nan_to_num(0.) <= 96).all() and t.pyramid.strides[0] == (2., 2.)
    assert torch.equal(t.step.target['boxes'], target['boxes'])
    check_positives(t.step.rois[0], target, .5)
    check_positives(small.step.rois[0], target, .5)
    found = inference_detector(model, image)
    torch.testing.assert_close(small.detections['boxes'], found['boxes'])
    mask = lively('mask')
    t = explain(mask, image, scale=(128, 64))
    same(t.detections, mask.predict([t.resized], sizes=[(96, 96)])[0])
    assert t.masks.pasted.shape[1:] == (96, 96)

def test_a_detector_of_another_way_is_not_explained():
    class Own(FasterRCNN):
        def predict(self, images, sizes=None): return [{k: v[:1] for k,v in d.items()} for d in super().predict(images, sizes=sizes)]
    class Alike(FasterRCNN):
        pass
    image, _ = picture()
    plain = lively('faster')
    for kind, fits in (Own, False), (Alike, True):
        model = kind(4, backbone=plain.backbone, neck=plain.neck, rpn_head=plain.rpn_head, roi_head=plain.roi_head).eval()
        if fits: same(model.explain(image).detections, plain.predict([image])[0])
        else:
            with pytest.raises(ValueError, match='cannot be explained'): model.explain(image)
    with pytest.raises(TypeError, match='expected a detector'): explain(nn.Linear(2, 2), image)
    with pytest.raises(ValueError, match='give it proposals'): lively('fast').explain(image)
    with pytest.raises(ValueError, match='leave proposals out'): plain.explain(image, proposals=torch.zeros(1, 4))

def test_a_training_model_stays_one():
    model, (image, target) = lively('mask'), picture()
    model.train()
    state = {k: v.clone() for k,v in model.state_dict().items()}
    t = model.explain(image, target)
    assert model.training and all(m.training for m in model.roi_head.modules()) and all(torch.equal(v, state[k]) for k,v in model.state_dict().items())
    model.eval()
    same(t.detections, model.predict([image])[0])

def test_find_suppressors_on_many_boxes():
    from detbook.nms import nms_groups
    torch.manual_seed(0)
    for n in (1, 50, 1500):
        xy = torch.rand(n, 2) * 60
        boxes, scores, groups = torch.cat([xy, xy + 5 + torch.rand(n, 2) * 30], 1), torch.rand(n).mul(20).round() / 20, torch.randint(0, 3, (n,))
        kept = nms_groups(boxes, scores, groups, .5)
        by, overlap = find_suppressors(boxes, scores, groups, kept, .5)
        gone = torch.ones(n, dtype=torch.bool).index_fill(0, kept, False)
        assert torch.equal(by >= 0, gone) and (overlap[gone] > .5 - 1e-6).all() and torch.equal(groups[by[gone]], groups[gone]) and (scores[by[gone]] >= scores[gone]).all()
