"Every detector gives the same losses, gradients and detections when torchvision's compiled operations are hidden."
import inspect
import pytest, torch, torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from detbook import models
from detbook.assign import HardSampler, RandomSampler
from detbook.c4 import mask_rcnn_c4
from detbook.fast_rcnn import BoxHead, DetectionFilter, RoIHead
from detbook.masks import MaskHead
from detbook.nms import SoftNMS, has_compiled_ops
from detbook.roi import RoIExtractor
from detbook.toy import CLASSES, scene

def builders():
    "The builders of `detbook.models` by name: its functions that say they return a network."
    public = {name: getattr(models, name) for name in models.__all__}
    returns = {name: inspect.signature(f).return_annotation for name, f in public.items() if inspect.isfunction(f)}
    return {name: public[name] for name, kind in returns.items() if isinstance(kind, type) and issubclass(kind, nn.Module)}

BUILDERS = builders()
TINY = dict(depth=18, channels=16, scratch=True, num_classes=len(CLASSES), num_keypoints=4)

def build(name, **more):
    "A tiny one with what of TINY it takes, and logits far apart, so that no two scores nearly tie."
    torch.manual_seed(0)
    takes = inspect.signature(BUILDERS[name]).parameters
    return spread(BUILDERS[name](**{k:v for k, v in TINY.items() if k in takes}, **more))

def spread(model):
    for k, m in model.named_modules():
        if k.split('.')[-1] in ('rpn_cls', 'fc_cls', 'retina_cls', 'conv_cls', 'conv_centerness', 'conv_logits'): 
            nn.init.normal_(m.weight, std=.3); nn.init.zeros_(m.bias)
    for m in model.modules():
        if isinstance(getattr(m, 'sampler', None), RandomSampler): m.sampler = RandomSampler(16, .25, add_truths=m.sampler.add_truths)
        if hasattr(getattr(m, 'test_filter', None), 'max_per_img'): m.test_filter.max_per_img = 8
    return model

def as_torchvision_reads():
    "Mask R-CNN whose windows are read without the half pixel, by two samples a bin."
    torch.manual_seed(0)
    C, ch = len(CLASSES), TINY['channels']
    how = dict(strides=(4,8,16,32), ratio=2, aligned=False)
    roi = RoIHead(BoxHead(C, ch), MaskHead(C, ch), RoIExtractor(7, **how), mask_extractor=RoIExtractor(14, **how))
    return spread(models.MaskRCNN(C, **models.resnet_fpn(18, channels=ch, scratch=True), rpn_head=build('mask_rcnn').rpn_head, roi_head=roi))

def hard_and_soft():
    "Faster R-CNN that learns from its hardest candidates and lowers scores in place of dropping boxes."
    torch.manual_seed(0)
    C, ch = len(CLASSES), TINY['channels']
    roi = RoIHead(BoxHead(C, ch), sampler=HardSampler(16, .25), test_filter=DetectionFilter(suppress=SoftNMS()))
    return spread(models.FasterRCNN(C, **models.resnet_fpn(18, channels=ch, scratch=True), rpn_head=build('faster_rcnn').rpn_head, roi_head=roi))

def without_pyramid():
    torch.manual_seed(0)
    return spread(mask_rcnn_c4(18, len(CLASSES), scratch=True))

VARIANTS = {name: (lambda name=name: build(name)) for name in BUILDERS if not name.endswith(('_c4', '_dc5'))}    # C4: once, below; its stages cost most of the time
VARIANTS |= {'mask_rcnn as torchvision reads': as_torchvision_reads, 'faster_rcnn hard and soft': hard_and_soft, 'mask_rcnn without a pyramid': without_pyramid}
VARIANTS |= {f'{name} with masks': (lambda name=name: build(name, masks=True)) for name, f in BUILDERS.items() if 'masks' in inspect.signature(f).parameters}

class Compiled(TorchDispatchMode):
    "Note which of torchvision's operations run."
    def __init__(self):
        super().__init__()
        self.seen = set()
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        space, name = func._schema.name.split('::')
        if space == 'torchvision': self.seen.add(name)
        return func(*args, **(kwargs or {}))

def batch():
    "Three pictures of different sizes: with objects, with a crowd, and with nothing."
    images, targets = zip(scene(9, size=96), scene(6, size=(64, 96)), scene(11, size=(32, 64)))
    assert targets[1]['ignore'].any() and len(targets[2]['boxes']) == 0
    return list(images), list(targets)

def proposals_for(model, images):
    if not isinstance(model, models.FastRCNN): return {}
    gen = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=gen)*60
    return dict(proposals=[torch.cat([corner, corner + 4 + torch.rand(60, 2, generator=gen)*40], 1) for _ in images])

