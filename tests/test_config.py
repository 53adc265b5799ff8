"Configs and recipes: equal to what mmdetection's own reader gives, safe to read, and built into detectors with mmdetection's weights."
import copy, gzip, hashlib, importlib.util, json, os, re, subprocess, sys, textwrap
from pathlib import Path
from pickle import dumps, loads
import pytest, torch
from detbook.nodes import ConfigDict, ConfigError
from detbook.config import Config, build_detector, build_tta
from detbook.core import WARNED
from detbook.recipes import recipe, recipe_name, recipe_names

GOLDEN = Path(__file__).parent/'golden'
STATES = json.loads(gzip.decompress((GOLDEN/'states.json.gz').read_bytes()))       # keys and shapes of all 141 models, as mmdetection 3.3.0 built them
PRINTS = json.loads((GOLDEN/'recipes.json').read_text())                            # fingerprints of the 142 configs, as mmengine 0.10.7 read them
FAMILIES = ('rpn', 'fast_rcnn', 'faster_rcnn', 'mask_rcnn', 'retinanet', 'cascade_rcnn')
by_name = pytest.mark.parametrize('name', sorted(PRINTS))

def _installed():
    "Folder of the configs in an installed mmdet 3.3.0, which is found and not imported; None without one."
    spec = importlib.util.find_spec('mmdet')
    for root in (spec.submodule_search_locations if spec else ()):
        if (Path(root)/'.mim'/'configs').is_dir(): return Path(root)/'.mim'/'configs'

MMDET = _installed()
needs_mmdet = pytest.mark.skipif(MMDET is None, reason="mmdet is not installed: pip install '.[dev]'")

def fingerprint(value):
    "A hash of values and types, of tuples as of lists."
    def tagged(v):
        if isinstance(v, dict): return {'dict': sorted((str(k), tagged(x)) for k,x in v.items())}
        if isinstance(v, (list, tuple)): return {type(v).__name__: [tagged(x) for x in v]}
        return {type(v).__name__: repr(v)}
    return hashlib.sha256(json.dumps(tagged(value)).encode()).hexdigest()[:16]

