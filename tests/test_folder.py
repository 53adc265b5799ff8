"Training on a folder of one's own: VOC folders named in a config, what cannot be read, anchors, the small detector, batches that fit, backbones from the command line."
import json, shutil, subprocess, sys, warnings
from pathlib import Path
import pytest, torch
from test_training import COMMAND, config, same_run, toy
from detbook.config import Config
from detbook.data import CocoDataset
from detbook.formats import read_dataset
from detbook.pipeline import build_dataset
from detbook.testing import detbook_test
from detbook.toy import CLASSES, write_coco
from detbook.training import train
from detbook.writers import to_voc

pytestmark = pytest.mark.usefixtures('one_thread')

def quiet(f, *args, **kwargs):
    with warnings.catch_warnings(action='ignore'): return f(*args, **kwargs)

# ---------------------------------------------------------------- VOC folders in a config
@pytest.fixture(scope='module')
def years(tmp_path_factory):
    "The folders of two years, five pictures to learn from in each, and three to measure on."
    folder = tmp_path_factory.mktemp('devkit')
    scenes = CocoDataset(write_coco(folder/'scenes', 13, seed=25, size=64, empty=.3))
    quiet(to_voc, dict(trainval=scenes.subset(range(5)), test=scenes.subset(range(10, 13))), folder/'VOC2007')
    quiet(to_voc, dict(trainval=scenes.subset(range(5, 10))), folder/'VOC2012')
    return folder

VOC = '''
_base_ = '{base}'
steps, test_steps = _base_.steps, _base_.test_pipeline
train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', ignore_keys=['dataset_type'], datasets=[
    dict(type='{kind}', data_root='{root}/', ann_file=year + '/ImageSets/Main/trainval.txt', data_prefix=dict(sub_data_root=year + '/'), metainfo=dict(classes={classes}),
         filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=20), pipeline=steps, backend_args=None) for year in ('VOC2007', 'VOC2012')])))
val_dataloader = dict(dataset=dict(_delete_=True, type='{kind}', data_root='{root}/', ann_file='VOC2007/ImageSets/Main/test.txt', data_prefix=dict(sub_data_root='VOC2007/'),
    metainfo=dict(classes={classes}), test_mode=True, pipeline=test_steps, backend_args=None))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP', eval_mode='{mode}')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
'''

def voc_config(toy, years, path, kind='VOCDataset', mode='11points'):
    path.write_text(VOC.format(base=toy/'faster.py', root=years, kind=kind, mode=mode, classes=CLASSES))
    return path

def test_voc_sets_are_those_of_read_dataset(toy, years, tmp_path):
    cfg = Config.fromfile(voc_config(toy, years, tmp_path/'voc.py'))
    own = read_dataset(years/'VOC2007', split='test', classes=list(CLASSES))
    val = build_dataset(cfg.val_dataloader.dataset)
    assert val.to_coco() == own.to_coco() and val.name == own.name and val.test_mode
    part = cfg.train_dataloader.dataset.dataset.datasets[1]
    whole = build_dataset(dict(part, filter_cfg={}))
    assert whole.to_coco() == read_dataset(years/'VOC2012', classes=list(CLASSES)).to_coco()
    few = build_dataset(part)
    kept = [i for i in range(len(whole)) if len(whole.target(i)['boxes'])]
    assert 0 < len(kept) < len(whole) and few.image_ids.tolist() == [whole.image_ids.tolist()[i] for i in kept] and few.report['left_out'] == {'images without objects': len(whole) - len(kept)}
    for k, i in enumerate(kept):
        t, old = few.target(k), whole.target(i)
        small = (old['boxes'][:, 2:] - old['boxes'][:, :2]).amin(1) < 20
        assert torch.equal(t['boxes'], old['boxes']) and torch.equal(t['ignore'], old['ignore'] | small)
    assert few.report['ignored'] > whole.report['ignored']

