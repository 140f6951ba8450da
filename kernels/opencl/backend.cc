#include "kernels/opencl/backend.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/opencl/opencl_backend.h"
#include "kernels/opencl/sources.h"

namespace quantd {
namespace opencl {
namespace {

constexpr const char* kNormSources[] = {source::work_group, source::norm};
constexpr const char* kEmbedSources[] = {source::weights, source::embed};
constexpr const char* kElementwiseSources[] = {source::elementwise};

// Bits of the `flags` argument of norm.cl.
constexpr cl_int kHasBias = 1;
constexpr cl_int kHasResidual = 2;

absl::Status CheckRoom(const DeviceArray& array, int64_t rows, int64_t cols,
                       absl::string_view what) {
  if (array.rows() >= rows && array.cols() == cols) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " is ", array.rows(), " x ", array.cols(),
                                                 ", expected at least ", rows, " rows of ", cols));
}

}  // namespace

OpenClBackend::OpenClBackend(Queue queue, std::string id)
    : queue_(std::move(queue)),
      programs_(queue_.context(), queue_.device().id),
      id_(std::move(id)) {}

absl::StatusOr<std::unique_ptr<OpenClBackend>> OpenClBackend::Create(const Device& device,
                                                                     std::string id) {
  ASSIGN_OR_RETURN(Queue queue, Queue::Create(device));
  return std::unique_ptr<OpenClBackend>(new OpenClBackend(std::move(queue), std::move(id)));
}

DeviceInfo OpenClBackend::info() const {
  const Device& device = queue_.device();
  const uint64_t used = std::min(queue_.allocated(), device.global_memory);
  return {.id = id_,
          .description = absl::StrCat(device.name, " (", device.version, ")"),
          .memory_bytes = device.global_memory,
          .free_bytes = device.global_memory - used,
          .is_gpu = (device.type & CL_DEVICE_TYPE_GPU) != 0};
}

absl::StatusOr<std::unique_ptr<PackedWeight>> OpenClBackend::Pack(
    std::span<const Weight* const> parts, const PackOptions& options) {
  if (parts.empty()) return absl::InvalidArgumentError("a weight needs at least one part");
  const ScaleWidth scale_width =
      queue_.device().is_cpu ? ScaleWidth::kFloat32 : ScaleWidth::kNarrow;
  std::vector<PartImage> images;
  int64_t rows = 0;
  for (const Weight* part : parts) {
    ASSIGN_OR_RETURN(PartImage image, PackPart(*part, options.compute, scale_width));
    if (!images.empty() && image.cols != images[0].cols) {
      return absl::InvalidArgumentError(
          absl::StrCat("a part has ", image.cols, " columns, the first has ", images[0].cols));
    }
    rows += image.rows;
    images.push_back(std::move(image));
  }
  if (rows > INT32_MAX) return absl::UnimplementedError("the stacked matrix exceeds 2^31 rows");
  return ClWeight::Create(images, queue_);
}

absl::StatusOr<std::unique_ptr<DeviceArray>> OpenClBackend::Allocate(int64_t rows, int64_t cols) {
  return ClArray::Create(rows, cols, queue_);
}

absl::StatusOr<std::unique_ptr<ColumnOrder>> OpenClBackend::UploadOrder(
    std::span<const int32_t> order) {
  return ClOrder::Create(order, queue_);
}

absl::StatusOr<std::unique_ptr<KvCache>> OpenClBackend::CreateKvCache(const KvShape& shape) {
  return ClKvCache::Create(shape, queue_);
}

absl::Status OpenClBackend::Upload(std::span<const float> values, DeviceArray& to) {
  if (static_cast<int64_t>(values.size()) > to.rows() * to.cols()) {
    return absl::InvalidArgumentError(absl::StrCat(values.size(), " values do not fit an array of ",
                                                   to.rows(), " x ", to.cols()));
  }
  return queue_.Write(AsCl(to).buffer(), 0, std::as_bytes(values));
}

