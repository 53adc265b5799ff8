"The ledger of misses: a fault is planted in one stage of each detector, and that stage has to be named; the rows add up to all that is missing."
import copy, functools, json, re
import pytest, torch
from detbook import models
from detbook.boxes import iou_matrix
from detbook.c4 import faster_rcnn_c4, faster_rcnn_dc5
from detbook.explain import explain
from detbook.fast_rcnn import RoIHead
from detbook.keypoint_rcnn import KeypointHead, KeypointRCNN
from detbook.metrics import evaluate
from detbook.misses import ALARMS, REASONS, Ledger, alarm_kind, average_precision, match_found, misses, overlaps
from detbook.results import to_coco
from detbook.tiny import toy_detector
from detbook.toy import scene

SMALL = dict(depth=18, channels=16, scratch=True)
BUILD = dict(rpn=lambda: models.rpn(**SMALL), fast=lambda: models.fast_rcnn(num_classes=4, **SMALL), faster=lambda: models.faster_rcnn(num_classes=4, **SMALL), mask=lambda: models.mask_rcnn(num_classes=4, **SMALL),
    cascade=lambda: models.cascade_rcnn(num_classes=4, **SMALL), cascade_mask=lambda: models.cascade_rcnn(num_classes=4, masks=True, **SMALL),
    keypoint=lambda: KeypointRCNN(4, 4, keypoint_head=KeypointHead(4, 16, 1, 16), **models.resnet_fpn(18, channels=16, scratch=True)),
    retinanet=lambda: models.retinanet(num_classes=4, **SMALL), fcos=lambda: models.fcos(num_classes=4, **{**SMALL, 'channels': 32}),
    c4=lambda: faster_rcnn_c4(18, 4, 'pytorch', True), dc5=lambda: faster_rcnn_dc5(18, 4, 'pytorch', True))
FIRST = [n for n in BUILD if n not in ('fast', 'retinanet', 'fcos')]
SECOND = [n for n in BUILD if n not in ('rpn', 'retinanet', 'fcos')]
DENSE = ['retinanet', 'fcos']

TRUTHS = torch.tensor([[4., 4, 36, 36], [20, 4, 52, 36], [10, 40, 42, 63]])     # the first two overlap by a third, and are of one class
LABELS = torch.tensor([1, 1, 2])

@functools.lru_cache
def small(name):
    torch.manual_seed(0)
    return BUILD[name]().eval()

class Oracle:
    "Answers of heads that know the truths; the planted faults are its settings."
    def __init__(self, truths, classes, wrong_class=False, shrink=1., blind=False): self.truths, self.classes, self.wrong_class, self.shrink, self.blind = truths, classes, wrong_class, shrink, blind
    def labels(self): return (self.classes + self.wrong_class) % 4
    def goals(self, near):
        centre, half = (self.truths[near,:2] + self.truths[near,2:]) / 2, (self.truths[near,2:] - self.truths[near,:2]) / 2 * self.shrink
        return torch.cat([centre - half, centre + half], -1)

    def first(self, head, objects):
        "A forward of a first or dense head."
        plain = type(head).forward
        def forward(feats):
            out = plain(head, feats)
            points = out.anchors.shape[1] == 2
            half = head.units(out)[:,None] if points else None
            cells = torch.cat([out.anchors - half, out.anchors + half], 1) if points else out.anchors
            share, near = iou_matrix(cells, self.truths).max(1)
            if points: share = share * ((out.anchors > self.truths[near,:2]) & (out.anchors < self.truths[near,2:])).all(1)
            yes = (share > (0 if points else .3)) & (not self.blind)
            goal = self.goals(near)
            score = 2 + share + (2 - near).float()                              # the first truth scores most
            logits = torch.full_like(out.logits, -12.)
            if objects: logits[0] = torch.where(yes, score, -12.)
            else: logits[0,yes,self.labels()[near][yes]] = score[yes]
            if points: deltas = torch.where(yes[:,None], torch.cat([out.anchors - goal[:,:2], goal[:,2:] - out.anchors], 1).clamp(min=.01), .01).log()
            else: deltas = torch.where(yes[:,None], head.coder.encode(out.anchors, goal), torch.tensor([0., 0, -3, -3]))     # nothing: to a box that is near nothing
            out = out._replace(logits=logits, deltas=deltas[None])
            return out._replace(quality=torch.full_like(out.quality, 5.)) if points else out
        return forward

    def boxes(self, roi, canvas, boxes, feats=None):
        "`RoIHead.boxes`."
        share, near = iou_matrix(boxes[0], self.truths).max(1)
        logits = torch.full((len(share), 5), -9.)
        yes = share > .3
        logits[:,4] = torch.where(yes, -9., 9.)
        logits[yes,self.labels()[near][yes]] = (3 + share + (2 - near).float())[yes]
        deltas = torch.where(yes[:,None], roi.bbox_head.coder.encode(boxes[0], self.goals(near)), 0.)
        return logits, deltas[:,None].expand(-1, 1 if roi.bbox_head.class_agnostic else 4, 4)

