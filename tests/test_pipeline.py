"What the pipeline chapter cannot show on its page: every recipe's data sets, mmengine's own batches, workers that were spawned."
import json
from pathlib import Path
import numpy as np, pytest, torch
from detbook import toy
from detbook.config import Config
from detbook.pipeline import JoinedDataset, build_dataset
from detbook.loader import BatchPlan, SeededItems, build_loader, build_plan, item_seed
from detbook.recipes import recipe_names
from detbook.transforms import original_size

PARTS = 'train', 'val', 'test'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "A toy set of 8 small scenes, and proposals for it."
    folder = tmp_path_factory.mktemp('toy')
    images = json.loads(toy.write_coco(folder, 8, seed=3, size=(64, 96)).read_text())['images']
    found  = dict(bboxes=[[0, 0, 20, 20], [5, 5, 40, 30]], scores=[.9, .8])
    (folder/'proposals.json').write_text(json.dumps({'images/' + r['file_name']: found for r in images}))
    return folder


def innermost(dataset):
    while 'dataset' in dataset: dataset = dataset['dataset']
    return dataset


def on_toys(cfg, root):
    "A config whose data sets lie in the toy folder."
    for part in PARTS:
        own = innermost(cfg[f'{part}_dataloader']['dataset'])
        own['data_root'], own['ann_file'], own['data_prefix'] = str(root), 'instances.json', dict(img='images/')
        if 'metainfo' in own: own['metainfo']['classes'] = toy.CLASSES[:len(own['metainfo']['classes'])]
        if 'proposal_file' in own: own['proposal_file'] = 'proposals.json'
    return cfg


def test_every_recipe_builds_its_data_sets_and_loads_an_item_of_each_kind(root):
    kinds, built = {}, 0
    for name in recipe_names():
        cfg = Config.fromfile(name)
        if name == 'retinanet_tta':     # a fragment that other recipes take in
            assert 'train_dataloader' not in cfg
            continue
        on_toys(cfg, root)
        for part in PARTS:
            loader = cfg[f'{part}_dataloader']
            ds     = build_dataset(loader.dataset, f'{part}_dataloader.dataset')
            plan   = build_plan(loader, ds, seed=1, rank=0, world_size=2, path=f'{part}_dataloader')
            own    = innermost(loader.dataset)
            times  = loader.dataset.get('times', 1)
            assert len(ds) == len(ds.sizes) == times * len(ds.parts[0] if times > 1 else ds) and plan.batch_size == loader.batch_size
            assert isinstance(ds, JoinedDataset) == (times > 1) and ds.test_mode == (part != 'train')
            kinds.setdefault(json.dumps([own['pipeline'], times, own.get('metainfo')], default=str), (name, part, ds, plan, own))
            built += 1
    assert built == 3*142 and len(kinds) > 15
    for name, part, ds, plan, own in kinds.values():
        key = plan.epoch(0)[0][0]
        image, target = SeededItems(ds)[key]
        where, n = f'{name} {part}', len(target['labels'])
        steps = json.dumps(own['pipeline'])
        assert image.dtype == torch.uint8 and tuple(image.shape[1:]) == target['size'], where
        assert ('masks' in target, 'keypoints' in target, 'proposals' in target) == ('with_mask": true' in steps, 'with_keypoints": true' in steps, 'LoadProposals' in steps), where
        assert {len(v) for k,v in target.items() if isinstance(v, torch.Tensor) and k != 'proposals'} == {n}, where
        assert int(target['labels'].max()) < len(ds.classes), where
        if part != 'train': assert original_size(target) == (64, 96) and target['size'] == (800, 1200), where
        if 'proposals' in target: assert target['proposals'].shape == (2, 5), where


def test_batches_are_those_of_mmengine():
    cases = json.loads((Path(__file__).parent/'golden'/'batches.json').read_text())['cases']
    assert len(cases) > 100
    for c in cases:
        for rank, expected in enumerate(c['ranks']):
            plan = BatchPlan(torch.tensor(c['sizes']), c['batch_size'], c['seed'], rank, c['world_size'], c['shuffle'])
            assert [[i for _,i in b] for b in plan.epoch(c['epoch'])] == expected and len(plan) == len(expected)


