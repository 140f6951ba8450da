"""Renders the templates with jinja2 as Transformers does and writes NAME.CASE.txt (jinja2 3.1)."""
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
CASES = {
    "one": ([("user", "Hi there")], True),
    "system": ([("system", " Be brief. "), ("user", "What is 2+2?\n"), ("assistant", " 4 "), ("user", "\u4f60\u597d \U0001f44d")], True),
    "closed": ([("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb")], False),
}


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
for path in sorted(HERE.glob("*.jinja")):
    template = environment.from_string(path.read_text(encoding="utf-8"))
    for name, (pairs, add_generation_prompt) in CASES.items():
        messages = [{"role": role, "content": content} for role, content in pairs]
        text = template.render(messages=messages, tools=None, documents=None, bos_token="<s>", eos_token="</s>",
                               add_generation_prompt=add_generation_prompt)
        (HERE / f"{path.stem}.{name}.txt").write_bytes(text.encode())
