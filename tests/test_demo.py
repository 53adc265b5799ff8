"The demo and the bench as processes, as a user starts them."
import json, subprocess, sys
import pytest
from detbook.cli import COMMANDS, main
from detbook.toy import write_coco

def run(command, *words, timeout=300):
    "Start a console script's function in a process of its own."
    return subprocess.run([sys.executable, '-m', COMMANDS[command], *map(str, words)], capture_output=True, text=True, timeout=timeout)

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp('toy')
    train, valid = write_coco(folder/'train', 12, seed=0), write_coco(folder/'val', 4, seed=1, digits='val')
    boxes = json.loads(train.read_text())
    for a in boxes['annotations']: a.pop('segmentation')
    (folder/'train'/'boxes.json').write_text(json.dumps(boxes))
    return folder, train, valid

@pytest.mark.parametrize('masks', [True, False])
def test_demo_on_own_data(toy, tmp_path, masks):
    folder, train, valid = toy
    done = run('detbook_demo', '--work_dir', tmp_path/'run', '--data', train if masks else folder/'train'/'boxes.json', '--images', folder/'train'/'images', '--val-data', valid, '--epochs', 1)
    assert done.returncode == 0, done.stderr
    assert 'MaskRCNN' in done.stdout if masks else 'FasterRCNN' in done.stdout
    report = json.loads((tmp_path/'run'/'metrics.json').read_text())
    wanted = {'bbox_mAP', 'bbox_mAP_50', *(['segm_mAP'] if masks else [])}
    assert all(0 <= report[k] <= 1 for k in wanted) and (report['segm_mAP'] is None) == (not masks)
    for name in ('predictions.png', 'loss.png', 'pr.png', 'detector.safetensors'): assert (tmp_path/'run'/name).stat().st_size > 1000
    assert 'metrics.json' in done.stdout

@pytest.mark.parametrize('words,expected', [
    (['--data', 'nowhere.json', '--val_data', 'nowhere.json'], 'nowhere.json'),
    (['--data', 'train.json'], '--val_data'),
    (['--epoch', '3'], '--epochs'),
    (['--epochs', 'three'], 'three'),
])
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/detbook_demo', '--work_dir', str(tmp_path/'run'), *words])
    with pytest.raises(SystemExit) as stop: main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and expected in said and 'Traceback' not in said

def test_bench_of_a_gpu_on_the_cpu(tmp_path):
    "The report of a lent GPU, made where there is none: every item is there, and what has no time left is named."
    words = ['detbook_bench', '--gpu', '--device', 'cpu', '--size', '64x96', '--repeats', 1, '--batch', 1, '--models', 'fcos', '--threads', 1]
    done = run(*words, '--out', tmp_path/'gpu.json')
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path/'gpu.json').read_text())
    item = report['gpu']['fcos']
    assert report['skipped'] == [] and list(item) == ['agreement', 'step_s', 'memory', 'profile', 'compiled_s'] and report['models']['fcos']['train_s']['torchvision'] > 0
    assert max(v for k, v in item['agreement'].items() if k != 'gradients') < 1e-5 and item['agreement']['gradients'] < 1e-3
    for key in ('step_s', 'compiled_s'): assert set(item[key]) == {'float32', 'bfloat16', 'bfloat16 channels-last'} and min(item[key].values()) > 0
    assert item['memory']['forecast_mb'] > 100 and 'convolution' in ' '.join(r['name'] for r in item['profile'])
    for said in ('float32 off by', 'a step: float32', 'compiled: float32', 'memory: forecast', 'time: ', 'at the floor'): assert said in done.stdout
    late = run(*words, '--minutes', 0, '--out', tmp_path/'late.json')
    assert late.returncode == 0 and 'not done: fcos: agreement' in late.stdout and len(json.loads((tmp_path/'late.json').read_text())['skipped']) == 6

def test_bench(tmp_path):
    done = run('detbook_bench', '--size', 64, '--repeats', 1, '--batch', 1, '--models', 'faster_rcnn', '--out', tmp_path/'bench.json')
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path/'bench.json').read_text())
    r = report['models']['faster_rcnn']
    assert r['syncs']['detbook'] <= 3 < r['syncs']['torchvision'] and r['found']['detbook'] == r['found']['torchvision'] and report['size'] == [64, 64]
    for what in ('train_s', 'predict_s', 'kept_mb', 'operations', 'gflop'): assert min(r[what].values()) > 0     # how fast is no matter for a test
    assert (tmp_path/'bench.png').read_bytes()[:4] == b'\x89PNG'

def test_bench_in_sixteen_bits_and_another_layout(tmp_path):
    done = run('detbook_bench', '--size', 64, '--repeats', 1, '--batch', 1, '--models', 'retinanet', '--threads', 1, '--amp', '--channels-last', '--out', tmp_path/'bench.json')
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path/'bench.json').read_text())
    assert report['amp'] and report['channels_last'] and min(report['models']['retinanet']['train_s'].values()) > 0

def test_bench_of_a_first_stage_and_its_curves(tmp_path):
    "The RPN beside torchvision's first stage, and a step against sizes and numbers of objects."
    done = run('detbook_bench', '--size', 64, '--repeats', 1, '--batch', 1, '--models', 'rpn', '--threads', 1, '--curves', 'size', 'truths', '--out', tmp_path/'rpn.json')
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path/'rpn.json').read_text())
    r = report['models']['rpn']
    assert r['syncs']['detbook'] <= 1 < r['syncs']['torchvision'] and set(r['train_s']) == {'detbook', 'torchvision'}
    assert [abs(a - b) <= .02*b for a, b in zip(r['found']['detbook'], r['found']['torchvision'])] == [True]      # proposals that nearly tie
    curves = report['curves']['rpn']
    assert list(curves['size']) == ['32x32', '64x64', '96x96'] and list(curves['truths'])[-1] == '1000'
    # what is kept grows with the cells, and not with the objects
    kept = lambda what: [p['detbook']['kept_mb'] for p in curves[what].values()]
    assert kept('size')[2] > 3*kept('size')[0] and kept('truths')[-1] < 1.3*kept('truths')[0]
    for what in curves: assert f'a step against {what}' in done.stdout
    assert (tmp_path/'rpn_curves.png').read_bytes()[:4] == b'\x89PNG'

@pytest.mark.slow
def test_bench_of_what_torchvision_has_not(tmp_path):
    done = run('detbook_bench', '--size', 64, '--repeats', 1, '--batch', 1, '--models', 'cascade_mask_rcnn', '--threads', 1, '--out', tmp_path/'cascade.json')
    assert done.returncode == 0, done.stderr
    r = json.loads((tmp_path/'cascade.json').read_text())['models']['cascade_mask_rcnn']
    assert list(r['train_s']) == ['detbook'] and r['train_s']['detbook'] > 0 and r['found']['detbook'][0] > 0 and r['syncs']['detbook'] <= 3
    assert ' -' in done.stdout and (tmp_path/'cascade.png').exists()
    done = run('detbook_bench', '--size', 64, '--repeats', 1, '--batch', 1, '--models', 'rpn', '--threads', 1, '--curves', 'batch', 'proposals', '--out', tmp_path/'rpn.json')
    assert done.returncode == 0, done.stderr
    curves = json.loads((tmp_path/'rpn.json').read_text())['curves']['rpn']
    kept = [p['detbook']['kept_mb'] for p in curves['batch'].values()]
    assert list(curves['batch']) == ['1', '2', '4'] and list(curves['proposals']) == ['125', '500', '2000'] and kept[2] > 3*kept[0]
