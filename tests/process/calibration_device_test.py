"""Calibration on an OpenCL device, through a real server: the same files as on the CPU, whatever happens in between."""
import os
import unittest

import checkpoints
from quantd_process import FAILED, ProcessTest, main, until

LAYERS = 8
RECIPES = {
    "gptq": ["--method", "gptq", "--set", "group_size=32"],
    "awq": ["--method", "awq", "--set", "group_size=32"],
    "spqr": ["--method", "spqr"],
    "autoround": ["--method", "autoround", "--set", "group_size=32", "--set", "iters=3", "--set", "batch_size=2"],
    "aqlm": ["--method", "aqlm", "--set", "nbits_per_codebook=4", "--set", "max_epochs=2", "--set", "finetune_max_epochs=2"],
}
SMALL = ["--nsamples", 6, "--seqlen", 48]


class CalibrationDeviceTest(ProcessTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.decoder(cls.root / "decoder")
        checkpoints.deep_decoder(cls.root / "deep", LAYERS)
        cls.text = cls.home / "text.txt"
        cls.text.write_text("".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs, once more. " for i in range(800)))

    def opencl_server(self):
        server = self.start()
        if "opencl:0" not in [device["id"] for device in server.must("status")["devices"]]:
            self.assertFalse(os.environ.get("QUANTD_REQUIRE_OPENCL"), "no OpenCL device")
            raise unittest.SkipTest("no OpenCL device")
        return server

    def quantize(self, server, model, recipe, output, *more):
        return server.must("quantize", model, *RECIPES[recipe], *SMALL, "--calibration", self.text, "--output-name", output, *more)

    def test_every_method_writes_the_same_files(self):
        server = self.opencl_server()
        for name in RECIPES:
            with self.subTest(name):
                cpu = self.quantize(server, "decoder", name, f"{name}-cpu", "--device", "cpu")
                opencl = self.quantize(server, "decoder", name, f"{name}-opencl", "--device", "opencl")
                self.assertEqual((cpu.pop("calibration_device"), opencl.pop("calibration_device")), ("cpu", "opencl:0"))
                self.assert_same_report(opencl, cpu)
                self.assert_same_files(self.root / f"{name}-opencl", self.root / f"{name}-cpu")

    def test_the_device_is_where_the_model_is_loaded(self):
        server = self.opencl_server()
        self.assertEqual(self.quantize(server, "decoder", "gptq", "unloaded")["calibration_device"], "cpu")
        server.must("load", "decoder", "--device", "opencl")
        self.assertEqual(self.quantize(server, "decoder", "gptq", "loaded")["calibration_device"], "opencl:0")
        self.assertEqual(self.quantize(server, "decoder", "gptq", "asked", "--device", "cpu")["calibration_device"], "cpu")
        server.must("unload", "decoder")
        self.assertEqual(self.quantize(server, "decoder", "gptq", "again")["calibration_device"], "cpu")
        for name in ("loaded", "asked", "again"):
            self.assert_same_files(self.root / name, self.root / "unloaded")

    def begin(self, server, output, *more):
        """Starts a job and waits until it works on its third block."""
        name = server.must("quantize", "deep", *RECIPES["gptq"], "--nsamples", 48, "--seqlen", 64, "--calibration", self.text,
                           "--output-name", output, *more, "--detach")["name"]
        until(lambda: int(server.operation(name)["metadata"]["progress"]["block"]) >= 3, "the third block", server.process)
        return name

    def test_a_killed_job_goes_on_on_another_device(self):
        server = self.opencl_server()
        self.begin(server, "killed", "--device", "opencl")
        server.kill()
        server = self.start()
        gptq = ["quantize", "deep", *RECIPES["gptq"], "--nsamples", 48, "--seqlen", 64, "--calibration", self.text]
        report = server.must(*gptq, "--output-name", "killed", "--device", "cpu", "--resume")
        self.assertEqual(report["calibration_device"], "cpu")
        self.assertNotIn("began anew", " ".join(report.get("warnings", [])))
        server.must(*gptq, "--output-name", "whole", "--device", "opencl")
        self.assert_same_files(self.root / "killed", self.root / "whole")

    def test_cancel(self):
        server = self.opencl_server()
        name = self.begin(server, "cancelled", "--device", "opencl")
        server.must("operations", "cancel", name)
        until(lambda: server.operation(name)["done"], "the end", server.process)
        self.assertEqual(server.operation(name)["metadata"]["state"], "CANCELLED")
        self.assertEqual([p for p in self.entries() if "cancelled" in p], [])

    def test_devices_that_are_not_there(self):
        server = self.start()
        gptq = ["quantize", "decoder", *RECIPES["gptq"], *SMALL, "--calibration", self.text, "--output-name", "refused"]
        for device, status in [("gpu", "INVALID_ARGUMENT"), ("opencl:x", "INVALID_ARGUMENT"),
                               ("opencl:1000", "FAILED_PRECONDITION")]:
            with self.subTest(device):
                loading = server.ctl("load", "decoder", "--device", device)
                answer = server.ctl(*gptq, "--device", device)
                self.assertEqual((answer.code, answer.status), (FAILED, status), answer.err)
                self.assertEqual(answer.err, loading.err)
        answer = server.ctl("quantize", "decoder", "--method", "fp8", "--output-name", "refused", "--device", "cpu")
        self.assertEqual((answer.code, answer.status), (FAILED, "INVALID_ARGUMENT"), answer.err)
        self.assertIn("device", answer.err)
        self.assertEqual(server.must("operations", "list").get("operations", []), [])
        self.assertFalse((self.root / "refused").exists())
        self.assertIn(self.quantize(server, "decoder", "gptq", "auto", "--device", "auto")["calibration_device"],
                      ["cpu"] + [device["id"] for device in server.must("status")["devices"]])


if __name__ == "__main__":
    main()
