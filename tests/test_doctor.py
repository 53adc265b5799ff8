"The doctor: each planted fault is found by its check and by no other, a healthy training has none, and nothing of what is examined changes."
import copy, json
import matplotlib; matplotlib.use('Agg')
import numpy as np, pytest, random, torch
from torch import nn
from detbook import models
from detbook.doctor import detbook_doctor, doctor
from detbook.learner import detection_dls, detection_learner
from detbook.anchors import AnchorGenerator
from detbook.cli import run_command
from detbook.data import CocoDataset
from detbook.runs import Run
from detbook.tiny import toy_detector
from detbook.toy import CLASSES, scene, write_coco
from detbook.training import train
from detbook.transforms import test_transforms as shown_whole

pytestmark = pytest.mark.usefixtures('one_thread')
NAMES = ['pictures', 'boxes', 'classes', 'anchors', 'gradients', 'learning rate', 'losses', 'overfit', 'boxes or classes', 'scores', 'evaluation']

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('doctor')
    write_coco(d/'toy', 12, seed=7, size=96, objects=(1, 3), crowd=0, empty=0)
    return d

@pytest.fixture(scope='module')
def data(folder): return CocoDataset(folder/'toy'/'instances.json', masks=False, transforms=shown_whole(scale=(96, 96)))

@pytest.fixture(scope='module')
def known(): return toy_detector()

@pytest.fixture
def model(known): return copy.deepcopy(known)

class Wrong(torch.utils.data.Dataset):
    "A data set with something wrong in each of its pairs."
    def __init__(self, ds, image=None, truth=None, **more):
        self.ds, self.image, self.truth, self.classes, self.category_ids = ds, image, truth, ds.classes, ds.category_ids
        vars(self).update(more)
    def __len__(self): return len(self.ds)
    def __getitem__(self, i):
        image, t = self.ds[i]
        return self.image(image) if self.image else image, {**t, **self.truth(t)} if self.truth else t
    def to_coco(self): return self.ds.to_coco()

def faults(*args, **more): return [c.name for c in doctor(*args, **dict(steps=0, pictures=6) | more).faults]

def learner(model, data, **more): return detection_learner(detection_dls(data, data, bs=2), model, metrics=(), **more)

# ---- health

def test_a_healthy_learner_has_no_fault_and_is_left_as_it_was(model, data):
    learn = learner(model, data)
    model.train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes, attributes = [m.training for m in model.modules()], {k: v for k, v in vars(model).items() if isinstance(v, (bool, int, str, tuple))}
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    report = doctor(learn, steps=12, pictures=6)
    assert report.faults == [] and [c.name for c in report.checks] == NAMES and all(c.verdict == 'ok' for c in report.checks), report
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and all(p.grad is None for p in model.parameters())
    assert [m.training for m in model.modules()] == modes and attributes == {k: vars(model)[k] for k in attributes} and learn.opt is None
    assert torch.equal(torch.get_rng_state(), drawn[0]) and random.getstate() == drawn[1] and (np.random.get_state()[1] == drawn[2]).all()
    assert report.table() == doctor(learn, steps=12, pictures=6).table()

def test_pictures_without_objects_are_no_fault(known, tmp_path):
    ds = CocoDataset(write_coco(tmp_path/'some', 12, seed=7, size=96, objects=(1, 3), crowd=0, empty=.5), masks=False)
    assert not all(len(ds[i][1]['boxes']) for i in range(12))
    assert faults(known, ds, pictures=12) == []

def test_health_after_a_fit_and_after_lr_find(model, data):
    learn = learner(model, data)
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(start_lr=1e-6, end_lr=10., num_it=12, show_plot=False)
        assert faults(learn) == []
        learn.fit_one_cycle(2, 1e-4)
    report = doctor(learn, steps=0, pictures=6)
    assert report.faults == [] and '12 steps' in report['losses'].found, report

@pytest.mark.parametrize('name', ['rpn', 'retinanet', 'fcos', 'cascade_rcnn', 'fast_rcnn'])
def test_every_new_detector_is_healthy(name):
    torch.manual_seed(0)
    model = getattr(models, name)(depth=18, channels=16, scratch=True, **({} if name == 'rpn' else dict(num_classes=4)))
    pairs = [scene(i, size=64, crowd=0, empty=0) for i in range(2)]
    if name == 'fast_rcnn': pairs = [(i, dict(t, proposals=t['boxes'])) for i, t in pairs]
    report = doctor(model, pairs, steps=0, pictures=3)
    assert report.faults == [] and report['gradients'].verdict == 'ok', report
    assert report['boxes or classes'].verdict == 'not asked' and 'learnt nothing' in report['boxes or classes'].found

