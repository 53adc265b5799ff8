"Intervals, errors and reports from the outside: what a user does with a result."
import json, re
import numpy as np, pytest
from detbook import toy
from detbook.core import WARNED
from detbook.metrics import Result, evaluate
from detbook.testing import detbook_eval

def data(noise=2., n=30, seed=0, keypoints=False, most=4):
    "Truths and results whose boxes are off by about `noise` pixels."
    rng, anns, rows = np.random.default_rng(seed), [], []
    for i in range(n):
        for _ in range(rng.integers(0, most + 1)):
            b = [*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)]
            a = dict(id=len(anns), image_id=f'p{i}', category_id=int(rng.integers(1, 4)), bbox=[float(v) for v in b], area=float(b[2]*b[3]), iscrowd=0)
            if keypoints: a['keypoints'] = [float(v) for k in range(3) for v in (b[0] + k*b[2]/2, b[1] + k*b[3]/2, 2)]
            anns.append(a)
            noisy = np.maximum(np.array(b) + rng.normal(0, noise, 4), 1)
            r = dict(image_id=f'p{i}', category_id=a['category_id'] if rng.random() < .9 else 1, bbox=[float(v) for v in noisy], score=float(rng.uniform(0, 1)))
            if keypoints: r['keypoints'] = (np.array(a['keypoints']) + np.tile([noise, -noise, 0], 3)).tolist()
            rows.append(r)
    d = dict(images=[dict(id=f'p{i}', height=100, width=100) for i in range(n)], categories=[dict(id=k, name=f'c{k}') for k in (1, 2, 3)], annotations=anns)
    return d, rows

def test_a_result_of_evaluate_knows_its_images():
    d, rows = data()
    result = evaluate(d, rows)
    assert {w['image_id'] for w in result.worst(5)} <= {r['id'] for r in d['images']}
    assert result.confusion(min_score=0.)[:3].sum() == len(d['annotations'])
    assert result.confusion(min_score=0.)[:, :3].sum() == len(rows)
    e = result.errors()
    assert sum(e.count.values()) == (e.kind >= 0).sum() + e.missed.sum() and e.ap == pytest.approx(result.stats['bbox_mAP_50'], abs=1e-12)
    assert json.loads(result.to_json(details=True))['details']['bbox']['confusion']['classes'] == ['c1', 'c2', 'c3', 'background']
    low, high = result.interval()
    assert low < result.stats['bbox_mAP'] < high

def test_repairing_every_kind_of_error_gives_everything():
    "With perfect boxes and classes nothing is wrong, and no kind has a price."
    d, _ = data()
    perfect = [dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=.9) for a in d['annotations']]
    e = evaluate(d, perfect).errors()
    assert e.ap == 1 and not any(e.count.values()) and not any(e.cost.values())

@pytest.mark.parametrize('planted', ['Cls', 'Loc', 'Dupe', 'Bkg', 'Miss'])
def test_planted_errors_are_found(planted):
    "One kind of error for every third truth: it has a price, and that of all others is none."
    d, _ = data(n=120, most=1)
    rows = []
    for k, a in enumerate(d['annotations']):
        r = dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=.5 + .4*(k % 7)/7)
        x, y, w, h = a['bbox']
        if k % 3 == 0:
            if planted == 'Miss': continue
            if planted == 'Cls': r['category_id'] = a['category_id'] % 3 + 1
            if planted == 'Loc': r['bbox'] = [x + .5*w, y, w, h]
            if planted == 'Dupe': rows.append(dict(r, score=r['score'] - .001))
            if planted == 'Bkg': rows.append(dict(r, bbox=[300., 300., 9., 9.], score=.95))
        rows.append(r)
    e = evaluate(dict(d, images=[dict(i, height=400, width=400) for i in d['images']]), rows).errors()
    assert e.count[planted] > 10 and e.cost[planted] > .003
    assert {k for k in e.count if e.count[k]} == {planted} and {k for k in e.cost if e.cost[k]} == {planted}

def test_two_detectors():
    (d, good), (_, bad) = data(2.), data(5.)
    a, b = evaluate(d, good), evaluate(d, bad)
    c = a.compare(b)
    assert c.low > 0 and c.share < .05 and c.difference == a.stats['bbox_mAP'] - b.stats['bbox_mAP']
    assert b.compare(a).difference == -c.difference and '95%' in str(c)
    with pytest.raises(ValueError, match='other images or truths'): a.compare(evaluate(*data(2., 20)))
    with pytest.raises(ValueError, match="no interval for 'bbox_AR_100'"): a.interval('bbox_AR_100')
    with pytest.raises(TypeError, match='expected a Result'): a.compare(3)

def test_keypoints_have_all_of_it():
    d, rows = data(2., keypoints=True)
    result = evaluate(d, rows, 'keypoints', sigmas=.1)
    assert result.errors('keypoints').ap == pytest.approx(result.stats['keypoints_mAP_50'], abs=1e-12)
    assert result.interval('keypoints_mAP_m')[1] >= result.stats['keypoints_mAP_m'] - .1
    result.plot_sizes()

def test_figures_alone_say_what_they_lack():
    with pytest.raises(ValueError, match='needs the detections themselves'): Result({}, {}, {}, {}).errors()
    with pytest.raises(ValueError, match="metric 'segm' was not measured"): evaluate(*data()).confusion('segm')

