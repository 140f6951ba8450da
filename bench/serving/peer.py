"""llama.cpp beside us: the same GGUF, the same threads, its own C API through llama-cpp-python."""
import ctypes
import time

try:
    import llama_cpp
except ImportError:
    llama_cpp = None


class Peer:
    """One loaded model. Prefill and decode are timed around llama_decode alone, as llama-bench does."""

    def __init__(self, path, threads, context=1024):
        llama_cpp.llama_backend_init()
        silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
        self._silence = silence
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = context, 512, 512
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)

    def _clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def _decode(self, tokens):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError("llama_decode failed")

    def prefill(self, tokens):
        """Tokens per second over one prompt."""
        self._clear()
        start = time.perf_counter()
        self._decode(tokens)
        llama_cpp.llama_synchronize(self.context)
        return len(tokens) / (time.perf_counter() - start)

    def decode(self, prompt, count):
        """Tokens per second of `count` single steps behind a short prompt."""
        self._clear()
        self._decode(prompt)
        llama_cpp.llama_synchronize(self.context)
        start = time.perf_counter()
        for step in range(count):
            self._decode([prompt[step % len(prompt)]])
            llama_cpp.llama_synchronize(self.context)
        return count / (time.perf_counter() - start)

    def close(self):
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)
