"What a run does beside its steps: a running average of the weights, hooks of the user's own, and both after a break and on two processes."
import json, signal
from pathlib import Path
import pytest, torch
from detbook.config import Config
from detbook.ema import WeightAverage
from detbook.nodes import ConfigError
from detbook.reading import read_checkpoint
from detbook.runs import read_state
from detbook.timetable import read_hooks
from detbook.trainer import Trainer
from detbook.training import read_training_config, train
from test_training import refuses, same_run, start, stopped_at, timeless, wait_for, write_toy   # noqa: F401

pytestmark = pytest.mark.usefixtures('one_thread')
GOLDEN = json.loads((Path(__file__).parent/'golden'/'ema.json').read_text())      # from mmengine 0.10.7 and mmdetection 3.3
EMA = "custom_hooks=[{'type': 'EMAHook', 'ema_type': 'ExpMomentumEMA', 'momentum': 0.1, 'gamma': 4, 'update_buffers': True}]"

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    root = write_toy(tmp_path_factory.mktemp('toy'))
    (root/'mine.py').write_text(OWN)
    return root

@pytest.fixture(scope='module')
def config(toy): return toy/'faster.py'

# ---- the average

@pytest.mark.parametrize('case', GOLDEN['cases'], ids=lambda c: f'{c["rule"]}-{"-".join(c["given"])}')
def test_averages_equal_mmengines(case):
    net = torch.nn.BatchNorm1d(4).double()
    average = WeightAverage(net, rule=case['rule'], **case['given'])
    for v, (weight, mean) in zip(GOLDEN['values'], case['seen']):
        with torch.no_grad(): net.weight.copy_(torch.tensor(v)); net.running_mean.copy_(-torch.tensor(v))
        average.update()
        with average.in_place():
            torch.testing.assert_close(net.weight.detach(), torch.tensor(weight).double(), rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(net.running_mean, torch.tensor(mean).double(), rtol=1e-6, atol=1e-7)
        assert net.weight.tolist() == v

@pytest.fixture(scope='module')
def averaged(config, tmp_path_factory):
    "A run that was left alone and keeps an average."
    return train(config, work_dir=tmp_path_factory.mktemp('averaged'), set=[EMA], keep_state=True)

def test_the_average_is_what_is_measured_and_saved(config, averaged, tmp_path):
    "By hand: the same steps, and the average after the last; the weights of the run are those of a run without."
    raw = train(config, work_dir=tmp_path/'raw', keep_state=True)
    assert [l['loss'] for l in raw.log] == [l['loss'] for l in averaged.log]             # the weights learn as without
    state, plain = read_state(averaged.work_dir), read_state(raw.work_dir)
    for k,v in plain.tensors.items(): assert torch.equal(state.tensors[k], v), k
    saved, raw_saved = read_checkpoint(averaged.detector), read_checkpoint(raw.detector)
    assert state.notes['average'] == 12
    for k,v in saved.items():
        if f'average.{k}' in state.tensors: assert torch.equal(v, state.tensors[f'average.{k}']), k
        elif v.is_floating_point(): assert torch.equal(v, raw_saved[k]), k
    assert not torch.equal(saved['backbone.conv1.weight'], raw_saved['backbone.conv1.weight'])
    trainer = Trainer(read_training_config(config, [EMA]), tmp_path/'hand', validate=False)
    names, by_hand = trainer.average.names, {}
    trainer.net.train()
    while not trainer.over():
        trainer.loader.batch_sampler.go_to(*divmod(trainer.step, trainer.times.per_epoch))
        for batch in trainer.loader:
            trainer.train_step(*batch)
            now, n = trainer.model.state_dict(), trainer.step - 1
            share = 1. if n == 0 else .9*torch.tensor(-(1 + n)/4).exp().item() + .1
            for k in names: by_hand[k] = now[k].clone() if n == 0 else by_hand[k] + share*(now[k] - by_hand[k])
    for k in names: torch.testing.assert_close(saved[k], by_hand[k], rtol=1e-5, atol=1e-6)
    again = train(config, work_dir=tmp_path/'measured', set=['load_from=' + str(averaged.detector), 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'optim_wrapper.optimizer.lr=0.', 'optim_wrapper.optimizer.weight_decay=0.',
        'model.backbone.norm_eval=True'])
    assert {k:v for k,v in again.metrics[-1].items() if 'mAP' in k} == pytest.approx({k:v for k,v in averaged.metrics[-1].items() if 'mAP' in k})

def test_a_resumed_average_is_the_same(config, averaged, tmp_path, monkeypatch):
    cut = stopped_at(monkeypatch, 6, config, work_dir=tmp_path, set=[EMA])
    assert read_state(cut.work_dir).notes['average'] == 6
    same_run(averaged, train(config, work_dir=tmp_path, set=[EMA], resume=True))

def test_killed_while_the_average_was_in_place(config, averaged, tmp_path, monkeypatch):
    "The weights come back before the state is saved."
    import detbook.trainer as trainer
    monkeypatch.setattr(trainer, 'detect_all', lambda *a, **k: (_ for _ in ()).throw(OSError('no room')))
    with pytest.raises(OSError): train(config, work_dir=tmp_path, set=[EMA])
    monkeypatch.undo()
    same_run(averaged, train(config, work_dir=tmp_path, set=[EMA], resume=True))

def test_two_processes_average_as_they_do_alone(config, tmp_path):
    words = dict(set=[EMA, 'train_dataloader.batch_size=1', 'train_cfg.max_epochs=2'], gpus=2, save_every=0)
    whole = train(config, work_dir=tmp_path/'whole', **words)
    process = start(config, '--work_dir', tmp_path/'cut', '--gpus', 2, '--save_every', 0, '--set', *words['set'])
    wait_for(process, tmp_path/'cut', 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) in (0, 128 + signal.SIGTERM)
    process.stdout.close()
    same_run(whole, train(config, work_dir=tmp_path/'cut', resume=True, **words))

def test_the_average_begins_later(config, tmp_path):
    hook = "custom_hooks=[{'type': 'EMAHook', 'momentum': 0.5, 'begin_epoch': 2}]"
    run = train(config, work_dir=tmp_path, set=[hook, 'train_cfg.max_epochs=2', 'default_hooks.checkpoint.max_keep_ckpts=-1'], validate=False, keep_state=True)
    state = read_state(run.work_dir)
    assert state.notes['average'] == 4                       # the steps of the second epoch
    plain = train(config, work_dir=tmp_path/'plain', set=['train_cfg.max_epochs=1'], validate=False)
    first, without = read_checkpoint(tmp_path/'epoch_1.safetensors'), read_checkpoint(plain.detector)
    assert all(torch.equal(v, without[k]) for k,v in first.items())      # before that, the weights themselves

def test_the_flag_and_the_config_that_it_leaves(config, tmp_path):
    run = train(config, work_dir=tmp_path/'a', ema=.98, set=['train_cfg.max_epochs=1'], validate=False)
    kept = Config.fromfile(run.work_dir/'config.py').custom_hooks
    assert [dict(h) for h in kept] == [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=.02, update_buffers=True)] and run.card['calls'][0]['arguments']['ema'] == .98
    again = train(run.work_dir/'config.py', work_dir=tmp_path/'b', validate=False)
    a, b = read_checkpoint(run.detector), read_checkpoint(again.detector)
    assert all(torch.equal(a[k], b[k]) for k in a)

