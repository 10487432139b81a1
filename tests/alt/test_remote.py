"""Measuring through TVM's RPC: a tracker and two servers on loopback, one of them killed."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager
from unittest import mock

import numpy as np
import onnx
import psutil
import pytest
from onnx import helper
from small_models import model_of, random
from tvm.rpc.server import Server
from tvm.rpc.tracker import Tracker

import alt
from alt.compiler import fused
from alt.errors import AltError
from alt.messages import Limits, Timing
from alt.policies import JOINT
from alt.propagate import plan_layouts
from alt.remote import RemoteRunner
from alt.servers import Servers
from alt.session import LostError
from alt.tasks import tasks_of
from tuner.options import Options
from tuner.task import Candidate, Status

pytestmark = pytest.mark.llvm

KEY = "board"
TIMING = Timing(repeats=2, min_seconds=0.001)
PORTS = 400


def network() -> onnx.ModelProto:
    """A convolution and a matrix product."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "conv", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("GlobalAveragePool", ["b"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w1"], ["y"], "classifier"),
    ]
    weights = {"w0": random(24, 16, 3, 3), "w1": random(24, 10, seed=1)}
    return model_of(nodes, {"x": (1, (1, 16, 12, 12))}, {"y": (1, (1, 10))}, weights)


def first_task():
    made = fused(network(), threads=1)
    plan = plan_layouts(made.graph, made.kernels, made.machine)
    return next(
        iter(tasks_of(made.kernels, made.graph.constants, made.machine, plan, JOINT).values())
    )


def candidates_of(task, count: int) -> list[Candidate]:
    rng = np.random.default_rng(0)
    layouts = [task.layouts.sample(rng) for _ in range(count)]
    return [Candidate(layout, task.loops(layout).sample(rng)) for layout in layouts]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(probe.getsockname()[1], 65535 - PORTS)


def start_server(tracker: Tracker, key: str = KEY) -> Server:
    port = free_port()
    address = ("127.0.0.1", tracker.port)
    with mock.patch.dict(os.environ, TVM_NUM_THREADS="1"):
        return Server("127.0.0.1", port, port + PORTS, tracker_addr=address, key=key, silent=True)


def process_of(server: Server) -> psutil.Process:
    assert server.proc is not None
    assert server.proc._proc is not None
    return psutil.Process(server.proc._proc.pid)


def end(server: Server) -> None:
    """As if the power went: the server and the process of its session."""
    process = process_of(server)
    for each in [process, *process.children(recursive=True)]:
        each.kill()


def wait_until(what, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def tracker():
    port = free_port()
    made = Tracker("127.0.0.1", port, port + PORTS, silent=True)
    yield made
    made.terminate()


@pytest.fixture(scope="module")
def address(tracker):
    return f"127.0.0.1:{tracker.port}"


@pytest.fixture(scope="module")
def servers(address):
    return Servers.parse(address, KEY)


@pytest.fixture(scope="module")
def started(tracker, servers):
    made = [start_server(tracker), start_server(tracker)]
    wait_until(lambda: servers.counts().free == 2)
    yield made
    for server in made:
        server.terminate()


@pytest.fixture(scope="module")
def task():
    return first_task()


def runner_at(address: str, **options) -> RemoteRunner:
    return RemoteRunner(network(), rpc=address, key=KEY, threads=1, timing=TIMING, **options)


# --- what is refused at the start ---------------------------------------------------------------


@pytest.mark.parametrize("rpc", ["", "9190", "host", "host:port", ":9190", "host:99999"])
def test_an_address_that_is_none(rpc):
    with pytest.raises(AltError, match="give host:port"):
        Servers.parse(rpc, KEY)


def test_no_key():
    with pytest.raises(AltError, match="give the key"):
        Servers.parse("host:9190", "")


def test_no_tracker():
    with pytest.raises(AltError, match=r"no tracker at .*start one with python -m tvm.exec"):
        runner_at(f"127.0.0.1:{free_port()}")


def test_something_else_than_a_tracker():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def answer():
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"HTTP/1.1")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(AltError, match="is not TVM's RPC tracker"):
            Servers.parse(f"127.0.0.1:{port}", KEY).counts()
        thread.join()