def test_voc_sets_know_vocs_classes(years, tmp_path):
    "A VOCDataset has the challenge's twenty classes in their order, whatever few of them a folder shows; another folder's are its own."
    names = dict(zip(CLASSES, ('person', 'cat', 'dog', 'bus')))
    scenes = CocoDataset(write_coco(tmp_path/'scenes', 3, seed=6, size=64, empty=0.))
    scenes.classes = [names[c] for c in scenes.classes]
    quiet(to_voc, dict(train=scenes), tmp_path/'pets')
    entry = dict(data_root=str(tmp_path), ann_file='pets/ImageSets/Main/train.txt', data_prefix=dict(sub_data_root='pets'), pipeline=[])
    pets = build_dataset(dict(entry, type='VOCDataset'))
    assert len(pets.classes) == 20 and pets.classes == sorted(pets.classes) and pets.classes[14] == 'person'
    shown = {pets.classes[l] for i in range(3) for l in pets.target(i)['labels']}
    assert shown and shown <= {*names.values()}
    assert build_dataset(dict(entry, type='XMLDataset')).classes == sorted(shown)
    assert build_dataset(dict(type='mmdet.VOCDataset', data_root=str(years), ann_file='VOC2007/ImageSets/Main/test.txt', data_prefix=dict(img='VOC2007/'), pipeline=[])).classes == read_dataset(years/'VOC2007', split='test').classes

def test_voc_folders_of_other_names(years, tmp_path):
    shutil.copytree(years/'VOC2007'/'Annotations', tmp_path/'boxes')
    shutil.copytree(years/'VOC2007'/'JPEGImages', tmp_path/'photos')
    shutil.copy(years/'VOC2007'/'ImageSets'/'Main'/'test.txt', tmp_path/'list.txt')
    ds = build_dataset(dict(type='XMLDataset', data_root=str(tmp_path), ann_file='list.txt', ann_subdir='boxes', img_subdir='photos', pipeline=[]))
    assert ds.path(0).parent.name == 'photos' and ds.to_coco()['annotations'] == read_dataset(years/'VOC2007', split='test').to_coco()['annotations']

