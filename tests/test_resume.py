"What a run leaves when something goes wrong, and what the next one makes of it: each fault is injected, in one process and in two."
import json, os, re, resource, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
import detbook.runs as runs, detbook.trainer as trainer
from detbook.reading import read_checkpoint
from detbook.checkpoint import save_checkpoint
from detbook.nodes import ConfigError
from detbook.config import Config
from detbook.settings import check_names
from detbook.recipes import recipe_names
from detbook.runs import checksum
from detbook.runs import Run, lock_folder, read_state
from detbook.trainer import Trainer
from detbook.training import read_training_config, train
from test_training import COMMAND, config, refuses, same_run, start, stopped_at, straight, toy, wait_for

pytestmark = pytest.mark.usefixtures('one_thread')

def rewritten(path, **notes):
    "A state with other notes, its checksum right."
    found = read_checkpoint(path)
    more = found.metadata['state'] | notes
    save_checkpoint(path, dict(found), dict(state={k:v for k,v in more.items() if v is not ...}, checksum=checksum(found)))

def descendants(pid):
    "The ranks that a run has started, in their order."
    found = [int(c) for c in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
    return [c for c in found if b'spawn_main' in Path(f'/proc/{c}/cmdline').read_bytes()]

def in_session(*words, **env):
    "The command in a session of its own, as a terminal or a scheduler starts it: `os.killpg` reaches all of its processes."
    return subprocess.Popen([*COMMAND, *map(str, words)], env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONUNBUFFERED='1') | env, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)

def ended(process, seconds=240):
    "Exit status and words of a process; no traceback among them."
    said = process.communicate(timeout=seconds)[0]
    assert 'Traceback' not in said, said
    return process.returncode, said

# ---- other settings

def test_each_difference_is_said_and_kept(config, toy, tmp_path, monkeypatch, capsys):
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path)
    capsys.readouterr()
    other = ['optim_wrapper.optimizer.lr=0.001', 'train_dataloader.dataset.pipeline.2.prob=0', 'model.test_cfg.rcnn.score_thr=0.2', 'model.train_cfg.rcnn.assigner.pos_iou_thr=0.6', 'train_cfg.max_epochs=4']
    again = train(config, work_dir=tmp_path, resume=True, set=other, keep_state=True)
    said = capsys.readouterr().out
    rows = {l.split()[0]: l.split(maxsplit=1)[1] for l in said.splitlines() if l.startswith('  ') and '->' in l}
    assert {k: re.sub(r'\s+', ' ', v) for k,v in rows.items()} == {'optim_wrapper.optimizer.lr': '0.005 -> 0.001', 'train_dataloader.dataset.pipeline.2.prob': '0.5 -> 0.0',
        'model.test_cfg.rcnn.score_thr': '0.05 -> 0.2', 'model.train_cfg.rcnn.assigner.pos_iou_thr': '0.5 -> 0.6', 'train_cfg.max_epochs': '3 -> 4'}
    first, second = again.card['calls']
    assert first['arguments']['set'] == [] and first['after_step'] == 0 and first['changed'] == {} and first['status'] == 'stopped' and first['step'] == 6
    assert second['arguments']['set'] == other and second['after_step'] == 6 and second['changed']['optim_wrapper.optimizer.lr'] == [.005, .001] and second['status'] == 'finished'
    assert first['rate'] != second['rate'] and [l['step'] for l in again.log] == list(range(1, 17))
    train(config, work_dir=tmp_path, resume=True, set=other)
    assert 'other settings' not in capsys.readouterr().out and len(again.card['calls']) == 3

def test_data_of_the_same_name_with_other_content(config, toy, tmp_path, monkeypatch, capsys):
    own = tmp_path/'train'
    shutil.copytree(toy/'train', own)
    words = dict(work_dir=tmp_path/'run', set=[f'train_dataloader.dataset.data_root={own}/'])
    stopped_at(monkeypatch, 6, config, **words)
    d = json.loads((own/'instances.json').read_text())
    d['annotations'] = d['annotations'][1:]
    (own/'instances.json').write_text(json.dumps(d))
    capsys.readouterr()
    train(config, resume=True, **words)
    assert re.search(r'^  content of .*instances.json +sha256 .* objects -> sha256 .* objects$', capsys.readouterr().out, re.M)

