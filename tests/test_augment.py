"Augmentation beyond its chapters: OpenCV's pixels for fixed draws, painted objects through long random chains, runs that go on bit for bit, and mmdetection's own pipelines."
import importlib.util, random
from pathlib import Path
import numpy as np, pytest, torch
from torch import Tensor
from torch.nn import functional as nnf
from torchvision import tv_tensors
from torchvision.transforms import v2
from detbook import toy
from detbook.augment import CutOut, Expand, MinIoURandomCrop, Pad, PhotoMetricDistortion, RandomAffine, RandomErasing, RandomShift, show_augmented
from detbook.config import Config
from detbook.data import CocoDataset
from detbook.loader import SeededItems, build_loader, build_plan
from detbook.mixing import Mosaic, MixUp
from detbook.nodes import ConfigError
from detbook.steps import build_transforms
from detbook.pipeline import build_dataset
from detbook.policies import Albu, AutoAugment, ColorTransform, GeomTransform, RandAugment, RandomChoice
from detbook.transforms import Augment, Crop, Flip, RandomResize, Resize, original_size

GOLDEN = np.load(Path(__file__).parent/'golden'/'augment.npz')
def plain(x): return x.as_subclass(Tensor)
def picture(key): return tv_tensors.Image(torch.from_numpy(GOLDEN[key][..., ::-1].copy()).permute(2, 0, 1).contiguous())        # red first
def boxes(rows, size): return tv_tensors.BoundingBoxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4), format='XYXY', canvas_size=size)

def given(step, *drawn):
    step._draw = lambda *_: drawn if len(drawn) > 1 else drawn[0]
    return step

def off(image, key): return (plain(image).double() - plain(picture(key)).double()).abs()

# ------------------------------------------------------------------ the pixels of mmdetection's formulas

NAMED = [k for k in GOLDEN.files if k.split()[0] in ('Color', 'Brightness', 'Contrast', 'Sharpness', 'Solarize', 'SolarizeAdd', 'Posterize')]

@pytest.mark.parametrize('key', [*NAMED, 'Equalize', 'AutoContrast'])
def test_colours(key):
    kind, *mag = key.split()
    image = given(ColorTransform(kind), float(mag[0]) if mag else 1.)(picture('img' if mag else 'big'), {})[0]
    worst = off(image, key)
    # OpenCV rounds once where a product and a sum are rounded here: one level, where that falls on an edge
    assert worst.max() <= (1 if kind in ('Color', 'Contrast', 'Sharpness') else 0) and (worst > 0).float().mean() < .2
    assert image.dtype == torch.uint8 and not torch.equal(plain(image), plain(picture('img'))) or key in ('Solarize 256.0', 'SolarizeAdd 0.0')

PHOTO = [(0, None, None, None, None, None), (1, -30., 1.4, 1.45, None, None), (0, 25., .6, .55, 11., [2, 0, 1]), (1, -32., None, 1.3, -17., [1, 2, 0]), (0, None, 1.2, None, 18., None)]

@pytest.mark.parametrize('n', range(len(PHOTO)))
def test_photometric_distortion(n):
    *draws, order = PHOTO[n]
    order = order and [2 - order[2 - i] for i in range(3)]
    image = given(PhotoMetricDistortion(), *draws, order)(picture('img'), {})[0]
    assert image.dtype == torch.float32 and off(image, f'PhotoMetricDistortion {n}').max() < 1e-3

MOVES = {'Rotate 13': ('Rotate', 13.), 'ShearX 9': ('ShearX', 9.), 'ShearY -9': ('ShearY', -9.), 'TranslateX 0.1': ('TranslateX', .1), 'TranslateY -0.1': ('TranslateY', -.1)}

@pytest.mark.parametrize('key', [*MOVES, 'RandomAffine'])
def test_moves(key):
    step = given(RandomAffine(border=(-2, 3)), 7., 1.2, 1.5, -1., .05*23, -.04*17) if key == 'RandomAffine' else given(GeomTransform(MOVES[key][0]), MOVES[key][1])
    image, t = step(picture('img'), dict(boxes=boxes([[2, 3, 12, 9], [10, 8, 23, 17]], (17, 23))))
    worst = off(image, key)                 # OpenCV 4 knows 32 places between two pixels, and these are as rough as can be
    assert worst.max() <= 12 and worst.mean() < .5
    torch.testing.assert_close(plain(t['boxes']), torch.from_numpy(GOLDEN[f'{key} boxes']), atol=1e-3, rtol=0)

