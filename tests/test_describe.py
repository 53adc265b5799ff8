"A file says what a detector is: every argument of every component is set, saved, loaded; files of earlier versions give the detections that they gave."
import contextlib, importlib, inspect, io, json, pkgutil, sys
from pathlib import Path
import numpy as np, pytest, torch
from safetensors import safe_open
from torch import nn
import detbook
from detbook import models
from detbook.assign import EverySampler, HardSampler, Matcher, RandomSampler
from detbook.anchors import AnchorGenerator, PointGenerator
from detbook.backbone import ResNet, ResStage
from detbook.batch import Preprocess
from detbook.cascade_rcnn import CascadeRoIHead, cascade_heads
from detbook.coder import DeltaCoder, DistanceCoder
from detbook.core import settings
from detbook.efficientnet import EfficientNetLite
from detbook.checkpoint import read_checkpoint
from detbook.describe import _FORMAT, _HELPERS, describe, read_detector, rebuild, save_detector
from detbook.fast_rcnn import BoxHead, DetectionFilter, RoIHead
from detbook.fcos import FCOSHead, PointMatcher
from detbook.inference import init_detector
from detbook.keypoint_rcnn import KeypointHead
from detbook.losses import FocalLoss, GIoULoss, IoULoss, L1Loss, SigmoidLoss, SmoothL1Loss, SoftmaxLoss
from detbook.masks import MaskHead
from detbook.neck import FPN, NoNeck
from detbook.nms import NMS, SoftNMS
from detbook.retinanet import DenseFilter, RetinaHead
from detbook.roi import RoIExtractor
from detbook.rpn import ProposalFilter, RPNHead
from detbook.tiny import TinyNet
from detbook.toy import scene
from detbook.tta import TestTimeAug
from detbook.weights import load_detector

C = 16
def trunk(): return dict(backbone=ResNet(18, out_indices=(0,), strides=(1,), dilations=(1,)), neck=FPN((64,), C, num_outs=2))
def rpn(**k): return RPNHead(C, anchors=AnchorGenerator((4,8), scales=(8,)), test_filter=ProposalFilter(200, 60), **k)
def box(**k): return BoxHead(4, C, fc_channels=8, **k)
def read(size=7): return RoIExtractor(size, (4,8))
def mask(): return MaskHead(4, C, 1, C)

SMALL = dict(
    ResNet=lambda: ResNet(18, strides=(1,2), dilations=(1,1), out_indices=(0,1)), ResStage=lambda: ResStage(18, 1), FPN=lambda: FPN((64,128), C, 3), NoNeck=lambda: NoNeck(C),
    EfficientNetLite=lambda: EfficientNetLite(out_indices=(0,1)), TinyNet=lambda: TinyNet((4,6)),
    BoxHead=box, MaskHead=mask, KeypointHead=lambda: KeypointHead(5, C, 1, C), RPNHead=rpn,
    RoIHead=lambda: RoIHead(box(), mask()), CascadeRoIHead=lambda: CascadeRoIHead(cascade_heads(4, C, 8), [mask() for _ in range(3)]),
    RetinaHead=lambda: RetinaHead(4, C, 1, C), FCOSHead=lambda: FCOSHead(4, C, 1, C, norm_groups=4),
    RPN=lambda: models.RPN(**trunk(), rpn_head=rpn()), FastRCNN=lambda: models.FastRCNN(4, **trunk(), roi_head=RoIHead(box(), bbox_extractor=read())),
    FasterRCNN=lambda: models.FasterRCNN(4, **trunk(), rpn_head=rpn(), roi_head=RoIHead(box(), bbox_extractor=read())),
    MaskRCNN=lambda: models.MaskRCNN(4, **trunk(), rpn_head=rpn(), roi_head=RoIHead(box(), mask(), read())),
    CascadeRCNN=lambda: models.CascadeRCNN(4, **trunk(), rpn_head=rpn(), roi_head=CascadeRoIHead(cascade_heads(4, C, 8), bbox_extractor=read())),
    KeypointRCNN=lambda: models.KeypointRCNN(4, 5, **trunk(), rpn_head=rpn(), roi_head=RoIHead(box(), bbox_extractor=read(), keypoint_head=KeypointHead(5, C, 1, C))),
    RetinaNet=lambda: models.RetinaNet(4, **trunk(), bbox_head=RetinaHead(4, C, 1, C, AnchorGenerator((4,8)))),
    FCOS=lambda: models.FCOS(4, **trunk(), bbox_head=FCOSHead(4, C, 1, C, PointGenerator((4,8)), norm_groups=4)),
    TestTimeAug=lambda: TestTimeAug(SMALL['RetinaNet']()))
