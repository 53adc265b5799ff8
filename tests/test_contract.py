"The contract that every detector keeps, checked on tiny networks, and the names and shapes of the full-sized ones."
import copy, gzip, json
from pathlib import Path
import pytest, torch
from detbook import models
from detbook.assign import RandomSampler
from detbook.core import count_syncs
from detbook.fast_rcnn import DetectionFilter
from detbook.rpn import RPN
from detbook.fast_rcnn import FastRCNN
from detbook.faster_rcnn import FasterRCNN
from detbook.mask_rcnn import MaskRCNN
from detbook.cascade_rcnn import CascadeRCNN
from detbook.rpn import ProposalFilter
from detbook.models import compile_parts
from detbook.toy import CLASSES, scene

KINDS = dict(rpn=RPN, fast_rcnn=FastRCNN, faster_rcnn=FasterRCNN, mask_rcnn=MaskRCNN, cascade_rcnn=CascadeRCNN)
MASKED = 'mask_rcnn', 'cascade_rcnn'
LOSSES = dict(rpn=['loss_rpn_cls', 'loss_rpn_bbox'], fast_rcnn=['loss_cls', 'loss_bbox'],
              faster_rcnn=['loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox'],
              mask_rcnn=['loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask'],
              cascade_rcnn=['loss_rpn_cls', 'loss_rpn_bbox'] + [f's{i}.loss_{k}' for i in range(3) for k in ('cls', 'bbox', 'mask')])

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def tiny(name):
    torch.manual_seed(0)
    more = {} if name == 'rpn' else dict(num_classes=len(CLASSES))
    if name == 'cascade_rcnn': more['masks'] = True
    model = getattr(models, name)(18, channels=16, scratch=True, **more)
    if name == 'cascade_rcnn': model.roi_head.samplers = [RandomSampler(32, .25, add_truths=True) for _ in range(3)]
    elif name != 'rpn': model.roi_head.sampler = RandomSampler(32, .25, add_truths=True)
    if name != 'rpn': model.roi_head.test_filter = DetectionFilter(max_per_img=4)                 # masks take long
    if hasattr(model, 'rpn_head'): model.rpn_head.test_filter = ProposalFilter(1000, 100)
    return model

@pytest.fixture(params=KINDS, scope='module')
def detector(request): return request.param, tiny(request.param)

def batch():
    "Four images that differ in size: objects, objects and a crowd, nothing, one object at the border."
    images, targets = zip(scene(9, size=96), scene(6, size=(64, 96)), scene(11, size=(32, 64)), scene(12, size=64))
    assert [len(t['boxes']) for t in targets][2] == 0 and targets[1]['ignore'].any()
    return list(images), list(targets)

def outside(name, images):
    "What Fast R-CNN is to look at: random proposals, with scores, without, and none."
    if name != 'fast_rcnn': return {}
    gen = torch.Generator().manual_seed(0)
    def some(im, n):
        h, w = im.shape[1:]
        corner = torch.rand(n, 2, generator=gen) * torch.tensor([w, h]) * .6
        return torch.cat([corner, corner + 4 + torch.rand(n, 2, generator=gen) * 40], 1)          # some reach outside
    lists = [some(im, n) for im, n in zip(images, (30, 20, 10, 0))]
    return dict(proposals=[torch.cat([lists[0], torch.rand(30, 1, generator=gen)], 1), *lists[1:]][:len(images)])

def check_losses(name, losses):
    assert list(losses) == LOSSES[name]
    for k, v in losses.items():
        assert isinstance(v, torch.Tensor) and v.shape == () and v.dtype == torch.float32 and v.requires_grad and v.isfinite(), k

