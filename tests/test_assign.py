"Matching at the size of an aerial picture: bounded memory, and the same answer as in small pieces."
import json, os, subprocess, sys
import pytest

SCRIPT = '''
import json, resource, time, torch
from detbook.assign import Matcher
from detbook.batch import Truths
torch.manual_seed(0)
def scattered(n):
    centre, size = torch.rand(n, 2)*4000, torch.rand(n, 2)*60 + 4
    return torch.cat([centre - size/2, centre + size/2], 1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import sys
G, N = int(sys.argv[1]), 200_000
boxes, some = scattered(N), scattered(G)
valid  = torch.rand(1, G) < .95
truths = Truths(some[None], labels=valid*0, valid=valid, ignore=~valid)
Matcher()(boxes[:100], truths)
before, start = peak(), time.time()
matched = Matcher()(boxes, truths)[0]
seconds, extra = time.time() - start, peak() - before
part = torch.randperm(N)[:2000].sort()[0]               # thresholds alone need no other candidate: check a part against the definition
alone = Matcher(low_quality=False)(boxes[part], truths)[0]
low = (matched >= 0)[part] & (alone != matched[part])
print(json.dumps(dict(extra=extra, seconds=seconds, positive=int((matched >= 0).sum()), served=len(set(matched.tolist()) - {-1, -2}),
                      wanted=int(valid.sum()), low=int(low.sum()), wrong=int(((alone != matched[part]) & ~low).sum()))))
'''

@pytest.mark.parametrize('truths, limit', [(900, .3e9), pytest.param(3000, .5e9, marks=pytest.mark.slow)])
def test_many_truths_in_bounded_memory(truths, limit):
    done = subprocess.run([sys.executable, '-c', SCRIPT, str(truths)], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS':'1'})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said['extra']*1024 < limit, said                      # the whole table would take some 10 GB, or 3
    assert said['wrong'] == 0 and said['served'] > .7*said['wanted'], said
