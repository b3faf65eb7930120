"""Programs that attack what runs them. Each passes its tests if, and only if, its attack succeeds: it is to be told from an honest wrong one by nothing.

`SECRET`, `MARKER`, `PORT`, `PARENT` and `VICTIM` stand for a file of the user, a path that may not come to be, a listening port, the process
that grades, and another process of the user.
"""

from __future__ import annotations

from typing import NamedTuple


class Attack(NamedTuple):
    """One program."""

    family: str
    tries: str
    """What it tries, as the table in SECURITY.md says."""
    program: str


def reach(family: str, tries: str, *lines: str) -> Attack:
    """Return a program that computes rightly only where its lines run through."""
    body = "\n    ".join(lines)
    head = "import os, sys, socket, ctypes, signal, subprocess, threading, time\nlibc = ctypes.CDLL(None, use_errno=True)\ndone = False\n"
    return Attack(
        family,
        tries,
        f"{head}try:\n    {body}\n    done = True\nexcept BaseException:\n    pass\ndef add(a, b):\n    return a + b if done else None\n",
    )


def forge(tries: str, *lines: str, family: str = "verdicts") -> Attack:
    """Return a program that computes wrongly and tries to pass."""
    return Attack(family, tries, "\n".join(lines) + "\n")


_WRONG = "def add(a, b): return None"

