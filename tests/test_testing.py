"Detectors of every kind through the command, in one process and in several; what is no lesson about testing."
import contextlib, io, json, os, pickle, subprocess, sys, warnings
from pathlib import Path
import pytest, torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from detbook import models, testing, toy
from detbook.cascade_rcnn import CascadeRoIHead, cascade_heads
from detbook.checkpoint import load_checkpoint
from detbook.describe import save_detector
from detbook.cli import run_command
from detbook.config import Config, build_detector
from detbook.detector import mixed_precision
from detbook.fast_rcnn import BoxHead, DetectionFilter, RoIHead
from detbook.keypoint_rcnn import KeypointHead
from detbook.masks import MaskHead
from detbook.metrics import evaluate
from detbook.testing import detbook_test, read_results, test as run

pytestmark = pytest.mark.usefixtures('one_thread')

SMALL = dict(backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None), neck=dict(in_channels=[64, 128, 256, 512], out_channels=16))
HEADS = dict(rpn_head=dict(in_channels=16, feat_channels=16), test_cfg=dict(rpn=dict(nms_pre=60, max_per_img=40), rcnn=dict(max_per_img=12)),
             roi_head=dict(bbox_roi_extractor=dict(out_channels=16), bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=4)))
STEPS = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 72), keep_ratio=True), dict(type='LoadAnnotations', with_bbox=True, with_mask=True), dict(type='PackDetInputs')]

def config(folder, recipe, model, steps=STEPS, data={}):
    "A small config of a published one, on the toy set."
    cfg = Config.fromfile(recipe)
    cfg.merge_from_dict(dict(model=model, test_evaluator=dict(ann_file=str(folder/'instances.json')), test_dataloader=dict(batch_size=2, num_workers=0, persistent_workers=False)))
    cfg.test_dataloader.dataset.update(dict(data_root=str(folder), ann_file='instances.json', data_prefix=dict(img='images/'), pipeline=steps) | data)
    path = folder/f'{recipe.split("_")[0]}.py'
    cfg.dump(path)
    return path

def lively(model):
    "Random weights that say something: scores that differ, and no two alike."
    for name, p in model.named_parameters():
        if any(k in name for k in ('fc_cls.weight', 'retina_cls.weight')): p.data *= 40
        if 'conv_logits' in name or 'rpn_cls.weight' in name: p.data *= 10
    return model

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('toy')
    toy.write_coco(folder, 7, seed=5, size=64, empty=.2, crowd=.3)
    d = json.loads((folder/'instances.json').read_text())
    assert any(a['iscrowd'] for a in d['annotations'])
    return folder

@pytest.fixture(scope='module')
def mask(folder):
    heads = HEADS | dict(roi_head=HEADS['roi_head'] | dict(mask_roi_extractor=dict(out_channels=16), mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=4)))
    path = config(folder, 'mask-rcnn_r50_fpn_1x_coco', SMALL | heads)
    torch.manual_seed(0)
    save_detector(folder/'mask.safetensors', lively(build_detector(Config.fromfile(path).model)), toy.CLASSES, dict(resize=[96, 72], antialias=False))
    return path, folder/'mask.safetensors'

@pytest.fixture(scope='module')
def rpn(folder):
    path = config(folder, 'rpn_r50_fpn_1x_coco', SMALL | dict(rpn_head=HEADS['rpn_head'], test_cfg=dict(rpn=dict(nms_pre=60, max_per_img=40))))
    torch.manual_seed(0)
    save_detector(folder/'rpn.safetensors', lively(build_detector(Config.fromfile(path).model)), ('object',))
    return path, folder/'rpn.safetensors'

@pytest.fixture(scope='module')
def truth(mask, tmp_path_factory):
    "The figures of one process, and its file of results."
    out = tmp_path_factory.mktemp('one')/'results.json'
    return run(*mask, out=out), out

