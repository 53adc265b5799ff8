"Records as exporters, NumPy and torch write them, files that mean harm, and our figures beside pycocotools' on the very file we wrote."
import contextlib, io, json, os, subprocess, sys
import numpy as np, pytest, torch
import pycocotools.mask as mask_utils
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from detbook.images import read_image, read_picture
from detbook.coco import check_mask, decode_masks, decode_runs, plain_id, read_coco, segmentation_to_rle, written_id
from detbook.data import CocoDataset
from detbook.results import encode_mask, to_coco
from detbook.metrics import evaluate
from detbook.proposals import read_proposals
from detbook.pipeline import build_dataset

H, W = 64, 96

def coco(n=3, names=('cat', 'dog'), per=2, masks=True):
    anns = []
    for i in range(n):
        for j in range(per):
            x, y, w, h = 5+10*j, 6+8*j, 30, 24
            anns.append(dict(id=len(anns)+1, image_id=i+1, category_id=1 + j % len(names), bbox=[x, y, w, h], area=w*h, iscrowd=0)
                        | (dict(segmentation=[[x, y, x+w, y, x+w, y+h, x, y+h]]) if masks else {}))
    return dict(images=[dict(id=i+1, file_name=f'{i}.png', height=H, width=W) for i in range(n)], annotations=anns, categories=[dict(id=1+k, name=c) for k,c in enumerate(names)])

def perfect(d): return [dict(a, score=.9) for a in d['annotations']]

@pytest.fixture
def folder(tmp_path):
    for i in range(3): Image.fromarray(np.random.default_rng(i).integers(0, 255, (H, W, 3), dtype=np.uint8)).save(tmp_path/f'{i}.png')
    return tmp_path

def spelled(d, image, category, annotation=lambda i: i):
    return dict(images=[dict(r, id=image(r['id'])) for r in d['images']], categories=[dict(c, id=category(c['id'])) for c in d['categories']],
                annotations=[dict(a, id=annotation(a['id']), image_id=image(a['image_id']), category_id=category(a['category_id'])) for a in d['annotations']])

SPELLINGS = dict(float=float, text=str, text_float=lambda i: f'{i}.0', zeros=lambda i: f'{i:012}', name=lambda i: f'img_{i:04}', numpy=np.int64, numpy_float=np.float32, numpy_0d=np.array,
                 numpy_one=lambda i: np.array([i]), torch=torch.tensor, torch_one=lambda i: torch.tensor([float(i)]), bytes=lambda i: f'b{i}'.encode())

@pytest.mark.parametrize('cats', ['float', 'text', 'name', 'numpy_0d'])
@pytest.mark.parametrize('ids', SPELLINGS)
def test_ids_of_any_kind_come_back(folder, ids, cats):
    "From a data set through predictions to results and figures; and those of results may be spelled otherwise than those of truths."
    d = spelled(coco(), SPELLINGS[ids], SPELLINGS[cats], SPELLINGS[ids])
    ds = CocoDataset(d, folder)
    assert ds.image_ids.tolist() == [written_id(r['id']) for r in d['images']] and ds.category_ids == [written_id(c['id']) for c in d['categories']]
    preds = [dict(boxes=t['boxes'].as_subclass(torch.Tensor), labels=t['labels'], scores=torch.ones(2)) for t in map(ds.target, range(3))]
    rows = to_coco(preds, [ds.target(i)['image_id'] for i in range(3)], ds.category_ids)
    assert {r['image_id'] for r in rows} == {written_id(r['id']) for r in d['images']} and {r['category_id'] for r in rows} == set(ds.category_ids)
    json.dumps(rows)
    for truth in (d, ds, ds.to_coco()): assert evaluate(truth, rows).stats['bbox_mAP'] == 1
    assert read_coco(ds.to_coco()) == ds.to_coco()
    if all(isinstance(plain_id(r['id']), int) for r in [*d['images'], *d['categories']]):
        assert evaluate(coco(), rows).stats['bbox_mAP'] == evaluate(d, perfect(coco())).stats['bbox_mAP'] == 1

