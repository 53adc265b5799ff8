"Learning rates, parameter groups and steps equal mmengine's; mixed precision on every detector family; faults in the middle of a run."
import contextlib, hashlib, json, warnings
from pathlib import Path
import pytest, torch
from torch import nn
from safetensors.torch import load_file, save_file
from detbook import toy
from detbook.nodes import ConfigError
from detbook.config import Config, build_detector
from detbook.core import WARNED
from detbook.faster_rcnn import FasterRCNN
from detbook.recipes import recipe_names
from detbook.schedule import NotFinite, OptimStep, Schedule, build_optimizer

GOLDEN = json.loads((Path(__file__).parent/'golden'/'schedules.json').read_text())     # from mmengine 0.10.7
SGD = dict(type='SGD', lr=.02, momentum=.9, weight_decay=1e-4)

@pytest.mark.filterwarnings('ignore:param_scheduler')       # some end before all their changes came
@pytest.mark.parametrize('name', GOLDEN['schedules'])
def test_rates(name):
    c = GOLDEN['schedules'][name]
    s = Schedule(c['param_scheduler'], c['steps_per_epoch'], c.get('max_epochs'), c.get('max_iters'))
    for step, rates in c['rates'].items():
        bases = [c['lr'], c['lr'] * c['lr_mult']] if isinstance(rates, list) else [c['lr']]
        assert [s.lr(int(step), b) for b in bases] == pytest.approx(rates if isinstance(rates, list) else [rates], rel=1e-10, abs=1e-16)

@pytest.mark.filterwarnings('ignore:optim_wrapper')         # one key is outdone by longer ones
@pytest.mark.parametrize('name', GOLDEN['groups'])
def test_groups(name):
    c = GOLDEN['groups'][name]
    with torch.device('meta'): model = FasterRCNN()
    groups = build_optimizer(model, dict(optimizer=c['optimizer'], paramwise_cfg=c['paramwise_cfg'])).param_groups
    have  = {n:(g['lr'], g['weight_decay']) for g in groups for n in g['param_names']}
    names = [n for n,_ in model.named_parameters() if n in have]
    assert len(names) == len(have) == c['parameters'] and hashlib.sha256('\n'.join(names).encode()).hexdigest()[:16] == c['names']
    want = [tuple(v) for count,*v in c['runs'] for _ in range(count)]
    for n,w in zip(names, want): assert have[n] == pytest.approx(w, rel=1e-10), n

@pytest.mark.parametrize('fused', (None, False))
@pytest.mark.parametrize('name', GOLDEN['steps'])
def test_steps(name, fused):
    c, line = GOLDEN['steps'][name], nn.Linear(2, 1).double()
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[.5, -.25]]))
        line.bias.zero_()
    wrapper = dict(c['optim_wrapper'])
    if fused is not None: wrapper['optimizer'] = wrapper['optimizer'] | dict(fused=fused)
    step = OptimStep(line, wrapper, Schedule(c['param_scheduler'], 1, max_iters=c['steps']))
    assert step.optimizer.defaults['fused'] is (fused is None)
    for i, weights in enumerate(c['weights']):
        step(i, lambda: dict(loss=(line(torch.tensor([[1., i]]).double()) - (2*i - 1)).square().sum()))
        assert [*line.weight.flatten().tolist(), line.bias.item()] == pytest.approx(weights, rel=1e-9, abs=1e-11)

# mmdetection's milestones lie behind the `end` of these schedulers: the rate is never cut
NEVER_CUT = {'faster-rcnn_r50-caffe-dc5_ms-3x_coco', 'faster-rcnn_r50-caffe_fpn_ms-2x_coco', 'mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco'}

def test_recipes():
    "Every training recipe has a step, and a schedule that ends at a hundredth; but for three, which say that they do not."
    line, trained, told = nn.Linear(1, 1), 0, set()
    for name in recipe_names():
        cfg = Config.fromfile(name)
        if 'train_cfg' not in cfg: continue
        WARNED.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            s = Schedule(cfg.param_scheduler, 7330, cfg.train_cfg.get('max_epochs'), cfg.train_cfg.get('max_iters'))
        if caught: told.add(name)
        step, lr, trained = OptimStep(line, cfg.optim_wrapper, s), cfg.optim_wrapper.optimizer.lr, trained + 1
        assert step.lr(1000) == pytest.approx(lr) and step.lr(s.steps - 1) == pytest.approx(lr if name in NEVER_CUT else lr/100), name
        assert (step.dtype is not None) == (cfg.optim_wrapper.type == 'AmpOptimWrapper')
    assert trained >= 141 and told == NEVER_CUT

