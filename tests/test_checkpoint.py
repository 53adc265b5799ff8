"Fault injection for the chapter `checkpoint`: hostile files, broken files, cut transfers, failing writes."
import collections, hashlib, io, json, os, pickle, re, struct, subprocess, sys, threading, time, zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
import detbook.checkpoint as checkpoint
import detbook.describe as describe_module
from detbook.anchors import AnchorGenerator
from detbook.backbone import ResNet
from detbook.files import whole_file
from detbook.reading import read_checkpoint
from detbook.download import download
from detbook.checkpoint import load_checkpoint, save_checkpoint
from detbook.describe import describe, save_detector
from detbook.describe import read_detector, rebuild
from detbook.core import component
from detbook.neck import FPN

FPN_IN = (8, 16)
def neck(width=4): return FPN(FPN_IN, width, num_outs=2)

class Net(nn.Module):
    "A detector in names only."
    def __init__(self, classes=3, width=4, agnostic=False):
        super().__init__()
        self.neck, self.norm = neck(width), nn.BatchNorm2d(width)
        self.roi_head = nn.Module()
        self.roi_head.bbox_head = nn.Module()
        self.roi_head.bbox_head.fc_cls, self.roi_head.bbox_head.fc_reg = nn.Linear(width, classes+1), nn.Linear(width, 4 if agnostic else 4*classes)
        self.roi_head.mask_head = nn.Module()
        self.roi_head.mask_head.conv_logits = nn.Conv2d(width, classes, 1)

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
def copy(model): return {k: v.clone() for k,v in model.state_dict().items()}

def one_sentence(error, *words):
    text = str(error.value)
    assert '\n' not in text and len(text) < 400, text
    assert 'weights_only' not in text and 'arbitrary code' not in text
    for w in words: assert str(w) in text, (w, text)

# ---------------------------------------------------------------- hostile files

class Call:
    def __init__(self, f, *args): self.f, self.args = f, args
    def __reduce__(self): return self.f, self.args

def traps(marker):
    marker = str(marker)
    make = f'import os; os.mkdir({marker!r})'
    return {'mkdir': Call(os.mkdir, marker), 'eval': Call(eval, f'__import__("os").mkdir({marker!r})'), 'exec': Call(exec, make),
            'system': Call(os.system, f'mkdir {marker}'), 'popen': Call(subprocess.Popen, ['mkdir', marker]), 'import': Call(__import__, 'this'),
            'getattr': Call(getattr, 'text', 'join'), 'numpy': Call(np.save, marker, np.zeros(1)), 'torch': Call(torch.save, {}, marker), 'open': Call(open, marker, 'w')}

def pickles(trap):
    "One trap as every kind of file that could carry it."
    weights = {'neck.lateral_convs.0.conv.weight': torch.zeros(4,8,1,1)}
    arrays = {k: v.numpy() for k,v in weights.items()}
    for protocol in range(6): yield f'bare{protocol}', pickle.dumps(trap, protocol)
    for protocol in (2, 4, 5):
        yield f'beside arrays {protocol}', pickle.dumps({**arrays, 'x': trap}, protocol)
        yield f'as key {protocol}', pickle.dumps({'blobs': arrays, 'cfg': [(1, trap)]}, protocol)
    for new in (True, False):
        for inside in ({**weights, 'x': trap}, {'state_dict': weights, 'meta': trap}, trap):
            f = io.BytesIO()
            torch.save(inside, f, _use_new_zipfile_serialization=new)
            yield f'torch {new}', f.getvalue()

@pytest.mark.parametrize('name', list(traps('')))
def test_trap_never_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')    # the environment cannot switch safety off
    marker, net = tmp_path/'sprung', Net()
    before, tried = copy(net), 0
    for kind,data in pickles(traps(marker)[name]):
        for suffix in ('.pth', '.pkl', '.safetensors'):
            path = tmp_path/f'trap{suffix}'
            path.write_bytes(data)
            for f in (read_checkpoint, lambda p: load_checkpoint(net, p), lambda p: load_checkpoint(net, p, strict=False), read_detector):
                with pytest.raises(ValueError) as error: f(path)
                one_sentence(error, path.name)
                assert not marker.exists() and not list(tmp_path.glob('sprung*')), (kind, suffix)
                tried += 1
    assert tried == (6+6+6)*3*4 and same(before, net.state_dict())

def test_trap_is_named(tmp_path):
    for kind,data in pickles(Call(os.mkdir, str(tmp_path/'sprung'))):
        (tmp_path/'trap.pth').write_bytes(data)
        with pytest.raises(ValueError) as error: read_checkpoint(tmp_path/'trap.pth')
        one_sentence(error, 'trap.pth', 'posix.mkdir' if os.name == 'posix' else 'mkdir', 'nothing in it was run')

@pytest.mark.parametrize('code', [b'cposix\nsystem\n(S"mkdir sprung"\ntR.', b'\x80\x02cnumpy\nload\n(S"x"\ntR.', b'\x80\x02cnumpy.core.multiarray\nfrombuffer\n.',
                                  b'\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.', b'\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.',
                                  b'\x80\x02c_codecs\ndecode\n.', b'\x80\x02ccollections\nnamedtuple\n.', b'\x80\x02\x82\x01.', b'\x80\x02X\x01\x00\x00\x00aQ.'])
def test_hand_written_pickles(code, tmp_path, monkeypatch):
    "Names beside the admitted ones, dotted names, extension codes and persistent ids."
    monkeypatch.chdir(tmp_path)
    Path('x.pkl').write_bytes(code)
    with pytest.raises(ValueError) as error: read_checkpoint('x.pkl')
    one_sentence(error, 'x.pkl')
    assert not Path('sprung').exists()