def same(a, b):
    "Equal in values and types; a node counts as a dict."
    if isinstance(a, dict) and isinstance(b, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if type(a) is not type(b): return False
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b

def write(folder, **files):
    "Files of a folder by their stems; `__` in a name is a dot."
    for name,text in files.items():
        stem, _, suffix = name.partition('__')
        (folder/f'{stem}.{suffix or "py"}').write_text(textwrap.dedent(text))
    return folder/f'{next(iter(files)).partition("__")[0]}.{next(iter(files)).partition("__")[2] or "py"}'

# ---- recipes

def test_all_names_are_there():
    assert len(PRINTS) == 142
    assert set(recipe_names()) == set(PRINTS) | {'keypoint_rcnn_r50_fpn_1x_coco'}
    assert {Path(f).stem for f in STATES['configs']} | {'retinanet_tta'} == set(PRINTS)
    for n in recipe_names():
        for spelled in (n, n.replace('_', '-'), n.replace('-', '_'), n.upper(), n + '.py'): assert recipe_name(spelled) == n

@by_name
def test_recipe_is_mmdetections(name):
    assert fingerprint(recipe(name)) == PRINTS[name]
    cfg = Config.fromfile(name.replace('-', '_'))
    assert type(cfg) is Config and same(cfg, recipe(name)) and type(cfg.to_dict()) is dict and same(cfg.to_dict(), recipe(name))

@needs_mmdet
@by_name
def test_file_equals_recipe(name):
    path, = [p for f in FAMILIES if (p := MMDET/f/f'{name}.py').exists()]
    cfg = Config.fromfile(path)
    assert fingerprint(cfg.to_dict()) == PRINTS[name]
    assert same(cfg, recipe(name))

@needs_mmdet
def test_every_config_of_mmdetection_is_read():
    "Files that name missing ones (mmengine fails on these too) are the only ones refused."
    read, refused = 0, []
    for p in sorted(MMDET.rglob('*.py')):
        try: Config.fromfile(p); read += 1
        except ConfigError as e: refused.append(str(e))
    assert read > 800 and len(refused) < 20
    for e in refused: assert 'there is no' in e or 'import' in e, e
    assert 'mmdet' not in sys.modules and 'mmengine' not in sys.modules

# ---- detectors

def build(model, *more):
    with torch.device('meta'): return build_detector(model, *more)

def shapes(model): return {k:list(v.shape) for k,v in model.state_dict().items()}

@pytest.mark.parametrize('path', sorted(STATES['configs']))
def test_detector_has_mmdetections_weights(path):
    wanted = STATES['models'][STATES['configs'][path]]
    cfg = Config.fromfile(Path(path).stem)
    model = build(cfg.model, cfg.train_cfg, cfg.test_cfg)
    assert shapes(model) == wanted['keys']
    assert sum(p.numel() for p in model.parameters()) == wanted['params']
    assert type(model).__name__ == wanted['type']
    frozen = cfg.model.backbone.norm_cfg.requires_grad
    assert all(p.requires_grad == frozen for k,p in model.backbone.named_parameters() if k.startswith('layer3') and '.bn' in k)

@needs_mmdet
@pytest.mark.parametrize('path', sorted(STATES['configs'])[::7])
def test_detector_from_the_file(path):
    assert shapes(build(Config.fromfile(MMDET/path).model)) == STATES['models'][STATES['configs'][path]]['keys']

def test_small_settings_arrive():
    "What no shape shows: 141 models share 40 layouts."
    get = lambda name: build(Config.fromfile(name).model)
    m = get('mask_rcnn_r50_caffe_fpn_poly_1x_coco_v1')
    assert (m.roi_head.bbox_extractor.aligned, m.roi_head.mask_extractor.ratio, m.rpn_head.loss_bbox.beta) == (False, 2, 1/9)
    assert (m.preprocess.bgr, m.preprocess.arguments['std'], m.backbone.arguments) [:2] == (True, (1., 1., 1.))
    m = get('mask_rcnn_x101_32x8d_fpn_1x_coco')
    assert (m.preprocess.bgr, m.preprocess.arguments['std']) == (True, (57.375, 57.12, 58.395))
    m = get('faster_rcnn_r50_fpn_soft_nms_1x_coco')
    assert (type(m.roi_head.test_filter.suppress).__name__, m.roi_head.test_filter.suppress.iou, m.roi_head.test_filter.suppress.min_score) == ('SoftNMS', .5, 1e-3)
    m = get('faster_rcnn_r50_fpn_ohem_1x_coco')
    assert (type(m.roi_head.sampler).__name__, m.roi_head.sampler.num, type(m.rpn_head.sampler).__name__) == ('HardSampler', 512, 'RandomSampler')
    m = get('faster_rcnn_r50_fpn_bounded_iou_1x_coco')
    assert (m.roi_head.bbox_head.decoded, type(m.roi_head.bbox_head.loss_bbox).__name__, m.roi_head.bbox_head.loss_bbox.weight) == (True, 'BoundedIoULoss', 10.)
    m = get('rpn_r50_caffe_c4_1x_coco')
    assert (m.bbox_head.test_filter.nms_pre, m.bbox_head.test_filter.max_per_img, m.bbox_head.anchors.scales) == (12000, 2000, (2, 4, 8, 16, 32))
    m = get('cascade_mask_rcnn_r50_fpn_1x_coco')
    assert ([x.pos_iou for x in m.roi_head.matchers], m.rpn_head.border, m.rpn_head.train_filter.max_per_img) == ([.5, .6, .7], 0, 2000)
    assert [h.coder.stds[0] for h in m.roi_head.bbox_head] == [.1, .05, .033] and m.roi_head.stage_weights == (1, .5, .25)

def test_ties_for_a_truth():
    "gt_max_assign_all of each assigner: True unless the config says otherwise."
    cfg = Config.fromfile('faster_rcnn_r50_fpn_1x_coco')
    assert (m := build(cfg.model)).rpn_head.matcher.all_best and m.roi_head.matcher.all_best
    cfg.override(['model.train_cfg.rpn.assigner.gt_max_assign_all=false'])
    assert not (m := build(cfg.model)).rpn_head.matcher.all_best and m.roi_head.matcher.all_best

def test_train_and_test_settings_beside_the_model():
    cfg = Config.fromfile('faster_rcnn_r50_fpn_1x_coco')
    before = copy.deepcopy(cfg)
    model = build(cfg.model, cfg.train_cfg, cfg.test_cfg)                               # a training loop's: ignored
    assert model.rpn_head.train_filter.nms_pre == 2000
    train, test = cfg.model.pop('train_cfg'), cfg.model.pop('test_cfg')
    train.rpn_proposal.nms_pre = 77
    assert build(cfg.model, train, test).rpn_head.train_filter.nms_pre == 77
    assert build(cfg.model.to_dict(), train.to_dict(), test.to_dict()).rpn_head.train_filter.nms_pre == 77
    with pytest.raises(ConfigError, match='train_cfg is given twice'): build(before.model, train)
    assert before == Config.fromfile('faster_rcnn_r50_fpn_1x_coco')                     # building changes no config

def test_ignored_regions_are_said_once_and_can_be_left_out():
    WARNED.discard('ignore_iof_thr')
    cfg = Config.fromfile('faster_rcnn_r50_fpn_1x_coco')
    with pytest.warns(UserWarning, match='ignore_iof_thr=-1') as told: model = build(cfg.model)
    assert [w.filename for w in told] == [__file__]                                     # the line outside of detbook
    assert model.rpn_head.matcher.ignore_iof == model.roi_head.matcher.ignore_iof == -1
    cfg.override(['model.train_cfg.rpn.assigner.ignore_iof_thr=0.4'])
    assert build(cfg.model).rpn_head.matcher.ignore_iof == .4

WRONG = {   # setting -> what the message says
    'model.backbone.dept=50': (r'model\.backbone\.dept = 50', "'depth'"), 'model.backbone.type=ResNett': (r"model\.backbone\.type = 'ResNett'", "'ResNet'"),
    'model.type=FasterRCN': (r"model\.type = 'FasterRCN'", "'FasterRCNN'"), 'model.backbone.depth=49': ('model.backbone', '49'),
    'model.roi_head.bbox_head.num_class=3': (r'model\.roi_head\.bbox_head\.num_class = 3', "'num_classes'"),
    'model.train_cfg.rcnn.assigner.pos_iou_th=.5': ('model.train_cfg.rcnn.assigner.pos_iou_th', "'pos_iou_thr'"),
    'model.test_cfg.rcnn.score_th=.5': ('model.test_cfg.rcnn.score_th', "'score_thr'"), 'model.test_cfg.rpn.nms_post=10': ('model.test_cfg.rpn.nms_post', 'nms_pre'),
    'model.neck.add_extra_convs=on_inputs': ('model.neck', "'on_input'"), 'model.backbone.norm_cfg.type=SyncBN': (r"model\.backbone\.norm_cfg\.type = 'SyncBN'", 'BN'),
    'model.rpn_head.anchor_generator.scale=8': ('model.rpn_head.anchor_generator.scale', "'scales'"), 'model.backbone.deep_stem=true': (r'deep_stem = True', 'False'),
    'model.roi_head.bbox_head.loss_cls.class_weight=[1]': ('class_weight', 'None'), 'model.nek=1': (r'model\.nek = 1', "'neck'"), 'model.roi_head=3': (r'model\.roi_head is 3', 'dict'),
    'model.train_cfg.rcnn.pos_weight=2': ('pos_weight', '1'), 'model.data_preprocessor.type=DataPreprocessor': ('DataPreprocessor', 'DetDataPreprocessor'),
    'model.roi_head.bbox_head.reg_decoded_bboxes=true': ('reg_decoded_bboxes', "'reg_decoded_bbox'")}

@pytest.mark.parametrize('setting', WRONG)
def test_wrong_settings_raise_and_are_named(setting):
    cfg = Config.fromfile('faster_rcnn_r50_fpn_1x_coco')
    cfg.override([setting])
    with pytest.raises(ConfigError) as e: build(cfg.model)
    for part in WRONG[setting]: assert re.search(part, str(e.value)), str(e.value)

LSJ = [n for n in recipe_names() if 'lsj' in n]

@pytest.mark.parametrize('name', LSJ)
def test_large_jitter_fills_the_frame(name):
    assert len(LSJ) == 12
    assert build(Config.fromfile(name).model).preprocess.train_size == (1024, 1024)

def test_fixed_frame_is_for_losses():
    "BatchFixedSizePad: in training alone, the whole frame everybody's own, no change to a frame that is large enough."
    cfg = Config.fromfile('retinanet_r18_fpn_8xb8_amp_lsj_200e_coco')
    cfg.override(['model.data_preprocessor.batch_augments.0.size=96,128'])
    model, seen = build_detector(cfg.model), []
    model.backbone.register_forward_pre_hook(lambda m, x: seen.append(tuple(x[0].shape[-2:])))
    images = [torch.rand(3, 50, 60)*255, torch.rand(3, 64, 33)*255]
    targets = [dict(boxes=torch.tensor([[4., 4., 30., 40.]]), labels=torch.tensor([1]))]*2
    model.loss(images, targets)
    with torch.no_grad(): model.predict(images)
    model.loss([torch.rand(3, 100, 130)*255]*2, targets)
    assert seen == [(96, 128), (64, 64), (128, 160)]
    for size,frame,own in ((None, (64, 64), [(64, 64), (64, 64)]), ((96, 128), (96, 128), [(96, 128)]*2), ((96, 40), (96, 64), [(96, 40)]*2), ((64, 64), (64, 64), [(64, 64)]*2)):
        model.preprocess.train_size = size
        batch = model.preprocess(images, train=True)
        assert (tuple(batch.pixels.shape[-2:]), batch.pad_sizes, batch.sizes) == (frame, own, [(50, 60), (64, 33)])

def test_other_changes_to_a_batch_are_refused():
    for augments,said in (([dict(type='BatchSyncRandomResize', random_size_range=(640, 1152))], 'does not resize'), ([dict(type='BatchResize', scale=(1400, 800))], 'does not resize'),
                          ([dict(type='BatchFixedSizePad', size=640)], 'height, width'), ([dict(type='BatchFixedSizePad', sise=(1, 1))], 'size'),
                          ([dict(type='BatchFixedSizePad', size=(640, 640), img_pad_value=114)], 'img_pad_value'), ([dict(type='BatchFixedPad')], "'BatchFixedSizePad'"),
                          ([dict(type='BatchFixedSizePad', size=(640, 640))]*2, 'one at a time')):
        cfg = Config.fromfile('faster_rcnn_r50_fpn_1x_coco')
        cfg.model.data_preprocessor.batch_augments = augments
        with pytest.raises(ConfigError, match=rf'model\.data_preprocessor\.batch_augments.*{said}'): build(cfg.model)
    cfg.model.data_preprocessor.batch_augments = None
    assert build(cfg.model).preprocess.train_size is None

# ---- test-time augmentation

def views(name, **more): return (t := build_tta(Config.fromfile(name) | more, torch.nn.Identity())).scales, t.flips, type(t.suppress).__name__, t.suppress.iou, t.max_per_img
THREE = ((1333, 800), (666, 400), (2000, 1200)), ('horizontal', None), 'NMS', .5, 100

@pytest.mark.parametrize('name', sorted(PRINTS))
def test_every_recipe_can_look_several_times(name):
    "As mmdetection's test command: by its tta_pipeline, or by its test pipeline and the mirror image of that."
    if name.startswith('fast-rcnn'):
        with pytest.raises(ConfigError, match=r"test_dataloader\.dataset\.pipeline\.1\.type = 'LoadProposals'.*looks once"): views(name)
    else: assert views(name) == (THREE if 'tta_pipeline' in recipe(name) else (((1333, 800),), *THREE[1:]))

@needs_mmdet
def test_looks_of_files():
    for path in ('retinanet/retinanet_r50_fpn_1x_coco.py', 'retinanet/retinanet_tta.py'): assert views(MMDET/path) == THREE
    for path,said in {'rtmdet/rtmdet_l_8xb32-300e_coco.py': r'tta_pipeline\.1\.transforms\.2\.0.*fills its batches', 'yolox/yolox_tta.py': r'tta_pipeline\.1\.transforms\.2\.0.*fills its batches',
                      'centernet/centernet_tta.py': r"tta_pipeline\.1\.transforms\.1\.0\.type = 'RandomCenterCropPad'"}.items():
        with pytest.raises(ConfigError, match=said): views(MMDET/path)

def test_looks_by_hand():
    own = 'faster_rcnn_r50_fpn_1x_coco'
    step = dict(type='Resize', scale=(1333, 800), keep_ratio=True)
    flips = [dict(type='RandomFlip', prob=p, direction=d) for p,d in ((1, 'vertical'), (0, 'horizontal'), (1., 'diagonal'))]
    assert views(own, tta_pipeline=[step, dict(type='mmdet.TestTimeAug', transforms=[flips])])[:2] == (((1333, 800),), ('vertical', None, 'diagonal'))
    assert views(own, tta_pipeline=[])[:2] == ((1.,), (None,))
    assert views(own, tta_model=dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='soft_nms', iou_threshold=.4), max_per_img=3)))[2:] == ('SoftNMS', .4, 3)
    assert build_tta(dict(tta_pipeline=[dict(step, scale=500)]), torch.nn.Identity()).scales == ((500, 500),)
    with torch.device('meta'): assert type(build_tta(Config.fromfile(own)).model).__name__ == 'FasterRCNN'
    for pipeline,said in (([dict(type='Resize', scale=(1, 1))], r'tta_pipeline\.0\.keep_ratio'), ([dict(step, scale_factor=2.)], 'scale or scale_factor'), ([step, step], r'tta_pipeline\.1\.type.*one of these'),
                          ([dict(type='TestTimeAug', transforms=[[]])], r'tta_pipeline\.0\.transforms'), ([dict(type='TestTimeAug', transforms=[[step, flips[0]]])], r'transforms\.0\.0\.type.*RandomFlip, Resize'),
                          ([dict(type='TestTimeAugs')], "'TestTimeAug'"), (dict(type='Resize'), 'list of steps'), ([3], r'tta_pipeline\.0 is 3'), ([dict(step, interpolation='nearest')], 'interpolation')):
        with pytest.raises(ConfigError, match=said): views(own, tta_pipeline=pipeline)
    with pytest.raises(ConfigError, match='model is missing'): build_tta(Config.fromfile('retinanet_tta'))
    with pytest.raises(ConfigError, match='whole config'): build_tta(Config.fromfile(own).model)