FAMILIES = dict(rpn='rpn_r50_fpn_1x_coco', fast='fast-rcnn_r50_fpn_1x_coco', faster='faster-rcnn_r50_fpn_1x_coco', mask='mask-rcnn_r50_fpn_1x_coco', cascade='cascade-mask-rcnn_r50_fpn_1x_coco',
                keypoint='keypoint_rcnn_r50_fpn_1x_coco', retina='retinanet_r50_fpn_1x_coco', fcos_rpn='faster-rcnn_r50_fpn_fcos-rpn_1x_coco')

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('family', FAMILIES)
def test_mixed_precision(family):
    "A step in bfloat16: losses are float32, finite and, where the same boxes are seen, close to float32's; gradients are finite; boxes come out as float32."
    cfg = Config.fromfile(FAMILIES[family]).model
    cfg.backbone.update(dict(depth=18, frozen_stages=-1))
    cfg.neck.in_channels = [64, 128, 256, 512]
    stages = cfg.get('train_cfg', {}).get('rcnn') or []
    for s in stages if isinstance(stages, list) else [stages]: s.sampler.num = 32
    if family == 'keypoint': cfg.roi_head.keypoint_head.update(num_convs=2, conv_out_channels=64)       # eight of 512 took ten minutes in bfloat16 where the processor has to imitate it
    torch.manual_seed(0)
    model = build_detector(cfg)
    image, target = toy.scene(3, size=96)
    if family == 'keypoint':
        points = target['keypoints']
        target = target | dict(labels=torch.zeros_like(target['labels']), keypoints=points.repeat(1, 5, 1)[:, :17])
    given = dict(proposals=[target['boxes'].repeat(8, 1) + torch.randn(8*len(target['boxes']), 4)]) if family == 'fast' else {}
    both = []
    for kind in ('OptimWrapper', 'AmpOptimWrapper'):
        step = OptimStep(model, dict(type=kind, optimizer=SGD, clip_grad=dict(max_norm=35.)), Schedule([], 1, max_iters=2), lr=0.)
        torch.manual_seed(1)
        raw = {}
        def forward():
            raw.update(model.loss([image], [target], **given))
            return raw
        both.append(step(0, forward))
        assert all(v.dtype == torch.float32 for v in raw.values()) and step.grad_norm.isfinite()
    full, half = both
    first = [k for k in full if family in ('rpn', 'fast', 'retina') or 'rpn' in k]     # second stages draw other boxes
    assert first or family == 'fast'
    for k,v in half.items(): assert v.isfinite() and (k not in first or abs(v - full[k]) < .02*full[k] + .002), (k, full[k], v)
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        found, = model.predict([image], **given)
        assert found['boxes'].dtype == found['scores'].dtype == torch.float32
        if family not in ('fast', 'retina'): assert model.propose([image])[0].dtype == torch.float32

class Two(nn.Module):
    "Two layers in an order, and a loss that is broken on demand."
    def __init__(self, order='ab'):
        super().__init__()
        torch.manual_seed(0)
        made = dict(a=nn.Linear(3, 3), b=nn.Linear(3, 3))
        for k in order: setattr(self, k, made[k])
    def loss(self, i, broken=False):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(i))
        return dict(loss_fit=(self.b(self.a(x).relu()) - x).square().mean(), loss_small=1e-3*self.a.weight.square().sum() * (float('inf') if broken else 1))

WRAPPERS = [dict(optimizer=SGD), dict(optimizer=SGD, accumulative_counts=3, clip_grad=dict(max_norm=.1)), dict(optimizer=dict(type='AdamW', lr=.01), accumulative_counts=2),
            dict(optimizer=dict(type='Adam', lr=.01, amsgrad=True)), dict(optimizer=dict(type='RMSprop', lr=.01, momentum=.9)),
            dict(type='AmpOptimWrapper', dtype='float16', loss_scale=512., optimizer=dict(type='AdamW', lr=.01), clip_grad=dict(max_norm=.1)),
            dict(type='AmpOptimWrapper', dtype='bfloat16', optimizer=SGD), dict(type='AmpOptimWrapper', dtype='float16', optimizer=SGD, accumulative_counts=2)]
