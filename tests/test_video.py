"Videos that no lesson needs: what a phone, a camera or a stranger may send, films that are killed half-way, and the command."
import copy, itertools, json, os, re, signal, subprocess, sys, textwrap, threading, time
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
import av, numpy as np, pytest, torch
from PIL import Image
from detbook import video as chapter
from detbook.cli import run_command
from detbook.detections import show_result
from detbook.images import read_picture
from detbook.inference import Predictor, detbook_predict, inference_detector, init_detector
from detbook.outputs import map_files
from detbook.toy import scene
from detbook.video import Camera, VideoReader, VideoWriter, write_video

pytestmark = pytest.mark.usefixtures('one_thread')

def numbered(n, h=48, w=64):
    "Frames whose number can be read from them: its bits are black and white fields."
    out = []
    for i in range(n):
        x = torch.full((3, h, w), 96, dtype=torch.uint8)
        for b in range(8): x[:, :h//2, b*w//8:(b + 1)*w//8] = 235 if i >> b & 1 else 20
        out.append(x)
    return out

def number(x):
    "What is written in a frame."
    h, w = x.shape[1:]
    return sum((x[:, 2:h//2 - 2, b*w//8 + 2:(b + 1)*w//8 - 2].float().mean() > 128).int().item() << b for b in range(8))

def make(path, frames, codec='libx264', rate=25, pts=None, base=None, sound=None, **options):
    "A film by PyAV alone; with `pts` in units of `base`, with seconds of silence beside it."
    with av.open(str(path), 'w') as box:
        s = box.add_stream(codec, rate=rate, options={k.replace('_', '-'): str(v) for k,v in options.items()})
        a = box.add_stream('aac', rate=8000) if sound else None
        s.height, s.width, s.pix_fmt = *frames[0].shape[1:], 'yuv420p'
        if base: s.time_base = s.codec_context.time_base = base
        for i, x in enumerate(frames):
            f = av.VideoFrame.from_ndarray(x.permute(1, 2, 0).contiguous().numpy(), format='rgb24')
            f.pts = pts[i] if pts else i
            if base: f.time_base = base
            for p in s.encode(f): box.mux(p)
        for p in s.encode(): box.mux(p)
        if a:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, int(8000*sound)), np.float32), 'fltp', 'mono')
            silence.sample_rate = 8000
            for p in [*a.encode(silence), *a.encode()]: box.mux(p)
    return Path(path)

@pytest.fixture(scope='module')
def film(tmp_path_factory): return make(tmp_path_factory.mktemp('film')/'b.mp4', numbered(90), g=15, bf=3)

# ---------------------------------------------------------------- reading
@pytest.mark.parametrize('name, options', [('a.mp4', dict(g=15, bf=3)), ('a.mov', dict(g=15, bf=3, x264_params='open-gop=1')), ('a.mkv', dict(g=15, bf=2, intra_refresh=1)), ('a.ts', dict(g=15, bf=3)),
    ('a.flv', dict(g=15, bf=3)), ('a.avi', dict(g=15, bf=3)), ('b.avi', dict(codec='mpeg4', g=15, bf=2)), ('a.mpg', dict(codec='mpeg2video', g=15, bf=2)), ('a.m2ts', dict(codec='mpeg2video', g=15, bf=2)),
    ('a.webm', dict(codec='libvpx', g=15, auto_alt_ref=1, lag_in_frames=20, deadline='good')), ('b.webm', dict(codec='libvpx-vp9', g=15, auto_alt_ref=1, lag_in_frames=20, deadline='good', cpu_used=5)),
    ('h.mp4', dict(codec='libx265', x265_params='log-level=none:keyint=15:open-gop=1')), ('l.mp4', dict(g=1000, bf=3)), ('k.mp4', dict(g=1))])
def test_a_number_is_a_frame(tmp_path, name, options):
    "By number, in any order, each frame says its own number, and is bit for bit the one that comes in turn."
    if options.get('codec', 'libx264') not in av.codecs_available: pytest.skip(f'this FFmpeg has no {options["codec"]}')
    video = VideoReader(make(tmp_path/name, numbered(90), **options))
    turn = list(video)
    assert [number(x) for x in turn] == list(range(90)) and len(video) == 90
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1)).tolist()[:12]
    for i in [*order, 89, 44, 45, 46, 44, 0]: assert number(video[i]) == i and torch.equal(video[i], turn[i])
    for part in (slice(20, 30), slice(80, None, 4), slice(50, 20, -7)): assert [number(x) for x in video[part]] == list(range(90))[part]
    assert number(video.frame_at(2.01)) == 50 and video.fps == 25

