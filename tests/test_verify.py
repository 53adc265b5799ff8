"A recorded run is made again: what is as it was comes out to the last digit, and each thing that was changed since is named."
import json, os, shutil
import pytest
from detbook.cli import run_command
from detbook.config import Config
from detbook.runs import Run
from detbook.toy import write_coco
from detbook.training import train
from detbook.verify import detbook_verify, rerun, verify

pytestmark = pytest.mark.usefixtures('one_thread')
CONFIG = '''
_base_ = 'faster-rcnn_r50_fpn_1x_coco'
steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root='{root}/toy/', ann_file='instances.json',
    data_prefix=dict(img='images/'), metainfo=dict(classes=('digit', 'circle', 'triangle', 'square')), filter_cfg=dict(filter_empty_gt=True, min_size=0), pipeline=steps))
val_dataloader, val_evaluator, val_cfg = None, None, None
test_dataloader, test_evaluator, test_cfg = None, None, None
train_cfg = dict(max_epochs=3)
optim_wrapper = dict(optimizer=dict(lr=0.005), clip_grad=dict(max_norm=10))
auto_scale_lr = dict(base_batch_size=2)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=2))
model = dict(backbone=dict(depth=18, num_stages=2, out_indices=(0, 1), frozen_stages=-1, norm_eval=False, init_cfg=None), neck=dict(in_channels=[64, 128], out_channels=16, num_outs=3),
    rpn_head=dict(in_channels=16, feat_channels=16, anchor_generator=dict(scales=[6], strides=[4, 8, 16])),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=16, featmap_strides=[4, 8]), bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=4)))
'''

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('verify')
    write_coco(d/'toy', 4, seed=0, size=64, crowd=0, empty=0)
    (d/'small.py').write_text(CONFIG.format(root=d))
    return d

@pytest.fixture(scope='module')
def run(folder): return train(folder/'small.py', work_dir=folder/'run', validate=False, keep_state=True)

@pytest.fixture
def copied(run, tmp_path):
    "The folder of the run, to be changed; without its states, so that it is made again from the seed."
    shutil.copytree(run.work_dir, tmp_path/'run')
    for p in (tmp_path/'run').glob('resume*'): p.unlink()
    return tmp_path/'run'

def edit(path, change):
    d = json.loads(path.read_text())
    change(d)
    path.write_text(json.dumps(d))

def names(found): return [r.name for r in found.differences]

def kinds(found): return {n.split(' of ')[0].split(':')[0].split(' ')[0] for n in names(found)}

@pytest.fixture
def put_back(folder):
    "The data as it was, after a test that changes it."
    files = {p: p.read_bytes() for p in (folder/'toy').rglob('*') if p.is_file()}
    yield
    for p, content in files.items(): p.write_bytes(content)

# ---- as it was

def test_a_run_comes_out_again_and_is_only_read(copied):
    files = {p.name: p.read_bytes() for p in copied.iterdir()}
    found = verify(copied, 6)
    assert found.equal and found.exact and found.start == 0, found
    said  = [r.name for r in found.rows]
    assert [n for n in said if n.startswith('step')] == [*(f'step {k}: 6 figures' for k in range(1, 7)), 'step 0: first weights', 'step 4: epoch_2.safetensors', 'step 6: weights'], said
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == files
    assert not [r for r in found.rows if r.verdict != 'equal'] and 'to the last digit' in repr(found)

def test_from_a_state(run):
    found = verify(run, 6)
    assert found.equal and found.start == 4, found          # resume_previous is the state of step 4
    assert 'step 6: weights' in [r.name for r in found.rows] and 'step 0: first weights' not in [r.name for r in found.rows]

def test_command(run, copied, capsys):
    assert run_command(detbook_verify, [str(copied)]) == 0 and 'steps 1 to 1 come out again' in capsys.readouterr().out
    lines = (copied/'log.jsonl').read_text()
    (copied/'log.jsonl').write_text(lines.replace('"loss": ', '"loss": 1', 1))
    assert run_command(detbook_verify, [str(copied), '--step', '1']) == 1 and 'DIFFERS  step 1: loss: ' in capsys.readouterr().out
    for words, hint in ((['--step', '99'], 'the log has lines of 6 steps'), (['--step', '0'], 'step'), (['--tolerance', '-1'], 'tolerance')):
        assert run_command(detbook_verify, [str(copied), *words]) == 2 and hint in capsys.readouterr().err
    assert run_command(detbook_verify, [str(copied/'nothing')]) == 2 and 'holds no run' in capsys.readouterr().err

# ---- what was changed is named

def test_a_picture(copied, folder, put_back):
    from PIL import Image
    path = folder/'toy'/'images'/'000001.png'
    picture = Image.open(path).copy()
    picture.paste((255, 0, 0), (0, 0, 20, 20))
    picture.save(path)
    found = verify(copied, 2)
    assert kinds(found) == {'pictures', 'step'} and str(folder/'toy'/'images') in names(found)[0], found
    assert not [r for r in found.differences if 'first weights' in r.name]