def test_text_ids_in_a_file(folder):
    d = spelled(coco(), lambda i: f'img_{i}', lambda i: f'c{i}', lambda i: f'a{i}')
    (folder/'ann.json').write_text(json.dumps(d))
    ds = CocoDataset(folder/'ann.json')
    assert [a['id'] for a in ds.to_coco()['annotations']] == [a['id'] for a in d['annotations']] and ds[1][1]['image_id'] == 'img_2'
    assert 'img_' not in ds.summary() and len(ds.summary().splitlines()) == 5

@pytest.mark.parametrize('ids', ['float', 'text', 'name'])
def test_config_data_sets_and_proposals(folder, ids):
    d = spelled(coco(), SPELLINGS[ids], SPELLINGS[ids])
    small = dict(d['annotations'][0], id=99, bbox=[1, 1, .5, 9])           # mmdetection leaves out what is thinner than a pixel
    (folder/'ann.json').write_text(json.dumps(dict(d, annotations=d['annotations'] + [small])))
    (folder/'boxes.json').write_text(json.dumps([dict(image_id=r['id'], bbox=[1, 2, 3, 4], score=.5) for r in d['images']]))
    ds = build_dataset(dict(type='CocoDataset', data_root=str(folder), ann_file='ann.json', data_prefix=dict(img=''), metainfo=dict(classes=['dog', 'cat']), filter_cfg=dict(filter_empty_gt=True),
                            proposal_file='boxes.json', pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadProposals', num_max_proposals=9), dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]))
    assert len(ds) == 3 and ds.classes == ['dog', 'cat'] and ds.report['objects'] == 6 and sum(ds.report['left_out'].values()) == 1
    assert [t['image_id'] for _, t in ds] == [written_id(r['id']) for r in d['images']]
    assert all(torch.as_tensor(t['proposals'])[:, :4].tolist() == [[1, 2, 4, 6]] for _, t in ds)
    images = [(r['id'], r['file_name']) for r in d['images']]
    assert read_proposals(folder/'boxes.json', images)[d['images'][2]['id']].tolist() == [[1, 2, 4, 6, .5]]
    for change in (dict(score='0.9'), dict(bbox=[1, 2]), dict(image_id='none'), dict(image_id=[1]), dict(bbox=[1e309, 0, 1, 1])):
        (folder/'boxes.json').write_text(json.dumps([dict(image_id=d['images'][0]['id'], bbox=[1, 2, 3, 4], score=.5) | change]))
        with pytest.raises(ValueError, match='boxes.json: result 0 '): read_proposals(folder/'boxes.json', images)

def test_ids_that_are_one(folder):
    d = coco()
    d['images'][1]['id'] = '1'
    with pytest.raises(ValueError, match='image 1 .1.png.: another image has this id'): CocoDataset(d, folder)
    with pytest.raises(ValueError, match='two of its images have the same id'): evaluate(d, [])

ABSENT = dict(iscrowd=None, area=None, keypoints=None, segmentation=None, ignore=None, num_keypoints=None)

def test_null_is_absent(folder):
    d = coco(masks=False)
    d['annotations'] = [{**a, **ABSENT} for a in d['annotations']]
    for r in d['images']: r.update(height=None, width=None, license=None)
    ds = CocoDataset(d, folder)
    assert ds.report['objects'] == 6 and not ds.has_masks and ds.sizes.tolist() == [[H, W]]*3
    assert evaluate(d, perfect(coco())).stats['bbox_mAP'] == 1

@pytest.mark.parametrize('size', [float, str, lambda v: f'{v}.0', np.float64, torch.tensor])
def test_sizes(folder, size):
    d = coco()
    for r in d['images']: r.update(height=size(H), width=size(W))
    assert CocoDataset(d, folder).sizes.tolist() == [[H, W]]*3
    assert evaluate(d, perfect(coco()), 'segm').stats['segm_mAP'] == 1

def rle(x, y, w, h, counts=None, size=(H, W)):
    m = np.zeros(size, np.uint8, order='F')
    m[y:y+h, x:x+w] = 1
    r = mask_utils.encode(m)
    if counts == 'list':
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], m.flatten('F'), [2]]))), prepend=0)
        return dict(size=list(size), counts=runs.tolist())
    return dict(size=list(size), counts=r['counts'] if counts is None else counts(r['counts']))

