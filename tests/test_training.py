"Training as users start it: from a config, as a process, killed, stopped, resumed, on two processes, and with every kind of mistake in what it is given."
import importlib, os, random, signal, subprocess, sys, time, warnings
from pathlib import Path
import numpy as np, pytest, torch
import detbook.training as training
from detbook.reading import read_checkpoint
from detbook.describe import read_detector
from detbook.cli import run_command
from detbook.config import Config
from detbook.settings import SETTINGS
from detbook.testing import detbook_test
from detbook.toy import CLASSES, write_coco
from detbook.timetable import read_timetable
from detbook.runs import Run, read_state
from detbook.trainer import Trainer, build_model
from detbook.training import read_training_config, train

SLOW = os.environ.get('DETBOOK_SLOW') == '1'
COMMAND = [sys.executable, '-m', 'detbook.training']

BASE = '''
_base_ = '{base}'
classes = ('digit', 'circle', 'triangle', 'square')
steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(72, 72), keep_ratio=True), dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root='{root}/train/', ann_file='instances.json',
    data_prefix=dict(img='images/'), metainfo=dict(classes=classes), filter_cfg=dict(filter_empty_gt=True, min_size=0), pipeline=steps))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{root}/val/', ann_file='instances.json', data_prefix=dict(img='images/'),
    metainfo=dict(classes=classes), pipeline=test_pipeline))
val_evaluator = dict(ann_file='{root}/val/instances.json')
train_cfg = dict(max_epochs=3, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=0.005), clip_grad=dict(max_norm=10))
auto_scale_lr = dict(base_batch_size=2)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6), dict(type='MultiStepLR', begin=0, end=3, by_epoch=True, milestones=[2], gamma=0.1)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=2))
'''
FASTER = BASE + '''
fair = dict(assigner=dict(ignore_iof_thr=0.5))
model = dict(backbone=dict(depth=18, num_stages=2, out_indices=(0, 1), frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128], out_channels=16, num_outs=3),
    rpn_head=dict(in_channels=16, feat_channels=16, anchor_generator=dict(scales=[6], strides=[4, 8, 16])),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=16, featmap_strides=[4, 8]), bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=4)),
    train_cfg=dict(rpn=fair, rpn_proposal=dict(nms_pre=100, max_per_img=50), rcnn=dict(sampler=dict(num=16), **fair)), test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50)))
'''
RETINA = BASE + '''
model = dict(backbone=dict(depth=18, num_stages=2, out_indices=(0, 1), frozen_stages=-1, init_cfg=None),
    neck=dict(in_channels=[64, 128], out_channels=16, num_outs=3, start_level=0),
    bbox_head=dict(num_classes=4, in_channels=16, feat_channels=16, stacked_convs=1, anchor_generator=dict(strides=[4, 8, 16])), train_cfg=dict(assigner=dict(ignore_iof_thr=0.5)))
'''

pytestmark = pytest.mark.usefixtures('one_thread')

def write_toy(root):
    "Two small sets, and two small detectors that learn from them: faster.py and retina.py."
    write_coco(root/'train', 8, seed=0, size=64, empty=0.)
    write_coco(root/'val', 3, seed=1, size=64, digits='val', empty=0.)
    (root/'faster.py').write_text(FASTER.format(base='faster-rcnn_r50_fpn_1x_coco', root=root))
    (root/'retina.py').write_text(RETINA.format(base='retinanet_r50_fpn_1x_coco', root=root))
    return root

@pytest.fixture(scope='module')
def toy(tmp_path_factory): return write_toy(tmp_path_factory.mktemp('toy'))

@pytest.fixture(scope='module')
def config(toy): return toy/'faster.py'

@pytest.fixture(scope='module')
def straight(config, tmp_path_factory):
    "A run that was left alone: 3 epochs of 4 steps."
    return train(config, work_dir=tmp_path_factory.mktemp('straight'))

def timeless(lines): return [{k:v for k,v in l.items() if k not in ('seconds', 'memory')} for l in lines]

