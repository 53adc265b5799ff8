"Checks on the project as a whole: what no chapter can say of itself. Each failure names the file, and the cell where there is one."
import ast, difflib, importlib.util, io, json, os, re, shutil, subprocess, sys, tokenize, zipfile
from configparser import ConfigParser
from email.parser import Parser
from importlib.metadata import entry_points
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS, LIB = ROOT/'nbs', ROOT/'detbook'
CHAPTERS = sorted(NBS.glob('[0-9][0-9][0-9]_*.ipynb'))                       # in reading order, which is import order
PAGES = sorted(p for p in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
NUMBER = {p.stem[4:]:int(p.stem[:3]) for p in CHAPTERS}                 # 'boxes' -> 8
OUTER = NUMBER['images']                                                # chapters before it import torch, torchvision and fastcore alone
EXPORT = {'export', 'exports', 'exporti', 'exportd'}
by_chapter = pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
by_page = pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)

_meta = ConfigParser(delimiters=['='], interpolation=None)
_meta.read(ROOT/'settings.ini', encoding='utf-8')
META = _meta['DEFAULT']
SCRIPTS = dict(o.strip().split('=') for o in META.get('console_scripts', '').splitlines() if o.strip())

# ---- reading notebooks

def join(text): return text if isinstance(text, str) else ''.join(text)

class Cell:
    "A code cell: its directives, its code (magics blanked, line numbers kept), and a name that can be found in the notebook."
    def __init__(self, path, i, raw):
        self.source, self.outputs = join(raw['source']), raw['outputs']
        lines, self.flags = self.source.splitlines(), {}
        for line in lines:
            if not (m := re.match(r'#\|\s*([\w-]+)\s*:?\s*(.*)', line)): break
            self.flags[m[1]] = m[2].strip()
        self.code = '\n'.join('' if re.match(r'\s*[%!]', l) else l for l in lines)
        first = next((l for l in lines if l.strip() and not l.startswith('#|')), '')
        self.where = f'{path.relative_to(ROOT)}, cell {i} ({first.strip()[:50]!r})'
        try: self.tree = ast.parse('' if self.source.lstrip().startswith('%%') else self.code)
        except SyntaxError as e: raise SyntaxError(f'{self.where}: {e}') from None
    @property
    def exported(self): return bool(EXPORT & set(self.flags))
    @property
    def runs(self): return self.flags.get('eval') != 'false' and not {'slow', 'cuda', 'dist'} & set(self.flags)

def cells(path):
    return [Cell(path, i, c) for i, c in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']) if c['cell_type'] == 'code']

def report(faults):
    assert not faults, f'{len(faults)} found:\n  ' + '\n  '.join(faults)

# ---- export and clean

@pytest.fixture(scope='session')
def made_again(tmp_path_factory):
    "A copy of the project whose modules were deleted and exported anew, and whose notebooks were cleaned."
    copy = tmp_path_factory.mktemp('project')/'detbook'
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns('.git', '*.egg-info', '__pycache__', '.ipynb_checkpoints', 'build', 'dist', 'golden', 'runs', '.venv', '_proc', '_docs'), symlinks=True)
    for p in (copy/'detbook').glob('*.py'):
        if p.name not in ('__init__.py', '_site.py'): p.unlink()
    for command in ('nbdev_export', 'nbdev_clean'):
        module = 'nbdev.doclinks' if command == 'nbdev_export' else 'nbdev.clean'
        done = subprocess.run([sys.executable, '-c', f'import sys; from {module} import {command}; sys.argv=["{command}"]; {command}()'], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, f'{command} failed:\n{done.stdout}{done.stderr}'
    return copy

def test_export_changes_nothing(made_again):
    faults = []
    for name in sorted({p.name for d in (LIB, made_again/'detbook') for p in d.glob('*.py')}):
        old, new = LIB/name, made_again/'detbook'/name
        if not new.exists(): faults.append(f'detbook/{name} is made by no notebook')
        elif not old.exists(): faults.append(f'detbook/{name} is missing: run nbdev-export')
        elif old.read_text() != new.read_text():
            diff = list(difflib.unified_diff(old.read_text().splitlines(), new.read_text().splitlines(), 'committed', 'exported', lineterm='', n=0))
            faults.append(f'detbook/{name} is not what its notebook exports:\n    ' + '\n    '.join(diff[:12]))
    report(faults)

@by_page
def test_notebook_is_clean(path, made_again):
    assert path.read_bytes() == (made_again/path.relative_to(ROOT)).read_bytes(), f'{path.relative_to(ROOT)}: nbdev-clean would change it'

# ---- the order of the book

def test_names_and_numbers():
    faults, seen = [], {}
    for p in PAGES:
        word = re.sub(r'^\d+_', '', p.stem)
        if word in seen: faults.append(f'{p.relative_to(ROOT)} and {seen[word].relative_to(ROOT)} make one page name, {word!r}')
        seen[word] = p
    numbers = [p.stem[:3] for p in CHAPTERS]
    faults += [f'two chapters have number {n}' for n in set(numbers) if numbers.count(n) > 1]
    faults += [f'{p.name}: the numbers leave none out, so its is {i:03}' for i, p in enumerate(CHAPTERS) if int(p.stem[:3]) != i]
    faults += [f'{p.relative_to(ROOT)}: a chapter is named NNN_word.ipynb' for p in NBS.glob('*.ipynb') if p not in CHAPTERS and p.stem != 'index']
    faults += [f'{p.relative_to(ROOT)}: no .py file belongs in nbs' for p in NBS.rglob('*.py') if '.ipynb_checkpoints' not in p.parts]
    assert len(CHAPTERS) > 0
    report(faults)

def test_every_module_has_its_notebook_and_the_reverse():
    faults, words = [], {}
    for p in PAGES:
        names = [c.flags['default_exp'] for c in cells(p) if 'default_exp' in c.flags]
        if p not in CHAPTERS:
            if names: faults.append(f'{p.relative_to(ROOT)} exports to {names}: only numbered chapters export')
        elif names != [p.stem[4:]]: faults.append(f'{p.relative_to(ROOT)}: default_exp is {names}, expected {[p.stem[4:]]}')
        for n in names: words[n] = p
    for m in LIB.glob('*.py'):
        if m.stem not in ('__init__', '_modidx', '_site') and m.stem not in words: faults.append(f'detbook/{m.name} has no notebook')
    faults += [f'{p.relative_to(ROOT)} has no module detbook/{w}.py' for w, p in words.items() if not (LIB/f'{w}.py').exists()]
    report(faults)

def test_no_folder_of_the_project_has_the_name_of_a_module():
    "For a script in the parent folder of a clone the clone itself is `detbook`, and its folders would be found before the modules."
    full = {p.name for p in ROOT.iterdir() if p.is_dir() and any(q.is_file() for q in p.rglob('*'))}
    assert not full & set(NUMBER), f'{full & set(NUMBER)}: rename the folder'

def imported(tree):
    "(module, names, level, node) of each import anywhere in the tree; names is None for a plain `import`."
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): yield from ((a.name, None, 0, node) for a in node.names)
        elif isinstance(node, ast.ImportFrom): yield node.module or '', [a.name for a in node.names], node.level, node

