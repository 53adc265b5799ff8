"Other people's detectors and this book's on the same weights: torchvision's run beside ours, Detectron2's as stored figures in `golden/detectron2`."
import gzip, importlib.util, json, re
from pathlib import Path
import numpy as np, pytest, torch, torchvision
from torchvision.models.detection import _utils, backbone_utils
from detbook import weights
from detbook.checkpoint import load_checkpoint
from detbook.names import convert
from detbook.zoo import TORCHVISION
from detbook.weights import COCO, build_arch, load_detector

pytestmark = pytest.mark.usefixtures('one_thread')

here = Path(__file__).parent/'golden'

def recipe(hot, cold):
    "The stored recipe for weights, in a copy of its own, with other names for the outputs that are to be lively or calm."
    spec = importlib.util.spec_from_file_location('recipe_of_parity', here/'recipe.py')
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    module.HOT, module.COLD = hot, cold
    return module

def same_rows(actual, expected, tol, score_tol=1e-5):
    "Rows x1 y1 x2 y2 score label agree, in the same order up to near ties; returns where each row is in `actual`."
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    left, where = list(range(len(actual))), []
    for i,row in enumerate(expected):
        near = [j for j in left if np.abs(actual[j,:4] - row[:4]).max() <= tol and abs(actual[j,4] - row[4]) <= score_tol and actual[j,5] == row[5]]
        assert near, f'row {i}, {row}, was not found'
        j = min(near, key=lambda j: abs(j - i))
        assert i == j or abs(expected[min(j, len(expected)-1),4] - row[4]) <= 10*score_tol, f'row {i} has gone to {j}'
        left.remove(j); where.append(j)
    return where

def rows(d, labels=None):
    labels = d['labels'] if labels is None else labels
    return torch.cat([d['boxes'], d['scores'][:,None], labels[:,None].float()], 1).numpy()

# ---------------------------------------------------------------- torchvision

SIZES = (96, 128), (128, 96), (160, 96)         # the shorter side is `min_size`: torchvision resizes none of them, and pads all to 160x128
LIVELY = recipe(('cls_score', 'cls_logits', 'mask_fcn_logits', 'kps_score', 'bbox_ctrness'), ('bbox_pred', 'bbox_reg'))

@pytest.fixture(scope='module', params=TORCHVISION)
def pair(request, tmp_path_factory):
    "A detector of torchvision's, ours with its weights from a file, the images, and what theirs finds in them."
    arch = request.param
    peer = getattr(torchvision.models.detection, arch)(weights=None, weights_backbone=None, min_size=96, max_size=200).eval()
    peer.load_state_dict({k: torch.from_numpy(LIVELY.fill(k, v.shape)) for k,v in peer.state_dict().items()})
    path = tmp_path_factory.mktemp('parity')/'theirs.pth'
    torch.save(peer.state_dict(), path)
    r = np.random.default_rng(3)
    images = [torch.from_numpy(r.integers(0, 256, (3, *s)).astype(np.float32)) for s in SIZES]
    with torch.no_grad(): theirs = peer([im/255 for im in images])
    ours = load_detector(path, arch=arch)
    path.unlink()
    return arch, ours, images, theirs

def test_torchvision(pair):
    arch, ours, images, theirs = pair
    for found,wanted in zip(ours.predict(images), theirs):
        assert len(wanted['boxes']) >= 20, 'too few detections to tell anything'
        where = same_rows(rows(found), rows(wanted, (wanted['labels'] - 1) % 91), 1e-3)
        if 'masks' in wanted:
            a, b = found['masks'][where], wanted['masks'][:,0]
            assert a.any() and not (a != (b >= .5))[(b - .5).abs() > 1e-3].any()
        if 'keypoints' in wanted:
            k = found['keypoints'][where]
            far = (k[...,:2] - wanted['keypoints'][...,:2]).abs().amax(-1)
            assert (far < 1e-3).float().mean() > .999           # an argmax between equal neighbours may fall either way
            assert (k[...,2] - wanted['keypoints_scores']).abs().max() < 1e-3
        assert set(wanted) - {'keypoints_scores'} == set(found)

def test_torchvision_by_type_and_alone(pair):
    "uint8 images, and one image without the padding that its neighbours bring."
    arch, ours, images, _ = pair
    if arch not in ('retinanet_resnet50_fpn', 'fasterrcnn_resnet50_fpn'): pytest.skip('two are enough')
    for a,b in zip(ours.predict(images[:1]), ours.predict([images[0].byte()])): assert torch.equal(a['boxes'], b['boxes'])

def test_names_of_torchvision(pair):
    arch, ours, *_ = pair
    theirs = torchvision.models.get_model_weights(arch).COCO_V1.meta['categories']
    if 'keypoint' in arch: assert ours.classes == ('person',)
    else:
        assert [n for n in ours.classes if n not in ('N/A', '__background__')] == list(COCO)
        assert all(ours.classes[(i - 1) % 91] == theirs[i] for i in range(1, 91))

