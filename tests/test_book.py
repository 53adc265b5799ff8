"The book as something to learn from: the road of its first page, the glossary, and exercises whose answers are run."
import io, json, re, tokenize
from pathlib import Path
import pytest

NBS = Path(__file__).resolve().parents[1]/'nbs'
FIRST, GLOSSARY = NBS/'tutorials'/'first_detector.ipynb', NBS/'tutorials'/'glossary.ipynb'
BOLD = re.compile(r'\*\*([^*\n]+)\*\*')

def cells(path, kind):
    return [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == kind]

def prose(path): return '\n\n'.join(''.join(c['source']) for c in cells(path, 'markdown'))

def entries():
    "The glossary's rows: word, meaning, other names, chapter."
    return re.findall(r'^\| \*\*(.+?)\*\* \| (.+?) \| (.*?) \| \[\w+\]\(\.\./(\d{3}_\w+\.ipynb)\) \|$', prose(GLOSSARY), re.M)

def test_the_first_page_comes_first_and_names_the_chapters_of_its_road():
    sidebar = re.findall(r'^\s+- (\S+\.ipynb)$', (NBS.parent/'_quarto.yml').read_text(encoding='utf-8'), re.M)
    assert sidebar[0] == 'tutorials/first_detector.ipynb'
    road = prose(FIRST)
    for word in 'show toy batch boxes anchors coder assign nms losses backbone neck rpn roi fast_rcnn masks retinanet fcos metrics faster_rcnn mask_rcnn'.split():
        assert re.search(rf'\]\(\.\./\d{{3}}_{word}\.ipynb\)', road), f'the first page does not link to {word}'

def test_the_program_of_the_first_page_is_short():
    "What defines the detector and its training: no figure, no print, no exercise."
    shown = [''.join(c['source']) for c in cells(FIRST, 'code')]
    shown = [s for s in shown if not re.search(r'^#\| (hide|echo|code-fold)', s, re.M)]
    lines = [l for s in shown for l in s.splitlines() if l.strip() and not re.match(r'\s*(print|#)', l)]
    assert 40 < len(lines) < 110 and max(map(len, lines)) <= 92

def test_the_glossary_is_a_list_from_a_to_z_of_words_that_their_chapters_use():
    found = entries()
    assert len(found) == len(re.findall(r'^\| \*\*', prose(GLOSSARY), re.M)) > 40, 'each row has a word, a meaning, other names and a chapter'
    words = [w.lower() for w, *_ in found]
    assert words == sorted(words) and len(set(words)) == len(words)
    for word, _, _, chapter in found:
        assert re.search(rf'\b{re.escape(word)}', prose(NBS/chapter), re.I), f'{chapter} does not use the word {word!r}'

# bold words that stress something, or name one thing of a chapter
STRESSED = set('''half a third place size 62.5 once empty valid what where top left corner up to a multiple of 32 extra bounded scale ratio diou ciou
    resnext groups union owner frozen statistics frozen stage independently properties edges sample mask rpn c4 dc5 lite'''.split())

@pytest.mark.parametrize('chapter', '008_boxes 009_anchors 010_coder 011_assign 012_nms 014_backbone 015_neck'.split())
def test_words_that_are_born_in_a_chapter_are_in_the_glossary(chapter):
    known = ' '.join(f'{w} {m} {o}' for w, m, o, _ in entries()).lower()
    missing = [w for w in BOLD.findall(prose(NBS/f'{chapter}.ipynb')) if len(w) < 40 and not w.endswith('.')
               and re.sub(r'e?s$', '', w.lower()) not in known and not set(w.lower().split()) <= STRESSED]
    assert not missing, f'{chapter}: {missing} are bold, and the glossary lacks them'

def long_lines(source):
    "Lines of a cell that end behind column 91, but for directives, texts of several lines, and what has no place to break (an address, a checksum)."
    inside = {n for t in tokenize.generate_tokens(io.StringIO(source + '\n').readline) if t.type == tokenize.STRING for n in range(t.start[0], t.end[0] + 1) if t.start[0] < t.end[0]}
    return [l for n, l in enumerate(source.splitlines(), 1) if len(l) > 91 and n not in inside and not l.startswith('#|') and max(map(len, l.split())) < 45]

@pytest.mark.parametrize('path', [p for p in sorted(NBS.rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts], ids=lambda p: p.stem)
def test_lines_end_before_column_92(path):
    cells = [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    found = [l for s in cells if not s.startswith(('%', '!')) for l in long_lines(s)]
    assert not found, f'{path.name}: readers would have to scroll sideways: {found[:3]}'

def test_every_chapter_has_exercises():
    without = [p.stem for p in sorted(NBS.glob('[0-9]*.ipynb')) if '## Exercises' not in prose(p)]
    assert not without, f'the index promises exercises in every chapter; {without} have none'

@pytest.mark.parametrize('path', [p for p in sorted(NBS.rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts and '## Exercises' in prose(p)], ids=lambda p: p.stem)
def test_answers_are_folded_checked_and_run(path):
    asked = prose(path).split('## Exercises')[1].count('\n**')
    answers = [c for c in cells(path, 'code') if '#| code-summary: Answer' in ''.join(c['source'])]
    assert 2 <= asked == len(answers) <= 4
    for c in answers:
        source = ''.join(c['source'])
        assert source.startswith('#| code-fold: true\n') and c['outputs'], f'{source[:80]!r} was not run'
        assert re.search(r'^\s*(assert|test_\w+\()', source, re.M), f'{source[:80]!r} checks nothing'
