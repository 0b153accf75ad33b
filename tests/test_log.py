"""Lines of several processes that write to one pipe."""

import subprocess
import sys

import msgspec

WRITES = """
import sys
from ingress import log
for number in range(20):
    for line in range(1000):
        log._pending.append(b'{"process":%s,"line":"%s"}' % (sys.argv[1].encode(), b"x" * 300))
    log.flush()
"""


def test_lines_of_several_processes_are_not_mixed() -> None:
    """Though a pipe holds less than each of them has to write, and takes turns."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITES, str(number)], stdout=reader.stdin) for number in range(3)
        ]
        assert reader.stdin
        assert reader.stdout
        reader.stdin.close()
        lines = [msgspec.json.decode(line) for line in reader.stdout]
        assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(lines) == 3 * 20 * 1000
    assert {line["process"] for line in lines} == {0, 1, 2}