def test_rates_that_vary_and_times_that_do_not_begin_at_zero(tmp_path):
    gaps = [3, 1, 8, 2, 2]
    pts = [500, *(500 + t for t in itertools.accumulate(gaps[i % 5] * 11 for i in range(89)))]
    for name in ('v.mp4', 'v.mkv', 'v.ts'):
        video = VideoReader(make(tmp_path/name, numbered(90), pts=pts, base=Fraction(1, 1000), g=15, bf=3))
        want = torch.tensor(pts).double().sub(500) / 1000
        assert torch.allclose(video.times, want, atol=1.1e-3), name
        for i in (0, 1, 2, 50, 89): assert number(video.frame_at(float(video.times[i]) + 5e-4)) == i
        assert torch.equal(video[10:60:5].times, video.times[10:60:5]) and number(video[10:60:5].frame_at(float(video.times[31]))) == 30
        assert number(video[60:10:-5].frame_at(float(video.times[31]))) == 30

def test_times_that_begin_anew(tmp_path):
    "Two transport streams in one file: their times overlap, and all frames are there in the order of the file."
    data = make(tmp_path/'a.ts', numbered(40), g=10, bf=2).read_bytes()
    (tmp_path/'b.ts').write_bytes(data + data)
    turn = [number(x) for x in VideoReader(tmp_path/'b.ts')]
    assert len(turn) == len(VideoReader(tmp_path/'b.ts')) and turn[:40] == list(range(40)) and turn[-30:] == list(range(10, 40))
    assert [number(VideoReader(tmp_path/'b.ts')[i]) for i in (5, 39, -1)] == [5, 39, 39]

def test_sound_beside_the_pictures(tmp_path):
    "A track of sound that is longer, or shorter, is no damage."
    for seconds in (.5, 9.):
        video = VideoReader(make(tmp_path/'s.mp4', numbered(50), sound=seconds))
        assert [number(x) for x in video] == list(range(50))

def test_one_frame_and_slices_of_nothing(tmp_path):
    video = VideoReader(make(tmp_path/'one.mkv', numbered(1)))
    assert len(video) == 1 and len(list(video)) == 1 and number(video[-1]) == 0 and video[5:].times.shape == (0,) and list(video[1:]) == []
    with pytest.raises(ValueError, match='seconds is 0, and the frames run from 0 to 0'): video[1:].frame_at(0.)
    with pytest.raises(ValueError, match='slice step'): video[::0]

def test_the_form_is_that_of_pictures(film, tmp_path):
    x = VideoReader(film)[3]
    Image.fromarray(x.permute(1, 2, 0).numpy()).save(tmp_path/'x.png')
    y = read_picture(tmp_path/'x.png')
    assert torch.equal(x, y) and (x.dtype, x.is_contiguous()) == (y.dtype, y.is_contiguous()) and x.filename.endswith('b.mp4, frame 3')

def test_readers_do_not_disturb_each_other(film):
    video = VideoReader(film)
    for a, b in zip(video, video[10:]):
        assert number(b) == number(a) + 10
        if number(a) % 20 == 0: assert number(video[70]) == 70
    again = copy.deepcopy(video)
    assert number(again[3]) == 3 and number(video[4]) == 4

def test_loader_workers(film):
    "Each process opens the file for itself."
    video = VideoReader(film)
    assert number(video[4]) == 4
    loader = torch.utils.data.DataLoader(video, batch_size=5, num_workers=2, collate_fn=lambda xs: [number(x) for x in xs], shuffle=False)
    assert sum(loader, []) == list(range(90))

def test_memory_is_bounded(tmp_path):
    "Six hundred frames of 640 x 480, which would be 550 MB: forwards, by number, a slice that nobody reads, and a copy."
    path = make(tmp_path/'long.mp4', [torch.zeros(3, 480, 640, dtype=torch.uint8)]*600, preset='ultrafast', g=50)
    code = f'''
        import resource, torch
        from detbook.video import VideoReader, write_video
        video = VideoReader({str(path)!r})
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        video[0]; before = peak()
        for x in video: pass
        for i in range(0, 600, 40): video[i]
        video[100:]
        write_video({str(tmp_path/'copy.mp4')!r}, video[:200])
        print(peak() - before)'''
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=os.pathsep.join(sys.path)))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250_000, done.stdout      # kilobytes: all frames would be 550 megabytes

