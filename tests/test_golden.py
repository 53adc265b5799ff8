"The figures measured on mmdetection 3.3.0 are met by what its configs say: features, proposals, detections, losses, gradients of 22 models."
import sys, warnings
from pathlib import Path
import numpy as np, pytest, torch
from detbook.config import Config, build_detector

here = Path(__file__).parent/'golden'
sys.path.insert(0, str(here))
import recipe
sys.path.pop(0)

pytestmark = pytest.mark.usefixtures('one_thread')

CASES = sorted(p.stem for p in here.glob('*__*.npz'))
HEAVY = lambda stem: 'c4' in stem and not stem.startswith('rpn')       # a ResNet stage on each of 4,000 boxes: 12 GB and minutes for one training step

def every_sample(node):
    "Let each RandomSampler take all candidates, so that losses are deterministic."
    if isinstance(node, dict):
        if node.get('type') == 'RandomSampler': node.update(dict(num=100000, pos_fraction=1.))
        for v in node.values(): every_sample(v)
    elif isinstance(node, (list, tuple)):
        for v in node: every_sample(v)

def build(name):
    "A detector with the settings of its config that takes normalised images and samples everything, with the stored weights."
    model = Config.fromfile(name).model
    model.data_preprocessor.pop('batch_augments', None)         # as when the figures were measured: at 160 x 160, not at the 1024 x 1024 of large jitter
    model.data_preprocessor.update(dict(mean=[0, 0, 0], std=[1, 1, 1], bgr_to_rgb=True))
    every_sample(model)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        detector = build_detector(model)
    detector.load_state_dict({k:torch.from_numpy(recipe.fill(k, v.shape)) for k,v in detector.state_dict().items()})
    return detector

class Case:
    "One stored file, and what detbook says to the same images."
    def __init__(self, stem):
        self.stem, self.stored, self.model = stem, np.load(here/f'{stem}.npz'), build(stem.split('__')[1])
        self.images = [torch.from_numpy(i) for i in recipe.images()]
        self.targets = [{k:torch.from_numpy(v) for k,v in t.items()} for t in recipe.targets(getattr(self.model, 'num_classes', 80))]
        self.more = dict(proposals=[torch.from_numpy(p) for p in recipe.proposals()]) if stem.startswith('fast_rcnn') else {}

@pytest.fixture(scope='module', params=CASES)
def case(request): return Case(request.param)

def close(actual, expected, rtol, atol=0.):
    torch.testing.assert_close(torch.as_tensor(actual).double(), torch.as_tensor(expected).double(), rtol=rtol, atol=atol)

def same_rows(actual, expected, tol):
    "Rows of boxes and score agree, in the same order except among scores closer than 1e-5."
    assert actual.shape == expected.shape
    left = list(range(len(expected)))
    for place,row in enumerate(actual):
        near = [j for j in left if abs(expected[j,4] - row[4]) < 3e-5 and np.abs(expected[j] - row).max() < tol]
        assert near, f'{row} is not among the stored rows'
        left.remove(near[0])
        assert near[0] == place or abs(expected[near[0],4] - expected[place,4]) < 1e-5, f'row {near[0]} came as row {place}'

def test_features(case):
    with torch.no_grad(): feats = case.model.features(case.images)
    stored = case.stored
    assert len(feats) == sum(k.endswith('_shape') for k in stored if k.startswith('feat'))
    for i,f in enumerate(feats):
        assert list(f.shape) == stored[f'feat{i}_shape'].tolist()
        flat, top = f.flatten(), float(stored[f'feat{i}_stats'][2])
        close(flat[::max(1, flat.numel()//256)][:256], stored[f'feat{i}'], 1e-4, 1e-5*top)
        close([float(flat.mean()), float(flat.std()), float(flat.abs().max())], stored[f'feat{i}_stats'], 1e-4, 1e-6*top)

def test_proposals(case):
    if 'proposals0' not in case.stored: pytest.skip('this detector has no proposals of its own')
    for i,p in enumerate(case.model.propose(case.images)):
        stored = case.stored[f'proposals{i}']
        same_rows(p.numpy()[:len(stored)], stored, 1e-2)

def test_both_c4_detectors_have_the_same_boxes():
    "So one of them is enough on every day."
    faster, mask = (np.load(here/f'{c}.npz') for c in CASES if HEAVY(c))
    for i in range(2): assert len(faster[f'det{i}']) and np.array_equal(faster[f'det{i}'], mask[f'det{i}'])

def test_detections(case):
    for i,p in enumerate(case.model.predict(case.images, **case.more)):
        found = torch.cat([p['boxes'], p['scores'][:,None], p['labels'][:,None].float()], 1).numpy()
        same_rows(found, case.stored[f'det{i}'], 1e-2)
        assert ('masks' in p) == (f'det{i}_mask_area' in case.stored)
        if 'masks' in p: assert np.abs(p['masks'].sum((1,2)).numpy() - case.stored[f'det{i}_mask_area']).max() <= 2

def test_losses_and_gradients(case):
    model, stored = case.model, case.stored
    model.zero_grad()
    losses = model.loss(case.images, case.targets, **case.more)
    wanted = {k.removeprefix('loss/'):float(stored[k]) for k in stored if k.startswith('loss/') and not k.endswith('acc')}
    assert set(losses) == set(wanted)
    for k,v in wanted.items(): close(losses[k].item(), v, 1e-4)
    sum(losses.values()).backward()
    params = dict(model.named_parameters())
    grads = {k.removeprefix('grad/'):float(stored[k]) for k in stored if k.startswith('grad/')}
    assert {k for k,p in params.items() if p.grad is not None} == set(grads)
    for k,v in grads.items(): close(float(params[k].grad.norm()), v, 1e-3, 1e-7)