def empty(key): x = picture(key); return x, dict(boxes=boxes([[1, 1, 9, 9]], x.shape[1:]), labels=torch.tensor([0]))

def test_mosaic_and_mixup():
    image, _ = given(Mosaic((60, 40)), 50, 30)(*empty('soft0'), [empty(f'soft{i}') for i in (1, 2, 3)])
    assert off(image, 'Mosaic').max() <= 1
    for n, (factor, mirror, *offset) in enumerate([(1.3, True, 4, 7), (.6, False, 0, 0)]):
        step = given(MixUp((60, 40)), factor, mirror)
        step._offset = lambda *_: tuple(offset)
        image, _ = step(*empty('soft0'), [empty('soft3')])
        assert off(image, f'MixUp {n}').max() <= 1

# ------------------------------------------------------------------ cases: draws, and what comes of them

CASES = [       # step with its draws, size (h, w), box, new size, new box; None where the object is lost
    (given(Expand((0, 0, 0)), 2.37, 31, 12), (40, 60), (10, 10, 30, 20), (94, 142), (41, 22, 61, 32)),
    (given(Expand(), 1.99, 0, 0), (33, 47), (0, 0, 47, 33), (65, 93), (0, 0, 47, 33)),
    (given(Expand(prob=.2), None), (40, 60), (10, 10, 30, 20), (40, 60), (10, 10, 30, 20)),
    (given(RandomShift(), -12, 31), (40, 60), (10, 2, 30, 20), (40, 60), (0, 33, 18, 40)),
    (given(RandomShift(filter_thr_px=7), -12, 31), (40, 60), (10, 2, 30, 20), (40, 60), (10, 2, 30, 20)),       # 7 pixels are not above 7: as it was
    (given(RandomErasing(1, .5), [(10, 10, 28, 20)]), (40, 60), (10, 10, 30, 20), (40, 60), None),              # nine tenths
    (given(RandomErasing(1, .5), [(10, 10, 27, 20)]), (40, 60), (10, 10, 30, 20), (40, 60), (10, 10, 30, 20)),
    (given(RandomErasing(1, .5), [(10, 10, 20, 20), (15, 10, 25, 20)]), (40, 60), (10, 10, 30, 20), (40, 60), None),    # what is erased twice counts twice
    (given(GeomTransform('TranslateX', max_mag=1.), .999), (40, 60), (0, 0, 30, 20), (40, 60), (59, 0, 60, 20)),
    (given(GeomTransform('TranslateX', max_mag=1.), 1.), (40, 60), (0, 0, 30, 20), (40, 60), None),
    (given(RandomAffine(border=(5, -3)), 0., 1., 0., 0., 5., -3.), (40, 60), (10, 10, 30, 20), (34, 70), (15, 7, 35, 17)),
    (given(RandomAffine(), 180., 1., 0., 0., 60., 40.), (40, 60), (10, 10, 30, 20), (40, 60), (30, 20, 50, 30)),
    (Pad((61, 41)), (40, 60), (10, 10, 30, 20), (41, 61), (10, 10, 30, 20)),
    (Pad(pad_to_square=True), (40, 60), (10, 10, 30, 20), (60, 60), (10, 10, 30, 20)),
    (given(CutOut(1, cutout_ratio=(.99, .99)), [(0, 0, 0)]), (40, 60), (10, 10, 30, 20), (40, 60), (10, 10, 30, 20))]

@pytest.mark.parametrize('step, size, box, new, expected', CASES, ids=range(len(CASES)))
def test_a_case(step, size, box, new, expected):
    image, t = Augment([step], min_size=0)(tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8)), dict(boxes=boxes([box], size), labels=torch.tensor([7])))
    assert tuple(image.shape[1:]) == t['size'] == new
    torch.testing.assert_close(plain(t['boxes']), torch.tensor([] if expected is None else [expected], dtype=torch.float32).reshape(-1, 4), atol=1e-3, rtol=0)
    assert t['labels'].tolist() == [7]*(expected is not None)

