"One file, one size: whoever opens a detector, it looks at a picture in the size that its file says."
import warnings
import numpy as np, pytest, torch
from PIL import Image
from detbook.reading import read_checkpoint
from detbook.checkpoint import load_checkpoint
from detbook.describe import save_detector
from detbook.config import Config, build_detector
from detbook.detections import Detections
from detbook.inference import Predictor, inference_detector, init_detector
from detbook.models import faster_rcnn
from detbook.weights import check_scale, detbook_convert, load_detector, picture_size, pipeline_scale, same_scale

pytestmark = pytest.mark.usefixtures('one_thread')

CONFIG = """
_base_ = 'faster-rcnn_r50_fpn_1x_coco'
model = dict(backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None), neck=dict(in_channels=[64, 128, 256, 512], out_channels=16), rpn_head=dict(in_channels=16, feat_channels=16),
             roi_head=dict(bbox_roi_extractor=dict(out_channels=16), bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=2)))
test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=SCALE, keep_ratio=True), dict(type='PackDetInputs')]))
"""

@pytest.fixture(scope='module')
def there(tmp_path_factory):
    "A folder with a picture, a config of the same size as the file, one of another, and files of one detector in every form."
    folder = tmp_path_factory.mktemp('size')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8)).save(folder/'p.png')
    for name, scale in (('same', (96, 72)), ('other', (160, 120))): (folder/f'{name}.py').write_text(CONFIG.replace('SCALE', str(scale)))
    torch.manual_seed(0)
    cfg = Config.fromfile(folder/'same.py')
    model = build_detector(cfg.model)
    model.roi_head.bbox_head.fc_cls.weight.data *= 40
    for smooth in (True, False): save_detector(folder/f'{smooth}.safetensors', model, ('cat', 'dog'), dict(resize=[72, 96], antialias=smooth))
    save_detector(folder/'silent.safetensors', model, ('cat', 'dog'))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=cfg.dump(), dataset_meta=dict(classes=('cat', 'dog')))), folder/'alone.pth')
    torch.save(model.state_dict(), folder/'bare.pth')
    return folder

def built(there, name): return build_detector(Config.fromfile(there/f'{name}.py').model).eval()

def filled(there, path, name='same'):
    model = built(there, name)
    load_checkpoint(model, path)
    return model

def same(a, b):
    assert set(a) == set(b) and len(a['boxes'])
    for k in a: torch.testing.assert_close(a[k], b[k])
    assert a.names == b.names

@pytest.mark.parametrize('smooth', [True, False])
def test_every_loader(there, tmp_path, smooth):
    path, p = there/f'{smooth}.safetensors', there/'p.png'
    first = inference_detector(init_detector(path, device='cpu'), p)
    cfg = Config.fromfile(there/'same.py')
    detbook_convert(str(path), str(tmp_path/'c.safetensors')); detbook_convert(str(path), str(tmp_path/'c.pth')); detbook_convert(str(tmp_path/'c.pth'), str(tmp_path/'d.safetensors'))
    again = init_detector(path, device='cpu')
    load_checkpoint(again, path)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for model, third in ((load_detector(path), None), (init_detector(there/'same.py', path, 'cpu'), None), (filled(there, path), None), (filled(there, path), cfg), (filled(there, path), dict(cfg)),
                             (load_detector(path), cfg), (load_detector(tmp_path/'c.safetensors'), None), (load_detector(tmp_path/'c.pth'), None), (init_detector(tmp_path/'d.safetensors', device='cpu'), None), (again, None)):
            same(inference_detector(model, p, third), first)
            if third is None: same(Predictor(model)(p), first)
    assert set(first.names) <= {'cat', 'dog'}

@pytest.mark.parametrize('smooth', [True, False])
def test_a_difference_is_said(there, smooth):
    path, p, cfg = there/f'{smooth}.safetensors', there/'p.png', Config.fromfile(there/'other.py')
    first = inference_detector(init_detector(path, device='cpu'), p)
    with pytest.warns(UserWarning, match=r'160, 120.*96') as said: found = inference_detector(load_detector(path), p, cfg)
    assert '\n' not in str(said[-1].message)
    same(found, inference_detector(load_detector(path), p, dict(scale=(160, 120), antialias=False)))        # the config in hand counts
    with pytest.warns(UserWarning, match=r'72, 96.*160, 120'): same(inference_detector(init_detector(there/'other.py', path, 'cpu'), p), first)     # of a loader the file

def test_where_the_file_is_silent_the_config_counts(there):
    p = there/'p.png'
    for path in ('silent.safetensors', 'bare.pth'):
        first = inference_detector(init_detector(there/'other.py', there/path, 'cpu'), p)
        same(inference_detector(filled(there, there/path), p, Config.fromfile(there/'other.py')) if path[0] == 's' else first, first)
    assert init_detector(there/'silent.safetensors', device='cpu').test_scale is None

def test_a_config_inside_the_file(there):
    p = there/'p.png'
    first = inference_detector(init_detector(there/'alone.pth', device='cpu'), p)
    for model in (load_detector(there/'alone.pth'), init_detector(there/'same.py', there/'alone.pth', 'cpu'), filled(there, there/'alone.pth'), load_detector(there/'bare.pth', arch=str(there/'same.py'), classes=('cat', 'dog'))):
        same(inference_detector(model, p), first)

def test_another_file_afterwards(there):
    model = init_detector(there/'True.safetensors', device='cpu', scale=(50, 40))
    assert model.test_scale == (50, 40)
    load_checkpoint(model, there/'False.safetensors')
    same(inference_detector(model, there/'p.png'), inference_detector(load_detector(there/'False.safetensors'), there/'p.png'))