RUN = [dict(type='LinearLR', start_factor=.1, by_epoch=False, end=5), dict(type='MultiStepLR', milestones=[2])]

@pytest.mark.parametrize('wrapper', WRAPPERS, ids=lambda w: '-'.join(str(v['type'] if isinstance(v, dict) and 'type' in v else v) for v in w.values() if not isinstance(v, dict) or 'type' in v))
@pytest.mark.parametrize('stop', (1, 4, 9))
def test_resume(wrapper, stop, tmp_path):
    "A run that ends after `stop` steps and is taken up from a file without pickles, in a model of another order, equals a straight one bit for bit."
    def steps(model, which, step=None):
        step = step or OptimStep(model, wrapper, Schedule(RUN, 5, max_epochs=3))
        for i in which: step(i, lambda: model.loss(i))
        return step
    straight, first, second = Two(), Two(), Two('ba')
    steps(straight, range(15))
    tensors, rest = steps(first, range(stop)).state()
    save_file({k:v.contiguous() for k,v in tensors.items()} | {'step': torch.zeros(1)}, tmp_path/'s.safetensors')
    loaded = load_file(tmp_path/'s.safetensors')
    loaded.pop('step')
    second.load_state_dict(first.state_dict())
    step = OptimStep(second, wrapper, Schedule(RUN, 5, max_epochs=3))
    step.load_state(loaded, json.loads(json.dumps(rest)))
    steps(second, range(stop, 15), step)
    for k,v in straight.state_dict().items(): assert torch.equal(v, second.state_dict()[k]), k

@pytest.mark.parametrize('wrapper', WRAPPERS[:2] + WRAPPERS[-2:], ids=('plain', 'accumulated', 'bfloat16', 'float16'))
def test_not_finite(wrapper):
    "A broken term at any step is named; weights and the optimizer's memory are as they were."
    model = Two()
    step  = OptimStep(model, wrapper, Schedule(RUN, 5, max_epochs=3))
    for i in range(4): step(i, lambda: model.loss(i))
    before, memory = {k:v.clone() for k,v in model.state_dict().items()}, {k:v.clone() for k,v in step.state()[0].items() if not k.startswith('grad/')}
    with pytest.raises(NotFinite, match=r'step 4: loss_small is inf \(loss_fit [\d.]+\), on left.jpg, right.jpg; the weights have not moved') as e:
        step(4, lambda: model.loss(4, broken=True), images=('left.jpg', 'right.jpg'))
    assert e.value.terms == ['loss_small'] and set(e.value.losses) == {'loss_fit', 'loss_small'}
    assert all(torch.equal(v, before[k]) for k,v in model.state_dict().items())
    after = step.state()[0]
    assert after.keys() == memory.keys() and all(torch.equal(v, memory[k]) for k,v in after.items())

def test_ranks_talk_when_weights_move():
    "Gradients that wait are not exchanged between ranks: forward and backward run under no_sync, but for the last step of each accumulation."
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.quiet, self.log = Two(), False, []
        @contextlib.contextmanager
        def no_sync(self):
            self.quiet = True
            yield
            self.quiet = False
    model = Wrapped()
    model.module.a.weight.register_hook(lambda g: model.log.append(model.quiet))
    step = OptimStep(model, dict(optimizer=SGD, accumulative_counts=3), Schedule([], 1, max_iters=5))
    for i in range(5): step(i, lambda: model.module.loss(i))
    assert model.log == [True, True, False, True, False] and 'a.weight' in step.params

