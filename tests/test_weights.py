"Weights of every format that is about, made here from random numbers; files that are not what they seem; names, addresses and the way back."
import csv, gzip, hashlib, json, os, pickle, re, subprocess, sys, types
from pathlib import Path
import numpy as np, pytest, torch, torchvision
from torch import nn
from test_checkpoint import Call, one_sentence, serving
import detbook.checkpoint as checkpoint, detbook.reading as reading, detbook.download as download
from detbook.cli import run_command
from detbook.config import Config, build_detector
from detbook.backbone import ResNet
from detbook.reading import read_checkpoint
from detbook.checkpoint import load_checkpoint, save_checkpoint
from detbook.describe import describe, save_detector
from detbook.describe import read_detector, rebuild
from detbook.detector import load_backbone
from detbook.fast_rcnn import BoxHead, RoIHead
from detbook.faster_rcnn import FasterRCNN
from detbook.masks import MaskHead
from detbook.mask_rcnn import MaskRCNN
from detbook.neck import FPN
from detbook.rpn import RPN, RPNHead
from detbook.names import from_detectron, from_detectron2, weights_kind
from detbook.zoo import BACKBONES, DETECTRON2, TORCHVISION, ZOO, find_url
from detbook.weights import COCO, TimmBackbone, build_arch, detbook_convert, load_detector, save_mmdetection

golden = Path(__file__).parent/'golden'
D2 = json.loads(gzip.decompress((golden/'detectron2'/'states.json.gz').read_bytes()))['models']

def random_state(shapes, seed=0):
    r = torch.Generator().manual_seed(seed)
    count = lambda k: k.endswith('num_batches_tracked')
    return {k: torch.tensor(0) if count(k) else torch.randn(shape, generator=r) for k,shape in shapes.items() if not k.startswith('pixel') and 'cell_anchors' not in k}

def equal(a, b):
    assert a.keys() == b.keys(), (sorted(a.keys() ^ b.keys())[:6])
    for k in a: assert torch.equal(a[k], b[k]), k

@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv('no_proxy', '127.0.0.1'); monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv('DETBOOK_HOME', str(tmp_path/'home'))

def small(num_classes=3, masks=True):
    "A Mask R-CNN that is quickly built and written."
    backbone = ResNet(18, frozen_stages=1, norm_eval=True)
    roi_head = RoIHead(BoxHead(num_classes, 32, fc_channels=64), MaskHead(num_classes, 32, channels=32) if masks else None)
    return (MaskRCNN if masks else FasterRCNN)(num_classes, backbone=backbone, neck=FPN(backbone.out_channels, 32), rpn_head=RPNHead(32), roi_head=roi_head)

# ---------------------------------------------------------------- mmdetection 2.x and 3.x

def v2_meta(classes): return dict(env_info='Python 3.7', config='model = dict()', seed=0, epoch=12, iter=87960, mmcv_version='1.3', CLASSES=classes, hook_msgs={}, time='now')

def test_mmdetection_2(tmp_path):
    source = small()
    state = {f'module.{k}': v for k,v in source.state_dict().items()}
    torch.save(dict(meta=v2_meta(('a', 'b', 'c')), state_dict=state, optimizer=torch.optim.SGD(source.parameters(), .02).state_dict()), tmp_path/'v2.pth')
    model = small()
    report = load_checkpoint(model, tmp_path/'v2.pth')
    assert report.counts == dict(loaded=len(state), reinitialised=0, missing=0, unexpected=0)
    equal(model.state_dict(), source.state_dict())
    assert read_checkpoint(tmp_path/'v2.pth').metadata['meta']['CLASSES'] == ['a', 'b', 'c']

def test_running_averages_of_mmdetection_2(tmp_path):
    "ExpMomentumEMAHook keeps a flat copy of every tensor in the state; the weights proper are the averages when a file is written."
    source = small()
    state = source.state_dict()
    flat = {'ema_' + k.replace('.', '_'): v + 1 for k,v in state.items()}
    torch.save(dict(meta={}, state_dict={**state, **flat}), tmp_path/'ema.pth')
    model = small()
    assert load_checkpoint(model, tmp_path/'ema.pth').unexpected == []
    equal(model.state_dict(), state)

@pytest.mark.parametrize('wrapper', ['ema_state_dict', 'model_ema'])
def test_averages_beside_and_alone(tmp_path, wrapper):
    source, other = small(), small()
    average = {f'module.{k}': v for k,v in other.state_dict().items()} | {'n_averaged': torch.tensor(3)}
    torch.save({'state_dict': source.state_dict(), wrapper: average}, tmp_path/'both.pth')
    torch.save({wrapper: average, 'epoch': 3}, tmp_path/'alone.pth')
    for name,wanted in (('both', source), ('alone', other)):
        model = small()
        load_checkpoint(model, tmp_path/f'{name}.pth')
        equal(model.state_dict(), wanted.state_dict())

def test_rpn_names(tmp_path):
    "An RPN calls its head bbox_head; a two-stage detector has it as rpn_head; either file loads into either."
    rpn = RPN(backbone=ResNet(18), neck=FPN((64,128,256,512)))
    torch.save({'state_dict': {k.replace('bbox_head', 'rpn_head'): v for k,v in rpn.state_dict().items()}}, tmp_path/'rpn_head.pth')
    torch.save({'state_dict': rpn.state_dict()}, tmp_path/'bbox_head.pth')
    for name in ('rpn_head', 'bbox_head'):
        twin = RPN(backbone=ResNet(18), neck=FPN((64,128,256,512)))
        assert load_checkpoint(twin, tmp_path/f'{name}.pth').counts == dict(loaded=len(rpn.state_dict()), reinitialised=0, missing=0, unexpected=0)
        equal(twin.state_dict(), rpn.state_dict())
        two = FasterRCNN(backbone=ResNet(18), neck=FPN((64,128,256,512)))
        report = load_checkpoint(two, tmp_path/f'{name}.pth', strict=False)
        assert report.unexpected == [] and {k.split('.')[0] for k in report.missing} == {'roi_head'}
        assert torch.equal(two.rpn_head.rpn_conv.weight, rpn.bbox_head.rpn_conv.weight)