# ---------------------------------------------------------------- what is damaged
def test_cut_and_damaged(tmp_path, film):
    data = make(tmp_path/'a.mkv', numbered(90), g=15, bf=3).read_bytes()
    said = []
    for share in (.4, .6, .8, .9):
        (tmp_path/'cut.mkv').write_bytes(data[:int(len(data)*share)])
        video = VideoReader(tmp_path/'cut.mkv')
        got = []
        with pytest.raises(ValueError, match=r'cut\.mkv: (the video breaks off after|frame \d+ of \d+, at .* is damaged)') as e:
            for x in video: got.append(number(x))
        n = len(got) - 4                                            # at the very end a frame may have come whose neighbours are lost
        assert got[:n] == list(range(n)) and got == sorted(got) and n >= share*90 - 30, (share, got)
        said.append(str(e.value))
        assert number(video[3]) == 3
    assert any('breaks off' in s for s in said)
    whole = film.read_bytes()
    for n in (0, 10, 100, len(whole)//2):         # the table of an MP4 stands at its end
        (tmp_path/'cut.mp4').write_bytes(whole[:n])
        with pytest.raises(ValueError, match=rf'cut\.mp4: its {n} bytes are not a whole video'): VideoReader(tmp_path/'cut.mp4')
    front = write_video(tmp_path/'front.mp4', numbered(90), crf=10).read_bytes()        # the table first
    (tmp_path/'short.mp4').write_bytes(front[:len(front)*6//10])
    with pytest.raises(ValueError, match=r'short\.mp4: (the video breaks off|frame \d+ of)'): list(VideoReader(tmp_path/'short.mp4'))
    kept = VideoReader(tmp_path/'short.mp4', on_bad='skip')
    assert 5 < len(list(kept)) < 90 and kept.skipped

def test_any_bytes(tmp_path):
    "Whatever bytes are wrong: a sentence that names the file, or frames; never another error, never more frames than there are."
    rng = np.random.default_rng(0)
    for name, options in (('a.mp4', {}), ('a.mkv', {}), ('a.ts', {}), ('a.avi', dict(codec='mpeg4'))):
        data = make(tmp_path/name, numbered(30), g=10, bf=2, **options).read_bytes()
        for trial in range(12):
            broken = bytearray(data)
            for i in rng.integers(0, len(data), 1 + 4*trial): broken[i] = rng.integers(256)
            (tmp_path/f'x_{name}').write_bytes(broken)
            for on_bad in ('raise', 'skip'):
                try: assert len(list(VideoReader(tmp_path/f'x_{name}', on_bad))) <= 31
                except ValueError as e: assert f'x_{name}: ' in str(e), e

# ---------------------------------------------------------------- what strangers send
@pytest.fixture
def asked():
    "A server on this machine, and what it was asked for."
    asked = []
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self): asked.append(self.path); self.send_response(404); self.end_headers()
        do_HEAD = do_GET
        def log_message(self, *_): pass
    server = HTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True); thread.start()
    yield f'http://127.0.0.1:{server.server_port}', asked
    server.shutdown(); server.server_close(); thread.join()

def test_lists_of_files_and_addresses_open_nothing(tmp_path, film, asked, monkeypatch):
    url, seen = asked
    monkeypatch.chdir(tmp_path)
    hls = '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n'
    lists = {'h.m3u8': hls.format(f'{url}/a.ts'), 'h.mp4': hls.format(f'{url}/b.ts'), 'l.mp4': hls.format(film), 'c.mp4': f"ffconcat version 1.0\nfile '{film}'\n", 'n.ffconcat': f"ffconcat version 1.0\nfile '{url}/c.mp4'\n",
             'd.mpd': f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{url}/d.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>',
             's.sdp': 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n'}
    for name, text in lists.items():
        Path(name).write_text(text)
        with pytest.raises(ValueError, match=rf'{re.escape(name)}: its \d+ bytes are not a whole video of a known format'): VideoReader(name)
    for name in (f'{url}/x.mp4', 'rtsp://127.0.0.1/x', 'tcp://127.0.0.1:1', f'file://{film}'):
        with pytest.raises(ValueError, match='is an address; only files are opened'): VideoReader(name)
    for name in (f'concat:{film}|{film}', f'subfile,,start,0,end,0,,:{film}', 'pipe:0', f'crypto:{film}', 'testsrc=size=64x48', f'cache:{film}'):
        with pytest.raises((FileNotFoundError, NotADirectoryError)): VideoReader(name)
    assert not seen, seen
    with pytest.raises(av.FFmpegError): av.open(f'{url}/x.mp4')     # the server would have noticed
    assert seen

def test_a_file_may_have_the_name_of_an_address(tmp_path, film, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('concat:a.mp4', 'clip%03d.mp4', 'http:', "it's [1]?.mp4", '-i', 'ünï.mp4'):
        Path(name).write_bytes(film.read_bytes())
        assert number(VideoReader(name)[7]) == 7

def test_an_mp4_may_not_point_to_another_file(tmp_path, film):
    "The table of an MP4 can say that its pictures lie elsewhere; that is not followed."
    data = film.read_bytes()
    i = data.index(b'dref')
    entry = data.index(b'url ', i)
    assert data[entry + 4:entry + 8] == b'\0\0\0\1'                # in this file
    (tmp_path/'else.mp4').write_bytes(data[:entry + 7] + b'\0' + data[entry + 8:])
    try: got = [number(x) for x in VideoReader(tmp_path/'else.mp4')]
    except ValueError as e: assert 'else.mp4' in str(e)
    else: assert got == list(range(90))                             # its own frames, and no others

def test_frames_too_large(tmp_path, film, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    with pytest.raises(ValueError, match=r"b\.mp4: the frames are 64 wide and 48 high, 0\.00307 megapixels, above Pillow's limit of 0\.002; PIL\.Image\.MAX_IMAGE_PIXELS"): VideoReader(film)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    assert len(VideoReader(film)) == 90

def test_frames_that_change_their_size(tmp_path, monkeypatch):
    "A stream may change its size half-way: frames keep that of the first; above the limit they are damaged."
    parts = [make(tmp_path/f'{i}.ts', numbered(20, *size), g=10, bf=0).read_bytes() for i, size in enumerate(((48, 64), (96, 128)))]
    (tmp_path/'both.ts').write_bytes(b''.join(parts))
    got = list(VideoReader(tmp_path/'both.ts'))
    assert len(got) >= 38 and {x.shape for x in got} == {(3, 48, 64)} and number(got[-1]) == 19
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 3000)            # between the two sizes
    small = VideoReader(tmp_path/'both.ts', on_bad='skip')
    assert 18 <= len(list(small)) <= 21

def test_without_pyav(film, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'av', None)
    for f in (lambda: VideoReader(film), lambda: VideoWriter(tmp_path/'a.mp4'), lambda: Camera(0)):
        with pytest.raises(ImportError, match=r"pip install 'detbook\[video\]'"): f()
    assert run_command(detbook_predict, [str(film), 'toy_detector']) == 2
    assert "pip install 'detbook[video]'" in capsys.readouterr().err

def test_pyav_is_imported_when_it_is_needed():
    code = 'import sys, detbook.video, detbook.inference; assert "av" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True, env=os.environ | dict(PYTHONPATH=os.pathsep.join(sys.path)))

# ---------------------------------------------------------------- writing
def test_a_killed_writer_leaves_nothing(tmp_path):
    code = f'''
        import os, signal, torch
        from detbook.video import VideoWriter
        with VideoWriter({str(tmp_path/'film.mp4')!r}) as out:
            for i in range(100): out.write(torch.zeros(3, 48, 64, dtype=torch.uint8))
            os.kill(os.getpid(), signal.SIGKILL)'''
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], env=os.environ | dict(PYTHONPATH=os.pathsep.join(sys.path)))
    assert done.returncode == -signal.SIGKILL and not (tmp_path/'film.mp4').exists()
    assert [p.suffix for p in tmp_path.iterdir()] == ['.part']     # under another name

def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError, match='film.mp4 is there already'):
        with VideoWriter(tmp_path/'film.mp4') as out:
            out.write(numbered(1)[0])
            (tmp_path/'film.mp4').write_text('mine')
    assert (tmp_path/'film.mp4').read_text() == 'mine' and len(list(tmp_path.iterdir())) == 1
    write_video(tmp_path/'film.mp4', numbered(3), overwrite=True)
    assert len(VideoReader(tmp_path/'film.mp4')) == 3