def ledger(name, monkeypatch, change=lambda m: None, first=None, second=None, truths=TRUTHS, labels=LABELS, **more):
    "The ledger of a detector with oracles, a change to its settings, and faults of its oracles."
    model = copy.deepcopy(small(name))
    head = getattr(model, 'rpn_head', None) or getattr(model, 'bbox_head', None)
    if head is not None: head.forward = Oracle(truths, labels, **(first or {})).first(head, hasattr(head, 'rpn_cls'))
    monkeypatch.setattr(RoIHead, 'boxes', lambda self, *args: Oracle(truths, labels, **(second or {})).boxes(self, *args))
    change(model)
    target = dict(boxes=truths.clone(), labels=labels[:len(truths)].clone(), masks=torch.zeros(len(truths), 64, 64, dtype=torch.uint8))
    for m,(x1,y1,x2,y2) in zip(target['masks'], truths.long().tolist()): m[y1:y2,x1:x2] = 1
    given = dict(proposals=[more.pop('proposals', truths + torch.tensor([1., 0, 1, 0]))]) if name == 'fast' else {}
    out = misses(model, [(torch.full((3, 64, 64), 99, dtype=torch.uint8), target)], **given, **more)
    if out.groups or out.ap == 1: assert abs(sum(out.groups.values()) - (1 - out.ap)) < 1e-9
    json.loads(out.to_json())
    return out

def first_filter(m): return (getattr(m, 'rpn_head', None) or m.bbox_head).test_filter
def last_filter(m): return (getattr(m, 'roi_head', None) or m.bbox_head).test_filter
def put(where, **settings):
    def change(m):
        for k,v in settings.items(): setattr(where(m), k, v)
    return change
def anchors_of(m): return (getattr(m, 'rpn_head', None) or m.bbox_head).anchors

@pytest.mark.parametrize('name', BUILD)
def test_a_healthy_detector_has_an_empty_ledger(name, monkeypatch):
    out = ledger(name, monkeypatch)
    assert not out.misses, out.misses
    assert out.ap == 1 and out.truths == 3 and out.counts() == dict(found=3) and not any(abs(v) > 1e-9 for v in out.groups.values())

def expect(out, reason, lost):
    "These truths were lost, for this reason, and finding all of them would be worth something."
    assert {m.truth: m.reason for m in out.misses} == dict.fromkeys(lost, reason), [(m.truth, m.reason, m.mend) for m in out.misses]
    assert out.groups[f'missed: {reason}'] > 0 and all(m.worth >= 0 and m.mend for m in out.misses) and out.ap < 1
    assert reason in out.counts() and reason in out.table()

@pytest.mark.parametrize('name', [n for n in BUILD if n != 'fast'])
def test_no_anchor(name, monkeypatch):
    if name == 'fcos': expect(ledger(name, monkeypatch, first=dict(blind=True), truths=torch.tensor([[9., 9, 11.5, 11.5]])), 'no_anchor', [0]); return
    expect(ledger(name, monkeypatch, put(anchors_of, scales=(.01,)*len(anchors_of(small(name)).scales))), 'no_anchor', [0, 1, 2])

@pytest.mark.parametrize('name', FIRST)
def test_not_proposed(name, monkeypatch):
    out = ledger(name, monkeypatch, put(first_filter, nms_pre=1))
    expect(out, 'not_proposed', [1, 2])
    assert all(m.mend.startswith('nms_pre') for m in out.misses)
    n = max(int(m.mend.split()[1]) for m in out.misses)                        # and so many would have been enough
    assert 'not_proposed' not in ledger(name, monkeypatch, put(first_filter, nms_pre=n)).counts()

