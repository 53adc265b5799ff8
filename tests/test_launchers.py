"torchrun, mpirun and srun as programs, each starting two real processes; and what happens when one of the two fails."
import os, shutil, signal, socket, subprocess, sys, tempfile, time
from pathlib import Path
import pytest

JOB = '''
import json, sys
from detbook.distributed import barrier, gather_list, process_group
launcher, how = sys.argv[1:]
with process_group(launcher, timeout=120) as here:
    if how == 'fail' and here.rank == 1: raise ValueError('the disk is full')
    everyone = gather_list([list(here[:3])])
    barrier()
    print(json.dumps(dict(rank=here.rank, everyone=everyone)) + '\\n', end='', flush=True)
'''

def program(name):
    "Where a program is; a test that needs one that is not here is left out."
    found = shutil.which(name, path=os.environ['PATH'] + ':/usr/sbin:/usr/local/sbin:/sbin')
    return found or pytest.skip(f'{name} is not installed')

def run(words, limit=240, **env):
    "Run a command in a process group of its own; after `limit` seconds it is ended, and the test fails."
    p = subprocess.Popen([str(w) for w in words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=os.environ | {'OMP_NUM_THREADS': '1'} | env)
    try: return p.communicate(timeout=limit)[0], p.returncode
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGTERM)
        time.sleep(2)
        try: os.killpg(p.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        raise AssertionError(f'{words[0]} ran for more than {limit} s; it said:\n{p.communicate()[0]}')

def check(said, code, how):
    if how == 'work':
        assert code == 0, said
        for r in range(2): assert f'{{"rank": {r}, "everyone": [[0, 2, 0], [1, 2, 1]]}}' in said, said
    else: assert code != 0 and 'the disk is full' in said, said

@pytest.fixture
def job(tmp_path):
    (tmp_path/'job.py').write_text(JOB)
    return tmp_path/'job.py'

@pytest.mark.parametrize('how', ['work', 'fail'])
def test_torchrun(job, how):
    check(*run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2, job, 'pytorch', how]), how)

@pytest.mark.parametrize('how', ['work', 'fail'])
def test_mpirun(job, how):
    root = dict(OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', OMPI_MCA_rmaps_base_oversubscribe='1')
    check(*run([program('mpirun'), '-n', 2, sys.executable, job, 'mpi', how], **root), how)

# ---- Slurm: a cluster of one machine, in a temporary folder

CONF = '''ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={d}/munge/socket
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP
'''

def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets: s.bind(('127.0.0.1', 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets: s.close()
    return ports

@pytest.fixture(scope='module')
def slurm():
    "SLURM_CONF of a cluster that is up; its three daemons are ended, by their ids, with the last test."
    import pwd
    munged, slurmctld, slurmd, sinfo, srun = map(program, ('munged', 'slurmctld', 'slurmd', 'sinfo', 'srun'))
    if (os.cpu_count() or 1) < 2: pytest.skip('Slurm places two tasks on two cores; there is one')
    d, started = Path(tempfile.mkdtemp(prefix='slurm', dir='/tmp')), []       # munge wants a path that all may pass, and a short one
    d.chmod(0o755)
    for name in 'munge', 'state', 'spool': (d/name).mkdir(mode=0o755)
    key = d/'munge'/'key'
    key.write_bytes(os.urandom(128)); key.chmod(0o400)
    ports, host = free_ports(2), socket.gethostname().split('.')[0]
    (d/'slurm.conf').write_text(CONF.format(d=d, host=host, ctld_port=ports[0], d_port=ports[1], user=pwd.getpwuid(os.getuid()).pw_name, cpus=os.cpu_count()))
    env = os.environ | {'SLURM_CONF': str(d/'slurm.conf')}
    def start(name, *words):
        with open(d/f'{name}.out', 'w') as out: started.append(subprocess.Popen([str(w) for w in words], stdout=out, stderr=out, env=env, start_new_session=True))
    try:
        m = d/'munge'
        start('munged', munged, '--foreground', f'--socket={m}/socket', f'--key-file={key}', f'--pid-file={m}/pid', f'--log-file={m}/log', f'--seed-file={m}/seed')
        for _ in range(100):
            if (m/'socket').exists(): break
            time.sleep(.1)
        start('slurmctld', slurmctld, '-D', '-c')
        start('slurmd', slurmd, '-D')
        for _ in range(120):
            seen = subprocess.run([sinfo, '-h', '-o', '%T'], env=env, capture_output=True, text=True, timeout=60).stdout.strip()
            if seen == 'idle' or any(p.poll() is not None for p in started): break
            time.sleep(.5)
        assert seen == 'idle', f'the cluster did not come up: {seen!r}\n' + '\n'.join(f'{f.name}: {f.read_text()[-1500:]}' for f in sorted(d.glob('*.out')))
        yield {'SLURM_CONF': env['SLURM_CONF']}
    finally:
        for p in reversed(started):
            p.terminate()
            try: p.wait(20)
            except subprocess.TimeoutExpired: p.kill(); p.wait()
        shutil.rmtree(d, ignore_errors=True)

@pytest.mark.parametrize('how', ['work', 'fail'])
def test_srun(slurm, job, how):
    check(*run([program('srun'), '--ntasks=2', '--kill-on-bad-exit=1', sys.executable, job, 'slurm', how], **slurm), how)

def test_a_batch_script_that_forgot_srun(slurm, job, tmp_path):
    "It has the job's variables, not those of a step, and must not wait for ranks that nobody starts."
    (tmp_path/'batch.sh').write_text(f'#!/bin/bash\n"{sys.executable}" "{job}" slurm work\n')
    said, code = run([program('sbatch'), '--ntasks=2', '--wait', f'--output={tmp_path}/out', tmp_path/'batch.sh'], **slurm)
    assert code != 0
    assert "launcher='slurm' needs the environment variable SLURM_STEP_NUM_TASKS: was this started with `srun" in (tmp_path/'out').read_text(), said

def test_two_machines(job):
    "What Slurm says to the ranks of two machines, the first of which is this one."
    port = free_ports(1)[0]
    def one(rank):
        return subprocess.Popen([sys.executable, str(job), 'slurm', 'work'], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {
            'SLURM_PROCID': str(rank), 'SLURM_STEP_NUM_TASKS': '2', 'SLURM_LOCALID': '0', 'SLURM_STEP_NODELIST': 'localhost,other[1-3]', 'SLURM_STEP_TASKS_PER_NODE': '1(x2)',
            'MASTER_PORT': str(port), 'OMP_NUM_THREADS': '1'})
    ranks = [one(r) for r in range(2)]
    try: said = [p.communicate(timeout=240)[0] for p in ranks]
    finally:
        for p in ranks: p.kill()
    for r, (p, text) in enumerate(zip(ranks, said)): assert p.returncode == 0 and f'{{"rank": {r}, "everyone": [[0, 2, 0], [1, 2, 0]]}}' in text, text
