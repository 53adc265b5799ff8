"Data sets of every format: what folders are taken for, what is wrong with files, and that the same objects come out of each."
import json, pickle, random, re, shutil, warnings
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from detbook import toy
from detbook.data import CocoDataset
from detbook.formats import VocDataset
from detbook.formats import guess_format, read_dataset, read_records
from detbook.writers import to_coco, to_voc, to_yolo


def picture(path, size=(100, 80), **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size).save(path, **more)
    return path

def xml(*objects, size='<size><width>100</width><height>80</height></size>', name='a.jpg'):
    return f'<annotation><filename>{name}</filename>{size}\n' + ''.join(f'<object><name>{c}</name>{more}\n<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>\n' for c, b, more in objects) + '</annotation>'

CAT = 'cat', (11, 21, 31, 61), ''
def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

@pytest.fixture
def voc(tmp_path):
    "A VOC folder: a and b to learn from, c to measure on."
    root = tmp_path/'voc'
    for stem in 'abc':
        picture(root/'JPEGImages'/f'{stem}.jpg')
        write(root/'Annotations'/f'{stem}.xml', xml(CAT, ('dog', (1, 1, 9, 9), '<difficult>1</difficult><truncated>1</truncated>')) if stem != 'b' else xml())
    write(root/'ImageSets/Main/train.txt', 'a\nb\n')
    write(root/'ImageSets/Main/val.txt', 'c\n')
    write(root/'ImageSets/Main/cat_train.txt', 'a  1\nb -1\n')
    return root


def test_voc_as_mmdetection_reads_it(voc):
    "Boxes, labels and ignored objects of mmdetection 3.3's VOCDataset, which subtracts 1 and keeps what is difficult aside."
    ds = VocDataset(voc, 'train')
    assert ds.classes == ['cat', 'dog'] and [ds.path(i).name for i in range(2)] == ['a.jpg', 'b.jpg']
    t = ds.target(0)
    assert t['boxes'].tolist() == [[10, 20, 30, 60], [0, 0, 8, 8]] and t['labels'].tolist() == [0, 1] and t['ignore'].tolist() == [False, True]
    assert t['image_id'] == 'a' and ds.report['empty'] == 1 and set(guess_format(voc).splits) == {'train', 'val'}


def test_voc_pictures_that_turn(tmp_path):
    "Without a size in the XML it is that of the header, upright as the pictures are read."
    exif = Image.Exif(); exif[0x0112] = 6
    picture(tmp_path/'a.jpg', exif=exif.tobytes())
    write(tmp_path/'a.xml', xml(CAT, size=''))
    ds = read_dataset(tmp_path)
    assert ds.sizes.tolist() == [[100, 80]] == [list(ds.image(0).shape[1:])]


BAD_XML = dict(cut=('<annotation><object>', 'line 1', 'not XML'), bomb=('<!DOCTYPE a [<!ENTITY b "c">]>\n<annotation>&b;</annotation>', 'document type', 'expected'), entity=('<annotation>&b;</annotation>', 'line 1', 'not XML'),
               external=('<!DOCTYPE a SYSTEM "elsewhere.dtd">\n<annotation/>', 'document type', 'line 1'), no_box=('<annotation>\n<object><name>cat</name></object></annotation>', 'line 2', "'cat' has no bndbox"),
               no_name=('<annotation>\n<object><bndbox/></object></annotation>', 'line 2', 'without a name'), nan=(xml(('cat', ('nan', 1, 2, 3), '')), "xmin is 'nan'", 'a number of pixels'), flag=(xml(('cat', (1, 1, 2, 2), '<difficult>2</difficult>')), "difficult is '2'", '0 or 1'),
               turned=(xml(('cat', (9, 1, 2, 9), '')), '-7 wide', 'line 2'), outside=(xml(('cat', (200, 1, 220, 9), '')), 'outside', 'line 2'), empty=('', 'not XML', 'line 1'))