def test_old_names_of_fcos():
    own = {f'bbox_head.conv_{x}.bias': 0 for x in ('cls', 'reg', 'centerness')}
    assert checkpoint._renamed({f'bbox_head.fcos_{x}.bias': 1 for x in ('cls', 'reg', 'centerness')}, own).keys() == own.keys()

class Mmengine:
    "mmengine's classes as far as they get into files; in force within a `with`, gone after it."
    def __enter__(self):
        names = 'mmengine', 'mmengine.logging', 'mmengine.logging.history_buffer', 'mmengine.config', 'mmengine.config.config'
        self.modules = {n: types.ModuleType(n) for n in names}
        class HistoryBuffer:
            def __init__(self, values):
                self.max_length, self._log_history, self._count_history = 1000000, np.array(values), np.ones(len(values), np.int64)
                self._statistics_methods = {n: getattr(HistoryBuffer, n) for n in ('min', 'max', 'current', 'mean')}
            @classmethod
            def min(cls): pass
            max = current = mean = min
        class ConfigDict(dict):
            def __reduce_ex__(self, protocol): return ConfigDict, (dict(self),)
        for cls,where in ((HistoryBuffer, 'mmengine.logging.history_buffer'), (ConfigDict, 'mmengine.config.config')):
            cls.__module__, cls.__qualname__ = where, cls.__name__
            setattr(self.modules[where], cls.__name__, cls)
        for name in ('max', 'current', 'mean'): setattr(HistoryBuffer, name, classmethod(types.FunctionType(HistoryBuffer.min.__func__.__code__, {}, name)))
        for name in ('min', 'max', 'current', 'mean'):
            f = getattr(HistoryBuffer, name).__func__
            f.__name__, f.__qualname__ = name, f'HistoryBuffer.{name}'
        self.HistoryBuffer, self.ConfigDict = HistoryBuffer, ConfigDict
        sys.modules.update(self.modules)
        return self
    def __exit__(self, *_):
        for n in self.modules: del sys.modules[n]

def v3(mm, state, **more):
    hub = dict(log_scalars={'train/loss': mm.HistoryBuffer([1.5, 1.25]), 'train/lr': mm.HistoryBuffer([.02])}, runtime_info={'epoch': 12, 'x': np.float64(3.)}, resumed_keys={})
    meta = dict(dataset_meta=mm.ConfigDict(classes=('a', 'b', 'c'), palette=[(1,2,3)]*3), cfg='model = dict()', seed=np.int64(7), epoch=12, iter=1, mmengine_version='0.10.7')
    return dict(meta=meta, state_dict=state, message_hub=hub, param_schedulers=[dict(last_step=1, _global_step=np.int64(3))], optimizer={}, **more)

def test_mmdetection_3(tmp_path):
    source = small()
    with Mmengine() as mm: torch.save(v3(mm, source.state_dict()), tmp_path/'v3.pth')
    assert not any('mmengine' in m for m in sys.modules)
    with pytest.raises(pickle.UnpicklingError): torch.load(tmp_path/'v3.pth', weights_only=True)         # as it is, torch refuses it
    model = small()
    assert load_checkpoint(model, tmp_path/'v3.pth').counts == dict(loaded=len(source.state_dict()), reinitialised=0, missing=0, unexpected=0)
    equal(model.state_dict(), source.state_dict())
    meta = read_checkpoint(tmp_path/'v3.pth').metadata['meta']
    assert meta['dataset_meta'] == {'classes': ['a', 'b', 'c'], 'palette': [[1,2,3]]*3} and meta['epoch'] == 12
    assert not any('mmengine' in m for m in sys.modules)

def test_stand_ins_are_inert(tmp_path):
    "What the stand-ins let through runs nothing, and nothing gets through beside them."
    marker, net = tmp_path/'sprung', small()
    class Setstate:
        def __init__(self, state): self.state = state
        def __reduce__(self): return mm.HistoryBuffer.__new__, (mm.HistoryBuffer,), self.state
    with Mmengine() as mm:
        traps = {'method': Call(getattr, mm.HistoryBuffer, '__init__'), 'getattr': Call(getattr, 'text', 'join'), 'mkdir': Call(os.mkdir, str(marker)),
                 'eval': mm.ConfigDict(x=Call(eval, f'__import__("os").mkdir({str(marker)!r})')), 'in a curve': mm.HistoryBuffer([1.])}
        traps['in a curve']._log_history = Call(os.mkdir, str(marker))
        for i,(name,trap) in enumerate(traps.items()): torch.save(v3(mm, net.state_dict(), trap=trap), tmp_path/f'trap{i}.pth')
        for i,(name,trap) in enumerate(traps.items()): torch.save(v3(mm, net.state_dict(), trap=trap), tmp_path/f'old_trap{i}.pth', _use_new_zipfile_serialization=False)
    files = sorted(tmp_path.glob('*trap*.pth'))
    assert len(files) == 10
    for path in files:
        for f in (read_checkpoint, lambda p: load_checkpoint(net, p), load_detector, lambda p: detbook_convert(p, tmp_path/'out.pth')):
            with pytest.raises(ValueError) as error: f(path)
            one_sentence(error, path.name, 'refused')
        assert not marker.exists()