@pytest.mark.parametrize('change, message', [
    (dict(type='AmpWrapper'), "did you mean 'AmpOptimWrapper'"), (dict(type='ApexOptimWrapper'), 'there is no such wrapper'), (dict(loss_scale='dynamic'), 'a setting of AmpOptimWrapper'),
    (dict(accumulative_counts=0), 'a whole number from 1'), (dict(clip_grad=dict(norm=1.)), 'max_norm'), (dict(clip_grad=dict(max_norm=1., type='length')), 'norm, value'),
    (dict(clip_grad=dict(max_norm=1., norm_typ=2)), "did you mean 'norm_type'"), (dict(clipgrad=None), "did you mean 'clip_grad'"), (dict(constructor='LearningRateDecayOptimizerConstructor'), 'constructor'),
    (dict(type='AmpOptimWrapper', dtype='half'), 'bfloat16'), (dict(type='AmpOptimWrapper', loss_scale='static'), 'dynamic'), (dict(type='AmpOptimWrapper', loss_scale=dict(init=2.)), 'init'),
    (dict(paramwise_cfg=dict(norm_decay_mul=0.)), "did you mean 'norm_decay_mult'"), (dict(paramwise_cfg=dict(dcn_offset_lr_mult=.1)), 'dcn_offset_lr_mult')])
def test_refused(change, message):
    with pytest.raises(ConfigError, match=message): OptimStep(nn.Linear(1, 1), dict(optimizer=SGD) | change, Schedule([], 1, max_iters=1))

# ---- several steps that move the weights together

class Plain(nn.Module):
    "Two layers and a loss that is a mean over the pictures: parts of equal size weigh the same."
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    def forward(self, x): return dict(loss_a=self.net(x).square().mean(), loss_b=self.net(x).abs().mean())

@pytest.mark.parametrize('more', [{}, dict(clip_grad=dict(max_norm=.05)), dict(type='AmpOptimWrapper', dtype='float16', loss_scale=512., clip_grad=dict(max_norm=.05)), dict(optimizer=dict(type='AdamW', lr=.01))],
                         ids=('plain', 'clipped', 'float16', 'adamw'))
def test_steps_together_are_one_step_of_the_large_batch(more):
    "To 1e-6 where nothing rounds to 16 bits: 4 steps of 2 pictures against one of 8, eight times, with a rest at the end."
    wrapper, x = dict(optimizer=SGD) | more, torch.randn(66, 3, generator=torch.Generator().manual_seed(1))
    small, large = Plain(), Plain()
    parts = OptimStep(small, wrapper | dict(accumulative_counts=4), Schedule([], 1, max_iters=33))
    whole = OptimStep(large, wrapper, Schedule([], 1, max_iters=9))
    for i in range(33): parts(i, lambda: small(x[2*i:2*i + 2]))
    for i in range(9): whole(i, lambda: large(x[8*i:8*i + 8]))      # the last is the rest: one part of two
    rough = more.get('dtype') == 'float16'
    for a,b in zip(small.parameters(), large.parameters()): torch.testing.assert_close(a, b, rtol=0, atol=2e-4 if rough else 1e-6)
    assert not torch.equal(next(small.parameters()), next(Plain().parameters()))

def test_a_detector_learns_from_parts_what_it_learns_from_the_whole():
    "Norms are frozen and each part has the same number of positives, because it shows the same two pictures: gradients are equal to 1e-6."
    cfg = Config.fromfile('retinanet_r18_fpn_1x_coco').model
    cfg.backbone.update(dict(frozen_stages=-1, norm_eval=True, init_cfg=None))
    cfg.bbox_head.update(dict(num_classes=4, feat_channels=32, stacked_convs=1))
    grads = []
    images, targets = zip(*(toy.scene(i, size=64, empty=0., crowd=0) for i in (3, 4)))
    for count in (1, 3):
        torch.manual_seed(0)
        model = build_detector(cfg)
        step = OptimStep(model, dict(optimizer=dict(type='SGD', lr=1.), accumulative_counts=count), Schedule([], 1, max_iters=count))
        before = {n: p.detach().clone() for n,p in model.named_parameters()}
        for i in range(count): step(i, lambda: model.loss(list(images)*(3 if count == 1 else 1), list(targets)*(3 if count == 1 else 1)))
        grads.append({n: before[n] - p.detach() for n,p in model.named_parameters() if p.requires_grad})

    scale = max(g.abs().max() for g in grads[0].values())
    for n,g in grads[0].items(): torch.testing.assert_close(grads[1][n], g, rtol=0, atol=1e-6*max(float(scale), 1.), msg=n)