@pytest.mark.parametrize('u, start', [(0., 8), (.5, 4), (.999, 1)])
def test_the_window_is_drawn_between_its_margin_and_one(monkeypatch, u, start):
    "numpy.random.uniform(margin), as mmdetection calls it, is a draw between the margin and 1."
    draws = iter([.9 if u else .8, 1., u, u])
    monkeypatch.setattr('detbook.augment.torch.rand', lambda *a, **k: torch.tensor(next(draws), dtype=torch.float64))
    step, wide = MinIoURandomCrop(min_crop_size=.01), .01*40 + .99*40*(.9 if u else .8)
    x1, y1, x2, y2 = step._window(40, 40)
    left = (40 - wide) + (1 - (40 - wide))*u
    assert (x1, x2) == (int(left), int(left + wide)) and 0 <= y1 < y2 <= 40

# ------------------------------------------------------------------ painted objects

def painted(gen, n=5, masks=True):
    "Rectangles that do not touch; rectangle i has the grey 40*(i+1), and a keypoint in its middle."
    h, w = torch.randint(70, 100, (2,), generator=gen).tolist()
    image, rows = torch.zeros(3, h, w, dtype=torch.uint8), []
    for i in range(n):
        x1, y1 = w//3*(i % 3), h//2*(i//3)
        x2, y2 = (a + int(torch.randint(8, s-1, (), generator=gen)) for a, s in ((x1, w//3), (y1, h//2)))
        image[:, y1:y2, x1:x2] = 40*(i+1)
        rows.append((x1, y1, x2, y2))
    b = boxes(rows, (h, w))
    middle = torch.cat([(plain(b)[:, :2] + plain(b)[:, 2:])/2, torch.full((n, 1), 2.)], 1)[:, None]
    t = dict(boxes=b, labels=torch.arange(n), ignore=torch.arange(n) % 2 == 0, keypoints=middle, area=torch.arange(n)*10., track=torch.arange(n)[:, None].expand(n, 2), ori_size=(h, w))
    if masks: t['masks'] = tv_tensors.Mask((image[:1] == 40*(torch.arange(n)[:, None, None]+1)).byte())
    return tv_tensors.Image(image), t

def core(mask, k=2): return nnf.avg_pool2d(mask[None].float(), 2*k+1, 1, k)[0] > .999

def fields_agree(image, t):
    "Nothing out of step, nothing NaN, nothing outside."
    n, (h, w) = len(t['labels']), image.shape[-2:]
    for k, v in t.items():
        if isinstance(v, Tensor): assert len(v) == n and (not v.is_floating_point() or v.isfinite().all()), k
    b = plain(t['boxes'])
    assert (b >= 0).all() and (b <= torch.tensor([w, h, w, h])).all() and (b[:, 2:] > b[:, :2]).all()
    torch.testing.assert_close(t['area'], t['labels']*10.)
    assert torch.equal(t['track'], t['labels'][:, None].expand(n, 2)) and torch.equal(t['ignore'], t['labels'] % 2 == 0)
    xy, seen = t['keypoints'][..., :2], t['keypoints'][..., 2] > 0
    assert (xy[seen] >= 0).all() and (xy[seen] <= torch.tensor([w, h])).all() and (t['keypoints'][~seen] == 0).all()
    if 'masks' in t: assert tuple(t['masks'].shape[1:]) == (h, w) and set(t['masks'].unique().tolist()) <= {0, 1}

def objects_on_their_pixels(image, t):
    "The grey of each object where its mask is, two pixels from the rim, nearer to it than to any other grey, after what three steps blend; the mask within the box; the keypoint on the mask. How many had pixels to look at."
    looked = 0
    for label, mask, box, (x, y, flag) in zip(t['labels'].tolist(), plain(t['masks']).bool(), plain(t['boxes']), t['keypoints'][:, 0]):
        inner = core(mask)
        assert ((plain(image)[0].float()[inner] - 40*(label+1)).abs() <= 30).all()
        if mask.any():
            out = (toy.mask_boxes(mask[None])[0] - box)*torch.tensor([-1, -1, 1, 1])
            assert out.max() <= 1.5
        if flag: assert mask[max(int(y) - 1, 0):int(y) + 2, max(int(x) - 1, 0):int(x) + 2].any()
        looked += int(inner.any())
    return looked

GEOMETRY = [Expand(prob=1., ratio_range=(1, 1.6)), Pad((110, 110)), RandomShift(1.), MinIoURandomCrop(), RandomAffine(15., border_val=(0, 0, 0)), Flip(.5), Flip(1., direction='vertical'), Resize((110, 90), (.8, 1.3)), Crop((60, 60)),
            RandomResize([(90, 80)], keep_ratio=False, antialias=False), *(GeomTransform(k, img_border_value=0) for k in ('ShearX', 'ShearY', 'Rotate', 'TranslateX', 'TranslateY'))]

def test_painted_objects_stay_on_their_pixels():
    gen, looked = torch.Generator().manual_seed(0), 0
    for seed in range(250):
        torch.manual_seed(seed)
        chain = [GEOMETRY[i] for i in torch.randperm(len(GEOMETRY))[:3]]
        image, t = Augment(chain, min_size=0)(*painted(gen))
        try:
            fields_agree(image, t)
            looked += objects_on_their_pixels(image, t)
        except AssertionError as e: raise AssertionError(f'seed {seed}: {[type(s).__name__ for s in chain]}') from e
    assert looked > 500

def test_the_check_of_painted_objects_can_fail():
    gen, slips = torch.Generator().manual_seed(0), 0
    for seed in range(20):
        image, t = painted(gen)
        for wrong in (lambda x: x.roll(3, -1), lambda x: x.flip(-1)):
            try: objects_on_their_pixels(tv_tensors.Image(wrong(plain(image))), t)
            except AssertionError: slips += 1
    assert slips == 40

ANY = [*GEOMETRY, PhotoMetricDistortion(), CutOut((0, 3), [(9, 9), (20, 5)]), RandomErasing((1, 4), (.1, .3)), AutoAugment(), RandAugment(), RandomChoice([[Flip(1.)], [Expand(), MinIoURandomCrop()]]), v2.GaussianBlur(3), v2.RandomZoomOut(), v2.RandomIoUCrop(), v2.RandomGrayscale()]

@pytest.mark.parametrize('masks', [True, False])
def test_no_field_falls_out_of_step_in_any_chain(masks):
    gen = torch.Generator().manual_seed(1)
    for seed in range(100):
        torch.manual_seed(1000 + seed)
        chain = [ANY[i] for i in torch.randint(len(ANY), (4,))]
        n = 0 if seed % 5 == 0 else 5
        image, t = painted(gen, max(n, 1), masks)
        if n == 0: t = {k: tv_tensors.wrap(v[:0], like=v) if isinstance(v, tv_tensors.TVTensor) else v[:0] if isinstance(v, Tensor) else v for k,v in t.items()}
        try: fields_agree(*Augment(chain, min_size=0)(image, t))
        except Exception as e: raise AssertionError(f'seed {seed}: {[type(s).__name__ for s in chain]}') from e

@pytest.mark.parametrize('step', [s for s in ANY if not type(s).__module__.startswith('torchvision')], ids=lambda s: getattr(s, 'kind', type(s).__name__))
def test_one_pixel(step):
    for rows in ([], [(0, 0, 1, 1)]):
        for seed in range(5):
            torch.manual_seed(seed)
            got = Augment([step], min_size=0)(tv_tensors.Image(torch.full((3, 1, 1), 9, dtype=torch.uint8)), dict(boxes=boxes(rows, (1, 1)), labels=torch.zeros(len(rows), dtype=torch.int64), masks=tv_tensors.Mask(torch.ones(len(rows), 1, 1, dtype=torch.uint8))))
            assert got is None or len(got[1]['boxes']) == len(got[1]['labels']) == len(got[1]['masks'])

def test_float_pictures_go_through_every_step():
    image, t = painted(torch.Generator().manual_seed(0))
    for step in ANY:
        if not type(step).__module__.startswith('torchvision'): fields_agree(*Augment([step], min_size=0)(tv_tensors.Image(image.float()), dict(t)))

def test_proposals_go_along():
    image, t = painted(torch.Generator().manual_seed(0))
    for step in (given(Expand(), 1.5, 7, 3), given(RandomShift(), 7, 3), given(RandomAffine(), 5., 1.1, 0., 0., 3., 2.)):
        moved = Augment([step], min_size=0)(image, {**t, 'proposals': torch.cat([plain(t['boxes']), torch.arange(5.)[:, None]], 1)})[1]
        torch.testing.assert_close(moved['proposals'][:, :4], plain(moved['boxes']))

def test_pictures_that_were_changed_are_not_carried_back():
    image, t = painted(torch.Generator().manual_seed(0))
    for step in (given(Expand(), 1., 0, 0), given(RandomAffine(), 5., 1., 0., 0., 0., 0.), given(RandomShift(), 3, 3)):
        with pytest.raises(ValueError, match='moved'): original_size(Augment([step], min_size=0)(image, t)[1])

# ------------------------------------------------------------------ data sets and configs

@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('toy')
    toy.write_coco(folder, 10, seed=3, size=(64, 96))
    return folder

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]

def mixed(root, pipeline, load=LOAD): return dict(type='MultiImageMixDataset', pipeline=[*pipeline, dict(type='PackDetInputs')],
    dataset=dict(type='CocoDataset', data_root=str(root), ann_file='instances.json', data_prefix=dict(img='images'), pipeline=load))

EVERY = [dict(type='Mosaic', img_scale=(64, 64)), dict(type='RandomAffine', border=(-32, -32)), dict(type='MixUp', img_scale=(64, 64)), dict(type='AutoAugment'), dict(type='RandAugment'), dict(type='Expand', ratio_range=(1, 2)), dict(type='MinIoURandomCrop'),
         dict(type='RandomShift'), dict(type='CutOut', n_holes=(1, 3), cutout_shape=[(8, 8), (4, 16)]), dict(type='RandomErasing', n_patches=(0, 2), ratio=(0, .2)), dict(type='PhotoMetricDistortion'), dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2)), dict(type='RandomFlip', prob=.5)]