def same_run(a, b):
    "Everything two runs have left is the same, but for the time it took."
    assert a.detector.name == b.detector.name
    for name in (a.detector.name, *(p.name for p in a.work_dir.glob('best_*'))):
        x, y = read_checkpoint(a.work_dir/name), read_checkpoint(b.work_dir/name)
        assert x.keys() == y.keys() and x.metadata.get('thresholds') == y.metadata.get('thresholds')
        for k in x: assert torch.equal(x[k], y[k]), k
    assert timeless(a.log) == timeless(b.log)
    assert timeless(a.metrics) == timeless(b.metrics)

def start(*words, before=(), **env):
    "`detbook_train` as a process, perhaps of a launcher's."
    return subprocess.Popen([*before, *COMMAND, *map(str, words)], env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONUNBUFFERED='1') | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def wait_for(process, work_dir, lines, seconds=240):
    "Until the log has so many lines."
    log, end = Path(work_dir)/'log.jsonl', time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if log.exists() and len(log.read_text().splitlines()) >= lines: return
        time.sleep(.005)
    process.kill()
    raise AssertionError(process.communicate()[0])

def stopped_at(monkeypatch, step, *args, **kwargs):
    "A run in this process, sent SIGTERM while it makes a step."
    plain = Trainer.train_step
    def train_step(self, *batch):
        if self.step == step - 1: os.kill(os.getpid(), signal.SIGTERM)
        plain(self, *batch)
    monkeypatch.setattr(Trainer, 'train_step', train_step)
    with pytest.raises(SystemExit) as e: train(*args, **kwargs)
    assert e.value.code == 128 + signal.SIGTERM
    monkeypatch.undo()
    return Run(kwargs['work_dir'])

def refuses(tmp_path, *words):
    "The one sentence with which the command refuses; nothing was trained."
    import contextlib, io
    said, out = io.StringIO(), tmp_path/'refused'
    with contextlib.redirect_stderr(said):
        try: status = run_command(train, [*map(str, words), '--work_dir', str(out)])
        except SystemExit as e: status = e.code
    lines = [l for l in said.getvalue().splitlines() if l.startswith('detbook_train: ')]
    assert status == 2 and len(lines) == 1, (status, said.getvalue())
    assert not (out/'log.jsonl').exists() or not (out/'log.jsonl').read_text()
    return lines[0]

# ---- a run and what it leaves

def test_what_moved_to_other_chapters_is_still_found_in_training():
    "Names of version 0.1 and 0.2, as programs import them."
    names = dict(timetable='Timetable Watch flat_settings read_timetable seed_step setting_changes stop_signals', runs='Log Run STATES State check_notes lock_folder read_state save_state say',
                 trainer='Trainer build_model')
    for module, words in names.items():
        for n in words.split(): assert getattr(training, n) is getattr(importlib.import_module(f'detbook.{module}'), n), n

def test_a_compiled_run_is_the_run(straight, config, tmp_path, capsys):
    "The backend that generates no code gives the very numbers; the files know nothing of it."
    run = train(config, work_dir=tmp_path, set=["compile=dict(backend='eager')"])
    assert 'compiled by torch.compile: ResNet, FPN, RPNHead, BoxHead' in capsys.readouterr().out
    a, b = read_checkpoint(straight.detector), read_checkpoint(run.detector)
    assert a.keys() == b.keys()
    for k in a: torch.testing.assert_close(a[k], b[k])
    assert [l['loss'] for l in run.log if 'loss' in l] == pytest.approx([l['loss'] for l in straight.log if 'loss' in l])

@pytest.mark.slow
@pytest.mark.skipif(not SLOW, reason='minutes; DETBOOK_SLOW=1 runs it')
def test_a_run_with_generated_code_learns_the_same(straight, config, tmp_path):
    run = train(config, work_dir=tmp_path, set=['compile=True'])
    assert [l['loss'] for l in run.log if 'loss' in l] == pytest.approx([l['loss'] for l in straight.log if 'loss' in l], rel=1e-2)