@by_chapter
def test_imports_only_earlier_chapters_by_name(path):
    me, faults = path.stem[4:], []
    for c in cells(path):
        for module, names, level, node in imported(c.tree):
            if level: faults.append(f'{c.where}: relative import'); continue
            if module.split('.')[0] != 'detbook': continue
            if names and '*' in names: faults.append(f'{c.where}: star import from {module}')
            if c.exported and (names is None or module == 'detbook'): faults.append(f'{c.where}: write `from detbook.word import name`')
            # beside a clone the folder detbook/ is a namespace package, which has no __version__: `VERSION` of the chapter checkpoint is there, too
            private = [n for n in names or [] if n.startswith('_') and n != '__version__']
            if private: faults.append(f'{c.where}: imports {", ".join(private)} of {module}, which are its own business')
            words = [module.split('.')[1]] if '.' in module else [n for n in names or [] if n in NUMBER]
            for w in words:
                if w.startswith('_') and not c.exported and (ROOT/'detbook'/f'{w}.py').exists(): continue      # how pages are made and tested; no chapter
                if w not in NUMBER: faults.append(f'{c.where}: there is no chapter {w!r}')
                elif NUMBER[w] > NUMBER[me] or (c.exported and w == me): faults.append(f'{c.where}: imports {w}, which does not come earlier')
    report(faults)

# who may import a chapter by a name that is found as it runs, and why
BY_NAME = {'cli': 'a command is a name, and its module is imported when it is called', 'core': '`moved` finds names where they are now', 'describe': 'a file names its components, which are looked for among those of the package',
           'detector': '`model.explain` is a method of every detector, and its chapter comes when all of them are known'}

MOVED = dict(checkpoint='describe rebuild save_detector read_detector shown check_file Budget folder_names DoubleKey parse_json file_budget notes_budget read_arrays read_checkpoint Checkpoint download whole_file',
             config='Config ConfigDict ConfigError Origin ConfigPart build_part finish_part refuse_type build_detector build_tta load_own',
             weights='from_torchvision from_detectron2 from_detectron convert weights_kind ZOO DETECTRON2 TORCHVISION BACKBONES Published find_url',
             data='class_names find_folder find_file flip_pairs check_size upright_size VocDataset read_dataset read_image picture_formats read_picture find_pictures list_pictures plain_value written_id plain_record plain_id whole_number spellings link_record read_json read_coco decode_runs decode_masks segmentation_to_rle check_mask has_mask',
             metrics='to_coco encode_mask match_categories evaluate Result cover_truths',
             pipeline='Pipeline build_transforms ProposalTable read_proposals build_dataset JoinedDataset class_balanced build_plan SETTINGS',
             training='Trainer build_model read_training_config next_commands Timetable Log State read_state save_state',
             inference='init_detector inference_detector show_result Detections mask_patch merge_tiles tile_grid Predictor')