def test_mixed_precision_by_a_flag(config, tmp_path):
    "As mmdetection's --amp: the config of the run says it, and resuming with the same flag changes nothing."
    run = train(config, work_dir=tmp_path/'a', amp=True, set=['train_cfg.max_epochs=1', 'val_cfg.fp16=True'])
    kept = Config.fromfile(run.work_dir/'config.py')
    assert kept.optim_wrapper.type == 'AmpOptimWrapper' and run.card['calls'][0]['arguments']['amp'] is True
    again = train(config, work_dir=tmp_path/'b', set=['train_cfg.max_epochs=1', 'val_cfg.fp16=True', 'optim_wrapper.type=AmpOptimWrapper'])
    plain = train(config, work_dir=tmp_path/'c', set=['train_cfg.max_epochs=1'])
    a, b, c = (read_checkpoint(r.detector) for r in (run, again, plain))
    assert all(torch.equal(a[k], b[k]) for k in a) and any(not torch.equal(a[k], c[k]) for k in a)
    assert "optim_wrapper.type is 'Strange'" in refuses(tmp_path, config, '--amp', '--set', 'optim_wrapper.type=Strange')

def test_layout_by_a_flag(config, tmp_path):
    "Training with the numbers of a pixel side by side: the same by flag and by config; saved weights lie as usual."
    words = ['train_cfg.max_epochs=1']
    run = train(config, work_dir=tmp_path/'a', channels_last=True, set=words)
    assert Config.fromfile(run.work_dir/'config.py').channels_last is True and run.card['calls'][0]['arguments']['channels_last'] is True
    again = train(config, work_dir=tmp_path/'b', set=[*words, 'channels_last=True'])
    plain = train(config, work_dir=tmp_path/'c', set=words)
    a, b, c = (read_checkpoint(r.detector) for r in (run, again, plain))
    assert all(torch.equal(a[k], b[k]) and a[k].is_contiguous() for k in a) and a.keys() == c.keys()
    assert 'channels_last is' in refuses(tmp_path, config, '--set', 'channels_last=yes')