@pytest.mark.parametrize('name', ['retinanet', 'fcos'])
def test_not_among_the_best_of_a_dense_head(name, monkeypatch):
    expect(ledger(name, monkeypatch, put(first_filter, nms_pre=1)), 'not_proposed', [1, 2])

def test_given_proposals_lack_a_truth(monkeypatch):
    expect(ledger('fast', monkeypatch, proposals=TRUTHS[:1]), 'not_proposed', [1, 2])

@pytest.mark.parametrize('name', FIRST)
def test_lost_in_the_proposals_nms(name, monkeypatch):
    out = ledger(name, monkeypatch, put(first_filter, iou=.1))
    expect(out, 'proposal_nms', [1])
    need = float(out.misses[0].mend.split()[4])
    assert need > .1 and not ledger(name, monkeypatch, put(first_filter, iou=need)).misses

@pytest.mark.parametrize('name', FIRST)
def test_beyond_the_proposals(name, monkeypatch):
    out = ledger(name, monkeypatch, put(first_filter, max_per_img=1))
    expect(out, 'proposal_limit', [1, 2])
    n = max(int(m.mend.split()[4]) for m in out.misses)
    assert not ledger(name, monkeypatch, put(first_filter, max_per_img=n)).misses

@pytest.mark.parametrize('name', SECOND + DENSE)
def test_low_score(name, monkeypatch):
    out = ledger(name, monkeypatch, put(last_filter, score_thr=1.))
    expect(out, 'low_score', [0, 1, 2])
    assert out.ap == 0
    best = min(m.score for m in out.misses)
    assert not ledger(name, monkeypatch, put(last_filter, score_thr=best - 1e-3)).misses or name in DENSE

@pytest.mark.parametrize('name', SECOND + DENSE)
def test_wrong_class(name, monkeypatch):
    fault = dict(first=dict(wrong_class=True)) if name in DENSE else dict(second=dict(wrong_class=True))
    out = ledger(name, monkeypatch, **fault)
    expect(out, 'wrong_class', [0, 1, 2])
    assert {m.detection for m in out.misses} == {a.detection for a in out.alarms if a.kind == 'wrong_class'}       # mended, it is no false alarm any more

@pytest.mark.parametrize('name', SECOND + DENSE)
def test_poor_box(name, monkeypatch):
    fault = dict(first=dict(shrink=.55)) if name in DENSE else dict(second=dict(shrink=.55))
    out = ledger(name, monkeypatch, **fault)
    expect(out, 'poor_box', [0, 1, 2])
    assert all(.1 < float(re.search(r'best ([.0-9]+)', m.mend)[1]) < .5 for m in out.misses) and any(a.kind == 'poor_box' for a in out.alarms)

@pytest.mark.parametrize('name', SECOND + DENSE)
def test_lost_in_the_classes_nms(name, monkeypatch):
    out = ledger(name, monkeypatch, put(last_filter, iou=.1))
    expect(out, 'class_nms', [1])
    need = float(out.misses[0].mend.split()[4])
    assert not ledger(name, monkeypatch, put(last_filter, iou=need)).misses

@pytest.mark.parametrize('name', SECOND + DENSE)
def test_beyond_the_detections(name, monkeypatch):
    out = ledger(name, monkeypatch, put(last_filter, max_per_img=1))
    expect(out, 'limit', [1, 2])
    assert sorted(int(m.mend.split()[1]) for m in out.misses) == [2, 3]

@pytest.mark.parametrize('name', ['mask', 'cascade_mask'])
def test_poor_mask(name, monkeypatch):
    out = ledger(name, monkeypatch, metric='segm', change=lambda m: [setattr(h, 'threshold', .999) for h in (m.roi_head.mask_heads if name != 'mask' else [m.roi_head.mask_head])])
    expect(out, 'poor_mask', [0, 1, 2])
    assert out.metric == 'segm' and out.groups == {'missed: poor_mask': out.groups['missed: poor_mask']} | {k: v for k,v in out.groups.items() if abs(v) < 1}

