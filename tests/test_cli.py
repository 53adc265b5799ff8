"What the commands answer: at once to --help and to a misspelt flag, in a sentence to a slip, with a traceback to a bug."
import importlib, json, subprocess, sys
from pathlib import Path
import pytest, torch
from detbook.cli import COMMANDS, read_function, run_command
from detbook.describe import save_detector
from detbook.models import faster_rcnn
from detbook.testing import detbook_eval
from detbook.toy import CLASSES, write_coco

def function(command): return getattr(importlib.import_module(COMMANDS[command]), command)

@pytest.mark.parametrize('command', COMMANDS)
def test_help_is_the_functions_own_and_needs_no_torch(command):
    code = f"import sys; sys.argv = ['{command}', *sys.argv[1:]]; from detbook.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, '-c', code, '--help'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import inspect
    f = function(command)
    for name in inspect.signature(f).parameters: assert name in done.stdout
    assert ' '.join(inspect.getdoc(f).split()) in ' '.join(done.stdout.split())
    wrong = subprocess.run([sys.executable, '-c', code, '--hlp'], capture_output=True, text=True)
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1 and wrong.stderr.startswith(command)

def test_a_signature_read_from_source_is_the_signature():
    import inspect
    for command in COMMANDS:
        a, b = (inspect.signature(f).parameters for f in (read_function(COMMANDS[command], command), function(command)))
        assert {k: (p.default, p.annotation) for k, p in a.items()} == {k: (p.default, p.annotation) for k, p in b.items()}, command

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('slips')
    ann = write_coco(d/'toy', 2, size=64, crowd=0, empty=0)
    torch.manual_seed(0)
    save_detector(d/'d.safetensors', faster_rcnn(18, num_classes=4, channels=16, scratch=True), CLASSES)
    truths = json.loads(ann.read_text())
    (d/'rows.json').write_text(json.dumps([dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=.9) for a in truths['annotations']]))
    (d/'cut.json').write_text('{"images": [')
    (d/'cut.pth').write_bytes(b'garbage')
    (d/'cut.py').write_text('model = dict(type=\n')
    (d/'lacks.json').write_text('[{"image_id": 1}]')
    return d

@pytest.mark.parametrize('words,expected', [
    ('detbook_train none.py', 'none.py'), ('detbook_train cut.py', 'cut.py, line 1'), ('detbook_train cut.json', 'cut.json, line 1'), ('detbook_train toy', 'toy is a directory'),
    ('detbook_train retinanet_r50_fpn_1x_coco --gpus 0', 'gpus is 0'), ('detbook_train retinanet_r50_fpn_1x_coco --lr 3', 'no flag --lr (--help'), ('detbook_train rpn_r50_fpn_1x_coco --seeed 3', "'--seed'"),
    ('detbook_test cut.json d.safetensors', 'cut.json'), ('detbook_test toy/instances.json cut.pth', 'cut.pth'), ('detbook_eval cut.json toy/instances.json', 'cut.json: not JSON'),
    ('detbook_eval lacks.json toy/instances.json', "lacks 'category_id'"), ('detbook_eval toy/instances.json rows.json', 'these look like the truths'), ('detbook_eval rows.json toy/instances.json --out rows.json', '--out'),
    ('detbook_eval rows.json toy/instances.json --eval box', "'bbox'"), ('detbook_eval rows.json toy/instances.json --eval segm', 'segmentation'), ('detbook_convert cut.pth o.safetensors', 'cut.pth'),
    ('detbook_convert d.safetensors o.xyz', 'o.xyz'), ('detbook_predict toy/images d.safetensors --device tpu', "'tpu'")])
def test_slips_are_one_sentence(folder, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(folder)
    command, *rest = words.split()
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    try: status = run_command(function(command), rest)
    except SystemExit as e: status = e.code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and said.startswith(f'{command}: ') and expected in said
    assert {p: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before

def test_bugs_keep_their_traceback():
    def ours(): "A bug."; return int('seven')
    def torchs(): "A bug, found by PyTorch."; torch.optim.SGD([], lr=.1)
    def shapes(): "Another."; torch.ones(2) @ torch.ones(3)
    def told(): "A slip."; raise ValueError('number is odd')
    for f, kind in (ours, ValueError), (torchs, ValueError), (shapes, RuntimeError):
        with pytest.raises(kind): run_command(f, [])
    assert run_command(told, []) == 2

def test_results_are_measured_from_a_file(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run_command(detbook_eval, ['rows.json', 'toy/instances.json', '--out', 'figures.json']) == 0
    said, figures = capsys.readouterr().out, json.loads(Path('figures.json').read_text())
    assert figures['stats']['bbox_mAP'] == 1 and figures['results'] == 'rows.json' and 'bbox' in said