MASKS = dict(bytes=lambda b: rle(*b), text=lambda b: rle(*b, counts=bytes.decode), runs=lambda b: rle(*b, counts='list'), array=lambda b: {**rle(*b, counts='list'), 'counts': np.array(rle(*b, counts='list')['counts'])},
             float_size=lambda b: {**rle(*b), 'size': (float(H), np.int64(W))}, polygon_array=lambda b: [np.array([b[0], b[1], b[0]+b[2], b[1], b[0]+b[2], b[1]+b[3], b[0], b[1]+b[3]])],
             polygon_tensor=lambda b: (torch.tensor([b[0], b[1], b[0]+b[2], b[1], b[0]+b[2], b[1]+b[3], b[0], b[1]+b[3]]),), one_empty=lambda b: [[], *coco()['annotations'][0]['segmentation']] if b[0] == 5 else rle(*b))

@pytest.mark.parametrize('kind', MASKS)
def test_masks_of_any_kind(folder, kind):
    d = coco()
    for a in d['annotations']: a['segmentation'] = MASKS[kind](a['bbox'])
    ds, plain = CocoDataset(d, folder), CocoDataset(coco(), folder)
    for i in range(3): assert torch.equal(ds.target(i)['masks'], plain.target(i)['masks'])
    assert evaluate(coco(), perfect(d), 'segm').stats['segm_mAP'] == evaluate(d, perfect(coco()), 'segm').stats['segm_mAP'] == 1

def test_a_mask_without_content_is_none(folder):
    for nothing in ([], [[]], None, ()):
        d = coco()
        for a in d['annotations']: a['segmentation'] = nothing
        assert not CocoDataset(d, folder).has_masks
        with pytest.raises(ValueError, match="result 0 lacks 'segmentation'"): evaluate(coco(), perfect(d), 'segm')

@pytest.mark.parametrize('bad, way', [([1, 1, 2, 2], 'raise'), ([1, 1], 'skip'), ([1, 1, 1e9, 1, 1e9, 1e9], 'skip'), ([1, 1, 5, 5, float('nan'), 5], 'skip'), ([1, 1, 5, 5, 9], 'skip')])
def test_a_bad_polygon_does_not_cost_the_good_one(folder, bad, way):
    d = coco()
    d['annotations'][3]['segmentation'] += [bad]
    with pytest.warns(UserWarning, match='left out 1 polygons whose objects keep others; the first: annotation 4'): ds = CocoDataset(d, folder, on_bad=way)
    assert ds.report['objects'] == 6 and ds.report['left_out'] == {'polygons that cannot be drawn': 1} and not ds.report['dropped']
    assert torch.equal(ds.target(1)['masks'], CocoDataset(coco(), folder).target(1)['masks'])
    with pytest.warns(UserWarning, match='left out 1 polygons'): assert evaluate(d, perfect(coco()), 'segm').stats['segm_mAP'] == 1
    if way == 'skip' and len(bad) > 2:
        with pytest.raises(ValueError, match='annotation 4 .1.png.: polygon'): CocoDataset(d, folder)

@pytest.mark.parametrize('size', [(2*H, 2*W), (W, H), (H-1, W)])
def test_masks_of_another_size_raise(size):
    wrong = [dict(p, segmentation=rle(1, 1, 9, 9, size=size)) for p in perfect(coco())]
    with pytest.raises(ValueError, match=rf'result 0: run lengths of size \[{size[0]}, {size[1]}\] on a picture of size \[{H}, {W}\]'): evaluate(coco(), wrong, 'segm')
    with pytest.raises(ValueError, match=rf'annotation 1: run lengths of size \[{size[0]}, {size[1]}\]'): evaluate(dict(coco(), annotations=wrong), [], 'segm')