def test_several_faults_at_once_add_up(monkeypatch):
    "The stages come in the order of the pipeline, and the last group leaves nothing missing."
    model = toy_detector()
    model.test_scale = .5
    data = [scene(i, size=96, digits='val', objects=(3, 5)) for i in range(8)]
    out = misses(model, data)
    assert len(out.counts()) > 4 and out.alarms and sum(out.groups.values()) == pytest.approx(1 - out.ap, abs=1e-9)
    order = [f'missed: {r}' for r in REASONS] + [f'false: {k}' for k in ALARMS]
    assert list(out.groups) == [k for k in order if k in out.groups]
    assert len(out.misses) + out.counts()['found'] == out.truths == sum(int((~t['ignore']).sum()) for _,t in data)
    kept = sum(len(d['boxes']) for d in out.found)
    assert len(out.alarms) <= kept - out.counts()['found']
    for a in out.alarms: assert a.cost >= -1e-12 and (a.kind == 'background') == (a.overlap < .1 or a.kind == 'background')
    real = [dict(id=1000*i + j + 1, image_id=i, category_id=int(t['labels'][j]), bbox=[*b[:2].tolist(), *(b[2:] - b[:2]).tolist()], area=float((b[2:] - b[:2]).prod()), iscrowd=int(t['ignore'][j])) for i,(_,t) in enumerate(data) for j,b in enumerate(t['boxes'])]
    truth = dict(images=[dict(id=i, width=96, height=96) for i in range(8)], categories=[dict(id=i, name=str(i)) for i in range(4)], annotations=real)
    assert evaluate(truth, to_coco(out.found, range(8), range(4))).stats['bbox_mAP_50'] == pytest.approx(out.ap, abs=1e-12)
    rows = {}                                   # every worth and every cost by hand: all of it measured again with one repair
    for i, (d, (_, t)) in enumerate(zip(out.found, data)):
        of, _ = match_found(d, t, overlaps(d, t))
        rows |= {(i, k): (float(d['scores'][k]), bool(of[k] >= 0), int(d['labels'][k])) for k in range(len(of)) if of[k] != -2}
    number = {c: sum(int(((t['labels'] == c) & ~t['ignore']).sum()) for _,t in data) for c in range(4)}
    def ap(rows):
        scores, hits, labels = map(torch.tensor, zip(*rows.values()))
        return average_precision(scores.double(), hits, labels, number)
    assert ap(rows) == pytest.approx(out.ap, abs=1e-12)
    without = lambda key: {k: v for k,v in rows.items() if k != key}
    for m in out.misses: assert ap(without((m.picture, m.detection)) | {'found': (m.score, True, m.label)}) - out.ap == pytest.approx(m.worth, abs=1e-12)
    for a in out.alarms: assert ap(without((a.picture, a.detection))) - out.ap == pytest.approx(a.cost, abs=1e-12)

def test_average_precision_is_that_of_coco():
    "Random sets, with crowds, ties in score and pictures without anything."
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        n = lambda a, b: int(torch.randint(a, b, (), generator=g))
        scores, hits, labels, truths, anns, preds = [], [], [], {}, [], []
        for i in range(6):
            def boxes(k): xy = torch.rand(k, 2, generator=g) * 40; return torch.cat([xy, xy + 6 + torch.rand(k, 2, generator=g) * 20], 1)
            t = dict(boxes=boxes(n(0, 5)))
            t |= dict(labels=torch.randint(0, 3, (len(t['boxes']),), generator=g), ignore=torch.rand(len(t['boxes']), generator=g) < .2)
            near = t['boxes'] + torch.randn(t['boxes'].shape, generator=g)
            d = dict(boxes=torch.cat([near, near, boxes(n(0, 4))]))
            d |= dict(labels=torch.randint(0, 3, (len(d['boxes']),), generator=g), scores=(torch.rand(len(d['boxes']), generator=g) * 20).round() / 20)
            order = d['scores'].argsort(descending=True, stable=True)
            d = {k: v[order] for k,v in d.items()}
            of, _ = match_found(d, t, overlaps(d, t))
            scores.append(d['scores'][of != -2]); hits.append(of[of != -2] >= 0); labels.append(d['labels'][of != -2])
            for c in t['labels'][~t['ignore']].tolist(): truths[c] = truths.get(c, 0) + 1
            xywh = lambda b: [*b[:2].tolist(), *(b[2:] - b[:2]).tolist()]
            anns += [dict(id=100*i + j + 1, image_id=i, category_id=int(t['labels'][j]), bbox=xywh(b), area=float((b[2:] - b[:2]).prod()), iscrowd=int(t['ignore'][j])) for j,b in enumerate(t['boxes'])]
            preds += [dict(image_id=i, category_id=int(l), bbox=xywh(b), score=float(s)) for b,l,s in zip(d['boxes'], d['labels'], d['scores'])]
        if not truths or not preds: continue
        truth = dict(images=[dict(id=i, width=64, height=64) for i in range(6)], categories=[dict(id=i, name=str(i)) for i in range(3)], annotations=anns)
        own = average_precision(torch.cat(scores), torch.cat(hits), torch.cat(labels), truths)
        assert evaluate(truth, preds).stats['bbox_mAP_50'] == pytest.approx(own, abs=1e-12), seed

