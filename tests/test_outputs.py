"What a command writes, and where: names from annotation files, folders of pictures, files that are there already."
import hashlib, json, os
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from detbook.describe import save_detector
from detbook.cli import run_command
from detbook.outputs import free_path, never_over, place_below
from detbook.detections import show_result
from detbook.inference import detbook_predict, init_detector, inference_detector
from detbook.models import faster_rcnn, mask_rcnn
from detbook.testing import read_results, test as run

pytestmark = pytest.mark.usefixtures('one_thread')

def picture(path, seed=0, h=48, w=64):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (h, w, 3), dtype=np.uint8)).save(path)
    return Path(path)

def data(base, names, files=None, masks=True, below='images'):
    "Pictures in base/images (or as `files` says), and annotations beside that call them `names`."
    files = files or [base/below/n for n in names]
    for i, f in enumerate(files): picture(f, i)
    anns = [dict(id=i+1, image_id=i+1, category_id=1 + i % 2, bbox=[5, 6, 30, 24], area=720, iscrowd=0) for i in range(len(names))]
    if masks: anns = [a | dict(segmentation=[[5, 6, 35, 6, 35, 30, 5, 30]]) for a in anns]
    d = dict(images=[dict(id=i+1, file_name=str(n), height=48, width=64) for i, n in enumerate(names)], annotations=anns,
             categories=[dict(id=1, name='cat'), dict(id=2, name='dog')])
    path = base/'annotations'/'ann.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(d))
    return path

def prints(folder): return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(folder).rglob('*')) if p.is_file()}

def lively(model):
    for name, p in model.named_parameters():
        if 'fc_cls.weight' in name: p.data *= 40
    return model

@pytest.fixture(scope='module')
def boxes(tmp_path_factory):
    torch.manual_seed(0)
    return save_detector(tmp_path_factory.mktemp('d')/'boxes.safetensors', lively(faster_rcnn(18, 2, channels=16, scratch=True)), ('cat', 'dog'))

@pytest.fixture(scope='module')
def masks(tmp_path_factory):
    torch.manual_seed(0)
    model = lively(mask_rcnn(18, 2, channels=16, scratch=True))
    model.roi_head.test_filter.max_per_img = 4
    return save_detector(tmp_path_factory.mktemp('d')/'masks.safetensors', model, ('cat', 'dog'))

# ---------------------------------------------------------------- places

ODD = ['../a.jpg', '../../../../a.jpg', '/a.jpg', '/etc/cron.d/a.jpg', r'C:\a.jpg', r'\\server\share\a.jpg', r'..\..\a.jpg', 'a/../../b.jpg', './a.jpg', '//a.jpg', '....//a.jpg',
       'a\nb.jpg', 'a\0b.jpg', '~/a.jpg', 'x'*5000 + '.jpg', '.jpg', '..', '', 'con.jpg', 'a.jpg ', 'a.jpg.', '\ud800.jpg', 'a/' * 300 + 'b.jpg', '-rf.jpg', 'a\\..\\..\\b.jpg', '%2e%2e/a.jpg', 'a:b.jpg', 'ab/' * 2000 + 'c.jpg']

@pytest.mark.parametrize('suffix', ['.jpg', None])
def test_every_name_stays_below(tmp_path, suffix):
    places = place_below(tmp_path/'out', ODD, [tmp_path/'p'/f'{i}.jpg' for i in range(len(ODD))], suffix)
    assert len({str(p).casefold() for p in places}) == len(ODD)
    for p in places:
        assert p.resolve().is_relative_to((tmp_path/'out').resolve()) and '..' not in p.parts
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_text('drawn')               # the file system takes it
    assert {p.name for p in tmp_path.iterdir()} == {'out'}
    assert place_below(tmp_path/'out', ODD, [tmp_path/'p'/f'{i}.jpg' for i in range(len(ODD))], suffix) == places, 'the same places on every rank, and a second time'

