"A fit of the Learner that is killed and taken up again, one that two processes share, and fastai's own callbacks on a detector."
import signal, subprocess, sys
from importlib import import_module
import pytest, torch
from detbook.toy import write_coco

SCRIPT = '''
import os, signal, sys
import numpy as np, torch
from functools import partial
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from detbook.callbacks import Distributed, SaveState
from detbook.data import CocoDataset
from detbook.distributed import place
from detbook.learner import AverageWeights, detection_dls, detection_learner
from detbook.neck import FPN
from detbook.retinanet import RetinaNet
from detbook.tiny import TinyNet
from detbook.transforms import Augment, Crop, Flip, test_transforms

class Noise:
    "A step that draws from NumPy and Python, too."
    def __call__(self, image, target):
        import random
        return (image.float() * (1 + .1*np.random.rand() + .1*random.random())).clamp(0, 255).to(torch.uint8), target

class Kill(Callback):
    order = 1
    def before_batch(self):
        if self.training and (self.epoch, self.iter) == (2, 1): os.kill(os.getpid(), signal.SIGKILL)

def model():
    "A RetinaNet with batch norms."
    net = TinyNet((8, 16, 16, 16))
    return RetinaNet(4, backbone=net, neck=FPN(net.out_channels, 16, start_level=1, extra='on_input'))

def learner(folder, bs=2, workers=0, own=False, layout=torch.contiguous_format):
    torch.set_num_threads(1)
    set_seed(0)
    steps = Augment([Flip(.5), Crop((.8, .8), 'relative_range')])
    noisy = lambda image, target: Noise()(*steps(image, target))
    train = CocoDataset(f'{folder}/train/instances.json', transforms=noisy if not place().world_size > 1 else steps)
    valid = CocoDataset(f'{folder}/valid/instances.json', transforms=test_transforms(scale=None))
    learn = detection_learner(detection_dls(train, valid, bs=bs, num_workers=workers), model().to(memory_format=layout))
    if own: learn.opt_func = Adam
    return learn

def fit(folder, out, how, kill, workers=0):
    learn = learner(folder, workers=workers, own='adam' in how, layout=torch.channels_last if 'layout' in how else torch.contiguous_format)
    learn.path = type(learn.path)(out)
    more = [AverageWeights(momentum=.3, gamma=3), SaveModelCallback(monitor='bbox_mAP')] if 'average' in how else []
    with learn.no_bar(), learn.no_logging():
        cbs = [SaveState(out + '/state', resume=True), *more, *([Kill()] if kill else [])]
        if 'tune' in how: learn.fine_tune(3, 1e-3, freeze_epochs=1, cbs=cbs)
        else: learn.fit_one_cycle(4, 1e-3, cbs=cbs)
    torch.save(dict(model=learn.model.state_dict(), values=[[float(x) for x in v] for v in learn.recorder.values], losses=[float(x) for x in learn.recorder.losses],
                    lrs=[float(x) for x in learn.recorder.lrs], steps={k: list(v) for k,v in learn.detection_step.terms.items()}), out + '/end.pt')

def both(folder, out, kill):
    "Of two processes."
    learn = learner(folder, bs=1)
    class Stop(Callback):
        def before_batch(self):
            if kill and self.training and (self.epoch, self.iter) == (1, 1): raise KeyError('pulled')
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-3, cbs=[Distributed(), SaveState(out, resume=True), Stop()])
    return torch.cat([v.flatten().float() for v in learn.model.state_dict().values()])

if __name__ == '__main__': fit(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == 'kill', int(sys.argv[5]))
'''

slow = pytest.mark.slow

@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp('callbacks')
    for name,n,seed in (('train', 6, 0), ('valid', 3, 1)): write_coco(folder/name, n, seed=seed, size=64, crowd=0, empty=0)
    (folder/'killed_fit.py').write_text(SCRIPT)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))

@pytest.fixture
def fits(scene):
    return import_module('killed_fit')

def killed(scene, out, how, workers):
    return subprocess.run([sys.executable, '-W', 'ignore', scene/'killed_fit.py', scene, out, how, 'kill', str(workers)], capture_output=True, text=True, timeout=300)