@pytest.mark.parametrize('context', ['fork'])
def test_a_run_that_goes_on_sees_the_same_pictures(root, context):
    loader = dict(batch_size=2, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=True), dataset=mixed(root, EVERY))
    ds = build_dataset(loader['dataset'])
    plan = build_plan(loader, ds, seed=4)
    whole = list(build_loader(ds, loader, plan, epoch=1, num_workers=0))
    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    later = list(build_loader(build_dataset(loader['dataset']), loader, plan, epoch=1, start=2, context=context))
    assert len(later) == len(whole) - 2 > 0
    for (images, targets), (again, others) in zip(whole[2:], later, strict=True):
        for a, b in zip([*images, *(v for t in targets for v in t.values())], [*again, *(v for t in others for v in t.values())], strict=True):
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    assert torch.equal(state[0], torch.get_rng_state()) and (state[1] == np.random.get_state()[1]).all() and state[2] == random.getstate()

def test_mmdetections_copy_and_paste(root):
    load = [*LOAD, dict(type='RandomResize', scale=(64, 64), ratio_range=(.8, 1.25), keep_ratio=True), dict(type='RandomCrop', crop_type='absolute_range', crop_size=(64, 64), recompute_bbox=True, allow_negative_crop=True),
            dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)), dict(type='RandomFlip', prob=.5), dict(type='Pad', size=(64, 64), pad_val=dict(img=(1, 2, 3)))]
    ds = build_dataset(mixed(root, [dict(type='CopyPaste', max_num_pasted=100)], load))
    more = 0
    for seed in range(20):
        image, t = SeededItems(ds)[seed, seed % 10]
        assert image.shape == (3, 64, 64) and {len(v) for v in t.values() if isinstance(v, Tensor)} == {len(t['labels'])}
        alone = SeededItems(ds.dataset)[seed, seed % 10]
        more += len(t['labels']) > len(alone[1]['labels'])
    assert more > 5 and plain(ds.dataset.transforms.steps[-1](tv_tensors.Image(torch.zeros(3, 9, 9, dtype=torch.uint8)), {})[0])[:, -1, -1].tolist() == [3, 2, 1]

