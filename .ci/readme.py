"Make README.md (and the pictures it shows, in .github/readme/) from nbs/index.ipynb. Usage: python .ci/readme.py"
import base64, json, re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HIDE = {'hide', 'default_exp', 'export', 'exporti'}

def join(text): return text if isinstance(text, str) else ''.join(text)

def split(source):
    "The directives at the top of a cell, as a dict, and the code under them."
    lines, found = source.splitlines(), {}
    while lines and (m := re.match(r'#\|\s*([\w-]+)\s*:?\s*(.*)', lines[0])): found[m[1]] = m[2].strip(); lines.pop(0)
    return found, '\n'.join(lines).strip()

def link(match):
    "Turn a link that works beside the notebook into one that works beside README.md."
    target = match[1]
    return match[0] if re.match(r'[a-z]+:|#', target) else f'](nbs/{target})'

def outputs(cell, files):
    "The Markdown of each output of a code cell; pictures are added to `files`."
    for o in cell.get('outputs', []):
        data = {k:join(v) for k,v in o.get('data', {}).items() if k != 'application/json'}
        if 'image/png' in data:
            name = f'.github/readme/scene_{len(files)}.png'
            files[name] = base64.b64decode(data['image/png'])
            yield f'![]({name})'
        elif 'text/markdown' in data: yield data['text/markdown'].strip()
        elif text := data.get('text/plain') or join(o.get('text', '')): yield f'```text\n{text.rstrip()}\n```'

def readme(path):
    "The text of README.md and a dict of picture file name -> bytes, for the index notebook at `path`."
    parts, files = [], {}
    for cell in json.loads(Path(path).read_text(encoding='utf-8'))['cells']:
        found, code = split(join(cell['source']))
        if HIDE & set(found): continue
        if cell['cell_type'] == 'markdown': parts.append(re.sub(r'\]\(([^)\s]+)\)', link, join(cell['source']).strip()))
        elif cell['cell_type'] == 'code':
            if found.get('echo') != 'false' and code: parts.append(f'```python\n{code}\n```')
            parts += outputs(cell, files)
    return '<!-- made from nbs/index.ipynb by .ci/readme.py: edit the notebook, not this file -->\n\n' + '\n\n'.join(parts) + '\n', files

if __name__ == '__main__':
    text, files = readme(ROOT/'nbs'/'index.ipynb')
    (ROOT/'README.md').write_text(text, encoding='utf-8')
    for old in (ROOT/'.github'/'readme').glob('scene_*.png'): old.unlink()
    for name, data in files.items(): (ROOT/name).parent.mkdir(parents=True, exist_ok=True); (ROOT/name).write_bytes(data)
    print(f'README.md: {len(text):,} characters, {len(files)} pictures')
