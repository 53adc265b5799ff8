"The evaluator against pycocotools as it comes, on data made by chance that hold what is known to break evaluators."
import contextlib, io, json, math
import numpy as np, pytest, torch
import pycocotools.mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from detbook.metrics import cover_truths, evaluate

def ellipse(b, side):
    y, x = np.mgrid[:side, :side] + .5
    inside = ((x-b[0]-b[2]/2)/b[2])**2 + ((y-b[1]-b[3]/2)/b[3])**2 <= .25
    rle = mask_utils.encode(np.asfortranarray(inside, dtype=np.uint8))
    return dict(size=list(rle['size']), counts=rle['counts'].decode())

def case(seed, side=110):
    "Truths and results: ids from 0 and with gaps, crowds, images without truths, without results, without either, classes without truths, ties, more than 100 results."
    rng = np.random.default_rng(seed)
    ids, cats = (rng.choice(900, n, replace=False).tolist() for n in (6, 3))
    ids[seed % 6], cats[seed % 3] = 0, 0
    def box():
        w, h = rng.integers(4, rng.choice([20, 50, side]), 2)
        return [float(v) for v in (rng.integers(0, side-w+1), rng.integers(0, side-h+1), w, h)]
    anns, results, fresh = [], [], iter(rng.choice(5000, 200, replace=False).tolist())
    for i in ids[1:5]:
        for c in cats[:2]:
            for _ in range(rng.integers(0, 6)):
                b = box()
                anns.append(dict(id=next(fresh) if anns else 0, image_id=i, category_id=c, bbox=b, segmentation=ellipse(b, side), iscrowd=int(rng.random() < .2),
                                 area=float(rng.choice([b[2]*b[3], 32**2 - 1, 32**2, 96**2]))))
    for i in ids[:4]:
        for c in cats:
            near = [a['bbox'] for a in anns if (a['image_id'], a['category_id']) == (i, c)]
            for _ in range(160 if (i, c) == (ids[1], cats[0]) else rng.integers(0, 9)):
                good = near and rng.random() < .7
                b = [max(1., v + int(rng.integers(-2, 3))) for v in near[rng.integers(len(near))]] if good else box()
                results.append(dict(image_id=i, category_id=c, bbox=b, segmentation=ellipse(b, side), score=int(rng.integers(1, 12))/12))
    rng.shuffle(anns)
    return dict(images=[dict(id=i, height=side, width=side) for i in ids], categories=[dict(id=c, name=f'c{c}') for c in cats], annotations=anns), results

def plain(d, results, metric, max_dets):
    "pycocotools on truths that are numbered from 1, as it wants them."
    d, results = json.loads(json.dumps([d, results]))
    for n, a in enumerate(d['annotations'], 1): a['id'] = n
    for r in results: r.pop('bbox' if metric == 'segm' else 'segmentation')     # or areas would be those of boxes
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = d
        truth.createIndex()
        ev = COCOeval(truth, truth.loadRes(results), 'segm' if metric == 'segm' else 'bbox')
        ev.params.maxDets, ev.params.useCats = max_dets, int(metric != 'proposal')
        ev.evaluate()
        ev.accumulate()
    return ev.eval['precision'], ev.eval['recall']

@pytest.mark.parametrize('metric', ['bbox', 'segm', 'proposal'])
@pytest.mark.parametrize('most', [100, 300])
def test_every_value_is_that_of_pycocotools(metric, most):
    for seed in range(6):
        d, results = case(seed)
        before = json.dumps([d, results])
        limits = [5, 30, most] if metric == 'proposal' else [1, 10, most]
        result = evaluate(d, results, metric, **(dict(proposal_nums=limits) if metric == 'proposal' else dict(max_dets=most)))
        assert json.dumps([d, results]) == before, 'evaluate changed what it was given'
        p, r = plain(d, results, metric, limits)
        np.testing.assert_allclose(result.precision[metric], p, atol=1e-12, err_msg=f'seed {seed}')
        np.testing.assert_allclose(result.recall[metric], r, atol=1e-12, err_msg=f'seed {seed}')
        if metric == 'proposal':
            expected = dict(zip(['proposal_AR_5', 'proposal_AR_30', f'proposal_AR_{most}'], r[:, 0, 0].mean(0)))
            expected |= {f'proposal_AR_{a}': r[:, 0, i, 2].mean() if r[0, 0, i, 2] > -1 else math.nan for i,a in enumerate('sml', 1)}
            assert result.stats == pytest.approx(expected, nan_ok=True, abs=1e-12)