@pytest.mark.parametrize('kind', BAD_XML)
def test_each_fault_of_an_xml_file_is_named_or_counted(voc, kind):
    text, *words = BAD_XML[kind]
    (voc/'Annotations/a.xml').write_text(text)
    with pytest.raises(ValueError) as e: VocDataset(voc, 'train')
    assert all(w in str(e.value) for w in ('Annotations/a.xml', str(voc), *words)) and '\n' not in str(e.value)
    problems = []
    read_records(voc, split='train', problems=problems)
    if kind in ('turned', 'outside'): assert not problems               # it is a box; whether it fits is for the checks of records
    else: assert len(problems) == 1 and problems[0]['file'] == 'Annotations/a.xml' and problems[0]['message'] in str(e.value)


def test_missing_files_of_voc(voc):
    (voc/'ImageSets/Main/val.txt').write_text('c\nd\n')
    with pytest.raises(ValueError, match=r'val.txt, line 2: there is no d.xml'): VocDataset(voc, 'val')
    (voc/'JPEGImages/a.jpg').unlink()
    with pytest.raises(ValueError, match=r'a.xml: there is no picture a.jpg'): VocDataset(voc, 'train')
    with pytest.raises(ValueError, match='split= chooses one of train, val'): VocDataset(voc)
    with pytest.raises(ValueError, match="no split 'tain'; did you mean 'train'"): VocDataset(voc, 'tain')


def test_a_file_name_of_an_annotation_leads_nowhere_else(voc, tmp_path):
    picture(tmp_path/'secret.jpg')
    (voc/'JPEGImages/a.jpg').unlink()
    (voc/'Annotations/a.xml').write_text(xml(CAT, name='../../secret.jpg'))
    with pytest.raises(ValueError, match='no picture'): VocDataset(voc, 'train')


def test_a_class_that_only_val_has_is_told(voc):
    (voc/'Annotations/c.xml').write_text(xml(CAT, ('hen', (1, 1, 9, 9), '')))
    with pytest.warns(UserWarning, match="val has the class 'hen', and train has not"): ds = VocDataset(voc, 'val')
    assert ds.classes == ['cat', 'dog', 'hen'] == VocDataset(voc, 'train').classes
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert VocDataset(voc, 'val', classes=['dog', 'cat']).classes == ['dog', 'cat']


# ------------------------------------------------------------------ YOLO
@pytest.fixture
def yolo(tmp_path):
    root = tmp_path/'yolo'
    for s in ('train', 'val'):
        for stem in 'ab': picture(root/'images'/s/f'{stem}.jpg')
        write(root/'labels'/s/'a.txt', '1 0.5 0.5 0.2 0.4\n')
    write(root/'data.yaml', 'path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n')
    return root

def test_yolo_trees(yolo):
    "A data.yaml; none, but classes.txt; a folder for each split; files beside the pictures: the same objects."
    def ok(root, **more):
        ds = read_dataset(root, **more)
        assert (ds.classes, len(ds), ds.report['empty'], ds.target(0)['labels'].tolist()) == (['cat', 'dog'], 2, 1, [1])
        torch.testing.assert_close(ds.target(0)['boxes'].as_subclass(torch.Tensor), torch.tensor([[40., 24, 60, 56]]))
    ok(yolo, split='train'); ok(yolo/'data.yaml', split='val')
    (yolo/'data.yaml').write_text('train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]\n')      # as Roboflow writes it
    for s, to in (('train', 'train'), ('val', 'valid')):
        for k in ('images', 'labels'): (yolo/to).mkdir(exist_ok=True); shutil.move(yolo/k/s, yolo/to/k)
    for k in ('images', 'labels'): (yolo/k).rmdir()
    ok(yolo, split='val'); ok(yolo, split='valid')
    (yolo/'data.yaml').write_text('train: ../train/images\nval: ../valid/images\nnames: ' + json.dumps(['cat', 'dog', *map(str, range(1201))]))     # as many as LVIS has
    assert 'names 1,203 classes and the pictures of train' in str(guess_format(yolo))
    (yolo/'data.yaml').unlink()
    with pytest.raises(ValueError, match='no file names the classes'): read_dataset(yolo, split='train')
    ok(yolo, split='train', classes=['cat', 'dog'])
    write(yolo/'classes.txt', 'cat\ndog\n')
    ok(yolo, split='train')
    flat = yolo.parent/'flat'
    shutil.copytree(yolo/'train/images', flat)
    for f in (yolo/'train/labels/a.txt', yolo/'classes.txt'): shutil.copy(f, flat)
    ok(flat)