def test_curves_hold_nothing():
    assert vars(reading._Curve()) == {} and reading._method(reading._Curve, 'min') is None
    for owner,name in ((reading._Curve, '__class__'), (reading._Node, 'min'), (str, 'join'), (torch, 'load')):
        with pytest.raises(pickle.UnpicklingError): reading._method(owner, name)

# ---------------------------------------------------------------- Detectron2 and Detectron

def caffe2_name(k, levels):
    "The blob that Detectron would have under a key of Detectron2's; written down from its side."
    leaf = {'weight': 'w', 'bias': 'b'}
    last = {2: 2, 3: 3, 4: 5, 5: 2}                                       # of each stage of an R-50
    if m := re.match(r'(?:backbone\.(?:bottom_up\.)?|roi_heads\.)(res\d)\.(\d+)\.(conv\d|shortcut)\.(?:(norm)\.)?(\w+)$', k):
        branch = {'conv1': '2a', 'conv2': '2b', 'conv3': '2c', 'shortcut': '1'}[m[3]]
        end = {'weight': 'bn_s', 'bias': 'bn_b', 'running_mean': 'bn_rm', 'running_var': 'bn_riv'}[m[5]] if m[4] else 'w'
        return f'{m[1]}_{m[2]}_branch{branch}_{end}'
    if m := re.match(r'backbone\.(?:bottom_up\.)?stem\.conv1\.(?:(norm)\.)?(\w+)$', k):
        return 'res_conv1_' + {'weight': 'bn_s', 'bias': 'bn_b', 'running_mean': 'bn_rm', 'running_var': 'bn_riv'}[m[2]] if m[1] else 'conv1_w'
    stem, _, end = k.rpartition('.')
    end = leaf[end]
    if m := re.match(r'backbone\.fpn_lateral(\d)', stem):
        n = int(m[1])
        return f'fpn_inner_res{n}_{last[n]}_sum{"" if n == 5 else "_lateral"}_{end}'
    if m := re.match(r'backbone\.fpn_output(\d)', stem): return f'fpn_res{m[1]}_{last[int(m[1])]}_sum_{end}'
    if m := re.match(r'backbone\.top_block\.p(\d)', stem): return f'fpn_{m[1]}_{end}'
    fpn = '_fpn2' if levels else ''
    flat = {'proposal_generator.rpn_head.conv': f'conv_rpn{fpn}', 'proposal_generator.rpn_head.objectness_logits': f'rpn_cls_logits{fpn}',
            'proposal_generator.rpn_head.anchor_deltas': f'rpn_bbox_pred{fpn}', 'roi_heads.box_head.fc1': 'fc6', 'roi_heads.box_head.fc2': 'fc7',
            'roi_heads.box_predictor.cls_score': 'cls_score', 'roi_heads.box_predictor.bbox_pred': 'bbox_pred', 'roi_heads.mask_head.deconv': 'conv5_mask',
            'roi_heads.mask_head.predictor': 'mask_fcn_logits', 'roi_heads.keypoint_head.score_lowres': 'kps_score_lowres',
            'head.cls_score': 'retnet_cls_pred_fpn3', 'head.bbox_pred': 'retnet_bbox_pred_fpn3'}
    if stem in flat: return f'{flat[stem]}_{end}'
    if m := re.match(r'roi_heads\.mask_head\.mask_fcn(\d)', stem): return f'_[mask]_fcn{m[1]}_{end}'
    if m := re.match(r'roi_heads\.keypoint_head\.conv_fcn(\d)', stem): return f'conv_fcn{m[1]}_{end}'
    if m := re.match(r'head\.(cls|bbox)_subnet\.(\d)', stem): return f'retnet_{m[1]}_conv_n{int(m[2])//2}_fpn3_{end}'
    raise KeyError(k)

def caffe2_blobs(state):
    "A Detectron2 state as Detectron would have written it: flat names, background first."
    blobs, levels = {}, any('fpn_' in k for k in state)
    for k,v in state.items():
        name = caffe2_name(k, levels)
        if name.startswith('cls_score'): v = torch.cat([v[-1:], v[:-1]])
        if name.startswith('bbox_pred'): v = torch.cat([torch.full_like(v[:4], 9.), v])
        if name.startswith('mask_fcn_logits'): v = torch.cat([torch.full_like(v[:1], 9.), v])
        blobs[name] = v
        blobs[name + '_momentum'] = torch.zeros(1)
    assert len(blobs) == 2*len(state)
    return blobs | {'lr': torch.tensor([.02]), 'kps_score_w': torch.ones(1), 'kps_score_b': torch.ones(1)}

R50 = [n for n in D2 if 'R_50' in n and 'DC5' not in n and 'cascade' not in n]

@pytest.mark.parametrize('name', R50)
def test_caffe2_blobs_mean_what_detectron2_says(name):
    state = random_state(D2[name]['keys'])
    blobs = caffe2_blobs(state)
    assert (weights_kind(blobs), weights_kind(state)) == ('detectron', 'detectron2')
    wanted = from_detectron2(state)
    if '_C4_' in name:      # Detectron's own anchors of a cell run over shapes first, as ours do
        for k in list(wanted):
            if k.startswith('rpn_head.rpn_cls') or k.startswith('rpn_head.rpn_reg'): wanted[k] = state[f'proposal_generator.rpn_head.{"objectness_logits" if "cls" in k else "anchor_deltas"}.{k.rpartition(".")[2]}']
    equal(from_detectron(blobs), wanted)