@pytest.mark.parametrize('word', MOVED)
def test_names_that_moved_are_found_where_they_were(word):
    module = importlib.import_module(f'detbook.{word}')
    assert not [n for n in MOVED[word].split() if not hasattr(module, n)]
    with pytest.raises(ImportError): exec(f'from detbook.{word} import nothing_of_this_name')

@by_chapter
def test_imports_by_name_are_few(path):
    "`import_module('detbook...')` would pass under the test above: no circle may hide there."
    faults = []
    for c in cells(path):
        for node in ast.walk(c.tree) if c.exported and path.stem[4:] not in BY_NAME else ():
            if isinstance(node, ast.Call) and getattr(node.func, 'attr', getattr(node.func, 'id', '')) in ('import_module', '__import__'):
                if not (node.args and isinstance(node.args[0], ast.Constant) and not str(node.args[0].value).startswith('detbook')): faults.append(f'{c.where}: {ast.unparse(node)}')
    report(faults)

@by_chapter
def test_top_level_imports_of_the_inner_parts(path):
    if int(path.stem[:3]) >= OUTER: return
    allowed = {'torch', 'torchvision', 'fastcore', 'detbook'} | set(sys.stdlib_module_names)
    if path.stem[4:] == 'explore': allowed |= {'ipywidgets', 'PIL'}         # sliders for the pages; no module of the inner parts imports it
    faults = []
    for c in cells(path):
        if not c.exported: continue
        inner = {id(n) for f in ast.walk(c.tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
        faults += [f'{c.where}: imports {m} when the module is imported' for m, _, level, n in imported(c.tree)
                   if not level and id(n) not in inner and m.split('.')[0] not in allowed]
    report(faults)

@by_chapter
def test_imports_have_cells_of_their_own(path):
    "Making the documentation runs every cell that holds a top-level import: it must be quick and without effect."
    kinds = (ast.Import, ast.ImportFrom)
    report([c.where for c in cells(path) if any(isinstance(n, kinds) for n in c.tree.body) and not all(isinstance(n, kinds) for n in c.tree.body)])

# ---- documented names

def comments(code):
    "Line number -> (comment, whether it has the line to itself)."
    found = (t for t in tokenize.generate_tokens(io.StringIO(code).readline) if t.type == tokenize.COMMENT and not t.string.startswith('#|'))
    return {t.start[0]:(t.string.lstrip('# '), not t.line[:t.start[1]].strip()) for t in found}

def documented(node, notes, start=0):
    "Does `node` carry a comment, at the end of its line or alone on the line above?"
    here, above = notes.get(node.end_lineno), notes.get(node.lineno-1)
    return bool(here and here[0]) or bool(above and above[1] and above[0] and node.lineno-1 > start)

def check_function(f, name, notes, needs_return):
    "What is wrong with the parameters and the return of function `f`."
    a = f.args
    params = a.posonlyargs + a.args + a.kwonlyargs
    static = any(getattr(d, 'id', '') == 'staticmethod' for d in f.decorator_list)
    patched = any('patch' in ast.unparse(d) for d in f.decorator_list)
    if '.' in name and not static or patched: params = params[1:]                   # self or cls
    defaults = dict(zip([p.arg for p in reversed(a.posonlyargs + a.args)], reversed(a.defaults))) | {p.arg:d for p, d in zip(a.kwonlyargs, a.kw_defaults) if d}
    lines = [(defaults.get(p.arg) or p).end_lineno for p in params]
    short = '.' in name and len(params) == 1                                        # a method of one parameter may stand on one line
    for p, line in zip(params, lines):
        if p.annotation is None and getattr(defaults.get(p.arg), 'value', 0) is not None: yield f'{name}: parameter {p.arg!r} is not annotated'
        last = ast.copy_location(ast.arg(p.arg), p); last.end_lineno = line
        if lines.count(line) > 1 or (line == f.lineno and not short) or not documented(last, notes, f.lineno): yield f'{name}: parameter {p.arg!r} has no comment on a line of its own'
    if a.kwarg and name not in ('ConfigDict.__init__', 'ConfigDict.update', 'ConfigPart.make'): yield f'{name}: **{a.kwarg.arg} hides the names of its parameters'
    if len(params) > 8 and not re.search(r'[A-Z]', name) and not name.startswith('detbook_'): yield f'{name}: {len(params)} parameters, 8 are the limit'
    inner = {id(n) for g in ast.walk(f) if isinstance(g, (ast.FunctionDef, ast.Lambda)) and g is not f for n in ast.walk(g)}
    gives = any(isinstance(n, ast.Return) and n.value is not None and id(n) not in inner for n in ast.walk(f))
    end = max([f.lineno, f.body[0].lineno-1])                                       # the line that closes the signature, or one above the body
    if needs_return and gives and not any(notes.get(l, ('',))[0] for l in range(max(lines, default=f.lineno-1)+1, end+1)):
        yield f'{name}: the return has no comment on a line of its own'

def public(name): return not name.startswith('_')

def check_names(tree, code):
    "What is undocumented among the public definitions of one exported cell."
    notes = comments(code)
    for n in tree.body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and public(n.name):
            if not ast.get_docstring(n): yield f'{n.name}: no docstring'
        if isinstance(n, ast.FunctionDef) and public(n.name): yield from check_function(n, n.name, notes, True)
        elif isinstance(n, ast.ClassDef) and public(n.name):
            for m in n.body:
                if isinstance(m, ast.FunctionDef) and (public(m.name) or m.name == '__init__'): yield from check_function(m, f'{n.name}.{m.name}', notes, False)
                elif isinstance(m, ast.AnnAssign) and public(m.target.id) and not documented(m, notes, n.lineno): yield f'{n.name}: field {m.target.id!r} has no comment'
        elif isinstance(n, (ast.Assign, ast.AnnAssign)):
            for t in (n.targets if isinstance(n, ast.Assign) else [n.target]):
                if isinstance(t, ast.Name) and public(t.id) and not documented(n, notes) and not any(l in notes for l in range(n.lineno, n.end_lineno+1)): yield f'{t.id}: a public constant needs a comment'

@by_chapter
def test_public_names_are_documented(path):
    report([f'{c.where}: {fault}' for c in cells(path) if c.exported for fault in check_names(c.tree, c.code)])

@by_chapter
def test_documentation_is_what_a_reader_gets(path):
    "After import, with decorators applied, each name without an underscore still has its docstring, and fastcore finds each parameter's comment."
    from fastcore.docments import docments
    module = importlib.import_module(f'detbook.{path.stem[4:]}')
    faults = []
    for name, o in vars(module).items():
        if name.startswith('_') or getattr(o, '__module__', None) != module.__name__: continue
        if not (isinstance(o, type) or callable(o) and hasattr(o, '__name__')): continue
        if not (o.__doc__ or '').strip(): faults.append(f'{path.stem}: {name} has no docstring')
        if isinstance(o, type) and '__init__' not in vars(o): continue
        try: found = docments(o.__init__ if isinstance(o, type) else o, full=True)
        except OSError: continue                                                    # a constructor that Python wrote, as a dataclass has
        faults += [f'{path.stem}: docments finds nothing for {name}({k})' for k, v in found.items() if k not in ('self', 'return') and f'{name}.{k}' != 'ConfigDict.more' and not v.docment]
    report(faults)

# ---- the notebooks as pages

@by_page
def test_notebook_is_a_page(path):
    "Small, executed, without errors, with a title and a promise."
    faults, size = [], path.stat().st_size
    if size > 400_000: faults.append(f'{path.relative_to(ROOT)} has {size:,} bytes, 400,000 are the limit')
    raw = json.loads(path.read_text(encoding='utf-8'))
    first = join(raw['cells'][0]['source'])
    if not re.fullmatch(r'# \S.*\n+> \S.*\n*', first):
        faults.append(f'{path.relative_to(ROOT)}: the first cell holds the title and a promise (# Noun, then > one line) and nothing else: nbdev leaves the rest of it out of the page')
    code = cells(path)
    for c in code:
        faults += [f'{c.where}: holds an error, {o["ename"]}: {o["evalue"]}' for o in c.outputs if o['output_type'] == 'error']
        last = c.tree.body[-1] if c.tree.body else None
        shows = isinstance(last, ast.Expr) and not c.source.rstrip().endswith(';') and (
            isinstance(last.value, (ast.Tuple, ast.List, ast.Dict, ast.Subscript, ast.JoinedStr, ast.BinOp, ast.Compare, ast.Name))
            or isinstance(last.value, ast.Call) and getattr(last.value.func, 'id', '') == 'print')
        if c.runs and shows and not c.outputs: faults.append(f'{c.where}: has no output: not run since it was written?')
    if code and not any(c.outputs for c in code): faults.append(f'{path.relative_to(ROOT)} was never run')
    report(faults)

def test_recorded_warnings_do_not_depend_on_the_page_before():
    "nbdev-test runs many pages in one process: what one page silences would be missing from what the next one records."
    faults = []
    for p in (*PAGES, *sorted((ROOT/'tests').glob('test_*.py'))):
        source = '\n'.join(c.source for c in cells(p)) if p.suffix == '.ipynb' else p.read_text(encoding='utf-8')
        for m in re.finditer(r'catch_warnings\(record=True\)[^\n]*\n(.*)', source):
            if not m[1].strip().startswith("warnings.simplefilter('always'"): faults.append(f"{p.name}: {m[0][:60]!r} lacks warnings.simplefilter('always')")
    report(faults)

# what nbdev 3 acts on, and what it hands on to Quarto, whose cell options these are; other words would be ignored without a word
NBDEV = 'default_exp export exports exporti hide eval exec_doc filter_stream hide_line'.split()
QUARTO = ('eval echo output warning error include label code-fold code-summary code-overflow code-line-numbers fig-cap fig-alt fig-width fig-height '
          'layout-ncol column classes tbl-cap').split()

def test_directives_are_known():
    import nbdev
    words = '\n'.join(p.read_text(encoding='utf-8') for p in Path(nbdev.__file__).parent.glob('*.py') if p.name != 'migrate.py')
    faults = [f'{d} is no directive of the installed nbdev' for d in NBDEV if not re.search(rf"\b_?{d}_?\b", words)]
    own = _pyproject_flags() | set(NBDEV) | set(QUARTO)
    faults += [f'{c.where}: {d!r} is no directive of nbdev or Quarto' for p in PAGES for c in cells(p)
               for d in re.findall(r'^#\|\s*([\w-]+)', c.source, re.M) if d not in own]
    report(faults)

def _pyproject_flags():
    "The flags of tests, which nbdev reads from pyproject.toml."
    return set(re.search(r'^tst_flags\s*=\s*"([^"]*)"', (ROOT/'pyproject.toml').read_text(encoding='utf-8'), re.M)[1].split())

# ---- README, sidebar, change log

def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    return module

def test_readme_is_what_the_index_makes():
    text, files = load(ROOT/'.ci'/'readme.py').readme(NBS/'index.ipynb')
    again = 'run `python .ci/readme.py`'
    assert (ROOT/'README.md').read_text(encoding='utf-8') == text, f'README.md is not what nbs/index.ipynb makes: {again}'
    for name, data in files.items(): assert (ROOT/name).exists() and (ROOT/name).read_bytes() == data, f'{name} is not the picture of nbs/index.ipynb: {again}'
    assert {p.relative_to(ROOT).as_posix() for p in (ROOT/'.github'/'readme').glob('*')} == set(files), f'pictures that README.md does not show: {again}'

def test_readme_lists_the_public_names():
    "What `from detbook.X import *` brings is what the table in README.md promises, and it stays a list that one can read."
    rows = dict(re.findall(r'^\| `(\w+)` \| (`.*`) \|$', (ROOT/'README.md').read_text(encoding='utf-8').split('## What you import')[1], re.M))
    offered = {p.stem[4:]: importlib.import_module(f'detbook.{p.stem[4:]}').__all__ for p in CHAPTERS}
    assert {w: re.findall(r'`(\w+)`', names) for w, names in rows.items()} == {w: names for w, names in offered.items() if names}, 'run nbs/index.ipynb and `python .ci/readme.py`'
    assert len({n for names in offered.values() for n in names}) <= 210, 'helpers are marked `exporti`'

def test_readme_gives_the_two_commands_and_lists_every_chapter():
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    for command in ('pip install -e . && detbook_demo', "pip install -e '.[dev]' && nbdev-test && pytest -q tests"): assert f'\n{command}\n' in text, f'README.md lacks the line {command}'
    targets = re.findall(r'\]\(([^)\s#]+)[^)]*\)', text)
    faults = [f'README.md links to {t}, which does not exist' for t in targets if not re.match(r'[a-z]+:', t) and not (ROOT/t).exists()]
    faults += [f'README.md does not link to {p.relative_to(ROOT)}' for p in PAGES if p.stem != 'index' and p.relative_to(ROOT).as_posix() not in targets]
    report(faults)

def sidebar():
    import yaml
    site = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']
    def pages(o):
        if isinstance(o, str): return [o]
        return [p for i in o for p in pages(i)] if isinstance(o, list) else [o['href']] if 'href' in o else pages(o['contents'])
    return pages(site['sidebar']['contents'])

def test_sidebar_lists_every_page_in_order():
    link = NBS/'_quarto.yml'
    assert link.is_symlink() and os.readlink(link) == '../_quarto.yml', 'nbs/_quarto.yml is a link to ../_quarto.yml'
    shown = sidebar()                   # the order of reading; numbers are the order of imports
    assert sorted(shown) == sorted(p.relative_to(NBS).as_posix() for p in PAGES), 'the sidebar of _quarto.yml lists every page, and no other'
    index = '\n'.join(join(c['source']) for c in json.loads((NBS/'index.ipynb').read_text(encoding='utf-8'))['cells'])
    rows = re.findall(r'^\| \[[^]]+\]\((\d{3}_\w+\.ipynb)\)', index, re.M)
    assert rows == [o for o in shown if re.match(r'\d{3}_', o)], 'the tables of the index list the chapters as the sidebar does'

def html_options():
    import yaml
    return yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['format']['html']

def css_rules(text):
    "The rules of a stylesheet: condition of @media or '', selectors, declarations."
    text = re.sub(r'/\*.*?\*/', '', text, flags=re.S)
    media = re.compile(r'@media([^{]*)\{((?:[^{}]*\{[^{}]*\})*)\s*\}')
    parts = [('', media.sub('', text)), *media.findall(text)]
    found = [(where.strip(), selector.strip(), dict([o.strip() for o in d.split(':', 1)] for d in body.split(';') if d.strip()))
             for where, part in parts for selector, body in re.findall(r'([^{}]+)\{([^{}]*)\}', part)]
    assert text.count('{') == text.count('}') == len(found) + len(media.findall(text)), 'braces that do not match'
    return found

def contrast(a, b):
    "Contrast of two colours such as #fff or #1a2b3c, 1 to 21, as WCAG counts."
    def light(c):
        c = c.lstrip('#')
        c = [int(o, 16)/255 for o in (re.findall('..', c) if len(c) == 6 else [o*2 for o in c])]
        return sum(w*(v/12.92 if v <= .03928 else ((v + .055)/1.055)**2.4) for w, v in zip((.2126, .7152, .0722), c))
    low, high = sorted((light(a), light(b)))
    return (high + .05)/(low + .05)

def test_site_has_a_light_and_a_dark_theme():
    html = html_options()
    assert list(html['theme']) == ['light', 'dark'] and html['theme']['light'] != html['theme']['dark'], 'Quarto shows the first one where a reader has no preference'
    assert html['respect-user-color-scheme'] is True, 'without it Quarto begins light, whatever the system of the reader says'
    sheets = [html['css']] if isinstance(html['css'], str) else html['css']
    assert sorted(sheets) == sorted(p.relative_to(NBS).as_posix() for p in NBS.rglob('*.css')), 'the stylesheets in nbs/ are those that _quarto.yml lists'

def test_dark_mode_reads_as_light_mode_does():
    rules = css_rules((NBS/html_options()['css']).read_text(encoding='utf-8'))
    light, dark = ({k: v for _, s, d in rules if s in places for k, v in d.items()} for places in ((':root',), (':root', '.quarto-dark')))
    value = lambda v, names=light: names[m[1]] if (m := re.fullmatch(r'var\((--[\w-]+)\)', v)) else v
    # what the pages show that was drawn on white lies on white, in both modes
    raw = [json.loads(p.read_text(encoding='utf-8')) for p in PAGES]
    data = [(k, join(v)) for nb in raw for c in nb['cells'] for o in c.get('outputs', []) for k, v in o.get('data', {}).items()]
    shown = {'img' for k, _ in data if k in ('image/png', 'image/jpeg')} | {'svg' for k, _ in data if k == 'image/svg+xml'}
    shown |= {'.widget-subarea' for k, _ in data if k == 'application/vnd.jupyter.widget-view+json'}
    texts = [v for k, v in data if k in ('text/html', 'text/markdown')] + [join(c['source']) for nb in raw for c in nb['cells'] if c['cell_type'] == 'markdown']
    shown |= {t for v in texts for t in re.findall(r'<(img|svg|iframe|canvas|video)\b', v)}
    assert 'img' in shown
    cards = [(s, d) for where, s, d in rules if not where and 'background' in d and '.quarto-dark' not in s]
    for tag in shown:
        card = [d for s, d in cards if any(re.search(rf'(^|\s){re.escape(tag)}$', o.strip()) for o in s.split(','))]
        assert card and value(card[0]['background']) == '#fff' and contrast(value(card[0]['color']), '#fff') > 7, f'{tag} has no white card in the stylesheet'
    faults = [f'{s}: {k} changes the colours of what it shows' for _, s, d in rules for k in d if k in ('filter', 'backdrop-filter', 'mix-blend-mode', 'opacity')]
    # text that the stylesheet colours can be read on the pages of both themes, and on the panels
    panels = [v for k, v in dark.items() if k.endswith('-bg')] + [d['background-color'] for _, s, d in rules if s.startswith('.quarto-dark') and 'background-color' in d]
    muted = [(s, d['color']) for _, s, d in rules if d.get('color', '').startswith('var(') and 'background' not in d]
    assert muted and len(panels) > 2
    for names, grounds in ((light, ['#fff', '#f8f9fa']), (dark, ['#222', *panels])):        # cosmo's page and panels, darkly's page and ours
        faults += [f'{s[:40]}...: {c} on {g} has a contrast of {contrast(c, g):.1f}' for s, v in muted for g in grounds if contrast(c := value(v, names), g) < 4.5]
    # HTML on the pages leaves colours to the theme, which knows the mode
    faults += [f'{m[0]!r} holds in one mode alone' for v in texts for m in re.finditer(r'<[a-z][^<>]*\bstyle="[^"]*(?<![\w-])(?:color|background)[^"]*"', v) if not re.match('<code|<pre', m[0])]
    report(faults)

def test_wide_things_scroll_on_a_phone():
    rules = css_rules((NBS/html_options()['css']).read_text(encoding='utf-8'))
    phone = [(s, d) for where, s, d in rules if 'max-width' in where]
    for what in ('table', 'pre.sourceCode'):
        assert any(s.endswith(what) and d.get('overflow-x') == 'auto' for s, d in phone), f'{what} does not scroll in its own box'
    assert any('.math.display' in s and d.get('overflow-x') == 'auto' for _, s, d in rules), 'long formulas do not scroll in their own box'

def test_change_log_has_this_version():
    heads = re.findall(r'^## \[?([^\]\s]+)', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), re.M)
    assert 'Unreleased' in heads or META['version'] in heads, f'CHANGELOG.md has no entry for {META["version"]} nor Unreleased, only {heads}'

# ---- metadata and the wheel

def test_settings_and_pyproject_agree():
    try: import tomllib
    except ImportError: import tomli as tomllib
    project = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['project']
    assert project['name'] == META['lib_name']
    assert project['urls'] == {'Repository': META['git_url'], 'Documentation': META['doc_host'] + META['doc_baseurl']}

@pytest.fixture(scope='session')
def wheel(made_again, tmp_path_factory):
    "The wheel of the project, built from a copy and unpacked; importing from that folder is importing what users install."
    out = tmp_path_factory.mktemp('wheel')
    source = out/'source'
    shutil.copytree(made_again, source, symlinks=True)
    done = subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(out), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob('*.whl'))) as z: z.extractall(out/'site')
    return out/'site'

