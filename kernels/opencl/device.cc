#include "kernels/opencl/device.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "kernels/opencl/cl_status.h"

namespace quantd::opencl {
namespace {

std::string TextOf(cl_device_id id, cl_device_info what) {
  size_t size = 0;
  if (clGetDeviceInfo(id, what, 0, nullptr, &size) != CL_SUCCESS || size == 0) return "";
  std::string text(size, '\0');
  if (clGetDeviceInfo(id, what, size, text.data(), nullptr) != CL_SUCCESS) return "";
  text.resize(std::min(text.find('\0'), std::min<size_t>(size, 200)));
  return text;
}

template <class T>
T NumberOf(cl_device_id id, cl_device_info what) {
  T value = {};
  if (clGetDeviceInfo(id, what, sizeof(value), &value, nullptr) != CL_SUCCESS) return T{};
  return value;
}

size_t MaxWorkGroup(cl_device_id id) {
  size_t limit = NumberOf<size_t>(id, CL_DEVICE_MAX_WORK_GROUP_SIZE);
  size_t dimensions = 0;
  clGetDeviceInfo(id, CL_DEVICE_MAX_WORK_ITEM_SIZES, 0, nullptr, &dimensions);
  std::vector<size_t> sizes(dimensions / sizeof(size_t));
  if (sizes.size() >= 2 && clGetDeviceInfo(id, CL_DEVICE_MAX_WORK_ITEM_SIZES, dimensions,
                                           sizes.data(), nullptr) == CL_SUCCESS) {
    limit = std::min({limit, sizes[0], std::max<size_t>(sizes[1], 1) * sizes[0]});
  }
  return std::max<size_t>(limit, 1);
}

// Empty when the device can run the kernels, else what it lacks.
std::string Shortcoming(cl_device_id id) {
  if (!NumberOf<cl_bool>(id, CL_DEVICE_AVAILABLE)) return "is not available";
  if (!NumberOf<cl_bool>(id, CL_DEVICE_COMPILER_AVAILABLE)) return "has no OpenCL C compiler";
  if (!NumberOf<cl_bool>(id, CL_DEVICE_ENDIAN_LITTLE)) return "is big-endian";
  const std::string version = TextOf(id, CL_DEVICE_OPENCL_C_VERSION);
  int major = 0;
  int minor = 0;
  if (std::sscanf(version.c_str(), "OpenCL C %d.%d", &major, &minor) != 2 ||
      major * 10 + minor < 12) {
    return absl::StrCat("speaks \"", version, "\", needed is OpenCL C 1.2");
  }
  return "";
}

Device Describe(cl_device_id id) {
  Device device;
  device.id = id;
  device.type = NumberOf<cl_device_type>(id, CL_DEVICE_TYPE);
  device.name = TextOf(id, CL_DEVICE_NAME);
  device.version = TextOf(id, CL_DEVICE_VERSION);
  device.global_memory = NumberOf<cl_ulong>(id, CL_DEVICE_GLOBAL_MEM_SIZE);
  device.max_allocation = NumberOf<cl_ulong>(id, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  device.local_memory = NumberOf<cl_ulong>(id, CL_DEVICE_LOCAL_MEM_SIZE);
  device.is_cpu = (device.type & CL_DEVICE_TYPE_CPU) && !(device.type & CL_DEVICE_TYPE_GPU);
  device.max_work_group = MaxWorkGroup(id);
  const auto arithmetic = NumberOf<cl_device_fp_config>(id, CL_DEVICE_SINGLE_FP_CONFIG);
  device.has_fma = (arithmetic & CL_FP_FMA) != 0;
  device.has_subnormals = (arithmetic & CL_FP_DENORM) != 0;
  return device;
}

std::vector<cl_device_id> DevicesOf(cl_platform_id platform) {
  cl_uint count = 0;
  if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, &count) != CL_SUCCESS) return {};
  std::vector<cl_device_id> ids(count);
  if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, count, ids.data(), nullptr) != CL_SUCCESS) {
    return {};
  }
  return ids;
}

int Preference(const Device& device) {
  if (device.type & CL_DEVICE_TYPE_GPU) return 0;
  if (device.type & CL_DEVICE_TYPE_ACCELERATOR) return 1;
  return 2;
}

absl::StatusOr<std::vector<cl_platform_id>> FindPlatforms() {
  cl_uint count = 0;
  const cl_int error = clGetPlatformIDs(0, nullptr, &count);
  if (error != CL_SUCCESS || count == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no OpenCL driver is installed (", error == CL_SUCCESS ? "no platform" : ClErrorName(error),
        "): install the driver of your device, or pocl-opencl-icd to run OpenCL on the CPU, or "
        "choose device \"cpu\""));
  }
  std::vector<cl_platform_id> platforms(count);
  RETURN_IF_ERROR(ToStatus(clGetPlatformIDs(count, platforms.data(), nullptr), "list platforms"));
  return platforms;
}

}  // namespace

absl::StatusOr<std::vector<Device>> FindDevices() {
  ASSIGN_OR_RETURN(const std::vector<cl_platform_id> platforms, FindPlatforms());
  std::vector<Device> devices;
  std::string refused;
  for (const cl_platform_id platform : platforms) {
    for (const cl_device_id id : DevicesOf(platform)) {
      const std::string shortcoming = Shortcoming(id);
      if (shortcoming.empty()) {
        devices.push_back(Describe(id));
      } else {
        absl::StrAppend(&refused, "; ", TextOf(id, CL_DEVICE_NAME), " ", shortcoming);
      }
    }
  }
  if (devices.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no usable OpenCL device", refused.substr(0, 500),
        "; install the driver of your device, or pocl-opencl-icd to run OpenCL on the CPU, or "
        "choose device \"cpu\""));
  }
  std::stable_sort(devices.begin(), devices.end(),
                   [](const Device& a, const Device& b) { return Preference(a) < Preference(b); });
  return devices;
}

absl::StatusOr<Device> FindDevice(int index) {
  ASSIGN_OR_RETURN(const std::vector<Device> devices, FindDevices());
  if (index >= 0 && index < static_cast<int>(devices.size())) return devices[index];
  return absl::FailedPreconditionError(
      absl::StrCat("device opencl:", index, " is not there: found ", devices.size(),
                   " OpenCL device(s), opencl:0 is ", devices[0].name));
}

int WorkGroupFor(const Device& device, int wanted) {
  if (device.is_cpu) return 1;
  int size = 1;
  while (size * 2 <= wanted && static_cast<size_t>(size) * 2 <= device.max_work_group) size *= 2;
  return size;
}

}  // namespace quantd::opencl