def test_arrays_are_checked(tmp_path):
    "Lies about shape, type and bytes are told, none reaches NumPy's own unpickling."
    def state(shape, code, raw, order='<'):
        class D:
            def __reduce__(self): return np.dtype, (code, False, True), (3, order, None, None, None, -1, -1, 0)
        class A:
            def __reduce__(self): return np.ndarray, ((0,),), (1, shape, D(), False, raw)
        return {'good': np.ones(3, 'f4'), 'a': A()}
    def read(*args, **kwargs):
        (tmp_path/'a.pkl').write_bytes(pickle.dumps(state(*args, **kwargs), 2))
        return read_checkpoint(tmp_path/'a.pkl')
    assert read((2,), 'f4', struct.pack('<2f', 1, 2))['a'].tolist() == [1, 2]
    assert read((2,), 'f4', struct.pack('>2f', 1, 2), order='>')['a'].tolist() == [1, 2]
    assert 'a' not in read((1,), 'O8', [1]) and 'a' not in read((1,), 'S4', b'abcd')
    for shape,raw in (((3,), b'\0'*8), ((-5,), b'\0'*8), ((2,), b'\0'*7), ((10**12,), b''), ('x', b'\0'*8), ((2,), None)):
        with pytest.raises(ValueError) as error: read(shape, 'f4', raw)
        one_sentence(error, 'a.pkl', 'damaged')

def test_cycles_and_depth(tmp_path):
    loop = {'w': np.ones(2)}
    loop['model'] = loop
    (tmp_path/'loop.pkl').write_bytes(pickle.dumps(loop))
    with pytest.raises(ValueError): read_checkpoint(tmp_path/'loop.pkl')
    loop = {'w': torch.ones(2)}
    loop['model'] = loop['notes'] = loop
    torch.save(loop, tmp_path/'loop.pth')
    with pytest.raises(ValueError): read_checkpoint(tmp_path/'loop.pth')
    (tmp_path/'deep.pkl').write_bytes(b'\x80\x02' + b']'*100_000 + b'a'*99_999 + b'.')
    with pytest.raises(ValueError): read_checkpoint(tmp_path/'deep.pkl')

# ---------------------------------------------------------------- kinds of file

@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.pkl', ''])
@pytest.mark.parametrize('wrap', ['', 'state_dict', 'model', 'blobs'])
def test_kinds_and_wrappers(suffix, wrap, tmp_path):
    weights = {'a.weight': torch.randn(3,2), 'a.half': torch.randn(4).half(), 'a.steps': torch.tensor(7), 'a.flags': torch.tensor([True, False])}
    path = tmp_path/f'x{suffix}'
    put = lambda w: {wrap: w, 'epoch': 3, 'optimizer': {'state': {}, 'param_groups': []}} if wrap else w
    for new in (True, False):
        torch.save(put({'module.'+k: v for k,v in weights.items()}), path, _use_new_zipfile_serialization=new)
        found = read_checkpoint(path)
        assert same(found, weights) and found.kind == 'torch' and (not wrap or found.metadata['epoch'] == 3)
    for protocol in range(6):
        path.write_bytes(pickle.dumps(put({k: v.numpy() for k,v in weights.items()}), protocol))
        found = read_checkpoint(path)
        assert same(found, weights) and found.kind == 'arrays' and (not wrap or found.metadata['epoch'] == 3)
    save_checkpoint(path, weights, {'epoch': 3})
    found = read_checkpoint(path)
    assert same(found, weights) and found.kind == 'safetensors' and found.metadata['epoch'] == 3

def test_arrays_of_every_type_and_layout(tmp_path):
    rng = np.random.default_rng(0)
    base = {f'{t}{o}{n}': np.asarray((rng.random((3,4,2)[:n])*50).astype(o+t)) for t in ('f2','f4','f8','i1','i2','i4','i8','u1') for o in '<>' for n in range(4)}
    arrays = {**base, **{k+'T': v.T for k,v in base.items()}, 'strided': np.arange(12.)[::2], 'empty': np.zeros((0,4), 'f4'), 'scalar': np.float32(2.5), 'fortran': np.asfortranarray(np.arange(6.).reshape(2,3))}
    for protocol in range(6):
        (tmp_path/'a.pkl').write_bytes(pickle.dumps(arrays, protocol))
        found = read_checkpoint(tmp_path/'a.pkl')
        assert list(found) == list(arrays)
        for k,v in arrays.items():
            assert found[k].shape == np.shape(v) and np.array_equal(found[k].numpy(), v) and found[k].is_contiguous(), (protocol, k)