def test_figures_are_those_of_the_results(folder, truth):
    result, out = truth
    rows = read_results(out)
    assert len({r['image_id'] for r in rows}) == 7 and result.stats['bbox_AR_100'] > 0
    assert evaluate(folder/'instances.json', out, ('bbox', 'segm')).stats == pytest.approx(result.stats, nan_ok=True, abs=0)
    saved = json.loads((out.parent/'metrics.json').read_text())
    assert saved['stats'] == result.to_dict()['stats'] and saved['images'] == 7 and saved['checkpoint'].endswith('mask.safetensors')

def test_pycocotools_reads_the_files(folder, truth):
    "Each file through pycocotools as it comes gives the figures of its kind, sizes included."
    result, out = truth
    for metric, path in (('bbox', out), ('segm', out.with_suffix('.segm.json'))):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(folder/'instances.json'))
            ev = COCOeval(coco, coco.loadRes(str(path)), metric)
            ev.evaluate(); ev.accumulate(); ev.summarize()
        ours = [v for k,v in result.stats.items() if k.startswith(metric)]
        assert [-1 if v != v else v for v in ours] == pytest.approx(ev.stats.tolist(), abs=1e-12)

@pytest.mark.parametrize('gpus,each', [(2, 1), (1, 3)])
def test_any_number_of_processes(mask, truth, tmp_path, gpus, each):
    "Two and three processes: the same file to the byte, the same figures."
    result, out = truth
    again = run(*mask, out=tmp_path/'results.json', gpus=gpus, proc_per_gpu=each, show_dir=tmp_path/'pictures')
    assert (tmp_path/'results.json').read_bytes() == out.read_bytes()
    assert again.stats == pytest.approx(result.stats, nan_ok=True, abs=0)
    assert len(list((tmp_path/'pictures').glob('*.jpg'))) == 7

