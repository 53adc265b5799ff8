"Every value of the fast evaluation beside pycocotools', on small sets made by chance that hold what is known to break evaluators."
import contextlib, copy, io, json
import numpy as np, pytest
import pycocotools.mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from detbook.metrics import evaluate

SIDE, METRICS = 120, ('bbox', 'segm', 'keypoints', 'proposal')
EDGES = [32.**2, 32**2 - 1e-9, 96.**2, 96**2 + 1e-9, 1., 50.5]

def polygon(b):
    "Eight corners in a box: half outside of the picture at times."
    a = np.linspace(0, 2*np.pi, 8, endpoint=False)
    return np.stack([b[0] + b[2]/2*(1 + np.cos(a)), b[1] + b[3]/2*(1 + np.sin(a))], 1).ravel().tolist()

def mask(b, rng):
    "A mask in one of COCO's three encodings."
    kind = rng.integers(4)
    if kind == 0: return [polygon(b)]
    if kind == 1: return [polygon(b), polygon([b[0], b[1], 5., 5.])]
    m = np.zeros((SIDE, SIDE), np.uint8, order='F')
    m[int(b[1]):int(b[1] + b[3]), int(b[0]):int(b[0] + b[2])] = 1
    if kind == 2:
        runs = np.flatnonzero(np.diff(m.ravel('F'), prepend=0, append=2))
        runs = np.diff(np.append(0, np.append(runs[runs < m.size], m.size)))
        return dict(size=[SIDE, SIDE], counts=runs.tolist())
    return dict(size=[SIDE, SIDE], counts=mask_utils.encode(m)['counts'].decode())

def box(rng):
    w, h = rng.integers(2, rng.choice([12, 40, 110]), 2)
    x, y = rng.integers(0, SIDE - w), rng.integers(0, SIDE - h)
    b = [float(v) for v in (x, y, w, h)]
    return b if rng.random() < .5 else [v + round(float(rng.random()), 2)*(i < 2) for i, v in enumerate(b)]

def points(b, n, rng, labelled):
    xy = np.array(b[:2]) + rng.random((n, 2)).round(2)*b[2:]
    v  = rng.integers(0, 3, n)*labelled if rng.random() < .7 else np.full(n, 2*labelled)
    return np.concatenate([xy, v[:, None]], 1).ravel().tolist()

def near(xs, step, rng): return [float(x + rng.integers(-step, step + 1)) for x in xs]

