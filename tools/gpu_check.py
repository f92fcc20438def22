"""What `make gpu-check` runs: serves MNIST once on the CPU and once on a GPU and compares the answers.

Exit status 0 when they agree to 1e-3 (a GPU sums in another order), or when there is no GPU to check, which it says; 1 when they
differ or when the server saw a GPU and did not place the model on it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import requests  # noqa: E402
from models.made import made_models  # noqa: E402
from support import Server  # noqa: E402

TOLERANCE = 1e-3


def gpus() -> list[str]:
    """The names of the NVIDIA GPUs of this machine."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return []
    return (
        [line.strip() for line in done.stdout.splitlines() if line.startswith("GPU ")]
        if done.returncode == 0
        else []
    )


def gpu_memory(pid: int) -> bool:
    """Whether the process holds memory of a GPU."""
    query = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)
    return str(pid) in done.stdout.split()


def answers(devices: str | None, body: dict[str, object]) -> tuple[np.ndarray, bool]:
    """(predictions, whether a GPU was used) of a server that sees `devices` (None: all)."""
    saved = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    try:
        with tempfile.TemporaryDirectory() as directory:
            flags = ["--model_name=mnist", f"--model_base_path={made_models() / 'mnist'}"]
            server = Server(Path(directory), flags, None).wait_ready(180)
            answer = requests.post(f"{server.url}/v1/models/mnist:predict", json=body, timeout=180)
            answer.raise_for_status()
            used = bool(gpus()) and gpu_memory(server.pid)
            server.stop()
            return np.array(answer.json()["predictions"]), used
    finally:
        if devices is not None:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if saved is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = saved


def main() -> int:
    found = gpus()
    if not found:
        print("gpu-check: no GPU here (nvidia-smi lists none); nothing was checked")
        return 0
    images = np.load(made_models() / "expected" / "mnist.npz")["in_image"]
    body = {"instances": images.tolist()}
    cpu, _ = answers("-1", body)
    gpu, used = answers(None, body)
    worst = float(np.abs(cpu - gpu).max())
    print(
        f"gpu-check: {found[0]}; GPU used: {'yes' if used else 'no'}; largest difference from the CPU {worst:.2g}"
    )
    return 0 if used and worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
