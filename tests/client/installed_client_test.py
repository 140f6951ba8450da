"""The installed package: cmake --install to a prefix, an example built against it twice, and run."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "process"))
import checkpoints
from quantd_process import BIN, ProcessTest, main

SOURCE = Path(__file__).resolve().parents[2]
PROJECT = """cmake_minimum_required(VERSION 3.25)
project(example LANGUAGES CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(quantd 0.1 REQUIRED)
foreach(kind client client_static client_shared)
  add_executable(chat_${kind} quantize_and_chat.cc)
  target_link_libraries(chat_${kind} PRIVATE quantd::${kind})
endforeach()
"""


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace", **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class InstalledClientTest(ProcessTest):
    def test_example_builds_and_runs_against_the_installed_package(self):
        prefix, project = self.home / "prefix", self.home / "project"
        run("cmake", "--install", BIN.parent, "--prefix", prefix)
        for program in ("quantd", "quantctl"):
            self.assertRegex(run(prefix / "bin" / program, "--version"), r"\d+\.\d+\.\d+")
        project.mkdir()
        (project / "CMakeLists.txt").write_text(PROJECT)
        shutil.copy(SOURCE / "client" / "examples" / "quantize_and_chat.cc", project)
        # Nothing of the source tree may be needed.
        run("cmake", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_CXX_COMPILER={os.environ.get('QUANTD_CXX', 'c++')}")
        run("cmake", "--build", project / "build")
        for path in (prefix / "lib").rglob("*.cmake"):
            self.assertNotIn(str(SOURCE), path.read_text(), path)
        shared = run("ldd", project / "build" / "chat_client")
        self.assertIn(str(prefix), shared)
        self.assertNotIn("libquantd_client", run("ldd", project / "build" / "chat_client_static"))
        checkpoints.decoder(self.root / "decoder")
        server = self.start()
        for kind in ("client", "client_static", "client_shared"):
            out = run(project / "build" / f"chat_{kind}", server.address, "decoder", "hello", timeout=120)
            self.assertTrue(out.strip(), kind)
            server.must("unload", "example-nf4")


if __name__ == "__main__":
    main()
