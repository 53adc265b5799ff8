"Data sets of every format: what folders are taken for, what is wrong with files, and that the same objects come out of each."
import json, pickle, shutil, warnings
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from detbook import toy
from detbook.data import CocoDataset
from detbook.formats import VocDataset
from detbook.formats import guess_format, read_dataset, read_records


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
