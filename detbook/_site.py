"""How nbdev makes the pages: what pyproject.toml adds to its own steps. Written by hand; no chapter exports it."""
import ast

from fastcore.nbio import mk_cell
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
