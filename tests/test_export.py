"Exported detectors find what the detectors find: in plain PyTorch, in onnxruntime, in torch.export."
import sys
import pytest, torch
from PIL import Image
from torch import nn
from detbook.backbone import ResNet
from detbook.neck import FPN
from detbook.models import RPN, FasterRCNN, MaskRCNN, CascadeRCNN, KeypointRCNN, RetinaNet, FCOS
from detbook.c4 import faster_rcnn_c4, mask_rcnn_c4
from detbook.rpn import RPNHead, ProposalFilter
from detbook.fast_rcnn import BoxHead, DetectionFilter, RoIHead
from detbook.masks import MaskHead, paste_masks
from detbook.keypoint_rcnn import KeypointHead, heatmaps_to_keypoints
from detbook.cascade_rcnn import CascadeRoIHead, cascade_heads
from detbook.retinanet import DenseFilter, RetinaHead
from detbook.fcos import FCOSHead
from detbook.roi import RoIExtractor
from detbook.nms import SoftNMS
from detbook.fast_rcnn import FastRCNN
from detbook.cli import run_command
from detbook.toy import scene
from detbook.tiny import toy_detector
from detbook.inference import Detections, inference_detector
from detbook.results import encode_mask
from detbook.export import _Whole, suppress_mask, export, load_onnx, detbook_export

C = 16

def parts(start=0, **fpn):
    backbone = ResNet(18, frozen_stages=-1, norm_eval=False)
    return dict(backbone=backbone, neck=FPN(backbone.out_channels, C, start_level=start, **fpn))

def rpn(**kw): return RPNHead(C, test_filter=ProposalFilter(60, 40), **kw)
def box(n=3, **kw): return BoxHead(n, C, fc_channels=32, **kw)

BUILD = {
    'rpn': lambda: RPN(**parts(), rpn_head=rpn()),
    'faster': lambda: FasterRCNN(3, **parts(), rpn_head=rpn(), roi_head=RoIHead(box())),
    'faster_agnostic': lambda: FasterRCNN(3, **parts(), rpn_head=rpn(), roi_head=RoIHead(box(), test_filter=DetectionFilter(class_agnostic=True, min_size=8),
        bbox_extractor=RoIExtractor(7, aligned=False, ratio=2))),
    'faster_fcos': lambda: FasterRCNN(3, **parts(1), rpn_head=FCOSHead(1, C, 1, C, norm_groups=4, first_stage=True), roi_head=RoIHead(box(), bbox_extractor=RoIExtractor(7, (8,16,32,64)))),
    'mask': lambda: MaskRCNN(3, **parts(), rpn_head=rpn(), roi_head=RoIHead(box(), MaskHead(3, C, 1, C))),
    'cascade': lambda: CascadeRCNN(3, **parts(), rpn_head=rpn(), roi_head=CascadeRoIHead(cascade_heads(3, C, 32), [MaskHead(3, C, 1, C) for _ in range(3)])),
    'cascade_boxes': lambda: CascadeRCNN(3, **parts(), rpn_head=rpn(), roi_head=CascadeRoIHead(cascade_heads(3, C, 32), mean_of='probabilities')),
    'keypoint': lambda: KeypointRCNN(1, 5, **parts(), rpn_head=rpn(), roi_head=RoIHead(box(1), keypoint_head=KeypointHead(5, C, 1, C))),
    'retina': lambda: RetinaNet(3, **parts(1, extra='on_input'), bbox_head=RetinaHead(3, C, 1, C)),
    'fcos': lambda: FCOS(3, **parts(1, extra='on_output', relu_before_extra=True), bbox_head=FCOSHead(3, C, 1, C, norm_groups=4, centerness_on_reg=True)),
    'fcos_late': lambda: FCOS(3, **parts(1), bbox_head=FCOSHead(3, C, 1, C, norm_groups=4, in_strides=True, test_filter=DenseFilter(50, .3, late_clip=True, root=True))),
    'c4': lambda: faster_rcnn_c4(18, 3, 'pytorch', True),
    'mask_c4': lambda: mask_rcnn_c4(18, 3, 'pytorch', True),
}

