"A page in which a detector runs: it holds what it needs, and in a browser it finds what Python finds."
import base64, functools, http.server, json, shutil, subprocess, threading, time, urllib.request
from pathlib import Path
import pytest, torch
from detbook.export import OnnxDetector
from detbook.page import RUNTIME, fetch_runtime, unpack_runtime, write_demo, write_page
from detbook.tiny import toy_detector
from detbook.toy import scene

pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')

@pytest.fixture(scope='module')
def runtime(tmp_path_factory):
    "The package of the runtime; skipped where npm, or the network, is not there."
    if shutil.which('npm') is None: pytest.skip('npm is not there')
    try: return fetch_runtime(tmp_path_factory.mktemp('npm'))
    except (ValueError, subprocess.TimeoutExpired) as e: pytest.skip(str(e))

class Browser:
    "A page in headless Chromium, driven through the DevTools protocol."
    def __init__(self, folder, home, wait=90):
        websocket = pytest.importorskip('websocket')
        chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
        if chromium is None: pytest.skip('Chromium is not there')
        quiet = type('Quiet', (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None))
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(quiet, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.process = subprocess.Popen([chromium, '--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-port=0', '--remote-allow-origins=*', f'--user-data-dir={home}', 'about:blank'],
                                        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.n, end, port = 0, time.time() + wait, Path(home)/'DevToolsActivePort'
        while not (port.exists() and port.read_text().strip()) and time.time() < end: time.sleep(.2)
        tabs = json.load(urllib.request.urlopen(f'http://127.0.0.1:{port.read_text().split()[0]}/json'))
        self.socket = websocket.create_connection(next(t for t in tabs if t['type'] == 'page')['webSocketDebuggerUrl'], timeout=wait)
        self.ask('Page.navigate', url=f'http://127.0.0.1:{self.server.server_port}/index.html')
        while not self.run('!!window.detector'):
            assert time.time() < end, self.run('document.body.innerText')
            time.sleep(.3)

    def ask(self, method, **params):
        self.n += 1
        self.socket.send(json.dumps(dict(id=self.n, method=method, params=params)))
        while (answer := json.loads(self.socket.recv())).get('id') != self.n: pass
        return answer['result']

    def run(self, script):
        answer = self.ask('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True)
        assert 'exceptionDetails' not in answer, answer['exceptionDetails']
        return answer['result'].get('value')

    def close(self):
        self.process.terminate(); self.process.wait(20); self.server.shutdown()

def test_detector_in_the_page(runtime, tmp_path):
    site = tmp_path/'site'
    write_demo(site, runtime, half=False)
    assert sorted(p.name for p in site.iterdir()) == ['dense.onnx', 'detector.onnx', 'index.html', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm', 'ort.wasm.min.mjs']
    model, b = toy_detector(), Browser(site, tmp_path/'home')
    try:
        for i in range(3):
            found = torch.tensor(b.run(f'detector.scene({i}).then(all => all.map(d => [...d.box, d.score, d.label]))'))
            picture = scene(i, size=96, objects=(2, 3), crowd=0, empty=0)[0]
            want = model.predict([picture, torch.zeros(3, 128, 128, dtype=torch.uint8)])[0]            # in a frame of 128 pixels, as the page has it
            assert len(found) == len(want['boxes']) > 0
            torch.testing.assert_close(found[:,:4], want['boxes'], rtol=0, atol=1e-3)
            torch.testing.assert_close(found[:,4], want['scores'], rtol=0, atol=1e-4)
            assert torch.equal(found[:,5].long(), want['labels'])
        status = lambda: b.run('document.getElementById("status").textContent')
        move = lambda name, to: b.run(f'(e => {{ e.value = {to}; e.oninput() }})(document.getElementById("{name}"))')
        counts = []
        for score in (.05, .5, .99): move('score', score); counts.append(int(status().split()[0]))
        assert counts[0] >= counts[1] >= counts[2] and counts == [int((want['scores'] > s).sum()) for s in (.05, .5, .99)]
        left = []
        b.run('document.getElementById("show").click()')
        for iou in (1, .7, .3): move('iou', iou); left.append(int(status().split('; ')[1].split()[0]))
        assert left[0] == 200 > left[1] > left[2] > 0
        assert 'no picture' in b.run('detector.open(new Blob(["text"])).then(() => document.getElementById("status").textContent)')
        assert len(base64.b64decode(b.ask('Page.captureScreenshot')['data'])) > 5000
    finally: b.close()

def test_another_package_is_refused(tmp_path):
    (tmp_path/'a.tgz').write_bytes(b'something else')
    with pytest.raises(ValueError, match=f'is not {RUNTIME[0]} {RUNTIME[1]}: its SHA-512 is another'): unpack_runtime(tmp_path/'a.tgz', tmp_path/'out')
    assert not (tmp_path/'out').exists()
    with pytest.raises(FileNotFoundError): unpack_runtime(tmp_path/'b.tgz', tmp_path/'out')

def test_no_npm(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(FileNotFoundError, match='npm is not there, which fetches onnxruntime-web'): fetch_runtime(tmp_path)

def test_files_that_no_page_can_run(tmp_path, monkeypatch):
    good = dict(format='onnx', part='whole', size=[96, 96], batch=1, dynamic=[], classes=['a'], detector='FasterRCNN', outputs=['boxes'])
    for change in dict(format='torch.export'), dict(part='dense'), dict(batch=2), dict(dynamic=['size']):
        monkeypatch.setattr('detbook.page.load_onnx', lambda path: OnnxDetector(None, good | change, path))
        with pytest.raises(ValueError, match='a page takes a whole detector in ONNX for one picture of one size'): write_page('x.onnx', tmp_path/'site')
    monkeypatch.setattr('detbook.page.load_onnx', lambda path: OnnxDetector(None, good, path))
    with pytest.raises(ValueError, match='expected the dense part of the same detector'): write_page('x.onnx', tmp_path/'site', dense='y.onnx')
    assert not (tmp_path/'site').exists()

def test_a_page_of_the_users_own_stays(tmp_path, monkeypatch):
    good = dict(format='onnx', part='whole', size=[96, 96], batch=1, dynamic=[], classes=['a'], detector='FasterRCNN', outputs=['boxes'])
    monkeypatch.setattr('detbook.page.load_onnx', lambda path: OnnxDetector(None, good, path))
    (tmp_path/'index.html').write_text('my own')
    with pytest.raises(FileExistsError, match='index.html is there already and is no page of a detector: choose another folder'): write_page('x.onnx', tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['index.html'] and (tmp_path/'index.html').read_text() == 'my own'
