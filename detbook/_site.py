"""How nbdev makes and tests the pages: what this project adds to its steps. Written by hand; no chapter exports it."""
import ast, ctypes, gc, os, platform, re, sys, types

from pathlib import Path

from fastcore.nbio import mk_cell
from nbdev.config import get_config
from nbdev.process import Processor


class anchor_helpers(Processor):
    "Before each cell marked `exporti`, put an anchor per name, so that links from other pages find helpers, which get no box of their own."
    def end(self):
        cells = []
        for cell in self.nb.cells:
            if cell.cell_type == 'code' and 'exporti' in (getattr(cell, 'directives_', None) or {}):
                defined = [n.name for n in ast.parse(cell.source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != '_']
                if defined:
                    anchors = mk_cell(''.join(f'<a id="{name.lower()}"></a>' for name in defined), 'markdown')
                    anchors.directives_ = {}
                    cells.append(anchors)
            cells.append(cell)
        self.nb.cells = cells


class notebook_links(Processor):
    "Under the title of each page: its notebook in Colab, and the file itself."
    def end(self):
        cfg  = get_config()
        path = (Path('nbs')/Path(self.nb.path_).resolve().relative_to(Path(cfg.nbs_path).resolve())).as_posix()
        colab, file = f'https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/{path}', f'{cfg.git_url}/raw/{cfg.branch}/{path}'
        links = mk_cell(f'<p class="notebook-links"><a href="{colab}" title="detbook has to be installed there: %pip install git+{cfg.git_url}">Open in Colab</a> '
                        f'<a href="{file}" download>Download the notebook</a></p>', 'markdown')
        links.directives_ = {}
        self.nb.cells.insert(1, links)


class plain_warnings(Processor):
    "Show a warning as its message alone, without the number of the cell (`<ipython-input-9-7856470d2228>:4:`) and the line of code below it."
    def cell(self, cell):
        for out in cell.get('outputs', []):
            if out.get('name') == 'stderr':
                text = ''.join(out['text'])
                out['text'] = re.sub(r'^(?:<ipython-input|\S*ipykernel_)\S*:\d+: (.*\n)(?:  .*\n)?', r'\1', text, flags=re.M)


def release():
    """At the end of a page with networks: hand back its memory, where `nbdev-test` runs many pages in one process.
    IPython keeps the variables of every page until that process ends, and the C library keeps what was freed."""
    if 'IN_TEST' not in os.environ: return          # in Jupyter the reader goes on with the page's variables
    if 'matplotlib.pyplot' in sys.modules: sys.modules['matplotlib.pyplot'].close('all')
    from IPython import get_ipython
    shell = get_ipython()
    kept  = {k: v for k, v in shell.user_ns.items() if isinstance(v, (types.FunctionType, type, types.ModuleType))}
    shell.reset(new_session=False)
    shell.user_ns.update(kept)          # PyTorch goes on calling an operation that a page has registered with it
    gc.collect()
    if platform.libc_ver()[0] == 'glibc': ctypes.CDLL(None).malloc_trim(0)