def test_scopes_and_plain_dicts():
    cfg = recipe('retinanet_r18_fpn_1x_coco')['model']
    def scoped(v):
        if isinstance(v, dict): return {k: f'mmdet.{x}' if k == 'type' and x not in ('nms',) else scoped(x) for k,x in v.items()} | dict(_scope_='mmdet')
        return v
    assert shapes(build(scoped(cfg))) == shapes(build(cfg))

OLD = dict(pretrained='torchvision://resnet50', backbone=dict(type='ResNet', depth=50), neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5))
@pytest.mark.parametrize('model,named', [
    (dict(type='FasterRCNN', **OLD), 'faster-rcnn_r50_fpn_1x_coco'), (dict(type='MaskRCNN', **OLD), 'mask-rcnn_r50_fpn_1x_coco'), (dict(type='RetinaNet', **OLD), 'retinanet_r50_fpn_1x_coco'),
    (dict(type='CascadeRCNN', num_stages=3, **OLD, mask_head=dict(type='FCNMaskHead')), 'cascade-mask-rcnn_r50_fpn_1x_coco'),
    (dict(type='FasterRCNN', backbone=dict(type='ResNet', depth=101, style='caffe'), train_cfg={}, test_cfg={}), 'faster-rcnn_r101-caffe_fpn_1x_coco'),
    (dict(type='RPN', backbone=dict(type='ResNeXt', depth=101, groups=32, base_width=4)), 'rpn_x101-32x4d_fpn_1x_coco')])