@pytest.mark.parametrize('label,overlap,ignore,kind,truth', [
    (0, [.6, .7], [False, False], 'duplicate', 1), (0, [.7, .6], [False, False], 'duplicate', 0), (0, [.2, .7], [False, False], 'wrong_class', 1), (0, [.2, .4], [False, False], 'poor_box', 1), (0, [.3, .2], [False, False], 'poor_box', 0),
    (0, [.05, .4], [False, False], 'background', 1), (0, [0., 0.], [False, False], 'background', None), (0, [.6, .7], [True, True], 'background', None), (3, [.6, 0.], [False, False], 'wrong_class', 0)])
def test_what_a_false_alarm_is(label, overlap, ignore, kind, truth):
    found = alarm_kind(label, torch.tensor(overlap), dict(labels=torch.tensor([0, 1]), ignore=torch.tensor(ignore)))
    assert found[:2] == (kind, truth) and found[2] == pytest.approx(0 if truth is None else overlap[truth])

def test_pictures_and_files(tmp_path):
    import matplotlib.pyplot as plt
    model = toy_detector()
    model.test_scale = .5
    data = [scene(i, size=96, digits='val', objects=(3, 5), crowd=0, empty=0) for i in range(3)]
    out = misses(model, iter(data))
    assert isinstance(out, Ledger) and str(out) == repr(out) == out.table()
    out.plot().figure.canvas.draw()
    for i in range(3): out.show(i).figure.canvas.draw()
    plt.close('all')
    out.save(tmp_path/'ledger.json')
    d = json.loads((tmp_path/'ledger.json').read_text())
    assert d['ap'] == out.ap and len(d['misses']) == len(out.misses) and d['misses'][0]['reason'] in REASONS
    with pytest.raises(ValueError, match='i is 3'): out.show(3)
    none = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    empty = misses(model, [(data[0][0], none)])
    assert empty.truths == 0 and empty.ap != empty.ap and empty.groups == {} or empty.truths == 0
    json.loads(empty.to_json())
    empty.plot(); empty.table(); empty.show(0)
    plt.close('all')
    with pytest.raises(ValueError, match="without 'masks'"): misses(model, [(data[0][0], none)], metric='segm')
    assert explain(model, data[0][0]).resized.shape == (3, 48, 48)

def test_the_threshold_that_is_named_is_the_lowest_that_helps():
    "A better box counts only where it is itself kept: the second suppresses the third at 0.66, but is itself suppressed by the first up to 0.81."
    from types import SimpleNamespace
    from detbook.misses import _looser
    boxes = torch.tensor([[0., 0, 100, 100], [0, 10, 100, 110], [0, 30, 100, 130]])         # IoU .818, .538 with the first; .667 of the others
    c = SimpleNamespace(boxes=boxes, scores=torch.tensor([.9, .8, .7]), groups=torch.zeros(3, dtype=torch.int64), valid=torch.ones(3, dtype=torch.bool), iou=.5)
    assert _looser(c, torch.tensor([2]), 'classes') == 'iou of the classes 0.54 (now 0.5)'
    c.iou = .6                                                                              # the third is kept already where only the first is left
    assert _looser(c, torch.tensor([1]), 'classes') == 'iou of the classes 0.82 (now 0.6)'
