"""Every verb of quantctl against a real server: what it prints, its JSON document, its exit code."""
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "process"))
import checkpoints
from quantd_process import (BIN, DONE, ENDLESS, FAILED, INTERRUPTED, NOT_FOUND, UNREACHABLE, USAGE, Answer, ProcessTest, main, until)

NF4 = ["--method", "bitsandbytes", "--bits", "4", "--set", "bnb_4bit_quant_type=nf4"]
PROMPT = "hello there"


def bare(*arguments):
    """quantctl without a --server."""
    return Answer(subprocess.run([BIN / "quantctl", *map(str, arguments)], capture_output=True, text=True, timeout=60,
                                 stdin=subprocess.DEVNULL))


def embed_on_one_cpu():
    """Gives the server of --embedded one compute thread, as quantd_process does by --threads."""
    mask = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mask)})
    return mask


class VerbsTest(ProcessTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.decoder(cls.root / "decoder")
        checkpoints.encoder(cls.root / "encoder")
        cls.text = cls.home / "text.txt"
        cls.text.write_text("The miller knew the river better than the road. " * 20)
        cls.server = cls.class_server()
        cls.server.must("load", "decoder")

    def test_methods(self):
        methods = {m["name"]: m for m in self.server.must("methods")["methods"]}
        self.assertLessEqual({"bitsandbytes", "compressed-tensors", "fp8", "gguf"}, methods.keys())
        for name, method in methods.items():
            self.assertEqual(self.server.must("methods", name), method)
            self.assertTrue(method["summary"] and method["bits"] and method["upstream_loader"], name)
            for option in method["options"]:
                self.assertTrue(option["description"], f"{name}.{option['name']}")
        text = self.server.ctl("methods", output="text").out
        for name in methods:
            self.assertIn(name, text)
        self.assert_fails(self.server.ctl("methods", "nonsense"), "NOT_FOUND", "bitsandbytes", code=NOT_FOUND)

    def test_quantize_inspect_dequantize(self):
        report = self.server.must("quantize", "decoder", *NF4, "--output-name", "nf4")
        self.assertEqual(report["output_name"], "nf4")
        self.assertEqual(len(report["layers"]), 14 + 1 + 1 + 5)  # matrices, head, embedding, norms
        self.assertLess(report["bits_per_weight"], 16)
        inspected = self.server.must("inspect", "nf4")
        self.assertEqual(json.loads(inspected["quantization_config"])["bnb_4bit_quant_type"], "nf4")
        self.assertIn("bitsandbytes", inspected["model"]["quantization"])
        stored = {t["name"]: t["stored_as"] for t in inspected["tensors"]}
        self.assertIn("bitsandbytes", stored["model.layers.0.mlp.up_proj.weight"])
        self.assertEqual(stored["model.norm.weight"], "BF16")
        self.assert_fails(self.server.ctl("quantize", "decoder", *NF4, "--output-name", "nf4"), "ALREADY_EXISTS", "nf4", "overwrite")
        self.server.must("quantize", "decoder", *NF4, "--output-name", "nf4", "--overwrite")
        self.server.must("dequantize", "nf4", "--output-name", "plain", "--dtype", "f32")
        plain = checkpoints.read_safetensors(self.root / "plain" / "model.safetensors")
        self.assertEqual(plain["model.layers.0.mlp.up_proj.weight"][:2], ("F32", [512, 256]))
        bare_file = self.server.must("inspect", "decoder")["tensors"]
        self.assertEqual({t["name"] for t in bare_file}, plain.keys())

    def test_inspect_bare_file(self):
        (self.root / "one.safetensors").write_bytes(checkpoints.safetensors({"a": ("F32", [2], b"\0" * 8)}, {"made": "by hand"}))
        document = self.server.must("inspect", "one.safetensors")
        self.assertEqual([(t["name"], t["shape"]) for t in document["tensors"]], [("a", ["2"])])
        self.assertEqual(document["metadata"]["made"], "by hand")

    def test_upstream_config_file(self):
        config = self.home / "config.json"
        config.write_text(json.dumps({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}))
        self.server.must("quantize", "decoder", "--quantization-config", config, "--output-name", "by-config")
        written = json.loads((self.root / "by-config" / "config.json").read_text())["quantization_config"]
        self.assertEqual(written["bnb_4bit_quant_type"], "nf4")
        # The same within the config.json of a checkpoint.
        self.server.must("quantize", "decoder", "--quantization-config", self.root / "by-config" / "config.json", "--output-name",
                         "by-checkpoint")
        self.assertEqual((self.root / "by-checkpoint" / "model.safetensors").read_bytes(),
                         (self.root / "by-config" / "model.safetensors").read_bytes())

    def test_quanto_map(self):
        """optimum-quanto's own file, which no config.json repeats: modules of several types."""
        types = {"model.layers.0.mlp.up_proj": "qint4", "model.layers.0.mlp.down_proj": "qint8", "lm_head": "qfloat8_e4m3fn"}
        config = self.home / "quanto_qmap.json"
        config.write_text(json.dumps({name: {"weights": weights, "activations": "none"} for name, weights in types.items()}))
        self.server.must("quantize", "decoder", "--quantization-config", config, "--output-name", "by-map")
        self.assertEqual(json.loads((self.root / "by-map" / "quanto_qmap.json").read_text()), json.loads(config.read_text()))
        self.assertNotIn("quantization_config", json.loads((self.root / "by-map" / "config.json").read_text()))
        stored = checkpoints.read_safetensors(self.root / "by-map" / "model.safetensors")
        self.assertEqual({name.rpartition(".weight.")[0] for name in stored if ".weight." in name}, set(types))
        self.server.must("load", "by-map")
        self.server.must("unload", "by-map")

    def test_tensor(self):
        matrix, out, back = self.home / "w.safetensors", self.home / "q.safetensors", self.home / "back.safetensors"
        weight = checkpoints.read_safetensors(checkpoints.TINY / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
        matrix.write_bytes(checkpoints.safetensors({"weight": weight}))
        listed = self.server.must("tensor", "quantize", matrix, *NF4, "--output", out)
        self.assertEqual({t["name"] for t in listed["tensors"]}, checkpoints.read_safetensors(out).keys())
        self.server.must("tensor", "dequantize", out, "--output", back)
        # The same numbers as the checkpoint's own way through quantize and dequantize.
        self.server.must("quantize", "decoder", *NF4, "--output-name", "tensor-nf4")
        self.server.must("dequantize", "tensor-nf4", "--output-name", "tensor-plain")
        plain = checkpoints.read_safetensors(self.root / "tensor-plain" / "model.safetensors")
        self.assertEqual(checkpoints.read_safetensors(back)["weight"], plain["model.layers.0.mlp.up_proj.weight"])
        self.assertNotEqual(plain["model.layers.0.mlp.up_proj.weight"], weight)
        # Fitted to inputs, under either name; without them where they are needed: refused.
        fit = ("--method", "gguf", "--set", "type=IQ2_XXS", "--output", out)
        inputs = ("F32", [2, 256], struct.pack("<512f", *(i % 7 for i in range(512))))
        matrix.write_bytes(checkpoints.safetensors({"weight": weight, "calibration": inputs}))
        self.server.must("tensor", "quantize", matrix, *fit)
        fitted = out.read_bytes()
        matrix.write_bytes(checkpoints.safetensors({"weight": weight, "X": inputs}))
        self.server.must("tensor", "quantize", matrix, *fit)
        self.assertEqual(out.read_bytes(), fitted)
        matrix.write_bytes(checkpoints.safetensors({"weight": weight}))
        self.assert_fails(self.server.ctl("tensor", "quantize", matrix, *fit), "INVALID_ARGUMENT", "calibration")
        # By an entry of an importance matrix: what the matrix becomes in the whole model.
        self.server.must("quantize", "decoder", "--method", "gguf", "--set", "type=IQ2_XXS", "--set", "save_imatrix=m.gguf",
                         "--calibration", self.text, "--output-name", "measured.gguf")
        by_entry = (*fit, "--set", "imatrix=m.gguf")
        self.server.must("tensor", "quantize", matrix, *by_entry, "--name", "blk.0.ffn_up.weight")
        blocks = checkpoints.read_safetensors(out)["blocks"][2]
        self.assertIn(blocks, (self.root / "measured.gguf").read_bytes())
        self.server.must("tensor", "quantize", matrix, *by_entry, "--name", "model.layers.1.mlp.up_proj.weight")
        self.assertNotEqual(checkpoints.read_safetensors(out)["blocks"][2], blocks)
        self.assert_fails(self.server.ctl("tensor", "quantize", matrix, *by_entry, "--name", "blk.9.ffn_up.weight"), "NOT_FOUND",
                          "m.gguf", "blk.9.ffn_up.weight", code=NOT_FOUND)
        self.assert_fails(self.server.ctl("tensor", "quantize", matrix, *by_entry), "INVALID_ARGUMENT", "imatrix")
        none = self.server.ctl("tensor", "quantize", self.home / "absent.safetensors", *NF4, "--output", self.home / "no")
        self.assert_fails(none, "NOT_FOUND", "absent.safetensors", code=NOT_FOUND)
        matrix.write_bytes(checkpoints.safetensors({"other": weight}))
        self.assert_fails(self.server.ctl("tensor", "quantize", matrix, *NF4, "--output", self.home / "no"), "INVALID_ARGUMENT",
                          "weight")
        self.assertFalse((self.home / "no").exists())

    def test_evaluate(self):
        result = self.server.must("evaluate", "decoder", "--text", self.text, "--context-length", 64)
        self.assertGreater(result["perplexity"], 1)
        self.server.must("quantize", "decoder", *NF4, "--output-name", "evaluated")
        self.server.must("load", "evaluated")
        both = self.server.must("evaluate", "evaluated", "--reference", "decoder", "--text", self.text, "--context-length", 64)
        # Batched with others or not, sums of float32 logits differ in their last bits.
        self.assertAlmostEqual(both["reference_perplexity"] / result["perplexity"], 1, places=5)
        self.assertGreater(both["mean_kl_divergence"], 0)
        same = self.server.must("evaluate", "decoder", "--reference", "decoder", "--text", self.text, "--context-length", 64)
        self.assertLess(same["mean_kl_divergence"], 1e-6)
        self.assertEqual(same["top1_agreement"], 1)
        self.server.must("unload", "evaluated")
        self.assertIn("perplexity", self.server.ctl("evaluate", "decoder", "--text", self.text, output="text").out)

    def test_load_unload_models(self):
        checkpoints.decoder(self.root / "other")
        self.assert_fails(self.server.ctl("generate", "other", PROMPT), "FAILED_PRECONDITION", "other", "load")
        loaded = self.server.must("load", "other", "--compute", "exact", "--context-length", 100, "--max-sequences", 2)
        self.assertEqual((loaded["state"], loaded["compute"], loaded["context_length"]), ("READY", "COMPUTE_EXACT", "100"))
        self.assertTrue(loaded["has_tokenizer"] and loaded["has_chat_template"])
        names = {m["name"] for m in self.server.must("models", "--loaded")["models"]}
        self.assertIn("other", names)
        self.assertNotIn("encoder", names)
        listed = {m["name"]: m["state"] for m in self.server.must("models")["models"]}
        self.assertEqual((listed["other"], listed["encoder"]), ("READY", "UNLOADED"))
        self.assertGreater(int(self.server.must("unload", "other")["released_bytes"]), 0)
        self.assert_fails(self.server.ctl("unload", "other"), "FAILED_PRECONDITION", "other")
        self.assert_fails(self.server.ctl("load", "absent"), "NOT_FOUND", "absent", code=NOT_FOUND)

    def test_load_on_the_fly(self):
        checkpoints.decoder(self.root / "flying")
        before = self.entries(self.root / "flying")
        loaded = self.server.must("load", "flying", "--quantize", "bitsandbytes", "--set", "bnb_4bit_quant_type=nf4", "--bits", "4")
        self.assertIn("bitsandbytes", loaded["quantization"])
        on_the_fly = self.server.must("generate", "flying", PROMPT, "--max-tokens", 12)["token_ids"]
        self.assertEqual(before, self.entries(self.root / "flying"))
        self.server.must("unload", "flying")
        # What was quantized on the fly answers as what was written and loaded does.
        self.server.must("quantize", "flying", *NF4, "--output-name", "landed")
        self.server.must("load", "landed")
        self.assertEqual(self.server.must("generate", "landed", PROMPT, "--max-tokens", 12)["token_ids"], on_the_fly)
        self.server.must("unload", "landed")

    def test_generate(self):
        document = self.server.must("generate", "decoder", PROMPT, "--max-tokens", 10, "--ignore-eos", "--logprobs")
        self.assertEqual((len(document["token_ids"]), len(document["logprobs"])), (10, 10))
        self.assertEqual(document["finish_reason"], "LENGTH")
        self.assertEqual(document["usage"]["generated_tokens"], 10)
        from_stdin = self.server.must("generate", "decoder", "--max-tokens", 10, "--ignore-eos", stdin=PROMPT)
        self.assertEqual(from_stdin["token_ids"], document["token_ids"])
        raw = self.server.must("generate", "decoder", PROMPT, "--raw", "--max-tokens", 10)
        self.assertNotEqual(raw["usage"]["prompt_tokens"], document["usage"]["prompt_tokens"])
        text = subprocess.run(self.server.command("generate", "decoder", PROMPT, "--max-tokens", 10, "--ignore-eos", "-q", output="text"),
                              capture_output=True, stdin=subprocess.DEVNULL)
        self.assertEqual((text.returncode, text.stderr), (DONE, b""))
        self.assertTrue(text.stdout.endswith(b"\n") and len(text.stdout) > 5)
        sampled = [self.server.must("generate", "decoder", PROMPT, "--max-tokens", 20, "--temperature", 1.5, "--seed", seed)["token_ids"]
                   for seed in (1, 1, 2)]
        self.assertEqual(sampled[0], sampled[1])
        self.assertNotEqual(sampled[0], sampled[2])
        self.assert_fails(self.server.ctl("generate", "decoder", PROMPT, "--temperature", -1), "INVALID_ARGUMENT", "temperature")
        self.assert_fails(self.server.ctl("generate", "encoder", PROMPT), "FAILED_PRECONDITION", "encoder")

    def test_embed_tokenize(self):
        self.server.must("load", "encoder")
        embeddings = self.server.must("embed", "encoder", "a cat sleeps", "the dog runs", "a cat sleeps")["embeddings"]
        self.assertEqual([len(e["values"]) for e in embeddings], [32, 32, 32])
        self.assertAlmostEqual(sum(v * v for v in embeddings[0]["values"]), 1, places=5)
        self.assertNotEqual(embeddings[0], embeddings[1])
        long = "cat " * 100
        self.assert_fails(self.server.ctl("embed", "encoder", long), "OUT_OF_RANGE", "102", "64")
        self.server.must("embed", "encoder", long, "--truncate")
        self.server.must("unload", "encoder")
        self.assert_fails(self.server.ctl("embed", "decoder", "x"), "UNIMPLEMENTED", "decoder")
        # An unloaded model tokenizes too.
        words = ["[CLS]", "a", "cat", "sleep", "##s", ".", "[SEP]"]
        self.assertEqual(self.server.must("tokenize", "encoder", "A cat sleeps.")["ids"], [checkpoints.WORDS.index(w) for w in words])
        self.assertEqual(len(self.server.must("tokenize", "encoder", "A cat", "--no-special-tokens")["ids"]), 2)
        self.assertIn("sleep", self.server.ctl("tokenize", "encoder", "sleep", output="text").out)

    def test_operations(self):
        started = self.server.must("quantize", "decoder", *ENDLESS, "--output-name", "slow", "--detach")
        name = started["name"]
        self.assertFalse(started["done"])
        listed = {o["name"]: o["metadata"] for o in self.server.must("operations")["operations"]}
        self.assertEqual((listed[name]["model"], listed[name]["output_name"], listed[name]["verb"]), ("decoder", "slow", "quantize"))
        self.assertEqual(self.server.must("operations", "cancel", name), {})
        watched = self.server.ctl("operations", "watch", name)
        self.assertEqual((watched.code, watched.status), (FAILED, "CANCELLED"))
        self.assertEqual(watched.json["metadata"]["state"], "CANCELLED")
        self.assertNotIn("slow", [p.name for p in self.root.iterdir()])
        self.assertEqual([p.name for p in self.root.iterdir() if p.name.startswith(".")], [])
        again = self.server.must("quantize", "decoder", *NF4, "--output-name", "watched", "--detach")["name"]
        done = self.server.must("operations", "watch", again)
        self.assertEqual((done["done"], done["response"]["output_name"]), (True, "watched"))
        self.assertEqual(self.server.must("operations", "get", again), done)
        for verb in ("get", "watch", "cancel"):
            self.assert_fails(self.server.ctl("operations", verb, "operations/none"), "NOT_FOUND", "operations/none", code=NOT_FOUND)

    def test_status(self):
        status = self.server.must("status")
        self.assertTrue(status["version"] and status["isa"] and status["threads"] >= 1)
        self.assertEqual(status["devices"][0]["id"], "cpu")
        self.assertIn("quantd " + status["version"], self.server.ctl("status", output="text").out)

    def test_completion(self):
        for shell in ("bash", "zsh", "fish"):
            script = bare("completion", shell)
            self.assertEqual((script.code, script.err), (DONE, ""))
            for word in ("quantize", "generate", "operations", "--embedded", "--group-size"):
                self.assertIn(word, script.out, shell)
        document = bare("--output", "json", "completion", "bash").json
        self.assertEqual(document["script"], bare("completion", "bash").out)
        words = subprocess.run(["bash", "-c", bare("completion", "bash").out +
                                'COMP_WORDS=(quantctl --output json qua); COMP_CWORD=3; _quantctl; echo "${COMPREPLY[@]}"'],
                               capture_output=True, text=True).stdout
        self.assertEqual(words.split(), ["quantize"])

    def test_wrong_usage(self):
        for arguments in ([], ["nonsense"], ["load"], ["status", "--nonsense"], ["--output", "xml", "status"],
                          ["load", "decoder", "--compute", "slow"], ["dequantize", "decoder", "--output-name", "x", "--dtype", "f8"],
                          ["quantize", "decoder"], ["quantize", "decoder", *NF4, "--quantization-config", self.text],
                          ["quantize", "decoder", "--method", "gguf", "--set", "type"], ["--root", str(self.root), "status"],
                          ["--embedded", "status"], ["generate", "decoder", "--max-tokens", "many"], ["operations", "get"],
                          ["tensor", "quantize", str(self.text)], ["completion", "tcsh"],
                          ["load", "decoder", "--quantize", "gguf", "--set", "=x"], ["load", "decoder", "--bits", "4"],
                          ["tensor", "quantize", str(self.text), "--output", "x"]):
            answer = bare("--server", self.server.address, *arguments)
            self.assertEqual((answer.code, answer.out), (USAGE, ""), f"{arguments}: {answer.err}")
            self.assertTrue(answer.err, arguments)

    def test_help_and_version(self):
        self.assertEqual(bare("--help").code, DONE)
        self.assertRegex(bare("--version").out, r"^\d+\.\d+\.\d+\n$")
        for verb in re.findall(r"^  ([a-z]+) ", bare("--help").out.split("Subcommands:")[1], re.M):
            self.assertEqual(bare(verb, "--help").code, DONE, verb)

    def test_failures_of_the_server(self):
        self.assert_fails(self.server.ctl("quantize", "decoder", "--method", "nonsense"), "INVALID_ARGUMENT", "nonsense", "gguf")
        self.assert_fails(self.server.ctl("quantize", "decoder", *NF4, "--set", "nonsense=1"), "INVALID_ARGUMENT", "nonsense")
        self.assert_fails(self.server.ctl("evaluate", "decoder", "--text", self.home / "absent"), "NOT_FOUND", "absent", code=NOT_FOUND)
        self.assert_fails(self.server.ctl("--timeout", "0.3", "quantize", "decoder", *ENDLESS, "--output-name", "late"),
                          "DEADLINE_EXCEEDED")
        # Whoever gives up waiting does not want the output any more.
        until(lambda: not self.server.must("status")["running_operations"], "the end of the operation")
        self.assertEqual([n for n in self.entries() if "late" in n], [])

    def test_unreachable(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))  # nobody listens there
            address = f"127.0.0.1:{s.getsockname()[1]}"
            answer = bare("--server", address, "--retry-for", "0.2", "status")
        self.assert_fails(answer, "UNAVAILABLE", address, "--embedded", code=UNREACHABLE)

    def interrupt(self, process, ready):
        until(ready, "the start of the work", process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out), (INTERRUPTED, ""), err)

    def test_interrupted_quantize_leaves_nothing(self):
        process = self.server.start_ctl("quantize", "decoder", *ENDLESS, "--output-name", "cut")
        self.interrupt(process, lambda: (self.root / ".cut.partial").exists())
        until(lambda: not self.server.must("status")["running_operations"], "the end of the operation")
        self.assertEqual([n for n in self.entries() if "cut" in n], [])

    def test_interrupted_generate(self):
        with open(self.home / "stream", "wb") as out:
            process = subprocess.Popen(self.server.command("generate", "decoder", PROMPT, "--max-tokens", 400, "--ignore-eos", output="text"),
                                       stdout=out, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: (self.home / "stream").stat().st_size, "the first text", process)
        process.send_signal(signal.SIGINT)
        # The last token may have come before the signal.
        self.assertIn(process.wait(60), (INTERRUPTED, DONE))
        until(lambda: not self.server.must("status")["running_sequences"], "the end of the sequence")

    def test_interrupted_while_connecting(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            process = subprocess.Popen([BIN / "quantctl", "--server", f"127.0.0.1:{s.getsockname()[1]}", "status"],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            # Blocked and pending or waiting: either way the signal is taken, as soon as the mask is set.
            until(lambda: "SigBlk:\t0000000000004002" in Path(f"/proc/{process.pid}/status").read_text(), "the signal mask", process)
            self.interrupt(process, lambda: True)


class EmbeddedTest(ProcessTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.addClassCleanup(os.sched_setaffinity, 0, embed_on_one_cpu())
        checkpoints.decoder(cls.root / "decoder")
        checkpoints.encoder(cls.root / "encoder")

    def embedded(self, *arguments):
        return bare("--embedded", "--root", self.root, "--output", "json", *arguments)

    def test_works_without_a_server(self):
        for arguments in (["methods"], ["status"], ["models"], ["inspect", "decoder"], ["tokenize", "decoder", "hello"],
                          ["quantize", "decoder", *NF4, "--output-name", "nf4"], ["embed", "encoder", "a cat"],
                          ["generate", "nf4", PROMPT, "--max-tokens", 4], ["operations"]):
            answer = self.embedded(*arguments)
            self.assertEqual((answer.code, answer.err if arguments[0] != "quantize" else ""), (DONE, ""), arguments)
            self.assertIsInstance(answer.json, dict)
        self.assertEqual([n for n in self.entries() if n.startswith(".")], [])

    def test_fails_as_a_server_does(self):
        self.assert_fails(self.embedded("inspect", "absent"), "NOT_FOUND", "absent", code=NOT_FOUND)
        self.assert_fails(self.embedded("inspect", "../root/decoder"), "INVALID_ARGUMENT")
        absent = bare("--embedded", "--root", self.home / "absent", "models")
        self.assertEqual((absent.code, absent.status), (FAILED, "FAILED_PRECONDITION"))

    def test_interrupt_leaves_nothing(self):
        process = subprocess.Popen([BIN / "quantctl", "--embedded", "--root", self.root, "quantize", "decoder", *ENDLESS,
                                    "--output-name", "cut"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until(lambda: (self.root / ".cut.partial").exists(), "the start of the work", process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, INTERRUPTED, err)
        self.assertEqual([n for n in self.entries() if "cut" in n], [])


if __name__ == "__main__":
    main()