def test_old_configs_name_their_successor(model, named):
    with pytest.raises(ConfigError, match=named): build(model)

# ---- reading

def test_rules_of_merging(tmp_path):
    "As mmengine 0.10.7 has them; each expectation was made with it."
    base = write(tmp_path, base="a = dict(x=1, y=dict(z=[1, 2], w=None))\nb = [1, dict(q=2)]\nc = None\nd = dict(k=1)\ne = (1, 2)\nshared = d\n")
    def child(text): return Config.fromfile(write(tmp_path, child="_base_ = './base.py'\n" + text))
    assert child('').to_dict() == Config.fromfile(base).to_dict() == dict(a=dict(x=1, y=dict(z=[1, 2], w=None)), b=[1, dict(q=2)], c=None, d=dict(k=1), e=(1, 2), shared=dict(k=1))
    assert child('a = dict(y=dict(z=[3]))').a == dict(x=1, y=dict(z=[3], w=None))
    assert child('a = dict(_delete_=True, y=dict(z=[3]))').a == dict(y=dict(z=[3]))
    assert child('a = dict(y=dict(_delete_=True, v=1))').a == dict(x=1, y=dict(v=1))
    assert child('a = dict(_delete_=False, x=2)').a == dict(x=2, y=dict(z=[1, 2], w=None))
    assert child('new = dict(_delete_=True, v=1)').new == dict(_delete_=True, v=1)      # nothing to delete: the key stays, as in mmengine
    assert child('b = dict(_delete_=True, v=1)').b == dict(v=1)
    assert child('d = [1]').d == [1] and child('a = 3').a == 3 and child('e = [1]').e == [1]
    for text in ('c = dict(v=1)', 'b = dict(v=1)', 'e = dict(v=1)', 'a = dict(x=dict(v=1))', 'a = dict(y=dict(w=dict(v=1)))'):
        with pytest.raises(ConfigError, match=r'child\.py:2.*_delete_'): child(text)
    c = child("_base_.d.k = 5\ncopied = _base_.d\nsub = {{_base_.a.y}}\nitem = _base_.b[1].q + 1\nlate = dict(x={{_base_.a.x}})\n_base_.b[1].q = 9\nd = dict(m=_base_.d.k)")
    assert (c.d, c.shared, c.copied, c.sub, c.item, c.late, c.b) == (dict(k=5, m=5), dict(k=1), dict(k=5), dict(z=[1, 2], w=None), 3, dict(x=1), [1, dict(q=9)])
    c.copied.k, c.sub.z = 6, []
    assert c.d.k == 5 and c.a.y.z == [1, 2]
    write(tmp_path, other='a = 1\n')
    with pytest.raises(ConfigError, match="two files.*'a'.*other"): Config.fromfile(write(tmp_path, both="_base_ = ['base.py', 'other.py']"))

def test_formats_and_templates(tmp_path, monkeypatch):
    monkeypatch.setenv('DETBOOK_ROOT', 'here/')
    monkeypatch.delenv('DETBOOK_N', raising=False)
    write(tmp_path, base__json='{"a": {"x": 1}, "l": [1, {"y": 2.5}], "t": true, "n": null}')
    write(tmp_path, mid__yaml='_base_: base.json\na:\n  z: 1\nw: {{_base_.l}}\nt: !!python/tuple [1, 2]\n')
    c = Config.fromfile(write(tmp_path, top="""
        _base_ = ['mid.yaml']
        dir = './runs/{{ fileBasenameNoExtension }}{{fileExtname}}'
        root = '{{$DETBOOK_ROOT:there/}}x'
        n = {{$DETBOOK_N:80}}
        m = {{'$DETBOOK_N:8'}}
        y = {{ _base_.w }}[1]['y']
        """))
    assert c.to_dict() == dict(a=dict(x=1, z=1), l=[1, dict(y=2.5)], t=(1, 2), n=80, w=[1, dict(y=2.5)], dir='./runs/top.py', root='here/x', m=8, y=2.5)
    assert [Path(c.origin(k).file).name + f':{c.origin(k).line}' for k in ('a.x', 'a.z', 'l.1.y', 'dir', 'w', 't.1')] == ['base.json:1', 'mid.yaml:3', 'base.json:1', 'top.py:3', 'mid.yaml:4', 'mid.yaml:5']
    with pytest.raises(ConfigError, match='line 1.*DETBOOK_N'): Config.fromfile(write(tmp_path, bad='a = {{$DETBOOK_N:}}'))

EVIL = ['import os', 'from os import path', '__import__("os")', 'a = open("x")', 'exec("a")', 'a = eval("1")', 'a = getattr(1, "real")', 'a = (1).__class__', 'a = "".join.__self__', 'a = [].append.__func__',
        'a = dict.fromkeys', 'a = type(1)', 'a = vars()', 'a = globals()', 'a = lambda: 0', 'def f(): pass', 'class A: pass', 'with open("x") as f: pass', 'while True: pass', 'try: pass\nexcept: pass',
        'raise ValueError', 'assert False', 'global a', 'del a', 'a = (yield)', 'a = print', 'print("x")', 'a = "{0.__class__}".format(1)', 'a = _base_.__dict__', 'a = (b := 1)', 'async def f(): pass',
        '@f\ndef g(): pass', 'a = f"{open}"', 'a = [x for x in open("y")]', 'a = b"".fromhex("00")', 'a = input()', 'a = breakpoint()', 'a = __file__', 'match 1:\n  case 1: pass', '__a__ = 1', 'dict = 3', 'a = dict()()', 'a = [len][0]']
@pytest.mark.parametrize('text', EVIL)
def test_a_config_cannot_act(tmp_path, text):
    with pytest.raises(ConfigError, match=r'evil\.py, line \d'): Config.fromfile(write(tmp_path, evil=text))