def check_predictions(name, images, found):
    keys = {'boxes', 'scores', 'labels'} | ({'masks'} if name in MASKED else set())
    assert isinstance(found, list) and len(found) == len(images)
    for im, d in zip(images, found):
        (h, w), n = im.shape[1:], len(d['boxes'])
        assert set(d) == keys
        assert d['boxes'].shape == (n, 4) and d['boxes'].dtype == torch.float32
        assert d['scores'].shape == (n,) and d['scores'].dtype == torch.float32
        assert d['labels'].shape == (n,) and d['labels'].dtype == torch.int64
        assert (d['boxes'] >= 0).all() and (d['boxes'] <= torch.tensor([w, h, w, h])).all()
        assert ((d['scores'] >= 0) & (d['scores'] <= 1)).all() and (d['scores'].diff() <= 0).all()
        assert ((d['labels'] >= 0) & (d['labels'] < (1 if name == 'rpn' else len(CLASSES)))).all()
        if 'masks' in keys: assert d['masks'].shape == (n, h, w) and d['masks'].dtype == torch.bool
        assert not any(v.requires_grad for v in d.values())

def test_loss(detector):
    name, model = detector
    images, targets = batch()
    model.train(); model.zero_grad()
    losses = model(images, targets, **outside(name, images))
    check_losses(name, losses)
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

def test_predict(detector):
    name, model = detector
    images, _ = batch()
    check_predictions(name, images, model.eval()(images, **outside(name, images)))
    check_predictions(name, images, model.train()(images, **outside(name, images)))                # mode is chosen by the call

def test_answers_at_another_size(detector):
    name, model = detector
    images, _ = batch()
    model.eval()
    want, more = [(2*im.shape[1], 3*im.shape[2]) for im in images], outside(name, images)
    for own, large, size in zip(model.predict(images, **more), model.predict(images, sizes=want, **more), want):
        torch.testing.assert_close(large['boxes'], own['boxes'] * torch.tensor([3, 2, 3, 2]))
        assert torch.equal(large['scores'], own['scores']) and torch.equal(large['labels'], own['labels'])
        if name in MASKED: assert large['masks'].shape == (len(own['boxes']), *size)

def test_uint8_and_float_are_the_same(detector):
    name, model = detector
    images, targets = batch()
    more = outside(name, images)
    model.eval()
    for a, b in zip(model.predict(images, **more), model.predict([im.float() for im in images], **more)):
        for k in a: assert torch.equal(a[k], b[k])
    torch.manual_seed(1); whole = model.loss(images, targets, **more)
    torch.manual_seed(1); real = model.loss([im.float() for im in images], targets, **more)
    assert all(torch.equal(whole[k], real[k]) for k in whole)

@pytest.mark.parametrize('masks', [True, False])
def test_no_objects_anywhere(detector, masks):
    name, model = detector
    images, _ = batch()
    none = [dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)) | (dict(masks=torch.zeros(0, *im.shape[1:], dtype=torch.bool)) if masks else {}) for im in images]
    model.zero_grad()
    losses = model.loss(images, none, **outside(name, images))
    check_losses(name, losses)
    for k in losses: assert k.endswith('cls') or losses[k] == 0
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

def test_everything_ignored(detector):
    name, model = detector
    images, targets = batch()
    hidden = [t | dict(ignore=torch.ones_like(t['ignore'])) for t in targets]
    losses = model.loss(images, hidden, **outside(name, images))
    check_losses(name, losses)
    for k in losses: assert k.endswith('cls') or losses[k] == 0

def test_targets_need_not_have_ignore(detector):
    name, model = detector
    images, targets = batch()
    bare = [{k:v for k, v in t.items() if k in ('boxes', 'labels', 'masks')} for t in targets]
    check_losses(name, model.loss(images, bare, **outside(name, images)))

