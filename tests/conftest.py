"What several files of tests share."
import pytest, torch

@pytest.fixture(scope='module')
def one_thread():
    "One thread here and in all processes that a test starts: the last bits of a sum depend on how many add it up."
    n = torch.get_num_threads(); torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as m:
        for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): m.setenv(k, '1')
        yield
    torch.set_num_threads(n)