@pytest.mark.parametrize('fps', [1, 10, 12.5, 23.976, 24, 25, 29.97, 30, 59.94, 60, 120, .5])
def test_rates(tmp_path, fps):
    for name in ('a.mp4', 'a.mkv'):
        video = VideoReader(write_video(tmp_path/name, numbered(12), fps=fps, overwrite=True))
        assert len(video) == 12 and abs(video.fps - fps) < 2e-3*fps and torch.allclose(video.times, torch.arange(12).double()/fps, atol=2e-3*12/fps + 1e-3)

def test_a_film_over_itself(tmp_path):
    path = write_video(tmp_path/'a.mp4', numbered(30), crf=1)
    write_video(path, VideoReader(path)[::-3], overwrite=True)
    assert [number(x) for x in VideoReader(path)] == list(range(29, -1, -3))

# ---------------------------------------------------------------- detecting
@pytest.fixture(scope='module')
def pan(tmp_path_factory):
    wide, _ = scene(13, size=(96, 208), digits='val', objects=(4, 4), crowd=0, empty=0)
    return write_video(tmp_path_factory.mktemp('pan')/'pan.mp4', [wide[:, :, 8*i:8*i + 96] for i in range(14)], fps=10)

@pytest.fixture(scope='module')
def detector(one_thread): return init_detector('toy_detector', device='cpu')