def test_validation_changes_nothing(detector):
    "Losses and detections in evaluation mode leave every buffer as it was, and need no gradient."
    name, model = detector
    images, targets = batch()
    model.eval()
    before = {k:v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad(): losses = model.loss(images, targets, **outside(name, images))
    model.predict(images, **outside(name, images))
    assert not any(v.requires_grad for v in losses.values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

@pytest.mark.parametrize('name', [name for name in KINDS if name != 'fast_rcnn'])
def test_propose(name):
    images, _ = batch()
    model = tiny(name)
    found = model.propose(images)
    assert len(found) == len(images)
    for im, p in zip(images, found):
        h, w = im.shape[1:]
        assert p.ndim == 2 and p.shape[1] == 5 and len(p) > 0 and p.dtype == torch.float32 and not p.requires_grad
        assert (p[:,:4] >= 0).all() and (p[:,:4] <= torch.tensor([w, h, w, h])).all()
        assert ((p[:,4] >= 0) & (p[:,4] <= 1)).all() and (p[:,4].diff() <= 0).all()
    tiny('fast_rcnn').loss(*batch(), found)                                                        # as they are, they feed Fast R-CNN
    assert [f.shape[1] for f in model.features(images)] == [16]*5

def test_test_filter_is_an_argument():
    images, _ = batch()
    for name in KINDS:
        if name == 'rpn': continue                                                                 # it shows all its proposals
        found = tiny(name).predict(images, **outside(name, images), test_filter=DetectionFilter(score_thr=1.))
        check_predictions(name, images, found)
        assert all(len(d['boxes']) == 0 for d in found)

@pytest.mark.parametrize('name, most', [('faster_rcnn', 3), ('mask_rcnn', 3), ('cascade_rcnn', 3)])
def test_a_step_seldom_waits(name, most):
    model, (images, targets) = tiny(name), batch()
    model.loss(images, targets)                                                                    # looks at the range of values once
    with count_syncs() as waits: sum(model.loss(images, targets).values()).backward()
    assert len(waits) <= most, waits
    fewer = [scene(0, size=64), scene(2, size=64)]                                                 # nor does their number depend on the data
    with count_syncs() as again: sum(model.loss(*map(list, zip(*fewer))).values()).backward()
    assert waits == again

@pytest.mark.parametrize('name', [*KINDS, 'retinanet', 'fcos', 'again'])
def test_dense_parts_compile_as_one_graph(name):
    "Nothing in them breaks the graph, checks of arguments included; the numbers stay, in training and in inference."
    images, targets = batch()
    dense = name in ('retinanet', 'fcos')
    model = getattr(models, name)(18, len(CLASSES), channels=16, scratch=True) if dense else tiny('faster_rcnn' if name == 'again' else name)
    model.backbone.with_cp = name == 'again'
    more = outside(name, images)
    whole = copy.deepcopy(model)
    parts = compile_parts(whole, fullgraph=True, backend='eager')
    assert len(parts) >= 3 and list(whole.state_dict()) == list(model.state_dict())
    def step(model):
        torch.manual_seed(1)
        losses = model.loss(images, targets, **more)
        sum(losses.values()).backward()
        return {k: v.item() for k, v in losses.items()}, [p.grad for p in model.parameters() if p.grad is not None]
    (plain, slopes), (compiled, again) = step(model), step(whole)
    assert compiled == pytest.approx(plain, rel=1e-5)
    for a, b in zip(slopes, again, strict=True): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    for a, b in zip(model.buffers(), whole.buffers()): torch.testing.assert_close(a, b)
    for a, b in zip(model.eval().predict(images, **more), whole.eval().predict(images, **more)): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)

@pytest.mark.parametrize('name', MASKED)
def test_wrong_targets_are_named(name):
    model, (images, targets) = tiny(name), batch()
    without = [{k:v for k, v in t.items() if k != 'masks'} for t in targets]
    for wrong, said in ((without, r"targets\[0\].*'masks'"), (targets[:2], 'one dict for each'), ([t | dict(labels=t['labels']+9) for t in targets], 'labels'),
                        ([t | dict(masks=t['masks'][:,:-1]) for t in targets], 'masks')):
        with pytest.raises(ValueError, match=said): model.loss(images, wrong)

STATES = json.loads(gzip.decompress((Path(__file__).parent/'golden'/'states_r50.json.gz').read_bytes()))

@pytest.mark.parametrize('config', STATES)
def test_names_and_shapes_are_mmdetections(config):
    "The builder's state_dict, and that of the class called without arguments, equal mmdetection's for its 1x config."
    name, style = config.split('_')[0].replace('-', '_'), 'caffe' if 'caffe' in config else 'pytorch'
    with torch.device('meta'): built = [getattr(models, name)(50, style=style)] + [KINDS[name]()] * (style == 'pytorch')
    for model in built: assert {k:list(v.shape) for k, v in model.state_dict().items()} == STATES[config]