def test_results_in_arrays():
    d, rows = coco(), perfect(coco())
    for kind in (np.array, torch.tensor, tuple, lambda v: np.array(v, np.float32), lambda v: torch.tensor(v, dtype=torch.float16)):
        assert evaluate(d, [dict(p, bbox=kind(p['bbox'])) for p in rows]).stats['bbox_mAP'] == 1
    for kind in (np.float32, torch.tensor, np.array, lambda v: np.array([v]), lambda v: 1):
        assert evaluate(d, [dict(p, score=kind(p['score'])) for p in rows]).stats['bbox_mAP'] == 1
    assert evaluate(d, tuple(rows)).stats['bbox_mAP'] == 1

@pytest.mark.parametrize('preds', [{'annotations': []}, {'images': [], 'annotations': []}, 5, np.zeros((2, 6)), [5], [None], [[1, 1, 5, 5, .9]], (p for p in ()), {1: [[1, 2, 3, 4, .5]]}], ids=lambda v: str(v).split(' at 0x')[0])
def test_results_in_a_wrong_container(preds):
    with pytest.raises((TypeError, ValueError), match='^(the predictions|preds).* expected a'): evaluate(coco(), preds)

@pytest.mark.parametrize('change', [dict(score='0.9'), dict(score=None), dict(score=[.9]), dict(score=10**400), dict(score=float('inf')), dict(score=True), dict(bbox=None), dict(bbox='1 2 3 4'), dict(bbox=[1, 2, 3]),
                                    dict(bbox=[1, 2, -3, 4]), dict(bbox=[1, 2, '3', 4]), dict(bbox=[1e300]*4), dict(image_id=None), dict(image_id=[1]), dict(image_id=1.5), dict(image_id='x'), dict(category_id={}),
                                    dict(category_id=9), dict(category_id=True), dict(category_id=None)], ids=str)
def test_a_wrong_result_is_named_by_its_number(change):
    rows = perfect(coco())
    rows[4].update(change)
    with pytest.raises(ValueError, match='^the predictions: result 4 [^\n]*$'): evaluate(coco(), rows)
    rows[4] = perfect(coco())[4]
    truth = coco()
    truth['annotations'][4].update({k: v for k,v in change.items() if k != 'score'})
    if 'score' not in change:
        with pytest.raises(ValueError, match='^the truths: annotation 5 [^\n]*$'): evaluate(truth, rows)

HOSTILE = dict(far=[[5, 5, 1e9, 5, 1e9, 1e9]], near_int=[[5, 5, 2**31, 5, 9, 9]], nan=[[5, 5, float('nan'), 5, 9, 9]], inf=[[5, 5, 1e309, 5, 9, 9]], digits=[[10**400]*6], text=[['a']*6], nested=[[[1, 2]]*6], long=[list(range(60))*9000],
               lie=dict(size=[H, W], counts=[2**32 + H*W]), negative=dict(size=[H, W], counts=[-5, H*W+5]), absurd=dict(size=[2**31, 2**31], counts=[2**62]), zeros=dict(size=[H, W], counts='0'*100_000), endless=dict(size=[H, W], counts='o'*50),
               empty=dict(size=[H, W], counts=''), cut=dict(size=[H, W], counts='PPPPPPPPo'), no_counts=dict(size=[H, W]), no_size=dict(counts=[H*W]), word='abc', number=7, letters=dict(size=[H, W], counts='é'))