@pytest.mark.parametrize('classes', ["('circle', 'digit', 'triangle', 'square')", "('digit', 'circle', 'triangle')"])
def test_other_classes_are_refused(config, tmp_path, monkeypatch, classes):
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path)
    other = [f'{p}_dataloader.dataset.metainfo.classes={classes}' for p in ('train', 'val')]
    before = (tmp_path/'resume.safetensors').read_bytes()
    with pytest.raises(ValueError, match='classes digit, circle, triangle, square; now they are|the model has 4 classes') as e: train(config, work_dir=tmp_path, resume=True, set=other)
    assert '\n' not in str(e.value) and (tmp_path/'resume.safetensors').read_bytes() == before and len(Run(tmp_path).log) == 6
    for n in ('resume.safetensors', 'resume_previous.safetensors'):
        if (tmp_path/n).exists(): rewritten(tmp_path/n, classes=..., made_with=...)         # as detbook 0.1 wrote it
    with pytest.raises(ValueError, match='now they are|the model has 4 classes'): train(config, work_dir=tmp_path, resume=True, set=other)

@pytest.mark.parametrize('old', [False, True])
def test_another_batch_size_is_measured_and_logged_to_the_end(config, tmp_path, monkeypatch, old, capsys):
    "4 steps an epoch, stopped in the third; then 2 steps an epoch: today's steps are smaller numbers than yesterday's."
    stopped_at(monkeypatch, 10, config, work_dir=tmp_path, set=['train_cfg.max_epochs=6'])
    if old: rewritten(tmp_path/'resume.safetensors', lines=..., classes=..., made_with=...)
    wide = ['train_cfg.max_epochs=6', 'train_dataloader.batch_size=4']
    run = stopped_at(monkeypatch, 9, config, work_dir=tmp_path, resume=True, set=wide)      # a second stop, in the new units
    run = train(config, work_dir=tmp_path, resume=True, set=wide)
    said = capsys.readouterr().out
    assert 'is at step 10 in epochs of 4 steps; an epoch has 2 steps now: the run goes on at the beginning of epoch 3' in said and re.search(r'train_dataloader.batch_size +2 -> 4', said)
    assert [l['epoch'] for l in run.log] == [1]*4 + [2]*4 + [3]*2 + [4]*2 + [5]*2 + [6]*2
    assert [(m['epoch'], m['step']) for m in run.metrics] == [(2, 8), (4, 8), (6, 12)]
    assert run.detector.name == 'epoch_6.safetensors' and [c['images_a_step'] for c in run.card['calls']] == [2, 4, 4]
    assert not list(tmp_path.glob('epoch_4.*')) and run.plot().get_xlabel() == 'epoch'      # max_keep_ckpts=2

def test_a_smaller_batch_is_not_measured_twice(config, tmp_path, monkeypatch):
    stopped_at(monkeypatch, 8, config, work_dir=tmp_path, set=['train_cfg.max_epochs=4'])          # measured after step 8, the end of epoch 2
    run = train(config, work_dir=tmp_path, resume=True, set=['train_cfg.max_epochs=4', 'train_dataloader.batch_size=1'])
    assert [(m['epoch'], m['step']) for m in run.metrics] == [(2, 8), (4, 32)] and [l['step'] for l in run.log] == [*range(1, 9), *range(17, 33)]

def test_a_loop_over_steps_keeps_its_step(config, tmp_path, monkeypatch, capsys):
    loop = ["train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': 12, 'val_interval': 4, '_delete_': True}", 'param_scheduler=[]', 'default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=4']
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path, set=loop)
    run = train(config, work_dir=tmp_path, resume=True, set=[*loop, 'train_dataloader.batch_size=4'])
    assert 'the run goes on after step 6' in capsys.readouterr().out
    assert [l['step'] for l in run.log] == list(range(1, 13)) and [m['step'] for m in run.metrics] == [4, 8, 12]

# ---- files that are broken, or lie

