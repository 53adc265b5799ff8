"A toy set in which everything is right, and the same with one fault planted, for each kind and each format: what is found, where, and what a clean copy makes of it."
import json, shutil, warnings
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from detbook.check import check_dataset, detbook_check
from detbook.cli import run_command
from detbook.data import CocoDataset
from detbook.faults import KINDS
from detbook.census import find_copies, look_at, scan_pictures
from detbook.toy import CLASSES, write_coco

@pytest.fixture(scope='module')
def plain(tmp_path_factory): return write_coco(tmp_path_factory.mktemp('plain'), 20, size=96, objects=(5, 6), crowd=.4, empty=0)

class Set:
    "A copy of the toy set that faults are planted in: `d` the records, `a` an object, `crowd` a crowd, `file(i)` a picture."
    def __init__(self, plain, folder):
        shutil.copytree(plain.parent, folder, dirs_exist_ok=True)
        self.path, self.d = folder/'instances.json', json.loads(plain.read_text())
        self.images, self.anns, self.cats = (self.d[k] for k in ('images', 'annotations', 'categories'))
        self.a = max((a for a in self.anns if a['image_id'] == 4 and not a['iscrowd']), key=lambda a: a['area'])
        self.crowd = next(a for a in self.anns if a['iscrowd'])
    def file(self, i): return self.path.parent/'images'/self.images[i]['file_name']
    def picture(self, i): return Image.open(self.file(i)).convert('RGB')
    def check(self, **more):
        self.path.write_text(json.dumps(self.d))
        return check_dataset(self.path, **more)

@pytest.fixture
def toy(plain, tmp_path): return Set(plain, tmp_path/'set')

def tag(n):
    exif = Image.Exif(); exif[0x0112] = n
    return exif
def polygon(b): x, y, w, h = b; return [x, y, x+w, y, x+w, y+h, x, y+h]
def boxes(s, f):
    for a in s.anns: a['bbox'] = f(*a['bbox'])

