"Files of proposals from elsewhere: pickles of classes that are not there, pickles that mean harm, scores for a part of the images."
import json, pickle, sys, types
from pathlib import Path
import numpy as np, pytest
from detbook.proposals import read_proposals

IMAGES = [(1, 'val2017/a.jpg'), (2, 'val2017/b.jpg')]

@pytest.mark.parametrize('protocol', range(2, 6))         # mmengine writes 2
def test_mmdetections_dumped_proposals_are_read(tmp_path, monkeypatch, protocol):
    "Pickled InstanceData, of a module that is not there when it is read."
    names = ['mmengine', 'mmengine.structures', 'mmengine.structures.instance_data']
    for n in names: monkeypatch.setitem(sys.modules, n, types.ModuleType(n))
    kind = type('InstanceData', (), {'__module__': names[-1]})
    sys.modules[names[-1]].InstanceData = kind
    found = {}
    for i, (_, name) in enumerate(IMAGES):
        o = kind()
        o.__dict__.update(_metainfo_fields=set(), _data_fields={'bboxes', 'scores'}, bboxes=np.full((i+1, 4), 7, 'float32'), scores=np.full(i+1, .5, 'float32'))
        found[name] = o
    (tmp_path/'p.pkl').write_bytes(pickle.dumps(found, protocol))
    for n in names: monkeypatch.delitem(sys.modules, n)
    table = read_proposals(tmp_path/'p.pkl', IMAGES)
    assert [table[i].tolist() for i in (1, 2)] == [[[7, 7, 7, 7, .5]], [[7, 7, 7, 7, .5]]*2]


def test_images_without_proposals_stand_beside_those_with_scores(tmp_path):
    "An RPN may find nothing; scores for a part of the images are a slip in the file."
    table = lambda a, b: ((tmp_path/'p.json').write_text(json.dumps({n: r for (_,n),r in zip(IMAGES, (a, b))})), read_proposals(tmp_path/'p.json', IMAGES))[1]
    found = table([], [[1, 2, 3, 4, .5]])
    assert (found[1].shape, found[2].tolist()) == ((0, 5), [[1, 2, 3, 4, .5]])
    with pytest.raises(ValueError, match=r'p\.json: rows of image 2 have scores, those of image 1 have none'): table([[1, 2, 3, 4]], [[1, 2, 3, 4, .5]])


def test_no_pickle_runs_anything(tmp_path):
    class Evil:
        def __reduce__(self): return (Path.write_text, (tmp_path/'pwned', 'x'))
    for what in (Evil(), {'val2017/a.jpg': Evil()}, [Evil()]):
        (tmp_path/'p.pkl').write_bytes(pickle.dumps(what))
        with pytest.raises(ValueError, match='refused'): read_proposals(tmp_path/'p.pkl', IMAGES)
    assert not (tmp_path/'pwned').exists()
    for raw in (b'', b'no pickle', pickle.dumps([1, 2])[:-3]):
        (tmp_path/'p.pkl').write_bytes(raw)
        with pytest.raises(ValueError, match='p.pkl'): read_proposals(tmp_path/'p.pkl', IMAGES)