def test_no_two_on_one_name(tmp_path):
    names = ['a.png', 'a.jpg', 'a.jpg', 'A.JPG', 'b/a.png', 'b\\a.jpg', 'a_2.png', 'b', 'a.jpg/c.png']*3
    places = place_below(tmp_path, names, [tmp_path/'p'/f'{i}' for i in range(len(names))], '.jpg')
    assert len({str(p).casefold() for p in places}) == len(names)
    for p in places: p.parent.mkdir(parents=True, exist_ok=True); p.touch()

def test_many_equal_names_are_quick(tmp_path):
    n = 20_000
    assert len(set(place_below(tmp_path, ['a.png']*n, ['/x/a.png']*n, '.jpg'))) == n

@pytest.mark.parametrize('way', ['itself', 'relative', 'through a link', 'upper folder', 'picture by hard link', 'picture by link', 'link out of it', 'a file', 'folder for a file'])
def test_what_is_in_the_way(tmp_path, way, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos, out, name = tmp_path/'photos', tmp_path/'out', 'a.jpg'
    picture(photos/'a.jpg')
    if way == 'itself': out = photos
    if way == 'relative': out = Path('out/../photos'); Path('out').mkdir()
    if way == 'through a link': out.symlink_to(photos)
    if way == 'upper folder': out, name = tmp_path, 'photos/a.jpg'
    if way == 'picture by hard link': out.mkdir(); os.link(photos/'a.jpg', out/'a.jpg')
    if way == 'picture by link': out.mkdir(); (out/'a.jpg').symlink_to(photos/'a.jpg')
    if way == 'link out of it': out.mkdir(); (tmp_path/'private').mkdir(); (out/'sub').symlink_to(tmp_path/'private'); name = 'sub/a.jpg'
    if way == 'a file': out.write_text('mine')
    if way == 'folder for a file': (out/'a.jpg').mkdir(parents=True)
    with pytest.raises((ValueError, NotADirectoryError), match='--show_dir') as e: place_below(out, [name], [photos/'a.jpg'], '.jpg', '--show_dir')
    assert '\n' not in str(e.value)

def test_never_over_and_free(tmp_path):
    a = picture(tmp_path/'a.jpg')
    os.link(a, tmp_path/'b.jpg'); (tmp_path/'c.jpg').symlink_to(a)
    for p in ('a.jpg', 'b.jpg', 'c.jpg', '../' + tmp_path.name + '/a.jpg'):
        with pytest.raises(ValueError, match='--out'): never_over(tmp_path/p, [a], '--out')
    never_over(tmp_path/'d.jpg', [a]); never_over(None, [a])
    (tmp_path/'m.json').touch(); (tmp_path/'m_2.json').symlink_to(tmp_path/'nowhere')
    assert free_path(tmp_path/'m.json').name == 'm_3.json' and free_path(tmp_path/'n.json').name == 'n.json'

# ---------------------------------------------------------------- detbook_test

@pytest.mark.parametrize('masked', [True, False, 'some'])
@pytest.mark.parametrize('names', ['plain', 'upwards', 'absolute'])
def test_show_dir(tmp_path, boxes, names, masked):
    files = [tmp_path/'images'/f'{i}.jpg' for i in range(2)]
    called = dict(plain=['0.jpg', '1.jpg'], upwards=['../images/0.jpg', '../images/1.jpg'], absolute=files)[names]
    ann = data(tmp_path, called, files, bool(masked))
    if masked == 'some':
        d = json.loads(ann.read_text()); del d['annotations'][1]['segmentation']; ann.write_text(json.dumps(d))
    before = prints(tmp_path)
    run(ann, boxes, show_dir=tmp_path/'drawn')
    after = prints(tmp_path)
    assert {k: after[k] for k in before} == before
    assert {str(p) for p in after.keys() - before.keys()} == {'drawn/0.jpg', 'drawn/1.jpg', 'drawn/metrics.json'}

@pytest.mark.parametrize('folder', ['images', 'annotations/../images'])
def test_show_dir_is_not_the_pictures_folder(tmp_path, boxes, folder, capsys):
    ann = data(tmp_path, ['0.png', '1.png'])
    before = prints(tmp_path)
    with pytest.raises(ValueError, match='--show_dir.*folder of the pictures') as e: run(ann, boxes, show_dir=tmp_path/folder)
    assert '\n' not in str(e.value) and prints(tmp_path) == before and 'loaded' not in capsys.readouterr().out      # before the detector is built

def test_metrics_are_never_replaced(tmp_path, boxes, capsys):
    ann = data(tmp_path, ['0.png', '1.png'])
    (tmp_path/'metrics.json').write_text('mine')
    run(ann, boxes, out=tmp_path/'r.json')
    assert (tmp_path/'metrics.json').read_text() == 'mine' and 'metrics_2.json' in capsys.readouterr().out
    first = (tmp_path/'metrics_2.json').read_bytes()
    run(ann, boxes, out=tmp_path/'r.json')
    assert (tmp_path/'metrics_2.json').read_bytes() == first and 'bbox_mAP' in json.loads((tmp_path/'metrics_3.json').read_text())['stats']

def test_out_replaces_nothing_else(tmp_path, masks):
    ann = data(tmp_path, ['0.png', '1.png'])
    (tmp_path/'r.segm.json').write_text('{"mine": 1}')
    with pytest.raises(ValueError, match='r.segm.json'): run(ann, masks, out=tmp_path/'r.json')
    assert (tmp_path/'r.segm.json').read_text() == '{"mine": 1}' and not (tmp_path/'r.json').exists()
    run(ann, masks, out=tmp_path/'s.json')
    run(ann, masks, out=tmp_path/'s.json')          # its own it replaces
    assert len(read_results(tmp_path/'s.segm.json')) == len(read_results(tmp_path/'s.json'))
    text = ann.read_bytes()
    os.link(ann, tmp_path/'linked.json')
    for out in (ann, tmp_path/'annotations'/'..'/'annotations'/'ann.json', tmp_path/'linked.json'):
        with pytest.raises(ValueError, match='--out'): run(ann, masks, out=out)
    assert ann.read_bytes() == text

def test_keypoints_in_a_pickle(tmp_path):
    from detbook.detections import Detections
    from detbook.testing import write_results
    found = [Detections(dict(boxes=torch.rand(n, 4).sort(1)[0], scores=torch.rand(n), labels=torch.arange(n) % 2, keypoints=torch.rand(n, 5, 3)), (9, 9)) for n in (3, 0)]
    write_results(tmp_path/'k.pkl', found, [1, 2], [1, 2])
    for row, d in zip(read_results(tmp_path/'k.pkl'), found):
        assert sorted(row) == ['bbox', 'keypoints'] and [len(k) for k in row['keypoints']] == [len(b) for b in row['bbox']]
        for c in (0, 1):
            assert torch.equal(row['keypoints'][c], d['keypoints'][d['labels'] == c])
            assert torch.equal(row['bbox'][c], torch.cat([d['boxes'], d['scores'][:, None]], 1)[d['labels'] == c])

def test_truths_by_name(tmp_path, boxes):
    from detbook.data import CocoDataset
    from detbook.detections import Detections
    from detbook.testing import Measures, measure
    ann = data(tmp_path, ['0.png', '1.png', '2.png'])
    ds, d = CocoDataset(ann), json.loads(ann.read_text())
    found = [Detections(dict(boxes=(t := ds.target(i))['boxes'].as_subclass(torch.Tensor), labels=t['labels'], scores=torch.full((len(t['labels']),), .9)), (48, 64)) for i in range(3)]
    def score(categories, ids, images=None):
        path = tmp_path/'other.json'
        path.write_text(json.dumps(dict(d, images=images or d['images'], categories=categories, annotations=[dict(a, category_id=ids[a['category_id']]) for a in d['annotations']])))
        return measure(ds, found, ds.category_ids, Measures(metrics=('bbox',), ann_file=str(path))).stats['bbox_mAP']
    named = lambda *pairs: [dict(id=k, name=c) for k, c in pairs]
    assert score(named((1, 'cat'), (2, 'dog')), {1: 1, 2: 2}) == 1
    assert score(named((1, 'dog'), (2, 'cat')), {1: 2, 2: 1}) == 1
    assert score(named((7, 'dog'), (90, 'cat'), (1, 'hen')), {1: 90, 2: 7}) == 1
    for wrong in (named((1, 'Cat'), (2, 'dog')), named((1, 'cat')), named((1, 'hen'), (2, 'fox'))):
        with pytest.raises(ValueError, match='categor') as e: score(wrong, {1: 1, 2: 2})
        assert 'other.json' in str(e.value) and '\n' not in str(e.value)
    turned = [dict(r, id=3 - r['id']) if r['id'] < 3 else r for r in d['images']]
    with pytest.raises(ValueError, match='other pictures'): score(named((1, 'cat'), (2, 'dog')), {1: 1, 2: 2}, turned)
    score(named((1, 'cat'), (2, 'dog')), {1: 1, 2: 2}, [dict(r, file_name=f'elsewhere\\{r["file_name"]}') for r in d['images']])

# ---------------------------------------------------------------- detbook_predict, show_result

def test_predict_keeps_the_pictures(tmp_path, boxes, capsys):
    photos = [picture(tmp_path/'photos'/n, i) for i, n in enumerate(('a.png', 'b.png'))]
    before = prints(tmp_path)
    (tmp_path/'link').symlink_to(tmp_path/'photos')
    for out in ('photos', 'link', 'photos/../photos'):
        assert run_command(detbook_predict, [str(tmp_path/'photos'), str(boxes), '--device', 'cpu', '--out_dir', str(tmp_path/out)]) == 2
        said = capsys.readouterr().err
        assert '--out_dir' in said and said.count('\n') == 1
    other = tmp_path/'out'; other.mkdir(); os.link(photos[0], other/'a.png')
    assert run_command(detbook_predict, [str(tmp_path/'photos'), str(boxes), '--device', 'cpu', '--out_dir', str(other)]) == 2
    assert run_command(detbook_predict, [str(photos[0]), str(boxes), '--device', 'cpu', '--json', str(photos[0])]) == 2
    assert run_command(detbook_predict, [str(photos[0]), str(boxes), '--device', 'cpu', '--min_score', '30']) == 2
    assert {k: v for k, v in prints(tmp_path).items() if k in before} == before
    (other/'a.png').unlink()
    detbook_predict(str(tmp_path/'photos'), str(boxes), device='cpu', out_dir=str(other), json=str(tmp_path/'found.json'))
    assert sorted(p.name for p in other.iterdir()) == ['a.png', 'b.png'] and {k: v for k, v in prints(tmp_path).items() if k in before} == before

def test_show_result_keeps_the_picture(tmp_path, boxes):
    path = picture(tmp_path/'a.png')
    found = inference_detector(init_detector(boxes, device='cpu'), path)
    os.link(path, tmp_path/'b.png'); (tmp_path/'c.png').symlink_to(path)
    before = path.read_bytes()
    for out in ('a.png', 'b.png', 'c.png'):
        with pytest.raises(ValueError, match='out_file'): show_result(path, found, out_file=tmp_path/out)
        with pytest.raises(ValueError, match='out_file'): show_result(Image.open(path), found, out_file=tmp_path/out)      # the result knows where it came from
    assert path.read_bytes() == before
    for wrong in (-1, 30, float('nan'), '0.3', None):
        with pytest.raises((TypeError, ValueError), match='min_score'): show_result(path, found, min_score=wrong)
    with pytest.raises(ValueError, match='picture of'): show_result(np.zeros((9, 9, 3), np.uint8), found)

def test_a_wrong_number_of_names_is_said(tmp_path, boxes):
    from detbook.data import CocoDataset
    from detbook.testing import label_categories
    ds, model = CocoDataset(data(tmp_path, ['0.png', '1.png'])), init_detector(boxes, device='cpu')
    assert label_categories(model, ds) == [1, 2]
    for names in (('cat',), ('cat', 'dog', 'hen')):
        model.classes = names
        with pytest.raises(ValueError, match='names') as e: label_categories(model, ds)
        assert '\n' not in str(e.value)
