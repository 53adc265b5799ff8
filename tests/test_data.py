"What the data chapters cannot show on their pages: loader workers in processes of their own, and faults by the dozen."
import copy, io, json
from multiprocessing.reduction import ForkingPickler
import numpy as np, pycocotools.mask as mask_utils, pytest, torch
from PIL import Image
from detbook import toy
from detbook.coco import decode_masks
from detbook.data import CocoDataset, collate
from detbook.metrics import evaluate
from detbook.transforms import train_transforms


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A toy set of 12 scenes: the path of its json, and the json's content."
    path = toy.write_coco(tmp_path_factory.mktemp('toy'), 12, seed=3, empty=.15)
    return path, json.loads(path.read_text())


@pytest.mark.parametrize('context', ['spawn', 'fork'])
def test_two_workers_give_what_none_gives(made, context):
    ds = CocoDataset(made[0], transforms=train_transforms((96, 96), flip=0.))
    kw = dict(batch_size=5, collate_fn=collate)
    for (a, s), (b, t) in zip(torch.utils.data.DataLoader(ds, **kw), torch.utils.data.DataLoader(ds, num_workers=2, multiprocessing_context=context, **kw), strict=True):
        for x, y in zip(a, b, strict=True): assert torch.equal(x, y)
        for x, y in zip(s, t, strict=True):
            assert x.keys() == y.keys()
            assert all(torch.equal(x[k], y[k]) if isinstance(x[k], torch.Tensor) else x[k] == y[k] for k in x)


def test_what_a_worker_is_sent_does_not_grow_with_the_file(made):
    path, coco = made
    big = copy.deepcopy(coco)
    big['annotations'] = [dict(a, id=n) for n, a in enumerate(coco['annotations']*50)]
    one, many = (len(ForkingPickler.dumps(CocoDataset(d, path.parent/'images'))) for d in (coco, big))
    assert many < one + 200


BROKEN = dict(category=dict(category_id=99), category_text=dict(category_id='one'), category_list=dict(category_id=[1]), image=dict(image_id=999), image_list=dict(image_id=[1]),
              zero=dict(bbox=[3, 3, 0, 5]), negative=dict(bbox=[9, 9, -3, 5]), outside=dict(bbox=[300, 3, 5, 5]), sticking=dict(bbox=[120, 3, 30, 5]), nan=dict(bbox=[3, float('nan'), 5, 5]),
              inf=dict(bbox=[3, 3, float('inf'), 5]), three=dict(bbox=[3, 3, 5]), text=dict(bbox='3 3 5 5'), none=dict(bbox=None), numbers=dict(bbox=['3', '3', '5', '5']), same_id=dict(id=1),
              float_id=dict(id=1.5), list_id=dict(id=[1]), area=dict(area='big'), rle_size=dict(segmentation=dict(size=[5, 5], counts=[25])), polygon=dict(segmentation=[[1, 2, 3]]),
              no_mask=dict(segmentation=[]), mask_text=dict(segmentation='x'), points=dict(keypoints=[1, 2]), point_text=dict(keypoints=['a', 1, 2]), shares=dict(bbox=[.1, .2, .5, .5]),
              crowd_text=dict(iscrowd='no'), mask_outside=dict(segmentation=[[500, 500, 600, 500, 600, 600]]), huge_id=dict(id=2**70),
              negative_runs=dict(segmentation=dict(size=[128, 128], counts=[-5, 16389])), text_runs=dict(segmentation=dict(size=[128, 128], counts=['a', 'b'])),
              damaged_runs=dict(segmentation=dict(size=[128, 128], counts='zzzz!!')), far=dict(segmentation=[[1, 1, 1e9, 1, 1e9, 1e9]]), nan_polygon=dict(segmentation=[[1, 1, 9, 1, 9, float('nan')]]),
              inf_area=dict(area=float('inf')), digits=dict(bbox=[3, 3, 10**400, 5]), many_digits=dict(image_id=10**400), lie=dict(segmentation=dict(size=[2**40, 2**40], counts=[2**80])),
              overflow=dict(segmentation=dict(size=[128, 128], counts=[2**32, 128*128])), empty_polygon=dict(segmentation=[[]]), newline=dict(image_id='a\nb'), far_points=dict(keypoints=[1e300, 1, 2]))