COSTLY = ['a = 9**9**9', 'a = 2**-(9**8)', 'a = 1 << 9**9', 'a = [0] * 10**9', 'a = "x" * 10**9', 'a = b"x" * 10**9', 'a = range(10**12)', 'a = list(range(10**9))', 'a = [x for x in range(10**6) for y in range(10**6)]',
          'a = (1,)\n' + 'a = (a, a)\n'*50, 'a = (1,)\n' + 'a = (a, a)\n'*50 + 'b = {a: 1}', 'a = (1,)\n' + 'a = (a, a)\n'*50 + 'b = {}\nc = b.get(a)', '[1]\na = [1]\nb = [1]\n' + 'a = [a, a]\nb = [b, b]\n'*50 + 'c = a == b',
          'a = [1]\n' + 'a = [a, a]\n'*50 + 'b = f"{a}"', 'a = [1]\n' + 'a = [a, a]\n'*50 + 'b = str(a)', 'a = f"{1:999999999}"', 'a = "%999999999d" % 1', 'a = "a" * 9999\na = a.replace("a", a)', 'a = ["x" * 9999] * 9999\nb = "".join(a)',
          'a = []\na.append(a)', 'a = []\nfor i in range(9999):\n  for j in range(9999): a += [i]', 'a = "x"\nfor i in range(99): a += a', 'a = 3\nfor i in range(999): a *= a', 'a = ' + '(' * 900 + ')' * 900, 'a = ' + '-' * 9000 + '1',
          'a = sum([[1]] * 999, [])', 'a = sorted([(1,) * 999] * 9999)', 'a = [[1] * 999] * 999\nb = [a] * 999', 'a = {i: {j: 0 for j in range(999)} for i in range(9999)}', 'a = int("9" * 9999)', 'a = round(1, -10**9)**-1',
          'a = [1, 2]\n' + 'a.extend(a)\n'*60, 'a = [1] * 100\n' + 'a[0:0] = a\n'*60, 'a = zip(*[range(1000)] * 1000)', 'a = 9' + '9'*399, 'a = 0x' + 'f'*90_000, 'a = 9.0**999999', 'a = 10**400', '#'*200_000,
          'a = f"' + '{1}'*20_000 + '"', '_base_ = ["empty.py"] * 9999', 'with read_base():\n  from .empty import *\n'*2500, 'a = 1\n' + 'a = dict(a=a)\n'*200, 'a = {}\na["a"] = a', 'a = [[y for y in [1]] for x in range(15_000)]']
@pytest.mark.parametrize('text', COSTLY)
def test_a_small_file_costs_little(tmp_path, text, cpu_limit):
    write(tmp_path, empty='')
    with pytest.raises(ConfigError, match=r'(costly|empty)\.py') as e: Config.fromfile(write(tmp_path, costly=text))
    assert len(str(e.value)) < len(str(tmp_path)) + 300

def test_other_formats_are_safe(tmp_path):
    for name,text in dict(a__yaml='a: !!python/object/apply:os.system ["touch x"]', b__yaml='a: &a [1]\n' + ''.join(f'a{i}: &a{i} [*a{i-1 if i else ""}, *a{i-1 if i else ""}]\n' for i in range(40)),
                          c__yaml='a: &a [*a]', d__yaml='- 1', e__yaml='a: [1', f__json='{"a": 1,}', g__json='[' * 100000, h__json='[1]', i__json='{"_base_": 3}', j__txt='a = 1').items():
        with pytest.raises(ConfigError, match=r'\w\.(yaml|json|txt)'): Config.fromfile(write(tmp_path, **{name: text}))
    (tmp_path/'k.py').write_bytes(b'a = "\xff"')
    with pytest.raises(ConfigError, match='UTF-8'): Config.fromfile(tmp_path/'k.py')

UNREAD = {  # file, what it holds, what is said
    'bomb.yaml': ('a: &a [1]\n' + ''.join(f'a{i}: &a{i} [*a{i-1 if i else ""}, *a{i-1 if i else ""}]\n' for i in range(40)), 'costs more'),
    'merge.yaml': ('a0: &a0 {' + ', '.join(f'k{i}: 1' for i in range(1500)) + '}\n' + ''.join(f'b{i}: {{<<: [{", ".join(["*a0"]*200)}]}}\n' for i in range(80)), 'costs more'),
    'chain.yaml': ('a0: &a0 {x: 1}\n' + ''.join(f'a{i+1}: &a{i+1} {{<<: *a{i}, k{i}: 1}}\n' for i in range(2000)), 'costs more'), 'own.yaml': ('a: &a\n  <<: *a\n', 'nested too deeply'),
    'items.yaml': (''.join(f'a{i}: {i}\n' for i in range(7000)), 'costs more'), 'deep.yaml': ('a: ' + '['*50_000, 'line 1: nested more than 100 deep'), 'deep2.yaml': ('\n'.join(' '*i + 'a:' for i in range(400)), 'nested'),
    'twice.yaml': ('model:\n  type: A\n  type: B\n', "line 3: 'type' is given twice"), 'int.yaml': ('a: ' + '9'*400, 'number is too large'), 'int2.yaml': ('a: ' + '9'*50_000, 'line 1'), 'hex.yaml': ('a: 0x' + 'f'*50_000, 'number is too large'),
    'sixty.yaml': ('a: 1' + ':59'*20_000 + '.5', 'line 1.*no float'), 'day.yaml': ('x: 1\na: 2024-01-01', 'line 2: timestamp.*in quotes it is text'), 'day2.yaml': ('a: 2024-13-45', 'in quotes'), 'bad.yaml': ('a: !!int "x"', "line 1: 'x' is no int"), 'bool.yaml': ('a: !!bool "x"', 'no bool'),
    'pairs.yaml': ('a: !!pairs [x: 1]', 'line 1: pairs'), 'control.yaml': ('a: "\x00"', 'special characters'), 'version.yaml': ('%YAML ' + '1'*5000 + '.1\n---\na: 1', 'too large'), 'number.yaml': ('1: 2', 'names of settings are text, not 1'), 'on.yaml': ('on: 2', 'not True'),
    'large.yaml': ('#'*200_000, 'at most 100,000 bytes'), 'twice.json': ('{"model": {"type": "A",\n "type": "B"}}', "line 2: 'type' is given twice"), 'deep.json': ('{"a": ' + '['*3000 + ']'*3000 + '}', 'nested too deeply'), 'int.json': ('{"a": ' + '9'*400 + '}', 'number is too large'),
    'int2.json': ('{"a": ' + '9'*50_000 + '}', 'number is too large'), 'base.json': ('{"_base_": "' + 'a'*5000 + '"}', 'there is no such file')}
@pytest.mark.parametrize('name', UNREAD)
def test_a_small_file_of_any_format_costs_little(tmp_path, name, cpu_limit):
    (tmp_path/name).write_text(UNREAD[name][0])
    with pytest.raises(ConfigError, match=UNREAD[name][1]) as e: Config.fromfile(tmp_path/name)
    assert name in str(e.value) and len(str(e.value)) < 2*len(str(tmp_path)) + 250 and '\n' not in str(e.value)

def test_numbers_that_json_has_not(tmp_path):
    cfg = Config.fromfile(write(tmp_path, a__json='{"a": [Infinity,\n -Infinity], "b": NaN}'))
    assert cfg.a == [float('inf'), -float('inf')] and cfg.b != cfg.b and cfg.origin('a.1').line == 2

