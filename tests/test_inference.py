"Pictures of every kind, alone and in company, and detectors of every kind: what is no lesson about inference."
import io, json, os, re, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from torch import nn
from torchvision.ops import box_iou
from detbook import models
from detbook.cli import run_command
from detbook.coco import decode_masks
from detbook.describe import save_detector
from detbook.detections import Detections, changed_filter, show_result
from detbook.detector import mixed_precision
from detbook.images import find_pictures, read_picture
from detbook.inference import Predictor, detbook_predict, inference_detector, init_detector
from detbook.toy import CLASSES, scene
from detbook.weights import COCO, load_detector, save_mmdetection

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

class Spots(nn.Module):
    "A detector of bright rectangles, exact and quick: what is found is known beforehand."
    def __init__(self, masks=True):
        super().__init__()
        self.weight, self.masks, self.asked = nn.Parameter(torch.zeros(1)), masks, []
        self.classes = ('spot',)
    def predict(self, images):
        self.asked.append([tuple(im.shape) for im in images])
        return [self.one(im.float().mean(0) > 128) for im in images]
    def one(self, bright):
        boxes, masks = [], []
        while bright.any():
            y, x = divmod(int(bright.flatten().int().argmax()), bright.shape[1])
            h, w = int(bright[y:, x].int().cumprod(0).sum()), int(bright[y, x:].int().cumprod(0).sum())
            mask = torch.zeros_like(bright); mask[y:y+h, x:x+w] = True
            bright = bright & ~mask
            boxes.append([x, y, x+w, y+h]); masks.append(mask)
        n = len(boxes)
        out = dict(boxes=torch.tensor(boxes).float().reshape(-1, 4), scores=torch.linspace(.9, .8, n), labels=torch.zeros(n, dtype=torch.int64))
        return out | dict(masks=torch.stack(masks) if n else torch.zeros(0, *bright.shape, dtype=torch.bool)) if self.masks else out

def canvas(h, w, *boxes):
    image = torch.zeros(3, h, w, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes: image[:, y1:y2, x1:x2] = 255
    return image

def small(name='mask_rcnn', **more):
    torch.manual_seed(0)
    model = getattr(models, name)(18, channels=16, scratch=True, **({} if name == 'rpn' else dict(num_classes=4) | more)).eval()
    if hasattr(model, 'roi_head') and hasattr(model.roi_head, 'bbox_head') and not isinstance(model.roi_head.bbox_head, nn.ModuleList): model.roi_head.bbox_head.fc_cls.weight.data *= 40
    for part in ('retina_cls', 'conv_cls'):
        if hasattr(getattr(model, 'bbox_head', None), part): getattr(model.bbox_head, part).weight.data *= 60     # scores that differ
    return model

def same(a, b, **tolerance):
    assert set(a) == set(b)
    for k in a: torch.testing.assert_close(a[k], b[k], **tolerance)

def one_sentence(error): return '\n' not in str(error.value) and len(str(error.value)) > 15

# ---------------------------------------------------------------- pictures

@pytest.mark.parametrize('tag', range(1, 9))
def test_upright(tag, tmp_path):
    "All eight orientations, from a file and from a PIL image."
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}      # Transpose by which an upright picture becomes what is stored
    image = scene(3, size=(64, 80))[0]
    upright, exif = Image.fromarray(image.permute(1, 2, 0).numpy()), Image.Exif()
    exif[0x0112] = tag
    (upright if tag == 1 else upright.transpose(turns[tag])).save(tmp_path/'a.png', exif=exif)
    for x in (read_picture(tmp_path/'a.png'), read_picture(Image.open(tmp_path/'a.png')), read_picture((tmp_path/'a.png').read_bytes())): assert torch.equal(x, image)

@pytest.mark.parametrize('dtype', ['uint8', 'float16', 'float32', 'float64', '>f4'])
@pytest.mark.parametrize('order', ['plain', 'reversed', 'fortran', 'read only'])
def test_arrays(dtype, order):
    image = scene(3, size=(64, 80))[0]
    a = image.permute(1, 2, 0).numpy().astype(dtype)
    if order == 'reversed': a = np.ascontiguousarray(a[::-1])[::-1]
    if order == 'fortran': a = np.asfortranarray(a)
    if order == 'read only': a.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(read_picture(a), image)
        assert torch.equal(read_picture(a[..., ::-1], bgr=True), image)

@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'LA', 'P', 'CMYK', 'YCbCr', '1', 'I;16', 'I'])
def test_pil_modes_as_from_a_file(mode, tmp_path):
    rgb = Image.fromarray(scene(3, size=64)[0].permute(1, 2, 0).numpy())
    im = Image.fromarray(np.asarray(rgb.convert('L')).astype(np.uint16)*257) if mode == 'I;16' else rgb.convert(mode)
    im.save(tmp_path/'a.tif')
    assert torch.equal(read_picture(im), read_picture(tmp_path/'a.tif'))

