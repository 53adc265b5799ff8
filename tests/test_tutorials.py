"Tutorials do what their pages show: with the shown cells alone, and when all cells are run again in the same kernel. Trainings are cut short here; nbdev-test runs them whole."
import ast, importlib, inspect, json, linecache, pkgutil, random, re
from pathlib import Path
import matplotlib, matplotlib.pyplot as plt, numpy as np, pytest, torch

NBS = Path(__file__).resolve().parents[1]/'nbs'
TUTORIALS = [p for p in sorted((NBS/'tutorials').glob('*.ipynb')) if p.stem != 'glossary']      # which is a table
by_tutorial = pytest.mark.parametrize('path', TUTORIALS, ids=lambda p: p.stem)
UNSEEN = {'hide'}                                                       # nbdev takes these cells out of the page; exported ones stay, as pyproject.toml says
SWITCHED = {'echo', 'include', 'eval', 'exec_doc'}                      # Quarto hides the code, or never runs it, where these are false

STEPS = 6                                                               # of a training, here

def code_cells(path):
    "All but those that nothing runs."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [(i, s) for i, c in enumerate(cells) if c['cell_type'] == 'code' and directives(s := ''.join(c['source'])).get('eval') != 'false']

def directives(source):
    "Those of a cell: {'hide': '', 'echo': 'false'}."
    words = (l[2:].replace(':', ' ').split() for l in source.splitlines() if l.startswith('#|'))
    return {w[0]: ' '.join(w[1:]) for w in words if w}

def shown(source):
    "What the page shows of a cell's code: all of it, nothing, or all but its hidden lines."
    found = directives(source)
    if UNSEEN & set(found) or any(found.get(k) == 'false' for k in SWITCHED): return ''
    return '\n'.join('' if l.rstrip().replace(' ', '').endswith('#|hide_line') else l for l in source.splitlines())

class Shorter(ast.NodeTransformer):
    "Trainings of a few steps. What a page asserts of their results is still computed, but need not be true."
    def visit_Assert(self, node): return ast.copy_location(ast.Expr(node.test), node)
    def visit_Assign(self, node):
        if getattr(node.targets[0], 'id', '') == 'steps' and isinstance(node.value, ast.Constant): node.value.value = STEPS//2
        return self.generic_visit(node)
    def visit_arguments(self, node):
        for a, v in zip(node.args[::-1], node.defaults[::-1]):
            if a.arg == 'steps': v.value = STEPS//2
        return self.generic_visit(node)

def run(name, cells, space):
    "Run the cells one after another, as a kernel does; a failure says which cell it was."
    for i, source in cells:
        file = f'<{name}, cell {i}>'
        linecache.cache[file] = len(source), None, source.splitlines(True), file
        try: exec(compile(Shorter().visit(ast.parse(source, file)), file, 'exec'), space)
        except Exception as e: raise AssertionError(f'{name}, cell {i}: {type(e).__name__}: {e}') from e
        plt.close('all')