@pytest.mark.parametrize('content', [b'', b'{"step": 3', b'[1, 2]', b'[' * 200_000, b'{"step": 1' + b'0'*400 + b'}', b'{"step": 1' + b'0'*9000 + b'}', b'\xff\xfe\x00'])
def test_a_broken_card_is_named_and_put_aside(straight, config, tmp_path, monkeypatch, capsys, content):
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path)
    (tmp_path/'run.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'run\.json is damaged'): Run(tmp_path).card
    run = train(config, work_dir=tmp_path, resume=True)
    assert 'run.json is damaged' in capsys.readouterr().out and (tmp_path/'run.json.damaged').read_bytes() == content
    assert run.card['status'] == 'finished'
    same_run(straight, run)

def test_a_folder_with_a_broken_card_is_put_aside_too(config, tmp_path, capsys):
    short = dict(work_dir=tmp_path, set=['train_cfg.max_epochs=1'], validate=False)
    train(config, **short)
    (tmp_path/'run.json').write_text('{')
    train(config, **short)
    (tmp_path/'run.json').unlink()
    train(config, **short)
    assert capsys.readouterr().out.count('a run without a card: this earlier run was moved') == 2
    assert (tmp_path/'earlier_1'/'run.json').read_text() == '{' and (tmp_path/'earlier_2'/'epoch_1.safetensors').exists()

LIES = [dict(kept=['../outside/holiday']), dict(kept=['/tmp/x']), dict(kept='epoch_1'), dict(step=-3), dict(step=10**400), dict(step=True), dict(per_epoch=0), dict(measured='8'), dict(seed=[0]),
        dict(watch=dict(best={}, top='x', waited=0)), dict(logged=[[], 1]), dict(optim={}), dict(why=None), dict(step=...), dict(lines=[-1, 0])]

@pytest.mark.parametrize('lie', LIES, ids=lambda d: str(d)[:40])
def test_a_state_that_lies_is_not_followed(straight, config, tmp_path, monkeypatch, capsys, lie):
    outside = tmp_path/'outside'
    outside.mkdir()
    (outside/'holiday.safetensors').write_text('dear')
    work = tmp_path/'run'
    stopped_at(monkeypatch, 6, config, work_dir=work, save_every=0)
    rewritten(work/'resume.safetensors', **lie)
    run = train(config, work_dir=work, resume=True, keep_state=True)
    said = capsys.readouterr().out
    assert 'resume.safetensors: its notes' in said and 'going back to resume_previous.safetensors' in said and run.card['resumed'] == [5]
    assert (outside/'holiday.safetensors').read_text() == 'dear'
    same_run(straight, run)
    lost = work/'resume.safetensors'
    rewritten(lost, **lie)
    with pytest.raises(ValueError, match=r'resume\.safetensors: its notes'): train(config, work_dir=tmp_path/'other', resume=str(lost))
    for n in ('resume_previous.safetensors',): rewritten(work/n, **lie)
    with pytest.raises(ValueError, match='no state of the run in .* can be read'): train(config, work_dir=work, resume=True)
    assert (outside/'holiday.safetensors').exists()

def test_optimizer_notes_of_another_model(config, tmp_path, monkeypatch):
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path)
    notes = read_state(tmp_path).notes['optim']
    rewritten(tmp_path/'resume.safetensors', optim=notes | dict(numbers={'step/no.such.weight': 1}))
    with pytest.raises(ValueError, match='resume.safetensors cannot be gone on from'): train(config, work_dir=tmp_path, resume=str(tmp_path/'resume.safetensors'))

def test_what_kills_have_left_is_swept_away(config, tmp_path):
    train(config, work_dir=tmp_path, set=['train_cfg.max_epochs=1'], validate=False, keep_state=True)
    ours = ['.resume_new.safetensors.0123abcd.part', '.epoch_3.safetensors.89abcdef.part', '.log.jsonl.00000000.part', '.tmpAbC123', '.trial.safetensors']
    theirs = ['.notes.txt.0123abcd.part', '.tmpother', '.hidden', 'a.part', '.tmpzZ9876']
    for n in ours + theirs: (tmp_path/n).write_bytes(b'begun')
    (tmp_path/'.tmpzZ9876').write_bytes(b'twelve bytes of a letter')
    train(config, work_dir=tmp_path, resume=True, set=['train_cfg.max_epochs=1'], validate=False)
    assert not any((tmp_path/n).exists() for n in ours) and all((tmp_path/n).exists() for n in theirs)

# ---- what fails at the end