def cut(s): data = s.file(2).read_bytes(); s.file(2).write_bytes(data[:len(data)//2])
def twice(s): s.images[1]['id'] = 1; [a.update(image_id=1) for a in s.anns if a['image_id'] == 2]
def two_names(s): s.cats.append(dict(s.cats[0], id=9)); next(a for a in s.anns if a['category_id'] == 1)['category_id'] = 9
def empty(s): s.anns[:] = [a for a in s.anns if a['image_id'] != 7]

PLANTS = {      # kind: (what plants it, where it is found: file or annotation id, or None: the set as a whole)
    'missing picture': (lambda s: s.file(2).unlink(), '000002.png'), 'empty file': (lambda s: s.file(2).write_bytes(b''), '000002.png'), 'not a picture': (lambda s: s.file(2).write_bytes(b'hello'), '000002.png'),
    'truncated picture': (cut, '000002.png'), 'wrong suffix': (lambda s: s.picture(2).save(s.file(2), 'JPEG'), '000002.png'), 'turned picture': (lambda s: s.picture(2).save(s.file(2), exif=tag(6)), '000002.png'),
    'impossible orientation': (lambda s: s.picture(2).save(s.file(2), exif=tag(9)), '000002.png'), 'size mismatch': (lambda s: s.picture(2).resize((80, 80)).save(s.file(2)), '000002.png'), 'no size': (lambda s: s.images[2].pop('width'), '000002.png'),
    'duplicate picture': (lambda s: shutil.copy(s.file(0), s.file(1)), '000001.png'), 'near-duplicate picture': (lambda s: s.picture(0).point(lambda v: min(255, v*1.1)).save(s.file(1)), '000001.png'),
    'picture listed twice': (lambda s: s.images.append(dict(s.images[0], id=99)), '000000.png'), 'duplicate image id': (twice, '000001.png'), 'bad image record': (lambda s: s.images.append(dict(id=77)), None),
    'not a record': (lambda s: s.anns.append(7), None), 'bad class record': (lambda s: s.cats.append(dict(id=50)), None), 'duplicate class id': (lambda s: s.cats.append(dict(id=1, name='other')), None),
    'equal class names': (two_names, None), 'unused class': (lambda s: s.cats.append(dict(id=9, name='unicorn')), None), 'few objects': (empty, '000006.png'),
    'no annotation id': (lambda s: s.a.pop('id'), None), 'duplicate annotation id': (lambda s: s.a.update(id=s.anns[0]['id']), 1), 'no such image': (lambda s: s.a.update(image_id=404), 'a'), 'unknown class': (lambda s: s.a.update(category_id=404), 'a'),
    'bad box': (lambda s: s.a.update(bbox=[1, 2, float('nan'), 4]), 'a'), 'negative box': (lambda s: s.a.update(bbox=[s.a['bbox'][0] + s.a['bbox'][2], s.a['bbox'][1], -s.a['bbox'][2], s.a['bbox'][3]]), 'a'),
    'zero-size box': (lambda s: s.a['bbox'].__setitem__(2, 0), 'a'), 'box outside': (lambda s: s.a.update(bbox=[200, 10, 20, 20]), 'a'), 'box sticking out': (lambda s: s.a.update(bbox=[0, 0, 96, 120]), 'a'),
    'near-duplicate box': (lambda s: s.anns.append(dict(s.a, id=999)), 999), 'thin polygon': (lambda s: s.a.update(segmentation=[polygon(s.a['bbox']), [1, 1, 5, 5]]), 'a'),
    'bad mask': (lambda s: s.a.update(segmentation=dict(size=[96, 96], counts=[5, 5])), 'a'), 'mask outside': (lambda s: s.a.update(segmentation=[polygon([100, 0, 10, 10])]), 'a'), 'no mask': (lambda s: s.a.update(segmentation=[]), 'a'),
    'mask leaves its box': (lambda s: s.a['bbox'].__setitem__(2, s.a['bbox'][2]/2), 'a'), 'crowd without run lengths': (lambda s: s.crowd.update(segmentation=[polygon(s.crowd['bbox'])]), 'crowd'),
    'bad crowd flag': (lambda s: s.a.update(iscrowd=3), 'a'), 'bad area': (lambda s: s.a.update(area=float('inf')), 'a'), 'bad keypoints': (lambda s: s.a['keypoints'].pop(), 'a'), 'keypoints outside': (lambda s: s.a['keypoints'].__setitem__(slice(0, 3), [500, 5, 2]), 'a'),
    'wrong keypoint count': (lambda s: s.a.update(num_keypoints=17), 'a'),
    'boxes in another form': (lambda s: boxes(s, lambda x, y, w, h: [x, y, x+w, y+h]), None), 'boxes as shares': (lambda s: boxes(s, lambda x, y, w, h: [x/96, y/96, w/96, h/96]), None)}
ELSEWHERE = {'picture in two splits', 'near-duplicate in two splits', 'unreadable file', 'unreadable entry', 'boxes as pixels'}      # tests of their own, below
AS_WELL = {'keypoints outside': {'wrong keypoint count'}}

def test_every_kind_is_planted(): assert set(PLANTS) | ELSEWHERE == set(KINDS)

def test_a_set_without_faults_is_quiet(toy, capsys):
    assert toy.check().problems == [] and toy.check().exit_code == 0
    assert run_command(detbook_check, [str(toy.path)]) == 0
    assert 'nothing is wrong' in capsys.readouterr().out
    clean = toy.check().clean
    assert clean['annotations'] == toy.d['annotations'] and clean['images'] == toy.d['images'] and clean['categories'] == toy.d['categories']

@pytest.mark.parametrize('kind', PLANTS)
def test_a_planted_fault_is_found_named_and_mended(toy, tmp_path, kind):
    plant, where = PLANTS[kind]
    plant(toy)
    report = toy.check()
    assert set(report.kinds) - AS_WELL.get(kind, set()) == {kind} and report.exit_code == 1, report
    found = next(p for p in report.problems if p['kind'] == kind)
    assert set(found) == {'kind', 'file', 'ann_id', 'value', 'fix'} and found['value'] and found['fix']
    if where is None: assert found['file'] in (str(toy.path), None)
    elif isinstance(where, str) and where.endswith('.png'): assert found['file'] == where and found['ann_id'] is None
    else: assert found['ann_id'] == (where if isinstance(where, int) else getattr(toy, where)['id']) and (found['file'].endswith('.png') or kind in ('no such image', 'duplicate annotation id'))
    assert kind in report.table() and kind in report._repr_html_() and json.loads(report.to_json())['kinds'][kind] >= 1
    before = toy.path.read_bytes()
    report.write_clean(tmp_path/'clean.json')
    again = check_dataset(tmp_path/'clean.json', toy.path.parent/'images')
    by_hand = {p['kind'] for p in report.problems if p['fix'].startswith('by hand')}
    assert set(again.kinds) == by_hand and toy.path.read_bytes() == before
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ds = CocoDataset(tmp_path/'clean.json', toy.path.parent/'images')       # which raises at the first fault
    assert len(ds) >= 18 and torch.isfinite(ds.target(3)['boxes']).all()

def test_a_form_is_a_rule_of_the_set_and_not_of_a_box(toy):
    "Every box comes back as it was; and a few large boxes, which would fit as corners too, are left alone."
    want = [a['bbox'] for a in toy.anns]
    for form in (lambda x, y, w, h: [x, y, x+w, y+h], lambda x, y, w, h: [x+w/2, y+h/2, w, h], lambda x, y, w, h: [x/96, y/96, (x+w)/96, (y+h)/96], lambda x, y, w, h: [(x+w/2)/96, (y+h/2)/96, w/96, h/96]):
        now = Set(toy.path, toy.path.parent.parent/'form')
        boxes(now, form)
        got = [a['bbox'] for a in now.check().clean['annotations']]
        np.testing.assert_allclose(got, want, atol=1e-4)
    for n, a in enumerate(toy.anns):
        if n % 2: a.update(bbox=[2, 2, 90, 90], segmentation=[polygon([2, 2, 90, 90])])
    assert not {'boxes in another form', 'boxes as shares'} & set(toy.check().kinds)

@pytest.mark.parametrize('exact', [True, False])
def test_pictures_in_two_splits(toy, plain, tmp_path, exact):
    other = Set(plain, tmp_path/'val')
    other.path.write_text(json.dumps(other.d))
    for i in range(20):
        if i != 5: other.picture(i).rotate(90).point(lambda v: 255-v).save(other.file(i))
    if not exact: other.picture(5).resize((64, 64)).save(other.file(5)); other.images[5].update(width=64, height=64)
    report = toy.check(others=[other.check()])
    kind = 'picture in two splits' if exact else 'near-duplicate in two splits'
    assert report.kinds == {kind: 1} and report.problems[0]['file'] == '000005.png' and str(other.file(5)) in report.problems[0]['value']
    assert len(report.clean['images']) == 19 + (not exact)
    assert toy.check(others=[other.path], ignore=[kind]).problems == []

def test_all_is_told_at_once_whatever_a_record_holds(toy):
    "No record, however broken, hides another or stops the check."
    rubbish = [None, 5, 'x', [], {}, dict(id=[1]), dict(id={}, bbox=7), dict(image_id=float('nan'), category_id=[], bbox='1,2,3,4'), dict(id=1, image_id=1, category_id=1, bbox=[1, 2, 3]),
               *(dict(toy.a, id=1000 + n, **{k: v}) for n, (k, v) in enumerate((k, v) for k in ('bbox', 'segmentation', 'keypoints', 'iscrowd', 'area', 'image_id', 'category_id', 'num_keypoints') for v in (None, 'x', 7, -1, [], [[]], {}, [None], [1e300]*6, True)))]
    toy.anns[:0] = rubbish
    toy.images[:0] = [None, 3, {}, dict(id=5), dict(id=None, file_name='a'), dict(id=51, file_name=7), dict(id=52, file_name='x'*5000, width='a'), dict(id=53, file_name='a\0b', height=-1), dict(id=54, file_name='../images')]
    toy.cats[:0] = [None, 'x', {}, dict(id=[], name='x'), dict(id=60, name=7), dict(id=61, name='keys', keypoints='abc')]
    report = toy.check()
    assert len(report.problems) > 60 and {'bad image record', 'bad class record', 'bad box', 'not a record', 'missing picture'} <= set(report.kinds)
    report.show(), report._repr_html_(), report.table(), json.loads(report.to_json())
    assert not check_dataset(dict(report.clean), toy.path.parent/'images').problems[:0]

def test_only_what_is_no_data_set_raises(toy, tmp_path):
    (tmp_path/'cut.json').write_text('{"images": [')
    (tmp_path/'list.json').write_text('[]')
    (tmp_path/'lacks.json').write_text('{"images": []}')
    for path, said in (('cut.json', 'not JSON'), ('list.json', 'list'), ('lacks.json', "lacks 'annotations'"), ('none.json', 'no such')):
        with pytest.raises((ValueError, FileNotFoundError), match=said): check_dataset(tmp_path/path)
    with pytest.raises(ValueError, match="did you mean 'unused class'"): check_dataset(toy.path, ignore=['unused clas'])
    with pytest.raises(FileNotFoundError, match='no such folder'): check_dataset(toy.path, tmp_path/'nowhere')

# ---- other formats

def write_voc(s, folder):
    "The toy set as VOC."
    (folder/'Annotations').mkdir(parents=True)
    shutil.copytree(s.path.parent/'images', folder/'JPEGImages')
    for r in s.images:
        rows = [f'<object>\n<name>{CLASSES[a["category_id"]-1]}</name>\n<difficult>{a["iscrowd"]}</difficult>\n<bndbox><xmin>{x+1}</xmin><ymin>{y+1}</ymin><xmax>{x+w+1}</xmax><ymax>{y+h+1}</ymax></bndbox>\n</object>'
                for a in s.anns if a['image_id'] == r['id'] for x,y,w,h in [a['bbox']]]
        (folder/'Annotations'/r['file_name']).with_suffix('.xml').write_text(f'<annotation>\n<filename>{r["file_name"]}</filename>\n<size><width>96</width><height>96</height><depth>3</depth></size>\n' + '\n'.join(rows) + '\n</annotation>')
    return folder

def write_yolo(s, folder):
    "The toy set as YOLO."
    (folder/'labels'/'train').mkdir(parents=True)
    shutil.copytree(s.path.parent/'images', folder/'images'/'train')
    (folder/'data.yaml').write_text(f'path: .\ntrain: images/train\nnames: {json.dumps(list(CLASSES))}\n')
    for r in s.images:
        rows = [f'{a["category_id"]-1} {(x+w/2)/96:.6f} {(y+h/2)/96:.6f} {w/96:.6f} {h/96:.6f}' for a in s.anns if a['image_id'] == r['id'] and not a['iscrowd'] for x,y,w,h in [a['bbox']]]
        (folder/'labels'/'train'/r['file_name']).with_suffix('.txt').write_text('\n'.join(rows) + '\n')
    return folder

def edit(path, f): path.write_text(f(path.read_text()))
def each(folder, pattern, f): [edit(p, f) for p in sorted(folder.rglob(pattern))]
def line(n, f): return lambda text: '\n'.join(f(l) if i == n else l for i, l in enumerate(text.splitlines(), 1))
def numbers(f): return lambda text: '\n'.join(' '.join([l.split()[0], *(f'{v:.6f}' for v in f(*map(float, l.split()[1:])))]) for l in text.splitlines())
def corners(f):
    import re
    return lambda text: re.sub(r'<bndbox><xmin>(.*?)</xmin><ymin>(.*?)</ymin><xmax>(.*?)</xmax><ymax>(.*?)</ymax>', lambda m: '<bndbox>' + ''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), f(*map(float, m.groups())))), text)