def test_wheel_metadata(wheel):
    info = next(wheel.glob('*.dist-info'))
    meta = Parser().parsestr((info/'METADATA').read_text(encoding='utf-8'))
    requires = meta.get_all('Requires-Dist')
    plain = {r.replace(' ', '') for r in requires if 'extra ==' not in r}
    assert {re.split('[<>=!~]', r)[0] for r in plain} == {re.split('[<>=!~]', r)[0] for r in META['requirements'].split()}
    for r in plain:
        if re.match(r'torch(vision)?\b', r): assert '<' not in r and '==' not in r and '~' not in r and '>=' in r, f'{r}: torch and torchvision have a floor and no cap'
    assert {'torch', 'torchvision'} <= {re.split('[<>=]', r)[0] for r in plain}
    assert meta['Version'] == META['version'] and meta['Requires-Python'] == f">={META['min_python']}"
    assert meta['License-Expression'] == 'Apache-2.0' and meta['Summary'] == META['description']
    assert (info/'licenses'/'LICENSE').read_text() == (ROOT/'LICENSE').read_text()
    extras = {k.removesuffix('_requirements') for k in META if k.endswith('_requirements')}
    assert set(meta.get_all('Provides-Extra')) == extras
    scripts = ConfigParser(delimiters=['=']); scripts.optionxform = str
    scripts.read(info/'entry_points.txt')
    assert {k:v.strip() for k, v in scripts['console_scripts'].items()} == SCRIPTS
    assert meta.get_payload().strip() == (ROOT/'README.md').read_text(encoding='utf-8').strip(), 'the long description is README.md'
    assert {p.name for p in wheel.iterdir()} == {'detbook', info.name}, 'the wheel holds the package alone'
    assert {p.name for p in (wheel/'detbook').rglob('*.py')} == {f'{w}.py' for w in [*NUMBER, '__init__', '_modidx', '_site']}
    assert (wheel/'detbook'/'py.typed').is_file(), 'editors read the annotations of a package that has this file'
    assert (wheel/'detbook'/'toy_detector.safetensors').read_bytes() == (LIB/'toy_detector.safetensors').read_bytes(), 'the detector that the chapter tiny promises'