def test_no_servers(address):
    wanted = rf"0 registered, 0 free, 0 waiting.*--tracker {address} --key nobody"
    with pytest.raises(AltError, match=wanted):
        RemoteRunner(network(), rpc=address, key="nobody")


def test_no_server_becomes_free(address):
    with pytest.raises(AltError, match=r"'nobody' became free within 0.2 s; tracker .* 0 free"):
        Servers.parse(address, "nobody").open(0.2, 5)


def test_fewer_servers_than_devices(address, started):
    with pytest.raises(AltError, match=r"3 servers of key 'board' are needed, .* has 2 registered"):
        runner_at(address, devices=3)


def test_a_server_with_fewer_threads(address, started):
    with pytest.raises(AltError, match=r"on 1 threads, 3 were asked for: .*TVM_NUM_THREADS=3"):
        RemoteRunner(network(), rpc=address, key=KEY, threads=3, devices=1)


# --- measuring ----------------------------------------------------------------------------------


def test_a_session_ends_in_time(servers, started):
    session = servers.open(20, 0.5)
    time.sleep(1)
    with pytest.raises(LostError, match=r"took more than 0.5 s") as caught, session.translated():
        session.use_threads(1)
    assert caught.value.timeout
    del session
    wait_until(lambda: servers.counts().free == 2)


def test_what_a_kernel_raises_is_not_a_lost_server(servers, started):
    session = servers.open(20, 20)
    with pytest.raises(ValueError, match="its own"), session.translated():
        raise ValueError("its own")
    session.use_threads(1)


def test_tune_and_lose_a_server(tmp_path, address, servers, started, task):
    """Both servers work at once; one is killed in a session; the other does the rest."""
    candidates = candidates_of(task, 4)
    with runner_at(address, limits=Limits(run_seconds=9), wait_seconds=4) as runner:
        found = runner.measure(task, candidates)
        assert all(m.ok and m.error is not None and m.error < 1e-4 for m in found)

        # Sessions of more than a second, so that the end comes while a kernel runs.
        runner.timing = Timing(repeats=3, min_seconds=0.3)
        with at_work(started) as both:
            found = runner.measure(task, candidates)
        assert both.is_set()
        lost = [m for m in found if not m.ok]
        assert [m.status for m in lost] == [Status.crash]
        assert f"127.0.0.1:{started[0].port} was lost" in lost[0].message
        assert servers.counts().registered == 1
        runner.timing = Timing(repeats=3, flush_bytes=1 << 20, hopeless=1e6)
        (flushed,) = runner.measure(task, candidates[:1])
        assert flushed.ok and len(flushed.seconds) == 3
        runner.timing = TIMING
        assert runner.check(task, candidates[0], seed=7).ok

        log = tmp_path / "log.jsonl"
        options = Options(batch=2)
        tuned = alt.tune(
            network(), trials=4, threads=1, log=log, options=options, rpc=address, key=KEY
        )
        assert set(tuned.seconds) == {"default", "loops", "joint"}
        assert all(0 < seconds < 0.1 for seconds in tuned.seconds.values())
        assert tuned.outcome.trials == 4
        assert '"network ' in log.read_text()
        assert '"cpu": ' not in log.read_text()  # which processors the servers have is not known

        end(started[1])
        with pytest.raises(AltError, match=r"no server of key 'board' .* 0 registered"):
            runner.measure(task, candidates)


@contextmanager
def at_work(servers: list[Server]):
    """Once all are at work at the same time, the first one is lost."""
    seen = threading.Event()

    def lose():
        wait_until(lambda: all(process_of(s).children() for s in servers))
        seen.set()
        time.sleep(0.4)
        end(servers[0])

    thread = threading.Thread(target=lose)
    thread.start()
    yield seen
    thread.join()
