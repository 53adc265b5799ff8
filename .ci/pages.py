"""Build the pages as the docs workflow does, with smalldocs in Quarto's place, and check every link, anchor and picture. Usage: python .ci/pages.py [FOLDER]
The processed notebooks are left in _proc/_docs (ignored by git), or rendered into FOLDER."""
import json, os, re, shutil, subprocess, sys, tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
SITE = 'https://detbook.github.io/detbook/'
COLAB = 'https://colab.research.google.com/github/detbook/detbook/blob/main/nbs/'
IGNORED = ('reader-mode', 'format-links', 'execute.enabled', 'commonmark', 'fig-responsive', 'format.html.grid', 'respect-user-color-scheme')     # what smalldocs leaves to Quarto

class Page(HTMLParser):
    "The anchors of a page, what it links to or shows, and what was meant as a link and stands there as text."
    def __init__(self, text):
        super().__init__()
        self.ids, self.targets, self.unlinked, self.cells = set(), [], [], False
        self.feed(text)
    def handle_data(self, text):
        self.cells |= '<ipython-input-' in text
        self.unlinked += re.findall(r'\]\([\w/.]+\.ipynb[^)\s]*\)', text)       # [`name`](page): nbdev has made a link of the name
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ('id', 'name') if attrs.get(k)}
        self.targets += [attrs[k] for k in ('href', 'src') if attrs.get(k) is not None and tag != 'base']

def process():
    "Run nbdev's processing, the first half of nbdev-docs, without the attempt to install Quarto."
    from nbdev.serve import proc_nbs
    shutil.rmtree(ROOT/'_proc', ignore_errors=True)
    proc_nbs(str(ROOT/'nbs'))
    return ROOT/'_proc'

def rename(folder):
    "Give pages the names of the website: 008_boxes becomes boxes, as nbdev's `output-file` says to Quarto."
    names = {p.name:p.name[4:] for p in folder.glob('[0-9][0-9][0-9]_*.ipynb')}
    swap = lambda text: re.sub(r'(?<!/nbs/)\b\d{3}_\w+\.ipynb', lambda m: names.get(m[0], m[0]), text)
    for old, new in names.items(): (folder/old).rename(folder/new)
    for p in [folder/'_quarto.yml', *folder.rglob('*.ipynb')]:
        text = p.read_text(encoding='utf-8')
        if p.suffix == '.ipynb':
            nb = json.loads(text)
            for c in nb['cells']:
                source = c['source'] if isinstance(c['source'], str) else ''.join(c['source'])
                if c['cell_type'] != 'code':  c['source'] = re.sub(r'^output-file:.*\n', '', swap(source), flags=re.M)
            text = json.dumps(nb)
        else: text = swap(text)
        if p.is_symlink(): p.unlink()
        p.write_text(text, encoding='utf-8')

def render(folder):
    "Render the pages; return the folder of the website and the warnings."
    out = subprocess.run([sys.executable, '-m', 'smalldocs.cli', 'render', str(folder)], capture_output=True, text=True)
    said = out.stdout + out.stderr
    if out.returncode: raise SystemExit(said)
    warnings = [l for l in said.splitlines() if l.startswith('warning') and not any(i in l for i in IGNORED)]
    return next(folder/d for d in ('_docs', '_site') if (folder/d).is_dir()), warnings      # as nbdev.yml says, or Quarto's default

def broken(site):
    "What the pages link to or show that is not there."
    pages = {p.resolve():Page(p.read_text(encoding='utf-8')) for p in site.rglob('*.html')}
    for path, page in pages.items():
        name, links = path.relative_to(site.resolve()).with_suffix('.ipynb').as_posix(), [t for t in page.targets if t.startswith(COLAB)]
        own = [re.sub(r'(^|/)\d{3}_', r'\1', t[len(COLAB):]) for t in links[:1]]
        if own != [name] or not all((ROOT/'nbs'/t[len(COLAB):]).exists() for t in links): yield f'{name}: {links} leads not to its notebook'
        if page.cells: yield f'{path.relative_to(site.resolve())}: a warning is shown with the number of its cell'
        for text in page.unlinked: yield f'{path.relative_to(site.resolve())}: {text!r} is no link: where nbdev links a name, write the name alone'
        for target in page.targets:
            inside = target[len(SITE):] if target.startswith(SITE) else None
            parts = urlsplit(target if inside is None else inside)
            if inside is None and (parts.scheme or parts.netloc): continue
            base = site if inside is not None or parts.path.startswith('/') else path.parent
            goal = (base/unquote(parts.path).lstrip('/')).resolve() if parts.path else path
            if goal.is_dir(): goal /= 'index.html'
            where = path.relative_to(site.resolve())
            if not goal.exists(): yield f'{where}: {target!r} leads nowhere'
            elif parts.fragment and goal in pages and unquote(parts.fragment) not in pages[goal].ids | {'', 'top'}:
                yield f'{where}: {target!r}: {goal.name} has no anchor {parts.fragment!r}'

if __name__ == '__main__':
    os.chdir(ROOT)
    if sys.version_info < (3, 11):          # smalldocs needs 3.11; the processing, which runs cells, is checked all the same
        process(); print('processed; rendering needs Python 3.11'); sys.exit()
    expected = {p.relative_to(ROOT/'nbs').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts}
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else tmp)/'pages'
        shutil.copytree(process(), folder, dirs_exist_ok=True)
        rename(folder)
        site, faults = render(folder)
        faults += [f'{p} was not rendered' for p in expected if not (site/re.sub(r'(^|/)\d{3}_', r'\1', p).replace('.ipynb', '.html')).exists()]
        faults += sorted(set(broken(site)))
    print(*faults, f'{len(expected)} pages, {len(faults)} faults', sep='\n')
    sys.exit(bool(faults))
