"Several processes on one machine: what they learn, find and say must be what one process would; and none may be left waiting."
import os, signal, threading, time
import pytest, torch
from detbook import models
from detbook.assign import EverySampler, RandomSampler, draw_samples
from detbook.data import CocoDataset
from detbook.distributed import agree, barrier, broadcast_value, gather_list, is_main, mean_values, parallel, place, run_on, shard
from detbook.results import to_coco
from detbook.metrics import evaluate
from detbook.rpn import ProposalFilter
from detbook.toy import CLASSES, scene, write_coco

LIMIT = 120     # seconds that a rank may wait for another

@pytest.fixture(autouse=True)
def time_limit():
    "No test of this file may hang."
    def late(*_): raise TimeoutError('this test took more than 9 minutes')
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(540)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)

# ---- what is learnt: two ranks with a picture each against one process with both

class SameKeys(RandomSampler):
    "Draws every picture's candidates by the same keys, whichever pictures are beside it."
    def __call__(self, matched):
        keys = torch.rand(matched.shape[1], generator=torch.Generator().manual_seed(7)).expand(matched.shape)
        return draw_samples(matched, keys, self.num, self.pos_fraction, self.neg_pos_ub)

KINDS  = 'retinanet', 'fcos', 'faster_rcnn', 'mask_rcnn'
SCENES = dict(both=(scene(9, size=96), scene(1, size=96)), one_empty=(scene(1, size=96), scene(11, size=96)))

def detector(kind, seed):
    torch.manual_seed(seed)
    model = getattr(models, kind)(18, num_classes=len(CLASSES), channels=16, scratch=True).eval()      # norms keep to their statistics
    if hasattr(model, 'rpn_head'):
        model.rpn_head.sampler = SameKeys(32, .5)
        model.rpn_head.train_filter = ProposalFilter(200, 50)
        model.roi_head.sampler = EverySampler(add_truths=True)
    return model.double()      # in float32 a ReLU whose input is 1e-9 can fall either way, and a whole filter's gradient with it

def in_double(target): return {k: v.double() if v.is_floating_point() else v for k,v in target.items()}

def gradients(kind, scenes, seed=0, times=1):
    model  = detector(kind, seed)
    shared = parallel(model)
    for _ in range(times):
        losses = shared([image for image, _ in scenes], [in_double(target) for _, target in scenes])
        sum(losses.values()).backward()
    return mean_values(losses), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

def learn_together():
    rank, out = place().rank, {}
    for kind in KINDS:
        for name, scenes in SCENES.items(): out[kind, name] = gradients(kind, scenes[rank:rank+1], seed=rank)      # rank 1 starts from other weights
    return out, gradients('retinanet', SCENES['both'][rank:rank+1], times=2)[1]

@pytest.fixture(scope='module')
def learnt(): return run_on(1, learn_together, per_gpu=2, timeout=LIMIT)      # two processes, on any machine

@pytest.mark.parametrize('name', SCENES)
@pytest.mark.parametrize('kind', KINDS)
def test_two_ranks_learn_as_one(learnt, kind, name):
    assert len(SCENES['one_empty'][1][1]['boxes']) == 0
    (losses, grads), (whole, expected) = learnt[0][kind, name], gradients(kind, SCENES[name])
    assert list(losses) == list(whole)
    for k in losses: torch.testing.assert_close(losses[k].float(), whole[k].float(), rtol=1e-6, atol=1e-7)
    largest = max(float(g.abs().max()) for g in expected.values())
    for n in expected: torch.testing.assert_close(grads[n], expected[n], rtol=1e-6, atol=1e-7*largest, msg=lambda m: f'{n}: {m}')

def test_gradients_add_up_over_steps(learnt):
    "Accumulation needs nothing special: what is averaged already stays as it is when it is averaged again."
    once = learnt[0]['retinanet', 'both'][1]
    for n, g in learnt[1].items(): torch.testing.assert_close(g, 2*once[n], rtol=1e-4, atol=1e-6)

# ---- what is found: each rank its share of seven pictures

def detect_share(path):
    "Detections that are right, doubled or a bit off, picture by picture."
    ds, found = CocoDataset(path), []
    for i in shard(len(ds)):
        t = ds[i][1]
        n, gen = len(t['boxes']), torch.Generator().manual_seed(i)
        boxes = torch.cat([t['boxes'], t['boxes'] + torch.randn(n, 4, generator=gen)*3])
        found += to_coco([dict(boxes=boxes, labels=t['labels'].repeat(2), scores=torch.rand(2*n, generator=gen))], [int(t['image_id'])], ds.category_ids)
    return gather_list(found), gather_list([place().rank]), broadcast_value(dict(best=.1 + .2) if is_main() else None), agree(place().rank == place().world_size - 1), agree(False)

@pytest.mark.parametrize('world', [2, 3])
def test_world_sizes_agree(world, tmp_path):
    path = str(write_coco(tmp_path, 7, seed=3))
    alone = detect_share(path)
    found, ranks, best, some, none = run_on(1, detect_share, path, per_gpu=world, timeout=LIMIT)
    assert found == alone[0] and ranks == list(range(world)) and best == dict(best=.1 + .2) and some and not none
    assert evaluate(path, found).stats == evaluate(path, alone[0]).stats
    assert len({r['image_id'] for r in found}) == 7

# ---- what goes wrong

def fail(how, rank):
    "One rank goes, the other waits for it."
    if place().rank == rank:
        if how == 'error': raise FileNotFoundError('there is no such picture')
        if how == 'kill': os.kill(os.getpid(), signal.SIGKILL)
        if how == 'exit': raise SystemExit('stopped by the user')
        if how == 'late': time.sleep(500)
    if how == 'json': gather_list([torch.ones(1)] if place().rank == rank else [])
    barrier()

@pytest.mark.parametrize('how,rank,kind,said', [
    ('error', 1, FileNotFoundError, 'rank 1 of 2: there is no such picture'),
    ('kill',  0, ChildProcessError, r'rank 0 of 2 ended with exit code -9 \(SIGKILL\)'),
    ('exit',  0, SystemExit, 'rank 0 of 2: stopped by the user'),
    ('json',  1, TypeError, 'rank 1 has something that JSON cannot carry: Object of type Tensor'),
    ('late',  1, RuntimeError, 'rank 0 of 2: .*(?i:time)'),
])
def test_one_rank_fails(how, rank, kind, said):
    start = time.time()
    with pytest.raises(kind, match=said): run_on(1, fail, how, rank, per_gpu=2, timeout=20 if how == 'late' else LIMIT)
    assert time.time() - start < 400

def wait_for_word(ready):
    "What a trainer does: note the signal, ask all ranks every step, stop together."
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    barrier()
    if is_main(): open(ready, 'w').close()
    steps = 0
    while not agree(place().rank == 1 and bool(told)): steps += 1; time.sleep(.01)
    return len(told), steps

def test_a_request_to_stop_reaches_all_ranks(tmp_path):
    ready = tmp_path/'ready'
    def ask():
        while not ready.exists(): time.sleep(.05)
        os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=ask, daemon=True).start()
    told, steps = run_on(1, wait_for_word, str(ready), per_gpu=2, timeout=LIMIT)
    assert told == 1 and signal.getsignal(signal.SIGTERM) == before

def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    with pytest.raises(ValueError, match='gpus=3, but this machine has 2'): run_on(3, fail, '', 0)