def first_box(path, f): edit(path, lambda text: corners(f)(text[:(k := text.index('</object>'))]) + text[k:])

XML, TXT = 'Annotations/000003.xml', 'labels/train/000003.txt'
VOC = {'zero-size box': (lambda d: first_box(d/XML, lambda a, b, c, e: (a, b, a, e)), f'{XML}, line '), 'negative box': (lambda d: first_box(d/XML, lambda a, b, c, e: (c, b, a, e)), f'{XML}, line '), 'bad box': (lambda d: first_box(d/XML, lambda a, b, c, e: ('nan', b, c, e)), f'{XML}, line '),
       'box outside': (lambda d: first_box(d/XML, lambda a, b, c, e: (a+200, b, c+200, e)), f'{XML}, line '), 'unreadable file': (lambda d: edit(d/XML, lambda t: t[:len(t)//2]), XML), 'unreadable entry': (lambda d: edit(d/XML, lambda t: t.replace('<name>', '<nam>', 1).replace('</name>', '</nam>', 1)), f'{XML}, line '),
       'missing picture': (lambda d: (d/'JPEGImages'/'000003.png').unlink(), XML), 'truncated picture': (lambda d: (d/'JPEGImages'/'000003.png').write_bytes((d/'JPEGImages'/'000003.png').read_bytes()[:999]), 'JPEGImages/000003.png'),
       'size mismatch': (lambda d: edit(d/XML, lambda t: t.replace('<width>96', '<width>97')), 'JPEGImages/000003.png'), 'boxes in another form': (lambda d: each(d, '*.xml', corners(lambda a, b, c, e: (a, b, c-a, e-b))), None), 'boxes as shares': (lambda d: each(d, '*.xml', corners(lambda *v: [(n-1)/96 for n in v])), None)}
YOLO = {'zero-size box': (lambda d: edit(d/TXT, line(2, lambda l: ' '.join([*l.split()[:3], '0', '0.1']))), f'{TXT}, line 2'), 'unreadable entry': (lambda d: edit(d/TXT, line(2, lambda l: l.replace(' ', ' x', 1))), f'{TXT}, line 2'),
        'near-duplicate box': (lambda d: edit(d/TXT, lambda t: t + t.splitlines()[0]), f'{TXT}, line '), 'boxes in another form': (lambda d: each(d, '0*.txt', numbers(lambda x, y, w, h: (x-w/2, y-h/2, x+w/2, y+h/2))), None),
        'boxes as pixels': (lambda d: each(d, '0*.txt', numbers(lambda *v: [n*96 for n in v])), None), 'empty file': (lambda d: (d/'images/train/000003.png').write_bytes(b''), '000003.png')}

@pytest.mark.parametrize('format,kind', [*(('voc', k) for k in VOC), *(('yolo', k) for k in YOLO), ('voc', None), ('yolo', None)])
def test_faults_in_other_formats_are_found_by_file_and_line(toy, tmp_path, format, kind):
    folder = dict(voc=write_voc, yolo=write_yolo)[format](toy, tmp_path/format)
    plain = check_dataset(folder)
    assert plain.problems == [], plain
    if kind is None: return
    plant, where = dict(voc=VOC, yolo=YOLO)[format][kind]
    plant(folder)
    report = check_dataset(folder)
    assert set(report.kinds) == {kind} or format == 'yolo' and kind == 'empty file' and set(report.kinds) == {'not a picture'}, report
    if where: assert where in report.problems[0]['file'], report
    report.write_clean(tmp_path/'clean.json')
    if kind == 'boxes in another form' or kind == 'boxes as shares':
        got, want = ([a['bbox'] for a in r.clean['annotations']] for r in (report, plain))
        np.testing.assert_allclose(got, want, atol=.01)

# ---- pictures

@pytest.mark.parametrize('form', ['jpg', 'png', 'webp', 'bmp', 'gif', 'tif'])
def test_a_cut_file_is_found_wherever_it_is_cut(toy, form, tmp_path):
    "`look_at` decodes small; it must agree with a full decode."
    from detbook.images import read_image
    path = tmp_path/f'a.{form}'
    toy.picture(3).resize((200, 160)).save(path)
    data = path.read_bytes()
    for n in np.linspace(2, len(data), 25).astype(int):
        path.write_bytes(data[:n])
        try: whole = bool(read_image(path).numel())
        except ValueError: whole = False
        assert (look_at(path).grey is not None) == whole, (form, n, len(data))

@pytest.mark.parametrize('mode', ['L', '1', 'P', 'RGBA', 'CMYK', 'LA', 'I;16', 'F'])
def test_pictures_of_any_kind_are_recognised(toy, mode, tmp_path):
    im = toy.picture(3)
    a, b = tmp_path/'a.png', tmp_path/('b.tif' if mode in ('CMYK', 'F') else 'b.png')
    im.save(a)
    other = Image.fromarray((np.asarray(im.convert('L')).astype(np.uint16) * 257)) if mode == 'I;16' else im.convert(mode)
    other.save(b)
    looks = scan_pictures([a, b])
    assert looks[1].faults == () and looks[1].size == (96, 96)
    if mode != '1': assert find_copies(looks) == [(1, 0, False)]

# ---- the command

def test_the_command(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    toy.a['bbox'][2] = 0
    toy.check()
    assert run_command(detbook_check, ['set/instances.json', '--json', 'r.json', '--fix', 'clean.json']) == 1
    said = capsys.readouterr().out
    assert 'zero-size box (1)' in said and f'annotation {toy.a["id"]}' in said and 'mended or left out: 1 zero-size box' in said
    assert json.loads(Path('r.json').read_text())['problems'][0]['ann_id'] == toy.a['id']
    assert run_command(detbook_check, ['clean.json', '--images', 'set/images']) == 0
    for words in (['set/instances.json', '--fix', 'set/instances.json'], ['set/instances.json', '--json', 'set/images/000001.png'], ['nothing'], ['set/instances.json', '--ignore', 'zero'], ['set/instances.json', '--format', 'cocco']):
        before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
        assert run_command(detbook_check, words) == 2
        assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before and len(capsys.readouterr().err.splitlines()) == 1
    assert run_command(detbook_check, ['set/instances.json', '--ignore', 'zero-size box']) == 0

def test_a_folder_with_splits(plain, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    s = Set(plain, tmp_path/'all')
    for split, rows in dict(train=range(11), val=range(10, 20)).items():
        own = [s.images[i] for i in rows]
        (tmp_path/'data'/split).mkdir(parents=True)
        for r in own: shutil.copy(s.path.parent/'images'/r['file_name'], tmp_path/'data'/split)
        (tmp_path/'data'/split/'instances.json').write_text(json.dumps(dict(s.d, images=own, annotations=[a for a in s.anns if a['image_id'] in {r['id'] for r in own}])))
    assert run_command(detbook_check, ['data', '--fix', 'clean', '--json', 'r.json']) == 1
    whole = json.loads(Path('r.json').read_text())
    assert set(whole) == {'train', 'val'} and whole['val']['problems'] == [] and [(p['kind'], p['file']) for p in whole['train']['problems']] == [('picture in two splits', '000010.png')]
    assert {p.name for p in Path('clean').iterdir()} == {'train.json', 'val.json'}
    assert check_dataset('clean/train.json', 'data/train').problems == []

def test_a_report_cannot_carry_a_page_or_a_terminal_away(toy):
    "What comes out of a file is data, also where it is printed."
    toy.cats.append(dict(id=9, name='<script>alert(1)</script>\x1b[2J'))
    toy.images.append(dict(id=99, file_name='../../<b>\n.png', width=3, height=3))
    report = toy.check()
    assert '<script>' not in report._repr_html_() and '<b>' not in report._repr_html_()
    assert '\x1b' not in report.table() + report.statistics() and not [l for l in report.table().splitlines() if l == '.png']

def test_what_was_given_stays_as_it_was(toy):
    "The records of the caller are not the ones that are mended."
    for kind in ('keypoints outside', 'box sticking out', 'thin polygon', 'wrong keypoint count'): PLANTS[kind][0](toy)
    before = json.dumps(toy.d)
    report = check_dataset(toy.d, toy.path.parent/'images')
    assert len(report.kinds) >= 4 and json.dumps(toy.d) == before and report.records['annotations'] == toy.anns