# ---- planted in the pictures and their truths

class Half:
    "Pictures of half the size, whose boxes stay."
    def __call__(self, image): return nn.functional.interpolate(image[None].float(), scale_factor=.5)[0]

shift = lambda by: lambda t: dict(boxes=t['boxes'] + torch.tensor([by, 0., by, 0.]))
DATA = {
    'divided by 255': ('pictures', dict(image=lambda i: i.float()/255), '0 to 1'),
    'normalised before': ('pictures', dict(image=lambda i: (i.float() - 120)/58), 'run from -2'),
    'black': ('pictures', dict(image=lambda i: i*0 + 7), 'every pixel is 7'),
    'nan': ('pictures', dict(image=lambda i: i.float().where(i > 9, torch.tensor(float('nan')))), 'nan'),
    'x y width height': ('boxes', dict(truth=lambda t: dict(boxes=torch.cat([t['boxes'][:, :2], t['boxes'][:, 2:] - t['boxes'][:, :2]], 1))), 'no area'),
    'shares of the picture': ('boxes', dict(truth=lambda t: dict(boxes=t['boxes']/96)), 'short sides 0'),
    'resized without its boxes': ('boxes', dict(image=Half()), '48 x 48'),
    'moved out': ('boxes', dict(truth=shift(70.)), 'mostly outside'),
    'no objects': ('boxes', dict(truth=lambda t: {k: t[k][:0] for k in ('boxes', 'labels', 'ignore')}), 'no object'),
    'labels from 1': ('classes', dict(truth=lambda t: dict(labels=t['labels'] + 1)), 'labels 1 to 4'),
    'a negative label': ('classes', dict(truth=lambda t: dict(labels=t['labels'] - 1)), 'labels -1'),
    'names in another order': ('classes', dict(classes=list(CLASSES)[::-1]), "'square' in the data"),
    'ids of other pictures': ('evaluation', dict(truth=lambda t: dict(image_id=t['image_id'] % 12 + 1)), 'by way of the ids'),
    'ids of no picture': ('evaluation', dict(truth=lambda t: dict(image_id=t['image_id'] + 100)), 'no picture 1'),
    'categories of other labels': ('evaluation', dict(category_ids=[4, 3, 2, 1]), 'with their class'),
    'categories of no label': ('evaluation', dict(category_ids=[0, 1, 2, 3]), 'no category 0'),
    'a step that cannot be undone': ('evaluation', dict(truth=lambda t: dict(flipped=True)), 'flipped'),
}

@pytest.mark.parametrize('case', DATA)
def test_a_fault_in_the_data(case, known, data):
    check, how, words = DATA[case]
    report = doctor(known, Wrong(data, **how), steps=0, pictures=6)
    assert [c.name for c in report.faults] == [check], report
    fault, = report.faults
    assert words in fault.found and fault.expected and fault.advice
    assert all(c.verdict != 'fault' and 'again' in c.found for c in report.checks if c.verdict == 'not asked' and c.name in ('overfit', 'scores') and check in ('pictures', 'boxes', 'classes'))

def test_labels_from_1_where_the_detector_has_a_class_to_spare(data):
    "Nothing fails then: labels 1 to 3 of 4, and nobody has 0."
    pairs = [(i, dict(t, labels=torch.arange(len(t['labels'])) % 3 + 1)) for i, t in (scene(k, size=96, objects=(4, 6), crowd=0, empty=0) for k in range(14))]
    torch.manual_seed(0)
    assert faults(models.faster_rcnn(18, num_classes=4, channels=16, scratch=True), pairs, pictures=14) == ['classes']

# ---- planted in the detector

def edit(model, f):
    with torch.no_grad(): f(model)
    return model