def everything(model):
    "Losses, gradients, detections, and which compiled operations it took to get there."
    images, targets = batch()
    more = proposals_for(model, images)
    model.zero_grad()
    torch.manual_seed(1)                                        # samplers draw the same
    with Compiled() as ops:
        losses = model.train().loss(images, targets, **more)
        sum(losses.values()).backward()
        found = model.eval().predict(images, **more)
    return {k:v.detach() for k, v in losses.items()}, {n:p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, found, ops.seen

@pytest.fixture
def hidden(monkeypatch):
    "A switch that hides torchvision's extension, as torchvision itself sees it."
    def hide():
        monkeypatch.setattr(torchvision.extension, '_has_ops', lambda: False)
        assert not has_compiled_ops()
        with pytest.raises(RuntimeError, match="load custom C"): torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), .5)
    return hide

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def test_every_class_has_a_builder():
    classes = {c for c in map(models.__dict__.get, models.__all__) if isinstance(c, type) and issubclass(c, nn.Module)}
    assert classes == {inspect.signature(f).return_annotation for f in BUILDERS.values()} and len(classes) >= 4

@pytest.mark.parametrize('name', VARIANTS)
def test_same_without_compiled_operations(name, hidden):
    model = VARIANTS[name]()
    start = {k:v.clone() for k, v in model.state_dict().items()}
    losses, grads, found, ops = everything(model)
    model.load_state_dict(start)                                # statistics moved
    hidden()
    plain_losses, plain_grads, plain_found, plain_ops = everything(model)
    assert 'nms' in ops and plain_ops == set()                                                         # the two did go different ways
    assert losses.keys() == plain_losses.keys() and grads.keys() == plain_grads.keys() and len(grads) > 50
    for k, v in losses.items():
        assert v.isfinite(), k
        torch.testing.assert_close(plain_losses[k], v, rtol=1e-4, atol=1e-6, msg=lambda m: f'{k}: {m}')
    for k, v in grads.items():
        assert (plain_grads[k] - v).norm() <= 5e-3*v.norm() + 1e-6, k                                  # a ReLU at zero may tip over
    assert sum(len(d['boxes']) for d in found) > 5
    for d, e in zip(found, plain_found, strict=True):
        assert d.keys() == e.keys() and torch.equal(d['labels'], e['labels'])
        torch.testing.assert_close(e['boxes'], d['boxes'], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(e['scores'], d['scores'], rtol=1e-4, atol=1e-5)
        if 'masks' in d: assert (d['masks'] != e['masks']).float().mean().nan_to_num() < 1e-4           # a probability of exactly one half
        if 'keypoints' in d: torch.testing.assert_close(e['keypoints'], d['keypoints'], rtol=1e-3, atol=1e-2)

# ---- the faster of two libraries

@pytest.mark.parametrize('threads', (1, 2))
def test_products_by_onednn_change_nothing(threads, monkeypatch):
    "Where MKL is slow, linear layers and wide 1x1 convolutions go to oneDNN; both ways are taken here, on any processor."
    from detbook import backbone, fast_rcnn
    if not fast_rcnn._has_onednn(): pytest.skip('this PyTorch has no such operation')
    torch.manual_seed(0)
    model = spread(models.mask_rcnn(50, len(CLASSES), channels=64))
    wide = next(m for m in model.backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.out_channels == 512)
    taken, product = [], fast_rcnn._product
    monkeypatch.setattr(fast_rcnn, '_product', lambda *a: (taken.append(a[0].shape), product(*a))[1])
    def go(slow):
        for module in (backbone, fast_rcnn): monkeypatch.setattr(module, 'slow_products', lambda: slow)
        taken.clear()
        out = everything(model)
        assert bool(taken) == slow and backbone._dilation(wide, torch.zeros(1, 256, 4, 4)) == ((2, 2) if slow and threads == 1 else (1, 1))
        return out
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try: (losses, grads, found, _), (fast_losses, fast_grads, fast_found, _) = go(False), go(True)
    finally: torch.set_num_threads(before)
    for k, v in losses.items(): torch.testing.assert_close(fast_losses[k], v, rtol=1e-4, atol=1e-6, msg=lambda m: f'{k}: {m}')
    for k, v in grads.items(): assert (fast_grads[k] - v).norm() <= 5e-3*v.norm() + 1e-6, k
    for d, e in zip(found, fast_found, strict=True):
        assert torch.equal(d['labels'], e['labels'])
        torch.testing.assert_close(e['boxes'], d['boxes'], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(e['scores'], d['scores'], rtol=1e-3, atol=1e-4)

def test_products_of_onednn_are_for_amd_with_avx512(monkeypatch):
    from detbook import core
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX512')
    for maker in ('AuthenticAMD', 'GenuineIntel'):
        monkeypatch.setattr(core, '_processor', lambda maker=maker: f'vendor_id : {maker}')
        assert core.slow_products() == (maker == 'AuthenticAMD' and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available())
    monkeypatch.setattr(core, '_processor', lambda: 'vendor_id : AuthenticAMD')
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX2')
    assert not core.slow_products()
