"The widgets on the Python side, where a slider is a number; and one in a real notebook in a real browser."
import base64, io, json, os, re, shutil, signal, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from detbook.anchors import AnchorGenerator
from detbook.data import CocoDataset
from detbook.explore import explore, page_bundle
from detbook.label import BoxLabels
from detbook.toy import scene, write_coco
from detbook.widgets import anchor_designer, browse, iou_widget, matcher_explorer, prediction_explorer, schedule_composer

pixels = lambda png: np.asarray(Image.open(io.BytesIO(png)).convert('RGB')).astype(int)

def changes(widget, **values):
    "How many pixels of the picture change when these sliders move."
    before = pixels(widget.picture.value)
    for k, v in values.items(): widget.controls[k].value = v
    after = pixels(widget.picture.value)
    return int((before != after).any(2).sum()) if before.shape == after.shape else before.size

@pytest.fixture(scope='module')
def picture(): return scene(20, size=96, objects=(3, 3), crowd=0, empty=0)

def disc(ax, radius=1., colour='red', filled=True):
    from matplotlib.patches import Circle
    if radius > 3: raise ValueError('radius is above 3')
    ax.add_patch(Circle((0, 0), radius, color=colour, fill=filled)); ax.set(xlim=(-2, 2), ylim=(-2, 2))
    return f'radius {radius}'

def test_explore_draws_again_for_each_kind_of_control():
    w = explore(disc, dict(radius=(.5, 4., 1.), colour=['red', 'blue'], filled=True), size=(2, 2))
    assert changes(w, radius=1.5) > 100 and w.text == 'radius 1.5'
    assert changes(w, colour='blue') > 100 and changes(w, filled=False) > 100
    assert w.values == dict(radius=1.5, colour='blue', filled=False)
    changes(w, radius=3.5)
    assert w.text == 'radius is above 3' and 'radius is above 3' in w.words.value     # a slider cannot raise
    assert changes(w, radius=1.) > 100 and w.text == 'radius 1.0'

def test_values_outlive_a_second_run_under_their_name():
    make = lambda name, high=4.: explore(disc, dict(radius=(.5, high, 1.)), name=name, size=(2, 2))
    make('disc').controls['radius'].value = 2.5
    assert make('disc').values == dict(radius=2.5) and make('other').values == make(None).values == dict(radius=1.)
    assert make('disc', 2.).values == dict(radius=2.)                           # cut to a slider that ends earlier

def test_a_page_without_a_kernel_gets_the_panels():
    w = explore(disc, dict(radius=(.5, 4., 1.)), [dict(radius=.5), dict(radius=1.), dict(radius=1.5)], size=(2, 2))
    bundle = w._repr_mimebundle_()
    assert set(bundle) == {'text/plain', 'image/png'} and bundle['text/plain'] == 'radius 1.0'
    thirds = np.array_split(pixels(base64.b64decode(bundle['image/png'])), 3, axis=1)
    red = [int(((t[..., 0] > 200) & (t[..., 1] < 50)).sum()) for t in thirds]
    assert 0 < red[0] < red[1] < red[2]                                         # one picture for each setting

def test_a_live_notebook_gets_the_widget_as_well(monkeypatch):
    w = explore(disc, dict(radius=(.5, 4., 1.)), size=(2, 2))
    monkeypatch.setattr('detbook.explore.live_kernel', lambda: True)
    assert page_bundle(b'', '', w)['application/vnd.jupyter.widget-view+json']['model_id'] == w.model_id

@pytest.mark.parametrize('wrong, says', [(dict(controls={}), 'controls is empty'), (dict(controls=dict(radius=(1, 0, 1))), r'radius is \(1, 0, 1\)'), (dict(controls=dict(radius='a')), "radius is 'a'"),
                                         (dict(controls=dict(radius=(0, 2, 1)), settings=[dict(size=1)]), r'settings\[0\].*radius'), (dict(controls=dict(radius=(0, 2, 1)), name=3), 'name')])
def test_wrong_controls_are_named(wrong, says):
    with pytest.raises((ValueError, TypeError), match=says): explore(disc, **wrong)

