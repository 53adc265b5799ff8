"fastai's calls on a DetectionLearner, on data sets cut and joined in every way: what is no lesson about the Learner."
import json
import numpy as np, pytest, torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, random_split
from fastai.callback.core import Callback, CancelFitException
from detbook.images import read_picture
from detbook.data import CocoDataset
from detbook.inference import inference_detector, init_detector
from detbook.learner import DetectionDL, PictureSet, detection_dls, detection_learner, still
from detbook.models import faster_rcnn
from detbook.transforms import Augment, Crop, Flip, RandomResize, Resize, test_transforms as seen, train_transforms

pytestmark = pytest.mark.usefixtures('one_thread')

def write(folder, n, start=0, names=('cat', 'dog'), ids=(1, 2), first_id=1):
    "`n` pictures, each with one object at a place of its own."
    folder.mkdir(parents=True, exist_ok=True)
    images, anns = [], []
    for i in range(n):
        Image.fromarray(np.random.default_rng(start + i).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(folder/f'{i}.png')
        images.append(dict(id=first_id + i, file_name=f'{i}.png', height=64, width=96))
        anns.append(dict(id=i+1, image_id=first_id + i, category_id=ids[(start + i) % 2], bbox=[4 + 3*((start + i) % 9), 6, 30, 24], area=720, iscrowd=0))
    (folder/'ann.json').write_text(json.dumps(dict(images=images, annotations=anns, categories=[dict(id=k, name=c) for k, c in zip(ids, names)])))
    return folder/'ann.json'

class Oracle(torch.nn.Module):
    "Knows every picture by its pixels: finds exactly its object."
    num_classes = 2
    def __init__(self, *sets):
        super().__init__()
        self.w, self.known = torch.nn.Parameter(torch.zeros(1)), {}
        for ds in sets:
            for i in range(len(ds)):
                t = ds.target(i)
                self.known[ds.image(i).as_subclass(torch.Tensor).numpy().tobytes()] = t['boxes'].as_subclass(torch.Tensor), t['labels']
    def loss(self, images, targets): return dict(loss=(self.w**2).sum())
    def forward(self, images, targets): return self.loss(images, targets)
    def predict(self, images):
        found = [self.known.get(im.numpy().tobytes(), (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))) for im in images]     # none on others
        return [dict(boxes=b.clone(), labels=l.clone(), scores=torch.full((len(l),), .9)) for b, l in found]

@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp('sets')
    return [CocoDataset(write(root/k, n, start)) for k, n, start in (('a', 6, 0), ('b', 3, 50), ('c', 4, 100))]      # ids 1, 2, ... in each

def quiet(learn, f):
    with learn.no_bar(), learn.no_logging(): return f()

# ---------------------------------------------------------------- truths

WAYS = dict(plain=lambda a, b, c: c, subset=lambda a, b, c: Subset(c, [2, 0]), nested=lambda a, b, c: Subset(Subset(c, [3, 1, 0]), [2, 0]), joined=lambda a, b, c: ConcatDataset([c, b]),
            part_of_joined=lambda a, b, c: Subset(ConcatDataset([c, b]), [0, 5, 6]), joined_parts=lambda a, b, c: ConcatDataset([Subset(c, [1]), ConcatDataset([b, Subset(a, [0])])]),
            twice=lambda a, b, c: ConcatDataset([c, c]), split=lambda a, b, c: random_split(c, [3, 1])[0], repeated=lambda a, b, c: Subset(b, [0, 0, 1]), tensor=lambda a, b, c: Subset(b, torch.tensor([2, 1])))

@pytest.mark.parametrize('way', WAYS)
def test_truths_of_the_loader_in_use(sets, way):
    "A perfect detector has AP 1 on whatever is measured, and a blind one does not."
    other = WAYS[way](*sets)
    learn = detection_learner(detection_dls(sets[0], sets[1], bs=2), Oracle(*sets))
    assert quiet(learn, lambda: learn.validate(dl=detection_dls(sets[0], other, bs=2).valid))[1] == pytest.approx(1)
    assert quiet(learn, lambda: learn.validate(dl=DetectionDL(other, bs=2, create_batch=detection_dls(sets[0], sets[1]).valid.create_batch)))[1] == pytest.approx(1)
    assert quiet(learn, learn.validate)[1] == pytest.approx(1)
    found, truths = learn.get_preds(dl=detection_dls(sets[0], other, bs=2).valid)
    assert len(found) == len(truths) == len(other) and all(torch.equal(f['boxes'], t['boxes']) for f, t in zip(found, truths))
    assert len({t['image_id'] for t in truths}) == len(truths)
    again = detection_learner(detection_dls(other, other, bs=1), Oracle(*sets))
    quiet(again, lambda: again.fit(1))
    assert again.result.stats["bbox_mAP"] == pytest.approx(1)
    again.model.known = {k: (b + 40, l) for k, (b, l) in again.model.known.items()}
    assert quiet(again, again.validate)[1] == 0

