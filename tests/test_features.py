"Features that are kept: losses from them are those of the pictures, stale ones are never read, and what cannot be kept is refused."
import contextlib, io, json, random, warnings
from pathlib import Path
import pytest, torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, Subset
from torchvision.transforms import v2
from detbook import features
from detbook.anchors import AnchorGenerator
from detbook.assign import RandomSampler
from detbook.backbone import ResNet
from detbook.batch import Preprocess
from detbook.cascade_rcnn import CascadeRCNN
from detbook.data import CocoDataset, collate
from detbook.describe import read_detector
from detbook.detector import Detector, prepare
from detbook.efficientnet import EfficientNetLite
from detbook.fast_rcnn import BoxHead, FastRCNN, RoIHead
from detbook.faster_rcnn import FasterRCNN
from detbook.fcos import FCOS
from detbook.features import FeatureSet, check_frozen
from detbook.keypoint_rcnn import KeypointHead, KeypointRCNN
from detbook.learner import detection_dls, detection_learner
from detbook.mask_rcnn import MaskRCNN
from detbook.masks import MaskHead
from detbook.neck import FPN
from detbook.pipeline import JoinedDataset, MixedDataset, build_dataset
from detbook.retinanet import RetinaNet
from detbook.rpn import RPN, ProposalFilter, RPNHead
from detbook.toy import write_coco
from detbook.training import detbook_train
from detbook.transforms import Augment, Crop, Flip, RandomResize, Resize, test_transforms as seen, train_transforms

pytestmark = pytest.mark.usefixtures('one_thread')

class Little(nn.Module):
    "A trunk that costs nothing: one convolution and its norm, whose statistics stand; coarser stages are means."
    out_channels = [8]*4
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 4, 3, bias=False), nn.BatchNorm2d(8)
        self.requires_grad_(False)
    def forward(self, x):
        x, b = self.conv1(x), self.bn1
        x = F.batch_norm(x, b.running_mean, b.running_var, b.weight, b.bias)
        return tuple(F.avg_pool2d(x, n, n) for n in (1, 2, 4, 8))

def trunk(kind, **how): return ResNet(18, frozen_stages=4, norm_eval=True, **how) if kind is ResNet else EfficientNetLite(frozen_stages=4, norm_eval=True, **how)

def detector(cls=FasterRCNN, backbone=None, channels=16, **how):
    "A narrow one; with `Detector` as its class it has no heads."
    torch.manual_seed(1)
    backbone = backbone or Little()
    if cls is FasterRCNN:
        few = ProposalFilter(50, 20)
        how |= dict(rpn_head=RPNHead(channels, anchors=AnchorGenerator(scales=(6,)), sampler=RandomSampler(32, .5), train_filter=few, test_filter=few),
                    roi_head=RoIHead(BoxHead(4, channels, fc_channels=16), sampler=RandomSampler(16, .25, add_truths=True)))
    model = cls(**({} if cls in (RPN, Detector) else dict(num_classes=4)), backbone=backbone, neck=FPN(backbone.out_channels, channels), **how).train()
    model.trained = True        # nobody is to hear that it begins at random
    return model

def bare(**how): return detector(Detector, **how)

@pytest.fixture(scope='module')
def coco(tmp_path_factory): return write_coco(tmp_path_factory.mktemp('toy')/'set', 4, size=64, crowd=0, empty=0)

@pytest.fixture
def ds(coco): return CocoDataset(coco, transforms=train_transforms(scale=(96, 96)))

def quiet(f, *args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()) as said: result = f(*args, **kwargs)
    return result, said.getvalue()

def kept(*args, **kwargs): return quiet(FeatureSet, *args, **kwargs)[0]

def losses(model, data, rows=(0, 1), seed=3):
    torch.manual_seed(seed)
    images, targets = collate([data[i] for i in rows])
    torch.manual_seed(seed)
    given = dict(proposals=[t['boxes'] + 2 for t in targets]) if isinstance(model, FastRCNN) else {}
    return model.loss(images, targets, **given)

def same(a, b, rtol=1e-4, atol=1e-5):
    assert a.keys() == b.keys()
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=rtol, atol=atol, msg=lambda m: f'{k}: {m}')

# ---------------------------------------------------------------- the same losses