def test_iou_of_two_boxes_with_and_without_the_mouse(monkeypatch):
    w = iou_widget(None)
    assert changes(w, right=45., down=20., threshold=.3) > 100 and w.text == 'IoU 0.333 > 0.30: b is suppressed'
    assert w.canvas.boxes[1][:4] == [45, 20, 85, 50]                            # the canvas follows the sliders
    w.canvas.boxes = [[25., 20, 65, 50, 0], [35., 20, 75, 50, 1]]
    assert w.values['right'] == 35 and w.text.startswith('IoU 0.600')           # and the sliders the canvas
    w.canvas.boxes = [[35., 20, 75, 50, 0], [35., 20, 75, 50, 1]]
    assert w.text.startswith('IoU 1.000')                                       # the first box moves too
    monkeypatch.setattr('detbook.widgets.box_canvas', lambda *a, **k: (_ for _ in ()).throw(ImportError('no anywidget')))
    bare = iou_widget(None)
    assert not hasattr(bare, 'canvas') and changes(bare, right=60.) > 100

def test_anchors_and_what_they_miss():
    boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 64, 64], [0, 0, 12, 60]])
    w = anchor_designer(boxes, torch.full((3, 2), 128), name=None)
    assert w.text.startswith('33%')
    assert changes(w, scale=3., ratio=4.) > 100 and changes(w, per_octave=3) > 100 and w.text.startswith('100%')
    gen = w.generator()
    assert isinstance(gen, AnchorGenerator) and gen.per_cell == 9 and gen.scales[0] == 3
    with pytest.raises(ValueError, match='sizes is int64 of shape'): anchor_designer(boxes, torch.full((2, 2), 128))
    with pytest.raises(ValueError, match='boxes is empty'): anchor_designer(boxes[:0], torch.zeros(0, 2).long())

def test_gates_of_a_prediction(picture):
    from detbook.tiny import toy_detector
    model, left = toy_detector(), lambda w: int(re.search(r'(\d+) left', w.text)[1])
    w = prediction_explorer(model, picture[0], name=None)
    assert changes(w, score=.01, iou=.95) > 100
    many = left(w)
    assert changes(w, iou=.3) > 100 and left(w) < many and changes(w, score=.9) > 100 and 0 < left(w) <= 3
    assert changes(w, stage='proposals', score=.01) > 100 and changes(w, colour='level') > 100 and not model.training

def test_one_stage_has_no_proposals(picture):
    from detbook.models import fcos
    model = fcos(18, 4, channels=16, scratch=True)
    model.train()
    w = prediction_explorer(model, picture[0], name=None)
    assert w.controls['stage'].options == ('detections',) and model.training       # as it was

def test_who_is_asked(picture):
    w, count = matcher_explorer(*picture, name=None), lambda w: [int(v) for v in re.findall(r'(\d+) (?:positive,|background,|ignored)', w.text.splitlines()[0])]
    before = count(w)
    assert changes(w, pos_iou=.4) > 100 and count(w)[0] > before[0] and sum(count(w)) == sum(before)
    state = torch.random.get_rng_state()
    assert changes(w, samples=8) > 20 and torch.equal(state, torch.random.get_rng_state())
    changes(w, neg_iou=.7)
    assert 'neg_iou <= pos_iou' in w.text
    none = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    assert count(matcher_explorer(picture[0], none, name=None))[0] == 0

def test_browse_a_data_set(tmp_path):
    ds = CocoDataset(write_coco(tmp_path/'toy', 4, size=64, crowd=0, empty=0))
    w = browse(ds, name=None)
    assert w.text.startswith('picture 0') and changes(w, picture=2) > 100 and w.text.startswith('picture 2')
    found = [dict(boxes=t['boxes'], labels=t['labels'], scores=torch.full((len(t['boxes']),), .8)) for t in map(ds.target, range(4))]
    n = sum(len(f['boxes']) for f in found)
    found[1]['labels'] = (found[1]['labels'] + 1) % 4
    w = browse(ds, found, name=None)
    wrong = len(found[1]['boxes'])
    assert f'right {n - wrong}, wrong class {wrong}' in w.text and f'missed {wrong}' in w.text
    changes(w, only='wrong class')
    assert w.text.startswith('picture 1, 1 of 1') and changes(w, only='duplicate') > 100 and w.text == 'no picture with duplicate'
    with pytest.raises(ValueError, match='3 pictures, and there are 4'): browse(ds, found[:3])