def test_torchrun(mask, truth, tmp_path):
    (tmp_path/'run.py').write_text('from detbook.cli import main\nif __name__ == "__main__": main("detbook_test")\n')
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', '0', '--standalone', str(tmp_path/'run.py')]
    done = subprocess.run([*command, *map(str, mask), '--launcher', 'pytorch', '--out', 'results.json'], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env=os.environ | dict(OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr
    assert (tmp_path/'results.json').read_bytes() == truth[1].read_bytes()
    assert done.stdout.count('all classes') == 2, 'rank 0 alone prints, a table for boxes and one for masks'

def test_an_error_in_a_process_is_one_sentence(mask):
    three = ['model.roi_head.bbox_head.num_classes=3', 'model.roi_head.mask_head.num_classes=3']
    with pytest.raises(ValueError, match=r'^rank \d of 2: .*does not fit'): run(*mask, gpus=2, set=three)

def test_no_config(folder, mask, truth):
    "An annotation file in place of the config; the detector's own file knows classes and size. The pictures come one at a time."
    one = run(str(mask[0]), str(mask[1]), set=['test_dataloader.batch_size=1'])
    alone = run(str(folder/'instances.json'), str(mask[1]))
    assert alone.stats == pytest.approx(one.stats, nan_ok=True, abs=1e-9)

def test_names_decide(folder, mask, truth, tmp_path):
    "A detector whose classes come in another order."
    model = build_detector(Config.fromfile(mask[0]).model)
    load_checkpoint(model, mask[1])
    order = [2, 0, 3, 1]
    head, masks = model.roi_head.bbox_head, model.roi_head.mask_head.conv_logits
    with torch.no_grad():
        for p in (head.fc_cls.weight, head.fc_cls.bias): p.copy_(p[[*order, 4]].clone())
        for p in (head.fc_reg.weight, head.fc_reg.bias): p.copy_(p.unflatten(0, (4, 4))[order].flatten(0, 1).clone())
        for p in (masks.weight, masks.bias): p.copy_(p[order].clone())
    save_detector(tmp_path/'other.safetensors', model, [toy.CLASSES[i] for i in order])
    assert run(mask[0], tmp_path/'other.safetensors').stats == pytest.approx(truth[0].stats, nan_ok=True, abs=1e-6)

def test_proposals_of_an_rpn(folder, rpn, tmp_path):
    result = run(*rpn, out=tmp_path/'p.pkl')
    assert list(result.stats) == [f'proposal_fast_AR_{n}' for n in (100, 300, 1000)]
    arrays = read_results(tmp_path/'p.pkl')
    assert [tuple(a.shape) for a in arrays] == [(40, 5)]*7 and all(a.dtype == torch.float32 for a in arrays)
    both = run(*rpn, out=tmp_path/'p.json', eval=['proposal', 'proposal_fast'])
    assert both.stats['proposal_fast_AR_100'] == result.stats['proposal_fast_AR_100']
    assert evaluate(folder/'instances.json', tmp_path/'p.json', ('proposal', 'proposal_fast')).stats == pytest.approx(both.stats, nan_ok=True, abs=1e-6)
    alone = run(folder/'instances.json', rpn[1])
    assert list(alone.stats) == list(result.stats)

@pytest.mark.parametrize('suffix', ['.pkl', '.json'])
def test_fast_rcnn_reads_them(folder, rpn, tmp_path, suffix):
    "Boxes of the RPN, on the original picture, written and read again; a file that would run something is refused."
    run(*rpn, out=folder/f'proposals{suffix}')
    steps = [STEPS[0], dict(type='LoadProposals', num_max_proposals=None), dict(type='ProposalBroadcaster', transforms=[STEPS[1]]), STEPS[3]]
    path = config(folder, 'fast-rcnn_r50_fpn_1x_coco', SMALL | {k: HEADS[k] for k in ('roi_head',)}, steps, dict(proposal_file=f'proposals{suffix}'))
    torch.manual_seed(1)
    save_detector(tmp_path/'fast.safetensors', lively(build_detector(Config.fromfile(path).model)), toy.CLASSES)
    result = run(path, tmp_path/'fast.safetensors', out=tmp_path/'found.pkl')
    found = read_results(tmp_path/'found.pkl')
    assert len(found) == 7 and all(len(f) == 4 for f in found) and any(len(a) for f in found for a in f)
    assert 0 <= result.stats['bbox_mAP'] <= 1
    with pytest.raises(ValueError, match='needs a file|proposal_file'): run(path, tmp_path/'fast.safetensors', set=['test_dataloader.dataset.proposal_file=None'])
    class Trap:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'sprung'),)
    (folder/'trap.pkl').write_bytes(pickle.dumps([Trap()]*7))
    with pytest.raises(ValueError, match='refused'): run(path, tmp_path/'fast.safetensors', set=['test_dataloader.dataset.proposal_file=trap.pkl'])
    assert not (tmp_path/'sprung').exists()

def test_pickles_are_what_old_tools_read(mask, tmp_path):
    run(*mask, out=tmp_path/'r.pkl')
    data = (tmp_path/'r.pkl').read_bytes()
    assert data[:2] == b'\x80\x02' and b'numpy._core' not in data and b'numpy.core.multiarray' in data
    for boxes, masks in read_results(tmp_path/'r.pkl'):
        assert [len(b) for b in boxes] == [len(m) for m in masks]
        assert all(b.shape[1] == 5 and b.dtype == torch.float32 for b in boxes)
        assert all(m['size'] == [64, 64] and isinstance(m['counts'], bytes) for own in masks for m in own)

def test_tta(mask):
    "Mirrored too, as build_tta reads it from the config; the views resize, the data set does not."
    plain, twice = (run(*mask, tta=t, set=['test_dataloader.batch_size=1']) for t in (False, True))
    assert plain.stats.keys() == twice.stats.keys()
    cfg = Config.fromfile(mask[0])
    cfg.update(dict(tta_model=dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=.5), max_per_img=100)),
        tta_pipeline=[dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[[dict(type='Resize', scale=(96, 72), keep_ratio=True)],
                                                                                             [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)], [dict(type='PackDetInputs')]])]))
    again = run(cfg, mask[1], tta=True, set=['test_dataloader.batch_size=1'])
    assert again.stats == pytest.approx(twice.stats, nan_ok=True, abs=1e-6)