def test_training_set_without_chance(sets):
    "ds_idx=0, and the training loader by name: all pictures, none of them turned, cropped or left out."
    train = CocoDataset(sets[0].name, transforms=Augment([RandomResize([(96, 64), (192, 128)]), Flip(1.), Crop((30, 30))]))
    learn = detection_learner(detection_dls(train, sets[1], bs=4), Oracle(*sets))
    assert quiet(learn, lambda: learn.validate(ds_idx=0))[1] == pytest.approx(1)
    assert quiet(learn, lambda: learn.validate(dl=learn.dls.train))[1] == pytest.approx(1)
    found, truths = learn.get_preds(ds_idx=0)
    assert len(found) == 6 and [t['image_id'] for t in truths] == list(range(1, 7))

def test_a_part_of_a_run_is_measured_by_itself(sets):
    from fastai.callback.training import ShortEpochCallback
    learn = detection_learner(detection_dls(sets[0], sets[2], bs=1), Oracle(*sets))
    quiet(learn, lambda: learn.fit(1, cbs=ShortEpochCallback(pct=.3, short_valid=True)))
    assert learn.result.stats["bbox_mAP"] == pytest.approx(1)

def test_split_of_a_training_set_is_measured_as_it_is(sets):
    train = CocoDataset(sets[0].name, transforms=train_transforms(scale=None, flip=1.))
    with pytest.warns(UserWarning, match='measured without'): dls = detection_dls(*random_split(train, [4, 2]), bs=2)
    learn = detection_learner(dls, Oracle(*sets))
    assert quiet(learn, learn.validate)[1] == pytest.approx(1)
    assert any(t.get('flipped') for _, t in (dls.train_ds[i] for i in range(4))), 'training has them all the same'

def test_numbers_of_other_files(tmp_path, sets):
    "The same names under other ids are the same classes; other names, or another order, are not."
    far = CocoDataset(write(tmp_path/'far', 2, 200, ids=(7, 90), first_id=40))
    both = ConcatDataset([sets[1], far])
    learn = detection_learner(detection_dls(sets[0], both, bs=2), Oracle(*sets, far))
    assert quiet(learn, learn.validate)[1] == pytest.approx(1)
    assert {a['category_id'] for a in learn.dls.valid_ds.to_coco()['annotations']} <= {1, 2}
    odd = CocoDataset(write(tmp_path/'odd', 2, 300, names=('dog', 'cat')))
    for wrong in (lambda: PictureSet(ConcatDataset([sets[0], odd])), lambda: detection_dls(sets[0], odd), lambda: learn.validate(dl=detection_dls(odd, odd).valid)):
        with pytest.raises(ValueError, match='classes') as e: quiet(learn, wrong)
        assert '\n' not in str(e.value)

def test_still():
    for t in (None, seen(), seen(None), lambda image, target: (image, target), Augment([Resize((64, 48), antialias=False)])): assert still(t) is t
    calm = still(Augment([Resize((64, 48), jitter=(.5, 2.)), Flip(), Crop((9, 9))]))
    assert [type(s) for s in calm.steps] == [Resize] and calm.steps[0].jitter == (1, 1) and calm.min_size == 0

# ---------------------------------------------------------------- pictures in, files out

@pytest.fixture(scope='module')
def learn(sets):
    torch.manual_seed(0)
    model = faster_rcnn(18, 2, channels=16, scratch=True)
    model.roi_head.bbox_head.fc_cls.weight.data *= 40
    valid = CocoDataset(sets[1].name, transforms=Augment([Resize((60, 40), antialias=False)], min_size=0))
    return detection_learner(detection_dls(sets[0], valid, bs=2), model.eval())