@pytest.mark.parametrize('value, said', [('3', 'compile is 3; expected True, False, or a dict'), ("dict(backend='inductr')", "did you mean 'inductor'"), ("dict(moed='default')", 'compile.moed')])
def test_wrong_settings_of_compile_are_named(config, tmp_path, value, said):
    assert said in refuses(tmp_path, config, '--set', f'compile={value}')

def test_files_of_a_run(straight, config):
    names = {p.name for p in straight.work_dir.iterdir()}
    assert names == {'config.py', 'run.json', 'log.jsonl', 'metrics.jsonl', 'epoch_2.safetensors', 'epoch_3.safetensors', 'best_bbox_mAP.safetensors'}       # and no state: the run has ended
    assert [l['step'] for l in straight.log] == list(range(1, 13))
    assert [(m['epoch'], m['step']) for m in straight.metrics] == [(2, 8), (3, 12)]
    card = straight.card
    assert (card['status'], card['step'], card['steps'], card['seed'], card['world_size']) == ('finished', 12, 12, 0, 1)
    assert card['classes'] == list(CLASSES) and card['data'][0]['images'] == 8 and len(card['data'][0]['sha256']) == 64
    assert {'detbook', 'torch', 'torchvision', 'python'} <= card['versions'].keys()
    model, classes = read_detector(straight.detector)
    assert classes == CLASSES
    assert read_checkpoint(straight.detector).metadata['preprocessing']['resize'] == [72, 72]
    assert Config.fromfile(straight.work_dir/'config.py').to_dict() == {k:v for k,v in Config.fromfile(config).to_dict().items() if k in SETTINGS}
    again = build_model(Config.fromfile(straight.work_dir/'config.py'))
    assert again.state_dict().keys() == model.state_dict().keys()
    assert straight.log[0]['lr'] == pytest.approx(.0005) and straight.log[-1]['lr'] == pytest.approx(.0005)

def test_a_file_says_from_which_scores_on_its_classes_are_best(straight, toy):
    "All detectors of a run that were measured do, and as measuring them once more would."
    from detbook.testing import test
    for name in ('epoch_2', 'epoch_3', 'best_bbox_mAP'):
        said = read_checkpoint(path := straight.work_dir/f'{name}.safetensors').metadata['thresholds']
        result = test(str(straight.work_dir/'config.py'), str(path), set=['test_dataloader=' + repr(Config.fromfile(straight.work_dir/'config.py')['val_dataloader'].to_dict()), f"test_evaluator.ann_file='{toy}/val/instances.json'"])
        assert list(said) == list(CLASSES) and said == pytest.approx(result.best_scores(CLASSES), nan_ok=True)
    assert any(v is not None for v in said.values())

def test_the_seed_is_everything(straight, config, tmp_path):
    torch.manual_seed(99); np.random.seed(7); random.seed(5)
    same_run(straight, train(config, work_dir=tmp_path/'a'))
    other = train(config, work_dir=tmp_path/'b', seed=1, set=['train_cfg.max_epochs=1'], validate=False)
    assert other.log[0]['loss'] != straight.log[0]['loss']

def test_measuring_changes_nothing(straight, config, tmp_path):
    blind = train(config, work_dir=tmp_path, validate=False)
    a, b = read_checkpoint(straight.detector), read_checkpoint(blind.detector)
    assert all(torch.equal(a[k], b[k]) for k in a) and not blind.metrics

# ---- killed, stopped, resumed

@pytest.mark.parametrize('round', range(12))
def test_kill_9(straight, config, tmp_path, round):
    "SIGKILL at a random moment, as often as it takes; then the run ends as the one that was left alone."
    chance = random.Random(f'{round} {time.time() if SLOW else 0}')
    for _ in range(chance.randint(1, 3) if SLOW else 1):
        done = len((tmp_path/'log.jsonl').read_text().splitlines()) if (tmp_path/'log.jsonl').exists() else 0
        process = start(config, '--work_dir', tmp_path, '--save_every', 0, '--resume')
        if done >= 10: process.wait(); break
        wait_for(process, tmp_path, done + chance.randint(1, 3 if SLOW else 6))
        time.sleep(chance.uniform(0, .3))
        process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
    same_run(straight, train(config, work_dir=tmp_path, resume=True))

