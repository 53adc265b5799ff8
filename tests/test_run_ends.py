"The rehearsal before a run, what is left when it has ended, the comparison of several, and classes of one's own in every command."
import json, subprocess
from pathlib import Path
import pytest
from detbook.cli import run_command
from detbook.curves import detbook_log, read_log
from detbook.inference import detbook_predict
from detbook.runs import STATES
from detbook.testing import detbook_test
from detbook.training import train
from detbook.weights import detbook_convert
from test_hooks import config, toy                  # noqa: F401
from test_training import COMMAND, refuses, same_run, stopped_at

pytestmark = pytest.mark.usefixtures('one_thread')
ONE = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
here = lambda folder: sorted(str(p.relative_to(folder)) for p in Path(folder).rglob('*'))

# ---- a rehearsal

def test_a_rehearsal_leaves_nothing(config, tmp_path, monkeypatch, capsys):       # noqa: F811
    monkeypatch.chdir(tmp_path)
    seen = train(config, dry_run=True)
    said = capsys.readouterr().out
    assert here(tmp_path) == []
    assert seen['steps'] == 12 and seen['per_epoch'] == 4 and len(seen['images']) == 2 and seen['features'][0][:2] == [2, 16] and seen['step_seconds'] > 0
    assert seen['measure'] == [8, 12] and seen['save'] == [4, 8, 12] and seen['log'] == list(range(1, 13)) and seen['losses'].keys() >= {'loss_cls', 'loss_bbox'}
    for words in ('the first batch: 2 pictures of', 'features of 2x16x', 'one step took', 'on a GPU a step with 2 pictures of', 'measured: 2 times, after step 8, 12', 'at this pace an epoch takes', 'this was a rehearsal: nothing was learned, and work_dirs/faster is as it was'): assert words in said, words

def test_a_rehearsal_sees_the_first_step_of_the_run(config, tmp_path):       # noqa: F811
    seen = train(config, work_dir=tmp_path/'run', dry_run=True, validate=False)
    run = train(config, work_dir=tmp_path/'run', set=ONE, validate=False)
    assert {k: round(v, 6) for k,v in seen['losses'].items()} == {k:v for k,v in run.log[0].items() if k.startswith('loss_')} and seen['measure'] == []

def test_a_rehearsal_beside_a_run(config, tmp_path, monkeypatch, capsys):       # noqa: F811
    "Of a resume it shows the next step; the folder stays byte for byte."
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path)
    before = {p: (tmp_path/p).read_bytes() for p in here(tmp_path)}
    seen = train(config, work_dir=tmp_path, dry_run=True, resume=True)
    fresh = train(config, work_dir=tmp_path, dry_run=True)
    assert seen['steps'] == 6 and fresh['steps'] == 12 and 'going on after step 6 of 12' in capsys.readouterr().out
    assert before == {p: (tmp_path/p).read_bytes() for p in here(tmp_path)}