@pytest.mark.parametrize('what', ['save_detector', 'measure'])
@pytest.mark.parametrize('error', [ImportError('cannot import name __version__'), OSError(28, 'No space left on device'), ZeroDivisionError('division by zero')])
def test_no_weights_are_lost(straight, config, tmp_path, monkeypatch, capsys, what, error):
    "Whatever fails after step 8: its state is there, it is said where, and the run can go on."
    plain = getattr(trainer, what)
    def fails(*args):
        if '.trial' in str(args[0]) or what == 'save_detector' and 'epoch_2' not in str(args[0]): return plain(*args)
        raise error
    monkeypatch.setattr(trainer, what, fails)
    with pytest.raises(type(error)): train(config, work_dir=tmp_path)
    monkeypatch.undo()
    assert f'training ended after step 8 of 12 with an error: the state after step 8 is in {tmp_path}/resume.safetensors: --resume goes on from there' in capsys.readouterr().out
    assert read_state(tmp_path).notes['step'] == 8 and Run(tmp_path).card['status'] == 'failed'
    same_run(straight, train(config, work_dir=tmp_path, resume=True))

def test_a_signal_does_not_end_the_saving(config, tmp_path, monkeypatch):
    "Where one rank fails, the others are told to stop while they still write."
    step, save = Trainer.train_step, Trainer.save_state
    def fails(self, *batch):
        if self.step == 3: raise ZeroDivisionError('division by zero')
        step(self, *batch)
    def saves(self):
        os.kill(os.getpid(), signal.SIGTERM)
        save(self)
    def heard(*_): raise InterruptedError('SIGTERM was not held back')
    monkeypatch.setattr(Trainer, 'train_step', fails)
    monkeypatch.setattr(Trainer, 'save_state', saves)
    was = signal.signal(signal.SIGTERM, heard)
    try:
        with pytest.raises(ZeroDivisionError): train(config, work_dir=tmp_path)
    finally: signal.signal(signal.SIGTERM, was)
    assert read_state(tmp_path).notes['step'] == 3 and Run(tmp_path).card['status'] == 'failed'

def test_a_disk_that_is_full_from_step_6_on(straight, config, tmp_path, monkeypatch, capsys):
    plain = runs.save_checkpoint
    def full(path, tensors, notes):
        if notes['state']['step'] > 5: raise OSError(28, 'No space left on device')
        return plain(path, tensors, notes)
    monkeypatch.setattr(runs, 'save_checkpoint', full)
    with pytest.raises(OSError, match=r'resume\.safetensors could not be written: No space left on device$'): train(config, work_dir=tmp_path, save_every=0)
    monkeypatch.undo()
    said = capsys.readouterr().out
    assert f'the state after step 5 is in {tmp_path}/resume.safetensors: --resume goes on from there; the weights after step 6 are lost, because' in said
    same_run(straight, train(config, work_dir=tmp_path, resume=True))

@pytest.mark.parametrize('kilobytes, hint', [(8, 'could not be written'), (700, 'could not be written')])
def test_a_limit_on_the_size_of_files(config, tmp_path, kilobytes, hint):
    "A real one, RLIMIT_FSIZE, in the command: a sentence, exit status 2, no half file."
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10,)*2)
    done = subprocess.run([*COMMAND, str(config), '--work_dir', str(tmp_path/'run')], preexec_fn=limit, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and 'Traceback' not in done.stderr and hint in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith('detbook_train: '), done.stderr
    assert not list((tmp_path/'run').glob('.*')) and not list((tmp_path/'run').glob('epoch*'))

def test_beside_the_clone(config, tmp_path):
    "A script in the parent folder of a clone: the folder detbook/ is a namespace package there, and has no __version__."
    root = Path(trainer.__file__).parents[1]
    (tmp_path/'detbook').symlink_to(root)
    code = ("import sys; sys.path.insert(1, '') ; import detbook; assert not hasattr(detbook, '__version__') or True\n"
            f"import detbook; vars(detbook).pop('__version__', None)\nfrom detbook.training import train\ntrain({str(config)!r}, work_dir='run', set=['train_cfg.max_epochs=1'])\n")
    (tmp_path/'script.py').write_text(code)
    done = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path/'run').card['versions']['detbook'] and Run(tmp_path/'run').detector.name == 'epoch_1.safetensors'