def loaders_set(root):
    "A training with chance in every step, some pictures turned down, and its plan."
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
             dict(type='RandomResize', scale=(96, 96), ratio_range=(.5, 2.), keep_ratio=True), dict(type='RandomCrop', crop_size=(40, 40)),
             dict(type='FilterAnnotations', min_gt_bbox_wh=(12, 12)), dict(type='RandomFlip', prob=[.3, .3], direction=['horizontal', 'vertical'])]
    loader = dict(batch_size=3, num_workers=2, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=True),
                  dataset=dict(type='CocoDataset', data_root=str(root), ann_file='instances.json', data_prefix=dict(img='images'), pipeline=steps))
    ds = build_dataset(loader['dataset'])
    return ds, loader, build_plan(loader, ds, seed=4)


def same(some, others):
    for (a, s), (b, t) in zip(some, others, strict=True):
        for x, y in zip([*a, *(v for d in s for v in d.values())], [*b, *(v for d in t for v in d.values())], strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_two_workers_give_what_none_gives(root, context):
    ds, loader, plan = loaders_set(root)
    alone = [list(build_loader(ds, loader, plan, epoch, num_workers=0)) for epoch in (0, 1)]
    with_workers = build_loader(ds, loader, plan, context=context)
    for epoch, start in ((0, 0), (1, 0), (1, 2), (0, 1)):
        with_workers.batch_sampler.go_to(epoch, start)
        same(alone[epoch][start:], with_workers)
    assert not torch.equal(alone[0][0][0][0], alone[1][0][0][0])


def test_some_pictures_were_turned_down_in_that_test(root):
    ds, _, plan = loaders_set(root)
    firsts = []
    for seed, i in (key for epoch in range(4) for batch in plan.epoch(epoch) for key in batch):
        firsts.append(SeededItems(ds)[seed, i][1]['image_id'] == int(ds.image_ids[i]))
    assert 0 < sum(firsts) < len(firsts)


def test_no_generator_of_the_caller_is_touched(root):
    ds, loader, plan = loaders_set(root)
    torch.manual_seed(0); np.random.seed(0)
    expected = torch.rand(3), np.random.rand()
    torch.manual_seed(0); np.random.seed(0)
    list(build_loader(ds, loader, plan, num_workers=0))
    list(build_loader(ds, loader, plan, context='fork'))
    assert torch.equal(torch.rand(3), expected[0]) and np.random.rand() == expected[1]


def test_an_error_inside_of_a_step_leaves_the_generators_alone(root):
    class Boom:
        def __call__(self, image, target): torch.rand(1); raise ZeroDivisionError
    ds = build_dataset(dict(type='CocoDataset', data_root=str(root), ann_file='instances.json', data_prefix=dict(img='images'), pipeline=[Boom()]))
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError): SeededItems(ds)[1, 0]
    assert torch.equal(state, torch.get_rng_state())


def test_seeds_stay_as_they_are():
    "A training that goes on with a newer version must see the same pictures."
    assert [item_seed(*k) for k in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))] == SEEDS

SEEDS = [5842066033578894005, 887048953310598387, 7343659353664005012, 1020301385773720546]


def test_no_batch_is_left(root):
    ds = build_dataset(dict(type='CocoDataset', data_root=str(root), ann_file='instances.json', data_prefix=dict(img='images')))
    loader = dict(batch_size=9, drop_last=True, sampler=dict(type='DefaultSampler'), dataset={})
    with pytest.raises(ValueError, match='train_dataloader.drop_last.*no batch is left: there are 8 images for 1 x batch_size=9'): build_plan(loader, ds, path='train_dataloader')
    assert len(build_plan(loader | dict(batch_size=8), ds)) == 1


def test_a_list_of_annotation_files(root):
    with pytest.raises(ValueError, match='ann_file = .*expected the path of one file; ConcatDataset joins several'): build_dataset(dict(type='CocoDataset', data_root=str(root), ann_file=['instances.json']))


def test_pictures_whose_annotations_nobody_has(root):
    "COCO's files of the test pictures have no annotations: they serve for testing, and for nothing else."
    d = json.loads((root/'instances.json').read_text()); del d['annotations']
    (root/'image_info.json').write_text(json.dumps(d))
    how = dict(type='CocoDataset', data_root=str(root), ann_file='image_info.json', data_prefix=dict(img='images'))
    ds = build_dataset(how | dict(test_mode=True))
    assert len(ds) == 8 and not len(ds[0][1]['boxes'])
    with pytest.raises(ValueError, match="image_info.json: not COCO instances: it lacks 'annotations'"): build_dataset(how)