def test_sigterm_and_the_command(straight, config, tmp_path):
    process = start(config, '--work-dir', tmp_path)
    wait_for(process, tmp_path, 2)
    process.terminate()
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    stop = Run(tmp_path).card['step']
    assert Run(tmp_path).card['status'] == 'stopped' and 2 <= stop < 12 and read_state(tmp_path).notes['step'] == stop
    assert f'stopped by SIGTERM after step {stop} of 12; all is saved: --resume goes on from there' in said
    process = start(config, '--work_dir', tmp_path, '--resume')
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    assert f'going on after step {stop} of 12' in said and 'all classes' in said and 'finished after step 12 of 12' not in said.splitlines()[0]
    same_run(straight, Run(tmp_path))

def test_stopped_in_the_middle_of_everything(toy, tmp_path, monkeypatch):
    "AdamW, steps that are accumulated, mixed precision, workers: stopped between two moves of the weights."
    words = dict(set=['optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=bfloat16', "optim_wrapper.optimizer={'type': 'AdamW', 'lr': 0.001, '_delete_': True}", 'optim_wrapper.accumulative_counts=3',
                      'train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True', 'default_hooks.logger.interval=3', 'train_cfg.max_epochs=2'])
    whole = train(toy/'faster.py', work_dir=tmp_path/'whole', **words)
    cut = stopped_at(monkeypatch, 5, toy/'faster.py', work_dir=tmp_path/'cut', **words)
    assert cut.card['step'] == 5 and any(k.startswith('optim.grad/') for k in read_state(cut.work_dir).tensors)
    same_run(whole, train(toy/'faster.py', work_dir=tmp_path/'cut', resume='auto', **words))

def test_a_damaged_state_falls_back(straight, config, tmp_path, monkeypatch, capsys):
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path, save_every=0)
    raw = bytearray((tmp_path/'resume.safetensors').read_bytes())
    raw[len(raw)//2] ^= 64
    (tmp_path/'resume.safetensors').write_bytes(raw)
    again = train(config, work_dir=tmp_path, resume=True)
    assert 'damaged' in capsys.readouterr().out and (tmp_path/'resume.safetensors.damaged').exists()
    assert again.card['resumed'] == [5]
    same_run(straight, again)

def test_killed_between_the_renames(straight, config, tmp_path, monkeypatch):
    "The newest state has been written, and has not got its name yet."
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path, save_every=0)
    os.replace(tmp_path/'resume.safetensors', tmp_path/'resume_new.safetensors')
    again = train(config, work_dir=tmp_path, resume=True)
    assert again.card['resumed'] == [6]
    same_run(straight, again)

def test_killed_while_measuring(straight, config, tmp_path, monkeypatch):
    "The measurement is made again, and the steps before it are not."
    monkeypatch.setattr(Trainer, 'measure', lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): train(config, work_dir=tmp_path)
    monkeypatch.undo()
    assert Run(tmp_path).card['status'] == 'failed' and read_state(tmp_path).notes['step'] == 8
    again = train(config, work_dir=tmp_path, resume=True)
    assert again.card['resumed'] == [8]
    same_run(straight, again)