absl::Status OpenClBackend::Download(const DeviceArray& from, int64_t first, int64_t count,
                                     std::span<float> out) {
  if (first < 0 || count < 0 || first > from.rows() - count ||
      static_cast<int64_t>(out.size()) < count * from.cols()) {
    return absl::InvalidArgumentError(absl::StrCat("rows ", first, " to ", first + count,
                                                   " of an array of ", from.rows(), " x ",
                                                   from.cols(), " into ", out.size(), " floats"));
  }
  const uint64_t offset = static_cast<uint64_t>(first) * from.cols() * sizeof(float);
  return queue_.Read(AsCl(from).buffer(), offset,
                     std::as_writable_bytes(out.first(count * from.cols())));
}

absl::StatusOr<cl_mem> OpenClBackend::ScratchBuffer(Scratch which, uint64_t bytes) {
  Buffer& buffer = scratch_[which];
  if (buffer.get() == nullptr || buffer.bytes() < bytes) {
    buffer = Buffer();
    ASSIGN_OR_RETURN(buffer, queue_.Allocate(bytes, "intermediate results"));
  }
  return buffer.get();
}

// Waits for the work before it, which is none at the start of a forward pass (Embed), and is
// followed by a Download at its end (GatherRows).
absl::StatusOr<cl_mem> OpenClBackend::UploadIndexes(std::span<const int32_t> indexes) {
  ASSIGN_OR_RETURN(const cl_mem mem, ScratchBuffer(kIndexes, indexes.size_bytes()));
  RETURN_IF_ERROR(queue_.Write(scratch_[kIndexes], 0, std::as_bytes(indexes)));
  return mem;
}

absl::Status OpenClBackend::Embed(const PackedWeight& table, std::span<const int32_t> ids,
                                  DeviceArray& y) {
  if (ids.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckRoom(y, static_cast<int64_t>(ids.size()), table.cols(), "the output"));
  const auto [least, most] = std::minmax_element(ids.begin(), ids.end());
  if (*least < 0 || *most >= table.rows()) {
    return absl::InvalidArgumentError(absl::StrCat("row ", *least < 0 ? *least : *most,
                                                   " of a table of ", table.rows(), " rows"));
  }
  ASSIGN_OR_RETURN(const cl_mem indexes, UploadIndexes(ids));
  for (const Segment& s : AsCl(table).segments()) {
    ASSIGN_OR_RETURN(const cl_kernel kernel,
                     programs_.Get({"EmbedRows", kEmbedSources, s.defines}));
    Range range;
    range.global[0] = s.chunks_per_row;
    range.global[1] = ids.size();
    RETURN_IF_ERROR(queue_.Run(kernel, range, s.chunks.get(), s.scales.get(), s.zeros.get(),
                               s.table.get(), cl_int(s.chunks_per_row), cl_int(s.blocks_per_row),
                               cl_float(s.format.post_scale), cl_float(s.format.center),
                               cl_int(s.rows), cl_int(table.cols()), indexes,
                               AsCl(y).buffer().get(), cl_int(s.first_row)));
  }
  return absl::OkStatus();
}

absl::Status OpenClBackend::Normalize(const DeviceArray& x, const DeviceArray* residual,
                                      const Norm& norm, int64_t tokens, DeviceArray& y) {
  RETURN_IF_ERROR(CheckRoom(y, tokens, x.cols(), "the output"));
  return RunNorm(x, residual, norm, /*int8_tokens=*/false, tokens, AsCl(y).buffer().get());
}