def predict(*words): return run_command(detbook_predict, [*map(str, words), 'toy_detector', '--device', 'cpu'])

def test_a_film_is_a_stream(pan, detector):
    answers = inference_detector(detector, VideoReader(pan), bs=4)
    assert iter(answers) is answers
    alone = [inference_detector(detector, x) for x in VideoReader(pan)]
    for a, b in zip(answers, alone, strict=True):
        assert a.size == (96, 96) and torch.equal(a['labels'], b['labels'])
        torch.testing.assert_close(a['boxes'], b['boxes'], rtol=1e-3, atol=1e-2)
    pulled = []
    def frames():
        for i, x in enumerate(VideoReader(pan)): pulled.append(i); yield x
    next(Predictor(detector)(frames()))
    assert len(pulled) <= 8

def test_the_command(pan, tmp_path, capsys):
    out, found = tmp_path/'out.mp4', tmp_path/'found.json'
    assert predict(pan, '--out', out, '--json', found, '--bs', 3, '--start', 1, '--every', 4) == 0
    rows, video, said = json.loads(found.read_text()), VideoReader(out), capsys.readouterr().out
    assert {(r['image_id'], r['seconds'], r['file_name']) for r in rows} == {(i, i/10, 'pan.mp4') for i in (1, 5, 9, 13)}
    assert set(rows[0]) >= {'bbox', 'category_id', 'score', 'category'}
    assert (len(video), video.size, video.times.tolist()) == (4, (480, 480), [0., .4, .8, 1.2]) and '4 frames' in said and str(out) in said
    frame = VideoReader(pan)[9]
    found9 = inference_detector(init_detector('toy_detector', device='cpu'), frame)
    drawn, bare = (read_picture(show_result(frame, d, min_score=.3)).float() for d in (found9, found9[:0]))
    assert (video[2] - drawn).abs().mean() < 4 < (video[2] - bare).abs().mean()  # boxes are drawn
    before = out.read_bytes()
    assert predict(pan, '--out', out) == 2 and out.read_bytes() == before and '--overwrite' in capsys.readouterr().err
    assert predict(pan, '--out', out, '--overwrite', '--stop', 2) == 0 and len(VideoReader(out)) == 2
    assert predict(pan, '--out', pan, '--overwrite') == 2 and 'is a file that is read here' in capsys.readouterr().err
    assert len(detbook_predict(str(pan), 'toy_detector', device='cpu', min_score=.9)) <= sum(r['score'] >= .9 for r in rows)*14

def test_the_command_without_anything_found(tmp_path):
    path = write_video(tmp_path/'grey.mp4', [torch.full((3, 64, 64), 90, dtype=torch.uint8)]*3)
    assert predict(path, '--json', tmp_path/'none.json', '--score_thr', .99) == 0 and json.loads((tmp_path/'none.json').read_text()) == []