def test_resume_elsewhere_and_otherwise(straight, config, tmp_path, monkeypatch, capsys):
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path/'a')
    assert not list((tmp_path/'a').glob('earlier*'))
    other = train(config, work_dir=tmp_path/'b', resume=str(tmp_path/'a'/'resume.safetensors'))      # in another folder
    a, b = read_checkpoint(straight.detector), read_checkpoint(other.detector)
    assert all(torch.equal(a[k], b[k]) for k in a) and [l['step'] for l in other.log] == list(range(7, 13))
    train(config, work_dir=tmp_path/'a', resume=True, set=['train_dataloader.batch_size=4'], keep_state=True)
    assert 'is at step 6 in epochs of 4 steps; an epoch has 2 steps now: the run goes on at the beginning of epoch 2' in capsys.readouterr().out
    with pytest.raises(ValueError, match='seed 0, and now the seed is 3'): train(config, work_dir=tmp_path/'a', resume=True, seed=3)
    with pytest.raises(ValueError, match='state of another model'): train(config, work_dir=tmp_path/'a', resume=True, set=['model.neck.out_channels=8', 'model.rpn_head.in_channels=8',
            'model.roi_head.bbox_roi_extractor.out_channels=8', 'model.roi_head.bbox_head.in_channels=8'])

def test_an_earlier_run_is_put_aside(config, tmp_path, capsys):
    short = dict(work_dir=tmp_path, set=['train_cfg.max_epochs=1'], validate=False)
    for _ in range(3): train(config, **short)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ['earlier_1', 'earlier_2']
    assert capsys.readouterr().out.count('this earlier run was moved to') == 2
    assert Run(tmp_path/'earlier_1').detector.name == 'epoch_1.safetensors'

# ---- files that cannot be trusted, and slips

class Trap:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f'touch {self.path}',)

def test_traps_do_not_spring(config, tmp_path):
    import pickle
    sprung = tmp_path/'sprung'
    torch.save(dict(state_dict=dict(w=torch.zeros(1)), meta=Trap(sprung)), tmp_path/'torch.pth')
    (tmp_path/'plain.safetensors').write_bytes(pickle.dumps(dict(model=Trap(sprung)), 2))
    for name in ('torch.pth', 'plain.safetensors'):
        for words in (['--resume', tmp_path/name], ['--set', f'load_from={tmp_path/name}']):
            assert 'refused' in refuses(tmp_path, config, *words)
    work = tmp_path/'refused'
    (work/'resume.safetensors').write_bytes((tmp_path/'torch.pth').read_bytes())
    assert 'refused' in refuses(tmp_path, config, '--resume')
    assert not sprung.exists()

@pytest.mark.parametrize('words, hint', [
    (['--set', 'train_cfg.max_epoch=3'], "'max_epochs'"), (['--set', 'train_cfg.type=EpochBasedLoop'], "'EpochBasedTrainLoop'"), (['--set', 'optim_wraper=1'], "'optim_wrapper'"),
    (['--set', 'optim_wrapper.optimizer.type=SDG'], "'SGD'"), (['--set', 'optim_wrapper.optimizer.momentun=0.9'], "'momentum'"), (['--set', 'param_scheduler.0.type=LinearRL'], "'LinearLR'"),
    (['--set', 'default_hooks.logger.intervall=5'], "'interval'"), (['--set', "custom_hooks=[{'type': 'EMAHok'}]"], "'EMAHook'"), (['--set', "custom_hooks=[{'type': 'MyHook'}]"], 'MyHook'),
    (['--set', 'model.backbon.depth=50'], "'backbone'"), (['--set', 'model.roi_head.bbox_head.num_classes=80'], 'the data 4'), (['--set', 'train_dataloader.dataset.ann_file=instance.json'], "'instances.json'"),
    (['--set', "train_dataloader.dataset.metainfo.classes=('digit', 'circel')"], "'circle'"), (['--set', 'val_evaluator.metric=bbx'], "'bbox'"), (['--set', 'val_evaluator.type=COCOMetrics'], "'CocoMetric'"), (['--set', 'val_evaluator.metric=segm'], 'FasterRCNN finds no masks'),
    (['--set', 'default_hooks.checkpoint.save_best=bbox_map_05'], 'bbox_mAP'), (['--set', 'load_from=none.pth'], 'none.pth'), (['--resume', 'nowhere.safetensors'], 'nowhere'),
    (['--launcher', 'slrum'], "'slurm'"), (['--launcher', 'slurm'], 'SLURM_PROCID'), (['--gpus', '0'], 'gpus is 0'), (['--wrk_dir', 'x'], "'--work"), (['--seed', 'one'], 'int'),
    (['--set', 'randomness.sed=1'], "'seed'"), (['--set', 'train_dataloader.num_wrkers=1'], "'num_workers'"), (['--set', 'env_cfg.mp_cfg.mp_start_method=frok'], 'fork')])