def test_a_picture_is_a_copy():
    a = np.zeros((8, 8, 3), np.uint8)
    x = read_picture(a)
    a += 1
    assert x.max() == 0
    t = torch.zeros(3, 8, 8)
    x = read_picture(t)
    t += 9
    assert x.max() == 0

@pytest.mark.parametrize('wrong', [np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3), np.int64), np.zeros((0, 8, 3), np.uint8), np.zeros(5), torch.zeros(8, 8, 3), torch.zeros(3, 8, 8, dtype=torch.int32),
                                   torch.full((3, 8, 8), torch.nan), np.full((8, 8, 3), np.inf), np.zeros((8, 8, 3), complex), 'none.png', b'', b'\x89PNG\r\n', 3, None, {}, [1]], ids=lambda x: type(x).__name__)
def test_no_picture(wrong):
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as e: read_picture(wrong)
    assert one_sentence(e)

# ---------------------------------------------------------------- one answer

@pytest.mark.parametrize('name', ['mask_rcnn', 'faster_rcnn', 'retinanet', 'fcos', 'cascade_rcnn', 'keypoint_rcnn', 'rpn'])
def test_one_answer(name, tmp_path):
    "Path, bytes, PIL image, arrays, tensors; alone or in a batch of mixed sizes; list or stream."
    model = small(name)
    model.test_scale = (96, 80)
    settings = dict(retinanet=dict(score_thr=.01, max_per_img=20), fcos=dict(score_thr=.01, max_per_img=20), keypoint_rcnn=dict(max_per_img=2), mask_rcnn=dict(max_per_img=10)).get(name, {})     # few, for these heads are slow
    images = [scene(9, size=(100, 120))[0], scene(6, size=(64, 96))[0], scene(5, size=(120, 100))[0]]
    arrays = [im.permute(1, 2, 0).numpy() for im in images]
    Image.fromarray(arrays[0]).save(tmp_path/'a.png')
    first = inference_detector(model, tmp_path/'a.png', settings)
    assert len(first['boxes']) > 0 and first.size == (100, 120) and first.source == str(tmp_path/'a.png')
    for other in (str(tmp_path/'a.png'), (tmp_path/'a.png').read_bytes(), Image.open(tmp_path/'a.png'), arrays[0], arrays[0].astype('f4'), images[0], images[0].double()):
        same(inference_detector(model, other, settings), first, rtol=0, atol=0)
    alone = [inference_detector(model, im, settings) for im in images]
    for bs in (2, 4):
        for form in (list, tuple, iter):
            for a, b in zip(inference_detector(model, form(arrays), settings, bs=bs), alone, strict=True):
                assert a.size == b.size and list(a) == list(b)
                torch.testing.assert_close(a['scores'], b['scores'], rtol=1e-3, atol=1e-4)
                torch.testing.assert_close(a['boxes'], b['boxes'], rtol=1e-3, atol=.1)
    for d, im in zip(alone, images):
        h, w = im.shape[1:]
        assert (d['boxes'] >= 0).all() and (d['boxes'] <= torch.tensor([w, h, w, h]) + 1e-3).all()
        if 'masks' in d: assert d['masks'].shape == (len(d['boxes']), h, w) and d['masks'].dtype == torch.bool
        if 'keypoints' in d: assert d['keypoints'].shape[::2] == (len(d['boxes']), 3)

def test_training_mode_is_left_as_it_was():
    model = small().train()
    model.backbone.bn1.eval()
    before = {k: v.clone() for k,v in model.state_dict().items()}
    inference_detector(model, scene(9, size=64)[0])
    assert model.training and not model.backbone.bn1.training and all(torch.equal(v, before[k]) for k,v in model.state_dict().items())
    model.predict = lambda images: 1/0
    with pytest.raises(ZeroDivisionError): inference_detector(model, scene(9, size=64)[0])
    assert model.training

def test_back_to_the_picture():
    "Boxes and masks of a picture that is shown larger and smaller, in both directions by another factor."
    image = canvas(90, 121, (10, 20, 40, 60), (70, 30, 121, 90))
    for scale in (None, 1., 2., (200, 200), (60, 60)):
        d = inference_detector(Spots(), image, dict(scale=scale))
        torch.testing.assert_close(d['boxes'], torch.tensor([[10., 20, 40, 60], [70, 30, 121, 90]]), rtol=0, atol={None: 0, 1.: 0}.get(scale, 2.1))
        want = torch.stack([canvas(90, 121, b)[0] > 0 for b in ((10, 20, 40, 60), (70, 30, 121, 90))])
        assert (d['masks'] != want).flatten(1).sum(1).max() <= {None: 0, 1.: 0}.get(scale, 300)