LEFT_OUT = {'TimmBackbone'}     # needs another package; tests/test_weights.py saves one where it is installed

WORDS = dict(style='caffe', arch='lite1', extra='on_lateral', method='gaussian', mode='linear', score='logit', normalizer='samples', mean_of='probabilities')
# what an argument can be exchanged for: something of the same use that holds other settings
PARTS = [(Matcher, lambda: Matcher(.6, .2, .1)), (PointMatcher, lambda: PointMatcher(radius=2.)), ((RandomSampler, HardSampler, EverySampler), lambda: RandomSampler(33, .4)),
         (DeltaCoder, lambda: DeltaCoder(stds=(.3,.3,.3,.3))), (DistanceCoder, lambda: DistanceCoder(clip=False)), (AnchorGenerator, lambda: AnchorGenerator((4,8), ratios=(1.,2.,3.))),
         (PointGenerator, lambda: PointGenerator((4,8), offset=.25)), (ProposalFilter, lambda: ProposalFilter(11, 12, .4)), (DetectionFilter, lambda: DetectionFilter(.3, suppress=SoftNMS())),
         (DenseFilter, lambda: DenseFilter(11, .3, .4)), (RoIExtractor, lambda: RoIExtractor(7, (4,8), ratio=3)), (NMS, lambda: SoftNMS(.2)), (Preprocess, lambda: Preprocess(pad_divisor=8, bgr=True)),
         (FocalLoss, lambda: FocalLoss(.4)), ((L1Loss, SmoothL1Loss, IoULoss, GIoULoss), lambda: SmoothL1Loss(.3)), ((SigmoidLoss, SoftmaxLoss), lambda: SigmoidLoss(2.))]

def other(name, v):
    "Another value for an argument that holds `v`."
    if name in WORDS: return WORDS[name]
    if name == 'depth': return 34
    if name == 'flips': return ('vertical',)
    if isinstance(v, bool): return not v
    if isinstance(v, int): return v + 1
    if isinstance(v, float): return v/2 if 0 < v <= 1 else v + 1
    if isinstance(v, torch.Tensor): return v + 1
    if isinstance(v, (tuple, list)) and v and not isinstance(v[0], nn.Module): return type(v)(other('', x) for x in v)
    for kinds, make in PARTS:
        if isinstance(v, kinds): return make()
    if v is None: return dict(train_size=(96, 128), sizes=((8.,), (16.,)), center_clamp=12., radius=1.).get(name)

def components():
    for m in pkgutil.iter_modules(detbook.__path__):
        mod = importlib.import_module(f'detbook.{m.name}')
        for name, cls in vars(mod).items():
            if not isinstance(cls, type) or cls.__module__ != mod.__name__ or 'helper_arguments' not in vars(cls) or name in LEFT_OUT: continue
            if issubclass(cls, nn.Module) or m.name in _HELPERS: yield name, cls         # what a detector can be made of

ALL = dict(components())
def build(name): torch.manual_seed(0); return SMALL.get(name, ALL[name])()

@pytest.mark.parametrize('name', sorted(ALL))
def test_every_argument_is_kept_and_described(name):
    part = build(name)
    names = [k for k in inspect.signature(type(part).__init__).parameters if k != 'self' and k not in part.helper_arguments]
    assert list(settings(part)) == names
    twin = rebuild(json.loads(json.dumps(describe(part))))
    assert describe(twin) == describe(part)

CASES = [(name, k) for name in sorted(ALL) for k in inspect.signature(ALL[name].__init__).parameters if k != 'self' and k not in ALL[name].helper_arguments]
untried = []