def test_yolo_polygons_and_mixes(yolo):
    text = yolo/'labels/train/a.txt'
    text.write_text('0 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5\n')
    t = read_dataset(yolo, split='train').target(0)
    assert t['masks'].shape == (1, 80, 100) and t['masks'][0, 8:40, 10:30].all() and t['masks'].sum() == 32*20
    text.write_text('0 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5\n1 .5 .5 .2 .4\n')
    with pytest.warns(UserWarning, match='masks are left out'): ds = read_dataset(yolo, split='train')
    assert 'masks' not in ds.target(0) and len(ds.target(0)['boxes']) == 2

BAD_YAML = dict(tag=('names: !!python/name:os.system\ntrain: images/train', 'not YAML'), broken=('names: [cat\ntrain: x', 'not YAML'), gap=('names: {0: cat, 2: dog}\ntrain: images/train', 'expected 0 to 1'), twice=('names: [cat, cat]\ntrain: images/train', "'cat' twice"),
                away=('names: [cat]\ntrain: nowhere', "'nowhere' are not in"), points=('names: [cat]\ntrain: images/train\nkpt_shape: [17, 3]', 'kpt_shape'), few=('names: [cat]\ntrain: images/train', 'class 1; expected a whole number from 0 to 0'))

@pytest.mark.parametrize('kind', BAD_YAML)
def test_each_fault_of_a_yaml_file_is_named(yolo, kind):
    (yolo/'data.yaml').write_text(BAD_YAML[kind][0])
    with pytest.raises((ValueError, FileNotFoundError)) as e: read_dataset(yolo)
    assert BAD_YAML[kind][1] in str(e.value) and str(yolo) in str(e.value) and '\n' not in str(e.value)

def test_too_many_bad_lines_stop_even_what_skips(yolo):
    (yolo/'labels/train/a.txt').write_text('9 .5 .5 .1 .1\n'*30 + '1 .5 .5 .2 .2\n'*30)
    with pytest.raises(ValueError, match='30 of 60 entries cannot be read'): read_dataset(yolo, split='train', on_bad='skip')


# ------------------------------------------------------------------ tables, lists, COCO
def test_tables(tmp_path):
    for n in 'abc': picture(tmp_path/'images'/f'{n}.jpg')
    csv = tmp_path/'boxes.csv'
    csv.write_text('Filename,width,height,class,xmin,ymin,xmax,ymax,split,scene\na.jpg,100,80,dog,10,20,30,60,train,1\na.jpg,100,80,cat,1,1,9,9,train,1\nb.jpg,100,80,,,,,,train,2\nc.jpg,100,80,hen,1,2,3,9,val,3\n')
    ds = read_dataset(csv, split='train')
    assert (len(ds), ds.classes, ds.report['empty']) == (2, ['cat', 'dog', 'hen'], 1) and ds.target(0)['boxes'].tolist() == [[10, 20, 30, 60], [1, 1, 9, 9]]
    frame = pd.read_csv(csv).rename(columns=dict(xmin='x', ymin='y')).assign(w=lambda d: d.xmax - d.x, h=lambda d: d.ymax - d.y).drop(columns=['xmax', 'ymax', 'width', 'height'])
    assert read_dataset(frame, tmp_path/'images', split='train').target(0)['boxes'].tolist() == ds.target(0)['boxes'].tolist()
    csv.write_text(csv.read_text().replace('30,60', '30,tall'))
    with pytest.raises(ValueError, match="boxes.csv, line 2: ymax is 'tall'; expected a number"): read_dataset(csv, split='train')
    with pytest.raises(ValueError, match='images= must name'): read_dataset(frame, split='train')
    with pytest.raises(ValueError, match='no column for the class'): read_dataset(frame.drop(columns='class'), tmp_path/'images')