def test_predict_takes_any_picture(learn, sets, tmp_path):
    path = sets[0].path(0)
    first = learn.predict(path)
    assert len(first['boxes']) and first['boxes'][:, 2].max() > 60, 'in pixels of the picture'
    image = read_picture(path)
    with open(path, 'rb') as file, Image.open(path) as picture:
        for form in (str(path), path.read_bytes(), file, picture, image, image.permute(1, 2, 0).numpy(), image.float()):
            found = learn.predict(form)
            for k in first: torch.testing.assert_close(found[k], first[k])
    for many in ([path, path], (image, image), torch.stack([image]*2), iter([path, image])): assert len(list(learn.predict(many))) == 2
    assert len(learn.predict(path.parent)) == 6
    for wrong in (7, None, {}, tmp_path/'none.png', np.zeros((3, 4, 5), int), torch.full((3, 8, 8), torch.nan)):
        with pytest.raises((TypeError, ValueError, FileNotFoundError)) as e: learn.predict(wrong)
        assert '\n' not in str(e.value) and len(str(e.value)) > 15
    assert not learn.model.training
    learn.model.train(); learn.predict(path); assert learn.model.training and learn.model.backbone.bn1.training; learn.model.eval()

def test_learner_file_and_inference_agree(learn, sets, tmp_path):
    "One size: the learner, its model, and the file it writes."
    path = sets[0].path(3)
    first = learn.predict(path)
    loaded = init_detector(learn.save_detector(tmp_path/'d.safetensors'), device='cpu')
    assert (list(loaded.test_scale), loaded.test_antialias, loaded.classes) == ([60, 40], False, ('cat', 'dog'))
    for found in (inference_detector(learn.model, path), inference_detector(loaded, path)):
        for k in first: torch.testing.assert_close(found[k], first[k])
        assert set(found.names) <= {'cat', 'dog'}

def test_a_measured_detector_keeps_its_best_scores(sets, tmp_path):
    def said(): return init_detector(learn.save_detector(tmp_path/'d.safetensors'), device='cpu').notes.get('thresholds')
    torch.manual_seed(0)
    learn = detection_learner(detection_dls(sets[0], sets[1], bs=2), faster_rcnn(18, 2, channels=16, scratch=True), metrics=('bbox',))
    learn.path = tmp_path
    assert said() is None
    quiet(learn, learn.validate)
    assert list(said()) == ['cat', 'dog'] and said() == learn.result.best_scores(['cat', 'dog'])
    learn.save('here')
    learn.load('here')
    assert said() is None                       # weights were loaded, and nobody knows of them
    quiet(learn, lambda: learn.fit(1))
    assert said() == learn.result.best_scores(['cat', 'dog'])
    class Stop(Callback):
        def after_batch(self): raise CancelFitException()
    quiet(learn, lambda: learn.fit(1, cbs=Stop()))
    assert said() is None                       # trained, and not measured since

def test_save_and_load(learn, tmp_path):
    learn.path = tmp_path
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.save('here')
    with torch.no_grad(): learn.model.backbone.conv1.weight.zero_()
    learn.load('here')
    for k, v in learn.model.state_dict().items(): assert torch.equal(v, before[k])

@pytest.mark.parametrize('name,hint', [('export', 'save_detector'), ('summary', 'print'), ('tta', 'inference_detector')])
def test_what_is_not_there_says_what_to_call(learn, name, hint):
    for args in ((), ('x.pkl',)):
        with pytest.raises(NotImplementedError, match=hint) as e: getattr(learn, name)(*args)
        assert '\n' not in str(e.value)

def test_mistakes_are_one_sentence(learn, sets):
    class Bare(torch.utils.data.Dataset):
        def __len__(self): return 2
        def __getitem__(self, i): raise AssertionError
    for wrong in (lambda: learn.get_preds(with_loss=True), lambda: learn.get_preds(dl=[1]), lambda: learn.validate(dl=[learn.dls.one_batch()]), lambda: detection_dls(Bare(), sets[0]),
                  lambda: detection_dls(sets[0], Subset(sets[0], [])), lambda: detection_dls(sets[0], sets[1], bs=0), lambda: detection_dls(ConcatDataset([Bare()]), sets[0]),
                  lambda: detection_learner(learn.dls, learn.model, metrics=('segm',)), lambda: detection_learner(learn.dls, learn.model, metrics=('keypoints',)),
                  lambda: detection_learner(learn.dls, learn.model, metrics='bbox'), lambda: learn.dls.test_dl([1])):
        with pytest.raises((TypeError, ValueError, NotImplementedError)) as e: quiet(learn, wrong)
        assert '\n' not in str(e.value) and len(str(e.value)) > 15