@pytest.mark.parametrize('name,argument', CASES, ids=[f'{n}-{a}' for n, a in CASES])
def test_set_saved_loaded(name, argument):
    "A setting that is changed after construction comes back as it is, or saving raises and names it."
    part, plain = build(name), build(name)
    now = getattr(part, argument)
    new = other(argument, now)
    if new is None: untried.append((name, argument)); return
    try: setattr(part, argument, new)
    except AttributeError as e: assert 'no setter' in str(e) or "can't set" in str(e); return        # read-only: cannot be changed
    try: described = describe(part)
    except (ValueError, TypeError) as e:                     # a width or a count that the weights contradict, and it is said where
        assert '\n' not in str(e) and any(w in str(e) for w in (argument, 'is (', 'when rebuilt')), str(e)
        return
    assert described != describe(plain), f'{name}.{argument} was changed and the description did not'
    twin = rebuild(json.loads(json.dumps(described)))
    assert describe(twin) == described
    if not isinstance(new, torch.Tensor) and isinstance(new, (int, float, str)): assert getattr(twin, argument) == new

def test_few_arguments_are_left_untried():
    tried = {(n, a) for n, a in CASES} - set(untried)
    assert len(tried) >= .8*len(CASES), sorted(untried)

def test_changes_that_no_argument_describes_are_named(tmp_path):
    def refused(change, word):
        m = SMALL['MaskRCNN']()
        change(m)
        with pytest.raises(ValueError, match=word): save_detector(tmp_path/'x.safetensors', m, tuple('abcd'))
        assert not list(tmp_path.iterdir())
    refused(lambda m: setattr(m.backbone.bn1, 'eps', 1e-3), r'backbone\.bn1\.eps is 0\.001')
    refused(lambda m: setattr(m.backbone.layer1[0], 'frozen_stats', True), r'backbone\.layer1\.0\.frozen_stats')
    refused(lambda m: setattr(m, 'predict', lambda images: []), 'predict is there')
    refused(lambda m: setattr(m.roi_head.bbox_head, 'loss_cls', lambda a, b: a), 'loss_cls is a function')
    refused(lambda m: setattr(m.neck.fpn_convs[0], 'relu', True), r'neck\.fpn_convs\.0\.relu')
    refused(lambda m: setattr(m.backbone.conv1, 'stride', (1, 1)), r'backbone\.conv1\.stride')
    refused(lambda m: m.backbone.add_module('layer1', nn.Identity()), r'backbone\.layer1')

def test_a_text_as_classes(tmp_path):
    "A letter for each class, or all of it where there is one: what else could it be?"
    four, one = SMALL['FasterRCNN'](), models.RetinaNet(1, **trunk(), bbox_head=RetinaHead(1, C, 1, C, AnchorGenerator((4,8))))
    assert read_detector(save_detector(tmp_path/'four.safetensors', four, 'abcd'))[1] == tuple('abcd')
    assert read_detector(save_detector(tmp_path/'one.safetensors', one, 'person'))[1] == ('person',)
    with pytest.raises(ValueError, match='4 classes, and 6 names were given: person'): save_detector(tmp_path/'x.safetensors', four, 'person')
    assert init_detector(None, str(tmp_path/'four.safetensors'), classes='wxyz', device='cpu').classes == tuple('wxyz')

def test_frozen_parameters_come_back(tmp_path):
    m = SMALL['FasterRCNN']()
    for p in m.roi_head.parameters(): p.requires_grad_(False)
    again = read_detector(save_detector(tmp_path/'x.safetensors', m, tuple('abcd')))[0]
    assert {k for k,p in again.named_parameters() if not p.requires_grad} == {k for k,p in m.named_parameters() if not p.requires_grad}

def test_a_loader_gives_what_was_set(tmp_path):
    "The same detections after every kind of loading, with settings that were changed late."
    m, image = SMALL['MaskRCNN']().eval(), scene(4, size=72)[0]
    m.roi_head.test_filter.score_thr, m.roi_head.test_filter.iou, m.rpn_head.test_filter.nms_pre = .01, .3, 77
    m.roi_head.bbox_head.coder.stds, m.preprocess.pad_divisor, m.roi_head.mask_head.threshold = (.2,.2,.2,.2), 8, .4
    m.preprocess.mean.fill_(100.)
    path = save_detector(tmp_path/'x.safetensors', m, tuple('abcd'))
    with contextlib.redirect_stdout(io.StringIO()): loaded = [read_detector(path)[0], load_detector(path)]
    for again in loaded:
        for a, b in zip(m.predict([image]), again.predict([image])):
            for k in a: assert torch.equal(a[k], b[k]), k