def test_layout_of_a_run_that_was_stopped(config, tmp_path, monkeypatch):
    words = dict(channels_last=True, ema=.9, validate=False, keep_state=True)
    whole = train(config, work_dir=tmp_path/'whole', **words)
    stopped_at(monkeypatch, 5, config, work_dir=tmp_path/'cut', **words)
    same_run(whole, train(config, work_dir=tmp_path/'cut', resume=True, **words))

def test_learning_rate_by_a_flag(config, tmp_path):
    words = ['train_cfg.max_epochs=1', 'auto_scale_lr.base_batch_size=16']
    run = train(config, work_dir=tmp_path/'a', auto_scale_lr=True, set=words, validate=False)
    assert Config.fromfile(run.work_dir/'config.py').auto_scale_lr.enable is True
    again = train(config, work_dir=tmp_path/'b', set=[*words, 'auto_scale_lr.enable=True'], validate=False)
    a, b = read_checkpoint(run.detector), read_checkpoint(again.detector)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert 'base_batch_size=16' in refuses(tmp_path, config, '--auto-scale-lr', '--set', 'auto_scale_lr=None')

def test_a_state_without_an_average(config, tmp_path, monkeypatch, capsys):
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path)
    train(config, work_dir=tmp_path, set=[EMA], resume=True, validate=False, keep_state=True)
    assert 'holds no average of the weights: it begins with the current weights' in capsys.readouterr().out
    assert read_state(tmp_path).notes['average'] == 6

@pytest.mark.parametrize('hook, hint', [
    (dict(momentum=2), 'momentum'), (dict(ema_type='ExpMomentEMA'), "'ExpMomentumEMA'"), (dict(gama=3), 'gama'), (dict(gamma=3), 'has none'), (dict(begin_iter=1, begin_epoch=1), 'begin_iter is given too'),
    (dict(begin_epoch=9), 'the run has 12'), (dict(update_buffers=1), 'True or False'), (dict(device='cpu'), 'device'), (dict(interval=0), 'interval')])
def test_slips_of_an_average(config, tmp_path, hook, hint):
    assert hint in refuses(tmp_path, config, '--set', f'custom_hooks=[{dict(type="EMAHook") | hook}]')

def test_slips_of_the_flag(config, tmp_path):
    assert 'such as 0.9998' in refuses(tmp_path, config, '--ema', '1.5')
    assert 'custom_hooks.0.momentum=0.1' in refuses(tmp_path, config, '--ema', '0.9', '--set', EMA)

@pytest.mark.parametrize('words', [('optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=bfloat16', 'optim_wrapper.accumulative_counts=2'), ('train_cfg.type=IterBasedTrainLoop', 'train_cfg.max_iters=8', 'train_cfg.val_interval=4',
                                   'train_cfg.max_epochs=None', 'param_scheduler=[]', 'default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=4')], ids=('amp', 'iterations'))
def test_other_recipes(toy, tmp_path, words):
    words = [w for w in words if w != 'train_cfg.max_epochs=None']
    if 'train_cfg.type=IterBasedTrainLoop' in words: words = [*[w for w in words if not w.startswith('train_cfg')], "train_cfg={'_delete_': True, 'type': 'IterBasedTrainLoop', 'max_iters': 8, 'val_interval': 4}"]
    run = train(toy/'retina.py', work_dir=tmp_path, set=[EMA, *words])
    assert run.card['status'] == 'finished' and run.metrics and run.detector