def test_in_testing_pictures_are_not_filled_up(root):
    with pytest.raises(ConfigError, match='BatchFixedSizePad'): build_transforms([dict(type='Pad', size=(64, 64))], test_mode=True)

@pytest.mark.parametrize('step, text', [
    (dict(type='Mosaic'), 'MultiImageMixDataset'), (dict(type='CopyPaste'), 'MultiImageMixDataset'), (dict(type='CachedMosaic'), 'cache'), (dict(type='Expand', ratio_rang=(1, 2)), 'did you mean'),
    (dict(type='Expand', ratio_range=(.5, 2)), 'from 1'), (dict(type='CutOut', n_holes=1), 'one of the two'), (dict(type='CutOut'), 'n_holes'), (dict(type='Rotate', level=11), 'level'), (dict(type='Rotate', max_mag=200.), '180'),
    (dict(type='Rotate', interpolation='nearest'), 'bilinear'), (dict(type='RandomAffine', bbox_clip_border=False), 'True alone'), (dict(type='RandomAffine', scaling_ratio_range=(2, 1)), 'least, most'), (dict(type='AutoAugment', policies=[[dict(type='Rotat')]]), r'policies\.0\.0.*did you mean'),
    (dict(type='RandAugment', aug_num=16), 'at most 15'), (dict(type='RandomChoice', transforms=[[dict(type='RandomFlip', prob=.5)]], prob=[.5]), 'sum'), (dict(type='RandomChoice', transforms=7), 'list of lists'), (dict(type='Pad', size=(9, 9), padding_mode='edge'), 'constant'),
    (dict(type='InstaBoost'), 'does not have'), (dict(type='Albu', transforms=[dict(type='Blur')], bbox_param={}), 'did you mean|albumentations')])