@pytest.fixture(scope='module')
def rpn_files(tmp_path_factory):
    "One RPN in the four files that Detectron and Detectron2 would write."
    folder = tmp_path_factory.mktemp('rpn')
    state = random_state(D2['COCO-Detection/rpn_R_50_FPN_1x.yaml']['keys'])
    arrays = {k: v.numpy() for k,v in state.items()}
    torch.save({'model': state, 'iteration': 9, 'optimizer': {}, 'scheduler': {}}, folder/'model_final.pth')
    (folder/'model_final.pkl').write_bytes(pickle.dumps({'model': arrays, '__author__': 'Detectron2 Model Zoo'}))
    blobs = {k: v.numpy() for k,v in caffe2_blobs(state).items()}
    (folder/'caffe2.pkl').write_bytes(pickle.dumps({'blobs': blobs, 'cfg': 'MODEL: {}'}, protocol=2))
    (folder/'renamed.safetensors').write_bytes((folder/'caffe2.pkl').read_bytes())
    return state, folder

@pytest.mark.parametrize('name', ['model_final.pth', 'model_final.pkl', 'caffe2.pkl', 'renamed.safetensors'])
def test_files_of_detectron(rpn_files, name):
    state, folder = rpn_files
    model = load_detector(folder/name, arch='COCO-Detection/rpn_R_50_FPN_1x')
    own = {k: v for k,v in model.state_dict().items() if 'num_batches' not in k}
    equal(own, {k.replace('rpn_head', 'bbox_head'): v for k,v in from_detectron2(state).items()})
    assert model.preprocess.bgr and not model.training

def test_plain_load_checkpoint_translates(rpn_files):
    state, folder = rpn_files
    model = RPN()
    assert load_checkpoint(model, folder/'model_final.pkl').missing == []
    assert torch.equal(model.backbone.layer1[0].conv1.weight, state['backbone.bottom_up.res2.0.conv1.weight'])
    trunk = ResNet(50, 'caffe')
    load_backbone(trunk, folder/'caffe2.pkl')
    assert torch.equal(trunk.layer4[2].conv3.weight, state['backbone.bottom_up.res5.2.conv3.weight'])

def test_norms_that_only_scale(tmp_path):
    "Detectron's ImageNet trunk: no statistics, a bias at the stem, a classifier; loads into a caffe trunk, whose norms then scale and shift exactly."
    state = {k.removeprefix('backbone.bottom_up.'): v for k,v in random_state(D2['COCO-Detection/rpn_R_50_FPN_1x.yaml']['keys']).items() if 'bottom_up' in k}
    blobs = {caffe2_name('backbone.bottom_up.' + k, True): v for k,v in state.items() if 'running' not in k}
    blobs |= {'conv1_b': torch.randn(64), 'pred_w': torch.zeros(1000, 2048), 'pred_b': torch.zeros(1000)}
    (tmp_path/'R-50.pkl').write_bytes(pickle.dumps({'blobs': {k: v.numpy() for k,v in blobs.items()}}, protocol=2))
    trunk = ResNet(50, 'caffe', norm_eval=True).eval()
    load_backbone(trunk, tmp_path/'R-50.pkl')
    x = torch.randn(2, 64, 4, 4)
    scale, shift = (blobs[f'res_conv1_bn_{n}'][:,None,None] for n in 'sb')
    torch.testing.assert_close(trunk.bn1(x), (x + blobs['conv1_b'][:,None,None])*scale + shift, rtol=1e-5, atol=1e-5)
    scale, shift = (blobs[f'res2_0_branch2a_bn_{n}'][:,None,None] for n in 'sb')
    torch.testing.assert_close(trunk.layer1[0].bn1(x), x*scale + shift, rtol=1e-5, atol=1e-5)

def test_trunk_of_detectron2(tmp_path):
    state = {k.removeprefix('backbone.bottom_up.'): v for k,v in random_state(D2['COCO-Detection/rpn_R_50_FPN_1x.yaml']['keys']).items() if 'bottom_up' in k}
    (tmp_path/'R-50.pkl').write_bytes(pickle.dumps({'model': {k: v.numpy() for k,v in state.items()}, 'matching_heuristics': True}))
    trunk = ResNet(50)
    load_backbone(trunk, tmp_path/'R-50.pkl')
    assert torch.equal(trunk.layer2[0].downsample[0].weight, state['res3.0.shortcut.weight'])

@pytest.mark.parametrize('kind', ['torchvision', 'detectron2', 'detectron'])
def test_trapped_files_of_others(tmp_path, kind):
    "A trap beside weights of every kind, as pickle and in torch's file: never run, told by name, the model untouched."
    keys = {'torchvision': 'backbone.body.conv1.weight', 'detectron2': 'backbone.bottom_up.res2.0.conv1.weight', 'detectron': 'res2_0_branch2a_w'}
    marker, weight, net = tmp_path/'sprung', torch.zeros(2), small()
    before = {k: v.clone() for k,v in net.state_dict().items()}
    for suffix,data in (('.pkl', lambda t: pickle.dumps({'model': {keys[kind]: weight.numpy()}, 'x': t}, 2)), ('.pth', None)):
        path = tmp_path/f'trap{suffix}'
        trap = Call(os.mkdir, str(marker))
        if data: path.write_bytes(data(trap))
        else: torch.save({'model': {keys[kind]: weight}, 'x': trap}, path)
        for f in (lambda: load_detector(path, arch='maskrcnn_resnet50_fpn'), lambda: load_checkpoint(net, path), lambda: load_backbone(net.backbone, path),
                  lambda: MaskRCNN(weights=str(path)), lambda: detbook_convert(path, tmp_path/'x.pth', arch='maskrcnn_resnet50_fpn')):
            with pytest.raises(ValueError) as error: f()
            one_sentence(error, path.name, 'mkdir', 'nothing in it was run')
    assert not marker.exists()
    equal(net.state_dict(), before)