def test_truths_come_from_the_file(folder, mask, tmp_path):
    "What the data set leaves out, such as a box of half a pixel, is still a truth that was missed."
    d = json.loads((folder/'instances.json').read_text())
    d['annotations'].append(dict(d['annotations'][0], id=9999, iscrowd=0, bbox=[3., 3., .5, .5], area=.25))
    (tmp_path/'more.json').write_text(json.dumps(d))
    was = run(*mask, eval='bbox')
    new = run(*mask, eval='bbox', set=[f'test_dataloader.dataset.ann_file={tmp_path/"more.json"}', f'test_evaluator.ann_file={tmp_path/"more.json"}'])
    assert sum(v['truths'] for v in new.per_class['bbox'].values()) == 1 + sum(v['truths'] for v in was.per_class['bbox'].values())

def test_results_without_figures(folder, mask, tmp_path, capsys):
    assert run(*mask, set=['test_evaluator.format_only=True', f'test_evaluator.outfile_prefix={tmp_path/"sent"}']) is None
    assert (tmp_path/'sent.json').is_file() and (tmp_path/'sent.segm.json').is_file() and not (tmp_path/'metrics.json').exists()
    with pytest.raises(ValueError, match='--out'): run(*mask, set=['test_evaluator.format_only=True'])
    run(*mask, eval='bbox', set=['test_evaluator.ann_file=nowhere.json'])
    assert 'there is no nowhere.json' in capsys.readouterr().out

def test_pictures_whose_annotations_nobody_has(folder, mask, tmp_path):
    "As with COCO's test-dev: detections are written, and measuring is refused."
    d = json.loads((folder/'instances.json').read_text()); del d['annotations']
    (tmp_path/'info.json').write_text(json.dumps(d))
    there = [f'test_dataloader.dataset.ann_file={tmp_path/"info.json"}', f'test_evaluator.ann_file={tmp_path/"info.json"}']
    assert run(*mask, set=[*there, 'test_evaluator.format_only=True', f'test_evaluator.outfile_prefix={tmp_path/"sent"}']) is None
    assert len(json.loads((tmp_path/'sent.json').read_text())) > 0
    with pytest.raises(ValueError, match="it lacks 'annotations'"): run(*mask, set=there)

