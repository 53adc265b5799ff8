"Each tutorial is run as a reader would type it: without the cells that the page does not show."
import json, os, re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT/'nbs'/'tutorials').glob('*.ipynb'))

def shown(path):
    "The code cells whose code stands on the page, as (number, code)."
    for i, cell in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
        code = cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])
        flags = dict(re.findall(r'^#\|\s*([\w-]+)[ \t]*:?[ \t]*(.*)$', code, re.M))
        hidden = {'hide', 'export', 'exporti', 'default_exp'} & flags.keys() or 'false' in (flags.get('echo'), flags.get('include'))
        if cell['cell_type'] == 'code' and not hidden and flags.get('eval') != 'false': yield i, code

@pytest.mark.parametrize('path', TUTORIALS, ids=lambda p: p.stem)
def test_what_the_page_shows_can_be_typed(path, tmp_path, monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr('tempfile.tempdir', None)
    shell = InteractiveShell()              # magics work; nothing of one page is known to the next
    for i, code in shown(path):
        result = shell.run_cell(code, silent=True)
        error = result.error_before_exec or result.error_in_exec
        if error: raise AssertionError(f'{path.name}, cell {i}: {type(error).__name__}: {error}') from error

def test_there_is_something_to_type():
    assert len(TUTORIALS) >= 5
    for path in TUTORIALS: assert len(list(shown(path))) >= 8, path