def test_frozen_norms_without_eps():
    "What torchvision does with its COCO weights: frozen norms, and nothing added to their variances."
    body = torchvision.models.resnet50(weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d)
    peer = torchvision.models.detection.FasterRCNN(backbone_utils._resnet_fpn_extractor(body, 3), 91).eval()
    state = {k: torch.from_numpy(LIVELY.fill(k, v.shape)) for k,v in peer.state_dict().items()}
    for k in state:
        if k.endswith('running_var'): state[k][::7] = 2e-5          # where 1e-5 more or less makes 20%
        if k.endswith(('bn1.weight', 'bn2.weight', 'bn3.weight')): state[k][::7] *= .005
    peer.load_state_dict(state)
    _utils.overwrite_eps(peer, 0.)
    assert not any('num_batches' in k for k in peer.state_dict())
    ours = build_arch('fasterrcnn_resnet50_fpn').eval()
    load_checkpoint(ours, peer.state_dict())
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))*255
    with torch.no_grad():
        x = ours.preprocess([image]).pixels
        for a,b in zip(ours.neck(ours.backbone(x)), peer.backbone(x).values()): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4*float(b.abs().max()))
        _utils.overwrite_eps(peer, 1e-5)
        last = peer.backbone(x)['0']
        assert (ours.features([image])[0] - last).abs().max() > 1e-2*last.abs().max(), 'the test does not tell the two apart'

# ---------------------------------------------------------------- Detectron2

STATES = json.loads(gzip.decompress((here/'detectron2'/'states.json.gz').read_bytes()))['models']
STORED = sorted((here/'detectron2').glob('*.npz'))
THEIRS = recipe(('cls_score', 'objectness_logits', 'predictor', 'score_lowres'), ('bbox_pred', 'anchor_deltas'))

def shapes(state): return {k: tuple(v.shape) for k,v in state.items() if not k.endswith('num_batches_tracked')}

@pytest.mark.parametrize('name', sorted(STATES))
def test_detectron2_keys_and_settings(name):
    "For each stored config: every key has its place, and colours and limits are those of the config."
    stored = STATES[name]
    state = convert({k: torch.empty(shape, device='meta') for k,shape in stored['keys'].items()})
    number, points = weights._count(state)
    with torch.device('meta'): model = build_arch(name, number, points)
    assert shapes(model.state_dict()) == {k.replace('rpn_head', 'bbox_head') if 'rpn_R' in name else k: v for k,v in shapes(state).items()}
    cpu = build_arch(name, number, points).preprocess if 'R_50' in name and 'FPN' in name else None
    if cpu is not None: assert torch.allclose(cpu.mean.flatten(), torch.tensor(stored['pixel_mean'])) and torch.allclose(cpu.std.flatten(), torch.tensor(stored['pixel_std']))
    assert model.preprocess.bgr == (stored['input'] == 'BGR')
    block = model.backbone.layer2[0]
    assert (block.conv1.stride == (2, 2)) == stored['conv5_stride_in_1x1']
    head = model.roi_head.test_filter if hasattr(model, 'roi_head') else model.bbox_head.test_filter
    if 'rpn_R' not in name: assert head.max_per_img == stored['test_topk']
    rpn = getattr(model, 'rpn_head', model.bbox_head if 'rpn_R' in name else None)
    if rpn is not None: assert (rpn.test_filter.nms_pre, rpn.test_filter.max_per_img) == (stored['rpn']['pre'], stored['rpn']['post'])

def test_both_c4_detectors_have_the_same_boxes():
    "So that one of them would do."
    faster, mask = (np.load(p) for p in STORED if 'cnn_R_50_C4' in p.stem)
    for k in (k for k in faster if re.fullmatch(r'det\d', k)): assert len(faster[k]) and np.array_equal(faster[k], mask[k])

@pytest.mark.parametrize('path', STORED, ids=[p.stem.split('__')[1] for p in STORED])
def test_detectron2_figures(path, tmp_path):
    arch, stored = path.stem.replace('__', '/'), np.load(path)
    settings = STATES[arch + '.yaml']
    state = {k: torch.from_numpy(THEIRS.fill(k, shape)) for k,shape in settings['keys'].items() if not k.startswith('pixel') and 'cell_anchors' not in k}
    torch.save({'model': state}, tmp_path/'theirs.pth')
    model = load_detector(tmp_path/'theirs.pth', arch=arch)
    (tmp_path/'theirs.pth').unlink()
    mean, std = (np.array(settings[k], np.float32)[:,None,None] for k in ('pixel_mean', 'pixel_std'))
    images = [torch.from_numpy((im*std + mean)[::-1].copy()) for im in THEIRS.images()]
    for i,found in enumerate(model.predict(images)):
        wanted, ours = stored[f'det{i}'], rows(found)
        if 'rpn_' in arch:                                                  # stored are logits, of the first 200
            ours = ours[:len(wanted)]
            ours[:,4] = np.log(ours[:,4].astype(np.float64) / (1 - ours[:,4].astype(np.float64)))
        where = same_rows(ours, wanted, 1e-2, 1e-4)
        if 'masks' in found: assert np.abs(found['masks'][where].sum((1,2)).numpy() - stored[f'det{i}_mask_area']).max() <= 2
        if f'det{i}_keypoints' in stored:
            k = found['keypoints'][where].numpy()
            assert np.abs(k - stored[f'det{i}_keypoints']).max() < 1e-2
    assert model.classes == (('person',) if 'Keypoints' in arch else () if 'rpn_' in arch else COCO)