def head(m): return m.roi_head.bbox_head
def cut(m): m.neck.register_forward_hook(lambda m, x, y: tuple(f.detach() for f in y))
def turn(m): head(m).fc_cls.weight[:4] = head(m).fc_cls.weight[[1, 2, 3, 0]].clone()
def freeze(m): [p.requires_grad_(False) for p in m.parameters()]
def layer(m): return next(l for l in head(m).shared_fcs if isinstance(l, nn.Linear))
MODEL = {
    'normalised in units of 0..1': ('pictures', lambda m: (m.preprocess.mean.div_(255), m.preprocess.std.div_(255)), 'mean 685'),
    'means of other channels': ('pictures', lambda m: m.preprocess.mean.copy_(m.preprocess.mean.flip(0)), 'bgr=False'),
    'anchors of other objects': ('anchors', lambda m: setattr(m.rpn_head, 'anchors', AnchorGenerator(scales=(80, 90))), '0% of'),
    'a detach behind the neck': ('gradients', cut, 'backbone.stages.0'),
    'a ReLU that is always 0': ('gradients', lambda m: (layer(m).bias.fill_(-1e6)), 'roi_head.bbox_head.shared_fcs'),
    'all frozen': ('gradients', freeze, 'no term'),
    'a weight that is nan': ('losses', lambda m: head(m).fc_cls.bias.fill_(float('nan')), 'loss_cls'),
    'boxes thrown away': ('boxes or classes', lambda m: head(m).fc_reg.bias.add_(9.), 'boxes on'),
    'classes in another order': ('boxes or classes', turn, 'right class on 0%'),
    'a threshold above all scores': ('scores', lambda m: setattr(m.roi_head.test_filter, 'score_thr', .999999), '0 detections'),
    'sure of the background': ('scores', lambda m: head(m).fc_cls.bias[-1].add_(40.), '0 detections'),
}

@pytest.mark.parametrize('case', MODEL)
def test_a_fault_in_the_detector(case, model, data):
    check, plant, words = MODEL[case]
    report = doctor(edit(model, plant), data, steps=0, pictures=6)
    assert [c.name for c in report.faults] == [check] and words in report[check].found, report

def test_frozen_parts_are_named_and_no_fault(model, data):
    model.backbone.requires_grad_(False)
    report = doctor(model, data, steps=0, pictures=6)
    assert report.faults == [] and 'frozen: backbone.stages.0' in report['gradients'].found

class Shifted(nn.Module):
    "A detector that answers beside the objects, whatever it learns."
    def __init__(self, inner):
        super().__init__()
        self.inner, self.num_classes, self.trained = inner, 4, False
    def loss(self, images, targets): return self.inner.loss(images, targets)
    def predict(self, images): return [dict(p, boxes=p['boxes'] + 50) for p in self.inner.predict(images)]

def test_two_pictures_that_cannot_be_learnt(model, data):
    report = doctor(Shifted(model), data, steps=8, pictures=6)
    assert [c.name for c in report.faults] == ['overfit'] and report['overfit'].found.startswith('0% of the objects'), report

# ---- planted in the Learner

def test_rates(model, data):
    for lr, words in ((0., 'is 0'), (30., 'rate 30')):
        report = doctor(learner(model, data, lr=lr), steps=0, pictures=6)
        assert [c.name for c in report.faults] == ['learning rate'] and words in report['learning rate'].found, report

def test_an_optimizer_that_lacks_a_part(model, data):
    learn = learner(model, data)
    learn.splitter = lambda m: [list(m.backbone.parameters()), list(m.neck.parameters()) + list(m.rpn_head.parameters())]
    report = doctor(learn, steps=0, pictures=6)
    assert [c.name for c in report.faults] == ['gradients'] and 'does not move roi_head.bbox_head' in report['gradients'].found, report

def test_losses_that_rise_or_rest(model, data):
    learn = learner(model, data)
    terms = lambda values: setattr(learn.detection_step, 'terms', dict(loss_cls=[v/2 for v in values], loss_bbox=[v/2 for v in values]))
    learn.recorder.lrs = [1e-4, 2e-4, 1e-4]
    terms(np.linspace(1, 3, 20))
    assert faults(learn) == ['losses']
    terms([1.]*20)
    assert faults(learn) == []              # it has learnt all: it may rest
    terms([1.]*19 + [float('nan')])
    assert faults(learn) == ['losses']
    terms([1.]*20)
    edit(model, lambda m: head(m).fc_cls.bias[-1].add_(40.))
    assert faults(learn) == ['losses']      # and here it has not

def test_detections_that_were_measured(model, data, folder, tmp_path):
    learn = learner(model, data)
    assert faults(learn, results=[]) == ['evaluation']
    rows  = [dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=.9) for a in data.to_coco()['annotations']]
    assert faults(learn, results=rows) == []
    (tmp_path/'rows.json').write_text(json.dumps([dict(r, bbox=[v/2 for v in r['bbox']]) for r in rows]))       # in pixels of another size
    assert faults(learn, results=tmp_path/'rows.json') == ['evaluation']
    write_coco(tmp_path/'other', 12, seed=8, size=96, objects=(1, 3), crowd=0, empty=0)
    assert faults(learn, truths=tmp_path/'other'/'instances.json') == ['evaluation']

# ---- a run

