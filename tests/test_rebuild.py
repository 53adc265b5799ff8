"The page that rebuilds Mask R-CNN's loss in plain PyTorch: its program, run without detbook, gives detbook's five numbers and gradients."
import json
from pathlib import Path
import pytest, torch
from torch.nn import functional as F
from detbook.assign import RandomSampler
from detbook.backbone import ResNet
from detbook.fast_rcnn import BoxHead, RoIHead
from detbook.mask_rcnn import MaskRCNN
from detbook.masks import MaskHead
from detbook.neck import FPN
from detbook.rpn import RPNHead
from detbook.toy import CLASSES, scene

PAGE = Path(__file__).resolve().parents[1]/'nbs'/'tutorials'/'rebuild.ipynb'
TERMS = ['loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask']

def program():
    "The code of the page up to the cell in which the library comes in."
    cells = [''.join(c['source']) for c in json.loads(PAGE.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    first = next(i for i, source in enumerate(cells) if 'detbook' in source)
    return '\n'.join(cells[:first])

class Noting(RandomSampler):
    "Draw, and keep what was drawn."
    def __call__(self, matched):
        self.drawn = super().__call__(matched)
        return self.drawn

    def of(self, b):
        index, matched, _ = self.drawn
        return index[b][matched[b] >= -1]

def library(seed):
    "A small Mask R-CNN; the scores of its proposals differ, so that their order is not left to rounding."
    torch.manual_seed(seed)
    backbone, C = ResNet(18), len(CLASSES)
    heads = BoxHead(C, 64, fc_channels=256), MaskHead(C, 64, num_convs=2, channels=64)
    model = MaskRCNN(C, backbone=backbone, neck=FPN(backbone.out_channels, 64), rpn_head=RPNHead(64, sampler=Noting(256, .5)),
                     roi_head=RoIHead(*heads, sampler=Noting(64, .25, add_truths=True))).eval()
    model.rpn_head.rpn_cls.weight.data *= 50
    for m in model.modules():           # norms as after some training: mean 0 and deviation 1 no longer, and no block that is asleep
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.5, 1.5); m.weight.data.uniform_(.3, .7)
    return model

def rebuilt(space, model, images, targets):
    "The page's losses with the weights and the draws that `model` has just used."
    net, room = space['Net'](len(CLASSES)).eval(), max(len(t['boxes']) for t in targets)
    net.load_state_dict(model.state_dict())
    def second(b, _):
        real = ~targets[b]['ignore']
        rows = torch.cat([F.pad(real.cumsum(0) - 1, (0, room - len(real))), real.sum() + torch.arange(1000)])
        return rows[model.roi_head.sampler.of(b)]
    return net, space['mask_rcnn_loss'](net, images, targets, len(CLASSES), lambda b, _: model.rpn_head.sampler.of(b), second)

@pytest.fixture(scope='module')
def space():
    names = {}
    exec(compile(program(), str(PAGE), 'exec'), names)
    return names

def test_the_program_is_plain_pytorch(space):
    modules = {getattr(v, '__module__', None) or getattr(v, '__name__', '') for v in space.values() if not isinstance(v, (int, float, tuple, dict, torch.Tensor))}
    assert not [m for m in modules if 'detbook' in str(m)]
    assert len([l for l in program().splitlines() if l.strip()]) < 200

@pytest.mark.parametrize('scenes', [((9, 96), (6, (64,96))), ((3, 96), (8, 96))], ids=['two sizes and a crowd', 'one size'])
def test_five_numbers(space, one_thread, scenes):
    images, targets = map(list, zip(*[scene(seed, size=size) for seed, size in scenes]))
    model = library(seed=1)
    theirs = model.loss(images, targets)
    net, ours = rebuilt(space, model, images, targets)
    assert list(theirs) == list(ours) == TERMS and all(v > 0 for v in theirs.values())
    for k in TERMS: torch.testing.assert_close(ours[k], theirs[k], rtol=1e-5, atol=0, msg=lambda m, k=k: f'{k}: {m}')
    grads = [dict(zip(dict(m.named_parameters()), torch.autograd.grad(sum(l.values()), list(m.parameters())))) for m, l in ((model, theirs), (net, ours))]
    for k, g in grads[0].items(): assert g.any() and (grads[1][k] - g).abs().max() < 1e-3*g.abs().max(), k
