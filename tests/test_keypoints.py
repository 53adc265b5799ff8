"Keypoints all the way: from a COCO file through transforms and a detector to COCO's figures."
import json, math
import pytest, torch
from detbook import toy
from detbook.backbone import ResNet
from detbook.core import test_same as same
from detbook.data import CocoDataset, collate
from detbook.fast_rcnn import BoxHead, DetectionFilter, RoIHead
from detbook.keypoint_rcnn import KeypointHead, KeypointRCNN
from detbook.results import to_coco
from detbook.metrics import evaluate
from detbook.neck import FPN
from detbook.rpn import RPNHead
from detbook.transforms import test_transforms as at_test, to_original, train_transforms

@pytest.fixture(scope='module')
def path(tmp_path_factory): return toy.write_coco(tmp_path_factory.mktemp('toy'), 6, seed=5, size=96)

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    trunk = ResNet(18)
    return KeypointRCNN(4, 4, backbone=trunk, neck=FPN(trunk.out_channels, 32), rpn_head=RPNHead(32), roi_head=RoIHead(BoxHead(4, 32, fc_channels=32)),
                        keypoint_head=KeypointHead(4, 32, num_convs=1, channels=32))

@pytest.mark.parametrize('offset', [0., .5])
@pytest.mark.parametrize('scale', [None, (60, 60), (233, 150)])
def test_truths_come_back(path, offset, scale):
    "Truths, resized, taken for predictions and carried back to the file's coordinates, score 1."
    ds, preds = CocoDataset(path, transforms=at_test(scale), keypoint_offset=offset), []
    for i in range(len(ds)):
        t = ds[i][1]
        known = ~t['ignore'] & (t['keypoints'][..., 2] > 0).any(1)
        own = {k: t[k].as_subclass(torch.Tensor)[known] for k in ('boxes', 'labels', 'keypoints')}
        preds.append(to_original(dict(own, scores=torch.ones(int(known.sum()))), t))
    results = to_coco(preds, ds.image_ids.tolist(), ds.category_ids, ds.keypoint_offset)
    for truth in ds, path:
        stats = evaluate(truth, results, ('bbox', 'keypoints'), sigmas=.02).stats
        assert stats['bbox_mAP'] == pytest.approx(1) and stats['keypoints_mAP'] == pytest.approx(1)
    if offset:      # whoever forgets to take it off again is half a pixel off
        wrong = to_coco(preds, ds.image_ids.tolist(), ds.category_ids)
        assert evaluate(ds, wrong, 'keypoints', sigmas=.004).stats['keypoints_mAP'] < evaluate(ds, results, 'keypoints', sigmas=.004).stats['keypoints_mAP']

def test_detector_on_a_file(path, model):
    "Mirrored, cropped batches give finite losses; predictions go through to figures and to JSON."
    ds = CocoDataset(path, transforms=train_transforms((120, 96), flip=.5, crop=(80, 80)))
    losses = model.train().loss(*collate([ds[i] for i in range(len(ds))]))
    assert list(losses) == ['loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_keypoint'] and all(v.isfinite() for v in losses.values())
    ds.transforms = at_test((120, 96))
    images, targets = collate([ds[i] for i in range(len(ds))])
    preds = [to_original(p, t) for p,t in zip(model.eval().predict(images, DetectionFilter(score_thr=.0, max_per_img=5)), targets)]
    results = to_coco(preds, ds.image_ids.tolist(), ds.category_ids)
    stats = evaluate(ds, json.loads(json.dumps(results)), ('bbox', 'keypoints'), sigmas=.05).stats
    assert len(results) and all(len(r['keypoints']) == 12 for r in results) and not math.isnan(stats['keypoints_mAP'])

def test_flip_is_its_own_inverse_in_the_loss(path, model):
    "A mirrored picture with mirrored truths asks for the mirrored cells, left and right exchanged."
    from detbook.keypoint_rcnn import keypoints_to_heatmap
    flip, ds = train_transforms(None, flip=1.), CocoDataset(path)
    for i in range(len(ds)):
        (_, t), (_, f) = ds[i], flip(*ds[i])
        cells, asked = keypoints_to_heatmap(t['keypoints'], t['boxes'].as_subclass(torch.Tensor), 7)
        mirrored, same_asked = keypoints_to_heatmap(f['keypoints'], f['boxes'].as_subclass(torch.Tensor), 7)
        order = [0, 3, 2, 1]
        same(asked[:, order], same_asked)
        ok = same_asked
        at = (t['keypoints'][..., 0] - t['boxes'][:, None, 0].as_subclass(torch.Tensor)) / (t['boxes'][:, 2] - t['boxes'][:, 0]).as_subclass(torch.Tensor)[:, None] * 7
        clear = ok & ((at - at.round()).abs() > 1e-4)[:, order]         # not on the line between two cells
        same((6 - mirrored % 7)[clear], (cells % 7)[:, order][clear])
        same((mirrored // 7)[clear], (cells // 7)[:, order][clear])

@pytest.mark.parametrize('bad, words', [
    (dict(keypoints=[1, 2, 2]), 'names 4'), (dict(keypoints=[1, 2]), 'expected finite x, y, flag'), (dict(keypoints=[math.nan]*12), 'expected finite x, y, flag')])
def test_bad_keypoints_are_named(path, bad, words):
    d = json.loads(path.read_text())
    d['annotations'][0].update(bad)
    with pytest.raises(ValueError, match=words): CocoDataset(d, path.parent/'images')
    d = json.loads(path.read_text())
    for a in d['annotations']: a['keypoints'] = []          # names without points: nothing is read
    assert 'keypoints' not in CocoDataset(d, path.parent/'images')[0][1]

def test_keypoints_of_one_category_only(path):
    "Annotations of a category without keypoints count as unlabelled."
    d = json.loads(path.read_text())
    for c in d['categories'][1:]: del c['keypoints']
    for a in d['annotations']:
        if a['category_id'] != d['categories'][0]['id']: del a['keypoints'], a['num_keypoints']
    ds = CocoDataset(d, path.parent/'images')
    for i in range(len(ds)):
        t = ds[i][1]
        assert t['keypoints'].shape == (len(t['labels']), 4, 3) and not t['keypoints'][t['labels'] != 0].any()
    per_class = evaluate(ds, [], 'keypoints', sigmas=.1).per_class['keypoints']
    assert [v['truths'] > 0 for v in per_class.values()] == [True, False, False, False]
