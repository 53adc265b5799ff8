"Figures that README and index state are those of the runs that the chapters keep."
import ast, json, re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
PARTS = {'half': 1/2, 'two thirds': 2/3, 'three quarters': 3/4, 'four fifths': 4/5, 'nine tenths': 9/10}
NUMBERS = dict(zip('one two three four five six seven eight nine ten'.split(), range(1, 11)))

def page(word):
    "The cells of a chapter, and its prose."
    path, = NBS.glob(f'*{word}.ipynb')
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return cells, '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')

def stated(name):
    "The prose of the index or of the README, lines joined."
    text = page('index')[1] if name == 'index' else (ROOT/'README.md').read_text(encoding='utf-8')
    return re.sub(r'\s+', ' ', text)

def bench_ratios():
    "A training step's time divided by torchvision's, as the chapter bench has measured it: one number for each setting."
    measured = page('bench')[1].split('## What was measured', 1)[1]
    assert 'Mask R-CNN' in measured
    row, = re.findall(r'^\| training step \|(.*)\|$', measured, re.M)
    return [float(re.search(r'\d\.\d+', column)[0]) for column in row.split('|')]

def demo_report():
    "What the stored whole run of the demo returned."
    outputs = [''.join(o['data']['text/plain']) for c in page('demo')[0] if "k:full[k]" in ''.join(c['source']) for o in c['outputs']]
    return ast.literal_eval(outputs[0])

def test_the_stored_runs_are_found():
    assert len(bench_ratios()) >= 2 and all(.1 < r < 10 for r in bench_ratios())
    assert set(demo_report()) == {'bbox_mAP', 'bbox_mAP_50', 'segm_mAP', 'segm_mAP_50', 'steps', 'seconds'}

@pytest.mark.parametrize('name', ['index', 'README'])
def test_time_beside_torchvision(name):
    found = re.findall(r'takes about (\w+ ?\w+) of the time of torchvision', stated(name))
    assert found, f'{name} says nothing of the time beside torchvision'
    for words in found:
        for ratio in bench_ratios(): assert abs(PARTS[words] - ratio) < .08, f'{name} says {words}, the chapter bench {ratio}'

@pytest.mark.parametrize('name', ['index', 'README'])
def test_the_demo(name):
    m = re.search(r'It learns for (\d+) steps, (\w+) minutes on two cores, and reaches a box AP of (\d\.\d+) and a mask AP of (\d\.\d+)', stated(name))
    assert m, f'{name} does not say what the demo reaches'
    report = demo_report()
    assert int(m[1]) == report['steps']
    assert NUMBERS[m[2]] == round(report['seconds']/60)
    assert (m[3], m[4]) == (f'{report["bbox_mAP"]:.2f}', f'{report["segm_mAP"]:.2f}')

@pytest.mark.parametrize('name', ['index', 'README'])
def test_the_table_of_peers(name):
    "Its figures stand in the chapter bench: detbook's and torchvision's in one table, those of the other two in another."
    text = page('index')[1] if name == 'index' else (ROOT/'README.md').read_text(encoding='utf-8')
    row  = lambda title: [w.strip() for w in re.search(rf'^\| {title} \|(.*)\|$', text, re.M)[1].split('|')]
    bench = page('bench')[1].split('## What was measured', 1)[1]
    ours  = [re.findall(r': (\d\.\d\d)', cell) for cell in re.search(r'^\| two threads: float32, torchvision \|(.*)\|$', bench, re.M)[1].split('|')]
    other = bench.split('**mmdetection and Detectron2**', 1)[1]
    cells = lambda title: [re.findall(r'\d+(?:\.\d+)?', c) for c in re.search(rf'^\| {title} \|(.*)\|$', other, re.M)[1].split('|')]
    assert row('training step of Mask R-CNN')  == [ours[0][0], '1', *(c[1] for c in cells('a training step'))]
    assert row('inference of Mask R-CNN') == [ours[1][0], '1', *(c[1] for c in cells('an inference call'))]
    waits = re.search(r'as a GPU runs it \| (\d+); torchvision (\d+)', bench)
    assert row('times that a training step makes a GPU wait') == [waits[1], waits[2], *(c[0] for c in cells('data-dependent operations of a step'))]