class Sized(Spots):
    "The same, answering at other sizes."
    def predict(self, images, sizes=None):
        self.sizes = getattr(self, 'sizes', []) + list(sizes)
        out = []
        for d, im, (H, W) in zip(super().predict(images), images, sizes):
            h, w = im.shape[1:]
            masks = d['masks'][:, (torch.arange(H)*h/H).long()][..., (torch.arange(W)*w/W).long()]
            out.append(d | dict(boxes=d['boxes']*torch.tensor([W/w, H/h]*2), masks=masks))
        return out

def test_masks_are_drawn_once_where_memory_allows():
    "At the size asked for; run lengths of a large picture begin with masks of the size shown, and so do tiles' whole pictures."
    image, box = canvas(90, 120, (30, 30, 60, 60)), torch.tensor([[30., 30, 60, 60]])
    for settings,sizes in ((dict(), [(90, 120)]), (dict(masks='rle'), [(90, 120)]), (dict(masks=False), [(30, 40)]),
                           (dict(tiles=(60, 60), overlap=0.), [(90, 120)] + [(60, 60)]*4)):
        model = Sized()
        found = inference_detector(model, image, dict(scale=1/3) | settings)
        assert model.sizes == sizes
        torch.testing.assert_close(found['boxes'][:1], box)
        if settings.get('masks') != False: assert torch.equal(torch.as_tensor(decode_masks(found['masks'], None)).bool()[0] if settings.get('masks') else found['masks'][0], image[0] > 0)
    for masks,sizes in ((True, [(1500, 1800)]), ('rle', [(150, 180)])):
        model = Sized()
        found = inference_detector(model, canvas(1500, 1800, (300, 300, 600, 600)), dict(scale=.1, masks=masks))
        assert model.sizes == sizes and found['boxes'].tolist() == [[300, 300, 600, 600]]
        m = found['masks'][0] if masks is True else torch.as_tensor(decode_masks(found['masks'], None)).bool()[0]
        assert ((canvas(1500, 1800, (300, 300, 600, 600))[0] > 0) != m).sum() < 1300        # the corners are round

def test_nothing_found():
    for settings in ({}, dict(masks='rle'), dict(tiles=(16, 16)), dict(tta=True)):
        d = inference_detector(Spots(), canvas(40, 50), settings)
        assert [len(v) for v in d.values()] == [0]*4 and d.names == [] and d.to_coco() == [] and (settings.get('masks') or d['masks'].shape == (0, 40, 50))