FOLDERS = sorted(p for p in (Path(__file__).parent/'golden').glob('files_*'))
sys.path.insert(0, str(Path(__file__).parent/'golden'))
from store_files import measure

def test_each_format_of_files_is_stored():
    "A description's format changes with the version: whoever raises it stores files (tests/golden/store_files.py)."
    formats = {json.loads(safe_open(f, 'pt').metadata()['detbook'])['model'].get('_format', 1) for p in FOLDERS for f in p.glob('*.safetensors')}
    assert formats == set(range(1, _FORMAT + 1))

@pytest.mark.parametrize('path', [p for f in FOLDERS for p in sorted(f.glob('*.safetensors'))], ids=lambda p: f'{p.parent.name}-{p.stem}')
def test_files_of_every_version_give_what_they_gave(path):
    stored = np.load(path.with_suffix('.npz'))
    with contextlib.redirect_stdout(io.StringIO()): found = measure(path.stem, load_detector(path), losses=any(k.startswith('loss.') for k in stored.files))
    assert set(stored.files) == set(found)
    for k in stored.files:
        v, want = found[k], stored[k]
        if v.dtype == torch.bool: assert (v.numpy() != np.unpackbits(want)[:v.numel()].reshape(v.shape)).mean() < 1e-3, k; continue
        assert v.shape == want.shape, k
        np.testing.assert_allclose(v.numpy(), want, rtol=1e-3, atol=2e-3, err_msg=k)

def test_own_parts_are_used_in_training_and_prediction():
    image, target = scene(4, size=72)
    calls = []
    class Head(RoIHead):
        def boxes(self, *a, **k): calls.append('boxes'); return super().boxes(*a, **k)
    class Masks(MaskHead):
        def loss(self, *a, **k): calls.append('mask loss'); return super().loss(*a, **k)
        def predict(self, *a, **k): calls.append('mask predict'); return super().predict(*a, **k)
    class Points(KeypointHead):
        def loss(self, *a, **k): calls.append('point loss'); return super().loss(*a, **k)
        def predict(self, *a, **k): calls.append('point predict'); return super().predict(*a, **k)
    K = target['keypoints'].shape[1]
    two = dict(rpn_head=rpn())
    made = dict(faster=models.FasterRCNN(4, **trunk(), **two, roi_head=Head(box(), bbox_extractor=read())),
                mask=models.MaskRCNN(4, **trunk(), **two, roi_head=Head(box(), Masks(4, C, 1, C), read())),
                fast=models.FastRCNN(4, **trunk(), roi_head=Head(box(), Masks(4, C, 1, C), read())),
                points=models.KeypointRCNN(4, K, **trunk(), **two, roi_head=Head(box(), bbox_extractor=read(), keypoint_head=Points(K, C, 1, C))),
                cascade=models.CascadeRCNN(4, **trunk(), **two, roi_head=CascadeRoIHead(cascade_heads(4, C, 8), [Masks(4, C, 1, C) for _ in range(3)], read())))
    for name, m in made.items():
        m.eval()
        more = [[target['boxes']]] if name == 'fast' else []
        calls.clear(); m.loss([image], [target], *more); trained = set(calls)
        calls.clear(); m.predict([image], *more); predicted = set(calls)
        assert ('boxes' in trained) == ('boxes' in predicted) == (name != 'cascade')
        assert ('mask loss' in trained) == ('mask predict' in predicted) == (name in ('mask', 'fast', 'cascade'))
        assert ('point loss' in trained) == ('point predict' in predicted) == (name == 'points')