def shorter(monkeypatch):
    "fastai's trainings of a few steps, an epoch of at least one."
    import fastai.callback.schedule  # noqa: F401 (adds lr_find to the Learner)
    from fastai.callback.core import CancelTrainException
    from fastai.learner import Learner
    fit, find, step = Learner.fit, Learner.lr_find, Learner.one_batch
    def one_batch(self, i, b):
        if self.training and i >= STEPS: raise CancelTrainException
        step(self, i, b)
    def fit_short(self, n_epoch, *args, **kwargs): fit(self, n_epoch if self.finding else min(n_epoch, max(1, STEPS // len(self.dls.train))), *args, **kwargs)
    def find_short(self, *args, num_it=100, **kwargs):
        self.finding = True
        try: return find(self, *args, num_it=min(num_it, 8), **kwargs)
        finally: self.finding = False
    monkeypatch.setattr(Learner, 'finding', False, raising=False)
    for k, v in dict(fit=fit_short, one_batch=one_batch, lr_find=find_short).items(): monkeypatch.setattr(Learner, k, v)

@pytest.fixture
def kernel(monkeypatch, tmp_path, one_thread):
    "The names of a new kernel. What a tutorial changes outside of it is put back."
    shorter(monkeypatch)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    backend, states = matplotlib.get_backend(), (torch.get_rng_state(), np.random.get_state(), random.getstate())
    matplotlib.use('agg')
    yield {'__name__': '__main__'}
    plt.close('all'); matplotlib.use(backend)
    for put, state in zip((torch.set_rng_state, np.random.set_state, random.setstate), states): put(state)

@by_tutorial
def test_tutorial_can_be_typed_and_run_again(path, kernel):
    "In a new kernel, a reader gets through who types what the page shows; afterwards all cells run in the same kernel."
    cells = code_cells(path)
    typed = [(i, shown(s)) for i, s in cells]
    last = max(i for i, s in typed if s)
    run(path.stem, typed, kernel)
    run(path.stem, [c for c in cells if c[0] > last], kernel)           # what cleans up
    run(path.stem, cells, kernel)

@by_tutorial
def test_tutorial_installs_detbook_in_colab(path):
    "The first cell that names it does, where there is Colab's folder; the page does not show it."
    first = next(s for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code' and 'detbook' in (s := ''.join(c['source'])))
    assert '[ -e /content ] && pip install' in first and not shown(first) and directives(first).get('eval') == 'false'

# ---- and these tests can fail

def test_hidden_set_up_is_noticed(kernel):
    "A page that hides the cell which makes its folder cannot be typed."
    path, = (p for p in TUTORIALS if p.stem == 'coming_from_mmdetection')
    at, = (i for i, s in code_cells(path) if ".mkdir()" in s)
    hidden = [(i, '' if i == at else shown(s)) for i, s in code_cells(path)]
    with pytest.raises(AssertionError, match=r'cell \d+: FileNotFoundError.*configs'): run(path.stem, hidden, kernel)

@pytest.mark.parametrize('source', ['#| hide\na = 1', '#|echo: false\na = 1', '#| include: false\na = 1', '#| eval: false\na = 1', 'a = 1 #|hide_line'])
def test_what_is_hidden_is_not_shown(source): assert not shown(source).strip()

def test_other_directives_hide_nothing():
    for source in ('#| export\na = 1', '#| exporti\na = 1', '#| code-fold: true\na = 1', '#| echo: true\na = 1', 'a = 1  # hide'): assert 'a = 1' in shown(source)
    from nbdev.config import get_config
    assert get_config().skip_procs == 'rm_export', 'nbdev hides other cells than this file knows of'

# ---- what the tables of coming_from_mmdetection say that one types

def right_hand_code():
    "What stands between backquotes in the columns headed `here`."
    page = json.loads((NBS/'tutorials'/'coming_from_mmdetection.ipynb').read_text(encoding='utf-8'))
    tables = [t for c in page['cells'] if c['cell_type'] == 'markdown' for t in re.findall(r'(?:^\|.*\|$\n?)+', ''.join(c['source']), re.M)]
    assert len(tables) == 3
    found = []
    for head, _, *rows in ([[w.strip() for w in l.split('|')] for l in t.splitlines()] for t in tables):
        found += [code for r in rows for code in re.findall(r'`([^`]+)`', r[head.index('here')])]
    return found

def public_names():
    import detbook
    modules = [importlib.import_module(f'detbook.{m.name}') for m in pkgutil.iter_modules(detbook.__path__)]
    return {n: o for m in modules for n, o in vars(m).items() if not n.startswith('_')}

def faults(code, names, parsers):
    "What is wrong with a line that a table says one types."
    words = code.split()
    command = next((w for w in words if w in parsers), None)
    flags = {o for a in parsers[command]._actions for o in a.option_strings} if command else {o for p in parsers.values() for a in p._actions for o in a.option_strings}
    behind = words[words.index(command):] if command else words if words[0].startswith('--') else []
    wrong = [w for w in behind if w.startswith('--') and w not in flags]
    if behind and '--set' in behind and (changes := [w for w in behind[behind.index('--set') + 1:] if re.match(r'\w+\.\w+\.|\w+=\w|\w+\.\w+=', w) and not w.startswith('a.b')]):
        from detbook.training import read_training_config
        try: read_training_config('mask-rcnn_r50_fpn_1x_coco', [c for c in changes if c != 'd.e=f'])
        except ValueError as e: wrong.append(str(e))
    if not behind and (m := re.fullmatch(r'(\w+)(\(.*\)|(?:\.\w+)*)', code)) and m[1] in names:
        rest = m[2]
        if rest.startswith('('):
            takes = inspect.signature(names[m[1]]).parameters
            wrong += [f'{m[1]} takes no {k}' for k in re.findall(r'(\w+)=', rest) if k not in takes]
    elif not behind: wrong.append('no such name')
    return wrong

OTHER = {'boxes', 'labels', 'scores', 'masks', 'metrics.json', '.json', 'model.loss(images, targets)', 'model.predict(images)'}      # keys, files, and methods

def test_what_one_types_exists():
    "Each right-hand name is one of detbook's, each command has the flags, each setting reaches something."
    from detbook.cli import make_parser
    names = public_names()
    parsers = {k: make_parser(names[k]) for k in ('detbook_train', 'detbook_test', 'detbook_predict', 'detbook_convert')}
    found = [c for c in right_hand_code() if c not in OTHER]
    assert len(found) > 40
    wrong = {c: f for c in found if (f := faults(c, names, parsers))}
    assert not wrong, wrong
    assert all(callable(getattr(names['MaskRCNN'], k)) for k in ('loss', 'predict'))
    for slip in ('Mathcer', 'detbook_train CONFIG --workdir DIR', '--set optim_wraper.type=AmpOptimWrapper', 'ResNet(group=)', '--show-dirs DIR'): assert faults(slip, names, parsers), slip

def test_daily_words_of_mmdetection_are_answered():
    page = (NBS/'tutorials'/'coming_from_mmdetection.ipynb').read_text(encoding='utf-8')
    words = '''init_detector inference_detector show_result tools/train.py tools/test.py dist_train.sh dist_test.sh --work-dir --resume --cfg-options --out --show-dir --launcher --amp
               CheckpointHook LoggerHook EMAHook EarlyStoppingHook load_from _base_ metainfo AmpOptimWrapper'''.split()
    assert not [w for w in words if w not in page]