HEADS = {KeypointRCNN: dict(keypoint_head=KeypointHead(17, 16, 1, 16)), MaskRCNN: dict(roi_head=RoIHead(BoxHead(4, 16, fc_channels=16), MaskHead(4, 16, num_convs=1, channels=16)))}

@pytest.mark.parametrize('cls', [FasterRCNN, MaskRCNN, CascadeRCNN, RetinaNet, FCOS, RPN, FastRCNN, KeypointRCNN])
def test_every_detector_reads_them(cls, coco, tmp_path):
    "The loss of kept features is that of the pictures, mirrored ones among them; the trunk is not asked."
    ds = CocoDataset(coco, transforms=train_transforms(scale=None, flip=0.))
    model = detector(cls, **HEADS.get(cls, {}))
    if cls is KeypointRCNN:
        own = ds.target
        ds.target = lambda i: {**own(i), 'keypoints': torch.cat([own(i)['boxes'].as_subclass(torch.Tensor)[:, None, :2].expand(-1, 17, -1) + 3, torch.full((len(own(i)['boxes']), 17, 1), 2.)], 2)}
    fs, want = kept(ds, model, tmp_path, 'float32'), losses(model, ds)
    model.backbone.register_forward_hook(lambda *_: pytest.fail('the trunk was asked'))
    same(losses(model, fs), want)

@pytest.mark.parametrize('kind', [ResNet, EfficientNetLite])
def test_mirrored_and_resized_ones_too(kind, ds, tmp_path):
    model = detector(backbone=trunk(kind))
    full, half = kept(ds, model, tmp_path, 'float32'), kept(ds, model, tmp_path)
    assert len(list(tmp_path.rglob('*.safetensors'))) == 4*2*2
    turned = set()
    for seed in range(4):
        want = losses(model, ds, seed=seed)
        same(losses(model, full, seed=seed), want)
        same(losses(model, half, seed=seed), want, rtol=.02, atol=2e-3)
        torch.manual_seed(seed)
        turned |= {t.get('flipped', False) for _, t in (full[i] for i in (0, 1))}
    assert turned == {False, True}

def test_gradients_reach_the_neck_and_the_heads(ds, tmp_path):
    model = detector()
    fs = kept(ds, model, tmp_path, 'float32')
    grads = []
    for data in (ds, fs):
        model.zero_grad()
        sum(losses(model, data).values()).backward()
        grads.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and not any(k.startswith('backbone') for k in grads[0])
    for k in grads[0]: torch.testing.assert_close(grads[1][k], grads[0][k], rtol=1e-3, atol=1e-5)