def test_odd_bases(tmp_path):
    (tmp_path/'folder.py').mkdir(); (tmp_path/'loop.py').symlink_to('loop.py'); (tmp_path/'zero.py').symlink_to('/dev/zero'); (tmp_path/'status.py').symlink_to('/proc/self/status')
    os.mkfifo(tmp_path/'pipe.py')
    with open(tmp_path/'large.py', 'wb') as f: f.truncate(10**9)
    for name,said in {'folder.py': 'no regular file', '.': 'no regular file', 'loop.py': 'no regular file', 'zero.py': 'no regular file', '/dev/zero': 'no regular file', 'pipe.py': 'no regular file', 'status.py': r'status\.py, line', 'large.py': r'large\.py.*100,000', 'a'*5000: 'no such file',
                      'a\nb.py': r"'a\\nb\.py'", 'a\0b.py': 'no such file', '\0/b.py': 'no such file', '\ud800.py': 'no such file', '/proc/self/environ': r'child\.py.*a config is a file of', 'mmdet::../x.py': 'leads out', 'mmdet::/etc/passwd': 'leads out', 'mmdet::' + 'a'*5000: 'package mmdet'}.items():
        with pytest.raises(ConfigError, match=said) as e: Config.fromfile(write(tmp_path, child=f'_base_ = {ascii(name)}'))
        assert len(str(e.value)) < len(str(tmp_path)) + 200 and '\n' not in str(e.value)
    for name in ('pipe.py', 'zero.py', 'loop.py'):
        with pytest.raises(ConfigError, match=f'{name} is no regular file'): Config.fromfile(tmp_path/name)
    for name in ('a'*5000, 'a\0b'):
        with pytest.raises(FileNotFoundError, match='there is no config'): Config.fromfile(name)
    for text in ("_base_ = 'folder.py'\n", '_base_: list = []', 'if 1: _base_ = []', '_base_, x = [], 1', 'del _base_'):
        with pytest.raises(ConfigError, match='base'): Config.fromfile(write(tmp_path, child=text))
    write(tmp_path, d0='a = 1')
    for i in range(20): write(tmp_path, **{f'd{i+1}': f'_base_ = ["d{i}.py", "e{i}.py"]', f'e{i}': f'b{i} = 1'})
    assert len(Config.fromfile(tmp_path/'d20.py')) == 21
    (tmp_path/'mark.py').write_bytes(b'\xef\xbb\xbfa = 1\r\nb = 2\r')
    assert Config.fromfile(tmp_path/'mark.py') == dict(a=1, b=2)

def test_costly_settings_of_a_command_line(cpu_limit):
    for text,said in {'a=' + '['*100_000: '10,000 letters', 'a=' + '['*3000 + ']'*3000: 'nested too deeply', 'a=[' + '('*2000 + '1' + ')'*2000 + ']': 'nested too deeply', 'a' + '.a'*4000 + '=1': 'nested', 'model.backbone.depth=' + '9'*400: 'too large', 'optim_wrapper.optimizer.lr=' + '9'*400: 'too large',
                      'train_pipeline.' + '9'*5000 + '.x=1': '5 items', 'a=' + 'x'*10**7: '10,000 letters', 'model.backbone.depth=\udc80': 'not allowed', 'a=dict(x=[i for i in range(10**9)])': 'costs more'}.items():
        with pytest.raises(ConfigError, match=said) as e: Config.fromfile('faster_rcnn_r50_fpn_1x_coco').override([text])
        assert len(str(e.value)) < 400

# ---- bases that are imported

def tree(folder, **files):
    "Files of a folder `configs`, by their paths; `__` is a slash."
    for name,text in files.items():
        path = folder/'configs'/f'{name.replace("__", "/")}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return path

def test_imported_bases(tmp_path):
    "What each gives is what mmengine 0.10.7 gives, with the names of classes for the classes."
    path = tree(tmp_path, base__net="""
        from torch.nn import BatchNorm2d
        from mmdet.models.detectors import FasterRCNN as Net, RPN
        size = (640, 480)
        model = dict(type=Net, backbone=dict(norm_cfg=dict(type=BatchNorm2d), depth=50), neck=dict(type='FPN', outs=5))
        pipeline = [dict(type='Load'), dict(type='Resize', scale=size)]
        loader = dict(dataset=dict(pipeline=pipeline), workers=2)
        """, base__run="""
        from torch.optim import SGD
        optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.02))
        hooks = dict(save=dict(interval=1))
        """, nets__mine="""
        from mmengine.config import read_base
        with read_base():
            from ..base.net import *
            from ..base.run import optim_wrapper as optim, hooks
        from torch.optim import AdamW
        model.update(backbone=dict(depth=101))
        model.merge(dict(neck=dict(_delete_=True, type='PAFPN')))
        optim['optimizer'].update(dict(type=AdamW))
        loader.dataset.pipeline[1].scale = tuple(2 * s for s in size)
        hooks.pop('save'), hooks.pop('nothing')
        head = dict(type=RPN)
        """)
    cfg = Config.fromfile(path)
    assert same(cfg, dict(size=(640, 480), model=dict(type='FasterRCNN', backbone=dict(norm_cfg=dict(type='BatchNorm2d'), depth=101), neck=dict(type='PAFPN')),
        pipeline=[dict(type='Load'), dict(type='Resize', scale=(640, 480))], loader=dict(dataset=dict(pipeline=[dict(type='Load'), dict(type='Resize', scale=(1280, 960))]), workers=2),
        optim=dict(optimizer=dict(type='AdamW', lr=.02)), hooks={}, head=dict(type='RPN')))
    where = lambda p: f'{Path(cfg.origin(p).file).name}:{cfg.origin(p).line}'
    assert [where(p) for p in ('model.type', 'model.backbone.depth', 'model.neck.type', 'optim.optimizer.type', 'optim.optimizer.lr', 'size')] == ['net.py:5', 'mine.py:7', 'mine.py:8', 'mine.py:9', 'run.py:3', 'net.py:4']
    assert Config.fromfile(write(tmp_path/'configs', both="_base_ = 'nets/mine.py'\nx = _base_.size")).x == (640, 480)     # a base of either kind
    assert 'AdamW' not in Config.fromfile(tmp_path/'configs'/'both.py')

def test_imported_recipe_is_built(tmp_path):
    path = tree(tmp_path, mine="""
        from mmengine.config import read_base
        with read_base():
            from mmdet.configs.faster_rcnn.faster_rcnn_r50_fpn_1x_coco import *
        from torch.nn import BatchNorm2d
        model.backbone.norm_cfg.update(type=BatchNorm2d)
        """)
    assert shapes(build(Config.fromfile(path).model)) == shapes(build(Config.fromfile('faster_rcnn_r50_fpn_1x_coco').model))