def test_a_swapped_part_leaves_the_other_settings():
    "The functions that make a detector's default parts give the same settings when one of their parts is exchanged; what is handed over is not written to."
    from detbook.cascade_rcnn import cascade_rpn_head
    from detbook.keypoint_rcnn import keypoint_roi_head, keypoint_rpn_head
    from detbook.rpn import lone_rpn_head
    def same(a, b, but=()):
        a, b = ({k: v for k,v in describe(x).items() if k not in but} for x in (a, b))
        assert a == b
    points = models.KeypointRCNN(backbone=ResNet(18))
    for default, make in ((models.RPN(**trunk(), rpn_head=lone_rpn_head(C, anchors=AnchorGenerator((4,8)))).rpn_head, lone_rpn_head),
                          (models.CascadeRCNN(backbone=ResNet(18)).rpn_head, cascade_rpn_head), (points.rpn_head, keypoint_rpn_head)):
        same(default, make(default.in_channels, feat_channels=24, anchors=default.anchors), ('feat_channels',))
    same(points.roi_head, keypoint_roi_head(bbox_head=BoxHead(1, num_fcs=1, loss_bbox=SmoothL1Loss(.5))), ('bbox_head',))
    same(models.MaskRCNN(backbone=ResNet(18)).roi_head, RoIHead(BoxHead(class_agnostic=True), MaskHead()), ('bbox_head',))
    head = RoIHead(box(), bbox_extractor=read())
    before = describe(head)
    m = models.KeypointRCNN(4, 5, **trunk(), rpn_head=rpn(), roi_head=head, keypoint_head=KeypointHead(5, C, 1, C))
    assert describe(head) == before and head.keypoint_head is None and m.roi_head.bbox_head is head.bbox_head

@pytest.mark.parametrize('make,words', [
    (lambda: models.FasterRCNN(4, backbone=ResNet(18), neck=FPN((256,512,1024,2048), C)), ('neck', '(256, 512, 1024, 2048)', '(64, 128, 256, 512)')),
    (lambda: models.FasterRCNN(4, **trunk(), rpn_head=RPNHead(C + 1, anchors=AnchorGenerator((4,8)))), ('rpn_head', '17', '16')),
    (lambda: models.FasterRCNN(4, **trunk(), rpn_head=RPNHead(C)), ('rpn_head.anchors', '5 strides', '2 levels')),
    (lambda: models.MaskRCNN(4, **trunk(), rpn_head=rpn(), roi_head=RoIHead(box(), MaskHead(4), read())), ('roi_head.mask_head', '256', '16')),
    (lambda: models.FasterRCNN(4, **trunk(), rpn_head=rpn(), roi_head=RoIHead(box())), ('roi_head.bbox_extractor', '4 strides', '2 levels')),
    (lambda: models.FasterRCNN(4, **trunk(), rpn_head=rpn(), roi_head=RoIHead(box(size=9), bbox_extractor=read())), ('size=9', '7 x 7')),
    (lambda: models.RetinaNet(4, **trunk(), bbox_head=RetinaHead(4)), ('bbox_head', '256', '16')),
    (lambda: models.RetinaNet(4, **trunk(), bbox_head=RetinaHead(4, C)), ('bbox_head.anchors', '5 strides', '2 levels')),
    (lambda: models.FCOS(4, **trunk(), bbox_head=FCOSHead(4, C)), ('bbox_head.points', '5 strides', '2 levels')),
    (lambda: models.FasterRCNN('4'), ("num_classes is '4'", 'whole number')), (lambda: models.FasterRCNN(4, neck='fpn'), ("neck is 'fpn'", 'Module')),
    (lambda: BoxHead(num_classes=0), ('num_classes is 0', '1 or more')), (lambda: BoxHead(in_channels=-256), ('in_channels is -256',)),
    (lambda: MaskHead(num_convs=1.5), ('num_convs is 1.5', 'whole number')), (lambda: RPNHead(256, sampler='random'), ("sampler is 'random'",)),
    (lambda: AnchorGenerator(strides=('4', '8')), ('strides', 'whole number')), (lambda: DetectionFilter(score_thr='0.5'), ("score_thr is '0.5'", 'a number')),
    (lambda: NMS(iou=50), ('iou is 50', '0 to 1')), (lambda: Preprocess(std=(0., 1., 1.)), ('std', 'more than 0')), (lambda: models.RPN(3), ('num_classes is 3',)),
    (lambda: models.FasterRCNN(4, mean=(0, 0, 0)), ("no argument 'mean'",))])
def test_parts_that_do_not_fit_are_named(make, words):
    with pytest.raises((ValueError, TypeError)) as e: make()
    assert all(w in str(e.value) for w in words) and '\n' not in str(e.value), str(e.value)