def test_files_say_the_test_size_also_where_nothing_is_measured(config, tmp_path):
    for words in (dict(validate=False), dict(set=['val_dataloader=None', 'val_evaluator=None', 'val_cfg=None', 'test_dataloader.dataset.pipeline.1.scale=(72, 72)'])):
        words['set'] = [*words.get('set', ()), 'train_cfg.max_epochs=1']
        run = train(config, work_dir=tmp_path, **words)
        assert read_checkpoint(run.detector).metadata['preprocessing']['resize'] == [72, 72]

# ---- what can only fail later fails first

@pytest.mark.parametrize('words, hint', [
    (['--set', 'val_evaluator.ann_file=nowhere.json'], "val_evaluator.ann_file = 'nowhere.json'"), (['--set', 'val_evaluator.metric=keypoints'], 'finds no keypoints'),
    (['--set', 'val_dataloader.num_wrkers=1'], "'num_workers'"), (['--set', 'val_cfg.type=ValLop'], "'ValLoop'"), (['--set', 'env_cfg.cudnn_benchmrk=True'], "'cudnn_benchmark'"),
    (['--set', 'env_cfg.mp_cfg.mp_start_metod=fork'], "'mp_start_method'"), (['--set', 'train_cfg.max_epochs=two'], 'train_cfg.max_epochs'), (['--set', 'default_hooks.checkpoint.max_keep_ckpts=a'], 'max_keep_ckpts'),
    (['--set', 'default_hooks=5'], 'default_hooks is 5'), (['--set', 'train_cfg.dynamic_intervals=7'], 'dynamic_intervals'), (['--set', 'test_pipeline.1.scale=(9, 9)'], 'val_dataloader.dataset.pipeline.1.scale=(9, 9)'),
    (['--set', "classes=('cat',)"], 'train_dataloader.dataset.metainfo.classes'), (['--set', 'train_dataloader.samples_per_gpu=2'], 'batch_size'), (['--set', 'train_dataloader.dataset.img_prefix=a'], 'data_prefix'),
    (['--save_every', '-1'], 'save_every'), (['--seed', '-4'], 'seed')])
def test_slips_are_found_before_the_first_step(config, tmp_path, words, hint):
    assert hint in refuses(tmp_path, config, *words)

