"The forecast of a training step's memory: right for every kind of detector, for what saves memory, and without a trace in the detector."
import copy
import pytest, torch
from detbook import models
from detbook.bench import _all_positive, _Held, forecast_memory, step_memory
from detbook.backbone import ResNet
from detbook.fast_rcnn import BoxHead, FastRCNN, RoIHead
from detbook.faster_rcnn import FasterRCNN
from detbook.mask_rcnn import MaskRCNN
from detbook.masks import MaskHead, crop_masks
from detbook.neck import FPN
from detbook.rpn import RPN, RPNHead

pytestmark = [pytest.mark.usefixtures('one_thread'), pytest.mark.filterwarnings('ignore:.*starts from random weights')]

def parts(**more):
    trunk = ResNet(18, **more)
    return dict(backbone=trunk, neck=FPN(trunk.out_channels, 32))

def two_stage(**more): return FasterRCNN(3, **parts(**more), rpn_head=RPNHead(32), roi_head=RoIHead(BoxHead(3, 32, fc_channels=64)))

KINDS = dict(
    rpn=lambda: RPN(**parts(), rpn_head=RPNHead(32)),
    fast=lambda: FastRCNN(3, **parts(), roi_head=RoIHead(BoxHead(3, 32, fc_channels=64))),
    faster=two_stage, again=lambda: two_stage(with_cp=True), frozen=lambda: two_stage(frozen_stages=1, norm_eval=True),
    cascade=lambda: models.cascade_rcnn(18, 3, channels=32), mask=lambda: MaskRCNN(3, **parts(), rpn_head=RPNHead(32), roi_head=RoIHead(BoxHead(3, 32, fc_channels=64), MaskHead(3, 32, channels=32))),
    retinanet=lambda: models.retinanet(18, 3, channels=32), fcos=lambda: models.fcos(18, 3, channels=32))

def measured(model, size, batch, amp=False):
    return max(held for _, held in step_memory(_all_positive(copy.deepcopy(model)).train(), size, batch, amp)) / 2**20

@pytest.mark.parametrize('kind', KINDS)
def test_a_forecast_is_right(kind):
    torch.manual_seed(0)
    model = KINDS[kind]()
    mb, real = forecast_memory(model, (448, 576), 2), measured(model, (448, 576), 2)
    learn = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad) / 2**20
    assert mb['step_mb'] == pytest.approx(max(real, learn), rel=.05) and mb['optimizer_mb'] == pytest.approx(learn)
    assert mb['total_mb'] == pytest.approx(sum(mb[k] for k in ('weights_mb', 'optimizer_mb', 'step_mb')))

def test_a_forecast_is_for_the_most_positives():
    model = KINDS['mask']()
    held = max(n for _, n in step_memory(copy.deepcopy(model).train(), (320, 384), 2)) / 2**20              # as it is: few proposals are positive
    assert held < .9 * forecast_memory(model, (320, 384), 2)['step_mb']

def test_sizes_are_padded_as_the_model_pads_them():
    model = KINDS['rpn']()
    assert forecast_memory(model, (321, 353))['step_mb'] == forecast_memory(model, (352, 384))['step_mb']

@pytest.mark.slow
def test_mixed_precision_is_forecast():
    model = KINDS['rpn']()
    mb, plain = forecast_memory(model, (384, 512), 2, amp=True), forecast_memory(model, (384, 512), 2)
    assert mb['step_mb'] == pytest.approx(measured(model, (384, 512), 2, True), rel=.05) and mb['step_mb'] < .8 * plain['step_mb']

def test_a_forecast_leaves_no_trace():
    model = two_stage().eval()
    before, drawn = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    matcher = model.roi_head.matcher
    forecast_memory(model, (64, 64))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and not model.training and model.roi_head.matcher is matcher
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)

def test_targets_of_a_thousand_masks_stay_inside_of_their_budget():
    torch.manual_seed(0)
    masks = torch.zeros(1000, 200, 200, dtype=torch.uint8)
    low = torch.randint(0, 150, (1000, 2))
    boxes = torch.cat([low, low + 40], 1).float()
    for m, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()): m[y1 + 5:y2, x1:x2 - 7] = 1
    which = torch.randint(0, 1000, (128,))
    def peak(budget):
        with _Held([masks, boxes, which]) as held: found = crop_masks(masks, boxes[which], which, budget=budget)
        return max(n for _, n in held.curve), found
    (all_at_once, whole), (few, same) = peak(2**30), peak(4 * 2**20)
    assert torch.equal(whole, same) and all_at_once > 150 * 2**20 and few < 12 * 2**20
