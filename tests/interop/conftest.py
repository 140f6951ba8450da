"""A real quantd on a model root with the two small real models, and ways to talk to it."""
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tritonclient.grpc as triton

BIN = Path(os.environ["QUANTD_BIN"])
MODELS = Path(os.environ["QUANTD_MODELS"])
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DECODER, ENCODER = "smollm2-135m.gguf", "all-minilm-l6-v2"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Quantd:
    def __init__(self, root: Path):
        self.root, self.address = root, f"127.0.0.1:{free_port()}"
        self.log = open(root.parent / "quantd.log", "w")
        self.process = subprocess.Popen(
            [BIN / "quantd", "--model-root", root, "--listen", self.address, "--metrics-listen", f"127.0.0.1:{free_port()}"],
            stdout=self.log, stderr=self.log)
        self.client = triton.InferenceServerClient(self.address)
        for _ in range(100):
            try:
                if self.client.is_server_ready():
                    return
            except triton.InferenceServerException:
                time.sleep(0.1)
        raise RuntimeError(f"quantd did not start, see {self.log.name}")

    def ctl(self, *arguments):
        done = subprocess.run([BIN / "quantctl", "--server", self.address, "--output", "json", *map(str, arguments)],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout else {}

    def infer(self, model, ids, output, mask=None):
        tensors = [self._tensor("input_ids", ids)]
        if mask is not None:
            tensors.append(self._tensor("attention_mask", mask))
        return self.client.infer(model, tensors).as_numpy(output)

    @staticmethod
    def _tensor(name, values):
        tensor = triton.InferInput(name, list(values.shape), "INT64")
        tensor.set_data_from_numpy(np.ascontiguousarray(values, dtype=np.int64))
        return tensor

    def stop(self):
        self.process.terminate()
        assert self.process.wait(40) == 0


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("interop") / "root"
    root.mkdir()
    shutil.copy(MODELS / DECODER, root / DECODER)
    shutil.copytree(MODELS / ENCODER, root / ENCODER)
    quantd = Quantd(root)
    yield quantd
    quantd.stop()


@pytest.fixture(scope="session")
def truncated(server):
    """truncated(n): name of the decoder's first n layers as a plain bf16 checkpoint."""
    made = {}

    def make(layers):
        if not made:
            server.ctl("dequantize", DECODER, "--output-name", "smollm2-plain")
        if layers not in made:
            plain, folder = server.root / "smollm2-plain", server.root / f"smollm2-{layers}-layers"
            shutil.copytree(plain, folder)
            kept = tuple(f".layers.{layer}." for layer in range(layers))
            tensors = safetensors.torch.load_file(plain / "model.safetensors")
            safetensors.torch.save_file({name: tensor for name, tensor in tensors.items()
                                         if ".layers." not in name or any(part in name for part in kept)},
                                        folder / "model.safetensors", metadata={"format": "pt"})
            config = json.loads((plain / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
            made[layers] = folder.name
        return made[layers]

    return make


def relative_error(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
