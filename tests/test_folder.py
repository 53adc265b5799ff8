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
