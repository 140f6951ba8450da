"""Devices, exactness, draining, credentials and confinement of a running server."""
import json
import os
import socket
import subprocess
import time
import unittest

import checkpoints
from quantd_process import BIN, DONE, FAILED, NOT_FOUND, UNREACHABLE, Answer, ProcessTest, main, until

PROMPT = "hello there"
GREEDY = ["--max-tokens", "16", "--ignore-eos"]
MODELS = ("decoder", "llama", "mistral", "qwen2", "qwen3", "phi3")


class AnswersTest(ProcessTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.decoder(cls.root / "decoder")
        for name in MODELS[1:]:
            checkpoints.random_decoder(cls.root / name, name)
        cls.text = cls.home / "text.txt"
        cls.text.write_text("The miller knew the river better than the road. " * 8)
        cls.server = cls.class_server()

    def tokens(self, name, *flags):
        self.server.must("load", name, *flags)
        try:
            return self.server.must("generate", name, PROMPT, *GREEDY)["token_ids"]
        finally:
            self.server.must("unload", name)

    def test_opencl_gives_the_text_of_the_cpu(self):
        devices = [d["id"] for d in self.server.must("status")["devices"]]
        if "opencl:0" not in devices:
            self.assertFalse(os.environ.get("QUANTD_REQUIRE_OPENCL"), "no OpenCL device")
            raise unittest.SkipTest("no OpenCL device")
        for name in MODELS:
            with self.subTest(name):
                # Exact on both: activations rounded to int8 would let near ties fall either way.
                cpu = self.tokens(name, "--device", "cpu", "--compute", "exact")
                opencl = self.tokens(name, "--device", "opencl", "--compute", "exact")
                self.assertEqual((len(cpu), cpu), (16, opencl))

    def test_exact_computes_the_dequantized_model(self):
        """A quantized model, computed exactly, answers as the float32 checkpoint that it dequantizes to."""
        for name in MODELS:
            for method, *flags in (("bitsandbytes", "--set", "bnb_4bit_quant_type=nf4"), ("gguf", "--set", "type=Q4_0"),
                                   ("compressed-tensors", "--bits", "8", "--set", "strategy=channel")):
                with self.subTest(f"{name} {method}"):
                    quantized = f"{name}-{method}" + (".gguf" if method == "gguf" else "")
                    plain = f"{name}-{method}-plain"
                    self.server.must("quantize", name, "--method", method, *flags, "--output-name", quantized)
                    self.server.must("dequantize", quantized, "--output-name", plain, "--dtype", "f32")
                    self.server.must("load", quantized, "--compute", "exact")
                    self.server.must("load", plain, "--compute", "exact")
                    result = self.server.must("evaluate", quantized, "--reference", plain, "--text", self.text, "--context-length", 64)
                    # float32 sums in another order.
                    self.assertLess(abs(result["mean_kl_divergence"]), 1e-6)
                    self.assertEqual(result["top1_agreement"], 1)
                    self.server.must("unload", quantized)
                    self.server.must("unload", plain)

    def test_fast_stays_close_to_exact(self):
        self.server.must("quantize", "decoder", "--method", "gguf", "--bits", "4", "--output-name", "fast.gguf")
        results = []
        for compute in ("exact", "fast"):
            self.server.must("load", "fast.gguf", "--compute", compute)
            results.append(self.server.must("evaluate", "fast.gguf", "--text", self.text, "--context-length", 64)["perplexity"])
            self.server.must("unload", "fast.gguf")
        # int8 activations cost far less than the weights' own bits, but they are not free: both paths ran.
        self.assertAlmostEqual(results[1] / results[0], 1, delta=0.05)
        self.assertNotEqual(results[0], results[1])


class DrainTest(ProcessTest):
    def setUp(self):
        if not (self.root / "decoder").exists():
            checkpoints.decoder(self.root / "decoder")

    def make_deep_decoder(self):
        if not (self.root / "deep").exists():
            checkpoints.deep_decoder(self.root / "deep", 96)

    def test_streams_finish_and_new_calls_are_refused(self):
        # Deep enough that the first stream still runs when the second has started.
        self.make_deep_decoder()
        server = self.start("--drain-grace", 100)
        server.must("load", "deep")
        streams = [server.start_ctl("generate", "deep", prompt, "--max-tokens", 400, "--ignore-eos")
                   for prompt in (PROMPT, "the river")]
        until(lambda: server.must("status")["running_sequences"] == 2, "two streams", server.process)
        server.terminate()
        refused = until(lambda: (answer := server.ctl("status")).code and answer, "the refusal")
        self.assertEqual((refused.code, refused.status), (UNREACHABLE, "UNAVAILABLE"), refused.err)
        for stream in streams:
            out, err = stream.communicate()
            self.assertEqual(stream.returncode, DONE, err)
            self.assertEqual(len(json.loads(out)["token_ids"]), 400)
        self.assertEqual(server.wait(), 0)

    def test_a_load_is_given_up_or_finished(self):
        server = self.start()
        load = server.start_ctl("load", "decoder")
        until(lambda: server.must("models")["models"][0]["state"] != "UNLOADED", "the load", server.process)
        server.terminate()
        out, err = load.communicate()
        self.assertIn(load.returncode, (DONE, UNREACHABLE), err)
        self.assertEqual(server.wait(), 0)
        self.assertEqual([n for n in self.entries() if n.startswith(".")], [])

    def test_the_drain_ends_at_its_limit(self):
        server = self.start("--drain-grace", "0.5", "--max-sequences", 1)
        # Deep enough that the stream is seen, and that the limit ends it.
        self.make_deep_decoder()
        server.must("load", "deep", "--max-sequences", 1)
        stream = server.start_ctl("generate", "deep", PROMPT, "--max-tokens", 450, "--ignore-eos")
        until(lambda: server.must("status")["running_sequences"], "the stream", server.process)
        began = time.monotonic()
        server.terminate()
        self.assertEqual(server.wait(), 0)
        self.assertLess(time.monotonic() - began, 25)  # Kubernetes kills at 30
        stream.communicate()
        self.assertIn(stream.returncode, (DONE, UNREACHABLE))


class CredentialsTest(ProcessTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.decoder(cls.root / "decoder")

    def openssl(self, *arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=self.home)

    def authority(self, name):
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2",
                     "-subj", f"/CN={name}")

    def certificate(self, name, authority, usage):
        (self.home / f"{name}.ext").write_text(f"subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={usage}\n")
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial",
                     "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext")

    def ctl(self, server, *flags):
        return Answer(subprocess.run([BIN / "quantctl", "--server", server.address, *map(str, flags), "status"], capture_output=True,
                                     text=True, timeout=60, stdin=subprocess.DEVNULL))

    def test_tls_and_client_certificates(self):
        for name in ("ca", "stranger-ca"):
            self.authority(name)
        self.certificate("server", "ca", "serverAuth")
        self.certificate("client", "ca", "clientAuth")
        self.certificate("stranger", "stranger-ca", "clientAuth")
        pem = lambda name: self.home / f"{name}.pem"
        key = lambda name: self.home / f"{name}.key"
        tls = self.start("--tls-cert", pem("server"), "--tls-key", key("server"), listen="127.0.0.1:0")
        self.assertEqual(self.ctl(tls, "--tls-ca", pem("ca")).code, DONE)
        self.assertEqual(self.ctl(tls, "--tls-ca", pem("stranger-ca")).code, UNREACHABLE)
        self.assertEqual(self.ctl(tls).code, UNREACHABLE)
        self.assertEqual(tls.stop(), 0)
        mutual = self.start("--tls-cert", pem("server"), "--tls-key", key("server"), "--tls-client-ca", pem("ca"), listen="127.0.0.1:0")
        good = ["--tls-ca", pem("ca"), "--tls-cert", pem("client"), "--tls-key", key("client")]
        self.assertEqual(self.ctl(mutual, *good).code, DONE)
        self.assertEqual(self.ctl(mutual, "--tls-ca", pem("ca")).code, UNREACHABLE)
        self.assertEqual(self.ctl(mutual, "--tls-ca", pem("ca"), "--tls-cert", pem("stranger"), "--tls-key", key("stranger")).code,
                         UNREACHABLE)
        self.assertEqual(self.ctl(mutual, *good).code, DONE)
        half = self.ctl(mutual, "--tls-ca", pem("ca"), "--tls-cert", pem("client"))
        self.assertEqual((half.code, half.status), (FAILED, "INVALID_ARGUMENT"))
        self.assertEqual(self.ctl(mutual, "--tls-ca", self.home / "absent.pem").code, NOT_FOUND)

    def test_tokens(self):
        tokens = self.home / "tokens"
        tokens.write_text("admin-token-canary admin\nread-token-canary read\ninfer-token-canary infer\n")
        server = self.start("--auth-token-file", tokens)
        files = {}
        for name in ("admin", "infer", "read", "wrong"):
            files[name] = self.home / f"{name}.token"
            files[name].write_text(f"{name}-token-canary\n")

        def ctl(token, *arguments):
            flags = ["--token-file", files[token]] if token else []
            return server.ctl(*flags, *arguments)
        for token in (None, "wrong"):
            self.assert_fails(ctl(token, "models"), "UNAUTHENTICATED")
        self.assertEqual(ctl("read", "models").code, DONE)
        self.assert_fails(ctl("read", "load", "decoder"), "PERMISSION_DENIED")
        self.assert_fails(ctl("infer", "quantize", "decoder", "--method", "gguf"), "PERMISSION_DENIED")
        self.assertEqual(ctl("admin", "load", "decoder").code, DONE)
        self.assert_fails(ctl("read", "generate", "decoder", PROMPT), "PERMISSION_DENIED")
        self.assertEqual(ctl("infer", "generate", "decoder", "prompt-canary", *GREEDY).code, DONE)
        server.stop()
        # Neither tokens nor prompts reach the log.
        self.assertNotIn(b"canary", server.log_path.read_bytes())


