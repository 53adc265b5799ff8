"Predictions that cannot be right are refused before they are written; truths that number the classes otherwise."
import pytest, torch
from detbook.results import match_categories, to_coco
from detbook.metrics import evaluate
from test_records import coco, perfect

def test_truths_by_name():
    d = coco()
    other = dict(d, categories=[dict(id=1, name='dog'), dict(id=2, name='cat'), dict(id=3, name='hen')], annotations=[dict(a, category_id=3 - a['category_id']) for a in d['annotations']])
    assert evaluate(other, perfect(d)).stats['bbox_mAP'] == 0
    assert evaluate(match_categories(other, ['cat', 'dog'], [1, 2]), perfect(d)).stats['bbox_mAP'] == 1
    with pytest.raises(ValueError, match="ann: there is no category 'cow'; its category 1 is 'dog'"): match_categories(other, ['cow', 'dog'], [1, 2], 'ann')

GOOD = dict(boxes=[[0, 0, 4, 4], [1, 1, 3, 3]], scores=[.5, .4], labels=[0, 1])
WRONG = dict(label=dict(labels=[0, -1]), high=dict(labels=[0, 2]), fraction=dict(labels=[0., 1.]), flags=dict(labels=[False, True]), short=dict(scores=[.5]), long=dict(labels=[0, 1, 1]), three=dict(boxes=[[0, 0, 4], [1, 1, 3]]),  nan=dict(boxes=[[0, 0, 4, float('nan')], [1, 1, 3, 3]]), nan_score=dict(scores=[.5, float('nan')]), unknown=dict(clases=[1, 2]), masks=dict(masks=torch.zeros(1, 5, 5, dtype=torch.bool)), points=dict(keypoints=torch.zeros(1, 2, 3)), flat=dict(keypoints=torch.zeros(2, 6)),
             text=dict(scores=['a', 'b']), probabilities=dict(masks=torch.rand(2, 5, 5)))

@pytest.mark.parametrize('kind', WRONG)
def test_to_coco_refuses(kind):
    assert len(to_coco([GOOD], [7], [1, 2])) == 2
    with pytest.raises(ValueError, match='^[^\n]*$'): to_coco([GOOD | WRONG[kind]], [7], [1, 2])

def test_a_turned_box_is_written_and_named():
    rows = to_coco([dict(GOOD, boxes=[[0, 0, 4, 4], [3, 1, 1, 3]])], [1], [1, 2])
    with pytest.raises(ValueError, match='result 1 has the bbox .3.0, 1.0, -2.0, 2.0.'): evaluate(coco(), rows)

def test_to_coco_refuses_ids():
    for ids, cats in (([None], [1, 2]), ([1.5], [1, 2]), ([1, 2], [1, 2]), ([1], [1, None]), ([1], [1])):
        with pytest.raises(ValueError): to_coco([GOOD], ids, cats)
    for p in ({}, [], None, dict(boxes=GOOD['boxes'])):
        with pytest.raises(ValueError, match='^prediction 0 .image 7.'): to_coco([p], [7], [1])