def test_lists_of_mmdetection(tmp_path):
    picture(tmp_path/'a.jpg')
    new = dict(metainfo=dict(classes=['cat', 'dog']), data_list=[dict(img_path='a.jpg', img_id=7, height=80, width=100, instances=[dict(bbox=[10, 20, 30, 60], bbox_label=1, ignore_flag=0), dict(bbox=[1, 1, 9, 9], bbox_label=0, ignore_flag=1)])])
    old = [dict(filename='a.jpg', height=80, width=100, ann=dict(bboxes=np.array([[10., 20, 30, 60]], np.float32), labels=np.array([1]), bboxes_ignore=np.array([[1., 1, 9, 9]], np.float32), labels_ignore=np.array([0])))]
    (tmp_path/'new.json').write_text(json.dumps(new)); (tmp_path/'new.pkl').write_bytes(pickle.dumps(new)); (tmp_path/'old.pkl').write_bytes(pickle.dumps(old))
    for ds in (read_dataset(tmp_path/'new.json'), read_dataset(tmp_path/'new.pkl'), read_dataset(tmp_path/'old.pkl', classes=['cat', 'dog'])):
        t = ds.target(0)
        assert (ds.classes, t['boxes'].tolist(), t['labels'].tolist(), t['ignore'].tolist()) == (['cat', 'dog'], [[10, 20, 30, 60], [1, 1, 9, 9]], [1, 0], [False, True])
    with pytest.raises(ValueError, match='nothing names the classes'): read_dataset(tmp_path/'old.pkl')
    (tmp_path/'new.pkl').write_bytes(pickle.dumps([dict(img_path=print)]))
    with pytest.raises(ValueError, match='new.pkl'): read_dataset(tmp_path/'new.pkl', classes=['cat'])

def test_splits_of_coco_by_name(tmp_path):
    path = toy.write_coco(tmp_path/'a', 4, seed=3)
    d = json.loads(path.read_text())
    train = dict(d, categories=[c for c in d['categories'] if c['name'] != 'circle'], annotations=[a for a in d['annotations'] if a['category_id'] != next(c['id'] for c in d['categories'] if c['name'] == 'circle')])
    new = {c['id']: 90 - c['id'] for c in d['categories']}
    val = dict(d, categories=[dict(c, id=new[c['id']]) for c in d['categories']], annotations=[dict(a, category_id=new[a['category_id']]) for a in d['annotations']])
    path.unlink()
    for name, x in dict(train=train, val=val).items(): (path.parent/f'instances_{name}.json').write_text(json.dumps(x))
    assert set(guess_format(path.parent).splits) == {'train', 'val'}
    a = read_dataset(path.parent, split='train')
    with pytest.warns(UserWarning, match="val has the class 'circle'"): b = read_dataset(path.parent, split='val')
    assert b.classes == a.classes + ['circle'] and b.category_ids == [new[i] for i in a.category_ids] + [b.category_ids[-1]]
    assert {b.classes[l] for l in b.target(0)['labels']} >= {a.classes[l] for l in a.target(0)['labels']}

def test_what_is_nothing(tmp_path):
    picture(tmp_path/'photos/a.jpg')
    for p in (tmp_path, tmp_path/'photos'):
        with pytest.raises(FileNotFoundError, match='no data set of a known format'): guess_format(p)
    with pytest.raises(FileNotFoundError, match="did you mean 'photos'"): guess_format(tmp_path/'phots')
    with pytest.raises(ValueError, match='not a file of a known format'): guess_format(tmp_path/'photos/a.jpg')
    with pytest.raises(TypeError, match='path is a int'): guess_format(3)