@pytest.mark.parametrize('kind', HOSTILE)
def test_hostile_masks(folder, kind):
    "Some of these end a process that gives them to pycocotools."
    d = coco()
    d['annotations'][2]['segmentation'] = HOSTILE[kind]
    with pytest.raises(ValueError, match='^the given dict: annotation 3 [^\n]*$'): CocoDataset(d, folder)
    with pytest.warns(UserWarning, match='dropped 1'): ds = CocoDataset(d, folder, on_bad='skip')
    assert ds.report['objects'] == 5 and len(ds.report['problems'][0]) < 400
    for call in (lambda: evaluate(d, [], 'segm'), lambda: evaluate(coco(), perfect(d), 'segm'), lambda: segmentation_to_rle(HOSTILE[kind], H, W)):
        with pytest.raises((TypeError, ValueError), match='^[^\n]*$') as e: call()
        assert len(str(e.value)) < 400
    assert check_mask(HOSTILE[kind], H, W)[0] is None

IMAGES = dict(huge=dict(height=10**9, width=10**9), huge_int=dict(height=10**400), negative=dict(height=-5), half=dict(width=64.5), text=dict(width='wide'), id_digits=dict(id=10**400), id_inf=dict(id=float('inf')), id_list=dict(id=[1]),
              id_dict=dict(id={'a': 1}), id_bool=dict(id=True), name_none=dict(file_name=None), name_list=dict(file_name=['0.png']), name_empty=dict(file_name=''), name_long=dict(file_name='a'*5000), name_newline=dict(file_name='a\nb.png'),
              name_nul=dict(file_name='a\0b.png'), name_surrogate=dict(file_name='\ud800.png'), elsewhere=dict(file_name='../../no/such.png'), absolute=dict(file_name='/no/such.png'), windows=dict(file_name='C:\\no\\such.png'), folders=dict(file_name='a/'*2000 + 'b.png'))

@pytest.mark.parametrize('kind', IMAGES)
def test_hostile_image_records(folder, kind):
    d = coco()
    d['images'][1].update(IMAGES[kind])
    (folder/'ann.json').write_text(json.dumps(d))
    with pytest.raises((ValueError, FileNotFoundError), match=r'ann.json: (an )?image [^\n]*$') as e: CocoDataset(folder/'ann.json')
    assert len(str(e.value)) < 1000
    with pytest.warns(UserWarning, match='dropped 1'): ds = CocoDataset(folder/'ann.json', on_bad='skip')
    assert len(ds) == 2 and ds.report['objects'] == 4 and [len(x) for _, x in ds]

@pytest.mark.parametrize('name', ['../0.png', '/etc/hostname', '/dev/zero', '.', '..'])
def test_a_name_of_something_else_is_no_picture(folder, name):
    d = coco()
    d['images'][1]['file_name'] = name
    with pytest.raises((ValueError, FileNotFoundError)): CocoDataset(d, folder)[1]
    with pytest.warns(UserWarning, match='dropped 1'): assert len(CocoDataset(d, folder, on_bad='skip')) == 2

FILES = dict(deep='['*200_000, deep_objects='{"images":'*200_000, twice='{"images": [], "annotations": [], "categories": [], "images": []}', list='[[1], 2]', nan='NaN', inf='1e309', text='"x"', null='null', digits='9'*5000, empty='', number='{"images": 5, "annotations": [], "categories": []}',
             nulls='{"images": [null], "annotations": [], "categories": []}', bytes='\udcff')

@pytest.mark.parametrize('on_bad', ['raise', 'skip'])
@pytest.mark.parametrize('kind', FILES)
def test_hostile_files(folder, kind, on_bad):
    (folder/'ann.json').write_bytes(FILES[kind].encode(errors='surrogateescape'))
    for call in (lambda: CocoDataset(folder/'ann.json', on_bad=on_bad), lambda: evaluate(folder/'ann.json', []), lambda: evaluate(coco(), folder/'ann.json')):
        with pytest.raises(ValueError, match=r'ann.json(\.|: )[^\n]*$') as e: call()
        assert len(str(e.value)) < 600