# ---- hooks of one's own

OWN = '''
import json, torch
class Diary:
    "Writes down all that happens, and adds up the losses of this run, breaks included."
    def __init__(self, file, words=()): self.file, self.words, self.total, self.sum = file, words, 0, torch.zeros(1)
    def note(self, run, what):
        with open(f'{self.file}.{run.place.rank}', 'a') as f: f.write(json.dumps([what, run.step, self.total, round(float(self.sum), 4)]) + chr(10))
    def before_run(self, run): self.note(run, 'before_run')
    def before_epoch(self, run): self.note(run, 'before_epoch')
    def before_step(self, run): self.note(run, 'before_step')
    def after_step(self, run):
        self.total, self.sum = self.total + 1, self.sum + sum(map(float, run.losses.values()))
        self.note(run, 'after_step')
    def after_epoch(self, run): self.note(run, 'after_epoch')
    def after_eval(self, run): self.note(run, 'after_eval ' + ' '.join(sorted(k for k in run.stats if k == 'bbox_mAP')))
    def after_run(self, run): self.note(run, 'after_run')
    def state_dict(self): return dict(total=self.total, sum=self.sum)
    def load_state_dict(self, state): self.total, self.sum = state['total'], state['sum']
class Enough:
    def __init__(self, after): self.after = after
    def after_step(self, run):
        if run.step == self.after: run.why = f'{self.after} are enough'
class Dark:
    def before_step(self, run): run.batch = [x//2 for x in run.batch[0]], run.batch[1]
class Slip:
    def after_stp(self, run): pass
class Random:
    def before_step(self, run): self.drawn = torch.rand(3)
    def after_epoch(self, run): torch.rand(5)
'''

def diary(path): return [json.loads(l) for l in Path(path).read_text().splitlines()]

def hooked(toy, tmp_path, name='diary', *more): return [f"custom_hooks=[{{'type': 'Diary', 'file': '{tmp_path/name}'}}{''.join(', ' + m for m in more)}]"]

def test_seven_moments(toy, config, tmp_path):
    run = train(config, work_dir=tmp_path/'run', own=[f'{toy}/mine.py:Diary'], set=[*hooked(toy, tmp_path), 'train_cfg.max_epochs=2', 'train_cfg.val_interval=1'])
    seen = [(w, s) for w,s,*_ in diary(tmp_path/'diary.0')]
    epoch = lambda e: [('before_epoch', 4*e)] + [x for s in range(4*e, 4*e + 4) for x in (('before_step', s), ('after_step', s + 1))] + [('after_epoch', 4*e + 4), ('after_eval bbox_mAP', 4*e + 4)]
    assert seen == [('before_run', 0), *epoch(0), *epoch(1), ('after_run', 8)]
    total = diary(tmp_path/'diary.0')[-1]
    assert total[2] == 8 and total[3] == pytest.approx(sum(l['loss'] for l in run.log), rel=1e-4)

def test_a_hook_that_only_looks_changes_nothing(toy, config, averaged, tmp_path):
    same_run(averaged, train(config, work_dir=tmp_path/'run', own=[f'{toy}/mine.py:Diary,Random'], set=[EMA[:-1] + f", {{'type': 'Diary', 'file': '{tmp_path/'d'}'}}, {{'type': 'Random'}}]"]))

def test_a_hook_after_a_break(toy, config, tmp_path, monkeypatch):
    "What it kept comes back, and no step is seen twice."
    words = dict(own=[f'{toy}/mine.py:Diary'], set=hooked(toy, tmp_path))
    train(config, work_dir=tmp_path/'whole', **words)
    whole = diary(tmp_path/'diary.0')
    (tmp_path/'diary.0').unlink()
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path/'cut', **words)
    cut = diary(tmp_path/'diary.0')
    assert cut[-1][0] == 'after_run' and cut[-1][2] == 6
    train(config, work_dir=tmp_path/'cut', resume=True, **words)
    rest = diary(tmp_path/'diary.0')[len(cut):]
    assert rest[0] == ['before_run', 6, 6, cut[-1][3]] and cut[:-1] + rest[1:] == whole