def test_pictures_of_several_sizes_in_one_batch(tmp_path):
    "What lies beyond a smaller picture is zero in its features; every tensor has the shape that it has in a batch of pixels."
    sets = [CocoDataset(write_coco(tmp_path/str(size), 1, size=size, crowd=0, empty=0), transforms=train_transforms(scale=None, flip=0.)) for size in (64, (80, 120))]
    for how in ({}, dict(preprocess=Preprocess(train_size=(160, 160)))):
        model, found = detector(**how), []
        joined = JoinedDataset(sets)
        for data in (joined, kept(joined, model, tmp_path/'kept', 'float32')):
            images, targets = collate([data[0], data[1]])
            batch, _ = prepare(model, images, targets)
            found.append((batch.sizes, batch.pad_sizes, model.stages(batch)))
        assert found[0][:2] == found[1][:2]
        for a, b in zip(found[0][2], found[1][2], strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(b[1], a[1], rtol=1e-4, atol=1e-5)          # the larger one has the frame that it has alone
        if not how: assert bool((found[1][2][0][0, :, 16:] == 0).all())

def test_a_batch_has_them_all_or_none(ds, tmp_path):
    model = detector()
    fs = kept(ds, model, tmp_path)
    images, targets = collate([fs[0], ds[1]])
    with pytest.raises(ValueError, match=r"targets\[1\] has no 'stages', and others of the batch have"): model.loss(images, targets)

# ---------------------------------------------------------------- never stale

@pytest.fixture
def looks(monkeypatch):
    "Counts how often a trunk is asked."
    n, plain = [], features._look
    monkeypatch.setattr(features, '_look', lambda *a: n.append(1) or plain(*a))
    return n

def test_nothing_is_computed_twice(ds, tmp_path, looks):
    a, said = quiet(FeatureSet, ds, bare(), tmp_path)
    assert len(looks) == 8 and '8 of 8 files were computed now' in said and str(tmp_path) in said
    _, said = quiet(FeatureSet, ds, bare(), tmp_path)
    assert len(looks) == 8 and 'all are there' in said
    size = sum(p.stat().st_size for p in tmp_path.rglob('*.safetensors'))
    assert f'{size/1e3:.0f} kB' in said
    kept(ds.subset([2, 0]), bare(), tmp_path)
    kept(CocoDataset(ds.to_coco(), ds.folder, transforms=train_transforms(scale=(96, 96), flip=0.)), bare(), tmp_path)
    assert len(looks) == 8
    a._file(1, True).unlink()
    kept(ds, bare(), tmp_path)
    assert len(looks) == 9

CHANGES = dict(weight=lambda m, ds: m.backbone.conv1.weight.data[0, 0, 0, 0].add_(1e-3), statistic=lambda m, ds: m.backbone.bn1.running_mean.add_(1e-3),
               colours=lambda m, ds: m.preprocess.mean.add_(1.), padding=lambda m, ds: setattr(m.preprocess, 'pad_divisor', 64), bgr=lambda m, ds: setattr(m.preprocess, 'bgr', True),
               size=lambda m, ds: setattr(ds, 'transforms', train_transforms(scale=(96, 80))), antialias=lambda m, ds: setattr(ds, 'transforms', Augment([Resize((96, 96), antialias=False), Flip()])))

@pytest.mark.parametrize('change', CHANGES)
def test_whatever_matters_makes_other_features(change, ds, tmp_path, looks):
    model = bare()
    first = kept(ds, model, tmp_path)
    CHANGES[change](model, ds)
    second = kept(ds, model, tmp_path)
    assert len(looks) == 16 and not set(first.keys) & set(second.keys)
    if change not in ('size', 'antialias'):
        with pytest.raises(ValueError, match='is no longer the one that these features are of'): first.still_fits(model)
    second.still_fits(model)

def test_a_setting_without_weights_matters(ds, tmp_path, looks):
    for on in (False, True): kept(ds, bare(backbone=trunk(EfficientNetLite, normalize_outputs=on)), tmp_path)
    assert len(looks) == 16

def test_another_picture_of_the_same_name(tmp_path, looks):
    from PIL import Image
    ds = CocoDataset(write_coco(tmp_path/'set', 2, size=64, crowd=0, empty=0), transforms=train_transforms(scale=None))
    kept(ds, bare(), tmp_path/'kept')
    image = Image.open(ds.path(0)).copy()
    image.putpixel((3, 3), (255, 0, 0))
    image.save(ds.path(0))
    kept(ds, bare(), tmp_path/'kept')
    assert len(looks) == 4 + 2

def test_a_damaged_file_is_named(ds, tmp_path):
    fs = kept(ds, bare(), tmp_path)
    path = fs._file(0, False)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match='cannot be read.*delete it') as e: fs.stages(0)
    assert str(path) in str(e.value) and ds.path(0).name in str(e.value)

def test_nothing_half_written(ds, tmp_path, monkeypatch):
    def fails(tensors, path):
        Path(path).write_bytes(b'half')
        raise OSError('no space left')
    monkeypatch.setattr(features.safetensors.torch, 'save_file', fails)
    with pytest.raises(OSError): kept(ds, bare(), tmp_path)
    assert not [p for p in tmp_path.rglob('*') if p.is_file()]

def test_a_disk_without_room(ds, tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, 'disk_usage', lambda p: type('Usage', (), dict(free=3*10**4)))
    with pytest.raises(OSError, match=r'features of 7 more pictures would take about \d+ kB in .*, and 30 kB are free'): kept(ds, bare(), tmp_path)

def test_numbers_too_large_for_float16(ds, tmp_path):
    model = bare()
    model.backbone.bn1.weight.data.mul_(1e8)
    with pytest.raises(ValueError, match="not finite in float16: dtype='float32'"): kept(ds, model, tmp_path)
    kept(ds, model, tmp_path, 'float32')

def test_the_trunk_is_left_as_it_was(ds, tmp_path):
    model = bare()
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    kept(ds, model, tmp_path)
    assert [m.training for m in model.modules()] == modes
    for k, v in model.state_dict().items(): assert torch.equal(v, before[k])

