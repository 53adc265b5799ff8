"The figures measured on mmdetection 3.3.0 are met: keys, features, proposals, detections, losses, gradients."
import gzip, json, sys
from pathlib import Path
import numpy as np, pytest, torch
from detbook.models import RPN, FastRCNN, FasterRCNN, MaskRCNN
from detbook.anchors import AnchorGenerator
from detbook.assign import Matcher, RandomSampler
from detbook.backbone import ResNet
from detbook.neck import FPN
from detbook.rpn import RPNHead, ProposalFilter
from detbook.fast_rcnn import BoxHead, RoIHead
from detbook.masks import MaskHead

here = Path(__file__).parent/'golden'
sys.path.insert(0, str(here))
import recipe
sys.path.pop(0)

EVERY = dict(num=100000, pos_fraction=1.)                    # every candidate is a sample, so that the losses are deterministic
CASES = {'rpn__rpn_r50_fpn_1x_coco': (RPN, 'pytorch'), 'fast_rcnn__fast-rcnn_r50_fpn_1x_coco': (FastRCNN, 'pytorch'),
         'faster_rcnn__faster-rcnn_r50-caffe_fpn_1x_coco': (FasterRCNN, 'caffe'),
         'mask_rcnn__mask-rcnn_r50_fpn_1x-wandb_coco': (MaskRCNN, 'pytorch'), 'mask_rcnn__mask-rcnn_r50-caffe_fpn_1x_coco': (MaskRCNN, 'caffe')}

def build(cls, style):
    "A detector with mmdetection's 1x settings that takes normalised images and samples everything."
    parts = dict(backbone=ResNet(50, style, frozen_stages=1, norm_eval=True, norm_grad=style=='pytorch'), mean=(0,0,0), std=(1,1,1))
    if cls is RPN: parts['rpn_head'] = RPNHead(256, sampler=RandomSampler(**EVERY), test_filter=ProposalFilter(2000))
    elif cls is not FastRCNN: parts['rpn_head'] = RPNHead(256, sampler=RandomSampler(**EVERY))
    if cls is not RPN:
        parts['roi_head'] = RoIHead(BoxHead(80), MaskHead(80) if cls is MaskRCNN else None, matcher=Matcher(.5, .5, .5, low_quality=cls is MaskRCNN),
                                    sampler=RandomSampler(**EVERY, add_truths=True))
    model = cls(1 if cls is RPN else 80, **parts)
    model.load_state_dict({k:torch.from_numpy(recipe.fill(k, v.shape)) for k,v in model.state_dict().items()})
    return model

@pytest.fixture(scope='module', params=CASES)
def case(request):
    cls, style = CASES[request.param]
    images = [torch.from_numpy(i) for i in recipe.images()]
    targets = [{k:torch.from_numpy(v) for k,v in t.items()} for t in recipe.targets()]
    more = dict(proposals=[torch.from_numpy(p) for p in recipe.proposals()]) if cls is FastRCNN else {}
    return cls, build(cls, style), images, targets, more, np.load(here/f'{request.param}.npz')

def close(actual, expected, rtol, atol=0.):
    torch.testing.assert_close(torch.as_tensor(actual).double(), torch.as_tensor(expected).double(), rtol=rtol, atol=atol)

def test_features(case):
    cls, model, images, _, _, stored = case
    with torch.no_grad(): feats = model.features(images)
    assert len(feats) == sum(k.endswith('_shape') for k in stored if k.startswith('feat'))
    for i,f in enumerate(feats):
        assert list(f.shape) == stored[f'feat{i}_shape'].tolist()
        flat = f.flatten()
        top = float(stored[f'feat{i}_stats'][2])
        close(flat[::max(1, flat.numel()//256)][:256], stored[f'feat{i}'], 1e-4, 1e-5*top)
        close([float(flat.mean()), float(flat.std()), float(flat.abs().max())], stored[f'feat{i}_stats'], 1e-4, 1e-6*top)

def same_rows(actual, expected, tol):
    "Rows of boxes and score agree, in the same order except among scores closer than 1e-5."
    assert actual.shape == expected.shape
    left = list(range(len(expected)))
    for row in actual:
        near = [j for j in left if abs(expected[j,4] - row[4]) < 1e-5 and np.abs(expected[j] - row).max() < tol]
        assert near, f'{row} is not among the stored rows'
        left.remove(near[0])
        assert abs(len(expected) - len(left) - 1 - near[0]) == 0 or abs(expected[near[0],4] - expected[len(expected)-len(left)-1,4]) < 1e-5

def test_proposals(case):
    cls, model, images, _, _, stored = case
    if 'proposals0' not in stored: pytest.skip('this detector has no proposals of its own')
    for i,p in enumerate(model.propose(images)): same_rows(p.numpy()[:len(stored[f'proposals{i}'])], stored[f'proposals{i}'], 1e-2)

def test_detections(case):
    cls, model, images, _, more, stored = case
    for i,p in enumerate(model.predict(images, **more)):
        found = torch.cat([p['boxes'], p['scores'][:,None], p['labels'][:,None].float()], 1).numpy()
        same_rows(found, stored[f'det{i}'], 1e-2)
        if 'masks' in p: assert np.abs(p['masks'].sum((1,2)).numpy() - stored[f'det{i}_mask_area']).max() <= 2

def test_losses_and_gradients(case):
    cls, model, images, targets, more, stored = case
    model.zero_grad()
    losses = model.loss(images, targets, **more)
    wanted = {k.removeprefix('loss/'):float(stored[k]) for k in stored if k.startswith('loss/') and not k.endswith('acc')}
    assert set(losses) == set(wanted)
    for k,v in wanted.items(): close(float(losses[k]), v, 1e-4)
    sum(losses.values()).backward()
    params = dict(model.named_parameters())
    grads = {k.removeprefix('grad/'):float(stored[k]) for k in stored if k.startswith('grad/')}
    assert {k for k,p in params.items() if p.grad is not None} == set(grads)
    for k,v in grads.items(): close(float(params[k].grad.norm()), v, 1e-3, 1e-7)