@pytest.mark.parametrize('how,workers', [pytest.param('plain', 0, marks=slow), ('plain', 2), ('average, adam', 0), ('average, layout', 0), pytest.param('adam, layout', 0, marks=slow), pytest.param('tune', 0, marks=slow)])
def test_a_fit_that_was_killed_ends_as_one_that_was_not(scene, fits, tmp_path, one_thread, how, workers):
    alone, cut = tmp_path/'alone', tmp_path/'cut'
    for d in (alone, cut): d.mkdir()
    fits.fit(str(scene), str(alone), how, False, workers)
    done = killed(scene, cut, how, workers)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert (cut/'state'/'resume.safetensors').exists() and not (cut/'end.pt').exists()
    (cut/'state'/'.resume_new.safetensors.0123abcd.part').write_bytes(b'half')
    fits.fit(str(scene), str(cut), how, False, workers)
    a, b = (torch.load(d/'end.pt', weights_only=True) for d in (alone, cut))
    assert all(torch.equal(v, b['model'][k]) for k,v in a['model'].items())
    assert str(a['values']) == str(b['values']) and a['losses'] == b['losses'] and a['lrs'] == b['lrs'] and a['steps'] == b['steps']
    assert len(a['losses']) == (9 if how == 'tune' else 12) and len(a['values']) == (3 if how == 'tune' else 4)
    assert sorted(p.name for p in (cut/'state').iterdir()) == ['resume.safetensors', 'resume_previous.safetensors']

def test_a_damaged_state_gives_way_to_the_one_before(scene, fits, tmp_path, one_thread, capsys):
    from detbook.callbacks import SaveState
    def run(cbs, epochs=2):
        learn = fits.learner(scene)
        with learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-3, cbs=cbs)
        return learn
    whole = run(SaveState(tmp_path/'run'))
    path = tmp_path/'run'/'resume.safetensors'
    raw = bytearray(path.read_bytes()); raw[-9] ^= 1; path.write_bytes(raw)
    again = run(SaveState(tmp_path/'run', resume=True))
    assert all(torch.equal(v, again.model.state_dict()[k]) for k,v in whole.model.state_dict().items())
    said = capsys.readouterr().out
    assert 'is damaged' in said and 'going on after 1 of 2 epochs' in said and (tmp_path/'run'/'resume.safetensors.damaged').exists()
    with pytest.raises(ValueError, match='optimizer.group.0.lr was 0.001 and is now 0.002'):
        learn = fits.learner(scene)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 2e-3, cbs=SaveState(tmp_path/'run', resume=True))

def test_a_state_of_something_else_is_refused(scene, fits, tmp_path):
    from detbook.callbacks import SaveState
    from detbook.runs import save_state
    for notes,said in ((dict(step=1), 'not the state of a fit'), (dict(kind='Learner', packed=dict(other=1)), 'no state that SaveState wrote')):
        folder = tmp_path/said
        folder.mkdir()
        save_state(folder, dict(a=torch.ones(1)), notes)
        learn = fits.learner(scene)
        with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match=said): learn.fit(1, cbs=SaveState(folder, resume=True))

def test_validating_and_finding_a_rate_leave_the_state_alone(scene, fits, tmp_path):
    from detbook.callbacks import SaveState
    learn = fits.learner(scene)
    learn.path = tmp_path
    learn.add_cb(SaveState(tmp_path/'run'))
    with learn.no_bar(), learn.no_logging():
        learn.validate()
        learn.lr_find(num_it=6, show_plot=False)
        assert not (tmp_path/'run').exists()
        learn.fit(1)
        before = (tmp_path/'run'/'resume.safetensors').read_bytes()
        learn.validate()
        assert (tmp_path/'run'/'resume.safetensors').read_bytes() == before

@slow           # the chapter has two processes learn as one in every run
def test_two_processes_go_on_exactly(scene, fits, tmp_path, one_thread):
    from detbook.distributed import run_on
    whole = run_on(1, fits.both, str(scene), str(tmp_path/'alone'), False, per_gpu=2)
    with pytest.raises(KeyError, match='pulled'): run_on(1, fits.both, str(scene), str(tmp_path/'cut'), True, per_gpu=2)
    again = run_on(1, fits.both, str(scene), str(tmp_path/'cut'), False, per_gpu=2)
    assert torch.equal(whole, again)
    with pytest.raises(ValueError, match='processes was 2 and is now 1'): fits.both(str(scene), str(tmp_path/'cut'), False)

def test_tensorboard(scene, fits, tmp_path):
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    learn = fits.learner(scene)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=TensorBoardCallback(str(tmp_path), trace_model=False, log_preds=False))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {'bbox_mAP', 'bbox_mAP_50', 'valid_loss', 'train_loss'} <= set(events.Tags()['scalars'])
    assert events.Scalars('bbox_mAP')[0].value == pytest.approx(learn.recorder.values[-1][2], abs=1e-6)