def test_names_of_classes_are_data(folder):
    d = coco(names=('cat\nx', 'd'*5000))
    lines = CocoDataset(d, folder).summary().splitlines()
    assert len(lines) == 5 and max(map(len, lines)) < 120
    lines = evaluate(d, perfect(d)).table().splitlines()
    assert len(lines) == 5 and max(map(len, lines)) < 140

def test_names_of_windows_and_of_the_folder(folder):
    d = coco()
    (folder/'images').mkdir()
    for i in range(3): (folder/f'{i}.png').rename(folder/'images'/f'{i}.png')
    for form, images in (('images\\{}.png', None), ('images\\{}.png', folder/'images'), ('images/{}.png', folder/'images'), ('.\\images\\{}.png', None), ('{}.png', None)):
        for i, r in enumerate(d['images']): r['file_name'] = form.format(i)
        (folder/'ann.json').write_text(json.dumps(d))
        ds = CocoDataset(folder/'ann.json', images)
        assert [ds[i][0].shape[1:] for i in range(3)] == [(H, W)]*3
        assert [CocoDataset(ds.to_coco(), ds.folder)[i][0].shape[1:] for i in range(3)] == [(H, W)]*3
    (folder/'images'/'back\\slash.png').write_bytes((folder/'images'/'0.png').read_bytes())      # a name that Linux allows
    d['images'][0]['file_name'] = 'back\\slash.png'
    assert CocoDataset(d, folder/'images')[0][0].shape[1:] == (H, W)
    d['images'][0]['file_name'] = 'images\\9.png'
    with pytest.raises(FileNotFoundError, match=r'there is no picture .*/images/images\\9.png, nor images/9.png, 9.png there'): CocoDataset(d, folder/'images')

def test_equal_names_and_root_categories(folder):
    d = coco(names=('cat', 'cat', 'dog'), per=3)
    assert CocoDataset(d, folder).classes == ['cat', 'cat (2)', 'dog'] and CocoDataset(d, folder, classes=['dog', 'cat (2)']).category_ids == [3, 2]
    found = evaluate(d, [p for p in perfect(d) if p['category_id'] == 3])
    assert {c: v['mAP'] for c,v in found.per_class['bbox'].items()} == {'cat': 0, 'cat (2)': 0, 'dog': 1} and found.stats['bbox_mAP'] == pytest.approx(1/3)
    tree = coco(names=('hole', 'hole'), per=1)
    for a in tree['annotations']: a['category_id'] = 2
    for c, above in zip(tree['categories'], ('none', 'hole')): c['supercategory'] = above
    for chosen in (None, ['hole']):
        ds = CocoDataset(tree, folder, classes=chosen)
        assert (ds.classes, ds.category_ids, ds.report['left_out']) == (['hole'], [2], {'empty root categories': 1})
        assert evaluate(ds, perfect(tree)).stats['bbox_mAP'] == 1
    assert evaluate(tree, perfect(tree)).per_class['bbox']['hole']['mAP'] == 1

def test_what_is_left_out_is_said(folder):
    d = coco(names=('cat', 'dog', 'hen'))
    for a in d['annotations'][:2]: a['iscrowd'] = 1
    d['annotations'] = d['annotations'][:4]
    ds = CocoDataset(d, folder)
    assert (ds.report['crowds_only'], ds.report['empty'], ds.report['empty_classes']) == (1, 1, ['hen'])
    assert '1 images show crowds alone' in str(ds) and 'classes without objects: hen' in str(ds)

def its(path, d, metric, sigmas=None):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(d))
        truth.createIndex()
        ev = COCOeval(truth, truth.loadRes(str(path)), metric)
        if sigmas is not None: ev.params.kpt_oks_sigmas = np.array(sigmas)
        ev.evaluate(); ev.accumulate(); ev.summarize()
    return ev.stats