NET = '''
from torch import nn
from detbook.tiny import TinyNet
class Net(TinyNet): "The backbone of the toy detector, under a name that a config can give."
'''
CONFIG = '''
_base_ = 'faster-rcnn_r50_fpn_1x_coco'
classes = ('digit', 'circle', 'triangle', 'square')
steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
dataset = dict(data_root='{root}/toy/', ann_file='instances.json', data_prefix=dict(img='images/'), metainfo=dict(classes=classes), pipeline=steps)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(dataset, filter_cfg=dict(filter_empty_gt=True, min_size=0)))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
val_evaluator = dict(ann_file='{root}/toy/instances.json')
train_cfg = dict(max_epochs=2, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=0.0005), clip_grad=dict(max_norm=10))
auto_scale_lr = dict(base_batch_size=2)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
load_from = '{weights}'
model = dict(backbone=dict(_delete_=True, type='Net'), neck=dict(in_channels=[32, 64, 96], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32, anchor_generator=dict(scales=[5, 7])),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=32), bbox_head=dict(in_channels=32, fc_out_channels=96, num_classes=4)))
'''

@pytest.fixture(scope='module')
def run(folder, known):
    from detbook.describe import save_detector
    save_detector(folder/'weights.safetensors', known, CLASSES)
    (folder/'net.py').write_text(NET)
    (folder/'run.py').write_text(CONFIG.format(root=folder, weights=folder/'weights.safetensors'))
    return train(folder/'run.py', work_dir=folder/'run', own=[f'{folder/"net.py"}:Net'], validate=False)

def test_a_healthy_run(run, capsys, tmp_path):
    files = {p.name: p.read_bytes() for p in run.work_dir.iterdir()}
    report = doctor(run, steps=0, pictures=6)
    assert report.faults == [] and report['learning rate'].verdict == report['evaluation'].verdict == 'ok' and '12 lines' in report['losses'].found, report
    assert {p.name: p.read_bytes() for p in run.work_dir.iterdir()} == files, 'the folder is only read'
    words = [str(run.work_dir), '--steps', '0', '--pictures', '6', '--json', str(tmp_path/'a.json'), '--show', str(tmp_path/'a.png')]
    assert run_command(detbook_doctor, words) == 0 and 'no faults in 11 checks' in capsys.readouterr().out
    assert json.loads((tmp_path/'a.json').read_text())['faults'] == [] and (tmp_path/'a.png').read_bytes()[:4] == b'\x89PNG'
    assert run_command(detbook_doctor, [*words[:5], '--json', str(run.work_dir/'run.json')]) == 2 and 'would be replaced' in capsys.readouterr().err

def test_faults_of_a_run(run, tmp_path, capsys):
    import shutil
    sick = tmp_path/'sick'
    shutil.copytree(run.work_dir, sick)
    lines = [json.loads(l) for l in (sick/'log.jsonl').read_text().splitlines()]
    put = lambda change: (sick/'log.jsonl').write_text(''.join(json.dumps(l | change(l)) + '\n' for l in lines))
    put(lambda l: dict(loss_cls=l['step']/2.))
    assert faults(sick) == ['losses']
    put(lambda l: dict(lr=0.))
    assert faults(Run(sick)) == ['learning rate'] and run_command(detbook_doctor, [str(sick), '--steps', '0', '--pictures', '4']) == 1
    capsys.readouterr()
    assert run_command(detbook_doctor, [str(tmp_path)]) == 2 and 'holds no run' in capsys.readouterr().err

# ---- the report

def test_report(known, data, tmp_path):
    report = doctor(known, Wrong(data, **DATA['labels from 1'][1]), steps=0, pictures=4)
    assert report.exit_code == 1 and 'FAULT classes' in report.table() and 'do: ' in repr(report)
    assert len(report.show()) == 2                      # labels beyond the names are drawn as numbers
    report.to_json(tmp_path/'a.json')
    d = json.loads((tmp_path/'a.json').read_text())
    assert d['faults'] == ['classes'] and [c['name'] for c in d['checks']] == NAMES
    with pytest.raises(KeyError, match="did you mean 'scores'"): report['score']

def test_slips(model, data, folder):
    for call, words in ((lambda: doctor(nn.Linear(1, 1)), 'is a Linear'), (lambda: doctor(model), 'data is None'), (lambda: doctor(folder), 'holds no run'), (lambda: doctor(model, []), 'no pictures'),
                        (lambda: doctor(model, data, steps=-1), 'steps'), (lambda: doctor(model, data, pictures=0), 'pictures')):
        with pytest.raises((TypeError, ValueError, FileNotFoundError), match=words): call()