HOSTILE = {'import os': 'import a module', 'import mmdet.models as m': 'from module import Class', 'from os import system': 'not import', 'from os.path import join as j': 'not import', 'from torch import *': 'one by one', 'from .base import a': 'inside of with', 'from . import base': 'inside of with', 'from torch.optim import SGD as dict': 'the name dict', 'from a import b as __builtins__': 'the name __builtins__', 'from a import SGD\nSGD.__class__': 'inside Python', 'from a import system\nsystem("x")': 'not call',
           'with read_base():\n  from ..outside import *': 'leads out of .*configs', 'with read_base():\n  from ...outside import *': 'leads out', 'with read_base():\n  from ' + '.'*99 + 'etc.x import *': 'leads out', 'with read_base():\n  from .link import *': 'leads out', 'with read_base():\n  from .folder import *': 'no such file|no regular', 'with read_base():\n  from .bass import *': "did you mean 'base.py'",
           'with read_base():\n  from .base import aa': "no 'aa'; did you mean 'a'", 'with read_base():\n  from os.path import *': 'package.configs.module', 'with read_base():\n  from json.configs.x import *': 'package json', 'with read_base():\n  import os': 'from .module import names', 'with read_base():\n  a = 1': 'from .module import names', 'with read_base():\n  from . import base': 'from .module', 'with read_base() as x:\n  from .base import *': 'not use with',
           'with read_base(1):\n  from .base import *': 'not use with', 'with open("x"):\n  from .base import *': 'not use with', 'with read_base():\n  from .evil import *': 'leads back', '_base_ = []\nwith read_base():\n  from .base import *': 'not in both', 'with read_base():\n  from .up import *': 'leads out'}
@pytest.mark.parametrize('text', HOSTILE)
def test_imports_stay_in_the_folder_of_the_configs(tmp_path, text):
    write(tmp_path, outside='a = 1')
    path = tree(tmp_path, base='a = 1', up='with read_base():\n  from ..outside import *', evil=text)
    (path.parent/'link.py').symlink_to(tmp_path/'outside.py'); (path.parent/'folder.py').mkdir()
    with pytest.raises(ConfigError, match=HOSTILE[text]) as e: Config.fromfile(path)
    assert re.search(r'(evil|up)\.py(, line \d|: its base)', str(e.value))

def test_without_a_folder_called_configs(tmp_path):
    "The folder above the config's own is the highest, for its bases too."
    top = tmp_path/'a'/'b'; (top/'c').mkdir(parents=True)
    write(tmp_path/'a', far='x = 1'); write(top, near='x = 1', further='with read_base():\n  from ..far import *')
    assert Config.fromfile(write(top/'c', one='with read_base():\n  from ..near import *')) == dict(x=1)
    for text in ('from ...far', 'from ..further'):
        with pytest.raises(ConfigError, match='leads out'): Config.fromfile(write(top/'c', two=f'with read_base():\n  {text} import *'))
    assert Config.fromfile(top/'further.py') == dict(x=1)

# ---- nodes

def test_nodes_do_what_mmengines_do():
    "Each expectation was made with mmengine 0.10.7."
    node = lambda: ConfigDict(a=dict(x=1, y=2), b=3)
    d = node(); d.update(a=dict(x=5), c=dict(z=1)); assert d == dict(a=dict(x=5, y=2), b=3, c=dict(z=1)) and d.c.z == 1
    d = node(); d.update([('b', dict(w=1))], b=4, other=5); assert d == dict(a=dict(x=1, y=2), b=4, other=5)
    d = node(); d.update(dict(a=dict(x=6)), a=dict(y=7)); assert d == dict(a=dict(x=1, y=7), b=3)
    d = node(); d.merge(dict(a=dict(_delete_=True, x=9), b=dict(_delete_=True, q=1))); assert d == dict(a=dict(x=9), b=dict(q=1)) and d.b.q == 1
    d = node(); assert (d.pop('b'), d.pop('b'), d.pop('b', 7), d) == (3, None, 7, dict(a=dict(x=1, y=2)))
    d = node(); e = d | dict(a=dict(x=8)); assert (type(e), e, d) == (ConfigDict, dict(a=dict(x=8, y=2), b=3), node())
    e = dict(a=dict(q=1), f=2) | d; assert type(e) is ConfigDict and e == dict(a=dict(q=1, x=1, y=2), b=3, f=2)
    d |= dict(a=dict(x=8)); assert d == dict(a=dict(x=8, y=2), b=3)
    d = node(); s = d.copy(); s.a.x = 0; assert d.a.x == 0 and copy.deepcopy(d).a is not d.a and type(copy.copy(d)) is ConfigDict
    d = ConfigDict([('a', 1)], b=dict(c=2)); assert d.b.c == 2 and d.setdefault('e', dict(f=1)).f == 1 and d.get('no', 4) == 4 and ConfigDict.fromkeys('ab', 1) == dict(a=1, b=1)
    d.g = [dict(h=1), (dict(i=2),)]; assert d.g[0].h == 1 and d.g[1][0].i == 2