@pytest.mark.parametrize('kind', BROKEN)
def test_each_broken_annotation_is_named_or_counted(made, tmp_path, kind):
    path, coco = made
    d, n = copy.deepcopy(coco), 4
    d['annotations'][n].update(BROKEN[kind])
    bad = tmp_path/'broken.json'
    bad.write_text(json.dumps(d))
    with pytest.raises(ValueError) as e: CocoDataset(bad, path.parent/'images')
    text = str(e.value)
    assert 'broken.json' in text and f'annotation {d["annotations"][n]["id"]!r}' in text and '\n' not in text
    with pytest.warns(UserWarning, match='dropped 1'): ds = CocoDataset(bad, path.parent/'images', on_bad='skip')
    assert sum(ds.report['dropped'].values()) == len(ds.report['problems']) == 1
    assert ds.report['objects'] + ds.report['ignored'] == len(coco['annotations']) - 1


@pytest.mark.parametrize('tag', range(1, 9))
def test_a_picture_on_its_side_is_read_upright(made, tmp_path, tag):
    path, coco = made
    lie = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE', 6: 'ROTATE_90', 7: 'TRANSVERSE', 8: 'ROTATE_270'}    # undoes the tag
    d, exif = dict(coco, images=[dict(coco['images'][0], height=96)], annotations=[]), Image.Exif()
    upright = Image.open(CocoDataset(path).path(0)).crop((0, 0, 128, 96))
    exif[0x0112] = tag
    (upright.transpose(Image.Transpose[lie[tag]]) if tag > 1 else upright).save(tmp_path/d['images'][0]['file_name'], exif=exif)
    want = torch.frombuffer(bytearray(upright.tobytes()), dtype=torch.uint8).reshape(96, 128, 3).permute(2, 0, 1)
    assert torch.equal(CocoDataset(d, tmp_path)[0][0].as_subclass(torch.Tensor), want)
    unsized = dict(d, images=[{k: v for k, v in d['images'][0].items() if k not in ('height', 'width')}])
    assert CocoDataset(unsized, tmp_path).sizes.tolist() == [[96, 128]]


def test_each_broken_picture_is_named_or_counted(made, tmp_path):
    path, coco = made
    ds = CocoDataset(path)
    for i in range(12): (tmp_path/ds.path(i).name).write_bytes(ds.path(i).read_bytes())
    whole, wide = ds.path(0).read_bytes(), io.BytesIO()
    Image.new('RGB', (128, 64)).save(wide, 'png')
    for i, content in enumerate((b'', whole[:len(whole)//2], b'GIF89a nonsense', b'<html>', wide.getvalue())): (tmp_path/ds.path(i).name).write_bytes(content)
    (tmp_path/ds.path(5).name).unlink()
    with pytest.raises(FileNotFoundError, match='000005.png'): CocoDataset(path, tmp_path)
    with pytest.warns(UserWarning, match='dropped'): left = CocoDataset(path, tmp_path, on_bad='skip')
    assert left.report['dropped'] == {'missing picture': 1, 'damaged picture': 4, 'size mismatch': 1} and len(left) == 6
    assert all(f'00000{i}.png' in ' '.join(left.report['problems']) for i in range(6))
    assert [t['image_id'] for _, t in left] == [7, 8, 9, 10, 11, 12]
    (tmp_path/ds.path(6).name).write_bytes(b'')
    with pytest.raises(ValueError, match='7 of 12 images are bad'): CocoDataset(path, tmp_path, on_bad='skip')


def test_all_pictures_empty_of_objects(made):
    path, coco = made
    ds = CocoDataset(dict(coco, annotations=[]), path.parent/'images', transforms=train_transforms((96, 96)))
    assert ds.report['empty'] == len(ds) == 12
    images, targets = collate([ds[i] for i in range(12)])
    assert all(t['boxes'].shape == (0, 4) and t['labels'].dtype == torch.int64 for t in targets)
    assert evaluate(ds, []).to_dict()['stats']['bbox_mAP'] is None

def test_masks_are_those_of_pycocotools_whatever_their_shape():
    "Only what lies inside of a mask's box is brought into rows: full columns, single pixels, stripes, nothing, all."
    draw = np.random.default_rng(0)
    shapes = [draw.random((n, h, w)) < p for n, h, w, p in ((5, 7, 9, .5), (3, 1, 8, .5), (3, 8, 1, .5), (4, 20, 30, .02), (4, 20, 30, .98), (1, 1, 1, 1.))]
    stripes = np.zeros((4, 12, 16), bool); stripes[0, :, 3:5] = True; stripes[1, 4:6] = True; stripes[2, -1, -1] = True
    for masks in [*shapes, stripes, np.ones((2, 5, 6), bool)]:
        rles = [mask_utils.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]
        assert np.array_equal(decode_masks(rles, masks.shape[1:]).numpy(), masks)