def test_slips_are_one_sentence(config, tmp_path, words, hint):
    assert hint in refuses(tmp_path, config, *words)

# ---- what configs ask for

def test_a_loop_that_counts_steps(config, tmp_path):
    run = train(config, work_dir=tmp_path, set=["train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': 6, 'val_interval': 4, '_delete_': True}", 'param_scheduler=[]',
        'default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=2', 'default_hooks.checkpoint.max_keep_ckpts=-1', 'default_hooks.checkpoint.save_best=None', 'default_hooks.logger.interval=4'])
    assert sorted(p.name for p in tmp_path.glob('*_*.safetensors')) == ['iter_2.safetensors', 'iter_4.safetensors', 'iter_6.safetensors']
    assert [(m['epoch'], m['step']) for m in run.metrics] == [(1, 4), (2, 6)] and [l['step'] for l in run.log] == [4, 6]
    assert run.detector.name == 'iter_6.safetensors'

def test_patience_and_tensorboard(config, tmp_path, capsys):
    pytest.importorskip('tensorboard')
    run = train(config, work_dir=tmp_path, set=['train_cfg.val_interval=1', 'train_cfg.max_epochs=9', "vis_backends=[{'type': 'TensorboardVisBackend'}]", "visualizer.vis_backends=[{'type': 'TensorboardVisBackend'}]",
        "custom_hooks=[{'type': 'EarlyStoppingHook', 'monitor': 'bbox_mAP', 'min_delta': 1.0, 'patience': 2}]"], keep_state=True)
    assert run.card['step'] == 12 and 'has not become better' in run.card['why'] and 'ended after step 12 of 36' in capsys.readouterr().out
    assert list((tmp_path/'tensorboard').glob('events.*'))
    again = train(config, work_dir=tmp_path, resume=True, set=['train_cfg.val_interval=1', 'train_cfg.max_epochs=9'])
    assert again.card['step'] == 12         # it had ended

@pytest.mark.parametrize('how', ['gpus', 'torchrun'])
def test_two_processes_learn_as_one(toy, tmp_path, how):
    "Two processes of one image each and one process of two: the same gradients, and so nearly the same weights."
    both = dict(set=['train_cfg.max_epochs=2', 'optim_wrapper.optimizer.lr=0.01'])
    one = train(toy/'retina.py', work_dir=tmp_path/'one', **both)
    agent = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '--no-python']
    process = start(toy/'retina.py', '--work_dir', tmp_path/'two', *(['--gpus', 2] if how == 'gpus' else ['--launcher', 'pytorch']), '--set', *both['set'], 'train_dataloader.batch_size=1',
                    before=[] if how == 'gpus' else agent)
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    two = Run(tmp_path/'two')
    assert two.card['world_size'] == 2 and two.card['images_a_step'] == 2 and said.count('step 8/8') == 1
    a, b = read_checkpoint(one.detector), read_checkpoint(two.detector)
    for k in a: torch.testing.assert_close(b[k], a[k], rtol=1e-3, atol=2e-5)
    assert [l['loss'] for l in two.log] == pytest.approx([l['loss'] for l in one.log], rel=1e-3)
    assert two.metrics[-1]['bbox_mAP'] == pytest.approx(one.metrics[-1]['bbox_mAP'], abs=.02)