def test_a_schedule_that_a_config_takes():
    from detbook.schedule import Schedule
    w = schedule_composer(50, [1.]*40, name=None)
    for kind in w.controls['kind'].options:
        w.controls['kind'].value = kind
        assert Schedule(w.scheduler(), 50, w.values['epochs']).lr(0, .1) < .1 and 'param_scheduler' in w.text
    assert changes(w, epochs=1) > 100 and '50 steps' in w.text                  # a warm-up as long as the run

# ---------------------------------------------------------------- labels

@pytest.fixture
def photos(tmp_path):
    for i in range(3): Image.fromarray(np.full((40, 60, 3), 90 + i, np.uint8)).save(tmp_path/f'{i}.png')
    return tmp_path

def test_labels_outlive_the_kernel_and_travel_as_coco(photos):
    a = BoxLabels(photos, ['cat', 'dog'], photos/'labels.json')
    canvas = a.widget
    canvas.boxes = [[1., 2, 30, 20, 1]]                                         # what the mouse does
    canvas.label = 1; canvas.index = 1; canvas.index = 2                        # an empty picture, passed with `next`
    b = BoxLabels(sorted(photos.glob('*.png')), ['cat', 'dog'], photos/'labels.json')
    assert b.done == [0, 1] and b.target(0)['labels'].tolist() == [1] and len(b.target(1)['boxes']) == 0 and b.target(2) is None
    assert b.widget.index == 2                                                  # it goes on where it was left
    ds = CocoDataset(photos/'labels.json', photos)
    assert len(ds) == 2 and ds.classes == ['cat', 'dog'] and ds.target(0)['boxes'].tolist() == [[1, 2, 30, 20]]

def test_what_a_browser_sends_is_checked(photos):
    a = BoxLabels(photos, ['cat'], photos/'labels.json')
    a.widget.boxes = [[5., 5, 5, 9, 0], [float('nan'), 0, 9, 9, 0], [-5., -5, 500, 9, 0], [1, 2]]
    assert a.target(0)['boxes'].tolist() == [[0, 0, 60, 9]]                     # cut to the picture; what is none is left out

@pytest.mark.parametrize('wrong, error, says', [
    (dict(classes=[]), ValueError, 'classes'), (dict(classes=['a', 'a']), ValueError, 'each once'), (dict(images=[]), ValueError, 'images is empty'), (dict(images=['nowhere.png']), FileNotFoundError, 'nowhere.png'),
    (dict(guesses=[None]), ValueError, 'guesses has 1'), (dict(colour='red'), TypeError, 'colour')])
def test_wrong_arguments_of_labels(photos, wrong, error, says):
    with pytest.raises(error, match=says): BoxLabels(**dict(images=photos, classes=['cat'], path=photos/'l.json') | wrong)

def test_no_file_of_others_is_written_over(photos):
    (photos/'mine.json').write_text('{"info": {"description": "mine"}, "images": []}')
    with pytest.raises(FileExistsError, match='BoxLabels did not write it'): BoxLabels(photos, ['cat'], photos/'mine.json')
    BoxLabels(photos, ['cat'], photos/'labels.json').put(0, [[0, 0, 9, 9]], [0])
    with pytest.raises(ValueError, match="has the classes"): BoxLabels(photos, ['dog'], photos/'labels.json')
    a = BoxLabels(photos, ['cat'], photos/'labels.json')
    for boxes, labels in (([[0, 0, 9, 9]], [1]), ([[9, 9, 0, 0]], [0]), ([[0, 0, 9]], [0]), ([[0, 0, 9, 9]], [0, 0])):
        with pytest.raises((ValueError, TypeError)): a.put(0, boxes, labels)
    assert a.target(0)['boxes'].tolist() == [[0, 0, 9, 9]]

# ---------------------------------------------------------------- in a browser

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def notebook(path, *cells):
    code = [dict(cell_type='code', execution_count=None, id=f'c{i}', metadata={}, outputs=[], source=c) for i, c in enumerate(cells)]
    path.write_text(json.dumps(dict(cells=code, nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))))