def test_own_keypoints_need_tolerances(toy, tmp_path):
    from detbook.toy import write_coco
    from test_training import FASTER
    for part, n in (('train', 4), ('val', 2)):
        write_coco(tmp_path/part, n, seed=n, size=64, empty=0.)
        d = json.loads((tmp_path/part/'instances.json').read_text())
        for a in d['annotations']:
            x, y, w, h = a['bbox']
            a.update(keypoints=[x + 1, y + 1, 2, x + w - 1, y + h - 1, 2, x + w/2, y + h/2, 2], num_keypoints=3)
        for c in d['categories']: c.update(keypoints=['a', 'b', 'c'], skeleton=[[1, 2]])
        (tmp_path/part/'instances.json').write_text(json.dumps(d))
    text = FASTER.format(base='faster-rcnn_r50_fpn_1x_coco', root=tmp_path).replace('with_bbox=True', 'with_bbox=True, with_keypoints=True')
    text = text.replace('bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=4)', "keypoint_head=dict(type='KeypointHead', num_keypoints=3, in_channels=16, num_convs=1, conv_out_channels=16), "
                        "keypoint_roi_extractor=dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0), out_channels=16, featmap_strides=[4, 8]), "
                        'bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=4)').replace('model = dict(', "model = dict(type='KeypointRCNN', ")
    (tmp_path/'points.py').write_text(text + "val_evaluator = dict(ann_file='%s/val/instances.json', metric=['bbox', 'keypoints'])\n" % tmp_path)
    assert 'set val_evaluator.sigmas' in refuses(tmp_path, tmp_path/'points.py')
    run = train(tmp_path/'points.py', work_dir=tmp_path/'run', set=['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'val_evaluator.sigmas=[0.05, 0.05, 0.05]'])
    assert 'keypoints_mAP' in run.metrics[-1]

def test_folders_that_cannot_be_written(config, tmp_path):
    (tmp_path/'file').write_text('x')
    for folder in (tmp_path/'file', tmp_path/'file'/'run'):
        with pytest.raises(ValueError, match='cannot be the folder of a run'): train(config, work_dir=folder)
    (tmp_path/'config.py').write_text(config.read_text())
    with pytest.raises(ValueError, match=r'config\.py is of no run, and a run would write over it'): train(tmp_path/'config.py', work_dir=tmp_path)
    assert (tmp_path/'config.py').read_text() == config.read_text()
    if os.path.isdir('/proc/self/fd'):
        with pytest.raises(OSError): train(config, work_dir='/proc/detbook_run')

# ---- names that reach nothing

@pytest.mark.parametrize('text, place', [
    ("train_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]", 'train_dataloader.dataset.pipeline'), ("test_pipeline = []", 'val_dataloader.dataset.pipeline and test_dataloader.dataset.pipeline'),
    ("classes = ('cat',)", 'train_dataloader.dataset.metainfo.classes'), ("metainfo = dict(classes=('cat',))", 'train_dataloader.dataset.metainfo'), ("dataset_type = 'VOCDataset'", 'train_dataloader.dataset.type'),
    ("data_root = 'mine/'", 'train_dataloader.dataset.data_root'), ("img_scale = (640, 640)", 'pipeline'), ("backend_args = dict(backend='petrel')", 'backend_args'), ("data = dict(samples_per_gpu=2)", 'train_dataloader'),
    ("optimizer = dict(type='SGD', lr=0.1)", 'optim_wrapper.optimizer'), ("num_classes = 3", 'model.roi_head.bbox_head.num_classes'), ("max_epochs = 24", 'train_cfg.max_epochs'), ("total_epochs = 24", 'train_cfg.max_epochs'),
    ("train_dataloder = dict(batch_size=4)", "'train_dataloader'"), ("something = 1", 'leave it out'), ("evaluation = dict(interval=1)", 'val_evaluator'), ("fp16 = dict(loss_scale=512.)", 'optim_wrapper.type'),
    ("_base_.train_pipeline[3].prob = 0.", 'train_dataloader.dataset.pipeline'), ("train_pipeline = [*_base_.train_pipeline]\ntrain_pipeline.pop(3)", 'train_dataloader.dataset.pipeline'),
    ("batch_size = 4\nbatch_size += 1", 'train_dataloader.batch_size'), ("sync_bn = 'torch'", 'norm over several processes')])
@pytest.mark.parametrize('kind', ['file', 'set'])
def test_names_that_reach_nothing(tmp_path, text, place, kind):
    (tmp_path/'c.py').write_text("_base_ = 'faster-rcnn_r50_fpn_1x_coco'\n" + (text if kind == 'file' else ''))
    name, value = re.match(r'(\w+) = (.*)$', text.splitlines()[0]).groups() if kind == 'set' and not text.startswith('_base_') else ('train_pipeline.3.prob', '0')
    with pytest.raises(ConfigError) as e: read_training_config(tmp_path/'c.py', [f'{name}={value}'] if kind == 'set' else [])
    assert place in str(e.value) and ('c.py:2' in str(e.value) or 'c.py:3' in str(e.value) or '--set' in str(e.value)) and '\n' not in str(e.value)

@pytest.mark.parametrize('text', [
    "train_pipeline = [dict(type='LoadImageFromFile')]\ntrain_dataloader = dict(dataset=dict(pipeline=train_pipeline))", "classes = ('a', 'b')\nmetainfo = dict(classes=classes)\ntrain_dataloader = dict(dataset=dict(metainfo=metainfo))",
    "root = 'mine/'\ntrain_dataloader = dict(dataset=dict(data_root=root, ann_file=root + 'a.json'))", "rate = 0.01\noptim_wrapper = dict(optimizer=dict(lr=rate*2))", "_comment = 'mine'",
    "_base_.train_pipeline[3].prob = 0.\ntrain_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))", "dataset_type = 'CocoDataset'", "train_pipeline = _base_.train_pipeline",
    "n = 3\nmodel = dict(roi_head=dict(bbox_head=dict(num_classes=n)))", "for i in range(3): _base_.train_dataloader.batch_size = i + 1"])
def test_names_that_are_used(tmp_path, text):
    (tmp_path/'c.py').write_text("_base_ = 'faster-rcnn_r50_fpn_1x_coco'\n" + text)
    read_training_config(tmp_path/'c.py')
    (tmp_path/'d.py').write_text("_base_ = 'c.py'\ntrain_cfg = dict(max_epochs=3)\n")
    read_training_config(tmp_path/'d.py')

def test_json_and_yaml_likewise(tmp_path):
    (tmp_path/'c.json').write_text(json.dumps(dict(_base_='faster-rcnn_r50_fpn_1x_coco', data_root='mine/')))
    (tmp_path/'c.yaml').write_text('_base_: faster-rcnn_r50_fpn_1x_coco\ntrain_pipeline: []\n')
    for n in ('c.json', 'c.yaml'):
        with pytest.raises(ConfigError, match='train_dataloader.dataset'): read_training_config(tmp_path/n)

def test_all_recipes_and_all_that_was_dumped(tmp_path, recwarn):
    n = 0
    for name in recipe_names():
        cfg = Config.fromfile(name)
        check_names(cfg)
        if 'train_cfg' not in cfg: continue
        cfg.dump(tmp_path/'all.py')
        check_names(Config.fromfile(tmp_path/'all.py'))         # as mmengine dumps it: no base, all names
        n += 1
    assert n == 142
    cfg.dump(tmp_path/'all.py')
    (tmp_path/'all.py').write_text((tmp_path/'all.py').read_text().replace('train_pipeline = [', "train_pipeline = [dict(type='LoadProposals'), ", 1))
    with pytest.warns(UserWarning, match='train_pipeline .* reaches nothing.* what counts is train_dataloader'): check_names(Config.fromfile(tmp_path/'all.py'))

def test_settings_made_in_python():
    cfg = Config.fromfile('faster-rcnn_r50_fpn_1x_coco')
    cfg.train_pipeline[3].prob = 0.
    with pytest.raises(ConfigError, match='train_dataloader.dataset.pipeline'): read_training_config(cfg)
    cfg.train_dataloader.dataset.pipeline[3].prob = 0.
    read_training_config(cfg)

# ---- two runs in one folder

def test_two_runs_in_one_folder(config, tmp_path):
    first = start(config, '--work_dir', tmp_path, '--set', 'train_cfg.max_epochs=400')
    try:
        wait_for(first, tmp_path, 2)
        for more in ([], ['--resume']):
            second = subprocess.run([*COMMAND, str(config), '--work_dir', str(tmp_path), *more], capture_output=True, text=True, timeout=240)
            assert second.returncode == 2 and len(second.stderr.splitlines()) == 1 and f'is in use by another run, process {first.pid} on ' in second.stderr, second.stderr
        with pytest.raises(ValueError, match=f'process {first.pid}'): train(config, work_dir=tmp_path)
        assert not list(tmp_path.glob('earlier*')) and first.poll() is None
    finally:
        first.kill()
        first.communicate()
    assert (tmp_path/'.lock').exists()                          # of a process that is gone: it blocks nobody
    run = train(config, work_dir=tmp_path, resume='auto', set=['train_cfg.max_epochs=1'], validate=False)
    assert run.card['status'] == 'finished' and not (tmp_path/'.lock').exists()
    with lock_folder(tmp_path), pytest.raises(ValueError, match='of this very process'): train(config, work_dir=tmp_path)

def test_workers_do_not_keep_the_lock_of_a_run_that_was_killed(config, tmp_path):
    workers = ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']
    first = start(config, '--work_dir', tmp_path, '--save_every', 0, '--set', 'train_cfg.max_epochs=400', *workers)
    wait_for(first, tmp_path, 2)
    first.kill()                                                # its workers notice some seconds later
    first.stdout.close(); first.wait()
    train(config, work_dir=tmp_path, resume=True, validate=False, set=['train_cfg.max_epochs=1'])

# ---- signals to all processes

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_with_workers(straight, config, tmp_path, number):
    words = [config, '--work_dir', tmp_path, '--set', 'train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']
    process = in_session(*words)
    wait_for(process, tmp_path, 2)
    os.killpg(process.pid, number)
    code, said = ended(process)
    assert code == 128 + number and f'stopped by {number.name} after step' in said, said
    same_run(straight, train(config, work_dir=tmp_path, resume=True))

TWO = ['--gpus', 2, '--save_every', 0]
@pytest.mark.parametrize('number, to', [(signal.SIGINT, 'all'), (signal.SIGTERM, 'all'), (signal.SIGTERM, 'parent'), (signal.SIGTERM, 'rank 1'), (signal.SIGINT, 'parent')])
def test_two_processes_are_asked_to_stop(config, tmp_path, number, to):
    "Within one step, whoever hears it; nobody is killed, and nothing but sentences is said."
    process = in_session(config, '--work_dir', tmp_path, *TWO, '--set', 'train_dataloader.batch_size=1', 'train_cfg.max_epochs=40')
    wait_for(process, tmp_path, 3)
    before = len((tmp_path/'log.jsonl').read_text().splitlines())
    if to == 'all': os.killpg(process.pid, number)
    else: os.kill(process.pid if to == 'parent' else descendants(process.pid)[1], number)
    code, said = ended(process)
    stop = Run(tmp_path).card['step']
    assert code == 128 + number and Run(tmp_path).card['status'] == 'stopped' and read_state(tmp_path).notes['step'] == stop, said
    assert re.search(r'stopped by SIG(INT|TERM) after step', said) and stop <= before + 3
    assert not list(tmp_path.glob('.*'))

@pytest.mark.parametrize('rank', [0, 1])
def test_a_rank_that_is_killed(config, tmp_path, rank):
    process = in_session(config, '--work_dir', tmp_path, *TWO, '--set', 'train_dataloader.batch_size=1', 'train_cfg.max_epochs=40')
    wait_for(process, tmp_path, 3)
    os.kill(descendants(process.pid)[rank], signal.SIGKILL)
    code, said = ended(process)
    last = said.strip().splitlines()[-1]
    assert code == 2 and last == f'detbook_train: rank {rank} of 2 ended with exit code -9 (SIGKILL)', said
    if rank: assert 'with an error: the state after step' in said
    state = read_state(tmp_path).notes['step']
    run = train(config, work_dir=tmp_path, resume=True, set=['train_cfg.max_epochs=3'])          # one process of two images goes on
    assert run.card['resumed'] == [state] and run.card['calls'][-1]['changed']['number of processes'] == [2, 1]

@pytest.mark.slow
def test_from_two_processes_to_one_of_the_same_batch(config, tmp_path):
    "Epochs become twice as long: all that is left is measured and logged."
    process = in_session(config, '--work_dir', tmp_path, *TWO)
    wait_for(process, tmp_path, 3)        # of six: early enough that it is not over before the signal comes
    os.kill(process.pid, signal.SIGTERM)
    ended(process)
    stop = Run(tmp_path).card['step']
    run = train(config, work_dir=tmp_path, resume=True)
    assert [m['epoch'] for m in run.metrics] == [2, 3] and run.metrics[-1]['step'] == 12
    assert run.card['calls'][-1]['changed']['number of processes'] == [2, 1] and run.card['calls'][0]['step'] == stop
    steps = [l['step'] for l in run.log]
    assert steps[-1] == 12 and {l['epoch'] for l in run.log} == {1, 2, 3}

def test_two_processes_on_a_disk_that_is_full(config, tmp_path):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (700 << 10,)*2)
    done = subprocess.run([*COMMAND, str(config), '--work_dir', str(tmp_path/'run'), *map(str, TWO), '--set', 'train_dataloader.batch_size=1'], preexec_fn=limit, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and 'Traceback' not in done.stderr and 'could not be written: File too large' in done.stderr.splitlines()[-1], done.stderr

def test_two_processes_refuse_as_one(config, tmp_path):
    with lock_folder(tmp_path):
        done = subprocess.run([*COMMAND, str(config), '--work_dir', str(tmp_path), *map(str, TWO)], capture_output=True, text=True, timeout=240)
        assert done.returncode == 2 and 'Traceback' not in done.stderr and f'is in use by another run, process {os.getpid()}' in done.stderr.splitlines()[-1], done.stderr

def test_a_setting_of_mmengines_runner(tmp_path):
    (tmp_path/'c.py').write_text("_base_ = 'faster-rcnn_r50_fpn_1x_coco'\nfind_unused_parameters = True\nsync_bn = None\n")
    assert read_training_config(tmp_path/'c.py', []).find_unused_parameters is True