@pytest.mark.parametrize('sigmas,fine', [(None, False), ([.1]*4, False), ([.1]*5, True), (.1, True)])
def test_keypoints_without_tolerances_do_not_start(sets, sigmas, fine):
    model = Oracle(*sets)
    model.num_keypoints = 5
    learn = detection_learner(detection_dls(sets[0], sets[1], bs=2), model, metrics=('bbox',))
    learn.detection_step.measures, learn.detection_step.sigmas = ('keypoints',), sigmas
    if fine:
        quiet(learn, lambda: learn.lr_find(num_it=2, show_plot=False, suggest_funcs=()))
        assert learn.recorder.losses and learn.detection_step.terms
        return
    with pytest.raises(ValueError, match='learn.detection_step.sigmas') as e: quiet(learn, lambda: learn.fit(1))
    assert '\n' not in str(e.value) and learn.detection_step.terms == {}

def test_one_small_picture(tmp_path):
    "Norms that learn, one value for each of them: named, with what helps; by the loss and by the Learner."
    model = faster_rcnn(18, 1, channels=16, scratch=True).train()
    target = [dict(boxes=torch.tensor([[2., 2, 12, 12]]), labels=torch.tensor([0]))]
    with pytest.raises(ValueError, match=r'one picture of 32x32.*bs.*norm_eval') as e: model.loss([torch.full((3, 16, 16), 9.)], target)
    assert '\n' not in str(e.value)
    model.loss([torch.full((3, 16, 16), 9.)]*2, target*2)
    model.loss([torch.full((3, 16, 40), 9.)], target)
    class Lone(Oracle):
        def __init__(self): super().__init__(); self.norm = torch.nn.BatchNorm2d(3)
        def loss(self, images, targets): return dict(loss=self.norm(images[0][None, :, :1, :1].float()).sum())
    ds = CocoDataset(write(tmp_path/'s', 2))
    learn = detection_learner(detection_dls(ds, ds, bs=1), Lone(), metrics=())
    with pytest.raises(ValueError, match=r'64x96.*bs of 2.*norm_eval'): quiet(learn, lambda: learn.fit(1))

# ---- the best detector, and the average

class Rising(torch.nn.Module):
    "A detector whose weight counts steps, and that finds the truth only while the weight is near 6."
    def __init__(self, truths):
        super().__init__()
        self.w, self.truths = torch.nn.Parameter(torch.zeros(())), truths
    def loss(self, images, targets): return dict(loss=-self.w)
    def forward(self, images, targets): return self.loss(images, targets)
    def predict(self, images, sizes=None):
        good = abs(float(self.w) - 6) < .5
        return [dict(boxes=torch.tensor([[10., 10., 40., 40.]]) if good else torch.tensor([[60., 40., 64., 44.]]), scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.int64)) for _ in images]

def test_the_best_by_average_precision_is_saved(tmp_path):
    "Two steps an epoch: right after the third epoch, wrong before and after."
    from functools import partial
    from fastai.callback.tracker import SaveModelCallback
    from fastai.optimizer import OptimWrapper
    import json
    from PIL import Image
    images = [dict(id=i, file_name=f'{i}.png', width=96, height=64) for i in (1, 2)]
    for r in images: Image.new('RGB', (96, 64)).save(tmp_path/r['file_name'])
    (tmp_path/'a.json').write_text(json.dumps(dict(images=images, categories=[dict(id=1, name='cat')],
        annotations=[dict(id=i, image_id=i, category_id=1, bbox=[10, 10, 30, 30], area=900, iscrowd=0) for i in (1, 2)])))
    ds = CocoDataset(tmp_path/'a.json')
    model = Rising(None)
    save = SaveModelCallback(monitor='bbox_mAP', fname='best')
    learn = detection_learner(detection_dls(ds, ds, bs=1), model, metrics=('bbox',), lr=1., cbs=save)
    learn.opt_func, learn.path = partial(OptimWrapper, opt=torch.optim.SGD), tmp_path
    with learn.no_bar(), learn.no_logging(): learn.fit(5, 1.)
    assert save.best == pytest.approx(1.) and model.w.item() == 6.            # the best was loaded at the end
    assert float(torch.load(tmp_path/'models'/'best.pth', weights_only=True)['w']) == 6.