ONLY = '''
import re, sys
from importlib.metadata import PackageNotFoundError, distributions, requires
plain = lambda name: re.sub(r'[-_.]+', '-', name).lower()
allowed, todo = {'detbook'}, ['torch', 'torchvision', 'fastcore']
while todo:                                                     # these three and what they need, extras left out
    name = plain(todo.pop())
    if name in allowed: continue
    allowed.add(name)
    try: todo += [re.match(r'[\\w.-]+', r)[0] for r in requires(name) or [] if 'extra ==' not in r]
    except PackageNotFoundError: pass
owners = {}                                                     # top-level module -> the packages that bring it
for d in distributions():
    for f in d.files or []:
        if f.suffix in ('.py', '.so') and f.parts[0] != '..': owners.setdefault(f.parts[0].split('.')[0], set()).add(plain(d.metadata['Name']))
blocked = {top for top, names in owners.items() if top.isidentifier() and not allowed & names}
class Without:                                                 # a finder that does not see what is blocked
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split('.')[0] in blocked else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(f) for f in sys.meta_path if hasattr(f, 'find_spec')]
sys.path.insert(0, SITE)
import importlib, detbook
assert detbook.__file__.startswith(SITE), detbook.__file__
for word in WORDS: importlib.import_module('detbook.' + word)
found = {'fastai', 'pycocotools', 'matplotlib', 'ipywidgets', 'sklearn', 'IPython', 'safetensors'} & set(sys.modules)
assert not found, f'imported all the same: {found}'
assert {'fastai', 'pycocotools', 'matplotlib', 'ipywidgets', 'sklearn'} <= blocked, 'the check is blind: these are not blocked'
print('imported', len(WORDS), 'modules')
'''

