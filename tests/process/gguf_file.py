"""GGUF files taken apart and put together again, so that tests can break one thing of a good file."""
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


class Typed:
    """A metadata value; of arrays, `value` is a list and `element` the type of its elements."""

    def __init__(self, kind, value, element=None):
        self.kind, self.value, self.element = kind, value, element


class Reader:
    def __init__(self, content):
        self.content, self.at = content, 0

    def take(self, form):
        values = struct.unpack_from("<" + form, self.content, self.at)
        self.at += struct.calcsize("<" + form)
        return values[0]

    def text(self):
        length = self.take("Q")
        self.at += length
        return self.content[self.at - length:self.at]

    def value(self, kind):
        return self.text() if kind == STRING else self.take(FORMATS[kind])


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def scalar(kind, value):
    return text(value) if kind == STRING else struct.pack("<" + FORMATS[kind], value)


class GgufFile:
    """`keys`: {name: Typed}; `tensors`: {name: [dims, ggml type, bytes]}, dims as in the file (columns first)."""

    def __init__(self, content):
        reader = Reader(content)
        reader.at = 8
        tensors, keys = reader.take("Q"), reader.take("Q")
        self.keys, infos, self.tensors = {}, [], {}
        for _ in range(keys):
            name, kind = reader.text().decode(), reader.take("I")
            if kind == ARRAY:
                element, count = reader.take("I"), reader.take("Q")
                self.keys[name] = Typed(ARRAY, [reader.value(element) for _ in range(count)], element)
            else:
                self.keys[name] = Typed(kind, reader.value(kind))
        for _ in range(tensors):
            name = reader.text().decode()
            dims = [reader.take("Q") for _ in range(reader.take("I"))]
            infos.append((name, dims, reader.take("I"), reader.take("Q")))
        data = content[reader.at + -reader.at % 32:]
        ends = sorted(offset for *_, offset in infos) + [len(data)]
        for name, dims, kind, offset in infos:
            self.tensors[name] = [dims, kind, data[offset:min(end for end in ends if end > offset)]]

    def bytes(self):
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.keys))
        for name, typed in self.keys.items():
            head += text(name) + struct.pack("<I", typed.kind)
            if typed.kind == ARRAY:
                head += struct.pack("<IQ", typed.element, len(typed.value))
                head += b"".join(scalar(typed.element, value) for value in typed.value)
            else:
                head += scalar(typed.kind, typed.value)
        data = b""
        for name, (dims, kind, content) in self.tensors.items():
            head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
            data += content + bytes(-len(content) % 32)
        return head + bytes(-len(head) % 32) + data