def test_the_average_is_what_is_measured_saved_and_left(tmp_path):
    from functools import partial
    from fastai.callback.tracker import SaveModelCallback
    from fastai.optimizer import OptimWrapper
    from detbook.learner import AverageWeights
    ds = CocoDataset(write(tmp_path/'x', 2))
    seen = []
    class Shown(Rising):
        def predict(self, images, sizes=None): seen.append(float(self.w)); return super().predict(images)
    model, average = Shown(None), AverageWeights(momentum=.5, rule='ExponentialMovingAverage')
    learn = detection_learner(detection_dls(ds, ds, bs=1), model, metrics=('bbox',), cbs=[average, SaveModelCallback(fname='last', every_epoch=True)])
    learn.opt_func, learn.path = partial(OptimWrapper, opt=torch.optim.SGD), tmp_path
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1.)
    assert seen == [1.5, 1.5, 3.125, 3.125] and model.w.item() == 3.125           # of 1, 2 | 3, 4; halves of them
    assert [float(torch.load(tmp_path/'models'/f'last_{e}.pth', weights_only=True)['w']) for e in (0, 1)] == [1.5, 3.125]
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1.)
    assert model.w.item() == 4.625                                              # from there: 4.125 and 5.125, a new average
    with pytest.raises(ValueError): AverageWeights(momentum=2.)
    with pytest.raises(TypeError, match='ExpMomentumEMA'): AverageWeights(rule='ExpMomentumEma')

# ---------------------------------------------------------------- the company a picture is in

def test_figures_do_not_depend_on_the_batch(tmp_path):
    "Pictures of four sizes, in batches of one, two and seven, by the Learner and by the loop of detbook_test: the same detections, the same figures."
    from detbook.testing import detect_all
    from detbook.tiny import toy_detector
    from detbook.toy import scene
    images, anns = [], []
    for n in range(7):
        image, target = scene(n, size=96, crowd=0, empty=0)
        h, w = ((96, 96), (64, 96), (96, 70), (56, 64))[n % 4]
        Image.fromarray(image[:, :h, :w].permute(1, 2, 0).numpy()).save(tmp_path/f'{n}.png')
        images.append(dict(id=n + 1, file_name=f'{n}.png', height=h, width=w))
        for (x, y, r, b), label in zip(target['boxes'].clamp(max=torch.tensor([w, h, w, h])).tolist(), target['labels'].tolist()):
            if r - x > 4 and b - y > 4: anns.append(dict(id=len(anns) + 1, image_id=n + 1, category_id=label, bbox=[x, y, r - x, b - y], area=(r - x)*(b - y), iscrowd=0))
    model = toy_detector()
    (tmp_path/'ann.json').write_text(json.dumps(dict(images=images, annotations=anns, categories=[dict(id=k, name=c) for k, c in enumerate(model.classes)])))
    ds = CocoDataset(tmp_path/'ann.json', transforms=seen(None))
    found, stats = {}, []
    for bs in (1, 2, 7):
        learn = detection_learner(detection_dls(ds, ds, bs=bs), model, metrics=('bbox',))
        quiet(learn, learn.validate)
        stats.append(learn.result.stats)
        found[bs] = detect_all(model, ds, bs)
    assert stats[0]['bbox_mAP_50'] > .3
    for s in stats[1:]: assert s == pytest.approx(stats[0], abs=1e-9, nan_ok=True)
    for bs in (2, 7):
        for a, b in zip(found[1], found[bs]):
            for k in ('boxes', 'scores'): torch.testing.assert_close(a[k], b[k], rtol=0, atol=1e-3)
    together, alone = model.predict([ds[0][0], ds[3][0]])[1], model.predict([ds[3][0]])[0]
    assert len(together['scores']) != len(alone['scores']) or (together['scores'] - alone['scores']).abs().max() > 1e-3, 'in one frame they do differ'