# ------------------------------------------------------------------ there and back
NAMES = ['cat', 'Hund', 'a&b <c>', 'été', '7', 'no', "it's: a #test"]

def random_set(folder, seed, masks=False):
    "Pictures of many sizes and names, ids and classes in any order, fractions, ignored regions, flags, pictures without objects."
    rng = random.Random(seed)
    files = rng.sample(['a.jpg', 'b c.png', 'sub/a.jpg', 'x.y.png', 'ü.jpg', 'Z 1.png', 'deep/er/q.jpg', '9.png'], 6)
    names = rng.sample(NAMES, 4)
    cats = [dict(id=i, name=n, supercategory='thing') for i, n in zip(rng.sample(range(100), 4), names)]
    images, anns = [], []
    for n, f in enumerate(files):
        w, h = rng.randint(40, 300), rng.randint(40, 300)
        picture(folder/f, (w, h))
        images.append(dict(id=rng.choice([n, f'id {n}']), file_name=f, height=h, width=w, camera=rng.randint(0, 2)))
        for _ in range(rng.choice([0, 0, 1, 4])):
            x, y = rng.uniform(0, w - 10), rng.uniform(0, h - 10)
            b = [x, y, rng.uniform(2, w - x), rng.uniform(2, h - y)]
            if rng.random() < .3: b = [float(int(v)) for v in b]
            a = dict(id=len(anns), image_id=images[-1]['id'], category_id=rng.choice(cats)['id'], bbox=b, area=b[2]*b[3], iscrowd=0)
            if masks: a['segmentation'] = [[b[0], b[1], b[0]+b[2], b[1], b[0]+b[2], b[1]+b[3], b[0], b[1]+b[3]]]
            elif rng.random() < .3: a.update(ignore=1, iscrowd=1, difficult=1)
            if rng.random() < .3: a.update(truncated=1, occluded=0, pose='Left')
            anns.append(a)
    if not anns: return random_set(folder, seed + 1000, masks)
    return CocoDataset(dict(images=images, annotations=anns, categories=cats), folder)

def objects(ds, *fields, ignored=True):
    "The objects of each picture, by the stem of its name: class, box and the fields that are asked for."
    d, out = ds.to_coco(), {}
    names = {c['id']: c['name'] for c in d['categories']}
    for r in d['images']: out[r['id']] = (r['height'], r['width']), []
    for a in d['annotations']:
        if ignored or not a['iscrowd']: out[a['image_id']][1].append((names[a['category_id']], a['iscrowd'], a['bbox'], *(a.get(f) for f in fields)))
    return [out[r['id']] for r in d['images']]

def same_objects(a, b, tolerance):
    key = lambda o: (o[0], o[1], [round(v) for v in o[2]])
    assert len(a) == len(b)
    for (size, x), (size2, y) in zip(a, b):
        assert size == size2 and len(x) == len(y)
        for o, p in zip(sorted(x, key=key), sorted(y, key=key)):
            assert o[:2] == p[:2] and o[3:] == p[3:]
            assert o[2] == pytest.approx(p[2], abs=tolerance)

def order_of(ds, like):
    "The pictures of `ds` in the order of those of `like`: by their bytes, because names may have changed."
    at = {ds.path(i).read_bytes() + str(ds.sizes[i].tolist()).encode(): i for i in range(len(ds))}
    return ds.subset([at[like.path(i).read_bytes() + str(like.sizes[i].tolist()).encode()] for i in range(len(like))])

@pytest.mark.parametrize('seed', range(8))
def test_there_and_back(tmp_path, seed):
    "COCO gives back everything, VOC all but ids and masks, YOLO all but what is ignored."
    ds = random_set(tmp_path/'pictures', seed)
    assert CocoDataset(to_coco(ds, tmp_path/'all.json'), ds.folder).to_coco() == ds.to_coco()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        voc, yolo = read_dataset(to_voc(ds, tmp_path/'voc')), read_dataset(to_yolo(ds, tmp_path/'yolo'))
    same_objects(objects(order_of(voc, ds), 'truncated', 'occluded', 'pose', 'difficult') , [(s, [(*o, int(bool(o[1]))) for o in x]) for s, x in objects(ds, 'truncated', 'occluded', 'pose')], 1e-9)
    same_objects(objects(order_of(yolo, ds)), objects(ds, ignored=False), 1e-3)
    assert yolo.classes == ds.classes and voc.classes == sorted(c for c, n in zip(ds.classes, ds._labels.bincount(minlength=4).tolist()) if n)