def test_a_rehearsal_on_two_processes_and_of_a_folder(config, toy, tmp_path):       # noqa: F811
    done = subprocess.run([*COMMAND, str(config), '--work_dir', str(tmp_path/'run'), '--dry-run', '--gpus', '2', '--data', str(toy/'train'), '--epochs', '2', '--batch_size', '1', '--ema', '0.9'], capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'this was a rehearsal' in done.stdout and 'on 2 x CPU' in done.stdout and done.stdout.count('one step took') == 1 and here(tmp_path) == []

@pytest.mark.parametrize('words, hint', [(['--set', 'train_cfg.max_epoch=3'], "'max_epochs'"), (['--set', 'load_from=none.pth'], 'none.pth'), (['--set', 'model.roi_head.bbox_head.num_classes=80'], 'the data 4')])
def test_a_rehearsal_finds_slips(config, tmp_path, words, hint):       # noqa: F811
    assert hint in refuses(tmp_path, config, '--dry_run', *words) and not (tmp_path/'refused').exists()

# ---- the end of a run

@pytest.fixture(scope='module')
def ended(config, tmp_path_factory): return train(config, work_dir=tmp_path_factory.mktemp('ended'), set=ONE)       # noqa: F811

def test_the_state_goes_and_the_last_line_names_the_detector(config, tmp_path, capsys):       # noqa: F811
    run = train(config, work_dir=tmp_path, set=ONE)
    assert capsys.readouterr().out.splitlines()[-1] == f'detector: {run.detector}; best bbox_mAP: {tmp_path}/best_bbox_mAP.safetensors'
    assert not any((tmp_path/n).exists() for n in STATES)
    kept = train(config, work_dir=tmp_path/'kept', set=ONE, keep_state=True, validate=False)
    assert (kept.work_dir/'resume.safetensors').exists() and capsys.readouterr().out.splitlines()[-1] == f'detector: {kept.detector}'

def test_the_same_command_again_has_nothing_to_do(config, ended, capsys):       # noqa: F811
    before = {p: (ended.work_dir/p).read_bytes() for p in here(ended.work_dir)}
    again = train(config, work_dir=ended.work_dir, set=ONE, resume=True)
    assert f'the run in {ended.work_dir} is over, after step 4 of 4: nothing is left to do' in capsys.readouterr().out
    assert before == {p: (again.work_dir/p).read_bytes() for p in here(again.work_dir)}
    assert train(config, work_dir=ended.work_dir, set=ONE, resume=True, dry_run=True) == {}

def test_a_run_that_is_over_cannot_go_on(config, ended, tmp_path):       # noqa: F811
    with pytest.raises(ValueError, match=r'is over, after step 4, .* cannot go on with other settings \(train_cfg.max_epochs = 5, it was 1\).*--set load_from=.*epoch_1.safetensors starts a new run.*--keep_state'):
        train(config, work_dir=ended.work_dir, set=['train_cfg.max_epochs=5', 'train_cfg.val_interval=1'], resume=True)
    with pytest.raises(FileNotFoundError, match='the run in it is over, and its state was removed at its end: --set load_from=.*epoch_1.safetensors'):
        train(config, work_dir=tmp_path, resume=str(ended.work_dir))
    longer = train(config, work_dir=tmp_path/'longer', set=[*ONE, f'load_from={ended.detector}'], validate=False)
    assert longer.card['status'] == 'finished'

def test_a_kept_state_goes_on(config, tmp_path):       # noqa: F811
    train(config, work_dir=tmp_path/'a', set=ONE[:1] + ['param_scheduler=[]'], validate=False, keep_state=True)
    same_run(train(config, work_dir=tmp_path/'a', set=['param_scheduler=[]'], validate=False, resume=True), train(config, work_dir=tmp_path/'b', set=['param_scheduler=[]'], validate=False))

# ---- several runs beside each other

def test_runs_are_compared(ended, tmp_path, capsys):
    out = tmp_path/'both.png'
    assert run_command(detbook_log, [str(ended.work_dir), str(ended.work_dir), '--out', str(out), '--terms', 'loss', 'bbox_mAP', 'seconds']) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[:4] == ['run', 'status', 'steps', 'loss'] and len(said) == 4 and f'{ended.log[-1]["loss"]:.4f}' in said[1] and said[-1] == str(out)
    assert out.read_bytes()[:4] == b'\x89PNG' and read_log(ended.work_dir).lines == ended.log

@pytest.mark.parametrize('words, hint', [(['nowhere'], 'nowhere: no such folder'), (['RUN', '--terms', 'los'], "did you mean 'loss'?"), (['RUN', '--out', 'x.gif'], '.png, .svg or .pdf'), (['EMPTY'], 'holds no run'), (['RUN', '--out', 'RUN/log.jsonl'], '.png')])
def test_slips_of_the_comparison(ended, tmp_path, capsys, words, hint):
    words = [w.replace('RUN', str(ended.work_dir)).replace('EMPTY', str(tmp_path)) for w in words]
    assert run_command(detbook_log, words) == 2 and hint in capsys.readouterr().err

def test_lines_that_are_broken_are_passed_over(ended, tmp_path):
    (tmp_path/'run.json').write_text('{"status": "failed", "step": 2, "steps": 4}')
    (tmp_path/'log.jsonl').write_text('{"step": 1, "loss": 2.0, "seconds": 0.1}\n{"step": "x"}\n[1]\n{"loss": 3}\n{"step": 2, "loss": NaN, "memory": null}\n{"st')
    (tmp_path/'metrics.jsonl').write_text('{"step": 2, "bbox_mAP": null}\n')
    found, = detbook_log([str(tmp_path)], out=str(tmp_path/'a.svg'))
    assert [l['step'] for l in found.lines] == [1, 2] and (tmp_path/'a.svg').read_text().startswith('<?xml')

def test_a_run_of_mmdetection(tmp_path, capsys):
    there = tmp_path/'theirs'/'20260101_000000'/'vis_data'
    there.mkdir(parents=True)
    rows = [dict(lr=.02, data_time=.1, loss=2., loss_cls=1., epoch=1, iter=50, step=50, memory=3000, time=.5), {'coco/bbox_mAP': .2, 'data_time': .1, 'step': 1, 'time': .1}, dict(lr=.02, loss=1., epoch=2, iter=100, step=100, time=.5)]
    (there/'scalars.json').write_text('\n'.join(map(json.dumps, rows)))
    found, = detbook_log(str(tmp_path/'theirs'))
    assert [l['step'] for l in found.lines] == [50, 100] and found.figures == [dict(bbox_mAP=.2, step=50)] and 'theirs' in capsys.readouterr().out

# ---- classes of one's own in every command

OWN_PART = '''
import torch
from detbook.neck import FPN
class MyNeck(FPN):
    def forward(self, feats): return tuple(f*1.5 for f in super().forward(feats))
'''

@pytest.fixture(scope='module')
def own_detector(config, toy, tmp_path_factory):       # noqa: F811
    "A detector with a neck of the user's, trained for an epoch."
    folder = tmp_path_factory.mktemp('own')
    (folder/'part.py').write_text(OWN_PART)
    return train(config, work_dir=folder/'run', own=[f'{folder}/part.py:MyNeck'], set=[*ONE, 'model.neck.type=MyNeck'], validate=False), f'{folder}/part.py:MyNeck'

def test_own_classes_in_predict_test_and_convert(own_detector, toy, tmp_path, capsys):       # noqa: F811
    run, own = own_detector
    rows = detbook_predict(str(toy/'val'/'images'), str(run.detector), own=[own], score_thr=.0)
    assert rows and detbook_predict(str(toy/'val'/'images'), str(run.work_dir/'config.py'), str(run.detector), own=[own], score_thr=.0) == rows
    result = detbook_test(str(toy/'val'/'instances.json'), str(run.detector), own=[own])
    with_config = detbook_test(str(run.work_dir/'config.py'), str(run.detector), own=[own], set=[
        f'test_dataloader.dataset.data_root={toy}/val/', 'test_dataloader.dataset.ann_file=instances.json', 'test_dataloader.dataset.data_prefix.img=images/', "test_dataloader.dataset.metainfo={'classes': ('digit', 'circle', 'triangle', 'square')}",
         "test_dataloader.dataset.pipeline=[{'type': 'LoadImageFromFile'}, {'type': 'Resize', 'scale': (72, 72), 'keep_ratio': True}, {'type': 'LoadAnnotations', 'with_bbox': True}, {'type': 'PackDetInputs'}]",
         f'test_evaluator.ann_file={toy}/val/instances.json'])
    assert result.stats['bbox_mAP'] == pytest.approx(with_config.stats['bbox_mAP'], abs=.02)
    path = detbook_convert(str(run.detector), str(tmp_path/'mine.safetensors'), own=[own])
    assert detbook_predict(str(toy/'val'/'images'), str(path), own=[own], score_thr=.0) == rows

@pytest.mark.parametrize('command', ['predict', 'test', 'convert'])
def test_own_classes_that_are_missing(own_detector, toy, tmp_path, command):       # noqa: F811
    "Without the flag the class is named; with a slip in it the nearest one is."
    run, own = own_detector
    call = dict(predict=lambda **k: detbook_predict(str(toy/'val'/'images'), str(run.detector), **k), test=lambda **k: detbook_test(str(toy/'val'/'instances.json'), str(run.detector), **k),
                convert=lambda **k: detbook_convert(str(run.detector), str(tmp_path/'out.safetensors'), **k))[command]
    with pytest.raises((ValueError, TypeError), match='MyNeck'): call()
    with pytest.raises(ValueError, match="has no class 'MyNek'; did you mean 'MyNeck'"): call(own=[own.replace('MyNeck', 'MyNek')])

def test_a_folder_of_pictures_for_an_annotation_file(ended, toy, tmp_path):       # noqa: F811
    "The annotations lie elsewhere than the pictures."
    (tmp_path/'truths.json').write_bytes((toy/'val'/'instances.json').read_bytes())
    found = detbook_test(str(tmp_path/'truths.json'), str(ended.detector), images=str(toy/'val'/'images'))
    assert found.stats == detbook_test(str(toy/'val'/'instances.json'), str(ended.detector)).stats
    with pytest.raises(FileNotFoundError): detbook_test(str(tmp_path/'truths.json'), str(ended.detector), images=str(tmp_path))
    with pytest.raises(ValueError, match='--images .* goes with an annotation file; a config says test_dataloader.dataset.data_prefix.img'): detbook_test(str(ended.work_dir/'config.py'), str(ended.detector), images=str(toy/'val'/'images'))