def test_a_step_that_cannot_be_built_is_named(step, text):
    with pytest.raises(ConfigError, match=text) as e: build_transforms([dict(type='PackDetInputs'), step], 'the.pipeline')
    assert str(e.value).startswith('the.pipeline.1') and '\n' not in str(e.value)

def test_albu_says_what_is_missing():
    if importlib.util.find_spec('albumentations'):
        assert len(Augment([Albu([dict(type='HorizontalFlip', p=1.)])])(*painted(torch.Generator().manual_seed(0)))[1]['labels']) == 5
    else:
        with pytest.raises(ModuleNotFoundError, match='pip install albumentations'): Albu([dict(type='Blur')])

SPEC = importlib.util.find_spec('mmdet')
CONFIGS = next((Path(p)/'.mim'/'configs' for p in SPEC.submodule_search_locations if (Path(p)/'.mim'/'configs').is_dir()), None) if SPEC else None
FAMILY = dict(simple_copy_paste=4, ssd=3, pascal_voc=6, swin=5, convnext=3, wider_face=2, yolof=2, detr=4)        # those that use these steps

@pytest.mark.skipif(CONFIGS is None, reason="mmdet is not installed: pip install '.[dev]'")
@pytest.mark.parametrize('family', FAMILY)
def test_training_pipelines_of_mmdetection_build(family):
    from detbook.steps import Pipeline, add_steps
    def pipelines(ds, path):
        if 'pipeline' in ds: yield ds['pipeline'], path, ds.get('type') == 'MultiImageMixDataset'
        for d in [ds['dataset']] if 'dataset' in ds else ds.get('datasets', ()): yield from pipelines(d, path)
    built = 0
    for f in sorted((CONFIGS/family).glob('*.py')):
        cfg = Config.fromfile(f)
        for steps, path, several in pipelines(cfg.get('train_dataloader', {}).get('dataset', {}), f.name):
            made = Pipeline()
            made.mixes = made.masks = several
            add_steps(made, steps, path)
        built += 'train_dataloader' in cfg
    assert built == FAMILY[family]

def test_panels_depend_on_the_seed_alone(root):
    ds = CocoDataset(root/'instances.json', transforms=Flip(1.))
    first = [ax.images[0].get_array() for ax in show_augmented(ds, [Flip(.5), PhotoMetricDistortion()], n=3, index=2)]
    torch.rand(5)
    again = [ax.images[0].get_array() for ax in show_augmented(ds, [Flip(.5), PhotoMetricDistortion()], n=3, index=2)]
    assert all((a == b).all() for a,b in zip(first, again)) and not all((a == first[0]).all() for a in first)
    assert ds.transforms is not None                     # the data set keeps its own steps