absl::Status OpenClBackend::RunNorm(const DeviceArray& x, const DeviceArray* residual,
                                    const Norm& norm, bool int8_tokens, int64_t tokens, cl_mem y,
                                    cl_mem token_steps) {
  const int64_t cols = x.cols();
  const bool biased = norm.kind == Norm::Kind::kLayer && norm.bias != nullptr;
  RETURN_IF_ERROR(CheckRoom(x, tokens, cols, "the input"));
  if (residual != nullptr) RETURN_IF_ERROR(CheckRoom(*residual, tokens, cols, "the residual"));
  if (norm.kind != Norm::Kind::kNone) {
    if (norm.weight == nullptr) return absl::InvalidArgumentError("the norm has no weight");
    RETURN_IF_ERROR(CheckRoom(*norm.weight, 1, cols, "the norm's weight"));
  }
  if (biased) RETURN_IF_ERROR(CheckRoom(*norm.bias, 1, cols, "the norm's bias"));
  const int group = WorkGroupFor(queue_.device(), 128);
  ASSIGN_OR_RETURN(
      const cl_kernel kernel,
      programs_.Get({"NormalizeRows", kNormSources,
                     absl::StrCat("-DWG=", group, " -DNORM=", static_cast<int>(norm.kind),
                                  !int8_tokens             ? ""
                                  : token_steps == nullptr ? " -DINT8_TOKENS=1"
                                                           : " -DINT8_TOKENS=2")}));
  const cl_mem input = AsCl(x).buffer().get();
  const auto or_input = [&](const DeviceArray* array) {
    return array != nullptr ? AsCl(*array).buffer().get() : input;
  };
  Range range;
  range.global[0] = static_cast<size_t>(tokens) * group;
  range.local[0] = group;
  range.local[1] = range.local[2] = 1;
  return queue_.Run(kernel, range, input, or_input(residual), or_input(norm.weight),
                    or_input(biased ? norm.bias : nullptr), y, cl_int(cols),
                    cl_int((biased ? kHasBias : 0) | (residual != nullptr ? kHasResidual : 0)),
                    cl_float(norm.epsilon), token_steps != nullptr ? token_steps : y);
}

absl::Status OpenClBackend::GatherRows(const DeviceArray& x, std::span<const int32_t> rows,
                                       DeviceArray& y) {
  if (rows.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckRoom(y, static_cast<int64_t>(rows.size()), x.cols(), "the output"));
  const auto [least, most] = std::minmax_element(rows.begin(), rows.end());
  if (*least < 0 || *most >= x.rows()) {
    return absl::InvalidArgumentError(
        absl::StrCat("row ", *least < 0 ? *least : *most, " of an array of ", x.rows(), " rows"));
  }
  ASSIGN_OR_RETURN(const cl_mem indexes, UploadIndexes(rows));
  ASSIGN_OR_RETURN(const cl_kernel kernel, programs_.Get({"GatherRows", kElementwiseSources, ""}));
  Range range;
  range.global[0] = x.cols();
  range.global[1] = rows.size();
  return queue_.Run(kernel, range, AsCl(x).buffer().get(), indexes, AsCl(y).buffer().get(),
                    cl_int(x.cols()));
}

absl::StatusOr<cl_mem> OpenClBackend::GatherColumns(cl_mem x, const ColumnOrder& order,
                                                    int64_t tokens) {
  const int64_t cols = order.cols();
  ASSIGN_OR_RETURN(const cl_mem y, ScratchBuffer(kOrdered, sizeof(float) * tokens * cols));
  ASSIGN_OR_RETURN(const cl_kernel kernel,
                   programs_.Get({"GatherColumns", kElementwiseSources, ""}));
  Range range;
  range.global[0] = cols;
  range.global[1] = tokens;
  RETURN_IF_ERROR(queue_.Run(kernel, range, x, AsCl(order).buffer().get(), y, cl_int(cols)));
  return y;
}

}  // namespace opencl

absl::StatusOr<std::unique_ptr<Backend>> CreateOpenClBackend(int index) {
  ASSIGN_OR_RETURN(const opencl::Device device, opencl::FindDevice(index));
  return opencl::OpenClBackend::Create(device, absl::StrCat("opencl:", index));
}

std::vector<DeviceInfo> ListOpenClDevices() {
  std::vector<DeviceInfo> infos;
  const absl::StatusOr<std::vector<opencl::Device>> devices = opencl::FindDevices();
  if (!devices.ok()) return infos;
  for (const opencl::Device& device : *devices) {
    infos.push_back({.id = absl::StrCat("opencl:", infos.size()),
                     .description = absl::StrCat(device.name, " (", device.version, ")"),
                     .memory_bytes = device.global_memory,
                     .is_gpu = (device.type & CL_DEVICE_TYPE_GPU) != 0});
  }
  return infos;
}

}  // namespace quantd
