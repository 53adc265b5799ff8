"The Hugging Face Hub, which is here a server on this machine: what is sent, and what comes back."
import base64, hashlib, http.server, json, re, sys, threading
import pytest, torch
from detbook import toy
from detbook.checkpoint import find_weights
from detbook.data import CocoDataset
from detbook.describe import save_detector
from detbook.hub import hub_card, push_to_hub
from detbook.inference import inference_detector, init_detector
from detbook.metrics import evaluate
from detbook.results import to_coco
from detbook.tiny import toy_detector

class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the Hub as a repository of two small files needs."
    files, calls, refuse, commit = {}, [], None, 'a'*40
    def log_message(self, *_): pass
    def answer(self, value, status=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for k, v in dict({'Content-Length': str(len(body))}, **headers).items(): self.send_header(k.replace('_', '-'), v)
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)
    def do_POST(self):
        data = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        Hub.calls.append((self.path, self.headers.get('Authorization')))
        if Hub.refuse: return self.answer(dict(error=Hub.refuse), 403)
        if self.path == '/api/repos/create': return self.answer(dict(url=f'http://{self.headers["Host"]}/{json.loads(data).get("organization", "me")}/{json.loads(data)["name"]}'))
        if self.path == '/api/validate-yaml': return self.answer(dict(errors=[], warnings=[]))
        if '/preupload/' in self.path: return self.answer(dict(files=[dict(path=f['path'], uploadMode='regular', shouldIgnore=False) for f in json.loads(data)['files']]))
        if '/commit/' in self.path:
            repo = re.match('/api/models/(.*)/commit/', self.path)[1]
            for line in map(json.loads, data.splitlines()):
                if line['key'] == 'file': Hub.files[f'/{repo}/resolve/main/{line["value"]["path"]}'] = base64.b64decode(line['value']['content'])
            return self.answer(dict(success=True, commitOid=Hub.commit, commitUrl=f'http://{self.headers["Host"]}/{repo}/commit/{Hub.commit}', hookOutput=''))
        self.answer(dict(error='no such address'), 404)
    def do_GET(self):
        path = self.path.split('?')[0].replace('%2F', '/')
        Hub.calls.append((path, self.headers.get('Authorization')))
        if '/api/models/' in path: return self.answer(dict(id='me/cells', sha=Hub.commit, siblings=[], tags=[]))
        data = Hub.files.get(path)
        if data is None: return self.answer(dict(error='Entry not found'), 404, X_Error_Code='EntryNotFound', X_Repo_Commit=Hub.commit)
        self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=Hub.commit, Content_Type='application/octet-stream')
    do_HEAD = do_GET

@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.files, Hub.calls, Hub.refuse = {}, [], None
    for k, v in dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HOME=str(tmp_path/'hf'), HF_TOKEN='hf_secret', DETBOOK_HOME=str(tmp_path/'cache')).items(): monkeypatch.setenv(k, v)
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path/'hf'))
    yield server
    server.shutdown()
    server.server_close()

@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp('d'), toy_detector()
    ds = CocoDataset(toy.write_coco(folder/'toy', 6, seed=77))
    found = inference_detector(model, [ds.path(i) for i in range(len(ds))])
    file = save_detector(folder/'d.safetensors', model, model.classes, dict(resize=[128, 128]), dict.fromkeys(model.classes, .4))
    return file, evaluate(ds, to_coco(found, ds.image_ids.tolist(), ds.category_ids)), ds.path(0)

def test_there_and_back(hub, measured):
    file, result, picture = measured
    assert push_to_hub(file, 'me/cells', result, licence='apache-2.0') == 'hf://me/cells'
    assert set(Hub.files) == {'/me/cells/resolve/main/model.safetensors', '/me/cells/resolve/main/README.md'}
    assert Hub.files['/me/cells/resolve/main/model.safetensors'] == file.read_bytes()
    assert {a for path, a in Hub.calls if 'me/cells' in path} == {'Bearer hf_secret'}
    mine, theirs = (inference_detector(init_detector(f, device='cpu'), picture) for f in (str(file), 'hf://me/cells'))
    for k in mine: assert torch.equal(torch.as_tensor(mine[k]), torch.as_tensor(theirs[k]))
    hub.shutdown()                                      # and once more without the Hub
    assert find_weights('hf://me/cells').read_bytes() == file.read_bytes()