def test_polygons_there_and_back(tmp_path):
    ds = random_set(tmp_path/'pictures', 1, masks=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        back = read_dataset(to_yolo(ds, tmp_path/'yolo'))
    assert not [m for w in said if re.search('one polygon|their polygons', m := str(w.message))]
    same_objects(objects(order_of(back, ds)), objects(ds), 1e-3)
    for i, t in enumerate(map(order_of(back, ds).target, range(len(ds)))): assert torch.equal(t['masks'], ds.target(i)['masks'])

def test_what_a_format_cannot_hold_is_said(tmp_path):
    ds = CocoDataset(toy.write_coco(tmp_path/'toy', 6, seed=3, crowd=.5))
    n, crowds = ds.report['objects'], ds.report['ignored']
    with pytest.warns(UserWarning) as said: to_voc(ds, tmp_path/'voc')
    assert f'VOC cannot hold {n + crowds} masks, {n} keypoints, {crowds} crowds (they are written as difficult)' in str(said[-1].message)
    with pytest.warns(UserWarning) as said: to_yolo(ds, tmp_path/'yolo')
    assert f'YOLO cannot hold {crowds} ignored regions, {n} keypoints, {n} masks that are not one polygon' in str(said[-1].message)

def test_names_of_pictures_lead_nowhere(tmp_path):
    "Names with folders above, drives and odd letters stay inside; sources stay as they are; nothing that is there is replaced."
    inner = tmp_path/'a'/'b'
    for f in (tmp_path/'up.jpg', inner/'c:x.jpg', inner/'up.jpg'): picture(f)
    files = ['../../up.jpg', 'c:x.jpg', 'up.jpg']
    ds = CocoDataset(dict(images=[dict(id=n, file_name=f, height=80, width=100) for n, f in enumerate(files)], annotations=[dict(id=1, image_id=0, category_id=1, bbox=[1, 2, 3, 4])], categories=[dict(id=1, name='../../cat')]), inner)
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    for write in (to_voc, to_yolo):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            made = write(ds, tmp_path/'out'/write.__name__, pictures='link')
        assert len([p for p in made.rglob('*.jpg')]) == 3 and len(read_dataset(made)) == 3
        with pytest.raises(FileExistsError, match='there already'): write(ds, made)
        with pytest.raises(FileExistsError): write(ds, inner)
    assert {p: p.read_bytes() for p in before} == before and {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob('*') if p.is_file()} == {'a', 'up.jpg', 'out'}
    with pytest.raises(ValueError, match='would be replaced'): to_coco(ds, tmp_path/'up.jpg')

def test_a_writer_that_fails_leaves_nothing(tmp_path):
    ds = random_set(tmp_path/'pictures', 2)
    ds.path(len(ds) - 1).unlink()
    for write in (to_voc, to_yolo):
        with pytest.raises(FileNotFoundError): write(ds, tmp_path/'out')
    assert [p.name for p in tmp_path.iterdir()] == ['pictures']
    with pytest.raises(ValueError, match="pictures is 'move'"): to_voc(ds, tmp_path/'out', 'move')

def test_splits_are_written_and_read(tmp_path):
    ds = read_dataset(to_voc(random_set(tmp_path/'pictures', 3), tmp_path/'voc'))
    train, val = ds.split(.34, seed=1)
    for write in (to_voc, to_yolo):
        made = write(dict(train=train, val=val), tmp_path/write.__name__)
        assert set(guess_format(made).splits) == {'train', 'val'}
        for s, part in dict(train=train, val=val).items(): assert [p.stem for p in map(read_dataset(made, split=s).path, range(len(part)))] == [part.path(i).stem for i in range(len(part))]


# ------------------------------------------------------------------ splits
def test_groups_stay_together_and_classes_keep_their_share(tmp_path):
    picture(tmp_path/'a.jpg')
    rng = random.Random(0)
    images = [dict(id=n, file_name='a.jpg', height=80, width=100, scene=n // 3) for n in range(300)]
    anns = [dict(id=k, image_id=n, category_id=c, bbox=[1, 2, 30, 40]) for k, (n, c) in enumerate((n, c) for n in range(300) for c in (1, 2, 3) if rng.random() < (.9, .3, .05)[c - 1])]
    ds = CocoDataset(dict(images=images, annotations=anns, categories=[dict(id=c, name=f'c{c}') for c in (1, 2, 3)]), tmp_path)
    count = lambda d: torch.bincount(d._labels, minlength=3)
    for seed in range(3):
        for by in (None, 'scene', lambda r: r['id'] // 3):
            a, b = ds.split(.2, seed=seed, by=by)
            assert sorted(a.image_ids.tolist() + b.image_ids.tolist()) == list(range(300)) and a.classes == b.classes == ds.classes
            assert len(b) == pytest.approx(60, abs=3) and (count(b) - .2*count(ds)).abs().max() < 3
            if by: assert not {a.record(i)['scene'] for i in range(len(a))} & {b.record(i)['scene'] for i in range(len(b))}
    assert ds.split(.2, seed=0)[1].image_ids.tolist() != ds.split(.2, seed=1)[1].image_ids.tolist()


def test_a_run_knows_what_it_learned_from(voc):
    "The card of a run has a hash of the data, also where they are in many files."
    from detbook.runs import fingerprint
    hashes = lambda: [p['sha256'] for p in fingerprint(VocDataset(voc, 'train'))]
    was = hashes()
    assert was == hashes() and len(was[0]) == 64
    (voc/'Annotations/a.xml').write_text(xml(CAT))
    assert was != hashes()

def test_ids_that_are_names_are_measured(voc):
    "Results name pictures as the data set does, by the stem."
    from detbook.metrics import evaluate
    ds = VocDataset(voc, 'train')
    found = [dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=.9) for a in ds.to_coco()['annotations'] if not a['iscrowd']]
    assert found[0]['image_id'] == 'a' and evaluate(ds, found).stats['bbox_mAP'] == pytest.approx(1)
    on_difficult = dict(image_id='a', category_id=2, bbox=[0, 0, 8, 8], score=.95)
    assert evaluate(ds, [*found, on_difficult]).stats['bbox_mAP'] == pytest.approx(1)                 # neither for nor against

def test_a_misspelt_class_is_told(voc, tmp_path):
    with pytest.raises(ValueError, match="no objects of 'Cat'; did you mean 'cat'.; the files have: cat, dog"): VocDataset(voc, 'train', classes=['Cat'])
    with pytest.warns(UserWarning, match="no objects of 'dgo'; did you mean 'dog'"): assert VocDataset(voc, 'train', classes=['cat', 'dgo']).report['objects'] == 1
    picture(tmp_path/'a.jpg')
    frame = pd.DataFrame([dict(file='a.jpg', x=1, y=2, w=30, h=40, label='cat')])
    with pytest.raises(ValueError, match="no objects of 'cta'"): read_dataset(frame, tmp_path, classes=['cta'])

# ---------------------------------------------------------------- what was found

def found_in(ds, masks=False, points=False):
    from detbook.detections import Detections
    out = []
    for i in range(3):
        h, w = ds.sizes[i].tolist()
        d = dict(boxes=torch.tensor([[2., 3, w/2, h - 1], [w/3, 0, w, h/2]]), scores=torch.tensor([.75, .25]), labels=torch.tensor([1, 0]))
        if masks: d['masks'] = torch.zeros(2, h, w, dtype=torch.bool); d['masks'][0, 4:9, 2:7] = 1; d['masks'][1, :3, -5:] = 1
        if points: d['keypoints'] = torch.tensor([[[3., 4, .9], [5, 6, .8]]]*2)
        out.append(Detections(d, (h, w), str(ds.path(i)), ('cat', 'dog')))
    return out

def test_what_was_found_is_written_as_a_data_set(tmp_path):
    ds = CocoDataset(toy.write_coco(tmp_path/'toy', 3, seed=1))
    found = found_in(ds)
    for name, writer in dict(yolo=to_yolo, voc=to_voc).items():
        again = read_dataset(writer(found, tmp_path/name))
        assert list(again.classes) == ['cat', 'dog']
        for i, d in enumerate(found):
            rows = d['scores'].argsort(descending=True)
            torch.testing.assert_close(again.target(i)['boxes'], d['boxes'][rows], atol=1e-3, rtol=0)
            assert [again.classes[l] for l in again.target(i)['labels']] == ['dog', 'cat']
    assert len(read_dataset(to_yolo(dict(train=found[:2], val=found[2:]), tmp_path/'split'), split='val')) == 1
    empty = to_coco([d.sure(1.) for d in found], tmp_path/'none.json')
    assert json.loads(empty.read_text())['annotations'] == [] and len(json.loads(empty.read_text())['images']) == 3
    for kind in ('masks', 'points'):
        d = json.loads(to_coco(found_in(ds, **{kind: True}), tmp_path/f'{kind}.json').read_text())
        assert [a['score'] for a in d['annotations']] == [.75, .25]*3
        key = dict(masks='segmentation', points='keypoints')[kind]
        assert all(a[key] for a in d['annotations'])

def test_what_was_found_and_cannot_be_written(tmp_path):
    from detbook.detections import Detections
    ds = CocoDataset(toy.write_coco(tmp_path/'toy', 3, seed=1))
    found = found_in(ds)
    bare = Detections(dict(found[0]), found[0].size, 'array 0', found[0].classes)
    other = Detections(dict(found[1]), found[1].size, found[1].source, ('cow', 'dog'))
    for wrong, words in ([], 'empty list'), ([dict(found[0])], 'without to_coco'), ([bare], 'no file'), ([found[0]]*2, 'twice'), ([found[0], other], 'classes cow, dog'), ([Detections(dict(found[0]))], 'without source'):
        for writer in (to_coco, to_voc, to_yolo):
            with pytest.raises((TypeError, ValueError, FileNotFoundError), match=words) as e: writer(wrong, tmp_path/'new')
            assert '\n' not in str(e.value) and not (tmp_path/'new').exists()

def test_what_was_found_without_a_size_is_left_out_and_said(tmp_path):
    from detbook.detections import Detections
    ds = CocoDataset(toy.write_coco(tmp_path/'toy', 1, seed=1))
    d = Detections(dict(boxes=torch.tensor([[2., 3, 2, 9], [1, 1, 9, 9]]), scores=torch.tensor([.9, .8]), labels=torch.tensor([0, 1])), tuple(ds.sizes[0].tolist()), str(ds.path(0)), ('a', 'b'))
    for writer, name in (to_coco, 'o.json'), (to_yolo, 'yolo'), (to_voc, 'voc'):
        with pytest.warns(UserWarning, match='left out of what was found: 1 x'): writer([d], tmp_path/name)
    assert [a['score'] for a in json.loads((tmp_path/'o.json').read_text())['annotations']] == [pytest.approx(.8)]

def test_a_picture_that_is_gone_is_named_when_a_data_set_is_written(voc, tmp_path):
    ds = VocDataset(voc, 'train')
    ds.path(0).unlink()
    for write in (to_voc, to_yolo):
        with pytest.raises(FileNotFoundError, match=r"a\.jpg: there is no such picture to copy; .* pictures='none'|a\.png: there is no such picture to copy"): write(ds, tmp_path/'out')
        assert not (tmp_path/'out').exists()