def test_ids_do_not_matter():
    "The same data under other ids give the same figures."
    for seed in range(4):
        d, results = case(seed)
        stats = evaluate(d, results, ('bbox', 'segm', 'proposal', 'proposal_fast')).stats
        image, cat = ({x['id']: 7*k + 3 for k, x in enumerate(sorted(d[key], key=lambda x: x['id']))} for key in ('images', 'categories'))
        own = lambda x: dict(x, image_id=image[x['image_id']], category_id=cat[x['category_id']])
        other = dict(images=[dict(x, id=image[x['id']]) for x in d['images']], categories=[dict(x, id=cat[x['id']]) for x in d['categories']],
                     annotations=[dict(own(a), id=1000-k) for k,a in enumerate(d['annotations'])])
        assert evaluate(other, [own(r) for r in results], ('bbox', 'segm', 'proposal', 'proposal_fast')).stats == pytest.approx(stats, nan_ok=True, abs=1e-12)

def greedy(truths, proposals, n):
    "Pairs one at a time, the best overlap first."
    out = []
    for t, p in zip(truths, proposals):
        p, got = torch.as_tensor(p[:n]), [0.]*len(t)
        pairs = [(-float(v), g, k) for g in range(len(t)) for k, v in enumerate(overlap(t[g], p))]
        used_g, used_k = set(), set()
        for v, g, k in sorted(pairs):
            if -v < .5 or g in used_g or k in used_k: continue
            got[g] = -v; used_g.add(g); used_k.add(k)
        out += got
    return out

def overlap(b, p):
    w, h = (torch.minimum(torch.as_tensor(b[2+i]), p[:, 2+i]) - torch.maximum(torch.as_tensor(b[i]), p[:, i]) for i in (0, 1))
    inter = w.clamp(min=0) * h.clamp(min=0)
    return inter / ((b[2]-b[0])*(b[3]-b[1]) + (p[:, 2]-p[:, 0])*(p[:, 3]-p[:, 1]) - inter)

def some_boxes(rng, n, side=40):
    a = rng.integers(0, side, (n, 2))
    return np.concatenate([a, a + rng.integers(3, side, (n, 2))], 1).astype(float)

def test_cover_is_the_greedy_one():
    rng = np.random.default_rng(1)
    for _ in range(6):
        truths, proposals = ([some_boxes(rng, n) for n in rng.integers(0, most, 5)] for most in (10, 70))
        np.testing.assert_allclose(cover_truths(truths, proposals, (3, 20, 70)), [greedy(truths, proposals, n) for n in (3, 20, 70)], atol=1e-12)

MMDETECTION = [.028, .084, .132]      # measured once

def test_recall_is_mmdetections():
    "What mmdetection 3.3.0's eval_recalls gives for the same boxes, mean over thresholds."
    rng, truths, proposals = np.random.default_rng(5), [], []
    for n in (0, 3, 9, 12, 1):
        truths.append(some_boxes(rng, n)); proposals.append(np.concatenate([some_boxes(rng, 80), rng.permutation(80)[:, None]/80], 1))
    d = dict(images=[dict(id=i, height=90, width=90) for i in range(5)], categories=[dict(id=1, name='x')],
             annotations=[dict(id=0, image_id=i, category_id=1, bbox=[b[0], b[1], b[2]-b[0], b[3]-b[1]], area=1.) for i,t in enumerate(truths) for b in t.tolist()])
    stats = evaluate(d, dict(enumerate(proposals)), 'proposal_fast', proposal_nums=(10, 30, 80)).stats
    assert list(stats.values()) == pytest.approx(MMDETECTION, abs=1e-6)

def test_degenerate_proposals():
    one = dict(images=[dict(id=0, height=9, width=9)], categories=[dict(id=0, name='x')], annotations=[dict(id=0, image_id=0, category_id=0, bbox=[0, 0, 5, 5], area=25.)])
    for preds in ([], {}, {0: np.zeros((0, 5))}):
        stats = evaluate(one, preds, ('proposal', 'proposal_fast')).stats
        assert stats['proposal_AR_1000'] == stats['proposal_fast_AR_100'] == 0
    flat = {0: [[0, 0, 5, 5, .1], [3, 3, 3, 3, .9], [8, 8, 2, 2, .8]]}       # without area, inside out
    assert evaluate(one, flat, 'proposal_fast', proposal_nums=(2, 3)).stats == {'proposal_fast_AR_2': 0, 'proposal_fast_AR_3': 1}
    nothing = dict(one, annotations=[dict(one['annotations'][0], iscrowd=1)])
    assert all(math.isnan(v) for v in evaluate(nothing, flat, ('proposal', 'proposal_fast')).stats.values())
    text = evaluate(nothing, flat, ('proposal', 'proposal_fast')).to_json()
    assert json.loads(text)['stats']['proposal_fast_AR_100'] is None