class ConfinementTest(ProcessTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.decoder(cls.root / "decoder")
        outside = checkpoints.decoder(cls.home / "outside")
        (cls.home / "secret.gguf").write_bytes(b"GGUF-secret-canary")
        (cls.root / "link").symlink_to(outside)
        (cls.root / "link.gguf").symlink_to(cls.home / "secret.gguf")
        (cls.root / "inner").mkdir()
        (cls.root / "inner" / "config.json").write_text((outside / "config.json").read_text())
        (cls.root / "inner" / "model.safetensors").symlink_to(outside / "model.safetensors")
        os.mkfifo(cls.root / "fifo.gguf")
        (cls.root / "folder.gguf").mkdir()
        cls.server = cls.class_server("--max-message-bytes", 65536)

    def refused(self, name, *statuses):
        for verb in (["inspect", name], ["load", name], ["tokenize", name, "x"], ["quantize", name, "--method", "gguf", "--output-name", "o"],
                     ["dequantize", name, "--output-name", "o"]):
            answer = self.server.ctl(*verb)
            self.assertIn(answer.status, statuses, f"{verb}: {answer.err}")
            self.assertNotIn(str(self.home), answer.err.replace(name, ""))
            self.assertNotIn("canary", answer.err)
            self.assertNotEqual(answer.code, DONE)

    def test_no_name_leads_out(self):
        before = self.entries(self.home)
        for name in ("../outside", "decoder/../../outside", str(self.home / "outside"), "/etc/passwd", "~", "file:///etc/passwd",
                     "..\\outside", "%2e%2e/outside", ".", "..", " ", "a\nb", "x" * 10000, ".hidden"):
            with self.subTest(name[:40]):
                self.refused(name, "INVALID_ARGUMENT")
        for name in ("link", "link.gguf", "fifo.gguf", "absent"):
            with self.subTest(name):
                self.refused(name, "NOT_FOUND")
        self.refused("inner", "INVALID_ARGUMENT", "NOT_FOUND")
        self.refused("folder.gguf", "INVALID_ARGUMENT", "NOT_FOUND")
        self.assertEqual([n for n in self.entries(self.home) if n != "quantd.log"], [n for n in before if n != "quantd.log"])
        self.assertEqual([m["name"] for m in self.server.must("models")["models"] if m["name"].startswith(("link", "fifo"))], [])

    def test_no_output_leads_out(self):
        for name in ("../o", "a/b", "/tmp/o", ".o", "", "..", "o\n", "x" * 200):
            with self.subTest(name[:40]):
                for verb in (["quantize", "decoder", "--method", "gguf"], ["dequantize", "decoder"]):
                    answer = self.server.ctl(*verb, f"--output-name={name}")
                    self.assertNotEqual(answer.code, DONE)
                    self.assertIn(answer.status, ("INVALID_ARGUMENT", ""), answer.err)
        self.assertEqual(self.server.ctl("quantize", "decoder", "--method", "gguf", "--output-name", "link").status, "ALREADY_EXISTS")

    def test_too_long_a_message(self):
        answer = self.server.ctl("tokenize", "decoder", "x" * 100_000)
        self.assert_fails(answer, "RESOURCE_EXHAUSTED", "65536")
        self.server.must("tokenize", "decoder", "x" * 1000)

    def test_bad_flags_end_at_once_with_one_line(self):
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            port = busy.getsockname()[1]
            for flags in (["--listen", f"127.0.0.1:{port}"], ["--listen", "nonsense"], ["--model-root", self.home / "absent"], ["--nonsense"],
                          ["--listen", "0.0.0.0:0"], ["--tls-cert", "x"], ["--auth-token-file", self.home / "absent"], ["--threads", "-1"]):
                command = [BIN / "quantd", "--metrics-listen", "off", *([] if "--model-root" in flags else ["--model-root", self.root]), *flags]
                if "--listen" not in flags:
                    command += ["--listen", "127.0.0.1:0"]
                done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
                self.assertIn(done.returncode, (1, 2), flags)
                lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
                self.assertEqual(len(lines), 1, f"{flags}: {done.stderr}")
                self.assertTrue(lines[0].startswith("quantd: "), lines)


if __name__ == "__main__":
    main()