class Page:
    "A page of headless Chromium, driven through the DevTools protocol."
    def __init__(self, port, url):
        import websocket
        until(lambda: urllib.request.urlopen(f'http://127.0.0.1:{port}/json/version', timeout=5), 60)
        new = urllib.request.Request(f'http://127.0.0.1:{port}/json/new?{url}', method='PUT')
        found = json.load(urllib.request.urlopen(new, timeout=30))
        self.socket, self.n = websocket.create_connection(found['webSocketDebuggerUrl'], timeout=60, suppress_origin=True), 0

    def ask(self, method, **params):
        self.n += 1
        self.socket.send(json.dumps(dict(id=self.n, method=method, params=params)))
        while True:
            said = json.loads(self.socket.recv())
            if said.get('id') == self.n: return said.get('result', said)

    def js(self, code):
        said = self.ask('Runtime.evaluate', expression=code, awaitPromise=True, returnByValue=True)
        return said.get('result', {}).get('value')

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.ask('Page.captureScreenshot', format='png')['data']))
        return pixels(path.read_bytes())

    def drag(self, *points):
        "Press the mouse at the first point, move through the others, let go."
        mouse = lambda kind, x, y: self.ask('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', buttons=int(kind != 'mouseReleased'), clickCount=1)
        mouse('mousePressed', *points[0])
        for p in points[1:]: mouse('mouseMoved', *p); time.sleep(.1)
        mouse('mouseReleased', *points[-1])

def until(ask, seconds=90):
    "Wait until `ask` gives something."
    end = time.time() + seconds
    while True:
        try:
            if (found := ask()): return found
        except OSError: pass
        assert time.time() < end, 'waited in vain'
        time.sleep(.5)

def stop(process):
    "End a process that was begun here, with its children."
    try: os.killpg(process.pid, signal.SIGTERM); process.wait(20)
    except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError: pass

@pytest.fixture
def lab(tmp_path):
    "A Jupyter server on the loopback, and a browser; a function that opens a notebook and runs it."
    if not CHROMIUM: pytest.skip('no Chromium on this machine: widgets are tested on the Python side only')
    pytest.importorskip('jupyterlab', reason='no jupyterlab here: widgets are tested on the Python side only')
    pytest.importorskip('websocket', reason='the package websocket-client is missing, which speaks to the browser')
    server, debug, token = free_port(), free_port(), 'of-this-test'
    env = os.environ | dict(PYTHONPATH=str(Path(__file__).resolve().parents[1]), JUPYTER_CONFIG_DIR=str(tmp_path/'config'), JUPYTER_DATA_DIR=str(tmp_path/'data'), JUPYTER_RUNTIME_DIR=str(tmp_path/'runtime'), IPYTHONDIR=str(tmp_path/'ipython'), OMP_NUM_THREADS='1')
    (tmp_path/'books').mkdir()
    log, started = open(tmp_path/'log.txt', 'w'), []
    def begin(*command): started.append(subprocess.Popen(list(map(str, command)), env=env, stdout=log, stderr=log, start_new_session=True))
    begin(sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={server}', '--ServerApp.port_retries=0', f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={tmp_path/"books"}', '--LabApp.expose_app_in_browser=True', '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate')
    begin(CHROMIUM, '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', f'--remote-debugging-port={debug}', f'--user-data-dir={tmp_path/"profile"}', '--window-size=1200,1000', 'about:blank')
    def open_notebook(name):
        until(lambda: urllib.request.urlopen(f'http://127.0.0.1:{server}/api/status?token={token}', timeout=5))
        page = Page(debug, f'http://127.0.0.1:{server}/lab/tree/{name}?token={token}')
        ready = "window.jupyterapp && jupyterapp.shell.currentWidget && jupyterapp.shell.currentWidget.sessionContext && jupyterapp.shell.currentWidget.sessionContext.session ? 1 : 0"
        until(lambda: page.js(ready), 180)
        until(lambda: page.js('jupyterapp.shell.currentWidget.sessionContext.session.kernel && jupyterapp.shell.currentWidget.sessionContext.session.kernel.status == "idle" ? 1 : 0'), 120)
        page.js('jupyterapp.shell.collapseLeft(); jupyterapp.commands.execute("notebook:run-all-cells").then(() => 1)')
        return page
    try: yield tmp_path, open_notebook
    finally:
        for p in reversed(started): stop(p)
        log.close()