@pytest.mark.parametrize('boxes', [True, False])
def test_keypoint_rows_measure_as_pycocotools_measures_the_file(tmp_path, boxes):
    "Perturbed truths of small, medium and large objects: the box of a row, where it has one, is its size."
    different = 0
    for seed in range(6):
        rng, K, anns, preds = np.random.default_rng(seed), 5, [], []
        for i in range(8):
            own = []
            for _ in range(4):
                w, h = rng.uniform(20, 260, 2)
                x, y = rng.uniform(0, 200, 2)
                xy = np.stack([rng.uniform(x, x+w, K), rng.uniform(y, y+h, K)], 1)
                anns.append(dict(id=len(anns)+1, image_id=i+1, category_id=1, bbox=[x, y, w, h], area=.6*w*h, iscrowd=0, num_keypoints=K, keypoints=np.c_[xy, np.full(K, 2.)].flatten().tolist()))
                for _ in range(2): own.append((np.r_[x, y, x+w, y+h] + np.r_[rng.normal(0, 9, 2) - 9, rng.normal(0, 9, 2) + 9], np.c_[xy + rng.normal(0, rng.choice([1, 8, 60]), (K, 2)), np.ones(K)], rng.random()))
            b, k, s = (torch.tensor(np.stack(v)) for v in zip(*own))
            preds.append(dict(boxes=b, keypoints=k, scores=s, labels=torch.zeros(len(s), dtype=torch.int64)))
        d = dict(images=[dict(id=i+1, height=400, width=400) for i in range(8)], categories=[dict(id=1, name='x', keypoints=list('abcde'))], annotations=anns)
        rows = to_coco(preds, range(1, 9), [1])
        if not boxes: rows = [{k: v for k,v in r.items() if k != 'bbox'} for r in rows]
        (tmp_path/'rows.json').write_text(json.dumps(rows))
        theirs, ours = its(tmp_path/'rows.json', d, 'keypoints', [.05]*K), evaluate(d, tmp_path/'rows.json', 'keypoints', sigmas=.05).stats
        np.testing.assert_allclose(np.nan_to_num(list(ours.values()), nan=-1), theirs, atol=1e-12)
        other = evaluate(d, [{k: v for k,v in r.items() if k != 'bbox'} for r in rows], 'keypoints', sigmas=.05).stats
        different += ours['keypoints_mAP_m'] != other['keypoints_mAP_m']
    assert boxes == (different > 0), 'the case must be able to tell the two areas apart'

def test_run_lengths_both_ways():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        m = (rng.random(rng.integers(1, 90, 2)) < rng.random()).astype(np.uint8)
        text = mask_utils.encode(np.asfortranarray(m))
        runs = decode_runs(text['counts'])
        assert runs.sum() == m.size and (np.repeat(np.arange(len(runs)) % 2, runs) == m.flatten('F')).all()
        assert np.array_equal(decode_masks([segmentation_to_rle(dict(size=m.shape, counts=runs), *m.shape)], m.shape)[0].numpy(), m)
        assert encode_mask(torch.tensor(m)) == encode_mask(m) == dict(size=list(m.shape), counts=text['counts'].decode())
    with pytest.raises(ValueError, match='of size'): decode_masks([rle(1, 1, 9, 9)], (H, H))