def test_only_equal_padded_sizes_share_a_batch():
    model = small('faster_rcnn')
    seen, predict = [], model.predict
    model.predict = lambda images: (seen.append([tuple(im.shape[1:]) for im in images]), predict(images))[1]
    inference_detector(model, [torch.zeros(3, h, 64, dtype=torch.uint8) for h in (64, 32, 60, 96, 33, 64, 64)], bs=3)
    assert all(len({-(-h//32) for h,_ in group}) == 1 and len(group) <= 3 for group in seen) and sum(map(len, seen)) == 7
    assert [len(g) for g in seen] == [3, 2, 1, 1]

# ---------------------------------------------------------------- many

def test_a_stream_reads_only_ahead():
    "Frames are taken as they are needed, and a stream that is given up stops its threads."
    taken = []
    def frames():
        for i in range(1000): taken.append(i); yield canvas(32, 32, (4, 4, 4 + i % 9 + 1, 9))
    stream = inference_detector(Spots(), frames(), bs=2)
    assert not taken
    for i in range(10):
        d = next(stream)
        assert d['boxes'].tolist() == [[4, 4, 4 + i % 9 + 1, 9]] and d.source == f'imgs[{i}]'
        assert len(taken) <= i + 1 + 2*4*2 + 4
    stream.close()
    assert len(taken) < 40

def test_skipped_pictures(tmp_path):
    good = io.BytesIO()
    Image.fromarray(canvas(20, 20, (2, 2, 9, 9)).permute(1, 2, 0).numpy()).save(good, 'png')
    for i in range(12): (tmp_path/f'{i:02}.png').write_bytes(good.getvalue()[:None if i % 4 else 60*(i > 0)])
    for workers in (0, 3):
        ask = Predictor(Spots(), on_bad='skip', workers=workers, bs=2)
        with pytest.warns(UserWarning, match=r'3 of 12 pictures were skipped; the first: .*00.png'): found = ask(tmp_path)
        assert [i for i,d in enumerate(found) if d is None] == [0, 4, 8] and [re.search(r'\d\d.png', s)[0] for s in ask.skipped] == ['00.png', '04.png', '08.png']
        assert all(d['boxes'].tolist() == [[2, 2, 9, 9]] for d in found if d)
        with pytest.raises(ValueError, match='00.png') as e: Predictor(Spots(), workers=workers)(tmp_path)
        assert one_sentence(e)
    with pytest.raises(FileNotFoundError, match='gone.png'): inference_detector(Spots(), [tmp_path/'01.png', tmp_path/'gone.png'])

def test_find_pictures(tmp_path):
    for name in ('b.JPG', 'a.png', 'c.txt', '.hidden'): (tmp_path/name).touch()
    (tmp_path/'sub.png').mkdir()
    assert [p.name for p in find_pictures(tmp_path)] == ['a.png', 'b.JPG']
    assert [p.name for p in find_pictures(f'{tmp_path}/*.JPG')] == ['b.JPG']
    assert find_pictures(tmp_path/'c.txt') == [tmp_path/'c.txt']        # named: its content will tell
    for wrong in (tmp_path/'sub.png', tmp_path/'none', f'{tmp_path}/*.gif'):
        with pytest.raises(FileNotFoundError) as e: find_pictures(wrong)
        assert one_sentence(e)

# ---------------------------------------------------------------- tiles

@pytest.mark.parametrize('masks', [True, 'rle', False])
def test_a_box_on_a_seam_is_found_once(masks):
    boxes = [(90, 20, 110, 40), (10, 95, 30, 106), (85, 85, 115, 115), (0, 0, 12, 9), (180, 150, 200, 170), (40, 140, 190, 148)]     # on seams, on the crossing, at the border, wider than a tile
    found = Predictor(Spots(), tiles=(100, 100), overlap=.4, masks=masks, bs=3)(canvas(170, 200, *boxes))
    assert sorted(map(tuple, found['boxes'].int().tolist())) == sorted(boxes)
    if masks: assert all((m.bool() == (canvas(170, 200, b.int().tolist())[0] > 0)).all() for m, b in zip(decode_masks(found['masks'], None) if masks == 'rle' else found['masks'], found['boxes']))

def test_seams_everywhere():
    "A small square anywhere, cut by whatever seams: always found once."
    model = Spots(masks=False)
    for seed in range(60):
        r = torch.Generator().manual_seed(seed)
        pick = lambda low, high: int(torch.randint(low, high, (), generator=r))
        h, w, side = pick(60, 200), pick(60, 200), pick(4, 12)
        x, y = pick(0, w - side), pick(0, h - side)
        found = Predictor(model, tiles=(pick(40, 70), pick(40, 70)), overlap=.4, whole=False)(canvas(h, w, (x, y, x + side, y + side)))
        assert found['boxes'].tolist() == [[x, y, x + side, y + side]]

def test_tiles_of_a_small_picture_are_the_picture():
    model = Spots()
    assert len(inference_detector(model, canvas(30, 40, (5, 5, 9, 9)), tiles=(64, 64))['boxes']) == 1
    assert model.asked == [[(3, 30, 40)]]

# ---------------------------------------------------------------- settings

def test_filters_of_every_detector():
    image = scene(9, size=96)[0]
    for name in ('mask_rcnn', 'cascade_rcnn', 'retinanet', 'fcos'):
        model = small(name)
        all_ = model.predict([image], changed_filter(model, score_thr=.001, max_per_img=1000))[0]
        assert len(all_['boxes']) > 5
        cap = float(all_['scores'][2]) - 1e-6
        assert len(inference_detector(model, image, dict(max_per_img=4), score_thr=.001)['boxes']) == 4
        got = inference_detector(model, image, score_thr=cap)
        torch.testing.assert_close(got['scores'], all_['scores'][all_['scores'] > cap])
        one = inference_detector(model, image, dict(iou=0., class_agnostic=True), score_thr=.001)
        assert len(one['boxes']) <= len(inference_detector(model, image, dict(iou=0.), score_thr=.001)['boxes'])
        a = one['boxes']
        wide, high = ((torch.minimum(a[:, None, i+2], a[:, i+2]) - torch.maximum(a[:, None, i], a[:, i])).clamp(min=0) for i in (0, 1))
        assert (wide*high).fill_diagonal_(0).max() < 1e-2
    with pytest.raises(ValueError, match='RPN.predict takes no test_filter'): inference_detector(small('rpn'), image, score_thr=.5)
    with pytest.raises(ValueError, match='FastRCNN.predict needs proposals'): inference_detector(small('fast_rcnn'), image)
    with pytest.raises(TypeError, match="scor_thr"): inference_detector(small(), image, dict(scor_thr=.1))

def test_mirrored_keypoints_trade_places():
    model = small('keypoint_rcnn')
    image = scene(9, size=96)[0]
    model.roi_head.bbox_head.fc_cls.weight.data *= 2
    a, b = (inference_detector(model, im, dict(tta=True, max_per_img=2)) for im in (image, image.flip(2)))
    order = [0, *(i for k in range(1, 17, 2) for i in (k+1, k))]
    assert len(a['boxes']) > 0
    torch.testing.assert_close(a['scores'], b['scores'], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(a['keypoints'][0, :, 1], b['keypoints'][0, order, 1], rtol=1e-3, atol=1.5)

@pytest.mark.parametrize('settings', [dict(score_thr='.5'), dict(score_thr=float('nan')), dict(iou=2), dict(max_per_img=1.5), dict(max_per_img=0), dict(tiles=64), dict(tiles='64'), dict(tiles=(64., 48.)),
    dict(tiles=(64, 64, 3)), dict(tiles=(64, 64), overlap='x'), dict(tiles=(64, 64), overlap=1), dict(bs=1.5), dict(bs='2'), dict(workers=-1), dict(scale=640), dict(scale='640'), dict(scale=0),
    dict(scale=(1, 2, 3)), dict(scale=(0, 5)), dict(tta='yes'), dict(tta=dict(flip=True)), dict(tta=dict(flips=('h',))), dict(masks='no'), dict(device='cude'), dict(device='cuda:99'), [1], 'cuda'], ids=str)
def test_settings_that_make_no_sense(settings):
    with pytest.raises((ValueError, TypeError)) as e: inference_detector(small('faster_rcnn'), canvas(32, 32), settings)
    assert one_sentence(e)

@pytest.mark.parametrize('imgs', ['', 'none/*.png', 'http://127.0.0.1:9/a.png', dict(image=1), [[1, 2]], lambda: 1, open], ids=lambda v: str(v).split(' at 0x')[0])
def test_no_pictures(imgs):
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as e: inference_detector(Spots(), imgs)
    assert one_sentence(e)

def test_pictures_of_odd_kinds(tmp_path):
    "What users have at hand: an open file, a pattern, an animation (its first picture), one pixel, a picture smaller than a tile."
    image = canvas(20, 30, (2, 2, 9, 9))
    pil, want = Image.fromarray(image.permute(1, 2, 0).numpy()), [[2, 2, 9, 9]]
    pil.save(tmp_path/'a.png'); pil.save(tmp_path/'b.gif', save_all=True, append_images=[pil.rotate(90)]*2)
    with open(tmp_path/'a.png', 'rb') as f: assert inference_detector(Spots(), f)['boxes'].tolist() == want
    assert inference_detector(Spots(), io.BytesIO((tmp_path/'a.png').read_bytes()))['boxes'].tolist() == want
    assert [d['boxes'].tolist() for d in inference_detector(Spots(), f'{tmp_path}/*')] == [want]*2
    assert inference_detector(Spots(), image, tiles=(500, 600))['boxes'].tolist() == want
    assert inference_detector(Spots(), image[:, 2:3, 2:3])['boxes'].tolist() == [[0, 0, 1, 1]]
    assert inference_detector(Spots(), []) == [] and inference_detector(Spots(), ()) == []

@pytest.mark.parametrize('model', ['own.safetensors', None, nn.Linear(2, 2), torch.zeros(3, 8, 8)], ids=lambda m: type(m).__name__)
def test_no_detector(model):
    with pytest.raises(TypeError, match='no detector|expected a Module') as e: inference_detector(model, canvas(8, 8))
    assert one_sentence(e)

def test_wrapped_detectors():
    image = canvas(20, 30, (2, 2, 9, 9))
    assert inference_detector(nn.DataParallel(Spots()), image)['boxes'].tolist() == [[2, 2, 9, 9]]

# ---------------------------------------------------------------- detectors

def test_a_file_is_read_once(tmp_path, monkeypatch):
    from detbook import inference, weights
    read = []
    for chapter in (inference, weights): monkeypatch.setattr(chapter, 'read_checkpoint', lambda path, f=weights.read_checkpoint: (read.append(path), f(path))[1])
    model = init_detector(save_detector(tmp_path/'own.safetensors', small(), CLASSES, dict(resize=[64, 64])), device='cpu')
    assert len(read) == 1 and model.notes['preprocessing']['resize'] == [64, 64] and model.cfg is None
    with pytest.raises(ValueError, match='cfg_options'): init_detector(tmp_path/'own.safetensors', device='cpu', cfg_options={'model.neck': None})
    for wrong in (dict(device='cude'), dict(scale=640)):
        with pytest.raises(ValueError) as e: init_detector(tmp_path/'own.safetensors', **wrong)
        assert one_sentence(e)
    assert len(read) == 1       # these are settled before anything is read

def test_warnings_are_about_the_line_that_asked(tmp_path):
    (tmp_path/'a.png').write_bytes(b'no picture')
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        for _ in range(2): Predictor(Spots(), on_bad='skip')(tmp_path)
        init_detector('retinanet_r18_fpn_1x_coco', device='cpu')
    told = [w for w in told if 'skipped' in str(w.message) or 'random weights' in str(w.message)]
    assert [Path(w.filename).name for w in told] == [Path(__file__).name]*3

def test_init_detector(tmp_path, capsys):
    model = small()
    file = save_detector(tmp_path/'own.safetensors', model, CLASSES, dict(resize=[64, 64]))
    own = init_detector(file, device='cpu')
    assert own.classes == CLASSES and list(own.test_scale) == [64, 64] and own.test_antialias and not own.training
    theirs = init_detector(save_mmdetection(tmp_path/'theirs.pth', model, CLASSES), device='cpu')
    assert theirs.classes == CLASSES
    image = scene(9, size=64)[0]
    same(inference_detector(own, image), inference_detector(theirs, image))
    changed = init_detector(file, device='cpu', classes=['a', 'b', 'c', 'd'], scale=(48, 48))
    assert changed.classes == ('a', 'b', 'c', 'd') and changed.test_scale == (48, 48)
    for wrong in (dict(config=str(tmp_path/'none.pth')), dict(config='retinanet_r18_fpn_1x_coco', checkpoint=file), dict(config=5), dict(config=dict(data=1)), dict(config=file, classes=['a'])):
        with pytest.raises((ValueError, TypeError, FileNotFoundError)) as e: init_detector(**wrong, device='cpu')
        assert one_sentence(e)

def test_nothing_in_a_file_is_run(tmp_path):
    class Trap:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'sprung'),)
    torch.save(dict(state_dict={}, meta=Trap()), tmp_path/'trap.pth')
    (tmp_path/'trap.py').write_text(f'import os\nos.mkdir({str(tmp_path/"sprung")!r})\nmodel = dict()')
    for words in ((tmp_path/'trap.pth',), ('retinanet_r18_fpn_1x_coco', tmp_path/'trap.pth'), (tmp_path/'trap.py',)):
        with pytest.raises(ValueError): init_detector(*words, device='cpu')
    assert not (tmp_path/'sprung').exists()

# ---------------------------------------------------------------- results

def test_detections():
    import copy
    d = Detections(dict(boxes=torch.rand(3, 4).sort(1)[0], scores=torch.tensor([.9, .5, .1]), labels=torch.tensor([0, 79, 5]), keypoints=torch.rand(3, 17, 3)), (10, 20), 'a', COCO)
    for twin in (copy.copy(d), copy.deepcopy(d), d[:], d[torch.ones(3, dtype=torch.bool)], d[[0, 1, 2]]):
        assert type(twin) is Detections and twin.classes == COCO and twin.size == (10, 20) and all(torch.equal(twin[k], d[k]) for k in d)
    assert [r['category_id'] for r in d.to_coco(7)] == [1, 90, 6] and len(d.to_coco()[0]['keypoints']) == 51
    json.dumps(d.to_coco())
    assert d.names == ['person', 'toothbrush', 'bus'] and dict(d) == d and set(d | {}) == set(d)
    with pytest.raises(KeyError): d['mask']
    arrays = Detections({k: v.numpy() for k,v in d.items()})
    assert all(torch.equal(arrays[k], d[k]) for k in d)
    with pytest.raises(TypeError, match='found is a list of 1; expected a dict'): Detections([d])

def test_show_result(tmp_path):
    import matplotlib.pyplot as plt
    open_figures = plt.get_fignums()          # of tests before this one
    d = Detections(dict(boxes=torch.tensor([[5., 5, 20, 20]]), scores=torch.tensor([.9]), labels=torch.tensor([0]), keypoints=torch.rand(1, 17, 3)*20, masks=torch.ones(1, 30, 40, dtype=torch.bool)), (30, 40))
    code = 'import sys\nfrom detbook.inference import show_result\nimport torch\nshow_result(torch.zeros(3, 30, 40), dict(boxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.zeros(1).long()), out_file=sys.argv[1])'
    env = {k: v for k,v in os.environ.items() if k not in ('DISPLAY', 'MPLBACKEND', 'WAYLAND_DISPLAY')}
    subprocess.run([sys.executable, '-c', code, str(tmp_path/'sub'/'a.png')], check=True, env=env)
    assert Image.open(tmp_path/'sub'/'a.png').size == (480, 360)
    before = (tmp_path/'sub'/'a.png').read_bytes()
    with pytest.raises(ValueError): show_result(torch.zeros(3, 31, 40), d, out_file=tmp_path/'sub'/'a.png')
    assert (tmp_path/'sub'/'a.png').read_bytes() == before and os.listdir(tmp_path/'sub') == ['a.png']
    show_result(canvas(30, 40), d, out_file=tmp_path/'b.webp')
    show_result(canvas(30, 40), {k: v for k,v in d.items() if k != 'masks'})
    assert plt.get_fignums() == open_figures

# ---------------------------------------------------------------- memory

def test_masks_of_a_large_picture_take_little():
    "Two hundred objects on 12 megapixels: 2.4 GB as masks, and as run lengths less than a tenth of that at any moment."
    code = '''
import resource, torch
from test_inference import Spots, canvas
from detbook.inference import inference_detector
from detbook.coco import decode_masks
class Many(Spots):
    def predict(self, images):
        h, w = images[0].shape[1:]
        masks = torch.zeros(200, h, w, dtype=torch.bool)
        for i in range(200): masks[i, 5 + i:45 + i, 5 + 2*i:55 + 2*i] = True
        boxes = torch.tensor([[5 + 2*i, 5 + i, 55 + 2*i, 45 + i] for i in range(200)]).float()
        return [dict(boxes=boxes, scores=torch.ones(200), labels=torch.zeros(200).long(), masks=masks)]
image = torch.zeros(3, 3000, 4000, dtype=torch.uint8)
inference_detector(Many(), image[:, :300, :500], dict(masks='rle'))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = inference_detector(Many(), image, dict(scale=(800, 600), masks='rle'))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
m = decode_masks(found['masks'][199:], found.size)[0]
assert abs(int(m.sum()) - 40*50*25) < 2000 and m[1200, 2200] == 1 and m[1000, 1000] == 0
'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) < 240_000, f'{int(out.stdout)//1000} MB'      # kB

# ---------------------------------------------------------------- the command

def test_command(tmp_path, capsys):
    file = save_detector(tmp_path/'own.safetensors', small(), CLASSES, dict(resize=[64, 64]))
    (tmp_path/'in').mkdir()
    for i in (3, 17): Image.fromarray(scene(9, size=64)[0].permute(1, 2, 0).numpy()).save(tmp_path/'in'/f'{i:06}.png')
    words = [str(tmp_path/'in'), str(file), '--device', 'cpu', '--json', str(tmp_path/'out.json'), '--out-dir', str(tmp_path/'drawn'), '--max_per_img', '5']
    assert run_command(detbook_predict, words) == 0
    rows = json.loads((tmp_path/'out.json').read_text())
    assert {r['image_id'] for r in rows} == {3, 17} and len(rows) == 10 and sorted(os.listdir(tmp_path/'drawn')) == ['000003.png', '000017.png']
    assert all({'bbox', 'score', 'category_id', 'segmentation', 'file_name', 'category'} <= set(r) for r in rows)
    capsys.readouterr()
    for more in (['--tiles', '64'], ['--iou', '2'], ['--bs', '0'], ['--set', 'x=1'], ['--out_dir', str(tmp_path/'in')]):
        assert run_command(detbook_predict, words + more) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith('detbook_predict: ') and '\n' not in said, said
    assert len(os.listdir(tmp_path/'in')) == 2

def test_import_is_light():
    "No fastai for a prediction."
    code = 'import sys, detbook.inference; print("fastai" in sys.modules, "matplotlib.pyplot" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()[0] == 'False'

# ---------------------------------------------------------------- scores that a file knows

def test_the_best_score_of_each_class(tmp_path, capsys):
    (tmp_path/'in').mkdir()
    Image.fromarray(scene(9, size=64)[0].permute(1, 2, 0).numpy()).save(tmp_path/'in'/'a.png')
    model = small()
    silent = save_detector(tmp_path/'silent.safetensors', model, CLASSES, dict(resize=[64, 64]))
    own = save_detector(tmp_path/'own.safetensors', model, CLASSES, dict(resize=[64, 64]), dict(zip(CLASSES, (.0, 1., .0, None))))
    rows = detbook_predict(str(tmp_path/'in'), str(own), min_score=0, device='cpu')
    assert 'best score of each class when it was measured' in (said := capsys.readouterr().out) and f'{CLASSES[1]} 1.00' in said and '--min_score best' in said
    detbook_predict(str(tmp_path/'in'), str(own), min_score='best', device='cpu')
    said, score = capsys.readouterr().out, dict(zip(CLASSES, (0, 1, 0, .3)))
    shown = [r for r in rows if r['score'] >= score[r['category']]]
    assert 0 < len(shown) < len(rows) and f'{len(shown)} objects of the score of their class or more' in said
    detbook_predict(str(tmp_path/'in'), str(silent), min_score=0, device='cpu')
    assert '--min_score best' not in capsys.readouterr().out
    with pytest.raises(ValueError, match='silent.safetensors does not say which scores are best'): detbook_predict(str(tmp_path/'in'), str(silent), min_score='best', device='cpu')
    with pytest.raises(SystemExit) as e: run_command(detbook_predict, [str(tmp_path/'in'), str(own), '--min_score', 'bets'])
    assert e.value.code == 2
    assert "did you mean 'best'" in capsys.readouterr().err

def test_scores_that_are_none_are_named_before_the_first_picture(tmp_path):
    from detbook.checkpoint import read_checkpoint, save_checkpoint
    good = read_checkpoint(save_detector(tmp_path/'own.safetensors', small(), CLASSES, dict(resize=[64, 64]), dict.fromkeys(CLASSES, .5)))
    bad = save_checkpoint(tmp_path/'bad.safetensors', dict(good), {**good.metadata, 'thresholds': {CLASSES[0]: 'high'}})
    Image.fromarray(scene(9, size=64)[0].permute(1, 2, 0).numpy()).save(tmp_path/'a.png')
    for more in {}, dict(min_score='best'):
        with pytest.raises(ValueError, match=r"bad.safetensors: thresholds\['digit'\] is 'high'; expected a score"): detbook_predict(str(tmp_path/'a.png'), str(bad), device='cpu', json=str(tmp_path/'out.json'), **more)
    assert not (tmp_path/'out.json').exists()

def test_sure_detections():
    found = Detections(dict(boxes=torch.tensor([[0., 0, 4, 4]]*4), scores=torch.tensor([.9, .5, .4, .2]), labels=torch.tensor([0, 1, 0, 1])), (8, 8), 'a', ('cat', 'dog'))
    assert found.sure(.4)['scores'].tolist() == pytest.approx([.9, .5, .4])
    assert found.sure(dict(cat=.5, dog=.1))['scores'].tolist() == pytest.approx([.9, .5, .2])
    assert found.sure(dict(cat=.5))['scores'].tolist() == found.sure(dict(cat=.5, dog=None))['scores'].tolist() == pytest.approx([.9, .5])
    for wrong in (dict(cow=.5), dict(cat=7), 3., -1):
        with pytest.raises(ValueError) as e: found.sure(wrong)
        assert one_sentence(e)

# ---- 16 bits

def kinds(model):
    "The number types that the backbone of a detector gives, call by call."
    seen = []
    model.backbone.register_forward_hook(lambda part, given, gave: seen.append(gave[0].dtype))
    return seen

@pytest.mark.parametrize('more', [{}, dict(tta=True), dict(tiles=(64, 64))], ids=('plain', 'mirrored', 'tiles'))
def test_sixteen_bits_find_the_same(more):
    model = load_detector('toy_detector').eval()
    seen, image = kinds(model), scene(7, size=96, digits='val', crowd=0, empty=0, objects=(4, 4))[0]
    exact, half = (inference_detector(model, image, dict(amp=amp, **more)) for amp in (False, True))
    n = len(seen) // 2
    assert set(seen[:n]) == {torch.float32} and set(seen[n:]) == {torch.bfloat16}
    assert {half[k].dtype for k in ('boxes', 'scores')} == {torch.float32} and not torch.is_autocast_enabled('cpu')
    sure = exact.sure(.5)
    assert len(sure) and box_iou(sure['boxes'], half['boxes']).amax(1).min() > .8
    assert (sure['scores'][0] - half['scores'][0]).abs() < .05

@pytest.mark.parametrize('kind', ['mask_rcnn', 'cascade_rcnn', 'retinanet', 'fcos', 'keypoint_rcnn', 'rpn'])
def test_sixteen_bits_of_every_kind(kind):
    "The scores of random weights may change their order; what comes back is float32 all the same."
    model = small(kind)
    seen = kinds(model)
    found = inference_detector(model, scene(3, size=64)[0], dict(amp=True))
    assert set(seen) == {torch.bfloat16} and {v.dtype for v in found.values() if v.is_floating_point()} == {torch.float32}

def test_sixteen_bits_from_the_command_line(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr('detbook.inference.mixed_precision', lambda device, on=True: asked.append(on) or mixed_precision(device, on))
    model = small()
    save_detector(tmp_path/'small.safetensors', model, CLASSES)
    Image.fromarray(scene(3, size=64)[0].permute(1, 2, 0).numpy()).save(tmp_path/'a.png')
    for flags in ([], ['--amp']): assert run_command(detbook_predict, [str(tmp_path/'a.png'), str(tmp_path/'small.safetensors'), '--device', 'cpu', *flags]) == 0
    assert asked == [False, True]

def test_layout_from_the_command_line(tmp_path):
    "Pixels side by side: detections as before, up to the last digits."
    model = small()
    save_detector(tmp_path/'small.safetensors', model, CLASSES)
    Image.fromarray(scene(3, size=64)[0].permute(1, 2, 0).numpy()).save(tmp_path/'a.png')
    found = []
    for i, flags in enumerate(([], ['--channels-last'])):
        assert run_command(detbook_predict, [str(tmp_path/'a.png'), str(tmp_path/'small.safetensors'), '--device', 'cpu', '--score_thr', '0', '--json', str(tmp_path/f'{i}.json'), *flags]) == 0
        found.append(sorted(row['score'] for row in json.loads((tmp_path/f'{i}.json').read_text())))
    assert len(found[0]) == len(found[1]) > 0 and found[0] == pytest.approx(found[1], abs=1e-3)