# ---------------------------------------------------------------- load_detector

def test_config_names_and_class_names(tmp_path):
    with torch.device('meta'): shapes = {k: v.shape for k,v in build_arch('faster-rcnn_r50_fpn_1x_coco', 3).state_dict().items()}
    state = random_state(shapes)
    torch.save(dict(meta=v2_meta(('a', 'b', 'c')), state_dict=state), tmp_path/'mine.pth')
    model = load_detector(tmp_path/'mine.pth', arch='faster-rcnn_r50_fpn_1x_coco')
    assert (model.num_classes, model.classes, model.training) == (3, ('a', 'b', 'c'), False)
    other = load_detector(tmp_path/'mine.pth', arch='faster_rcnn_r50_fpn_1x_coco', num_classes=80)
    assert other.classes == tuple(f'class {i}' for i in range(80)) and other.roi_head.bbox_head.fc_cls.out_features == 81      # anew: COCO's by number alone
    assert torch.equal(other.roi_head.bbox_head.shared_fcs[1].weight, state['roi_head.bbox_head.shared_fcs.1.weight'])

def test_config_inside(tmp_path):
    "mmdetection 3 keeps the text of its config in the file: no arch is needed. Text that cannot be read, or wants more than to compute, is passed over."
    cfg = Config.fromfile('faster-rcnn_r50_fpn_1x_coco').model
    text = f'num_classes = 80\nmodel = {json.loads(json.dumps(cfg))!r}\n'
    with torch.device('meta'): shapes = {k: v.shape for k,v in build_arch('faster-rcnn_r50_fpn_1x_coco', 3).state_dict().items()}
    state, marker = random_state(shapes), tmp_path/'sprung'
    def write(text): torch.save(dict(meta=dict(cfg=text, dataset_meta=dict(classes=('a', 'b', 'c'))), state_dict=state), tmp_path/'v3.pth')
    write(text)
    model = load_detector(tmp_path/'v3.pth')
    equal(model.state_dict(), state)
    assert model.classes == ('a', 'b', 'c')
    for bad in (f'import os; os.mkdir({str(marker)!r})\n' + text, 'model = ', '__import__("os").mkdir("x")', ''):
        write(bad)
        with pytest.raises(ValueError) as error: load_detector(tmp_path/'v3.pth')
        one_sentence(error, 'arch')
    assert not marker.exists()

def test_report_is_printed(tmp_path, capsys):
    torch.save(torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5).state_dict(), tmp_path/'x.pth')
    model = load_detector(tmp_path/'x.pth', arch='retinanet_resnet50_fpn', num_classes=7)
    said = capsys.readouterr().out
    assert 'RetinaNet from x.pth' in said and '2 reinitialised' in said and '0 missing, 0 unexpected' in said and 'retina_cls' in said
    assert model.num_classes == 7

def test_wrong_arch(tmp_path):
    torch.save(torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3).state_dict(), tmp_path/'x.pth')
    for arch,words in ((None, ('arch', 'fasterrcnn_resnet50_fpn')), ('maskrcnn_resnet50_fpn', ('mask_head',)), ('COCO-Detection/faster_rcnn_R_50_FPN_1x', ('torchvision',)),
                       ('fasterrcnn_resnet50_fpm', ('did you mean', 'fasterrcnn_resnet50_fpn')), ('faster-rcnn_r50_fpn_1x_coco', ('torchvision',))):
        with pytest.raises(ValueError) as error: load_detector(tmp_path/'x.pth', arch=arch)
        one_sentence(error, *words)
    with pytest.raises(FileNotFoundError): load_detector(tmp_path/'y.pth', arch='fasterrcnn_resnet50_fpn')

def test_own_files(tmp_path):
    model = small()
    save_detector(tmp_path/'own.safetensors', model, ('a', 'b', 'c'), {'resize': [320, 320]})
    again = load_detector(tmp_path/'own.safetensors')
    assert again.classes == ('a', 'b', 'c') and describe(again) == describe(model)
    equal(again.state_dict(), model.state_dict())
    other = load_detector(tmp_path/'own.safetensors', num_classes=5)
    assert other.num_classes == other.roi_head.bbox_head.num_classes == other.roi_head.mask_head.num_classes == 5
    assert other.classes == ('class 0', 'class 1', 'class 2', 'class 3', 'class 4')
    assert torch.equal(other.backbone.conv1.weight, model.backbone.conv1.weight)
    save_checkpoint(tmp_path/'bare.safetensors', model)
    with pytest.raises(ValueError) as error: load_detector(tmp_path/'bare.safetensors')
    one_sentence(error, 'arch')

def test_the_frame_in_training_is_kept(tmp_path):
    "A config's batch_augments are no constructor's argument, and are not forgotten: by detbook's file, by mmdetection's, by other classes."
    cfg = Config.fromfile('retinanet_r18_fpn_1x_coco')
    cfg.model.data_preprocessor.batch_augments = [dict(type='BatchFixedSizePad', size=(640, 512), pad_mask=True)]
    model = build_detector(cfg.model)
    assert model.preprocess.train_size == (640, 512)
    read = lambda path: read_detector(path)[0]
    for again in (load_detector(save_detector(tmp_path/'own.safetensors', model, COCO)), read(tmp_path/'own.safetensors'),
                  load_detector(save_mmdetection(tmp_path/'theirs.pth', model, COCO)), load_detector(tmp_path/'own.safetensors', num_classes=2)):
        assert again.preprocess.train_size == (640, 512)
        assert describe(again) == {**describe(model), **(dict() if again.num_classes == 80 else dict(num_classes=2, bbox_head={**describe(model)['bbox_head'], 'num_classes': 2}))}
    save_detector(tmp_path/'none.safetensors', small(), tuple('abc'))
    assert load_detector(tmp_path/'none.safetensors').preprocess.train_size is None
    for path in ('own.safetensors', 'none.safetensors'): assert load_detector(tmp_path/path).notes == read_checkpoint(tmp_path/path).metadata