def test_a_damaged_film(tmp_path, pan, capsys):
    data = make(tmp_path/'a.mkv', list(VideoReader(pan))*4, g=10).read_bytes()
    (tmp_path/'cut.mkv').write_bytes(data[:len(data)//2])
    assert predict(tmp_path/'cut.mkv', '--out', tmp_path/'out.mp4', '--json', tmp_path/'f.json') == 2
    assert re.search(r'cut\.mkv: (the video breaks off|frame \d+ of)', capsys.readouterr().err) and not [p for p in tmp_path.iterdir() if p.name not in ('a.mkv', 'cut.mkv')]
    assert predict(tmp_path/'cut.mkv', '--out', tmp_path/'out.mp4', '--on_bad', 'skip') == 0
    assert 5 < len(VideoReader(tmp_path/'out.mp4')) < 50 and 'skipped: ' in capsys.readouterr().out

def test_mistakes_in_the_command(pan, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene_ = Image.fromarray(scene(1)[0].permute(1, 2, 0).numpy()); scene_.save('a.png')
    for words, expected in (((pan, '--out_dir', 'd'), '--out_dir d is for pictures'), (('a.png', '--every', 2), '--every is for a video'), (('a.png', '--stop', 2), '--stop is for a video'), (('a.png', '--out', 'b.mp4'), 'not a whole video'),
                            ((pan, '--out', 'b.avi'), "cannot be written as '.avi'"), ((pan, '--start', 14), 'no frame is from --start 14 on'), ((pan, '--start', -1), 'start is -1'), (('lost.mp4',), 'lost.mp4 does not exist'),
                            (('rtsp://host/x', '--out', 'b.mp4'), 'is an address')):
        assert predict(*words) == 2 and expected in capsys.readouterr().err, words
    assert {p.name for p in tmp_path.iterdir()} == {'a.png'}

# ---------------------------------------------------------------- cameras
@pytest.fixture
def pattern(monkeypatch):
    if 'lavfi' not in av.formats_available: pytest.skip('this FFmpeg has no test pattern')
    monkeypatch.setattr(chapter, '_camera', lambda index: ('testsrc=size=96x64:rate=10', 'lavfi'))

def test_no_camera(tmp_path, capsys):
    if sys.platform != 'linux' or os.path.exists('/dev/video63'): pytest.skip('another system, or 64 cameras')
    assert predict(63, '--out', tmp_path/'a.mp4') == 2
    assert 'camera 63: there is no /dev/video63; ' in capsys.readouterr().err and not list(tmp_path.iterdir())

def test_no_cameras_by_number_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'win32')
    with pytest.raises(ValueError, match='on Linux and macOS'): Camera(0)

def test_a_camera(pattern, tmp_path, detector):
    camera = Camera(0)
    assert (camera.size, camera.fps) == ((64, 96), 10.)
    some = list(itertools.islice(inference_detector(detector, camera), 3))
    assert [d.size for d in some] == [(64, 96)]*3
    camera.close()
    assert predict(0, '--out', tmp_path/'a.mp4', '--stop', 9, '--every', 3) == 0
    video = VideoReader(tmp_path/'a.mp4')
    assert torch.allclose(video.times, torch.tensor([0, .3, .6]).double(), atol=1e-3)

def test_ctrl_c_ends_a_camera(pattern, tmp_path, monkeypatch, capsys):
    plain = VideoWriter.write
    def write(self, *args):
        if self.n == 4: raise KeyboardInterrupt
        plain(self, *args)
    monkeypatch.setattr(VideoWriter, 'write', write)
    assert predict(0, '--out', tmp_path/'a.mp4', '--json', tmp_path/'a.json') == 0
    assert len(VideoReader(tmp_path/'a.mp4')) == 4 and isinstance(json.loads((tmp_path/'a.json').read_text()), list) and '4 frames' in capsys.readouterr().out

def test_ctrl_c_ends_nothing_else(pan, tmp_path, monkeypatch):
    def write(*_): raise KeyboardInterrupt
    monkeypatch.setattr(VideoWriter, 'write', write)
    assert predict(pan, '--out', tmp_path/'a.mp4') == 130 and not list(tmp_path.iterdir())

# ---------------------------------------------------------------- many files
def test_map_files_keeps_the_order_and_names_the_file(tmp_path):
    def slow(i): time.sleep(.02*(i % 3)); return i*i
    assert map_files(slow, list(range(20)), 8) == [i*i for i in range(20)]
    called = []
    def bad(i):
        called.append(i)
        if i == 3: raise KeyError('x')
        time.sleep(.01)
    with pytest.raises(RuntimeError, match="3: KeyError: 'x'"): map_files(bad, list(range(400)), 2)
    assert len(called) < 400                                        # the rest was called off
    with pytest.raises(FileNotFoundError, match='lost.png: no such picture'): map_files(read_picture, [tmp_path/'lost.png'])
    assert map_files(os.path.basename, ['/a/b', '/c/d'], 2, processes=True) == ['b', 'd']