def test_what_is_not_there(tmp_path):
    write(tmp_path, mine='a = 1')
    with pytest.raises(FileNotFoundError, match="mine.py"): Config.fromfile(tmp_path/'mien.py')
    with pytest.raises(FileNotFoundError, match="mask-rcnn_r50_fpn_1x_coco"): Config.fromfile('mask_rcnn_r50_fpn_1x_cocos')
    with pytest.raises(FileNotFoundError, match="recipe 'mask-rcnn_r50_fpn_1x_coco'"): Config.fromfile('configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    with pytest.raises(IsADirectoryError): Config.fromfile(tmp_path)
    for text,said in {"_base_ = 'mien.py'": "mine.py", "_base_ = 'child.py'": 'leads back', "_base_ = 3": 'names files', "_base_ = 'nowhere::x.py'": 'package', "_base_ = f()": 'not call'}.items():
        with pytest.raises(ConfigError, match=said): Config.fromfile(write(tmp_path, child=text))
    cfg = Config.fromfile(write(tmp_path, child="_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\nx = 1"))
    assert cfg.model.type == 'RetinaNet' and cfg.x == 1

# ---- changing and writing

SET = {'model.backbone.depth=101': 101, 'optim_wrapper.optimizer.lr=1': 1., 'optim_wrapper.optimizer.lr=0.02/8': .0025, 'train_pipeline.2.scale=666,400': (666, 400), 'train_pipeline.2.scale=(666, 400)': (666, 400),
       'train_pipeline[2].scale=[666,400]': (666, 400), 'param_scheduler.1.milestones=[7,10]': [7, 10], 'param_scheduler.1.milestones=7,10': [7, 10], 'param_scheduler.1.milestones.0=7': 7, 'param_scheduler.-1.gamma=.5': .5,
       'load_from=a/b.pth': 'a/b.pth', 'load_from=None': None, 'resume=True': True, 'resume=false': False, 'data_root=2017': '2017', 'val_evaluator.metric=bbox': ['bbox'], 'val_evaluator.metric=[bbox, segm]': ['bbox', 'segm'],
       'model.backbone.norm_eval=0': False, 'train_cfg.max_epochs=1e2': 100, 'new.a.b=x=y': 'x=y', "log_level='DEBUG'": 'DEBUG', 'model.neck=dict(_delete_=True, type="FPN")': dict(type='FPN'), "model.backbone.init_cfg={'checkpoint': 'x'}": dict(type='Pretrained', checkpoint='x'),
       'model.roi_head.bbox_roi_extractor.featmap_strides.3=64': 64, 'work_dir=./runs/a-b_c': './runs/a-b_c'}
@pytest.mark.parametrize('text', SET)
def test_overrides(text):
    cfg, path = Config.fromfile('mask_rcnn_r50_fpn_1x_coco'), text.partition('=')[0]
    cfg.override([text])
    value = cfg
    for k in path.replace('[', '.').replace(']', '').split('.'): value = value[int(k) if isinstance(value, (list, tuple)) else k]
    assert same(value, SET[text]), value
    assert cfg.origin(path).file == f'--set {text}'

def test_wrong_overrides_leave_the_config_alone():
    cfg = Config.fromfile('mask_rcnn_r50_fpn_1x_coco')
    before = copy.deepcopy(cfg)
    for text,said in {'model.backbon.depth=1': "'backbone'", 'train_pipeline.7.scale=1': '5 items', 'train_pipeline.x=1': '5 items', 'log_level.x=1': "'INFO'", 'a': 'expected', '=1': 'expected', 'a=dict(b=open("x"))': 'not call', 'train_pipeline.0.type.x=1': 'LoadImageFromFile'}.items():
        with pytest.raises(ConfigError, match=said): cfg.override([text])
    assert cfg == before and same(cfg, before)

def test_merge_from_dict():
    cfg = Config.fromfile('mask_rcnn_r50_fpn_1x_coco')
    cfg.merge_from_dict({'model.backbone': dict(depth=18), 'train_pipeline.0': dict(_delete_=True, type='X'), 'param_scheduler': {'1': dict(gamma=.3)}, 'a.b': 1})
    assert (cfg.model.backbone.depth, cfg.model.backbone.type, cfg.train_pipeline[0], cfg.param_scheduler[1].gamma, cfg.param_scheduler[1].begin, cfg.a.b) == (18, 'ResNet', dict(type='X'), .3, 0, 1)
    cfg.model.backbone.depth = 34
    assert str(cfg.origin('model.backbone.depth')) == 'set by the program' and str(cfg.origin('model.backbone.style')) == 'recipe mask-rcnn_r50_fpn_1x_coco'

@by_name
def test_written_and_read_back(tmp_path, name):
    cfg = Config.fromfile(name)
    for suffix in ('.py', '.yaml'):
        cfg.dump(tmp_path/f'x{suffix}')
        assert same(Config.fromfile(tmp_path/f'x{suffix}'), cfg)
    plain = lambda v: {k:plain(x) for k,x in v.items()} if isinstance(v, dict) else [plain(x) for x in v] if isinstance(v, (list, tuple)) else v
    cfg.dump(tmp_path/'x.json')
    assert same(Config.fromfile(tmp_path/'x.json'), plain(cfg))

def test_odd_values_are_written_or_refused(tmp_path):
    odd = Config(dict(a=float('inf'), b={1: (2,), 'x.y': {3}, 'class': 0, '': []}, c='{{fileDirname}} {{_base_.x}} {{$HOME:x}} \n\'"\\', d=(), e=set(), f=-.5, g=range(3), h=b'\x00', i=None, j=1e-9, k=10**30, l='é\u2028'))
    odd.dump(tmp_path/'odd.py')
    assert same(Config.fromfile(tmp_path/'odd.py'), odd)
    for cfg,name,said in ((odd, 'x.json', 'key 1'), (Config(dict(a=torch.zeros(1))), 'x.py', 'a is tensor'), (Config({'a b': 1}), 'x.py', 'no name'), (Config(dict(a={1})), 'x.yaml', 'a is'), (odd, 'x.txt', 'a config is a file')):
        with pytest.raises(ConfigError, match=said): cfg.dump(tmp_path/name)

def test_nodes_are_dicts():
    cfg = Config.fromfile('retinanet_r50_fpn_1x_coco')
    for again in (copy.deepcopy(cfg), copy.copy(cfg), loads(dumps(cfg)), cfg.copy()):
        assert type(again) is Config and again == cfg and again.filename == cfg.filename == 'retinanet_r50_fpn_1x_coco'
    deep = copy.deepcopy(cfg)
    deep.model.backbone.depth = 18
    assert cfg.model.backbone.depth == 50 and isinstance(deep.train_pipeline[0], ConfigDict)
    deep.train_pipeline[1].with_mask = True
    deep.model |= dict(neck=dict(num_outs=4))
    assert deep.model.neck.num_outs == 4 and deep.model.neck.out_channels == 256
    assert deep.setdefault('x', dict(y=1)).y == 1 and deep.pop('x') == dict(y=1) and deep.get('x') is None
    del deep.model.neck
    with pytest.raises(AttributeError, match="'neck'"): deep.model.neck
    with pytest.raises(AttributeError, match="'backbone'"): deep.model.backbon
    with pytest.raises(AttributeError): del deep.model.neck
    assert not hasattr(deep.model, 'nothing') and dict(**deep.model)['type'] == 'RetinaNet' and json.dumps(deep.model)

def test_reading_imports_nothing():
    "Neither mmengine, nor PyYAML for a Python file, nor the network."
    code = "import sys; from detbook.config import Config; c = Config.fromfile('retinanet_r50_fpn_1x_coco'); assert not {'mmdet', 'mmengine', 'mmcv', 'fastai', 'matplotlib'} & set(sys.modules); print(c.model.type)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == 'RetinaNet\n'

def test_a_text_that_looks_like_a_variable_is_read_at_once(tmp_path):
    "Blanks and braces without end come back as they are; a pattern that goes back and forth would never end."
    for i, text in enumerate(('{{$A:' + ' '*25_000, '{{$A: x' * 4_000, '{{ ' * 8_000, '{{"$' + 'A'*25_000, '{{$A:' + 'x'*25_000)):
        (tmp_path/f'c{i}.py').write_text(f'a = """{text}"""\n')
        assert Config.fromfile(tmp_path/f'c{i}.py').a == text