def test_python2_pickle(tmp_path):
    "What cPickle wrote: strings are bytes without a type, arrays name `numpy.core`."
    raw = struct.pack('<2f', 1.5, -2.)
    short = lambda b: b'U' + bytes([len(b)]) + b
    array = (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85' + short(b'b') + b'\x87R(K\x01K\x02\x85cnumpy\ndtype\n' + short(b'f4') +
             b'K\x00K\x01\x87R(K\x03' + short(b'<') + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89' + short(raw) + b'tb')
    (tmp_path/'py2.pkl').write_bytes(b'\x80\x02}(' + short(b'conv1_w') + array + short(b'cfg') + short(b'NUM_GPUS: 8') + b'u.')
    found = read_checkpoint(tmp_path/'py2.pkl')
    assert found['conv1_w'].tolist() == [1.5, -2.] and found.metadata == {'cfg': 'NUM_GPUS: 8'}

def test_averaged_model(tmp_path):
    net = Net()
    torch.save(torch.optim.swa_utils.AveragedModel(net).state_dict(), tmp_path/'ema.pth')
    assert load_checkpoint(Net(), tmp_path/'ema.pth').counts == dict(loaded=len(net.state_dict()), reinitialised=0, missing=0, unexpected=0)
    torch.save({'module.w': torch.ones(1), 'w': torch.zeros(1)}, tmp_path/'both.pth')      # stripping would lose one
    assert set(read_checkpoint(tmp_path/'both.pth')) == {'module.w', 'w'}

# ---------------------------------------------------------------- broken files

@pytest.mark.parametrize('kind', ['torch', 'legacy', 'arrays', 'safetensors'])
def test_cut_anywhere(kind, tmp_path):
    weights, path = {'w': torch.randn(300), 'v': torch.randn(20, 20)}, tmp_path/'w.pth'
    if kind == 'arrays': path.write_bytes(pickle.dumps({k: v.numpy() for k,v in weights.items()}))
    elif kind == 'safetensors': save_checkpoint(path, weights)
    else: torch.save(weights, path, _use_new_zipfile_serialization=kind == 'torch')
    data = path.read_bytes()
    assert same(read_checkpoint(path), weights)
    for n in [*range(0, 40), *range(40, len(data), 97), len(data)-1]:
        path.write_bytes(data[:n])
        with pytest.raises(ValueError) as error: read_checkpoint(path)
        one_sentence(error, 'w.pth')

@pytest.mark.filterwarnings('ignore')
def test_random_bytes_in_the_header(tmp_path):
    "Damage gives an error of ours or a checkpoint, never another exception."
    gen, outcomes = np.random.default_rng(0), collections.Counter()
    for kind in range(4):
        path = tmp_path/'w.pth'
        weights = {'w': torch.randn(30), 'v': torch.randn(2, 2)}
        if kind == 2: path.write_bytes(pickle.dumps({k: v.numpy() for k,v in weights.items()}))
        elif kind == 3: save_checkpoint(path, weights)
        else: torch.save(weights, path, _use_new_zipfile_serialization=kind == 0)
        data = bytearray(path.read_bytes())
        for _ in range(150):
            bad = bytearray(data)
            for i in gen.integers(0, len(data), 3): bad[i] = gen.integers(256)
            path.write_bytes(bad)
            try: read_checkpoint(path); outcomes['read'] += 1
            except ValueError as e: assert '\n' not in str(e) and 'w.pth' in str(e); outcomes['refused'] += 1
    assert outcomes['refused'] > 100 and sum(outcomes.values()) == 600, outcomes

def test_what_is_no_checkpoint(tmp_path):
    def case(data, *words, name='x.pth', kind=ValueError):
        if data is not None: (tmp_path/name).write_bytes(data)
        with pytest.raises(kind) as error: read_checkpoint(tmp_path/name)
        one_sentence(error, name, *words)
    case(b'', 'empty')
    case(b'\n <html><body>Sign in</body></html>', 'web page')
    case(b'\xef\xbb\xbf<?xml version="1.0"?>', 'web page')
    case(b'version https://git-lfs.github.com/spec/v1\noid sha256:1', 'LFS')
    case(b'{"a": 1}', 'not a checkpoint')
    case(b'\x1f\x8b\x08\x00'+b'\0'*20, 'not a checkpoint')
    case(pickle.dumps([1, 2]), 'list')
    case(pickle.dumps({'a': 1}), 'no tensors', 'a')
    case(pickle.dumps({}), 'no tensors')
    with zipfile.ZipFile(tmp_path/'z.pth', 'w') as z: z.writestr('a.txt', 'hello')
    case(None, 'damaged', name='z.pth')
    torch.save(nn.Linear(2, 2), tmp_path/'m.pth')
    case(None, 'Linear', name='m.pth')
    torch.save(torch.ones(2), tmp_path/'t.pth')
    case(None, 'Tensor', name='t.pth')
    (tmp_path/'folder.pth').mkdir()
    case(None, 'folder', name='folder.pth', kind=IsADirectoryError)
    case(None, "did you mean 'z.pth'", name='zz.pth', kind=FileNotFoundError)
    case(None, 'nor does the folder', name='nowhere/z.pth', kind=FileNotFoundError)
    if hasattr(os, 'mkfifo'):
        os.mkfifo(tmp_path/'pipe.pth')
        case(None, 'regular', name='pipe.pth')

def test_notes_that_are_not_notes(tmp_path):
    from safetensors.torch import save_file
    for notes in ('[1', '[]x', '3', 'null', '"x"', '[' * 100_000, '{"a":' * 50_000, '{"model": 1, "model": 2}', '{"a": ' + '9'*5000 + '}'):
        save_file({'w': torch.ones(1)}, tmp_path/'x.safetensors', metadata={'detbook': notes})
        with pytest.raises(ValueError) as error: read_checkpoint(tmp_path/'x.safetensors')
        one_sentence(error, 'x.safetensors')
    for notes in ({}, {'model': 3}, {'model': {}}, {'model': {'type': 5}}, {'model': {'type': 'os.system', 'command': 'true'}}, {'model': {'type': 'detbook.neck.FPN', 'widht': 3}}):
        save_file({'w': torch.ones(1)}, tmp_path/'x.safetensors', metadata={'detbook': json.dumps(notes)})
        with pytest.raises(ValueError) as error: read_detector(tmp_path/'x.safetensors')
        one_sentence(error, 'x.safetensors')
    assert 'width' not in str(error.value) and 'widht' in str(error.value)

W = dict(dtype='F32', shape=[4], data_offsets=[0, 16])
HEADERS = {     # what the header says, with 16 bytes behind it
    'deep': b'{"a":' + b'['*100_000, 'deep dict': b'{"a":' * 50_000 + b'1' + b'}' * 50_000, 'twice': b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 'no UTF-8': b'{"\xff":1}', 'cut': json.dumps(dict(w=W)).encode()[:-5], 'empty': b'{}',
    'overlapping': dict(a=dict(W, shape=[2], data_offsets=[0, 8]), b=dict(W, shape=[3], data_offsets=[4, 16])), 'shared': dict(a=W, b=W), 'outside': dict(w=dict(W, data_offsets=[0, 1600])), 'negative': dict(w=dict(W, data_offsets=[-16, 0])), 'reversed': dict(w=dict(W, data_offsets=[16, 0])), 'hole': dict(w=dict(W, shape=[2], data_offsets=[8, 16])),
    'dtype': dict(w=dict(W, dtype='X9')), 'dtype 3': dict(w=dict(W, dtype=3)), 'huge': dict(w=dict(W, shape=[10**18])), 'huge and none': dict(w=W, z=dict(W, shape=[10**18, 10**18, 0], data_offsets=[16, 16])), 'overflow': dict(w=dict(W, shape=[2**32, 2**32])), 'shape -4': dict(w=dict(W, shape=[-4])), 'shape 4.': dict(w=dict(W, shape=[4.])), 'bytes': dict(w=dict(W, shape=[3])),
    'trailing': dict(w=dict(W, shape=[2], data_offsets=[0, 8])), 'missing keys': dict(w=dict(shape=[4])), 'list': dict(w=[1]), 'metadata 3': dict(__metadata__=3, w=W), 'metadata of numbers': dict(__metadata__={'a': 3}, w=W)}
@pytest.mark.parametrize('name', HEADERS)
def test_hostile_headers(tmp_path, name):
    head = HEADERS[name] if isinstance(HEADERS[name], bytes) else json.dumps(HEADERS[name]).encode()
    for n in (len(head), len(head) + 10**6, 2*10**9, 2**64 - 1):
        (tmp_path/'x.safetensors').write_bytes(n.to_bytes(8, 'little') + head + bytes(16))
        with pytest.raises(ValueError) as error: read_checkpoint(tmp_path/'x.safetensors')
        one_sentence(error, 'x.safetensors')

# ---------------------------------------------------------------- loading

def test_loads_everything():
    a, b = Net(), Net()
    a.norm.running_mean.fill_(3)
    report = load_checkpoint(b, a.state_dict())
    assert same(a.state_dict(), b.state_dict()) and report.counts == dict(loaded=len(a.state_dict()), reinitialised=0, missing=0, unexpected=0)

def test_num_classes():
    a, b = Net(80), Net(3)
    before = copy(b)
    report = load_checkpoint(b, a.state_dict())
    heads = [k for k in before if 'fc_' in k or 'logits' in k]
    assert report.reinitialised == heads and len(heads) == 6
    assert report.shapes['roi_head.bbox_head.fc_cls.weight'] == ((81,4), (4,4))
    for k,v in b.state_dict().items(): assert torch.equal(v, before[k] if k in heads else a.state_dict()[k])
    text = repr(report)
    assert '6 reinitialised' in text and '(81, 4) in the file, (4, 4) here' in text and '0 missing' in text

def bad_states():
    state = Net().state_dict()
    drop = lambda word: {k: v for k,v in state.items() if word not in k}
    first = 'neck.lateral_convs.0.conv.weight'
    yield {**state, first: torch.zeros(4,9,1,1)}, [first, (4,9,1,1), (4,8,1,1)]
    yield drop('neck.fpn_convs.1'), ['neck.fpn_convs.1.conv.weight', 'not in the file', '1 more']
    yield {**state, 'neck.extra.weight': torch.ones(2)}, ['neck.extra.weight', 'not in the model']
    yield {k.replace('lateral_convs', 'lateral'): v for k,v in state.items()}, [first, 'neck.lateral.0.conv.weight', (4,8,1,1)]
    yield drop('norm.running_var'), ['norm.running_var']
    yield {**state, 'roi_head.bbox_head.fc_cls.weight': torch.zeros(81, 5), 'roi_head.bbox_head.fc_cls.bias': torch.zeros(81)}, ['fc_cls.weight', (81,5), (4,4)]
    yield Net(agnostic=True).state_dict(), ['fc_reg.weight', 'same classes']
    yield {k: v[:1] if 'logits' in k else v for k,v in state.items()}, ['conv_logits', 'same classes']
    yield {**state, 'norm.weight': torch.ones(4, dtype=torch.int8)}, ['norm.weight', 'int8']
    yield {'x': torch.ones(1)}, ['no key']
    yield {}, ['no key']

@pytest.mark.parametrize('state,words', list(bad_states()))
def test_all_or_nothing(state, words):
    net = Net()
    for k in state: state[k] = state[k] + 1 if state[k].is_floating_point() else state[k]
    before = copy(net)
    with pytest.raises(ValueError) as error: load_checkpoint(net, state)
    one_sentence(error, 'Net', *words)
    assert same(before, net.state_dict())

def test_conversion_failing_midway_touches_nothing(monkeypatch):
    net, state, calls = Net(), Net().state_dict(), []
    before, to = copy(net), torch.Tensor.to
    def breaks(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5: raise torch.OutOfMemoryError('out of memory')
        return to(self, *args, **kwargs)
    monkeypatch.setattr(torch.Tensor, 'to', breaks)
    with pytest.raises(RuntimeError): load_checkpoint(net, state)
    monkeypatch.undo()
    assert len(calls) == 5 and same(before, net.state_dict())

def test_not_strict():
    state = {k: v for k,v in Net(80, 4).state_dict().items() if 'norm' not in k}
    state['neck.lateral_convs.0.conv.weight'] = torch.zeros(1)
    report = load_checkpoint(Net(), {**state, 'more': torch.ones(1)}, strict=False)
    assert 'neck.lateral_convs.0.conv.weight' in report.reinitialised and report.unexpected == ['more']
    assert report.missing == ['norm.weight', 'norm.bias', 'norm.running_mean', 'norm.running_var']

def test_counters_precision_and_meta():
    net = Net()
    state = {k: v for k,v in net.state_dict().items() if 'num_batches' not in k}
    assert load_checkpoint(Net(), state).missing == []
    assert load_checkpoint(neck(), {**neck().state_dict(), 'bn.num_batches_tracked': torch.tensor(3)}).unexpected == []
    half = Net()
    load_checkpoint(half, {k: v.bfloat16() for k,v in state.items()})
    assert half.norm.weight.dtype == torch.float32 and torch.equal(half.neck.fpn_convs[0].conv.weight, net.neck.fpn_convs[0].conv.weight.bfloat16().float())
    with torch.device('meta'): ghost = Net()
    with pytest.raises(ValueError, match='meta'): load_checkpoint(ghost, state)

def test_no_graph_and_same_parameters():
    "An optimizer made before loading still holds the model's parameters."
    net = Net()
    params = list(net.parameters())
    load_checkpoint(net, {k: v.clone().requires_grad_(v.is_floating_point()) for k,v in Net().state_dict().items()})
    assert all(a is b and a.requires_grad and a.grad_fn is None for a,b in zip(params, net.parameters()))

def test_torchvision_trunk():
    import torchvision
    net, other = ResNet(18), torchvision.models.resnet18()
    report = load_checkpoint(net, other.state_dict(), ignore=('fc',))
    assert len(report.loaded) == len(net.state_dict()) and not report.unexpected and not report.missing

# ---------------------------------------------------------------- writing

def leftovers(folder): return [p.name for p in Path(folder).iterdir() if p.name.endswith('.part')]

def test_save_forms(tmp_path):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight                                   # tied
    save_checkpoint(tmp_path/'tied.safetensors', net)
    assert same(read_checkpoint(tmp_path/'tied.safetensors'), net.state_dict())
    conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # not contiguous
    state = {**conv.state_dict(), 'view': torch.arange(10)[::3], 'empty': torch.zeros(0, 4), 'empty2': torch.zeros(0), 'scalar': torch.tensor(1.)}
    save_checkpoint(tmp_path/'new'/'folder'/'x.safetensors', state)
    assert same(read_checkpoint(tmp_path/'new'/'folder'/'x.safetensors'), state)
    save_checkpoint(tmp_path/'ddp.safetensors', nn.DataParallel(conv))
    assert same(read_checkpoint(tmp_path/'ddp.safetensors'), conv.state_dict())
    if os.name == 'posix': assert os.stat(tmp_path/'ddp.safetensors').st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o22))

def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    import safetensors.torch
    path, old = tmp_path/'x.safetensors', {'w': torch.ones(5)}
    save_checkpoint(path, old)
    def half(tensors, filename, metadata=None):
        Path(filename).write_bytes(b'half of it')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(safetensors.torch, 'save_file', half)
    with pytest.raises(OSError, match='No space'): save_checkpoint(path, {'w': torch.zeros(5)})
    monkeypatch.undo()
    for name in ('fsync', 'replace'):
        def fails(*args): raise OSError(5, 'Input/output error')
        monkeypatch.setattr(os, name, fails)
        with pytest.raises(OSError): save_checkpoint(path, {'w': torch.zeros(5)})
        monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt):
        with whole_file(path) as part: part.write_text('x'); raise KeyboardInterrupt
    assert same(read_checkpoint(path), old) and leftovers(tmp_path) == []