def test_names_of_your_own_classes(tmp_path):
    "Another number: predictors anew, under the names given or numbered; the same number: what is known stays. Names and classes are always as many."
    model, fc = small(), 'roi_head.bbox_head.fc_cls.weight'
    save_detector(tmp_path/'own.safetensors', model, ('a', 'b', 'c'))
    for more,wanted,kept in ((dict(), ('a', 'b', 'c'), True), (dict(num_classes=3), ('a', 'b', 'c'), True), (dict(classes=['x', 'y', 'z']), ('x', 'y', 'z'), True),
                             (dict(num_classes=2), ('class 0', 'class 1'), False), (dict(classes=('x', 'y')), ('x', 'y'), False), (dict(classes='x', num_classes=1), ('x',), False)):
        found = load_detector(tmp_path/'own.safetensors', **more)
        assert found.classes == wanted and found.num_classes == found.roi_head.mask_head.num_classes == len(wanted)
        assert (found.state_dict()[fc].shape == model.state_dict()[fc].shape and torch.equal(found.state_dict()[fc], model.state_dict()[fc])) == kept
    with pytest.raises(ValueError) as error: load_detector(tmp_path/'own.safetensors', num_classes=3, classes=('x', 'y'))
    one_sentence(error, '3', '2')
    rpn = RPN(backbone=ResNet(18), neck=FPN((64,128,256,512)))
    save_detector(tmp_path/'rpn.safetensors', rpn, ('object',))
    assert load_detector(tmp_path/'rpn.safetensors').classes == ()
    with pytest.raises(ValueError) as error: load_detector(tmp_path/'rpn.safetensors', classes=('x',))
    one_sentence(error, 'RPN')

def test_tampered_description(tmp_path):
    "A description in mmdetection's file that names a function, or does not fit its weights, is refused."
    model, marker = small(), tmp_path/'sprung'
    for model_says in ({'type': 'os.system', 'command': f'mkdir {marker}'}, {'type': 'detbook.checkpoint.download', 'url': 'http://127.0.0.1:1/x'}, {'type': 'detbook.neck.FPN'}):
        torch.save(dict(meta=dict(detbook=json.dumps(dict(model=model_says, classes=[]))), state_dict=model.state_dict()), tmp_path/'bad.pth')
        with pytest.raises(ValueError): load_detector(tmp_path/'bad.pth')
    assert not marker.exists()

# ---------------------------------------------------------------- names and addresses

def test_zoo_is_the_table():
    table = list(csv.DictReader((golden/'mmdet_zoo.csv').open()))
    number = lambda x: float(x) if x else None
    assert len(table) == len(ZOO) == 101
    for row,(name,entry) in zip(table, ZOO.items()):
        assert name == Path(row['config']).stem and entry.url == row['weights_url'] and entry.licence == 'Apache-2.0'
        assert (entry.box_ap, entry.mask_ap, entry.ar1000) == (number(row['box_ap']), number(row['mask_ap']), number(row['ar1000']))
        for alias in (name, name.replace('-', '_'), row['model_name'], entry.former, row['weights_file']): assert find_url(alias) == row['weights_url'], alias
        assert download._hash_wanted(row['weights_file'], None) == row['weights_file'][-12:-4]

def test_every_name_builds():
    for name in [*ZOO][::10] + [*DETECTRON2][::6]:
        with torch.device('meta'): build_arch(name)

def publish(folder, state, stem):
    "A file whose name ends in its own hash."
    torch.save(state, folder/'x.pth')
    data = (folder/'x.pth').read_bytes()
    return f'{stem}-{hashlib.sha256(data).hexdigest()[:8]}.pth', data