@pytest.mark.slow
def test_two_processes_are_stopped_and_resumed(toy, tmp_path):
    words = [toy/'faster.py', '--gpus', 2, '--set', 'train_dataloader.batch_size=1']
    whole = start(*words, '--work_dir', tmp_path/'whole')
    said = whole.communicate()[0]
    assert whole.returncode == 0, said
    process = start(*words, '--work_dir', tmp_path/'cut')
    wait_for(process, tmp_path/'cut', 3)
    process.terminate()
    assert 'stopped by SIGTERM' in process.communicate()[0] and process.returncode == 143
    process = start(*words, '--work_dir', tmp_path/'cut', '--resume')
    process.communicate()
    same_run(Run(tmp_path/'whole'), Run(tmp_path/'cut'))

@pytest.mark.parametrize('base, more, figures', [
    ('rpn_r50_fpn_1x_coco', ["val_evaluator.metric=['proposal_fast', 'proposal']", 'val_evaluator.proposal_nums=(10, 50)', 'model.test_cfg.rpn.nms_pre=100', 'model.test_cfg.rpn.max_per_img=50'], ('proposal_fast_AR_10', 'proposal_AR_50')),
    ('mask-rcnn_r50_fpn_1x_coco', ["val_evaluator.metric=['bbox', 'segm']", 'train_dataloader.dataset.pipeline.1.with_mask=True', 'val_dataloader.dataset.pipeline.2.with_mask=True',
        'model.roi_head.mask_roi_extractor.out_channels=16', 'model.roi_head.mask_roi_extractor.featmap_strides=[4, 8]',
        'model.roi_head.mask_head.in_channels=16', 'model.roi_head.mask_head.conv_out_channels=8', 'model.roi_head.mask_head.num_classes=4'], ('bbox_mAP', 'segm_mAP'))])
def test_other_detectors(toy, tmp_path, base, more, figures):
    text = FASTER.format(base=base, root=toy)
    if base.startswith('rpn'):
        text = text[:text.index('    roi_head=')] + "    train_cfg=dict(rpn=fair))\n"
    (tmp_path/'config.py').write_text(text)
    run = train(tmp_path/'config.py', work_dir=tmp_path/'run', set=['train_cfg.max_epochs=1', *more])
    assert set(figures) <= run.metrics[-1].keys() and all(run.metrics[-1][f] is not None for f in figures)
    model, classes = read_detector(run.detector)
    assert classes == (('object',) if base.startswith('rpn') else CLASSES)
    assert 'best_' + next(k for k in run.metrics[-1] if k not in ('epoch', 'step')) in {p.stem for p in (tmp_path/'run').glob('best_*')}

@pytest.mark.parametrize('name', ['faster-rcnn_r50_fpn_1x_coco', 'mask-rcnn_r50-caffe_fpn_ms-1x_coco', 'retinanet_r50_fpn_90k_coco', 'cascade-rcnn_r50_fpn_1x_coco', 'rpn_r50_fpn_1x_coco', 'fast-rcnn_r50_fpn_1x_coco'])
def test_recipes_have_a_timetable(name):
    cfg = read_training_config(name)
    times = read_timetable(cfg, 7330)
    assert times.steps in (12*7330, 90000) and times.saves(times.steps) and times.measures(times.steps)

# ---- a part of one's own

DOUBLE = '''
import torch
from torch import nn
from detbook.core import component
from detbook.neck import Conv
from detbook.fast_rcnn import BoxHead, RoIHead

@component
class DoubleHead(BoxHead):
    "Fully connected layers for the class, convolutions for the box."
    def __init__(self, conv_out_channels:int=32, num_convs:int=1, **kwargs):
        super().__init__(**kwargs)
        widths = [self.in_channels] + [conv_out_channels]*num_convs
        self.convs  = nn.ModuleList(Conv(a, b, relu=True) for a,b in zip(widths, widths[1:]))
        self.fc_reg = nn.Linear(conv_out_channels, self.fc_reg.out_features)
    def forward(self, x, wide):
        x = x.flatten(1)
        for fc in self.shared_fcs: x = fc(x).relu()
        for conv in self.convs: wide = conv(wide)
        return self.fc_cls(x), self.fc_reg(wide.mean((2, 3))).unflatten(1, (-1, 4))

@component
class DoubleRoIHead(RoIHead):
    "A second stage that reads a larger window for the box."
    def __init__(self, reg_roi_scale_factor:float=1.3, **kwargs): super().__init__(**kwargs)
    def boxes(self, canvas, boxes, feats=None):
        middle, half = (boxes[...,:2] + boxes[...,2:])/2, (boxes[...,2:] - boxes[...,:2])/2 * self.reg_roi_scale_factor
        wide = self.read(canvas, torch.cat([middle - half, middle + half], -1))
        return self.bbox_head(self.read(canvas, boxes) if feats is None else feats, wide)
'''