def test_without_the_package(hub, measured, monkeypatch):
    push_to_hub(measured[0], 'me/cells')
    for name in [m for m in sys.modules if m.partition('.')[0] == 'huggingface_hub']: monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    assert find_weights('hf://me/cells@main/model.safetensors').read_bytes() == measured[0].read_bytes()
    with pytest.raises(ImportError, match=r'pip install detbook\[hub\]'): push_to_hub(measured[0], 'me/cells')
    with pytest.raises(ValueError, match='hf://me/other cannot be fetched|404'): find_weights('hf://me/other')

def test_the_card(measured, tmp_path):
    import yaml
    file, result, _ = measured
    text = hub_card(file, 'me/cells', result, 'mit')
    front = yaml.safe_load(text.split('---')[1])
    assert (front['library_name'], front['pipeline_tag'], front['license']) == ('detbook', 'object-detection', 'mit')
    figures = {m['name']: m['value'] for m in front['model-index'][0]['results'][0]['metrics']}
    assert figures == {'bbox AP': round(result.stats['bbox_mAP'], 4), 'bbox AP at IoU .5': round(result.stats['bbox_mAP_50'], 4)}
    low, high = result.interval('bbox_mAP')
    assert f'| bbox AP | {result.stats["bbox_mAP"]:.3f} | {low:.3f} to {high:.3f} |' in text and 'Measured on 6 pictures' in text
    assert "min_score=model.notes['thresholds']" in text and "init_detector('hf://me/cells')" in text and 'Training' not in text
    (tmp_path/'d.safetensors').write_bytes(file.read_bytes())
    (tmp_path/'run.json').write_text(json.dumps(dict(status='finished', step=9, steps=9, seed=3, data=[dict(file='a/train.json', sha256='b'*64, images=12, objects=34)], calls=[dict(images_a_step=2, versions=dict(torch='2.10'))])))
    text = hub_card(tmp_path/'d.safetensors', 'me/cells')
    assert '12 pictures with 34 objects in `train.json`, SHA-256 bbbbbbbbbbbb' in text and '9 of 9 steps of 2 pictures, seed 3' in text and 'torch 2.10' in text
    assert 'How well' not in text and 'model-index' not in text

def test_the_program_of_the_card_runs(measured, hub, tmp_path, monkeypatch):
    file, result, picture = measured
    push_to_hub(file, 'me/cells', result)
    program = re.search('```python\n(.*?)```', Hub.files['/me/cells/resolve/main/README.md'].decode(), re.S)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path/'picture.jpg').write_bytes(picture.read_bytes())
    exec(program, {})

@pytest.mark.parametrize('repo', ['cells', 'a/b/c', '', 'me/ce lls', '../x'])
def test_names_of_repositories(repo, measured):
    with pytest.raises(ValueError, match='expected owner/name'): push_to_hub(measured[0], repo)

def test_slips(hub, measured, tmp_path, monkeypatch):
    save_file = __import__('safetensors.torch', fromlist=['save_file']).save_file
    save_file({'a': torch.ones(2)}, tmp_path/'bare.safetensors')
    with pytest.raises(ValueError, match='no description of their model'): push_to_hub(tmp_path/'bare.safetensors', 'me/cells')
    Hub.refuse = 'You are not allowed'
    with pytest.raises(ValueError, match='me/cells was not written: ') as e: push_to_hub(measured[0], 'me/cells')
    assert '\n' not in str(e.value) and not Hub.files
    for wrong in ('hf://me', 'hf:me/cells', 'hf://me/cells/../../x', 'hf://me/cells/..', 'hf://a b/c', 'hf://me/cells@/x'):
        with pytest.raises(ValueError, match='names nothing on the Hub'): find_weights(wrong)
    with pytest.raises(ValueError, match='hf://me/none cannot be fetched') as e: find_weights('hf://me/none')
    assert '\n' not in str(e.value)
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    with pytest.raises(ConnectionError, match='does not answer'): find_weights('hf://me/cells')
    with pytest.raises(ConnectionError, match='me/cells was not written'): push_to_hub(measured[0], 'me/cells')

def test_what_is_fetched_is_data(hub, tmp_path):
    import pickle
    class Trap:
        def __reduce__(self): return (open, (str(tmp_path/'ran'), 'w'))
    Hub.files['/me/cells/resolve/main/model.safetensors'] = pickle.dumps(Trap())
    with pytest.raises(ValueError): init_detector('hf://me/cells', device='cpu')
    assert not (tmp_path/'ran').exists()