@pytest.mark.parametrize('change,word', [(lambda d: d['roi_head']['bbox_head'].update(fc_channels=10**9), 'asks for roi_head.bbox_head.shared_fcs'),
    (lambda d: d['neck'].update(num_outs=10**9), 'num_outs'), (lambda d: d['rpn_head']['anchors'].update(scales=[8.]*10**5), 'more than 2,000 values'),
    (lambda d: d['roi_head'].update(bbox_extractor=dict(type='os.system')), 'os.system'), (lambda d: d['backbone'].update(depth='18'), 'depth'),
    (lambda d: d.update(_format=99), 'format 99'), (lambda d: d['neck'].update(out_channels=10**9), 'torch cannot make'), (lambda d: d['neck'].update(out_channels=10**30), 'the number 1000'), (lambda d: d['neck'].update(out_channels=float('nan')), 'the number nan'),
    (lambda d: d['rpn_head']['anchors'].update(strides=[4]*10_000), '2,000 values'), (lambda d: d.update(_requires_grad=[1]), '_requires_grad'), (lambda d: d.update(neck=json.loads('['*900 + ']'*900)), 'nested more than 40'),
    (lambda d: d.update(neck=dict(type='detbook.data.CocoDataset')), 'no component')])
def test_hostile_descriptions_are_refused(tmp_path, change, word):
    from detbook.checkpoint import save_checkpoint
    m = SMALL['FasterRCNN']()
    d = json.loads(json.dumps(describe(m)))
    change(d)
    path = save_checkpoint(tmp_path/'x.safetensors', m, {'model': d, 'classes': list('abcd')})
    with pytest.raises(ValueError, match=word): read_detector(path)
    with pytest.raises(ValueError, match=word), contextlib.redirect_stdout(io.StringIO()): load_detector(path)

def test_hostile_notes_beside_a_description(tmp_path):
    from detbook.checkpoint import save_checkpoint
    m = SMALL['FasterRCNN']()
    notes = lambda **more: save_checkpoint(tmp_path/'x.safetensors', m, {'model': describe(m), 'classes': list('abcd')} | more)
    for classes in (3, {'a': 1}, [1, None], 'abcd'):
        with pytest.raises(ValueError, match=r'x\.safetensors: its classes are'): read_detector(notes(classes=classes))
        with contextlib.redirect_stdout(io.StringIO()): assert load_detector(notes(classes=classes)).classes == tuple(f'class {i}' for i in range(4))
    with pytest.warns(UserWarning, match=r'x\.safetensors.*20,000 pixels'), contextlib.redirect_stdout(io.StringIO()): assert load_detector(notes(preprocessing={'resize': [10**9, 10**9]})).test_scale is None
    with contextlib.redirect_stdout(io.StringIO()): assert load_detector(notes(meta='x', preprocessing=[1])).test_scale is None

def test_scores_from_which_detections_are_shown(tmp_path):
    from detbook.weights import detbook_convert, load_detector
    from detbook.models import faster_rcnn
    model, path = faster_rcnn(18, 2, channels=16, scratch=True), tmp_path/'a.safetensors'
    save_detector(path, model, ('cat', 'dog'))
    assert 'thresholds' not in read_checkpoint(path).metadata
    save_detector(path, model, ('cat', 'dog'), None, dict(cat=.25, dog=None))
    assert load_detector(path).notes['thresholds'] == dict(cat=.25, dog=None)
    detbook_convert(str(path), str(tmp_path/'b.safetensors'))
    assert load_detector(tmp_path/'b.safetensors').notes['thresholds'] == dict(cat=.25, dog=None)          # the same weights
    detbook_convert(str(path), str(tmp_path/'c.safetensors'), num_classes=3, classes=['x', 'y', 'z'])
    assert 'thresholds' not in load_detector(tmp_path/'c.safetensors').notes                                 # others
    for wrong, words in (dict(cats=.5), "'cats', which is none of the classes cat, dog; did you mean 'cat'"), (dict(cat=5), 'is 5; expected a score'), (dict(dog=float('nan')), 'is nan; expected a score'), (dict(dog=True), 'True'):
        with pytest.raises(ValueError, match=words): save_detector(path, model, ('cat', 'dog'), None, wrong)
    with pytest.raises(TypeError, match='expected a dict'): save_detector(path, model, ('cat', 'dog'), None, [.5, .5])
    assert load_detector(path).notes['thresholds'] == dict(cat=.25, dog=None)                                # nothing was written over