def test_the_default_folder(ds, tmp_path, monkeypatch):
    monkeypatch.setenv('DETBOOK_HOME', str(tmp_path/'home'))
    assert kept(ds, bare()).folder == tmp_path/'home'/'features'

# ---------------------------------------------------------------- refused

def test_a_trunk_that_learns():
    for backbone, how in ((ResNet(18), 'frozen_stages=4'), (EfficientNetLite(frozen_stages=2, norm_eval=True), 'frozen_stages=4')):
        with pytest.raises(ValueError, match=f'tensors of {type(backbone).__name__} learn, such as .*{how}'): check_frozen(bare(backbone=backbone))
    model = bare()
    check_frozen(model)
    model.backbone.bn1.requires_grad_(True)
    with pytest.raises(ValueError, match=r'2 tensors of Little learn, such as bn1.weight: call model.backbone.requires_grad_\(False\)'): check_frozen(model)
    with pytest.raises(TypeError, match='Linear has no backbone'): check_frozen(nn.Linear(1, 1))

REFUSED = dict(jitter=(train_transforms(scale=(96, 96), jitter=(.8, 1.2)), 'a Resize that draws its sizes'), crop=(Augment([Crop((32, 32))]), 'a Crop'),
               sizes=(Augment([RandomResize([(64, 64), (96, 96)])]), 'a RandomResize that draws its sizes'), upside_down=(Augment([Flip(direction=['horizontal', 'vertical'])]), 'a Flip that also mirrors upside down'),
               colours=(train_transforms(scale=None, extra=[v2.RandomPhotometricDistort()]), 'a RandomPhotometricDistort'), own=(lambda image, target: (image, target), 'the transforms are a function'))

@pytest.mark.parametrize('what', REFUSED)
def test_other_changes_are_refused(what, coco, tmp_path):
    transforms, said = REFUSED[what]
    with pytest.raises(ValueError, match=said): FeatureSet(CocoDataset(coco, transforms=transforms), bare(), tmp_path/'kept')
    assert not (tmp_path/'kept').exists()

def test_what_is_no_set_of_pictures(ds, tmp_path):
    for wrong in (MixedDataset(ds, [Flip()]), torch.utils.data.TensorDataset(torch.zeros(2))):
        with pytest.raises(TypeError, match=f'a {type(wrong).__name__} makes new pictures'): FeatureSet(wrong, bare(), tmp_path)

# ---------------------------------------------------------------- the Learner

def test_the_learner_learns_from_them(ds, coco, tmp_path):
    "The same losses, step by step, with the trunk asked for the validation set alone; measuring on the training set looks at pictures."
    valid, terms = CocoDataset(coco, transforms=seen(scale=(96, 96))), []
    for how in (False, True):
        model = detector()
        asked = []
        model.backbone.register_forward_hook(lambda m, x, y: asked.append(model.training))
        dls = detection_dls(Subset(ConcatDataset([ds, ds]), [0, 5, 2, 3]), valid, bs=2)
        learn = detection_learner(dls, model, metrics=('bbox',))
        if how: assert quiet(learn.cache_features, tmp_path/'kept')[0] is learn
        asked.clear()
        torch.manual_seed(5); random.seed(5); dls.train.rng.seed(5); learn.dls.train.rng.seed(5)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
        terms.append(learn.detection_step.terms)
        assert asked.count(True) == (0 if how else 4) and asked.count(False) == 8       # two batches of the validation set, for their loss and their detections
        before = learn.detection_step.found
        with learn.no_bar(), learn.no_logging(): learn.validate(ds_idx=0)
        assert asked.count(False) == 12
        preds, truths = learn.get_preds(ds_idx=0)
        assert len(preds) == len(truths) == 4 and before is not learn.detection_step.found
        if how:
            with pytest.raises(ValueError, match='have no pixels to show'): learn.dls.show_batch()
            learn.model.backbone.conv1.weight.data.add_(1.)
            with pytest.raises(ValueError, match='is no longer the one'), learn.no_bar(): learn.fit(1)
    for k in terms[0]: torch.testing.assert_close(torch.tensor(terms[1][k]), torch.tensor(terms[0][k]), rtol=.05, atol=.01)
    model.backbone.requires_grad_(True)
    with pytest.raises(ValueError, match='tensors of Little learn'): learn.cache_features(tmp_path)