def test_other_classes_forget_the_size(there):
    "Predictors that start anew learn at a size of their own."
    model = faster_rcnn(18, 3, channels=16, scratch=True)
    assert not hasattr(model, 'loaded_from')
    three = load_detector(there/'True.safetensors', num_classes=3)
    assert list(three.test_scale) == [72, 96], 'until they have'

@pytest.mark.parametrize('note', ['big', [0, 5], [-1, 2], [5], [1, 2, 3], {}, True, float('nan'), [float('nan'), 5], 640, [None, 3]])
def test_a_size_that_is_none(there, tmp_path, note):
    with pytest.raises(ValueError) as e: check_scale(note)
    assert '\n' not in str(e.value)
    if note != note or isinstance(note, list) and note[0] != note[0]: return                # no JSON
    state = read_checkpoint(there/'True.safetensors')
    from detbook.checkpoint import save_checkpoint
    save_checkpoint(tmp_path/'x.safetensors', dict(state), dict(state.metadata, preprocessing=dict(state.metadata['preprocessing'], resize=note)))
    with pytest.warns(UserWarning, match='x.safetensors.*resize'): load_detector(tmp_path/'x.safetensors')

def test_scales_are_compared_as_limits():
    assert same_scale((1333, 800), [800, 1333]) and same_scale(None, 1.) and not same_scale((1333, 800), None) and not same_scale(2., (2, 2))
    assert pipeline_scale(dict(test_pipeline=[])) is None and picture_size('x.pth') == (None, True)

@pytest.mark.parametrize('cfg', ['iou', 'x.py', 5, [('iou', .5)], dict(iuo=.5), {1: 2}, dict(data=dict(test=dict(pipeline=[]))), dict(model={}, test_pipeline=[dict(type='Resize', scale=(9, 9))]), dict(scale='a'), dict(score_thr=50), dict(bs=0)])
def test_wrong_third_arguments(there, cfg):
    with pytest.raises((TypeError, ValueError)) as e: inference_detector(load_detector(there/'True.safetensors'), there/'p.png', cfg)
    assert '\n' not in str(e.value) and len(str(e.value)) > 20
    if cfg == dict(iuo=.5): assert "'iou'" in str(e.value)

@pytest.mark.parametrize('names', [('one',), ('a', 'b', 'c'), 'ab', 7])
def test_wrong_number_of_names(there, names):
    model = load_detector(there/'True.safetensors')
    model.classes = names
    with pytest.raises((TypeError, ValueError), match='names') as e: inference_detector(model, there/'p.png')
    assert '\n' not in str(e.value)
    if names != 'ab':
        with pytest.raises((TypeError, ValueError)): init_detector(there/'True.safetensors', device='cpu', classes=names)

BASE = dict(boxes=torch.tensor([[0., 0, 4, 4], [1, 1, 5, 5]]), scores=torch.tensor([.9, .8]), labels=torch.tensor([0, 1]))
@pytest.mark.parametrize('wrong', [dict(labels=torch.tensor([0, -1])), dict(labels=torch.tensor([0, 2])), dict(labels=torch.tensor([0])), dict(labels=torch.tensor([0., 1])), dict(labels=torch.tensor([True, False])),
    dict(scores=torch.tensor([.9])), dict(scores=torch.tensor([.9, torch.nan])), dict(scores=torch.tensor([torch.inf, .1])), dict(scores=torch.tensor([[.9], [.8]])), dict(boxes=torch.zeros(2, 5)), dict(boxes=torch.zeros(3, 4)),
    dict(boxes=torch.tensor([[0., 0, 4, torch.nan], [1, 1, 5, 5]])), dict(masks=torch.zeros(1, 8, 9)), dict(masks=torch.zeros(2, 9, 8)), dict(masks=torch.zeros(8, 9)), dict(masks=[dict(size=[9, 8], counts=b'')]*2),
    dict(masks=[1, 2]), dict(keypoints=torch.zeros(2, 5)), dict(keypoints=torch.zeros(1, 5, 3)), dict(keypoints=torch.full((2, 5, 3), torch.nan)), dict(track=torch.zeros(3)), dict(scores=None), dict(boxes='a')], ids=str)
def test_what_does_not_fit_together(wrong):
    with pytest.raises((ValueError, TypeError)) as e: Detections(BASE | wrong, (8, 9), 'a.png', ('cat', 'dog'))
    assert '\n' not in str(e.value) and len(str(e.value)) > 15

def test_detections_that_fit():
    for form in (lambda v: v, lambda v: v.numpy(), lambda v: v.tolist()):
        d = Detections({k: form(v) for k, v in BASE.items()}, (8, 9), classes=('cat', 'dog'))
        assert d.names == ['cat', 'dog'] and d[[1]].names == ['dog'] and d.to_coco(3)[1]['category_id'] == 2
    assert Detections({k: [] for k in BASE}).names == [] and len(Detections({k: v[:0] for k, v in BASE.items()}, (8, 9))['boxes']) == 0
    for lacks in BASE:
        with pytest.raises(ValueError, match=lacks): Detections({k: v for k, v in BASE.items() if k != lacks})
    with pytest.raises(ValueError, match='category_ids'): d.to_coco(1, [5])
    with pytest.raises(TypeError): Detections(BASE, classes='ab')
    with pytest.raises(KeyError, match='masks'): d['masks']