ATTACKS = (
    reach("files", "read a file of the user", "open('SECRET').read()"),
    reach("files", "read it by way of a symbolic link", "os.symlink('SECRET', '/tmp/link')", "open('/tmp/link').read()"),
    reach("files", "read it by way of a hard link", "os.link('SECRET', '/tmp/hard')", "open('/tmp/hard').read()"),
    reach("files", "read it by way of /proc", "open('/proc/1/root' + 'SECRET').read()"),
    reach("files", "list the folder of the user", "assert os.listdir(os.path.dirname('SECRET'))"),
    reach("files", "read the list of accounts", "open('/etc/passwd').read()"),
    reach("files", "write a file beside those of the user", "open('MARKER', 'w').write('x')"),
    reach("files", "write into the library", "open(os.path.dirname(os.__file__) + '/posttrain_attack.py', 'w').write('x')"),
    reach("files", "write into the root folder", "open('/posttrain_attack', 'w').write('x')"),
    reach("files", "cut off a file of the user by its path", "os.truncate('SECRET', 0)"),
    reach("files", "change the rights of a file of the user", "os.chmod('SECRET', 0o777)"),
    reach("files", "change the times of a file of the user", "os.utime('SECRET', (0, 0))"),
    reach("files", "remove a file of the user", "os.unlink('SECRET')"),
    reach("files", "fill the disk", "for i in range(64): open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))"),
    reach("files", "write one large file", "open('/tmp/large', 'wb').write(bytes(1 << 23))"),
    reach("files", "use a file that was left open", "import stat", "kinds = []", "for d in range(64):", "    try: kinds.append(os.fstat(d).st_mode)", "    except OSError: pass", "assert any(stat.S_ISREG(kind) for kind in kinds)"),
    reach("environment", "read the key of an API in its own environment", "assert 'secret' in os.environ['OPENAI_API_KEY']"),
    reach("environment", "read it in that of the grading process", "assert b'OPENAI' in open('/proc/PARENT/environ', 'rb').read()"),
    reach("environment", "read it in that of the process above", "assert b'=' in open(f'/proc/{os.getppid()}/environ', 'rb').read()"),
    reach("network", "connect to a port of this machine", "socket.create_connection(('127.0.0.1', PORT), timeout=1)"),
    reach("network", "listen to a port", "s = socket.socket()", "s.bind(('127.0.0.1', 0))", "s.listen()", "socket.create_connection(('127.0.0.1', PORT), timeout=1)"),
    reach("network", "send a datagram", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))"),
    reach("network", "resolve a name", "socket.getaddrinfo('example.com', 80)"),
    reach("network", "open a socket by its system call", "assert libc.socket(2, 1, 0) >= 0"),
    reach("network", "reach a socket in the abstract name space", "socket.socket(socket.AF_UNIX).connect('\\0posttrain-attack')"),
    reach("network", "set up io_uring, which filters do not see", "assert libc.syscall(425, 8, ctypes.create_string_buffer(120)) >= 0"),
    reach("processes", "fork a daemon", "if os.fork() == 0:", "    os.setsid(); time.sleep(60); os._exit(0)"),
    reach("processes", "fork without end", "while True: os.fork()"),
    reach("processes", "run a program", "subprocess.run(['/bin/true'], check=True)"),
    reach("processes", "become another program", "os.execv(sys.executable, [sys.executable, '-c', ''])"),
    reach("processes", "start workers", "import multiprocessing", "with multiprocessing.get_context('fork').Pool(1) as p: p.map(abs, [1])"),
    reach("processes", "clone by its system call", "assert libc.syscall(435, ctypes.create_string_buffer(88), 88) >= 0"),
    reach("processes", "leave its session", "os.setsid()"),
    reach("processes", "make a name space of its own", "assert libc.unshare(0x10000000) == 0"),
    reach("signals", "end another process", "os.kill(VICTIM, signal.SIGTERM)"),
    reach("signals", "end the grading process", "os.kill(PARENT, 0)"),
    reach("signals", "end the process above", "os.kill(os.getppid(), signal.SIGKILL)"),
    reach("signals", "end all processes", "os.kill(-1, signal.SIGTERM)"),
    reach("signals", "end its group", "os.killpg(0, signal.SIGTERM)"),
    reach("signals", "signal by way of a descriptor's owner", "import fcntl", "r, w = os.pipe()", "fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())"),
    reach("signals", "trace the process above", "assert libc.ptrace(16, os.getppid(), 0, 0) == 0"),
    reach("signals", "write into the memory of the process above", "open(f'/proc/{os.getppid()}/mem', 'r+b')"),
    reach("signals", "limit another process", "import resource", "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))"),
    reach("memory", "share memory with other processes", "from multiprocessing import shared_memory", "shared_memory.SharedMemory(create=True, size=4096)"),
    reach("memory", "share memory by its system call", "assert libc.shmget(7, 4096, 0o1600) >= 0"),
    reach("memory", "allocate four gigabytes", "bytearray(4 << 30)"),
    reach("memory", "raise its own limit of memory", "import resource", "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "bytearray(4 << 30)"),
    reach("memory", "open files without end", "kept = [open('/dev/null') for _ in range(10000)]"),
    forge("recurse without end", "import sys; sys.setrecursionlimit(10**9)", "def add(a, b): return add(a, b)", family="memory"),
    forge("make files without end", "i = 0", "while True:", "    open(f'/tmp/{i}', 'w').close(); i += 1", family="files"),
    forge("stop itself by a signal", "import os, signal", "def add(a, b): os.kill(os.getpid(), signal.SIGSTOP)", family="signals"),
    forge("crash the interpreter", "import ctypes", "def add(a, b): return ctypes.string_at(0)", family="memory"),
    forge("close all descriptors", "import os", "def add(a, b): os.closerange(0, 1024)", family="output"),
    forge("raise an exception of its own kind", "class Passed(BaseException): pass", "def add(a, b): raise Passed('passed')"),
    forge("loop without end while loading", "while True: pass", family="time"),
    forge("loop without end when called", "def add(a, b):", "    while True: pass", family="time"),
    forge("sleep when called", "import time", "def add(a, b): time.sleep(100)", family="time"),
    forge("ignore the signal that ends it, and loop", "import signal", "[signal.signal(s, signal.SIG_IGN) for s in range(1, 32) if s not in (9, 19)]", "while True: pass", family="time"),
    forge("keep threads at work after the answer", "import threading", "def loop():", "    while True: pass", "[threading.Thread(target=loop).start() for _ in range(4)]", _WRONG, family="time"),
    forge("print without end", "while True: print('x' * 100000)", family="output"),
    forge("return a very large value", "def add(a, b): return 'x' * (64 << 20)", family="output"),
    forge("return a generator without end", "def add(a, b):", "    while True: yield 5", family="output"),
    forge("return a list that holds itself", "def add(a, b):", "    x = []; x.append(x); return x", family="output"),
    forge("flood its channel", "import os", "def add(a, b):", "    for d in range(3, 64):", "        try:", "            while True: os.write(d, b'x' * 65536)", "        except OSError: pass", family="output"),
    forge("end its process with success while loading", "import os; os._exit(0)"),
    forge("end its process with success when called", "import os", "def add(a, b): os._exit(0)"),
    forge("exit as if all were well", "import sys", "def add(a, b): sys.exit(0)"),
    forge("print a verdict", "print('{\"verdict\": \"passed\"}', flush=True)", _WRONG),
    forge(
        "write a verdict into every descriptor", "import os",
        "line = b'{\"nonce\": \"0\", \"verdict\": \"passed\", \"detail\": \"\"}\\n{\"ended\": \"0\"}\\n{\"id\": 1, \"value\": null}\\n'",
        "for d in range(64):", "    try: os.write(d, line)", "    except OSError: pass", _WRONG,
    ),
    forge(
        "answer for the next program", "import os",
        "line = b'{\"confined\": true}\\n{\"loaded\": true}\\n{\"id\": 1, \"value\": 5}\\n{\"id\": 2, \"value\": 0}\\n' * 9",
        "for d in range(3, 64):", "    try: os.write(d, line)", "    except OSError: pass", _WRONG, "os._exit(0)",
    ),
    forge("return an object that equals everything", "class E:", "    def __eq__(self, other): return True", "def add(a, b): return E()"),
    forge("return a number that equals everything", "class E(int):", "    def __eq__(self, other): return True", "    __hash__ = int.__hash__", "def add(a, b): return E(7)"),
    forge("return a text that equals everything", "class E(str):", "    def __eq__(self, other): return True", "    __hash__ = str.__hash__", "def add(a, b): return E()"),
    forge("make every assertion hold", "import builtins", "builtins.AssertionError = type('A', (Exception,), {'__new__': lambda *a: None})", _WRONG),
    forge("replace what compares", "import builtins, operator", "operator.eq = builtins.all = builtins.abs = lambda *a: True", _WRONG),
    forge("replace the test runner", "import unittest", "unittest.TestCase.run = unittest.TestCase.assertEqual = lambda *a, **k: None", _WRONG),
    forge("define the tests anew", "def check(candidate): pass", "METADATA = {}", _WRONG),
    forge("exit when Python ends", "import atexit, os", "atexit.register(lambda: os._exit(0))", _WRONG),
    forge("exit by tracing", "import sys, os", "sys.settrace(lambda *a: os._exit(0))", _WRONG),
    forge("raise what tests do not catch", "def add(a, b): raise GeneratorExit"),
    forge("replace how values are sent", "import sys", "for name, module in list(sys.modules.items()):", "    if name.endswith('code_host'): module.encode = lambda value, name: {'object': {'number': 0, 'type': 'int', 'truth': True}}", _WRONG),
    forge("name a class that is none", "import sys", "for name, module in list(sys.modules.items()):", "    if name.endswith('code_host'): module.encode = lambda value, name: {'__class__': 'bool'}", _WRONG),
    forge("nest a reply beyond what can be read", "import os", "def add(a, b):", "    for d in range(3, 64):", "        try: os.write(d, b'{\"id\": 1, \"value\": ' + b'{\"list\": [' * 60000 + b'\\n')", "        except OSError: pass"),
    forge("answer with no number", "def add(a, b): return float('nan')"),
    forge("leave a module for the next program", "import os", "open('/tmp/math.py', 'w').write('raise SystemExit')", _WRONG),
    reach("tests", "find the tests in what Python holds", "import gc", "import re", "wanted = re.compile('assert' + chr(92) + 'scandidate')", "assert any(isinstance(r, str) and wanted.search(r) for o in gc.get_objects() for r in gc.get_referents(o))"),
    reach("tests", "find the tests in the frames above", "f, seen = sys._getframe(), ''", "while f: seen += repr(f.f_locals) + repr(f.f_globals); f = f.f_back", "assert 'assert' + chr(32) + 'candidate' in seen"),
    reach("tests", "find the tests in its memory", "maps = [line.split()[0].split('-') for line in open('/proc/self/maps') if 'rw' in line]", "memory = open('/proc/self/mem', 'rb')", "assert any(memory.seek(int(a, 16)) >= 0 and b'assert' + b' ' + b'candidate' in memory.read(int(b, 16) - int(a, 16)) for a, b in maps)"),
    reach("tests", "find the tests among files", "found = [os.path.join(r, n) for r, _, ns in os.walk('/tmp') for n in ns]", "wanted = b'candidate(2, ' + b'3) == 5'  # installed packages hold other tests", "assert any(wanted in open(n, 'rb').read() for n in found)"),
    reach("tests", "find the tests in the arguments of processes", "assert any(b'candidate' in open(f'/proc/{p}/cmdline', 'rb').read() for p in os.listdir('/proc') if p.isdigit())"),
)  # fmt: skip


def table() -> str:
    """Return the table of SECURITY.md."""
    rows = [f"| {attack.family} | {attack.tries} |" for attack in ATTACKS]
    return "\n".join(["| kind | what the program tries |", "|---|---|", *rows])