def test_names_everywhere(tmp_path, monkeypatch):
    "A zoo name is fetched, checked, kept, and takes the road of a path in load_checkpoint, weights=, load_detector; a cut is mended, a wrong hash is refused."
    with torch.device('meta'): shapes = {k: v.shape for k,v in build_arch('rpn_r50_fpn_1x_coco').state_dict().items()}
    state = random_state(shapes)
    name, data = publish(tmp_path, dict(meta=v2_meta(COCO), state_dict={k.replace('bbox_head', 'rpn_head'): v for k,v in state.items()}), 'rpn_r50_fpn_1x_coco_20200218')
    def answer(h, n): h.ranged(data, cut=len(data)//3 if n == 1 else None)
    with serving(answer) as (site, asked):
        monkeypatch.setitem(ZOO, 'rpn_r50_fpn_1x_coco', ZOO['rpn_r50_fpn_1x_coco']._replace(url=f'{site}/{name}'))
        model = RPN()
        assert load_checkpoint(model, 'rpn_r50_fpn_1x_coco').missing == []
        equal({k: v for k,v in model.state_dict().items()}, state)
        assert len(asked) == 2 and asked[1][1].startswith('bytes=')          # the second request went on where the first was cut
        assert torch.equal(RPN(weights='rpn-r50-fpn-1x-coco').bbox_head.rpn_cls.weight, state['bbox_head.rpn_cls.weight'])
        found = load_detector('rpn_r50_fpn_1x_coco')
        equal(found.state_dict(), state)
        trunk = ResNet(50)
        load_backbone(trunk, 'rpn_r50_fpn_1x_coco')
        assert torch.equal(trunk.conv1.weight, state['backbone.conv1.weight'])
        assert len(asked) == 2                                               # the file was kept
    with serving(lambda h, n: h.send(data[:-1] + b'?')) as (site, asked):
        monkeypatch.setitem(ZOO, 'rpn_r50_fpn_1x_coco', ZOO['rpn_r50_fpn_1x_coco']._replace(url=f'{site}/other/{name}'))
        for f in (lambda: load_checkpoint(model, 'rpn_r50_fpn_1x_coco'), lambda: load_detector('rpn_r50_fpn_1x_coco')):
            with pytest.raises(ValueError) as error: f()
            one_sentence(error, name, 'SHA-256')
        equal({k: v for k,v in model.state_dict().items()}, state)
    assert not list((tmp_path/'home').rglob('*other*'))

def test_names_of_trunks(tmp_path, monkeypatch):
    state = torchvision.models.resnet50(weights=None).state_dict()
    name, data = publish(tmp_path, state, 'resnet50_msra')
    with serving(lambda h, n: h.send(data)) as (site, asked):
        monkeypatch.setitem(BACKBONES, 'detectron2/resnet50_caffe', f'{site}/{name}')
        for source in ('open-mmlab://detectron2/resnet50_caffe', 'detectron2/resnet50_caffe'):
            trunk = ResNet(50, 'caffe')
            load_backbone(trunk, source)
            equal(trunk.state_dict(), {k: v for k,v in state.items() if not k.startswith('fc.')})
        assert len(asked) == 1
    assert find_url('torchvision://resnet50') == torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url

def test_unknown_names():
    for name,near in (('mask-rcnn_r50_fpn_1x_coc', 'mask-rcnn_r50_fpn_1x_coco'), ('open-mmlab://detectron2/resnet50_cafe', 'resnet50_caffe'), ('COCO-Detection/retinanet_R_50_FPN_2x', 'retinanet_R_50_FPN')):
        for f in (find_url, lambda n: load_checkpoint(small(), n), load_detector):
            with pytest.raises(FileNotFoundError) as error: f(name)
            one_sentence(error, name, near)

# ---------------------------------------------------------------- and back

STATES = json.loads(gzip.decompress((golden/'states_r50.json.gz').read_bytes()))

@pytest.mark.parametrize('name', ['rpn_r50_fpn_1x', 'mask-rcnn_r50-caffe_fpn_1x'])
def test_what_mmdetection_gets(tmp_path, name):
    "Under state_dict: mmdetection's keys and shapes, all of them and no others; the file needs no detbook to be read."
    model = build_arch(name + '_coco')
    save_mmdetection(tmp_path/'out.pth', model, COCO if 'mask' in name else ())
    found = torch.load(tmp_path/'out.pth', weights_only=True)
    assert {k: list(v.shape) for k,v in found['state_dict'].items()} == {k: list(s) for k,s in STATES[name].items()}
    assert found['meta']['dataset_meta']['classes'] == found['meta']['CLASSES'] == (COCO if 'mask' in name else ())
    equal(load_detector(tmp_path/'out.pth').state_dict(), model.state_dict())

@pytest.mark.parametrize('arch', [*TORCHVISION, *sorted(n.removesuffix('.yaml') for n in D2)])
def test_conventions_are_described(arch):
    "A detector of somebody else's, saved as ours, is rebuilt with every convention."
    with torch.device('meta'): model = build_arch(arch)
    said = json.loads(json.dumps(describe(model)))
    with torch.device('meta'): twin = rebuild(said)
    assert json.loads(json.dumps(describe(twin))) == said
    assert {k: v.shape for k,v in twin.state_dict().items()} == {k: v.shape for k,v in model.state_dict().items()}

def test_convert_with_names(tmp_path, capsys):
    "--classes: kept in either kind of file; another number of them, or names for what has no classes, is refused before anything is written."
    save_detector(tmp_path/'own.safetensors', small(), tuple('abc'))
    for out in ('out.pth', 'out.safetensors'):
        words = [str(tmp_path/'own.safetensors'), str(tmp_path/out), '--classes', 'cat', 'big dog', 'bird']
        assert run_command(detbook_convert, words) == 0
        assert load_detector(tmp_path/out).classes == ('cat', 'big dog', 'bird')
    capsys.readouterr()
    save_detector(tmp_path/'rpn.safetensors', RPN(backbone=ResNet(18), neck=FPN((64,128,256,512))), ('object',))
    for source,more in (('own', ['x', 'y']), ('own', ['x', 'y', 'z', '--num_classes', '2']), ('rpn', ['x'])):
        assert run_command(detbook_convert, [str(tmp_path/f'{source}.safetensors'), str(tmp_path/'no.pth'), '--classes', *more]) == 2
        said = capsys.readouterr().err
        assert 'names' in said and len(said.splitlines()) == 1 and not (tmp_path/'no.pth').exists()
    detbook_convert(tmp_path/'own.safetensors', tmp_path/'two.pth', num_classes=2, classes=['x', 'y'])
    assert load_detector(tmp_path/'two.pth').classes == ('x', 'y')

def test_round_trip_keeps_conventions(tmp_path):
    "torchvision -> mmdetection's file -> detbook's file: the same detector, detection for detection."
    torch.manual_seed(0)
    peer = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    nn.init.constant_(peer.head.classification_head.cls_logits.bias, -2.)
    torch.save(peer.state_dict(), tmp_path/'tv.pth')
    first = load_detector(tmp_path/'tv.pth', arch='retinanet_resnet50_fpn')
    detbook_convert(tmp_path/'tv.pth', str(tmp_path/'mm.pth'), arch='retinanet_resnet50_fpn')
    detbook_convert(tmp_path/'mm.pth', str(tmp_path/'own.safetensors'))
    (tmp_path/'link.pth').symlink_to('mm.pth'); os.link(tmp_path/'own.safetensors', tmp_path/'hard.safetensors'); (tmp_path/'d').mkdir()
    for source,out in (('mm.pth', 'mm.pth'), ('mm.pth', 'd/../mm.pth'), ('mm.pth', 'link.pth'), ('link.pth', 'mm.pth'), ('hard.safetensors', 'own.safetensors'), ('own.safetensors', 'own.safetensors')):
        before = (tmp_path/source).read_bytes()
        with pytest.raises(ValueError, match='would be replaced'): detbook_convert(str(tmp_path/source), str(tmp_path/out))
        assert (tmp_path/source).read_bytes() == before
    image = torch.rand(3, 64, 96)*255
    wanted = first.predict([image])[0]
    assert len(wanted['boxes']) > 0
    for name in ('mm.pth', 'own.safetensors'):
        again = load_detector(tmp_path/name)
        equal(again.predict([image])[0], wanted)
        assert again.classes == first.classes

def test_command(tmp_path, monkeypatch, capsys):
    save_detector(tmp_path/'own.safetensors', small(), ('a', 'b', 'c'))
    def out_of_process(*words):
        return subprocess.run([sys.executable, '-m', 'detbook.weights', *map(str, words)], capture_output=True, text=True, cwd=tmp_path)
    done = out_of_process('own.safetensors', 'out.pth', '--num_classes', 2)
    assert done.returncode == 0, done.stderr
    assert 'out.pth' in done.stdout and 'reinitialised' in done.stdout
    assert torch.load(tmp_path/'out.pth', weights_only=True)['state_dict']['roi_head.bbox_head.fc_cls.bias'].shape == (3,)
    monkeypatch.chdir(tmp_path)
    for words in (('none.pth', 'out.pth'), ('own.safetensors', 'out.onnx'), ('own.safetensors', 'x.pth', '--arch', 'faster-rcnn_r50_fpn_1x_coc')):
        assert run_command(detbook_convert, list(words)) == 2
        said = capsys.readouterr().err
        assert said.startswith('detbook_convert: ') and len(said.splitlines()) == 1, said
        assert not (tmp_path/'x.pth').exists() and not (tmp_path/'out.onnx').exists()

# ---------------------------------------------------------------- timm

class FakeInfo:
    def reduction(self): return [2, 4, 8, 16, 32]
    def channels(self): return [8, 16, 24, 32, 40]

class FakeTrunk(nn.Module):
    feature_info, pretrained_cfg = FakeInfo(), {'mean': (.5, .5, .5), 'std': (.5, .25, .5)}
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a,b in zip((3, 8, 16, 24, 32), (8, 16, 24, 32, 40)))
    def forward(self, x):
        out = []
        for c in self.convs: x = c(x); out.append(x)
        return [*out[:4], out[4].permute(0, 2, 3, 1)]       # some trunks put channels last