def run(code, *args, **kwargs): return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], **kwargs)

@pytest.mark.skipif(os.name != 'posix', reason='needs file size limits')
def test_full_disk(tmp_path):
    "The operating system itself refuses to write more."
    save_checkpoint(tmp_path/'x.safetensors', {'w': torch.ones(5)})
    code = '''
import resource, signal, sys, torch
from detbook.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try: save_checkpoint(sys.argv[1], {'w': torch.zeros(1_000_000)})
except Exception as e: print('failed', type(e).__name__, e)
'''
    out = run(code, tmp_path/'x.safetensors', stdout=subprocess.PIPE, text=True).communicate(timeout=120)[0]
    assert out.startswith('failed')
    assert same(read_checkpoint(tmp_path/'x.safetensors'), {'w': torch.ones(5)}) and leftovers(tmp_path) == []

@pytest.mark.skipif(os.name != 'posix', reason='needs SIGKILL')
def test_killed_while_saving(tmp_path):
    "At whatever moment the process dies, the target is one of the whole files."
    code = '''
import sys, torch
from detbook.checkpoint import save_checkpoint
for i in range(100_000):
    save_checkpoint(sys.argv[1], {'w': torch.full((500_000,), float(i)), 'v': torch.full((500_000,), float(i))})
    if i == 0: print('ready', flush=True)
'''
    path = tmp_path/'x.safetensors'
    for wait in (.013, .057):
        p = run(code, path, stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == 'ready\n'
        time.sleep(wait)
        p.kill(); p.wait(); p.stdout.close()
        found = read_checkpoint(path)
        assert found['w'].shape == (500_000,) and found['w'].unique().numel() == 1 and torch.equal(found['w'], found['v'])

# ---------------------------------------------------------------- describing

@component
class Wrap(nn.Module):
    "A detector made of detbook's parts and one of its own."
    def __init__(self, num_classes:int=3, neck=None, backbone=None, anchors=None, notes:dict=None, sizes:tuple=(1, (2, 3)), weights=None, mean:tuple=(1.,2.,3.)):
        super().__init__()
        self.neck, self.backbone, self.fc_cls = neck or FPN(FPN_IN, 4, num_outs=2), backbone, nn.Linear(4, num_classes+1)
        self.sizes, self._built = sizes, weights

def test_describe_and_rebuild():
    net = Wrap(5, neck=neck(), backbone=ResNet(18, out_indices=(1,2)), anchors=AnchorGenerator(strides=(4,8)), notes={'a': [1, None, True, 'x', .1]}, weights='somewhere')
    text = json.dumps(describe(net))
    d = json.loads(text)
    assert d['num_classes'] == 5 and d['backbone']['type'] == 'detbook.backbone.ResNet' and d['backbone']['depth'] == 18 and d['sizes'] == [1, [2, 3]]
    assert d['neck']['type'] == 'detbook.neck.FPN' and d['anchors'] == describe_anchors() and 'weights' not in d
    again = rebuild(d, own=[Wrap])
    assert describe(again) == d and again.sizes == (1, (2, 3)) and again._built is None
    assert {k: v.shape for k,v in again.state_dict().items()} == {k: v.shape for k,v in net.state_dict().items()}

def describe_anchors(): return describe_module._describe(AnchorGenerator(strides=(4,8)), 'anchors')

@pytest.mark.parametrize('value', [torch.ones(1), nn.ReLU(), nn.ReLU, len, {1: 2}, {'type': 'x'}, {1, 2}, object(), torch.float32])
def test_what_cannot_be_described(value):
    with pytest.raises(ValueError) as error: describe(Wrap(notes={'a': [value]}))
    one_sentence(error, 'Wrap.notes.a[0]', type(value).__name__)
    with pytest.raises(ValueError): describe(nn.Linear(2, 2))

@pytest.mark.parametrize('name', ['os.system', 'builtins.eval', 'detbook.checkpoint.download', 'detbook.checkpoint.Report', 'detbook.neck.nn', 'detbook.neck.Tensor', 'detbook.neck.Nothing',
    'detbook.nothing.FPN', 'detbook.FPN', 'detbook..FPN', 'detbook.neck.FPN.forward', 'detbook.neck.FPN\n', 'detbook.neck.component', 'detbook.__main__.X', 'detbook.checkpoint.os.system', '', 'FPN', 5, None, ['x']])
def test_rebuild_names(name):
    with pytest.raises(ValueError) as error: rebuild({'type': name})
    one_sentence(error)
    with pytest.raises(ValueError): rebuild({'type': 'detbook.neck.FPN', 'in_channels': {'type': name}})

def test_rebuild_takes_no_sources_and_no_workers(monkeypatch, tmp_path):
    "A component that is neither a module nor one of the named helpers, such as a data set, is not built from a file."
    import types
    module = types.ModuleType('detbook.toydata')
    exec('from detbook.core import component\n@component\nclass Files:\n    def __init__(self, path): open(path, "w")\n', module.__dict__)
    assert module.Files.__module__ == 'detbook.toydata'
    monkeypatch.setitem(sys.modules, 'detbook.toydata', module)
    with pytest.raises(ValueError, match='no component that a detector'): rebuild({'type': 'detbook.toydata.Files', 'path': str(tmp_path/'made')})
    assert not (tmp_path/'made').exists()
    for k in ('weights', 'weights_backbone'):
        with pytest.raises(ValueError, match='fetched'): rebuild({'type': 'x.Wrap', k: 'http://127.0.0.1:9/x.pth'}, own=[Wrap])

def test_detector_round_trip_in_a_new_process(tmp_path):
    path, net = tmp_path/'neck.safetensors', neck()
    save_detector(path, net, ['cat', 'dog'], {'resize': [128, 128]})
    code = '''
import sys, torch
from detbook.reading import read_checkpoint
from detbook.describe import read_detector
model, classes = read_detector(sys.argv[1])
assert not model.training and classes == model.classes == ('cat', 'dog')
print(type(model).__name__, sum(v.double().sum().item() for v in model.state_dict().values()), read_checkpoint(sys.argv[1]).metadata['preprocessing'])
print(*[m for m in ('fastai', 'matplotlib', 'pycocotools', 'ipywidgets') if m in sys.modules])
'''
    out = run(code, path, stdout=subprocess.PIPE, text=True).communicate(timeout=120)[0].splitlines()
    assert out[0] == f"FPN {sum(v.double().sum().item() for v in net.state_dict().values())} {{'resize': [128, 128]}}" and out[1] == ''

def test_save_detector_checks(tmp_path):
    path, net = tmp_path/'d.safetensors', Wrap(2, neck=neck())
    save_detector(path, net, ('a', 'b'))
    good = path.read_bytes()
    notes = read_checkpoint(path).metadata
    assert notes['preprocessing'] == {'mean': [1., 2., 3.]} and notes['classes'] == ['a', 'b'] and notes['detbook'] and notes['model']['num_classes'] == 2
    with pytest.raises(ValueError, match='2 classes, and 3 names'): save_detector(path, net, tuple('abc'))
    with pytest.raises(ValueError, match='JSON'): save_detector(path, net, tuple('ab'), {'resize': torch.Size})
    net.fc_cls = nn.Linear(4, 9)
    with pytest.raises(ValueError, match='changed after it was built'): save_detector(path, net, tuple('ab'))
    assert path.read_bytes() == good
    state = read_checkpoint(path)
    for change in ({'fc_cls.bias': torch.zeros(9)}, {'extra': torch.zeros(1)}):
        save_checkpoint(tmp_path/'e.safetensors', {**state, **change}, state.metadata)
        with pytest.raises(ValueError) as error: read_detector(tmp_path/'e.safetensors', own=[Wrap])
        one_sentence(error, 'e.safetensors', next(iter(change)))
    with pytest.raises(ValueError, match='own='): read_detector(path)

def test_random_numbers_are_left_alone(tmp_path):
    net = Wrap(2, neck=neck())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    save_detector(tmp_path/'d.safetensors', net, tuple('ab'))
    read_detector(tmp_path/'d.safetensors', own=[Wrap])
    assert torch.equal(torch.rand(3), expected)

# ---------------------------------------------------------------- fetching

class Server(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def do_GET(self):
        s = self.server
        with s.lock: s.asked.append((self.path, self.headers.get('Range'), self.headers.get('If-Range'))); n = len(s.asked)
        s.answer(self, n)
    def send(self, data, status=200, cut=None, **headers):
        self.send_response(status)
        for k,v in {'Content-Length': len(data), 'Connection': 'close', **headers}.items():
            if v is not None: self.send_header(k.replace('_', '-'), v)
        self.end_headers()
        self.wfile.write(data[:cut])
        self.close_connection = True
    def ranged(self, data, cut=None, etag='"1"'):
        m = re.match(r'bytes=(\d+)-$', self.headers.get('Range') or '')
        if not m or self.headers.get('If-Range', etag) != etag: return self.send(data, cut=cut, ETag=etag)
        a = int(m[1])
        if a >= len(data): return self.send(b'', 416, Content_Range=f'bytes */{len(data)}')
        self.send(data[a:], 206, cut=cut, ETag=etag, Content_Range=f'bytes {a}-{len(data)-1}/{len(data)}')

@contextmanager
def serving(answer):
    server = ThreadingHTTPServer(('127.0.0.1', 0), Server)
    server.answer, server.asked, server.lock = answer, [], threading.Lock()
    thread = threading.Thread(target=server.serve_forever, args=(.01,))
    thread.start()
    try: yield f'http://127.0.0.1:{server.server_port}', server.asked
    finally:
        server.shutdown(); server.server_close(); thread.join(10)
        assert not thread.is_alive()

DATA = bytes(range(256))*4000
HASH = hashlib.sha256(DATA).hexdigest()
NAME = f'model-{HASH[:8]}.pth'

@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path):
    monkeypatch.setenv('no_proxy', '127.0.0.1'); monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv('DETBOOK_HOME', str(tmp_path/'home'))
    monkeypatch.setattr(time, 'sleep', lambda s, sleep=time.sleep: sleep(min(s, .01)))

def test_download(tmp_path, capsys):
    with serving(lambda h, n: h.ranged(DATA)) as (site, asked):
        path = download(f'{site}/a/{NAME}?download=1#x')
        assert path.read_bytes() == DATA and path.name == NAME and path.parent.parent == tmp_path/'home'
        assert NAME in capsys.readouterr().err
        assert download(f'{site}/a/{NAME}') == path and len(asked) == 1
        other = download(f'{site}/b/{NAME}')                    # the same name elsewhere is another file
        assert other != path and len(asked) == 2
        path.write_bytes(DATA[:-1]+b'x')                        # a file that has decayed is fetched again
        assert download(f'{site}/a/{NAME}') == path and path.read_bytes() == DATA and len(asked) == 3
        for sha in (HASH, HASH[:12], HASH.upper()): download(f'{site}/a/plain.pth', tmp_path/'f', sha)
        assert len(asked) == 4 and [p.name for p in (tmp_path/'f').iterdir()] == ['plain.pth']
        assert download(f'{site}/x/net-20200131.pth', tmp_path/'g').name == 'net-20200131.pth'     # a date is no hash

def test_wrong_hash_leaves_nothing(tmp_path):
    with serving(lambda h, n: h.ranged(DATA)) as (site, asked):
        for url,sha in (('model-12345678.pth', None), (NAME, '0'*64), ('x.pth', 'abcdefab')):
            with pytest.raises(ValueError) as error: download(f'{site}/{url}', tmp_path/'f', sha)
            one_sentence(error, url, HASH[:8], (sha or '12345678')[:8])
            assert list((tmp_path/'f').iterdir()) == []
        for sha in ('xyz', '1234', 'g'*64, ''):
            with pytest.raises(ValueError, match='hexadecimal'): download(f'{site}/x.pth', tmp_path/'f', sha)
        assert len(asked) == 3

@pytest.mark.parametrize('name', [NAME, 'plain.pth'])
def test_cut_connection_goes_on(name, tmp_path):
    cuts = {1: 100_000, 2: 200_000, 3: 0, 4: 0, 5: 1}
    with serving(lambda h, n: h.ranged(DATA, cut=cuts.get(n))) as (site, asked):
        assert download(f'{site}/{name}', tmp_path/'f').read_bytes() == DATA
    assert [r for _,r,_ in asked] == [None, 'bytes=100000-', 'bytes=300000-', 'bytes=300000-', 'bytes=300000-', 'bytes=300001-']
    assert all(tag == '"1"' for _,_,tag in asked[1:]) and [p.name for p in (tmp_path/'f').iterdir()] == [name]

def test_cut_in_an_earlier_run(tmp_path):
    folder = tmp_path/'f'
    with serving(lambda h, n: h.ranged(DATA, cut=50_000 if n == 1 else 0)) as (site, asked):
        with pytest.raises(ConnectionError) as error: download(f'{site}/{NAME}', folder)
        one_sentence(error, NAME, '50000')
        assert [p.name for p in folder.iterdir()] == [NAME+'.part'] and len(asked) <= 6
        with pytest.raises(ConnectionError): download(f'{site}/plain.pth', folder)
        assert not (folder/'plain.pth.part').exists()           # without a hash it could not be gone on with
    with serving(lambda h, n: h.ranged(DATA)) as (site, asked):
        assert download(f'{site}/{NAME}', folder).read_bytes() == DATA
        assert asked == [(f'/{NAME}', 'bytes=50000-', None)] and [p.name for p in folder.iterdir()] == [NAME]
        (folder/NAME).unlink(); (folder/(NAME+'.part')).write_bytes(DATA)      # all there, killed before the renaming
        assert download(f'{site}/{NAME}', folder).read_bytes() == DATA
        (folder/NAME).unlink(); (folder/(NAME+'.part')).write_bytes(DATA+b'more')
        assert download(f'{site}/{NAME}', folder).read_bytes() == DATA
        (folder/NAME).unlink(); (folder/(NAME+'.part')).write_bytes(b'another file')
        with pytest.raises(ValueError): download(f'{site}/{NAME}', folder)
        assert list(folder.iterdir()) == [] and download(f'{site}/{NAME}', folder).read_bytes() == DATA

def test_file_changed_during_the_cut(tmp_path):
    new = DATA[::-1]
    with serving(lambda h, n: h.ranged(DATA, cut=1000) if n == 1 else h.ranged(new, etag='"2"')) as (site, asked):
        assert download(f'{site}/x.pth', tmp_path/'f').read_bytes() == new

def test_server_without_ranges(tmp_path):
    with serving(lambda h, n: h.send(DATA, cut=1000 if n < 3 else None)) as (site, asked):
        assert download(f'{site}/{NAME}', tmp_path/'f').read_bytes() == DATA and len(asked) == 3
    with serving(lambda h, n: h.send(DATA, cut=1000)) as (site, asked):
        with pytest.raises(ConnectionError): download(f'{site}/{NAME}', tmp_path/'g')
        assert len(asked) == 5
    with serving(lambda h, n: h.send(DATA, Content_Length=None)) as (site, asked):     # length unknown
        assert download(f'{site}/{NAME}', tmp_path/'h').read_bytes() == DATA
    def lies(h, n): h.send(DATA[7:], 206, Content_Range=f'bytes 7-{len(DATA)-1}/{len(DATA)}') if n == 2 else h.send(DATA, cut=9 if n == 1 else None, ETag='"1"')
    with serving(lies) as (site, asked): assert download(f'{site}/{NAME}', tmp_path/'i').read_bytes() == DATA

def test_server_errors(tmp_path):
    for status in (401, 403, 404, 410):
        with serving(lambda h, n: h.send(b'no', status)) as (site, asked):
            with pytest.raises(ValueError) as error: download(f'{site}/{NAME}', tmp_path/'f')
            one_sentence(error, NAME, status)
            assert len(asked) == 1 and list((tmp_path/'f').iterdir()) == []
    with serving(lambda h, n: h.send(b'later', 503) if n < 3 else h.ranged(DATA)) as (site, asked):
        assert download(f'{site}/{NAME}', tmp_path/'g').read_bytes() == DATA
    with serving(lambda h, n: h.send(b'<html>Sign in</html>', Content_Type='text/html; charset=utf-8')) as (site, asked):
        with pytest.raises(ValueError, match='web page'): download(f'{site}/x.pth', tmp_path/'h')
        assert list((tmp_path/'h').iterdir()) == []
    with pytest.raises(ConnectionError) as error: download(f'{site}/{NAME}', tmp_path/'h')     # nobody listens any more
    one_sentence(error, NAME)
    assert list((tmp_path/'h').iterdir()) == []

@pytest.mark.parametrize('url', ['ftp://127.0.0.1/x.pth', 'data:text/plain,x', 'x.pth', '/etc/x.pth', 'C:\\x.pth', 'javascript:x', 'http://127.0.0.1/', 'http://127.0.0.1/a/..', 'http://127.0.0.1/%2e%2e', ''])
def test_addresses(url, tmp_path):
    with pytest.raises(ValueError): download(url, tmp_path)
    assert list(tmp_path.iterdir()) == []

def test_names_stay_in_the_folder(tmp_path):
    with serving(lambda h, n: h.ranged(DATA)) as (site, asked):
        for name in ('%2e%2e%2fx.pth', '..%5cx.pth', 'a%2F..%2F..%2Fx.pth'):
            assert download(f'{site}/{name}', tmp_path/'f'/'g').parent == tmp_path/'f'/'g'

def test_redirect_to_a_file_is_not_followed(tmp_path):
    (tmp_path/'secret').write_text('secret')
    with serving(lambda h, n: h.send(b'', 302, Location=(tmp_path/'secret').as_uri())) as (site, asked):
        with pytest.raises(ValueError): download(f'{site}/x.pth', tmp_path/'f')
    with serving(lambda h, n: h.send(b'', 302, Location='/real') if n == 1 else h.ranged(DATA)) as (site, asked):
        assert download(f'{site}/{NAME}', tmp_path/'f').read_bytes() == DATA

def test_file_urls(tmp_path):
    path = tmp_path/f'my {NAME}'
    path.write_bytes(DATA)
    assert download(path.as_uri()) == path and not (tmp_path/'home').exists()
    with pytest.raises(ValueError): download(path.as_uri(), sha256='0'*64)
    assert path.read_bytes() == DATA                            # not ours to delete
    with pytest.raises(FileNotFoundError): download((tmp_path/'no.pth').as_uri())

def test_loading_from_an_address(tmp_path):
    save_detector(tmp_path/'n.safetensors', neck(), ['cat'])
    data = (tmp_path/'n.safetensors').read_bytes()
    with serving(lambda h, n: h.ranged(data)) as (site, asked):
        net = neck()
        assert load_checkpoint(net, f'{site}/n.safetensors').source == 'n.safetensors'
        model, classes = read_detector(f'{site}/n.safetensors')
        assert same(model.state_dict(), net.state_dict()) and classes == ('cat',) and len(asked) == 1

@pytest.mark.skipif(os.name != 'posix', reason='needs file locks')
def test_many_processes_fetch_once(tmp_path):
    "Eight ranks ask for one file: one request, one file, all of them get it."
    code = 'import sys; from detbook.checkpoint import download; assert len(download(sys.argv[1], sys.argv[2]).read_bytes()) == 1024000'
    with serving(lambda h, n: (threading.Event().wait(1.), h.ranged(DATA))) as (site, asked):
        ranks = [run(code, f'{site}/plain.pth', tmp_path/'f', stderr=subprocess.DEVNULL) for _ in range(2)]
        threads = [threading.Thread(target=download, args=(f'{site}/plain.pth', tmp_path/'f')) for _ in range(5)]
        for t in threads: t.start()
        for t in threads: t.join(60)
        assert [p.wait(60) for p in ranks] == [0]*2 and len(asked) == 1
    assert [p.name for p in (tmp_path/'f').iterdir()] == ['plain.pth']

# ---------------------------------------------------------------- the code base

def test_no_unsafe_reading_in_the_package():
    "No module of detbook unpickles freely."
    bad = re.compile(r'weights_only\s*=\s*False|pickle\.loads?\(|yaml\.(unsafe_|full_)?load\(|load_learner|allow_pickle\s*=\s*True|torch\.load\((?!.*weights_only=True)')
    root = Path(checkpoint.__file__).parent
    for path in root.rglob('*.py'):
        for i,line in enumerate(path.read_text().splitlines()): assert not bad.search(line), f'{path.name}:{i+1}: {line}'

def test_weights_that_are_no_numbers(tmp_path):
    "A file that was saved after a training had diverged is named; values of every kind are loaded all the same."
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = net.state_dict()
    state['0.weight'][0] = float('nan'); state['1.running_var'][1] = float('inf')
    torch.save(state, tmp_path/'gone.pth')
    with pytest.warns(UserWarning, match=r'gone.pth: .?0.weight.? and 1 more tensors have values that are nan or infinite'): load_checkpoint(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), tmp_path/'gone.pth')