def test_models_need_torch_torchvision_and_fastcore_alone(wheel):
    inner = [w for w, n in NUMBER.items() if n < OUTER and w != 'explore']      # sliders for the pages: no inner module imports them
    words = ['models'] + [w for w in inner if w != 'models']
    code = f'SITE = {str(wheel)!r}; WORDS = {words!r}\n' + ONLY
    done = subprocess.run([sys.executable, '-c', code], cwd=wheel, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

@pytest.mark.parametrize('name', SCRIPTS)
def test_console_script(name, tmp_path):
    module, function = SCRIPTS[name].split(':')
    assert callable(getattr(importlib.import_module(module), function, None)), f'{name} is no function of {module}'
    installed = {e.name:e.value for e in entry_points(group='console_scripts')}
    assert installed.get(name) == SCRIPTS[name], f'{name} is installed as {installed.get(name)}: install the project again'
    program = Path(sys.executable).with_name(name)      # nobody waits for PyTorch to be told which flags there are: tests of the chapter `cli`
    done = subprocess.run([str(program), '--help'], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and 'usage' in done.stdout.lower(), f'{name} --help:\n{done.stdout}{done.stderr}'

# ---- what no file may hold

SKIP = {'.git', '__pycache__', '.ipynb_checkpoints', 'build', 'dist', '.venv', '_proc', '_docs', 'runs', '.pytest_cache', '.ruff_cache', '.mypy_cache'}
TEXT = {'.py', '.ipynb', '.md', '.ini', '.toml', '.yml', '.yaml', '.cfg', '.in', '.txt', '.json', '.sh', ''}
PATHS = [rf'(?<![\w.]){p}' for p in (r'/wo' r'rk/(main|shared)\b', r'/tm' r'p/w/', r'/ro' r'ot/', r'/ho' r'me/\w', r'/Us' r'ers/\w', r'file:' r'///', r'(files\.)?py' r'thonhosted', r'py' r'pi\.org')]
LOADS = [r'weights_only\s*=\s*Fal' r'se', r'\bpick' r'le\.loads?\(', r'\bya' r'ml\.(load|unsafe_load|full_load)(_all)?\(', r'allow_pick' r'le\s*=\s*True']

def texts():
    "Each text file of the project with what is written in it; of a notebook, the sources and text outputs."
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [s for s in subfolders if s not in SKIP and not s.endswith('.egg-info')]
        for n in names:
            p = Path(folder)/n
            if p.suffix not in TEXT or p.stat().st_size > 2e6: continue
            text = p.read_text(encoding='utf-8', errors='replace')
            if p.suffix == '.ipynb': text = re.sub(r'"image/\w+": "[^"]*"', '', text)
            yield p.relative_to(ROOT), text

def test_no_machine_paths_and_no_unsafe_loads():
    faults = []
    for path, text in texts():
        for pattern in PATHS + LOADS:
            faults += [f'{path}, line {text[:m.start()].count(chr(10))+1}: {m[0]!r}' for m in re.finditer(pattern, text)]
    report(faults)

def test_the_version_of_sources_that_are_not_installed():
    "Where detbook is not installed, its version is written in two places; both are that of settings.ini."
    import configparser
    from detbook import checkpoint
    config = configparser.ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    version = config['DEFAULT']['version']
    assert checkpoint._RELEASE == version
    assert f"__version__ = {version!r}" in (ROOT/'detbook/__init__.py').read_text()

PAGE = """
import IPython
from execnb.shell import CaptureShell
from detbook._site import release
shell = CaptureShell()
shell.run('import torch\\nlarge = torch.ones(3)\\ndef zeros(): return torch.zeros(2)')
zeros = shell.user_ns['zeros']
IPython.get_ipython = lambda: shell
release()
assert 'large' not in shell.user_ns and zeros().tolist() == [0, 0]
"""

def test_a_page_that_ends_gives_back_its_data_and_keeps_its_functions():
    "Pages run one after the other in a process: an operation that one of them has registered with PyTorch is called by the next."
    done = subprocess.run([sys.executable, '-c', PAGE], env=dict(os.environ, IN_TEST='1'), capture_output=True, text=True)     # a shell takes the place of __main__
    assert done.returncode == 0, done.stderr