def fake_timm(monkeypatch):
    timm, asked = types.ModuleType('timm'), []
    def create_model(name, pretrained=False, features_only=False):
        asked.append((name, pretrained, features_only))
        if name != 'tiny_net': raise RuntimeError(f'Unknown model ({name})')
        return FakeTrunk()
    timm.create_model, timm.list_models = create_model, lambda: ['tiny_net', 'other_net']
    monkeypatch.setitem(sys.modules, 'timm', timm)
    return asked

def test_timm_trunk(monkeypatch, tmp_path):
    asked = fake_timm(monkeypatch)
    trunk = TimmBackbone('tiny_net')
    assert trunk.out_channels == [16, 24, 32, 40] and asked == [('tiny_net', False, True)]
    assert [tuple(s.shape) for s in trunk(torch.zeros(1, 3, 64, 96))] == [(1, 16, 16, 24), (1, 24, 8, 12), (1, 32, 4, 6), (1, 40, 2, 3)]
    assert trunk.mean == (127.5,)*3 and trunk.std == (127.5, 63.75, 127.5)
    assert TimmBackbone('tiny_net', strides=(8, 32)).out_channels == [24, 40]
    with pytest.raises(ValueError, match="did you mean 'tiny_net'"): TimmBackbone('tiny_nat')
    with pytest.raises(ValueError, match='stride 64'): TimmBackbone('tiny_net', strides=(8, 64))
    model = FasterRCNN(2, backbone=trunk, neck=FPN(trunk.out_channels, 32), rpn_head=RPNHead(32), roi_head=RoIHead(BoxHead(2, 32)))
    assert model.preprocess.std.flatten().tolist() == list(trunk.std)        # a detector takes the colours that its backbone names
    save_detector(tmp_path/'timm.safetensors', model, ('a', 'b'))
    asked.clear()
    again = load_detector(tmp_path/'timm.safetensors')
    assert set(asked) == {('tiny_net', False, True)}        # a file holds its weights: none are fetched
    equal(again.state_dict(), model.state_dict())

def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match='pip install timm'): TimmBackbone()

def test_real_timm():
    pytest.importorskip('timm')
    trunk = TimmBackbone('resnet18').eval()
    twin = ResNet(18).eval()
    load_checkpoint(twin, {k: v for k,v in trunk.net.state_dict().items()})
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a,b in zip(trunk(x), twin(x)): torch.testing.assert_close(a, b)