def test_an_annotation(copied, folder, put_back):
    edit(folder/'toy'/'instances.json', lambda d: d['annotations'][0]['bbox'].__setitem__(2, d['annotations'][0]['bbox'][2] - 3))
    found = verify(copied, 2)
    assert kinds(found) == {'annotations', 'step'} and 'instances.json' in names(found)[0], found

def test_a_figure_of_the_log(copied, run):
    lines = [json.loads(l) for l in (copied/'log.jsonl').read_text().splitlines()]
    lines[1]['loss_cls'] -= 1e-6
    (copied/'log.jsonl').write_text(''.join(json.dumps(l) + '\n' for l in lines))
    assert names(verify(copied, 2)) == ['step 2: loss_cls'] and verify(copied, 1).equal

def test_the_seed(copied):
    edit(copied/'run.json', lambda d: d.update(seed=3))
    found = verify(copied, 1)
    assert names(found)[0] == 'seed' and 'step 0: first weights' in names(found), found

def test_a_setting(copied):
    text = (copied/'config.py').read_text()
    cfg = Config.fromfile(copied/'config.py')
    cfg.override(['optim_wrapper.optimizer.lr=0.006'])
    (copied/'config.py').write_text(cfg.dump())
    assert text != cfg.dump()
    found = verify(copied, 2)
    assert 'setting optim_wrapper.optimizer.lr' in names(found) and kinds(found) == {'setting', 'step'}, found

def test_weights(copied):
    edit(copied/'run.json', lambda d: d['proof']['weights'].update({'6': 1}))
    assert names(verify(copied, 6)) == ['step 6: weights'] and verify(copied, 2).equal

def test_other_versions_bring_a_tolerance(copied):
    edit(copied/'run.json', lambda d: d['versions'].update(torch='1.0'))
    (copied/'log.jsonl').write_text(''.join(json.dumps({k: round(v*1.002, 6) if 'loss' in k else v for k, v in json.loads(l).items()}) + '\n' for l in (copied/'log.jsonl').read_text().splitlines()))
    found = verify(copied, 2)
    assert found.equal and not found.exact and 'within the tolerance' in repr(found) and not [r for r in found.rows if 'weights' in r.name]
    assert [(r.name, r.recorded) for r in found.rows if r.verdict == 'note'] == [('torch', '1.0')]
    assert {n.split(': ')[1] for n in names(verify(copied, 1, tolerance=1e-4))} >= {'loss', 'loss_cls'}

# ---- cards of earlier versions, and what cannot be made again

def test_a_card_without_a_proof(copied):
    edit(copied/'run.json', lambda d: d.pop('proof'))
    found = verify(copied, 2)
    assert found.equal and not found.exact and {r.name.split(' of ')[0] for r in found.rows if r.verdict == 'unknown'} == {'seed', 'settings', 'pictures'}, found
    assert 'finished after step 6' in repr(Run(copied))

def test_what_cannot_be_made_again(copied, run):
    edit(copied/'run.json', lambda d: d['calls'].append(dict(d['calls'][0], after_step=2, changed={'optim_wrapper.optimizer.lr': [1, 2]})))
    with pytest.raises(ValueError, match='other settings after step 2: optim_wrapper.optimizer.lr'): verify(copied, 3)
    assert verify(copied, 2).equal
    edit(copied/'run.json', lambda d: d['arguments'].update(cache_features=True))
    with pytest.raises(ValueError, match='kept features'): verify(copied, 1)
    (copied/'log.jsonl').write_text('')
    edit(copied/'run.json', lambda d: d['arguments'].update(cache_features=False))
    with pytest.raises(ValueError, match='has no lines'): verify(copied)
    (copied/'config.py').unlink()
    with pytest.raises(FileNotFoundError, match='no config.py'): verify(copied)
    with pytest.raises(FileNotFoundError, match='no config.py'): rerun(copied)

def test_rerun(run, copied, tmp_path):
    plain = lambda lines: [{k: v for k, v in l.items() if k not in ('seconds', 'memory')} for l in lines]
    twin = rerun(copied/'run.json', tmp_path/'twin')
    assert plain(twin.log) == plain(run.log) and twin.card['proof'] == run.card['proof'] and twin.work_dir == tmp_path/'twin'
    with pytest.raises(ValueError, match='holds a run already'): rerun(run.card, tmp_path/'twin')

@pytest.mark.skipif(os.environ.get('DETBOOK_SLOW') != '1', reason='four processes')
def test_two_processes_are_made_again_as_two(folder, tmp_path):
    run = train(folder/'small.py', work_dir=tmp_path/'two', validate=False, gpus=2, set=['train_cfg.max_epochs=2'])
    found = verify(run, 2)
    assert found.equal and found.exact and run.card['world_size'] == 2, found