def test_double_head_from_the_command_line(toy, tmp_path, monkeypatch, capsys):
    "mmdetection's tutorial example: trained, tested and loaded again; a config or a file alone cannot name it."
    monkeypatch.chdir(tmp_path)
    Path('double.py').write_text(DOUBLE)
    Path('config.py').write_text(f"_base_ = '{toy/'faster.py'}'\nmodel = dict(roi_head=dict(type='DoubleRoIHead', reg_roi_scale_factor=1.5, bbox_head=dict(type='DoubleHead', num_convs=2)))\n"
                                 'test_dataloader = _base_.val_dataloader\ntest_evaluator = _base_.val_evaluator\n')
    own, file, truths = ['--own', 'double.py:DoubleRoIHead', 'double.py:DoubleHead'], 'run/epoch_1.safetensors', str(toy/'val'/'instances.json')
    done = subprocess.run([*COMMAND, 'config.py', '--work_dir', 'run', '--set', 'train_cfg.max_epochs=1', *own], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_checkpoint(file).metadata['model']['roi_head']['reg_roi_scale_factor'] == 1.5
    figures = []
    for config in ('config.py', truths):                   # the file says how it is built, and how large its pictures are
        assert run_command(detbook_test, [config, file, *own]) == 0
        figures.append([l for l in capsys.readouterr().out.splitlines() if l.startswith('all classes')])
        assert run_command(detbook_test, [config, file]) == 2
        assert 'Double' in capsys.readouterr().err
    assert figures[0] == figures[1] and figures[0]

def test_a_folder_of_pictures(config, tmp_path, capsys):
    "Any format, one line; and the config that the run keeps gives the same run without the flags."
    from detbook.data import CocoDataset
    from detbook.weights import load_detector
    from detbook.writers import to_voc
    with warnings.catch_warnings(action='ignore'): to_voc(CocoDataset(write_coco(tmp_path/'scenes', 12, seed=4, size=64, empty=0.)), tmp_path/'pictures')
    run = train(config, work_dir=tmp_path/'run', data=tmp_path/'pictures', val=.25, classes=['circle', 'square'], epochs=2, batch_size=3)
    said = capsys.readouterr().out
    assert 'learning from' in said and '2 classes: circle, square' in said and f'detbook_predict PICTURE {run.detector}' in said
    assert f"2 epochs of {run.card['steps'] // 2} steps (" in said
    assert run.card['classes'] == ['circle', 'square'] and list(load_detector(run.detector).classes) == ['circle', 'square']
    assert run.metrics[-1]['epoch'] == 2 and run.card['calls'][0]['arguments']['val'] == '0.25'
    same_run(run, train(tmp_path/'run'/'config.py', work_dir=tmp_path/'again'))
    files = sorted(p.name for p in (tmp_path/'run'/'data').iterdir())
    train(config, work_dir=tmp_path/'run', data=tmp_path/'pictures', val=.25, classes=['circle', 'square'], epochs=2, batch_size=3, resume=True)
    assert sorted(p.name for p in (tmp_path/'run'/'data').iterdir()) == files and len(files) == 2

def test_choices_that_need_data(config, tmp_path):
    with pytest.raises(ValueError, match='--epochs goes with --data'): train(config, work_dir=tmp_path, epochs=3)
