#include "kernels/opencl/program_cache.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/opencl/cl_status.h"

namespace quantd::opencl {
namespace {

constexpr size_t kMaxLogBytes = 2000;

// Drivers put temporary files' paths into their logs; only the file names are for others to read.
std::string WithoutFolders(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '/') {
      while (!out.empty() && !absl::ascii_isspace(out.back()) && out.back() != '"') out.pop_back();
    } else {
      out.push_back(c);
    }
  }
  return out;
}

// The beginning of the driver's log, where the first error is.
std::string BuildLog(cl_program program, cl_device_id device) {
  size_t size = 0;
  if (clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, 0, nullptr, &size) !=
          CL_SUCCESS ||
      size == 0) {
    return "(no build log)";
  }
  std::string log(size, '\0');
  clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, size, log.data(), nullptr);
  log.resize(std::min(log.find('\0'), std::min(size, kMaxLogBytes)));
  return absl::Utf8SafeCEscape(WithoutFolders(absl::StripAsciiWhitespace(log)));
}

}  // namespace

absl::StatusOr<ClProgram> ProgramCache::Build(const KernelSpec& spec) const {
  cl_int error = CL_SUCCESS;
  std::vector<const char*> sources(spec.sources.begin(), spec.sources.end());
  ClProgram program(clCreateProgramWithSource(context_, static_cast<cl_uint>(sources.size()),
                                              sources.data(), nullptr, &error));
  RETURN_IF_ERROR(ToStatus(error, absl::StrCat("create the program of kernel ", spec.name)));
  const std::string options = absl::StrCat("-cl-std=CL1.2 ", spec.options);
  error = clBuildProgram(program.get(), 1, &device_, options.c_str(), nullptr, nullptr);
  if (error == CL_SUCCESS) return program;
  return absl::FailedPreconditionError(
      absl::StrCat("the OpenCL driver cannot build kernel ", spec.name, " (", options,
                   "): ", ClErrorName(error), ": ", BuildLog(program.get(), device_)));
}

absl::StatusOr<cl_kernel> ProgramCache::Get(const KernelSpec& spec) {
  const void* const source = spec.sources.back();
  const auto kernel_key = std::make_pair(source, absl::StrCat(spec.name, " ", spec.options));
  const auto known = kernels_.find(kernel_key);
  if (known != kernels_.end()) return known->second.get();

  const auto program_key = std::make_pair(source, spec.options);
  auto program = programs_.find(program_key);
  if (program == programs_.end()) program = programs_.emplace(program_key, Build(spec)).first;
  RETURN_IF_ERROR(program->second.status());
  cl_int error = CL_SUCCESS;
  ClKernel kernel(clCreateKernel(program->second->get(), spec.name, &error));
  RETURN_IF_ERROR(ToStatus(error, absl::StrCat("create kernel ", spec.name)));
  return kernels_.emplace(kernel_key, std::move(kernel)).first->second.get();
}

}  // namespace quantd::opencl
