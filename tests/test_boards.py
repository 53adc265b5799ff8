"Boards: what a run sends to TensorBoard, Weights & Biases and MLflow, offline; and what it says where one of them is not to be had."
import json, sys, warnings
from pathlib import Path
import pytest
from detbook.hooks import Boards, open_board
from detbook.core import WARNED
from detbook.runs import Run
from detbook.training import train
from test_hooks import config, toy                  # noqa: F401
from test_training import refuses, stopped_at

KINDS = dict(tensorboard='TensorboardVisBackend', wandb='WandbVisBackend', mlflow='MLflowVisBackend')
SHORT = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=1']
def board(kind, **more): return f'visualizer.vis_backends=[{dict(type=KINDS[kind]) | more}]'

@pytest.mark.parametrize('kind', KINDS)
def test_a_package_that_is_not_there(config, tmp_path, monkeypatch, kind):          # noqa: F811
    "One sentence with the line that installs it, and the run goes on."
    for name in list(sys.modules):
        if name.split('.')[0] == kind or name.startswith('torch.utils.tensorboard'): monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, kind, None)
    WARNED.clear()
    with pytest.warns(UserWarning, match=rf"the package {kind} is not installed: pip install 'detbook\[{kind}\]'; the figures are in log.jsonl"):
        run = train(config, work_dir=tmp_path, set=[board(kind), 'train_cfg.max_epochs=1'], validate=False)
    assert run.card['status'] == 'finished' and len(run.log) == 4 and not (tmp_path/'boards.json').exists()

@pytest.mark.parametrize('kind, more, hint', [('wandb', dict(init_kwarg={}), "'init_kwargs'"), ('mlflow', dict(exp_nam='x'), "'exp_name'"), ('tensorboard', dict(dir='x'), 'no such setting')])
def test_slips(config, tmp_path, kind, more, hint): assert hint in refuses(tmp_path, config, '--set', board(kind, **more))       # noqa: F811

def test_a_type_that_there_is_not(tmp_path):
    WARNED.clear()
    with pytest.warns(UserWarning, match="did you mean 'WandbVisBackend'"): assert open_board(dict(vis_backends=[dict(type='WandBVisBackend')]), tmp_path, 0) is None

def test_wandb_offline(config, tmp_path, monkeypatch):       # noqa: F811
    wandb = pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline'); monkeypatch.setenv('WANDB_SILENT', 'true')
    sent, plain = [], wandb.init
    def init(*args, **kwargs):
        run = plain(*args, **kwargs)
        log = run.log
        monkeypatch.setattr(type(run), 'log', lambda self, d, step=None: (sent.append((step, d)), log(d, step=step))[1])
        return run
    monkeypatch.setattr(wandb, 'init', init)
    run = train(config, work_dir=tmp_path/'run', set=[board('wandb', init_kwargs=dict(project='toys')), *SHORT])
    assert [s for s,d in sent if 'train/loss' in d] == list(range(1, 9)) and [s for s,d in sent if 'val/bbox_mAP' in d] == [4, 8]
    assert [d['train/loss'] for s,d in sent if 'train/loss' in d] == [l['loss'] for l in run.log]
    id = json.loads((tmp_path/'run'/'boards.json').read_text())['wandb']
    files = list((tmp_path/'run'/'wandb').glob(f'offline-run-*-{id}/run-{id}.wandb'))
    assert len(files) == 1 and files[0].stat().st_size > 1000

def test_mlflow_in_a_folder(config, tmp_path, monkeypatch):       # noqa: F811
    pytest.importorskip('mlflow')
    from mlflow.tracking import MlflowClient
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path/'run', set=[board('mlflow', exp_name='toys', tags=dict(kind='toy')), *SHORT])
    run = train(config, work_dir=tmp_path/'run', resume=True, set=[board('mlflow', exp_name='toys', tags=dict(kind='toy')), *SHORT])
    client = MlflowClient(f'sqlite:///{tmp_path}/run/mlflow.db')
    experiment = client.get_experiment_by_name('toys')
    kept, = client.search_runs([experiment.experiment_id])          # one, though the run was broken off
    assert kept.info.status == 'FINISHED' and kept.data.tags['kind'] == 'toy' and kept.info.run_name == 'run'
    losses = sorted({(m.step, m.value) for m in client.get_metric_history(kept.info.run_id, 'train/loss')})
    assert losses == [(l['step'], l['loss']) for l in run.log]
    assert sorted({m.step for m in client.get_metric_history(kept.info.run_id, 'val/bbox_mAP')}) == [4, 8]
    assert Run(tmp_path/'run').card['status'] == 'finished'

def test_mlflow_that_cannot_be_reached(tmp_path):
    pytest.importorskip('mlflow')
    WARNED.clear()
    with pytest.warns(UserWarning, match='MLflowVisBackend could not be opened: .*; the figures are in'):
        assert open_board(dict(vis_backends=[dict(type='MLflowVisBackend', tracking_uri='nothing://here')]), tmp_path, 0) is None

def test_tensorboard(config, tmp_path):       # noqa: F811
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    run = train(config, work_dir=tmp_path, set=[board('tensorboard'), *SHORT])
    events = EventAccumulator(str(tmp_path/'tensorboard')).Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars('train/loss')] == [(l['step'], round(l['loss'], 4)) for l in run.log]
    assert [e.step for e in events.Scalars('val/bbox_mAP')] == [4, 8]

def test_a_board_that_fails_in_the_middle():
    calls = []
    def add(figures, step): calls.append(step); raise RuntimeError('no space')
    b, good = Boards(dict(Bad=(add, lambda: calls.append('closed')))), []
    WARNED.clear()
    with pytest.warns(UserWarning, match='Bad takes no more figures: no space'):
        for step in (1, 2): b.add('train', dict(loss=1.), step)
    b.close()
    assert calls == [1] and not good and not b.boards

def test_names_in_the_folder_are_not_believed(tmp_path):
    for text in ('[1', '[]', '{"wandb": "../../x", "mlflow": 7, "other": "a"}'):
        (tmp_path/'boards.json').write_text(text)
        with warnings.catch_warnings(action='ignore'): assert open_board(dict(vis_backends=[dict(type='LocalVisBackend')]), tmp_path, 0) is None
    from detbook.hooks import _ids
    assert _ids(tmp_path) == {} and Path(tmp_path/'boards.json').read_text() == text