def middle(page, selector, x=.5, y=.5):
    "Where an element stands on the screen: a point in it, by shares of its sides."
    r = page.js(f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect(); return [r.left, r.top, r.width, r.height] }})()")
    return r[0] + x*r[2], r[1] + y*r[3]

@pytest.mark.slow
def test_a_slider_moves_in_a_browser(lab):
    folder, open_notebook = lab
    notebook(folder/'books'/'w.ipynb', 'from detbook.widgets import iou_widget\nw = iou_widget()\nw')
    page = open_notebook('w.ipynb')
    until(lambda: page.js("document.querySelector('.widget-image, .jupyter-widgets.widget-image') && document.querySelector('.noUi-handle') ? 1 : 0"), 180)
    time.sleep(2)
    text = lambda: page.js("document.querySelector('.widget-html-content').innerText")
    before, was = page.picture(folder/'before.png'), text()
    x, y = middle(page, '.noUi-handle')
    page.drag((x, y), (x + 30, y), (x + 60, y))
    until(lambda: text() != was, 30)
    time.sleep(1)
    after = page.picture(folder/'after.png')
    assert was.startswith('IoU') and text().startswith('IoU') and (before != after).any(2).sum() > 500
    was = text()
    page.drag(middle(page, '.detbook-boxes canvas', .45, .5), middle(page, '.detbook-boxes canvas', .45, .55), middle(page, '.detbook-boxes canvas', .5, .75))
    until(lambda: text() != was, 30)                                            # a box was dragged
    page.picture(folder/'dragged.png')

@pytest.mark.slow
def test_boxes_are_drawn_in_a_browser(lab):
    folder, open_notebook = lab
    books = folder/'books'
    (books/'photos').mkdir()
    for i in range(2): Image.fromarray(scene(20 + i, size=96)[0].permute(1, 2, 0).numpy()).save(books/'photos'/f'{i}.png')
    notebook(books/'w.ipynb', "from detbook.label import BoxLabels\nlabels = BoxLabels('photos', ['cat', 'dog'], 'labels.json')\nlabels")
    page = open_notebook('w.ipynb')
    canvas = '.detbook-boxes canvas'
    until(lambda: page.js(f"document.querySelector('{canvas}') && document.querySelector('{canvas}').width > 300 ? 1 : 0"), 180)
    time.sleep(2)
    before = page.picture(folder/'before.png')
    at = lambda x, y: middle(page, canvas, x/96, y/96)
    read = lambda: {a['id']: (a['image_id'], a['category_id'], [round(v) for v in a['bbox']]) for a in json.loads((books/'labels.json').read_text())['annotations']}
    page.drag(at(10, 10), at(20, 20), at(40, 50))
    until(lambda: (books/'labels.json').exists() and read(), 30)
    time.sleep(1)
    assert (before != page.picture(folder/'drawn.png')).any(2).sum() > 200
    (image, category, box), = read().values()
    assert (image, category) == (1, 1) and all(abs(a - b) <= 1 for a, b in zip(box, (10, 10, 30, 40)))
    page.drag(at(25, 30), at(30, 35), at(45, 40))                                # moved
    until(lambda: abs(read()[1][2][0] - 30) <= 1, 30)
    press = lambda word: page.js(f"[...document.querySelectorAll('.detbook-boxes button')].find(b => b.innerText.includes('{word}')).click()")
    press('dog'); until(lambda: read()[1][1] == 2, 30)                           # another class
    press('next'); until(lambda: '2 of 2' in page.js("document.querySelector('.detbook-boxes .bar').innerText"), 30)
    page.drag(at(50, 50), at(60, 60), at(80, 90)); until(lambda: len(read()) == 2, 30)
    press('delete'); until(lambda: len(read()) == 1, 30)
    page.js('jupyterapp.commands.execute("notebook:run-all-cells").then(() => 1)')     # the cell runs twice
    time.sleep(4)
    page.picture(folder/'again.png')
    assert read()[1][1] == 2