def test_ids_of_joined_sets_and_workers(ds, tmp_path):
    dls = detection_dls(Subset(ConcatDataset([ds, ds]), [0, 4, 2, 7]), ds.subset([1]), bs=2, num_workers=1)
    learn = quiet(detection_learner(dls, detector()).cache_features, str(tmp_path))[0]
    ids = [t['image_id'] for _, targets in learn.dls.train for t in targets]
    assert sorted(ids) == sorted(dls.train_ds.image_ids) == [1, 2, 3, 4]

# ---------------------------------------------------------------- the command

def test_a_configs_data_set(ds, coco, tmp_path):
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='Resize', scale=(96, 96), keep_ratio=True), dict(type='RandomFlip', prob=.5), dict(type='PackDetInputs')]
    made, model = build_dataset(dict(type='CocoDataset', ann_file=str(coco), data_prefix=dict(img=str(ds.folder)), pipeline=steps)), detector()
    same(losses(model, kept(made, model, tmp_path, 'float32')), losses(model, made))

@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv('DETBOOK_HOME', str(tmp_path/'home'))
    write_coco(tmp_path/'data'/'train', 6, size=64, crowd=0, empty=0); write_coco(tmp_path/'data'/'val', 2, seed=1, size=64, crowd=0, empty=0)
    return tmp_path/'data'

def go(tmp_path, data, **how):
    with contextlib.redirect_stdout(io.StringIO()) as said, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        run = detbook_train(data=str(data/'train'), val=str(data/'val'), size=64, batch_size=3, work_dir=str(tmp_path/'run'), **how)
    return run, said.getvalue()

def test_the_small_detector_from_kept_features(tmp_path, pictures):
    "A rehearsal keeps nothing; a run does, and goes on as if it had not been stopped; the next one computes nothing."
    _, said = go(tmp_path, pictures, model='small', epochs=1, cache_features=True, dry_run=True)
    assert 'a rehearsal keeps no features' in said and not (tmp_path/'home'/'features').exists()
    run, said = go(tmp_path, pictures, model='small', epochs=2, cache_features=True, keep_state=True)
    assert '12 of 12 files were computed now' in said
    model = read_detector(run.detector)[0]
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert json.loads((tmp_path/'run'/'run.json').read_text())['calls'][-1]['arguments']['cache_features'] == 'True'
    _, said = go(tmp_path, pictures, model='small', epochs=3, cache_features=True, resume=True)
    assert 'all are there' in said and 'going on after step 4 of 6' in said

@pytest.mark.slow
def test_two_processes_share_what_one_has_kept(tmp_path, pictures):
    "Rank 0 computes the features, both learn from them, and a run of one process finds them all."
    run, _ = go(tmp_path, pictures, model='small', epochs=1, cache_features=True, gpus=2)
    files = sorted((tmp_path/'home'/'features').rglob('*.safetensors'))
    when = [f.stat().st_mtime_ns for f in files]
    assert len(files) == 12 and run.card['world_size'] == 2 and run.card['step'] == 1
    _, said = go(tmp_path/'alone', pictures, model='small', epochs=1, cache_features=True)
    assert 'all are there' in said and [f.stat().st_mtime_ns for f in files] == when

def test_a_config_whose_trunk_learns_is_told_what_to_set(tmp_path, pictures):
    with pytest.raises(ValueError, match='model.backbone.frozen_stages=4'): go(tmp_path, pictures, config='faster-rcnn_r50_fpn_1x_coco', set=['model.backbone.init_cfg=None', 'model.backbone.frozen_stages=1'], epochs=1, cache_features=str(tmp_path/'kept'))
    assert not (tmp_path/'kept').exists()

def test_the_small_detector_needs_a_trunk_that_has_learnt(tmp_path, pictures, monkeypatch):
    from detbook import adapt
    monkeypatch.setattr(adapt, 'find_url', lambda name: (_ for _ in ()).throw(FileNotFoundError(name)))
    with pytest.raises(ValueError, match=r'begins at random here: pip install .detbook\[lite\]'): go(tmp_path, pictures, model='small', epochs=1, cache_features=True)