def random_set(seed):
    "Truths, results, the metric, keypoint sigmas and the limits."
    rng  = np.random.default_rng(seed)
    metric, n = METRICS[seed % 4], [17, 3][seed//4 % 2]
    images, cats = (rng.choice(np.arange(1, 90), rng.integers(1, n), replace=False).tolist() for n in (5, 4))
    if seed % 3: images[0], cats[-1] = 0, 0
    anns, results = [], []
    for i in images:
        for _ in range(rng.integers(0, 6)):
            b = box(rng)
            a = dict(id=len(anns), image_id=i, category_id=cats[rng.integers(len(cats))], bbox=b, iscrowd=int(rng.random() < .2), area=float(rng.choice([b[2]*b[3], *EDGES])))
            if metric == 'segm': a['segmentation'] = mask(b, rng)
            if metric == 'keypoints': a['keypoints'] = points(b, n, rng, rng.random() < .8)
            anns += [a]*(1 + (rng.random() < .1))                           # at times twice the same
    many = seed % 16 == 3
    for i in images[:rng.integers(1, 5)]:
        here = [a for a in anns if a['image_id'] == i]
        for _ in range(rng.integers(103, 130) if many and i == images[0] else rng.integers(0, 10)):
            like = here[rng.integers(len(here))] if here and rng.random() < .75 else None
            b = box(rng) if like is None else [*near(like['bbox'][:2], 3, rng), *[max(1., v) for v in near(like['bbox'][2:], 3, rng)]]
            b = [min(max(0., v), SIDE - 1.) for v in b[:2]] + [min(v, 110.) for v in b[2:]]
            if like is not None and rng.random() < .2: b = like['bbox']
            r = dict(image_id=i, category_id=like['category_id'] if like and rng.random() < .9 else cats[rng.integers(len(cats))], score=int(rng.integers(1, 8))/8)
            if metric == 'segm': r['segmentation'] = mask(b, rng) if like is None or rng.random() < .8 else like['segmentation']
            else: r['bbox'] = b
            if metric == 'keypoints':
                r['keypoints'] = points(b, n, rng, 1) if like is None else near(like['keypoints'], 2, rng)
            results += [r]*(1 + (rng.random() < .1))
    rng.shuffle(anns)
    d = dict(images=[dict(id=i, height=SIDE, width=SIDE) for i in images], categories=[dict(id=c, name=f'c{c}') for c in cats],
             annotations=[dict(a, id=k) for k, a in enumerate(anns)])
    most = int(rng.choice([2, 5, 100])) if not many else 100
    return d, results, metric, np.linspace(.03, .1, n), most

def theirs(d, results, metric, sigmas, limits):
    "pycocotools as it comes, on truths that are numbered from 1."
    d, results = json.loads(json.dumps([d, results]))
    for k, a in enumerate(d['annotations'], 1): a['id'] = k; a['num_keypoints'] = sum(v > 0 for v in a.get('keypoints', [])[2::3])
    for r in results:
        if metric == 'segm':
            s = r['segmentation']
            rle = mask_utils.merge(mask_utils.frPyObjects(s, SIDE, SIDE)) if isinstance(s, list) else mask_utils.frPyObjects(s, SIDE, SIDE) if isinstance(s['counts'], list) else s
            r['segmentation'] = rle
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = d
        truth.createIndex()
        for k, r in enumerate(results, 1):
            b = r.get('bbox')
            r.update(id=k, iscrowd=0, area=float(mask_utils.area(r['segmentation'])) if metric == 'segm' else b[2]*b[3])
        found.dataset = dict(d, annotations=results)
        found.createIndex()
        ev = COCOeval(truth, found, 'bbox' if metric == 'proposal' else metric)
        ev.params.maxDets, ev.params.useCats = list(limits), int(metric != 'proposal')
        if metric == 'keypoints': ev.params.kpt_oks_sigmas = sigmas
        ev.evaluate()
        ev.accumulate()
    return ev.eval['precision'], ev.eval['recall']

def difference(seed):
    "The largest difference of any precision or recall in one set."
    d, results, metric, sigmas, most = random_set(seed)
    if metric == 'keypoints':
        if not any('keypoints' in a for a in d['annotations']): return 0., 0
        limits, given = [most], dict(max_dets=most, sigmas=sigmas.tolist())
    elif metric == 'proposal': limits, given = sorted({1, most, 100}), dict(proposal_nums=sorted({1, most, 100}))
    else: limits, given = [n for n in (1, 10) if n < most] + [most], dict(max_dets=most)
    before = copy.deepcopy([d, results])
    ours = evaluate(d, results, metric, **given)
    assert [d, results] == before, f'seed {seed}: evaluate changed what it was given'
    p, r = theirs(d, results, metric, sigmas, limits)
    assert ours.precision[metric].shape == p.shape and ours.recall[metric].shape == r.shape, f'seed {seed}'
    return max(np.abs(ours.precision[metric] - p).max(), np.abs(ours.recall[metric] - r).max()), int((p > 0).any())

def compare(seeds):
    "No value differs, and the sets are no empty ones."
    worst = [difference(s) for s in seeds]
    wrong = [s for s, (w, _) in zip(seeds, worst) if w > 1e-12]
    assert not wrong, f'{len(wrong)} of {len(worst)} sets differ, by up to {max(w for w, _ in worst):.3g}; seeds {wrong[:8]}'
    assert sum(n for _, n in worst) > len(worst)/2
    return max(w for w, _ in worst)

def test_some_sets(): compare(range(300))

@pytest.mark.slow
def test_many_sets(): print('largest difference', compare(range(300, 2700)))

def test_masks_of_every_kind_meet_as_in_c():
    "Noise, stripes, empty and full ones, first and last pixels, many runs; also where hardly any pair is left out."
    import pycocotools.mask as mask_utils
    from detbook.fast_eval import Columns, mask_pairs, measure_masks
    rng = np.random.default_rng(3)
    h, w = 37, 53
    def some():
        kinds = [rng.random((h, w)) < rng.random() for _ in range(6)] + [np.zeros((h, w), bool), np.ones((h, w), bool)]
        for k in range(8):
            m = np.zeros((h, w), bool)
            y, x = rng.integers(0, h), rng.integers(0, w)
            m[y:y + rng.integers(1, h), x:x + rng.integers(1, w)] = True
            kinds.append(m)
        for place in (0, 0), (-1, -1): kinds.append(np.zeros((h, w), bool)); kinds[-1][place] = True
        return [mask_utils.encode(np.asfortranarray(m, np.uint8)) for m in kinds]
    for r in range(20):
        found, truths = some(), some()
        if r % 2: found = [dict(m, counts=m['counts'].decode()) for m in found]
        crowd, n = rng.random(len(truths)) < .3, (len(found), len(truths))
        zeros = lambda k: np.zeros(k, int)
        a, b = (Columns(zeros(k), zeros(k), measure_masks(m)[1], (m, *measure_masks(m)), crowd=crowd) for k, m in zip(n, (found, truths)))
        d, t = (v.ravel() for v in np.indices(n))
        want = mask_utils.iou([dict(m, counts=c if isinstance(c := m['counts'], bytes) else c.encode()) for m in found], truths, crowd.tolist())
        for least in (1e-9, .5):
            i, j, iou = mask_pairs(a, b, d, t, least)
            assert sorted(zip(i.tolist(), j.tolist())) == sorted(zip(*(v.tolist() for v in np.nonzero(want >= least))))
            assert (iou == want[i, j]).all()

def test_numbers_that_are_written_longer_than_needed():
    "Eight characters for a number are read by pycocotools and by the checks; the fast comparison reads them too."
    def write(counts, wide):
        out = ''
        for k, v in enumerate(counts):
            x = v - (counts[k-2] if k > 2 else 0)
            for c in range(wide): out += chr(48 + (((x >> 5*c) & 31) | (32 if c < wide - 1 else 0)))
        return out
    runs = [3, 4, 5, 6, 1, 1]
    truth = dict(images=[dict(id=1, height=4, width=5)], categories=[dict(id=1, name='a')],
                 annotations=[dict(id=1, image_id=1, category_id=1, iscrowd=0, area=11, bbox=[0, 0, 5, 4], segmentation=dict(size=[4, 5], counts=write(runs, 1)))])
    for wide in range(1, 9):
        found = [dict(image_id=1, category_id=1, score=.9, segmentation=dict(size=[4, 5], counts=write(runs, wide)))]
        assert evaluate(truth, found, ('segm',)).stats['segm_mAP'] == pytest.approx(1), wide
    with pytest.raises(ValueError, match='one of which has 9 characters'): evaluate(truth, [dict(found[0], segmentation=dict(size=[4, 5], counts=write(runs, 9)))], ('segm',))