def test_pictures(tmp_path):
    v = np.random.default_rng(0).integers(0, 255, (40, 60))
    for k, (kind, a) in enumerate(dict(i16=v.astype(np.uint16)*257, i32=(v*257).astype(np.int32)).items()):
        Image.fromarray(a).save(tmp_path/f'{kind}.tif')
        assert np.array_equal(read_image(tmp_path/f'{kind}.tif')[0].numpy(), v)
    for bits, mul in ((12, 16), (8, 1)):
        for dtype in ('<u2', '>u2', 'i4'):
            at = tmp_path/f'{bits}{dtype[1:]}{dtype[0] == ">"}'
            at.mkdir()
            im = Image.fromarray((v*mul).astype(np.int32)) if dtype == 'i4' else Image.frombytes('I;16B' if dtype[0] == '>' else 'I;16', (60, 40), (v*mul).astype(dtype).tobytes())
            im.save(at/'a.tif')
            with pytest.warns(UserWarning, match=f'upper {16-bits} bits are empty'): x = read_image(at/'a.tif')
            assert np.array_equal(x[0].numpy(), v if bits == 8 else v >> 4) and torch.equal(read_picture(im), x)
    for a in (v.astype(np.float32), np.full((4, 4), np.nan, np.float32), (v*999).astype(np.int32), (-v).astype(np.int32)):
        Image.fromarray(a).save(tmp_path/'odd.tif')
        with pytest.raises(ValueError, match='^[^\n]*odd.tif: [^\n]*8 or 16 bits[^\n]*$'): read_image(tmp_path/'odd.tif')
    Image.new('1', (15000, 13000)).save(tmp_path/'aerial.png')
    with pytest.raises(ValueError, match="aerial.png: the picture is 15000 wide and 13000 high, 195 megapixels, above Pillow's limit of 179; PIL.Image.MAX_IMAGE_PIXELS = None"): read_image(tmp_path/'aerial.png')

@pytest.mark.parametrize('suffix', ['png', 'jpg', 'eps', 'tif'])
def test_no_picture_starts_a_program(tmp_path, suffix):
    "Pillow gives PostScript to Ghostscript, whatever the file is called."
    (tmp_path/'bin').mkdir()
    (tmp_path/'bin'/'gs').write_text(f'#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n')
    (tmp_path/'bin'/'gs').chmod(0o755)
    for i in range(3): (tmp_path/f'{i}.{suffix}').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n')
    d = dict(coco(), images=[dict(id=i+1, file_name=f'{i}.{suffix}') for i in range(3)])
    code = f'''
import io
from detbook.images import read_image, read_picture
from detbook.data import CocoDataset
path = {str(tmp_path/f"0.{suffix}")!r}
for call in (lambda: read_image(path), lambda: read_picture(open(path, 'rb')), lambda: read_picture(open(path, 'rb').read()), lambda: CocoDataset({d!r}, {str(tmp_path)!r}),
             lambda: CocoDataset({d!r}, {str(tmp_path)!r}, on_bad='skip', max_bad=1.)):
    try: print('read', call())
    except ValueError as e: print('refused', e)
'''
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, env=os.environ | dict(PATH=f'{tmp_path/"bin"}:{os.environ["PATH"]}'))
    assert p.stdout.count('refused') == 5 and 'read' not in p.stdout.replace('read_', ''), p.stdout + p.stderr
    assert not (tmp_path/'started').exists()

def test_the_quick_yes_is_what_the_closer_look_says():
    "Boxes and polygons that are taken at once are those that every rule admits, borders included."
    from detbook.records import _check_box
    rng, seen = np.random.default_rng(0), [0, 0]
    for _ in range(3000):
        x, y, w, h = b = [float(v) for v in rng.integers(-4, 13, 4)/rng.choice([1, 2, 4])]
        wide = min(x + w, 10) - max(x, 0), min(y + h, 8) - max(y, 0)
        good = max(b) > 1 and min(w, h) >= .01 and min(wide) >= .01 and min(x, y) >= -2 and x + w <= 12 and y + h <= 10
        assert (_check_box(b, 8, 10) is None) == good, b
        p = [float(v) for v in rng.integers(-9, 19, 6)*rng.choice([1., 0., .5], 6)]
        mask, wrong = check_mask([p], 8, 10)
        near = min(p) >= -10 and max(p) <= 20
        inside = not (min(p[::2]) >= 10 or min(p[1::2]) >= 8 or max(p[::2]) <= 0 or max(p[1::2]) <= 0)
        assert (mask == [p]) == (near and inside), (p, wrong)
        seen[0] += good; seen[1] += near and inside
    assert min(seen) > 300
    assert check_mask([[0, 1, 0, 5, 0, 7]], 8, 10)[1][0][0] == 'mask outside'       # on the border, and inside nowhere