def test_a_hook_that_was_not_there_begins_anew(toy, config, tmp_path, monkeypatch, capsys):
    stopped_at(monkeypatch, 6, config, work_dir=tmp_path/'run')
    train(config, work_dir=tmp_path/'run', own=[f'{toy}/mine.py:Diary'], set=hooked(toy, tmp_path), resume=True)
    assert 'holds nothing that Diary had kept: it begins anew' in capsys.readouterr().out
    assert diary(tmp_path/'diary.0')[-1][2] == 6

def test_hooks_on_two_processes(toy, config, tmp_path):
    train(config, work_dir=tmp_path/'run', own=[f'{toy}/mine.py:Diary'], gpus=2, set=[*hooked(toy, tmp_path), 'train_dataloader.batch_size=1', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1'])
    one, two = ([x[:3] for x in diary(tmp_path/f'diary.{r}')] for r in (0, 1))
    assert one == two and one[-1] == ['after_run', 4, 4]

def test_hooks_that_act(toy, config, tmp_path):
    words = dict(own=[f'{toy}/mine.py:Enough,Dark'], validate=False)
    run = train(config, work_dir=tmp_path/'run', set=["custom_hooks=[{'type': 'Enough', 'after': 3}]"], **words)
    assert (run.card['status'], run.card['step'], run.card['why']) == ('finished', 3, '3 are enough')
    dark = train(config, work_dir=tmp_path/'dark', set=["custom_hooks=[{'type': 'Enough', 'after': 1}, {'type': 'Dark'}]"], **words)
    assert dark.log[0]['loss'] != run.log[0]['loss']

def test_a_class_from_python(config, tmp_path):
    class Here:
        seen = []
        def after_step(self, run): self.seen.append(run.step)
    run = train(config, work_dir=tmp_path, own=[Here], set=["custom_hooks=[{'type': 'Here'}]", 'train_cfg.max_epochs=1'], validate=False)
    assert Here.seen == [1, 2, 3, 4] and run.card['calls'][0]['arguments']['own'] == ['Here']

@pytest.mark.parametrize('hook, hint', [(dict(type='Slip'), "Slip.after_stp is called by nobody; did you mean 'after_step'?"), (dict(type='Enough', aftr=3), "did you mean 'after'?"), (dict(type='Enough'), 'Enough needs after'),
    (dict(type='Diry', file='x'), "did you mean 'Diary'?; a class of yours is named with --own FILE.py:Diry")])
def test_slips_of_hooks(toy, config, tmp_path, hook, hint):
    assert hint in refuses(tmp_path, config, '--own', f'{toy}/mine.py:Slip,Enough,Diary', '--set', f'custom_hooks=[{hook}]')

def test_hooks_are_read_beside_those_of_the_config(config):
    class Mine:
        def after_run(self, run): pass
    cfg = read_training_config(config, ["custom_hooks=[{'type': 'Mine'}, {'type': 'NumClassCheckHook'}]"])
    assert [p.path for p in read_hooks(cfg, [Mine])['own']] == ['custom_hooks.0']
    with pytest.raises(ConfigError, match='--own FILE.py:Mine'): read_hooks(cfg)

# ---- several steps that move the weights together

def test_two_processes_accumulate_as_one(toy, tmp_path):
    "Two processes of one picture, two steps together, against one process of two pictures, two steps together: nearly the same weights; and the line about the rate counts all of it."
    both = ['train_cfg.max_epochs=1', 'optim_wrapper.accumulative_counts=2', 'param_scheduler=[]']
    one = train(toy/'retina.py', work_dir=tmp_path/'one', set=both, validate=False)
    two = train(toy/'retina.py', work_dir=tmp_path/'two', set=[*both, 'train_dataloader.batch_size=1'], gpus=2, validate=False)
    a, b = read_checkpoint(one.detector), read_checkpoint(two.detector)
    for k in a: torch.testing.assert_close(b[k], a[k], rtol=1e-3, atol=2e-5)
    assert 'this run has 4 (1 GPU x 2 images x 2 steps)' in one.card['rate'] and 'this run has 4 (2 GPUs x 1 image x 2 steps)' in two.card['rate']