@pytest.mark.parametrize('mode', ['11points', 'area'])
def test_voc_trains_and_tests(toy, years, tmp_path, capsys, mode):
    "Two years, gone through twice; the figure that training gives at its end is the one of the test of what it saved."
    file = voc_config(toy, years, tmp_path/'voc.py', mode=mode)
    run, name = train(file, work_dir=tmp_path/'run'), 'voc07_mAP' if mode == '11points' else 'voc_mAP'
    assert run.card['steps'] == -(-sum(d['images'] for d in run.card['data'])*2 // 2) and len(run.card['data']) == 2
    result = detbook_test(str(file), str(run.detector))
    assert result.stats[name] == run.metrics[-1][name] and (tmp_path/'run'/f'best_{name}.safetensors').exists()
    assert list(result.per_class[name[:-4]]) == list(CLASSES)
    same_run(run, train(tmp_path/'run'/'config.py', work_dir=tmp_path/'again'))

# ---------------------------------------------------------------- a folder, and what cannot be read in it
@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "A VOC folder of twelve scenes of 64 pixels."
    folder = tmp_path_factory.mktemp('folder')
    quiet(to_voc, CocoDataset(write_coco(folder/'scenes', 12, seed=4, size=64, empty=0.)), folder/'pictures')
    return folder/'pictures'

@pytest.fixture
def damaged(pictures, tmp_path):
    "The same with a picture that was cut off; its name is given too."
    shutil.copytree(pictures, tmp_path/'damaged')
    file = sorted((tmp_path/'damaged'/'JPEGImages').iterdir())[-2]
    file.write_bytes(file.read_bytes()[:200])
    return tmp_path/'damaged', file.name

def test_on_bad_for_a_folder(config, damaged, tmp_path, capsys):
    folder, name = damaged
    with pytest.raises(ValueError, match=f'1 of .* cannot be read: {name}.*--on_bad skip'): train(config, work_dir=tmp_path/'a', data=folder, epochs=1)
    run = quiet(train, config, work_dir=tmp_path/'b', data=folder, epochs=1, on_bad='skip', validate=False)
    assert 'left out: 1 x damaged picture' in capsys.readouterr().out
    kept = [r['file_name'] for p in (tmp_path/'b'/'data').iterdir() for r in json.loads(p.read_text())['images']]
    assert len(kept) == 11 and not any(name in k for k in kept) and run.card['calls'][0]['arguments']['on_bad'] == 'skip'

def test_on_bad_for_a_config(config, toy, tmp_path, capsys):
    "Without --data, in training and in testing; the config of the run has it, so that the run can be gone on with."
    shutil.copytree(toy/'train', tmp_path/'train')
    d = json.loads((tmp_path/'train'/'instances.json').read_text())
    a = d['annotations'][0]
    file, a['bbox'] = tmp_path/'train'/'images'/d['images'][3]['file_name'], [*a['bbox'][:2], -1, 5]
    file.write_bytes(file.read_bytes()[:300])
    (tmp_path/'train'/'instances.json').write_text(json.dumps(d))
    more = ['train_cfg.max_epochs=1', f'train_dataloader.dataset.data_root={tmp_path}/train/']
    with pytest.raises(ValueError): train(config, work_dir=tmp_path/'a', set=more, validate=False)
    run = quiet(train, config, work_dir=tmp_path/'b', set=more, validate=False, on_bad='skip')
    said = capsys.readouterr().out
    assert 'left out of ' in said and '1 x damaged picture' in said and run.card['data'][0]['images'] == 7
    assert Config.fromfile(tmp_path/'b'/'config.py').train_dataloader.dataset.on_bad == 'skip'
    test = [f'test_dataloader.dataset.data_root={tmp_path}/train/', 'test_dataloader.dataset.ann_file=instances.json', 'test_dataloader.dataset.data_prefix.img=images/',
            f'test_dataloader.dataset.metainfo.classes={list(CLASSES)}', f'test_evaluator.ann_file={tmp_path}/train/instances.json', 'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False']
    with pytest.raises(ValueError): detbook_test(str(config), str(run.detector), set=test)
    result = quiet(detbook_test, str(config), str(run.detector), set=test, on_bad='skip')
    assert 'left out of ' in capsys.readouterr().out
    kept = quiet(CocoDataset, tmp_path/'train'/'instances.json', on_bad='skip')
    assert sum(v['truths'] for v in result.per_class['bbox'].values()) == kept.report['objects']
    with pytest.raises(ValueError, match="'skip'|skip"): train(config, work_dir=tmp_path/'c', on_bad='skp')

def test_every_rank_opens_its_share(damaged, monkeypatch, tmp_path):
    "Two ranks open each picture once between them; what one finds, both say, before anything is trained."
    from detbook import adapt
    opened, plain = [], adapt.scan_pictures
    monkeypatch.setattr(adapt, 'scan_pictures', lambda paths, **more: opened.append(list(paths)) or plain(paths, **more))
    shard, ds = adapt.shard, read_dataset(damaged[0])
    for rank in (0, 1):
        monkeypatch.setattr(adapt, 'shard', lambda n: shard(n, rank, 2))
        if rank == 0: adapt._check_pictures(ds)
        else:
            with pytest.raises(ValueError, match=f'1 of 12 pictures cannot be read: {damaged[1]}'): adapt._check_pictures(ds)
    assert sorted(opened[0] + opened[1]) == sorted(ds.path(i) for i in range(12)) and len(opened[0]) == 6

def test_two_processes_look_through_a_folder(config, damaged, tmp_path):
    import os, socket
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    words = [*COMMAND, str(config), '--data', str(damaged[0]), '--work_dir', str(tmp_path/'run'), '--launcher', 'pytorch']
    env = os.environ | dict(WORLD_SIZE='2', LOCAL_WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), OMP_NUM_THREADS='1')
    both = [subprocess.Popen(words, env=env | dict(RANK=str(r), LOCAL_RANK=str(r)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in (0, 1)]
    said = [p.communicate(timeout=240)[0] for p in both]
    assert [p.returncode for p in both] == [2, 2], said
    for text in said: assert damaged[1] in text and 'Traceback' not in text

# ---------------------------------------------------------------- anchors
def anchored(pictures, folder, recipe, **choices):
    from detbook.adapt import Choices, adapt_config
    cfg = Config.fromfile(recipe)
    made, said = adapt_config(cfg, pictures, folder, Choices(**choices))
    return cfg.model, made, next((s for s in said if 'anchors' in s), '')

def covered(cfg, scale):
    "The share of the boxes that the anchors of a config reach, by all pairs of anchor and box."
    from detbook.boxes import iou_matrix
    from detbook.build import build_detector
    from detbook.tta import view_size
    ds, got = build_dataset(dict(cfg.train_dataloader.dataset, pipeline=[])), []
    model = build_detector(cfg.model)
    gen = (getattr(model, 'rpn_head', None) or model.bbox_head).anchors
    for i in range(len(ds)):
        t = ds.target(i)
        h, w = view_size(t['ori_size'], scale)
        H, W = -(-h // 32) * 32, -(-w // 32) * 32
        anchors = torch.cat(gen.grid([(-(-H // s), -(-W // s)) for s in gen.strides]))
        got.append(iou_matrix(anchors, t['boxes'].as_subclass(torch.Tensor)[~t['ignore']] * (h / t['ori_size'][0])).amax(0) >= .5)
    return float(torch.cat(got).float().mean())

@pytest.mark.parametrize('recipe,head,key', [('faster-rcnn_r50_fpn_1x_coco', 'rpn_head', 'scales'), ('retinanet_r50_fpn_1x_coco', 'bbox_head', 'octave_base_scale')])
def test_anchors_are_fitted(pictures, tmp_path, recipe, head, key):
    was, cfg, line = anchored(pictures, tmp_path, recipe, size=64)
    now = cfg.model[head].anchor_generator
    assert now[key] != was[head].anchor_generator[key] and f'model.{head}.anchor_generator.{key} = {now[key]}' in line
    reach = covered(cfg, (107, 64))
    assert reach > .9 and f'{round(reach*100)}% with' in line                     # counted over all anchors, one picture at a time
    kept = anchored(pictures, tmp_path, recipe, size=64, anchors='keep')
    assert kept[1].model[head].anchor_generator == was[head].anchor_generator and 'leaves them' in kept[2]
    assert covered(kept[1], (107, 64)) < reach - .05 and len(now.ratios) == len(was[head].anchor_generator.ratios)
    large = anchored(pictures, tmp_path, recipe, size=256)
    assert large[1].model[head].anchor_generator == was[head].anchor_generator and 'with' not in large[2]

def test_anchors_of_other_ratios(tmp_path):
    "Boxes five times as high as wide: the ratios are those of the boxes."
    from PIL import Image
    (tmp_path/'images').mkdir()
    for i in range(4): Image.new('RGB', (200, 200)).save(tmp_path/'images'/f'{i}.png')
    anns = [dict(id=i*9 + k, image_id=i, category_id=1, bbox=[10 + 18*k, 10, 14, 70 + 4*k], iscrowd=0) for i in range(4) for k in range(9)]
    (tmp_path/'instances.json').write_text(json.dumps(dict(images=[dict(id=i, file_name=f'images/{i}.png', height=200, width=200) for i in range(4)], annotations=anns, categories=[dict(id=1, name='pole')])))
    was, cfg, line = anchored(tmp_path/'instances.json', tmp_path/'run', 'faster-rcnn_r50_fpn_1x_coco', val=.25, size=200)
    now = cfg.model.rpn_head.anchor_generator
    assert all(4.9 < r < 7.5 for r in now.ratios) and len(now.ratios) == 3 and 'ratios' in line and covered(cfg, (333, 200)) > .9

def test_steps_are_counted_for_all_processes(pictures, tmp_path):
    "Nine pictures, one per step: nine steps alone; three for three processes, so a warm-up of a tenth of twenty epochs is six steps and not eighteen."
    from detbook.adapt import Choices, adapt_config
    for processes, steps, words in ((1, 9, '(9 pictures, 1 per step)'), (3, 3, '(9 pictures, 1 per step on each of 3 processes)')):
        made, said = adapt_config(Config.fromfile('faster-rcnn_r50_fpn_1x_coco'), pictures, tmp_path/str(processes), Choices(val=.25, epochs=20, batch_size=1), processes=processes)
        assert f'20 epochs of {steps} steps {words}' in next(l for l in said if 'epochs of' in l)
        assert made.param_scheduler[0]['end'] == 2*steps

def test_points_need_no_anchors(pictures, tmp_path):
    assert anchored(pictures, tmp_path, 'faster-rcnn_r50_fpn_fcos-rpn_1x_coco')[2] == 'FCOSHead has points and no anchors: nothing to fit'

# ---------------------------------------------------------------- the small detector, and batches that fit
def test_small_model_is_that_of_the_demo():
    from detbook.adapt import small_config
    from detbook.backbone import ResNet
    from detbook.build import build_detector
    from detbook.demo import small_detector
    from detbook.describe import describe
    from detbook.efficientnet import EfficientNetLite
    cfg, said = small_config()
    own = EfficientNetLite(frozen_stages=1, norm_eval=True, normalize_outputs=True) if cfg.model.backbone.type == 'EfficientNetLite' else ResNet(18)
    a, b = describe(build_detector(cfg.model)), describe(small_detector(80, masks=False, crowded=True, backbone=own))
    for d in (a, b): d['roi_head'].pop('mask_extractor')        # there are no masks to read it
    assert a == b and 'small detector' in said

def test_small_model_without_the_package(monkeypatch, pictures, tmp_path, capsys):
    "From scratch: it says so, and no branch of a block sleeps."
    from detbook import adapt
    from detbook.build import build_detector
    def absent(name): raise FileNotFoundError(name)
    monkeypatch.setattr(adapt, 'find_url', absent)
    cfg, said = adapt.small_config()
    net = build_detector(cfg.model).backbone
    assert cfg.model.backbone.type == 'ResNet' and "pip install 'detbook[lite]'" in said
    assert all(bool((m.weight == 1).all()) for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))

def test_small_model_trains(pictures, tmp_path, capsys):
    run = train(model='small', data=pictures, work_dir=tmp_path/'run', epochs=1, size=64, batch_size=4)
    said = capsys.readouterr().out
    assert 'the small detector' in said and f'detbook_predict PICTURE {run.detector}' in said and run.card['model'] == 'FasterRCNN'
    same_run(run, train(tmp_path/'run'/'config.py', work_dir=tmp_path/'again'))
    for wrong, words in ((dict(model='small'), '--data'), (dict(config='rpn_r50_fpn_1x_coco', model='small', data=pictures), 'one of them'), (dict(data=pictures), 'expected a config'), (dict(model='tiny', data=pictures), 'small')):
        with pytest.raises(ValueError, match=words): train(**wrong)

def test_commands_without_a_config(capsys):
    from detbook.cli import run_command
    from detbook.training import detbook_train
    for words, expected in (('--epochs 3', 'expected a config'), ('--model tiny --data x', "'tiny' is none of small"), ('rpn_r50_fpn_1x_coco --data x --batch_size all', "'all' is neither a number nor auto"),
                            ('--model small', '--data'), ('rpn_r50_fpn_1x_coco --anchors keep', '--anchors goes with --data'), ('rpn_r50_fpn_1x_coco --on_bad drop', "'drop' is none of raise, skip, clip")):
        try: status = run_command(detbook_train, words.split())
        except SystemExit as e: status = e.code
        said = capsys.readouterr().err.strip().splitlines()
        assert status == 2 and len(said) == 1 and said[0].startswith('detbook_train: ') and expected in said[0], said

def test_batch_that_fits(config, pictures, tmp_path, monkeypatch):
    "The trial steps are real; how much memory there is, is given: the least that holds three pictures takes three."
    from detbook import adapt
    from detbook.adapt import Choices, adapt_config
    cfg, peaks, plain = Config.fromfile(config), [], adapt._try_steps
    monkeypatch.setattr(adapt, '_try_steps', lambda *args: peaks.append(plain(*args)) or peaks[-1])
    made, said = adapt_config(cfg, pictures, tmp_path, Choices(val=.25, batch_size='auto'))
    (one, two), n = peaks[0]['peaks'], made.train_dataloader.batch_size
    assert two >= one > 10**8 and n == min(9, len(build_dataset(made.train_dataloader.dataset))) and f'{n} pictures per step' in said[3] and f'{one/2**30:.2f} GB with one' in said[3]
    each = max(two - one, 12*64*64)
    for free, expected in ((one + 2.5*each, 3), (one + .5*each, 1), (one + 100*each, n)):
        monkeypatch.setattr(adapt, '_try_steps', lambda *args: peaks[0])
        monkeypatch.setattr(adapt, '_free_memory', lambda: free/.8 + 1)
        made, said = adapt_config(cfg, pictures, tmp_path, Choices(val=.25, batch_size='auto'))
        assert made.train_dataloader.batch_size == expected, said[3]
    monkeypatch.setattr(adapt, '_free_memory', lambda: one)
    with pytest.raises(ValueError, match='one picture of 64 x 64 pixels takes .* try a smaller size'): adapt_config(cfg, pictures, tmp_path, Choices(batch_size='auto'))

def test_the_largest_picture():
    from detbook.adapt import largest_size
    sizes = torch.tensor([[480, 640], [640, 480], [100, 300]])
    def largest(*steps, grouped=True):
        cfg = Config(dict(train_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=list(steps)), **dict(batch_sampler=dict(type='AspectRatioBatchSampler')) if grouped else {})))
        return largest_size(cfg, sizes)
    assert largest(dict(type='Resize', scale=(1333, 800))) in ((800, 1067), (1067, 800))
    assert largest(dict(type='Resize', scale=(1333, 800)), grouped=False) == (1067, 1333)
    assert largest(dict(type='RandomChoiceResize', scales=[(1333, 640), (1333, 800)])) in ((800, 1067), (1067, 800))
    assert largest(dict(type='RandomResize', scale=(640, 640), ratio_range=(.5, 2.))) in ((960, 1280), (1280, 960))
    assert largest(dict(type='RandomResize', scale=(640, 640), ratio_range=(.5, 2.)), dict(type='RandomCrop', crop_size=(512, 300))) in ((300, 512),)
    assert largest() in ((480, 640), (640, 480))

# ---------------------------------------------------------------- other backbones
TINY_NECK = ['model.neck.in_channels=[64, 128]', 'train_cfg.max_epochs=1']

def timm_backbone(**more): return f"model.backbone=dict(_delete_=True, {', '.join(f'{k}={v!r}' for k,v in (dict(type='TIMMBackbone', model_name='resnet18', features_only=True, pretrained=False, out_indices=(1, 2)) | more).items())})"

def test_timm_from_the_command_line(config, tmp_path, monkeypatch):
    "Built, trained, saved, loaded; the file needs neither config nor network."
    timm = pytest.importorskip('timm')
    from detbook.efficientnet import TimmBackbone
    from detbook.weights import load_detector
    asked, plain = [], timm.create_model
    monkeypatch.setattr(timm, 'create_model', lambda name, pretrained=False, **more: asked.append(pretrained) or plain(name, pretrained=False, **more))
    run = train(config, work_dir=tmp_path/'run', set=[timm_backbone(), *TINY_NECK], validate=False)
    model = load_detector(run.detector)
    assert isinstance(model.backbone, TimmBackbone) and model.backbone.out_channels == [64, 128] and model.backbone.out_indices == (1, 2)
    assert not any('layer3' in k for k in model.state_dict()) and not any(asked)
    with torch.no_grad(): assert len(model.predict([torch.zeros(3, 64, 64)])) == 1
    train(config, work_dir=tmp_path/'own', set=[timm_backbone(pretrained=True, type='mmpretrain.TIMMBackbone'), *TINY_NECK], validate=False)
    assert asked.count(True) == 1                                               # fetched once, by the training command
    for wrong, words in ((dict(features_only=False), 'features_only'), (dict(model_name='resnet81'), 'resnet81'), (dict(out_indices=(7,)), 'stages'), (dict(norm='BN'), 'no such setting')):
        with pytest.raises(ValueError, match=words): train(config, work_dir=tmp_path/'x', set=[timm_backbone(**wrong), *TINY_NECK])

def test_timm_is_missing(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ValueError, match=r"model.backbone.type = 'TIMMBackbone'.*pip install 'detbook\[timm\]'"): train(config, work_dir=tmp_path/'run', set=[timm_backbone(), *TINY_NECK])

def test_timm_under_its_former_address():
    "Files of before name the class by the chapter that it stood in."
    pytest.importorskip('timm')
    from detbook import efficientnet, weights
    from detbook.describe import describe, rebuild
    assert weights.TimmBackbone is efficientnet.TimmBackbone
    old = describe(efficientnet.TimmBackbone('resnet18', strides=(8, 16)))
    old = {k: v for k,v in old.items() if k != 'out_indices'} | dict(type='detbook.weights.TimmBackbone')
    assert rebuild(old).out_channels == [128, 256]

def test_efficientnet_from_the_command_line(config, tmp_path, capsys):
    "Another type alone, then the right backbone with the old neck, then all that the messages say."
    refused = lambda *more: pytest.raises(ValueError, match=more[0])
    with refused(r'depth = 18 .*EfficientNetLite has no such setting.*--set "model.backbone=dict\(_delete_=True, type=.EfficientNetLite.\)" leaves'):
        train(config, work_dir=tmp_path/'a', set=['model.backbone.type=EfficientNetLite'])
    lite = "model.backbone=dict(_delete_=True, type='EfficientNetLite', out_indices=(0, 1))"
    with refused(r'model.neck.in_channels = .*gives \[24, 40\]: set model.neck.in_channels=\[24,40\]'): train(config, work_dir=tmp_path/'b', set=[lite])
    run = train(config, work_dir=tmp_path/'c', set=[lite, 'model.neck.in_channels=[24,40]', 'train_cfg.max_epochs=1'], validate=False)
    from detbook.weights import load_detector
    assert type(load_detector(run.detector).backbone).__name__ == 'EfficientNetLite'