def spread(model, seed=0):
    "Random answers that differ: the last layers are made loud, so that no two scores are near each other."
    g = torch.Generator().manual_seed(seed)
    for name, m in model.named_modules():
        last = name.rpartition('.')[2]
        if last in ('rpn_cls', 'fc_cls', 'retina_cls', 'conv_cls', 'conv_centerness'):
            nn.init.normal_(m.weight, std=.3, generator=g); nn.init.zeros_(m.bias)
        if last in ('rpn_reg', 'retina_reg', 'fc_reg'): nn.init.normal_(m.weight, std=.05, generator=g)
        if last == 'conv_reg': nn.init.constant_(m.bias, 3.)
    return model.eval()

def build(kind):
    torch.manual_seed(0)
    model = spread(BUILD[kind]())
    if 'c4' in kind: model.rpn_head.test_filter = ProposalFilter(60, 20)      # a stage of the network for each of 1000 takes long
    return model

def pictures(n=2, size=(64, 96)): return [torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(i), dtype=torch.uint8) for i in range(n)]

def run_plain(model, images, suppress=suppress_mask, fixed=True):
    H, W = (max(-(-im.shape[d] // 32)*32 for im in images) for d in (1, 2))
    x = torch.zeros(len(images), 3, H, W)
    for o,im in zip(x, images): o[:, :im.shape[1], :im.shape[2]] = im
    sizes = torch.tensor([im.shape[1:] for im in images], dtype=torch.float32)
    with torch.no_grad(): return _Whole(model, suppress, fixed).eval()(x, sizes)

def same(model, images, out, want, box_tol=1e-3, score_tol=1e-4):
    assert len(out[3]) == len(want)
    for i, (im, w) in enumerate(zip(images, want)):
        v = out[3][i]
        assert int(v.sum()) == len(w['boxes'])
        boxes, scores, labels = (x[i][v] for x in out[:3])
        order, ref = scores.argsort(descending=True, stable=True), w['scores'].argsort(descending=True, stable=True)
        boxes = boxes[order]
        torch.testing.assert_close(scores[order], w['scores'][ref], rtol=0, atol=score_tol)
        assert torch.equal(labels[order], w['labels'][ref])
        torch.testing.assert_close(boxes, w['boxes'][ref], rtol=0, atol=box_tol)
        if 'masks' in w:
            head = getattr(model.roi_head.mask_head, '__getitem__', lambda i: model.roi_head.mask_head)(-1)
            m = paste_masks(out[4][i][v][order], boxes, tuple(im.shape[1:]), head.threshold, whole=head.whole)
            off = (m != w['masks'][ref]).flatten(1).sum(1)
            assert off.numel() == 0 or off.max() <= 3
        if 'keypoints' in w:
            p = heatmaps_to_keypoints(out[4][i][v][order], boxes, model.roi_head.keypoint_head.score == 'probability')
            torch.testing.assert_close(p, w['keypoints'][ref], rtol=0, atol=1e-2)

@pytest.mark.parametrize('kind', BUILD)
def test_fixed_shapes_find_the_same(kind):
    model = build(kind)
    images = pictures()
    want = model.predict(images)
    assert min(len(w['boxes']) for w in want) > 3
    for fixed in (True, False): same(model, images, run_plain(model, images, fixed=fixed), want)

@pytest.mark.parametrize('kind', ['faster', 'mask', 'keypoint', 'retina'])
def test_nothing_found(kind):
    model = build(kind)
    f = getattr(model, 'roi_head', None) or model.bbox_head
    f.test_filter.score_thr = 1.
    out = run_plain(model, pictures())
    assert not out[3].any()
    same(model, pictures(), out, model.predict(pictures()))

def test_pictures_of_two_sizes_in_a_frame():
    model = build('faster')
    images = pictures(1) + pictures(1, (50, 41))
    same(model, images, run_plain(model, images), model.predict(images))

def test_other_suppression_is_refused():
    model = build('faster')
    model.roi_head.test_filter = DetectionFilter(suppress=SoftNMS())
    with pytest.raises(ValueError, match='suppresses by SoftNMS, and an exported one only by NMS'): run_plain(model, pictures())

# ---- files

def scenes(n): return [scene(i, size=96, objects=(1,3), crowd=0, empty=0)[0] for i in range(n)]

@pytest.fixture(scope='module')
def toy_file(tmp_path_factory):
    "The toy detector in ONNX, any number of pictures."
    pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    return export(toy_detector(), tmp_path_factory.mktemp('onnx')/'toy.onnx', size=(96, 128), dynamic='batch')

def test_toy_file_is_the_twin(toy_file, tmp_path):
    model, twin = toy_detector(), load_onnx(toy_file, threads=1)
    assert twin.classes == tuple(model.classes) and twin.size == (96, 128)
    assert 'any number at once' in repr(twin)
    images = [torch.nn.functional.pad(im, (0, 32)) for im in scenes(5)]     # as large as the frame: predict sees the same
    want = inference_detector(model, images)
    for bs in (1, 2):
        found = twin.predict(images, bs=bs)
        assert len(found) == 5 and sum(len(d['boxes']) for d in found) >= 5
        for d, w in zip(found, want):
            torch.testing.assert_close(d['boxes'], w['boxes'], rtol=0, atol=1e-3)
            torch.testing.assert_close(d['scores'], w['scores'], rtol=0, atol=1e-4)
            assert torch.equal(d['labels'], w['labels']) and d.names == w.names and d.size == w.size
    path = tmp_path/'a.png'
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(path)
    one = twin.predict(path)
    assert isinstance(one, Detections) and one.source == str(path) and torch.allclose(one['boxes'], found[0]['boxes'], atol=1e-3)
    assert len(list(twin.predict(im for im in images))) == 5
    blank = twin.predict(torch.zeros(3, 96, 128, dtype=torch.uint8))
    assert len(blank['boxes']) == len(inference_detector(model, torch.zeros(3, 96, 128, dtype=torch.uint8))['boxes'])

def test_larger_pictures_are_shrunk_into_the_frame(toy_file):
    twin = load_onnx(toy_file)
    assert twin.view((96, 128)) == (96, 128) and twin.view((40, 50)) == (40, 50)
    assert twin.view((192, 192)) == (96, 96) and twin.view((100, 1000)) == (13, 128)
    large = torch.nn.functional.interpolate(scenes(1)[0][None].float(), scale_factor=2).byte()[0]
    small, = twin.predict([scenes(1)[0]])
    d, = twin.predict([large])
    assert d.size == (192, 192) and torch.allclose(d['boxes'] / 2, small['boxes'], atol=2)

def test_torch_export_needs_no_onnx(tmp_path):
    model = toy_detector()
    path = export(model, tmp_path/'toy.pt2', 'torch.export', (96, 96), batch=2)
    twin = load_onnx(path)
    for d, w in zip(twin.predict(scenes(3)), inference_detector(model, scenes(3))):
        torch.testing.assert_close(d['boxes'], w['boxes'], rtol=0, atol=1e-3)
        assert d.names == w.names
    out = torch.export.load(path).module()(torch.stack(scenes(2)).float(), torch.full((2, 2), 96.))
    assert [tuple(o.shape) for o in out] == [(2, 100, 4), (2, 100), (2, 100), (2, 100)]

def test_mistakes(tmp_path, toy_file):
    model, path = toy_detector(), tmp_path/'x.onnx'
    for kw, text in (dict(format='onx'), "format is 'onx'.*did you mean 'onnx'"), (dict(part='hole'), "part is 'hole'.*'whole'"), (dict(dynamic='sizes'), "dynamic is 'sizes'.*'size'"), \
                    (dict(size=(100, 640)), r'size is \(100, 640\); heights and widths are multiples of 32.*\(128, 640\)'), (dict(format='torch.export', half=True), "half=True is for format='onnx'"):
        with pytest.raises(ValueError, match=text): export(model, path, **kw)
    with pytest.raises(ValueError, match='size'): export(model, path, size=(0, 32))
    with pytest.raises(TypeError, match='model is a Linear'): export(nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match='FastRCNN needs proposals beside the pictures'): export(FastRCNN(3, **parts(), roi_head=RoIHead(box())), path)
    with pytest.raises(IsADirectoryError): export(model, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match='toy.onnx'): load_onnx(toy_file.with_name('toi.onnx'))
    for name, data, text in ('a.onnx', b'nothing', 'a.onnx is no file in ONNX'), ('b.onnx', toy_file.read_bytes()[:20000], 'b.onnx is no file in ONNX'), ('c.pt2', b'PK\3\4', 'c.pt2 is no file of torch.export'):
        (tmp_path/name).write_bytes(data)
        with pytest.raises(ValueError, match=text): load_onnx(tmp_path/name)

def test_a_file_without_notes(tmp_path, toy_file):
    import onnx
    other = onnx.load(toy_file)
    for value, text in (None, 'says nothing about classes'), ('{', 'no JSON'), ('{"_format": 7}', 'another version of detbook: its notes are of format 7'):
        del other.metadata_props[:]
        if value: onnx.helper.set_model_props(other, dict(detbook=value))
        onnx.save(other, tmp_path/'o.onnx')
        with pytest.raises(ValueError, match=text): load_onnx(tmp_path/'o.onnx')

def test_a_file_that_was_there_stays(tmp_path, monkeypatch):
    path = tmp_path/'x.onnx'
    path.write_text('mine')
    monkeypatch.setattr(torch.export, 'export', lambda *a, **k: 1/0)
    with pytest.raises(ZeroDivisionError): export(toy_detector(), path, size=(96, 96))
    assert path.read_text() == 'mine' and list(tmp_path.iterdir()) == [path]

def test_without_onnx(monkeypatch, tmp_path, toy_file):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match=r"onnxruntime is missing.*pip install 'detbook\[onnx\]'"): export(toy_detector(), tmp_path/'x.onnx', size=(96, 96))
    with pytest.raises(ImportError, match=r'onnxruntime is missing'): load_onnx(toy_file)

def test_command(tmp_path, capsys):
    assert run_command(detbook_export, ['toy_detector', str(tmp_path/'t.pt2'), '--format', 'torch.export', '--size', '96', '96']) == 0
    assert 'FasterRCNN of' in capsys.readouterr().out
    assert run_command(detbook_export, ['toy_detector', str(tmp_path/'t.pt2'), '--size', '96']) == 2
    assert '--size takes two numbers' in capsys.readouterr().err
    assert run_command(detbook_export, ['toy_detector', str(tmp_path/'t.pt2')]) == 2
    assert 'is there already; --overwrite replaces it' in capsys.readouterr().err

@pytest.mark.slow
@pytest.mark.parametrize('kind', BUILD)
def test_every_detector_in_onnx(kind, tmp_path):
    model, images, full = build(kind), pictures(), 0
    for half in (False, True) if kind == 'mask' else (False,):
        path = export(model, tmp_path/'m.onnx', size=(64, 96), batch=2, half=half)
        twin, want = load_onnx(path, threads=1), model.predict(images)
        out = twin.run(torch.stack(images).float(), torch.tensor([[64., 96.]]*2))
        if half: assert path.stat().st_size < .6 * full
        else: same(model, images, out, want)
        full = full or path.stat().st_size
    if kind == 'mask':
        for d, w in zip(load_onnx(path).predict(images), want): assert d['masks'].shape == w['masks'].shape

@pytest.mark.slow
@pytest.mark.parametrize('kind', ['mask', 'retina', 'fcos', 'keypoint'])
def test_open_sizes(kind, tmp_path):
    model = build(kind)
    twin = load_onnx(export(model, tmp_path/'m.onnx', size=(64, 96), dynamic=True), threads=1)
    for n, size in (1, (64, 96)), (2, (96, 64)), (3, (100, 140)):
        images = pictures(n, size)
        H, W = (-(-s // 32)*32 for s in size)
        x = torch.zeros(n, 3, H, W)
        x[:, :, :size[0], :size[1]] = torch.stack(images)
        same(model, images, twin.run(x, torch.tensor([size]*n).float()), model.predict(images))

@pytest.mark.slow
@pytest.mark.parametrize('kind', ['mask', 'fcos'])
def test_dense_part(kind, tmp_path):
    model, images = build(kind), pictures()
    twin = load_onnx(export(model, tmp_path/'m.onnx', size=(64, 96), batch=2, part='dense'), threads=1)
    out = dict(zip(twin.notes['outputs'], twin.run(torch.stack(images).float(), torch.tensor([[64., 96.]]*2))))
    with torch.no_grad():
        feats = model.features(images)
        want = (model.rpn_head if kind == 'mask' else model.bbox_head)(feats)
    for k in ('logits', 'deltas', 'anchors') + ('quality',) * (kind == 'fcos'): torch.testing.assert_close(out[k], getattr(want, k), rtol=1e-4, atol=1e-4)
    if kind == 'mask': torch.testing.assert_close(out['level3'], feats[3], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match='dense part of a detector, which finds nothing by itself'): twin.predict(images)

def test_detections_to_other_libraries():
    pytest.importorskip('pandas')
    sv = pytest.importorskip('supervision')
    masks = torch.zeros(2, 20, 30, dtype=torch.bool); masks[0, :5] = True
    d = Detections(dict(boxes=torch.tensor([[1., 2, 30, 10], [5, 5, 9, 9]]), scores=torch.tensor([.9, .4]), labels=torch.tensor([1, 0]), masks=masks), (20, 30), 'a.png', ('cat', 'dog'))
    frame = d.to_frame()
    assert frame.to_dict('records')[0] == dict(x1=1., y1=2., x2=30., y2=10., score=pytest.approx(.9), label=1, name='dog', source='a.png')
    found = d.to_supervision()
    assert isinstance(found, sv.Detections) and len(found) == 2 and found.mask.sum() == 150 and found.data['class_name'].tolist() == ['dog', 'cat']
    rle = Detections(dict(d) | dict(masks=[encode_mask(m) for m in masks]), (20, 30), classes=('cat', 'dog')).to_supervision()
    assert (rle.mask == found.mask).all()
    assert list(d[:0].to_frame().columns) == list(frame.columns) and len(d[:0].to_frame()) == 0 and len(d[:0].to_supervision()) == 0
    assert (found[found.confidence > .5].xyxy == d['boxes'][:1].numpy()).all()

def test_detections_to_fiftyone(monkeypatch):
    "As FiftyOne 1.x takes them: it is not installed here, and stands as two classes that keep what they are given."
    import types
    class Kept:
        def __init__(self, **more): self.__dict__ |= more
    monkeypatch.setitem(sys.modules, 'fiftyone', types.SimpleNamespace(Detection=Kept, Detections=Kept))
    masks = torch.zeros(2, 20, 30, dtype=torch.bool); masks[0, 2:5, 1:4] = True
    d = Detections(dict(boxes=torch.tensor([[1.5, 2, 28.5, 10], [5, 5, 9, 9]]), scores=torch.tensor([.9, .4]), labels=torch.tensor([1, 0])), (20, 30), 'a.png', ('cat', 'dog'))
    one, two = d.to_fiftyone().detections
    assert (one.label, two.label, one.mask) == ('dog', 'cat', None) and one.confidence == pytest.approx(.9)
    assert one.bounding_box == pytest.approx([1.5/30, 2/20, 27/30, 8/20])
    masked = Detections(dict(d) | dict(masks=masks), (20, 30), 'a.png', ('cat', 'dog'))
    for f in (masked, Detections(dict(d) | dict(masks=[encode_mask(m) for m in masks]), (20, 30), 'a.png', ('cat', 'dog'))):
        one = f.to_fiftyone().detections[0]
        assert one.mask.shape == (8, 28) and one.mask.sum() == 9 and one.mask[0, 0] and one.bounding_box == pytest.approx([1/30, 2/20, 28/30, 8/20])
    assert masked[:0].to_fiftyone().detections == []
    with pytest.raises(ValueError, match='its size is not known'): Detections(dict(d)).to_fiftyone()

@pytest.mark.parametrize('name', ['pandas', 'supervision', 'fiftyone'])
def test_other_libraries_are_optional(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    d = Detections(dict(boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0)))
    with pytest.raises(ImportError, match=f'pip install {name}'): getattr(d, dict(pandas='to_frame', supervision='to_supervision', fiftyone='to_fiftyone')[name])()