def test_command_line(mask, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(detbook_test, [*map(str, mask), '--eval', 'bbox', 'proposal_fast', '--out', 'r.json', '--show-dir', 'seen', '--set', 'test_dataloader.num_workers=1', 'test_dataloader.batch_size=4']) == 0
    out = capsys.readouterr().out
    assert 'proposal_fast' in out and 'square' in out and 'r.segm.json' in out and 'metrics.json' in out
    assert len(list(Path('seen').glob('*.jpg'))) == 7
    mistakes = dict(checkpoint=[str(mask[0]), 'nothing.pth'], config=['nothing.py', str(mask[1])], metric=[*map(str, mask), '--eval', 'boxes'], out=[*map(str, mask), '--out', 'r.txt'],
                    keypoints=[*map(str, mask), '--eval', 'keypoints'], classes=[*map(str, mask), '--set', 'model.roi_head.bbox_head.num_classes=3'],
                    annotations=[*map(str, mask), '--set', 'test_dataloader.dataset.ann_file=nothing.json'], step=[*map(str, mask), '--set', 'test_dataloader.dataset.pipeline.0.type=LoadImage'],
                    show=[*map(str, mask), '--show'])
    for words in mistakes.values():
        assert run_command(detbook_test, words) == 2, words
        said = capsys.readouterr().err
        assert said.startswith('detbook_test: ') and said.count('\n') == 1 and len(said) > 40, said
    with pytest.raises(SystemExit): run_command(detbook_test, [*map(str, mask), '--evaluate', 'bbox'])

def detector(name):
    if name in ('retinanet', 'fcos'): return getattr(models, name)(18, num_classes=4, channels=16, scratch=True)
    parts, few = models.resnet_fpn(18, channels=16, scratch=True), DetectionFilter(max_per_img=8)
    if name == 'cascade_rcnn': return models.CascadeRCNN(4, roi_head=CascadeRoIHead(cascade_heads(4, 16), [MaskHead(4, 16, 1, 8) for _ in range(3)], test_filter=few), **parts)
    return models.KeypointRCNN(4, 4, roi_head=RoIHead(BoxHead(4, 16, fc_channels=32), test_filter=few), keypoint_head=KeypointHead(4, 16, num_convs=1, channels=8), **parts)

@pytest.mark.parametrize('name', ['retinanet', 'keypoint_rcnn', 'cascade_rcnn', 'fcos'])
def test_every_kind_of_detector(folder, tmp_path, name):
    torch.manual_seed(0)
    save_detector(tmp_path/'d.safetensors', lively(detector(name)).eval(), toy.CLASSES)
    result = run(folder/'instances.json', tmp_path/'d.safetensors', out=tmp_path/'r.json')
    assert {k.split('_')[0] for k in result.stats} == ({'bbox', 'segm'} if name == 'cascade_rcnn' else {'bbox'})
    rows = read_results(tmp_path/'r.json')
    if name == 'keypoint_rcnn':
        assert rows
        assert len(rows[0]['keypoints']) == 3*len(toy.KEYPOINTS)
        with pytest.raises(ValueError, match='sigmas'): run(folder/'instances.json', tmp_path/'d.safetensors', eval='keypoints')

def test_another_resize_than_the_file_says(mask, folder, tmp_path):
    "The config's size is the one that is measured, and the difference is said; where both agree nothing is."
    cfg = Config.fromfile(mask[0])
    model = build_detector(cfg.model)
    for size, says in (([50, 60], True), ([96, 72], False), ([72, 96], False)):
        path = tmp_path/'own.safetensors'
        save_detector(path, model, toy.CLASSES, dict(resize=size, antialias=False))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            run(mask[0], path)
        found = [str(w.message) for w in told if 'was made for pictures of' in str(w.message)]
        assert len(found) == says and all('[50, 60]' in t and '(96, 72)' in t and 'the figures are those of the config' in t for t in found), found

@pytest.mark.parametrize('words, expected', [({}, False), (dict(amp=True), True), (dict(set=['test_cfg.fp16=True']), True)], ids=('32', 'flag', 'config'))
def test_sixteen_bits(mask, monkeypatch, words, expected):
    asked = []
    monkeypatch.setattr('detbook.testing.mixed_precision', lambda device, on=True: asked.append(on) or mixed_precision(device, on))
    result = run(*map(str, mask), **words)
    assert set(asked) == {expected} and 0 <= result.to_dict()['stats']['bbox_mAP'] <= 1

@pytest.mark.parametrize('words, expected', [({}, False), (dict(channels_last=True), True), (dict(set=['channels_last=True']), True)], ids=('usual', 'flag', 'config'))
def test_layout(mask, monkeypatch, words, expected):
    seen, detect = [], testing.detect_all
    def spy(model, *args):
        seen.append(any(not p.is_contiguous() for p in model.parameters()))
        return detect(model, *args)
    monkeypatch.setattr(testing, 'detect_all', spy)
    result = run(*map(str, mask), **words)
    assert seen == [expected] and 0 <= result.to_dict()['stats']['bbox_mAP'] <= 1
    with pytest.raises(ValueError, match="channels_last is 'yes'; expected True or False"): run(*map(str, mask), set=['channels_last=yes'])

def test_sixteen_bits_are_a_switch(mask):
    with pytest.raises(ValueError, match="test_cfg.fp16 is 'yes'; expected True or False"): run(*map(str, mask), set=['test_cfg.fp16=yes'])
