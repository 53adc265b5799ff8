"What several files of tests share."
import os, re, signal

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

LONGEST = 'test_golden test_resume test_sweep test_parity test_training test_distributed'.split()

# What takes long stays for DETBOOK_SLOW=1, where something else tells the same in every run. Tests that are slow as a whole have @pytest.mark.slow.
SLOW = {
    r'test_golden.*(losses|detections).*faster-rcnn_r50-caffe-c4': 'Mask R-CNN on C4 has the same boxes',
    r'test_golden.*losses.*rcnn_r50-caffe-(c4|dc5)_': 'their features and detections are compared, and the losses of other trunks',
    r'test_golden.*(losses|detections).*cascade-mask-rcnn_r50-caffe': 'the cascade is compared in pytorch style, the caffe style in Mask R-CNN',
    r'test_golden.*losses.*cascade-rcnn_r50_fpn': 'the cascade with masks has the same box losses',
    r'test_parity.*figures.*rcnn_R_50_C4': "mmdetection's C4 detections are compared, and Detectron2's with a pyramid",
    r'test_parity.*test_torchvision(_by_type_and_alone)?\[keypointrcnn': "Detectron2's keypoints are compared",
    r'test_distributed.*world_sizes_agree.*3': 'two processes are compared with one',
    r'test_distributed.*one_rank_fails\[(late|exit)-': 'a rank that raises or is killed; the one that is late waits for its time-out',
    r'test_resume.*asked_to_stop.*(-all|15-parent)': 'SIGINT to the parent, and a signal to one rank',
    r'test_resume.*rank_that_is_killed.*1': 'rank 0 is killed',
    r'test_training.*kill_9\[(?!0\])': 'one round of twelve',
    r'test_training.*two_processes_learn_as_one.*torchrun': 'torchrun starts two processes in test_launchers',
    r'test_demo.*on_own_data.*False': 'with masks it has boxes, too',
    r'test_schedule.*mixed_precision\[(faster|cascade|rpn|fcos_rpn)\]': 'Mask R-CNN has their parts',
    r'test_plain_ops.*compiled_operations\[(rpn|faster_rcnn|cascade_rcnn)\]': 'the same with masks, or with hard sampling and soft suppression',
    r'test_callbacks.*ends_as_one_that_was_not.*plain-2': 'without workers, and with an average',
}

def pytest_configure(config): config.addinivalue_line('markers', 'slow: runs with DETBOOK_SLOW=1')

def pytest_collection_modifyitems(items):
    "Files that take long come first, and what is slow waits for its day."
    items.sort(key=lambda i: LONGEST.index(i.path.stem) if i.path.stem in LONGEST else len(LONGEST))
    for i in items:
        why = [w for pattern, w in SLOW.items() if re.search(pattern, i.nodeid)]
        if why: i.add_marker(pytest.mark.slow)
        if i.get_closest_marker('slow') and os.environ.get('DETBOOK_SLOW') != '1':
            i.add_marker(pytest.mark.skip(reason='DETBOOK_SLOW=1 runs it' + ''.join(f'; in every run: {w}' for w in why)))