def test_results_cut_for_display_are_warned_of():
    d, rows = data(n=60)
    cut = [r for r in rows if r['score'] > .3]
    WARNED.discard(('cut', 'the predictions'))
    with pytest.warns(UserWarning, match=r'none of the \d+ detections scores below 0\.3'): evaluate(d, cut)
    WARNED.discard(('cut', 'the predictions'))
    few = [dict(r, image_id=i['id'], score=s/10) for i in d['images'] for s, r in enumerate(rows[:7])]
    with pytest.warns(UserWarning, match='60 of 60 images have just 7 detections'): evaluate(d, few)

def test_the_command_writes_a_report(tmp_path, capsys):
    d, rows = data()
    truths, found = tmp_path/'truths.json', tmp_path/'found.json'
    truths.write_text(json.dumps(d)); found.write_text(json.dumps(rows))
    for name in ('report.html', 'report_2.html'):           # nothing is written over
        detbook_eval(str(found), str(truths), report=str(tmp_path/'new'))
        text = (tmp_path/'new'/name).read_text()
        assert str(tmp_path/'new'/name) in capsys.readouterr().out
    assert not re.search(r'(src|href)=(?!"data:)', text) and text.count('data:image/png') == 6 and 'c2' in text
    with pytest.raises(ValueError, match='is a file; a report is written into a folder'): detbook_eval(str(found), str(truths), report=str(found))

def test_a_test_shows_its_worst_pictures(tmp_path):
    from detbook.describe import save_detector
    from detbook.testing import detbook_test
    from detbook.tiny import toy_detector
    toy.write_coco(tmp_path/'toy', 5, seed=7)
    model = toy_detector()
    save_detector(tmp_path/'toy.safetensors', model, model.classes)
    detbook_test(str(tmp_path/'toy'/'instances.json'), str(tmp_path/'toy.safetensors'), out=str(tmp_path/'found.json'), report=str(tmp_path/'new'))
    text = (tmp_path/'new'/'report.html').read_text()
    assert 0 < text.count('data:image/jpeg') == text.count('<figcaption>') <= 5 and 'toy.safetensors' in text
    assert [p.name for p in (tmp_path/'new').iterdir()] == ['report.html']

    drawn = lambda t: re.findall('<figcaption>.*?data:image/jpeg;base64,[^"]*', t)
    detbook_eval(str(tmp_path/'found.json'), str(tmp_path/'toy'/'instances.json'), report=str(tmp_path/'again'), images=str(tmp_path/'toy'/'images'))     # the same from a file of results
    again = (tmp_path/'again'/'report.html').read_text()
    assert [d.split('<img')[0] for d in drawn(again)] == [d.split('<img')[0] for d in drawn(text)]
    d = json.loads((tmp_path/'toy'/'instances.json').read_text())
    rows = [{k: a[k] for k in ('image_id', 'category_id', 'bbox', 'segmentation')} | dict(score=.9) for a in d['annotations'][1:]]
    (tmp_path/'masks.json').write_text(json.dumps(rows))
    detbook_eval(str(tmp_path/'masks.json'), str(tmp_path/'toy'/'instances.json'), eval=['segm'], report=str(tmp_path/'masks'), images=str(tmp_path/'toy'/'images'))
    one, = drawn((tmp_path/'masks'/'report.html').read_text())
    assert f'(image {d["annotations"][0]["image_id"]})' in one and '1 missed, 0 wrong' in one
    with pytest.raises(ValueError, match='pictures are drawn for a report'): detbook_eval(str(tmp_path/'found.json'), str(tmp_path/'toy'/'instances.json'), images=str(tmp_path))
    with pytest.raises(FileNotFoundError, match='no such folder'): detbook_eval(str(tmp_path/'found.json'), str(tmp_path/'toy'/'instances.json'), report=str(tmp_path/'x'), images=str(tmp_path/'y'))
    assert not (tmp_path/'x').exists()

def test_worst_pictures_have_all_that_was_found(tmp_path):
    "Rows with boxes, masks and keypoints come back as they were, whatever was measured first."
    from detbook.coco import decode_masks
    from detbook.data import CocoDataset
    from detbook.report import found_in
    ds = CocoDataset(toy.write_coco(tmp_path/'toy', 4, seed=7, empty=0, crowd=0))
    anns = [a for a in ds.to_coco()['annotations'] if a.get('num_keypoints')]
    rows = [{k: a[k] for k in ('image_id', 'category_id', 'bbox', 'segmentation', 'keypoints')} | dict(score=.1 + .8*k/len(anns)) for k, a in enumerate(anns)]
    n = len(anns[0]['keypoints'])//3
    for metrics in ('bbox',), ('segm',), ('keypoints',), ('bbox', 'segm', 'keypoints'), ('segm', 'bbox'):
        result = evaluate(ds, rows, metrics, sigmas=.1)
        for i in range(len(ds)):
            own = sorted((r for r in rows if r['image_id'] == ds.image_ids[i]), key=lambda r: -r['score'])
            found, true = found_in(ds, result.records, i), ds.target(i)
            assert found['scores'].tolist() == pytest.approx([r['score'] for r in own]) and found.names == [ds.classes[ds.category_ids.index(r['category_id'])] for r in own]
            assert set(found) == {'boxes', 'scores', 'labels', *(dict(segm='masks', keypoints='keypoints')[m] for m in metrics if m != 'bbox')}
            if 'bbox' in metrics: assert found['boxes'].tolist() == [pytest.approx([x, y, x + w, y + h]) for x, y, w, h in (r['bbox'] for r in own)]
            if 'segm' in metrics and own: assert decode_masks(found['masks'], found.size).sum() == sum(true['masks'][k].sum() for k in range(len(true['masks'])) if k < len(own)) or len(own) < len(true['masks'])
            if 'keypoints' in metrics and own: assert found['keypoints'].shape == (len(own), n, 3)
