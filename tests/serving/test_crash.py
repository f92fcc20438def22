"""What ends a process of TensorFlow: the log says whose call it was, and what can be refused beforehand is.

oneDNN's convolutions abort the process when an image comes with another rank than four (the reference server dies of it, too).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from support import Server, wait_until

from tfs.client import Client
from tfs.errors import InvalidArgument, Unavailable

CNN = Path(__file__).parents[1] / "conformance" / "models" / "cnn"


@pytest.mark.parametrize("flags", [(), ("--enable_batching",)], ids=["alone", "batched"])
def test_a_convolution_net_survives_images_of_another_rank(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")  # training scripts turn it off
    server = start_server("--model_name=cnn", f"--model_base_path={CNN}", *flags).wait_ready()
    with Client(server.target) as client:
        for shape in [(), (0,), (784,), (1, 784), (1, 28, 28), (1, 28, 28, 1, 1)]:
            with pytest.raises(InvalidArgument) as caught:
                client.predict("cnn", {"image": np.zeros(shape, np.float32)}, timeout=20)
            assert caught.value.message == (
                f'input "image" must have rank 4 as the signature says, has rank {len(shape)}'
            )
        reply = requests.post(f"{server.url}/v1/models/cnn:predict", json={"instances": [1.0]}, timeout=20)
        assert reply.status_code == 400
        assert "must have rank 4" in reply.json()["error"]
        found = client.predict("cnn", {"image": np.zeros((2, 28, 28, 1), np.float32)}, timeout=20)
        assert {len(output) for output in found.values()} == {2}
    server.stop()


def test_only_ranks_that_may_reach_a_convolution_are_refused(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, models: Path
) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    server = start_server("--model_name=m", f"--model_base_path={models}/convolutions").wait_ready()
    good = {"flat": (1, 784), "image": (1, 28, 28), "offset": ()}
    with Client(server.target) as client:

        def answered(**other: tuple[int, ...]) -> int:
            inputs = {name: np.zeros(shape, np.float32) for name, shape in {**good, **other}.items()}
            return len(client.predict("m", inputs, timeout=20)["y"])

        for shape in [(784,), (28, 28), (1, 28, 28), (1, 28, 28, 1), (1, 1, 28, 28, 1)]:
            assert answered(flat=shape) == 1
        assert answered(offset=(1,)) == answered(offset=(1, 1)) == 1
        with pytest.raises(InvalidArgument, match="Input to reshape is a tensor with 1 values"):
            answered(flat=())
        for shape in [(), (784,), (28, 28), (1, 28, 28, 1)]:
            with pytest.raises(InvalidArgument, match='input "image" must have rank 3'):
                answered(image=shape)
        assert answered() == 1
    server.stop()


def test_the_log_names_what_was_running(start_server: Callable[..., Server], models: Path) -> None:
    server = start_server("--model_name=stuck", f"--model_base_path={models}/stuck").wait_ready()

    def running() -> bool:
        page = requests.get(f"{server.url}/metrics", timeout=10).text
        return "tfs_running_calls 1" in page

    with Client(server.target, retries=0) as client, ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.predict, "stuck", {"x": [1.0]}, timeout=60)
        wait_until(running, 20, "the call to run")
        server.process.send_signal(signal.SIGABRT)  # what a failed CHECK raises
        with pytest.raises(Unavailable):
            call.result(20)
    assert server.wait_exit() == -6
    assert "tfs: fatal signal 6 while running model stuck version 1 signature serving_default" in server.log()
