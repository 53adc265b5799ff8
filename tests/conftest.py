"What several files of tests share."
import signal

import pytest, torch

torch.set_warn_always(True)       # a warning of PyTorch's own does not depend on the test before

@pytest.fixture(scope='module')
def one_thread():
    "One thread here and in all processes that a test starts: the last bits of a sum depend on how many add it up."
    n = torch.get_num_threads(); torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as m:
        for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): m.setenv(k, '1')
        yield
    torch.set_num_threads(n)

@pytest.fixture
def cpu_limit():
    "What should be refused at once and runs for a minute of CPU time is ended, so that a missing budget fails a test and does not hang it."
    if not hasattr(signal, 'setitimer'): yield; return          # Windows has none
    def over(*_): raise TimeoutError('a minute of CPU time went by')
    old = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, 60)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, old)

LONGEST = 'test_golden test_resume test_sweep test_parity test_training'.split()

def pytest_collection_modifyitems(items):
    "Files that take long come first."
    items.sort(key=lambda i: LONGEST.index(i.path.stem) if i.path.stem in LONGEST else len(LONGEST))
