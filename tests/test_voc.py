"Pascal VOC's average precision beside a plain loop over detections."
import numpy as np, pytest
from detbook.metrics import evaluate
from detbook.voc import voc_ap, voc_curve

def voc_slowly(truths, found, points):
    "Average precision of one class, a detection at a time: truths are picture -> [(box, ignored)], detections (picture, box, score), boxes x1, y1, x2, y2 whose pixels count from one to the other."
    def iou(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
        area = lambda c: (c[2] - c[0] + 1) * (c[3] - c[1] + 1)
        return 0. if w <= 0 or h <= 0 else w*h / (area(a) + area(b) - w*h)
    taken, tp, fp, curve, n = set(), 0, 0, [], sum(not ignored for own in truths.values() for _, ignored in own)
    for picture, box, _ in sorted(found, key=lambda f: -f[2]):
        own = truths.get(picture, [])
        best = max(range(len(own)), key=lambda k: (iou(box, own[k][0]), not own[k][1]), default=None)
        if best is not None and iou(box, own[best][0]) >= .5:
            if own[best][1]: pass
            elif (picture, best) in taken: fp += 1
            else: taken.add((picture, best)); tp += 1
        else: fp += 1
        curve.append((tp / n, tp / (tp + fp) if tp + fp else 0.))
    if points: return sum(max((p for r, p in curve if r >= t), default=0.) for t in np.arange(0, 1.001, .1)) / 11
    area, before = 0., 0.
    for k, (r, _) in enumerate(curve):
        area += (r - before) * max(p for _, p in curve[k:])
        before = r
    return area

@pytest.mark.parametrize('seed', range(5))
def test_voc_by_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    box = lambda: [*(rng.integers(0, 50, 2)), *(rng.integers(4, 40, 2))]
    images, cats = [dict(id=i, height=100, width=100) for i in range(8)], [dict(id=c, name=f'c{c}') for c in (3, 5, 9)]
    anns = [dict(id=k, image_id=int(rng.integers(8)), category_id=int(rng.choice([3, 5])), bbox=[int(v) for v in box()], iscrowd=int(rng.random() < .2)) for k in range(60)]
    preds = [dict(image_id=int(rng.integers(8)), category_id=int(rng.choice([3, 5, 9])), bbox=[float(v) for v in box()], score=float(rng.random())) for _ in range(80)]
    preds += [dict(image_id=a['image_id'], category_id=a['category_id'], bbox=[float(v + rng.integers(-4, 5)*(i < 2)) for i, v in enumerate(a['bbox'])], score=float(rng.random())) for a in anns for _ in range(2)]
    result = evaluate(dict(images=images, categories=cats, annotations=anns), preds, ('voc', 'voc07'))
    corners = lambda b: (b[0], b[1], b[0]+b[2], b[1]+b[3])
    for metric in ('voc', 'voc07'):
        slow = []
        for c in (3, 5):
            truths = {i: [(corners(a['bbox']), a['iscrowd']) for a in anns if (a['image_id'], a['category_id']) == (i, c)] for i in range(8)}
            slow.append(voc_slowly(truths, [(p['image_id'], corners(p['bbox']), p['score']) for p in preds if p['category_id'] == c], metric == 'voc07'))
            assert abs(slow[-1] - result.per_class[metric][f'c{c}']['mAP']) < 1e-9
        assert abs(result.stats[f'{metric}_mAP'] - sum(slow)/2) < 1e-9 and .1 < slow[0] < .9          # a class without truths has no figure
    assert np.isnan(result.per_class['voc']['c9']['mAP']) and result.stats['voc_mAP'] != result.stats['voc07_mAP']

def test_of_equal_overlaps_the_truth_that_counts():
    "A difficult object in the very place of another takes nothing from it."
    box, one = np.array([[0, 5, 5, 20, 20]], float), np.array([.5])
    for ignored in ([True, False], [False, True]):
        precision, recall = voc_curve(np.concatenate([box, box]), np.array(ignored), box, one)
        assert (precision.tolist(), recall.tolist()) == ([1.], [1.])
    assert voc_ap(*voc_curve(np.concatenate([box, box]), np.array([True, True]), box, one)) == 0
